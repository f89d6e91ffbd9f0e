//! The function behind a hook, called exactly once.
//!
//! redhook calls the real function again when a hook's body unwinds. A second write is a wrong write, so whatever runs around the real call does it
//! inside [`RealCall`], which remembers the result. It also keeps errno: the caller finds the real call's, whatever was done since (I2).
//!
//! Until the names are looked up, what an allocator calls when it begins ([`Next::or`]) goes straight to the kernel: the look-up may allocate (before
//! glibc 2.34 it does), so an allocator that is called for it while it begins would wait for itself for ever.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use libc::c_long;

pub fn errno() -> i32 {
    // SAFETY: the address is the calling thread's errno.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(errno: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// A real call that is still to be made, or its result.
pub struct RealCall<R, F> {
    call: Cell<Option<F>>,
    result: Cell<Option<R>>,
    errno: Cell<i32>,
}

impl<R: Copy, F: FnOnce() -> R> RealCall<R, F> {
    pub fn new(call: F) -> Self {
        RealCall {
            call: Cell::new(Some(call)),
            result: Cell::new(None),
            errno: Cell::new(errno()),
        }
    }

    /// Makes the call, the first time; its result, every time. None is impossible: a call that is gone has left a result.
    pub fn run(&self) -> Option<R> {
        if let Some(call) = self.call.take() {
            set_errno(self.errno.get());
            self.result.set(Some(call()));
            self.errno.set(errno());
        }
        self.result.get()
    }

    /// The result and its errno, for the caller of the hook.
    pub fn finish(self, otherwise: R) -> R {
        let result = self.run().unwrap_or(otherwise);
        set_errno(self.errno.get());
        result
    }
}

/// The next definition of a name.
pub struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
    instead: AtomicPtr<c_void>,
}

impl Next {
    pub const fn new(name: &'static CStr) -> Next {
        Next {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
            instead: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// What to take where no other library defines the name, and until all names are looked up: a function of the same type. It looks nothing up.
    pub const fn or(self, instead: *mut c_void) -> Next {
        Next {
            name: self.name,
            address: self.address,
            instead: AtomicPtr::new(instead),
        }
    }

    /// As [`Next::new`], for a macro that puts the name together; it ends with a NUL.
    pub const fn named(name: &'static str) -> Next {
        match CStr::from_bytes_with_nul(name.as_bytes()) {
            Ok(name) => Next::new(name),
            Err(_) => panic!("The name ends with a NUL"),
        }
    }

    /// None before it is looked up, or if there is none.
    #[inline(always)]
    pub fn known(&self) -> Option<NonNull<c_void>> {
        NonNull::new(self.address.load(Ordering::Relaxed))
    }

    /// Null if no other library defines it and there is nothing instead.
    #[inline]
    pub fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if known.is_null() { self.find() } else { known }
    }

    #[cold]
    fn find(&self) -> *mut c_void {
        let instead = self.instead.load(Ordering::Relaxed);
        match instead.is_null() || RESOLVED.load(Ordering::Relaxed) {
            true => self.look_up(),
            false => instead,
        }
    }

    pub fn look_up(&self) -> *mut c_void {
        // SAFETY: the name is NUL-terminated.
        let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if found.is_null() {
            found = self.instead.load(Ordering::Relaxed);
        }
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

static RESOLVED: AtomicBool = AtomicBool::new(false);
static SYSCALL: Next = Next::new(c"syscall");

/// libc's `syscall`, or until it is looked up the kernel itself.
///
/// # Safety
/// As the system call asks.
#[inline]
pub unsafe fn syscall(number: c_long, args: [c_long; 6]) -> c_long {
    type Syscall = unsafe extern "C" fn(c_long, ...) -> c_long;
    let Some(real) = SYSCALL.known() else {
        // SAFETY: the caller's word.
        return unsafe { call_kernel(number, args) };
    };
    let [a, b, c, d, e, f] = args;
    // SAFETY: every libc has it, with this signature.
    let real: Syscall = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's word.
    unsafe { real(number, a, b, c, d, e, f) }
}

/// What libc's `syscall` does.
///
/// # Safety
/// As the system call asks.
#[cold]
unsafe fn call_kernel(number: c_long, args: [c_long; 6]) -> c_long {
    let [a, b, c, d, e, f] = args;
    let result: c_long;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's word; the kernel keeps all registers but these.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack));
    }
    match result {
        -4095..0 => {
            set_errno(result.unsigned_abs() as i32);
            -1
        }
        result => result,
    }
}

/// Looks up `syscall`, the last of what is looked up when the process begins: allocation and locks are still harmless there.
pub fn resolve() {
    SYSCALL.look_up();
    RESOLVED.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_replaced_and_what_is_there_is_not() {
        let instead = std::ptr::without_provenance_mut(1);
        assert_eq!(
            Next::new(c"no_library_has_it").or(instead).look_up(),
            instead
        );
        assert_ne!(Next::new(c"getpid").or(instead).look_up(), instead);
        assert!(Next::new(c"no_library_has_it").address().is_null());
    }
}
