//! Whom the copy is to follow, and from where.
//!
//! What makes it right: the start is the position of the cut. A replica of the server that was backed up starts from the end of that server's binlog in the
//! backup; a sibling of it starts where its appliers were, each channel by its own file and offset or GTID set.
//!
//! A sibling's GTID set holds the server's own transactions, too, since the copy does. A source that replicates from that server, as in a ring, has them in its binlog; the
//! server itself leaves out what comes back to it, by its server id, but the sibling has another one and would apply them again. MySQL's gtid_executed is of all that was
//! executed; MariaDB's gtid_slave_pos is of the appliers alone, and has what came back to them, but not what is still under way. What a channel tells is gtid_current_pos. In
//! a domain of the server's own it is exactly what the copy has; where several servers write one domain, a sequence number that is later comes behind everything that
//! the server had applied of it. A replica of the server itself reads the very binlog whose end the position is, so for that gtid_binlog_pos is right.

use std::collections::BTreeMap;

use crate::args::low::{Of, StartAt};
use crate::manifest::Manifest;
use crate::server::{Channel, Coordinates, Flavor, Position};

use super::ReplicaError;

/// What the copy is told before it starts to replicate.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the copy holds, as a GTID set; empty if the server keeps none.
    pub gtid_set: String,
    /// Channels that came with the backup and are not to be followed.
    pub forget: Vec<String>,
    pub follow: Vec<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub channel: String,
    pub host: String,
    pub port: u16,
    pub user: String,
    /// None: what the copy has kept, or none at all.
    pub password: Option<String>,
    pub start: Start,
    /// What of it is applied, by the names of the options that say so.
    pub filters: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Gtid,
    At(Coordinates),
}

/// What the user said; the rest comes from the manifest.
#[derive(Debug, Default)]
pub struct Wishes {
    pub of: Of,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub start_at: StartAt,
    /// Empty: all.
    pub channels: Vec<String>,
}

impl Plan {
    pub fn new(manifest: &Manifest, wishes: &Wishes) -> Result<Plan, ReplicaError> {
        match wishes.of {
            Of::Source => of_source(manifest, wishes),
            Of::Sibling => of_sibling(manifest, wishes),
        }
    }
}

fn of_source(manifest: &Manifest, wishes: &Wishes) -> Result<Plan, ReplicaError> {
    let position = manifest.position.as_ref().ok_or(ReplicaError::NoPosition)?;
    let has_gtids = has_gtids(manifest, position) && !position.gtid_set.is_empty();
    let source = Source {
        channel: String::new(),
        host: wishes
            .host
            .clone()
            .unwrap_or_else(|| manifest.server.hostname.clone()),
        port: wishes.port.unwrap_or(manifest.server.port),
        user: wishes.user.clone().ok_or(ReplicaError::NoUser)?,
        password: wishes.password.clone(),
        start: start(wishes.start_at, has_gtids, &position.coordinates),
        filters: BTreeMap::new(),
    };
    Ok(Plan {
        gtid_set: gtid_set(manifest, position),
        forget: manifest
            .channels
            .iter()
            .map(|channel| channel.name.clone())
            .collect(),
        follow: vec![source],
    })
}

fn of_sibling(manifest: &Manifest, wishes: &Wishes) -> Result<Plan, ReplicaError> {
    let first = manifest.channels.first().ok_or(ReplicaError::NoChannels)?;
    let is_wanted = |name: &String| wishes.channels.is_empty() || wishes.channels.contains(name);
    let names = || manifest.channels.iter().map(|channel| &channel.name);
    if let Some(unknown) = wishes
        .channels
        .iter()
        .find(|wanted| !names().any(|name| name == *wanted))
    {
        return Err(ReplicaError::NoChannel {
            name: unknown.clone(),
            known: names()
                .map(|name| format!("{name:?}"))
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    let follow: Vec<Source> = manifest
        .channels
        .iter()
        .filter(|channel| is_wanted(&channel.name))
        .map(|channel| sibling(channel, wishes))
        .collect();
    if follow.len() > 1 && (wishes.host.is_some() || wishes.port.is_some()) {
        return Err(ReplicaError::SeveralSources {
            count: follow.len(),
        });
    }
    let gtid_set = match (manifest.server.version.flavor, &manifest.position) {
        // What was applied from elsewhere is not in this server's own binlog unless it is told to be.
        (Flavor::MariaDb, _) | (_, None) => first.gtid_set.clone(),
        (_, Some(position)) => gtid_set(manifest, position),
    };
    Ok(Plan {
        gtid_set,
        forget: names().filter(|name| !is_wanted(name)).cloned().collect(),
        follow,
    })
}

fn sibling(channel: &Channel, wishes: &Wishes) -> Source {
    let at = Coordinates {
        file: channel.source_log_file.clone(),
        offset: channel.exec_source_log_pos,
    };
    Source {
        channel: channel.name.clone(),
        host: wishes.host.clone().unwrap_or_else(|| channel.host.clone()),
        port: wishes.port.unwrap_or(channel.port),
        user: wishes.user.clone().unwrap_or_else(|| channel.user.clone()),
        password: wishes.password.clone(),
        start: start(wishes.start_at, channel.auto_position, &at),
        // What was not applied there is missing here, and nothing can be applied to it.
        filters: channel.filters.clone(),
    }
}

fn start(wish: StartAt, has_gtids: bool, at: &Coordinates) -> Start {
    match wish {
        StartAt::Gtid => Start::Gtid,
        StartAt::Auto if has_gtids => Start::Gtid,
        StartAt::Auto | StartAt::Position => Start::At(at.clone()),
    }
}

/// MariaDB has GTIDs always, MySQL if it is told to.
fn has_gtids(manifest: &Manifest, position: &Position) -> bool {
    manifest.server.version.flavor == Flavor::MariaDb || position.gtid_mode == "ON"
}

/// On the way to or from GTIDs (OFF_PERMISSIVE, ON_PERMISSIVE) some transactions have one: those that the copy has must not come again when there are only such.
fn gtid_set(manifest: &Manifest, position: &Position) -> String {
    let keeps_gtids = has_gtids(manifest, position) || position.gtid_mode.ends_with("_PERMISSIVE");
    match keeps_gtids {
        true => position.gtid_set.clone(),
        false => String::new(),
    }
}
