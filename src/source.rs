//! The source: which files there are, and opening one by what it is.
//!
//! A scan runs while the server works, so it is fuzzy; the catalog makes it exact by replaying the names that were
//! recorded since before the scan began. What a file is, is its device and inode: a path that meanwhile names
//! another file is not opened as the one that was meant.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::capture_log::{Attributes, FileId};

/// A directory of the source, and where its content goes in the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Absolute, without symbolic links.
    pub source: PathBuf,
    /// Relative to the backup: `data`, `external/0`.
    pub place: PathBuf,
}

/// True for a source path (absolute) that is to be left out, with all below it.
pub type Exclude = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// Gives the names in a directory, of which path and an open descriptor are given; `.` and `..` may be among them.
pub type List = Arc<dyn Fn(&Path, &OwnedFd) -> Result<Vec<OsString>, Errno> + Send + Sync>;

/// What belongs to the backup.
#[derive(Clone)]
pub struct Scope {
    roots: Vec<Root>,
    exclude: Exclude,
    list: List,
}

impl Scope {
    pub fn new(roots: Vec<Root>, exclude: Exclude) -> Scope {
        Scope {
            roots,
            exclude,
            list: Arc::new(|_, directory| list(directory)),
        }
    }

    /// Directories are read by `list` rather than by system calls.
    pub fn with_list(mut self, list: List) -> Scope {
        self.list = list;
        self
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// True if `path` lies in a root (or is one) and neither it nor a directory above it is excluded.
    pub fn contains(&self, path: &Path) -> bool {
        let Some(root) = self.root_of(path) else {
            return false;
        };
        path.ancestors()
            .take_while(|ancestor| *ancestor != root.source)
            .all(|ancestor| !(self.exclude)(ancestor))
    }

    /// True if something in scope is at `path`, below it or above it.
    pub fn meets(&self, path: &Path) -> bool {
        let is_above = |root: &Root| root.source.starts_with(path);
        self.contains(path) || self.roots.iter().any(is_above)
    }

    fn is_root(&self, path: &Path) -> bool {
        let path = path.as_os_str();
        self.roots
            .iter()
            .any(|root| root.source.as_os_str() == path)
    }

    fn root_of(&self, path: &Path) -> Option<&Root> {
        self.roots
            .iter()
            .find(|root| path.starts_with(&root.source))
    }

    /// Where `path` goes, relative to the backup.
    pub fn place(&self, path: &Path) -> Option<PathBuf> {
        let root = self.root_of(path)?;
        Some(root.place.join(path.strip_prefix(&root.source).ok()?))
    }
}

/// What a directory entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    File,
    Directory,
    Symlink(PathBuf),
}

/// What tells that a file was changed, or is another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Nanoseconds since 1970; 0 where the file system keeps no time of birth.
    pub born_ns: i64,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub path: PathBuf,
    pub file: FileId,
    pub found: Found,
    pub attributes: Attributes,
    pub traits: Traits,
    /// Bytes of its size that take room on the disk, about.
    pub allocated: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("Cannot read {path}: {source}")]
pub struct ScanError {
    pub path: PathBuf,
    pub source: io::Error,
}

const STATX: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Lists everything in scope. What vanishes while it is looked at is left out. Sockets, FIFOs and devices are left out.
pub fn scan(scope: &Scope) -> Result<Vec<Entry>, ScanError> {
    let mut entries = Vec::new();
    for root in scope.roots() {
        let failed = |errno: Errno| ScanError {
            path: root.source.clone(),
            source: errno.into(),
        };
        let directory = open_directory(rustix::fs::CWD, root.source.as_os_str()).map_err(failed)?;
        let stat = rustix::fs::statx(&directory, "", AtFlags::EMPTY_PATH, STATX).map_err(failed)?;
        entries.push(entry(root.source.clone(), &stat, Found::Directory));
        scan_directory(scope, &root.source, directory, &mut entries)?;
    }
    Ok(entries)
}

/// What `path` is now; None if it is not there (or is nothing that a backup holds).
pub fn look(path: &Path) -> Result<Option<Entry>, ScanError> {
    let root = Root {
        source: "/".into(),
        place: "".into(),
    };
    let anywhere = Scope::new(vec![root], Arc::new(|_| false));
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let directory = match open_directory(rustix::fs::CWD, parent.as_os_str()) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => {
            return Err(ScanError {
                path: parent.into(),
                source: errno.into(),
            });
        }
    };
    let mut entries = Vec::new();
    scan_item(
        &anywhere,
        path.into(),
        &directory,
        name,
        false,
        &mut entries,
    )?;
    Ok(entries.pop())
}

pub(crate) fn list(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for item in Dir::read_from(directory)? {
        let item = item?;
        names.push(OsStr::from_bytes(item.file_name().to_bytes()).to_os_string());
    }
    Ok(names)
}

fn open_directory(at: impl std::os::fd::AsFd, name: &OsStr) -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn scan_directory(
    scope: &Scope,
    path: &Path,
    directory: std::os::fd::OwnedFd,
    entries: &mut Vec<Entry>,
) -> Result<(), ScanError> {
    let failed = |errno: Errno| ScanError {
        path: path.into(),
        source: errno.into(),
    };
    let mut names = match (scope.list)(path, &directory) {
        Ok(names) => names,
        // The directory was removed while it was read.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    // The order of the catalog, in which it takes many names the sooner.
    names.sort_unstable();
    for name in &names {
        if name == "." || name == ".." {
            continue;
        }
        let item_path = path.join(name);
        // What is above it is in scope.
        if (scope.exclude)(&item_path) || scope.is_root(&item_path) {
            continue;
        }
        scan_item(scope, item_path, &directory, name, true, entries)?;
    }
    Ok(())
}

fn scan_item(
    scope: &Scope,
    path: PathBuf,
    directory: &std::os::fd::OwnedFd,
    name: &OsStr,
    descend: bool,
    entries: &mut Vec<Entry>,
) -> Result<(), ScanError> {
    let failed = |errno: Errno| ScanError {
        path: path.clone(),
        source: errno.into(),
    };
    let gone =
        |errno: Errno| errno == Errno::NOENT || errno == Errno::NOTDIR || errno == Errno::LOOP;
    let stat = match rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, STATX) {
        Ok(stat) => stat,
        Err(errno) if gone(errno) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => entries.push(entry(path, &stat, Found::File)),
        FileType::Symlink => match rustix::fs::readlinkat(directory, name, Vec::new()) {
            Ok(target) => {
                let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                entries.push(entry(path, &stat, Found::Symlink(target)));
            }
            Err(errno) if gone(errno) || errno == Errno::INVAL => {}
            Err(errno) => return Err(failed(errno)),
        },
        FileType::Directory => match open_directory(directory, name) {
            Ok(inner) => {
                entries.push(entry(path.clone(), &stat, Found::Directory));
                if descend {
                    scan_directory(scope, &path, inner, entries)?;
                }
            }
            Err(errno) if gone(errno) => {}
            Err(errno) => return Err(failed(errno)),
        },
        _ => {}
    }
    Ok(())
}

fn entry(path: PathBuf, stat: &Statx, found: Found) -> Entry {
    Entry {
        path,
        file: file_id(stat),
        found,
        attributes: attributes(stat),
        traits: traits(stat),
        allocated: (stat.stx_blocks * 512).min(stat.stx_size),
    }
}

fn file_id(stat: &Statx) -> FileId {
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    FileId {
        device,
        inode: stat.stx_ino,
    }
}

fn attributes(stat: &Statx) -> Attributes {
    Attributes {
        mode: stat.stx_mode.into(),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
    }
}

fn traits(stat: &Statx) -> Traits {
    // Of times further away than 292 years something is kept that tells them apart as well.
    let ns = |time: &rustix::fs::StatxTimestamp| {
        time.tv_sec
            .wrapping_mul(1_000_000_000)
            .wrapping_add(time.tv_nsec.into())
    };
    Traits {
        size: stat.stx_size,
        modified_ns: ns(&stat.stx_mtime),
        born_ns: ns(&stat.stx_btime),
    }
}

/// The size of `file`, which was at `path`, if it still is there.
pub fn size_of(path: &Path, file: FileId) -> Option<u64> {
    // Without the times, of which a file system would make the next write a new one.
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted).ok()?;
    (file_id(&stat) == file).then_some(stat.stx_size)
}

/// Why a source file can't be opened as the file that was meant.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its name is gone or means another file now: the log knows more.
    #[error("No longer there under this name")]
    Moved,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file that is renamed again and again is followed so often.
const CHASE_COUNT_MAX: u32 = 16;

/// Opens `file` for reading, which was at `path` and still is in that directory. One that is no longer known is not looked for, which would take as long as
/// the directory is: of many files, most that are gone were removed, not renamed.
pub fn open(
    path: &Path,
    file: FileId,
    is_known: impl Fn() -> bool,
) -> Result<(File, Traits, Attributes), OpenError> {
    let mut found = open_at(path, file);
    for _ in 0..CHASE_COUNT_MAX {
        // What the log says of its name may be long past by now.
        let is_moved = matches!(found, Err(OpenError::Moved)) && is_known();
        let Some(name) = is_moved.then(|| name_beside(path, file)).flatten() else {
            break;
        };
        found = open_at(&path.with_file_name(name), file);
    }
    found
}

/// A name that the file has in the directory of `path`, if it has one.
fn name_beside(path: &Path, file: FileId) -> Option<OsString> {
    let directory = open_directory(rustix::fs::CWD, path.parent()?.as_os_str()).ok()?;
    let mut items = Dir::read_from(directory).ok()?;
    items.find_map(|item| {
        let item = item.ok().filter(|item| item.ino() == file.inode)?;
        Some(OsStr::from_bytes(item.file_name().to_bytes()).to_os_string())
    })
}

/// Opens `path` for reading if it still is `file`.
fn open_at(path: &Path, file: FileId) -> Result<(File, Traits, Attributes), OpenError> {
    // Whatever has the name by now, a pipe even, opening it does not wait.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty()).or_else(|errno| match errno {
        // O_NOATIME is for the file's owner and root.
        Errno::PERM => rustix::fs::open(path, flags.difference(OFlags::NOATIME), Mode::empty()),
        errno => Err(errno),
    });
    let handle = match opened {
        Ok(handle) => handle,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
            return Err(OpenError::Moved);
        }
        Err(errno) => return Err(OpenError::Io(errno.into())),
    };
    let stat =
        rustix::fs::statx(&handle, "", AtFlags::EMPTY_PATH, STATX).map_err(io::Error::from)?;
    // An inode is used again, for a directory perhaps.
    let is_regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
    if file_id(&stat) != file || !is_regular {
        return Err(OpenError::Moved);
    }
    Ok((File::from(handle), traits(&stat), attributes(&stat)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_is_known_is_looked_for_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let (before, now) = (dir.path().join("before"), dir.path().join("now"));
        std::fs::write(&before, "x").unwrap();
        let file = look(&before).unwrap().expect("It is there").file;
        std::fs::rename(&before, &now).unwrap();
        assert!(open(&before, file, || true).is_ok());
        let gone = open(&before, file, || false);
        assert!(matches!(gone, Err(OpenError::Moved)), "{gone:?}");
    }
}
