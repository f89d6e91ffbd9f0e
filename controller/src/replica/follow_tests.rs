//! Caught up is what both the replica and the source say.

use super::*;
use crate::client::scripted::ScriptedClient;
use crate::server::{Flavor, Version};

const COLUMNS: &[&str] = &[
    "Connection_name",
    "Slave_IO_Running",
    "Slave_SQL_Running",
    "Master_Log_File",
    "Read_Master_Log_Pos",
    "Relay_Master_Log_File",
    "Exec_Master_Log_Pos",
    "Seconds_Behind_Master",
    "Last_IO_Error",
    "Last_SQL_Error",
];
const THROUGH: &[&str] = &[
    "",
    "Yes",
    "Yes",
    "bin.000009",
    "700",
    "bin.000009",
    "700",
    "0",
    "",
    "",
];
const STATUS: &str = "SHOW ALL SLAVES STATUS";

fn words() -> Words {
    Words::of(&Version::plain(Flavor::MariaDb, (10, 11, 1)))
}

fn wait(client: ScriptedClient, end: Option<End>) -> Result<Vec<Status>, ReplicaError> {
    wait_for(client, end, Box::new(|_| Some(false)))
}

fn wait_for(
    mut client: ScriptedClient,
    end: Option<End>,
    has_more: HasMore,
) -> Result<Vec<Status>, ReplicaError> {
    let mut follower = Follower {
        client: &mut client,
        words: words(),
        goals: vec![Goal {
            channel: String::new(),
            end,
            has_more,
        }],
        untold: BTreeSet::new(),
    };
    let result = follower.wait(Duration::from_secs(60), &Cancel::default());
    client.finish();
    result
}

fn with(column: &str, value: &'static str) -> Vec<&'static str> {
    let mut row = THROUGH.to_vec();
    row[COLUMNS.iter().position(|name| *name == column).unwrap()] = value;
    row
}

#[test]
fn a_replica_that_applied_what_it_received_has_caught_up() {
    for column in [
        "Exec_Master_Log_Pos",
        "Relay_Master_Log_File",
        "Slave_IO_Running",
        "Seconds_Behind_Master",
    ] {
        let early = with(column, "Connecting");
        let client = ScriptedClient::new().rows(STATUS, COLUMNS, &[&early]).rows(
            STATUS,
            COLUMNS,
            &[THROUGH],
        );
        assert_eq!(wait(client, None).unwrap()[0].channel, "", "{column}");
    }
}

#[test]
fn a_replica_that_applied_all_it_received_waits_for_what_its_source_has_more() {
    let mut later = THROUGH.to_vec();
    (later[4], later[6]) = ("800", "800");
    let client = ScriptedClient::new()
        .rows(STATUS, COLUMNS, &[THROUGH])
        .rows(STATUS, COLUMNS, &[&later]);
    let all = wait_for(client, None, Box::new(|at| Some(at.offset < 800))).unwrap();
    assert_eq!(all[0].executed.as_ref().unwrap().offset, 800);
}

#[test]
fn what_a_source_does_not_tell_is_told() {
    let mut client = ScriptedClient::new().rows(STATUS, COLUMNS, &[THROUGH]);
    let mut follower = Follower {
        client: &mut client,
        words: words(),
        goals: vec![Goal {
            channel: String::new(),
            end: None,
            has_more: Box::new(|_| None),
        }],
        untold: BTreeSet::new(),
    };
    follower
        .wait(Duration::from_secs(60), &Cancel::default())
        .unwrap();
    assert_eq!(follower.untold().count(), 1);
}

#[test]
fn the_sources_end_has_to_be_reached() {
    let end = Coordinates {
        file: "bin.000010".into(),
        offset: 4,
    };
    let later = [
        "",
        "Yes",
        "Yes",
        "bin.000010",
        "4",
        "bin.000010",
        "4",
        "0",
        "",
        "",
    ];
    let client = ScriptedClient::new()
        .rows(STATUS, COLUMNS, &[THROUGH])
        .rows(STATUS, COLUMNS, &[&later]);
    wait(client, Some(End::At(end))).unwrap();

    let gtids = "SELECT MASTER_GTID_WAIT('0-1-42', 0)";
    let client = ScriptedClient::new()
        .rows(STATUS, COLUMNS, &[THROUGH])
        .rows(gtids, &["wait"], &[&["-1"]])
        .rows(STATUS, COLUMNS, &[THROUGH])
        .rows(gtids, &["wait"], &[&["0"]]);
    wait(client, Some(End::Gtids("0-1-42".into()))).unwrap();
}

#[test]
fn a_stopped_applier_ends_the_wait_with_its_own_words() {
    let mut row = with("Slave_SQL_Running", "No");
    row[9] = "Duplicate entry '7'";
    let client = ScriptedClient::new().rows(STATUS, COLUMNS, &[&row]);
    let error = wait(client, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Channel \"\" is broken (receiver Yes at bin.000009:700, applier No at bin.000009:700): Duplicate entry '7'"
    );
}

#[test]
fn file_numbers_compare_as_numbers() {
    let at = |file: &str, offset| Coordinates {
        file: file.into(),
        offset,
    };
    assert!(is_at_or_behind(
        &at("bin.1000000", 4),
        &at("bin.999999", 900)
    ));
    assert!(is_at_or_behind(
        &at("bin.000002", 900),
        &at("bin.000002", 900)
    ));
    assert!(!is_at_or_behind(
        &at("bin.000002", 899),
        &at("bin.000002", 900)
    ));
}

#[test]
fn a_channel_with_a_delay_has_caught_up_with_what_it_received() {
    let columns = [COLUMNS, &["SQL_Delay"]].concat();
    let late: &[&str] = &[
        "",
        "Yes",
        "Yes",
        "bin.000009",
        "700",
        "bin.000007",
        "100",
        "3600",
        "",
        "",
        "3600",
    ];
    let end = || {
        Some(End::At(Coordinates {
            file: "bin.000009".into(),
            offset: 700,
        }))
    };
    for end in [None, end()] {
        let client = ScriptedClient::new().rows(STATUS, &columns, &[late]);
        wait(client, end).unwrap();
    }
    // The source has more, and then all is there.
    let client = ScriptedClient::new().rows(STATUS, &columns, &[late]);
    let client = client.rows(STATUS, &columns, &[late]);
    let asked = std::cell::Cell::new(0);
    let has_more = move |_: &Coordinates| {
        asked.set(asked.get() + 1);
        Some(asked.get() == 1)
    };
    wait_for(client, end(), Box::new(has_more)).unwrap();
}
