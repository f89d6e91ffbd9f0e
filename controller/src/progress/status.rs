//! The status file of a running backup, and the small file by which its throttle is changed.
//!
//! What makes it right: a file counts only while its owner lives, so what a killed backup leaves is not taken for a running one.

use std::path::{Path, PathBuf};

use hotmirror::session::{Phase, Progress};
use serde::{Deserialize, Serialize};

use crate::system;
use crate::undo::Header;

const STATUS_PREFIX: &str = "status-";
const THROTTLE_PREFIX: &str = "throttle-";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    #[serde(flatten)]
    pub header: Header,
    pub phase: Phase,
    pub progress: Progress,
    /// 0: no bound.
    pub throttle_bytes_per_s: u64,
    pub started: String,
    pub updated: String,
}

/// Owned by the running backup; removed when dropped.
pub struct StatusFile {
    path: PathBuf,
    throttle_path: PathBuf,
    header: Header,
    started: String,
    rate: Option<u64>,
}

fn path(state_dir: &Path, prefix: &str, session: u64) -> PathBuf {
    state_dir.join(format!("{prefix}{session:014x}.json"))
}

impl StatusFile {
    pub fn new(state_dir: &Path, header: Header, started: String) -> StatusFile {
        StatusFile {
            path: path(state_dir, STATUS_PREFIX, header.session),
            throttle_path: path(state_dir, THROTTLE_PREFIX, header.session),
            header,
            started,
            rate: None,
        }
    }

    /// A status that can't be written is no reason to fail a backup.
    pub fn write(&self, phase: Phase, progress: &Progress, throttle_bytes_per_s: u64) {
        let status = Status {
            header: self.header.clone(),
            phase,
            progress: *progress,
            throttle_bytes_per_s,
            started: self.started.clone(),
            updated: system::now(),
        };
        let text = serde_json::to_vec(&status).expect("plain data");
        if let Err(error) = system::replace_file(&self.path, &text, false) {
            tracing::debug!(%error, path = %self.path.display(), "no status");
        }
    }

    /// The throttle that somebody asked for since the last look.
    pub fn wanted_rate(&mut self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.throttle_path).ok()?;
        let rate = text
            .trim()
            .parse()
            .ok()
            .filter(|rate| self.rate != Some(*rate))?;
        self.rate = Some(rate);
        Some(rate)
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.throttle_path);
    }
}

/// The backups that run now; what dead ones left is removed.
pub fn running(state_dir: &Path) -> std::io::Result<Vec<Status>> {
    let entries = match std::fs::read_dir(state_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(STATUS_PREFIX) {
            continue;
        }
        let Ok(text) = std::fs::read(&path) else {
            continue;
        };
        match serde_json::from_slice::<Status>(&text) {
            Ok(status)
                if system::is_alive(status.header.owner_pid, status.header.owner_start_ticks) =>
            {
                found.push(status);
            }
            _ => drop(std::fs::remove_file(&path)),
        }
    }
    Ok(found)
}

/// Asks a running backup for another throttle.
pub fn ask_for_rate(state_dir: &Path, status: &Status, rate: u64) -> std::io::Result<()> {
    let path = path(state_dir, THROTTLE_PREFIX, status.header.session);
    system::replace_file(&path, rate.to_string().as_bytes(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(owner_start_ticks: u64) -> Header {
        Header {
            owner_pid: std::process::id(),
            owner_start_ticks,
            server_pid: 1,
            server_start_ticks: 1,
            session: 7,
            target: "/b".into(),
            endpoint: crate::client::Endpoint::Socket("/s".into()),
        }
    }

    #[test]
    fn a_running_backup_is_seen_and_hears_of_its_throttle() {
        let dir = tempfile::tempdir().unwrap();
        let header = header(system::own_start_ticks());
        let mut file = StatusFile::new(dir.path(), header.clone(), "then".into());
        file.write(Phase::BaseCopy, &Progress::default(), 5);
        let found = running(dir.path()).unwrap();
        assert_eq!(
            (&found[0].header, found[0].throttle_bytes_per_s),
            (&header, 5)
        );
        assert_eq!(file.wanted_rate(), None);
        ask_for_rate(dir.path(), &found[0], 99).unwrap();
        assert_eq!(file.wanted_rate(), Some(99));
        assert_eq!(file.wanted_rate(), None);
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_backup_left_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let file = StatusFile::new(dir.path(), header(1), "then".into());
        file.write(Phase::BaseCopy, &Progress::default(), 0);
        assert!(running(dir.path()).unwrap().is_empty());
    }
}
