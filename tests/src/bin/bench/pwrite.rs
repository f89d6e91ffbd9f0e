//! What the library costs one pwrite, small or of a page: without it, with it idle, with the C library idle, and capturing.
//!
//! Rule: the ways alternate process by process, and each figure is the median over processes, so that what the machine does
//! meanwhile hits all of them alike. What an idle library adds is less than processes differ among each other: it is measured inside of one process, the call that
//! programs get and libc's own in turn. Instructions are those of the process, by callgrind; the kernel's don't count.

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

use crate::measure::{compile, median};
use crate::plan::Plan;

const LOG_BYTES: u64 = 64 << 20;
const PAUSE: Duration = Duration::from_micros(100);
const GRACE_BOUND: Duration = Duration::from_secs(10);

/// For each other process.
const AGAINST_PROCESSES: u32 = 3;

const LENS: [u32; 2] = [512, 16 << 10];

/// Nanoseconds for each call.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    pub len: u32,
    pub without_ns: f64,
    pub idle_ns: f64,
    pub c_api_idle_ns: f64,
    pub extents_ns: f64,
    pub payload_ns: f64,
    pub added: Added,
    pub instructions: Instructions,
}

/// What the pwrite that programs get takes more than libc's own in the same process.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    /// Of libc's own.
    pub own_ns: f64,
    /// Without a library both are the same function: what the measure itself is off by.
    pub without_ns: f64,
    pub idle_ns: f64,
    pub c_api_idle_ns: f64,
}

/// Instructions of one call.
#[derive(Clone, Copy, Debug)]
pub struct Instructions {
    pub without: f64,
    pub idle: f64,
    pub c_api_idle: f64,
    pub extents: f64,
    pub payload: f64,
}

impl Added {
    pub fn percent(&self, added_ns: f64) -> f64 {
        added_ns / self.own_ns * 100.0
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (added, instructions) = (&self.added, &self.instructions);
        writeln!(
            out,
            "pwrite of {} bytes: {:.1} ns without the library, {:.1} ns idle, {:.1} ns idle with the C library, \
             {:.1} ns capturing extents, {:.1} ns capturing payloads",
            self.len,
            self.without_ns,
            self.idle_ns,
            self.c_api_idle_ns,
            self.extents_ns,
            self.payload_ns
        )?;
        writeln!(
            out,
            "  in one process, more than libc's own {:.1} ns: {:+.2} ns idle ({:+.2} %), {:+.2} ns idle with the C library ({:+.2} %); \
             {:+.2} ns without a library",
            added.own_ns,
            added.idle_ns,
            added.percent(added.idle_ns),
            added.c_api_idle_ns,
            added.percent(added.c_api_idle_ns),
            added.without_ns
        )?;
        write!(
            out,
            "  instructions: {:.0} without the library, {:.0} idle, {:.0} idle with the C library, {:.0} capturing extents, {:.0} capturing payloads",
            instructions.without,
            instructions.idle,
            instructions.c_api_idle,
            instructions.extents,
            instructions.payload
        )
    }
}

pub fn measure(plan: &Plan, home: &Path) -> Vec<Calls> {
    let program = compile("pwrite_loop", "pwrite_loop", &[], home);
    LENS.iter()
        .map(|len| of_len(*len, &program, plan, home))
        .inspect(|calls| println!("{calls}"))
        .collect()
}

fn of_len(len: u32, program: &Path, plan: &Plan, home: &Path) -> Calls {
    let command = || command(Command::new(program), home, len, plan.pwrite_rounds);
    let (library, c_api) = (artifacts::library(), artifacts::c_library());
    let ways = [None, Some(library.as_path()), Some(c_api.as_path())];
    let mut times: [Vec<f64>; 5] = Default::default();
    let mut added: [Vec<(f64, f64)>; 3] = Default::default();
    for _ in 0..plan.pwrite_processes {
        for (way, library) in ways.into_iter().enumerate() {
            times[way].push(uncaptured(command(), library).0);
            // Processes differ in where everything lies, by some nanoseconds.
            for _ in 0..AGAINST_PROCESSES {
                let mut against = command();
                against.arg("against");
                added[way].push(uncaptured(against, library));
            }
        }
        times[3].push(captured(command(), home, Mode::Extents));
        times[4].push(captured(command(), home, Mode::Payload));
    }
    let times = times.map(median);
    let own = added.iter().flatten().map(|(_, own)| *own);
    let own_ns = median(own);
    let added = added.map(|pairs| median(pairs.into_iter().map(|(more, _)| more)));
    Calls {
        len,
        without_ns: times[0],
        idle_ns: times[1],
        c_api_idle_ns: times[2],
        extents_ns: times[3],
        payload_ns: times[4],
        added: Added {
            own_ns,
            without_ns: added[0],
            idle_ns: added[1],
            c_api_idle_ns: added[2],
        },
        instructions: instructions(len, program, home),
    }
}

/// Counts the instructions of a run with one round and of one with more: what they differ by is that of the calls.
fn instructions(len: u32, program: &Path, home: &Path) -> Instructions {
    let counted = |run: &dyn Fn(Command) -> f64| {
        let count = |rounds: u32| {
            let out = tempfile::NamedTempFile::new_in(home).expect("A file");
            let mut valgrind = Command::new("valgrind");
            valgrind
                .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
                .arg(format!("--log-file={}", out.path().display()))
                .arg(program);
            run(command(valgrind, home, len, rounds));
            collected(&std::fs::read_to_string(out.path()).expect("What valgrind says"))
        };
        (count(3) - count(1)) / 2.0
    };
    let (library, c_api) = (artifacts::library(), artifacts::c_library());
    let calls = uncaptured(command(Command::new(program), home, len, 1), None).1;
    Instructions {
        without: counted(&|command| uncaptured(command, None).0) / calls,
        idle: counted(&|command| uncaptured(command, Some(&library)).0) / calls,
        c_api_idle: counted(&|command| uncaptured(command, Some(&c_api)).0) / calls,
        extents: counted(&|command| captured(command, home, Mode::Extents)) / calls,
        payload: counted(&|command| captured(command, home, Mode::Payload)) / calls,
    }
}

/// From the line `Collected : COUNT` of callgrind.
fn collected(said: &str) -> f64 {
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = count.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("callgrind said: {said}"))
}

fn command(mut command: Command, home: &Path, len: u32, rounds: u32) -> Command {
    command
        .arg(home.join("pwrite_file"))
        .arg(len.to_string())
        .arg(rounds.to_string());
    command
}

fn preload(command: &mut Command, library: &Path, runtime_dir: &Path) {
    command
        .env("LD_PRELOAD", library)
        .env("HOTMIRROR_PROCESS", "pwrite_loop")
        .env("HOTMIRROR_RUNTIME_DIR", runtime_dir);
}

fn numbers(text: &str) -> (f64, f64) {
    let parsed = text
        .trim()
        .split_once(' ')
        .map(|(left, right)| (left.parse(), right.parse()));
    match parsed {
        Some((Ok(left), Ok(right))) => (left, right),
        _ => panic!("pwrite_loop printed {text:?}"),
    }
}

/// Runs it to its end; gives the two numbers that it prints.
fn uncaptured(mut command: Command, library: Option<&Path>) -> (f64, f64) {
    let runtime_dir = scratch::runtime_dir();
    if let Some(library) = library {
        preload(&mut command, library, runtime_dir.path());
    }
    let output = command.output().expect("pwrite_loop can be run");
    numbers(&String::from_utf8_lossy(&output.stdout))
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
        numbers(&lines.next().and_then(Result::ok).unwrap_or_default()).0
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
            // As the session's reader does.
            _ => std::thread::sleep(PAUSE),
        }
    }
}
