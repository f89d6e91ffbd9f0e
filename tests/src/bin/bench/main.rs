//! The benchmark behind scripts/bench: what a backup costs the server, next to what its peers cost it and to what the machine can do.
//!
//! Rule: everything that is compared runs in one go, on the same data, under the same load, in turns; each figure is a median.

mod bounds;
mod floor;
mod locks;
mod many;
mod measure;
mod meter;
mod plan;
mod plot;
mod pwrite;
mod rate;
mod reflink;
mod report;
mod rounds;
mod stalls;
mod sysbench;
mod ways;

use std::path::{Path, PathBuf};

use hotmirror_tests::{artifacts, scratch};

use plan::Plan;
use report::Results;
use rounds::Ground;

/// What the command line asks for; scripts/bench describes it.
struct Request {
    plan: Plan,
    /// Where the page and its plots go.
    output: Option<PathBuf>,
    /// The one thing to measure, if it is not all.
    only: Option<Only>,
}

#[derive(Clone, Copy)]
enum Only {
    /// What a backup costs a server under load, beside its peers.
    Backups,
    /// What a hooked call costs.
    Calls,
    /// How long calls are held up under load.
    Stalls,
    /// How many small writes per second a session takes.
    Rate,
    /// How a backup grows with the number of tables.
    Many,
}

fn request(arguments: Vec<String>) -> Request {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let mut plan = match (has("--quick"), has("--full")) {
        (true, _) => Plan::quick(),
        (_, true) => Plan::full(),
        _ => Plan::standard(),
    };
    let mut output = (!has("--quick")).then(|| artifacts::workspace().join("docs"));
    let only = match () {
        () if has("--backups") => Some(Only::Backups),
        () if has("--calls") => Some(Only::Calls),
        () if has("--stalls") => Some(Only::Stalls),
        () if has("--rate") => Some(Only::Rate),
        () if has("--many") => Some(Only::Many),
        () => None,
    };
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut number = || -> u32 {
            let value = rest.next().unwrap_or_default();
            value
                .parse()
                .unwrap_or_else(|e| panic!("{argument} {value}: {e}"))
        };
        match argument.as_str() {
            "--quick" | "--full" | "--backups" | "--calls" | "--stalls" | "--rate" | "--many" => {}
            "--metered-backups" => plan.metered_backups = number(),
            "--data-gb" => plan.set_data_gb(number()),
            "--many-tables" => plan.many_tables = number(),
            "--first-rate" => plan.first_rate = number(),
            "--rounds" => plan.rounds = number(),
            "--server" => {
                let name = rest.next().expect("A server after --server");
                plan.servers.retain(|server| *server == name);
                assert!(!plan.servers.is_empty(), "Unknown server {name}");
                // Half a page would replace the whole one.
                output = None;
            }
            "--output" => output = Some(rest.next().expect("A directory after --output").into()),
            _ => panic!("Unknown argument {argument}"),
        }
    }
    Request { plan, output, only }
}

fn main() {
    let Request { plan, output, only } = request(std::env::args().skip(1).collect());
    let home = scratch::dir();
    match only {
        Some(Only::Backups) => {
            return println!("{}", report::backups(&back_up(&plan, home.path())));
        }
        Some(Only::Calls) => return drop(pwrite::measure(&plan, home.path())),
        Some(Only::Stalls) => return drop(stalls::measure(&plan, home.path())),
        Some(Only::Rate) => return println!("{:?}", rate::measure(&plan, home.path())),
        Some(Only::Many) => return drop(many::run(&plan, home.path())),
        None => {}
    }
    let results = measure(&plan, home.path());
    let dir = output.unwrap_or_else(|| home.path().into());
    let plots = dir.join("plots");
    std::fs::create_dir_all(&plots)
        .unwrap_or_else(|e| panic!("Cannot create {}: {e}", plots.display()));
    let pictures: Vec<_> = results
        .grounds
        .iter()
        .flat_map(|ground| plot::write(ground, &plots))
        .collect();
    let text = report::write(&plan, &results, &pictures);
    println!("{text}");
    let page = dir.join("benchmarks.md");
    std::fs::write(&page, &text).unwrap_or_else(|e| panic!("Cannot write {}: {e}", page.display()));
}

fn measure(plan: &Plan, home: &Path) -> Results {
    // First, while no other part has removed anything.
    let many = many::run(plan, home);
    Results {
        calls: pwrite::measure(plan, home),
        grounds: back_up(plan, home),
        held_ms: locks::run(plan, home),
        stalls: stalls::measure(plan, home),
        rate: rate::measure(plan, home),
        many,
        reflinks: reflink::run(plan),
    }
}

fn back_up(plan: &Plan, home: &Path) -> Vec<Ground> {
    let servers = plan.servers.iter();
    servers
        .map(|server| rounds::run(plan, server, home))
        .collect()
}
