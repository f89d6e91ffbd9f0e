//! What every thread of the engine does before anything else, and which go before others.
//!
//! A program whose calls are captured and that copies in the same process has to tell its own threads from those that it watches, and the engine
//! starts threads where it needs them. So it calls what the program has registered here, first thing in each of them.

use std::sync::OnceLock;

/// Hundreds of server threads write, one reads what they append, and while a few copy what is left it waits: with an equal share of the processor they
/// would fall behind.
const NICENESS: i32 = -20;

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
