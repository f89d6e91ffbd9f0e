//! Which server a test runs on: how its data directories are made and how it is started, as `scripts/servers NAME` says.
//!
//! Rule: a test names its server; where it comes from and how it is started is known to that script alone.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::artifacts;

/// A server that can be started.
#[derive(Clone, Debug)]
pub struct Flavor {
    /// Name given to scripts/servers: `mariadb-10.11`…
    pub name: String,
    /// `mariadb` or `mysql`.
    pub family: String,
    /// Major and minor number.
    pub version: (u32, u32),
    /// Command that makes a data directory; `--datadir=…` is appended, and `--extra-file=…` with statements to run in it.
    pub install: Vec<String>,
    /// Command that starts the server; options are appended.
    pub start: Vec<String>,
}

impl Flavor {
    /// The server that the main tests run on, or the one that `HOTMIRROR_TEST_SERVER` names.
    pub fn main() -> &'static Flavor {
        static MAIN: OnceLock<Flavor> = OnceLock::new();
        MAIN.get_or_init(|| {
            let name = std::env::var("HOTMIRROR_TEST_SERVER");
            Flavor::named(name.as_deref().unwrap_or("mariadb-10.11"))
        })
    }

    /// Asks scripts/servers, which fetches the server if it is not there yet.
    pub fn named(name: &str) -> Flavor {
        let script = artifacts::workspace().join("scripts/servers");
        let output = Command::new(&script)
            .arg(name)
            .output()
            .unwrap_or_else(|e| panic!("Cannot run {}: {e}", script.display()));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "scripts/servers {name} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let words = |key: &str| -> Vec<String> {
            text.lines()
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .flat_map(|value| value.split(' ').map(String::from))
                .collect()
        };
        let flavor = Flavor {
            name: name.into(),
            family: words("family").concat(),
            version: numbers(&words("version").concat()),
            install: words("install"),
            start: words("start"),
        };
        assert!(
            !flavor.install.is_empty() && !flavor.start.is_empty(),
            "scripts/servers {name} did not say how to install and start it:\n{text}"
        );
        flavor
    }

    pub fn is_mariadb(&self) -> bool {
        self.family == "mariadb"
    }

    /// MySQL of this version or a later one.
    pub fn is_mysql_since(&self, major: u32, minor: u32) -> bool {
        !self.is_mariadb() && self.version >= (major, minor)
    }

    /// Engines of the load's tables: those that a backup takes with the flavor's own lock.
    pub fn engines(&self) -> &'static [&'static str] {
        match self.is_mariadb() {
            true => &["InnoDB", "Aria", "MyISAM"],
            false => &["InnoDB"],
        }
    }

    /// A small redo log, by the setting that this server has for it.
    pub fn small_redo(&self) -> &'static str {
        match self.is_mysql_since(8, 4) {
            true => "--innodb-redo-log-capacity=64M",
            false => "--innodb-log-file-size=32M",
        }
    }

    /// Where the template of this server's data directories is kept.
    pub fn template(&self) -> PathBuf {
        artifacts::cache_dir().join(format!("{}-template", self.name))
    }
}

fn numbers(text: &str) -> (u32, u32) {
    let number = |part: Option<&str>| part.and_then(|part| part.parse().ok()).unwrap_or(0);
    let mut parts = text.split('.');
    (number(parts.next()), number(parts.next()))
}
