//! Load on a server: writers on tables of every engine, and one thread of statements that change tables and files themselves.
//!
//! Rule: the load notices what a user would notice. A statement that fails for another reason than its own rivals is reported,
//! and the longest time that any statement of a writer took is measured.

mod ddl;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Error};

use crate::server::Server;

/// Database that the load works in.
pub const DATABASE: &str = "load_test";

/// How long a wait for the load's progress lasts at most.
const PROGRESS_BOUND: Duration = Duration::from_secs(180);

/// What the load came to.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    pub statements: u64,
    pub ddl_statements: u64,
    /// Longest time that one statement of a writer took.
    pub longest_stall: Duration,
    /// Statements that failed, with why; empty on a server that goes on serving.
    pub errors: Vec<String>,
}

struct Shared {
    engines: &'static [&'static str],
    is_mariadb: bool,
    stop: AtomicBool,
    report: Mutex<LoadReport>,
    progress: Condvar,
}

/// A running load; stopped when dropped.
pub struct Load {
    shared: Arc<Shared>,
    /// To ask what the writers wait for, should they.
    watch: Mutex<Conn>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Writers on tables of all the server's usual engines, and table changes.
    pub fn mixed(server: &Server, seed: u64) -> Load {
        Load::mixed_on(server, server.flavor().engines(), seed)
    }

    pub fn mixed_on(server: &Server, engines: &'static [&'static str], seed: u64) -> Load {
        let mut load = Load::writes_on(server, engines, seed);
        let conn = server.conn();
        load.spawn(move |shared| ddl::run(conn, shared, seed));
        load
    }

    /// Writers alone: none of their statements has a reason to wait for long.
    pub fn writes(server: &Server, seed: u64) -> Load {
        Load::writes_on(server, server.flavor().engines(), seed)
    }

    /// Writers on tables of these engines.
    pub fn writes_on(server: &Server, engines: &'static [&'static str], seed: u64) -> Load {
        writer::create_tables(&mut server.conn(), engines);
        let shared = Shared {
            engines,
            is_mariadb: server.flavor().is_mariadb(),
            stop: AtomicBool::new(false),
            report: Mutex::default(),
            progress: Condvar::new(),
        };
        let mut load = Load {
            shared: Arc::new(shared),
            watch: Mutex::new(server.conn()),
            threads: Vec::new(),
        };
        for writer in 0..3 {
            let conn = server.conn();
            load.spawn(move |shared| writer::run(conn, shared, seed * 16 + writer));
        }
        load.wait_for_statements(50);
        load
    }

    fn spawn(&mut self, run: impl FnOnce(&Shared) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.threads.push(std::thread::spawn(move || run(&shared)));
    }

    /// Waits until `count` more statements of writers have come through.
    pub fn wait_for_statements(&self, count: u64) {
        let report = self.shared.report.lock().expect("The report");
        let wanted = report.statements + count;
        let behind =
            |report: &mut LoadReport| report.statements < wanted && report.errors.is_empty();
        let (report, timeout) = self
            .shared
            .progress
            .wait_timeout_while(report, PROGRESS_BOUND, behind)
            .expect("The report");
        let seen = report.clone();
        drop(report);
        assert!(
            !timeout.timed_out(),
            "No {count} statements within {PROGRESS_BOUND:?}: {seen:?}\n{}",
            self.process_list()
        );
    }

    fn process_list(&self) -> String {
        let query = "SELECT CONCAT_WS(' | ', id, command, time, state, LEFT(info, 120)) \
                     FROM information_schema.processlist ORDER BY id";
        let mut conn = self.watch.lock().expect("A connection");
        match conn.query::<String, _>(query) {
            Ok(rows) => rows.join("\n"),
            Err(e) => format!("{query}: {e}"),
        }
    }

    pub fn report(&self) -> LoadReport {
        self.shared.report.lock().expect("The report").clone()
    }

    /// Starts the measurement of the longest stall afresh.
    pub fn forget_stalls(&self) {
        self.shared.report.lock().expect("The report").longest_stall = Duration::ZERO;
    }

    /// Stops it and waits until the last statement is through.
    pub fn stop(mut self) -> LoadReport {
        self.join();
        self.report()
    }

    /// Stops it, and fails if the server did not serve.
    #[track_caller]
    pub fn stop_cleanly(self) -> LoadReport {
        let report = self.stop();
        assert!(
            report.errors.is_empty(),
            "Statements failed: {:#?}",
            report.errors
        );
        report
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "A thread of the load panicked"
            );
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs a statement of a writer. False if the thread has to end.
    fn write(&self, conn: &mut Conn, statement: &str) -> bool {
        let start = Instant::now();
        let result = conn.query_drop(statement);
        let took = start.elapsed();
        let mut report = self.report.lock().expect("The report");
        report.longest_stall = report.longest_stall.max(took);
        report.statements += 1;
        let goes_on = note(&mut report, statement, result);
        self.progress.notify_all();
        goes_on
    }

    /// Runs a statement that changes tables. False if the thread has to end.
    fn change(&self, conn: &mut Conn, statement: &str) -> bool {
        let result = conn.query_drop(statement);
        let mut report = self.report.lock().expect("The report");
        report.ddl_statements += 1;
        note(&mut report, statement, result)
    }
}

/// Deadlock, lock wait timeout, a table changed under a transaction: what statements of the load do to each other.
const RIVALRY: [u16; 4] = [1213, 1205, 1412, 1020];

fn note(report: &mut LoadReport, statement: &str, result: Result<(), Error>) -> bool {
    match result {
        Ok(()) => true,
        Err(Error::MySqlError(e)) if RIVALRY.contains(&e.code) => true,
        Err(e) => {
            let shown: String = statement.chars().take(100).collect();
            report.errors.push(format!("{shown}: {e}"));
            matches!(e, Error::MySqlError(_))
        }
    }
}
