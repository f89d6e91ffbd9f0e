//! A chain: two sources, a replica of both, and from a backup of that replica a sibling of it and a replica of it.
//!
//! Rule: a replica's backup has two positions, in its sources' binlogs and in its own, and both are those of the cut. Temporary tables of statements live in the
//! applier alone, so a backup that `--safe-slave` made holds no moment at which one was open: a sibling that misses one would break.

#[path = "replica_made.rs"]
mod made;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::load::Load;
use hotmirror_tests::program::Program;
use hotmirror_tests::server::{REPLICATION_PASSWORD, REPLICATION_USER, Server, ServerOptions};
use hotmirror_tests::{checksums, scratch};
use made::Made;
use mysql::prelude::Queryable;

const CATCH_UP_BOUND: Duration = Duration::from_secs(120);

/// Statements that build a table's rows by way of a temporary one.
struct TemporaryTables {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TemporaryTables {
    fn on(server: &Server, database: &str) -> TemporaryTables {
        server.execute(&[
            &format!("CREATE DATABASE {database}"),
            &format!("CREATE TABLE {database}.kept (id INT AUTO_INCREMENT PRIMARY KEY, n INT) ENGINE=InnoDB"),
        ]);
        let mut conn = server.conn();
        let statements = [
            format!("CREATE TEMPORARY TABLE {database}.t (n INT) ENGINE=InnoDB"),
            format!("INSERT INTO {database}.t VALUES (1), (2), (3)"),
            format!("INSERT INTO {database}.kept (n) SELECT n FROM {database}.t ORDER BY n"),
            format!("DELETE FROM {database}.kept ORDER BY id LIMIT 2"),
            format!("DROP TEMPORARY TABLE {database}.t"),
        ];
        let plain = format!("UPDATE {database}.kept SET n = n + 1 WHERE id % 7 = 0");
        conn.query_drop("SET SESSION binlog_format = STATEMENT")
            .expect("Statements in the binlog");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Most of the time none is open, or an applier would never be seen without one.
                for statement in statements.iter().chain(std::iter::repeat_n(&plain, 20)) {
                    conn.query_drop(statement)
                        .unwrap_or_else(|e| panic!("{statement}: {e}"));
                }
            }
        });
        TemporaryTables {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("A thread").join();
        ended.expect("The statements went through");
    }
}

impl Drop for TemporaryTables {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Chain {
    flavor: Flavor,
    /// Of all servers.
    options: Vec<&'static str>,
    /// By GTID, or by file and offset.
    by_gtid: bool,
}

impl Chain {
    fn start(&self, start: ServerOptions, id: u32) -> Server {
        let start = start.flavor(&self.flavor).server_id(id);
        let start = match self.flavor.is_mariadb() {
            true => start
                .option(format!("--gtid-domain-id={id}"))
                .option("--log-slave-updates"),
            false => start,
        };
        self.options
            .iter()
            .fold(start, |start, option| start.option(*option))
            .start()
    }

    /// `replica` follows `source` on a channel of this name from the source's first event on.
    fn follow(&self, replica: &Server, source: &Server, channel: &str) {
        let port = source.port();
        let (change, start) = match (self.flavor.is_mariadb(), self.by_gtid) {
            (true, by_gtid) => {
                let by = if by_gtid { "slave_pos" } else { "no" };
                (
                    format!(
                        "CHANGE MASTER '{channel}' TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, \
                         MASTER_USER='{REPLICATION_USER}', MASTER_PASSWORD='{REPLICATION_PASSWORD}', MASTER_USE_GTID={by}"
                    ),
                    format!("START SLAVE '{channel}'"),
                )
            }
            (false, by_gtid) => (
                format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, \
                     SOURCE_USER='{REPLICATION_USER}', SOURCE_PASSWORD='{REPLICATION_PASSWORD}', \
                     SOURCE_AUTO_POSITION={}, GET_SOURCE_PUBLIC_KEY=1 FOR CHANNEL '{channel}'",
                    u8::from(by_gtid)
                ),
                format!("START REPLICA FOR CHANNEL '{channel}'"),
            ),
        };
        replica.execute(&[&change, &start]);
    }

    /// Waits until `replica` holds what its sources hold; they rest.
    fn wait_until_equal(&self, replica: &Server, sources: &[&Server]) {
        let all: BTreeMap<_, _> = sources
            .iter()
            .flat_map(|source| checksums::checksums(source))
            .collect();
        let start = Instant::now();
        while checksums::checksums(replica) != all {
            let status = if self.flavor.is_mariadb() {
                "SHOW ALL SLAVES STATUS"
            } else {
                "SHOW REPLICA STATUS"
            };
            if start.elapsed() > CATCH_UP_BOUND {
                let rows: Vec<mysql::Row> =
                    replica.conn().query(status).expect("The replica's status");
                panic!("The replica in the middle is not equal to its sources: {rows:#?}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn run(&self) {
        let one = self.start(ServerOptions::plain(), 1);
        let two = self.start(ServerOptions::plain(), 2);
        let middle = self.start(ServerOptions::hooked(), 3);
        self.follow(&middle, &one, "one");
        self.follow(&middle, &two, "two");
        let load = Load::mixed(&one, 1);
        let temporary = [
            TemporaryTables::on(&one, "first"),
            TemporaryTables::on(&two, "second"),
        ];

        load.wait_for_statements(300);
        let program = Program::for_server(&middle);
        let home = scratch::dir();
        let target = home.path().join("backup");
        let outcome = program
            .backup(&target)
            .arg("--safe-slave")
            .arg("--safe-slave-timeout=60")
            .arg("--compat-info")
            .success();
        let manifest = outcome.manifest();
        assert_eq!(
            manifest["channels"].as_array().map(Vec::len),
            Some(2),
            "{manifest:#}"
        );
        self.assert_appliers_run(&middle);
        load.wait_for_statements(300);
        temporary.into_iter().for_each(TemporaryTables::end);
        load.stop_cleanly();
        self.wait_until_equal(&middle, &[&one, &two]);

        let by = if self.by_gtid { "auto" } else { "position" };
        let at = |name: &str| home.path().join(name);
        let sibling = made::command(&program, &target, &at("sibling"))
            .arg("--of=sibling")
            .arg(format!("--replication-password={REPLICATION_PASSWORD}"))
            .arg(format!("--start-at={by}"));
        let sibling = Made::by(sibling, &at("sibling"), &self.flavor);
        let replica = made::of_source(&program, &target, &at("replica"), &middle)
            .arg(format!("--start-at={by}"));
        let replica = Made::by(replica, &at("replica"), &self.flavor);
        for (made, what) in [
            (sibling, "The sibling"),
            (replica, "The replica of the replica"),
        ] {
            let copy = made.reopen(&self.options);
            let tables = checksums::assert_equal(&middle, &copy, what);
            checksums::assert_tables_in_order(&copy, what);
            println!("{what}: {tables} tables are equal");
        }
    }

    /// The backup stopped them, and has started them again.
    fn assert_appliers_run(&self, server: &Server) {
        let (status, column) = match self.flavor.is_mariadb() {
            true => ("SHOW ALL SLAVES STATUS", "Slave_SQL_Running"),
            false => ("SHOW REPLICA STATUS", "Replica_SQL_Running"),
        };
        let rows: Vec<mysql::Row> = server.conn().query(status).expect("The replica's status");
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert_eq!(
                row.get::<String, _>(column).as_deref(),
                Some("Yes"),
                "{row:#?}"
            );
        }
    }
}

#[test]
fn a_mariadb_chain_by_gtid_is_equal_to_its_sources() {
    let chain = Chain {
        flavor: Flavor::main().clone(),
        options: Vec::new(),
        by_gtid: true,
    };
    chain.run();
}

#[test]
fn a_mariadb_chain_by_file_and_offset_is_equal_to_its_sources() {
    let chain = Chain {
        flavor: Flavor::main().clone(),
        options: Vec::new(),
        by_gtid: false,
    };
    chain.run();
}

#[test]
fn a_mysql_chain_by_gtid_is_equal_to_its_sources() {
    let chain = Chain {
        flavor: Flavor::named("mysql-9.7"),
        options: vec!["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        by_gtid: true,
    };
    chain.run();
}

#[test]
fn a_mysql_chain_by_file_and_offset_is_equal_to_its_sources() {
    let chain = Chain {
        flavor: Flavor::named("mysql-9.7"),
        options: vec!["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"],
        by_gtid: false,
    };
    chain.run();
}
