//! Position: a replica that starts from a backup at its recorded position ends up equal to the source.
//!
//! Rule: the position is that of the copy, exactly. A commit too many in either shows as a duplicate key, a missing row or a
//! checksum that differs, because the load goes on before, during and after the cut.

use std::path::Path;

use hotmirror_tests::load::Load;
use hotmirror_tests::program::Program;
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::skip::long;
use hotmirror_tests::{checksums, scratch};

const DURABLE: &[&str] = &[];
const NOT_DURABLE: &[&str] = &["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"];

fn position_of(target: &Path) -> Position {
    let path = target.join("hotmirror_binlog_info");
    let line = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Position::parse(&line).unwrap_or_else(|| panic!("{} reads {line:?}", path.display()))
}

fn start_replica(source: &Server, data: &Path, position: &Position, by: By, id: u32) -> Server {
    let replica = ServerOptions::plain().data_dir(data).server_id(id).start();
    replica::follow(&replica, source, position, by);
    replica
}

fn replicas_equal_their_source(options: &[&str], backups: u64) {
    let mut server = ServerOptions::hooked();
    for option in options {
        server = server.option(*option);
    }
    let source = server.start();
    let program = Program::for_server(&source);
    for number in 1..=backups {
        let home = scratch::dir();
        let target = home.path().join("backup");
        let load = Load::mixed(&source, number);
        program.backup(&target).success();
        load.wait_for_statements(200);
        let second = home.path().join("second");
        scratch::copy(&target.join("data"), &second);
        let position = position_of(&target);
        let replicas = [
            (
                By::Gtid,
                start_replica(&source, &target.join("data"), &position, By::Gtid, 2),
            ),
            (
                By::FileAndOffset,
                start_replica(&source, &second, &position, By::FileAndOffset, 3),
            ),
        ];
        let report = load.stop_cleanly();
        for (by, replica) in &replicas {
            let what = format!("Backup {number}, replica by {by:?} from {position:?}");
            replica::catch_up(replica, &source, *by).unwrap_or_else(|e| panic!("{what}: {e}"));
            checksums::assert_equal(&source, replica, &what);
            checksums::assert_tables_in_order(replica, &what);
        }
        println!("Backup {number} at {position:?}: {report:?}");
    }
}

#[test]
fn replicas_of_a_durable_source_catch_up_and_equal_it() {
    replicas_equal_their_source(DURABLE, if long() { 20 } else { 3 });
}

#[test]
fn replicas_of_a_source_that_flushes_once_a_second_catch_up_and_equal_it() {
    replicas_equal_their_source(NOT_DURABLE, if long() { 20 } else { 3 });
}
