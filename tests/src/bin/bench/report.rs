//! docs/benchmarks.md: the figures, the machine that they were taken on, and how.
//!
//! Rule: each figure stands beside the bound that it is held to, met or not.

use std::fmt::Write;
use std::process::Command;

use crate::bounds::{self, LOG_MB};
use crate::many::{self, Many};
use crate::measure::{median, percentile};
use crate::plan::{Load, Plan};
use crate::pwrite::Calls;
use crate::rate::{OfMode, Rate};
use crate::reflink::Reflink;
use crate::rounds::{Ground, Sample};
use crate::stalls::Stalls;
use crate::ways::Way;

pub struct Results {
    pub calls: Vec<Calls>,
    pub grounds: Vec<Ground>,
    pub held_ms: Vec<f64>,
    pub stalls: Vec<Stalls>,
    pub rate: Rate,
    pub many: Vec<Many>,
    pub reflinks: Vec<Reflink>,
}

type Figure = fn(&Sample) -> Option<f64>;

/// Of a backup, in order, as the table has them.
pub const PHASES: [&str; 5] = ["scan", "base copy", "payload", "cut", "finish"];

pub fn write(plan: &Plan, results: &Results, pictures: &[(String, String)]) -> String {
    let mut text = String::new();
    let out = &mut text;
    heading(out, plan, results);
    bounds::write(out, results);
    out.push_str(&backups(&results.grounds));
    plots(out, pictures);
    pwrites(out, &results.calls);
    held(out, &results.held_ms);
    stalls(out, &results.stalls);
    rate(out, &results.rate);
    many_tables(out, &results.many);
    reflinks(out, &results.reflinks);
    every_sample(out, &results.grounds);
    text
}

/// First line of what a shell command prints.
fn line(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok()
        .and_then(|text| text.lines().next().map(String::from))
        .unwrap_or_else(|| "unknown".into())
}

/// What backups cost, a table for each server and load.
pub fn backups(grounds: &[Ground]) -> String {
    let mut text = String::new();
    for ground in grounds {
        for (load, samples) in &ground.loads {
            under_load(&mut text, ground, load, samples);
        }
    }
    text
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("A string takes everything");
    out.push('\n');
}

macro_rules! put {
    ($out:expr, $($text:tt)*) => { put($out, format_args!($($text)*)) };
}

fn heading(out: &mut String, plan: &Plan, results: &Results) {
    put!(out, "# Benchmarks\n");
    put!(
        out,
        "Written by `scripts/bench`; every run replaces the page.\n"
    );
    put!(out, "- Date: {}", line("date -u +%F"));
    put!(
        out,
        "- Machine: {} × {}, {}, {}, Linux {}",
        line("nproc"),
        line("sed -n 's/^model name.*: //p' /proc/cpuinfo"),
        line("awk '/MemTotal/ { printf \"%.0f GB\", $2 / 1e6 }' /proc/meminfo"),
        line("stat -f -c %T \"${TMPDIR:-/tmp}\""),
        line("uname -r")
    );
    let servers = results.grounds.iter().map(|ground| ground.version.as_str());
    put!(out, "- Servers: {}", servers.collect::<Vec<_>>().join(", "));
    put!(
        out,
        "- Peers: {}; CLONE of the MySQL server",
        line("mariadb-backup --version 2>&1")
    );
    put!(
        out,
        "- Load: sysbench, {} tables × {} rows, sync_binlog=1, innodb_flush_log_at_trx_commit=1, buffer pool 2 GiB, \
         redo log 512 MiB, row binlog; the I/O settings are the servers' own; hotmirror with --binlogs=rotate, since its peers take no binlog",
        plan.tables,
        plan.rows
    );
    put!(
        out,
        "- Rounds: {} of each way, in turns on one server with the library loaded; medians\n",
        plan.rounds
    );
}

fn under_load(out: &mut String, ground: &Ground, load: &Load, samples: &[Sample]) {
    let Load { script, threads } = load;
    put!(out, "## {}: {script}, {threads} threads\n", ground.server);
    let names = ground.ways.map(Way::name);
    put!(out, "| | {} | floor |", names.join(" | "));
    put!(out, "|---|---|---|---|---|---|");
    let mut row = |name: &str, digits: usize, figure: Figure, floor: Option<f64>| {
        let cells = ground.ways.map(|way| median_of(samples, way, figure));
        let mut cells = cells.to_vec();
        cells.push(floor);
        let cells: Vec<String> = cells
            .into_iter()
            .map(|cell| or_dash(cell, digits))
            .collect();
        put!(out, "| {name} | {} |", cells.join(" | "));
    };
    row(
        "seconds",
        1,
        |s| Some(s.seconds),
        floor_seconds(ground, samples),
    );
    row("seconds of prepare", 1, |s| s.prepare_seconds, None);
    row(
        "GB",
        2,
        |s| (s.gb > 0.0).then_some(s.gb),
        median_of(samples, Way::Hotmirror, |s| Some(s.gb)),
    );
    row(
        "undisturbed transactions/s",
        0,
        |s| Some(s.cost.undisturbed_tps),
        None,
    );
    row(
        "throughput meanwhile, % of undisturbed",
        0,
        |s| Some(s.cost.share * 100.0),
        None,
    );
    row(
        "throughput-seconds lost",
        2,
        |s| Some(s.cost.lost_seconds),
        None,
    );
    row("throughput-seconds lost per GB", 2, lost_per_gb, None);
    row(
        "99th percentile meanwhile, ms",
        1,
        |s| Some(s.cost.p99_ms),
        None,
    );
    row(
        "99th percentile undisturbed, ms",
        1,
        |s| Some(s.cost.undisturbed_p99_ms),
        None,
    );
    row("commits held, ms", 1, |s| s.lock_ms, None);
    row("peak memory of the tool, MB", 0, |s| s.peak_mb, None);
    row(
        "dirty pages of the machine at most, MB",
        0,
        |s| Some(s.cost.dirty_max_mb),
        None,
    );
    row(
        "server's files in the page cache before, MB",
        0,
        |s| Some(s.cached_mb.0),
        None,
    );
    row("… and after, MB", 0, |s| Some(s.cached_mb.1), None);
    row(
        "backup's files in the page cache, MB",
        0,
        |s| Some(s.backup_cached_mb),
        None,
    );
    put!(
        out,
        "\nFloor: the same number of bytes at the speed of a plain copy of the files of the stopped server: \
         `cp -a` {:.2} s/GB, direct I/O {:.2} s/GB; both with the page cache as the server left it. Bare copy: the tables alone, one after the other by one `dd`, past the page cache but for what is in it: \
         about what copying costs the server on this disk, however it is done.\n",
        ground.floor.cp_s_per_gb,
        ground.floor.direct_s_per_gb
    );
}

pub fn lost_per_gb(sample: &Sample) -> Option<f64> {
    (sample.gb > 0.0).then(|| sample.cost.lost_seconds / sample.gb)
}

pub fn floor_seconds(ground: &Ground, samples: &[Sample]) -> Option<f64> {
    median_of(samples, Way::Hotmirror, |s| Some(s.gb)).map(|gb| gb * ground.floor.s_per_gb())
}

pub fn median_of(samples: &[Sample], way: Way, figure: Figure) -> Option<f64> {
    let of_way = samples.iter().filter(|sample| sample.way == way);
    let values: Vec<f64> = of_way.filter_map(figure).collect();
    (!values.is_empty()).then(|| median(values))
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

fn plots(out: &mut String, pictures: &[(String, String)]) {
    put!(out, "## Throughput over time\n");
    put!(
        out,
        "Of each tool the round with the median loss. The backup runs in the shaded time; its phases begin at the lines.\n"
    );
    for (title, name) in pictures {
        put!(out, "![{title}](plots/{name})\n");
    }
}

fn pwrites(out: &mut String, calls: &[Calls]) {
    put!(out, "## One pwrite\n");
    put!(
        out,
        "Nanoseconds of a call that stays in the page cache; without and with the library.\n"
    );
    put!(
        out,
        "| bytes | not loaded | idle | idle, C library | capturing extents | capturing payloads |"
    );
    put!(out, "|---|---|---|---|---|---|");
    for call in calls {
        put!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            call.len,
            call.without_ns,
            call.idle_ns,
            call.c_api_idle_ns,
            call.extents_ns,
            call.payload_ns
        );
    }
    put!(out, "");
    put!(
        out,
        "What an idle library adds is less than processes differ among each other. So it is measured in one process, too: short rounds by the pwrite that programs get and by \
         libc's own in turn. And by callgrind: the instructions of one call, without the kernel's.\n"
    );
    put!(
        out,
        "| bytes | libc's own, ns | added with no library, ns | added idle, ns | added idle, C library, ns | instructions: not loaded | idle | idle, C library | extents | payloads |"
    );
    put!(out, "|---|---|---|---|---|---|---|---|---|---|");
    for Calls {
        len,
        added,
        instructions,
        ..
    } in calls
    {
        put!(
            out,
            "| {len} | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            added.own_ns,
            added.without_ns,
            added.idle_ns,
            added.c_api_idle_ns,
            instructions.without,
            instructions.idle,
            instructions.c_api_idle,
            instructions.extents,
            instructions.payload
        );
    }
    put!(out, "");
}

fn held(out: &mut String, held_ms: &[f64]) {
    put!(out, "## How long commits are held\n");
    put!(
        out,
        "{} backups in a row of a small MariaDB under load: {:.1} ms in the median, {:.1} ms at the 99th percentile.\n",
        held_ms.len(),
        median(held_ms.iter().copied()),
        percentile(held_ms.iter().copied(), 99)
    );
}

fn stalls(out: &mut String, stalls: &[Stalls]) {
    put!(out, "## How long a call is held up\n");
    put!(
        out,
        "The library's own time in each call that changes a file or fetches completed writes, by meters on both sides of it, while backups run in a row under \
         oltp_write_only with 16 threads. A thread that the scheduler takes the processor away from inside of the library's part is counted apart; a wait for one of \
         the library's locks is not.\n"
    );
    put!(
        out,
        "| server | backups | calls | median, µs | 99.99th percentile, µs | longest, µs | above 1 ms | preempted calls | longest with these, µs |"
    );
    put!(out, "|---|---|---|---|---|---|---|---|---|");
    for of in stalls {
        put!(
            out,
            "| {} | {} | {} | {:.1} | {:.0} | {:.0} | {} | {} | {:.0} |",
            of.server,
            of.backups,
            of.calls,
            of.median_us,
            of.p9999_us,
            of.max_us,
            of.above_bound,
            of.preempted,
            of.max_preempted_us
        );
    }
    put!(out, "");
}

fn rate(out: &mut String, rate: &Rate) {
    put!(out, "## Small writes per second\n");
    put!(
        out,
        "A program writes {} bytes at a time, at a rate that is raised until the session is lost or the program can't go faster; {LOG_MB:.0} MB of capture log.\n",
        rate.len
    );
    put!(out, "| mode | held, writes/s | lost at, writes/s |");
    put!(out, "|---|---|---|");
    for (mode, OfMode { held, lost_at }) in [("extents", rate.extents), ("payload", rate.payload)] {
        let lost = match lost_at {
            Some(lost_at) => format!("{lost_at:.0}"),
            None => format!("not lost at {held:.0}, the most that the program makes here"),
        };
        put!(out, "| {mode} | {held:.0} | {lost} |");
    }
    put!(out, "");
}

fn many_tables(out: &mut String, many: &[Many]) {
    put!(out, "## Many tables\n");
    let kb_per_table = match many {
        [.., less, most] => Some(many::kb_per_table(less, most)),
        _ => None,
    };
    put!(
        out,
        "Memory is the program's at its peak, {LOG_MB:.0} MB of capture log included; {} KB more for each table. Phases are in seconds. The cut's is from the end of the payload phase \
         until the cut is settled, which takes a scan.\n",
        or_dash(kb_per_table, 2)
    );
    put!(
        out,
        "| tables | files | GB | seconds | ms per file | {} | commits held, ms | memory, MB |",
        PHASES.join(" | ")
    );
    put!(
        out,
        "|---|---|---|---|---|{}---|---|",
        "---|".repeat(PHASES.len())
    );
    for of in many {
        let phases = PHASES.map(|name| format!("{:.2}", of.phase(name)));
        put!(
            out,
            "| {} | {} | {:.2} | {:.1} | {:.3} | {} | {:.1} | {:.0} |",
            of.tables,
            of.files,
            of.gb,
            of.peak.seconds,
            of.ms_per_file(of.peak.seconds),
            phases.join(" | "),
            of.lock_ms,
            of.peak.mb
        );
    }
    put!(out, "");
}

fn reflinks(out: &mut String, reflinks: &[Reflink]) {
    if reflinks.is_empty() {
        return;
    }
    put!(out, "## Reflinks\n");
    put!(
        out,
        "{} backups of {:.2} GB on XFS, on a loop device, beside the server's files, which are on the disk: base copy {:.2} s in the median, that is {:.2} s for 10 GB. \
         Checksums are taken of what is read back at the end: {:.2} s.\n",
        reflinks.len(),
        median(reflinks.iter().map(|of| of.gb)),
        median(reflinks.iter().map(|of| of.base_copy_s)),
        median(reflinks.iter().map(Reflink::base_copy_s_per_10_gb)),
        median(reflinks.iter().map(|of| of.finish_s))
    );
}

fn every_sample(out: &mut String, grounds: &[Ground]) {
    put!(out, "## Every round\n");
    put!(
        out,
        "| server, load | tool | seconds | GB | undisturbed tps | meanwhile, % | lost, s | p99, ms | held, ms | peak, MB |"
    );
    put!(out, "|---|---|---|---|---|---|---|---|---|---|");
    for ground in grounds {
        for (load, samples) in &ground.loads {
            for sample in samples {
                put!(
                    out,
                    "| {}, {} {} | {} | {:.1} | {:.2} | {:.0} | {:.0} | {:.2} | {:.1} | {} | {} |",
                    ground.server,
                    load.script,
                    load.threads,
                    sample.way.name(),
                    sample.seconds,
                    sample.gb,
                    sample.cost.undisturbed_tps,
                    sample.cost.share * 100.0,
                    sample.cost.lost_seconds,
                    sample.cost.p99_ms,
                    or_dash(sample.lock_ms, 1),
                    or_dash(sample.peak_mb, 0)
                );
            }
        }
    }
}
