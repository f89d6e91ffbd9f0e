//! Paths inside the files of a backup that lead to another root: symbolic links, tablespace links, indexes of binlogs.
//!
//! What makes it right: each is made to lead to where its root is now. One that still led to the old place could open, and write, the
//! files of the server that was backed up.

use std::path::{Path, PathBuf};

use hotmirror::manifest::{Entry, Kind};

use super::place::Destination;
use super::transfer::staged;
use super::{Order, RestoreError};
use crate::backup::spellings::{Spellings, normal, rebased};
use crate::files::FileError;

pub fn relocate(order: &Order<'_>) -> Result<(), RestoreError> {
    for entry in &order.manifest.entries {
        let Some(path) = staged(&order.destinations, &entry.path) else {
            continue;
        };
        match &entry.kind {
            Kind::Symlink { target } => relink(order, entry, &path, target)?,
            Kind::File { .. } if has_extension(entry, "isl") => rewrite(order, &path)?,
            Kind::File { .. } if is_index(order, entry) => rewrite(order, &path)?,
            _ => {}
        }
    }
    Ok(())
}

fn has_extension(entry: &Entry, extension: &str) -> bool {
    entry
        .path
        .extension()
        .is_some_and(|found| found == extension)
}

/// Relay log indexes lie directly in a root, or a directory below it.
fn is_index(order: &Order<'_>, entry: &Entry) -> bool {
    let of_relay_logs = has_extension(entry, "index") && entry.path.components().count() <= 3;
    of_relay_logs || order.manifest.binlogs.index.as_ref() == Some(&entry.path)
}

/// Where a path of the source is after the restore; None if it is in no root, or is there under the same name.
pub fn moved(spellings: &Spellings, destinations: &[Destination], path: &Path) -> Option<PathBuf> {
    let canonical = spellings.resolve(path);
    let holds = |destination: &&Destination| canonical.starts_with(&destination.source);
    let depth = |destination: &&Destination| destination.source.components().count();
    let destination = destinations.iter().filter(holds).max_by_key(depth)?;
    let now = rebased(&canonical, &destination.source, &destination.directory)?;
    (now != path).then_some(now)
}

fn relink(
    order: &Order<'_>,
    entry: &Entry,
    path: &Path,
    target: &Path,
) -> Result<(), RestoreError> {
    let owner = order
        .destinations
        .iter()
        .find(|d| entry.path.starts_with(&d.place));
    let (Some(owner), Some(parent)) = (owner, entry.path.parent()) else {
        return Ok(());
    };
    let inner = parent.strip_prefix(&owner.place).unwrap_or(Path::new(""));
    let absolute = normal(&owner.source.join(inner).join(target));
    // A relative link within one root moves with it.
    if target.is_relative() && absolute.starts_with(&owner.source) {
        return Ok(());
    }
    let now = match moved(&order.manifest.spellings, &order.destinations, &absolute) {
        Some(now) => now,
        // It stayed where it was, and the link did not: a relative one would lead elsewhere from here.
        None if target.is_relative() && owner.is_relocated() => absolute,
        None => return Ok(()),
    };
    let replaced = std::fs::remove_file(path).and_then(|()| std::os::unix::fs::symlink(now, path));
    replaced
        .map_err(FileError::at("replace", path))
        .map_err(Into::into)
}

/// Replaces each line that is an absolute path into a root that has moved.
fn rewrite(order: &Order<'_>, path: &Path) -> Result<(), RestoreError> {
    let text = match std::fs::read_to_string(path) {
        // The recovery may have removed it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        // Not a list of paths after all.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(()),
        text => text.map_err(FileError::at("read", path))?,
    };
    let (spellings, destinations) = (&order.manifest.spellings, &order.destinations);
    let line = |line: &str| match moved(spellings, destinations, Path::new(line)) {
        Some(now) => now.display().to_string(),
        None => line.to_string(),
    };
    let ends = text.ends_with('\n');
    let mut changed: String = text.lines().map(line).collect::<Vec<_>>().join("\n");
    if ends {
        changed.push('\n');
    }
    if changed == text {
        return Ok(());
    }
    tracing::info!(path = %path.display(), backup = %order.backup.display(), "paths rewritten");
    // In place, so that owner and mode stay.
    std::fs::write(path, changed).map_err(FileError::at("write", path))?;
    Ok(())
}
