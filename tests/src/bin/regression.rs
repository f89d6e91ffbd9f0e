//! Sessions in a loop on whatever servers have the library, while somebody else's tests run on them: `hotmirror-regression RUNTIME_DIR SCRATCH_DIR`.
//!
//! Rule: it speaks to no server, so that no test sees it, and every session ends with a golden cut. A session may fail, since tests stop their servers and write to
//! their files themselves; a difference between source and stage is told with its path, and makes the exit code 1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotmirror::capture_log::Link;
use hotmirror::session::{
    Event, GoldenReport, Monitor, Root, Session, SessionError, SessionOptions, Throttle,
};
use hotmirror_tests::random::Random;

/// Between rounds: servers come without notice.
const PAUSE: Duration = Duration::from_millis(100);

struct Quiet;

impl Monitor for Quiet {
    fn event(&self, _: &Event) {}
}

#[derive(Default)]
struct Tally {
    golden: u64,
    files: u64,
    bytes: u64,
    failed: BTreeMap<String, u64>,
    differences: Vec<String>,
}

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(runtime_dir), Some(scratch)) = (arguments.next(), arguments.next()) else {
        eprintln!(
            "Usage: hotmirror-regression RUNTIME_DIR SCRATCH_DIR; ends when its standard input does"
        );
        return 2.into();
    };
    let ended = Arc::new(AtomicBool::new(false));
    let listener = ended.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        listener.store(true, Ordering::Relaxed);
    });
    let mut tally = Tally::default();
    let mut random = Random::new(u64::from(std::process::id()));
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(PAUSE);
        for pid in servers(&runtime_dir) {
            tally.add(
                pid,
                golden_session(&runtime_dir, &scratch, pid, random.word()),
            );
        }
    }
    tally.tell();
    u8::from(!tally.differences.is_empty()).into()
}

/// Processes with a rendezvous that still live.
fn servers(runtime_dir: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(runtime_dir)
        .into_iter()
        .flatten()
        .flatten();
    let pid = |name: std::ffi::OsString| name.to_str()?.strip_prefix("hotmirror.")?.parse().ok();
    let pids = names.filter_map(|entry| pid(entry.file_name()));
    pids.filter(|pid: &u32| Path::new("/proc").join(pid.to_string()).exists())
        .collect()
}

fn golden_session(
    runtime_dir: &Path,
    scratch: &Path,
    pid: u32,
    number: u64,
) -> Result<GoldenReport, SessionError> {
    let gone = |_| SessionError::ServerGone { pid };
    // A server works in its data directory; one that has been killed has none.
    let data = std::fs::read_link(format!("/proc/{pid}/cwd")).map_err(gone)?;
    // Made by a server that is still starting, it is no session's yet.
    Link::open(runtime_dir, pid)?;
    let target = scratch.join(format!("stage-{pid}"));
    let mut session = Session::attach(SessionOptions {
        session: number >> 8 | 1,
        pid,
        runtime_dir: runtime_dir.into(),
        roots: vec![Root {
            source: data,
            place: "data".into(),
        }],
        target,
        exclude: Arc::new(|_| false),
        parallel: 2,
        throttle: Arc::new(Throttle::new(0)),
        log_size: 64 << 20,
        max_passes: 20,
        grace_bound: Duration::from_secs(10),
        monitor: Arc::new(Quiet),
    })?;
    session.base_copy()?;
    session.converge()?;
    session.go_live()?;
    session.golden_cut().map(|(_, report)| report)
}

impl Tally {
    fn add(&mut self, pid: u32, outcome: Result<GoldenReport, SessionError>) {
        match outcome {
            Ok(report) => {
                println!("server {pid}: {} files are equal", report.files);
                self.golden += 1;
                self.files += report.files;
                self.bytes += report.bytes;
                for difference in report.differences {
                    println!("server {pid}: {difference}");
                    self.differences.push(difference);
                }
            }
            Err(error) => {
                let kind = format!("{error:?}");
                let kind = kind
                    .split([' ', '(', '{'])
                    .next()
                    .unwrap_or_default()
                    .to_string();
                if !matches!(error, SessionError::ServerGone { .. }) {
                    println!("server {pid}: {error}");
                }
                *self.failed.entry(kind).or_default() += 1;
            }
        }
    }

    fn tell(&self) {
        let Tally {
            golden,
            files,
            bytes,
            failed,
            differences,
        } = self;
        println!(
            "{golden} golden cuts of {files} files and {bytes} bytes, {} differences",
            differences.len()
        );
        for (kind, count) in failed {
            println!("{count} sessions ended with {kind}");
        }
    }
}
