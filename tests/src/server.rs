//! A private server: its own data directory, socket and port, with or without the library, gone when the test is.
//!
//! Rule: a server never outlives its test. It is killed on drop, which runs on a panic too, and by the kernel if the test dies.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::flavor::Flavor;
use crate::random::Random;
use crate::{artifacts, scratch};

const START_BOUND: Duration = Duration::from_secs(90);
const STOP_BOUND: Duration = Duration::from_secs(60);

/// For replication, made with the template.
pub const REPLICATION_USER: &str = "repl";
pub const REPLICATION_PASSWORD: &str = "repl";

/// What a server is started with.
#[derive(Clone)]
pub struct ServerOptions {
    flavor: Flavor,
    /// Libraries to preload, in this order.
    preload: Vec<PathBuf>,
    environment: Vec<(String, PathBuf)>,
    data_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    binlog: bool,
    server_id: u32,
    options: Vec<String>,
    wrapper: Vec<String>,
    user: Option<String>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            flavor: Flavor::main().clone(),
            preload: Vec::new(),
            environment: Vec::new(),
            data_dir: None,
            runtime_dir: None,
            binlog: true,
            server_id: 1,
            options: Vec::new(),
            wrapper: Vec::new(),
            user: None,
        }
    }
}

impl ServerOptions {
    /// A server without the library.
    pub fn plain() -> ServerOptions {
        ServerOptions::default()
    }

    /// A server with the library preloaded.
    pub fn hooked() -> ServerOptions {
        ServerOptions {
            preload: vec![artifacts::library()],
            ..ServerOptions::default()
        }
    }

    /// Other libraries to preload: what the server finds before what is preloaded so far, and what that finds.
    pub fn preload_around(mut self, outer: &Path, inner: &Path) -> ServerOptions {
        self.preload.insert(0, outer.into());
        self.preload.push(inner.into());
        self
    }

    /// One more environment variable, a path.
    pub fn environment(mut self, name: &str, path: &Path) -> ServerOptions {
        self.environment.push((name.into(), path.into()));
        self
    }

    pub fn flavor(mut self, flavor: &Flavor) -> ServerOptions {
        self.flavor = flavor.clone();
        self
    }

    /// Runs on an existing data directory, which stays when the server goes.
    pub fn data_dir(mut self, dir: &Path) -> ServerOptions {
        self.data_dir = Some(dir.into());
        self
    }

    /// Runs on a fresh data directory that is made here.
    pub fn new_data_dir(self, dir: &Path) -> ServerOptions {
        scratch::copy(&template(&self.flavor), dir);
        self.data_dir(dir)
    }

    /// Where the library makes its rendezvous, instead of a directory of this server's own.
    pub fn runtime_dir(mut self, dir: &Path) -> ServerOptions {
        self.runtime_dir = Some(dir.into());
        self
    }

    pub fn without_binlog(mut self) -> ServerOptions {
        self.binlog = false;
        self
    }

    pub fn server_id(mut self, id: u32) -> ServerOptions {
        self.server_id = id;
        self
    }

    /// One more option; a later one wins over an earlier one.
    pub fn option(mut self, option: impl Into<String>) -> ServerOptions {
        self.options.push(option.into());
        self
    }

    /// System user that the server changes to, and that owns its files.
    pub fn user(mut self, user: &str) -> ServerOptions {
        self.user = Some(user.into());
        self
    }

    /// A command that the server's command line is handed to: `prlimit …`.
    pub fn wrapper(mut self, words: &[&str]) -> ServerOptions {
        self.wrapper = words.iter().map(|word| word.to_string()).collect();
        self
    }

    pub fn start(self) -> Server {
        Server::start(self)
    }
}

pub struct Server {
    child: Child,
    home: TempDir,
    runtime_dir: PathBuf,
    _own_runtime_dir: Option<TempDir>,
    data_dir: PathBuf,
    port: u16,
    flavor: Flavor,
}

impl Server {
    fn start(options: ServerOptions) -> Server {
        let home = scratch::dir();
        let data_dir = match &options.data_dir {
            Some(dir) => dir.clone(),
            None => {
                let dir = home.path().join("data");
                scratch::copy(&template(&options.flavor), &dir);
                dir
            }
        };
        let (own, runtime_dir) = match &options.runtime_dir {
            Some(dir) => (None, dir.clone()),
            None => {
                let own = scratch::runtime_dir();
                let path = own.path().to_path_buf();
                (Some(own), path)
            }
        };
        std::fs::create_dir_all(home.path().join("tmp")).expect("A directory for temporary files");
        if let Some(user) = &options.user {
            give(home.path(), user);
            give(&data_dir, user);
        }
        let port = free_port();
        let child = command(&options, home.path(), &data_dir, &runtime_dir, port)
            .spawn()
            .unwrap_or_else(|e| panic!("Cannot start {:?}: {e}", options.flavor.start));
        let mut server = Server {
            child,
            home,
            runtime_dir,
            _own_runtime_dir: own,
            data_dir,
            port,
            flavor: options.flavor,
        };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("The server's state") {
                panic!(
                    "The server ended while it started ({status}):\n{}",
                    self.error_log_tail()
                );
            }
            match Conn::new(self.client_options()) {
                Ok(_) => return,
                Err(e) if start.elapsed() > START_BOUND => {
                    panic!(
                        "No answer within {START_BOUND:?} ({e}):\n{}",
                        self.error_log_tail()
                    )
                }
                // A server gives no other sign that all flavors share than to answer.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn client_options(&self) -> OptsBuilder {
        OptsBuilder::new()
            .socket(Some(self.socket().to_string_lossy()))
            .user(Some("root"))
            .prefer_socket(false)
    }

    /// A connection as root over the socket.
    pub fn connect(&self) -> Result<Conn, mysql::Error> {
        Conn::new(self.client_options())
    }

    pub fn conn(&self) -> Conn {
        self.connect()
            .unwrap_or_else(|e| panic!("Cannot connect to {}: {e}", self.socket().display()))
    }

    /// Runs statements, one after the other, on a connection of their own.
    pub fn execute(&self, statements: &[&str]) {
        let mut conn = self.conn();
        for statement in statements {
            conn.query_drop(statement)
                .unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
    }

    /// The first column of the first row, NULL as an empty text.
    pub fn value(&self, query: &str) -> String {
        let row: Option<Option<String>> = self
            .conn()
            .query_first(query)
            .unwrap_or_else(|e| panic!("{query}: {e}"));
        row.flatten().unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn flavor(&self) -> &Flavor {
        &self.flavor
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path().join("sock")
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// A directory beside the data directory, gone with the server.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn error_log(&self) -> String {
        let read = |name| std::fs::read(self.home.path().join(name)).unwrap_or_default();
        let bytes = [read("stderr"), read("error.log")].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn error_log_tail(&self) -> String {
        let log = self.error_log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|e| panic!("Cannot signal server {}: {e}", self.pid()));
    }

    /// True if the process runs. A server that crashed has not.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().expect("The server's end")
    }

    /// Ends it in order; what it wrote is complete then.
    pub fn shut_down(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let start = Instant::now();
        loop {
            match self.child.try_wait().expect("The server's state") {
                Some(status) => return status,
                None if start.elapsed() > STOP_BOUND => {
                    let tail = self.error_log_tail();
                    self.kill();
                    panic!("The server did not shut down within {STOP_BOUND:?}:\n{tail}");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "Server {} logged last:\n{}",
                self.pid(),
                self.error_log_tail()
            );
        }
        self.kill();
    }
}

fn command(
    options: &ServerOptions,
    home: &Path,
    data: &Path,
    runtime: &Path,
    port: u16,
) -> Command {
    // The kernel kills the server when the thread that started it goes, which covers a test that is killed itself.
    let mut words = vec!["setpriv".to_string(), "--pdeathsig".into(), "KILL".into()];
    words.extend(options.wrapper.iter().cloned());
    words.extend(options.flavor.start.iter().cloned());
    let place = |option: &str, path: PathBuf| format!("--{option}={}", path.display());
    words.extend([
        place("datadir", data.into()),
        place("socket", home.join("sock")),
        place("pid-file", home.join("pid")),
        place("log-error", home.join("error.log")),
        place("tmpdir", home.join("tmp")),
        format!("--port={port}"),
        format!("--server-id={}", options.server_id),
    ]);
    words.push(options.flavor.small_redo().into());
    words.extend(small_settings().iter().map(|option| option.to_string()));
    if options.binlog {
        words.extend(["--log-bin=binlog".into(), "--binlog-format=ROW".into()]);
    }
    words.extend(options.user.iter().map(|user| format!("--user={user}")));
    words.extend(options.options.iter().cloned());
    let log = File::create(home.join("stderr")).expect("A file for the server's stderr");
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env("HOTMIRROR_RUNTIME_DIR", runtime);
    for (name, path) in &options.environment {
        command.env(name, path);
    }
    if !options.preload.is_empty() {
        let libraries: Vec<_> = options
            .preload
            .iter()
            .map(|path| path.as_os_str())
            .collect();
        command.env("LD_PRELOAD", libraries.join(OsStr::new(":")));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

/// Small, durable, reachable only from this machine. The I/O settings stay the server's own.
fn small_settings() -> &'static [&'static str] {
    &[
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--innodb-buffer-pool-size=96M",
        "--sync-binlog=1",
        "--innodb-flush-log-at-trx-commit=1",
        "--max-allowed-packet=64M",
        "--lock-wait-timeout=60",
        "--relay-log=relay",
        "--skip-slave-start",
    ]
}

fn give(path: &Path, user: &str) {
    let status = Command::new("chown").arg("-R").arg(user).arg(path).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "Cannot give {} to {user}",
        path.display()
    );
}

/// Below those that the kernel gives to connections, of which one may take it before the server does.
fn free_port() -> u16 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut random = Random::new(now.expect("A time behind 1970").as_nanos() as u64);
    let mut ports = std::iter::repeat_with(|| 10_000 + random.below(20_000) as u16);
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("The search does not end before")
}

/// A fresh data directory, made once for each flavor.
fn template(flavor: &Flavor) -> PathBuf {
    let template = flavor.template();
    let lock = File::create(beside(&template, "lock")).expect("A lock file for the template");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("The template's lock");
    if !template.exists() {
        let unfinished = beside(&template, "new");
        let _ = std::fs::remove_dir_all(&unfinished);
        install(flavor, &unfinished);
        std::fs::rename(&unfinished, &template).expect("The template's final name");
    }
    template
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}.{suffix}", path.display()))
}

fn install(flavor: &Flavor, dir: &Path) {
    let home = scratch::dir();
    let extra = home.path().join("users.sql");
    let sql = format!(
        "FLUSH PRIVILEGES;\n\
         CREATE USER {REPLICATION_USER}@'%' IDENTIFIED BY '{REPLICATION_PASSWORD}';\n\
         GRANT REPLICATION SLAVE ON *.* TO {REPLICATION_USER}@'%';\n"
    );
    std::fs::write(&extra, sql).expect("A file of statements");
    let mut command = Command::new(&flavor.install[0]);
    command
        .args(&flavor.install[1..])
        .arg(format!("--datadir={}", dir.display()))
        .arg(format!("--extra-file={}", extra.display()))
        .arg(flavor.small_redo());
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("Cannot run {:?}: {e}", flavor.install));
    assert!(
        output.status.success(),
        "{:?} failed: {}{}",
        flavor.install,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
