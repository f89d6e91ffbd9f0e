//! What the library costs one pwrite, small or of a page: without it, with it idle, with the C library idle, and capturing.
//!
//! Rule: the ways alternate process by process, and each figure is the median over processes, so that what the machine does
//! meanwhile hits all of them alike.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotmirror::capture_log::ring::Next;
use hotmirror::capture_log::{Control, Link, Mode, Segment};
use hotmirror_tests::{artifacts, scratch};

use crate::measure::median;
use crate::plan::Plan;

const LOG_BYTES: u64 = 64 << 20;
const GRACE_BOUND: Duration = Duration::from_secs(10);

const LENS: [u32; 2] = [512, 16 << 10];

/// Nanoseconds for each call.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    pub len: u32,
    pub without_ns: f64,
    pub idle_ns: f64,
    /// The median over the turns of idle against without, each pair measured side by side.
    pub idle_ratio: f64,
    pub c_api_idle_ns: f64,
    pub c_api_idle_ratio: f64,
    pub extents_ns: f64,
    pub payload_ns: f64,
}

impl fmt::Display for Calls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Calls {
            len,
            without_ns,
            idle_ns,
            idle_ratio,
            c_api_idle_ns,
            c_api_idle_ratio,
            extents_ns,
            payload_ns,
        } = self;
        write!(
            out,
            "pwrite of {len} bytes: {without_ns:.1} ns without the library, {idle_ns:.1} ns idle ({:+.2} %), \
             {c_api_idle_ns:.1} ns idle with the C library ({:+.2} %), \
             {extents_ns:.1} ns capturing extents, {payload_ns:.1} ns capturing payloads",
            (idle_ratio - 1.0) * 100.0,
            (c_api_idle_ratio - 1.0) * 100.0
        )
    }
}

pub fn measure(plan: &Plan, home: &Path) -> Vec<Calls> {
    let program = compile(home);
    LENS.iter()
        .map(|len| of_len(*len, &program, plan, home))
        .inspect(|calls| println!("{calls}"))
        .collect()
}

fn of_len(len: u32, program: &Path, plan: &Plan, home: &Path) -> Calls {
    let command = || command(program, home, len, plan);
    let (library, c_api) = (artifacts::library(), artifacts::c_library());
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..plan.pwrite_processes {
        times[0].push(uncaptured(command(), None));
        times[1].push(uncaptured(command(), Some(&library)));
        times[2].push(uncaptured(command(), Some(&c_api)));
        times[3].push(captured(command(), home, Mode::Extents));
        times[4].push(captured(command(), home, Mode::Payload));
    }
    let ratio_to_none = |idle: &[f64]| {
        let pairs = idle.iter().zip(&times[0]);
        median(pairs.map(|(idle, without)| idle / without))
    };
    Calls {
        len,
        without_ns: median(times[0].iter().copied()),
        idle_ns: median(times[1].iter().copied()),
        idle_ratio: ratio_to_none(&times[1]),
        c_api_idle_ns: median(times[2].iter().copied()),
        c_api_idle_ratio: ratio_to_none(&times[2]),
        extents_ns: median(times[3].iter().copied()),
        payload_ns: median(times[4].iter().copied()),
    }
}

fn compile(home: &Path) -> std::path::PathBuf {
    let source = artifacts::workspace().join("tests/bench/pwrite_loop.c");
    let program = home.join("pwrite_loop");
    let status = Command::new("cc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "Cannot compile {}",
        source.display()
    );
    program
}

fn command(program: &Path, home: &Path, len: u32, plan: &Plan) -> Command {
    let mut command = Command::new(program);
    command
        .arg(home.join("pwrite_file"))
        .arg(len.to_string())
        .arg(plan.pwrite_rounds.to_string());
    command
}

fn preload(command: &mut Command, library: &Path, runtime_dir: &Path) {
    command
        .env("LD_PRELOAD", library)
        .env("HOTMIRROR_PROCESS", "pwrite_loop")
        .env("HOTMIRROR_RUNTIME_DIR", runtime_dir);
}

fn number(text: &str) -> f64 {
    text.trim()
        .parse()
        .unwrap_or_else(|e| panic!("pwrite_loop printed {text:?}: {e}"))
}

fn uncaptured(mut command: Command, library: Option<&Path>) -> f64 {
    let runtime_dir = scratch::runtime_dir();
    if let Some(library) = library {
        preload(&mut command, library, runtime_dir.path());
    }
    let output = command.output().expect("pwrite_loop can be run");
    number(&String::from_utf8_lossy(&output.stdout))
}

fn captured(mut command: Command, home: &Path, mode: Mode) -> f64 {
    let runtime_dir = scratch::runtime_dir();
    preload(&mut command, &artifacts::library(), runtime_dir.path());
    let mut child = command
        .arg("wait")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("pwrite_loop can be run");
    let device = std::fs::metadata(home).expect("The directory").dev();
    let mut lines = BufReader::new(child.stdout.take().expect("Its output")).lines();
    assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("ready"));
    let nanoseconds = capture(&mut child, runtime_dir.path(), device, mode, || {
        number(&lines.next().and_then(Result::ok).unwrap_or_default())
    });
    let _ = child.wait();
    nanoseconds
}

/// Captures in `mode` while the child is told to go on, draining the log as a session does.
fn capture(
    child: &mut Child,
    dir: &Path,
    device: u64,
    mode: Mode,
    result: impl FnOnce() -> f64,
) -> f64 {
    let session = 1;
    let link = Link::open(dir, child.id()).expect("The library in pwrite_loop");
    let segment = Segment::create(dir, &link, session, LOG_BYTES, &[device]).expect("A segment");
    link.announce(
        segment
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .expect("A name"),
    );
    link.switch(Control::IDLE, Control::new(session, mode))
        .expect("Capture on");
    link.grace(true, GRACE_BOUND).expect("A grace period");
    let done = AtomicBool::new(false);
    let nanoseconds = std::thread::scope(|scope| {
        scope.spawn(|| drain(&segment, &done));
        let stdin = child.stdin.as_mut().expect("Its input");
        stdin.write_all(b"go\n").expect("The word to go");
        let nanoseconds = result();
        done.store(true, Ordering::Relaxed);
        nanoseconds
    });
    assert!(
        link.switch_off(session),
        "Capture went off while it was measured"
    );
    nanoseconds
}

/// Takes records until the loop is done and the log is empty.
fn drain(segment: &Segment, done: &AtomicBool) {
    let mut reader = segment.reader();
    let mut body = Vec::new();
    loop {
        match reader.next(&mut body).0 {
            Next::Taken(_) => {}
            _ if done.load(Ordering::Relaxed) => return,
            _ => std::thread::yield_now(),
        }
    }
}
