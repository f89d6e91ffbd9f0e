//! Where a restore puts things: each root's destination, and the stage inside it.
//!
//! What makes it right: a stage lies in the directory that it is for, so that its content moves up by renames within one file system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hotmirror::target::rename_to_new;

use super::RestoreError;
use crate::args::{UsageError, absolute};
use crate::backup::roots::{EXTERNAL_PLACE, Role, RootEntry};
use crate::files::{self, FileError};
use crate::manifest::Manifest;

const STAGE_NAME: &str = ".hotmirror-restore";

#[derive(Clone, Debug)]
pub struct Destination {
    /// Relative to the backup.
    pub place: PathBuf,
    /// Where the server had it.
    pub source: PathBuf,
    pub roles: Vec<Role>,
    pub directory: PathBuf,
    pub stage: PathBuf,
}

impl Destination {
    pub fn new(root: &RootEntry, directory: PathBuf) -> Destination {
        Destination {
            place: root.place.clone(),
            source: root.source.clone(),
            roles: root.roles.clone(),
            stage: directory.join(STAGE_NAME),
            directory,
        }
    }

    pub fn is_data(&self) -> bool {
        self.roles.contains(&Role::Data)
    }

    pub fn is_relocated(&self) -> bool {
        self.directory != self.source
    }
}

/// `N=DIR`, by place in the backup.
pub fn parse_externals(given: &[String]) -> Result<BTreeMap<PathBuf, PathBuf>, UsageError> {
    let mut externals = BTreeMap::new();
    for text in given {
        let wrong = || UsageError::Value {
            option: "--external".into(),
            value: text.clone(),
            reason: "N=DIR is meant".into(),
        };
        let (number, directory) = text.split_once('=').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let place = Path::new(EXTERNAL_PLACE).join(number.to_string());
        externals.insert(place, absolute(directory.into()));
    }
    Ok(externals)
}

/// The data directory must be empty; a directory that may be shared with others must not have any of the names that are to come.
pub fn check_free(destinations: &[Destination], manifest: &Manifest) -> Result<(), RestoreError> {
    for (index, destination) in destinations.iter().enumerate() {
        let same = destinations[..index]
            .iter()
            .find(|d| d.directory == destination.directory);
        if let Some(other) = same {
            return Err(RestoreError::SamePlace {
                place: destination.directory.clone(),
                one: other.place.clone(),
                other: destination.place.clone(),
            });
        }
        let directory = &destination.directory;
        let mut names = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            names => names.map_err(FileError::at("read", directory))?,
        };
        if destination.is_data() {
            if names.next().is_some() {
                return Err(RestoreError::NotEmpty(directory.clone()));
            }
            continue;
        }
        let coming = manifest
            .entries
            .iter()
            .filter(|entry| entry.path.parent() == Some(&destination.place));
        let coming = coming
            .filter_map(|entry| entry.path.file_name())
            .map(|name| directory.join(name));
        if let Some(path) = coming
            .chain([destination.stage.clone()])
            .find(|path| path.symlink_metadata().is_ok())
        {
            return Err(RestoreError::InTheWay(path));
        }
    }
    Ok(())
}

/// The stages, and the directories that were made for them. Dropped unpublished, all of it is removed.
pub struct Stages {
    stages: Vec<(PathBuf, PathBuf)>,
    made: Vec<PathBuf>,
    data: PathBuf,
    is_kept: bool,
}

impl Stages {
    pub fn make(destinations: &[Destination]) -> Result<Stages, RestoreError> {
        let data = destinations
            .iter()
            .find(|destination| destination.is_data());
        let mut stages = Stages {
            stages: Vec::new(),
            made: Vec::new(),
            data: data
                .map(|destination| destination.directory.clone())
                .unwrap_or_default(),
            is_kept: false,
        };
        for destination in destinations {
            stages.make_directories(&destination.directory)?;
            let stage = &destination.stage;
            let made = std::fs::DirBuilder::new().mode(0o700).create(stage);
            made.map_err(FileError::at("create", stage))?;
            stages
                .stages
                .push((stage.clone(), destination.directory.clone()));
        }
        Ok(stages)
    }

    fn make_directories(&mut self, path: &Path) -> Result<(), FileError> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        for directory in missing.into_iter().rev() {
            std::fs::create_dir(directory).map_err(FileError::at("create", directory))?;
            self.made.push(directory.into());
            // The server passes through it as its own user, whatever the umask.
            let set = std::fs::set_permissions(directory, Permissions::from_mode(0o755));
            set.map_err(FileError::at("change the mode of", directory))?;
        }
        Ok(())
    }

    /// From now on the stages hold the only copy: they stay, whatever happens.
    pub fn keep(mut self) -> Stages {
        self.is_kept = true;
        self
    }

    /// Moves everything up, in the order of the destinations.
    pub fn publish(mut self) -> Result<(), RestoreError> {
        self.is_kept = true;
        for (stage, directory) in &self.stages {
            let mut names = files::names_in(stage)?;
            names.sort_by_key(|name| rank(name));
            for name in names {
                let to = directory.join(&name);
                rename_to_new(&stage.join(&name), &to).map_err(FileError::at("rename to", &to))?;
            }
            if self.made.contains(directory) || *directory == self.data {
                adopt(stage, directory)?;
            }
            std::fs::remove_dir(stage).map_err(FileError::at("remove", stage))?;
            let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(FileError::at("sync", directory))?;
        }
        Ok(())
    }
}

/// What no server starts without comes last: interrupted, nothing is there that one would start on without the rest.
fn rank(name: &OsStr) -> usize {
    let ranked = ["mysql", "mysql.ibd", "aria_log_control", "ibdata1"];
    ranked
        .iter()
        .position(|last| name == *last)
        .map_or(0, |place| place + 1)
}

/// A directory that was made for its stage gets the owner and mode that the backup has for the root.
fn adopt(stage: &Path, directory: &Path) -> Result<(), FileError> {
    let metadata = std::fs::metadata(stage).map_err(FileError::at("look at", stage))?;
    if crate::system::is_root() {
        let owned = std::os::unix::fs::chown(directory, Some(metadata.uid()), Some(metadata.gid()));
        owned.map_err(FileError::at("change the owner of", directory))?;
    }
    let set = std::fs::set_permissions(directory, metadata.permissions());
    set.map_err(FileError::at("change the mode of", directory))
}

impl Drop for Stages {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for (stage, _) in &self.stages {
            let _ = std::fs::remove_dir_all(stage);
        }
        for directory in self.made.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}
