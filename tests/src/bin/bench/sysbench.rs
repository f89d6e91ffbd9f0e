//! The load: sysbench, with one line of latency for each second.
//!
//! Rule: a line is stamped when it is read, so that it can be set beside the times of a backup.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use hotmirror_tests::server::Server;

use crate::plan::Load;

pub const DATABASE: &str = "sbtest";

/// The second that ended at `at`.
#[derive(Clone, Copy, Debug)]
pub struct Second {
    pub at: Instant,
    /// 99th percentile of the transactions' latency.
    pub p99_ms: f64,
}

/// A running load; killed when dropped.
pub struct Sysbench {
    child: Child,
    seconds: Arc<Mutex<Vec<Second>>>,
    reader: Option<JoinHandle<()>>,
}

fn command(script: &str, tables: u32, rows: u32, threads: u32, server: &Server) -> Command {
    let mut command = Command::new("sysbench");
    command.arg(script).args([
        format!("--tables={tables}"),
        format!("--table-size={rows}"),
        format!("--threads={threads}"),
        format!("--mysql-socket={}", server.socket().display()),
        "--mysql-user=root".into(),
        format!("--mysql-db={DATABASE}"),
    ]);
    command
}

/// Makes the tables, which are the same for all loads.
pub fn prepare(tables: u32, rows: u32, server: &Server) {
    server.execute(&[&format!("CREATE DATABASE {DATABASE}")]);
    let output = command("oltp_write_only", tables, rows, 4, server)
        .arg("prepare")
        .output()
        .expect("sysbench can be run");
    assert!(
        output.status.success(),
        "sysbench prepare failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // As long as the tables, and no way of backing up takes them.
    server.execute(&[
        "FLUSH BINARY LOGS",
        "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY",
    ]);
}

impl Sysbench {
    pub fn start(tables: u32, rows: u32, load: Load, server: &Server) -> Sysbench {
        let mut child = command(load.script, tables, rows, load.threads, server)
            .args([
                "--time=0",
                "--events=0",
                "--report-interval=1",
                "--percentile=99",
            ])
            .arg("run")
            .stdout(Stdio::piped())
            .spawn()
            .expect("sysbench can be run");
        let stdout = child.stdout.take().expect("sysbench's output");
        let seconds: Arc<Mutex<Vec<Second>>> = Arc::default();
        let kept = Arc::clone(&seconds);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(p99_ms) = p99_ms(&line) {
                    let at = Instant::now();
                    kept.lock().expect("Seconds").push(Second { at, p99_ms });
                }
            }
        });
        Sysbench {
            child,
            seconds,
            reader: Some(reader),
        }
    }

    pub fn seconds(&mut self) -> Vec<Second> {
        let running = self.child.try_wait().is_ok_and(|status| status.is_none());
        assert!(running, "sysbench ended before it was told to");
        self.seconds.lock().expect("Seconds").clone()
    }
}

impl Drop for Sysbench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().map(JoinHandle::join);
    }
}

/// `[ 12s ] thds: 4 tps: 2875.21 qps: … lat (ms,99%): 3.19 err/s: 0.00 …`
fn p99_ms(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("lat (ms,99%):")?;
    rest.trim_start().split(' ').next()?.parse().ok()
}
