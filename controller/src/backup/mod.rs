//! The backup, step by step; the files beside this one are named after the steps.
//!
//! What makes it right: everything is checked before anything is changed; every change but a new binlog, which stays, is on the undo stack before it is made; the
//! manifest, which makes a directory a backup, is written last.

pub mod binlog_end;
pub mod binlog_events;
pub mod binlogs;
pub mod collection;
pub mod conclude;
pub mod cut;
pub mod engine;
pub mod find_roots;
pub mod info_files;
pub mod keep;
pub mod long_queries;
pub mod preflight;
pub mod process;
pub mod roots;
pub mod server;
pub mod settings;
pub mod sight;
pub mod spellings;
pub mod survey;
pub mod tablespaces;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotmirror::capture_log::LinkError;
use hotmirror::session::{GoldenReport, SessionError, Throttle};
use hotmirror::target::{Stage, TargetError};
use hotmirror::threads::Preferred;

use crate::args;
use crate::cancel::Cancel;
use crate::client::ClientError;
use crate::exit::Failure;
use crate::manifest::Manifest;
use crate::progress::Reporter;
use crate::progress::show::{self, Show};
use crate::progress::status::StatusFile;
use crate::reach::ServerReach;
use crate::recover;
use crate::safe_slave::{Appliers, RealClock, SafeSlaveError, Stopped};
use crate::undo::{Change, UndoStack};
use conclude::Outcome;
use cut::{Holder, Readings};
use engine::Engine;
use long_queries::Killer;
use roots::Roots;
use server::Server;
use spellings::Spellings;

/// Cuts that turn out to need the source again are repeated this often.
const CUT_COUNT_MAX: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("None of {CUT_COUNT_MAX} cuts holds: {why}")]
    Unsettled { why: &'static str },
    #[error("Source and stage differ at the cut in {count} places, the first is: {first}")]
    GoldenDifference { count: usize, first: String },
    #[error("No lock within --lock-timeout={seconds} s: {statement:?} says {message:?}")]
    LockTimeout {
        seconds: u64,
        statement: String,
        message: String,
    },
    #[error("Cannot write {path}: {source}")]
    Info {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("Cannot begin: {0}")]
    Begin(std::io::Error),
}

pub fn run(args: &args::Backup, state_dir: &Path) -> Result<(), Failure> {
    let cancel = Cancel::on_signals().map_err(BackupError::Begin)?;
    let throttle = Arc::new(Throttle::new(args.throttle_bytes_per_s));
    let reporter = Arc::new(Reporter::new(Show::new(&args.show), throttle.clone()));
    let outcome = back_up(args, state_dir, &cancel, throttle, &reporter);
    reporter.end();
    report(args, &outcome?);
    Ok(())
}

fn back_up(
    args: &args::Backup,
    state_dir: &Path,
    cancel: &Cancel,
    throttle: Arc<Throttle>,
    reporter: &Arc<Reporter>,
) -> Result<Manifest, Failure> {
    let mut server = Server::connect(args)?;
    let mut ground = survey::survey(args, &mut server, reporter)?;
    recover::clear_the_way(state_dir, &args.connection, &ground.process)?;
    let header = ground.header(args);
    let reach = Box::new(ServerReach::new(args.connection.clone()));
    let mut undo = UndoStack::begin(state_dir, header.clone(), reach)?;
    reporter.publish(StatusFile::new(state_dir, header, ground.started.clone()));
    cancel.check()?;

    ground.choose_binlogs(args.binlogs, server.client.as_mut(), reporter, cancel)?;
    ground.warn_of_space(&args.target, reporter);
    // One that is there is another backup's, and not ours to remove.
    Stage::check_free(&args.target)?;
    let stage = undo.push(Change::Stage)?;
    undo.push(ground.capture_change())?;
    let attached = Engine::attach(args, ground.setting(throttle, reporter.clone()), cancel);
    if let Err(
        SessionError::Target(TargetError::Unfinished(_))
        | SessionError::Link(LinkError::Busy { .. }),
    ) = &attached
    {
        undo.strike(stage)?;
    }
    let mut engine = attached?;
    engine.base_copy()?;
    engine.converge()?;
    let roots = &ground.roots;
    let (readings, spellings) = cut(
        args,
        roots,
        &mut engine,
        &mut server,
        &mut undo,
        reporter,
        cancel,
    )
    // Before anything is waited for that may take long, as the removal of the stage.
    .inspect_err(|_| undo.unwind_server())?;
    let cut_at = crate::system::now();
    let (settled, golden) = engine.finish()?;
    check_golden(golden.as_ref())?;

    let outcome = Outcome {
        readings,
        spellings,
        cut_at,
        golden,
        warnings: reporter.warnings(),
    };
    let (stage, manifest) = conclude::conclude(args, &ground, &mut server, settled, outcome)?;
    cancel.check()?;
    stage.publish(&manifest.to_json())?;
    undo.release()?;
    Ok(manifest)
}

/// Cuts until the stage could follow: a cut may turn out to need something that only the source has.
fn cut(
    args: &args::Backup,
    roots: &Roots,
    engine: &mut Engine,
    server: &mut Server,
    undo: &mut UndoStack,
    reporter: &Arc<Reporter>,
    cancel: &Cancel,
) -> Result<(Readings, Spellings), Failure> {
    let mut why = "";
    for _ in 0..CUT_COUNT_MAX {
        let cut = cut_once(args, engine, server, undo, reporter, cancel);
        let (cut, readings) = cut.map_err(|failure| name_timeout(failure, args))?;
        let held_too_little = server.held_too_little(args)?;
        let spellings = tablespaces::check(roots, server)?;
        let is_settled = engine.settle(&cut)?;
        why = if readings.kept_logs {
            "innodb_flush_log_at_trx_commit was set to 0 by somebody, and the engine's log stayed in memory"
        } else if server.was_started(&readings.channels, args) {
            "an applier that was stopped for the cut was started by somebody"
        } else if held_too_little {
            "tables without transactions came, which the lock did not hold"
        } else if !is_settled {
            "files changed in ways that only the source can give"
        } else {
            return Ok((readings, spellings));
        };
        reporter.step(&format!("Another cut is needed: {why}"));
        engine.converge()?;
    }
    Err(BackupError::Unsettled { why }.into())
}

fn cut_once(
    args: &args::Backup,
    engine: &mut Engine,
    server: &mut Server,
    undo: &mut UndoStack,
    reporter: &Arc<Reporter>,
    cancel: &Cancel,
) -> Result<(hotmirror::session::Cut, Readings), Failure> {
    cancel.check()?;
    server.plan_again(args)?;
    let plan = server.plan;
    cancel.on_request(server.interrupter(&args.connection));
    if plan.holds_commits() {
        long_queries::wait(args, server.client.connection_id(), reporter, cancel)?;
    }
    // Before any lock: an applier that waits for one can't stop.
    let stopped = stop_appliers(args, server, undo, reporter, cancel)?;
    let raise = server.dialect.flush_change(&server.variables);
    let lock = undo.push(server.lock_change())?;
    let raised = raise
        .as_ref()
        .map(|change| undo.push(change.into()))
        .transpose()?;
    let own = server.client.connection_id();
    let mut holder =
        Holder::announce(server.client.as_mut(), server.dialect.as_ref(), plan, raise)?;
    if args.golden {
        holder = holder.may_be_silent();
    }
    engine.go_live()?;
    reporter.step(&format!("Locking ({})", plan.name));
    let mut killer = Killer::arm(args, &plan, own, reporter)?;
    // The server waits for us.
    let preferred = Preferred::begin();
    let (cut, readings) = holder.cut(|| {
        if let Some(killer) = &mut killer {
            killer.disarm();
        }
        engine.cut().map_err(Failure::from)
    })?;
    drop(preferred);
    drop(killer);
    let times = &readings.times;
    reporter.step(&format!(
        "Lock released: commits were held for {} ms, DDL for {} ms",
        times.lock_ms, times.ddl_lock_ms
    ));
    for number in raised.into_iter().chain([lock]) {
        undo.strike(number)?;
    }
    appliers(server, undo).start(stopped)?;
    Ok((cut, readings))
}

/// A replica's positions are read while its appliers stand still, as [`Server::stops_appliers`] says.
fn stop_appliers(
    args: &args::Backup,
    server: &mut Server,
    undo: &mut UndoStack,
    reporter: &Reporter,
    cancel: &Cancel,
) -> Result<Stopped, SafeSlaveError> {
    let stops_appliers = server.stops_appliers();
    let mut appliers = appliers(server, undo);
    let Some(request) = args.safe_slave else {
        return match stops_appliers {
            true => appliers.stop(args.lock_timeout, &mut RealClock::new(cancel)),
            false => Ok(Stopped::default()),
        };
    };
    reporter.step("Waiting until the appliers have no temporary tables open");
    let (stopped, warning) = appliers.stop_safely(request, &mut RealClock::new(cancel))?;
    if let Some(warning) = warning {
        reporter.warn(&warning);
    }
    Ok(stopped)
}

fn appliers<'a>(server: &'a mut Server, undo: &'a mut UndoStack) -> Appliers<'a> {
    Appliers {
        client: server.client.as_mut(),
        dialect: server.dialect.as_ref(),
        journal: undo,
    }
}

/// The server does not say how long it waited.
fn name_timeout(failure: Failure, args: &args::Backup) -> Failure {
    match failure {
        Failure::Client(ClientError::LockTimeout { statement, message }) => {
            let seconds = args.lock_timeout.as_secs();
            BackupError::LockTimeout {
                seconds,
                statement,
                message,
            }
            .into()
        }
        failure => failure,
    }
}

fn check_golden(report: Option<&GoldenReport>) -> Result<(), BackupError> {
    let differences = report.map_or(&[][..], |report| &report.differences);
    match differences.first() {
        None => Ok(()),
        Some(first) => Err(BackupError::GoldenDifference {
            count: differences.len(),
            first: first.clone(),
        }),
    }
}

fn report(args: &args::Backup, manifest: &Manifest) {
    let position = manifest.position.as_ref();
    if args.show.json {
        show::event(serde_json::json!({
            "event": "completed",
            "target": args.target,
            "position": position,
            "lock_ms": manifest.times.lock_ms,
            "ddl_lock_ms": manifest.times.ddl_lock_ms,
            "bytes": manifest.stats.bytes,
            "files": manifest.stats.files,
        }));
        return;
    }
    say!("Backup: {}", args.target.display());
    match position {
        Some(position) => say!(
            "Position: {} GTID {}",
            position.coordinates,
            position.gtid_set
        ),
        None => say!("Position: none"),
    }
    say!("completed OK!");
}
