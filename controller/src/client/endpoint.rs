//! Where a server listens and as whom to speak to it.
//!
//! What makes it right: "localhost" or no host means the Unix socket, as for every client of these servers, and a password is never shown.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where servers put their socket if nobody says otherwise, in the order in which they are tried.
const SOCKETS: [&str; 4] = [
    "/run/mysqld/mysqld.sock",
    "/var/run/mysqld/mysqld.sock",
    "/var/lib/mysql/mysql.sock",
    "/tmp/mysql.sock",
];

pub const DEFAULT_PORT: u16 = 3306;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    Socket(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Endpoint {
    /// What the options mean. A port with no host means TCP, as nothing else uses a port.
    pub fn from_options(host: Option<&str>, port: Option<u16>, socket: Option<&Path>) -> Endpoint {
        let local = matches!(host, None | Some("localhost"));
        match (socket, host) {
            (Some(socket), _) if local => Endpoint::Socket(socket.into()),
            (_, Some(host)) if !local => Endpoint::Tcp {
                host: host.into(),
                port: port.unwrap_or(DEFAULT_PORT),
            },
            (_, None) if port.is_some() => Endpoint::Tcp {
                host: "127.0.0.1".into(),
                port: port.unwrap_or(DEFAULT_PORT),
            },
            _ => Endpoint::Socket(default_socket()),
        }
    }
}

fn default_socket() -> PathBuf {
    let mut sockets = SOCKETS.iter().map(Path::new);
    sockets
        .find(|path| path.exists())
        .unwrap_or(Path::new(SOCKETS[0]))
        .into()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Socket(path) => write!(f, "{}", path.display()),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: Option<&str>, port: Option<u16>, socket: Option<&str>) -> String {
        Endpoint::from_options(host, port, socket.map(Path::new)).to_string()
    }

    #[test]
    fn localhost_means_the_socket() {
        assert_eq!(endpoint(None, None, Some("/s")), "/s");
        assert_eq!(endpoint(Some("localhost"), Some(3307), Some("/s")), "/s");
    }

    #[test]
    fn any_other_host_means_tcp() {
        assert_eq!(endpoint(Some("db"), None, None), "db:3306");
        assert_eq!(
            endpoint(Some("127.0.0.1"), Some(3307), Some("/s")),
            "127.0.0.1:3307"
        );
        assert_eq!(endpoint(None, Some(3307), None), "127.0.0.1:3307");
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = Credentials {
            user: "u".into(),
            password: Some("secret".into()),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
