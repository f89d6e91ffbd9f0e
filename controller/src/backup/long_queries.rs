//! Statements that would hold up the lock: waited for before it is asked for, or ended when it does not come.
//!
//! What makes it right: both are done only if asked for, over a connection of their own, since the backup's own waits for the lock. A statement that waits itself
//! holds nobody up, and neither do a replication thread's, which are not ours to end.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::args;
use crate::cancel::{Cancel, Cancelled};
use crate::client::{ClientError, MysqlClient, Row, ServerClient};
use crate::progress::Reporter;
use crate::server::LockPlan;

/// A statement that has run for this long counts as long.
const LONG_S: u64 = 2;
/// Between looks at what runs, of which no server gives notice.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const ANSWER_BOUND: Duration = Duration::from_secs(30);
const SHOWN_CHARS: usize = 80;
const RUNNING: &str = "SHOW FULL PROCESSLIST";

#[derive(Debug, thiserror::Error)]
pub enum LongQueryError {
    #[error(
        "After --wait-for-long-queries={seconds} s a statement still runs, for {age_s} s, in connection {connection} of {user}: {text}"
    )]
    StillRunning {
        seconds: u64,
        age_s: u64,
        connection: u64,
        user: String,
        text: String,
    },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A statement under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    connection: u64,
    user: String,
    age_s: u64,
    text: String,
}

/// Those that hold others up and have run for `age_s` or longer.
fn running(
    client: &mut dyn ServerClient,
    own: &[u64],
    age_s: u64,
) -> Result<Vec<Running>, ClientError> {
    let rows = client.query(RUNNING)?;
    let statements = rows.iter().filter_map(Running::of);
    Ok(statements
        .filter(|running| running.age_s >= age_s && !own.contains(&running.connection))
        .collect())
}

impl Running {
    fn of(row: &Row) -> Option<Running> {
        let is_statement = matches!(row.get("Command"), Some("Query" | "Execute"));
        let is_servers_own = matches!(
            row.get("User"),
            None | Some("system user" | "event_scheduler")
        );
        let waits = row
            .get("State")
            .is_some_and(|state| state.starts_with("Waiting"));
        if !is_statement || is_servers_own || waits {
            return None;
        }
        Some(Running {
            connection: row.get("Id")?.parse().ok()?,
            user: row.get("User")?.to_string(),
            age_s: row.get("Time")?.parse().ok()?,
            text: row.get("Info")?.chars().take(SHOWN_CHARS).collect(),
        })
    }
}

/// Waits until no long statement runs, if asked for; `own` is the backup's connection.
pub fn wait(
    args: &args::Backup,
    own: u64,
    reporter: &Reporter,
    cancel: &Cancel,
) -> Result<(), LongQueryError> {
    let Some(bound) = args.wait_for_long_queries else {
        return Ok(());
    };
    let mut client = connect(args)?;
    let own = [own, client.connection_id()];
    let start = Instant::now();
    let mut is_told = false;
    while let Some(first) = running(&mut client, &own, LONG_S)?.into_iter().next() {
        if start.elapsed() >= bound {
            return Err(LongQueryError::StillRunning {
                seconds: bound.as_secs(),
                age_s: first.age_s,
                connection: first.connection,
                user: first.user,
                text: first.text,
            });
        }
        if !std::mem::replace(&mut is_told, true) {
            reporter.step("Waiting until no long statement runs");
        }
        cancel.check()?;
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn connect(args: &args::Backup) -> Result<MysqlClient, ClientError> {
    let connection = &args.connection;
    MysqlClient::connect(&connection.endpoint, &connection.credentials, ANSWER_BOUND)
}

/// Ends long statements while the lock is waited for; stopped when dropped.
pub struct Killer {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Killer {
    /// Starts to count, if asked for and if `plan` has a lock that can be waited for.
    pub fn arm(
        args: &args::Backup,
        plan: &LockPlan,
        own: u64,
        reporter: &Arc<Reporter>,
    ) -> Result<Option<Killer>, ClientError> {
        let after = args.kill_long_queries_after;
        let Some(after) = after.filter(|_| plan.holds_commits()) else {
            return Ok(None);
        };
        let mut client = connect(args)?;
        let (reporter, own) = (reporter.clone(), [own, client.connection_id()]);
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut pause = after;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = kill(&mut client, &own, after, &|text| reporter.warn(text)) {
                    reporter.warn(&format!("Long statements cannot be ended: {error}"));
                    return;
                }
                pause = LOOK_INTERVAL;
            }
        });
        Ok(Some(Killer {
            stop: Some(stop),
            thread: Some(thread),
        }))
    }

    /// Has it end nothing more, without waiting for it.
    pub fn disarm(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.disarm();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ends the statements that have run for as long as the lock was waited for.
fn kill(
    client: &mut dyn ServerClient,
    own: &[u64],
    after: Duration,
    warn: &dyn Fn(&str),
) -> Result<(), ClientError> {
    for statement in running(client, own, after.as_secs())? {
        let Running {
            connection,
            user,
            age_s,
            text,
        } = statement;
        match client.run(&format!("KILL QUERY {connection}")) {
            Ok(()) => warn(&format!(
                "Ended a statement that ran for {age_s} s in connection {connection} of {user}: {text}"
            )),
            // It ended by itself meanwhile, and its connection with it.
            Err(ClientError::Statement { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use hotmirror::session::Throttle;

    use super::*;
    use crate::args::low::{Cli, Command};
    use crate::args::option_files::Options;
    use crate::client::scripted::ScriptedClient;
    use crate::progress::show::Show;
    use crate::server::{mysql, mysql5};

    const COLUMNS: &[&str] = &["Id", "User", "Command", "Time", "State", "Info"];
    const ROWS: &[&[&str]] = &[
        &["1", "system user", "Query", "900", "", "INSERT"],
        &["2", "app", "Sleep", "900", "", ""],
        &["3", "app", "Query", "1", "Sending data", "SELECT 1"],
        &[
            "4",
            "app",
            "Query",
            "60",
            "Waiting for table metadata lock",
            "ALTER TABLE t FORCE",
        ],
        &["5", "app", "Query", "60", "Sending data", "SELECT * FROM t"],
        &[
            "6",
            "root",
            "Query",
            "60",
            "Waiting for backup lock",
            "BACKUP STAGE BLOCK_DDL",
        ],
        &[
            "42",
            "root",
            "Query",
            "60",
            "",
            "FLUSH TABLES WITH READ LOCK",
        ],
    ];

    #[test]
    fn only_statements_that_hold_others_up_count() {
        let mut client = ScriptedClient::new().rows(RUNNING, COLUMNS, ROWS);
        let found = running(&mut client, &[42], LONG_S).unwrap();
        let connections: Vec<u64> = found.iter().map(|running| running.connection).collect();
        assert_eq!(connections, [5]);
    }

    fn args(words: &str) -> args::Backup {
        match Cli::parse_from(words.split(' ')).command {
            Command::Backup(args) => args::backup(*args, &Options::from_text("")).unwrap(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn without_a_lock_to_wait_for_nothing_is_ended() {
        let words =
            "hotmirror backup --target-dir=/b --socket=/nowhere/s --kill-long-queries-after=1";
        let args = args(words);
        let show = Show::new(&args.show);
        let reporter = Arc::new(Reporter::new(show, Arc::new(Throttle::new(0))));
        let arm = |plan| Killer::arm(&args, plan, 42, &reporter);
        assert!(arm(&mysql5::NO_LOCK).unwrap().is_none());
        let error = arm(&mysql::FTWRL).err().unwrap();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn an_ended_statement_is_told_and_one_that_is_gone_is_not() {
        let told = std::cell::RefCell::new(Vec::new());
        let mut client = ScriptedClient::new()
            .rows(RUNNING, COLUMNS, ROWS)
            .done("KILL QUERY 5")
            .rows(RUNNING, COLUMNS, ROWS)
            .error("KILL QUERY 5", 1094, "Unknown thread id: 5");
        for _ in 0..2 {
            let warn = |text: &str| told.borrow_mut().push(text.to_string());
            kill(&mut client, &[42], Duration::from_secs(10), &warn).unwrap();
        }
        client.finish();
        assert_eq!(
            told.into_inner(),
            ["Ended a statement that ran for 60 s in connection 5 of app: SELECT * FROM t"]
        );
    }
}
