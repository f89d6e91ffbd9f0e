//! A session, phase by phase: attach, scan, base copy, passes, payload, cut, finish.
//!
//! Why the stage is right at the cut. Until the payload phase, every change since before the base copy is noted as dirty, and dirty ranges are copied again. When the
//! mode became Payload and a grace period is over, every call that recorded without bytes is in the log; when one more is, so is every call that may have run beside one of
//! these. The reader notes up to there (position P) and waits. The calls behind P all know the mode, and their locks give them the file's order. What is dirty now is copied a last time: each byte is then that of P or of some later moment. A last grace period lets every
//! call land that was under way during that copy, asynchronous writes too, so nothing in flight at the cut was seen half done by a read. From then on the reader applies all
//! records behind P, in order: a byte that one of them covers gets its value from the last of them, and a byte that none covers has not changed since P. So at every later
//! position, and at the Cut, the stage is what the files were. A file that the last copy missed (it was renamed just then) is copied while the reader waits at some
//! later position, by its name there: the same argument holds for it, with that position for P.

mod audit;
mod convergence;
mod core;
mod error;
mod finish;
mod golden;
mod payload;
mod reader;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use self::convergence::{Convergence, Verdict};
use self::core::{Core, Counters, Reading, State};
use crate::capture_log::layout::Rendezvous;
use crate::capture_log::{Control, Link, LinkError, Mode, Record, Segment, link};
use crate::catalog::Catalog;
use crate::copy::{CopyContext, Disks};
use crate::digest::Digests;
use crate::live::Mirror;
use crate::manifest::{Entry, Stats};
use crate::pass::{Pass, PassOutcome};
use crate::source::{self, Found, Scope};
use crate::target::Stage;

pub use self::error::SessionError;
pub use self::golden::GoldenReport;
pub use crate::monitor::{Event, Monitor, Phase, Progress, Silent};
pub use crate::source::{Exclude, List, Root};
pub use crate::throttle::Throttle;

/// Scans in a row that a directory rename may spoil.
const SCAN_COUNT_MAX: u32 = 64;
/// How long a server that destroys its asynchronous contexts is given to end, and how often that is looked at.
const END_BOUND: Duration = Duration::from_secs(10);
const END_INTERVAL: Duration = Duration::from_millis(20);

pub struct SessionOptions {
    /// 56 bits, random, not 0: known before the session begins, so that it can be undone whatever happens.
    pub session: u64,
    pub pid: u32,
    pub runtime_dir: PathBuf,
    pub roots: Vec<Root>,
    /// Does not exist, or is an empty directory.
    pub target: PathBuf,
    pub exclude: Exclude,
    /// Workers that copy.
    pub parallel: usize,
    pub throttle: Arc<Throttle>,
    /// Bytes of the capture log.
    pub log_size: u64,
    pub max_passes: u32,
    /// Bound on each wait for calls under way, and for the reader.
    pub grace_bound: Duration,
    pub monitor: Arc<dyn Monitor>,
}

/// What a session needs in the process that it backs up.
pub struct Inside {
    pub rendezvous: &'static Rendezvous,
    /// Lets the library map the capture log of a session, before any of its calls can look for it.
    pub adopt: fn(u64, &std::fs::File) -> std::io::Result<()>,
    pub list: List,
    pub stage: Stage,
}

/// The moment of a backup: a position in the capture log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// None if the session was lost by then; [`Session::settle_cut`] tells why.
    pub position: Option<u64>,
}

/// A finished stage: everything has its name and is on disk. Info files may be added before it is published.
pub struct Settled {
    pub stage: Stage,
    pub entries: Vec<Entry>,
    pub stats: Stats,
}

/// Cancels a session from another thread or a signal.
#[derive(Clone)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A session on one server process. Dropped, it switches capture off and removes the stage.
pub struct Session {
    core: Arc<Core>,
    reader: Option<JoinHandle<()>>,
    stats: Stats,
    cut_count: u64,
    start_time_ticks: u64,
    phase_start: Instant,
}

impl Session {
    /// Makes the stage and the capture log, and switches capture on.
    pub fn attach(options: SessionOptions) -> Result<Session, SessionError> {
        let scope = Scope::new(options.roots.clone(), options.exclude.clone());
        let link = Link::open(&options.runtime_dir, options.pid)?;
        Session::attach_to(
            options,
            scope,
            link,
            |options| {
                let stage = Stage::create(&options.target)?;
                for root in &options.roots {
                    stage.check_owner(&root.source)?;
                }
                Ok(stage)
            },
            |options, link, devices| {
                let (session, len) = (options.session, options.log_size);
                Segment::create(&options.runtime_dir, link, session, len, devices)
            },
        )
    }

    /// As [`Session::attach`], to the library in this process. Of the options, `pid`, `runtime_dir` and `target` have no meaning.
    pub fn attach_inside(
        mut options: SessionOptions,
        inside: Inside,
    ) -> Result<Session, SessionError> {
        options.pid = std::process::id();
        let scope = Scope::new(options.roots.clone(), options.exclude.clone());
        let scope = scope.with_list(inside.list);
        let link = Link::to_self(inside.rendezvous)?;
        let stage = inside.stage;
        Session::attach_to(
            options,
            scope,
            link,
            |_| Ok(stage),
            |options, link, devices| {
                // The log of the session before is taken away as soon as this one has its own.
                link.grace(false, options.grace_bound)?;
                let session = options.session;
                let segment = Segment::create_private(session, options.log_size, devices)?;
                (inside.adopt)(session, segment.file()).map_err(|source| LinkError::Io {
                    path: "the capture log".into(),
                    source,
                })?;
                Ok(segment)
            },
        )
    }

    fn attach_to(
        options: SessionOptions,
        scope: Scope,
        link: Link,
        make_stage: impl FnOnce(&SessionOptions) -> Result<Stage, SessionError>,
        make_segment: impl FnOnce(&SessionOptions, &Link, &[u64]) -> Result<Segment, LinkError>,
    ) -> Result<Session, SessionError> {
        let start = Instant::now();
        link.claim()?;
        if link.control() != Control::IDLE {
            return Err(LinkError::Busy {
                pid: options.pid,
                session: link.control().session(),
            }
            .into());
        }
        let start_time = link::start_time_ticks(options.pid)
            .map_err(|_| SessionError::ServerGone { pid: options.pid })?;
        let Survey {
            devices,
            counters,
            allocated,
        } = survey(&scope)?;
        let stage = Arc::new(make_stage(&options)?);
        options.monitor.event(&Event::Phase(Phase::Attach));
        let segment = make_segment(&options, &link, &devices)?;
        let digests = Arc::new(Digests::for_bytes(allocated));
        let disks = Disks::new(options.parallel);
        let reflink = stage.shares_blocks_with(&devices);
        let state = State {
            catalog: Catalog::new(scope),
            mirror: Mirror::new(stage.clone(), digests.clone()),
            reading: Reading::Note,
            position: 0,
            deferred: None,
            beyond: Vec::new(),
            control: Control::IDLE,
            failure: None,
            log_used_max_bytes: 0,
        };
        let core = Arc::new(Core {
            options,
            link,
            segment,
            stage,
            digests,
            disks,
            devices,
            reflink,
            state: Mutex::new(state),
            changed: Condvar::new(),
            counters,
            cancelled: Arc::default(),
            failed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let mut session = Session {
            core,
            reader: None,
            stats: Stats::default(),
            cut_count: 0,
            start_time_ticks: start_time,
            phase_start: start,
        };
        match session.start() {
            Ok(()) => Ok(session),
            Err(error) => Err(session.explained(error)),
        }
    }

    fn start(&mut self) -> Result<(), SessionError> {
        let core = &self.core;
        // An earlier session may have ended without one, and what its calls have mapped goes when a call meets this one. Last, so that none comes between.
        core.link.grace(false, core.options.grace_bound)?;
        core.link
            .announce(&link::segment_name(core.options.pid, core.options.session));
        self.switch(Mode::Extents, |_, _| ())?;
        let (shared, start_time) = (core.clone(), self.start_time_ticks);
        self.reader = Some(std::thread::spawn(move || {
            crate::threads::started();
            let _preferred = crate::threads::Preferred::begin();
            reader::run(&shared, start_time)
        }));
        core.link.grace(false, core.options.grace_bound)?;
        // From here on a mapping has a record. Of these, only that they were there is known.
        let mapped = audit::mapped_files(core)?;
        core.state.lock().catalog.note_mapped(mapped);
        self.end_phase(Phase::Attach);
        Ok(())
    }

    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.core.cancelled.clone())
    }

    /// An error if the session is lost, cancelled or failed. Cheap: for waits between phases.
    pub fn check(&self) -> Result<(), SessionError> {
        self.core.check()
    }

    /// What an error came of: the end of the server shows in many ways, in the log, in its connections, below /proc.
    pub fn explained(&self, error: SessionError) -> SessionError {
        let pid = self.core.options.pid;
        let is_running = || link::is_running(pid, self.start_time_ticks);
        if error.is_perhaps_the_end() {
            let deadline = Instant::now() + END_BOUND;
            while is_running() && Instant::now() < deadline {
                std::thread::sleep(END_INTERVAL);
            }
        }
        match is_running() {
            true => error,
            false => SessionError::ServerGone { pid },
        }
    }

    /// Changes the mode, and what the reader expects, at once.
    fn switch(&self, mode: Mode, also: impl FnOnce(&mut State, u64)) -> Result<(), SessionError> {
        let core = &self.core;
        let mut state = core.state.lock();
        let control = Control::new(core.options.session, mode);
        if let Err(error) = core.link.switch(state.control, control) {
            drop(state);
            if let LinkError::SwitchedOff { .. } = error {
                // The reader knows why.
                core.wait(|_| false).map(drop)?;
            }
            return Err(error.into());
        }
        state.control = control;
        also(&mut state, core.tail());
        Ok(())
    }

    fn end_phase(&mut self, phase: Phase) {
        let name = serde_json::to_value(phase)
            .ok()
            .and_then(|name| name.as_str().map(String::from));
        let ms = self.phase_start.elapsed().as_millis() as u64;
        *self
            .stats
            .phase_ms
            .entry(name.unwrap_or_default())
            .or_default() += ms;
        self.phase_start = Instant::now();
    }

    /// Scans the source and copies every file once.
    pub fn base_copy(&mut self) -> Result<(), SessionError> {
        self.core.phase(Phase::Scan);
        self.scan()?;
        self.end_phase(Phase::Scan);
        self.core.phase(Phase::BaseCopy);
        self.core.remove_dropped();
        let outcome = self.pass(&self.core.options.throttle.clone())?;
        self.stats.copied_bytes += outcome.copied_bytes;
        self.end_phase(Phase::BaseCopy);
        Ok(())
    }

    /// Makes the catalog exact: a scan, and then the names that were recorded since before it.
    fn scan(&self) -> Result<(), SessionError> {
        let core = &self.core;
        for _ in 0..SCAN_COUNT_MAX {
            let (scope, since) = {
                let mut state = core.state.lock();
                state.deferred = Some(Vec::new());
                (state.catalog.scope().clone(), state.catalog.mark())
            };
            // What is in the log by now is older than the scan, what comes is deferred: nothing falls between.
            let entries = source::scan(&scope)?;
            core.drain()?;
            let mut state = core.state.lock();
            let state = &mut *state;
            state.catalog.adopt(entries, since);
            for (header, body) in state.deferred.take().unwrap_or_default() {
                if let Some(record) = Record::decode(header, &body) {
                    state.catalog.note_name(&record);
                    state.catalog.ask_for_scan_if_moved(&record);
                }
            }
            if state.catalog.needs_scan().is_none() {
                return Ok(());
            }
        }
        let why = "directories were renamed during each scan".into();
        Err(SessionError::Unsettled {
            returns: SCAN_COUNT_MAX,
            why,
        })
    }

    fn pass(&self, throttle: &Throttle) -> Result<PassOutcome, SessionError> {
        let core = &self.core;
        let work = core.state.lock().catalog.take_work();
        let pass = Pass {
            stage: &core.stage,
            copying: CopyContext {
                throttle,
                digests: &core.digests,
                stop: &|| core.over(),
                on_bytes: &|bytes| {
                    _ = core
                        .counters
                        .copied_bytes
                        .fetch_add(bytes, Ordering::Relaxed)
                },
                reflink: core.reflink,
            },
            disks: &core.disks,
            ledger: &**core,
            parallel: core.options.parallel.max(1),
            on_file: &|| _ = core.counters.copied_files.fetch_add(1, Ordering::Relaxed),
        };
        let outcome = pass.run(work);
        core.check()?;
        Ok(outcome?)
    }

    /// Copies what changed, again and again, until little is left.
    pub fn converge(&mut self) -> Result<(), SessionError> {
        let reading = self.core.state.lock().reading;
        if reading == Reading::Beyond {
            // The caller wants another cut than the one that is settled.
            self.leave_payload()?;
        }
        self.core.phase(Phase::Passes);
        let result = self.passes();
        self.end_phase(Phase::Passes);
        result
    }

    fn passes(&mut self) -> Result<(), SessionError> {
        let core = self.core.clone();
        let enough_bytes = core.enough_bytes();
        self.settle_names()?;
        let mut convergence =
            Convergence::new(enough_bytes, core.options.max_passes, core.dirty_bytes());
        loop {
            let start = Instant::now();
            let outcome = self.counted_pass()?;
            let took = start.elapsed();
            self.settle_names()?;
            let left_bytes = core.dirty_bytes();
            match convergence.judge(&outcome, left_bytes, took) {
                Verdict::Again => {}
                Verdict::Enough => return Ok(()),
                Verdict::GiveUp { shrinking } => {
                    return Err(SessionError::NotConverging {
                        passes: convergence.passes,
                        left_bytes,
                        enough_bytes,
                        throttle: core.options.throttle.rate(),
                        shrinking,
                    });
                }
            }
        }
    }

    /// Brings the catalog up to date with the log, by another scan if it asks for one.
    fn settle_names(&self) -> Result<(), SessionError> {
        self.core.drain()?;
        let needs_scan = self.core.state.lock().catalog.needs_scan().is_some();
        if needs_scan { self.scan() } else { Ok(()) }
    }

    fn counted_pass(&mut self) -> Result<PassOutcome, SessionError> {
        self.stats.passes += 1;
        self.core
            .counters
            .pass
            .store(self.stats.passes, Ordering::Relaxed);
        self.core.remove_dropped();
        let outcome = self.pass(&self.core.options.throttle.clone())?;
        self.stats.copied_bytes += outcome.copied_bytes;
        Ok(outcome)
    }

    fn next_cut(&self) -> u64 {
        self.cut_count + 1
    }

    /// Appends the Cut: what was recorded before is in the backup. Takes microseconds, and no lock: the reader has that of the state while it writes to the target, and the
    /// server may stand still meanwhile.
    pub fn cut(&mut self) -> Result<Cut, SessionError> {
        let core = &self.core;
        if core.cancelled.load(Ordering::Relaxed) {
            return Err(SessionError::Cancelled);
        }
        let id = self.next_cut();
        let appended = core.segment.writer().append(&Record::Cut { id });
        self.cut_count = id;
        let is_on = core.link.control() == Control::new(core.options.session, Mode::Payload);
        let position = appended.ok().filter(|_| is_on);
        Ok(Cut { position })
    }

    /// Waits until everything up to the cut is in the stage. False: something turned up that only the source could give, or that
    /// no record explains, so `converge`, `go_live` and another cut are needed.
    pub fn settle_cut(&mut self, cut: &Cut) -> Result<bool, SessionError> {
        self.core.phase(Phase::Cut);
        if cut.position.is_none() {
            // The reader knows why.
            self.core.wait(|_| false).map(drop)?;
            return Err(SessionError::Failed);
        }
        self.core
            .wait(|state| state.reading == Reading::Beyond)
            .map(drop)?;
        let why = match self.unsettled() {
            None => self.unexplained_after_cut()?,
            why => why,
        };
        if let Some(why) = why {
            tracing::debug!(why, "the cut is not settled");
            self.leave_payload()?;
            return Ok(false);
        }
        self.end_phase(Phase::Cut);
        Ok(true)
    }

    /// Switches capture off, and gives the stage its final shape.
    pub fn finish(mut self) -> Result<Settled, SessionError> {
        self.core.phase(Phase::Finish);
        self.detach();
        let core = self.core.clone();
        let parallel = core.options.parallel.max(1);
        let (entries, bytes) = {
            let mut state = core.state.lock();
            self.stats.log_used_max_bytes = state.log_used_max_bytes;
            self.stats.payload_bytes = state.mirror.payload_bytes;
            self.stats.catalog = state.catalog.stats;
            state.mirror = Mirror::new(core.stage.clone(), core.digests.clone());
            finish::name_everything(&state.catalog, &core, parallel)?
        };
        self.stats.files = entries
            .iter()
            .filter(|entry| matches!(entry.kind, crate::manifest::Kind::File { .. }))
            .count() as u64;
        self.stats.bytes = bytes;
        self.end_phase(Phase::Finish);
        let stats = std::mem::take(&mut self.stats);
        drop(core);
        let stage = self.into_stage();
        Ok(Settled {
            stage,
            entries,
            stats,
        })
    }

    fn into_stage(mut self) -> Stage {
        self.reader = None;
        let core = self.core.clone();
        drop(self);
        let core =
            Arc::into_inner(core).expect("the reader has ended, and it was the only other owner");
        let Core { stage, state, .. } = core;
        drop(state);
        Arc::into_inner(stage).expect("the mirror was the only other owner")
    }

    /// Gives up: capture off, stage removed.
    pub fn abort(self) {}

    /// Capture off, and the log's memory given back. Does nothing the second time.
    fn detach(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let core = &self.core;
        core.stopped.store(true, Ordering::Release);
        let _ = reader.join();
        core.link.switch_off(core.options.session);
        // Of a server that is gone, nobody is left to wait for.
        if link::is_running(core.options.pid, self.start_time_ticks)
            && core.link.grace(false, core.options.grace_bound).is_ok()
        {
            core.segment.release_memory();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.detach();
        // In case the reader never started.
        self.core.link.switch_off(self.core.options.session);
    }
}

struct Survey {
    /// Those that the scope lies on.
    devices: Vec<u64>,
    /// How much there is to copy.
    counters: Counters,
    /// Bytes that are on the disk: a sparse file may be longer than all that is.
    allocated: u64,
}

fn survey(scope: &Scope) -> Result<Survey, SessionError> {
    let entries = source::scan(scope)?;
    let mut devices: Vec<u64> = entries.iter().map(|entry| entry.file.device).collect();
    devices.sort_unstable();
    devices.dedup();
    let counters = Counters::default();
    let mut allocated = 0;
    for entry in entries.iter().filter(|entry| entry.found == Found::File) {
        counters
            .total_bytes
            .fetch_add(entry.traits.size, Ordering::Relaxed);
        counters.total_files.fetch_add(1, Ordering::Relaxed);
        allocated += entry.allocated;
    }
    Ok(Survey {
        devices,
        counters,
        allocated,
    })
}

/// Ends what a killed controller left on in a server: capture off, segment removed. Says what was found.
pub fn abandon(
    runtime_dir: &std::path::Path,
    pid: u32,
    start_time_ticks: u64,
    session: u64,
) -> Result<String, SessionError> {
    let segment = runtime_dir.join(link::segment_name(pid, session));
    let mut found = Vec::new();
    if link::is_running(pid, start_time_ticks) {
        let link = Link::open(runtime_dir, pid)?;
        found.push(match link.switch_off(session) {
            true => format!("capture was on in process {pid}, switched off"),
            false => format!("capture was off in process {pid}"),
        });
        link.grace(false, Duration::from_secs(10))?;
        if let Ok(file) = std::fs::OpenOptions::new().write(true).open(&segment) {
            Segment::release_memory_of(&file);
        }
    } else {
        found.push(format!("process {pid} is gone"));
        let _ = std::fs::remove_file(runtime_dir.join(link::rendezvous_name(pid)));
    }
    match std::fs::remove_file(&segment) {
        Ok(()) => found.push("capture log removed".into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(SessionError::Io {
                action: "remove",
                path: segment,
                source,
            });
        }
    }
    Ok(found.join(", "))
}
