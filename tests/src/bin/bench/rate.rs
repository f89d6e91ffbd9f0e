//! How many small writes per second a session takes without being lost: the rate is raised until it is, or until the program that writes can't go faster.
//!
//! Rule: a session that holds goes through all of its phases, with the rate kept up for some seconds in each mode, and its cut is settled. Rates are those
//! that the program achieved, not what it was asked for.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotmirror::session::{Root, Session, SessionError, SessionOptions, Silent, Throttle};
use hotmirror_tests::{artifacts, scratch};
use tempfile::TempDir;

use crate::measure::compile;
use crate::plan::Plan;

const THREADS: u32 = 4;
const LEN: u32 = 512;
const LOG_BYTES: u64 = 64 << 20;
const STEP: f64 = 1.25;
/// Less than this part of what was asked for: the program can't go faster.
const ENOUGH: f64 = 0.93;
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// A cut may find something that only the source can give.
const CUTS_MAX: u32 = 8;

/// What one mode held, in writes per second.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfMode {
    pub held: f64,
    pub lost_at: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    pub len: u32,
    pub extents: OfMode,
    pub payload: OfMode,
}

pub fn measure(plan: &Plan, home: &Path) -> Rate {
    let program = compile("write_rate", "write_rate", &["-pthread"], home);
    let mut rate = Rate {
        len: LEN,
        ..Rate::default()
    };
    let mut asked = f64::from(plan.first_rate);
    loop {
        let seen = Seen::of(asked, &program, plan, home);
        println!("{asked:.0} writes/s asked for: {seen:?}");
        let (extents, payload) = (&mut rate.extents, &mut rate.payload);
        let is_lost = seen.error.is_some();
        for (mode, achieved, lost_here) in [
            (extents, seen.extents, is_lost && seen.payload.is_none()),
            (payload, seen.payload, is_lost),
        ] {
            match achieved {
                Some(achieved) if lost_here => mode.lost_at = Some(achieved),
                Some(achieved) if mode.lost_at.is_none() => mode.held = achieved.max(mode.held),
                _ => {}
            }
        }
        // Payloads cost the program more: it comes to its most in that mode first.
        let reached = seen
            .extents
            .is_some_and(|achieved| achieved >= asked * ENOUGH);
        if is_lost || !reached {
            return rate;
        }
        asked *= STEP;
    }
}

/// One session at one rate: writes per second in each mode that it came to.
#[derive(Debug, Default)]
struct Seen {
    extents: Option<f64>,
    payload: Option<f64>,
    log_used_max_mb: Option<f64>,
    error: Option<String>,
}

impl Seen {
    fn of(asked: f64, program: &Path, plan: &Plan, home: &Path) -> Seen {
        let writer = Writer::start(asked, program, home);
        let target = home.join("rate_target");
        let mut seen = Seen::default();
        if let Err(error) = seen.session(&writer, &target, plan.rate_time) {
            seen.error = Some(error.to_string());
        }
        seen
    }

    fn session(
        &mut self,
        writer: &Writer,
        target: &Path,
        time: Duration,
    ) -> Result<(), SessionError> {
        let start = Instant::now();
        let copied = (|| -> Result<Session, SessionError> {
            let mut session = Session::attach(writer.session_options(target))?;
            session.base_copy()?;
            session.converge()?;
            keep_up(&session, time)?;
            session.converge()?;
            Ok(session)
        })();
        self.extents = Some(writer.rate(start, Instant::now()));
        let mut session = copied?;
        let start = Instant::now();
        let settled = (|| -> Result<(), SessionError> {
            session.go_live()?;
            keep_up(&session, time)?;
            settle(&mut session)
        })();
        self.payload = Some(writer.rate(start, Instant::now()));
        settled?;
        let used = session.finish()?.stats.log_used_max_bytes;
        self.log_used_max_mb = Some(used as f64 / 1e6);
        Ok(())
    }
}

fn keep_up(session: &Session, time: Duration) -> Result<(), SessionError> {
    let start = Instant::now();
    while start.elapsed() < time {
        session.check()?;
        std::thread::sleep(CHECK_INTERVAL);
    }
    Ok(())
}

fn settle(session: &mut Session) -> Result<(), SessionError> {
    for _ in 0..CUTS_MAX {
        let cut = session.cut()?;
        if session.settle_cut(&cut)? {
            return Ok(());
        }
        session.converge()?;
        session.go_live()?;
    }
    Err(SessionError::Unsettled {
        returns: CUTS_MAX,
        why: "no cut was settled".into(),
    })
}

/// The program that writes; it ends when its input does.
struct Writer {
    child: Child,
    data: TempDir,
    runtime: TempDir,
    /// Writes so far, at some moments.
    ticks: Arc<Mutex<Vec<(Instant, f64)>>>,
}

impl Writer {
    fn start(asked: f64, program: &Path, home: &Path) -> Writer {
        let runtime = scratch::runtime_dir();
        let data = tempfile::tempdir_in(home).expect("A directory for the program");
        let mut child = Command::new(program)
            .arg(data.path())
            .args([THREADS.to_string(), LEN.to_string(), asked.to_string()])
            .env("LD_PRELOAD", artifacts::library())
            .env("HOTMIRROR_PROCESS", "write_rate")
            .env("HOTMIRROR_RUNTIME_DIR", runtime.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("write_rate can be run");
        let mut lines = BufReader::new(child.stdout.take().expect("Its output")).lines();
        let mut tick = move || {
            let count: f64 = lines.next()?.ok()?.parse().ok()?;
            Some((Instant::now(), count))
        };
        let first = tick().expect("The program works");
        let ticks = Arc::new(Mutex::new(vec![first]));
        let kept = ticks.clone();
        std::thread::spawn(move || {
            while let Some(tick) = tick() {
                kept.lock().expect("Ticks").push(tick);
            }
        });
        Writer {
            child,
            data,
            runtime,
            ticks,
        }
    }

    fn session_options(&self, target: &Path) -> SessionOptions {
        let source: PathBuf = self.data.path().canonicalize().expect("The directory");
        SessionOptions {
            session: u64::from(self.child.id()),
            pid: self.child.id(),
            runtime_dir: self.runtime.path().into(),
            roots: vec![Root {
                source,
                place: "data".into(),
            }],
            target: target.into(),
            exclude: Arc::new(|_| false),
            parallel: 2,
            throttle: Arc::new(Throttle::new(0)),
            log_size: LOG_BYTES,
            max_passes: 30,
            grace_bound: Duration::from_secs(30),
            monitor: Arc::new(Silent),
        }
    }

    fn rate(&self, from: Instant, to: Instant) -> f64 {
        let ticks = self.ticks.lock().expect("Ticks");
        let inside = ticks.iter().filter(|(at, _)| (from..=to).contains(at));
        let mut inside = inside.copied();
        match (inside.next(), inside.last()) {
            (Some((first, before)), Some((last, after))) => {
                (after - before) / (last - first).as_secs_f64()
            }
            _ => f64::NAN,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
