//! The exported names of the variadic functions. Each is a jump to its twin in shim.c, which fetches the arguments and calls back into `hotmirror_…` here.
//!
//! Two detours have a reason: an exported symbol of this library must be a Rust item, and the way back must be a symbol that is not exported.

use std::ffi::c_void;

use libc::{c_char, c_int, c_long, mode_t};

use super::{open, syscall};
use crate::real::Next;
use crate::{cancellation, real};

/// Exports `$name` as a jump to `$shim` in shim.c.
macro_rules! export {
    ($($name:ident -> $shim:ident),+) => {
        $(
            unsafe extern "C" {
                fn $shim();
            }

            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                #[cfg(target_arch = "x86_64")]
                std::arch::naked_asm!("jmp {}", sym $shim);
                #[cfg(target_arch = "aarch64")]
                std::arch::naked_asm!("b {}", sym $shim);
            }
        )+
    };
}

/// Gives `$function` a name that the shim can link to, and nobody else.
macro_rules! for_shim {
    ($($name:literal = $function:path),+) => {
        $(
            #[cfg(target_arch = "x86_64")]
            std::arch::global_asm!(
                concat!(".globl ", $name), concat!(".hidden ", $name), concat!($name, ": jmp {}"), sym $function
            );
            #[cfg(target_arch = "aarch64")]
            std::arch::global_asm!(
                concat!(".globl ", $name), concat!(".hidden ", $name), concat!($name, ": b {}"), sym $function
            );
        )+
    };
}

mod exported {
    export! {
        open -> hotmirror_shim_open,
        open64 -> hotmirror_shim_open64,
        openat -> hotmirror_shim_openat,
        openat64 -> hotmirror_shim_openat64,
        syscall -> hotmirror_shim_syscall
    }
}

for_shim! {
    "hotmirror_open" = open,
    "hotmirror_open64" = open64,
    "hotmirror_openat" = openat,
    "hotmirror_openat64" = openat64,
    "hotmirror_syscall" = system_call
}

type Open = unsafe extern "C-unwind" fn(*const c_char, c_int, ...) -> c_int;
type OpenAt = unsafe extern "C-unwind" fn(c_int, *const c_char, c_int, ...) -> c_int;

static OPEN: Next = Next::new(c"open").or(open_by_number as *mut c_void);
static OPEN64: Next = Next::new(c"open64").or(open_by_number as *mut c_void);
static OPENAT: Next = Next::new(c"openat").or(openat_by_number as *mut c_void);
static OPENAT64: Next = Next::new(c"openat64").or(openat_by_number as *mut c_void);

pub fn resolve() {
    for next in [&OPEN, &OPEN64, &OPENAT, &OPENAT64] {
        next.look_up();
    }
}

/// Called as a variadic function is: with so few arguments, none of them a floating point number, both find them in the same registers.
unsafe extern "C-unwind" fn open_by_number(
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe { openat_by_number(libc::AT_FDCWD, path, flags, mode) }
}

unsafe extern "C-unwind" fn openat_by_number(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    let args = [
        dirfd.into(),
        path as c_long,
        flags.into(),
        mode.into(),
        0,
        0,
    ];
    // SAFETY: the caller's arguments, unchanged.
    unsafe { real::syscall(libc::SYS_openat, args) as c_int }
}

unsafe extern "C-unwind" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    cancellation::point();
    // SAFETY: the caller of libc's `open` gave these arguments.
    unsafe { open_by(OPEN.address(), path, flags, mode) }
}

unsafe extern "C-unwind" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    cancellation::point();
    // SAFETY: as above.
    unsafe { open_by(OPEN64.address(), path, flags, mode) }
}

unsafe extern "C-unwind" fn openat(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    cancellation::point();
    // SAFETY: as above.
    unsafe { openat_by(OPENAT.address(), dirfd, path, flags, mode) }
}

unsafe extern "C-unwind" fn openat64(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    cancellation::point();
    // SAFETY: as above.
    unsafe { openat_by(OPENAT64.address(), dirfd, path, flags, mode) }
}

unsafe extern "C" fn system_call(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    // SAFETY: the caller of libc's `syscall` gave these arguments.
    unsafe { syscall::routed(number, [a, b, c, d, e, f]) }
}

/// # Safety
/// `real` is libc's function of this type; the arguments are its caller's.
unsafe fn open_by(real: *mut c_void, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's word.
    let real: Open = unsafe { std::mem::transmute(real) };
    // SAFETY: as above.
    let call = || unsafe { real(path, flags, mode) };
    // SAFETY: as above; a path is NUL-terminated.
    unsafe { open::opened(libc::AT_FDCWD, path, flags, call) }
}

/// # Safety
/// As [`open_by`].
unsafe fn openat_by(
    real: *mut c_void,
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller's word.
    let real: OpenAt = unsafe { std::mem::transmute(real) };
    // SAFETY: as above.
    let call = || unsafe { real(dirfd, path, flags, mode) };
    // SAFETY: as above; a path is NUL-terminated.
    unsafe { open::opened(dirfd, path, flags, call) }
}
