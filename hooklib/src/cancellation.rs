//! Threads that are cancelled inside a hooked call. glibc unwinds such a thread from inside the real call (a forced unwinding), through the hook.
//!
//! Idle, and in calls that may block on a pipe or a socket, a request is acted on where it always was, inside the real call. The frames of the hook let it
//! pass: nothing there catches, and the destructors on the way end the registration, or note what the call may have done. The exported functions are
//! `extern "C-unwind"` for it, and so are the types of the real ones: the compiler would leave out the destructors else.
//!
//! A call on a file in a session can't be left half-way: it holds locks, and what it did must reach the log. It acts on a request that is there when it
//! begins, and is not disturbed by one that comes later: a file keeps no call for long, and the thread's next call finds the request.

use std::ffi::c_int;

use engine::capture_log::Mode;

use crate::lifecycle;

const PTHREAD_CANCEL_DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    fn pthread_testcancel();
}

/// At the beginning of a cancellation point, while nothing is held. Idle, the real call does it.
#[inline]
pub fn point() {
    if lifecycle::control().mode() != Mode::Idle {
        // SAFETY: what unwinds from here passes frames that hold nothing.
        unsafe { pthread_testcancel() };
    }
}

/// While this lives, requests wait.
pub struct Deferred {
    before: c_int,
}

impl Deferred {
    pub fn new() -> Deferred {
        let mut before = 0;
        // SAFETY: a state that exists, and a place for the one before.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut before) };
        Deferred { before }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        // SAFETY: the state that the thread had; nobody asks for the one before.
        unsafe { pthread_setcancelstate(self.before, std::ptr::null_mut()) };
    }
}
