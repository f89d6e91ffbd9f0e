//! Many tables: how time, memory and the lock grow with the number of files.
//!
//! Rule: the server may be made as forgetful as speeds it up, since what is measured is the program. Nothing is removed before the last backup is done: for some
//! minutes ext4 passes over inodes that were freed, one by one, at each file that is made near them, which takes up to a quarter of a millisecond.

use std::collections::BTreeMap;
use std::path::Path;

use hotmirror_tests::program::{self, Program};
use hotmirror_tests::server::{Server, ServerOptions};
use mysql::prelude::Queryable;

use crate::plan::Plan;
use crate::ways::{Peak, peak_of};

const CONNECTIONS: u32 = 4;
const FEW: u32 = 100;

/// A backup of a server with that many tables.
#[derive(Debug)]
pub struct Many {
    pub tables: u32,
    pub files: u64,
    pub gb: f64,
    pub peak: Peak,
    pub lock_ms: f64,
    /// Seconds of each phase.
    pub phases: BTreeMap<String, f64>,
}

pub fn run(plan: &Plan, home: &Path) -> Vec<Many> {
    let server = ServerOptions::hooked()
        .without_binlog()
        .option("--innodb-flush-log-at-trx-commit=0")
        .option("--innodb-doublewrite=0")
        .option("--innodb-log-file-size=96M")
        .option("--table-definition-cache=400")
        // A hundred thousand tables are made in minutes.
        .option("--debug-no-sync")
        .option("--skip-sync-frm")
        .option("--innodb-flush-method=nosync")
        .start();
    server.execute(&["CREATE DATABASE many"]);
    let most = plan.many_tables;
    let mut results = Vec::new();
    let mut made = 0;
    // What a small server has, a tenth of the largest, and that.
    for tables in [FEW.min(most / 20), most / 10, most] {
        println!("Making {tables} tables");
        std::thread::scope(|scope| {
            for connection in 0..CONNECTIONS {
                let (server, numbers) = (&server, made + connection..tables);
                scope.spawn(move || create(server, numbers.step_by(CONNECTIONS as usize)));
            }
        });
        made = tables;
        rustix::fs::sync();
        let of = back_up(tables, &server, home);
        println!("{of:?}");
        results.push(of);
    }
    results
}

impl Many {
    pub fn phase(&self, name: &str) -> f64 {
        self.phases.get(name).copied().unwrap_or(0.0)
    }

    pub fn ms_per_file(&self, seconds: f64) -> f64 {
        seconds * 1e3 / self.files.max(1) as f64
    }
}

/// What each table takes of memory that one server has more than the other.
pub fn kb_per_table(less: &Many, more: &Many) -> f64 {
    let tables = more.tables.saturating_sub(less.tables).max(1);
    (more.peak.mb - less.peak.mb) * 1024.0 / f64::from(tables)
}

fn back_up(tables: u32, server: &Server, home: &Path) -> Many {
    let target = home.join(format!("many_{tables}"));
    let run = Program::for_server(server).backup(&target);
    let peak = peak_of(run.command(), home, |_| ());
    let manifest = program::manifest(&target).expect("The manifest");
    let phases = manifest["stats"]["phase_ms"].as_object();
    let seconds = |(name, ms): (&String, &serde_json::Value)| {
        Some((name.replace('_', " "), ms.as_f64()? / 1e3))
    };
    Many {
        tables,
        files: manifest["stats"]["files"].as_u64().unwrap_or(0),
        gb: manifest["stats"]["bytes"].as_f64().unwrap_or(0.0) / 1e9,
        peak,
        lock_ms: manifest["lock_ms"].as_f64().unwrap_or(0.0),
        phases: phases.into_iter().flatten().filter_map(seconds).collect(),
    }
}

fn create(server: &Server, numbers: impl Iterator<Item = u32>) {
    let mut conn = server.conn();
    for number in numbers {
        let statement = format!("CREATE TABLE many.t{number} (i INT PRIMARY KEY) ENGINE=InnoDB");
        conn.query_drop(&statement)
            .unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}
