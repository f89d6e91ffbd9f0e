//! One run of a server on a copy: started, awaited by its socket, shut down.
//!
//! What makes it right: it listens nowhere but in a private directory, starts no applier and no events, and does not outlive us: a signal, an
//! error or a panic ends it, and the kernel does if we are killed.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::sandbox::{self, MountPoints};
use super::{Place, Recovery};
use crate::args::password;
use crate::cancel::Cancel;
use crate::manifest::Manifest;
use crate::system;

/// How often the socket is tried: there is no event to wait for before it exists.
const TRY_INTERVAL: Duration = Duration::from_millis(50);
const LOG_TAIL_LINES: usize = 12;

/// It talks to nobody, replicates nothing, runs nothing and removes nothing. What SET PERSIST has left would count for more than all of this.
const STILL: &str = "\
skip_networking
loose_mysqlx = 0
loose_persisted_globals_load = OFF
loose_skip_slave_start
loose_skip_replica_start
event_scheduler = OFF
loose_group_replication_start_on_boot = OFF
loose_expire_logs_days = 0
loose_binlog_expire_logs_seconds = 0
loose_relay_log_purge = OFF
loose_innodb_buffer_pool_load_at_startup = OFF
loose_innodb_buffer_pool_dump_at_shutdown = OFF
loose_performance_schema = OFF
";

#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("Cannot begin: {0}")]
    Begin(std::io::Error),
    #[error("There is no server binary {0}")]
    NoBinary(PathBuf),
    #[error(
        "This user may not make a mount namespace, in which the server could not touch the files of the one that was backed up"
    )]
    NoNamespace,
    #[error("Cannot start {executable}: {source}")]
    Start {
        executable: PathBuf,
        source: std::io::Error,
    },
    #[error("The server could not be started ({status}): {message}")]
    NotBegun { status: String, message: String },
    #[error("The server ended in its recovery ({status}); its log ends with:\n{log}")]
    Ended { status: String, log: String },
    #[error(
        "The server was not through with its recovery within {bound:?}; its log ends with:\n{log}"
    )]
    TooSlow { bound: Duration, log: String },
    #[error("The server could not be waited for: {0}")]
    Stop(std::io::Error),
    #[error("Cancelled")]
    Cancelled,
}

impl InstanceError {
    /// True if no server has run, so that the files are what they were.
    pub fn is_before_the_server(&self) -> bool {
        match self {
            InstanceError::Begin(_)
            | InstanceError::NoBinary(_)
            | InstanceError::NoNamespace
            | InstanceError::Start { .. }
            | InstanceError::NotBegun { .. } => true,
            InstanceError::Ended { .. }
            | InstanceError::TooSlow { .. }
            | InstanceError::Stop(_)
            | InstanceError::Cancelled => false,
        }
    }
}

/// A directory for socket, pid file and log, removed when dropped.
struct Den(PathBuf);

impl Den {
    fn make(owner: Option<(u32, u32)>) -> std::io::Result<Den> {
        let name = format!("hotmirror-{:014x}", system::random_session()?);
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let den = Den(path);
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&den.0, Some(uid), Some(gid))?;
        }
        Ok(den)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("sock")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read(self.0.join("error.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Den {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server, ended when dropped. The fields are dropped in this order: the process first.
pub struct Instance {
    process: Process,
    den: Den,
    _mount_points: MountPoints,
    cancel_requested: Arc<dyn Fn() -> bool>,
    started: Instant,
}

struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

impl Instance {
    pub fn start(
        manifest: &Manifest,
        places: &[Place],
        recovery: &Recovery,
        cancel: &Arc<Cancel>,
    ) -> Result<Instance, InstanceError> {
        recovery.check()?;
        let owner = owner(places, recovery);
        let den = Den::make(owner).map_err(InstanceError::Begin)?;
        let options = den.0.join("my.cnf");
        system::write_options(&options, &option_file(manifest, recovery, &den.0), owner)
            .map_err(InstanceError::Begin)?;
        let mount_points = MountPoints::make(places).map_err(InstanceError::Begin)?;
        let aside = sandbox::make_aside(&den.0, places).map_err(InstanceError::Begin)?;
        let line = sandbox::command_line(places, &aside, server_line(recovery, owner, &options));
        let child = Command::new(&line[0])
            .args(&line[1..])
            .env_remove("LD_PRELOAD")
            .env_remove(password::VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(den.0.join("stderr")).map_err(InstanceError::Begin)?)
            .spawn()
            .map_err(|source| InstanceError::Start {
                executable: recovery.program[0].clone(),
                source,
            })?;
        let requested = cancel.clone();
        Ok(Instance {
            process: Process(child),
            den,
            _mount_points: mount_points,
            cancel_requested: Arc::new(move || requested.is_requested()),
            started: Instant::now(),
        })
    }

    /// Gives the time that the start took.
    pub fn wait_until_ready(
        mut self,
        bound: Duration,
    ) -> Result<(Instance, Duration), InstanceError> {
        while !greets(&self.den.socket()) {
            if let Ok(Some(status)) = self.process.0.try_wait() {
                return Err(self.ended(status));
            }
            if (self.cancel_requested)() {
                return Err(InstanceError::Cancelled);
            }
            if self.started.elapsed() > bound {
                let log = self.den.log_tail();
                return Err(InstanceError::TooSlow { bound, log });
            }
            std::thread::sleep(TRY_INTERVAL);
        }
        let took = self.started.elapsed();
        Ok((self, took))
    }

    /// Shuts down in order; gives the time that it took.
    pub fn shut_down(mut self, bound: Duration) -> Result<Duration, InstanceError> {
        let start = Instant::now();
        self.process.signal(Signal::TERM);
        loop {
            match self.process.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(start.elapsed()),
                Ok(Some(status)) => return Err(self.ended(status)),
                Err(source) => return Err(InstanceError::Stop(source)),
                Ok(None) if start.elapsed() > bound => {
                    let log = self.den.log_tail();
                    return Err(InstanceError::TooSlow { bound, log });
                }
                Ok(None) => std::thread::sleep(TRY_INTERVAL),
            }
        }
    }

    fn ended(&self, status: ExitStatus) -> InstanceError {
        let mut log = std::fs::read_to_string(self.den.0.join("stderr")).unwrap_or_default();
        let is_before_the_server = sandbox::is_before_the_server(status);
        let status = status.to_string();
        if is_before_the_server {
            return InstanceError::NotBegun {
                status,
                message: log.trim_end().into(),
            };
        }
        log.push_str(&self.den.log_tail());
        InstanceError::Ended { status, log }
    }
}

/// True once a server says hello: it does so only after its recovery.
fn greets(socket: &Path) -> bool {
    let hello = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        Ok::<u8, std::io::Error>(head[4])
    };
    hello().is_ok_and(|protocol| protocol == 10)
}

/// Whose files these are, if we may become that user.
fn owner(places: &[Place], recovery: &Recovery) -> Option<(u32, u32)> {
    if !system::is_root() {
        return None;
    }
    let data = places
        .first()
        .and_then(|place| std::fs::metadata(&place.now).ok());
    recovery
        .owner
        .or(data.map(|metadata| (metadata.uid(), metadata.gid())))
}

/// The server, ended by the kernel if we are. Only setpriv can ask for that after it has changed the user, which would undo it.
fn server_line(recovery: &Recovery, owner: Option<(u32, u32)>, options: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["setpriv".into()];
    match owner {
        Some((uid, gid)) if uid != 0 => {
            line.push(format!("--reuid={uid}").into());
            line.push(format!("--regid={gid}").into());
            line.push("--clear-groups".into());
        }
        _ => {}
    }
    line.push("--pdeathsig=KILL".into());
    line.extend(
        recovery
            .program
            .iter()
            .map(|word| word.clone().into_os_string()),
    );
    let mut defaults = OsString::from("--defaults-file=");
    defaults.push(options);
    line.push(defaults);
    if owner.is_none_or(|(uid, _)| uid == 0) {
        line.push("--user=root".into());
    }
    line
}

fn option_file(manifest: &Manifest, recovery: &Recovery, den: &Path) -> String {
    let settings = &manifest.server.settings;
    let mut text = settings.option_file(manifest.binlogs.base.is_some());
    for (name, file) in [
        ("socket", "sock"),
        ("pid_file", "pid"),
        ("log_error", "error.log"),
    ] {
        text.push_str(&format!("{name} = {}\n", den.join(file).display()));
    }
    // MySQL's default is a directory that its package makes, and without it the server does not start.
    for name in ["tmpdir", "secure_file_priv"] {
        text.push_str(&format!("{name} = {}\n", den.display()));
    }
    text.push_str(&format!("innodb_buffer_pool_size = {}\n", recovery.memory));
    text.push_str(STILL);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_for_the_server_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.cnf");
        let owner = system::is_root().then_some((65534, 65534));
        system::write_options(&path, "[mysqld]\n", owner).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        let found = (metadata.uid(), metadata.gid());
        assert_eq!(owner.unwrap_or(found), found);
        assert!(system::write_options(&path, "", owner).is_err());
    }
}
