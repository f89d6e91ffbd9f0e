//! A controller that only listens: starts a victim under the library, runs sessions on it, and gives the records.
//!
//! The victim is the test program itself, started again with the library preloaded and told over a pipe which call to make (`victim`).

#![allow(dead_code)]

pub mod aio;
pub mod victim;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use engine::capture_log::ring::Next;
use engine::capture_log::{Control, FileId, Link, Mode, Record, Segment};
use tempfile::TempDir;

pub const BOUND: Duration = Duration::from_secs(10);
const CAPACITY: u64 = 8 << 20;

/// The library that belongs to this build.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().expect("The test has a path");
    let deps = program.parent().expect("The test is in a folder");
    let built = [
        deps.join("libhotmirror.so"),
        deps.join("../libhotmirror.so"),
    ];
    let newest = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    let library = built
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(newest);
    library
        .expect("The library is built")
        .canonicalize()
        .expect("It has a path")
}

/// A scratch directory with a place for data and one for the files in shared memory.
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    pub fn new() -> Scratch {
        let dir = tempfile::tempdir().expect("A scratch directory");
        std::fs::create_dir(dir.path().join("data")).expect("Scratch is writable");
        std::fs::create_dir(dir.path().join("run")).expect("Scratch is writable");
        Scratch { dir }
    }

    pub fn data(&self) -> PathBuf {
        self.dir
            .path()
            .canonicalize()
            .expect("It exists")
            .join("data")
    }

    pub fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Names of the files in the runtime directory.
    pub fn runtime_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.run()).expect("It exists");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("Readable").file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub struct Victim {
    pub child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Victim {
    pub fn start(scratch: &Scratch) -> Victim {
        Victim::start_by(Victim::command(scratch))
    }

    /// The command, for a test that changes something about it.
    pub fn command(scratch: &Scratch) -> Command {
        let program = std::env::current_exe().expect("The test has a path");
        let name = program.file_name().expect("It has a name").to_owned();
        let mut command = Command::new(program);
        command
            .args([
                "--exact",
                "driver::victim::victim",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("LD_PRELOAD", library())
            .env("HOTMIRROR_PROCESS", name)
            .env("HOTMIRROR_RUNTIME_DIR", scratch.run())
            .current_dir(scratch.data())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    pub fn start_by(mut command: Command) -> Victim {
        let mut child = command.spawn().expect("The victim starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("Piped"));
        let mut victim = Victim {
            child,
            stdin,
            stdout,
        };
        victim.wait_for("ready");
        victim
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let len = self.stdout.read_line(&mut line).expect("The victim talks");
            assert!(len > 0, "The victim ended before it said {word}");
            // libtest writes its own lines, without a line end before ours.
            if let Some(at) = line.find(victim::MARK) {
                let said = line[at + victim::MARK.len()..].trim();
                if let Some(rest) = said.strip_prefix(word) {
                    return rest.trim().to_string();
                }
            }
        }
    }

    pub fn tell(&mut self, action: &str) {
        let stdin = self.stdin.as_mut().expect("Not closed");
        writeln!(stdin, "{action}").expect("The victim listens");
    }

    pub fn hear(&mut self) -> i64 {
        self.wait_for("did").parse().expect("A result")
    }

    /// Makes one call; its result, or the negative errno.
    pub fn act(&mut self, action: &str) -> i64 {
        self.tell(action);
        self.hear()
    }

    /// Lets the victim exit normally.
    pub fn end(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().expect("It can be waited for");
        assert!(status.success(), "The victim ended with {status}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One session on a process.
pub struct Session {
    pub link: Link,
    pub segment: Segment,
    control: Control,
    head: u64,
}

/// A record that owns its body.
#[derive(Clone, Debug)]
pub struct Taken {
    header: engine::capture_log::record::Header,
    body: Vec<u8>,
}

impl Taken {
    pub fn record(&self) -> Record<'_> {
        Record::decode(self.header, &self.body).expect("A sound record")
    }
}

impl Session {
    pub fn begin(scratch: &Scratch, pid: u32, id: u64, mode: Mode) -> Session {
        let device = scratch.data().metadata().expect("It exists").dev();
        Session::begin_on(&scratch.run(), pid, id, mode, &[device], CAPACITY)
    }

    pub fn begin_on(
        dir: &Path,
        pid: u32,
        id: u64,
        mode: Mode,
        devices: &[u64],
        capacity: u64,
    ) -> Session {
        let link = Link::open(dir, pid).expect("The library is there");
        let segment = Segment::create(dir, &link, id, capacity, devices).expect("There is room");
        let name = segment
            .path()
            .file_name()
            .expect("It has a name")
            .to_string_lossy()
            .into_owned();
        link.grace(false, BOUND).expect("Nothing hangs");
        link.announce(&name);
        let mut session = Session {
            link,
            segment,
            control: Control::IDLE,
            head: 0,
        };
        session.switch(id, mode);
        session
    }

    pub fn switch(&mut self, id: u64, mode: Mode) {
        let to = if mode == Mode::Idle {
            Control::IDLE
        } else {
            Control::new(id, mode)
        };
        self.link
            .switch(self.control, to)
            .expect("The session is on");
        self.control = to;
        self.link.grace(false, BOUND).expect("Nothing hangs");
    }

    /// Everything that was recorded since the last time.
    pub fn drain(&mut self) -> Vec<Taken> {
        let mut reader = self.segment.reader();
        let mut taken = Vec::new();
        loop {
            let mut body = Vec::new();
            match reader.next(&mut body) {
                (Next::Taken(_), header) => taken.push(Taken { header, body }),
                (Next::Empty, _) => break,
                (Next::Unpublished(_), _) => {
                    assert_eq!(reader.lost(), None);
                    std::thread::yield_now();
                }
                (Next::Damaged(at), _) => panic!("The log is damaged at {at}"),
            }
        }
        assert_eq!(reader.lost(), None);
        taken
    }
}

pub fn file_id(path: &Path) -> FileId {
    let stat = path
        .symlink_metadata()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    FileId {
        device: stat.dev(),
        inode: stat.ino(),
    }
}
