//! The catalog: which names the source has, which file each one means, and what of each file is not yet in the stage.
//!
//! It starts from a fuzzy scan and follows the log. Why that is exact: the log holds, in file order, every change of a name since before the scan began. The
//! last record about a name decides what it is, whether or not the scan saw that change already; a name without a record did not change, so
//! the scan saw it right. (A directory renamed under the scan could hide names from it: the catalog then asks for another scan.)
//!
//! A file is known by device and inode. An inode may be reused: the old file's last name goes (Unlink, Rename over it) before the new file's Create, and with it
//! its state; a fresh Create of a known file starts over in any case.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::ops::{Bound, Range};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::capture_log::{Attributes, FileId, Record};
use crate::extents::{Extents, WHOLE};
use crate::source::{Entry, Found, Scope, Traits};

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(FileId),
    Directory(Attributes),
    Symlink(PathBuf),
}

/// What is known of one file.
#[derive(Clone, Debug)]
pub struct FileState {
    /// Number of its copy in the stage; never reused.
    pub slot: u64,
    /// How many names it has in scope.
    pub names: u64,
    /// What must be copied (again) from the source.
    pub dirty: Extents,
    /// All of it was copied at least once.
    pub copied: bool,
    /// Number of its last data record; 0: none.
    last_record: u64,
    /// When it was last scanned or copied.
    pub seen: Option<Seen>,
    /// When it was last looked at; 0 before.
    size: u64,
    pub attributes: Attributes,
}

/// What a file looked like, and when: a change of it that is recorded by then is in the traits, since calls append what they have done.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub traits: Traits,
    pub since: Mark,
}

/// A moment of the log: as many data records had been taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

impl FileState {
    /// Notes a look at it that was taken at `since`.
    pub fn see(&mut self, traits: Traits, since: Mark) {
        self.size = traits.size;
        self.seen = Some(Seen { traits, since });
    }

    /// A change was recorded since the file was seen, or it was made by one and never was seen: then it may well look different.
    fn is_recorded(&self) -> bool {
        self.last_record > self.seen.map_or(0, |seen| seen.since.0)
    }

    /// It looks as it did, or differs by what was recorded.
    pub fn explains(&self, traits: &Traits) -> bool {
        self.is_recorded() || self.seen.is_some_and(|seen| seen.traits == *traits)
    }

    /// It came under its name from outside, and is yet to be copied: there is nothing that it could differ from.
    pub fn is_new(&self) -> bool {
        self.seen.is_none() && self.last_record == 0 && !self.dirty.is_empty()
    }
}

/// A file to copy.
#[derive(Clone, Debug)]
pub struct Work {
    pub file: FileId,
    pub slot: u64,
    pub path: PathBuf,
    pub extents: Extents,
    /// Last known size of the source.
    pub size: u64,
    /// When it was taken.
    pub since: Mark,
}

/// Counts of what the log brought.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct CatalogStats {
    /// Data records of files in the backup.
    pub data_records: u64,
    /// Of these, those of files that had been copied already.
    pub changes_after_copy: u64,
    /// Records that change names in scope.
    pub name_records: u64,
}

pub struct Catalog {
    scope: Scope,
    /// Absolute paths without `.`, `..` or a slash too many, as the scan and the records give them: they are compared byte by byte, which takes a small part of what
    /// comparing by components does.
    names: BTreeMap<OsString, Node>,
    files: HashMap<FileId, FileState>,
    next_slot: u64,
    /// Data records of files in the backup.
    records: u64,
    dropped: Vec<u64>,
    needs_scan: Option<String>,
    mapped: HashSet<FileId>,
    pub stats: CatalogStats,
}

pub(crate) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl Catalog {
    pub fn new(scope: Scope) -> Catalog {
        Catalog {
            scope,
            names: BTreeMap::new(),
            files: HashMap::new(),
            next_slot: 0,
            records: 0,
            dropped: Vec::new(),
            needs_scan: None,
            mapped: HashSet::new(),
            stats: CatalogStats::default(),
        }
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn names(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.names
            .iter()
            .map(|(path, node)| (Path::new(path), node))
    }

    pub fn name(&self, path: &Path) -> Option<&Node> {
        self.names.get(path.as_os_str())
    }

    /// Names that a scan did not find.
    pub fn names_missing_in(&self, entries: &[Entry]) -> Vec<&Path> {
        let seen: HashSet<&OsStr> = entries.iter().map(|entry| entry.path.as_os_str()).collect();
        let names = self.names.keys();
        let missing = names.filter(|path| !seen.contains(path.as_os_str()));
        missing.map(Path::new).collect()
    }

    /// Takes over owner and mode of a directory, if `entry` is one that is known: of a change of these no record tells.
    pub fn note_directory(&mut self, entry: &Entry) {
        let known = self.names.get_mut(entry.path.as_os_str());
        if let (Some(Node::Directory(attributes)), Found::Directory) = (known, &entry.found) {
            *attributes = entry.attributes;
        }
    }

    pub fn file(&self, file: FileId) -> Option<&FileState> {
        self.files.get(&file)
    }

    pub fn file_mut(&mut self, file: FileId) -> Option<&mut FileState> {
        self.files.get_mut(&file)
    }

    pub fn files(&self) -> impl Iterator<Item = &FileState> {
        self.files.values()
    }

    /// For what is about to be looked at.
    pub fn mark(&self) -> Mark {
        Mark(self.records)
    }

    /// Why another scan is needed, if so.
    pub fn needs_scan(&self) -> Option<&str> {
        self.needs_scan.as_deref()
    }

    /// A slot whose file is gone.
    pub fn next_dropped(&mut self) -> Option<u64> {
        self.dropped.pop()
    }

    /// Gives such a slot back.
    pub fn drop_later(&mut self, slot: u64) {
        self.dropped.push(slot);
    }

    /// Takes over a scan that began at `since`. The records of names that came since before it began must be replayed afterwards.
    pub fn adopt(&mut self, entries: Vec<Entry>, since: Mark) {
        self.needs_scan = None;
        self.names.clear();
        for state in self.files.values_mut() {
            state.names = 0;
        }
        // A directory that changes under the scan may list a name twice, and an inode may be one file's in one entry and another's in the next: the last counts.
        for entry in entries {
            let node = match entry.found {
                Found::Directory => Node::Directory(entry.attributes),
                Found::Symlink(target) => Node::Symlink(target),
                Found::File => {
                    self.adopt_file(&entry, since);
                    Node::File(entry.file)
                }
            };
            self.names.insert(entry.path.into(), node);
        }
        for node in self.names.values() {
            if let Node::File(file) = node
                && let Some(state) = self.files.get_mut(file)
            {
                state.names += 1;
            }
        }
        let dropped = &mut self.dropped;
        self.files.retain(|_, state| {
            if state.names == 0 {
                dropped.push(state.slot);
            }
            state.names > 0
        });
    }

    fn adopt_file(&mut self, entry: &Entry, since: Mark) {
        let reused = self.files.get(&entry.file).is_some_and(|state| {
            state
                .seen
                .is_some_and(|seen| seen.traits.born_ns != entry.traits.born_ns)
        });
        if reused {
            self.forget(entry.file);
        }
        let state = self.state_or_new(entry.file);
        state.attributes = entry.attributes;
        // The scan explains what it saw: a file that changed without a record is copied again, whole.
        if !state.explains(&entry.traits) {
            state.dirty.insert(WHOLE);
        }
        state.see(entry.traits, since);
    }

    fn forget(&mut self, file: FileId) {
        if let Some(state) = self.files.remove(&file) {
            self.dropped.push(state.slot);
        }
    }

    /// The state of `file`; of a file not known so far, everything is dirty.
    fn state_or_new(&mut self, file: FileId) -> &mut FileState {
        let next_slot = &mut self.next_slot;
        self.files.entry(file).or_insert_with(|| {
            *next_slot += 1;
            FileState {
                slot: *next_slot,
                names: 0,
                dirty: Extents::Whole,
                copied: false,
                last_record: 0,
                seen: None,
                size: 0,
                attributes: Attributes::default(),
            }
        })
    }

    /// Notes a data record: `range` of `file` changed.
    pub fn note_data(&mut self, file: FileId, range: Range<u64>) {
        if let Some(state) = self.count_data(file) {
            state.dirty.insert(range);
        }
    }

    /// Notes that the server maps these files for writing, or did: what it stores there has no record.
    pub fn note_mapped(&mut self, files: impl IntoIterator<Item = FileId>) {
        self.mapped.extend(files);
    }

    /// A file of the backup that was mapped for writing since [`Catalog::note_unmapped`].
    pub fn mapped(&self) -> Option<FileId> {
        let mut mapped = self.mapped.iter().copied();
        mapped.find(|file| self.files.contains_key(file))
    }

    /// Takes out what [`Catalog::note_mapped`] noted, for a look at what is mapped by then.
    pub fn take_mapped(&mut self) -> HashSet<FileId> {
        std::mem::take(&mut self.mapped)
    }

    /// Notes that `files` are mapped for writing no more: they have to be copied once more, whenever they were copied before. A store to a page that is
    /// still to be written changes not even the file's times.
    pub fn note_unmapped(&mut self, files: HashSet<FileId>) {
        for file in files {
            self.note_data(file, WHOLE);
        }
    }

    /// Counts a data record; gives the file's state if it is in the backup.
    pub fn count_data(&mut self, file: FileId) -> Option<&mut FileState> {
        let state = self.files.get_mut(&file)?;
        self.stats.data_records += 1;
        self.stats.changes_after_copy += u64::from(state.copied);
        self.records += 1;
        state.last_record = self.records;
        Some(state)
    }

    /// Notes that the copy of `file`, which a fresh Create made, is all there is of it. Gives its slot.
    pub fn note_empty(&mut self, file: FileId) -> Option<u64> {
        let state = self.files.get_mut(&file)?;
        self.records += 1;
        state.last_record = self.records;
        state.dirty.take();
        state.copied = true;
        Some(state.slot)
    }

    /// Replays a record that changes names. Gives the file that a fresh Create made, if it is in scope.
    pub fn note_name(&mut self, record: &Record<'_>) -> Option<FileId> {
        match *record {
            Record::Create {
                file,
                path,
                attributes,
                fresh,
            } => {
                let path = self.in_scope(path)?;
                if fresh {
                    self.forget_everywhere(file, &path);
                }
                self.bind(path, file);
                let state = self.files.get_mut(&file)?;
                state.attributes = attributes;
                fresh.then_some(file)
            }
            Record::Link { file, path } => {
                let path = self.in_scope(path)?;
                self.bind_from_outside(path, file);
                None
            }
            Record::Symlink { path, target, .. } => {
                let path = self.in_scope(path)?;
                self.unbind(&path);
                self.names
                    .insert(path.into(), Node::Symlink(path_of(target).into()));
                None
            }
            Record::Mkdir {
                path, attributes, ..
            } => {
                let path = self.in_scope(path)?;
                self.unbind(&path);
                self.names.insert(path.into(), Node::Directory(attributes));
                None
            }
            Record::Unlink { path, .. } | Record::Rmdir { path, .. } => {
                let path = self.in_scope(path)?;
                self.unbind(&path);
                None
            }
            Record::Rename {
                file,
                from,
                to,
                exchange,
                directory,
                ..
            } => {
                self.rename(file, path_of(from), path_of(to), exchange, directory);
                None
            }
            Record::Rescan => {
                self.ask_for_scan("Names changed in a way that the hook could not tell");
                None
            }
            _ => None,
        }
    }

    /// The path if it is in scope; counts it.
    fn in_scope(&mut self, path: &[u8]) -> Option<PathBuf> {
        let path = path_of(path);
        self.scope.contains(path).then(|| {
            self.stats.name_records += 1;
            path.to_path_buf()
        })
    }

    /// Asks for another scan; the first reason stays.
    pub fn ask_for_scan(&mut self, why: impl Into<String>) {
        self.needs_scan.get_or_insert(why.into());
    }

    /// Lets `path` mean `file`.
    fn bind(&mut self, path: PathBuf, file: FileId) {
        if self.name(&path) == Some(&Node::File(file)) {
            return;
        }
        // One more name first: the same file under the old name must not be forgotten in between.
        self.state_or_new(file).names += 1;
        self.unbind(&path);
        self.names.insert(path.into(), Node::File(file));
    }

    /// The same, of a file that may have come from outside. One that is not known is all dirty; one that a scan saw there may be taken for another whose inode
    /// it got, where the file system keeps no time of birth.
    fn bind_from_outside(&mut self, path: PathBuf, file: FileId) {
        if self.name(&path) == Some(&Node::File(file)) {
            self.state_or_new(file).dirty.insert(WHOLE);
        }
        self.bind(path, file);
    }

    /// Lets `path` mean nothing.
    fn unbind(&mut self, path: &Path) {
        if let Some(Node::File(file)) = self.names.remove(path.as_os_str()) {
            self.one_name_less(file);
        }
    }

    fn one_name_less(&mut self, file: FileId) {
        let Some(state) = self.files.get_mut(&file) else {
            return;
        };
        state.names = state.names.saturating_sub(1);
        if state.names == 0 {
            self.forget(file);
        }
    }

    /// A fresh file has only the name that it was made with: what the catalog knew under its inode was another file.
    fn forget_everywhere(&mut self, file: FileId, path: &Path) {
        let Some(state) = self.files.get(&file) else {
            return;
        };
        if state.names > 1 || self.name(path) != Some(&Node::File(file)) {
            self.names.retain(|_, node| *node != Node::File(file));
        } else {
            self.names.remove(path.as_os_str());
        }
        self.forget(file);
    }

    fn rename(&mut self, file: FileId, from: &Path, to: &Path, exchange: bool, directory: bool) {
        let (from_in, to_in) = (self.scope.contains(from), self.scope.contains(to));
        self.stats.name_records += u64::from(from_in || to_in);
        if exchange && (from_in || to_in) {
            return self.exchange(from, to, from_in && to_in);
        }
        if directory {
            return self.rename_directory(from, to, from_in, to_in);
        }
        match (from_in, to_in) {
            (false, false) => {}
            (true, false) => self.unbind(from),
            (_, true) => match self.name(from).cloned() {
                Some(node @ Node::Symlink(_)) => {
                    self.names.remove(from.as_os_str());
                    self.unbind(to);
                    self.names.insert(to.into(), node);
                }
                before => {
                    let to_link = matches!(self.name(to), Some(Node::Symlink(_)));
                    if before.is_none() && to_link {
                        // Seen by a scan, it may be this very link, or a file that took its place.
                        self.ask_for_scan(format!("{} was a symbolic link", to.display()));
                    }
                    match from_in {
                        true => self.bind(to.into(), file),
                        false => self.bind_from_outside(to.into(), file),
                    }
                    if from_in {
                        self.unbind(from);
                    }
                }
            },
        }
    }

    fn exchange(&mut self, from: &Path, to: &Path, both_in: bool) {
        if !both_in {
            return self.ask_for_scan(format!(
                "{} was exchanged with a name outside",
                to.display()
            ));
        }
        let (left, right) = (self.below(from), self.below(to));
        let is_known =
            |names: &[PathBuf], path: &Path| names.first().is_some_and(|first| first == path);
        if !is_known(&left, from) || !is_known(&right, to) {
            return self.ask_for_scan(format!(
                "{} and {} were exchanged",
                from.display(),
                to.display()
            ));
        }
        let mut moved = self.take(&left, from, to);
        moved.extend(self.take(&right, to, from));
        self.names.extend(moved);
    }

    /// Takes names below `from` out; gives them with what they are called below `to`.
    fn take(&mut self, names: &[PathBuf], from: &Path, to: &Path) -> Vec<(OsString, Node)> {
        let moved = names.iter().filter_map(|path| {
            let rest = path.strip_prefix(from).expect("below");
            let target = match rest.as_os_str().is_empty() {
                true => to.into(),
                false => to.join(rest),
            };
            Some((target.into(), self.names.remove(path.as_os_str())?))
        });
        moved.collect()
    }

    fn rename_directory(&mut self, from: &Path, to: &Path, from_in: bool, to_in: bool) {
        match (from_in, to_in) {
            (false, false) => {}
            (true, false) => {
                for path in self.below(from) {
                    self.unbind(&path);
                }
            }
            (false, true) => self.ask_for_scan(format!("{} came from outside", to.display())),
            (true, true) => {
                let moved = self.below(from);
                if !moved.iter().any(|path| path == from) {
                    self.ask_for_scan(format!("{} was renamed during a scan", from.display()));
                }
                self.unbind(to);
                let moved = self.take(&moved, from, to);
                self.names.extend(moved);
            }
        }
    }

    /// `directory` and everything below it.
    fn below(&self, directory: &Path) -> Vec<PathBuf> {
        let itself = self.names.get_key_value(directory.as_os_str());
        // Between the two there may be others: `a`, `a-b`, `a/c`.
        let prefix = directory.join("");
        let is_below = |path: &OsStr| path.as_bytes().starts_with(prefix.as_os_str().as_bytes());
        let from = (Bound::Included(prefix.as_os_str()), Bound::Unbounded);
        let inside = self.names.range::<OsStr, _>(from);
        let inside = inside.take_while(|(path, _)| is_below(path));
        itself
            .into_iter()
            .chain(inside)
            .map(|(path, _)| path.into())
            .collect()
    }

    /// A directory renamed while a scan ran may have hidden names from it.
    pub fn ask_for_scan_if_moved(&mut self, record: &Record<'_>) {
        if let Record::Rename {
            directory: true,
            from,
            to,
            ..
        }
        | Record::Rename {
            exchange: true,
            from,
            to,
            ..
        } = *record
            && [from, to]
                .iter()
                .any(|path| self.scope.meets(path_of(path)))
        {
            self.ask_for_scan(format!(
                "{} was renamed during a scan",
                path_of(from).display()
            ));
        }
    }

    /// Takes everything that is dirty, to be copied: the extents are cleared before the source is read, so that what changes meanwhile is noted anew.
    pub fn take_work(&mut self) -> Vec<Work> {
        let since = self.mark();
        let mut work = Vec::new();
        for (path, node) in &self.names {
            let Node::File(file) = node else { continue };
            let Some(state) = self.files.get_mut(file) else {
                continue;
            };
            if state.dirty.is_empty() {
                continue;
            }
            let size = state.size;
            let extents = state.dirty.take();
            work.push(Work {
                file: *file,
                slot: state.slot,
                path: path.into(),
                extents,
                size,
                since,
            });
        }
        work
    }

    /// Puts back what could not be copied.
    pub fn put_back(&mut self, file: FileId, slot: u64, extents: Extents) {
        if let Some(state) = self.files.get_mut(&file).filter(|state| state.slot == slot) {
            state.dirty.extend(extents);
        }
    }

    /// Bytes that are dirty, by the last known sizes.
    pub fn dirty_bytes(&self) -> u64 {
        let files = self.files.values();
        files.map(|state| state.dirty.bytes(state.size)).sum()
    }

    /// Files that are dirty beyond their last known size, with a path of each: how much that is only a look at them tells.
    pub fn dirty_beyond_size(&self) -> Vec<(PathBuf, FileId)> {
        let is_beyond = |state: &FileState| state.dirty.end() > state.size;
        if !self.files.values().any(is_beyond) {
            return Vec::new();
        }
        let names = self.names.iter().filter_map(|(path, node)| match node {
            Node::File(file) if self.files.get(file).is_some_and(is_beyond) => {
                Some((path.into(), *file))
            }
            _ => None,
        });
        names.collect()
    }

    /// Notes how long `file` is found to be, which explains no change of it.
    pub fn note_size(&mut self, file: FileId, size: u64) {
        if let Some(state) = self.files.get_mut(&file) {
            state.size = size;
        }
    }

    /// A path of some dirty file. None: nothing is dirty that the backup would hold, since it holds what has a name.
    pub fn first_dirty(&self) -> Option<&Path> {
        let dirty = self
            .files
            .iter()
            .filter(|(_, state)| !state.dirty.is_empty());
        dirty.map(|(id, _)| *id).find_map(|id| self.name_of(id))
    }

    /// A path of `file`.
    pub fn name_of(&self, file: FileId) -> Option<&Path> {
        let mut names = self.names.iter();
        let (path, _) = names.find(|(_, node)| **node == Node::File(file))?;
        Some(Path::new(path))
    }

    /// Something happened to these names or files that no record tells of: another scan is needed, and the files are copied again whatever is recorded of them
    /// until it comes, since a record would explain to it the other change, too. Gives the reason, if there is one.
    pub fn distrust(&mut self, paths: &[PathBuf]) -> Option<String> {
        let why = format!("{} changed without a record", paths.first()?.display());
        for path in paths {
            if let Some(Node::File(file)) = self.names.get(path.as_os_str())
                && let Some(state) = self.files.get_mut(file)
            {
                state.dirty.insert(WHOLE);
            }
        }
        self.ask_for_scan(&why);
        Some(why)
    }
}

#[cfg(test)]
mod tests;
