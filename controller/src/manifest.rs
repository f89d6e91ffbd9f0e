//! The manifest: everything about a backup, for machines.
//!
//! What makes it right: a directory is a backup exactly if it has a manifest that can be read; one of a later version than ours is refused instead of
//! half understood, and it is only ever replaced as a whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use hotmirror::manifest::{Entry, Kind, MANIFEST_VERSION, Stats};
use hotmirror::session::GoldenReport;
use hotmirror::target::MANIFEST_NAME;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::args::low::Binlogs;
use crate::backup::cut::LockTimes;
use crate::backup::roots::RootEntry;
use crate::backup::settings::Settings;
use crate::backup::spellings::Spellings;
use crate::server::{Channel, Position, Version};

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{0} is no backup: it has no {MANIFEST_NAME}")]
    NoBackup(PathBuf),
    #[error("Cannot use {path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} cannot be understood: {message}")]
    Damaged { path: PathBuf, message: String },
    #[error("{0} is in use: another hotmirror prepares, verifies or restores it")]
    InUse(PathBuf),
    #[error("{path} has version {found}, this program knows up to {MANIFEST_VERSION}")]
    Later { path: PathBuf, found: u32 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    pub program_version: String,
    /// 14 hexadecimal digits.
    pub session: String,
    /// RFC 3339, as all times.
    pub started: String,
    pub cut_at: String,
    pub finished: String,
    pub server: ServerEntry,
    /// None if the server writes no binlog, or the cut was made without a lock.
    pub position: Option<Position>,
    pub channels: Vec<Channel>,
    #[serde(flatten)]
    pub times: LockTimes,
    pub binlogs: BinlogEntry,
    pub roots: Vec<RootEntry>,
    #[serde(default, skip_serializing_if = "Spellings::is_empty")]
    pub spellings: Spellings,
    pub exclude: Vec<String>,
    pub warnings: Vec<String>,
    pub stats: Stats,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub golden: Option<GoldenReport>,
    /// A prepare was begun and has not ended: the files are not what the entries say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_begun: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Prepared>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerEntry {
    pub version: Version,
    /// server_uuid, or MariaDB's server_uid.
    pub uuid: String,
    pub server_id: u32,
    pub hostname: String,
    pub port: u16,
    pub executable: PathBuf,
    pub arguments: Vec<String>,
    pub library_version: String,
    pub settings: Settings,
}

impl ServerEntry {
    /// The words that start the server's binary, without its options. A server that was started by way of the dynamic loader is started so again,
    /// but without what was preloaded.
    pub fn program(&self) -> Vec<PathBuf> {
        let name = |path: &str| {
            Path::new(path)
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let is_server =
            |word: &String| matches!(name(word).as_deref(), Some("mysqld" | "mariadbd"));
        let by_loader =
            name(&self.executable.to_string_lossy()).is_some_and(|name| name.starts_with("ld-"));
        let Some(end) = self
            .arguments
            .iter()
            .position(is_server)
            .filter(|_| by_loader)
        else {
            return vec![self.executable.clone()];
        };
        let mut words = self.arguments[1..=end].iter();
        let mut program = vec![self.executable.clone()];
        while let Some(word) = words.next() {
            match word.as_str() {
                "--preload" => drop(words.next()),
                word if word.starts_with("--preload=") => {}
                word => program.push(word.into()),
            }
        }
        program
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BinlogEntry {
    pub choice: Binlogs,
    /// Base path of the binlogs in the backup; None if it has none.
    pub base: Option<PathBuf>,
    pub index: Option<PathBuf>,
}

/// What `prepare` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub at: String,
    pub executable: PathBuf,
    pub recovery_ms: u64,
    pub shutdown_ms: u64,
}

/// A backup that is not changed (shared), or used by nobody else (exclusive), as long as this lives.
#[must_use]
pub struct Use {
    _directory: File,
}

impl Use {
    pub fn shared(backup: &Path) -> Result<Use, ManifestError> {
        Use::of(backup, FlockOperation::NonBlockingLockShared)
    }

    pub fn exclusive(backup: &Path) -> Result<Use, ManifestError> {
        Use::of(backup, FlockOperation::NonBlockingLockExclusive)
    }

    fn of(backup: &Path, operation: FlockOperation) -> Result<Use, ManifestError> {
        let directory = match File::open(backup) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ManifestError::NoBackup(backup.into()));
            }
            directory => directory.map_err(|source| ManifestError::Io {
                path: backup.into(),
                source,
            })?,
        };
        match rustix::fs::flock(&directory, operation) {
            Err(Errno::WOULDBLOCK) => Err(ManifestError::InUse(backup.into())),
            // A file system without locks does without.
            _ => Ok(Use {
                _directory: directory,
            }),
        }
    }
}

impl Manifest {
    pub fn read(backup: &Path) -> Result<Manifest, ManifestError> {
        let path = backup.join(MANIFEST_NAME);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ManifestError::NoBackup(backup.into()));
            }
            Err(source) => return Err(ManifestError::Io { path, source }),
            Ok(text) => text,
        };
        Manifest::parse(&path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Manifest, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format_version: u32,
        }
        let damaged = |error: serde_json::Error| ManifestError::Damaged {
            path: path.into(),
            message: error.to_string(),
        };
        // The version first: the rest of a later one may have another shape.
        let head: Head = serde_json::from_slice(text).map_err(damaged)?;
        if head.format_version > MANIFEST_VERSION {
            return Err(ManifestError::Later {
                path: path.into(),
                found: head.format_version,
            });
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(damaged)?;
        match manifest.first_astray() {
            None => Ok(manifest),
            Some(astray) => Err(ManifestError::Damaged {
                path: path.into(),
                message: format!(
                    "{} leads out of the backup, or is there twice",
                    astray.display()
                ),
            }),
        }
    }

    /// A path that would lead a restore to somewhere else than it was asked to. Backups may come from others.
    fn first_astray(&self) -> Option<&Path> {
        let mut files = BTreeSet::new();
        let mut symlinks = BTreeSet::new();
        for entry in &self.entries {
            if matches!(entry.kind, Kind::Symlink { .. }) {
                symlinks.insert(entry.path.as_path());
            }
        }
        let leads_out = |path: &Path| {
            !path
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
                || path
                    .ancestors()
                    .skip(1)
                    .any(|above| symlinks.contains(above))
        };
        let links = self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::File { link_to, .. } => link_to.as_deref(),
            _ => None,
        });
        let others = self.roots.iter().map(|root| root.place.as_path());
        let others = others.chain(links).chain(self.binlogs.index.as_deref());
        let mut entries = self.entries.iter().map(|entry| entry.path.as_path());
        entries
            .find(|path| leads_out(path) || !files.insert(*path))
            .or_else(|| others.into_iter().find(|path| leads_out(path)))
    }

    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain data");
        text.push(b'\n');
        text
    }

    /// Replaces the manifest in `backup`.
    pub fn replace(&self, backup: &Path) -> Result<(), ManifestError> {
        let path = backup.join(MANIFEST_NAME);
        crate::system::replace_file(&path, &self.to_json(), true)
            .map_err(|source| ManifestError::Io { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Flavor;

    fn program(executable: &str, arguments: &[&str]) -> Vec<String> {
        let server = ServerEntry {
            version: Version::plain(Flavor::MySql, (9, 7, 0)),
            uuid: String::new(),
            server_id: 1,
            hostname: String::new(),
            port: 0,
            executable: executable.into(),
            arguments: arguments.iter().map(|word| word.to_string()).collect(),
            library_version: String::new(),
            settings: Settings::default(),
        };
        let words = server.program();
        words
            .iter()
            .map(|word| word.display().to_string())
            .collect()
    }

    #[test]
    fn a_server_is_started_as_it_was_but_without_the_library() {
        assert_eq!(
            program("/usr/sbin/mysqld", &["mysqld", "--x"]),
            ["/usr/sbin/mysqld"]
        );
        let arguments = [
            "ld.so",
            "--library-path",
            "/l",
            "--preload",
            "/lib.so",
            "/usr/sbin/mysqld",
            "--x",
        ];
        assert_eq!(
            program("/l/ld-linux-x86-64.so.2", &arguments),
            [
                "/l/ld-linux-x86-64.so.2",
                "--library-path",
                "/l",
                "/usr/sbin/mysqld"
            ]
        );
    }

    #[test]
    fn a_manifest_of_a_later_version_is_refused_before_the_rest_is_looked_at() {
        let error = Manifest::parse(Path::new("m"), br#"{"format_version": 99, "new": {}}"#);
        assert!(matches!(error, Err(ManifestError::Later { found: 99, .. })));
        let error = Manifest::parse(Path::new("m"), b"{}");
        assert!(matches!(error, Err(ManifestError::Damaged { .. })));
    }

    #[test]
    fn paths_that_lead_out_of_a_backup_are_refused() {
        let entry = |path: &str, kind| Entry {
            path: path.into(),
            kind,
            mode: 0o600,
            uid: 0,
            gid: 0,
            modified_ns: 0,
        };
        let file = |link_to: Option<&str>| Kind::File {
            size: 0,
            crc32c: 0,
            link_to: link_to.map(PathBuf::from),
        };
        let symlink = || Kind::Symlink {
            target: "/etc".into(),
        };
        let roots = || {
            vec![RootEntry {
                source: "/var/lib/mysql".into(),
                place: "data".into(),
                roles: Vec::new(),
            }]
        };
        let parsed = |entries: Vec<Entry>, change: &dyn Fn(&mut Manifest)| {
            let mut manifest = crate::restore::tests::manifest(Path::new("/"), Vec::new());
            manifest.roots = roots();
            manifest.entries = entries;
            change(&mut manifest);
            Manifest::parse(Path::new("m"), &manifest.to_json())
        };
        let fine = vec![
            entry("data", Kind::Directory),
            entry("data/..a", file(None)),
            entry("data/b", file(Some("data/..a"))),
            entry("data/c", symlink()),
        ];
        parsed(fine, &|_| ()).unwrap();
        for entries in [
            vec![entry("data/../../x", file(None))],
            vec![entry("/x", Kind::Directory)],
            vec![entry("data/x", file(Some("../x")))],
            vec![entry("data/x/y", file(None)), entry("data/x", symlink())],
            vec![entry("data/x", symlink()), entry("data/x", file(None))],
        ] {
            let error = parsed(entries, &|_| ()).unwrap_err().to_string();
            assert!(error.contains("leads out of the backup"), "{error}");
        }
        for change in [
            |manifest: &mut Manifest| manifest.binlogs.index = Some("../bin.index".into()),
            |manifest: &mut Manifest| manifest.roots[0].place = "..".into(),
        ] {
            assert!(parsed(Vec::new(), &change).is_err());
        }
    }

    #[test]
    fn who_changes_a_backup_is_alone_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let reader = Use::shared(path).unwrap();
        let other = Use::shared(path).unwrap();
        let refused = Use::exclusive(path).err().unwrap();
        assert!(matches!(refused, ManifestError::InUse(_)), "{refused}");
        drop((reader, other));
        let _changer = Use::exclusive(path).unwrap();
        assert!(matches!(Use::shared(path), Err(ManifestError::InUse(_))));
        let none = Use::shared(&path.join("none"));
        assert!(matches!(none, Err(ManifestError::NoBackup(_))));
    }
}
