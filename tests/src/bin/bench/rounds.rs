//! The rounds: no backup, the program, its peer, in turns, while the load runs through.
//!
//! Rule: a backup's cost is the throughput that is missing from when it starts until the server has recovered from it,
//! against the calm seconds before and after that same backup.

use std::path::Path;
use std::time::{Duration, Instant};

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::server::{Server, ServerOptions};

use crate::floor::{self, Floor};
use crate::measure::{cached_mb, median, size_gb};
use crate::meter::{self, Meter, Tick};
use crate::plan::{Load, Plan};
use crate::sysbench::{self, Second, Sysbench};
use crate::ways::{self, Way};

/// All that was measured on one server.
pub struct Ground {
    pub server: &'static str,
    pub version: String,
    pub ways: [Way; 4],
    pub loads: Vec<(Load, Vec<Sample>)>,
    pub floor: Floor,
}

/// One backup, or a stretch of time without one.
#[derive(Clone, Debug)]
pub struct Sample {
    pub way: Way,
    pub seconds: f64,
    pub prepare_seconds: Option<f64>,
    pub gb: f64,
    pub lock_ms: Option<f64>,
    pub peak_mb: Option<f64>,
    pub cost: Cost,
    /// The server's files in the page cache, before and after.
    pub cached_mb: (f64, f64),
    /// Pages of the backup that are left in the page cache.
    pub backup_cached_mb: f64,
    pub course: Course,
}

/// Throughput over time, in seconds since the backup began.
#[derive(Clone, Debug)]
pub struct Course {
    pub tps: Vec<(f64, f64)>,
    /// The backup's phases, each with its begin.
    pub phases: Vec<(String, f64)>,
}

impl Course {
    /// From the first pass until everything is in the stage: what a copy of files that nobody writes has no need of.
    pub fn passes_seconds(&self) -> Option<f64> {
        let begin = |name: &str| {
            let mut phases = self.phases.iter();
            phases.find(|(phase, _)| phase == name).map(|(_, at)| *at)
        };
        Some(begin("finish")? - begin("passes")?)
    }
}

pub fn run(plan: &Plan, name: &'static str, home: &Path) -> Ground {
    let flavor = Flavor::named(name);
    let redo = match flavor.is_mariadb() {
        true => "--innodb-log-file-size=512M",
        false => "--innodb-redo-log-capacity=512M",
    };
    let server = ServerOptions::hooked()
        .flavor(&flavor)
        .option("--innodb-buffer-pool-size=2G")
        .option(redo)
        .start();
    let ways = Way::of(&server);
    ways.iter().for_each(|way| way.set_up(&server));
    println!("Loading {} tables of {} rows", plan.tables, plan.rows);
    sysbench::prepare(plan.tables, plan.rows, &server);
    let loads = plan.loads.iter();
    let loads = loads
        .map(|load| (*load, under_load(plan, *load, ways, &server, home)))
        .collect();
    Ground {
        server: name,
        version: server.value("SELECT VERSION()"),
        ways,
        loads,
        floor: floor::measure(server, plan.rounds, home),
    }
}

fn under_load(
    plan: &Plan,
    load: Load,
    ways: [Way; 4],
    server: &Server,
    home: &Path,
) -> Vec<Sample> {
    let mut sysbench = Sysbench::start(plan.tables, plan.rows, load, server);
    let meter = Meter::start(server);
    std::thread::sleep(plan.warm_up);
    let mut samples = Vec::new();
    for round in 1..=plan.rounds {
        for way in ways {
            let sample = measure(plan, way, server, &mut sysbench, &meter, home);
            println!(
                "{load:?}, round {round}, {}: {:.1} s, {:.2} GB, {:?}",
                way.name(),
                sample.seconds,
                sample.gb,
                sample.cost
            );
            samples.push(sample);
        }
    }
    samples
}

fn measure(
    plan: &Plan,
    way: Way,
    server: &Server,
    load: &mut Sysbench,
    meter: &Meter,
    home: &Path,
) -> Sample {
    let target = home.join("backup");
    let cached_before = cached_mb(server.data_dir());
    std::thread::sleep(plan.calm);
    let start = Instant::now();
    let done = way.back_up(server, &target, home);
    if way == Way::Nothing {
        std::thread::sleep(plan.calm);
    }
    let end = Instant::now();
    std::thread::sleep(plan.recovery + plan.calm);
    let span = Span {
        start,
        end,
        recovered: end + plan.recovery,
        calm: plan.calm,
    };
    let (lines, ticks) = (load.seconds(), meter.ticks());
    let cached_after = cached_mb(server.data_dir());
    let (mut gb, mut backup_cached_mb, mut prepare_seconds) = (0.0, 0.0, None);
    if way != Way::Nothing {
        gb = size_gb(&target);
        backup_cached_mb = cached_mb(&target);
        prepare_seconds = (way == Way::MariadbBackup).then(|| ways::prepare(&target, home));
        std::fs::remove_dir_all(&target).expect("The backup can be removed");
    }
    let since_start = |(name, at): (String, Instant)| (name, (at - start).as_secs_f64());
    Sample {
        way,
        seconds: (end - start).as_secs_f64(),
        prepare_seconds,
        gb,
        lock_ms: done.lock_ms,
        peak_mb: done.peak_mb,
        cost: span.cost(&lines, &ticks),
        cached_mb: (cached_before, cached_after),
        backup_cached_mb,
        course: Course {
            tps: span.course(&ticks),
            phases: done.phases.into_iter().map(since_start).collect(),
        },
    }
}

/// What a backup cost the load.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Throughput while it ran, as a share of the undisturbed one.
    pub share: f64,
    /// Seconds of undisturbed throughput that were lost to it.
    pub lost_seconds: f64,
    pub undisturbed_tps: f64,
    pub p99_ms: f64,
    pub undisturbed_p99_ms: f64,
    pub dirty_max_mb: f64,
}

/// From when until when a backup ran.
struct Span {
    start: Instant,
    end: Instant,
    /// When the server is taken to have recovered from it.
    recovered: Instant,
    calm: Duration,
}

impl Span {
    fn cost(&self, lines: &[Second], ticks: &[Tick]) -> Cost {
        let Span {
            start,
            end,
            recovered,
            calm,
        } = *self;
        let (before, after) = (start - calm, recovered + calm);
        let commits = |from, to| meter::commits(ticks, from, to);
        let undisturbed_tps =
            (commits(before, start) + commits(recovered, after)) / (calm.as_secs_f64() * 2.0);
        let worth = |from: Instant, to: Instant| commits(from, to) / undisturbed_tps;
        let p99_ms = |from: Instant, to: Instant| {
            let inside = lines.iter().filter(|line| line.at > from && line.at <= to);
            median(inside.map(|line| line.p99_ms))
        };
        let meanwhile = ticks
            .iter()
            .filter(|tick| tick.at >= start && tick.at <= recovered);
        Cost {
            share: worth(start, end) / (end - start).as_secs_f64(),
            lost_seconds: (recovered - start).as_secs_f64() - worth(start, recovered),
            undisturbed_tps,
            // A line tells of the second before it.
            p99_ms: p99_ms(start, end + Duration::from_secs(1)),
            undisturbed_p99_ms: p99_ms(before, start),
            dirty_max_mb: meanwhile.map(|tick| tick.dirty_mb).fold(0.0, f64::max),
        }
    }

    /// Throughput from the calm before until the calm after.
    fn course(&self, ticks: &[Tick]) -> Vec<(f64, f64)> {
        let (from, to) = (self.start - self.calm, self.recovered + self.calm);
        let pairs = ticks.windows(2);
        let inside = pairs.filter(|pair| pair[0].at >= from && pair[1].at <= to);
        inside
            .map(|pair| {
                let seconds = (pair[1].at - pair[0].at).as_secs_f64();
                let since = pair[1].at.max(self.start) - self.start;
                let until = self.start - pair[1].at.min(self.start);
                let at = since.as_secs_f64() - until.as_secs_f64() - seconds / 2.0;
                (at, (pair[1].commits - pair[0].commits) / seconds)
            })
            .collect()
    }
}
