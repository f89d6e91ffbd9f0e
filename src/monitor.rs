//! What the engine tells of its work. It never prints; the program that uses it decides what to show.

use serde::{Deserialize, Serialize};

/// The phases of a session, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Attach,
    /// The source is listed, and each name in it.
    Scan,
    BaseCopy,
    Passes,
    Payload,
    Cut,
    Finish,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub copied_bytes: u64,
    pub total_bytes: u64,
    pub copied_files: u64,
    pub total_files: u64,
    /// 0 is the base copy.
    pub pass: u32,
    pub log_used_bytes: u64,
    pub log_capacity_bytes: u64,
}

#[derive(Clone, Debug)]
pub enum Event {
    Phase(Phase),
    Progress(Progress),
    Warning(String),
}

pub trait Monitor: Send + Sync {
    fn event(&self, event: &Event);
}

/// Hears nothing.
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: &Event) {}
}
