//! The position under every setting that decides how a transaction gets into the binlog and onto disk.
//!
//! Rule: whatever the settings, the recorded position is exactly that of the copy: its replica catches up under load and ends up equal to the source. The ordinary
//! run takes a sample in which each value of each setting comes up; the long run takes all of them.

use std::path::Path;

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::load::Load;
use hotmirror_tests::program::Program;
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::skip::long;
use hotmirror_tests::{checksums, scratch};

#[derive(Clone, Copy, Debug)]
struct Settings {
    binlog_format: &'static str,
    sync_binlog: u8,
    trx_commit: u8,
}

fn all() -> Vec<Settings> {
    let mut all = Vec::new();
    for binlog_format in ["ROW", "STATEMENT", "MIXED"] {
        for sync_binlog in [0, 1] {
            for trx_commit in [0, 1, 2] {
                all.push(Settings {
                    binlog_format,
                    sync_binlog,
                    trx_commit,
                });
            }
        }
    }
    all
}

fn sample() -> Vec<Settings> {
    let settings = |binlog_format, sync_binlog, trx_commit| Settings {
        binlog_format,
        sync_binlog,
        trx_commit,
    };
    vec![
        settings("STATEMENT", 0, 0),
        settings("MIXED", 1, 2),
        settings("ROW", 0, 1),
    ]
}

/// Sets them on the running server; connections made afterwards have them.
fn set(server: &Server, settings: Settings) {
    server.execute(&[
        &format!("SET GLOBAL binlog_format = {}", settings.binlog_format),
        &format!("SET GLOBAL sync_binlog = {}", settings.sync_binlog),
        &format!(
            "SET GLOBAL innodb_flush_log_at_trx_commit = {}",
            settings.trx_commit
        ),
    ]);
}

fn position_of(target: &Path) -> Position {
    let line = std::fs::read_to_string(target.join("hotmirror_binlog_info")).expect("The position");
    Position::parse(&line).unwrap_or_else(|| panic!("{line:?} is no position"))
}

fn positions_are_right(flavor: &str, options: &[&str], ways: &[By]) {
    let flavor = Flavor::named(flavor);
    let with = |start: ServerOptions| {
        let start = start.flavor(&flavor);
        options
            .iter()
            .fold(start, |start, option| start.option(*option))
    };
    let source = with(ServerOptions::hooked()).start();
    let program = Program::for_server(&source);
    let settings = if long() { all() } else { sample() };
    for (number, settings) in settings.into_iter().enumerate() {
        set(&source, settings);
        let home = scratch::dir();
        let target = home.path().join("backup");
        let load = Load::mixed(&source, number as u64 + 1);
        program.backup(&target).success();
        load.wait_for_statements(100);
        let position = position_of(&target);
        let by = ways[number % ways.len()];
        let what = format!(
            "{} {options:?} {settings:?} by {by:?} from {position:?}",
            flavor.name
        );
        let copy = with(ServerOptions::plain())
            .data_dir(&target.join("data"))
            .server_id(2)
            .start();
        replica::follow(&copy, &source, &position, by);
        let report = load.stop_cleanly();
        replica::catch_up(&copy, &source, by).unwrap_or_else(|e| panic!("{what}: {e}"));
        let tables = checksums::assert_equal(&source, &copy, &what);
        println!(
            "{what}: {tables} tables are equal after {} statements",
            report.statements
        );
    }
}

#[test]
fn a_mariadbs_position_is_right_under_every_setting() {
    positions_are_right("mariadb-10.11", &[], &[By::Gtid, By::FileAndOffset]);
}

#[test]
fn the_next_mariadbs_position_is_right_under_every_setting() {
    positions_are_right("mariadb-11.8", &[], &[By::Gtid, By::FileAndOffset]);
}

#[test]
fn a_mysqls_position_is_right_with_gtids() {
    let options = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
    positions_are_right("mysql-9.7", &options, &[By::Gtid, By::FileAndOffset]);
}

#[test]
fn a_mysqls_position_is_right_without_gtids() {
    let options = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];
    positions_are_right("mysql-9.7", &options, &[By::FileAndOffset]);
}
