//! A replica with one or several channels, its sources, and a load of temporary tables on them.
//!
//! Rule: what a backup of the replica recorded for a channel is all that a sibling made from it is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mysql::Conn;
use mysql::prelude::Queryable;

use crate::flavor::Flavor;
use crate::program::Program;
use crate::replica::{self, By, Position};
use crate::server::{Server, ServerOptions};
use crate::{checksums, scratch};

/// Between temporary tables.
const PAUSE: Duration = Duration::from_millis(10);
/// Between inserts.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// Statements on a source, round after round, in a database of their own.
pub struct Rounds {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Rounds {
    /// Writes through temporary tables, as statements.
    pub fn temporary_tables(source: &Server, database: &str) -> Rounds {
        Rounds::start(source, database, PAUSE, through_temporary_table)
    }

    /// Inserts numbers: to insert one twice is an error, to leave one out a difference.
    pub fn inserts(source: &Server, database: &str) -> Rounds {
        Rounds::start(source, database, SHORT_PAUSE, |conn, database, number| {
            run(
                conn,
                &format!("INSERT INTO {database}.kept VALUES ({number})"),
            );
        })
    }

    fn start(
        source: &Server,
        database: &str,
        pause: Duration,
        round: fn(&mut Conn, &str, u32),
    ) -> Rounds {
        let mut conn = source.conn();
        prepare(&mut conn, database);
        let stop: Arc<AtomicBool> = Arc::default();
        let (stopped, database) = (stop.clone(), database.to_string());
        let run = move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                round(&mut conn, &database, number);
                // At full speed, no replica keeps up.
                std::thread::sleep(pause);
            }
        };
        let thread = std::thread::spawn(run);
        Rounds { stop, thread }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("The load");
    }
}

/// Runs a statement that must not fail.
pub fn run(conn: &mut Conn, statement: &str) {
    conn.query_drop(statement)
        .unwrap_or_else(|e| panic!("{statement}: {e}"));
}

/// Makes the table that the temporary ones end in.
pub fn prepare(conn: &mut Conn, database: &str) {
    run(conn, &format!("CREATE DATABASE IF NOT EXISTS {database}"));
    run(
        conn,
        &format!("CREATE TABLE IF NOT EXISTS {database}.kept (v INT PRIMARY KEY)"),
    );
}

/// One temporary table's life.
fn through_temporary_table(conn: &mut Conn, database: &str, number: u32) {
    run(
        conn,
        &format!("CREATE TEMPORARY TABLE {database}.short (v INT)"),
    );
    for step in 0..4 {
        let value = number * 4 + step;
        run(
            conn,
            &format!("INSERT INTO {database}.short VALUES ({value})"),
        );
    }
    run(
        conn,
        &format!("INSERT INTO {database}.kept SELECT v FROM {database}.short"),
    );
    run(conn, &format!("DROP TEMPORARY TABLE {database}.short"));
}

/// Sources, each with its own id and GTID domain, and a hooked replica of them all.
pub struct Ground {
    pub sources: Vec<Server>,
    pub channels: &'static [&'static str],
    pub replica: Server,
    /// Of all servers.
    options: &'static [&'static str],
}

fn with(start: ServerOptions, options: &[&str]) -> ServerOptions {
    options
        .iter()
        .fold(start, |start, option| start.option(*option))
}

/// A server of such a ground. Not durable: several servers share the disk, and their replicas have to keep up.
pub fn options_of(start: ServerOptions, flavor: &Flavor, id: u32) -> ServerOptions {
    let quick = [
        "--binlog-format=STATEMENT",
        "--sync-binlog=0",
        "--innodb-flush-log-at-trx-commit=2",
    ];
    let start = with(start, &quick);
    match flavor.is_mariadb() {
        true => start
            .option(format!("--gtid-domain-id={id}"))
            .option("--log-slave-updates"),
        false => start,
    }
}

impl Ground {
    pub fn new(server: &str, channels: &'static [&'static str]) -> Ground {
        Ground::with_options(server, channels, &[])
    }

    pub fn with_options(
        server: &str,
        channels: &'static [&'static str],
        options: &'static [&'static str],
    ) -> Ground {
        let flavor = Flavor::named(server);
        let source = |id| {
            let start = ServerOptions::plain().flavor(&flavor).server_id(id);
            with(options_of(start, &flavor, id), options).start()
        };
        let sources: Vec<Server> = (1..=channels.len() as u32).map(source).collect();
        let hooked = ServerOptions::hooked().flavor(&flavor).server_id(11);
        let replica = with(options_of(hooked, &flavor, 11), options).start();
        let ground = Ground {
            sources,
            channels,
            replica,
            options,
        };
        for (source, channel) in ground.pairs() {
            let position = Position::of(source);
            replica::follow_channel(
                &ground.replica,
                source,
                &position,
                By::FileAndOffset,
                channel,
            );
        }
        ground
    }

    fn pairs(&self) -> impl Iterator<Item = (&Server, &'static str)> {
        self.sources.iter().zip(self.channels.iter().copied())
    }

    pub fn loads(&self) -> Vec<Rounds> {
        let start = |(number, source)| Rounds::temporary_tables(source, &format!("temp_{number}"));
        self.sources.iter().enumerate().map(start).collect()
    }

    pub fn program(&self) -> Program {
        Program::for_server(&self.replica)
    }

    /// Name and whether the applier runs, of each channel.
    pub fn appliers(&self) -> Vec<(String, String)> {
        let is_mariadb = self.replica.flavor().is_mariadb();
        let (statement, name, state) = match is_mariadb {
            true => (
                "SHOW ALL SLAVES STATUS",
                "Connection_name",
                "Slave_SQL_Running",
            ),
            false => ("SHOW REPLICA STATUS", "Channel_Name", "Replica_SQL_Running"),
        };
        let rows: Vec<mysql::Row> = self.replica.conn().query(statement).expect("A status");
        let text = |row: &mysql::Row, column: &str| row.get(column).expect("A column");
        rows.iter()
            .map(|row| (text(row, name), text(row, state)))
            .collect()
    }

    pub fn assert_all_run(&self) {
        let appliers = self.appliers();
        assert_eq!(appliers.len(), self.channels.len());
        assert!(
            appliers.iter().all(|(_, runs)| runs == "Yes"),
            "{appliers:?}"
        );
    }

    /// Another replica of the same sources, from the positions in the backup.
    pub fn sibling(&self, backup: &Path, id: u32) -> Server {
        let flavor = self.replica.flavor();
        let data = backup.with_file_name(format!("sibling-{id}"));
        scratch::copy(&backup.join("data"), &data);
        let start = ServerOptions::plain()
            .flavor(flavor)
            .data_dir(&data)
            .server_id(id);
        let sibling = with(options_of(start, flavor, id), self.options).start();
        let lines =
            std::fs::read_to_string(backup.join("hotmirror_slave_info")).expect("Positions");
        assert_eq!(lines.lines().count(), self.channels.len(), "{lines}");
        for line in lines.lines() {
            let channel = Channel::parse(line).unwrap_or_else(|| panic!("{line}"));
            let source = self
                .sources
                .iter()
                .find(|source| source.port() == channel.port);
            forget(&sibling, &channel.name);
            let source = source.expect("The channel's source");
            let by = By::FileAndOffset;
            replica::follow_channel(&sibling, source, &channel.position, by, &channel.name);
        }
        sibling
    }

    pub fn assert_equals_sources(&self, replica: &Server, what: &str) {
        for (source, channel) in self.pairs() {
            let caught_up = replica::catch_up_channel(replica, source, By::FileAndOffset, channel);
            caught_up.unwrap_or_else(|e| panic!("{what}, channel {channel:?}: {e}"));
        }
        let ours = checksums::checksums(replica);
        for source in &self.sources {
            for (table, sum) in checksums::checksums(source) {
                assert_eq!(ours.get(&table), Some(&sum), "{what}: {table}");
            }
        }
    }
}

/// A line of hotmirror_slave_info.
struct Channel {
    name: String,
    port: u16,
    position: Position,
}

impl Channel {
    fn parse(line: &str) -> Option<Channel> {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}: "))?;
            Some(rest.split(", ").next()?.to_string())
        };
        Some(Channel {
            name: field("channel name")?,
            port: field("port")?.parse().ok()?,
            position: Position {
                file: field("master log file")?,
                offset: field("exec master log pos")?.parse().ok()?,
                gtid: String::new(),
            },
        })
    }
}

/// Removes what the copy knows of a channel.
pub fn forget(server: &Server, channel: &str) {
    let statement = match (server.flavor().is_mariadb(), channel) {
        (true, name) => format!("RESET SLAVE '{name}' ALL"),
        (false, name) => format!("RESET REPLICA ALL FOR CHANNEL '{name}'"),
    };
    server.execute(&[&statement]);
}
