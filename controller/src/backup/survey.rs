//! The survey: everything that is found out before the session begins.
//!
//! What makes it right: it changes nothing. The order is from what is most often wrong to what costs most to find out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotmirror::capture_log::link;
use hotmirror::session::Throttle;

use super::binlogs::Location;
use super::engine::Setting;
use super::keep::Filter;
use super::process::{self, ServerProcess};
use super::roots::{self, Roots};
use super::server::Server;
use super::sight::Sight;
use super::{BackupError, preflight};
use crate::args;
use crate::args::low::Binlogs;
use crate::cancel::Cancel;
use crate::client::ServerClient;
use crate::exit::Failure;
use crate::progress::Reporter;
use crate::server::{PositionFrom, elsewhere};
use crate::system;
use crate::undo::{Change, Header};

pub struct Ground {
    pub process: ServerProcess,
    pub library_version: String,
    pub roots: Roots,
    pub binlogs: Option<Location>,
    pub session: u64,
    pub started: String,
    runtime_dir: PathBuf,
    filter: Filter,
}

pub fn survey(
    args: &args::Backup,
    server: &mut Server,
    reporter: &Reporter,
) -> Result<Ground, Failure> {
    let process = process::find(&args.connection.endpoint, &server.variables)?;
    let runtime_dir = link::runtime_dir();
    let library_version = preflight::check_library(&runtime_dir, &process)?;
    let files = server.dialect.data_files(server.client.as_mut())?;
    let roots = roots::find(&server.variables, &files, &Sight::of(process.pid))?;
    preflight::check_target(&args.target, &roots)?;
    let filter = roots.filter(&server.variables, &args.exclude)?;
    preflight::check_source(&roots, &filter)?;
    let ground = Ground {
        process,
        library_version,
        roots,
        binlogs: Location::of(&server.variables),
        session: system::random_session().map_err(BackupError::Begin)?,
        started: system::now(),
        runtime_dir,
        filter,
    };
    warn(args, server, &ground, reporter);
    if let Some(warning) = elsewhere::warning(server.client.as_mut())? {
        reporter.warn(&warning);
    }
    Ok(ground)
}

fn warn(args: &args::Backup, server: &Server, ground: &Ground, reporter: &Reporter) {
    if ground.binlogs.is_none() {
        reporter.warn("The server writes no binlog: the backup has no position, so no replica can be made from it");
    } else if server.plan.position == PositionFrom::Nowhere {
        reporter
            .warn("Without a lock the backup has no position, so no replica can be made from it");
    } else if args.binlogs == Binlogs::None {
        reporter.warn("Without binlogs, the copy starts with a fresh binlog");
    }
}

impl Ground {
    /// Behind the choice of the binlogs, which may be most of what there is.
    pub fn warn_of_space(&self, target: &Path, reporter: &Reporter) {
        if let Some((free, used)) = preflight::space(target, &self.roots, &self.filter)
            && free < used
        {
            reporter.warn(&format!(
                "{free} bytes are free at the target, the files to copy take {used}"
            ));
        }
    }

    /// Settles which binlogs are taken; begins a new one first where that is asked for.
    pub fn choose_binlogs(
        &mut self,
        choice: Binlogs,
        client: &mut dyn ServerClient,
        reporter: &Reporter,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let Some(binlogs) = &self.binlogs else {
            return Ok(());
        };
        if choice == Binlogs::Rotate {
            reporter.step("Beginning a new binlog");
            if !binlogs.rotate(client, cancel)? {
                reporter.step("Recovery may begin with the binlog before it, which is copied, too");
            }
        }
        Ok(binlogs.select(choice, client, &mut self.filter)?)
    }

    pub fn header(&self, args: &args::Backup) -> Header {
        Header {
            owner_pid: std::process::id(),
            owner_start_ticks: system::own_start_ticks(),
            server_pid: self.process.pid,
            server_start_ticks: self.process.start_ticks,
            session: self.session,
            target: args.target.clone(),
            endpoint: args.connection.endpoint.clone(),
        }
    }

    pub fn capture_change(&self) -> Change {
        Change::Capture {
            runtime_dir: self.runtime_dir.clone(),
        }
    }

    /// Gives the filter away: a session has one.
    pub fn setting(&mut self, throttle: Arc<Throttle>, monitor: Arc<Reporter>) -> Setting<'_> {
        Setting {
            session: self.session,
            process: &self.process,
            runtime_dir: self.runtime_dir.clone(),
            roots: &self.roots,
            filter: std::mem::take(&mut self.filter),
            throttle,
            monitor,
        }
    }
}
