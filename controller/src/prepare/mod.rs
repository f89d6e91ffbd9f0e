//! `hotmirror prepare`: lets the server's own recovery run on a backup, and records that it went well.
//!
//! What makes it right: the server runs where the backup's directories stand in place of its own (see `sandbox`), so it cannot touch the server that was backed up.
//! The manifest says that a prepare has begun before the first byte changes, and gets fresh checksums when it has ended.

pub mod instance;
pub mod sandbox;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hotmirror::manifest::{Entry, Kind};

use crate::args::low::PrepareArgs;
use crate::args::{UsageError, units};
use crate::backup::roots::{DATA_PLACE, Role, RootEntry};
use crate::backup::spellings::rebased;
use crate::cancel::Cancel;
use crate::exit::Failure;
use crate::files::{self, FileError};
use crate::manifest::{Manifest, Prepared, Use};
use crate::system;
use instance::{Instance, InstanceError};

pub fn run(args: &PrepareArgs) -> Result<(), Failure> {
    let cancel = Cancel::on_signals().map_err(InstanceError::Begin)?;
    let backup = std::fs::canonicalize(&args.backup).unwrap_or_else(|_| args.backup.clone());
    let _use = Use::exclusive(&backup)?;
    let mut manifest = Manifest::read(&backup)?;
    if let Some(prepared) = manifest
        .prepared
        .as_ref()
        .filter(|_| manifest.prepare_begun.is_none())
    {
        say!("The backup was prepared at {}", prepared.at);
        say!("completed OK!");
        return Ok(());
    }
    let places = places(&backup, &manifest);
    let recovery = Recovery::from_args(args, &manifest)?;
    let begun_before = manifest.prepare_begun.replace(system::now());
    manifest.replace(&backup)?;
    let recovered = recover(&manifest, &places, &recovery, &cancel);
    if let Err(Failure::Instance(error)) = &recovered
        && error.is_before_the_server()
    {
        // The backup is what it was.
        manifest.prepare_begun = begun_before;
        manifest.replace(&backup)?;
    }
    let prepared = recovered?;
    say!(
        "Recovery took {} ms, shutdown {} ms",
        prepared.recovery_ms,
        prepared.shutdown_ms
    );
    // MySQL gives itself an identity where it finds none, and no two servers made from the backup may share one.
    let identity = backup.join(DATA_PLACE).join("auto.cnf");
    if let Err(error) = std::fs::remove_file(&identity)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(FileError::at("remove", &identity)(error).into());
    }
    let directories: Vec<PathBuf> = manifest
        .roots
        .iter()
        .map(|root| root.place.clone())
        .collect();
    for directory in &directories {
        files::sync_file_system(&backup.join(directory))?;
    }
    let found = files::inventory(&backup, &directories)?;
    manifest.entries = attributed(found, &manifest.entries);
    manifest.prepared = Some(prepared);
    manifest.prepare_begun = None;
    manifest.replace(&backup)?;
    say!("completed OK!");
    Ok(())
}

/// Gives entries that were found behind a recovery what only the manifest knows: owner, mode and time are those of the server, and the backup may have been carried to where they can't be
/// kept. What is new belongs to whom the data directory belongs.
fn attributed(mut found: Vec<Entry>, before: &[Entry]) -> Vec<Entry> {
    let known: HashMap<&Path, &Entry> = before
        .iter()
        .map(|entry| (entry.path.as_path(), entry))
        .collect();
    let data = known.get(Path::new(DATA_PLACE)).copied();
    let contents: HashMap<PathBuf, Kind> = found
        .iter()
        .map(|entry| (entry.path.clone(), entry.kind.clone()))
        .collect();
    for entry in &mut found {
        let Some(old) = known.get(entry.path.as_path()) else {
            if let Some(data) = data {
                (entry.uid, entry.gid) = (data.uid, data.gid);
            }
            continue;
        };
        (entry.uid, entry.gid, entry.mode) = (old.uid, old.gid, old.mode);
        if let (
            Kind::File {
                size,
                crc32c,
                link_to,
            },
            Kind::File {
                size: size_before,
                crc32c: crc32c_before,
                link_to: link_before,
            },
        ) = (&mut entry.kind, &old.kind)
        {
            if (*size, *crc32c) == (*size_before, *crc32c_before) {
                entry.modified_ns = old.modified_ns;
            }
            let is_equal = |other: &PathBuf| {
                matches!(contents.get(other), Some(Kind::File { size: other_size, crc32c: other_crc32c, .. })
                    if (*other_size, *other_crc32c) == (*size, *crc32c))
            };
            *link_to = link_before.clone().filter(is_equal);
        }
    }
    found
}

/// How a recovery runs.
pub struct Recovery {
    /// The server's binary; behind a dynamic loader and its options, if it runs by one.
    pub program: Vec<PathBuf>,
    pub timeout: Duration,
    pub memory: u64,
    /// System user and group, if started by root.
    pub owner: Option<(u32, u32)>,
}

impl Recovery {
    /// As `prepare` does by default.
    pub fn of(manifest: &Manifest, mysqld: Option<&Path>) -> Recovery {
        Recovery {
            program: program(manifest, mysqld),
            timeout: Duration::from_secs(3600),
            memory: 256 << 20,
            owner: None,
        }
    }

    fn from_args(args: &PrepareArgs, manifest: &Manifest) -> Result<Recovery, Failure> {
        let memory = units::parse_bytes(&args.use_memory).map_err(|reason| UsageError::Value {
            option: "--use-memory".into(),
            value: args.use_memory.clone(),
            reason,
        })?;
        let owner = args.user.as_deref().map(system::parse_owner).transpose();
        let owner = owner.map_err(|reason| UsageError::Value {
            option: "--user".into(),
            value: args.user.clone().unwrap_or_default(),
            reason,
        })?;
        Ok(Recovery {
            program: program(manifest, args.mysqld.as_deref()),
            timeout: Duration::from_secs(args.timeout),
            memory,
            owner,
        })
    }

    /// Fails if it can't begin.
    pub fn check(&self) -> Result<(), InstanceError> {
        if !self.program[0].is_file() {
            return Err(InstanceError::NoBinary(self.program[0].clone()));
        }
        match sandbox::is_possible() {
            true => Ok(()),
            false => Err(InstanceError::NoNamespace),
        }
    }
}

/// The words that start the server's binary: `mysqld` if it is given.
pub fn program(manifest: &Manifest, mysqld: Option<&Path>) -> Vec<PathBuf> {
    match mysqld {
        Some(executable) => vec![executable.into()],
        None => manifest.server.program(),
    }
}

/// Where a root is now, and where the server had it.
#[derive(Clone, Debug)]
pub struct Place {
    pub now: PathBuf,
    pub original: PathBuf,
}

/// Every place under every name that the server's files have for it, the data directory first.
fn places(backup: &Path, manifest: &Manifest) -> Vec<Place> {
    let mut roots: Vec<_> = manifest.roots.iter().collect();
    roots.sort_by_key(|root| !root.roles.contains(&Role::Data));
    let place = |root: &RootEntry| Place {
        now: backup.join(&root.place),
        original: root.source.clone(),
    };
    with_spellings(roots.into_iter().map(place).collect(), manifest)
}

/// Adds other names of what is in `places`: a link of the server's that is not on this host leads nowhere here.
pub fn with_spellings(mut places: Vec<Place>, manifest: &Manifest) -> Vec<Place> {
    let now = |canonical: &Path| {
        let holds = |place: &&Place| canonical.starts_with(&place.original);
        let depth = |place: &&Place| place.original.components().count();
        let place = places.iter().filter(holds).max_by_key(depth)?;
        rebased(canonical, &place.original, &place.now).filter(|now| now.is_dir())
    };
    let spelled = manifest.spellings.iter().filter_map(|(named, canonical)| {
        Some(Place {
            now: now(canonical)?,
            original: named.into(),
        })
    });
    let spelled: Vec<Place> = spelled.collect();
    places.extend(spelled);
    places
}

/// Starts the server on `places`, waits until it is through with its recovery, and shuts it down.
pub fn recover(
    manifest: &Manifest,
    places: &[Place],
    recovery: &Recovery,
    cancel: &Arc<Cancel>,
) -> Result<Prepared, Failure> {
    let instance = Instance::start(manifest, places, recovery, cancel)?;
    let (instance, ready) = instance.wait_until_ready(recovery.timeout)?;
    let stopped = instance.shut_down(recovery.timeout)?;
    cancel.check()?;
    Ok(Prepared {
        at: system::now(),
        executable: recovery.program[0].clone(),
        recovery_ms: ready.as_millis() as u64,
        shutdown_ms: stopped.as_millis() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_modes_are_the_servers_wherever_the_backup_was_carried() {
        let entry = |path: &str, kind: Kind, (uid, mode): (u32, u32), modified_ns| Entry {
            path: path.into(),
            kind,
            mode,
            uid,
            gid: uid,
            modified_ns,
        };
        let file = |crc32c, link_to: Option<&str>| Kind::File {
            size: 10,
            crc32c,
            link_to: link_to.map(PathBuf::from),
        };
        let (mysql, root) = ((27, 0o640), (0, 0o644));
        let before = [
            entry("data", Kind::Directory, mysql, 1),
            entry("data/a", file(1, None), mysql, 1),
            entry("data/b", file(2, None), mysql, 1),
            entry("data/c", file(2, Some("data/b")), mysql, 1),
            entry("data/d", file(1, Some("data/a")), mysql, 1),
        ];
        let found = vec![
            entry("data", Kind::Directory, root, 2),
            entry("data/a", file(1, None), root, 2),
            entry("data/b", file(7, None), root, 2),
            entry("data/c", file(7, None), root, 2),
            entry("data/d", file(8, None), root, 2),
            entry("data/new", file(9, None), root, 2),
        ];
        let expected = vec![
            entry("data", Kind::Directory, mysql, 2),
            entry("data/a", file(1, None), mysql, 1),
            entry("data/b", file(7, None), mysql, 2),
            entry("data/c", file(7, Some("data/b")), mysql, 2),
            entry("data/d", file(8, None), mysql, 2),
            entry("data/new", file(9, None), (27, 0o644), 2),
        ];
        assert_eq!(attributed(found, &before), expected);
    }
}
