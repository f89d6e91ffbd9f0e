//! What was found of the roots: which directories, why, and what each keeps.
//!
//! What makes it right: a directory is taken once, and one inside another that is taken whole is that one's business. A directory for temporary files is emptied only if
//! nothing else is known to be in it, which is settled before any is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::keep::Keep;
use super::roots::{DATA_PLACE, EXTERNAL_PLACE, Role, RootEntry, RootError, Roots, canonical};
use super::sight::Sight;
use crate::server::Variables;

/// Directories for temporary files.
const TEMPORARY: [&str; 4] = [
    "tmpdir",
    "innodb_tmpdir",
    "slave_load_tmpdir",
    "replica_load_tmpdir",
];

pub struct Collection<'s> {
    /// Directories, why each is one, and what it keeps.
    roots: BTreeMap<PathBuf, (Vec<Role>, Keep)>,
    /// Directories that are known to hold data, by more than a link to the directory.
    named: BTreeSet<PathBuf>,
    sight: &'s Sight,
}

impl<'s> Collection<'s> {
    pub fn new(sight: &'s Sight) -> Collection<'s> {
        Collection {
            roots: BTreeMap::new(),
            named: BTreeSet::new(),
            sight,
        }
    }

    /// `path` with links resolved, as [`Sight::resolve`] does it.
    pub fn resolve(&self, path: &Path) -> Result<Option<PathBuf>, RootError> {
        self.sight.resolve(path)
    }

    /// Adds `path` if it exists: a setting may name what was never made.
    pub fn add(&mut self, path: &Path, role: Role, keep: Keep) -> Result<(), RootError> {
        if let Some(path) = self.resolve(path)? {
            self.name(path.clone());
            self.insert(path, role, keep);
        }
        Ok(())
    }

    /// Notes that `directory` holds data.
    pub fn name(&mut self, directory: PathBuf) {
        self.named.insert(directory);
    }

    /// The same for a directory that is resolved and may be named by no more than a link to itself, which does not say that it holds data.
    pub fn insert(&mut self, path: PathBuf, role: Role, keep: Keep) {
        match self.roots.get_mut(&path) {
            Some((roles, kept)) => {
                if !roles.contains(&role) {
                    roles.push(role);
                }
                kept.merge(keep);
            }
            None => drop(self.roots.insert(path, (vec![role], keep))),
        }
    }

    /// True if anything is known to be in `directory`.
    fn holds_data(&self, directory: &Path) -> bool {
        let is_inside = |path: &PathBuf| path != directory && path.starts_with(directory);
        let mut known = self.named.iter().chain(self.roots.keys());
        self.named.contains(directory) || known.any(is_inside)
    }

    /// Those of the directories for temporary files that hold nothing else.
    fn emptied(&self, variables: &Variables) -> BTreeSet<PathBuf> {
        let paths = TEMPORARY.iter().flat_map(|name| variables.paths(name));
        paths
            .map(|path| canonical(&path))
            .filter(|path| !self.holds_data(path))
            .collect()
    }

    /// Drops roots inside others that are taken whole, and gives each its place.
    pub fn into_roots(self, variables: &Variables, datadir: &Path) -> Roots {
        let emptied = self.emptied(variables);
        let whole = self
            .roots
            .iter()
            .filter(|(_, (_, keep))| *keep == Keep::All);
        let whole: Vec<PathBuf> = whole.map(|(path, _)| path.clone()).collect();
        let is_inside = |path: &Path| {
            whole
                .iter()
                .any(|outer| path != outer && path.starts_with(outer))
        };
        let (dropped, kept): (Vec<_>, Vec<_>) = self
            .roots
            .into_iter()
            .partition(|(path, _)| is_inside(path));
        let mut keeps = Vec::new();
        let mut entries = Vec::new();
        for (source, (mut roles, keep)) in kept {
            // What was known of a part is known of all, but for the data directory, where every server looks for itself.
            let inside = dropped
                .iter()
                .filter(|(path, _)| source != datadir && path.starts_with(&source));
            for role in inside.flat_map(|(_, (roles, _))| roles) {
                if !roles.contains(role) {
                    roles.push(*role);
                }
            }
            let place = if source == datadir {
                DATA_PLACE.into()
            } else {
                PathBuf::new()
            };
            keeps.push((source.clone(), keep));
            entries.push(RootEntry {
                source,
                place,
                roles,
            });
        }
        let externals = entries
            .iter_mut()
            .filter(|entry| entry.place.as_os_str().is_empty());
        for (number, entry) in externals.enumerate() {
            entry.place = Path::new(EXTERNAL_PLACE).join(number.to_string());
        }
        Roots::new(entries, keeps, emptied, self.sight.clone())
    }
}
