//! A backup while tables, databases, binlogs and undo logs change under it, and while the server goes down.
//!
//! Rule: the statement under test runs in a loop from before the backup begins until after it has ended. The copy's tables are in order, and as a replica
//! from the recorded position it becomes equal to the source.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::program::{Program, exit};
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::skip::long;
use hotmirror_tests::{checksums, scratch};
use mysql::prelude::Queryable;

const BOUND_COUNT: u32 = 8;
const ROUND_BOUND: Duration = Duration::from_secs(120);

/// Statements that run in a loop.
struct Loop {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    /// Returns when they have been through once.
    fn of(server: &Server, statements: &[String]) -> Loop {
        let running = Loop::start(server, statements);
        running.wait_for_a_round();
        running
    }

    fn start(server: &Server, statements: &[String]) -> Loop {
        let mut conn = server.conn();
        let (stop, rounds) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, counter, statements) = (stop.clone(), rounds.clone(), statements.to_vec());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for statement in &statements {
                    let rows = conn.query_iter(statement).map(drop);
                    rows.unwrap_or_else(|e| panic!("{statement}: {e}"));
                }
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Loop {
            stop,
            rounds,
            thread: Some(thread),
        }
    }

    fn wait_for_a_round(&self) {
        let (before, start) = (self.rounds.load(Ordering::Relaxed), Instant::now());
        while self.rounds.load(Ordering::Relaxed) == before {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(
                !ended && start.elapsed() < ROUND_BOUND,
                "The statements do not go through"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gives the number of rounds.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("A thread").join();
        ended.expect("The statements went through");
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn statements(list: &[&str]) -> Vec<String> {
    list.iter().map(|statement| statement.to_string()).collect()
}

const COLUMNS: &str = "id INT AUTO_INCREMENT PRIMARY KEY, n BIGINT, s VARCHAR(300)";

/// A server with a few thousand rows in `ddl.t`.
fn server(flavor: &str, options: &[&str]) -> Server {
    let start = ServerOptions::hooked().flavor(&Flavor::named(flavor));
    let server = options
        .iter()
        .fold(start, |start, option| start.option(*option))
        .start();
    server.execute(&["CREATE DATABASE ddl"]);
    make_table(&server);
    server
}

fn make_table(server: &Server) {
    server.execute(&[
        "DROP TABLE IF EXISTS ddl.t",
        &format!("CREATE TABLE ddl.t ({COLUMNS}) ENGINE=InnoDB"),
        "INSERT INTO ddl.t (n, s) VALUES (1, REPEAT('a', 200)), (2, REPEAT('b', 200)), (3, REPEAT('c', 200))",
    ]);
    for _ in 0..11 {
        server.execute(&["INSERT INTO ddl.t (n, s) SELECT n + 7, s FROM ddl.t"]);
    }
}

fn gtid_options(server: &Server) -> &'static [&'static str] {
    match server.flavor().is_mariadb() {
        true => &[],
        false => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
    }
}

/// Backs up during `list`, `count` times.
fn copies_are_right(server: &Server, what: &str, list: &[String], count: u64) {
    let program = Program::for_server(server);
    for _ in 0..count {
        let home = scratch::dir();
        let target = home.path().join("backup");
        let running = Loop::of(server, list);
        program.backup(&target).success();
        running.wait_for_a_round();
        let rounds = running.end();
        assert_copy_becomes_equal(server, &target, what);
        println!("{what}: right after {rounds} rounds");
    }
}

fn assert_copy_becomes_equal(source: &Server, target: &Path, what: &str) {
    let line = std::fs::read_to_string(target.join("hotmirror_binlog_info")).expect("The position");
    let position = Position::parse(&line).expect("A position");
    let start = ServerOptions::plain()
        .flavor(source.flavor())
        .data_dir(&target.join("data"))
        .server_id(9);
    let start = gtid_options(source)
        .iter()
        .fold(start, |start, option| start.option(*option));
    let copy = start.start();
    checksums::assert_tables_in_order(&copy, what);
    replica::follow(&copy, source, &position, By::Gtid);
    // One bound is for ordinary transactions; a large one may take several.
    let caught_up = (0..BOUND_COUNT).find_map(|_| {
        let waited = replica::catch_up(&copy, source, By::Gtid);
        match waited {
            Err(error) if error.contains("not within") => None,
            waited => Some(waited),
        }
    });
    caught_up
        .unwrap_or_else(|| panic!("{what}: the copy does not catch up"))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    checksums::assert_equal(source, &copy, what);
}

/// Every kind of change in turn, on one server.
fn every_change(server: &Server) {
    let count = if long() { 5 } else { 1 };
    let kinds: [(&str, &[&str]); 8] = [
        (
            "ALTER by copy",
            &[
                "ALTER TABLE ddl.t ADD COLUMN c INT, ALGORITHM=COPY",
                "ALTER TABLE ddl.t DROP COLUMN c, ALGORITHM=COPY",
            ],
        ),
        (
            "ALTER in place",
            &[
                "ALTER TABLE ddl.t ADD INDEX i (n), ALGORITHM=INPLACE",
                "ALTER TABLE ddl.t DROP INDEX i, ALGORITHM=INPLACE",
                "ALTER TABLE ddl.t FORCE, ALGORITHM=INPLACE",
            ],
        ),
        (
            "ALTER at once",
            &[
                "ALTER TABLE ddl.t ADD COLUMN c INT DEFAULT 7 FIRST, ALGORITHM=INSTANT",
                "INSERT INTO ddl.t (n, s) VALUES (5, 'x')",
                "ALTER TABLE ddl.t DROP COLUMN c, ALGORITHM=INSTANT",
                "DELETE FROM ddl.t ORDER BY id DESC LIMIT 1",
                "ALTER TABLE ddl.t FORCE",
            ],
        ),
        (
            "OPTIMIZE",
            &[
                "OPTIMIZE TABLE ddl.t",
                "UPDATE ddl.t SET n = n + 1 WHERE id % 10 = 0",
            ],
        ),
        (
            "TRUNCATE",
            &[
                "CREATE TABLE IF NOT EXISTS ddl.u LIKE ddl.t",
                "INSERT INTO ddl.u (n, s) SELECT n, s FROM ddl.t ORDER BY id LIMIT 500",
                "TRUNCATE TABLE ddl.u",
            ],
        ),
        (
            "CREATE and DROP DATABASE",
            &[
                "CREATE DATABASE short",
                "CREATE TABLE short.t AS SELECT * FROM ddl.t LIMIT 300",
                "DROP DATABASE short",
            ],
        ),
        (
            "RENAME over an existing table",
            &[
                "CREATE TABLE ddl.fresh LIKE ddl.t",
                "INSERT INTO ddl.fresh SELECT * FROM ddl.t",
                "UPDATE ddl.fresh SET n = n + 1",
                "RENAME TABLE ddl.t TO ddl.old, ddl.fresh TO ddl.t",
                "DROP TABLE ddl.old",
            ],
        ),
        (
            "FLUSH LOGS",
            &["FLUSH LOGS", "INSERT INTO ddl.t (n, s) VALUES (1, 'log')"],
        ),
    ];
    for (what, list) in kinds {
        make_table(server);
        copies_are_right(server, what, &statements(list), count);
    }
}

#[test]
fn a_backup_is_right_whatever_happens_to_the_tables_of_a_mariadb() {
    every_change(&server("mariadb-10.11", &[]));
}

#[test]
fn a_backup_is_right_whatever_happens_to_the_tables_of_a_mysql() {
    every_change(&server(
        "mysql-9.7",
        &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
    ));
}

#[test]
fn a_backup_is_right_while_a_large_file_is_loaded() {
    let server = server("mariadb-10.11", &["--local-infile=OFF"]);
    let file = server.home().join("rows.txt");
    let bytes: u64 = if long() { 1 << 30 } else { 48 << 20 };
    write_rows(&file, bytes);
    server.execute(&[
        "CREATE TABLE ddl.loaded (id BIGINT PRIMARY KEY, s VARCHAR(300)) ENGINE=InnoDB",
    ]);
    let list = [
        format!(
            "LOAD DATA INFILE '{}' INTO TABLE ddl.loaded",
            file.display()
        ),
        "TRUNCATE TABLE ddl.loaded".to_string(),
    ];
    let home = scratch::dir();
    let target = home.path().join("backup");
    let running = Loop::start(&server, &list);
    let grown = server.data_dir().join("ddl/loaded.ibd");
    wait_until(|| std::fs::metadata(&grown).is_ok_and(|file| file.len() > 16 << 20));
    Program::for_server(&server).backup(&target).success();
    println!("LOAD DATA: right during round {}", running.end());
    assert_copy_becomes_equal(&server, &target, "LOAD DATA");
}

fn write_rows(file: &Path, bytes: u64) {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).expect("A file of rows"));
    for id in 0..bytes / 250 {
        writeln!(out, "{id}\t{}", format!("{id:08x}").repeat(30)).expect("A row");
    }
}

#[test]
fn a_backup_is_right_while_undo_logs_are_truncated() {
    let options = [
        "--innodb-undo-tablespaces=3",
        "--innodb-undo-log-truncate=ON",
        "--innodb-max-undo-log-size=10M",
        "--innodb-purge-rseg-truncate-frequency=1",
    ];
    let server = server("mariadb-10.11", &options);
    let list = statements(&[
        "UPDATE ddl.t SET n = n + 1, s = REVERSE(s)",
        "BEGIN",
        "UPDATE ddl.t SET s = CONCAT(id, REPEAT('z', 280))",
        "ROLLBACK",
    ]);
    for _ in 0..3 {
        make_table(&server);
        server.execute(&[
            "INSERT INTO ddl.t (n, s) SELECT n, s FROM ddl.t",
            "INSERT INTO ddl.t (n, s) SELECT n, s FROM ddl.t",
        ]);
    }
    let truncations = || {
        server.value("SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Innodb_undo_truncations'")
    };
    let before = truncations();
    copies_are_right(
        &server,
        "Undo truncation",
        &list,
        if long() { 5 } else { 2 },
    );
    println!("Undo truncations: {before} before, {} after", truncations());
}

#[test]
fn a_server_that_is_restarted_ends_the_backup_and_leaves_nothing() {
    let mut server = server("mariadb-10.11", &[]);
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let target = home.path().join("backup");
    // Slow enough that the shutdown comes in its midst.
    let run = program
        .backup(&target)
        .arg("--throttle=2M")
        .spawn(std::process::Stdio::null());
    wait_for_stage(home.path());
    assert!(server.shut_down().success());
    let outcome = run.outcome();
    outcome.assert_failed(exit::SERVER, &["server|connection"]);
    let left: Vec<_> = std::fs::read_dir(home.path())
        .expect("The directory")
        .flatten()
        .collect();
    assert!(left.is_empty(), "Left behind: {left:?}");

    let again = ServerOptions::hooked().data_dir(server.data_dir()).start();
    let outcome = Program::for_server(&again).backup(&target).success();
    assert!(outcome.stdout.ends_with("completed OK!\n"), "{outcome}");
    assert_copy_becomes_equal(&again, &target, "After the restart");
}

fn wait_for_stage(directory: &Path) {
    wait_until(|| std::fs::read_dir(directory).is_ok_and(|mut names| names.next().is_some()));
}

/// Files give no notice to those who wait for them.
fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < ROUND_BOUND, "It does not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}
