//! MySQL 8.0 and later, and Percona Server 8.0 and later: no lock at all, as none of theirs holds the binlog.
//!
//! What makes it right: a transaction is prepared in the engine's log before it is in the binlog, and the capture log keeps that order. So the backup is what a crash at the
//! cut would have left, and crash recovery commits exactly the transactions that the binlog holds whole: its end is the position. That needs every engine to take part
//! (tables without transactions don't), a binlog that can be read (an encrypted one can't), and engine logs that are written before the binlog is: with
//! innodb_flush_log_at_trx_commit=0 they are not, so it is raised to 2. A value of 2 means written at each commit, which is enough for a copy made through the same
//! page cache. Where one of these can't be had, FLUSH TABLES WITH READ LOCK holds commits.

use super::mysql_words::{self, Words};
use super::{
    Channel, Coordinates, Dialect, GlobalChange, LockChoice, LockPlan, PositionFrom, Privilege,
    SILENCE, ServerError, Variables, Version, mysql5, read, transactional,
};
use crate::client::{ClientError, ServerClient};

pub const FLUSH_LOGS: &[&str] = &["FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"];

const NO_LOCK: LockPlan = LockPlan {
    name: "none",
    announce: &[],
    block_ddl: &[],
    block_commit: &[],
    flush_logs: FLUSH_LOGS,
    release: &[],
    position: PositionFrom::Binlog,
    holds_positions: false,
    holds_all_tables: false,
};

pub const FTWRL: LockPlan = LockPlan {
    name: "ftwrl",
    block_commit: &["FLUSH TABLES WITH READ LOCK"],
    release: &["UNLOCK TABLES"],
    position: PositionFrom::Lock,
    holds_all_tables: true,
    ..NO_LOCK
};

const TABLESPACES: &str = "SELECT FILE_NAME FROM information_schema.FILES \
    WHERE FILE_TYPE IN ('TABLESPACE', 'UNDO LOG')";
const KEY_FILES: &str = "SELECT STATUS_VALUE FROM performance_schema.keyring_component_status \
    WHERE STATUS_KEY = 'Data_file'";

/// XA transactions that were begun since the server started, or ended, as those that were prepared before it may be.
const XA_USES: &str = "SHOW GLOBAL STATUS \
    WHERE Variable_name IN ('Com_xa_start', 'Com_xa_commit', 'Com_xa_rollback')";
/// No row before 8.0.21, where it can't be switched off.
const REDO: &str = "SHOW GLOBAL STATUS LIKE 'Innodb_redo_log_enabled'";

pub struct MySql {
    version: Version,
    words: Words,
}

impl MySql {
    pub fn new(version: Version) -> MySql {
        let words = Words::of(&version);
        MySql { version, words }
    }

    /// Why a cut without a lock would be wrong, if it would.
    fn need_of_lock(
        &self,
        client: &mut dyn ServerClient,
        variables: &Variables,
    ) -> Result<Option<String>, ClientError> {
        if variables.is_on("binlog_encryption") && variables.is_on("log_bin") {
            return Ok(Some(
                "the binlog is encrypted, so its end cannot be read".into(),
            ));
        }
        if let Some(flush @ ("0" | "2")) = variables.get("rocksdb_flush_log_at_trx_commit") {
            return Ok(Some(format!("rocksdb_flush_log_at_trx_commit is {flush}")));
        }
        if self.version.numbers < (8, 0, 30) && uses_xa(client)? {
            return Ok(Some(
                "XA transactions are in the binlog before they are in the engine".into(),
            ));
        }
        let table = transactional::first_other(client)?;
        Ok(table.map(|table| format!("table {table} has no transactions")))
    }
}

impl Dialect for MySql {
    fn set_up(&self, lock_timeout_s: u64) -> Vec<String> {
        vec![
            SILENCE.into(),
            "SET SESSION net_write_timeout = 3600".into(),
            format!("SET SESSION lock_wait_timeout = {lock_timeout_s}"),
            "SET SESSION autocommit = 1, max_execution_time = 0".into(),
        ]
    }

    fn lock_plan(
        &self,
        choice: LockChoice,
        client: &mut dyn ServerClient,
        variables: &Variables,
    ) -> Result<LockPlan, ServerError> {
        match choice {
            LockChoice::Ftwrl => Ok(FTWRL),
            LockChoice::Binlog | LockChoice::BackupStage => Err(ServerError::NoSuchLock {
                choice,
                version: self.version.clone(),
            }),
            LockChoice::Auto | LockChoice::None => match self.need_of_lock(client, variables)? {
                None => Ok(NO_LOCK),
                Some(_) if choice == LockChoice::Auto => Ok(FTWRL),
                Some(reason) => Err(ServerError::LockNeeded { reason }),
            },
        }
    }

    fn require_redo(&self, client: &mut dyn ServerClient) -> Result<(), ServerError> {
        let rows = client.query(REDO)?;
        let value = rows.first().and_then(|row| row.get("Value"));
        match value {
            Some("OFF") => Err(ServerError::NoRedo),
            _ => Ok(()),
        }
    }

    fn flush_change(&self, variables: &Variables) -> Option<GlobalChange> {
        let name = "innodb_flush_log_at_trx_commit";
        (variables.get(name) == Some("0")).then(|| GlobalChange {
            name,
            before: "0".into(),
            after: "2".into(),
        })
    }

    fn keeps_logs(&self, client: &mut dyn ServerClient) -> Result<bool, ClientError> {
        read::keeps_logs(client)
    }

    fn privileges(&self, variables: &Variables) -> Vec<Privilege> {
        let mut needed = mysql_privileges();
        if self.flush_change(variables).is_some() {
            needed.push(Privilege {
                name: "SYSTEM_VARIABLES_ADMIN",
                why: "to raise innodb_flush_log_at_trx_commit, which is 0, for the cut",
                also: &["SUPER"],
            });
        }
        needed
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
            name: "REPLICATION_SLAVE_ADMIN",
            why: "to stop the applier for the cut",
            also: &["SUPER"],
        }
    }

    fn temporary_tables(&self, client: &mut dyn ServerClient) -> Result<u64, ClientError> {
        read::status(client, self.words.temporary_tables)
    }

    fn is_group_member(&self, client: &mut dyn ServerClient) -> Result<bool, ClientError> {
        self.words.is_group_member(client)
    }

    fn tablespace_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        read::first_column(client, TABLESPACES)
    }

    fn key_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        // The table came with 8.0.24; before that there were no such key stores.
        let mut files = match self.version.numbers >= (8, 0, 24) {
            true => read::first_column(client, KEY_FILES)?,
            false => Vec::new(),
        };
        if self.version.numbers < (8, 4, 0) {
            files.extend(mysql5::keyring_files(client)?);
        }
        Ok(files)
    }

    fn plugin_libraries(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        read::first_column(client, mysql5::ENGINES)
    }

    fn early_plugin_libraries(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Vec<String>, ClientError> {
        read::first_column(client, mysql5::KEYRINGS)
    }
}

fn uses_xa(client: &mut dyn ServerClient) -> Result<bool, ClientError> {
    let rows = client.query(XA_USES)?;
    Ok(rows.iter().any(|row| row.get("Value") != Some("0")))
}

/// What every MySQL and Percona Server wants for our statements.
pub fn mysql_privileges() -> Vec<Privilege> {
    let needed = [
        (
            "RELOAD",
            "to bring the engines' logs to their files and to lock",
            &[][..],
        ),
        (
            "PROCESS",
            "to find tablespaces outside the data directory",
            &[],
        ),
        ("REPLICATION CLIENT", "to read the position", &["SUPER"]),
        ("SELECT", "to see which tables have no transactions", &[]),
    ];
    needed
        .map(|(name, why, also)| Privilege { name, why, also })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;
    use crate::server::Flavor;

    fn mysql() -> MySql {
        MySql::new(Version::plain(Flavor::MySql, (9, 7, 4)))
    }

    fn plan(
        choice: LockChoice,
        table: Option<&str>,
        variables: Variables,
    ) -> Result<LockPlan, String> {
        let columns = &["name"];
        let mut client = match table {
            Some(table) => {
                ScriptedClient::new().rows(transactional::STATEMENT, columns, &[&[table]])
            }
            None => ScriptedClient::new().done(transactional::STATEMENT),
        };
        let plan = mysql().lock_plan(choice, &mut client, &variables);
        plan.map_err(|error| error.to_string())
    }

    #[test]
    fn tables_with_transactions_need_no_lock() {
        let plan = plan(LockChoice::Auto, None, Variables::default()).unwrap();
        assert_eq!((plan.name, plan.position), ("none", PositionFrom::Binlog));
        assert!(!plan.holds_commits());
    }

    #[test]
    fn a_table_without_transactions_is_held_by_a_read_lock() {
        let locked = plan(LockChoice::Auto, Some("shop.cart"), Variables::default()).unwrap();
        assert_eq!(
            (locked.name, locked.position),
            ("ftwrl", PositionFrom::Lock)
        );
        let refused = plan(LockChoice::None, Some("shop.cart"), Variables::default());
        assert_eq!(
            refused.unwrap_err(),
            "--lock=none makes no consistent copy here: table shop.cart has no transactions"
        );
    }

    #[test]
    fn what_keeps_the_binlog_from_deciding_needs_a_lock() {
        let encrypted = [("log_bin", "ON"), ("binlog_encryption", "ON")];
        let unflushed = [("log_bin", "ON"), ("rocksdb_flush_log_at_trx_commit", "2")];
        for variables in [encrypted, unflushed] {
            let plan = plan(LockChoice::Auto, None, Variables::from(variables)).unwrap();
            assert_eq!(plan.name, "ftwrl");
        }
    }

    #[test]
    fn xa_transactions_of_a_server_that_puts_them_into_the_binlog_first_need_a_lock() {
        let plan = |patch, used: &str| {
            let names = ["Com_xa_commit", "Com_xa_rollback", "Com_xa_start"];
            let rows = names.map(|name| [name, if name == used { "1" } else { "0" }]);
            let rows: Vec<&[&str]> = rows.iter().map(|row| row.as_slice()).collect();
            let columns = &["Variable_name", "Value"];
            let client = ScriptedClient::new().rows(XA_USES, columns, &rows);
            let mut client = client.done(transactional::STATEMENT);
            let mysql = MySql::new(Version::plain(Flavor::MySql, (8, 0, patch)));
            let plan = mysql.lock_plan(LockChoice::Auto, &mut client, &Variables::default());
            plan.unwrap().name
        };
        assert_eq!(plan(29, ""), "none");
        // Of one that was prepared before the server's start, only the end is seen.
        for used in ["Com_xa_start", "Com_xa_commit", "Com_xa_rollback"] {
            assert_eq!(plan(29, used), "ftwrl", "{used}");
        }
    }

    #[test]
    fn keys_are_those_of_components_and_of_the_plugins_that_were_before_them() {
        let files = |numbers, client: ScriptedClient| {
            let mut client = client;
            let mysql = MySql::new(Version::plain(Flavor::MySql, numbers));
            let files = mysql.key_files(&mut client).unwrap();
            client.finish();
            files.join(" ")
        };
        let component = || {
            let row: &[&str] = &["/keys/component"];
            ScriptedClient::new().rows(KEY_FILES, &["STATUS_VALUE"], &[row])
        };
        let plugin = |client: ScriptedClient| {
            let row: &[&str] = &["keyring_file_data", "/keys/plugin"];
            client.rows(mysql5::KEYRING_FILES, &["Variable_name", "Value"], &[row])
        };
        let first = files((8, 0, 11), plugin(ScriptedClient::new()));
        assert_eq!(first, "/keys/plugin");
        let both = files((8, 3, 0), plugin(component()));
        assert_eq!(both, "/keys/component /keys/plugin");
        assert_eq!(files((8, 4, 0), component()), "/keys/component");
    }

    #[test]
    fn a_server_without_a_redo_log_is_refused() {
        let with = |value| {
            let row: &[&str] = &["Innodb_redo_log_enabled", value];
            let columns = &["Variable_name", "Value"];
            let mut client = ScriptedClient::new().rows(REDO, columns, &[row]);
            mysql().require_redo(&mut client).is_ok()
        };
        assert_eq!((with("ON"), with("OFF")), (true, false));
        assert!(
            mysql()
                .require_redo(&mut ScriptedClient::new().done(REDO))
                .is_ok()
        );
    }

    #[test]
    fn locks_of_other_servers_are_refused() {
        for choice in [LockChoice::Binlog, LockChoice::BackupStage] {
            let refused = plan(choice, None, Variables::default()).unwrap_err();
            assert_eq!(
                refused,
                format!("--lock={choice} does not exist on MySQL 9.7.4")
            );
        }
    }

    #[test]
    fn an_unflushed_log_is_raised_and_costs_a_privilege() {
        let variables = Variables::from([("innodb_flush_log_at_trx_commit", "0")]);
        assert_eq!(mysql().flush_change(&variables).unwrap().after, "2");
        let names: Vec<_> = mysql()
            .privileges(&variables)
            .iter()
            .map(|p| p.name)
            .collect();
        assert!(names.contains(&"SYSTEM_VARIABLES_ADMIN"));
        assert_eq!(mysql().flush_change(&Variables::default()), None);
    }
}
