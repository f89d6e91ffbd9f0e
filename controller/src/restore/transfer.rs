//! Getting the files from the backup into the stages, by copying or by moving.
//!
//! What makes it right: a file is compared with its checksum while it is copied, and owner, mode and times are set last, from the manifest, as the
//! backup's own may have been changed by whoever carried it around.

use std::fs::{FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hotmirror::manifest::{Entry, Kind};

use super::place::Destination;
use super::{Order, RestoreError};
use crate::backup::spellings::rebased;
use crate::cancel::Cancel;
use crate::files::{self, FileError};
use crate::system;
use crate::verify::{self, VerifyError};

/// Where an entry of the backup goes, while the restore is under way.
pub fn staged(destinations: &[Destination], entry: &Path) -> Option<PathBuf> {
    destinations
        .iter()
        .find_map(|destination| rebased(entry, &destination.place, &destination.stage))
}

pub fn copy(order: &Order<'_>, cancel: &Cancel) -> Result<(), RestoreError> {
    let entries = &order.manifest.entries;
    let target = |entry: &Entry| staged(&order.destinations, &entry.path);
    for entry in entries.iter().filter(|entry| entry.kind == Kind::Directory) {
        if let Some(path) = target(entry).filter(|path| !path.exists()) {
            std::fs::create_dir(&path).map_err(FileError::at("create", &path))?;
        }
    }
    let is_first = |entry: &&Entry| matches!(&entry.kind, Kind::File { link_to: None, .. });
    let files: Vec<&Entry> = entries.iter().filter(is_first).collect();
    files::in_parallel(&files, |entry| match target(entry) {
        Some(path) => {
            cancel.check()?;
            copy_file(order, entry, &path)
        }
        None => Ok(()),
    })?;
    for entry in entries {
        if let Some(path) = target(entry) {
            make_link(order, entry, &path)?;
        }
    }
    // A directory's own times and mode after everything in it.
    entries
        .iter()
        .rev()
        .try_for_each(|entry| match target(entry) {
            Some(path) => dress(order, entry, &path).map_err(RestoreError::from),
            None => Ok(()),
        })
}

fn copy_file(order: &Order<'_>, entry: &Entry, to: &Path) -> Result<(), RestoreError> {
    let found = files::copy(&order.backup.join(&entry.path), to)?;
    let Kind::File { size, crc32c, .. } = entry.kind else {
        return Ok(());
    };
    match verify::mismatch(entry, found, (size, crc32c)).filter(|_| order.verify) {
        None => Ok(()),
        Some(first) => Err(VerifyError::Damaged {
            count: 1,
            total: order.manifest.entries.len(),
            first,
        }
        .into()),
    }
}

/// Symbolic links, and further names of a file that is there already.
fn make_link(order: &Order<'_>, entry: &Entry, path: &Path) -> Result<(), RestoreError> {
    let made = match &entry.kind {
        Kind::Symlink { target } => std::os::unix::fs::symlink(target, path),
        Kind::File {
            link_to: Some(first),
            ..
        } => match staged(&order.destinations, first) {
            Some(first) => match std::fs::hard_link(&first, path) {
                // The roots are on different file systems now: equal files, then.
                Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                    files::copy(&first, path)?;
                    Ok(())
                }
                made => made,
            },
            None => Ok(()),
        },
        _ => Ok(()),
    };
    made.map_err(FileError::at("create", path))
        .map_err(Into::into)
}

/// Owner, mode and time as they were on the server.
fn dress(order: &Order<'_>, entry: &Entry, path: &Path) -> Result<(), FileError> {
    if system::is_root() {
        let (uid, gid) = order.owner.unwrap_or((entry.uid, entry.gid));
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .map_err(FileError::at("change the owner of", path))?;
    }
    if matches!(entry.kind, Kind::Symlink { .. }) {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(entry.mode))
        .map_err(FileError::at("change the mode of", path))?;
    // A directory has the time of its last name, which a backup does not keep.
    if entry.modified_ns == 0 {
        return Ok(());
    }
    let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(entry.modified_ns.max(0) as u64);
    // Only for people's information: a file that can't be opened keeps its time.
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.set_times(FileTimes::new().set_modified(modified));
    }
    Ok(())
}

/// Moves what is directly in each root; what is below comes along.
pub fn move_all(order: &Order<'_>) -> Result<(), RestoreError> {
    for destination in &order.destinations {
        let from = order.backup.join(&destination.place);
        for name in files::names_in(&from)? {
            move_one(&from.join(&name), &destination.stage.join(&name))?;
        }
    }
    for entry in order.manifest.entries.iter().rev() {
        if let Some(path) = staged(&order.destinations, &entry.path) {
            dress(order, entry, &path)?;
        }
    }
    Ok(())
}

/// By a rename, or, to another file system, by copying and removing.
fn move_one(from: &Path, to: &Path) -> Result<(), FileError> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {}
        renamed => return renamed.map_err(FileError::at("move", from)),
    }
    let metadata = std::fs::symlink_metadata(from).map_err(FileError::at("look at", from))?;
    if metadata.is_dir() {
        std::fs::create_dir(to).map_err(FileError::at("create", to))?;
        for name in files::names_in(from)? {
            move_one(&from.join(&name), &to.join(&name))?;
        }
        return std::fs::remove_dir(from).map_err(FileError::at("remove", from));
    }
    if metadata.is_symlink() {
        let target = std::fs::read_link(from).map_err(FileError::at("read", from))?;
        std::os::unix::fs::symlink(target, to).map_err(FileError::at("create", to))?;
    } else {
        files::copy(from, to)?;
    }
    std::fs::remove_file(from).map_err(FileError::at("remove", from))
}

/// Everything in the stages survives a power cut.
pub fn sync(order: &Order<'_>) -> Result<(), RestoreError> {
    for destination in &order.destinations {
        files::sync_file_system(&destination.stage)?;
    }
    Ok(())
}
