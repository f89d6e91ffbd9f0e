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
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "any_path::optional"
        )]
        link_to: Option<PathBuf>,
    },
    Symlink {
        #[serde(with = "any_path")]
        target: PathBuf,
    },
}

/// One file, directory or symbolic link of the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the backup.
    #[serde(with = "any_path")]
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

/// A path in JSON: text where it is UTF-8, else its bytes as numbers. A name that is no text must not keep its file out of a backup.
pub mod any_path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(to),
            None => path.as_os_str().as_bytes().serialize(to),
        }
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Text(text) => text.into(),
            Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }

    pub mod optional {
        use super::*;

        pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
            match path {
                Some(path) => super::serialize(path, to),
                None => to.serialize_none(),
            }
        }

        pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Option<PathBuf>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_name_that_is_no_text_comes_back_as_it_was() {
        let odd: PathBuf = OsStr::from_bytes(b"data/caf\xe9").into();
        let kinds = [
            Kind::Symlink {
                target: odd.clone(),
            },
            Kind::File {
                size: 1,
                crc32c: 2,
                link_to: Some(odd.clone()),
            },
        ];
        for kind in kinds {
            let entry = Entry {
                path: odd.clone(),
                kind,
                mode: 0o600,
                uid: 0,
                gid: 0,
                modified_ns: 0,
            };
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }
}
