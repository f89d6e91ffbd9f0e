//! What the server does meanwhile: its commits, and the memory that waits to be written out, several times a second.
//!
//! Rule: a figure belongs to the moment at which the answer came, and what lies between two of them is interpolated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hotmirror_tests::server::Server;
use mysql::prelude::Queryable;

const INTERVAL: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug)]
pub struct Tick {
    pub at: Instant,
    /// Since the server started.
    pub commits: f64,
    /// Pages of files, of the whole machine, that are dirty or being written.
    pub dirty_mb: f64,
}

/// A running meter; ends when dropped.
pub struct Meter {
    ticks: Arc<Mutex<Vec<Tick>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    pub fn start(server: &Server) -> Meter {
        let (ticks, done): (Arc<Mutex<Vec<Tick>>>, Arc<AtomicBool>) = Default::default();
        let (kept, ended) = (ticks.clone(), done.clone());
        let mut conn = server.conn();
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let row: Option<(String, f64)> = conn
                    .query_first("SHOW GLOBAL STATUS LIKE 'Com_commit'")
                    .expect("The server's status");
                let tick = Tick {
                    at: Instant::now(),
                    commits: row.expect("A counter of commits").1,
                    dirty_mb: dirty_mb(),
                };
                kept.lock().expect("Ticks").push(tick);
                std::thread::sleep(INTERVAL);
            }
        });
        Meter {
            ticks,
            done,
            thread: Some(thread),
        }
    }

    pub fn ticks(&self) -> Vec<Tick> {
        self.ticks.lock().expect("Ticks").clone()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn dirty_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("The kernel's account of memory");
    let waiting = text
        .lines()
        .filter(|line| line.starts_with("Dirty:") || line.starts_with("Writeback:"));
    let kilobytes = waiting.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.sum::<f64>() * 1024.0 / 1e6
}

/// Commits between two moments.
pub fn commits(ticks: &[Tick], from: Instant, to: Instant) -> f64 {
    commits_at(ticks, to) - commits_at(ticks, from)
}

fn commits_at(ticks: &[Tick], at: Instant) -> f64 {
    let next = ticks.partition_point(|tick| tick.at < at);
    match (next.checked_sub(1).map(|last| ticks[last]), ticks.get(next)) {
        (Some(last), Some(next)) => {
            let share = (at - last.at).as_secs_f64() / (next.at - last.at).as_secs_f64();
            last.commits + share * (next.commits - last.commits)
        }
        (last, next) => last.or(next.copied()).map_or(0.0, |tick| tick.commits),
    }
}
