//! Golden test: the server is frozen at the cut, and what the backup holds is compared with what the server's files hold then.
//!
//! Rule: not one byte and not one name differs, whatever the load did just before the cut; and the load did something, or the
//! test would prove nothing.

use hotmirror_tests::load::Load;
use hotmirror_tests::program::Program;
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::skip::long;
use hotmirror_tests::{checksums, scratch};
use serde_json::Value;

/// Backs up under mixed load, `cuts` times; starts every `start_every`th copy.
fn cuts_are_golden(server: &Server, cuts: u64, start_every: u64) {
    let program = Program::for_server(server);
    let load = Load::mixed(server, cuts);
    let mut changes = 0;
    for cut in 1..=cuts {
        load.wait_for_statements(100);
        let home = scratch::dir();
        let target = home.path().join("backup");
        let run = program.backup(&target).arg("--test-freeze-at-cut");
        let outcome = run.arg(format!("--throttle={}", throttle(cut))).success();
        let manifest = outcome.manifest();
        changes += assert_golden(&manifest, cut);
        if cut % start_every == 0 {
            let copy = ServerOptions::plain()
                .data_dir(&target.join("data"))
                .server_id(9)
                .start();
            checksums::assert_tables_in_order(&copy, &format!("The copy of cut {cut}"));
        }
    }
    let report = load.stop_cleanly();
    println!("{cuts} cuts, {changes} changes after their copy, {report:?}");
    assert!(report.ddl_statements > 0, "{report:?}");
    checksums::assert_tables_in_order(server, "The source");
}

/// Every other backup is slow, so that much happens between the copy of a file and the cut; but faster than the load writes, or it would not end.
fn throttle(cut: u64) -> &'static str {
    if cut.is_multiple_of(2) { "250M" } else { "0" }
}

/// Gives the number of changes that the backup had to take from the log.
fn assert_golden(manifest: &Value, cut: u64) -> u64 {
    let golden = &manifest["golden"];
    assert_eq!(golden["differences"], Value::Array(Vec::new()), "Cut {cut}");
    let number = |value: &Value| {
        value
            .as_u64()
            .unwrap_or_else(|| panic!("No number: {manifest:#}"))
    };
    assert!(number(&golden["files"]) > 100, "Cut {cut}: {golden}");
    assert!(number(&golden["bytes"]) > 1 << 20, "Cut {cut}: {golden}");
    let changes = number(&manifest["stats"]["changes_after_copy"]);
    assert!(changes > 0, "Cut {cut}: {manifest:#}");
    changes
}

#[test]
fn a_cut_under_mixed_load_is_the_source_byte_by_byte() {
    let server = ServerOptions::hooked().start();
    let (cuts, start_every) = if long() { (50, 5) } else { (5, 2) };
    cuts_are_golden(&server, cuts, start_every);
}

#[test]
fn a_cut_is_golden_with_small_pages_and_a_file_for_each_undo_log() {
    let server = ServerOptions::hooked()
        .option("--innodb-max-dirty-pages-pct=5")
        .option("--innodb-flush-method=fsync")
        .option("--aria-checkpoint-interval=1")
        .start();
    cuts_are_golden(&server, if long() { 20 } else { 2 }, 2);
}
