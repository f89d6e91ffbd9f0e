//! A mount namespace in which the backup's directories stand where the server's own did.
//!
//! What makes it right: files of a server name other files by absolute paths (links, tablespace links, binlog indexes, the redo log itself).
//! Started anywhere else on the same host, a copy would open, and write, the files of the live server. Here each such path leads into
//! the copy, whatever names it, and the mounts end with the server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Place;

/// Binds each pair of directories given before `--`, then becomes the rest.
const SCRIPT: &str = r#"set -e
while [ "$1" != -- ]; do mount --bind -- "$1" "$2"; shift 2; done
shift
exec "$@""#;

/// Directories that had to be made so that something can be mounted over them; removed when dropped.
#[derive(Default)]
pub struct MountPoints(Vec<PathBuf>);

impl MountPoints {
    /// Makes what is missing of the original places.
    pub fn make(places: &[Place]) -> std::io::Result<MountPoints> {
        let mut made = MountPoints::default();
        for place in places {
            made.make_directories(&place.original)?;
            // Inside another place, that one's own directory is what will be mounted over.
            for outer in places
                .iter()
                .filter(|outer| outer.original != place.original)
            {
                if let Ok(inner) = place.original.strip_prefix(&outer.original) {
                    made.make_directories(&outer.now.join(inner))?;
                }
            }
        }
        Ok(made)
    }

    fn make_directories(&mut self, path: &Path) -> std::io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        for directory in missing.into_iter().rev() {
            std::fs::create_dir(directory)?;
            self.0.push(directory.into());
        }
        Ok(())
    }
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// True if this user may make such a namespace.
pub fn is_possible() -> bool {
    let mut command = Command::new("unshare");
    command.args(namespace_options()).arg("true");
    let silent = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

fn namespace_options() -> &'static [&'static str] {
    if crate::system::is_root() {
        &["--mount", "--propagation=private"]
    } else {
        &["--map-root-user", "--mount", "--propagation=private"]
    }
}

/// The words of a command line that runs `words` in the namespace.
pub fn command_line(places: &[Place], words: Vec<OsString>) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["unshare".into()];
    line.extend(namespace_options().iter().map(OsString::from));
    line.extend(["sh", "-c", SCRIPT, "sh"].map(OsString::from));
    // Outer directories first: a place inside another one is mounted over what that one shows.
    let mut sorted: Vec<&Place> = places.iter().collect();
    sorted.sort_by_key(|place| place.original.components().count());
    for place in sorted {
        line.push(place.now.clone().into());
        line.push(place.original.clone().into());
    }
    line.push("--".into());
    line.extend(words);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_the_backup_stands_where_the_server_was() {
        if !is_possible() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            now: dir.path().join("backup"),
            original: dir.path().join("gone/server"),
        };
        std::fs::create_dir(&place.now).unwrap();
        std::fs::write(place.now.join("file"), "copy").unwrap();
        let original = place.original.clone();
        let points = MountPoints::make(std::slice::from_ref(&place)).unwrap();
        let words = vec!["cat".into(), original.join("file").into()];
        let line = command_line(&[place], words);
        let output = Command::new(&line[0]).args(&line[1..]).output().unwrap();
        assert_eq!(output.stdout, b"copy");
        assert!(!original.join("file").exists());
        drop(points);
        assert!(!dir.path().join("gone").exists());
    }
}
