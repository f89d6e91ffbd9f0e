//! The changes that a backup makes, and how each is taken back.
//!
//! | change | inverse | if it is already gone |
//! |---|---|---|
//! | capture on | mode to idle, segment removed | another session's mode, or another process, is left alone |
//! | stage made | stage removed | nothing to remove; a complete backup is never touched |
//! | lock taken | its connection killed | the connection ended, or its id belongs to somebody else |
//! | applier stopped | started | it runs, which START leaves alone, or its channel is gone |
//! | global variable raised | set back | somebody else's value is left alone |
//!
//! What makes it right: each inverse first looks whether the thing is still ours.

use std::path::PathBuf;

use hotmirror::manifest::any_path;
use serde::{Deserialize, Serialize};

use super::Header;
use crate::client::{ServerClient, quoted};
use crate::server::{self, Version, read};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    Capture {
        #[serde(with = "any_path")]
        runtime_dir: PathBuf,
    },
    Stage,
    /// Ids are given out once in a server's life, so an id with its user in the same server process is ours.
    Lock {
        connection_id: u64,
        user: String,
    },
    /// Of a replication channel; "" is the default one.
    Applier {
        channel: String,
    },
    GlobalVariable {
        name: String,
        before: String,
        after: String,
    },
}

/// How an inverse gets at the outside world.
pub trait Reach {
    /// A connection to the server of this undo file.
    fn client(&mut self, header: &Header) -> Result<Box<dyn ServerClient>, String>;

    /// Switches the session's capture off.
    fn abandon(&mut self, header: &Header, runtime_dir: &std::path::Path)
    -> Result<String, String>;

    fn remove_stage(&mut self, header: &Header) -> Result<String, String>;

    /// True while the server process that the file is about still runs.
    fn server_runs(&self, header: &Header) -> bool {
        crate::system::is_alive(header.server_pid, header.server_start_ticks)
    }
}

impl Change {
    pub fn what(&self) -> &'static str {
        match self {
            Change::Capture { .. } => "capture",
            Change::Stage => "stage",
            Change::Lock { .. } => "lock",
            Change::Applier { .. } => "applier",
            Change::GlobalVariable { .. } => "global variable",
        }
    }

    /// Made by a statement.
    pub fn is_in_server(&self) -> bool {
        !matches!(self, Change::Capture { .. } | Change::Stage)
    }

    /// Takes the change back; says what was found.
    pub fn undo(&self, header: &Header, reach: &mut dyn Reach) -> Result<String, String> {
        match self {
            Change::Capture { runtime_dir } => reach.abandon(header, runtime_dir),
            Change::Stage => reach.remove_stage(header),
            _ if !reach.server_runs(header) => {
                Ok(format!("The {} ended with its server", self.what()))
            }
            Change::Lock {
                connection_id,
                user,
            } => {
                let mut client = reach.client(header)?;
                end_connection(client.as_mut(), *connection_id, user)
            }
            Change::Applier { channel } => {
                let mut client = reach.client(header)?;
                start_applier(client.as_mut(), channel)
            }
            Change::GlobalVariable {
                name,
                before,
                after,
            } => {
                let mut client = reach.client(header)?;
                set_back(client.as_mut(), name, before, after)
            }
        }
    }
}

fn end_connection(
    client: &mut dyn ServerClient,
    connection_id: u64,
    user: &str,
) -> Result<String, String> {
    let ours = format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE ID = {connection_id} AND USER = {}",
        quoted(user)
    );
    let found = client.query(&ours).map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Ok(format!(
            "Connection {connection_id}, which held the lock, is gone"
        ));
    }
    let kill = format!("KILL CONNECTION {connection_id}");
    client.run(&kill).map_err(|error| error.to_string())?;
    Ok(format!(
        "Connection {connection_id}, which held the lock, was ended"
    ))
}

fn start_applier(client: &mut dyn ServerClient, channel: &str) -> Result<String, String> {
    let name = match channel {
        "" => "The default channel".to_string(),
        name => format!("Channel {name}"),
    };
    let version = Version::detect(client).map_err(|error| error.to_string())?;
    let dialect = server::dialect(&version).map_err(|error| error.to_string())?;
    let channels = dialect
        .channels(client)
        .map_err(|error| error.to_string())?;
    let found = channels.iter().find(|found| found.name == channel);
    match found.map(|found| found.applier_running) {
        None => Ok(format!("{name}, whose applier was stopped, is gone")),
        Some(runs) => {
            // One that runs may be about to stop, by a STOP that still waits for it. A START waits for that, even if nobody waits for the START any longer, and does nothing
            // else to one that runs. If the server gave that STOP up, a START does not wait, and the applier would stop behind it: another STOP waits.
            let (start, stop) = (
                dialect.start_applier(channel),
                dialect.stop_applier(channel),
            );
            let again: &[_] = match runs && dialect.gives_up_stops() {
                true => &[&stop, &start],
                false => &[],
            };
            for statement in [&start].into_iter().chain(again.iter().copied()) {
                client.run(statement).map_err(|error| error.to_string())?;
            }
            Ok(match runs {
                true => format!("{name}: the applier runs"),
                false => format!("{name}: the applier was started again"),
            })
        }
    }
}

fn set_back(
    client: &mut dyn ServerClient,
    name: &str,
    before: &str,
    after: &str,
) -> Result<String, String> {
    let found = read::set_back(client, name, before, after).map_err(|error| error.to_string())?;
    Ok(match found {
        Some(now) => format!("{name} is {now}, not the {after} of the backup; left alone"),
        None => format!("{name} was set back from {after} to {before}"),
    })
}
