//! The dialogue about appliers, to the letter, on every flavor; and what is on the undo stack when it breaks off.

use super::*;
use crate::client::scripted::ScriptedClient;
use crate::server::mariadb::{CHANNELS, MariaDb};
use crate::server::mysql::MySql;
use crate::server::mysql5::MySql5;
use crate::server::{Flavor, Version};

const OPEN: &str = "SHOW GLOBAL STATUS LIKE 'Slave_open_temp_tables'";
const GROUP: &str = "SELECT MEMBER_ID FROM performance_schema.replication_group_members \
    WHERE MEMBER_ID <> '' AND MEMBER_STATE <> 'OFFLINE' LIMIT 1";

fn mariadb() -> MariaDb {
    MariaDb::new(Version::plain(Flavor::MariaDb, (10, 11, 19)))
}

/// What would be undone.
#[derive(Default)]
struct Notes(Vec<Option<Change>>);

impl Notes {
    fn pending(&self) -> Vec<String> {
        let channel = |change: &Change| match change {
            Change::Applier { channel } => channel.clone(),
            other => panic!("{other:?}"),
        };
        self.0.iter().flatten().map(channel).collect()
    }
}

impl Journal for Notes {
    fn push(&mut self, change: Change) -> Result<usize, UndoError> {
        self.0.push(Some(change));
        Ok(self.0.len() - 1)
    }

    fn strike(&mut self, number: usize) -> Result<(), UndoError> {
        self.0[number] = None;
        Ok(())
    }
}

/// A clock that is only moved by pauses; cancelled after some.
struct Steps {
    elapsed: Duration,
    left: u32,
}

impl Clock for Steps {
    fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn pause(&mut self, duration: Duration) -> Result<(), Cancelled> {
        self.elapsed += duration;
        self.left = self.left.checked_sub(1).ok_or(Cancelled)?;
        Ok(())
    }
}

fn request(timeout_ms: u64, action: TimeoutAction) -> Request {
    let timeout = Duration::from_millis(timeout_ms);
    Request { timeout, action }
}

trait Lines {
    fn channels(self, rows: &[(&str, &str)]) -> Self;
    fn open(self, count: &str) -> Self;
}

impl Lines for ScriptedClient {
    fn channels(self, rows: &[(&str, &str)]) -> Self {
        let rows: Vec<Vec<&str>> = rows.iter().map(|(name, runs)| vec![*name, *runs]).collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        self.rows(CHANNELS, &["Connection_name", "Slave_SQL_Running"], &rows)
    }

    fn open(self, count: &str) -> Self {
        let row: &[&str] = &["Slave_open_temp_tables", count];
        self.rows(OPEN, &["Variable_name", "Value"], &[row])
    }
}

type Outcome = Result<(Stopped, Option<String>), SafeSlaveError>;

fn safely(client: ScriptedClient, dialect: &dyn Dialect, request: Request) -> (Outcome, Notes) {
    let (mut client, mut notes) = (client, Notes::default());
    let mut clock = Steps {
        elapsed: Duration::ZERO,
        left: 3,
    };
    let mut appliers = Appliers {
        client: &mut client,
        dialect,
        journal: &mut notes,
    };
    let outcome = appliers.stop_safely(request, &mut clock);
    client.finish();
    (outcome, notes)
}

#[test]
fn every_running_applier_is_stopped_and_no_other() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes"), ("asleep", "No"), ("it's", "Yes")])
        .open("0")
        .done("STOP SLAVE '' SQL_THREAD")
        .open("0")
        .open("0")
        .done("STOP SLAVE 'it''s' SQL_THREAD")
        .open("0");
    let (outcome, mut notes) = safely(client, &mariadb(), request(1000, TimeoutAction::Fail));
    let (stopped, warning) = outcome.unwrap();
    assert_eq!(
        (notes.pending(), warning),
        (vec!["".into(), "it's".into()], None)
    );

    let mut client = ScriptedClient::new()
        .done("START SLAVE '' SQL_THREAD")
        .done("START SLAVE 'it''s' SQL_THREAD");
    let mut appliers = Appliers {
        client: &mut client,
        dialect: &mariadb(),
        journal: &mut notes,
    };
    appliers.start(stopped).unwrap();
    client.finish();
    assert!(notes.pending().is_empty());
}

#[test]
fn channels_are_stopped_one_by_one_while_the_others_go_on() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes"), ("two", "Yes")])
        .open("0")
        .done("STOP SLAVE '' SQL_THREAD")
        // The other one's, which it closes.
        .open("1")
        .open("0")
        .open("1")
        .open("0")
        .done("STOP SLAVE 'two' SQL_THREAD")
        .open("0");
    let (outcome, notes) = safely(client, &mariadb(), request(1000, TimeoutAction::Fail));
    assert_eq!(outcome.unwrap().1, None);
    assert_eq!(notes.pending(), ["", "two"]);
}

#[test]
fn a_table_opened_before_the_stop_is_noticed_behind_it() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes")])
        .open("0")
        .done("STOP SLAVE '' SQL_THREAD")
        .open("1")
        .done("START SLAVE '' SQL_THREAD")
        .open("0")
        .done("STOP SLAVE '' SQL_THREAD")
        .open("0");
    let (outcome, notes) = safely(client, &mariadb(), request(1000, TimeoutAction::Fail));
    assert_eq!(outcome.unwrap().1, None);
    assert_eq!(notes.pending().len(), 1);
}

#[test]
fn at_the_end_of_the_time_the_appliers_run_as_before() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes"), ("two", "Yes")])
        .open("0")
        .done("STOP SLAVE '' SQL_THREAD")
        .open("0")
        .open("2")
        .open("2")
        .done("START SLAVE '' SQL_THREAD")
        .open("2");
    let (outcome, notes) = safely(client, &mariadb(), request(100, TimeoutAction::Fail));
    assert!(matches!(
        outcome,
        Err(SafeSlaveError::Timeout { open: 2, .. })
    ));
    assert!(notes.pending().is_empty());
}

#[test]
fn no_time_means_one_try() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes")])
        .open("2")
        .open("2");
    let (outcome, _) = safely(client, &mariadb(), request(0, TimeoutAction::Fail));
    let message = outcome.unwrap_err().to_string();
    assert_eq!(
        message,
        "The appliers still have 2 temporary tables open after 0 s"
    );
}

#[test]
fn who_goes_on_all_the_same_is_warned() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes")])
        .open("2")
        .open("2")
        .channels(&[("", "Yes")])
        .done("STOP SLAVE '' SQL_THREAD");
    let (outcome, notes) = safely(client, &mariadb(), request(0, TimeoutAction::Proceed));
    assert!(outcome.unwrap().1.unwrap().contains("2 temporary tables"));
    assert_eq!(notes.pending(), [""]);
}

#[test]
fn nobody_waits_for_appliers_that_do_not_run() {
    let client = ScriptedClient::new().channels(&[("", "No")]).open("1");
    let (outcome, _) = safely(client, &mariadb(), request(1000, TimeoutAction::Fail));
    assert!(matches!(
        outcome,
        Err(SafeSlaveError::NobodyRuns { open: 1 })
    ));
}

#[test]
fn a_signal_ends_the_wait() {
    let mut client = ScriptedClient::new().channels(&[("", "Yes")]);
    for _ in 0..4 {
        client = client.open("1");
    }
    let (outcome, _) = safely(client, &mariadb(), request(60_000, TimeoutAction::Fail));
    assert!(matches!(outcome, Err(SafeSlaveError::Cancelled(_))));
}

#[test]
fn an_applier_that_may_have_stopped_is_on_the_stack() {
    let client = ScriptedClient::new()
        .channels(&[("", "Yes")])
        .open("0")
        .hang_up("STOP SLAVE '' SQL_THREAD");
    let (outcome, notes) = safely(client, &mariadb(), request(1000, TimeoutAction::Fail));
    assert!(matches!(
        outcome,
        Err(SafeSlaveError::Client(ClientError::ConnectionLost { .. }))
    ));
    assert_eq!(notes.pending(), [""]);
}

#[test]
fn a_stop_that_the_server_gives_up_is_asked_for_again_until_the_time_is_over() {
    let stop = "STOP SLAVE '' SQL_THREAD";
    let given_up = |count| {
        let client = ScriptedClient::new().channels(&[("", "Yes")]).open("0");
        (0..count).fold(client, |client, _| {
            client.error(stop, 1875, "is incomplete")
        })
    };
    let request = request(200, TimeoutAction::Fail);
    let (outcome, notes) = safely(given_up(2).done(stop).open("0"), &mariadb(), request);
    assert!(outcome.is_ok());
    assert_eq!(notes.pending(), [""]);
    let (outcome, notes) = safely(given_up(3), &mariadb(), request);
    assert!(matches!(outcome, Err(SafeSlaveError::StillRuns { .. })));
    assert_eq!(notes.pending(), [""]);
}

#[test]
fn a_member_of_a_group_is_refused() {
    let mysql = MySql::new(Version::plain(Flavor::MySql, (9, 7, 4)));
    let client = ScriptedClient::new().rows(GROUP, &["MEMBER_ID"], &[&["uuid"]]);
    let (outcome, _) = safely(client, &mysql, request(1000, TimeoutAction::Fail));
    assert!(matches!(outcome, Err(SafeSlaveError::GroupMember)));
}

#[test]
fn an_applier_that_runs_until_somewhere_is_not_stopped_nor_is_any_other() {
    let columns = ["Connection_name", "Slave_SQL_Running", "Until_Condition"];
    let with = |runs: &str, until: &str| {
        let rows: &[&[&str]] = &[&["", "Yes", "None"], &["two", runs, until]];
        ScriptedClient::new().rows(CHANNELS, &columns, rows)
    };
    let request = request(1000, TimeoutAction::Fail);
    for until in ["Master", "Relay", "Gtid"] {
        let (outcome, notes) = safely(with("Yes", until), &mariadb(), request);
        let message = outcome.unwrap_err().to_string();
        let expected = format!("The applier of channel 'two' runs UNTIL ({until}), ");
        assert!(message.starts_with(&expected), "{message}");
        assert!(notes.pending().is_empty());
    }
    // One that got there is not ours to stop.
    let client = with("No", "Master").open("0");
    let client = client.done("STOP SLAVE '' SQL_THREAD").open("0");
    let (outcome, notes) = safely(client, &mariadb(), request);
    assert!(outcome.is_ok());
    assert_eq!(notes.pending(), [""]);

    let mysql = MySql::new(Version::plain(Flavor::MySql, (9, 7, 4)));
    let columns = ["Channel_Name", "Replica_SQL_Running", "Until_Condition"];
    let row: &[&str] = &["", "Yes", "SQL_BEFORE_GTIDS"];
    let client = ScriptedClient::new().done(GROUP);
    let client = client.rows("SHOW REPLICA STATUS", &columns, &[row]);
    let (outcome, _) = safely(client, &mysql, request);
    assert!(matches!(outcome, Err(SafeSlaveError::Until { .. })));
}

#[test]
fn mysql_is_spoken_to_in_the_words_of_its_version() {
    let request = request(1000, TimeoutAction::Fail);
    let row: &[&str] = &["one", "Yes"];
    let open = |client: ScriptedClient, name: &str| {
        let status: &[&str] = &[name, "0"];
        let statement = format!("SHOW GLOBAL STATUS LIKE '{name}'");
        client.rows(&statement, &["Variable_name", "Value"], &[status])
    };
    let client = ScriptedClient::new().done(GROUP).rows(
        "SHOW REPLICA STATUS",
        &["Channel_Name", "Replica_SQL_Running"],
        &[row],
    );
    let client =
        open(client, "Replica_open_temp_tables").done("STOP REPLICA SQL_THREAD FOR CHANNEL 'one'");
    let client = open(client, "Replica_open_temp_tables");
    let mysql = MySql::new(Version::plain(Flavor::MySql, (9, 7, 4)));
    assert!(safely(client, &mysql, request).0.is_ok());

    let client =
        ScriptedClient::new().rows("SHOW SLAVE STATUS", &["Slave_SQL_Running"], &[&["Yes"]]);
    let client = open(client, "Slave_open_temp_tables").done("STOP SLAVE SQL_THREAD");
    let client = open(client, "Slave_open_temp_tables");
    let mysql = MySql5::new(Version::plain(Flavor::MySql, (5, 6, 24)));
    assert!(safely(client, &mysql, request).0.is_ok());
}
