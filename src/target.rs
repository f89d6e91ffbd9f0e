//! The target: an unfinished backup (the stage) that gets its final names last.
//!
//! While a session runs, the copy of each file is `files/<slot>` in the stage, whatever the file is called. At the end the copies are
//! moved to the paths that the catalog has at the cut.
//!
//! Why an unfinished backup can't be mistaken for one (I4): the manifest is written after everything else was synced, and a directory is a backup only with
//! its manifest. Where the target did not exist, the whole stage is moved to that name as the very last step, too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

/// Name of the manifest in a backup.
pub const MANIFEST_NAME: &str = "hotmirror_manifest.json";
/// Name of the stage inside a target directory that existed before.
const INNER_STAGE_NAME: &str = ".hotmirror-partial";
const FILES_NAME: &str = "files";

mod confirm;
mod direct;

pub(crate) use self::confirm::confirm;

use self::direct::Part;
use crate::file_system::FileSystem;

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("The target directory {0} is not empty")]
    NotEmpty(PathBuf),
    #[error("The target {0} is not a directory")]
    NotDirectory(PathBuf),
    #[error("The target {0} has no name")]
    NoName(PathBuf),
    #[error("An unfinished backup is in the way: {0}")]
    Unfinished(PathBuf),
    #[error("Cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl TargetError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TargetError {
        let path = path.to_path_buf();
        move |source| TargetError::Io {
            action,
            path,
            source,
        }
    }
}

/// Where the stage for `target` is: inside it if it exists, beside it otherwise.
pub fn stage_path(target: &Path) -> Result<PathBuf, TargetError> {
    match fs::symlink_metadata(target) {
        Ok(_) if target.is_dir() => Ok(target.join(INNER_STAGE_NAME)),
        Ok(_) => Err(TargetError::NotDirectory(target.into())),
        Err(_) => outer_stage_path(target),
    }
}

fn outer_stage_path(target: &Path) -> Result<PathBuf, TargetError> {
    let name = target
        .file_name()
        .ok_or_else(|| TargetError::NoName(target.into()))?;
    let mut stage_name = std::ffi::OsString::from(".");
    stage_name.push(name);
    stage_name.push(INNER_STAGE_NAME);
    Ok(target.with_file_name(stage_name))
}

/// Removes the stage that an earlier session left for `target`; true if there was one. Never touches a finished backup.
pub fn remove_stage(target: &Path) -> Result<bool, TargetError> {
    let mut found = false;
    let candidates = [
        Some(target.join(INNER_STAGE_NAME)),
        outer_stage_path(target).ok(),
    ];
    for stage in candidates.into_iter().flatten() {
        match fs::remove_dir_all(&stage) {
            Ok(()) => found = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(TargetError::io("remove", &stage)(error)),
        }
    }
    Ok(found)
}

/// The unfinished target. Removed when dropped unpublished.
#[derive(Debug)]
pub struct Stage {
    path: PathBuf,
    target: PathBuf,
    /// Empty, or where each place of the source goes directly: an own stage, in the directory of that index.
    parts: Vec<Part>,
    /// The target directory existed.
    inner: bool,
    /// Opened before the first write, so that `syncfs` on it reports every failed write-back since.
    directory: File,
    published: bool,
}

impl Stage {
    /// Where the stage of `target` will be. Fails if it has one already.
    pub fn check_free(target: &Path) -> Result<PathBuf, TargetError> {
        let path = stage_path(target)?;
        match path.exists() {
            true => Err(TargetError::Unfinished(path)),
            false => Ok(path),
        }
    }

    /// Makes the stage of `target`, which does not exist or is an empty directory.
    pub fn create(target: &Path) -> Result<Stage, TargetError> {
        let path = Stage::check_free(target)?;
        let inner = path.starts_with(target);
        if inner {
            let mut content = fs::read_dir(target).map_err(TargetError::io("read", target))?;
            if content.next().is_some() {
                return Err(TargetError::NotEmpty(target.into()));
            }
        }
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => TargetError::Unfinished(path.clone()),
            _ => TargetError::io("create", &path)(error),
        })?;
        let files = path.join(FILES_NAME);
        let made = builder.create(&files).and_then(|()| File::open(&path));
        let made = made.map_err(TargetError::io("create", &files));
        let directory = made.inspect_err(|_| _ = fs::remove_dir_all(&path))?;
        Ok(Stage {
            path,
            target: target.into(),
            parts: Vec::new(),
            inner,
            directory,
            published: false,
        })
    }

    /// Where files that belong to the backup are written until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of a file's copy while the session runs.
    pub fn slot_path(&self, slot: u64) -> PathBuf {
        let mut path = self.path.join(FILES_NAME);
        path.push(slot.to_string());
        path
    }

    /// Opens a file's copy, making an empty one if there is none.
    pub fn open_slot(&self, slot: u64) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.slot_path(slot))
    }

    /// Whether what is made here can be given to the owner of `source`: not where root is somebody else, as on NFS with root_squash, and all would be copied before it
    /// shows.
    pub fn check_owner(&self, source: &Path) -> Result<(), TargetError> {
        use std::os::unix::fs::{MetadataExt, chown};
        let path = self.path.join(FILES_NAME);
        let owner = |path| fs::metadata(path).map(|found| (found.uid(), found.gid()));
        let (Ok(wanted), Ok(own)) = (owner(source), owner(&path)) else {
            return Ok(());
        };
        if !rustix::process::geteuid().is_root() || wanted == own {
            return Ok(());
        }
        let give = |(user, group)| {
            let failed = TargetError::io("give to another user", &path);
            chown(&path, Some(user), Some(group)).map_err(failed)
        };
        give(wanted)?;
        give(own)
    }

    /// True if files on these devices can share their blocks with copies in this stage.
    pub fn shares_blocks_with(&self, devices: &[u64]) -> bool {
        let same = fs::metadata(&self.path).is_ok_and(|metadata| {
            devices.contains(&std::os::unix::fs::MetadataExt::dev(&metadata))
        });
        match FileSystem::of(&self.directory) {
            FileSystem::Xfs => same,
            // Each subvolume has a device number of its own.
            FileSystem::Btrfs => true,
            _ => false,
        }
    }

    /// Cuts `by` bytes off a copy. False if it has no more than that, or can't be cut.
    pub fn shorten_slot(&self, slot: u64, by: u64) -> bool {
        let path = self.slot_path(slot);
        let len = fs::metadata(&path).map_or(0, |copy| copy.len());
        let cut = |len| OpenOptions::new().write(true).open(&path)?.set_len(len);
        len > by && cut(len - by).is_ok()
    }

    pub fn remove_slot(&self, slot: u64) {
        let _ = fs::remove_file(self.slot_path(slot));
    }

    /// Removes what is left of the copies once all that matter have their names.
    pub fn remove_slots(&self) -> Result<(), TargetError> {
        let files = self.path.join(FILES_NAME);
        direct::remove_tree(&files).map_err(TargetError::io("remove", &files))
    }

    /// Makes everything written so far survive a power cut, names included.
    pub fn sync(&self) -> Result<(), TargetError> {
        self.sync_parts()?;
        rustix::fs::syncfs(&self.directory)
            .map_err(|errno| TargetError::io("sync", &self.path)(errno.into()))
    }

    /// Writes the manifest and gives the backup its final names.
    pub fn publish(mut self, manifest: &[u8]) -> Result<(), TargetError> {
        self.sync()?;
        let manifest_path = self.path.join(MANIFEST_NAME);
        File::create(&manifest_path)
            .and_then(|mut file| {
                file.write_all(manifest)?;
                file.sync_all()
            })
            .map_err(TargetError::io("write", &manifest_path))?;
        sync_directory(&self.path)?;
        if self.inner {
            self.move_into_target()?
        } else {
            self.become_target()?
        }
        self.published = true;
        Ok(())
    }

    fn become_target(&self) -> Result<(), TargetError> {
        rename_to_new(&self.path, &self.target)
            .map_err(TargetError::io("rename the backup to", &self.target))?;
        let parent = self
            .target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))
    }

    fn move_into_target(&self) -> Result<(), TargetError> {
        let entries = fs::read_dir(&self.path).map_err(TargetError::io("read", &self.path))?;
        for entry in entries {
            let name = entry
                .map_err(TargetError::io("read", &self.path))?
                .file_name();
            if name != MANIFEST_NAME {
                self.move_entry(Path::new(&name))?;
            }
        }
        sync_directory(&self.target)?;
        self.move_entry(Path::new(MANIFEST_NAME))?;
        fs::remove_dir(&self.path).map_err(TargetError::io("remove", &self.path))?;
        sync_directory(&self.target)
    }

    fn move_entry(&self, name: &Path) -> Result<(), TargetError> {
        let to = self.target.join(name);
        fs::rename(self.path.join(name), &to).map_err(TargetError::io("rename to", &to))
    }
}

/// Renames to a name that nothing has.
pub fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // NFS and others know no such flag. What comes between is replaced, if it is a file or an empty directory.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match to.symlink_metadata() {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(_) => fs::rename(from, to),
        },
        result => Ok(result?),
    }
}

fn sync_directory(path: &Path) -> Result<(), TargetError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(TargetError::io("sync", path))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.published {
            let _ = direct::remove_tree(&self.path);
            self.remove_parts();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_did_not_exist_appears_whole_and_last() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        let stage = Stage::create(&target).unwrap();
        fs::write(stage.path().join("info"), "x").unwrap();
        stage.remove_slots().unwrap();
        assert!(!target.exists());
        stage.publish(b"{}").unwrap();
        assert_eq!(fs::read(target.join(MANIFEST_NAME)).unwrap(), b"{}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_something_has_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let [stage, target] = ["stage", "target"].map(|name| dir.path().join(name));
        fs::create_dir(&stage).unwrap();
        fs::create_dir(&target).unwrap();
        let taken = rename_to_new(&stage, &target).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir(&target).unwrap();
        rename_to_new(&stage, &target).unwrap();
        assert!(target.exists());
    }

    #[test]
    fn an_empty_target_directory_is_filled_and_keeps_no_stage() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::create(dir.path()).unwrap();
        fs::write(stage.path().join("info"), "x").unwrap();
        stage.remove_slots().unwrap();
        stage.publish(b"{}").unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, [MANIFEST_NAME, "info"]);
    }

    #[test]
    fn a_dropped_stage_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        drop(Stage::create(&target).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_target_with_content_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        assert!(matches!(
            Stage::create(dir.path()),
            Err(TargetError::NotEmpty(_))
        ));
        assert!(!remove_stage(dir.path()).unwrap());
        assert!(dir.path().join("precious").exists());
    }

    #[test]
    fn a_left_stage_is_refused_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        std::mem::forget(Stage::create(&target).unwrap());
        assert!(matches!(
            Stage::create(&target),
            Err(TargetError::Unfinished(_))
        ));
        assert!(remove_stage(&target).unwrap());
        assert!(!remove_stage(&target).unwrap());
        Stage::create(&target).unwrap();
    }
}
