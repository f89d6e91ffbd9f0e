//! Waiting until the replica has caught up.
//!
//! What makes it right: "caught up" is what the replica says of itself, held against the source: both threads run, and the end that the source's binlog had in the beginning is
//! reached. A source that does not tell its end to a replication user is asked, once all that was received is applied, whether it has more: a replica that has only just
//! connected has applied all that it received, too. A thread that stopped ends the wait at once, with the server's own words.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ReplicaError;
use super::plan::{Source, Start};
use super::statements::Words;
use crate::cancel::Cancel;
use crate::client::{ClientError, Credentials, Endpoint, MysqlClient, Row, ServerClient};
use crate::server::Coordinates;

/// Servers have no event for all of this that a client could wait for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A receiver that tries again by itself is given this long to get through.
const CONNECT_BOUND: Duration = Duration::from_secs(15);
const SOURCE_BOUND: Duration = Duration::from_secs(10);

/// One channel, as the replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub channel: String,
    pub received: Option<Coordinates>,
    pub executed: Option<Coordinates>,
    receiver: String,
    applier: String,
    is_behind: bool,
    /// It applies so much later than the source on purpose, in seconds.
    delay: u64,
    error: String,
}

impl Status {
    pub fn of(row: &Row) -> Status {
        let text = |new: &str, old: &str| {
            row.get(new)
                .or(row.get(old))
                .unwrap_or_default()
                .to_string()
        };
        let at = |file: String, offset: String| {
            let offset = offset.parse().ok()?;
            (!file.is_empty()).then_some(Coordinates { file, offset })
        };
        let errors = [text("Last_IO_Error", ""), text("Last_SQL_Error", "")];
        Status {
            channel: text("Channel_Name", "Connection_name"),
            received: at(
                text("Source_Log_File", "Master_Log_File"),
                text("Read_Source_Log_Pos", "Read_Master_Log_Pos"),
            ),
            executed: at(
                text("Relay_Source_Log_File", "Relay_Master_Log_File"),
                text("Exec_Source_Log_Pos", "Exec_Master_Log_Pos"),
            ),
            receiver: text("Replica_IO_Running", "Slave_IO_Running"),
            applier: text("Replica_SQL_Running", "Slave_SQL_Running"),
            is_behind: text("Seconds_Behind_Source", "Seconds_Behind_Master") != "0",
            delay: text("SQL_Delay", "").parse().unwrap_or(0),
            error: errors
                .into_iter()
                .filter(|error| !error.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    fn runs(&self) -> bool {
        self.receiver == "Yes" && self.applier == "Yes"
    }

    fn is_through(&self) -> bool {
        self.runs() && !self.is_behind && self.executed.is_some() && self.executed == self.received
    }

    /// `age`: how long it is since replication was started.
    fn is_broken(&self, age: Duration) -> bool {
        let has_stopped = self.receiver == "No" || self.applier == "No";
        !self.error.is_empty() && (has_stopped || age > CONNECT_BOUND)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at =
            |at: &Option<Coordinates>| at.as_ref().map_or("nothing".into(), Coordinates::to_string);
        let (received, executed) = (at(&self.received), at(&self.executed));
        let (receiver, applier) = (&self.receiver, &self.applier);
        write!(
            f,
            "receiver {receiver} at {received}, applier {applier} at {executed}"
        )
    }
}

/// What a replica must have to have caught up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Gtids(String),
    At(Coordinates),
}

/// Whether a source has anything behind these coordinates; None if it does not tell.
type HasMore = Box<dyn Fn(&Coordinates) -> Option<bool>>;

/// One source's end, if it tells.
struct Goal {
    channel: String,
    end: Option<End>,
    has_more: HasMore,
}

pub struct Follower<'f> {
    client: &'f mut dyn ServerClient,
    words: Words,
    goals: Vec<Goal>,
    untold: BTreeSet<String>,
}

impl<'f> Follower<'f> {
    /// `server_id`: no server's, to ask sources with.
    pub fn new(
        client: &'f mut dyn ServerClient,
        words: Words,
        sources: &[Source],
        server_id: u32,
    ) -> Follower<'f> {
        let goals = sources.iter().map(|source| Goal {
            channel: source.channel.clone(),
            end: ask_source(source, words),
            has_more: has_more(source.clone(), server_id),
        });
        Follower {
            goals: goals.collect(),
            client,
            words,
            untold: BTreeSet::new(),
        }
    }

    /// Channels of which only the replica's own word is known: what it received is applied, and the source did not tell whether it has more.
    pub fn untold(&self) -> impl Iterator<Item = &String> {
        self.untold.iter()
    }

    /// Waits until every channel has caught up; gives how each stands.
    pub fn wait(&mut self, bound: Duration, cancel: &Cancel) -> Result<Vec<Status>, ReplicaError> {
        let start = Instant::now();
        loop {
            let all = self.look()?;
            let age = start.elapsed();
            if let Some(broken) = all.iter().find(|status| status.is_broken(age)) {
                return Err(ReplicaError::Broken {
                    channel: broken.channel.clone(),
                    status: broken.to_string(),
                    error: broken.error.clone(),
                });
            }
            match self.missing(&all)? {
                None => return Ok(all),
                Some(status) if age > bound => return Err(ReplicaError::Behind { bound, status }),
                Some(_) => {}
            }
            cancel.check()?;
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn look(&mut self) -> Result<Vec<Status>, ClientError> {
        let rows = self.client.query(self.words.status())?;
        let is_followed =
            |status: &Status| self.goals.iter().any(|goal| goal.channel == status.channel);
        Ok(rows.iter().map(Status::of).filter(is_followed).collect())
    }

    /// The first channel that has not caught up, in words.
    fn missing(&mut self, all: &[Status]) -> Result<Option<String>, ClientError> {
        for goal in &self.goals {
            let Some(status) = all.iter().find(|status| status.channel == goal.channel) else {
                return Ok(Some(format!("channel {:?} is not there", goal.channel)));
            };
            let has_reached = match &goal.end {
                None => true,
                Some(End::At(end)) => status
                    .executed
                    .as_ref()
                    .is_some_and(|at| is_at_or_behind(at, end)),
                Some(End::Gtids(set)) => {
                    let answer = self.client.value(&self.words.has_gtids(set))?;
                    answer == self.words.has_gtids_answer()
                }
            };
            // What is left of what was received is not due yet.
            let is_delayed = status.delay > 0;
            // Under load, what is received runs ahead of what is applied all the time.
            let is_done = match is_delayed {
                true => status.runs(),
                false => status.is_through(),
            };
            let has_caught_up = match (&goal.end, &status.received) {
                (Some(_), _) if !is_delayed => has_reached && status.runs(),
                (_, Some(at)) if is_done => {
                    let has_more = (goal.has_more)(at);
                    if has_more.is_none() {
                        self.untold.insert(goal.channel.clone());
                    }
                    has_more != Some(true)
                }
                _ => false,
            };
            if !has_caught_up {
                return Ok(Some(format!("channel {:?}: {status}", goal.channel)));
            }
        }
        Ok(None)
    }
}

/// True if `at` is not before `end`, in one server's numbered binlogs.
fn is_at_or_behind(at: &Coordinates, end: &Coordinates) -> bool {
    let number = |file: &str| {
        file.rsplit_once('.')
            .and_then(|(_, number)| number.parse::<u64>().ok())
    };
    (number(&at.file), at.offset) >= (number(&end.file), end.offset)
}

/// Where the source's binlog ends now. A replication user may ask for GTIDs anywhere, for file and offset only with a privilege more.
fn ask_source(source: &Source, words: Words) -> Option<End> {
    let ask = || end_of(&mut connect(source)?, &source.start, words);
    ask().unwrap_or_else(|error| {
        tracing::info!(%error, "the source does not tell where its binlog ends");
        None
    })
}

fn connect(source: &Source) -> Result<MysqlClient, ClientError> {
    let endpoint = Endpoint::Tcp {
        host: source.host.clone(),
        port: source.port,
    };
    let credentials = Credentials {
        user: source.user.clone(),
        password: source.password.clone(),
    };
    MysqlClient::connect(&endpoint, &credentials, SOURCE_BOUND)
}

/// A source that can't be reached from here, while the replica reaches it, has nothing to add to what the replica says.
fn has_more(source: Source, server_id: u32) -> HasMore {
    Box::new(move |at| {
        let ask = || connect(&source)?.has_events_behind(at, server_id);
        let told = ask();
        told.inspect_err(
            |error| tracing::info!(%error, "the source does not tell whether it has more"),
        )
        .ok()
    })
}

fn end_of(
    client: &mut dyn ServerClient,
    start: &Start,
    words: Words,
) -> Result<Option<End>, ClientError> {
    if *start == Start::Gtid {
        let set = client.value(words.gtids())?.replace('\n', "");
        return Ok((!set.is_empty()).then_some(End::Gtids(set)));
    }
    let rows = client.query(words.coordinates())?;
    let end = rows.first().and_then(|row| {
        Some(Coordinates {
            file: row.get("File")?.to_string(),
            offset: row.get("Position")?.parse().ok()?,
        })
    });
    Ok(end.map(End::At))
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
