//! Which binlogs go into the backup, and the check that the last of them ends where the position says.
//!
//! What makes it right: crash recovery opens the last binlog and, in MariaDB, goes back to the one that its last checkpoint names; both must be in the
//! backup, and the index must list what is there and nothing else. A binlog that ends before the recorded position would be a change that was
//! missed, so it fails the backup (I3).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hotmirror::manifest::{Entry, Kind};

use super::binlog_events::{self, RecoveryBegin, Scan};
use super::cut::Readings;
use super::keep::Filter;
use super::roots::{DATA_PLACE, Roots, canonical, named_in_place};
use crate::args::low::Binlogs;
use crate::cancel::Cancel;
use crate::client::{ClientError, ServerClient};
use crate::exit::Failure;
use crate::server::{Coordinates, Variables};
use crate::system;

/// The current one, and the one before: MariaDB's recovery may need that for a while after a rotation.
const NEEDED_COUNT_MAX: usize = 2;
/// MariaDB names a new binlog in a checkpoint when its engines have written their logs: some ms, and a second where they do that by the second.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(3);
const CHECKPOINT_POLL: Duration = Duration::from_millis(5);

#[derive(Debug, thiserror::Error)]
pub enum BinlogError {
    #[error("Cannot read {path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "The backup's binlog {file} ends at {end}, the server's position was between {before} and {after}"
    )]
    OtherEnd {
        file: String,
        end: u64,
        before: Coordinates,
        after: Coordinates,
    },
    #[error("Recovery of the backup would need binlog {needed}, which was left out")]
    LeftOut { needed: String },
    #[error(
        "The server has closed its binlog, so there is no position, although log_bin is ON: its error log says why"
    )]
    Closed,
    #[error("Binlog {0} is not in the backup")]
    Missing(String),
    #[error(transparent)]
    Unreadable(#[from] crate::binlog::BinlogError),
    #[error("The server's GTIDs cannot be understood: {0}")]
    Gtids(String),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Where the server keeps its binlogs; None if it writes none.
#[derive(Clone, Debug)]
pub struct Location {
    directory: PathBuf,
    base: String,
    index: PathBuf,
}

impl Location {
    pub fn of(variables: &Variables) -> Option<Location> {
        if !variables.is_on("log_bin") {
            return None;
        }
        let base = variables.path("log_bin_basename")?;
        let index = variables.path("log_bin_index");
        let index = index.unwrap_or_else(|| base.with_extension("index"));
        Some(Location {
            directory: canonical(base.parent()?),
            base: base.file_name()?.to_string_lossy().into_owned(),
            index: named_in_place(&index),
        })
    }

    /// Begins a new binlog and waits until recovery needs none before it; gives whether that came to pass. Not waited for long, since to copy more than needed is no harm.
    pub fn rotate(&self, client: &mut dyn ServerClient, cancel: &Cancel) -> Result<bool, Failure> {
        // Not to be replicated: a replica must have no transaction of its own.
        client.run("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")?;
        let name = names(client)?.pop().unwrap_or_default();
        let deadline = Instant::now() + CHECKPOINT_WAIT;
        loop {
            match self.recovery_begin(&name) {
                RecoveryBegin::Earlier if Instant::now() < deadline => {
                    cancel.check()?;
                    std::thread::sleep(CHECKPOINT_POLL);
                }
                begin => return Ok(begin == RecoveryBegin::Here),
            }
        }
    }

    /// Leaves out what `choice` does not want.
    pub fn select(
        &self,
        choice: Binlogs,
        client: &mut dyn ServerClient,
        filter: &mut Filter,
    ) -> Result<(), ClientError> {
        if choice == Binlogs::All {
            return Ok(());
        }
        let names = names(client)?;
        let begin = names.last().map(|name| self.recovery_begin(name));
        let needed = match begin {
            Some(RecoveryBegin::Here) => 1,
            _ => NEEDED_COUNT_MAX,
        };
        for name in &names[..names.len().saturating_sub(needed)] {
            filter.leave_out(self.directory.join(name));
        }
        if choice == Binlogs::None {
            filter.leave_out_binlogs(&self.directory, &self.base);
            filter.leave_out(&self.index);
        }
        Ok(())
    }

    fn recovery_begin(&self, name: &str) -> RecoveryBegin {
        binlog_events::recovery_begin(&self.path(name)).unwrap_or(RecoveryBegin::Untold)
    }

    /// Where the binlogs' index is in the backup.
    pub fn index_place(&self, roots: &Roots) -> Option<PathBuf> {
        roots.place(&self.index)
    }

    /// A binlog of the server's.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    pub fn place(&self, roots: &Roots) -> Option<PathBuf> {
        roots.place(&self.directory.join(&self.base))
    }

    /// Makes the index in the stage list the binlogs in the stage.
    pub fn settle_index(
        &self,
        stage: &Path,
        roots: &Roots,
        entries: &mut [Entry],
    ) -> Result<(), BinlogError> {
        let Some(place) = self.index_place(roots) else {
            return Ok(());
        };
        let path = stage.join(&place);
        let failed = |source| BinlogError::Io {
            path: path.clone(),
            source,
        };
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(failed)?,
        };
        let present = file_names(entries);
        let is_present = |line: &&str| {
            let name = Path::new(line).file_name().unwrap_or_default();
            present.contains(&*name.to_string_lossy())
        };
        // An absolute name would lead a copy that is started elsewhere to the live server's binlogs. The server is in its data directory, and takes a relative one from there.
        let directory = roots.place(&self.directory);
        let inside = directory
            .as_deref()
            .and_then(|place| place.strip_prefix(DATA_PLACE).ok());
        let shown = |line: &str| match (inside, Path::new(line).file_name()) {
            (Some(inside), Some(name)) => format!("./{}\n", inside.join(name).display()),
            _ => format!("{line}\n"),
        };
        let kept: String = text.lines().filter(is_present).map(shown).collect();
        if kept != text {
            system::write_file(&path, kept.as_bytes()).map_err(failed)?;
            refresh(entries, &place, kept.as_bytes());
        }
        Ok(())
    }

    /// Checks the backup's last binlog against what was read under the lock; gives the position of the cut.
    pub fn position(
        &self,
        stage: &Path,
        roots: &Roots,
        entries: &[Entry],
        readings: &Readings,
    ) -> Result<Coordinates, BinlogError> {
        let (before, after) = readings.ends()?;
        let present = file_names(entries);
        let missing = || BinlogError::Missing(after.file.clone());
        let scan = |file: &str, skip_to| {
            let place = roots
                .place(&self.directory.join(file))
                .ok_or_else(missing)?;
            let path = stage.join(place);
            Ok::<Scan, BinlogError>(binlog_events::scan(&path, skip_to)?)
        };
        // A rotation between the two readings: whichever of the files is the backup's last has the position.
        let last = if present.contains(after.file.as_str()) {
            after
        } else {
            before
        };
        if !present.contains(last.file.as_str()) {
            return Err(missing());
        }
        let lower = if last.file == before.file {
            before.offset
        } else {
            0
        };
        let mut found = scan(&last.file, lower)?;
        let left_out = |found: &Scan| {
            let needed = found.checkpoint.clone();
            needed.filter(|needed| !present.contains(needed.as_str()))
        };
        if left_out(&found).is_some() {
            // A later one may need less.
            found = scan(&last.file, 0)?;
        }
        let upper = if last.file == after.file {
            after.offset
        } else {
            u64::MAX
        };
        if found.size != found.end || !(lower..=upper).contains(&found.end) {
            return Err(BinlogError::OtherEnd {
                file: last.file.clone(),
                end: found.end,
                before: before.clone(),
                after: after.clone(),
            });
        }
        match left_out(&found) {
            Some(needed) => Err(BinlogError::LeftOut { needed }),
            None => Ok(Coordinates {
                file: last.file.clone(),
                offset: found.end,
            }),
        }
    }
}

/// The server's binlogs, the current one last.
fn names(client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
    let rows = client.query("SHOW BINARY LOGS")?;
    let names = rows.iter().filter_map(|row| row.get("Log_name"));
    Ok(names.map(str::to_string).collect())
}

fn file_names(entries: &[Entry]) -> BTreeSet<&str> {
    let files = entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::File { .. }));
    files
        .filter_map(|entry| entry.path.file_name()?.to_str())
        .collect()
}

/// Notes the new content of a file that was rewritten in the stage.
pub fn refresh(entries: &mut [Entry], place: &Path, content: &[u8]) {
    for entry in entries.iter_mut().filter(|entry| entry.path == place) {
        if let Kind::File { size, crc32c, .. } = &mut entry.kind {
            *size = content.len() as u64;
            *crc32c = crc32c::crc32c(content);
        }
    }
}

#[cfg(test)]
#[path = "binlogs_tests.rs"]
mod tests;
