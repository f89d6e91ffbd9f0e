//! The demonstration behind scripts/demo: one hot backup of a busy server, and the proof that it is worth something.
//!
//! Rule: it uses what a user uses, shows the commands, and claims only what it has just checked.

use std::path::Path;
use std::time::Instant;

use hotmirror_tests::load::{Load, LoadReport};
use hotmirror_tests::program::{Outcome, Program};
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::{artifacts, checksums, scratch};

fn main() {
    let start = Instant::now();
    let source = serve();
    let load = Load::mixed(&source, 42);
    load.wait_for_statements(500);
    println!(
        "   statements are served by three writers, while tables are made, changed, renamed and dropped"
    );

    let home = scratch::dir();
    let target = home.path().join("backup");
    let outcome = back_up(&source, &target, &load);
    load.wait_for_statements(500);

    step("Start the copy, without any preparation, and check its tables");
    let position = position(&target);
    let replica = ServerOptions::plain()
        .data_dir(&target.join("data"))
        .server_id(2)
        .start();
    let tables = checksums::assert_tables_in_order(&replica, "The copy");
    println!("   CHECK TABLE … EXTENDED finds {tables} tables in order");

    step("Make a replica of it, from the position in hotmirror_binlog_info");
    println!(
        "   {} offset {}, GTID {}",
        position.file, position.offset, position.gtid
    );
    replica::follow(&replica, &source, &position, By::Gtid);
    load.wait_for_statements(500);
    let report = load.stop_cleanly();
    replica::catch_up(&replica, &source, By::Gtid).unwrap_or_else(|e| panic!("The replica: {e}"));
    let equal = checksums::assert_equal(&source, &replica, "The replica");
    println!("   caught up without an error; checksums of all {equal} tables equal the source's");
    prove(&outcome, &report, tables, equal, start);
}

fn step(text: &str) {
    println!("\n== {text}");
}

fn serve() -> Server {
    step("Start a private MariaDB with the library, and put a load on it");
    println!(
        "   LD_PRELOAD={} mariadbd …",
        artifacts::library().display()
    );
    let source = ServerOptions::hooked().start();
    println!(
        "   MariaDB {} with its own I/O settings, pid {}",
        source.value("SELECT VERSION()"),
        source.pid()
    );
    source
}

fn back_up(source: &Server, target: &Path, load: &Load) -> Outcome {
    step("Back it up, hot");
    println!(
        "   hotmirror backup --socket={} --target-dir={}",
        source.socket().display(),
        target.display()
    );
    load.forget_stalls();
    let outcome = Program::for_server(source).backup(target).success();
    for line in outcome.stdout.lines().chain(outcome.stderr.lines()) {
        println!("   | {line}");
    }
    outcome
}

fn position(target: &Path) -> Position {
    let path = target.join("hotmirror_binlog_info");
    let line = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Position::parse(&line).unwrap_or_else(|| panic!("{} reads {line:?}", path.display()))
}

fn prove(outcome: &Outcome, report: &LoadReport, tables: usize, equal: usize, start: Instant) {
    let manifest = outcome.manifest();
    let changes = manifest["stats"]["changes_after_copy"]
        .as_u64()
        .unwrap_or(0);
    step("Proven");
    println!(
        "   {} statements and {} table changes ran meanwhile, none failed;",
        report.statements, report.ddl_statements
    );
    println!(
        "   the longest that one statement took since the backup began: {:?};",
        report.longest_stall
    );
    println!("   {changes} changes were mirrored into what had been copied already;");
    println!("   the copy started as it was, {tables} of {tables} tables in order;");
    println!("   a replica from its position equals the source in {equal} of {equal} tables;");
    println!("   in {:.0} s", start.elapsed().as_secs_f64());
}
