//! MySQL 5.6 and 5.7: FLUSH TABLES WITH READ LOCK, as they have nothing narrower that holds commits.
//!
//! What makes it right: the lock waits for running statements no longer than lock_wait_timeout. Under it FLUSH ENGINE LOGS writes the engine's log
//! whatever innodb_flush_log_at_trx_commit is, since nothing commits any more.

use super::mysql::{FLUSH_LOGS, FTWRL, mysql_privileges};
use super::mysql_words::{self, Words};
use super::{
    Channel, Coordinates, Dialect, GlobalChange, LockChoice, LockPlan, PositionFrom, Privilege,
    SILENCE, ServerError, Variables, Version, read,
};
use crate::client::{ClientError, ServerClient};

/// DDL of these versions is not atomic and their tables may be of any engine, so there is no position without a lock.
pub const NO_LOCK: LockPlan = LockPlan {
    name: "none",
    announce: &[],
    block_ddl: &[],
    block_commit: &[],
    flush_logs: FLUSH_LOGS,
    release: &[],
    position: PositionFrom::Nowhere,
    holds_positions: false,
    holds_all_tables: false,
};

/// But for the files of temporary tables, which 5.6 lists too: `#sql` and three numbers, where others have a dash behind it.
pub const DATAFILES: &str = "SELECT PATH FROM information_schema.INNODB_SYS_DATAFILES \
    WHERE PATH NOT REGEXP '/#sql[0-9a-f]+_[0-9a-f]+_[0-9a-f]+[.]ibd$'";
/// Libraries of engines, and of key stores that are plugins.
pub const ENGINES: &str = "SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS \
    WHERE PLUGIN_LIBRARY IS NOT NULL AND PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_TYPE = 'STORAGE ENGINE'";
pub const KEYRINGS: &str = "SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS \
    WHERE PLUGIN_LIBRARY IS NOT NULL AND PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_TYPE = 'KEYRING'";
/// There while the plugins are, which came with 5.7.11 and went with 8.4.
pub const KEYRING_FILES: &str = "SHOW GLOBAL VARIABLES \
    WHERE Variable_name IN ('keyring_file_data', 'keyring_encrypted_file_data')";

/// Paths of the files of keyring plugins.
pub fn keyring_files(client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
    let rows = client.query(KEYRING_FILES)?;
    let values = rows.iter().filter_map(|row| row.get("Value"));
    let named = values.filter(|value| !value.is_empty());
    Ok(named.map(str::to_string).collect())
}

pub struct MySql5 {
    version: Version,
    words: Words,
}

impl MySql5 {
    pub fn new(version: Version) -> MySql5 {
        let words = Words::of(&version);
        MySql5 { version, words }
    }
}

impl Dialect for MySql5 {
    fn set_up(&self, lock_timeout_s: u64) -> Vec<String> {
        vec![
            SILENCE.into(),
            "SET SESSION net_write_timeout = 3600".into(),
            format!("SET SESSION lock_wait_timeout = {lock_timeout_s}"),
            "SET SESSION autocommit = 1".into(),
        ]
    }

    fn lock_plan(
        &self,
        choice: LockChoice,
        _: &mut dyn ServerClient,
        _: &Variables,
    ) -> Result<LockPlan, ServerError> {
        match choice {
            LockChoice::Auto | LockChoice::Ftwrl => Ok(FTWRL),
            LockChoice::None => Ok(NO_LOCK),
            LockChoice::Binlog | LockChoice::BackupStage => Err(ServerError::NoSuchLock {
                choice,
                version: self.version.clone(),
            }),
        }
    }

    fn flush_change(&self, _: &Variables) -> Option<GlobalChange> {
        None
    }

    fn privileges(&self, _: &Variables) -> Vec<Privilege> {
        mysql_privileges()
    }

    fn coordinates(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Option<Coordinates>, ClientError> {
        read::coordinates(client, self.words.coordinates)
    }

    fn gtids(&self, client: &mut dyn ServerClient) -> Result<Vec<(String, String)>, ClientError> {
        read::pairs(client, mysql_words::GTIDS)
    }

    fn gtid_variable(&self) -> &'static str {
        "gtid_executed"
    }

    fn channels(&self, client: &mut dyn ServerClient) -> Result<Vec<Channel>, ClientError> {
        let rows = client.query(self.words.channels)?;
        Ok(rows.iter().map(mysql_words::channel).collect())
    }

    fn stop_applier(&self, channel: &str) -> String {
        self.words.applier("STOP", channel)
    }

    fn start_applier(&self, channel: &str) -> String {
        self.words.applier("START", channel)
    }

    fn applier_privilege(&self) -> Privilege {
        Privilege {
            name: "SUPER",
            why: "to stop the applier for the cut",
            also: &[],
        }
    }

    fn temporary_tables(&self, client: &mut dyn ServerClient) -> Result<u64, ClientError> {
        read::status(client, self.words.temporary_tables)
    }

    fn is_group_member(&self, client: &mut dyn ServerClient) -> Result<bool, ClientError> {
        self.words.is_group_member(client)
    }

    fn tablespace_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        read::first_column(client, DATAFILES)
    }

    fn key_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        keyring_files(client)
    }

    fn plugin_libraries(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        read::first_column(client, ENGINES)
    }

    fn early_plugin_libraries(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Vec<String>, ClientError> {
        read::first_column(client, KEYRINGS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;
    use crate::server::Flavor;
    use crate::server::mysql::MySql;
    use crate::server::percona::Percona;

    #[test]
    fn the_keyring_of_a_plugin_is_a_file_of_the_server() {
        let mysql = MySql5::new(Version::plain(Flavor::MySql, (5, 7, 44)));
        let percona = Percona::new(Version::plain(Flavor::Percona, (5, 7, 44)));
        for dialect in [&mysql as &dyn Dialect, &percona] {
            let row: &[&str] = &["keyring_file_data", "/keys/keyring"];
            let unset: &[&str] = &["keyring_encrypted_file_data", ""];
            let columns = &["Variable_name", "Value"];
            let client = ScriptedClient::new().done(DATAFILES);
            let mut client = client.rows(KEYRING_FILES, columns, &[row, unset]);
            assert_eq!(dialect.data_files(&mut client).unwrap(), ["/keys/keyring"]);
            client.finish();
        }
    }

    #[test]
    fn a_keyring_plugin_is_loaded_before_the_engines() {
        let mysql5 = MySql5::new(Version::plain(Flavor::MySql, (5, 7, 44)));
        let percona = Percona::new(Version::plain(Flavor::Percona, (5, 7, 44)));
        let mysql = MySql::new(Version::plain(Flavor::MySql, (8, 0, 36)));
        for dialect in [&mysql5 as &dyn Dialect, &percona, &mysql] {
            let row: &[&str] = &["keyring_file.so"];
            let mut client = ScriptedClient::new().rows(KEYRINGS, &["PLUGIN_LIBRARY"], &[row]);
            let libraries = dialect.early_plugin_libraries(&mut client).unwrap();
            assert_eq!(libraries, ["keyring_file.so"]);
            client.finish();
        }
    }

    #[test]
    fn commits_are_held_by_a_read_lock_unless_none_is_asked_for() {
        let dialect = MySql5::new(Version::plain(Flavor::MySql, (5, 6, 24)));
        let mut client = ScriptedClient::new();
        let mut plan = |choice| dialect.lock_plan(choice, &mut client, &Variables::default());
        assert_eq!(plan(LockChoice::Auto).unwrap(), FTWRL);
        assert_eq!(
            plan(LockChoice::None).unwrap().position,
            PositionFrom::Nowhere
        );
        assert!(plan(LockChoice::Binlog).is_err());
    }
}
