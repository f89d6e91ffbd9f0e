//! `hotmirror doctor`: can this server be backed up, and if not, what is to be done?
//!
//! What makes it right: it changes nothing, goes on after a finding as far as it can, and every finding names its remedy.

mod process;
mod space;
mod systemd;

use std::time::Duration;

use hotmirror::capture_log::link;

use crate::args::Connection;
use crate::args::low::DoctorArgs;
use crate::backup::process::ServerProcess;
use crate::backup::server::applier_privilege;
use crate::backup::sight::Sight;
use crate::backup::{preflight, process as server_process, roots};
use crate::client::{ClientError, MysqlClient, ServerClient};
use crate::exit::Failure;
use crate::server::grants::Grants;
use crate::server::{self, Dialect, LockChoice, Privilege, ServerError, Variables, Version};

const ANSWER_BOUND: Duration = Duration::from_secs(60);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Good(String),
    /// Works, but may be a surprise.
    Note(String, String),
    /// Keeps backups from being made.
    Bad(String, String),
}

impl Finding {
    fn good(text: impl Into<String>) -> Finding {
        Finding::Good(text.into())
    }

    fn note(text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::Note(text.into(), remedy.into())
    }

    fn bad(text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::Bad(text.into(), remedy.into())
    }

    fn print(&self) {
        match self {
            Finding::Good(text) => say!("[good] {text}"),
            Finding::Note(text, remedy) => say!("[note] {text}\n       {remedy}"),
            Finding::Bad(text, remedy) => say!("[bad]  {text}\n       {remedy}"),
        }
    }
}

pub fn print_systemd() {
    systemd::print();
}

pub fn run(args: &DoctorArgs, connection: &Connection) -> Result<(), Failure> {
    let (endpoint, credentials) = (&connection.endpoint, &connection.credentials);
    let mut client = MysqlClient::connect(endpoint, credentials, ANSWER_BOUND)?;
    let version = Version::detect(&mut client)?;
    say!("{version} at {endpoint}");
    let variables = Variables::read(&mut client)?;
    let mut findings = Vec::new();
    let mut tablespaces = Vec::new();
    match server::dialect(&version) {
        Ok(dialect) => {
            findings.extend(privileges(&mut client, dialect.as_ref(), &variables));
            match dialect.data_files(&mut client) {
                Ok(files) => tablespaces = files,
                Err(error) => findings.extend(no_tablespaces(error)),
            }
        }
        Err(error) => findings.push(Finding::bad(
            error.to_string(),
            "docs/operations.md lists the servers that can be backed up",
        )),
    }
    findings.extend(binlog(&variables));
    match server_process::find(endpoint, &variables) {
        Ok(process) => findings.extend(about_process(args, &process, &variables, &tablespaces)),
        Err(error) => findings.push(Finding::bad(
            error.to_string(),
            "Run on the server's host, as root or as its system user, and connect through its Unix socket",
        )),
    }
    findings.iter().for_each(Finding::print);
    let count = findings
        .iter()
        .filter(|finding| matches!(finding, Finding::Bad(..)))
        .count();
    match count {
        0 => {
            say!("completed OK!");
            Ok(())
        }
        count => Err(Failure::Findings { count }),
    }
}

fn privileges(
    client: &mut dyn ServerClient,
    dialect: &dyn Dialect,
    variables: &Variables,
) -> Vec<Finding> {
    let mut needed = dialect.privileges(variables);
    let grants = match Grants::read(client) {
        Ok(grants) => grants,
        Err(error) => {
            return vec![Finding::bad(
                error.to_string(),
                "Let the user run SHOW GRANTS",
            )];
        }
    };
    // Whether more is needed is asked by statements that need these.
    if grants.missing(&needed).is_empty() {
        match for_appliers(client, dialect, variables) {
            Ok(more) => needed.extend(more),
            Err(error) => {
                return vec![Finding::bad(
                    error.to_string(),
                    "Let the user run what is named, or look into the server's error log",
                )];
            }
        }
    }
    let missing = grants.missing(&needed);
    if missing.is_empty() {
        return vec![Finding::good(format!(
            "User {} has all privileges that are needed",
            grants.user
        ))];
    }
    let finding = |privilege: &&Privilege| {
        Finding::bad(
            format!(
                "User {} lacks {} ({})",
                grants.user, privilege.name, privilege.why
            ),
            format!(
                "GRANT {} ON *.* TO {}",
                privilege.name,
                account(&grants.user)
            ),
        )
    };
    missing.iter().map(finding).collect()
}

/// Of a backup with no options.
fn for_appliers(
    client: &mut dyn ServerClient,
    dialect: &dyn Dialect,
    variables: &Variables,
) -> Result<Option<Privilege>, ServerError> {
    let plan = dialect.lock_plan(LockChoice::Auto, client, variables)?;
    let needed = applier_privilege(dialect, client, variables, &plan, false)?;
    Ok(needed)
}

/// A backup asks the same, and fails.
fn no_tablespaces(error: ClientError) -> Option<Finding> {
    match error {
        // Told as a missing privilege already.
        ClientError::Privilege { .. } => None,
        error => Some(Finding::bad(
            error.to_string(),
            "Without it tablespaces outside the data directory are not found; look into the server's error log",
        )),
    }
}

/// `user@host` with both parts quoted.
fn account(user: &str) -> String {
    match user.rsplit_once('@') {
        Some((name, host)) => format!("'{name}'@'{host}'"),
        None => format!("'{user}'"),
    }
}

fn binlog(variables: &Variables) -> Vec<Finding> {
    if variables.is_on("log_bin") {
        vec![Finding::good(
            "The server writes a binlog: backups have a position",
        )]
    } else {
        vec![Finding::note(
            "The server writes no binlog: a backup has no position, and no replica can be made from it",
            "Set log_bin and restart the server, if replicas are wanted",
        )]
    }
}

fn about_process(
    args: &DoctorArgs,
    process: &ServerProcess,
    variables: &Variables,
    tablespaces: &[String],
) -> Vec<Finding> {
    say!("Process {}, {}", process.pid, process.executable.display());
    let runtime_dir = link::runtime_dir();
    let mut findings = process::library(&runtime_dir, process);
    findings.push(space::shared_memory(&runtime_dir));
    let ground = roots::find(variables, tablespaces, &Sight::of(process.pid))
        .and_then(|roots| Ok((roots.filter(variables, &[])?, roots)));
    match ground {
        Ok((filter, roots)) => {
            findings.push(match preflight::check_source(&roots, &filter) {
                Ok(()) => Finding::good(format!("{} directories can be read", roots.entries.len())),
                Err(error) => Finding::bad(
                    error.to_string(),
                    "Run as root or as the server's system user",
                ),
            });
            findings.extend(process::mappings(process, &roots));
            findings.push(process::asynchronous_io(process, variables));
            if let Some(target) = &args.target_dir {
                findings.extend(space::target(
                    &crate::args::absolute(target.clone()),
                    &roots,
                    &filter,
                ));
            }
        }
        Err(error) => {
            let error = Failure::from(error);
            let remedy = error.hint();
            findings.push(Finding::bad(
                error.to_string(),
                remedy.unwrap_or("Run as root or as the server's system user".into()),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;
    use crate::server::Flavor;
    use crate::server::mariadb::{CHANNELS, MariaDb};

    fn mariadb() -> MariaDb {
        MariaDb::new(Version::plain(Flavor::MariaDb, (10, 11, 1)))
    }

    #[test]
    fn a_replica_whose_applier_runs_needs_the_privilege_to_stop_it() {
        let grants: &[&str] =
            &["GRANT RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR ON *.* TO `b`@`localhost`"];
        let channel: &[&str] = &["", "Yes"];
        let mut client = ScriptedClient::new()
            .rows("SELECT CURRENT_USER()", &["u"], &[&["b@localhost"]])
            .rows("SHOW GRANTS", &["Grants for b@localhost"], &[grants])
            .rows(
                CHANNELS,
                &["Connection_name", "Slave_SQL_Running"],
                &[channel],
            );
        let findings = privileges(&mut client, &mariadb(), &Variables::default());
        client.finish();
        let [Finding::Bad(text, remedy)] = findings.as_slice() else {
            panic!("{findings:?}");
        };
        assert!(text.contains("lacks REPLICATION SLAVE ADMIN"), "{text}");
        assert_eq!(
            remedy,
            "GRANT REPLICATION SLAVE ADMIN ON *.* TO 'b'@'localhost'"
        );
    }

    #[test]
    fn tablespaces_that_cannot_be_asked_for_are_a_finding() {
        let error = |code| {
            let message = "Unknown column 'FILENAME' in 'field list'";
            ClientError::from_server("SELECT FILENAME", code, message.into())
        };
        assert!(matches!(
            no_tablespaces(error(1054)),
            Some(Finding::Bad(..))
        ));
        assert_eq!(no_tablespaces(error(1227)), None);
    }
}
