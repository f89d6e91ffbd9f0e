//! The capture log: how a change gets from a server thread to the controller.
//!
//! `layout` draws the bytes that both sides map, `control` is the word that switches capture, `current` which session a process has mapped, `record` what is noted, `memory` and `ring` the
//! log itself, `grace` the waiting for calls under way, `shm` how shared files are made and trusted, `link` the controller's end.

pub mod control;
pub mod current;
pub mod grace;
pub mod layout;
#[cfg(not(loom))]
pub mod link;
pub mod memory;
pub mod record;
pub mod ring;
pub mod shm;
pub mod sync;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use control::{Control, LostReason, Mode};
#[cfg(not(loom))]
pub use link::{Link, LinkError, Segment};
pub use record::{Attributes, FileId, Record};
