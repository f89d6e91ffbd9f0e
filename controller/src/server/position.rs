//! Where a server is: in its own binlog, and in those that it replicates from.
//!
//! What makes it right: for a replication channel, file and offset are both the applier's. The I/O thread's file beside the applier's offset, which
//! are next to each other in SHOW SLAVE STATUS, belong to different moments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::Row;

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
    /// What of the source is applied, by the names of the options that say so; only those that are set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filters: BTreeMap<String, String>,
    /// What the applier was told to stop at (`START … UNTIL`), as the server names the kind; empty for one that goes on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub until: String,
}

/// The columns of a replica's status that tell its filters. Both flavors name them alike, and their options like the columns.
const FILTERS: [&str; 7] = [
    "Replicate_Do_DB",
    "Replicate_Ignore_DB",
    "Replicate_Do_Table",
    "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table",
    "Replicate_Wild_Ignore_Table",
    "Replicate_Rewrite_DB",
];

/// The filters in a row of a replica's status.
pub fn filters(row: &Row) -> BTreeMap<String, String> {
    let set = |column: &&str| {
        let value = row.get(column).filter(|value| !value.is_empty())?;
        Some((column.to_lowercase(), value.to_string()))
    };
    FILTERS.iter().filter_map(set).collect()
}

/// Where the applier of a row of a replica's status was told to stop. Both flavors name the column alike.
pub fn until(row: &Row) -> String {
    let condition = row.get("Until_Condition").unwrap_or_default();
    match condition.eq_ignore_ascii_case("None") {
        true => String::new(),
        false => condition.into(),
    }
}
