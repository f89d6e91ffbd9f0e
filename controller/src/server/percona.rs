//! Percona Server 5.6 and 5.7: LOCK BINLOG FOR BACKUP holds the binlog's end still, and with it every commit.
//!
//! What makes it right: LOCK TABLES FOR BACKUP comes first. It holds what the binlog lock does not hold in time, since its work in the files comes before the binlog: DDL, which
//! is not atomic in these versions, and writes to tables without transactions. Writes to InnoDB's tables go on under it. But unlike FLUSH TABLES WITH READ LOCK it leaves in memory
//! what engines keep there of such writes: rows of ARCHIVE, and indexes of MyISAM with DELAY_KEY_WRITE. Where there are any, that lock is taken. Positions are read under the
//! binlog lock, and it goes before the table lock, the later of the two first. Everything else is MySQL 5's.

use super::mysql::{FLUSH_LOGS, FTWRL};
use super::mysql5::{MySql5, NO_LOCK};
use super::{
    Channel, Coordinates, Dialect, GlobalChange, LockChoice, LockPlan, PositionFrom, Privilege,
    ServerError, Variables, Version, transactional,
};
use crate::client::{ClientError, ServerClient};

const BINLOG: LockPlan = LockPlan {
    name: "binlog",
    announce: &[],
    block_ddl: &[],
    block_commit: &["LOCK BINLOG FOR BACKUP"],
    flush_logs: FLUSH_LOGS,
    release: &["UNLOCK BINLOG"],
    position: PositionFrom::Lock,
    holds_positions: true,
    holds_all_tables: false,
};

const TABLES_AND_BINLOG: LockPlan = LockPlan {
    name: "tables-and-binlog",
    block_ddl: &["LOCK TABLES FOR BACKUP"],
    release: &["UNLOCK BINLOG", "UNLOCK TABLES"],
    ..BINLOG
};

pub struct Percona {
    base: MySql5,
    version: Version,
}

impl Percona {
    pub fn new(version: Version) -> Percona {
        let base = MySql5::new(version.clone());
        Percona { base, version }
    }

    /// The lock of tables and binlog, if it brings all tables out that it holds.
    fn backup_lock(
        &self,
        client: &mut dyn ServerClient,
        variables: &Variables,
    ) -> Result<LockPlan, ServerError> {
        let delays_all = variables.get("delay_key_write") == Some("ALL");
        match delays_all || transactional::first_in_memory(client)?.is_some() {
            true => Ok(FTWRL),
            false => Ok(self.of_version(TABLES_AND_BINLOG)),
        }
    }

    /// Positions can be asked for under the lock since 5.7. Before, a STOP SLAVE of somebody else waits for an applier that waits for the lock, and SHOW SLAVE STATUS for
    /// that STOP: for ever, and KILL ends none of them.
    fn of_version(&self, plan: LockPlan) -> LockPlan {
        LockPlan {
            holds_positions: self.version.at_least(5, 7),
            ..plan
        }
    }
}

impl Dialect for Percona {
    fn set_up(&self, lock_timeout_s: u64) -> Vec<String> {
        self.base.set_up(lock_timeout_s)
    }

    fn lock_plan(
        &self,
        choice: LockChoice,
        client: &mut dyn ServerClient,
        variables: &Variables,
    ) -> Result<LockPlan, ServerError> {
        // Early 5.6 releases had no backup locks.
        let has_lock = variables.is_on("have_backup_locks");
        match choice {
            LockChoice::Auto if has_lock => self.backup_lock(client, variables),
            LockChoice::Auto => Ok(FTWRL),
            LockChoice::Binlog if has_lock => match transactional::first_other(client)? {
                Some(_) => self.backup_lock(client, variables),
                None => Ok(self.of_version(BINLOG)),
            },
            LockChoice::Ftwrl => Ok(FTWRL),
            LockChoice::None => Ok(NO_LOCK),
            _ => Err(ServerError::NoSuchLock {
                choice,
                version: self.version.clone(),
            }),
        }
    }

    fn flush_change(&self, variables: &Variables) -> Option<GlobalChange> {
        self.base.flush_change(variables)
    }

    fn privileges(&self, variables: &Variables) -> Vec<Privilege> {
        self.base.privileges(variables)
    }

    fn coordinates(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Option<Coordinates>, ClientError> {
        self.base.coordinates(client)
    }

    fn gtids(&self, client: &mut dyn ServerClient) -> Result<Vec<(String, String)>, ClientError> {
        self.base.gtids(client)
    }

    fn gtid_variable(&self) -> &'static str {
        self.base.gtid_variable()
    }

    fn channels(&self, client: &mut dyn ServerClient) -> Result<Vec<Channel>, ClientError> {
        self.base.channels(client)
    }

    fn stop_applier(&self, channel: &str) -> String {
        self.base.stop_applier(channel)
    }

    fn start_applier(&self, channel: &str) -> String {
        self.base.start_applier(channel)
    }

    fn applier_privilege(&self) -> Privilege {
        self.base.applier_privilege()
    }

    fn temporary_tables(&self, client: &mut dyn ServerClient) -> Result<u64, ClientError> {
        self.base.temporary_tables(client)
    }

    fn is_group_member(&self, client: &mut dyn ServerClient) -> Result<bool, ClientError> {
        self.base.is_group_member(client)
    }

    fn tablespace_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        self.base.tablespace_files(client)
    }

    fn key_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        self.base.key_files(client)
    }

    fn plugin_libraries(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        self.base.plugin_libraries(client)
    }

    fn early_plugin_libraries(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Vec<String>, ClientError> {
        self.base.early_plugin_libraries(client)
    }
}

#[cfg(test)]
#[path = "percona_tests.rs"]
mod tests;
