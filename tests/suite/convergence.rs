//! A server that writes faster than a throttled backup copies.
//!
//! Rule: the backup ends by itself after a few passes, says what to change, and leaves nothing behind; and each change that it names is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hotmirror_tests::program::{Outcome, Program, exit};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::{scratch, traces};
use mysql::Conn;
use mysql::prelude::Queryable;

/// 24 MB: three times what a last copy may have with the smallest log used here.
const ROWS: u32 = 6_000;
const ROW_BYTES: u32 = 4_000;
/// Changed at a time, and the time between: about 20 MB/s. At full speed, no log would hold what a server writes during a last copy on a slow disk.
const STEP_ROWS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);
/// A pass over the table takes six seconds at this rate, more than the writer needs to write it anew.
const THROTTLE: &str = "--throttle=4M";
const MAX_PASSES: u64 = 20;

/// A table that is written anew all the time, in place: what changes between two passes is all of it.
struct Rewriting {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Rewriting {
    fn start(server: &Server) -> Rewriting {
        let mut conn = server.conn();
        make_table(&mut conn);
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = stop.clone();
        let rewrite = move || {
            let starts = (0..ROWS).step_by(STEP_ROWS as usize).cycle();
            for start in starts.take_while(|_| !stopped.load(Ordering::Relaxed)) {
                let end = start + STEP_ROWS;
                let change = format!(
                    "UPDATE busy.t SET v = REPEAT(CHAR(65 + RAND() * 25), {ROW_BYTES}) WHERE id >= {start} AND id < {end}"
                );
                run(&mut conn, &change);
                std::thread::sleep(PAUSE);
            }
        };
        let thread = std::thread::spawn(rewrite);
        Rewriting { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("The writer");
    }
}

fn run(conn: &mut Conn, statement: &str) {
    conn.query_drop(statement)
        .unwrap_or_else(|e| panic!("{statement}: {e}"));
}

fn make_table(conn: &mut Conn) {
    // The binlog would grow by all that is written.
    run(conn, "SET SESSION sql_log_bin = 0");
    run(conn, "CREATE DATABASE busy");
    run(
        conn,
        "CREATE TABLE busy.t (id INT PRIMARY KEY, v VARBINARY(4000) NOT NULL) ENGINE=MyISAM ROW_FORMAT=FIXED",
    );
    let rows = format!(
        "INSERT INTO busy.t SELECT seq - 1, REPEAT('x', {ROW_BYTES}) FROM busy.seq_1_to_{ROWS}"
    );
    run(conn, &rows);
}

/// The word behind `before` in a text.
fn word_after<'t>(text: &'t str, before: &str) -> &'t str {
    let rest = text.split_once(before).map(|(_, rest)| rest);
    let word = rest.and_then(|rest| rest.split([' ', ',', '\n']).next());
    word.unwrap_or_else(|| panic!("No {before:?} in {text:?}"))
}

fn passes(outcome: &Outcome) -> u64 {
    let stats = &outcome.manifest()["stats"];
    stats["passes"].as_u64().expect("A number of passes")
}

#[test]
fn a_backup_that_is_slower_than_the_server_writes_says_so_and_what_to_change() {
    let server = ServerOptions::hooked().start();
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let backup = |options: [&str; 2]| {
        let run = program.backup(&target).arg("--no-progress");
        run.arg(options[0]).arg(options[1])
    };
    let writer = Rewriting::start(&server);

    let outcome = backup([THROTTLE, "--log-size=16M"]).outcome();
    println!("{}", outcome.stderr);
    let words = [
        "still changed during the last one",
        "at the end it may be 8.00 MiB, half of the capture log",
        "throttled to 4.00 MiB/s",
        "--throttle (now 4.00 MiB/s)",
    ];
    outcome.assert_failed(exit::LOST, &words);
    assert!(!outcome.stderr.contains("--max-passes"), "{outcome}");
    let made: u64 = word_after(&outcome.stderr, "After ")
        .parse()
        .expect("A number");
    assert!(made < MAX_PASSES / 2, "{outcome}");
    traces::assert_none(&server, &program, home.path(), &[]);

    let log_size = format!(
        "--log-size={}",
        word_after(&outcome.stderr, "--log-size to ")
    );
    for options in [["--throttle=1G", "--log-size=16M"], [THROTTLE, &log_size]] {
        let outcome = backup(options).success();
        println!("{options:?}: {} passes", passes(&outcome));
        program.run("verify").arg(&target).success();
        std::fs::remove_dir_all(&target).expect("The backup can be removed");
    }
    writer.stop();
}
