//! A replica that `hotmirror replica` has made: a server that nobody's handle ends.
//!
//! Rule: it is ended when its handle goes, and what it holds is looked at on a server of the harness, started on its files afterwards.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::program::{Outcome, Program, Run};
use hotmirror_tests::server::{REPLICATION_PASSWORD, REPLICATION_USER, Server, ServerOptions};
use rustix::process::{Pid, Signal};

const STOP_BOUND: Duration = Duration::from_secs(60);

pub struct Made {
    pub outcome: Outcome,
    pub data_dir: PathBuf,
    pid: Option<Pid>,
    flavor: Flavor,
}

/// `hotmirror replica` with everything that the harness's servers need.
pub fn command(program: &Program, backup: &Path, data_dir: &Path) -> Run {
    program
        .run("replica")
        .arg("--no-defaults")
        .arg(format!("--from={}", backup.display()))
        .arg(format!("--data-dir={}", data_dir.display()))
        .arg("--user=root")
        .arg("--timeout=120")
        // Where an unpacked server expects this directory, there is none.
        .arg("--option=secure_file_priv=")
}

/// A replica of the server that was backed up.
pub fn of_source(program: &Program, backup: &Path, data_dir: &Path, source: &Server) -> Run {
    command(program, backup, data_dir)
        .arg("--source-host=127.0.0.1")
        .arg(format!("--source-port={}", source.port()))
        .arg(format!("--replication-user={REPLICATION_USER}"))
        .arg(format!("--replication-password={REPLICATION_PASSWORD}"))
}

impl Made {
    /// Runs the command, which must succeed.
    #[track_caller]
    pub fn by(run: Run, data_dir: &Path, flavor: &Flavor) -> Made {
        let outcome = run.outcome();
        let made = Made {
            pid: process(&outcome.stdout),
            outcome,
            data_dir: data_dir.into(),
            flavor: flavor.clone(),
        };
        assert_eq!(
            made.outcome.code,
            Some(0),
            "{}\n{}",
            made.outcome,
            made.log()
        );
        made
    }

    /// The first value that the running replica gives.
    #[allow(dead_code)]
    pub fn value(&self, query: &str) -> String {
        use mysql::prelude::Queryable;
        let socket = self.data_dir.join("mysqld.sock");
        let options = mysql::OptsBuilder::new()
            .socket(socket.to_str())
            .prefer_socket(false)
            .user(Some("root"));
        let value = mysql::Conn::new(options).and_then(|mut conn| conn.query_first(query));
        value.expect(query).unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("hotmirror_replica.err")).unwrap_or_default()
    }

    /// Shuts it down, and starts a server of the harness on its files that replicates nothing.
    pub fn reopen(mut self, options: &[&str]) -> Server {
        self.end(Signal::TERM);
        let start = ServerOptions::plain()
            .flavor(&self.flavor)
            .data_dir(&self.data_dir)
            .server_id(77)
            .without_binlog();
        let start = options
            .iter()
            .fold(start, |start, option| start.option(*option));
        start.start()
    }

    fn end(&mut self, signal: Signal) {
        let Some(pid) = self.pid.take() else {
            return;
        };
        let _ = rustix::process::kill_process(pid, signal);
        let start = Instant::now();
        // It is no child of ours, so its end is no event for us.
        while rustix::process::test_kill_process(pid).is_ok() {
            assert!(
                start.elapsed() < STOP_BOUND || std::thread::panicking(),
                "Replica {pid:?} does not end:\n{}",
                self.log()
            );
            if start.elapsed() >= STOP_BOUND {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// Ends the replica of a command that failed after it had begun to replicate.
#[allow(dead_code)]
pub fn ending(outcome: &Outcome, data_dir: &Path) -> impl Drop + use<> {
    Made {
        pid: process(&outcome.stdout),
        outcome: Outcome {
            line: outcome.line.clone(),
            code: outcome.code,
            stdout: String::new(),
            stderr: String::new(),
            target: None,
        },
        data_dir: data_dir.into(),
        flavor: Flavor::main().clone(),
    }
}

/// The process that the command says it has started.
fn process(stdout: &str) -> Option<Pid> {
    let rest = stdout.split_once("starts as process ")?.1;
    Pid::from_raw(rest.split_whitespace().next()?.parse().ok()?)
}
