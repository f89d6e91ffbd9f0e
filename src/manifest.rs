//! What a backup says of its files. The program that makes the backup adds what it knows of the server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::CatalogStats;

/// Version of the manifest's shape: raised when a reader must know of a change.
pub const MANIFEST_VERSION: u32 = 1;

/// What an entry of the backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    Directory,
    /// `link_to`: another entry that is the same file.
    File {
        size: u64,
        /// CRC-32C of the content.
        crc32c: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        link_to: Option<PathBuf>,
    },
    Symlink {
        target: PathBuf,
    },
}

/// One file, directory or symbolic link of the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the backup.
    pub path: PathBuf,
    #[serde(flatten)]
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What a session did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    pub files: u64,
    pub bytes: u64,
    /// Bytes read from the source in the base copy and in all passes.
    pub copied_bytes: u64,
    /// Passes after the base copy.
    pub passes: u32,
    /// Times that the payload phase was left because something turned up that only the source could give.
    pub returns: u32,
    #[serde(flatten)]
    pub catalog: CatalogStats,
    /// Payload bytes mirrored into the stage.
    pub payload_bytes: u64,
    /// Most bytes of the capture log in use at once, as far as seen.
    pub log_used_max_bytes: u64,
    /// Milliseconds of each phase.
    pub phase_ms: std::collections::BTreeMap<String, u64>,
}
