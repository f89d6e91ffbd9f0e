//! Backups of replicas: the positions of every channel, and no cut between the statements of a temporary table.
//!
//! Rule: a second replica made from what the first one's backup recorded ends up equal to the sources. A channel's position that is one statement off, or a temporary
//! table that the copy does not have, stops its applier.

use hotmirror_tests::channels::{Ground, Rounds, forget, options_of};
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::skip::long;
use hotmirror_tests::{checksums, scratch};

const MARIADB: &str = "mariadb-10.11";
const MYSQL: &str = "mysql-9.7";

/// Siblings made from backups with `option` under these loads end up equal to the sources.
fn siblings_equal(ground: &Ground, loads: Vec<Rounds>, option: &str, backups: u32) {
    let homes: Vec<_> = (0..backups).map(|_| scratch::dir()).collect();
    for home in &homes {
        let target = home.path().join("backup");
        ground.program().backup(&target).arg(option).success();
        ground.assert_all_run();
    }
    let siblings: Vec<Server> = homes
        .iter()
        .zip(100..)
        .map(|(home, id)| ground.sibling(&home.path().join("backup"), id))
        .collect();
    loads.into_iter().for_each(Rounds::stop);
    ground.assert_equals_sources(&ground.replica, "The replica");
    for (number, sibling) in siblings.iter().enumerate() {
        ground.assert_equals_sources(sibling, &format!("Sibling {number}"));
    }
}

/// Under load with temporary tables.
fn siblings_equal_their_sources(server: &str, channels: &'static [&'static str], backups: u32) {
    let ground = Ground::new(server, channels);
    siblings_equal(&ground, ground.loads(), "--safe-slave", backups);
}

#[test]
fn a_sibling_of_a_mariadb_replica_equals_the_source() {
    siblings_equal_their_sources(MARIADB, &[""], if long() { 10 } else { 2 });
}

#[test]
fn a_sibling_of_a_mariadb_replica_with_named_connections_equals_the_sources() {
    siblings_equal_their_sources(MARIADB, &["one", "two"], if long() { 10 } else { 2 });
}

#[test]
fn a_sibling_of_a_mysql_replica_equals_the_source() {
    siblings_equal_their_sources(MYSQL, &[""], if long() { 10 } else { 2 });
}

#[test]
fn a_sibling_of_a_mysql_replica_with_two_channels_equals_the_sources() {
    siblings_equal_their_sources(MYSQL, &["one", "two"], if long() { 10 } else { 2 });
}

/// A lock alone is not enough: an applier's position and its data are two things, and those of parallel workers lie apart.
fn siblings_made_under_a_lock_equal_the_source(
    server: &str,
    options: &'static [&'static str],
    lock: &str,
) {
    let ground = Ground::with_options(server, &[""], options);
    let inserts = |number| Rounds::inserts(&ground.sources[0], &format!("inserts_{number}"));
    let (loads, lock) = ((0..3).map(inserts).collect(), format!("--lock={lock}"));
    siblings_equal(&ground, loads, &lock, if long() { 10 } else { 3 });
}

#[test]
fn a_sibling_of_a_mariadb_replica_made_under_a_lock_equals_the_source() {
    siblings_made_under_a_lock_equal_the_source(MARIADB, &[], "backup-stage");
}

/// With GTIDs, a sibling would leave out what it has executed already, wherever it begins.
#[test]
fn a_sibling_of_a_mysql_replica_with_parallel_workers_made_under_a_lock_equals_the_source() {
    const OPTIONS: &[&str] = &["--gtid-mode=OFF", "--replica-parallel-workers=4"];
    siblings_made_under_a_lock_equal_the_source(MYSQL, OPTIONS, "ftwrl");
}

/// A replica of the replica, from its own binlog's position.
fn a_child_equals_the_source(server: &str) {
    let ground = Ground::new(server, &[""]);
    let loads = ground.loads();
    let home = scratch::dir();
    let target = home.path().join("backup");
    ground
        .program()
        .backup(&target)
        .arg("--safe-slave")
        .success();
    let info = std::fs::read_to_string(target.join("hotmirror_binlog_info")).expect("A position");
    let position = Position::parse(&info).expect("A position");
    let flavor = ground.replica.flavor();
    let start = ServerOptions::plain()
        .flavor(flavor)
        .data_dir(&target.join("data"))
        .server_id(50);
    let child = options_of(start, flavor, 50).start();
    forget(&child, "");
    replica::follow(&child, &ground.replica, &position, By::Gtid);
    loads.into_iter().for_each(Rounds::stop);
    ground.assert_equals_sources(&ground.replica, "The replica");
    replica::catch_up(&child, &ground.replica, By::Gtid).unwrap();
    checksums::assert_equal(&ground.sources[0], &child, "The replica's replica");
}

#[test]
fn a_replica_of_a_mariadb_replica_equals_the_source() {
    a_child_equals_the_source(MARIADB);
}

#[test]
fn a_replica_of_a_mysql_replica_equals_the_source() {
    a_child_equals_the_source(MYSQL);
}
