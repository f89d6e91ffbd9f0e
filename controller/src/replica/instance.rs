//! The new server: its option file, its process.
//!
//! What makes it right: nothing in the option file leads to a place of the server that was backed up, nothing is taken for the new server's own that was there before it, and
//! no statement goes to another server; its appliers and events wait for our word, and until it replicates it is ended with us; from then on it goes on by itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::ReplicaError;
use crate::args::password;
use crate::backup::roots::{Role, canonical};
use crate::backup::settings::{DATA_FILES, FILE_KEY, FILE_KEY_PREFIX, Settings, option_value};
use crate::cancel::Cancel;
use crate::client::{ClientError, Credentials, Endpoint, MysqlClient, ServerClient};
use crate::exit::Failure;
use crate::files::{self, FileError};
use crate::manifest::Manifest;
use crate::restore::place::Destination;
use crate::restore::relocate;
use crate::server::Flavor;
use crate::system;

pub const OPTIONS_NAME: &str = "hotmirror_replica.cnf";
/// What SET PERSIST writes.
const PERSISTED_NAME: &str = "mysqld-auto.cnf";
/// MySQL's server uuid.
const UUID_NAME: &str = "auto.cnf";
const SOCKET_NAME: &str = "mysqld.sock";
const LOG_NAME: &str = "hotmirror_replica.err";

/// How often a connection is tried: a server that starts gives no other sign.
const TRY_INTERVAL: Duration = Duration::from_millis(50);
const ANSWER_BOUND: Duration = Duration::from_secs(300);
const STOP_BOUND: Duration = Duration::from_secs(60);
const LOG_TAIL_LINES: usize = 12;

/// What the new server is to be.
#[derive(Clone, Debug)]
pub struct Identity {
    pub data_dir: PathBuf,
    pub server_id: u32,
    pub socket: PathBuf,
    /// None: not reachable over TCP.
    pub port: Option<u16>,
    /// The server's binary; behind a dynamic loader and its options, if it runs by one.
    pub program: Vec<PathBuf>,
    /// Lines `name=value`: the channels' filters, and what else decides what is applied.
    pub channels: Vec<String>,
    /// Lines `name=value` of the user's.
    pub options: Vec<String>,
}

impl Identity {
    pub fn default_socket(data_dir: &Path) -> PathBuf {
        data_dir.join(SOCKET_NAME)
    }

    pub fn option_path(&self) -> PathBuf {
        self.data_dir.join(OPTIONS_NAME)
    }

    pub fn log_path(&self) -> PathBuf {
        self.data_dir.join(LOG_NAME)
    }

    /// Fails if the new server would find binlogs or relay logs that are not its own, or somebody in its place.
    pub fn check_free(
        &self,
        manifest: &Manifest,
        destinations: &[Destination],
    ) -> Result<(), Failure> {
        let mut settings = self.settings(manifest, destinations);
        let paths = [
            settings.paths.remove("relay_log_info_file"),
            settings.log_bin,
            settings.log_bin_index,
            settings.relay_log,
            settings.relay_log_index,
        ];
        // The data directory is empty.
        for path in paths.into_iter().flatten().map(PathBuf::from) {
            if path.is_absolute()
                && !path.starts_with(&self.data_dir)
                && let Some(found) = beginning_with(&path)?
            {
                return Err(ReplicaError::InTheWay(found).into());
            }
        }
        match UnixStream::connect(&self.socket) {
            Ok(_) => Err(ReplicaError::SocketInUse(self.socket.clone()).into()),
            Err(_) => Ok(()),
        }
    }

    /// Makes what was restored this server's.
    pub fn settle(&self, manifest: &Manifest, destinations: &[Destination]) -> Result<(), Failure> {
        let persisted = self.data_dir.join(PERSISTED_NAME);
        if persisted.exists() {
            // It would count for more than the option file, and makes this server the one that was backed up.
            let aside = persisted.with_extension("cnf.source");
            std::fs::rename(&persisted, &aside).map_err(FileError::at("rename", &persisted))?;
            say!(
                "What SET PERSIST has set on the source is in {}",
                aside.display()
            );
        }
        // A backup that an older version prepared has the uuid of that server, which all that is made of it would share.
        let uuid = self.data_dir.join(UUID_NAME);
        if let Err(error) = std::fs::remove_file(&uuid)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(FileError::at("remove", &uuid)(error).into());
        }
        let text = self.option_file(manifest, destinations, owner(&self.data_dir));
        let written = write_options(self, &text);
        Ok(written.map_err(FileError::at("write", &self.option_path()))?)
    }

    /// Fails if the server behind the connection is not the one in this data directory.
    pub fn check_server(&self, client: &mut dyn ServerClient) -> Result<(), ReplicaError> {
        let found = PathBuf::from(client.value("SELECT @@global.datadir")?);
        if canonical(&found) == canonical(&self.data_dir) {
            return Ok(());
        }
        Err(ReplicaError::OtherServer {
            socket: self.socket.clone(),
            found,
            expected: self.data_dir.clone(),
        })
    }

    /// Those of the server that was backed up, with each path where it is now.
    fn settings(&self, manifest: &Manifest, destinations: &[Destination]) -> Settings {
        let mut settings = manifest.server.settings.clone();
        let format = &mut settings.format;
        format.insert("server_id".into(), self.server_id.to_string());
        let now = |path: &str| match relocate::moved(
            &manifest.spellings,
            destinations,
            Path::new(path),
        ) {
            Some(now) => now.display().to_string(),
            None => path.to_string(),
        };
        if let Some(files) = format.get_mut(DATA_FILES) {
            *files = data_files_now(files, &now);
        }
        if let Some(key) = format.get_mut(FILE_KEY)
            && let Some(path) = key.strip_prefix(FILE_KEY_PREFIX)
        {
            *key = format!("{FILE_KEY_PREFIX}{}", now(path));
        }
        for name in [
            "file_key_management_filename",
            "keyring_file_data",
            "keyring_encrypted_file_data",
            "keyring_vault_config",
            "keyring_okv_conf_dir",
            "keyring_aws_conf_file",
            "keyring_aws_data_file",
        ] {
            if let Some(path) = format.get_mut(name) {
                *path = now(path);
            }
        }
        if manifest.server.version.flavor != Flavor::MariaDb {
            add_directories(format, destinations, &now);
        }
        for path in settings.paths.values_mut() {
            *path = now(path);
        }
        let data_dir = self.data_dir.display().to_string();
        settings.paths.insert("datadir".into(), data_dir);
        // The default name has the host's name in it, and relay logs must be found under the name they have.
        settings
            .relay_log
            .get_or_insert_with(|| format!("{}-relay-bin", manifest.server.hostname));
        for path in [
            &mut settings.log_bin,
            &mut settings.log_bin_index,
            &mut settings.relay_log,
            &mut settings.relay_log_index,
        ] {
            *path = path.as_deref().map(now);
        }
        settings
    }

    /// `owner`: user id that the server changes to, if it is started by root.
    pub fn option_file(
        &self,
        manifest: &Manifest,
        destinations: &[Destination],
        owner: Option<u32>,
    ) -> String {
        let settings = self.settings(manifest, destinations);
        let mut text = settings.option_file(settings.log_bin.is_some());
        self.add_own(&mut text, owner);
        text
    }

    fn add_own(&self, text: &mut String, owner: Option<u32>) {
        let log = self.log_path();
        let mut own: BTreeMap<&str, String> = BTreeMap::from([
            ("socket", option_value(&self.socket.display().to_string())),
            (
                "pid_file",
                option_value(&self.data_dir.join("mysqld.pid").display().to_string()),
            ),
            ("log_error", option_value(&log.display().to_string())),
            ("read_only", "ON".into()),
            // Events of the source's run on the source; here they would change what is replicated.
            ("event_scheduler", "OFF".into()),
            // A second listener, which would ask for a port of its own.
            ("loose_mysqlx", "OFF".into()),
        ]);
        if let Some(port) = self.port {
            own.insert("port", port.to_string());
        }
        if let Some(uid) = owner {
            own.insert(
                "user",
                if uid == 0 {
                    "root".into()
                } else {
                    uid.to_string()
                },
            );
        }
        let _ = writeln!(text, "# The replica's own");
        for (name, value) in own {
            let _ = writeln!(text, "{name} = {value}");
        }
        if self.port.is_none() {
            let _ = writeln!(text, "skip_networking");
        }
        for line in self.channels.iter().chain(&self.options) {
            let _ = writeln!(text, "{line}");
        }
    }
}

/// MySQL finds tablespaces outside of the data directory by looking through these directories.
fn add_directories(
    format: &mut BTreeMap<String, String>,
    destinations: &[Destination],
    now: &dyn Fn(&str) -> String,
) {
    let given = format
        .get("innodb_directories")
        .cloned()
        .unwrap_or_default();
    let given = given.split(';').filter(|path| !path.is_empty());
    let mut directories: Vec<String> = given.map(now).collect();
    for destination in destinations {
        let directory = destination.directory.display().to_string();
        if destination.roles.contains(&Role::Tablespaces) && !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    if !directories.is_empty() {
        format.insert("innodb_directories".into(), directories.join(";"));
    }
}

/// A file that has this name, or this name with an extension.
fn beginning_with(path: &Path) -> Result<Option<PathBuf>, FileError> {
    let (Some(directory), Some(base)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    if !directory.exists() {
        return Ok(None);
    }
    let (base, names) = (base.as_encoded_bytes(), files::names_in(directory)?);
    let is_its = |name: &OsString| {
        let rest = name.as_encoded_bytes().strip_prefix(base);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
    };
    Ok(names
        .into_iter()
        .find(is_its)
        .map(|name| directory.join(name)))
}

/// The process. Ended when dropped, unless it was released.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    released: bool,
}

impl Daemon {
    pub fn start(identity: &Identity) -> Result<Daemon, ReplicaError> {
        let failed = |source| ReplicaError::Start {
            executable: identity.program[0].clone(),
            source,
        };
        let log = identity.log_path();
        let stderr = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(failed)?;
        let mut defaults = OsString::from("--defaults-file=");
        defaults.push(identity.option_path());
        let child = Command::new(&identity.program[0])
            .args(&identity.program[1..])
            .arg(defaults)
            // On the command line only: when the user starts it again, it is to replicate.
            .args(["--loose-skip-slave-start", "--loose-skip-replica-start"])
            .env_remove("LD_PRELOAD")
            .env_remove(password::VARIABLE)
            .env_remove(super::PASSWORD_VARIABLE)
            // A key press that ends us must not end it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(failed)?;
        Ok(Daemon {
            child,
            log,
            released: false,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the server lets us in.
    pub fn connect(
        &mut self,
        socket: &Path,
        credentials: &Credentials,
        bound: Duration,
        cancel: &Cancel,
    ) -> Result<MysqlClient, ReplicaError> {
        let endpoint = Endpoint::Socket(socket.into());
        let start = Instant::now();
        loop {
            match MysqlClient::connect(&endpoint, credentials, ANSWER_BOUND) {
                Err(ClientError::Unreachable { .. }) => {}
                result => return result.map_err(ReplicaError::from),
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let (status, log) = (status.to_string(), self.log_tail());
                return Err(ReplicaError::Ended { status, log });
            }
            if start.elapsed() > bound {
                let log = self.log_tail();
                return Err(ReplicaError::TooSlow { bound, log });
            }
            cancel.check()?;
            std::thread::sleep(TRY_INTERVAL);
        }
    }

    /// From now on it goes on without us.
    pub fn release(&mut self) {
        self.released = true;
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.released || !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < STOP_BOUND && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(TRY_INTERVAL);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Files of the system tablespace; those in the data directory or its home are named without it.
fn data_files_now(files: &str, now: &dyn Fn(&str) -> String) -> String {
    let spec_now = |spec: &str| match spec.split_once(':') {
        Some((file, rest)) if file.starts_with('/') => format!("{}:{rest}", now(file)),
        _ => spec.to_string(),
    };
    files.split(';').map(spec_now).collect::<Vec<_>>().join(";")
}

/// Writes `text` with the owner of the data directory.
fn write_options(identity: &Identity, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let path = identity.option_path();
    // One of the server that was backed up, which was a replica itself.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let metadata = std::fs::metadata(&identity.data_dir)?;
    let owner = system::is_root().then_some((metadata.uid(), metadata.gid()));
    system::write_options(&path, text, owner)?;
    if system::is_root() {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(identity.log_path())?;
        std::os::unix::fs::fchown(log, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    Ok(())
}

/// Who the server is to run as; only root can choose.
fn owner(data_dir: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(data_dir).ok()?;
    system::is_root().then(|| metadata.uid())
}
