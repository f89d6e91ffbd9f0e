//! For the program that makes a backup of the process that it is in: what the session needs of the hooks, and what keeps it out of them.

use std::fs::File;
use std::io;

use engine::capture_log::layout::Rendezvous;

use crate::{inflight, lifecycle, session};

/// What the session attaches to; None if the library could not start.
pub fn rendezvous() -> Option<&'static Rendezvous> {
    lifecycle::keep_constructor();
    lifecycle::live_or_revived()
}

/// Maps the segment of `session`, which is not on yet.
pub fn adopt(session: u64, segment: &File) -> io::Result<()> {
    session::adopt(session, segment).map_err(io::Error::from)
}

/// The calling thread belongs to the backup: nothing that it does is captured.
pub fn pass_by() {
    inflight::pass_by(true);
}

/// Calls a function of the program from a thread of the backup: what that does is captured.
pub fn watched<R>(function: impl FnOnce() -> R) -> R {
    let before = inflight::pass_by(false);
    let result = function();
    inflight::pass_by(before);
    result
}
