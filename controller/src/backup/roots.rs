//! The roots: the directories that together are the server's data, and what of them is taken.
//!
//! What makes it right: a path belongs to the innermost root that it lies in, and everything that decides about a path (the copy, the checks before it and
//! those after it) asks here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hotmirror::manifest::any_path;
use serde::{Deserialize, Serialize};

use super::find_roots;
pub use super::find_roots::find;
use super::keep::{Filter, Keep, PatternError};
use super::sight::Sight;
use super::spellings::Spellings;
use crate::server::Variables;

/// Why a directory is a root; a restore needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Data,
    SystemTablespace,
    Redo,
    Undo,
    Doublewrite,
    Binlog,
    RelayLog,
    AriaLog,
    /// The directory of an engine that keeps its own: TokuDB's too, as a new name would take a new version of the manifest.
    RocksDb,
    /// Tablespaces elsewhere, by DATA DIRECTORY, and their keys.
    Tablespaces,
    /// The target of a symbolic link in the data directory.
    Linked,
}

/// A root as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootEntry {
    #[serde(with = "any_path")]
    pub source: PathBuf,
    pub place: PathBuf,
    pub roles: Vec<Role>,
}

#[derive(Clone, Debug)]
pub struct Roots {
    /// The deepest first.
    pub entries: Vec<RootEntry>,
    /// What they keep.
    kept: Filter,
    /// Directories that hold nothing but temporary files.
    emptied: BTreeSet<PathBuf>,
    sight: Sight,
}

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("Cannot use {path}, which holds the server's data: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("{path} leads to {target}, which was not part of the backup when it began")]
    Escaped { path: PathBuf, target: PathBuf },
    #[error("{path} is there for the server, but for this program it is something else or missing")]
    SeenOtherwise { path: PathBuf },
    #[error("{path} leads to {target}, in which the data directory itself lies")]
    Around { path: PathBuf, target: PathBuf },
    #[error("{path}, which holds the system tablespace, is no regular file")]
    NoFile { path: PathBuf },
}

impl RootError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> RootError {
        let path = path.to_path_buf();
        move |source| RootError::Io { path, source }
    }
}

pub const DATA_PLACE: &str = "data";
pub const EXTERNAL_PLACE: &str = "external";

impl Roots {
    /// `keeps`: each root with what it keeps.
    pub fn new(
        mut entries: Vec<RootEntry>,
        keeps: Vec<(PathBuf, Keep)>,
        emptied: BTreeSet<PathBuf>,
        sight: Sight,
    ) -> Roots {
        // The deepest first: the first one that a path lies in is the innermost.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.source.components().count()));
        Roots {
            entries,
            kept: Filter::of(keeps),
            emptied,
            sight,
        }
    }

    pub fn datadir(&self) -> &Path {
        let data = self
            .entries
            .iter()
            .find(|entry| entry.place == Path::new(DATA_PLACE));
        &data.expect("every server has a data directory").source
    }

    /// Where a source path is in the backup.
    pub fn place(&self, path: &Path) -> Option<PathBuf> {
        let entry = self
            .entries
            .iter()
            .find(|entry| path.starts_with(&entry.source))?;
        Some(entry.place.join(path.strip_prefix(&entry.source).ok()?))
    }

    /// Where a path of the backup came from.
    pub fn source(&self, place: &Path) -> Option<PathBuf> {
        let entry = self
            .entries
            .iter()
            .find(|entry| place.starts_with(&entry.place))?;
        Some(entry.source.join(place.strip_prefix(&entry.place).ok()?))
    }

    /// What is copied: everything in the roots but `patterns` and what a copy must not have.
    pub fn filter(&self, variables: &Variables, patterns: &[String]) -> Result<Filter, RootError> {
        let mut patterns = patterns.to_vec();
        if variables.is_on("wsrep_on") {
            // Galera's cache of write sets, which it writes through a mapping for as long as it runs, and makes anew where it is missing.
            patterns.extend(["/galera.cache", "/gcache.page.*"].map(String::from));
        }
        let mut filter = self.kept.clone().without(&patterns)?;
        let datadir = self.datadir();
        filter.leave_out_name("lost+found");
        // The DDL log of a backup that is running: this one's.
        for name in ["auto.cnf", "ddl.log", "#innodb_temp"] {
            filter.leave_out(datadir.join(name));
        }
        // A log for people, written through stdio, which the library can't follow.
        if let Some(rocksdb) = variables.path("rocksdb_datadir") {
            filter.leave_out(canonical(&rocksdb).join("LOG"));
        }
        let named = [
            "pid_file",
            "socket",
            "log_error",
            "general_log_file",
            "slow_query_log_file",
        ];
        let inside = |name| {
            let path = canonical(&variables.path(name)?);
            (path != datadir && self.place(&path).is_some()).then_some(path)
        };
        for path in named.into_iter().filter_map(inside) {
            filter.leave_out(path);
        }
        // A server does not start without the directory.
        for directory in &self.emptied {
            filter.leave_out_what_is_in(directory);
        }
        let temporary = variables
            .get("innodb_temp_data_file_path")
            .unwrap_or_default();
        for file in temporary.split(';').filter_map(find_roots::file_of_spec) {
            filter.leave_out(canonical(&datadir.join(file)));
        }
        Ok(filter)
    }

    /// True if `path` is part of the backup, as far as roots and what they keep decide it.
    pub fn takes(&self, path: &Path) -> bool {
        !self.kept.leaves_out(path)
    }

    /// Fails if a link or a tablespace link file, each given with the absolute path that it leads to, leads to what the roots don't take: it was
    /// made after they were looked for. Notes where each leads.
    pub fn check_links<'l>(
        &self,
        links: impl IntoIterator<Item = (&'l Path, PathBuf)>,
        spellings: &mut Spellings,
    ) -> Result<(), RootError> {
        for (path, link_target) in links {
            let target = std::fs::canonicalize(&link_target).ok();
            if let Some(target) = &target {
                spellings.note(&link_target, target);
                if self.takes(target) && !self.is_temporary(target) {
                    continue;
                }
            }
            // Where it leads for the server is what counts.
            if self.sight.is_there(&link_target)?
                && let Some(target) = target
            {
                let path = path.to_path_buf();
                return Err(RootError::Escaped { path, target });
            }
        }
        Ok(())
    }

    fn is_temporary(&self, path: &Path) -> bool {
        let mut around = path.ancestors().skip(1);
        around.any(|directory| self.emptied.contains(directory))
    }
}

/// With links in the directory part resolved; the last component may not exist yet.
pub fn canonical(path: &Path) -> PathBuf {
    let resolved = std::fs::canonicalize(path).ok().or_else(|| {
        let parent = std::fs::canonicalize(path.parent()?).ok()?;
        Some(parent.join(path.file_name()?))
    });
    resolved.unwrap_or_else(|| path.into())
}

/// The same for the beginning of files' names: what else has just this name does not count.
pub fn named_in_place(path: &Path) -> PathBuf {
    let directory = canonical(path.parent().unwrap_or(Path::new("/")));
    directory.join(path.file_name().unwrap_or_default())
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;
