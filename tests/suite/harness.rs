//! The harness itself, on a server without the library: what it reports about servers, load and replicas is true.
//!
//! Rule: whatever the other suites rely on to notice a fault is seen noticing one here.

use hotmirror_tests::load::Load;
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::ServerOptions;
use hotmirror_tests::{checksums, scratch};

#[test]
fn a_server_serves_and_goes_away_with_its_handle() {
    let server = ServerOptions::plain().start();
    let pid = server.pid();
    assert_eq!(server.value("SELECT 1 + 1"), "2");
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_replica_of_a_cold_copy_equals_its_source_and_a_changed_row_is_noticed() {
    let mut source = ServerOptions::plain().start();
    Load::mixed(&source, 1).stop_cleanly();
    let position = Position::of(&source);
    assert!(source.shut_down().success());
    let (gtid_dir, offset_dir) = (scratch::dir(), scratch::dir());
    for dir in [&gtid_dir, &offset_dir] {
        scratch::copy(source.data_dir(), dir.path());
    }
    let kept = scratch::dir();
    scratch::copy(source.data_dir(), kept.path());
    drop(source);

    let source = ServerOptions::plain().data_dir(kept.path()).start();
    let load = Load::mixed(&source, 2);
    let replicas = [
        (&gtid_dir, By::Gtid, 2),
        (&offset_dir, By::FileAndOffset, 3),
    ]
    .map(|(dir, by, id)| {
        let replica = ServerOptions::plain()
            .data_dir(dir.path())
            .server_id(id)
            .start();
        replica::follow(&replica, &source, &position, by);
        load.wait_for_statements(200);
        (replica, by)
    });
    let report = load.stop_cleanly();
    assert!(report.ddl_statements > 0, "{report:?}");
    for (replica, by) in &replicas {
        replica::catch_up(replica, &source, *by).unwrap_or_else(|e| panic!("{by:?}: {e}"));
        checksums::assert_equal(&source, replica, "The replica");
        checksums::assert_tables_in_order(replica, "The replica");
        let table = &checksums::user_tables(replica)[0];
        replica.execute(&["STOP SLAVE", &format!("DELETE FROM {table}")]);
        let (theirs, ours) = (checksums::checksums(&source), checksums::checksums(replica));
        assert_ne!(theirs, ours, "A deleted row goes unnoticed");
    }
}

#[test]
fn a_load_reports_the_statements_that_a_killed_server_failed() {
    let mut server = ServerOptions::plain().start();
    let load = Load::writes(&server, 3);
    server.kill();
    let report = load.stop();
    assert!(!report.errors.is_empty(), "{report:?}");
}
