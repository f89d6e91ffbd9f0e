//! The stack's file: one JSON line per fact, appended and synced.
//!
//! ```text
//! {"header":{"owner_pid":…,"session":…,…}}      who made the file, for which server
//! {"push":{"number":0,"change":{"what":"stage",…}}}
//! {"strike":0}
//! ```
//!
//! What makes it right: a line is synced before `push` returns, and a torn last line (the machine died while it was written) is a change that
//! was not made, so it is skipped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hotmirror::manifest::any_path;
use serde::{Deserialize, Serialize};

use super::{Change, UndoError};
use crate::client::Endpoint;

const PREFIX: &str = "undo-";
const SUFFIX: &str = ".jsonl";

/// Whose changes these are, and on which server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub owner_pid: u32,
    pub owner_start_ticks: u64,
    pub server_pid: u32,
    pub server_start_ticks: u64,
    pub session: u64,
    #[serde(with = "any_path")]
    pub target: PathBuf,
    /// Where the server listens.
    pub endpoint: Endpoint,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header(Header),
    Push { number: usize, change: Change },
    Strike(usize),
}

pub struct UndoFile {
    path: PathBuf,
    file: File,
    header: Header,
    pending: BTreeMap<usize, Change>,
    next_number: usize,
}

impl UndoFile {
    pub fn create(state_dir: &Path, header: Header) -> Result<UndoFile, UndoError> {
        let path = state_dir.join(format!("{PREFIX}{:014x}{SUFFIX}", header.session));
        let failed = |source| UndoError::Io {
            path: path.clone(),
            source,
        };
        make_state_dir(state_dir).map_err(failed)?;
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut created = UndoFile {
            path: path.clone(),
            file,
            header: header.clone(),
            pending: BTreeMap::new(),
            next_number: 0,
        };
        created.append(&Line::Header(header))?;
        sync_directory(state_dir).map_err(failed)?;
        Ok(created)
    }

    /// The undo files in `state_dir`; none if there is no such directory.
    pub fn list(state_dir: &Path) -> Result<Vec<PathBuf>, UndoError> {
        let failed = |source| UndoError::Io {
            path: state_dir.into(),
            source,
        };
        let entries = match std::fs::read_dir(state_dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// None if the file has no header yet, hence no change.
    pub fn open(path: &Path) -> Result<Option<UndoFile>, UndoError> {
        let failed = |source| UndoError::Io {
            path: path.into(),
            source,
        };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(failed)?,
        };
        let mut header = None;
        let mut pending = BTreeMap::new();
        let mut next_number = 0;
        for (index, line) in complete_lines(&text).enumerate() {
            let damaged = |error: serde_json::Error| UndoError::Damaged {
                path: path.into(),
                line: index + 1,
                message: error.to_string(),
            };
            match serde_json::from_str(line).map_err(damaged)? {
                Line::Header(found) => header = Some(found),
                Line::Push { number, change } => {
                    pending.insert(number, change);
                    next_number = number + 1;
                }
                Line::Strike(number) => {
                    pending.remove(&number);
                }
            }
        }
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok(header.map(|header| UndoFile {
            path: path.into(),
            file,
            header,
            pending,
            next_number,
        }))
    }

    /// Ends a torn last line of a dead owner's, so that it can't swallow the next one that is appended.
    pub fn repair(&mut self) -> Result<(), UndoError> {
        let failed = |source| UndoError::Io {
            path: self.path.clone(),
            source,
        };
        let text = std::fs::read(&self.path).map_err(failed)?;
        let complete = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        self.file.set_len(complete as u64).map_err(failed)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Changes that may still be there, the latest first.
    pub fn pending(&self) -> Vec<(usize, Change)> {
        let entries = self.pending.iter().rev();
        entries
            .map(|(number, change)| (*number, change.clone()))
            .collect()
    }

    pub fn push(&mut self, change: Change) -> Result<usize, UndoError> {
        let number = self.next_number;
        self.append(&Line::Push {
            number,
            change: change.clone(),
        })?;
        self.pending.insert(number, change);
        self.next_number += 1;
        Ok(number)
    }

    pub fn strike(&mut self, number: usize) -> Result<(), UndoError> {
        self.append(&Line::Strike(number))?;
        self.pending.remove(&number);
        Ok(())
    }

    pub fn remove(self) -> Result<(), UndoError> {
        std::fs::remove_file(&self.path).map_err(|source| UndoError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn append(&mut self, line: &Line) -> Result<(), UndoError> {
        let mut text = serde_json::to_string(line).expect("plain data");
        text.push('\n');
        let written = self
            .file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data());
        written.map_err(|source| UndoError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// Lines that end; the text behind the last line end is torn.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    let end = text.rfind('\n').unwrap_or(0);
    text[..end].split('\n').filter(|line| !line.is_empty())
}

/// Makes the state directory, readable by its owner only: it names servers and paths.
pub fn make_state_dir(state_dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
