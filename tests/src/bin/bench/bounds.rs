//! What the figures are held to, and whether they are within it.
//!
//! Rule: a bound that is a share of another figure takes that from the same run.

use crate::many::{Many, kb_per_table};
use crate::measure::{median, percentile};
use crate::plan::Load;
use crate::reflink::Reflink;
use crate::report::{PHASES, Results, floor_seconds, lost_per_gb, median_of};
use crate::rounds::{Ground, Sample};
use crate::ways::Way;

/// Size of the capture log unless it is told otherwise.
pub const LOG_MB: f64 = 64.0;

/// The bounds' table, row by row.
struct Bounds<'o>(&'o mut String);

impl Bounds<'_> {
    /// `measured` is held to at most `bound`; without either there is nothing to say.
    fn at_most(&mut self, what: &str, unit: &str, bound: Option<f64>, measured: Option<f64>) {
        let (Some(bound), Some(measured)) = (bound, measured) else {
            return;
        };
        self.row(what, unit, bound, measured, measured <= bound);
    }

    /// `measured` is held to at least `bound`.
    fn at_least(&mut self, what: &str, unit: &str, bound: f64, measured: f64) {
        let what = format!("{what}, at least");
        self.row(&what, unit, bound, measured, measured >= bound);
    }

    fn row(&mut self, what: &str, unit: &str, bound: f64, measured: f64, is_met: bool) {
        let verdict = if is_met { "met" } else { "**not met**" };
        let line = format!("| {what} | {bound:.2} {unit} | {measured:.2} {unit} | {verdict} |\n");
        self.0.push_str(&line);
    }
}

/// The section of the page.
pub fn write(out: &mut String, results: &Results) {
    out.push_str("## Against the bounds\n\n");
    out.push_str("| | bound, at most unless said otherwise | measured | |\n|---|---|---|---|\n");
    let mut bounds = Bounds(out);
    for ground in &results.grounds {
        for (load, samples) in &ground.loads {
            of_load(&mut bounds, ground, load, samples);
        }
    }
    let held = || results.held_ms.iter().copied();
    bounds.at_most(
        "commits held on MariaDB, median",
        "ms",
        Some(5.0),
        Some(median(held())),
    );
    let worst = percentile(held(), 99);
    bounds.at_most(
        "commits held on MariaDB, 99th percentile",
        "ms",
        Some(20.0),
        Some(worst),
    );
    for of in &results.stalls {
        let what = format!("{}, 16 threads: longest stall of a write", of.server);
        bounds.at_most(&what, "ms", Some(1.0), Some(of.max_us / 1e3));
    }
    for (mode, of) in [
        ("extents", results.rate.extents),
        ("payload", results.rate.payload),
    ] {
        let what = format!("small writes taken without being lost, {mode}");
        bounds.at_least(&what, "/s", 200_000.0, of.held);
    }
    for call in &results.calls {
        let what = |mode: &str| format!("added to a pwrite of {} bytes, {mode}", call.len);
        let added = |ns: f64| Some(ns - call.without_ns);
        for (library, added_ns) in [
            ("libhotmirror.so", call.added.idle_ns),
            ("libHotBackup.so", call.added.c_api_idle_ns),
        ] {
            let idle = format!("{library} idle");
            bounds.at_most(&what(&idle), "ns", Some(10.0), Some(added_ns));
            let what = format!("pwrite loop of {} bytes, {idle}", call.len);
            let percent = call.added.percent(added_ns);
            bounds.at_most(&what, "%", Some(1.0), Some(percent));
        }
        if call.len >= 16 << 10 {
            bounds.at_most(&what("extents"), "ns", Some(500.0), added(call.extents_ns));
            bounds.at_most(
                &what("payloads"),
                "ns",
                Some(3000.0),
                added(call.payload_ns),
            );
        }
    }
    of_many(&mut bounds, &results.many);
    let reflinks = results.reflinks.iter();
    let per_10_gb = reflinks.map(Reflink::base_copy_s_per_10_gb);
    bounds.at_most(
        "base copy of 10 GB by reflinks",
        "s",
        Some(1.0),
        (!results.reflinks.is_empty()).then(|| median(per_10_gb)),
    );
    out.push('\n');
}

fn of_load(bounds: &mut Bounds<'_>, ground: &Ground, load: &Load, samples: &[Sample]) {
    let peer = ground.ways[2];
    let of = |way, figure| median_of(samples, way, figure);
    let what = |text: String| {
        let Load { script, threads } = load;
        format!("{}, {script}, {threads} threads: {text}", ground.server)
    };
    let share = if peer == Way::Clone { 0.5 } else { 0.25 };
    bounds.at_most(
        &what(format!(
            "throughput-seconds lost per GB, {share} of {}'s",
            peer.name()
        )),
        "s",
        of(peer, lost_per_gb).map(|lost| lost * share),
        of(Way::Hotmirror, lost_per_gb),
    );
    let seconds = of(Way::Hotmirror, |s| Some(s.seconds));
    let floor = floor_seconds(ground, samples).map(|floor| floor * 1.1);
    let passes = of(Way::Hotmirror, |s| s.course.passes_seconds());
    bounds.at_most(
        &what("seconds, 1.1 times the floor and the passes".into()),
        "s",
        floor.zip(passes).map(|(floor, passes)| floor + passes),
        seconds,
    );
    bounds.at_most(
        &what(format!("seconds, {}'s", peer.name())),
        "s",
        of(peer, |s| Some(s.seconds)),
        seconds,
    );
    if peer == Way::Clone {
        bounds.at_most(
            &what("commits held".into()),
            "ms",
            Some(0.0),
            of(Way::Hotmirror, |s| s.lock_ms),
        );
    }
}

fn of_many(bounds: &mut Bounds<'_>, many: &[Many]) {
    let [few, less, most] = many else { return };
    let what = format!("memory with {} tables", most.tables);
    bounds.at_most(&what, "MB", Some(LOG_MB + 100.0), Some(most.peak.mb));
    let what = format!(
        "memory for each table, {} tables: 1.5 times that with {}",
        most.tables, less.tables
    );
    let bound = kb_per_table(few, less) * 1.5;
    bounds.at_most(&what, "KB", Some(bound), Some(kb_per_table(less, most)));
    let mut per_file = |name: &str, seconds: fn(&Many, &str) -> f64| {
        let of = |many: &Many| many.ms_per_file(seconds(many, name));
        let what = format!(
            "{name} for each file, {} tables: 1.5 times that with {}",
            most.tables, less.tables
        );
        bounds.at_most(&what, "ms", Some(of(less) * 1.5), Some(of(most)));
    };
    PHASES.iter().for_each(|name| per_file(name, Many::phase));
    per_file("time", |many, _| many.peak.seconds);
    let what = format!(
        "commits held, {} tables: 5 ms more than with {}",
        most.tables, few.tables
    );
    bounds.at_most(&what, "ms", Some(few.lock_ms + 5.0), Some(most.lock_ms));
}
