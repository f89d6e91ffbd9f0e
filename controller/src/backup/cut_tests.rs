//! The dialogue of a cut, to the letter, and what happens when it fails half-way.

use super::*;
use crate::client::scripted::ScriptedClient;
use crate::server::mariadb::{CHANNELS, GTIDS, MariaDb};
use crate::server::read::FLUSH_AT_COMMIT;
use crate::server::{Flavor, LockChoice, SILENCE, Variables, Version};

const RAISED: &str = "SELECT @@global.innodb_flush_log_at_trx_commit";

const STATUS: &str = "SHOW MASTER STATUS";
const COLUMNS: [&str; 2] = ["File", "Position"];

trait AskedOfLogs {
    fn keeps_logs(self, keeps: bool) -> Self;
}

impl AskedOfLogs for ScriptedClient {
    fn keeps_logs(self, keeps: bool) -> ScriptedClient {
        let value = if keeps { "0" } else { "2" };
        self.rows(
            FLUSH_AT_COMMIT,
            &["innodb_flush_log_at_trx_commit"],
            &[&[value]],
        )
    }
}

fn dialect() -> MariaDb {
    MariaDb::new(Version::plain(Flavor::MariaDb, (10, 11, 19)))
}

fn cut(
    client: &mut ScriptedClient,
    lock: LockChoice,
    raise: bool,
) -> Result<Readings, ClientError> {
    let dialect = dialect();
    let plan = dialect.lock_plan(lock, client, &Variables::default());
    let plan = plan.unwrap();
    let raise = raise.then(|| GlobalChange {
        name: "innodb_flush_log_at_trx_commit",
        before: "0".into(),
        after: "2".into(),
    });
    let holder = Holder::announce(client, &dialect, plan, raise)?;
    holder
        .cut(|| Ok::<_, ClientError>(()))
        .map(|((), readings)| readings)
}

#[test]
fn mariadb_is_held_in_stages_and_read_on_both_sides_of_the_mark() {
    let mut client = ScriptedClient::new()
        .done("BACKUP STAGE START")
        .done(HELD_SILENCE)
        .done("BACKUP STAGE FLUSH")
        .done("BACKUP STAGE BLOCK_DDL")
        .done("BACKUP STAGE BLOCK_COMMIT")
        .keeps_logs(false)
        .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .rows(STATUS, &COLUMNS, &[&["bin.000002", "700"]])
        .rows(STATUS, &COLUMNS, &[&["bin.000002", "700"]])
        .rows(GTIDS, &["gtid_binlog_pos"], &[&["0-1-5"]])
        .done(CHANNELS)
        .keeps_logs(false)
        .done("BACKUP STAGE END")
        .done(SILENCE);
    let readings = cut(&mut client, LockChoice::Auto, false).unwrap();
    client.finish();
    assert_eq!(readings.before, readings.after);
    assert_eq!(readings.after.unwrap().to_string(), "bin.000002:700");
    assert_eq!(
        readings.gtids,
        [("gtid_binlog_pos".to_string(), "0-1-5".to_string())]
    );
    assert_eq!(readings.times.lock, "backup-stage");
}

#[test]
fn a_log_that_is_not_flushed_at_commit_is_raised_for_the_cut_alone() {
    let mut client = ScriptedClient::new()
        .done("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        .done(HELD_SILENCE)
        .done("FLUSH TABLES WITH READ LOCK")
        .keeps_logs(false)
        .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .done(STATUS)
        .done(STATUS)
        .done(GTIDS)
        .done(CHANNELS)
        .keeps_logs(false)
        .done("UNLOCK TABLES")
        .rows(RAISED, &[""], &[&["2"]])
        .done("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
        .done(SILENCE);
    let readings = cut(&mut client, LockChoice::Ftwrl, true).unwrap();
    client.finish();
    assert_eq!(readings.after, None);
}

#[test]
fn a_setting_that_somebody_else_made_meanwhile_stays() {
    let mut client = ScriptedClient::new()
        .done("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        .done(HELD_SILENCE)
        .done("FLUSH TABLES WITH READ LOCK")
        .keeps_logs(false)
        .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .done(STATUS)
        .done(STATUS)
        .done(GTIDS)
        .done(CHANNELS)
        .keeps_logs(false)
        .done("UNLOCK TABLES")
        .rows(RAISED, &[""], &[&["1"]])
        .done(SILENCE);
    cut(&mut client, LockChoice::Ftwrl, true).unwrap();
    client.finish();
}

#[test]
fn a_log_that_somebody_keeps_back_at_either_side_of_the_flush_is_told() {
    for (before, after) in [(false, false), (true, false), (false, true)] {
        let mut client = ScriptedClient::new()
            .done(HELD_SILENCE)
            .done("FLUSH TABLES WITH READ LOCK")
            .keeps_logs(before)
            .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
            .done(STATUS)
            .done(STATUS)
            .done(GTIDS)
            .done(CHANNELS);
        if !before {
            client = client.keeps_logs(after);
        }
        let mut client = client.done("UNLOCK TABLES").done(SILENCE);
        let readings = cut(&mut client, LockChoice::Ftwrl, false).unwrap();
        client.finish();
        assert_eq!(readings.kept_logs, before || after);
    }
}

#[test]
fn a_server_without_innodb_keeps_nothing_back() {
    let mut client = ScriptedClient::new().error(FLUSH_AT_COMMIT, 1193, "Unknown system variable");
    assert!(!dialect().keeps_logs(&mut client).unwrap());
}

#[test]
fn without_a_lock_no_lock_time_is_reported() {
    let mut client = ScriptedClient::new()
        .keeps_logs(false)
        .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .done(STATUS)
        .done(STATUS)
        .done(GTIDS)
        .done(CHANNELS)
        .keeps_logs(false);
    let readings = cut(&mut client, LockChoice::None, false).unwrap();
    client.finish();
    assert_eq!(
        (readings.times.lock_ms, readings.times.ddl_lock_ms),
        (0.0, 0.0)
    );
}

#[test]
fn a_lock_timeout_releases_what_is_held_and_is_named() {
    let mut client = ScriptedClient::new()
        .done("BACKUP STAGE START")
        .done(HELD_SILENCE)
        .done("BACKUP STAGE FLUSH")
        .error("BACKUP STAGE BLOCK_DDL", 1205, "Lock wait timeout exceeded")
        .done("BACKUP STAGE END");
    let error = cut(&mut client, LockChoice::Auto, false).unwrap_err();
    client.finish();
    assert!(matches!(error, ClientError::LockTimeout { .. }), "{error}");
}

#[test]
fn a_lock_that_gave_way_in_a_deadlock_is_asked_for_again() {
    let deadlock = "Deadlock found when trying to get lock";
    let mut client = ScriptedClient::new()
        .done("BACKUP STAGE START")
        .done(HELD_SILENCE)
        .done("BACKUP STAGE FLUSH")
        .error("BACKUP STAGE BLOCK_DDL", 1213, deadlock)
        .error("BACKUP STAGE BLOCK_DDL", 1213, deadlock)
        .done("BACKUP STAGE BLOCK_DDL")
        .done("BACKUP STAGE BLOCK_COMMIT")
        .keeps_logs(false)
        .error("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", 1213, deadlock)
        .done("BACKUP STAGE END");
    let error = cut(&mut client, LockChoice::Auto, false).unwrap_err();
    client.finish();
    assert!(matches!(error, ClientError::Deadlock { .. }), "{error}");
}

#[test]
fn a_deadlock_that_stays_ends_the_cut() {
    let mut client = ScriptedClient::new()
        .done("BACKUP STAGE START")
        .done(HELD_SILENCE)
        .done("BACKUP STAGE FLUSH");
    for _ in 0..=DEADLOCK_COUNT_MAX {
        client = client.error("BACKUP STAGE BLOCK_DDL", 1213, "Deadlock found");
    }
    let mut client = client.done("BACKUP STAGE END");
    let error = cut(&mut client, LockChoice::Auto, false).unwrap_err();
    client.finish();
    assert!(matches!(error, ClientError::Deadlock { .. }), "{error}");
}

#[test]
fn a_connection_lost_under_the_lock_ends_the_cut() {
    let mut client = ScriptedClient::new()
        .done("BACKUP STAGE START")
        .done(HELD_SILENCE)
        .done("BACKUP STAGE FLUSH")
        .done("BACKUP STAGE BLOCK_DDL")
        .done("BACKUP STAGE BLOCK_COMMIT")
        .keeps_logs(false)
        .hang_up("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .hang_up("BACKUP STAGE END");
    let error = cut(&mut client, LockChoice::Auto, false).unwrap_err();
    client.finish();
    assert!(
        matches!(error, ClientError::ConnectionLost { .. }),
        "{error}"
    );
}

#[test]
fn a_failed_mark_lets_the_server_go() {
    let mut client = ScriptedClient::new()
        .done("BACKUP STAGE START")
        .done(HELD_SILENCE)
        .done("BACKUP STAGE FLUSH")
        .done("BACKUP STAGE BLOCK_DDL")
        .done("BACKUP STAGE BLOCK_COMMIT")
        .keeps_logs(false)
        .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .done(STATUS)
        .done("BACKUP STAGE END");
    let dialect = dialect();
    let plan = dialect.lock_plan(LockChoice::Auto, &mut client, &Variables::default());
    let plan = plan.unwrap();
    let holder = Holder::announce(&mut client, &dialect, plan, None).unwrap();
    let lost = ClientError::Unexpected {
        statement: "mark".into(),
        what: "session".into(),
    };
    assert!(holder.cut(|| Err::<(), _>(lost)).is_err());
    client.finish();
}

#[test]
fn where_files_are_compared_under_the_lock_silence_is_allowed() {
    let mut client = ScriptedClient::new()
        .done("FLUSH TABLES WITH READ LOCK")
        .keeps_logs(false)
        .done("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS")
        .done(STATUS)
        .done(STATUS)
        .done(GTIDS)
        .done(CHANNELS)
        .keeps_logs(false)
        .done("UNLOCK TABLES");
    let dialect = dialect();
    let plan = dialect.lock_plan(LockChoice::Ftwrl, &mut client, &Variables::default());
    let holder = Holder::announce(&mut client, &dialect, plan.unwrap(), None).unwrap();
    let holder = holder.may_be_silent();
    holder.cut(|| Ok::<_, ClientError>(())).unwrap();
    client.finish();
}
