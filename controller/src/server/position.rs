//! Where a server is: in its own binlog, and in those that it replicates from.
//!
//! What makes it right: for a replication channel, file and offset are both the applier's. The I/O thread's file beside the applier's offset, which
//! are next to each other in SHOW SLAVE STATUS, belong to different moments.

use serde::{Deserialize, Serialize};

/// A place between two events of a binlog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinates {
    pub file: String,
    pub offset: u64,
}

impl std::fmt::Display for Coordinates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// The position of a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    #[serde(flatten)]
    pub coordinates: Coordinates,
    /// GTID set that a replica made from the backup starts from; empty if the server keeps none.
    pub gtid_set: String,
    pub gtid_mode: String,
    /// Every GTID variable as read under the lock.
    pub gtid_variables: Vec<(String, String)>,
}

/// One source that this server replicates from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub user: String,
    /// The source's binlog that the applier is in.
    pub source_log_file: String,
    pub exec_source_log_pos: u64,
    pub relay_log_file: String,
    pub gtid_set: String,
    pub auto_position: bool,
    pub applier_running: bool,
    pub receiver_running: bool,
}
