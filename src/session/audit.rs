//! The audit: a scan of the source, compared with the catalog, before the cut and once more behind it.
//!
//! Every change since the first scan should be explained by a record. One that is not was made behind the hooks' back (by another
//! process, through a mapping or a libc-internal write), and a backup that trusted the log would be silently wrong (I3).

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::core::Core;
use super::error::SessionError;
use crate::capture_log::record::Header;
use crate::capture_log::{FileId, Record};
use crate::catalog::{self, Catalog, FileState, Mark, Node};
use crate::source::{self, Entry, Found, Scope};

/// Looks at a suspect that often before giving up on finding a moment without recorded changes of names.
const ROUND_COUNT_MAX: u32 = 20;

/// Names or files whose change no record explains. Capture is on, and the reader applies.
pub(super) fn unexplained(core: &Core) -> Result<Vec<PathBuf>, SessionError> {
    core.link.grace(false, core.options.grace_bound)?;
    core.drain()?;
    let (scope, since) = scope_and_mark(core);
    let entries = source::scan(&scope)?;
    // Whatever the scan saw is recorded by then, asynchronous writes too.
    core.link.grace(true, core.options.grace_bound)?;
    core.drain()?;
    let (changed, mut suspects) = suspects(&mut core.state.lock().catalog, &entries, since);
    if !changed.is_empty() {
        // A later look would find them recorded, too, if only something else of them was by then.
        return Ok(changed);
    }
    for _ in 0..ROUND_COUNT_MAX {
        if suspects.is_empty() {
            return Ok(suspects);
        }
        let before = core.state.lock().catalog.stats.name_records;
        let found: Vec<Option<Entry>> = suspects
            .iter()
            .map(|path| source::look(path))
            .collect::<Result<_, _>>()?;
        core.link.grace(true, core.options.grace_bound)?;
        core.drain()?;
        let catalog = &core.state.lock().catalog;
        if catalog.needs_scan().is_some() {
            // They moved in a way that only a scan tells, which accuses nobody.
            return Ok(Vec::new());
        }
        let quiet = catalog.stats.name_records == before;
        let still: Vec<PathBuf> = suspects
            .into_iter()
            .zip(found)
            .filter(|(path, entry)| !agrees(catalog, path, entry.as_ref()))
            .map(|(path, _)| path)
            .collect();
        if quiet {
            return Ok(still);
        }
        suspects = still;
    }
    // Names change all the time, and are recorded all the time: nothing shows that any change was missed.
    Ok(Vec::new())
}

fn scope_and_mark(core: &Core) -> (Scope, Mark) {
    let catalog = &core.state.lock().catalog;
    (catalog.scope().clone(), catalog.mark())
}

/// Names or files that changed between the first audit and now, and that neither a record before the cut nor one behind it explains.
///
/// The reader has taken the Cut, and sets aside all that stands behind it: for this, and for the case that the session goes on.
pub(super) fn unexplained_after_cut(core: &Core) -> Result<Vec<PathBuf>, SessionError> {
    let (scope, since) = scope_and_mark(core);
    let entries = source::scan(&scope)?;
    // Whatever the scan saw was done by a call that has appended by then, or by an asynchronous write that is noted by then.
    core.link.grace(true, core.options.grace_bound)?;
    core.drain()?;
    let mut state = core.state.lock();
    let beyond = Beyond::of(&state.beyond);
    let catalog = &state.catalog;
    let explained =
        |path: &Path| beyond.rescan || path.ancestors().any(|path| beyond.paths.contains(path));
    let changed = |entry: &Entry| {
        let known = catalog.file(entry.file);
        known.is_some_and(|file| {
            // One that was made while the records were applied, and that no scan has seen under its name, has nothing to be compared with: all of it came from records.
            !file.explains(&entry.traits) && !beyond.changed.contains(&entry.file)
        })
    };
    let missing = catalog.names_missing_in(&entries).into_iter();
    let missing = missing.filter(|path| !explained(path));
    let found = entries
        .iter()
        .filter(|entry| changed(entry) || !explained(&entry.path) && !is_named(catalog, entry))
        .map(|entry| entry.path.as_path());
    let unexplained: Vec<PathBuf> = found.chain(missing).map(Path::to_path_buf).collect();
    if !unexplained.is_empty() {
        // The scan that comes next has to find them changed.
        return Ok(unexplained);
    }
    // What has not changed since the cut looks as it did at the cut.
    let unchanged = entries
        .iter()
        .filter(|entry| !explained(&entry.path) && !beyond.files.contains(&entry.file));
    for entry in unchanged {
        state.catalog.note_directory(entry);
        let file = state.catalog.file_mut(entry.file);
        if let Some(file) = file.filter(|_| entry.found == Found::File) {
            file.attributes = entry.attributes;
            file.see(entry.traits, since);
        }
    }
    Ok(unexplained)
}

/// What the records behind the cut tell of.
#[derive(Default)]
struct Beyond {
    files: HashSet<FileId>,
    /// Those of them whose content or inode may be another since: one more name or another one leaves size and time of change as they were, and explains no other.
    changed: HashSet<FileId>,
    paths: HashSet<PathBuf>,
    /// Names changed in a way that the records don't tell.
    rescan: bool,
}

impl Beyond {
    fn of(records: &[(Header, Vec<u8>)]) -> Beyond {
        let mut beyond = Beyond::default();
        for (header, body) in records {
            match Record::decode(*header, body) {
                None | Some(Record::Rescan) => beyond.rescan = true,
                Some(record) => beyond.add(&record, header.file),
            }
        }
        beyond
    }

    fn add(&mut self, record: &Record<'_>, file: FileId) {
        self.files.insert(file);
        match *record {
            Record::Link { .. } | Record::Rename { exchange: true, .. } => {}
            // The inode of what was there may be another file's by now.
            Record::Rename { replaced, .. } => self.changed.extend(replaced),
            _ => _ = self.changed.insert(file),
        }
        let mut path = |bytes| _ = self.paths.insert(catalog::path_of(bytes).into());
        match *record {
            Record::Rename { from, to, .. } => {
                path(from);
                path(to);
            }
            Record::Create { path: at, .. }
            | Record::Unlink { path: at, .. }
            | Record::Link { path: at, .. }
            | Record::Symlink { path: at, .. }
            | Record::Mkdir { path: at, .. }
            | Record::Rmdir { path: at, .. } => path(at),
            _ => {}
        }
    }
}

/// A file of the backup of which the server has a writable shared mapping: stores to it pass no function.
pub(super) fn mapped_for_writing(core: &Core) -> Result<Option<PathBuf>, SessionError> {
    let mapped = mapped_files(core)?;
    let state = core.state.lock();
    let mut names = state.catalog.names();
    let found = names.find(|(_, node)| matches!(node, Node::File(file) if mapped.contains(file)));
    Ok(found.map(|(path, _)| path.to_path_buf()))
}

/// Whether [`mapped_files`] is all: the mappings of a server that has changed its user are for root alone.
pub(super) fn sees_mappings(core: &Core) -> bool {
    std::fs::File::open(format!("/proc/{}/maps", core.options.pid)).is_ok()
}

/// All files of which the server has a writable shared mapping.
pub(super) fn mapped_files(core: &Core) -> Result<HashSet<FileId>, SessionError> {
    let maps = PathBuf::from(format!("/proc/{}/maps", core.options.pid));
    let text = match std::fs::read(&maps) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            core.warn(format!(
                "Cannot see which files the server has mapped: {error}"
            ));
            return Ok(HashSet::new());
        }
        Err(source) => {
            let action = "read";
            return Err(SessionError::Io {
                action,
                path: maps,
                source,
            });
        }
    };
    let root = PathBuf::from(format!("/proc/{}/root", core.options.pid));
    let lines = text.split(|byte| *byte == b'\n');
    let files = lines.filter_map(|line| writable_mapping(line, &root));
    Ok(files.collect())
}

/// The file behind a line of /proc/<pid>/maps (`start-end perms offset major:minor inode path`), if it is written through it. `root`: the process's.
///
/// The line gives the device of the file system, stat that of its subvolume or layer, where there are such: what is at the path tells. The path is our own process's way to the file, or
/// the other's if ours has none.
fn writable_mapping(line: &[u8], root: &Path) -> Option<FileId> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let perms = fields.nth(1)?;
    if perms.get(1) != Some(&b'w') || perms.get(3) != Some(&b's') {
        return None;
    }
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (_offset, device, inode) = (text()?, text()?, text()?);
    let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let path = catalog::path_of(path.strip_prefix(b"/").unwrap_or(path));
    let found = [Path::new("/"), root].into_iter().find_map(|root| {
        let stat = std::fs::symlink_metadata(root.join(path)).ok();
        stat.filter(|stat| stat.ino() == inode)
    });
    let device = match found {
        Some(stat) => stat.dev(),
        None => {
            let (major, minor) = device.split_once(':')?;
            let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
            rustix::fs::makedev(number(major)?, number(minor)?)
        }
    };
    Some(FileId { device, inode })
}

/// Where catalog and a scan that began at `since` differ: files whose content changed, and names, which may have changed since. What the scan saw is taken over of
/// files whose changes are recorded, and of directories.
fn suspects(catalog: &mut Catalog, entries: &[Entry], since: Mark) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let disagree = |entry: &&Entry| !agrees(catalog, &entry.path, Some(entry));
    let (mut changed, mut names) = (Vec::new(), Vec::new());
    for entry in entries.iter().filter(disagree) {
        let differ = match is_named(catalog, entry) {
            true => &mut changed,
            false => &mut names,
        };
        differ.push(entry.path.clone());
    }
    let missing = catalog.names_missing_in(entries).into_iter();
    names.extend(missing.map(Path::to_path_buf));
    for entry in entries {
        catalog.note_directory(entry);
        // What has this inode by now may be another file, or have been a symbolic link.
        let named = catalog.name(&entry.path) == Some(&Node::File(entry.file));
        let seen = catalog.file(entry.file).and_then(|file| file.seen);
        let same = named || seen.is_some_and(|seen| seen.traits.born_ns == entry.traits.born_ns);
        if entry.found != Found::File || !same {
            continue;
        }
        if let Some(file) = catalog.file_mut(entry.file) {
            file.attributes = entry.attributes;
            if file.explains(&entry.traits) {
                file.see(entry.traits, since);
            }
        }
    }
    (changed, names)
}

/// The entry's name means in the catalog what it means in the source.
fn is_named(catalog: &Catalog, entry: &Entry) -> bool {
    match (catalog.name(&entry.path), &entry.found) {
        (Some(Node::Directory(_)), Found::Directory) => true,
        (Some(Node::Symlink(known)), Found::Symlink(target)) => known == target,
        (Some(Node::File(file)), Found::File) => *file == entry.file,
        _ => false,
    }
}

fn agrees(catalog: &Catalog, path: &Path, entry: Option<&Entry>) -> bool {
    let (node, entry) = match (catalog.name(path), entry) {
        (None, None) => return true,
        (Some(node), Some(entry)) => (node, entry),
        _ => return false,
    };
    // A file that came from outside by a record is dirty, which no cut is settled with: it is copied, and compared from then on.
    let explains = |file: &FileState| file.is_new() || file.explains(&entry.traits);
    is_named(catalog, entry)
        && match node {
            Node::File(file) => catalog.file(*file).is_some_and(explains),
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture_log::Attributes;
    use crate::source::{Root, Traits};

    const FILE: FileId = FileId {
        device: 1,
        inode: 7,
    };

    fn catalog() -> Catalog {
        let root = Root {
            source: "/root".into(),
            place: "data".into(),
        };
        Catalog::new(Scope::new(vec![root], Arc::new(|_| false)))
    }

    fn entry(path: &str, modified_ns: i64) -> Entry {
        Entry {
            path: path.into(),
            file: FILE,
            found: Found::File,
            attributes: Attributes::default(),
            traits: Traits {
                modified_ns,
                ..Traits::default()
            },
            allocated: 0,
        }
    }

    #[test]
    fn a_file_that_came_from_outside_by_a_record_is_no_suspect_and_stays_dirty() {
        let mut catalog = catalog();
        let since = catalog.mark();
        catalog.note_name(&Record::Rename {
            file: FILE,
            from: b"/elsewhere/a",
            to: b"/root/a",
            replaced: None,
            exchange: false,
            directory: false,
        });
        let found = suspects(&mut catalog, &[entry("/root/a", 3)], since);
        assert_eq!(found, (Vec::new(), Vec::new()));
        assert!(catalog.first_dirty().is_some());
        // Once it is copied it is compared.
        catalog.take_work();
        let file = catalog.file_mut(FILE).unwrap();
        file.see(entry("/root/a", 3).traits, since);
        let (changed, names) = suspects(&mut catalog, &[entry("/root/a", 4)], since);
        assert_eq!((changed, names), (vec!["/root/a".into()], Vec::new()));
    }

    #[test]
    fn a_rename_or_link_behind_the_cut_explains_no_change_of_content() {
        let other = FileId { inode: 8, ..FILE };
        let beyond = |record: &Record<'_>| {
            let (header, body) = record.encode();
            Beyond::of(&[(header, body.concat())])
        };
        let rename = |exchange| Record::Rename {
            file: FILE,
            from: b"/root/a",
            to: b"/root/b",
            replaced: Some(other),
            exchange,
            directory: false,
        };
        let path = b"/root/a".as_slice();
        let (file, offset, len) = (FILE, 0, 1);
        let keep_size = true;
        let cases = [
            (rename(false), vec![other]),
            (rename(true), vec![]),
            (Record::Link { file, path }, vec![]),
            (Record::Unlink { file, path }, vec![FILE]),
            (Record::Truncate { file, len }, vec![FILE]),
            (Record::Punch { file, offset, len }, vec![FILE]),
            (
                Record::Zero {
                    file,
                    offset,
                    len,
                    keep_size,
                },
                vec![FILE],
            ),
            (
                Record::Opaque {
                    file,
                    mapped: false,
                },
                vec![FILE],
            ),
        ];
        for (record, changed) in cases {
            let beyond = beyond(&record);
            assert_eq!(beyond.changed, HashSet::from_iter(changed), "{record:?}");
            assert!(beyond.files.contains(&FILE), "{record:?}");
        }
    }
}
