//! Appliers of a replica that is backed up: stopped when they have no temporary table open, and put back as they were.
//!
//! Rule: whatever ends a backup, an applier that ran runs in the end, and one that did not does not.

use std::process::Stdio;
use std::time::Duration;

use hotmirror_tests::channels::{Ground, prepare, run};
use hotmirror_tests::proxy::Proxy;
use hotmirror_tests::replica::{self, By};
use hotmirror_tests::{program, scratch, traces};

const MARIADB: &str = "mariadb-10.11";
const MYSQL: &str = "mysql-9.7";

/// With a temporary table that stays open, a backup fails in time or goes on with a warning; appliers are as before either way.
fn an_open_table_is_noticed(server: &str) {
    let ground = Ground::new(server, &[""]);
    let source = &ground.sources[0];
    let mut conn = source.conn();
    prepare(&mut conn, "temp_0");
    run(
        &mut conn,
        "CREATE TEMPORARY TABLE temp_0.long_lived (v INT)",
    );
    run(&mut conn, "INSERT INTO temp_0.kept VALUES (1)");
    let caught_up = || replica::catch_up(&ground.replica, source, By::FileAndOffset).unwrap();
    caught_up();

    let home = scratch::dir();
    let safe = |name: &str| {
        let target = home.path().join(name);
        ground
            .program()
            .backup(&target)
            .arg("--safe-slave")
            .arg("--safe-slave-timeout=1")
    };
    safe("fails")
        .outcome()
        .assert_failed(18, &["1 temporary tables open", "1 s"]);
    assert!(!home.path().join("fails").exists());
    ground.assert_all_run();

    let outcome = safe("goes-on")
        .arg("--safe-slave-timeout-action=proceed")
        .success();
    let warnings = outcome.manifest()["warnings"].to_string();
    assert!(warnings.contains("temporary tables"), "{warnings}");
    ground.assert_all_run();

    let stop = match server {
        MARIADB => "STOP SLAVE SQL_THREAD",
        _ => "STOP REPLICA SQL_THREAD",
    };
    ground.replica.execute(&[stop]);
    safe("stopped")
        .outcome()
        .assert_failed(18, &["no applier runs"]);
    assert_eq!(
        ground.appliers()[0].1,
        "No",
        "Whoever stopped it wants it stopped"
    );
}

#[test]
fn an_open_temporary_table_on_a_mariadb_replica_is_noticed() {
    an_open_table_is_noticed(MARIADB);
}

#[test]
fn an_open_temporary_table_on_a_mysql_replica_is_noticed() {
    an_open_table_is_noticed(MYSQL);
}

/// A channel that was stopped before stays stopped, another one runs on.
fn a_stopped_channel_stays_stopped(server: &str, stop: &str) {
    let ground = Ground::new(server, &["one", "two"]);
    ground.replica.execute(&[stop]);
    let home = scratch::dir();
    ground
        .program()
        .backup(&home.path().join("backup"))
        .arg("--safe-slave")
        .success();
    let expected = [("one", "No"), ("two", "Yes")].map(|(name, runs)| (name.into(), runs.into()));
    assert_eq!(ground.appliers(), expected);
}

#[test]
fn a_stopped_connection_of_mariadb_stays_stopped() {
    a_stopped_channel_stays_stopped(MARIADB, "STOP SLAVE 'one' SQL_THREAD");
}

#[test]
fn a_stopped_channel_of_mysql_stays_stopped() {
    a_stopped_channel_stays_stopped(MYSQL, "STOP REPLICA SQL_THREAD FOR CHANNEL 'one'");
}

/// Killed behind any statement of a cut, the controller leaves an applier stopped until `recover` or the next backup starts it.
fn a_killed_controller_leaves_no_applier_stopped(server: &str, statements: &[&str]) {
    let ground = Ground::new(server, &[""]);
    let home = scratch::dir();
    for (number, statement) in statements.iter().enumerate() {
        let proxy = Proxy::start(&ground.replica, statement);
        let target = home.path().join("killed");
        let program = ground.program().at_socket(proxy.socket());
        let mut run = program
            .backup(&target)
            .arg("--safe-slave")
            .spawn(Stdio::null());
        proxy.wait_until_held();
        run.kill();
        let is_stopped = !statement.starts_with("START");
        assert_eq!(
            ground.appliers()[0].1 == "No",
            is_stopped,
            "Behind {statement}"
        );
        drop(proxy);
        if number % 2 == 0 {
            ground.program().on_server("recover").success();
            ground.assert_all_run();
        }
        let target = home.path().join(number.to_string());
        ground
            .program()
            .backup(&target)
            .arg("--safe-slave")
            .success();
        ground.assert_all_run();
        std::fs::remove_dir_all(&target).expect("A removal");
        traces::assert_none(&ground.replica, &ground.program(), home.path(), &[]);
    }
}

#[test]
fn a_killed_controller_leaves_no_mariadb_applier_stopped() {
    let statements = [
        "STOP SLAVE '' SQL_THREAD",
        "BACKUP STAGE START",
        "BACKUP STAGE BLOCK_COMMIT",
        "BACKUP STAGE END",
        "START SLAVE '' SQL_THREAD",
    ];
    a_killed_controller_leaves_no_applier_stopped(MARIADB, &statements);
}

#[test]
fn a_killed_controller_leaves_no_mysql_applier_stopped() {
    let statements = [
        "STOP REPLICA SQL_THREAD FOR CHANNEL ''",
        "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS",
        "START REPLICA SQL_THREAD FOR CHANNEL ''",
    ];
    a_killed_controller_leaves_no_applier_stopped(MYSQL, &statements);
}

/// MySQL ends a STOP after `rpl_stop_replica_timeout`, and the applier stops all the same, when its event group is over: behind the START of the backup that failed of it.
#[test]
fn a_mysql_applier_whose_stop_was_given_up_runs_in_the_end() {
    let ground = Ground::new(MYSQL, &[""]);
    let source = &ground.sources[0];
    let mut conn = source.conn();
    prepare(&mut conn, "held");
    run(&mut conn, "INSERT INTO held.kept VALUES (1)");
    replica::catch_up(&ground.replica, source, By::FileAndOffset).unwrap();
    ground
        .replica
        .execute(&["SET GLOBAL rpl_stop_replica_timeout = 2"]);

    let mut holder = ground.replica.conn();
    run(&mut holder, "BEGIN");
    run(&mut holder, "UPDATE held.kept SET v = 2");
    run(&mut conn, "UPDATE held.kept SET v = 3");
    let waits = "SELECT COUNT(*) FROM performance_schema.data_lock_waits";
    while ground.replica.value(waits) != "1" {
        std::thread::sleep(Duration::from_millis(10));
    }

    let home = scratch::dir();
    let outcome = ground
        .program()
        .backup(&home.path().join("backup"))
        .arg("--safe-slave")
        .arg("--safe-slave-timeout=3")
        .outcome();
    outcome.assert_failed(18, &["still has not after", "hotmirror recover"]);
    run(&mut holder, "ROLLBACK");
    ground.program().on_server("recover").success();
    ground.assert_all_run();
    replica::catch_up(&ground.replica, source, By::FileAndOffset).unwrap();
    traces::assert_none(&ground.replica, &ground.program(), home.path(), &[]);
}

/// Somebody starts an applier that was stopped for the cut: what it has done when its position is read is not what the backup has. That cut is not the last.
#[test]
fn an_applier_that_is_started_before_the_cut_is_stopped_for_another() {
    let ground = Ground::new(MYSQL, &[""]);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let proxy = Proxy::start(&ground.replica, "STOP REPLICA SQL_THREAD");
    let program = ground.program().at_socket(proxy.socket());
    let run = program.backup(&target).arg("--safe-slave");
    let run = run.spawn(Stdio::null());
    proxy.wait_until_held();
    ground.replica.execute(&["START REPLICA SQL_THREAD"]);
    proxy.release();
    let outcome = run.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let manifest = program::manifest(&target).expect("The manifest");
    assert_eq!(manifest["channels"][0]["applier_running"], false);
    ground.assert_all_run();
}
