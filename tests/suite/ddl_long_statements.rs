//! Long statements during the cut: they neither fail nor are ended, unless the user asks for it.
//!
//! Rule: a statement counts as long if it runs from before the backup asks for its lock until after it has let go, or for as long as the backup waits for it.

use std::path::Path;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::program::{Outcome, Program, exit};
use hotmirror_tests::scratch;
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::skip::long;
use mysql::prelude::Queryable;
use rustix::process::{Pid, Signal, kill_process};

const START_BOUND: Duration = Duration::from_secs(30);

/// A statement on a connection of its own, with how it ended.
struct Statement {
    thread: JoinHandle<Result<(), mysql::Error>>,
}

impl Statement {
    /// Returns when the server runs it.
    fn start(server: &Server, text: &str) -> Statement {
        let mut conn = server.conn();
        let id = conn.connection_id();
        let owned = text.to_string();
        let thread = std::thread::spawn(move || conn.query_iter(owned).map(drop));
        let start = Instant::now();
        let runs = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id} AND command = 'Query'"
        );
        while server.value(&runs) != "1" {
            assert!(start.elapsed() < START_BOUND, "{text} does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Statement { thread }
    }

    fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    fn end(self) -> Result<(), mysql::Error> {
        self.thread.join().expect("The statement's thread")
    }
}

fn server(flavor: &str) -> Server {
    let server = ServerOptions::hooked()
        .flavor(&Flavor::named(flavor))
        .start();
    server.execute(&[
        "CREATE DATABASE long_test",
        "CREATE TABLE long_test.t (id INT PRIMARY KEY, n DOUBLE) ENGINE=InnoDB",
        "INSERT INTO long_test.t VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0)",
    ]);
    server
}

/// Reads for some eight seconds.
const SLOW_SELECT: &str = "SELECT id, SLEEP(1) FROM long_test.t";

/// What follows goes on until the gate is opened, however long the backup takes.
const GATED_SELECT: &str = "SELECT id, GET_LOCK('select', 1000) FROM long_test.t";
const GATED_UPDATE: &str = "UPDATE long_test.t SET n = n + GET_LOCK('update', 1000)";

/// Locks of a connection, on which statements wait in the midst of their work.
struct Gate {
    conn: mysql::Conn,
}

impl Gate {
    fn shut(server: &Server) -> Gate {
        let mut conn = server.conn();
        for name in ["select", "update"] {
            let taken: Option<i64> = conn
                .query_first(format!("SELECT GET_LOCK('{name}', 10)"))
                .expect("The server answers")
                .flatten();
            assert_eq!(taken, Some(1), "{name}");
        }
        Gate { conn }
    }

    fn open(mut self) {
        for name in ["select", "update"] {
            self.conn
                .query_drop(format!("DO RELEASE_LOCK('{name}')"))
                .expect("The server answers");
        }
    }
}

fn backup(server: &Server, target: &Path, arguments: &[&str]) -> Outcome {
    let run = Program::for_server(server).backup(target);
    arguments
        .iter()
        .fold(run, |run, argument| run.arg(argument))
        .outcome()
}

/// With the server's own lock, nobody waits for them.
fn long_statements_go_on(server: &Server) {
    let home = scratch::dir();
    let gate = Gate::shut(server);
    let statements = [GATED_SELECT, GATED_UPDATE].map(|text| Statement::start(server, text));
    let outcome = backup(server, &home.path().join("backup"), &[]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(
        statements.iter().all(Statement::is_running),
        "They are in the midst of their work: {outcome}"
    );
    gate.open();
    for statement in statements {
        statement.end().expect("The statement goes through");
    }
    assert_eq!(server.value("SELECT SUM(n) FROM long_test.t"), "8");
    println!("Lock: {} ms", outcome.manifest_in(home.path())["lock_ms"]);
}

trait ManifestIn {
    fn manifest_in(&self, home: &Path) -> serde_json::Value;
}

impl ManifestIn for Outcome {
    fn manifest_in(&self, home: &Path) -> serde_json::Value {
        hotmirror_tests::program::manifest(&home.join("backup"))
            .unwrap_or_else(|e| panic!("{e}\n{self}"))
    }
}

/// Until the server says of a statement that it has run for more than 2 seconds.
fn wait_until_long(server: &Server) {
    let start = Instant::now();
    let old =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Query' AND time > 2";
    while server.value(old) == "0" {
        assert!(start.elapsed() < START_BOUND, "No statement gets old");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn long_statements_on_a_mariadb_go_on_during_the_cut() {
    long_statements_go_on(&server("mariadb-10.11"));
}

#[test]
fn long_statements_on_a_mysql_go_on_during_the_cut() {
    long_statements_go_on(&server("mysql-9.7"));
}

#[test]
fn a_read_lock_times_out_on_a_long_statement_and_ends_nothing() {
    let server = server("mariadb-10.11");
    let home = scratch::dir();
    let gate = Gate::shut(&server);
    let statement = Statement::start(&server, GATED_UPDATE);
    let arguments = ["--lock=ftwrl", "--lock-timeout=2"];
    let outcome = backup(&server, &home.path().join("backup"), &arguments);
    outcome.assert_failed(exit::LOCK_TIMEOUT, &["--lock-timeout=2"]);
    gate.open();
    statement.end().expect("The statement goes through");
}

#[test]
fn long_statements_are_waited_for_if_asked() {
    let server = server("mariadb-10.11");
    let home = scratch::dir();
    let statement = Statement::start(&server, SLOW_SELECT);
    wait_until_long(&server);
    let arguments = ["--lock=ftwrl", "--wait-for-long-queries=60"];
    let outcome = backup(&server, &home.path().join("backup"), &arguments);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(!statement.is_running(), "{outcome}");
    assert!(
        outcome
            .stderr
            .contains("Waiting until no long statement runs"),
        "{outcome}"
    );
    statement.end().expect("The statement goes through");

    let gate = Gate::shut(&server);
    let statement = Statement::start(&server, GATED_SELECT);
    wait_until_long(&server);
    let arguments = ["--lock=ftwrl", "--wait-for-long-queries=4"];
    let outcome = backup(&server, &home.path().join("second"), &arguments);
    outcome.assert_failed(
        exit::LOCK_TIMEOUT,
        &["--wait-for-long-queries=4", "SELECT id, GET_LOCK("],
    );
    gate.open();
    statement.end().expect("The statement goes through");
}

#[test]
fn long_statements_are_ended_if_asked_and_only_then() {
    let server = server("mariadb-10.11");
    let home = scratch::dir();
    let _gate = Gate::shut(&server);
    let statement = Statement::start(&server, GATED_UPDATE);
    let arguments = ["--lock=ftwrl", "--kill-long-queries-after=2"];
    let outcome = backup(&server, &home.path().join("backup"), &arguments);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let ended = statement.end();
    assert!(
        matches!(&ended, Err(mysql::Error::MySqlError(e)) if e.code == 1317) || ended.is_ok(),
        "{ended:?}"
    );
    let warnings = outcome.manifest_in(home.path())["warnings"].to_string();
    assert!(
        warnings.contains("Ended a statement that ran for"),
        "{warnings}"
    );
    assert!(warnings.contains("UPDATE long_test.t"), "{warnings}");
}

/// Takes the half minute that a silent connection is given.
#[test]
fn a_backup_that_is_stopped_under_its_lock_does_not_hold_the_server() {
    if !long() {
        return;
    }
    let server = server("mariadb-10.11");
    let home = scratch::dir();
    let gate = Gate::shut(&server);
    let statement = Statement::start(&server, GATED_UPDATE);
    let backup = Program::for_server(&server)
        .backup(&home.path().join("backup"))
        .arg("--lock=ftwrl")
        .spawn(Stdio::null());
    let waits = "SELECT COUNT(*) FROM information_schema.processlist \
        WHERE info = 'FLUSH TABLES WITH READ LOCK' AND state LIKE 'Waiting%'";
    let start = Instant::now();
    while server.value(waits) == "0" {
        assert!(start.elapsed() < START_BOUND, "Nobody waits for the lock");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = Pid::from_raw(backup.pid() as i32).expect("A pid");
    kill_process(pid, Signal::STOP).expect("It can be stopped");
    // The lock is granted to nobody who could give it back.
    gate.open();
    statement.end().expect("The statement goes through");
    server.execute(&["INSERT INTO long_test.t VALUES (9, 0)"]);
    kill_process(pid, Signal::CONT).expect("It can go on");
    let outcome = backup.outcome();
    assert_ne!(outcome.code, Some(0), "{outcome}");
    backup_again(&server, home.path());
}

fn backup_again(server: &Server, home: &Path) {
    let outcome = backup(server, &home.join("second"), &[]);
    assert_eq!(outcome.code, Some(0), "{outcome}");
}
