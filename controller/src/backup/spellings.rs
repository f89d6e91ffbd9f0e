//! Other names of places in the roots: what the server's files call a place that they reach through symbolic links outside of the backup.
//!
//! What makes it right: a root is known by its canonical path. A link, a tablespace link or an index that names a file in it by way of another link is only seen to lead there
//! on the host where that link is, so what it leads to is looked up while the backup is made.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Names, each with the canonical path of what it stands for. Of a directory, for all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spellings(BTreeMap<PathBuf, PathBuf>);

impl Spellings {
    /// Looks up what `path`, which is absolute, leads to.
    pub fn learn(&mut self, path: &Path) {
        if let Ok(canonical) = std::fs::canonicalize(path) {
            self.note(path, &canonical);
        }
    }

    /// `canonical` is what `path`, which is absolute, was found to lead to.
    pub fn note(&mut self, path: &Path, canonical: &Path) {
        let named = normal(path);
        if named == canonical {
            return;
        }
        // All files in a directory have its other name.
        let pair = match (named.parent(), canonical.parent()) {
            (Some(named), Some(directory))
                if !canonical.is_dir() && path.file_name() == canonical.file_name() =>
            {
                (named.to_path_buf(), directory.to_path_buf())
            }
            _ => (named, canonical.to_path_buf()),
        };
        // What is no text can't be written down here, and is found by its canonical name only.
        let is_text = pair.0.to_str().is_some() && pair.1.to_str().is_some();
        if pair.0 != pair.1 && is_text {
            self.0.insert(pair.0, pair.1);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.0
            .iter()
            .map(|(named, path)| (named.as_path(), path.as_path()))
    }

    /// What `path` stood for on the server.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let path = normal(path);
        let known = path
            .ancestors()
            .find_map(|named| rebased(&path, named, self.0.get(named)?));
        known.unwrap_or(path)
    }
}

/// Without `.` and `..`, by the letter: what they lead through may not exist here.
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}

/// What `path` is called once `from`, which it lies in, is `to`. Without a slash behind `to` itself: a link or an option may show it.
pub fn rebased(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let inner = path.strip_prefix(from).ok()?;
    Some(match inner.as_os_str().is_empty() {
        true => to.into(),
        false => to.join(inner),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_by_way_of_a_link_is_known_without_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("disk/db")).unwrap();
        std::fs::write(real.join("disk/t.ibd"), "").unwrap();
        symlink("disk", real.join("near")).unwrap();
        symlink("disk/t.ibd", real.join("other.ibd")).unwrap();
        let mut spellings = Spellings::default();
        for name in ["near/t.ibd", "near/db", "other.ibd", "disk/db", "gone"] {
            spellings.learn(&real.join(name));
        }
        std::fs::remove_file(real.join("near")).unwrap();
        for (name, path) in [
            ("near/t.ibd", "disk/t.ibd"),
            ("near/u.ibd", "disk/u.ibd"),
            ("near/db/x", "disk/db/x"),
            ("near", "disk"),
            ("other.ibd", "disk/t.ibd"),
            ("disk/db/x", "disk/db/x"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(
                spellings.resolve(&real.join(name)),
                real.join(path),
                "{name}"
            );
        }
        let text = serde_json::to_string(&spellings).unwrap();
        assert_eq!(serde_json::from_str::<Spellings>(&text).unwrap(), spellings);
    }

    #[test]
    fn a_place_itself_is_moved_without_a_slash() {
        let moved = |path: &str| rebased(Path::new(path), Path::new("/a/b"), Path::new("/c"));
        let text = |path| moved(path).map(|moved| moved.display().to_string());
        assert_eq!(text("/a/b").as_deref(), Some("/c"));
        assert_eq!(text("/a/b/t").as_deref(), Some("/c/t"));
        assert_eq!(text("/a/bt"), None);
    }
}
