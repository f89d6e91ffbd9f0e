//! Backups on file systems whose files can share blocks: server and target are on the same one.
//!
//! Rule: a copy that shares its blocks is as exact as any other, under load and golden; and what nobody writes takes no space in it.

use std::path::Path;
use std::process::Command;

use hotmirror::session::SessionError;
use hotmirror_tests::load::Load;
use hotmirror_tests::mount::Mount;
use hotmirror_tests::program::Program;
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::victim::Victim;
use hotmirror_tests::{checksums, skip};
use serde_json::Value;

const MEGABYTES: u64 = 3000;
const BACKUPS: u64 = 3;
/// Of 64 KB each, in a table that is written once.
const QUIET_ROWS: u32 = 1000;
/// Its file, in a data directory.
const QUIET_FILE: &str = "quiet/t.MYD";

/// MyISAM writes all of it before the statement is over.
fn make_quiet_table(server: &Server) {
    let rows = format!(
        "INSERT INTO quiet.t SELECT seq, REPEAT(MD5(seq), 2048) FROM quiet.seq_1_to_{QUIET_ROWS}"
    );
    server.execute(&[
        "CREATE DATABASE quiet",
        "CREATE TABLE quiet.t (id INT PRIMARY KEY, v LONGBLOB) ENGINE=MyISAM",
        &rows,
        "FLUSH TABLES quiet.t",
    ]);
}

/// Bytes of a file in extents that it shares, and in all.
fn shared_bytes(file: &Path) -> (u64, u64) {
    let output = Command::new("filefrag")
        .args(["-b1", "-v"])
        .arg(file)
        .output();
    let output = output.unwrap_or_else(|e| panic!("filefrag: {e}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut shared, mut all) = (0, 0);
    for line in text.lines() {
        // "0: 0.. 4095: 8192.. 12287: 4096: last,shared,eof"; behind the length, what the next was expected at may stand, too.
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let [number, _, _, len, .., flags] = fields[..] else {
            continue;
        };
        if let (Ok(_), Ok(len)) = (number.parse::<u64>(), len.parse::<u64>()) {
            all += len;
            shared += if flags.contains("shared") { len } else { 0 };
        }
    }
    assert!(all > 0, "No extents of {}: {output:?}", file.display());
    (shared, all)
}

/// One golden backup that starts. `look` is shown the copy of the quiet table first.
fn back_up(server: &Server, target: &Path, number: u64, look: fn(&Path)) {
    let program = Program::for_server(server);
    // Slow enough that much changes meanwhile.
    let run = program.backup(target).arg("--test-freeze-at-cut");
    // A target in user space is slow while the log fills.
    let run = run.arg("--throttle=500M").arg("--log-size=256M");
    let manifest = run.success().manifest();
    let golden = &manifest["golden"];
    let none = Value::Array(Vec::new());
    assert_eq!(golden["differences"], none, "Backup {number}");
    let stats = &manifest["stats"];
    println!("Backup {number}: {stats}");
    look(&target.join("data").join(QUIET_FILE));
    let changes = stats["changes_after_copy"].as_u64();
    assert!(changes.is_some_and(|count| count > 0), "{stats}");
    program.run("verify").arg(target).success();
    let copy = ServerOptions::plain().data_dir(&target.join("data"));
    let copy = copy.server_id(9).start();
    checksums::assert_tables_in_order(&copy, &format!("Copy {number}"));
}

fn backups_are_golden_on(mount: Result<Mount, String>, look: fn(&Path)) {
    let mount = match mount {
        Ok(mount) => mount,
        Err(reason) => skip!("{reason}"),
    };
    let data = mount.path().join("data");
    let server = ServerOptions::hooked().new_data_dir(&data).start();
    make_quiet_table(&server);
    let load = Load::mixed(&server, 1);
    for number in 1..=BACKUPS {
        load.wait_for_statements(100);
        let target = mount.path().join("backup");
        back_up(&server, &target, number, look);
        std::fs::remove_dir_all(&target).expect("The backup can be removed");
    }
    load.stop_cleanly();
    // The copies were written to: that was not the server's matter.
    checksums::assert_tables_in_order(&server, "The source");
    drop(server);
}

fn is_shared(copy: &Path) {
    let (shared, all) = shared_bytes(copy);
    assert_eq!(shared, all, "Bytes of the quiet table that are shared");
}

fn is_not_shared(copy: &Path) {
    let (shared, _) = shared_bytes(copy);
    assert_eq!(shared, 0, "Bytes of the quiet table that are shared");
}

#[test]
fn a_backup_on_xfs_shares_blocks_with_its_source_and_is_golden() {
    backups_are_golden_on(Mount::xfs(MEGABYTES), is_shared);
}

#[test]
fn a_backup_on_btrfs_shares_blocks_with_its_source_and_is_golden() {
    backups_are_golden_on(Mount::btrfs(MEGABYTES), is_shared);
}

#[test]
fn a_backup_to_a_file_system_in_user_space_is_golden() {
    let mount = match Mount::in_user_space() {
        Ok(mount) => mount,
        Err(reason) => skip!("{reason}"),
    };
    let server = ServerOptions::hooked().start();
    make_quiet_table(&server);
    let load = Load::mixed(&server, 1);
    load.wait_for_statements(100);
    back_up(&server, &mount.path().join("backup"), 1, |_| ());
    load.stop_cleanly();
    checksums::assert_tables_in_order(&server, "The source");
}

#[test]
fn a_mapping_on_btrfs_is_seen_though_its_line_names_another_device() {
    let mount = match Mount::btrfs(MEGABYTES) {
        Ok(mount) => mount,
        Err(reason) => skip!("{reason}"),
    };
    let home = tempfile::tempdir_in(mount.path()).expect("A directory");
    let mut victim = Victim::start_in(home, "mapping", "store", 1);
    let refused = victim.back_up().map(|copy| copy.stats);
    assert!(
        matches!(refused, Err(SessionError::Unsettled { .. })),
        "{refused:?}"
    );
    victim.end();
}

#[test]
fn a_backup_on_xfs_that_shares_no_blocks_is_golden() {
    let mount = Mount::xfs_without_sharing(MEGABYTES);
    backups_are_golden_on(mount, is_not_shared);
}
