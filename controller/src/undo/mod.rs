//! Undo: every change that a backup makes on a server or a disk is on a stack that is also a file, pushed before the change is made.
//!
//! What makes it right: an entry is on stable storage before its change happens, and is struck off after its inverse has
//! run. So whatever dies when, the file names every change that may still be there; and an inverse is idempotent, so that it does no harm
//! where the change was never made or is already gone.

pub mod change;
pub mod file;

use std::path::{Path, PathBuf};

pub use change::{Change, Reach};
pub use file::{Header, UndoFile};

#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    #[error("Cannot use {path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is damaged in line {line}: {message}")]
    Damaged {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("Cannot undo {what}: {message}")]
    Inverse { what: String, message: String },
    #[error("A backup to {target} is running (process {pid})")]
    Running { pid: u32, target: PathBuf },
}

/// The stack of one running backup. Dropped before [`UndoStack::release`], it unwinds.
pub struct UndoStack {
    file: Option<UndoFile>,
    reach: Box<dyn Reach>,
}

impl UndoStack {
    pub fn begin(
        state_dir: &Path,
        header: Header,
        reach: Box<dyn Reach>,
    ) -> Result<UndoStack, UndoError> {
        let file = UndoFile::create(state_dir, header)?;
        Ok(UndoStack {
            file: Some(file),
            reach,
        })
    }

    /// Notes a change that is about to be made; gives the number to strike it off with.
    pub fn push(&mut self, change: Change) -> Result<usize, UndoError> {
        self.file.as_mut().expect("not released").push(change)
    }

    /// Notes that a change is no longer there.
    pub fn strike(&mut self, number: usize) -> Result<(), UndoError> {
        self.file.as_mut().expect("not released").strike(number)
    }

    /// Undoes what was changed in the server, the latest first. What fails is left for the end.
    pub fn unwind_server(&mut self) {
        let file = self.file.as_mut().expect("not released");
        for (number, change) in file.pending() {
            if change.is_in_server() && change.undo(file.header(), self.reach.as_mut()).is_ok() {
                let _ = file.strike(number);
            }
        }
    }

    /// The backup is complete: what was made stays.
    pub fn release(mut self) -> Result<(), UndoError> {
        self.file.take().map_or(Ok(()), UndoFile::remove)
    }
}

impl Drop for UndoStack {
    fn drop(&mut self) {
        if let Some(file) = self.file.take()
            && let Err(error) = unwind(file, self.reach.as_mut())
        {
            tracing::error!(%error, "`hotmirror recover` undoes what is left");
        }
    }
}

/// Undoes what `file` lists, the latest first, and removes the file when nothing is left; says what was found.
pub fn unwind(mut file: UndoFile, reach: &mut dyn Reach) -> Result<Vec<String>, UndoError> {
    let mut findings = Vec::new();
    let mut failed = None;
    for (number, change) in file.pending() {
        let what = || change.what().to_string();
        let undone = change.undo(file.header(), reach);
        let undone = undone.map_err(|message| UndoError::Inverse {
            what: what(),
            message,
        });
        let struck = undone.and_then(|finding| {
            tracing::info!(change = change.what(), %finding, "undone");
            findings.push(finding);
            file.strike(number)
        });
        // The others are undone all the same: what stays in the file is what stays to be done, or is done once more.
        failed = struck.err().or(failed);
    }
    match failed {
        Some(error) => Err(error),
        None => file.remove().map(|()| findings),
    }
}

/// What earlier backups left in `state_dir`: files whose owner is dead, and those whose owner lives.
pub struct Leftovers {
    pub dead: Vec<UndoFile>,
    pub running: Vec<Header>,
}

pub fn leftovers(state_dir: &Path) -> Result<Leftovers, UndoError> {
    let mut leftovers = Leftovers {
        dead: Vec::new(),
        running: Vec::new(),
    };
    for path in UndoFile::list(state_dir)? {
        let Some(mut file) = UndoFile::open(&path)? else {
            continue;
        };
        if crate::system::is_alive(file.header().owner_pid, file.header().owner_start_ticks) {
            leftovers.running.push(file.header().clone());
        } else {
            file.repair()?;
            leftovers.dead.push(file);
        }
    }
    Ok(leftovers)
}

#[cfg(test)]
mod tests;
