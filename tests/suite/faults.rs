//! Faults at every step of a session: the backup ends with a message that names the cause, and the server does not notice.
//!
//! Rule: after each one the writers have gone on, nothing that looks like a backup is left, nothing is locked, capture is off,
//! and the next backup succeeds. The steps are hit exactly: the program is held at the event that begins each.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hotmirror::capture_log::{Link, Mode};
use hotmirror_tests::load::Load;
use hotmirror_tests::mount::{self, Mount};
use hotmirror_tests::program::{Outcome, Program, Run, Spawned, exit};
use hotmirror_tests::proxy::Proxy;
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::steps::Stepped;
use hotmirror_tests::{scratch, skip, traces};
use mysql::prelude::Queryable;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// The phases that a session announces, in order.
const STEPS: [&str; 7] = [
    "attach",
    "scan",
    "base_copy",
    "passes",
    "payload",
    "cut",
    "finish",
];
/// Those in which all of the backup is still to be made.
const EARLY_STEPS: [&str; 5] = ["attach", "scan", "base_copy", "passes", "payload"];
/// Engines whose tables survive a server that is killed: others may be left in need of a repair that nobody can do without losing rows.
const CRASH_SAFE: &[&str] = &["InnoDB"];

/// A server under load, and a place for backups.
struct Ground {
    server: Server,
    program: Program,
    home: TempDir,
}

impl Ground {
    fn new() -> Ground {
        Ground::on(ServerOptions::hooked())
    }

    fn on(options: ServerOptions) -> Ground {
        let server = options.start();
        Ground {
            program: Program::for_server(&server),
            home: scratch::dir(),
            server,
        }
    }

    fn target(&self) -> PathBuf {
        self.home.path().join("backup")
    }

    fn backup(&self) -> Run {
        self.program.backup(&self.target())
    }

    /// The server has gone on, nothing is left, and a backup can be made.
    #[track_caller]
    fn assert_unharmed(&mut self, load: Load, what: &str) {
        let report = load.stop_cleanly();
        println!(
            "{what}: longest stall of a writer {:?}",
            report.longest_stall
        );
        assert!(self.server.is_running(), "{what}: the server has ended");
        traces::assert_none(&self.server, &self.program, self.home.path(), &[]);
        self.backup().success();
        self.remove_backup();
    }

    fn remove_backup(&self) {
        std::fs::remove_dir_all(self.target()).expect("The backup can be removed");
    }
}

/// Starts a backup and holds it at `step`.
#[track_caller]
fn held_at(run: Run, step: &str) -> Stepped {
    let stepped = Stepped::start(run);
    if stepped.run_to(|event| event["phase"] == step) {
        return stepped;
    }
    panic!("The program ended before {step}: {}", stepped.outcome());
}

/// Lets the writers go on for a while, where the server does not hold them for the cut, at which the test holds the program.
fn work_on(load: &Load, step: &str) {
    if !["payload", "cut"].contains(&step) {
        load.wait_for_statements(100);
    }
}

/// A failed run shows the cause and no success.
#[track_caller]
fn assert_failed(outcome: &Outcome, code: i32, words: &[&str]) {
    outcome.assert_failed(code, words);
    assert!(!outcome.stdout.contains("completed OK!"), "{outcome}");
}

fn mounted(mount: Result<Mount, String>) -> Option<Mount> {
    mount
        .map_err(|reason| skip::say(module_path!(), &reason))
        .ok()
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("A process id");
    rustix::process::kill_process(pid, signal).expect("The program can be signalled");
}

/// A target that goes bad.
struct TargetFault {
    what: &'static str,
    mount: fn() -> Result<Mount, String>,
    happens: fn(&Mount),
    /// What has to be done before anybody can look at the target.
    mend: fn(&Mount),
    /// In the message.
    cause: &'static str,
}

impl TargetFault {
    /// The backup fails at every step. Held at the last one, it may have been complete: then it is whole.
    fn ends_the_backup_at_every_step(&self) {
        let mut ground = Ground::new();
        for step in STEPS {
            let Some(mount) = mounted((self.mount)()) else {
                return;
            };
            let what = format!("{} at {step}", self.what);
            let target = mount.path().join("backup");
            let load = Load::writes(&ground.server, 1);
            // The log takes what the writers do while the program is held: it is not what fails here.
            let backup = ground.program.backup(&target).arg("--log-size=512M");
            let stepped = held_at(backup, step);
            (self.happens)(&mount);
            work_on(&load, step);
            let outcome = stepped.outcome();
            (self.mend)(&mount);
            if step == "finish" && outcome.code == Some(0) {
                println!("{what}: the backup was complete");
                assert_whole(&ground, &target);
            } else {
                assert_failed(&outcome, exit::TARGET, &[self.cause]);
                assert_no_backup_in(&mount.path());
            }
            // A stage that can't be removed there is nothing that stands in the way elsewhere.
            drop(mount);
            let _ = ground.program.on_server("recover").outcome();
            ground.assert_unharmed(load, &what);
        }
    }
}

#[test]
fn late_errors_of_the_target_have_its_exit_code() {
    let ground = Ground::new();
    let Some(mount) = mounted(Mount::image(2000)) else {
        return;
    };
    let stepped = held_at(ground.program.backup(&mount.path().join("backup")), "cut");
    mount.make_read_only();
    assert_failed(&stepped.outcome(), exit::TARGET, &["ead-only"]);
}

/// What is on the disk there, and not only in memory, is the whole backup; or nothing is there any more.
fn assert_whole(ground: &Ground, target: &Path) {
    if target.exists() {
        mount::forget_caches();
        ground.program.run("verify").arg(target).success();
    }
}

/// No file at all has the name that makes a directory a backup.
#[track_caller]
fn assert_no_backup_in(dir: &Path) {
    let left = scratch::tree(dir);
    let manifest = left
        .iter()
        .find(|path| path.ends_with("hotmirror_manifest.json"));
    assert!(
        manifest.is_none(),
        "A failed backup looks like one: {manifest:?}"
    );
}

#[track_caller]
fn assert_nothing_in(dir: &Path) {
    let left = scratch::tree(dir);
    assert!(left.is_empty(), "Left in {}: {left:?}", dir.display());
}

#[test]
fn a_full_target_ends_the_backup_at_every_step() {
    TargetFault {
        what: "Target full",
        mount: || Mount::tmpfs(2000),
        happens: Mount::fill,
        mend: |mount| mount.unfill(),
        cause: "No space left",
    }
    .ends_the_backup_at_every_step();
}

#[test]
fn a_target_that_becomes_read_only_ends_the_backup_at_every_step() {
    TargetFault {
        what: "Target read-only",
        mount: || Mount::image(2000),
        happens: Mount::make_read_only,
        mend: |_| {},
        cause: "ead-only",
    }
    .ends_the_backup_at_every_step();
}

#[test]
fn a_target_that_vanishes_ends_the_backup_at_every_step() {
    TargetFault {
        what: "Target vanished",
        mount: || Mount::tmpfs(2000),
        happens: Mount::vanish,
        mend: |mount| assert_nothing_in(&mount.path()),
        cause: "No such file or directory",
    }
    .ends_the_backup_at_every_step();
}

#[test]
fn an_io_error_on_the_target_ends_the_backup_at_every_step() {
    TargetFault {
        what: "I/O error on the target",
        mount: || Mount::image_on_image(2000),
        happens: Mount::fail_writes,
        mend: |_| {},
        cause: "Input/output error",
    }
    .ends_the_backup_at_every_step();
}

/// Up to here, the image holds the file system's own data and the first part of the table's.
const SOUND_MEGABYTES: u64 = 32;

/// A table whose database lies on a file system of its own.
fn database_on(mount: &Mount, server: &Server) {
    server.execute(&["CREATE DATABASE elsewhere"]);
    let inside = server.data_dir().join("elsewhere");
    let outside = mount.path().join("elsewhere");
    scratch::copy(&inside, &outside);
    std::fs::remove_dir_all(&inside).expect("The database's directory");
    std::os::unix::fs::symlink(&outside, &inside).expect("A link to the database");
    server.execute(&[
        "CREATE TABLE elsewhere.t (i INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB) ENGINE=MyISAM",
        "INSERT INTO elsewhere.t (b) SELECT REPEAT('x', 4000000) FROM elsewhere.seq_1_to_10",
        "FLUSH TABLES",
    ]);
}

#[test]
fn an_io_error_on_the_source_ends_the_backup_in_the_base_copy() {
    let Some(mount) = mounted(Mount::image(200)) else {
        return;
    };
    let ground = Ground::new();
    let load = Load::writes(&ground.server, 5);
    database_on(&mount, &ground.server);
    let stepped = held_at(ground.backup(), "attach");
    mount.cut_off(SOUND_MEGABYTES);
    let outcome = stepped.outcome();
    assert_failed(&outcome, exit::SOURCE, &["elsewhere", "Input/output error"]);
    let report = load.stop_cleanly();
    println!(
        "I/O error on the source: longest stall of a writer {:?}",
        report.longest_stall
    );
    traces::assert_none(&ground.server, &ground.program, ground.home.path(), &[]);
}

#[test]
fn an_io_error_on_the_source_ends_the_backup_in_a_pass() {
    let Some(mount) = mounted(Mount::image(200)) else {
        return;
    };
    let ground = Ground::new();
    database_on(&mount, &ground.server);
    let stepped = held_at(ground.backup(), "passes");
    ground.server.execute(&[
        "UPDATE elsewhere.t SET b = REPEAT('y', 4000000)",
        "FLUSH TABLES elsewhere.t",
    ]);
    mount.cut_off(SOUND_MEGABYTES);
    let outcome = stepped.outcome();
    assert_failed(&outcome, exit::SOURCE, &["t.MYD", "Input/output error"]);
    traces::assert_none(&ground.server, &ground.program, ground.home.path(), &[]);
}

/// A statement that changes this many rows makes more records than the smallest log holds.
const ROWS: &str = "200000";

#[test]
fn a_log_that_overflows_loses_the_session_at_every_step() {
    let mut ground = Ground::new();
    ground.server.execute(&[
        "CREATE DATABASE many",
        "CREATE TABLE many.t (i INT) ENGINE=MyISAM",
        &format!("INSERT INTO many.t SELECT seq FROM many.seq_1_to_{ROWS}"),
    ]);
    for step in ["attach", "base_copy", "passes"] {
        let load = Load::writes(&ground.server, 6);
        let mut stepped = held_at(ground.backup().arg("--log-size=4M"), step);
        // Nobody takes records out of the log meanwhile.
        signal(stepped.run().pid(), Signal::STOP);
        ground.server.execute(&["UPDATE many.t SET i = i + 1"]);
        signal(stepped.run().pid(), Signal::CONT);
        let outcome = stepped.outcome();
        if step == "attach" && outcome.code == Some(0) {
            // Held before capture was on.
            ground.remove_backup();
        } else {
            assert_failed(&outcome, exit::LOST, &["log", "--log-size"]);
        }
        ground.assert_unharmed(load, &format!("Log overflow at {step}"));
    }
}

#[test]
fn a_log_that_overflows_with_payloads_loses_the_session() {
    let mut ground = Ground::new();
    ground.server.execute(&[
        "CREATE DATABASE many",
        "CREATE TABLE many.t (i INT PRIMARY KEY, s CHAR(200)) ENGINE=InnoDB",
        &format!("INSERT INTO many.t SELECT seq, 'x' FROM many.seq_1_to_{ROWS}"),
    ]);
    let load = Load::writes(&ground.server, 6);
    let mut stepped = held_at(ground.backup().arg("--log-size=4M"), "payload");
    wait_for_payloads(&ground.server, &stepped);
    signal(stepped.run().pid(), Signal::STOP);
    // Not committed, since commits may be held by now.
    let mut conn = ground.server.conn();
    for statement in ["BEGIN", "UPDATE many.t SET s = 'y'", "ROLLBACK"] {
        conn.query_drop(statement).expect("A statement");
    }
    signal(stepped.run().pid(), Signal::CONT);
    assert_failed(&stepped.outcome(), exit::LOST, &["log", "--log-size"]);
    ground.assert_unharmed(load, "Log overflow by payloads");
}

/// Lets the program go on until records carry their bytes.
fn wait_for_payloads(server: &Server, stepped: &Stepped) {
    let link = Link::open(server.runtime_dir(), server.pid()).expect("The library in the server");
    let start = Instant::now();
    while link.control().mode() != Mode::Payload {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "The mode is {:?}",
            link.control()
        );
        match stepped.at() {
            Some(event) if event["event"] == "step" => std::thread::sleep(Duration::from_millis(1)),
            _ => stepped.step(),
        }
    }
}

#[test]
fn a_killed_server_ends_the_backup_at_every_step() {
    let data = scratch::dir();
    let template = ServerOptions::plain().start();
    let mut template = template;
    template.shut_down();
    scratch::copy(template.data_dir(), data.path());
    drop(template);
    for step in STEPS {
        let mut ground = Ground::on(ServerOptions::hooked().data_dir(data.path()));
        let load = Load::writes_on(&ground.server, CRASH_SAFE, 7);
        let stepped = held_at(ground.backup(), step);
        ground.server.kill();
        load.stop();
        let outcome = stepped.outcome();
        assert_failed(&outcome, exit::SERVER, &["server|lost"]);
        assert_nothing_in(ground.home.path());
        let next = Ground::on(ServerOptions::hooked().data_dir(data.path()));
        let next_load = Load::writes_on(&next.server, CRASH_SAFE, 8);
        let mut next = next;
        next.assert_unharmed(next_load, &format!("Server killed at {step}"));
    }
}

#[test]
fn a_killed_controller_is_recovered_from_at_every_step() {
    let mut ground = Ground::new();
    for (number, step) in STEPS.into_iter().enumerate() {
        let load = Load::writes(&ground.server, 9);
        let mut stepped = held_at(ground.backup(), step);
        stepped.run().kill();
        load.wait_for_statements(200);
        assert_no_backup_in(ground.home.path());
        if number % 2 == 0 {
            ground.program.on_server("recover").success();
            let report = load.stop_cleanly();
            println!(
                "Controller killed at {step}: longest stall of a writer {:?}",
                report.longest_stall
            );
            traces::assert_none(&ground.server, &ground.program, ground.home.path(), &[]);
            // It finds nothing more to do.
            ground.program.on_server("recover").success();
            ground.backup().success();
            ground.remove_backup();
        } else {
            // The next backup does it by itself.
            ground.backup().success();
            ground.remove_backup();
            ground.assert_unharmed(load, &format!("Controller killed at {step}, no recover"));
        }
    }
}

#[test]
fn a_lost_connection_ends_the_backup_at_every_step() {
    let mut ground = Ground::new();
    ground.server.execute(&[
        "CREATE USER backup@localhost IDENTIFIED BY 'b'",
        "GRANT ALL ON *.* TO backup@localhost",
    ]);
    for step in EARLY_STEPS {
        let load = Load::writes(&ground.server, 10);
        let program = ground.program.as_user("backup", "b");
        let stepped = held_at(program.backup(&ground.target()), step);
        kill_connections(&ground.server);
        work_on(&load, step);
        let outcome = stepped.outcome();
        if outcome.code == Some(0) {
            // A connection that is lost before anything hangs on it may be made again.
            ground.remove_backup();
        } else {
            assert_failed(&outcome, exit::SERVER, &["connection"]);
        }
        ground.assert_unharmed(load, &format!("Connection lost at {step}"));
    }
}

/// Ends the connections of the backup.
fn kill_connections(server: &Server) {
    let mut conn = server.conn();
    let query = "SELECT id FROM information_schema.processlist WHERE user = 'backup'";
    let ids: Vec<u64> = conn.query(query).expect("The connections");
    assert!(!ids.is_empty(), "The program has no connection");
    for id in ids {
        conn.query_drop(format!("KILL {id}"))
            .expect("A connection can be ended");
    }
}

#[test]
fn a_lock_that_another_session_keeps_ends_the_backup_in_time() {
    let mut ground = Ground::new();
    for lock in [
        "LOCK TABLES load_test.w_myisam_0 WRITE",
        "BACKUP STAGE START",
    ] {
        Load::writes(&ground.server, 11).stop_cleanly();
        let mut rival = ground.server.conn();
        rival
            .query_drop(lock)
            .unwrap_or_else(|e| panic!("{lock}: {e}"));
        let outcome = ground.backup().arg("--lock-timeout=2").outcome();
        assert_failed(&outcome, exit::LOCK_TIMEOUT, &["lock", "2"]);
        drop(rival);
        let load = Load::writes(&ground.server, 12);
        ground.assert_unharmed(load, &format!("{lock} by another session"));
    }
}

#[test]
fn a_signal_ends_the_backup_in_order_at_every_step() {
    let mut ground = Ground::new();
    for step in STEPS {
        for wanted in [Signal::TERM, Signal::INT] {
            let load = Load::writes(&ground.server, 13);
            // A shell has SIGINT ignored in what it starts in the background, tests too.
            let run = ground.backup().by(&["env", "--default-signal=INT,TERM"]);
            let mut stepped = held_at(run, step);
            signal(stepped.run().pid(), wanted);
            let outcome = stepped.outcome();
            if step == "finish" && outcome.code == Some(0) {
                ground.remove_backup();
            } else {
                assert_failed(&outcome, exit::CANCELLED, &[]);
            }
            ground.assert_unharmed(load, &format!("{wanted:?} at {step}"));
        }
    }
}

#[test]
fn a_signal_that_was_ignored_from_the_start_ends_nothing() {
    let ground = Ground::new();
    let mut stepped = held_at(ground.backup().by(&["nohup"]), STEPS[0]);
    signal(stepped.run().pid(), Signal::HUP);
    let outcome = stepped.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

/// Statements of the cut, in order, and whether commits are held once they are answered.
const LOCK_STATEMENTS: [(&str, bool); 5] = [
    ("BACKUP STAGE START", false),
    ("BACKUP STAGE FLUSH", false),
    ("BACKUP STAGE BLOCK_DDL", false),
    ("BACKUP STAGE BLOCK_COMMIT", true),
    ("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", true),
];

/// Starts a backup and holds it behind a statement of the cut.
fn held_behind(
    ground: &Ground,
    program: &Program,
    statement: &str,
    holds: bool,
) -> (Spawned, Proxy) {
    let proxy = Proxy::start(&ground.server, statement);
    let run = program.at_socket(proxy.socket()).backup(&ground.target());
    let run = run.spawn(Stdio::null());
    proxy.wait_until_held();
    let mut conn = ground.server.conn();
    conn.query_drop("SET SESSION lock_wait_timeout = 1")
        .expect("A timeout");
    let commit = conn.query_drop("REPLACE INTO load_test.w_innodb_0 (id, n) VALUES (1, 1)");
    assert_eq!(
        commit.is_err(),
        holds,
        "A commit behind {statement}: {commit:?}"
    );
    (run, proxy)
}

#[test]
fn a_controller_killed_behind_any_statement_of_the_cut_leaves_no_lock() {
    let mut ground = Ground::new();
    for (statement, holds) in LOCK_STATEMENTS {
        let load = Load::writes(&ground.server, 14);
        let (mut run, _proxy) = held_behind(&ground, &ground.program, statement, holds);
        run.kill();
        load.wait_for_statements(100);
        ground.program.on_server("recover").success();
        ground.assert_unharmed(load, &format!("Controller killed behind {statement}"));
    }
}

#[test]
fn a_connection_lost_behind_any_statement_of_the_cut_gives_no_backup() {
    let mut ground = Ground::new();
    ground.server.execute(&[
        "CREATE USER backup@localhost IDENTIFIED BY 'b'",
        "GRANT ALL ON *.* TO backup@localhost",
    ]);
    let program = ground.program.as_user("backup", "b");
    for (statement, holds) in LOCK_STATEMENTS {
        let load = Load::writes(&ground.server, 15);
        let (run, proxy) = held_behind(&ground, &program, statement, holds);
        kill_connections(&ground.server);
        // The lock is gone, and what is committed now is not what the position would say.
        load.wait_for_statements(100);
        proxy.release();
        assert_failed(&run.outcome(), exit::SERVER, &["connection", "lost"]);
        ground.assert_unharmed(load, &format!("Connection lost behind {statement}"));
    }
}

#[test]
fn a_controller_cancelled_behind_any_statement_of_the_cut_leaves_no_lock() {
    let mut ground = Ground::new();
    for (statement, holds) in LOCK_STATEMENTS {
        let load = Load::writes(&ground.server, 16);
        let (run, proxy) = held_behind(&ground, &ground.program, statement, holds);
        signal(run.pid(), Signal::TERM);
        proxy.release();
        assert_failed(&run.outcome(), exit::CANCELLED, &[]);
        ground.assert_unharmed(load, &format!("SIGTERM behind {statement}"));
    }
}

#[test]
fn no_writer_is_held_before_the_cut() {
    let mut ground = Ground::new();
    let load = Load::writes(&ground.server, 17);
    let stepped = held_at(ground.backup(), "payload");
    for engine in ground.server.flavor().engines() {
        let mut conn = ground.server.conn();
        for statement in [
            "SET SESSION lock_wait_timeout = 3".into(),
            format!(
                "REPLACE INTO load_test.w_{}_0 (id, n) VALUES (1, 1)",
                engine.to_lowercase()
            ),
        ] {
            conn.query_drop(&statement)
                .unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
    }
    assert_eq!(stepped.outcome().code, Some(0));
    ground.remove_backup();
    ground.assert_unharmed(load, "Held at the payload phase");
}
