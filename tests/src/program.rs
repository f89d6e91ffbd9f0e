//! The program, used as its users use it: a command line, an exit code, text, and what it leaves on disk.
//!
//! Rule: its state directory and the server's runtime directory belong to the test, so that no run sees another one's traces.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::artifacts;
use crate::server::Server;

/// The program, set up for one server.
#[derive(Clone, Debug)]
pub struct Program {
    socket: PathBuf,
    runtime_dir: PathBuf,
    state_dir: PathBuf,
    user: String,
    password: Option<String>,
}

impl Program {
    pub fn for_server(server: &Server) -> Program {
        Program {
            socket: server.socket(),
            runtime_dir: server.runtime_dir().into(),
            state_dir: server.home().join("state"),
            user: "root".into(),
            password: None,
        }
    }

    /// The same as another user of the server.
    pub fn as_user(&self, user: &str, password: &str) -> Program {
        Program {
            user: user.into(),
            password: Some(password.into()),
            ..self.clone()
        }
    }

    /// The same at another socket.
    pub fn at_socket(&self, socket: &str) -> Program {
        Program {
            socket: socket.into(),
            ..self.clone()
        }
    }

    /// A command that needs no server: `prepare`, `restore`, `verify`…
    pub fn run(&self, command: &str) -> Run {
        let mut words = Command::new(artifacts::program());
        words
            .arg(command)
            .env("HOTMIRROR_RUNTIME_DIR", &self.runtime_dir)
            .env_remove("MYSQL_PWD")
            .stdin(Stdio::null());
        Run {
            command: words,
            target: None,
        }
        .arg(format!("--state-dir={}", self.state_dir.display()))
    }

    /// A command on the server.
    pub fn on_server(&self, command: &str) -> Run {
        let run = self
            .run(command)
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.socket.display()))
            .arg(format!("--user={}", self.user));
        match &self.password {
            Some(password) => run.arg(format!("--password={password}")),
            None => run,
        }
    }

    pub fn backup(&self, target: &Path) -> Run {
        let mut run = self
            .on_server("backup")
            .arg(format!("--target-dir={}", target.display()));
        run.target = Some(target.into());
        run
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}

/// A command line in the making.
#[derive(Debug)]
pub struct Run {
    command: Command,
    target: Option<PathBuf>,
}

impl Run {
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Run {
        self.command.arg(argument);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// The same, started by way of a program that becomes it, as `env` and `nohup` do.
    pub fn by(self, starter: &[&str]) -> Run {
        let mut words = Command::new(starter[0]);
        words
            .args(&starter[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .stdin(Stdio::null());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => words.env(name, value),
                None => words.env_remove(name),
            };
        }
        Run {
            command: words,
            ..self
        }
    }

    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Runs it to its end.
    pub fn outcome(mut self) -> Outcome {
        let output = self
            .command
            .output()
            .unwrap_or_else(|e| panic!("Cannot run {:?}: {e}", self.command));
        Outcome::new(&self.command, output, self.target)
    }

    /// Runs it to its end, which must be a good one.
    #[track_caller]
    pub fn success(self) -> Outcome {
        let outcome = self.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        outcome
    }

    /// Starts it, with its events on a stream that the caller reads.
    pub fn spawn(mut self, events: Stdio) -> Spawned {
        self.command.stdout(events).stderr(Stdio::piped());
        let child = self
            .command
            .spawn()
            .unwrap_or_else(|e| panic!("Cannot run {:?}: {e}", self.command));
        Spawned {
            child: Some(child),
            // The command holds the stream's other end, which has to be closed for the reader to see the program's end.
            line: format!("{:?}", self.command),
            target: self.target,
        }
    }
}

/// A run under way; killed when dropped.
pub struct Spawned {
    child: Option<Child>,
    line: String,
    target: Option<PathBuf>,
}

impl Spawned {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("A run under way").id()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let child = self.child.as_mut().expect("A run under way");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Waits until it ends.
    pub fn outcome(mut self) -> Outcome {
        let child = self.child.take().expect("A run under way");
        let output = child.wait_with_output().expect("The end of the run");
        Outcome::with_line(std::mem::take(&mut self.line), output, self.target.take())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub line: String,
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub target: Option<PathBuf>,
}

impl Outcome {
    fn new(command: &Command, output: Output, target: Option<PathBuf>) -> Outcome {
        Outcome::with_line(format!("{command:?}"), output, target)
    }

    fn with_line(line: String, output: Output, target: Option<PathBuf>) -> Outcome {
        Outcome {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            target,
        }
    }

    /// The manifest of the backup that this run made.
    #[track_caller]
    pub fn manifest(&self) -> Value {
        let target = self.target.as_ref().expect("A run that makes a backup");
        manifest(target).unwrap_or_else(|e| panic!("{e}\n{self}"))
    }

    /// Fails unless the run failed with this exit code and a message that holds all these words; `|` separates choices.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        let text = self.stderr.to_lowercase();
        for word in words {
            assert!(
                word.split('|')
                    .any(|word| text.contains(&word.to_lowercase())),
                "No {word:?} in the message of {self}"
            );
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome {
            line,
            code,
            stdout,
            stderr,
            ..
        } = self;
        write!(
            out,
            "{line}\nexit code {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}"
        )
    }
}

/// The manifest of the backup in `target`.
pub fn manifest(target: &Path) -> Result<Value, String> {
    let path = target.join("hotmirror_manifest.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|e| format!("Cannot read {}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{} is not JSON: {e}", path.display()))
}

/// Exit codes, as docs/operations.md has them.
pub mod exit {
    pub const USAGE: i32 = 2;
    pub const CONNECTION: i32 = 3;
    pub const PRIVILEGES: i32 = 4;
    pub const LIBRARY: i32 = 5;
    pub const TARGET: i32 = 6;
    pub const BUSY: i32 = 7;
    pub const LOST: i32 = 8;
    pub const LOCK_TIMEOUT: i32 = 9;
    pub const CANCELLED: i32 = 10;
    pub const SOURCE: i32 = 11;
    pub const SERVER: i32 = 12;
    pub const DAMAGED_BACKUP: i32 = 13;
    pub const FINDINGS: i32 = 16;
}

/// The privileges that docs/operations.md says a backup needs on MariaDB.
pub const PRIVILEGES: &str = "RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR";
