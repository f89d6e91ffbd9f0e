//! What differs between servers: one module per flavor behind one trait.
//!
//! What makes it right: a flavor says what its statements are, never when they run. The order and the time under the lock are in one
//! place, `backup/cut.rs`, and are the same for every server.
//!
//! MySQL 8.0 and later has no lock that holds its binlog; `mysql` says how the position is had all the same.

pub mod elsewhere;
pub mod grants;
pub mod mariadb;
pub mod mysql;
pub mod mysql5;
mod mysql_words;
pub mod percona;
pub mod position;
pub mod read;
mod transactional;
pub mod variables;
pub mod version;

use crate::client::{ClientError, ServerClient};

pub use position::{Channel, Coordinates, Position};
pub use variables::Variables;
pub use version::{Flavor, Version};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{0} is not supported yet")]
    Unsupported(Version),
    #[error("--lock={choice} does not exist on {version}")]
    NoSuchLock {
        choice: LockChoice,
        version: Version,
    },
    #[error("--lock=none makes no consistent copy here: {reason}")]
    LockNeeded { reason: String },
    #[error("InnoDB's redo log is disabled: no copy of this server could be recovered")]
    NoRedo,
    #[error("User {user} lacks {}", missing.join(", "))]
    PrivilegesMissing { user: String, missing: Vec<String> },
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// `--lock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LockChoice {
    /// What suits the server
    #[default]
    Auto,
    /// LOCK BINLOG FOR BACKUP alone, if all tables have transactions (Percona Server 5.6 and 5.7)
    Binlog,
    /// BACKUP STAGE (MariaDB)
    BackupStage,
    /// FLUSH TABLES WITH READ LOCK
    Ftwrl,
    /// No lock: a copy without a position
    None,
}

impl std::fmt::Display for LockChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self).expect("no variant is skipped");
        f.write_str(value.get_name())
    }
}

/// Where the position of a cut is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionFrom {
    /// The server says it while nothing commits.
    Lock,
    /// It is the end of the binlog in the backup, which is cut together with everything else.
    Binlog,
    /// The cut has none.
    Nowhere,
}

/// The statements that hold a server still, in the order of the steps that run them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockPlan {
    pub name: &'static str,
    /// Announce the backup; hold nobody up.
    pub announce: &'static [&'static str],
    /// From here no table is made, dropped or altered, and nothing non-transactional is written.
    pub block_ddl: &'static [&'static str],
    /// From here nothing commits.
    pub block_commit: &'static [&'static str],
    /// Bring what is committed from the engines' buffers to their files.
    pub flush_logs: &'static [&'static str],
    pub release: &'static [&'static str],
    pub position: PositionFrom,
    /// The block of commits holds the positions of a replica's applier, too. Any other lock may find one that has written its position and waits to commit, or the
    /// other way round.
    pub holds_positions: bool,
    /// Writes to tables without transactions are held, too, and what the server keeps of them in memory is in their files.
    pub holds_all_tables: bool,
}

impl LockPlan {
    pub fn holds_commits(&self) -> bool {
        !self.block_commit.is_empty()
    }
}

/// A global variable that has another value until the cut is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalChange {
    pub name: &'static str,
    pub before: String,
    pub after: String,
}

/// A privilege, why we need it, and what counts as having it.
#[derive(Clone, Copy, Debug)]
pub struct Privilege {
    pub name: &'static str,
    pub why: &'static str,
    /// Other names under which SHOW GRANTS may show it, or privileges that include it.
    pub also: &'static [&'static str],
}

/// How long a connection may say nothing: a copy takes hours, in which the server is asked nothing.
pub const SILENCE: &str = "SET SESSION wait_timeout = 31536000";

pub trait Dialect {
    /// Statements that make a new connection fit for hours of silence and bounded waits.
    fn set_up(&self, lock_timeout_s: u64) -> Vec<String>;

    /// Asks the server what it has that is held by some locks only.
    fn lock_plan(
        &self,
        choice: LockChoice,
        client: &mut dyn ServerClient,
        variables: &Variables,
    ) -> Result<LockPlan, ServerError>;

    /// Fails if InnoDB writes no redo log, without which a copy is not what a crash leaves.
    fn require_redo(&self, _: &mut dyn ServerClient) -> Result<(), ServerError> {
        Ok(())
    }

    /// What must be raised so that flushing the logs brings everything that is committed.
    fn flush_change(&self, variables: &Variables) -> Option<GlobalChange>;

    /// True if flushing the logs brings nothing at the moment: somebody has set back what was raised, or what need not be raised before.
    fn keeps_logs(&self, _: &mut dyn ServerClient) -> Result<bool, ClientError> {
        Ok(false)
    }

    fn privileges(&self, variables: &Variables) -> Vec<Privilege>;

    /// None if the server writes no binlog.
    fn coordinates(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Option<Coordinates>, ClientError>;

    /// GTID sets, by the names of their variables.
    fn gtids(&self, client: &mut dyn ServerClient) -> Result<Vec<(String, String)>, ClientError>;

    /// The one of `gtids` that a replica of this server starts from.
    fn gtid_variable(&self) -> &'static str;

    fn channels(&self, client: &mut dyn ServerClient) -> Result<Vec<Channel>, ClientError>;

    /// Statement that stops a channel's applier; it returns when the applier has stopped, or with an error if [`Dialect::gives_up_stops`].
    fn stop_applier(&self, channel: &str) -> String;

    fn start_applier(&self, channel: &str) -> String;

    /// True if a STOP may end before the applier has stopped (`rpl_stop_replica_timeout`).
    fn gives_up_stops(&self) -> bool {
        true
    }

    fn applier_privilege(&self) -> Privilege;

    /// How many temporary tables the appliers have open.
    fn temporary_tables(&self, client: &mut dyn ServerClient) -> Result<u64, ClientError>;

    /// True for a member of a replication group, whose applier is not ours to stop.
    fn is_group_member(&self, _: &mut dyn ServerClient) -> Result<bool, ClientError> {
        Ok(false)
    }

    /// Paths of tablespaces' files, as the server names them.
    fn tablespace_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError>;

    /// Paths of files with the keys of encrypted tablespaces, as the server names them.
    fn key_files(&self, _: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        Ok(Vec::new())
    }

    /// Both: files of the server's data that may lie anywhere.
    fn data_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        let mut files = self.tablespace_files(client)?;
        files.extend(self.key_files(client)?);
        Ok(files)
    }

    /// Libraries of engines and key stores, which a copy needs to start.
    fn plugin_libraries(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError>;

    /// Those of them that must be there before the engines are: the keyring plugins of MySQL 5.7 to 8.3.
    fn early_plugin_libraries(&self, _: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        Ok(Vec::new())
    }
}

/// The dialect of the server behind `client`.
pub fn dialect(version: &Version) -> Result<Box<dyn Dialect>, ServerError> {
    match version.flavor {
        Flavor::MariaDb if version.at_least(10, 4) => {
            Ok(Box::new(mariadb::MariaDb::new(version.clone())))
        }
        Flavor::Percona if !version.at_least(8, 0) && version.at_least(5, 6) => {
            Ok(Box::new(percona::Percona::new(version.clone())))
        }
        Flavor::MySql | Flavor::Percona if version.at_least(8, 0) => {
            Ok(Box::new(mysql::MySql::new(version.clone())))
        }
        Flavor::MySql if version.at_least(5, 6) => {
            Ok(Box::new(mysql5::MySql5::new(version.clone())))
        }
        _ => Err(ServerError::Unsupported(version.clone())),
    }
}
