//! Which process the server is.
//!
//! What makes it right: the kernel says who listens on the server's Unix socket. Where that can't be had (TCP, a socket that systemd
//! opened) the server's own pid file does, and either way the process must work in the data directory that the server names.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hotmirror::capture_log::link::start_time_ticks;

use crate::client::Endpoint;
use crate::server::Variables;

#[derive(Clone, Debug)]
pub struct ServerProcess {
    pub pid: u32,
    pub start_ticks: u64,
    pub executable: PathBuf,
    pub arguments: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("Cannot tell which process the server is: {0}")]
    Unknown(String),
    #[error(
        "Process {pid}, found by {found_by}, does not work in the server's data directory {datadir}"
    )]
    Other {
        pid: u32,
        found_by: String,
        datadir: PathBuf,
    },
    #[error("Cannot look at process {pid}: {source}")]
    Proc { pid: u32, source: std::io::Error },
    #[error("The server is on host {server}, this is {here}")]
    OtherHost { server: String, here: String },
}

pub fn find(endpoint: &Endpoint, variables: &Variables) -> Result<ServerProcess, ProcessError> {
    if let Endpoint::Tcp { .. } = endpoint {
        check_host(variables)?;
    }
    let datadir = variables.datadir();
    let socket = match endpoint {
        Endpoint::Socket(path) => Some(path.clone()),
        Endpoint::Tcp { .. } => variables.path("socket"),
    };
    let mut last = ProcessError::Unknown("it has neither a Unix socket nor a pid file".into());
    let by_socket = socket.map(|path| (listener_pid(&path), path));
    let by_file = variables.path("pid_file").map(|path| (pid_in(&path), path));
    for (pid, path) in by_socket.into_iter().chain(by_file) {
        match pid {
            Ok(pid) => match examine(pid, &path, &datadir) {
                Ok(process) => return Ok(process),
                Err(error) => last = error,
            },
            Err(error) => last = ProcessError::Unknown(format!("{}: {error}", path.display())),
        }
    }
    Err(last)
}

fn check_host(variables: &Variables) -> Result<(), ProcessError> {
    let here = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    match variables.get("hostname") {
        Some(server) if server != here => Err(ProcessError::OtherHost {
            server: server.into(),
            here,
        }),
        _ => Ok(()),
    }
}

/// The process that listens on the Unix socket `path`.
fn listener_pid(path: &Path) -> std::io::Result<u32> {
    let stream = UnixStream::connect(path)?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream)?;
    Ok(credentials.pid.as_raw_nonzero().get() as u32)
}

fn pid_in(path: &Path) -> std::io::Result<u32> {
    let text = std::fs::read_to_string(path)?;
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "holds no pid");
    text.trim().parse().map_err(|_| invalid())
}

fn examine(pid: u32, found_by: &Path, datadir: &Path) -> Result<ServerProcess, ProcessError> {
    let failed = |source| ProcessError::Proc { pid, source };
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let start_ticks = start_time_ticks(pid).map_err(failed)?;
    // Servers work in their data directory; a container's paths lead elsewhere than ours.
    if !crate::system::is_same_file(&proc.join("cwd"), datadir).map_err(failed)? {
        return Err(ProcessError::Other {
            pid,
            found_by: found_by.display().to_string(),
            datadir: datadir.into(),
        });
    }
    let arguments = std::fs::read(proc.join("cmdline")).map_err(failed)?;
    let arguments = arguments
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty());
    Ok(ServerProcess {
        pid,
        start_ticks,
        executable: std::fs::read_link(proc.join("exe")).map_err(failed)?,
        arguments: arguments
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_directory() -> String {
        std::env::current_dir().unwrap().display().to_string()
    }

    #[test]
    fn the_listener_of_a_socket_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let variables = Variables::from([("datadir", this_directory().as_str())]);
        let process = find(&Endpoint::Socket(path), &variables).unwrap();
        assert_eq!(process.pid, std::process::id());
    }

    #[test]
    fn a_process_that_works_elsewhere_is_not_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
        let datadir = dir.path().display().to_string();
        let pid_file = pid_file.display().to_string();
        let variables = Variables::from([
            ("datadir", datadir.as_str()),
            ("pid_file", pid_file.as_str()),
        ]);
        let error = find(&Endpoint::Socket("/nowhere".into()), &variables).unwrap_err();
        assert!(matches!(error, ProcessError::Other { .. }), "{error}");
    }

    #[test]
    fn a_server_on_another_host_is_refused() {
        let variables = Variables::from([("datadir", "/"), ("hostname", "elsewhere.example")]);
        let endpoint = Endpoint::Tcp {
            host: "elsewhere.example".into(),
            port: 3306,
        };
        let error = find(&endpoint, &variables).unwrap_err();
        assert!(matches!(error, ProcessError::OtherHost { .. }));
    }
}
