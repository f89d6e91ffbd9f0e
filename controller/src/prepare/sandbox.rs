//! A mount namespace in which the backup's directories stand where the server's own did.
//!
//! What makes it right: files of a server name other files by absolute paths (links, tablespace links, binlog indexes, the redo log itself).
//! Started anywhere else on the same host, a copy would open, and write, the files of the live server. Here each such path leads into
//! the copy, whatever names it, and the mounts end with the server.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::Place;

/// Binds each pair of directories given before `--`, then becomes the rest.
const SCRIPT: &str = r#"while [ "$1" != -- ]; do mount --bind -- "$1" "$2" || exit 97; shift 2; done
shift
exec "$@""#;

/// How the script ends, and how it and setpriv do if they can't become the next program. No server ends so.
const NOT_STARTED: [i32; 3] = [97, 126, 127];

/// True if this is how the command line ends when the server was never begun.
pub fn is_before_the_server(status: ExitStatus) -> bool {
    status
        .code()
        .is_some_and(|code| NOT_STARTED.contains(&code))
}

/// Directories that something can be mounted over. Those that had to be made are removed when dropped, unless somebody else mounts over them by then: the
/// kernel would take that mount away with the directory. Each is held by a shared lock meanwhile.
#[derive(Default)]
pub struct MountPoints {
    made: Vec<PathBuf>,
    held: Vec<File>,
}

impl MountPoints {
    /// Makes what is missing of the original places.
    pub fn make(places: &[Place]) -> std::io::Result<MountPoints> {
        let mut made = MountPoints::default();
        for place in places {
            made.hold(&place.original)?;
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

    fn hold(&mut self, path: &Path) -> std::io::Result<()> {
        loop {
            self.make_directories(path)?;
            // One that may not be opened is nobody's to remove here.
            let Ok(directory) = File::open(path) else {
                return Ok(());
            };
            let _ = rustix::fs::flock(&directory, FlockOperation::LockShared);
            let held = directory.metadata()?;
            // Else whoever had made it has just removed it.
            if path
                .metadata()
                .is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()))
            {
                self.held.push(directory);
                return Ok(());
            }
        }
    }

    fn make_directories(&mut self, path: &Path) -> std::io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
        for directory in missing.into_iter().rev() {
            match std::fs::create_dir(directory) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            self.made.push(directory.into());
            // The server passes through it as its own user, whatever the umask.
            std::fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        }
        Ok(())
    }
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        self.held.clear();
        for path in self.made.iter().rev() {
            let Ok(directory) = File::open(path) else {
                continue;
            };
            let alone = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive);
            if alone != Err(Errno::WOULDBLOCK) {
                let _ = std::fs::remove_dir(path);
            }
        }
    }
}

/// Makes a directory in `den` for each of the places.
pub fn make_aside(den: &Path, places: &[Place]) -> std::io::Result<Vec<PathBuf>> {
    let directories = (0..places.len()).map(|number| den.join(format!("place-{number}")));
    directories
        .map(|directory| std::fs::create_dir(&directory).map(|()| directory))
        .collect()
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

/// The words of a command line that runs `words` in the namespace. `aside`: an empty directory of our own, with one for each place made in it.
pub fn command_line(places: &[Place], aside: &[PathBuf], words: Vec<OsString>) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["unshare".into()];
    line.extend(namespace_options().iter().map(OsString::from));
    line.extend(["sh", "-c", SCRIPT, "sh"].map(OsString::from));
    // All of them aside first: the backup itself may lie in a place that is mounted over.
    for (place, aside) in places.iter().zip(aside) {
        line.extend([place.now.clone().into(), aside.clone().into()]);
    }
    // Outer directories first: a place inside another one is mounted over what that one shows.
    let mut sorted: Vec<_> = places.iter().zip(aside).collect();
    sorted.sort_by_key(|(place, _)| place.original.components().count());
    for (place, aside) in sorted {
        line.extend([aside.clone().into(), place.original.clone().into()]);
    }
    line.push("--".into());
    line.extend(words);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program finds in `file` with `places` mounted.
    fn seen(places: &[Place], file: &Path) -> Vec<u8> {
        let den = tempfile::tempdir().unwrap();
        let points = MountPoints::make(places).unwrap();
        let aside = make_aside(den.path(), places).unwrap();
        let line = command_line(places, &aside, vec!["cat".into(), file.into()]);
        let output = Command::new(&line[0]).args(&line[1..]).output().unwrap();
        drop(points);
        output.stdout
    }

    fn place(now: PathBuf, original: PathBuf) -> Place {
        std::fs::create_dir_all(&now).unwrap();
        std::fs::write(
            now.join("file"),
            now.file_name().unwrap().as_encoded_bytes(),
        )
        .unwrap();
        Place { now, original }
    }

    #[test]
    fn inside_the_backup_stands_where_the_server_was() {
        if !is_possible() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path().join("copy"), dir.path().join("gone/server"));
        let file = place.original.join("file");
        assert_eq!(seen(&[place], &file), b"copy");
        assert!(!file.exists());
        assert!(!dir.path().join("gone").exists());
    }

    #[test]
    fn a_directory_that_another_mounts_over_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone/server");
        let points = |name: &str| {
            let place = place(dir.path().join(name), gone.clone());
            MountPoints::make(&[place]).unwrap()
        };
        let (first, second) = (points("one"), points("two"));
        drop(first);
        assert!(gone.exists());
        drop(second);
        let (first, second) = (points("one"), points("two"));
        drop(second);
        assert!(gone.exists());
        drop(first);
        // Whoever did not make it can't know that nobody else did.
        assert!(gone.exists());
    }

    #[test]
    fn a_backup_inside_a_place_of_the_servers_is_still_found() {
        if !is_possible() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let backup = dir.path().join("backup");
        let places = [
            place(backup.join("data"), dir.path().join("data")),
            place(backup.join("logs"), dir.path().into()),
        ];
        assert_eq!(seen(&places, &dir.path().join("data/file")), b"data");
        assert_eq!(seen(&places, &dir.path().join("file")), b"logs");
    }

    #[test]
    fn what_cannot_be_mounted_or_begun_is_told_from_a_server_that_failed() {
        if !is_possible() {
            return;
        }
        let gone = Place {
            now: "/nowhere/now".into(),
            original: "/nowhere/original".into(),
        };
        let ends = |places: &[Place], words: &[&str]| {
            let aside = vec![PathBuf::from("/nowhere/aside"); places.len()];
            let line = command_line(places, &aside, words.iter().map(OsString::from).collect());
            let mut command = Command::new(&line[0]);
            is_before_the_server(command.args(&line[1..]).status().unwrap())
        };
        assert!(ends(&[gone], &["true"]));
        assert!(ends(&[], &["/nowhere/setpriv"]));
        assert!(!ends(&[], &["false"]));
    }
}
