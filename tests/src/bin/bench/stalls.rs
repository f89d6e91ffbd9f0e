//! How long the library holds up a call of a busy server: its own time in each of them, metered on both sides of it (tests/bench/stall_meter.c), while
//! backups run in a row.
//!
//! Rule: the server runs the library that is shipped. What the scheduler takes is counted apart, what the library waits for is not.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::server::{Server, ServerOptions};

use crate::measure::compile;
use crate::plan::{Load, Plan};
use crate::sysbench::{self, Sysbench};
use crate::ways;

const TABLES: u32 = 8;
const ROWS: u32 = 100_000;
const LOAD: Load = Load {
    script: "oltp_write_only",
    threads: 16,
};

const WORD: usize = 8;
const PARTS: u64 = 8;
const BUCKETS: usize = 64 * PARTS as usize;
/// In the meter's order.
const KINDS: [&str; 6] = [
    "write",
    "pwrite",
    "of several buffers",
    "of the size",
    "io_submit",
    "io_getevents",
];
const KINDS_MAX: usize = 16;
const SLOW_WORDS: usize = 12;
const SLOW_MAX: usize = 4096;
/// Slow calls that are told one by one.
const TOLD_MAX: usize = 12;

/// Where `struct figures` has them, in words.
const HISTOGRAM: usize = 8;
const OF_KINDS: usize = HISTOGRAM + BUCKETS;
const SLOW: usize = OF_KINDS + 2 * KINDS_MAX;
const WORDS: usize = SLOW + SLOW_WORDS * SLOW_MAX;

/// What the meters saw on one server.
#[derive(Clone, Debug)]
pub struct Stalls {
    pub server: &'static str,
    pub backups: u32,
    pub calls: u64,
    pub median_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
    /// Calls that took more than a millisecond, none of them preempted.
    pub above_bound: u64,
    pub preempted: u64,
    pub max_preempted_us: f64,
}

pub fn measure(plan: &Plan, home: &Path) -> Vec<Stalls> {
    let servers = plan.servers.iter();
    servers
        .map(|server| of_server(server, plan, home))
        .collect()
}

fn of_server(name: &'static str, plan: &Plan, home: &Path) -> Stalls {
    let figures = Figures::create(&home.join("stalls"));
    let library = |which: &str| {
        let options = ["-shared", "-fPIC", "-fexceptions", &format!("-D{which}")];
        compile("stall_meter", &format!("{which}.so"), &options, home)
    };
    let (outer, inner) = (library("OUTER"), library("INNER"));
    let server = ServerOptions::hooked()
        .flavor(&Flavor::named(name))
        .preload_around(&outer, &inner)
        .environment("HOTMIRROR_STALLS_FILE", &home.join("stalls"))
        .option("--innodb-buffer-pool-size=512M")
        .start();
    sysbench::prepare(TABLES, ROWS, &server);
    let mut load = Sysbench::start(TABLES, ROWS, LOAD, &server);
    let target = home.join("backup");
    for _ in 0..plan.metered_backups {
        back_up(&server, &figures, &target, home);
    }
    load.seconds();
    figures.stalls(name, plan.metered_backups)
}

fn back_up(server: &Server, figures: &Figures, target: &Path, home: &Path) {
    figures.record(true);
    ways::hotmirror(server, target, home, &[]);
    figures.record(false);
    std::fs::remove_dir_all(target).expect("The backup can be removed");
}

/// The file that the meters write to.
struct Figures(File);

impl Figures {
    fn create(path: &Path) -> Figures {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .expect("A file for the figures");
        file.set_len((WORDS * WORD) as u64).expect("Room for them");
        Figures(file)
    }

    fn record(&self, on: bool) {
        let word = u64::from(on).to_ne_bytes();
        self.0.write_all_at(&word, 0).expect("The meters' switch");
    }

    fn words(&self) -> Vec<u64> {
        let mut bytes = vec![0; WORDS * WORD];
        self.0.read_exact_at(&mut bytes, 0).expect("The figures");
        let words = bytes.chunks_exact(WORD);
        words
            .map(|word| u64::from_ne_bytes(word.try_into().expect("Eight bytes")))
            .collect()
    }

    fn stalls(&self, server: &'static str, backups: u32) -> Stalls {
        let words = self.words();
        let us = |ns: u64| ns as f64 / 1e3;
        let histogram = &words[HISTOGRAM..OF_KINDS];
        let stalls = Stalls {
            server,
            backups,
            calls: words[1],
            median_us: us(percentile(histogram, 0.5)),
            p9999_us: us(percentile(histogram, 0.9999)),
            max_us: us(words[5]),
            above_bound: words[3],
            preempted: words[2],
            max_preempted_us: us(words[6].max(words[5])),
        };
        println!("{stalls:?}, {} preempted calls above 1 ms", words[4]);
        for (name, of) in KINDS.iter().zip(words[OF_KINDS..SLOW].chunks_exact(2)) {
            println!("  {name}: {} calls, the longest {:.0} µs", of[0], us(of[1]));
        }
        tell_slow(&words);
        stalls
    }
}

/// Begin of the bucket in which that part of the calls ends.
fn percentile(histogram: &[u64], part: f64) -> u64 {
    let total: u64 = histogram.iter().sum();
    let wanted = (total as f64 * part) as u64;
    let mut seen = 0;
    let bucket = histogram.iter().position(|count| {
        seen += count;
        seen > wanted
    });
    let bucket = bucket.unwrap_or(0) as u64;
    match bucket.checked_sub(PARTS) {
        None => bucket,
        Some(above) => (PARTS + above % PARTS) << (above / PARTS),
    }
}

/// The longest calls that were not preempted, for whoever looks for the cause.
fn tell_slow(words: &[u64]) {
    let kept = (words[7] as usize).min(SLOW_MAX);
    let slow = words[SLOW..].chunks_exact(SLOW_WORDS).take(kept);
    let mut slow: Vec<&[u64]> = slow.filter(|call| call[1] == 0).collect();
    slow.sort_by_key(|call| std::cmp::Reverse(call[2]));
    for call in slow.into_iter().take(TOLD_MAX) {
        let &[
            kind,
            _,
            own,
            before,
            cpu,
            waits,
            _,
            faults,
            len,
            at,
            thread,
            ..,
        ] = call
        else {
            continue;
        };
        let at = UNIX_EPOCH + std::time::Duration::from_nanos(at);
        let ago = at.elapsed().unwrap_or_default().as_secs_f64();
        println!(
            "  slow: {} of {len}: {} µs, {} before the real call; {} µs of processor, {waits} waits, {faults} page faults; thread {thread}, {ago:.2} s ago",
            KINDS.get(kind as usize).unwrap_or(&"?"),
            own / 1000,
            before / 1000,
            cpu / 1000,
        );
    }
}
