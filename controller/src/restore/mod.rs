//! `hotmirror restore`: puts a backup into a data directory and its external roots.
//!
//! What makes it right: nothing is overwritten. Everything is first put together in a directory inside each place, checked against the
//! checksums on the way, and moved up by renames at the end, the data directory's last; so a restore that is interrupted leaves
//! nothing that looks like a data directory.

pub mod place;
pub mod relocate;
pub mod transfer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotmirror::target::MANIFEST_NAME;

use crate::args::low::RestoreArgs;
use crate::args::{UsageError, absolute};
use crate::backup::roots::Role;
use crate::cancel::{Cancel, Cancelled};
use crate::exit::Failure;
use crate::files::FileError;
use crate::manifest::{Manifest, Use};
use crate::prepare::instance::InstanceError;
use crate::prepare::{self, Recovery};
use crate::server::Flavor;
use crate::system;
use crate::verify::{self, VerifyError};
use place::Destination;

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("The directory {0} is not empty")]
    NotEmpty(PathBuf),
    #[error("{0} exists already")]
    InTheWay(PathBuf),
    #[error("{place} cannot be both a place for {one} and for {other}")]
    SamePlace {
        place: PathBuf,
        one: PathBuf,
        other: PathBuf,
    },
    #[error("The restore failed while files were moved, some are in {place} now: {message}")]
    Moved { place: PathBuf, message: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Recovery(Box<Failure>),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What the arguments ask for.
pub struct Order<'o> {
    backup: &'o Path,
    manifest: &'o Manifest,
    destinations: Vec<Destination>,
    owner: Option<(u32, u32)>,
    verify: bool,
    /// How the server recovers, if it has to before anything changes its place.
    recovery: Option<Recovery>,
}

pub fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let cancel = Cancel::on_signals().map_err(InstanceError::Begin)?;
    let manifest = restore(args, &cancel)?;
    for line in relay_log_advice(&manifest) {
        say!("{line}");
    }
    say!("completed OK!");
    Ok(())
}

/// Gives the manifest, which a backup whose files were moved has no more.
pub fn restore(args: &RestoreArgs, cancel: &Arc<Cancel>) -> Result<Manifest, Failure> {
    let backup = absolute(args.from.clone());
    let _use = match args.way.move_back {
        true => Use::exclusive(&backup)?,
        false => Use::shared(&backup)?,
    };
    let manifest = Manifest::read(&backup)?;
    if manifest.prepare_begun.is_some() {
        return Err(VerifyError::HalfPrepared(backup).into());
    }
    let destinations = destinations(args, &manifest)?;
    let recovery = needs_recovery(&manifest, &destinations)
        .then(|| Recovery::of(&manifest, args.mysqld.as_deref()));
    if let Some(recovery) = &recovery {
        recovery.check()?;
    }
    let order = Order {
        backup: &backup,
        manifest: &manifest,
        destinations,
        owner: owner(args)?,
        verify: !args.no_verify,
        recovery,
    };
    place::check_free(&order.destinations, &manifest)?;
    if args.way.move_back {
        move_back(&order, cancel)?;
    } else {
        copy_back(&order, cancel)?;
    }
    for destination in &order.destinations {
        say!(
            "{} is in {}",
            destination.place.display(),
            destination.directory.display()
        );
    }
    tell_of_directories(&order);
    Ok(manifest)
}

/// The relay logs end wherever the receiver was, and its own position is written apart from them. With GTIDs it asks for what the appliers lack, with
/// file and offset only if it is told to begin where they are.
fn relay_log_advice(manifest: &Manifest) -> impl Iterator<Item = String> {
    let by_offset = manifest
        .channels
        .iter()
        .filter(|channel| !channel.auto_position);
    by_offset.map(|channel| {
        format!(
            "Channel {:?} replicates by file and offset: set relay_log_recovery=ON before the server starts, and it goes on at {}:{}",
            channel.name, channel.source_log_file, channel.exec_source_log_pos
        )
    })
}

/// MySQL looks for tablespaces elsewhere only where its settings say.
fn tell_of_directories(order: &Order<'_>) {
    if order.manifest.server.version.flavor == Flavor::MariaDb {
        return;
    }
    for destination in order
        .destinations
        .iter()
        .filter(|d| has_moved_tablespaces(d))
    {
        say!(
            "innodb_directories must name {} when the server starts",
            destination.directory.display()
        );
    }
}

fn has_moved_tablespaces(destination: &Destination) -> bool {
    destination.roles.contains(&Role::Tablespaces) && destination.is_relocated()
}

pub fn destinations(
    args: &RestoreArgs,
    manifest: &Manifest,
) -> Result<Vec<Destination>, RestoreError> {
    let mut externals = place::parse_externals(&args.external)?;
    let mut destinations: Vec<Destination> = manifest
        .roots
        .iter()
        .map(|root| {
            let is_data = root.roles.contains(&Role::Data);
            let chosen = match is_data {
                true => Some(absolute(args.data_dir.clone())),
                false => externals.remove(&root.place),
            };
            Destination::new(root, chosen.unwrap_or_else(|| root.source.clone()))
        })
        .collect();
    if let Some(place) = externals.keys().next() {
        return Err(UsageError::Conflict(format!(
            "--external: the backup has no {}",
            place.display()
        ))
        .into());
    }
    // The data directory last: until it is there, nothing can be started.
    destinations.sort_by_key(Destination::is_data);
    Ok(destinations)
}

fn owner(args: &RestoreArgs) -> Result<Option<(u32, u32)>, UsageError> {
    let owner = args.owner.as_deref().map(system::parse_owner).transpose();
    owner.map_err(|reason| UsageError::Value {
        option: "--owner".into(),
        value: args.owner.clone().unwrap_or_default(),
        reason,
    })
}

/// The redo log names tablespaces elsewhere by their old paths. Moved, they are only found if it has been applied before.
fn needs_recovery(manifest: &Manifest, destinations: &[Destination]) -> bool {
    manifest.prepared.is_none() && destinations.iter().any(has_moved_tablespaces)
}

fn copy_back(order: &Order<'_>, cancel: &Arc<Cancel>) -> Result<(), RestoreError> {
    let stages = place::Stages::make(&order.destinations)?;
    transfer::copy(order, cancel)?;
    recover(order, cancel)?;
    relocate::relocate(order)?;
    transfer::sync(order)?;
    cancel.check()?;
    stages.publish()
}

fn move_back(order: &Order<'_>, cancel: &Arc<Cancel>) -> Result<(), RestoreError> {
    if order.verify {
        verify::check(order.backup, order.manifest)?;
    }
    cancel.check()?;
    let stages = place::Stages::make(&order.destinations)?;
    // From here on it is no backup any more.
    let manifest = order.backup.join(MANIFEST_NAME);
    let used = manifest.with_extension("json.used");
    std::fs::rename(&manifest, &used).map_err(FileError::at("rename", &manifest))?;
    let stages = stages.keep();
    let moved = transfer::move_all(order)
        .and_then(|()| recover(order, cancel))
        .and_then(|()| relocate::relocate(order))
        .and_then(|()| transfer::sync(order))
        .and_then(|()| stages.publish());
    moved.map_err(|error| RestoreError::Moved {
        place: order
            .destinations
            .last()
            .map(|last| last.stage.clone())
            .unwrap_or_default(),
        message: error.to_string(),
    })
}

/// Lets the server recover, where that must come first.
fn recover(order: &Order<'_>, cancel: &Arc<Cancel>) -> Result<(), RestoreError> {
    let Some(recovery) = &order.recovery else {
        return Ok(());
    };
    say!("Tablespaces change their place: letting the server recover first");
    let place = |destination: &Destination| prepare::Place {
        now: destination.stage.clone(),
        original: destination.source.clone(),
    };
    let places = order.destinations.iter().rev().map(place).collect();
    let places = prepare::with_spellings(places, order.manifest);
    prepare::recover(order.manifest, &places, recovery, cancel)
        .map(drop)
        .map_err(|failure| RestoreError::Recovery(Box::new(failure)))
}

#[cfg(test)]
pub mod tests;
