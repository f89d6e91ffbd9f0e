//! A server and its backup on one file system that shares blocks: how long the base copy takes.
//!
//! Rule: what is to be shared is on the disk first. The kernel writes out what is not, and that takes as long as the disk needs.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use hotmirror_tests::mount::Mount;
use hotmirror_tests::program::Program;
use hotmirror_tests::server::{Server, ServerOptions};
use serde_json::Value;

use crate::plan::Plan;

const FILE_MB: u64 = 512;

/// A backup whose blocks are shared.
pub struct Reflink {
    pub gb: f64,
    pub base_copy_s: f64,
    pub finish_s: f64,
}

impl Reflink {
    pub fn base_copy_s_per_10_gb(&self) -> f64 {
        self.base_copy_s / self.gb * 10.0
    }
}

/// One for each round. Nothing, where XFS can't be made.
pub fn run(plan: &Plan) -> Vec<Reflink> {
    let mount = match Mount::xfs(plan.reflink_mb * 2 + 2000) {
        Ok(mount) => mount,
        Err(reason) => {
            println!("No reflinks: {reason}");
            return Vec::new();
        }
    };
    let data = mount.path().join("data");
    let server = ServerOptions::hooked().new_data_dir(&data).start();
    fill(&data.join("large"), plan.reflink_mb);
    let synced = Command::new("sync").arg("-f").arg(&data).status();
    assert!(synced.is_ok_and(|status| status.success()), "No sync");
    let target = mount.path().join("backup");
    let rounds = (0..plan.rounds).map(|_| back_up(&server, &target));
    rounds.collect()
}

/// Files in the directory of a database, as large tables are.
fn fill(dir: &Path, megabytes: u64) {
    std::fs::create_dir(dir).expect("A database's directory");
    let chunk: Vec<u8> = (0..1u32 << 20).map(|at| (at >> 7) as u8).collect();
    for megabyte in 0..megabytes {
        let path = dir.join(format!("t{}.ibd", megabyte / FILE_MB));
        let file = File::options().append(true).create(true).open(path);
        let written = file.and_then(|mut file| file.write_all(&chunk));
        written.expect("Room for the data");
    }
}

fn back_up(server: &Server, target: &Path) -> Reflink {
    let run = Program::for_server(server).backup(target);
    let manifest = run.success().manifest();
    std::fs::remove_dir_all(target).expect("The backup can be removed");
    let stats = &manifest["stats"];
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    Reflink {
        gb: number(&stats["bytes"]) / 1e9,
        base_copy_s: number(&stats["phase_ms"]["base_copy"]) / 1e3,
        finish_s: number(&stats["phase_ms"]["finish"]) / 1e3,
    }
}
