//! Whether a path is for us what it is for the server, which may live in another mount namespace (a container, a unit with BindPaths).
//!
//! What makes it right: a path is looked up from the server's own root, links in it too, and what is found there must be the same file by device and inode. Where the server
//! finds nothing, nothing of its is.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::roots::RootError;

/// Files come and go, and a look that meets a rename may be refused: only a difference that stays is one.
const LOOK_COUNT_MAX: u32 = 20;

/// What the server sees. By default that is what we see.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The server's root directory, by a path of ours.
    root: Option<PathBuf>,
}

impl Sight {
    pub fn of(pid: u32) -> Sight {
        Sight::from(format!("/proc/{pid}/root").into())
    }

    pub fn from(root: PathBuf) -> Sight {
        Sight { root: Some(root) }
    }

    /// `path` with links resolved, None if there is nothing. Fails if the server finds something else there.
    pub fn resolve(&self, path: &Path) -> Result<Option<PathBuf>, RootError> {
        if !self.is_there(path)? {
            return Ok(None);
        }
        match std::fs::canonicalize(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            resolved => resolved.map(Some).map_err(RootError::io(path)),
        }
    }

    /// False if the server finds nothing at `path`. Fails if it finds what we don't.
    pub fn is_there(&self, path: &Path) -> Result<bool, RootError> {
        // A root that we may not look at tells nothing.
        let Some(root) = self.root.as_deref().filter(|root| root.is_dir()) else {
            return Ok(true);
        };
        let mut look = look(root, path);
        for _ in 1..LOOK_COUNT_MAX {
            if matches!(look, Ok(Look::Same | Look::Nothing)) {
                break;
            }
            look = self::look(root, path);
        }
        match look {
            Ok(Look::Same) => Ok(true),
            Ok(Look::Nothing) => Ok(false),
            Ok(Look::Other) => Err(RootError::SeenOtherwise { path: path.into() }),
            Err(errno) => Err(RootError::io(path)(errno.into())),
        }
    }
}

/// What a process finds at a path.
enum Look {
    Nothing,
    /// What we find there.
    Same,
    Other,
}

/// What a process whose root directory is `root` finds at `path`.
fn look(root: &Path, path: &Path) -> rustix::io::Result<Look> {
    let Some(theirs) = seen_from(root, path)? else {
        return Ok(Look::Nothing);
    };
    let ours = identity(rustix::fs::stat(path))?;
    Ok(if ours == Some(theirs) {
        Look::Same
    } else {
        Look::Other
    })
}

/// Device and inode; None if there is nothing.
fn identity(found: rustix::io::Result<Stat>) -> rustix::io::Result<Option<(u64, u64)>> {
    match found {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(|stat| Some((stat.st_dev, stat.st_ino))),
    }
}

fn seen_from(root: &Path, path: &Path) -> rustix::io::Result<Option<(u64, u64)>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root_directory = rustix::fs::open(root, flags, Mode::empty())?;
    let below = rustix::fs::openat2(
        &root_directory,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    identity(match below {
        // Linux before 5.6, or a container that keeps it from us. Absolute links then lead through our own root.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::stat(root.join(path.strip_prefix("/").unwrap_or(path)))
        }
        below => below.and_then(rustix::fs::fstat),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory as the server's root, with another one in it at the path of one of ours.
    fn elsewhere() -> (tempfile::TempDir, Sight, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let ours = std::fs::canonicalize(dir.path()).unwrap();
        let root = ours.join("root");
        std::fs::create_dir_all(root.join(ours.strip_prefix("/").unwrap())).unwrap();
        (dir, Sight::from(root), ours)
    }

    #[test]
    fn a_directory_that_is_another_one_for_the_server_is_refused() {
        let (_dir, sight, ours) = elsewhere();
        let error = sight.resolve(&ours).unwrap_err();
        assert!(matches!(error, RootError::SeenOtherwise { .. }), "{error}");
        assert!(error.to_string().contains(&ours.display().to_string()));
    }

    #[test]
    fn what_only_the_server_sees_is_not_taken_for_missing() {
        let (_dir, sight, ours) = elsewhere();
        let theirs = sight.root.as_ref().unwrap();
        std::fs::create_dir(theirs.join("redo")).unwrap();
        symlink("/redo", theirs.join("link")).unwrap();
        for path in ["/redo", "/link"] {
            let error = sight.resolve(Path::new(path)).unwrap_err();
            assert!(matches!(error, RootError::SeenOtherwise { .. }), "{error}");
        }
        assert_eq!(sight.resolve(&ours.join("never/made")).unwrap(), None);
    }

    #[test]
    fn what_only_we_see_is_not_the_servers() {
        let (_dir, sight, ours) = elsewhere();
        std::fs::create_dir(ours.join("home")).unwrap();
        assert_eq!(sight.resolve(&ours.join("home")).unwrap(), None);
    }

    #[test]
    fn what_both_see_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let ours = std::fs::canonicalize(dir.path()).unwrap();
        symlink(&ours, ours.join("link")).unwrap();
        let sight = Sight::of(std::process::id());
        assert_eq!(sight.resolve(&ours.join("link")).unwrap(), Some(ours));
    }

    #[test]
    fn a_root_that_cannot_be_looked_at_tells_nothing() {
        let (_dir, _, ours) = elsewhere();
        let sight = Sight::from(ours.join("gone"));
        assert_eq!(sight.resolve(&ours).unwrap(), Some(ours));
    }
}
