//! Victim programs under the hook: started, frozen between two calls, backed up by the engine, compared, ended.
//!
//! Rule: the comparison shares no code with the engine's own, and a victim that ended with an error fails the test, whatever the
//! backup of it looked like.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hotmirror::capture_log::Link;
use hotmirror::manifest::{Entry, Kind, Stats};
use hotmirror::session::{Event, Monitor, Root, Session, SessionError, SessionOptions, Throttle};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::random::Random;
use crate::{artifacts, scratch};

/// Long against anything that a victim or a session waits for.
const PATIENCE: Duration = Duration::from_secs(60);

fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("HOTMIRROR_VICTIMS_DIR")).join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

/// The actions that a victim program knows.
pub fn actions(name: &str) -> Vec<String> {
    let output = Command::new(program(name)).arg("--list").output();
    let output = output.unwrap_or_else(|e| panic!("Cannot start {name}: {e}"));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(String::from)
        .collect()
}

/// What a victim has said so far.
#[derive(Default)]
struct Heard {
    bytes: usize,
    ended: bool,
}

/// A victim at work.
pub struct Victim {
    child: Child,
    home: TempDir,
    runtime: TempDir,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    random: Random,
}

impl Victim {
    /// Starts `name ACTION` in a directory of its own, and waits until it is at work.
    pub fn start(name: &str, action: &str, seed: u64) -> Victim {
        Victim::start_in(scratch::dir(), name, action, seed)
    }

    /// As [`Victim::start`], with the directory below `home`.
    pub fn start_in(home: TempDir, name: &str, action: &str, seed: u64) -> Victim {
        let runtime = scratch::runtime_dir();
        let data = home.path().join("data");
        std::fs::create_dir(&data).expect("A directory for the victim");
        let mut child = Command::new(program(name))
            .arg(&data)
            .args([action, &seed.to_string()])
            .env("LD_PRELOAD", artifacts::library())
            .env("HOTMIRROR_PROCESS", name)
            .env("HOTMIRROR_RUNTIME_DIR", runtime.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("Cannot start {name}: {e}"));
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let mut stdout = child.stdout.take().expect("Piped");
        let teller = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            loop {
                let count = stdout.read(&mut buffer).unwrap_or(0);
                let mut heard = teller.0.lock().expect("Not poisoned");
                heard.bytes += count;
                heard.ended = count == 0;
                teller.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        let mut victim = Victim {
            child,
            home,
            runtime,
            heard,
            random: Random::new(seed),
        };
        victim.wait_for_work();
        victim
    }

    /// Waits until the victim has done some more rounds.
    pub fn wait_for_work(&mut self) {
        let (heard, changed) = &*self.heard;
        let guard = heard.lock().expect("Not poisoned");
        let before = guard.bytes;
        let (guard, waited) = changed
            .wait_timeout_while(guard, PATIENCE, |heard| {
                heard.bytes == before && !heard.ended
            })
            .expect("Not poisoned");
        let done = guard.bytes > before;
        drop(guard);
        if !done {
            let status = self.child.try_wait().expect("Our own child");
            panic!(
                "The victim does nothing: {status:?}, timed out {}",
                waited.timed_out()
            );
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory that it works in.
    pub fn data(&self) -> PathBuf {
        self.home
            .path()
            .join("data")
            .canonicalize()
            .expect("The victim's directory")
    }

    pub fn runtime_dir(&self) -> &Path {
        self.runtime.path()
    }

    /// Options of a session on it.
    pub fn session_options(&mut self, target: &Path) -> SessionOptions {
        SessionOptions {
            session: self.random.word() >> 8 | 1,
            pid: self.pid(),
            runtime_dir: self.runtime.path().into(),
            roots: vec![Root {
                source: self.data(),
                place: "data".into(),
            }],
            target: target.into(),
            exclude: Arc::new(|_| false),
            parallel: 2,
            throttle: Arc::new(Throttle::new(0)),
            log_size: 64 << 20,
            max_passes: 30,
            grace_bound: Duration::from_secs(10),
            monitor: Arc::new(Quiet),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("Not 0");
        kill_process(pid, signal).expect("Our own child");
    }

    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("It lives");
        tasks.flatten().all(|task| {
            let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else {
                return true;
            };
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            matches!(state, Some('T' | 'Z' | 'X'))
        })
    }

    /// Stops it at a moment when nothing is under way.
    pub fn freeze(&self) -> Result<Frozen<'_>, SessionError> {
        let link = Link::open(self.runtime.path(), self.pid()).expect("The rendezvous");
        let (start, mut stops) = (Instant::now(), 0);
        while start.elapsed() < PATIENCE / 6 {
            stops += 1;
            self.signal(Signal::STOP);
            let frozen = Frozen(self);
            while !self.is_stopped() {
                std::thread::yield_now();
            }
            if link.is_quiet().expect("A barrier") {
                return Ok(frozen);
            }
            drop(frozen);
            // Nothing tells when a call lands but looking again.
            std::thread::sleep(Duration::from_micros(500));
        }
        Err(SessionError::NeverQuiet { tries: stops })
    }

    /// Ends it; it must say that all went well.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().expect("Our own child") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "The victim does not end");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(status.success(), "The victim ended with {status}");
    }

    /// One whole session, whose cut and finish are made while the victim is frozen. Gives where the finished stage differs from the source.
    pub fn back_up(&mut self) -> Result<Copy, SessionError> {
        let target = scratch::runtime_dir();
        let mut session = Session::attach(self.session_options(&target.path().join("backup")))?;
        session.base_copy()?;
        session.converge()?;
        session.go_live()?;
        self.wait_for_work();
        for _ in 0..8 {
            session.catch_up()?;
            let frozen = self.freeze()?;
            let cut = session.cut()?;
            if session.settle_cut(&cut)? {
                let settled = session.finish()?;
                let root = settled.stage.path().join("data");
                let mut differences = differences(&self.data(), &root);
                differences.extend(entry_differences(&settled.entries, settled.stage.path()));
                drop(frozen);
                return Ok(Copy {
                    differences,
                    stats: settled.stats,
                });
            }
            drop(frozen);
            session.converge()?;
            session.go_live()?;
        }
        Err(SessionError::Unsettled {
            returns: 8,
            why: "no cut was settled".into(),
        })
    }

    /// As [`Victim::back_up`], with the engine's own comparison.
    pub fn back_up_golden(&mut self) -> Result<Copy, SessionError> {
        let target = scratch::runtime_dir();
        let mut session = Session::attach(self.session_options(&target.path().join("backup")))?;
        session.base_copy()?;
        session.converge()?;
        session.go_live()?;
        self.wait_for_work();
        let (_, report) = session.golden_cut()?;
        let settled = session.finish()?;
        Ok(Copy {
            differences: report.differences,
            stats: settled.stats,
        })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a backup of a victim came to.
#[derive(Debug)]
pub struct Copy {
    pub differences: Vec<String>,
    pub stats: Stats,
}

/// A stopped victim; runs on when dropped.
pub struct Frozen<'v>(&'v Victim);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// Says on demand what the session says.
struct Quiet;

impl Monitor for Quiet {
    fn event(&self, event: &Event) {
        if let Event::Warning(text) = event
            && std::env::var_os("HOTMIRROR_TEST_WARNINGS").is_some()
        {
            eprintln!("warning: {text}");
        }
    }
}

/// What a name is, as far as a copy of it has to be the same.
#[derive(Debug, PartialEq, Eq)]
enum Thing {
    Directory {
        mode: u32,
    },
    Symlink {
        target: PathBuf,
    },
    /// `twin`: the first name of the same file.
    File {
        mode: u32,
        len: u64,
        twin: PathBuf,
    },
}

fn things(root: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut twins: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let look = |name: PathBuf| {
        let path = root.join(&name);
        let failed = |e: std::io::Error| -> ! { panic!("Cannot look at {}: {e}", path.display()) };
        let meta = path.symlink_metadata().unwrap_or_else(|e| failed(e));
        let mode = meta.permissions().mode() & 0o7777;
        let thing = if meta.is_dir() {
            Thing::Directory { mode }
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).unwrap_or_else(|e| failed(e));
            Thing::Symlink { target }
        } else {
            let twin = twins
                .entry(meta.ino())
                .or_insert_with(|| name.clone())
                .clone();
            let len = meta.len();
            Thing::File { mode, len, twin }
        };
        (name, thing)
    };
    scratch::tree(root).into_iter().map(look).collect()
}

/// Where two trees differ, in names, kinds, modes, links or bytes.
pub fn differences(source: &Path, copy: &Path) -> Vec<String> {
    let (left, right) = (things(source), things(copy));
    let mut found = Vec::new();
    for name in right.keys().filter(|name| !left.contains_key(*name)) {
        found.push(format!("{}: only in the copy", name.display()));
    }
    for (name, thing) in &left {
        match right.get(name) {
            None => found.push(format!("{}: missing in the copy", name.display())),
            Some(other) if other != thing => found.push(format!(
                "{}: {thing:?}, {other:?} in the copy",
                name.display()
            )),
            Some(Thing::File { .. }) => {
                let bytes = |root: &Path| std::fs::read(root.join(name)).expect("A readable file");
                let (source, copy) = (bytes(source), bytes(copy));
                if source != copy {
                    let at = source
                        .iter()
                        .zip(&copy)
                        .position(|(left, right)| left != right);
                    let count = source
                        .iter()
                        .zip(&copy)
                        .filter(|(left, right)| left != right)
                        .count();
                    found.push(format!(
                        "{}: {count} of {} bytes differ, the first at {at:?}",
                        name.display(),
                        source.len()
                    ));
                }
            }
            Some(_) => {}
        }
    }
    found
}

/// Where the entries say something else than what the stage holds.
fn entry_differences(entries: &[Entry], stage: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in entries {
        let Kind::File { size, crc32c, .. } = &entry.kind else {
            continue;
        };
        let bytes = std::fs::read(stage.join(&entry.path)).expect("A readable file");
        let (len, sum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        if (*size, *crc32c) != (len, sum) {
            found.push(format!(
                "{}: {size} bytes with checksum {crc32c:08x} in the entry, {len} with {sum:08x} in the stage",
                entry.path.display()
            ));
        }
    }
    found
}
