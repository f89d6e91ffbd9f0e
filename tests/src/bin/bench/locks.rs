//! How long commits are held: a hundred backups in a row of a small server under load.
//!
//! Rule: the time is the program's own, from before the statement that holds commits until after the one that lets go.

use std::path::Path;

use hotmirror_tests::server::ServerOptions;

use crate::plan::{Load, Plan};
use crate::sysbench::{self, Sysbench};
use crate::ways;

const TABLES: u32 = 4;
const ROWS: u32 = 10_000;
const LOAD: Load = Load {
    script: "oltp_write_only",
    threads: 4,
};

/// Milliseconds of each backup.
pub fn run(plan: &Plan, home: &Path) -> Vec<f64> {
    let server = ServerOptions::hooked().start();
    sysbench::prepare(TABLES, ROWS, &server);
    let mut load = Sysbench::start(TABLES, ROWS, LOAD, &server);
    let target = home.join("backup");
    let held = (0..plan.cuts).map(|_| {
        let done = ways::hotmirror(&server, &target, home, &[]);
        std::fs::remove_dir_all(&target).expect("The backup can be removed");
        done.lock_ms.expect("The time that commits were held")
    });
    let held = held.collect();
    load.seconds();
    held
}
