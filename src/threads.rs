//! What every thread of the engine does before anything else, and which go before others.
//!
//! A program whose calls are captured and that copies in the same process has to tell its own threads from those that it watches, and the engine
//! starts threads where it needs them. So it calls what the program has registered here, first thing in each of them.

use std::sync::OnceLock;
use std::time::Duration;

/// Hundreds of server threads write, one reads what they append, and while a few copy what is left it waits: with an equal share of the processor they
/// would fall behind.
const NICENESS: i32 = -20;

/// The shortest turn that Linux gives.
const TURN: Duration = Duration::from_micros(100);

static ON_START: OnceLock<fn()> = OnceLock::new();

/// From now on each new thread of the engine calls `first`. The first registration stays.
pub fn on_start(first: fn()) {
    let _ = ON_START.set(first);
}

pub(crate) fn started() {
    if let Some(first) = ON_START.get() {
        first();
    }
}

/// The calling thread asks the processor for short turns, and gets them soon: one that waits for the disk most of its time should not wait for the processor besides, while the disk has nothing to
/// do. Its share stays what it is, so that one that has much to compute takes no more from others than before. Linux listens since 6.12 (the slice of its EEVDF scheduler).
pub(crate) fn ask_for_short_turns() {
    let Some(mut attr) = scheduling() else {
        return;
    };
    if attr.sched_policy == libc::SCHED_OTHER as u32 {
        attr.sched_runtime = TURN.as_nanos() as u64;
        // SAFETY: reads the structure, which says how long it is.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    }
}

/// Of the calling thread.
fn scheduling() -> Option<libc::sched_attr> {
    let len = size_of::<libc::sched_attr>();
    // SAFETY: all of it is numbers, for which zero is a value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: fills `len` bytes at most.
    let told = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, len, 0) };
    (told == 0).then_some(attr)
}

/// The calling thread, and those that it starts meanwhile, go before others. Not everybody may ask for that: then they stay as they are.
pub struct Preferred {
    before: Option<i32>,
}

impl Preferred {
    pub fn begin() -> Preferred {
        // The kernel keeps niceness by thread, and None is the calling one.
        let before = rustix::process::getpriority_process(None).ok();
        let _ = rustix::process::setpriority_process(None, NICENESS);
        Preferred { before }
    }
}

impl Drop for Preferred {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = rustix::process::setpriority_process(None, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_turns_leave_the_share_of_the_processor_as_it_is() {
        let thread = std::thread::spawn(|| {
            rustix::process::setpriority_process(None, 7).unwrap();
            let before = scheduling().unwrap();
            ask_for_short_turns();
            let after = scheduling().unwrap();
            assert_eq!((before.sched_nice, after.sched_nice), (7, 7));
            assert_eq!(before.sched_policy, after.sched_policy);
            // A kernel that knows of no turns tells 0.
            if before.sched_runtime != 0 {
                assert_eq!(after.sched_runtime, TURN.as_nanos() as u64);
            }
        });
        thread.join().unwrap();
    }
}
