//! Which server this is.
//!
//! What makes it right: the version comment decides between Percona Server and MySQL, which share version numbers; MariaDB says so in
//! its version itself, behind a "5.5.5-" that some proxies put there for old clients.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::client::{ClientError, ServerClient};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    MariaDb,
    MySql,
    Percona,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub flavor: Flavor,
    pub numbers: (u32, u32, u32),
    pub text: String,
    pub comment: String,
}

impl Version {
    pub fn detect(client: &mut dyn ServerClient) -> Result<Version, ClientError> {
        let statement = "SELECT @@version AS version, @@version_comment AS comment";
        let rows = client.query(statement)?;
        let field = |name: &str| {
            rows.first()
                .and_then(|row| row.get(name))
                .unwrap_or_default()
        };
        Version::parse(field("version"), field("comment")).ok_or_else(|| ClientError::Unexpected {
            statement: statement.into(),
            what: "version number".into(),
        })
    }

    fn parse(text: &str, comment: &str) -> Option<Version> {
        let bare = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut numbers = bare
            .split(|c: char| !c.is_ascii_digit())
            .map(|part| part.parse().ok());
        let numbers = (
            numbers.next()??,
            numbers.next()??,
            numbers.next().flatten().unwrap_or(0),
        );
        let flavor = if text.contains("MariaDB") || comment.contains("MariaDB") {
            Flavor::MariaDb
        } else if comment.contains("Percona") {
            Flavor::Percona
        } else {
            Flavor::MySql
        };
        Some(Version {
            flavor,
            numbers,
            text: text.into(),
            comment: comment.into(),
        })
    }

    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.numbers.0, self.numbers.1) >= (major, minor)
    }

    /// MySQL or Percona Server, whose numbers mean the same, from `numbers` on.
    pub fn is_mysql_since(&self, numbers: (u32, u32, u32)) -> bool {
        self.flavor != Flavor::MariaDb && self.numbers >= numbers
    }

    /// REPLICA instead of SLAVE in statements, and SOURCE instead of MASTER in what they tell.
    pub fn says_replica(&self) -> bool {
        self.is_mysql_since((8, 0, 22))
    }

    /// BINARY LOG STATUS and RESET BINARY LOGS instead of MASTER STATUS and RESET MASTER.
    pub fn says_binary_log(&self) -> bool {
        self.is_mysql_since((8, 2, 0))
    }

    pub fn has_named_channels(&self) -> bool {
        self.is_mysql_since((5, 7, 6))
    }

    /// CHANGE REPLICATION SOURCE instead of CHANGE MASTER, a version later than other statements say REPLICA.
    pub fn has_change_source(&self) -> bool {
        self.is_mysql_since((8, 0, 23))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.flavor {
            Flavor::MariaDb => "MariaDB",
            Flavor::MySql => "MySQL",
            Flavor::Percona => "Percona Server",
        };
        let (major, minor, patch) = self.numbers;
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}

#[cfg(test)]
impl Version {
    /// Without the texts that a server says of itself.
    pub fn plain(flavor: Flavor, numbers: (u32, u32, u32)) -> Version {
        Version {
            flavor,
            numbers,
            text: String::new(),
            comment: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str, comment: &str) -> String {
        Version::parse(text, comment).unwrap().to_string()
    }

    #[test]
    fn flavors_are_told_apart_by_version_and_comment() {
        let mariadb = "10.11.19-MariaDB-0+deb12u1-log";
        assert_eq!(named(mariadb, "Debian 12"), "MariaDB 10.11.19");
        assert_eq!(named("5.5.5-10.6.1-MariaDB", "x"), "MariaDB 10.6.1");
        assert_eq!(
            named("9.7.0", "MySQL Community Server - GPL"),
            "MySQL 9.7.0"
        );
        let percona = "Percona Server (GPL), Release 22";
        assert_eq!(named("5.7.22-22-log", percona), "Percona Server 5.7.22");
    }

    #[test]
    fn a_text_without_numbers_is_no_version() {
        assert_eq!(Version::parse("unknown", ""), None);
    }
}
