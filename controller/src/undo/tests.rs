//! The stack survives its owner: what it lists is undone once, latest first, and only what is still ours.

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::client::ServerClient;
use crate::client::scripted::ScriptedClient;

fn header() -> Header {
    Header {
        owner_pid: std::process::id(),
        owner_start_ticks: crate::system::own_start_ticks(),
        server_pid: 1,
        server_start_ticks: 1,
        session: 0xabc,
        target: "/backup".into(),
        endpoint: crate::client::Endpoint::Socket("/s".into()),
    }
}

/// Notes what is undone; `server` is its line of answers, None for a server that is gone.
#[derive(Default)]
struct Witness {
    undone: Rc<RefCell<Vec<&'static str>>>,
    server: Option<ScriptedClient>,
    stage_fails: bool,
}

impl Reach for Witness {
    fn client(&mut self, _: &Header) -> Result<Box<dyn ServerClient>, String> {
        Ok(Box::new(
            self.server.take().expect("one connection is enough"),
        ))
    }

    fn abandon(&mut self, _: &Header, _: &Path) -> Result<String, String> {
        self.undone.borrow_mut().push("capture");
        Ok("off".into())
    }

    fn remove_stage(&mut self, _: &Header) -> Result<String, String> {
        self.undone.borrow_mut().push("stage");
        if self.stage_fails {
            Err("busy".into())
        } else {
            Ok("removed".into())
        }
    }

    fn server_runs(&self, _: &Header) -> bool {
        self.server.is_some()
    }
}

fn capture() -> Change {
    Change::Capture {
        runtime_dir: "/dev/shm".into(),
    }
}

fn undo_files(dir: &Path) -> usize {
    UndoFile::list(dir).unwrap().len()
}

/// Undoes the stop of applier "two" on a server whose appliers are as `rows` say.
fn undo_of_a_stop(rows: &[&[&str]], start: Option<&str>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let version: &[&str] = &["10.11.19-MariaDB", "Debian 12"];
    let statement = "SELECT @@version AS version, @@version_comment AS comment";
    let client = ScriptedClient::new()
        .rows(statement, &["version", "comment"], &[version])
        .rows(
            "SHOW ALL SLAVES STATUS",
            &["Connection_name", "Slave_SQL_Running"],
            rows,
        );
    let client = start.into_iter().fold(client, ScriptedClient::done);
    let mut witness = Witness {
        server: Some(client),
        ..Witness::default()
    };
    let mut file = UndoFile::create(dir.path(), header()).unwrap();
    let channel = "two".to_string();
    file.push(Change::Applier { channel }).unwrap();
    unwind(file, &mut witness).unwrap()
}

#[test]
fn a_stopped_applier_is_started_unless_it_is_gone() {
    let start = "START SLAVE 'two' SQL_THREAD";
    let findings = undo_of_a_stop(&[&["", "Yes"], &["two", "No"]], Some(start));
    assert_eq!(findings, ["Channel two: the applier was started again"]);
    let findings = undo_of_a_stop(&[&["two", "Yes"]], Some(start));
    assert_eq!(findings, ["Channel two: the applier runs"]);
    let findings = undo_of_a_stop(&[&["", "No"]], None);
    assert_eq!(
        findings,
        ["Channel two, whose applier was stopped, is gone"]
    );
}

/// Undoes the stop of the default channel's applier on a MySQL, where it still runs.
fn undo_of_a_mysql_stop(
    answers: impl Fn(ScriptedClient) -> ScriptedClient,
) -> Result<String, String> {
    let version: &[&str] = &["9.7.4", "MySQL Community Server - GPL"];
    let statement = "SELECT @@version AS version, @@version_comment AS comment";
    let columns = ["Channel_Name", "Replica_SQL_Running"];
    let client = ScriptedClient::new()
        .rows(statement, &["version", "comment"], &[version])
        .rows("SHOW REPLICA STATUS", &columns, &[&["", "Yes"]]);
    let channel = String::new();
    undo_with(Change::Applier { channel }, Some(answers(client)))
}

#[test]
fn an_applier_whose_stop_was_given_up_is_waited_for() {
    let (stop, start) = ["STOP", "START"]
        .map(|word| format!("{word} REPLICA SQL_THREAD FOR CHANNEL ''"))
        .into();
    let finding = undo_of_a_mysql_stop(|client| client.done(&start).done(&stop).done(&start));
    assert_eq!(finding.unwrap(), "The default channel: the applier runs");
    let failed =
        undo_of_a_mysql_stop(|client| client.done(&start).error(&stop, 1875, "is incomplete"));
    assert!(failed.unwrap_err().contains("is incomplete"));
}

#[test]
fn a_dropped_stack_unwinds_latest_first_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::default();
    let undone = witness.undone.clone();
    let mut stack = UndoStack::begin(dir.path(), header(), Box::new(witness)).unwrap();
    stack.push(Change::Stage).unwrap();
    stack.push(capture()).unwrap();
    drop(stack);
    assert_eq!(*undone.borrow(), ["capture", "stage"]);
    assert_eq!(undo_files(dir.path()), 0);
}

#[test]
fn what_was_changed_in_the_server_can_be_undone_first() {
    let dir = tempfile::tempdir().unwrap();
    let kill = "KILL CONNECTION 7";
    let ours = "SELECT ID FROM information_schema.PROCESSLIST WHERE ID = 7 AND USER = 'backup'";
    let client = ScriptedClient::new()
        .rows(ours, &["ID"], &[&["7"]])
        .done(kill);
    let witness = Witness {
        server: Some(client),
        ..Witness::default()
    };
    let undone = witness.undone.clone();
    let mut stack = UndoStack::begin(dir.path(), header(), Box::new(witness)).unwrap();
    stack.push(Change::Stage).unwrap();
    let user = "backup".to_string();
    stack
        .push(Change::Lock {
            connection_id: 7,
            user,
        })
        .unwrap();
    stack.unwind_server();
    assert!(undone.borrow().is_empty());
    let file = UndoFile::list(dir.path()).unwrap().pop().unwrap();
    let left = UndoFile::open(&file).unwrap().unwrap().pending();
    assert_eq!(left.len(), 1, "{left:?}");
    drop(stack);
    assert_eq!(*undone.borrow(), ["stage"]);
}

#[test]
fn a_struck_change_is_not_undone() {
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::default();
    let undone = witness.undone.clone();
    let mut stack = UndoStack::begin(dir.path(), header(), Box::new(witness)).unwrap();
    stack.push(Change::Stage).unwrap();
    let number = stack.push(capture()).unwrap();
    stack.strike(number).unwrap();
    drop(stack);
    assert_eq!(*undone.borrow(), ["stage"]);
}

#[test]
fn a_released_stack_undoes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::default();
    let undone = witness.undone.clone();
    let mut stack = UndoStack::begin(dir.path(), header(), Box::new(witness)).unwrap();
    stack.push(Change::Stage).unwrap();
    stack.release().unwrap();
    assert!(undone.borrow().is_empty());
    assert_eq!(undo_files(dir.path()), 0);
}

#[test]
fn a_failed_inverse_stays_in_the_file_and_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness {
        stage_fails: true,
        ..Witness::default()
    };
    let undone = witness.undone.clone();
    let mut stack = UndoStack::begin(dir.path(), header(), Box::new(witness)).unwrap();
    stack.push(capture()).unwrap();
    stack.push(Change::Stage).unwrap();
    drop(stack);
    assert_eq!(*undone.borrow(), ["stage", "capture"]);
    let paths = UndoFile::list(dir.path()).unwrap();
    let left = UndoFile::open(&paths[0]).unwrap().unwrap().pending();
    assert_eq!(left, [(1, Change::Stage)]);
}

#[test]
fn a_torn_last_line_is_a_change_that_was_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = UndoFile::create(dir.path(), header()).unwrap();
    file.push(Change::Stage).unwrap();
    let path = UndoFile::list(dir.path()).unwrap().remove(0);
    let mut raw = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    raw.write_all(br#"{"push":{"number":1,"cha"#).unwrap();
    let mut file = UndoFile::open(&path).unwrap().unwrap();
    assert_eq!(file.pending(), [(0, Change::Stage)]);
    file.repair().unwrap();
    file.strike(0).unwrap();
    assert!(UndoFile::open(&path).unwrap().unwrap().pending().is_empty());
}

#[test]
fn an_owner_is_dead_when_its_pid_belongs_to_a_later_process() {
    let dir = tempfile::tempdir().unwrap();
    let _live = UndoFile::create(dir.path(), header()).unwrap();
    let mut gone = header();
    gone.session = 0xdef;
    gone.owner_start_ticks += 1;
    let _dead = UndoFile::create(dir.path(), gone).unwrap();
    let found = leftovers(dir.path()).unwrap();
    assert_eq!(found.running.len(), 1);
    assert_eq!(found.dead[0].header().session, 0xdef);
}

const FIND: &str = "SELECT ID FROM information_schema.PROCESSLIST WHERE ID = 7 AND USER = 'b'";

fn lock() -> Change {
    Change::Lock {
        connection_id: 7,
        user: "b".into(),
    }
}

fn undo_with(change: Change, server: Option<ScriptedClient>) -> Result<String, String> {
    let mut witness = Witness {
        server,
        ..Witness::default()
    };
    change.undo(&header(), &mut witness)
}

#[test]
fn a_connection_that_still_holds_the_lock_is_ended() {
    let server = ScriptedClient::new()
        .rows(FIND, &["ID"], &[&["7"]])
        .done("KILL CONNECTION 7");
    let finding = undo_with(lock(), Some(server)).unwrap();
    assert_eq!(finding, "Connection 7, which held the lock, was ended");
}

#[test]
fn a_lock_whose_connection_or_server_is_gone_needs_nothing() {
    let server = ScriptedClient::new().done(FIND);
    let finding = undo_with(lock(), Some(server)).unwrap();
    assert_eq!(finding, "Connection 7, which held the lock, is gone");
    assert_eq!(
        undo_with(lock(), None).unwrap(),
        "The lock ended with its server"
    );
}

#[test]
fn a_variable_is_set_back_only_from_our_own_value() {
    let change = Change::GlobalVariable {
        name: "v".into(),
        before: "0".into(),
        after: "2".into(),
    };
    let ours = ScriptedClient::new()
        .rows("SELECT @@global.v", &["v"], &[&["2"]])
        .done("SET GLOBAL v = 0");
    assert_eq!(
        undo_with(change.clone(), Some(ours)).unwrap(),
        "v was set back from 2 to 0"
    );
    let theirs = ScriptedClient::new().rows("SELECT @@global.v", &["v"], &[&["1"]]);
    let finding = undo_with(change, Some(theirs)).unwrap();
    assert_eq!(finding, "v is 1, not the 2 of the backup; left alone");
}
