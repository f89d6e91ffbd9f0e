//! The end of a session: each copy in the stage gets the path that the catalog has at the cut, its owner, mode and times, and a checksum.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;

use super::core::Core;
use super::error::SessionError;
use crate::capture_log::Attributes;
use crate::catalog::{Catalog, FileState, Node};
use crate::manifest::{Entry, Kind};
use crate::target::TargetError;

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(std::io::Error) -> SessionError + 'a {
    move |source| {
        let path = path.into();
        SessionError::Target(TargetError::Io {
            action,
            path,
            source,
        })
    }
}

/// A file to be moved to its place.
struct Placing<'c> {
    /// In the source, as the next.
    path: &'c Path,
    /// An earlier name of the same file.
    link_to: Option<&'c Path>,
    state: &'c FileState,
}

/// What a file is in its place.
#[derive(Clone, Copy, Default)]
struct Placed {
    size: u64,
    crc32c: u32,
    modified_ns: i64,
}

/// Where a source path in scope goes.
fn place_of(catalog: &Catalog, path: &Path) -> PathBuf {
    let place = catalog.scope().place(path);
    place.expect("a catalog names only what is in its scope")
}

/// Moves everything into place; gives the entries, and the bytes of all files.
pub(super) fn name_everything(
    catalog: &Catalog,
    core: &Core,
    parallel: usize,
) -> Result<(Vec<Entry>, u64), SessionError> {
    let stage = &core.stage;
    let mut entries = Vec::new();
    let mut placings = Vec::new();
    // Of files with several names; few have.
    let mut first_names: HashMap<u64, &Path> = HashMap::new();
    let mut directories = Vec::new();
    let mut made = HashSet::new();
    // Names come in order: those of one directory mostly one after the other.
    let mut parent = PathBuf::new();
    for (path, node) in catalog.names() {
        let place = place_of(catalog, path);
        let at = stage.place(&place);
        match node {
            Node::Directory(attributes) => {
                make_directory(&at, &mut made).map_err(failed("create", &at))?;
                entries.push(entry(place, Kind::Directory, attributes, 0));
                directories.push((at, *attributes));
            }
            Node::Symlink(target) => {
                make_parent(&at, &mut parent)?;
                std::os::unix::fs::symlink(target, &at).map_err(failed("create", &at))?;
                let kind = Kind::Symlink {
                    target: target.clone(),
                };
                entries.push(entry(place, kind, &Attributes::default(), 0));
            }
            Node::File(file) => {
                // Left out, the backup would miss a file and not say so.
                let state = catalog.file(*file).ok_or_else(|| SessionError::Io {
                    action: "find the copy of",
                    path: path.into(),
                    source: io::ErrorKind::NotFound.into(),
                })?;
                make_parent(&at, &mut parent)?;
                let mut link_to = None;
                if state.names > 1 {
                    link_to = first_names.get(&state.slot).copied();
                    first_names.entry(state.slot).or_insert(path);
                }
                placings.push(Placing {
                    path,
                    link_to,
                    state,
                });
            }
        }
    }
    let (links, firsts): (Vec<_>, Vec<_>) = placings
        .into_iter()
        .partition(|placing| placing.link_to.is_some());
    let placed = place_all(&firsts, catalog, core, parallel)?;
    let bytes = placed.iter().map(|placed| placed.size).sum();
    let mut linked = HashMap::new();
    for (placing, placed) in firsts.into_iter().zip(placed) {
        if placing.state.names > 1 {
            linked.insert(placing.path, placed);
        }
        entries.push(file_entry(&placing, catalog, placed, None));
    }
    for placing in links {
        let first = placing.link_to.expect("partitioned");
        let placed = linked.get(first).copied().unwrap_or_default();
        let first = place_of(catalog, first);
        let at = stage.place(&place_of(catalog, placing.path));
        stage
            .link(&stage.place(&first), &at)
            .map_err(failed("link", &at))?;
        entries.push(file_entry(&placing, catalog, placed, Some(first)));
    }
    // Last, and the deepest first: a directory's mode might forbid to work in it.
    for (at, attributes) in directories.into_iter().rev() {
        set_owner_and_mode(&at, &attributes)?;
    }
    stage.remove_slots()?;
    // Before anything is read back: of a write that failed, the page cache may show what was there before.
    stage.sync()?;
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    Ok((entries, bytes))
}

/// Makes a directory that has an entry. What was made already as another's is another directory of the source, whose name the file system takes for the same.
fn make_directory(path: &Path, made: &mut HashSet<(u64, u64)>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let metadata = fs::metadata(path)?;
    match made.insert((metadata.dev(), metadata.ino())) {
        true => Ok(()),
        false => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// `last`: a directory that is known to be there.
fn make_parent(at: &Path, last: &mut PathBuf) -> Result<(), SessionError> {
    let Some(parent) = at.parent().filter(|parent| parent != last) else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(failed("create", parent))?;
    *last = parent.into();
    Ok(())
}

fn entry(path: PathBuf, kind: Kind, attributes: &Attributes, modified_ns: i64) -> Entry {
    let Attributes { mode, uid, gid } = *attributes;
    Entry {
        path,
        kind,
        mode: mode & 0o7777,
        uid,
        gid,
        modified_ns,
    }
}

fn file_entry(
    placing: &Placing<'_>,
    catalog: &Catalog,
    placed: Placed,
    link_to: Option<PathBuf>,
) -> Entry {
    let place = place_of(catalog, placing.path);
    let kind = Kind::File {
        size: placed.size,
        crc32c: placed.crc32c,
        link_to,
    };
    let attributes = &placing.state.attributes;
    entry(place, kind, attributes, placed.modified_ns)
}

/// Moves the files and computes their checksums, with several workers.
fn place_all(
    placings: &[Placing<'_>],
    catalog: &Catalog,
    core: &Core,
    parallel: usize,
) -> Result<Vec<Placed>, SessionError> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<SessionError>> = Mutex::new(None);
    let placed = Mutex::new(vec![Placed::default(); placings.len()]);
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                crate::threads::started();
                while failure.lock().is_none() {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(placing) = placings.get(index) else {
                        return;
                    };
                    if core.cancelled.load(Ordering::Relaxed) {
                        failure.lock().get_or_insert(SessionError::Cancelled);
                        return;
                    }
                    match place(placing, catalog, core) {
                        Ok(done) => placed.lock()[index] = done,
                        Err(error) => _ = failure.lock().get_or_insert(error),
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(placed.into_inner()),
    }
}

fn place(placing: &Placing<'_>, catalog: &Catalog, core: &Core) -> Result<Placed, SessionError> {
    let at = core.stage.place(&place_of(catalog, placing.path));
    let slot = placing.state.slot;
    core.stage
        .move_slot(slot, &at)
        .map_err(failed("name", &at))?;
    let file = File::open(&at).map_err(failed("open", &at))?;
    let (size, crc32c) = core
        .digests
        .sum(slot, &file)
        .map_err(failed("read back", &at))?;
    crate::target::confirm(&file).map_err(failed("sync", &at))?;
    // The page cache is the server's; what is not written yet begins to be.
    crate::copy::drop_pages(&file, &(0..size));
    set_owner_and_mode_of(&file, &at, &placing.state.attributes)?;
    let modified_ns = set_modified(&file, placing.state).map_err(failed("set the time of", &at))?;
    Ok(Placed {
        size,
        crc32c,
        modified_ns,
    })
}

/// Gives the copy the time that its source was seen to have. A file that was made while records were applied, and written behind the cut before anybody looked, was never
/// seen as it was at the cut: of its copy the time is near, since what the source got was applied at once.
fn set_modified(copy: &File, state: &FileState) -> io::Result<i64> {
    let Some(seen) = state.seen else {
        let now = copy.metadata()?;
        return Ok(now.mtime() * 1_000_000_000 + now.mtime_nsec());
    };
    let modified_ns = seen.traits.modified_ns;
    copy.set_modified(UNIX_EPOCH + Duration::from_nanos(modified_ns.max(0) as u64))?;
    Ok(modified_ns)
}

/// As [`set_owner_and_mode`], of an open file, and only what it does not have already: each change is one of the file system's.
fn set_owner_and_mode_of(
    file: &File,
    at: &Path,
    attributes: &Attributes,
) -> Result<(), SessionError> {
    let Attributes { mode, uid, gid } = *attributes;
    let now = file.metadata().map_err(failed("look at", at))?;
    if rustix::process::geteuid().is_root() && (now.uid(), now.gid()) != (uid, gid) {
        fchown(file, Some(uid), Some(gid)).map_err(failed("set the owner of", at))?;
    }
    // To give a file away may take bits of its mode along; they are asked for here, and such a file's mode is set again.
    const TAKEN: u32 = 0o6000;
    if now.mode() & 0o7777 != mode & 0o7777 || mode & TAKEN != 0 {
        let permissions = fs::Permissions::from_mode(mode & 0o7777);
        file.set_permissions(permissions)
            .map_err(failed("set the mode of", at))?;
    }
    Ok(())
}

/// The owner is kept if we may: only root can give files away.
fn set_owner_and_mode(at: &Path, attributes: &Attributes) -> Result<(), SessionError> {
    if rustix::process::geteuid().is_root() {
        lchown(at, Some(attributes.uid), Some(attributes.gid))
            .map_err(failed("set the owner of", at))?;
    }
    let permissions = fs::Permissions::from_mode(attributes.mode & 0o7777);
    fs::set_permissions(at, permissions).map_err(failed("set the mode of", at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_that_become_one_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["Shop", "other"].map(|name| dir.path().join(name));
        let mut made = HashSet::new();
        // Made for what is in it, before its own turn.
        fs::create_dir(&one).unwrap();
        make_directory(&one, &mut made).unwrap();
        make_directory(&other, &mut made).unwrap();
        // As a file system does that takes both names for one.
        let error = make_directory(&one, &mut made).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
