//! A target without a manifest: several existing, empty directories, each of which receives the content of one root of the source.
//!
//! Everything gets its final name inside a stage of its directory, on the same file system, and is synced there. The last step moves the uppermost entries up; if one of
//! these moves fails, those before are taken back. So a session that fails leaves the directories as empty as they were.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::source;

use super::{FILES_NAME, INNER_STAGE_NAME, Stage, TargetError, rename_to_new, sync_directory};

/// Where the entries of one root get their names.
const TREE_NAME: &str = "tree";

/// One directory of a direct target.
#[derive(Debug)]
pub(super) struct Part {
    target: PathBuf,
    stage: PathBuf,
    directory: File,
}

impl Part {
    fn create(target: &Path) -> Result<Part, TargetError> {
        let names = list(target).map_err(TargetError::io("read", target))?;
        if !names.is_empty() {
            return Err(TargetError::NotEmpty(target.into()));
        }
        let stage = target.join(INNER_STAGE_NAME);
        // A copy has the mode of its source only in the end: until then nobody else comes here.
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder
            .create(&stage)
            .map_err(TargetError::io("create", &stage))?;
        let tree = stage.join(TREE_NAME);
        let made = fs::create_dir(&tree)
            .and_then(|()| fs::create_dir(stage.join(FILES_NAME)))
            .and_then(|()| File::open(&stage));
        let directory = made.map_err(|error| {
            let _ = remove_tree(&stage);
            TargetError::io("create", &tree)(error)
        })?;
        Ok(Part {
            target: target.into(),
            stage,
            directory,
        })
    }

    fn tree(&self) -> PathBuf {
        self.stage.join(TREE_NAME)
    }

    fn sync(&self) -> Result<(), TargetError> {
        rustix::fs::syncfs(&self.directory)
            .map_err(|errno| TargetError::io("sync", &self.target)(errno.into()))
    }

    fn device(&self) -> Option<u64> {
        rustix::fs::fstat(&self.directory)
            .ok()
            .map(|stat| stat.st_dev)
    }
}

/// The names in a directory, by system calls alone: a program that backs itself up may have put a readdir of its own in libc's place, and std's end is to panic
/// when closing a directory fails.
fn list(path: &Path) -> io::Result<Vec<OsString>> {
    let directory = File::open(path)?;
    let mut names = source::list(&directory.into())?;
    names.retain(|name| name != "." && name != "..");
    Ok(names)
}

/// Removes a directory with all below it, by system calls alone.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    // It may have the mode of one in the source already, in which nobody may work.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for name in list(path)? {
        let inner = path.join(name);
        match fs::symlink_metadata(&inner)?.is_dir() {
            true => remove_tree(&inner)?,
            false => fs::remove_file(&inner)?,
        }
    }
    fs::remove_dir(path)
}

impl Stage {
    /// Makes the stage of several targets, at least one, each an empty directory. Root `n` of the source has the place `n`.
    pub fn create_direct(targets: &[PathBuf]) -> Result<Stage, TargetError> {
        let mut parts: Vec<Part> = Vec::new();
        for target in targets {
            match Part::create(target) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    for part in &parts {
                        let _ = remove_tree(&part.stage);
                    }
                    return Err(error);
                }
            }
        }
        let first = parts
            .first()
            .ok_or_else(|| TargetError::NoName(PathBuf::new()))?;
        let io = TargetError::io("open", &first.stage);
        Ok(Stage {
            path: first.stage.clone(),
            target: first.target.clone(),
            inner: true,
            directory: first.directory.try_clone().map_err(io)?,
            published: false,
            parts,
        })
    }

    /// Where a place of the backup is while it is not published.
    pub fn place(&self, place: &Path) -> PathBuf {
        let mut components = place.components();
        let index = components
            .next()
            .and_then(|first| first.as_os_str().to_str()?.parse::<usize>().ok());
        match index.and_then(|index| self.parts.get(index)) {
            Some(part) => match components.as_path() {
                rest if rest.as_os_str().is_empty() => part.tree(),
                rest => part.tree().join(rest),
            },
            None => self.path.join(place),
        }
    }

    /// Gives a copy its name, which nothing has: on a file system that takes two names of the source for one, the second file would replace the first.
    pub fn move_slot(&self, slot: u64, to: &Path) -> io::Result<()> {
        let from = self.slot_path(slot);
        match rename_to_new(&from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy_across(&from, to)?;
                fs::remove_file(&from)
            }
            result => result,
        }
    }

    /// Gives a file another name; on another file system, where that is impossible, an equal file.
    pub fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        match fs::hard_link(file, name) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy_across(file, name)?;
                let metadata = fs::metadata(file)?;
                let copy = File::options().write(true).open(name)?;
                if rustix::process::geteuid().is_root() {
                    use std::os::unix::fs::{MetadataExt, fchown};
                    fchown(&copy, Some(metadata.uid()), Some(metadata.gid()))?;
                }
                copy.set_permissions(metadata.permissions())?;
                copy.set_modified(metadata.modified()?)
            }
            result => result,
        }
    }

    /// Moves everything up into the directories that it is for. Everything in it was synced when it got its name.
    pub fn publish_direct(mut self) -> Result<(), TargetError> {
        let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
        for part in &self.parts {
            if let Err(error) = move_up(part, &mut moved) {
                for (from, to) in moved.iter().rev() {
                    let _ = rename_entry(to, from);
                }
                return Err(error);
            }
        }
        self.published = true;
        self.remove_parts();
        self.parts
            .iter()
            .try_for_each(|part| sync_directory(&part.target))
    }

    /// Syncs each file system but the first part's, once.
    pub(super) fn sync_parts(&self) -> Result<(), TargetError> {
        let mut synced: Vec<Option<u64>> = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            let device = part.device();
            let known = device.is_some() && synced.contains(&device);
            if index > 0 && !known {
                part.sync()?;
            }
            synced.push(device);
        }
        Ok(())
    }

    pub(super) fn remove_parts(&self) {
        for part in &self.parts {
            let _ = remove_tree(&part.stage);
        }
    }
}

fn move_up(part: &Part, moved: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), TargetError> {
    // It has the mode of a root of the source.
    let usable = fs::Permissions::from_mode(0o700);
    fs::set_permissions(part.tree(), usable)
        .map_err(TargetError::io("change the mode of", &part.stage))?;
    let names = list(&part.tree()).map_err(TargetError::io("read", &part.stage))?;
    for name in names {
        let (from, to) = (part.tree().join(&name), part.target.join(&name));
        rename_entry(&from, &to).map_err(TargetError::io("rename to", &to))?;
        moved.push((from, to));
    }
    Ok(())
}

/// A directory without write permission can't change its parent, unless one is root.
fn rename_entry(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let metadata = fs::symlink_metadata(from)?;
            // The permissions of a link would be those of the file that it leads to.
            if !metadata.is_dir() {
                return Err(error);
            }
            let mode = metadata.permissions().mode();
            fs::set_permissions(from, fs::Permissions::from_mode(mode | 0o700))?;
            fs::rename(from, to)?;
            fs::set_permissions(to, fs::Permissions::from_mode(mode))
        }
        result => result,
    }
}

/// Copies with holes kept.
fn copy_across(from: &Path, to: &Path) -> io::Result<()> {
    use crate::{copy, digest::Digests, throttle::Throttle};
    let (throttle, digests) = (Throttle::new(0), Digests::default());
    let context = copy::CopyContext {
        throttle: &throttle,
        digests: &digests,
        stop: &|| false,
        on_bytes: &|_| (),
        reflink: false,
    };
    let source = File::open(from)?;
    let len = source.metadata()?.len();
    let target = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)?;
    let pair = copy::Pair::new(0, source, target, len, &copy::Disks::new(1));
    copy::Copier::new(context)?
        .copy(&pair, 0..u64::MAX)
        .map_err(|error| match error {
            copy::CopyError::Source(error) | copy::CopyError::Target(error) => error,
            copy::CopyError::Cancelled => io::ErrorKind::Interrupted.into(),
        })?;
    pair.match_size(&digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_targets() -> (tempfile::TempDir, [PathBuf; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let targets = ["a", "b"].map(|name| dir.path().join(name));
        targets
            .iter()
            .for_each(|target| fs::create_dir(target).unwrap());
        (dir, targets)
    }

    #[test]
    fn each_root_goes_to_the_directory_of_its_index() {
        let (_dir, targets) = two_targets();
        let stage = Stage::create_direct(&targets).unwrap();
        stage.open_slot(7).unwrap();
        stage.move_slot(7, &stage.place(Path::new("1/x"))).unwrap();
        fs::write(stage.place(Path::new("0/y")), "y").unwrap();
        stage.publish_direct().unwrap();
        let names = |path: &Path| -> Vec<_> {
            fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect()
        };
        assert_eq!(names(&targets[0]), ["y"]);
        assert_eq!(names(&targets[1]), ["x"]);
    }

    #[test]
    fn no_copy_takes_the_name_of_another() {
        let (_dir, targets) = two_targets();
        let stage = Stage::create_direct(&targets).unwrap();
        let to = stage.place(Path::new("0/x"));
        for slot in [7, 8] {
            stage.open_slot(slot).unwrap();
        }
        stage.move_slot(7, &to).unwrap();
        let error = stage.move_slot(8, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn nobody_else_comes_to_copies_that_have_not_got_their_modes() {
        let (_dir, targets) = two_targets();
        let _stage = Stage::create_direct(&targets).unwrap();
        for target in &targets {
            let stage = fs::metadata(target.join(INNER_STAGE_NAME)).unwrap();
            assert_eq!(stage.permissions().mode() & 0o7777, 0o700);
        }
    }

    /// Where root runs the tests: root may work in any directory.
    fn as_nobody(run: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: changes who this thread is to file systems, and nothing in memory.
                unsafe { libc::syscall(libc::SYS_setfsuid, 65534) };
                run();
            });
        });
    }

    #[test]
    fn a_root_without_write_permission_is_moved_up_and_removed() {
        as_nobody(publish_without_write_permission);
    }

    fn publish_without_write_permission() {
        let (_dir, targets) = two_targets();
        let stage = Stage::create_direct(&targets).unwrap();
        let live = targets[0].parent().unwrap().join("live");
        fs::write(&live, "live").unwrap();
        fs::set_permissions(&live, fs::Permissions::from_mode(0o600)).unwrap();
        let place = |path: &str| stage.place(Path::new(path));
        std::os::unix::fs::symlink(&live, place("0/link")).unwrap();
        fs::create_dir(place("0/inner")).unwrap();
        fs::write(place("0/inner/x"), "x").unwrap();
        for path in ["0/inner", "0"] {
            let mode = fs::Permissions::from_mode(0o555);
            fs::set_permissions(place(path), mode).unwrap();
        }
        stage.publish_direct().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&live), 0o600);
        assert_eq!(mode(&targets[0].join("inner")), 0o555);
        assert!(targets[0].join("link").is_symlink());
        assert!(!targets[0].join(INNER_STAGE_NAME).exists());
        remove_tree(&targets[0].join("inner")).unwrap();
    }

    #[test]
    fn a_dropped_stage_leaves_every_directory_empty() {
        let (_dir, targets) = two_targets();
        drop(Stage::create_direct(&targets).unwrap());
        for target in &targets {
            assert_eq!(fs::read_dir(target).unwrap().count(), 0);
        }
    }
}
