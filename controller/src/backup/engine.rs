//! The calls to the engine, all of them.
//!
//! What makes it right: the controller's words (arguments, roots, filter) become the engine's here and nowhere else, and a signal reaches a session from
//! the moment that it exists.

use std::path::PathBuf;
use std::sync::Arc;

use hotmirror::session::{
    Cut, GoldenReport, Monitor, Root, Session, SessionError, SessionOptions, Settled, Throttle,
};

use super::keep::Filter;
use super::process::ServerProcess;
use super::roots::Roots;
use crate::args;
use crate::cancel::Cancel;

pub struct Engine {
    session: Session,
    golden: bool,
    report: Option<GoldenReport>,
}

/// What a session is made of, beside the arguments.
pub struct Setting<'s> {
    pub session: u64,
    pub process: &'s ServerProcess,
    pub runtime_dir: PathBuf,
    pub roots: &'s Roots,
    pub filter: Filter,
    pub throttle: Arc<Throttle>,
    pub monitor: Arc<dyn Monitor>,
}

impl Engine {
    pub fn attach(
        args: &args::Backup,
        setting: Setting<'_>,
        cancel: &Cancel,
    ) -> Result<Engine, SessionError> {
        let root = |entry: &super::roots::RootEntry| Root {
            source: entry.source.clone(),
            place: entry.place.clone(),
        };
        let filter = setting.filter;
        let session = Session::attach(SessionOptions {
            session: setting.session,
            pid: setting.process.pid,
            runtime_dir: setting.runtime_dir,
            roots: setting.roots.entries.iter().map(root).collect(),
            target: args.target.clone(),
            exclude: Arc::new(move |path| filter.leaves_out(path)),
            parallel: args.parallel,
            throttle: setting.throttle,
            log_size: args.log_size,
            max_passes: args.max_passes,
            grace_bound: args.grace_timeout,
            monitor: setting.monitor,
        })?;
        let handle = session.cancel_handle();
        cancel.on_request(move || handle.cancel());
        Ok(Engine {
            session,
            golden: args.golden,
            report: None,
        })
    }

    pub fn base_copy(&mut self) -> Result<(), SessionError> {
        let result = self.session.base_copy();
        self.explained(result)
    }

    pub fn converge(&mut self) -> Result<(), SessionError> {
        let result = self.session.converge();
        self.explained(result)
    }

    pub fn go_live(&mut self) -> Result<(), SessionError> {
        let result = self.session.go_live();
        self.explained(result)
    }

    /// Marks the cut. With the golden test on, the comparison is made here, while the server is stopped.
    pub fn cut(&mut self) -> Result<Cut, SessionError> {
        if !self.golden {
            let result = self.session.cut();
            return self.explained(result);
        }
        let result = self.session.golden_cut();
        let (cut, report) = self.explained(result)?;
        self.report = Some(report);
        Ok(cut)
    }

    /// False if another cut is needed.
    pub fn settle(&mut self, cut: &Cut) -> Result<bool, SessionError> {
        if self.golden {
            return Ok(true);
        }
        let result = self.session.settle_cut(cut);
        self.explained(result)
    }

    pub fn finish(self) -> Result<(Settled, Option<GoldenReport>), SessionError> {
        Ok((self.session.finish()?, self.report))
    }

    fn explained<T>(&self, result: Result<T, SessionError>) -> Result<T, SessionError> {
        result.map_err(|error| self.session.explained(error))
    }
}
