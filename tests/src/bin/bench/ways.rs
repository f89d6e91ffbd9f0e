//! The ways to back up: the program, and for each server the best peer that there is.
//!
//! Rule: a way is given the same server and an empty place, and is over when it says that the backup is complete.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use hotmirror_tests::program::{self, Program};
use hotmirror_tests::server::Server;
use serde_json::Value;

use crate::measure::cold_files;
use crate::sysbench;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Nothing,
    Hotmirror,
    MariadbBackup,
    Clone,
    /// The tables, one after the other by one `dd`, past the page cache but for what is in it. No backup, since the server writes meanwhile: about what copying on this disk costs a server that works on it,
    /// however it is done.
    BareCopy,
}

impl Way {
    /// The peer is the third.
    pub fn of(server: &Server) -> [Way; 4] {
        let peer = match server.flavor().is_mariadb() {
            true => Way::MariadbBackup,
            false => Way::Clone,
        };
        [Way::Nothing, Way::Hotmirror, peer, Way::BareCopy]
    }

    pub fn name(self) -> &'static str {
        match self {
            Way::Nothing => "nothing",
            Way::Hotmirror => "hotmirror",
            Way::MariadbBackup => "mariadb-backup",
            Way::Clone => "CLONE LOCAL",
            Way::BareCopy => "bare copy",
        }
    }

    /// Once, on a fresh server.
    pub fn set_up(self, server: &Server) {
        if self == Way::Clone {
            server.execute(&["INSTALL PLUGIN clone SONAME 'mysql_clone.so'"]);
        }
    }

    pub fn back_up(self, server: &Server, target: &Path, home: &Path) -> Done {
        match self {
            Way::Nothing => Done::default(),
            // The peers take no binlog at all.
            Way::Hotmirror => hotmirror(server, target, home, &["--binlogs=rotate"]),
            Way::MariadbBackup => mariadb_backup(server, target, home),
            Way::Clone => clone(server, target),
            Way::BareCopy => bare_copy(server, target),
        }
    }
}

/// What one way of backing up did, apart from its effect on the load.
#[derive(Default)]
pub struct Done {
    pub lock_ms: Option<f64>,
    pub peak_mb: Option<f64>,
    pub phases: Vec<(String, Instant)>,
}

pub fn hotmirror(server: &Server, target: &Path, home: &Path, options: &[&str]) -> Done {
    let run = Program::for_server(server).backup(target).arg("--json");
    let run = options.iter().fold(run, |run, option| run.arg(option));
    let mut phases = Vec::new();
    let peak = peak_of(run.command(), home, |line| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        if let ("phase", Some(phase)) = (
            event["event"].as_str().unwrap_or_default(),
            event["phase"].as_str(),
        ) {
            phases.push((phase.replace('_', " "), Instant::now()));
        }
    });
    let manifest = program::manifest(target).expect("The manifest");
    Done {
        lock_ms: manifest["lock_ms"].as_f64(),
        peak_mb: Some(peak.mb),
        phases,
    }
}

fn mariadb_backup(server: &Server, target: &Path, home: &Path) -> Done {
    let mut command = Command::new("mariadb-backup");
    command.args(["--no-defaults", "--backup", "--user=root"]);
    command.arg(format!("--socket={}", server.socket().display()));
    command.arg(format!("--target-dir={}", target.display()));
    let peak = peak_of(&command, home, |_| ());
    Done {
        peak_mb: Some(peak.mb),
        ..Done::default()
    }
}

/// What `mariadb-backup` needs before its backup can be started; gives its seconds.
pub fn prepare(target: &Path, home: &Path) -> f64 {
    let mut command = Command::new("mariadb-backup");
    command.args(["--no-defaults", "--prepare"]);
    command.arg(format!("--target-dir={}", target.display()));
    peak_of(&command, home, |_| ()).seconds
}

fn clone(server: &Server, target: &Path) -> Done {
    let statement = format!("CLONE LOCAL DATA DIRECTORY = '{}'", target.display());
    server.execute(&[&statement]);
    Done::default()
}

fn bare_copy(server: &Server, target: &Path) -> Done {
    let tables = server.data_dir().join(sysbench::DATABASE);
    let cold = cold_files(&tables);
    std::fs::create_dir(target).expect("A directory to copy to");
    for table in std::fs::read_dir(&tables).expect("The tables' directory") {
        let table = table.expect("A table").path();
        let mut command = Command::new("dd");
        command.args(["bs=1M", "oflag=direct", "conv=fsync", "status=none"]);
        if cold.contains(&table) {
            command.arg("iflag=direct");
        }
        let copy = target.join(table.file_name().expect("Its name"));
        command.arg(format!("if={}", table.display()));
        command.arg(format!("of={}", copy.display()));
        let status = command.status();
        assert!(
            status.as_ref().is_ok_and(|status| status.success()),
            "{command:?}: {status:?}"
        );
    }
    Done::default()
}

/// The largest memory that a command had, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    pub mb: f64,
    pub seconds: f64,
}

/// Runs a command to its end under `time`, which tells the largest memory that it had; hands over each line that it prints.
pub fn peak_of(command: &Command, home: &Path, mut on_line: impl FnMut(&str)) -> Peak {
    let (report, errors) = (home.join("time"), home.join("errors"));
    let mut timed = Command::new("/usr/bin/time");
    timed
        .args(["-f", "%M", "-o"])
        .arg(&report)
        .arg(command.get_program());
    timed.args(command.get_args());
    for (key, value) in command.get_envs() {
        timed.env(key, value.unwrap_or_default());
    }
    timed.stdin(Stdio::null()).stdout(Stdio::piped());
    timed.stderr(std::fs::File::create(&errors).expect("A file for errors"));
    let start = Instant::now();
    let mut child = timed.spawn().unwrap_or_else(|e| panic!("{timed:?}: {e}"));
    let lines = BufReader::new(child.stdout.take().expect("Its output")).lines();
    lines.map_while(Result::ok).for_each(|line| on_line(&line));
    let status = child.wait().expect("Its end");
    let seconds = start.elapsed().as_secs_f64();
    let errors = std::fs::read(&errors).unwrap_or_default();
    assert!(
        status.success(),
        "{command:?}: {status}\n{}",
        String::from_utf8_lossy(&errors)
    );
    let text = std::fs::read_to_string(&report).expect("What time reported");
    let kilobytes: f64 = text
        .trim()
        .parse()
        .unwrap_or_else(|e| panic!("{text:?}: {e}"));
    Peak {
        mb: kilobytes / 1024.0,
        seconds,
    }
}
