//! Every server that scripts/servers brings: starts with the library in it, is backed up with its default I/O, and a replica of the copy equals it.
//!
//! Rule: what is proven on MariaDB 10.11 by the suites `golden` and `position` holds for each of these by the same means.

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::load::Load;
use hotmirror_tests::program::Program;
use hotmirror_tests::proof::{Plan, cuts_are_golden, replicas_equal_their_source, start_copy};
use hotmirror_tests::replica::By;
use hotmirror_tests::scratch;
use hotmirror_tests::server::ServerOptions;
use hotmirror_tests::skip::long;
use hotmirror_tests::steps::Stepped;
use mysql::prelude::Queryable;
use serde_json::Value;

const MYSQL_5: &str = "mysql-5.6";
const MARIADB: &str = "mariadb-11.8";

#[test]
fn mysql_is_backed_up_without_a_lock_and_its_replicas_equal_it() {
    replicas_equal_their_source(&Plan::mysql(), if long() { 20 } else { 3 });
}

#[test]
fn a_cut_of_mysql_is_the_source_byte_by_byte() {
    cuts_are_golden(&Plan::mysql(), if long() { 50 } else { 4 });
}

#[test]
fn mysql_that_flushes_once_a_second_has_its_position_all_the_same() {
    let plan = Plan::mysql().with(&["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"]);
    replicas_equal_their_source(&plan, if long() { 20 } else { 2 });
}

#[test]
fn mysql_tables_without_transactions_are_held_by_a_read_lock() {
    let plan = Plan {
        engines: Some(&["InnoDB", "MyISAM"]),
        lock: "ftwrl",
        ..Plan::mysql()
    };
    replicas_equal_their_source(&plan, if long() { 10 } else { 1 });
    cuts_are_golden(&plan, if long() { 10 } else { 2 });
}

#[test]
fn mysql_without_gtids_is_followed_by_file_and_offset() {
    let plan = Plan {
        ways: &[By::FileAndOffset],
        ..Plan::mysql().with(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"])
    };
    replicas_equal_their_source(&plan, if long() { 10 } else { 1 });
}

#[test]
fn mysql_5_is_held_by_a_read_lock_and_its_replica_equals_it() {
    let plan = Plan {
        server: MYSQL_5,
        options: Vec::new(),
        ways: &[By::FileAndOffset],
        engines: Some(&["InnoDB", "MyISAM"]),
        lock: "ftwrl",
    };
    replicas_equal_their_source(&plan, if long() { 10 } else { 1 });
    cuts_are_golden(&plan, if long() { 10 } else { 2 });
}

#[test]
fn a_temporary_table_of_mysql_5_that_is_made_during_a_backup_is_none_of_its_files() {
    let server = ServerOptions::hooked()
        .flavor(&Flavor::named(MYSQL_5))
        .start();
    let home = scratch::dir();
    let backup = Stepped::start(Program::for_server(&server).backup(&home.path().join("backup")));
    assert!(backup.run_to(|event| event["phase"] == "base_copy"));
    let mut session = server.conn();
    for statement in [
        "CREATE DATABASE passing",
        "CREATE TEMPORARY TABLE passing.t (a INT) ENGINE = InnoDB",
    ] {
        session.query_drop(statement).unwrap();
    }
    let outcome = backup.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

fn mariadb_with_rocksdb() -> Plan {
    Plan {
        server: MARIADB,
        options: Vec::new(),
        ways: &[By::Gtid, By::FileAndOffset],
        engines: Some(&["InnoDB", "Aria", "MyISAM", "ROCKSDB"]),
        lock: "backup-stage",
    }
    .with(&["--plugin-load-add=ha_rocksdb", "--plugin-maturity=unknown"])
}

#[test]
fn the_next_mariadb_is_backed_up_in_full_with_rocksdb() {
    let plan = mariadb_with_rocksdb();
    replicas_equal_their_source(&plan, if long() { 20 } else { 2 });
    cuts_are_golden(&plan, if long() { 50 } else { 3 });
}

#[test]
fn engines_that_flush_once_a_second_are_brought_to_the_position() {
    let plan = mariadb_with_rocksdb().with(&[
        "--rocksdb-flush-log-at-trx-commit=0",
        "--innodb-flush-log-at-trx-commit=0",
        "--sync-binlog=0",
    ]);
    replicas_equal_their_source(&plan, if long() { 20 } else { 2 });
}

/// Its provider holds a file of the data directory mapped for writing as long as it runs.
#[test]
fn a_galera_node_is_backed_up() {
    let options = [
        "--wsrep-on=ON",
        "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
        "--wsrep-cluster-address=gcomm://",
        "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:9567;gcache.size=16M",
        "--wsrep-node-address=127.0.0.1:9567",
    ];
    let start = ServerOptions::hooked().flavor(&Flavor::named("mariadb-10.11"));
    let server = options
        .into_iter()
        .fold(start, |start, option| start.option(option))
        .start();
    // No DDL: while a backup holds it, Galera refuses it.
    let load = Load::writes_on(&server, &["InnoDB"], 41);
    load.wait_for_statements(200);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let backup = Program::for_server(&server).backup(&target);
    let manifest = backup.arg("--test-freeze-at-cut").success().manifest();
    assert_eq!(manifest["golden"]["differences"], Value::Array(Vec::new()));
    load.stop_cleanly();
    assert!(server.data_dir().join("galera.cache").exists());
    assert!(!target.join("data/galera.cache").exists());
    start_copy(&server, &target.join("data"), 12, &[]);
}

/// Every combination of these settings, or in the ordinary run two that differ in all of them.
fn binlog_settings() -> Vec<[&'static str; 3]> {
    if !long() {
        return vec![
            [
                "STATEMENT",
                "--sync-binlog=0",
                "--innodb-flush-log-at-trx-commit=2",
            ],
            [
                "MIXED",
                "--sync-binlog=1",
                "--innodb-flush-log-at-trx-commit=0",
            ],
        ];
    }
    let mut settings = Vec::new();
    for format in ["ROW", "STATEMENT", "MIXED"] {
        for sync in ["--sync-binlog=0", "--sync-binlog=1"] {
            for flush in [
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-log-at-trx-commit=1",
                "--innodb-flush-log-at-trx-commit=2",
            ] {
                settings.push([format, sync, flush]);
            }
        }
    }
    settings
}

#[test]
fn mysql_has_its_position_however_it_writes_its_logs() {
    let gtid_off = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];
    for (number, [format, sync, flush]) in binlog_settings().into_iter().enumerate() {
        let options = [&format!("--binlog-format={format}"), sync, flush];
        println!("{options:?}");
        let plan = Plan::mysql().with(&options);
        let without_gtids = Plan {
            ways: &[By::FileAndOffset],
            ..Plan::mysql().with(&options).with(&gtid_off)
        };
        if long() || number == 0 {
            replicas_equal_their_source(&plan, 1);
        }
        if long() || number == 1 {
            replicas_equal_their_source(&without_gtids, 1);
        }
    }
}

#[test]
fn mariadb_has_its_position_however_it_writes_its_logs() {
    for [format, sync, flush] in binlog_settings() {
        let options = [&format!("--binlog-format={format}"), sync, flush];
        println!("{options:?}");
        let plan = Plan::mariadb().with(&options);
        replicas_equal_their_source(&plan, 1);
    }
}
