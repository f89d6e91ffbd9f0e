//! io_uring is declined at set-up: its completions are read from shared memory by code inlined into the server, where nothing can be interposed. Servers then
//! use libaio or threads.

use libc::{c_int, c_long, c_uint, c_void, size_t};

use crate::lifecycle;

/// syscall(SYS_io_uring_setup).
pub fn set_up(real: impl FnOnce() -> c_long) -> c_long {
    if lifecycle::is_server() {
        crate::real::set_errno(libc::ENOSYS);
        -1
    } else {
        real()
    }
}

/// Calls the function at `$real`, which gives a negative errno like everything in liburing, unless this is a server or there is no such function.
macro_rules! unless_server {
    ($real:ident as fn($($type:ty),+) ($($argument:ident),+)) => {{
        let real = $real.address();
        if real.is_null() || lifecycle::is_server() {
            -libc::ENOSYS
        } else {
            // SAFETY: liburing's function of this name has this type.
            let real: unsafe extern "C" fn($($type),+) -> c_int = unsafe { std::mem::transmute(real) };
            // SAFETY: the caller's arguments, unchanged.
            unsafe { real($($argument),+) }
        }
    }};
}

optional_hooks! {
    io_uring_queue_init = c"io_uring_queue_init":
    (entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int, |real| {
        unless_server!(real as fn(c_uint, *mut c_void, c_uint) (entries, ring, flags))
    }

    io_uring_queue_init_params = c"io_uring_queue_init_params":
    (entries: c_uint, ring: *mut c_void, parameters: *mut c_void) -> c_int, |real| {
        unless_server!(real as fn(c_uint, *mut c_void, *mut c_void) (entries, ring, parameters))
    }

    io_uring_queue_init_mem = c"io_uring_queue_init_mem":
    (entries: c_uint, ring: *mut c_void, parameters: *mut c_void, buffer: *mut c_void, len: size_t) -> c_int, |real| {
        unless_server!(
            real as fn(c_uint, *mut c_void, *mut c_void, *mut c_void, size_t) (entries, ring, parameters, buffer, len)
        )
    }

    io_uring_queue_init_try_nosqarr = c"io_uring_queue_init_try_nosqarr":
    (entries: c_uint, ring: *mut c_void, parameters: *mut c_void) -> c_int, |real| {
        unless_server!(real as fn(c_uint, *mut c_void, *mut c_void) (entries, ring, parameters))
    }

    io_uring_setup = c"io_uring_setup":
    (entries: c_uint, parameters: *mut c_void) -> c_int, |real| {
        unless_server!(real as fn(c_uint, *mut c_void) (entries, parameters))
    }
}
