//! `hotmirror recover`: undoes what a killed backup left on server and disk. The next backup does it by itself first.
//!
//! What makes it right: only undo files whose owner is dead are touched, and each entry is struck off when its inverse has run, so that
//! recovering may itself be killed and run again.

use std::path::Path;

use crate::args::Connection;
use crate::backup::process::ServerProcess;
use crate::exit::Failure;
use crate::reach::ServerReach;
use crate::undo::{self, UndoError};

pub fn run(state_dir: &Path, connection: Connection) -> Result<(), Failure> {
    let found = undo::leftovers(state_dir)?;
    for header in &found.running {
        say!(
            "A backup to {} is running (process {}); left alone",
            header.target.display(),
            header.owner_pid
        );
    }
    if found.dead.is_empty() {
        say!("Nothing to undo in {}", state_dir.display());
    }
    let mut reach = ServerReach::new(connection);
    let mut failed = None;
    for file in found.dead {
        say!("Undoing a backup to {}", file.header().target.display());
        match undo::unwind(file, &mut reach) {
            Ok(findings) => findings.iter().for_each(|finding| say!("  {finding}")),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => {
            say!("completed OK!");
            Ok(())
        }
    }
}

/// Before a backup of `process`: undoes what dead ones left, and refuses to run beside a live one.
pub fn clear_the_way(
    state_dir: &Path,
    connection: &Connection,
    process: &ServerProcess,
) -> Result<(), UndoError> {
    let found = undo::leftovers(state_dir)?;
    let ours = |header: &undo::Header| header.server_pid == process.pid;
    if let Some(header) = found.running.iter().find(|header| ours(header)) {
        return Err(UndoError::Running {
            pid: header.owner_pid,
            target: header.target.clone(),
        });
    }
    let mut reach = ServerReach::new(connection.clone());
    for file in found.dead {
        let is_ours = ours(file.header());
        match undo::unwind(file, &mut reach) {
            Ok(findings) => tracing::warn!(?findings, "an earlier backup was undone"),
            Err(error) if is_ours => return Err(error),
            // Another server's leftovers are no reason to refuse this one.
            Err(error) => tracing::warn!(%error, "an earlier backup could not be undone"),
        }
    }
    Ok(())
}
