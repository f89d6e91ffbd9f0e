//! What the suite of the C library stands on: its programs, places to run them in, and the comparison of source and copy.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use hotmirror_tests::artifacts::workspace;

/// target/<profile>/deps, where Cargo builds the library for the tests of its package, however they are started.
pub fn build_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("The path of this executable");
    executable.parent().expect("target/<profile>/deps").into()
}

pub const C: &[&str] = &["cc", "-std=gnu11"];
pub const LIBRARIES: &[&str] = &["-lHotBackup", "-lpthread", "-laio"];

/// Cargo does not build the library for a test that is started by its name, and an old one would pass for the new.
fn check_library_is_current() {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let library = build_dir().join("libHotBackup.so");
    let sources = build_dir().with_file_name("libHotBackup.d");
    let known = modified(&library).and_then(|built| Ok((built, std::fs::read_to_string(sources)?)));
    let (built, sources) = known.expect("Run `cargo build -p hotmirror-c-api` first");
    for source in sources.split_whitespace().skip(1) {
        assert!(
            modified(Path::new(source)).is_ok_and(|modified| modified <= built),
            "{} is older than {source}: run `cargo build -p hotmirror-c-api` first",
            library.display()
        );
    }
}

/// Makes `program` of tests/c_api/SOURCE.c, linked with `libraries`.
pub fn compile(program: &Path, source: &str, compiler: &[&str], libraries: &[&str]) {
    let output = Command::new(compiler[0])
        .args(&compiler[1..])
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unused-function", "-Wno-format-truncation"])
        .arg(workspace().join(format!("tests/c_api/{source}.c")))
        .arg("-I")
        .arg(workspace().join("c-api/include"))
        .arg("-L")
        .arg(build_dir())
        .args(libraries)
        .arg("-o")
        .arg(program)
        .output()
        .expect("A compiler is installed");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{source}: {text}");
}

pub static PROGRAMS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    check_library_is_current();
    let dir = tempfile::tempdir().expect("A directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("Ours");
    for name in [
        "results",
        "listing",
        "callbacks",
        "changes",
        "races",
        "session",
        "faults",
        "ancestor",
    ] {
        compile(&dir.path().join(name), name, C, LIBRARIES);
    }
    compile(&dir.path().join("opened_late"), "opened_late", C, &["-ldl"]);
    let plus_plus = ["c++", "-x", "c++", "-std=c++17", "-pedantic"];
    compile(
        &dir.path().join("ancestor++"),
        "ancestor",
        &plus_plus,
        LIBRARIES,
    );
    dir
});

/// Two directories, in a directory that everybody may use unless they are given.
pub struct Place {
    _dir: tempfile::TempDir,
    source: PathBuf,
    destination: PathBuf,
}

impl Place {
    pub fn on(parent: impl AsRef<Path>) -> Place {
        let dir = tempfile::tempdir_in(parent).expect("A directory");
        let (source, destination) = (dir.path().join("source"), dir.path().join("destination"));
        for path in [dir.path(), &source, &destination] {
            std::fs::create_dir_all(path).expect("A directory");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("Ours");
        }
        Place {
            _dir: dir,
            source,
            destination,
        }
    }

    pub fn in_memory() -> Place {
        Place::on("/dev/shm")
    }

    pub fn with_source(self, source: PathBuf) -> Place {
        Place { source, ..self }
    }

    pub fn with_destination(self, destination: PathBuf) -> Place {
        Place {
            destination,
            ..self
        }
    }

    pub fn source(&self) -> PathBuf {
        self.source.clone()
    }

    pub fn destination(&self) -> PathBuf {
        self.destination.clone()
    }

    /// `program scenario source destination`, behind what `wrapper` says.
    pub fn command(&self, wrapper: &[&str], program: &str, scenario: &str) -> Command {
        let program = PROGRAMS.path().join(program);
        let mut command = match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args([scenario.as_ref(), self.source().as_os_str()])
            .arg(self.destination())
            .env("LD_LIBRARY_PATH", build_dir());
        command
    }

    pub fn run(&self, program: &str, scenario: &str) {
        check(
            scenario,
            &self
                .command(&[], program, scenario)
                .output()
                .expect("It runs"),
        );
    }

    pub fn compare(&self, scenario: &str) {
        compare(&self.source, &self.destination, scenario);
    }
}

/// Fails unless `copy` is what `source` is.
pub fn compare(source: &Path, copy: &Path, scenario: &str) {
    let (source, copy) = (listing(source), listing(copy));
    let differences: Vec<String> = source
        .keys()
        .chain(copy.keys())
        .filter(|path| source.get(*path) != copy.get(*path))
        .map(|path| {
            format!(
                "{}: {:?}, {:?} in the copy",
                path.display(),
                source.get(path),
                copy.get(path)
            )
        })
        .collect();
    assert!(differences.is_empty(), "{scenario}: {differences:#?}");
    assert!(!source.is_empty(), "{scenario}: nothing to compare");
}

pub fn check(scenario: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{scenario}: {}\n{text}",
        output.status
    );
}

/// Everything that a copy keeps of an entry. Times of directories are not kept.
#[derive(Debug, PartialEq)]
struct Looks {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: Option<(i64, i64)>,
    size: u64,
    sum: u32,
    target: Option<PathBuf>,
}

fn listing(root: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).expect("Readable") {
            let path = entry.expect("Readable").path();
            let metadata = path.symlink_metadata().expect("It is there");
            if metadata.is_dir() {
                left.push(path.clone());
            }
            let content = match metadata.is_file() {
                true => std::fs::read(&path).expect("Readable"),
                false => Vec::new(),
            };
            let looks = Looks {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                links: if metadata.is_file() {
                    metadata.nlink()
                } else {
                    0
                },
                modified: metadata
                    .is_file()
                    .then(|| (metadata.mtime(), metadata.mtime_nsec())),
                size: content.len() as u64,
                sum: content.iter().fold(0, |sum: u32, byte| {
                    sum.wrapping_mul(31).wrapping_add((*byte).into())
                }),
                target: std::fs::read_link(&path).ok(),
            };
            found.insert(path.strip_prefix(root).expect("Below").into(), looks);
        }
    }
    found
}
