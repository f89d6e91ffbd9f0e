//! A backup of this process: the session, run step by step in a thread of its own, and what the caller waits for.
//!
//! The thread and those that it starts have all signals blocked and are passed by in the hooks. There is one backup at a time in a process. The child of a fork has none
//! under way, and can make its own unless one was under way when it was made.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::session::{
    CancelHandle, Event, Inside, Monitor, Phase, Progress, Session, SessionOptions, Throttle,
};
use engine::target::Stage;
use hotmirror_hooks::embed;
use parking_lot::{Condvar, Mutex};

use crate::api::{HOTMIRROR_UNTHROTTLED, hotmirror_result};
use crate::failure::{Failure, guarded};
use crate::plan::{Plan, busy};
use crate::{in_front, listing};

const PASSES_MAX: u32 = 16;
/// Cuts that may turn out not to hold.
const CUTS_MAX: u32 = 8;
const GRACE_BOUND: Duration = Duration::from_secs(30);
/// A session that waits for its caller looks that often whether it still holds.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Pid of the process in which a backup runs.
static ACTIVE: AtomicU32 = AtomicU32::new(0);
/// One bound for all backups, kept between them.
static THROTTLE: LazyLock<Arc<Throttle>> = LazyLock::new(|| Arc::new(Throttle::new(0)));

/// 0: paused; `u64::MAX`: no bound.
pub fn throttle(bytes_per_second: u64) {
    match bytes_per_second {
        0 => THROTTLE.pause(),
        HOTMIRROR_UNTHROTTLED => THROTTLE.set(0),
        rate => THROTTLE.set(rate),
    }
}

/// How far a backup is, in the order in which it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Copying,
    /// Everything is copied and kept current.
    Live,
    /// The moment of the backup has passed.
    Cut,
    /// All files are complete and on disk.
    Settled,
    /// All files have their names.
    Finished,
}

struct State {
    reached: Step,
    /// The caller knows that it is live, so there is no way back.
    live_told: bool,
    /// How far the caller lets it go.
    allowed: Step,
    failure: Option<Failure>,
    cancel: Option<CancelHandle>,
    phase: Phase,
    progress: Progress,
    /// Bytes of the capture log with which it began again, after an overflow.
    grown_log_len: Option<u64>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    cancelled: AtomicBool,
}

/// The place of the one backup; dropping it makes room for the next.
struct Claim;

impl Claim {
    fn take() -> Result<Claim, Failure> {
        let pid = std::process::id();
        match ACTIVE.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(Claim),
            Err(active) if active == pid => Err(busy()),
            // Locks of the parent's backup may have been held at that moment, by threads that the child does not have.
            Err(_) => Err(Failure::new(
                libc::ENOTSUP,
                hotmirror_result::HOTMIRROR_WRONG_STATE,
                "This process was forked while its parent made a backup: it can make none until it calls exec",
            )),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // In a forked child it is the parent's, and stays.
        let pid = std::process::id();
        let _ = ACTIVE.compare_exchange(pid, 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// A backup under way. Dropped, it is given up.
pub struct Backup {
    shared: Arc<Shared>,
    driver: Option<JoinHandle<()>>,
    pid: u32,
    _claim: Claim,
}

impl Backup {
    /// # Safety
    /// As [`Plan::check`].
    pub unsafe fn start(asked: &crate::plan::Asked) -> Result<Backup, Failure> {
        let claim = Claim::take()?;
        // SAFETY: the caller's word.
        let plan = unsafe { Plan::check(asked) }?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                reached: Step::Copying,
                live_told: false,
                allowed: Step::Live,
                failure: None,
                cancel: None,
                phase: Phase::Attach,
                progress: Progress::default(),
                grown_log_len: None,
            }),
            changed: Condvar::new(),
            cancelled: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let spawned = with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("hotmirror".into())
                .spawn(move || drive(&theirs, plan))
        });
        let driver = spawned
            .map_err(|error| Failure::io("Cannot start a thread for the backup".into(), &error))?;
        Ok(Backup {
            shared,
            driver: Some(driver),
            pid: std::process::id(),
            _claim: claim,
        })
    }

    /// Lets the backup go as far as `step`.
    pub fn allow(&self, step: Step) {
        let mut state = self.shared.state.lock();
        state.allowed = state.allowed.max(step);
        self.shared.changed.notify_all();
    }

    /// Waits until `step` is reached: true; or until the time is up.
    pub fn wait(&self, step: Step, bound: Duration) -> Result<bool, Failure> {
        let until = Instant::now() + bound;
        let mut state = self.shared.state.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.reached >= step {
                state.live_told = true;
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.shared.changed.wait_until(&mut state, until);
        }
    }

    pub fn reached(&self) -> Step {
        self.shared.state.lock().reached
    }

    pub fn progress(&self) -> (Phase, Progress) {
        let state = self.shared.state.lock();
        (state.phase, state.progress)
    }

    pub fn grown_log_len(&self) -> Option<u64> {
        self.shared.state.lock().grown_log_len
    }

    fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        let state = self.shared.state.lock();
        if let Some(cancel) = &state.cancel {
            cancel.cancel();
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let driver = self.driver.take();
        // In a forked child there is no such thread.
        if std::process::id() != self.pid {
            std::mem::forget(driver);
            return;
        }
        self.cancel();
        if let Some(driver) = driver {
            let _ = driver.join();
        }
    }
}

/// Signals are the program's: its handlers run in its own threads. Those that a thread brings on itself stay as they are.
fn with_signals_blocked<R>(run: impl FnOnce() -> R) -> R {
    let mut blocked = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is filled in.
    unsafe { libc::sigfillset(blocked.as_mut_ptr()) };
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
        // SAFETY: the set was filled in above.
        unsafe { libc::sigdelset(blocked.as_mut_ptr(), signal) };
    }
    // SAFETY: both sets are there; the calling thread's mask is put back below.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), before.as_mut_ptr());
    }
    let result = run();
    // SAFETY: the mask that the call above gave.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
    result
}

/// Takes over what the engine tells.
struct Listener(Arc<Shared>);

impl Monitor for Listener {
    fn event(&self, event: &Event) {
        let mut state = self.0.state.lock();
        match event {
            Event::Phase(phase) => state.phase = *phase,
            Event::Progress(progress) => state.progress = *progress,
            Event::Warning(_) => {}
        }
    }
}

fn drive(shared: &Arc<Shared>, plan: Plan) {
    embed::pass_by();
    engine::threads::on_start(embed::pass_by);
    if let Err(failure) = guarded(|| run(shared, plan)) {
        shared.state.lock().failure = Some(failure);
    }
    shared.changed.notify_all();
}

fn run(shared: &Arc<Shared>, mut plan: Plan) -> Result<(), Failure> {
    let session = loop {
        match copy_and_cut(shared, &plan) {
            Err(failure)
                if failure.is_overflow() && plan.grow_log() && shared.begin_again(&plan) => {}
            result => break result?,
        }
    };
    shared.reach(Step::Cut);
    let settled = session.finish()?;
    shared.reach(Step::Settled);
    shared.wait_allowed(Step::Finished, || Ok(()))?;
    settled.stage.publish_direct()?;
    shared.reach(Step::Finished);
    Ok(())
}

fn copy_and_cut(shared: &Arc<Shared>, plan: &Plan) -> Result<Session, Failure> {
    let mut session = attach(shared, plan)?;
    shared.state.lock().cancel = Some(session.cancel_handle());
    // Whoever stopped it before found no handle.
    shared.check_cancelled()?;
    session.base_copy()?;
    session.converge()?;
    session.go_live()?;
    shared.reach(Step::Live);
    shared.wait_allowed(Step::Cut, || Ok(session.check()?))?;
    cut(&mut session)?;
    Ok(session)
}

fn attach(shared: &Arc<Shared>, plan: &Plan) -> Result<Session, Failure> {
    in_front::check()?;
    let rendezvous = embed::rendezvous().ok_or_else(|| {
        Failure::new(
            libc::ENOSYS,
            hotmirror_result::HOTMIRROR_INTERNAL,
            "The library could not start in this process: /proc is not there, or memory is short",
        )
    })?;
    let inside = Inside {
        rendezvous,
        adopt: embed::adopt,
        list: Arc::new(listing::list),
        stage: Stage::create_direct(&plan.targets)?,
    };
    let options = SessionOptions {
        session: new_session_id(),
        pid: std::process::id(),
        runtime_dir: Default::default(),
        roots: plan.roots.clone(),
        target: Default::default(),
        exclude: plan.exclude.clone(),
        parallel: plan.parallel,
        throttle: THROTTLE.clone(),
        log_size: plan.log_len,
        max_passes: PASSES_MAX,
        grace_bound: GRACE_BOUND,
        monitor: Arc::new(Listener(shared.clone())),
    };
    shared.check_cancelled()?;
    Ok(Session::attach_inside(options, inside)?)
}

/// Counts up from a number that differs from process to process; 56 bits, never 0.
fn new_session_id() -> u64 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = u64::from(COUNT.fetch_add(1, Ordering::Relaxed));
    (u64::from(std::process::id()) << 24 | (count + 1) & 0xff_ffff) & ((1 << 56) - 1)
}

/// Cuts until a cut holds: the last one is the moment of the backup.
fn cut(session: &mut Session) -> Result<(), Failure> {
    for _ in 0..CUTS_MAX {
        session.catch_up()?;
        let cut = session.cut()?;
        if session.settle_cut(&cut)? {
            return Ok(());
        }
        session.converge()?;
        session.go_live()?;
    }
    Err(Failure::new(
        libc::EAGAIN,
        hotmirror_result::HOTMIRROR_UNSETTLED,
        format!(
            "None of {CUTS_MAX} cuts held: files kept changing in ways that only a fresh copy could give"
        ),
    ))
}

impl Shared {
    fn reach(&self, step: Step) {
        self.state.lock().reached = step;
        self.changed.notify_all();
    }

    /// After an overflow; false if it is too late for that. The copy begins from nothing, with the larger log of `plan`.
    fn begin_again(&self, plan: &Plan) -> bool {
        let mut state = self.state.lock();
        if !state.live_told {
            state.reached = Step::Copying;
            state.grown_log_len = Some(plan.log_len);
        }
        !state.live_told
    }

    fn check_cancelled(&self) -> Result<(), Failure> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Failure::cancelled()),
            false => Ok(()),
        }
    }

    fn wait_allowed(
        &self,
        step: Step,
        check: impl Fn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            check()?;
            self.check_cancelled()?;
            let mut state = self.state.lock();
            if state.allowed >= step {
                return Ok(());
            }
            self.changed.wait_for(&mut state, CHECK_INTERVAL);
        }
    }
}
