//! What must be true before anything is changed.
//!
//! What makes it right: each check only reads, so a failed one leaves nothing behind, and its message names what to change.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hotmirror::capture_log::{Link, LinkError};

use super::keep::Filter;
use super::process::ServerProcess;
use super::roots::{RootEntry, Roots};

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("The target {0} exists and is not an empty directory")]
    TargetNotEmpty(PathBuf),
    #[error("The target {target} is inside {root}, which is backed up")]
    TargetInside { target: PathBuf, root: PathBuf },
    #[error("{root}, which is backed up, is inside the target {target}")]
    RootInside { target: PathBuf, root: PathBuf },
    #[error("The target {target} cannot be made: {source}")]
    TargetParent {
        target: PathBuf,
        source: std::io::Error,
    },
    #[error("Cannot read {path}, which holds the server's data: {source}")]
    SourceUnreadable {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The library is loaded in the server and speaks our protocol; gives its version.
pub fn check_library(runtime_dir: &Path, process: &ServerProcess) -> Result<String, LinkError> {
    let link = Link::open(runtime_dir, process.pid)?;
    Ok(link.library_version())
}

pub fn check_target(target: &Path, roots: &Roots) -> Result<(), PreflightError> {
    let failed = |source| PreflightError::TargetParent {
        target: target.into(),
        source,
    };
    let canonical = match std::fs::canonicalize(target) {
        Ok(canonical) => {
            check_empty(target)?;
            canonical
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = target.parent().unwrap_or(Path::new("/"));
            let parent = std::fs::canonicalize(parent).map_err(failed)?;
            check_writable(&parent).map_err(failed)?;
            parent.join(target.file_name().unwrap_or_default())
        }
        Err(error) => return Err(failed(error)),
    };
    for root in roots.entries.iter().map(|entry| &entry.source) {
        if canonical.starts_with(root) && roots.takes(&canonical) {
            return Err(PreflightError::TargetInside {
                target: canonical,
                root: root.clone(),
            });
        }
        if root.starts_with(&canonical) {
            return Err(PreflightError::RootInside {
                target: canonical,
                root: root.clone(),
            });
        }
    }
    Ok(())
}

fn check_empty(target: &Path) -> Result<(), PreflightError> {
    let not_empty = || PreflightError::TargetNotEmpty(target.into());
    let first = std::fs::read_dir(target).map(|mut entries| entries.next());
    match first {
        Ok(None) => check_writable(target).map_err(|source| PreflightError::TargetParent {
            target: target.into(),
            source,
        }),
        Ok(Some(_)) => Err(not_empty()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(not_empty()),
        Err(source) => Err(PreflightError::TargetParent {
            target: target.into(),
            source,
        }),
    }
}

fn check_writable(directory: &Path) -> std::io::Result<()> {
    rustix::fs::access(
        directory,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )?;
    Ok(())
}

/// Every root can be listed, and what is taken of the files directly in it can be read.
pub fn check_source(roots: &Roots, filter: &Filter) -> Result<(), PreflightError> {
    for entry in &roots.entries {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| PreflightError::SourceUnreadable { path, source }
        };
        let files = std::fs::read_dir(&entry.source).map_err(failed(&entry.source))?;
        for file in files
            .flatten()
            .filter(|file| !filter.leaves_out(&file.path()))
        {
            let is_file = file.file_type().is_ok_and(|kind| kind.is_file());
            let readable = rustix::fs::access(file.path(), rustix::fs::Access::READ_OK);
            match readable {
                Err(errno) if is_file && errno != rustix::io::Errno::NOENT => {
                    return Err(failed(&file.path())(errno.into()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Bytes free below the target, and bytes that what is taken of the roots occupies; a reflink may make the copy smaller.
pub fn space(target: &Path, roots: &Roots, filter: &Filter) -> Option<(u64, u64)> {
    let existing = target.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    let in_root = |root: &RootEntry| occupied(&root.source, filter);
    let used = roots.entries.iter().map(in_root).sum();
    Some((stat.f_bavail * stat.f_frsize, used))
}

fn occupied(directory: &Path, filter: &Filter) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => occupied(&entry.path(), filter),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries
        .filter(|entry| !filter.leaves_out(&entry.path()))
        .map(size)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::roots;
    use crate::backup::sight::Sight;
    use crate::server::Variables;

    fn roots_at(datadir: &Path) -> Roots {
        let text = datadir.display().to_string();
        roots::find(
            &Variables::from([("datadir", text.as_str())]),
            &[],
            &Sight::default(),
        )
        .unwrap()
    }

    #[test]
    fn a_target_beside_binlogs_in_a_shared_directory_is_possible() {
        let dir = tempfile::tempdir().unwrap();
        let shared = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(shared.join("data")).unwrap();
        let (data, bin) = (shared.join("data"), shared.join("bin"));
        let (data, bin) = (data.display().to_string(), bin.display().to_string());
        let variables = Variables::from([
            ("datadir", data.as_str()),
            ("log_bin_basename", bin.as_str()),
        ]);
        let roots = roots::find(&variables, &[], &Sight::default()).unwrap();
        check_target(&shared.join("backup"), &roots).unwrap();
        let taken = check_target(&shared.join("bin.backup"), &roots);
        assert!(matches!(taken, Err(PreflightError::TargetInside { .. })));
    }

    #[test]
    fn what_is_left_out_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let data = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(data.join("db/left")).unwrap();
        for file in ["binlog.1", "db/t.ibd", "db/left/u.ibd"] {
            std::fs::write(data.join(file), vec![1; 1 << 20]).unwrap();
        }
        let roots = roots_at(&data);
        let mut filter = roots.filter(&Variables::from([]), &[]).unwrap();
        let used = |filter: &Filter| space(&data.join("to/come"), &roots, filter).unwrap().1 >> 20;
        assert_eq!(used(&filter), 3);
        filter.leave_out(data.join("db/left"));
        assert_eq!(used(&filter), 2);
        filter.leave_out(data.join("binlog.1"));
        assert_eq!(used(&filter), 1);
    }

    #[test]
    fn a_target_is_refused_unless_empty_and_apart_from_every_root() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("outer/data");
        std::fs::create_dir_all(&data).unwrap();
        let roots = roots_at(&data);
        let check = |target: &Path| check_target(target, &roots);
        check(&dir.path().join("backup")).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        check(&dir.path().join("empty")).unwrap();
        assert!(matches!(
            check(&data.join("b")),
            Err(PreflightError::TargetInside { .. })
        ));
        assert!(matches!(
            check(dir.path()),
            Err(PreflightError::TargetNotEmpty(_))
        ));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(
            check(&dir.path().join("file")),
            Err(PreflightError::TargetNotEmpty(_))
        ));
        let missing = dir.path().join("no/such/backup");
        assert!(matches!(
            check(&missing),
            Err(PreflightError::TargetParent { .. })
        ));
    }
}
