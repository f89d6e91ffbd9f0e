//! What belongs to a root, and what is left out everywhere.
//!
//! What makes it right: a root that is a server's own directory is taken whole, minus a short list of things that a copy must not have. A directory that
//! the server shares with others (/var/log) gives only names that are the server's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Which names directly below a root belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    All,
    Only(BTreeSet<Name>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Exactly(OsString),
    StartsWith(String),
    EndsWith(String),
}

impl Keep {
    pub fn only(names: impl IntoIterator<Item = Name>) -> Keep {
        Keep::Only(names.into_iter().collect())
    }

    /// What either of both keeps.
    pub fn merge(&mut self, other: Keep) {
        match (&mut *self, other) {
            (Keep::Only(names), Keep::Only(more)) => names.extend(more),
            _ => *self = Keep::All,
        }
    }

    fn keeps(&self, name: &std::ffi::OsStr) -> bool {
        let bytes = name.as_bytes();
        let fits = |pattern: &Name| match pattern {
            Name::Exactly(exact) => exact == name,
            Name::StartsWith(prefix) => bytes.starts_with(prefix.as_bytes()),
            Name::EndsWith(suffix) => bytes.ends_with(suffix.as_bytes()),
        };
        match self {
            Keep::All => true,
            Keep::Only(names) => names.iter().any(fits),
        }
    }
}

/// Decides for every path of the source. Paths are absolute, with symbolic links resolved.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Directory and what it keeps, the deepest first.
    roots: Vec<(PathBuf, Keep)>,
    /// Left out, each with all below it.
    paths: BTreeSet<PathBuf>,
    /// Directories that are kept without what is in them.
    emptied: BTreeSet<PathBuf>,
    /// Left out wherever they are in a root.
    names: BTreeSet<OsString>,
    /// Directories with the base name of binlogs that are all left out.
    binlogs: Vec<(PathBuf, String)>,
    patterns: GlobSet,
}

#[derive(Debug, thiserror::Error)]
#[error("--exclude={pattern}: {message}")]
pub struct PatternError {
    pub pattern: String,
    pub message: String,
}

impl Filter {
    /// What the roots keep.
    pub fn of(mut roots: Vec<(PathBuf, Keep)>) -> Filter {
        roots.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        Filter {
            roots,
            ..Filter::default()
        }
    }

    /// The same without what the user excludes.
    pub fn without(self, patterns: &[String]) -> Result<Filter, PatternError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let failed = |error: globset::Error| PatternError {
                pattern: pattern.clone(),
                message: error.kind().to_string(),
            };
            for glob in globs(pattern) {
                let glob = GlobBuilder::new(&glob).literal_separator(true).build();
                set.add(glob.map_err(failed)?);
            }
        }
        let empty = |error: globset::Error| PatternError {
            pattern: String::new(),
            message: error.to_string(),
        };
        Ok(Filter {
            patterns: set.build().map_err(empty)?,
            ..self
        })
    }

    pub fn leave_out(&mut self, path: impl Into<PathBuf>) {
        self.paths.insert(path.into());
    }

    pub fn leave_out_what_is_in(&mut self, directory: impl Into<PathBuf>) {
        self.emptied.insert(directory.into());
    }

    pub fn leave_out_name(&mut self, name: &str) {
        self.names.insert(name.into());
    }

    /// Every binlog in `directory`, also those to come.
    pub fn leave_out_binlogs(&mut self, directory: &Path, base: &str) {
        self.binlogs.push((directory.into(), format!("{base}.")));
    }

    fn is_left_out_binlog(&self, path: &Path) -> bool {
        let is_one = |(directory, prefix): &(PathBuf, String)| {
            let name = path.strip_prefix(directory).ok().and_then(Path::to_str);
            let rest = name.and_then(|name| name.strip_prefix(prefix.as_str()));
            let is_number = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
            rest.is_some_and(|rest| is_number(rest) || rest == "state")
        };
        self.binlogs.iter().any(is_one)
    }

    pub fn leaves_out(&self, path: &Path) -> bool {
        let Some((root, keep)) = self.roots.iter().find(|(root, _)| path.starts_with(root)) else {
            return true;
        };
        let Ok(inner) = path.strip_prefix(root) else {
            return true;
        };
        let Some(top) = inner.components().next() else {
            return false;
        };
        !keep.keeps(top.as_os_str())
            || self.paths.contains(path)
            || path
                .parent()
                .is_some_and(|directory| self.emptied.contains(directory))
            || path
                .file_name()
                .is_some_and(|name| self.names.contains(name))
            || self.is_left_out_binlog(path)
            || self.patterns.is_match(inner)
    }
}

/// `db.table` means the table's files, partitions too; anything with a slash is a path.
fn globs(pattern: &str) -> Vec<String> {
    match pattern.split_once('.') {
        Some((database, table)) if !pattern.contains('/') => {
            vec![
                format!("{database}/{table}.*"),
                format!("{database}/{table}#[pP]#*"),
            ]
        }
        _ => vec![pattern.trim_start_matches('/').to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> Filter {
        let patterns: Vec<String> = patterns.iter().map(|text| text.to_string()).collect();
        let logs = Keep::only([Name::StartsWith("bin.".into())]);
        let roots = vec![("/var".into(), logs), ("/var/lib/mysql".into(), Keep::All)];
        Filter::of(roots).without(&patterns).unwrap()
    }

    #[test]
    fn a_shared_directory_gives_only_what_is_the_servers() {
        let filter = filter(&[]);
        assert!(!filter.leaves_out(Path::new("/var")));
        assert!(!filter.leaves_out(Path::new("/var/bin.000001")));
        assert!(filter.leaves_out(Path::new("/var/syslog")));
        assert!(!filter.leaves_out(Path::new("/var/lib/mysql/db/t.ibd")));
        assert!(filter.leaves_out(Path::new("/etc/passwd")));
    }

    #[test]
    fn a_table_pattern_means_all_files_of_the_table() {
        let filter = filter(&["shop.cart_*"]);
        let out = |path: &str| filter.leaves_out(&Path::new("/var/lib/mysql").join(path));
        assert!(out("shop/cart_1.ibd") && out("shop/cart_1.frm") && out("shop/cart_2#P#p0.ibd"));
        assert!(!out("shop/order.ibd") && !out("other/cart_1.ibd"));
    }

    #[test]
    fn a_path_pattern_does_not_cross_directories_by_itself() {
        let filter = filter(&["shop/*", "**/*.bak"]);
        let out = |path: &str| filter.leaves_out(&Path::new("/var/lib/mysql").join(path));
        assert!(out("shop/a.ibd") && out("x/y.bak") && !out("shop2/a.ibd"));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Filter::default().without(&["a/[".to_string()]).unwrap_err();
        assert!(error.to_string().starts_with("--exclude=a/[: "), "{error}");
    }

    #[test]
    fn what_is_left_out_by_path_or_name_is_out() {
        let mut filter = filter(&[]);
        filter.leave_out("/var/lib/mysql/vm.pid");
        filter.leave_out_name("lost+found");
        assert!(filter.leaves_out(Path::new("/var/lib/mysql/vm.pid")));
        assert!(filter.leaves_out(Path::new("/var/lib/mysql/lost+found")));
        assert!(!filter.leaves_out(Path::new("/var/lib/mysql/db/vm.pid")));
    }
}
