//! Percona Server 5.7, to the letter and over its protocol: what is said from the first statement to the last, and how each failure ends.

use std::time::{Duration, Instant};

use clap::Parser;

use super::*;
use crate::args::low::{Cli, Command};
use crate::args::{self, option_files::Options};
use crate::backup::cut::{HELD_SILENCE, Holder, Readings};
use crate::backup::server::Server;
use crate::client::scripted::ScriptedClient;
use crate::client::wire::{Script, WireServer};
use crate::client::{Credentials, Endpoint, MysqlClient};
use crate::server::Dialect;
use crate::server::mysql_words::GTIDS;
use crate::server::{Flavor, SILENCE, transactional};

const TABLE_LOCK: &str = "LOCK TABLES FOR BACKUP";
const BINLOG_LOCK: &str = "LOCK BINLOG FOR BACKUP";
const FLUSH: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";
const STATUS: &str = "SHOW MASTER STATUS";
const CHANNELS: &str = "SHOW SLAVE STATUS";

fn percona() -> Percona {
    Percona::new(Version::plain(Flavor::Percona, (5, 7, 22)))
}

/// `--lock=binlog` on a server with a table of this name that has no transactions.
fn plan(table: Option<&str>) -> LockPlan {
    let script = match table {
        Some(table) => Script::default()
            .rows(transactional::STATEMENT, &["name"], &[&[table]])
            .done(transactional::IN_MEMORY),
        None => Script::default().done(transactional::STATEMENT),
    };
    let server = WireServer::start(script);
    let variables = Variables::from([("have_backup_locks", "YES")]);
    let mut client = client(&server, Duration::from_secs(10));
    let plan = percona().lock_plan(LockChoice::Binlog, &mut client, &variables);
    server.finish();
    plan.unwrap()
}

fn client(server: &WireServer, answer_bound: Duration) -> MysqlClient {
    let credentials = Credentials {
        user: "backup".into(),
        password: None,
    };
    let endpoint = Endpoint::Socket(server.socket());
    MysqlClient::connect(&endpoint, &credentials, answer_bound).unwrap()
}

/// Cuts with `plan`; `bound` is how long an answer may take.
fn cut_within(script: Script, plan: LockPlan, bound: Duration) -> Result<Readings, ClientError> {
    let server = WireServer::start(script);
    let mut client = client(&server, bound);
    let readings = Holder::announce(&mut client, &percona(), plan, None)
        .and_then(|holder| holder.cut(|| Ok(())))
        .map(|((), readings)| readings);
    server.finish();
    readings
}

fn cut(script: Script, plan: LockPlan) -> Result<Readings, ClientError> {
    cut_within(script, plan, Duration::from_secs(10))
}

trait Readable {
    fn status(self) -> Self;
    fn readings(self) -> Self;
}

impl Readable for Script {
    fn status(self) -> Script {
        let row: &[&str] = &[
            "bin.000007",
            "17320462",
            "",
            "",
            "34469105-e4d8-11f1-b941-02fc00000001:1-42",
        ];
        let columns = [
            "File",
            "Position",
            "Binlog_Do_DB",
            "Binlog_Ignore_DB",
            "Executed_Gtid_Set",
        ];
        self.rows(STATUS, &columns, &[row])
    }

    /// Everything that is read while the binlog is locked.
    fn readings(self) -> Script {
        let gtids: &[&str] = &["34469105-e4d8-11f1-b941-02fc00000001:1-42", ""];
        let channel: &[&str] = &[
            "127.0.0.1",
            "repl",
            "13000",
            "source-bin.000009",
            "source-bin.000007",
            "573",
            "Yes",
            "Yes",
            "one",
            "0",
        ];
        let columns = [
            "Master_Host",
            "Master_User",
            "Master_Port",
            "Master_Log_File",
            "Relay_Master_Log_File",
            "Exec_Master_Log_Pos",
            "Slave_IO_Running",
            "Slave_SQL_Running",
            "Channel_Name",
            "Auto_Position",
        ];
        self.done(FLUSH)
            .status()
            .status()
            .rows(GTIDS, &["gtid_executed", "gtid_purged"], &[gtids])
            .rows(CHANNELS, &columns, &[channel])
    }
}

#[test]
fn tables_are_locked_too_unless_only_the_binlog_is_asked_for() {
    let mut client = ScriptedClient::new().done(transactional::IN_MEMORY);
    let variables = Variables::from([("have_backup_locks", "YES")]);
    let plan = percona().lock_plan(LockChoice::Auto, &mut client, &variables);
    assert_eq!(plan.unwrap(), TABLES_AND_BINLOG);
}

#[test]
fn tables_that_the_server_keeps_in_memory_are_brought_out_by_a_read_lock() {
    let archive: &[&str] = &["shop.log"];
    let mut client = ScriptedClient::new().rows(transactional::IN_MEMORY, &["name"], &[archive]);
    let variables = Variables::from([("have_backup_locks", "YES")]);
    let plan = percona().lock_plan(LockChoice::Auto, &mut client, &variables);
    assert_eq!(plan.unwrap(), FTWRL);
    // All indexes of MyISAM.
    let variables = Variables::from([("have_backup_locks", "YES"), ("delay_key_write", "ALL")]);
    let plan = percona().lock_plan(LockChoice::Auto, &mut client, &variables);
    assert_eq!(plan.unwrap(), FTWRL);
    client.finish();
}

#[test]
fn before_5_7_a_replicas_positions_are_not_asked_for_under_the_lock_while_appliers_run() {
    let variables = Variables::from([("have_backup_locks", "YES")]);
    for (numbers, holds) in [((5, 6, 40), false), ((5, 7, 22), true)] {
        let mut client = ScriptedClient::new().done(transactional::IN_MEMORY);
        let percona = Percona::new(Version::plain(Flavor::Percona, numbers));
        let plan = percona.lock_plan(LockChoice::Auto, &mut client, &variables);
        assert_eq!(plan.unwrap().holds_positions, holds);
    }
}

#[test]
fn only_the_binlog_is_locked_if_asked_for_and_every_table_has_transactions() {
    let script = Script::default()
        .done(HELD_SILENCE)
        .done(BINLOG_LOCK)
        .readings()
        .done("UNLOCK BINLOG")
        .done(SILENCE);
    let readings = cut(script, plan(None)).unwrap();
    assert_eq!(readings.times.lock, "binlog");
    assert_eq!(readings.after.unwrap().to_string(), "bin.000007:17320462");
    assert_eq!(
        readings.gtids[0].1,
        "34469105-e4d8-11f1-b941-02fc00000001:1-42"
    );
    let channel = &readings.channels[0];
    assert_eq!(
        (
            channel.source_log_file.as_str(),
            channel.exec_source_log_pos
        ),
        ("source-bin.000007", 573)
    );
    assert!(readings.times.lock_ms > 0.0);
}

#[test]
fn other_tables_are_locked_first_and_released_last() {
    let script = Script::default()
        .done(HELD_SILENCE)
        .done(TABLE_LOCK)
        .done(BINLOG_LOCK)
        .readings()
        .done("UNLOCK BINLOG")
        .done("UNLOCK TABLES")
        .done(SILENCE);
    let readings = cut(script, plan(Some("shop.cart"))).unwrap();
    assert_eq!(readings.times.lock, "tables-and-binlog");
    assert!(readings.times.ddl_lock_ms >= readings.times.lock_ms);
}

#[test]
fn a_lock_that_is_not_had_in_time_leaves_none() {
    let timeout = "Lock wait timeout exceeded; try restarting transaction";
    let script = Script::default()
        .done(HELD_SILENCE)
        .done(TABLE_LOCK)
        .error(BINLOG_LOCK, 1205, timeout)
        .done("UNLOCK BINLOG")
        .done("UNLOCK TABLES");
    let error = cut(script, plan(Some("shop.cart"))).unwrap_err();
    let ClientError::LockTimeout { statement, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(statement, BINLOG_LOCK);
}

#[test]
fn a_failure_under_the_lock_releases_it() {
    let script = Script::default()
        .done(HELD_SILENCE)
        .done(BINLOG_LOCK)
        .error(FLUSH, 1105, "Unknown error")
        .done("UNLOCK BINLOG");
    let error = cut(script, plan(None)).unwrap_err();
    assert!(
        matches!(error, ClientError::Statement { code: 1105, .. }),
        "{error}"
    );
}

#[test]
fn a_missing_privilege_is_told_as_such() {
    let denied =
        "Access denied; you need (at least one of) the RELOAD privilege(s) for this operation";
    let script = Script::default()
        .done(HELD_SILENCE)
        .error(BINLOG_LOCK, 1227, denied)
        .done("UNLOCK BINLOG");
    let error = cut(script, plan(None)).unwrap_err();
    assert!(matches!(error, ClientError::Privilege { .. }), "{error}");
}

#[test]
fn a_connection_that_goes_takes_its_lock_with_it() {
    let script = Script::default()
        .done(HELD_SILENCE)
        .done(BINLOG_LOCK)
        .hang_up(FLUSH);
    let error = cut(script, plan(None)).unwrap_err();
    let ClientError::ConnectionLost { statement, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(statement, FLUSH);
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_without_end() {
    let start = Instant::now();
    let bound = Duration::from_millis(300);
    let script = Script::default().done(HELD_SILENCE).silence(BINLOG_LOCK);
    let error = cut_within(script, plan(None), bound).unwrap_err();
    assert!(
        matches!(error, ClientError::ConnectionLost { .. }),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_server_without_backup_locks_is_held_by_a_read_lock() {
    let mut client = ScriptedClient::new();
    let none = Variables::default();
    let mut plan = |choice| percona().lock_plan(choice, &mut client, &none);
    assert_eq!(plan(LockChoice::Auto).unwrap(), FTWRL);
    assert!(plan(LockChoice::Binlog).is_err());
}

fn args(socket: &std::path::Path, lock: &str) -> args::Backup {
    let socket = format!("--socket={}", socket.display());
    let words = [
        "hotmirror",
        "backup",
        "--user=backup",
        "--target-dir=/b",
        &socket,
        lock,
    ];
    match Cli::parse_from(words).command {
        Command::Backup(args) => args::backup(*args, &Options::from_text("")).unwrap(),
        _ => unreachable!(),
    }
}

const COMMENT: &str = "Percona Server (GPL), Release 22, Revision f62d93c";
const GRANTS: &str =
    "GRANT SELECT, RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO 'backup'@'localhost'";
const VARIABLES: &[&[&str]] = &[
    &["have_backup_locks", "YES"],
    &["innodb_flush_log_at_trx_commit", "0"],
    &["log_bin", "ON"],
];

trait Connects {
    fn variables(self) -> Self;
    fn set_up(self) -> Self;
}

impl Connects for Script {
    fn variables(self) -> Script {
        let columns = ["Variable_name", "Value"];
        self.rows("SHOW GLOBAL VARIABLES", &columns, VARIABLES)
    }

    fn set_up(self) -> Script {
        self.done(SILENCE)
            .done("SET SESSION net_write_timeout = 3600")
            .done("SET SESSION lock_wait_timeout = 60")
            .done("SET SESSION autocommit = 1")
    }
}

/// What is said before the backup begins.
fn greeting(comment: &str, grants: &str) -> Script {
    Script::default()
        .rows(
            "SELECT @@version AS version, @@version_comment AS comment",
            &["version", "comment"],
            &[&["5.7.22-22-log", comment]],
        )
        .variables()
        .rows(
            "SELECT CURRENT_USER()",
            &["CURRENT_USER()"],
            &[&["backup@localhost"]],
        )
        .rows(
            "SHOW GRANTS",
            &["Grants for backup@localhost"],
            &[&[grants]],
        )
}

#[test]
fn percona_server_is_known_by_its_comment() {
    let script = greeting(COMMENT, GRANTS)
        .done(transactional::IN_MEMORY)
        .set_up();
    let wire = WireServer::start(script);
    let server = Server::connect(&args(&wire.socket(), "--lock=auto")).unwrap();
    wire.finish();
    assert_eq!(server.version.to_string(), "Percona Server 5.7.22");
    assert_eq!(server.plan, TABLES_AND_BINLOG);
    // The lock holds commits, and the log is forced out under it: nothing needs to be raised.
    assert_eq!(server.dialect.flush_change(&server.variables), None);
}

#[test]
fn a_table_without_transactions_that_came_before_the_lock_takes_another_cut() {
    let table: &[&str] = &["shop.cart"];
    let script = greeting(COMMENT, GRANTS)
        .done(transactional::STATEMENT)
        .set_up()
        .variables()
        .done(transactional::STATEMENT)
        .variables()
        .rows(transactional::STATEMENT, &["name"], &[table])
        .done(transactional::IN_MEMORY)
        .variables()
        .rows(transactional::STATEMENT, &["name"], &[table])
        .rows(transactional::IN_MEMORY, &["name"], &[table]);
    let wire = WireServer::start(script);
    let args = args(&wire.socket(), "--lock=binlog");
    let mut server = Server::connect(&args).unwrap();
    assert_eq!(server.plan, BINLOG);
    assert!(!server.held_too_little(&args).unwrap());
    assert!(server.held_too_little(&args).unwrap());
    assert_eq!(server.plan, TABLES_AND_BINLOG);
    assert!(server.held_too_little(&args).unwrap());
    // What holds everything is not asked about again.
    assert_eq!(server.plan, FTWRL);
    assert!(!server.held_too_little(&args).unwrap());
    wire.finish();
}

#[test]
fn the_same_numbers_without_the_comment_are_mysql() {
    let script = greeting(
        "MySQL Community Server (GPL)",
        "GRANT ALL PRIVILEGES ON *.* TO 'backup'@'localhost'",
    )
    .rows("SHOW SLAVE STATUS", &["Channel_Name"], &[])
    .set_up();
    let wire = WireServer::start(script);
    let server = Server::connect(&args(&wire.socket(), "--lock=auto")).unwrap();
    wire.finish();
    assert_eq!(server.plan, FTWRL);
}

#[test]
fn privileges_are_asked_for_before_anything_is_done() {
    let grants = "GRANT SELECT, PROCESS ON *.* TO 'backup'@'localhost'";
    let wire = WireServer::start(greeting(COMMENT, grants));
    let error = Server::connect(&args(&wire.socket(), "--lock=auto"))
        .err()
        .unwrap();
    wire.finish();
    assert_eq!(
        error.to_string(),
        "User backup@localhost lacks RELOAD (to bring the engines' logs to their files and to lock), \
         REPLICATION CLIENT (to read the position)"
    );
}
