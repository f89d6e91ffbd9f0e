//! MariaDB 10.4 and later: BACKUP STAGE holds DDL first and commits last.
//!
//! What makes it right: START and FLUSH hold nobody up and run ahead; BLOCK_DDL waits for running DDL while commits go on; only the short rest runs
//! under BLOCK_COMMIT. FLUSH ENGINE LOGS does nothing for InnoDB while innodb_flush_log_at_trx_commit is 0 (a copy cut then is
//! thousands of transactions behind its binlog), so it is raised to 2 for the cut: written to the file is enough for a
//! copy that is made through the same page cache. For RocksDB it does nothing at all: if that engine does not sync at each commit, its tables in memory are
//! written out, once before the lock so that little is left for the time under it.

use super::mysql5::DATAFILES;
use super::position::{self, Channel, Coordinates};
use super::{
    Dialect, GlobalChange, LockChoice, LockPlan, PositionFrom, Privilege, SILENCE, ServerError,
    Variables, Version, read,
};
use crate::client::{ClientError, Row, ServerClient, quoted};

const FLUSH_LOGS: &[&str] = &["FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"];

const FLUSH_ROCKSDB: &str = "SET GLOBAL rocksdb_force_flush_memtable_now = ON";
const FLUSH_LOGS_AND_ROCKSDB: &[&str] = &["FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", FLUSH_ROCKSDB];

const BACKUP_STAGE: LockPlan = LockPlan {
    name: "backup-stage",
    announce: &["BACKUP STAGE START"],
    // The first of them holds writers of tables without transactions already.
    block_ddl: &["BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL"],
    block_commit: &["BACKUP STAGE BLOCK_COMMIT"],
    flush_logs: FLUSH_LOGS,
    release: &["BACKUP STAGE END"],
    position: PositionFrom::Lock,
    holds_positions: false,
    holds_all_tables: true,
};

const FTWRL: LockPlan = LockPlan {
    name: "ftwrl",
    announce: &[],
    block_ddl: &[],
    block_commit: &["FLUSH TABLES WITH READ LOCK"],
    flush_logs: FLUSH_LOGS,
    release: &["UNLOCK TABLES"],
    position: PositionFrom::Lock,
    holds_positions: false,
    holds_all_tables: true,
};

const NO_LOCK: LockPlan = LockPlan {
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

pub const COORDINATES: &str = "SHOW MASTER STATUS";
pub const GTIDS: &str = "SELECT @@global.gtid_binlog_pos AS gtid_binlog_pos, \
    @@global.gtid_current_pos AS gtid_current_pos, @@global.gtid_slave_pos AS gtid_slave_pos, \
    @@global.gtid_binlog_state AS gtid_binlog_state";
pub const CHANNELS: &str = "SHOW ALL SLAVES STATUS";
const TABLESPACES: &str = "SELECT FILENAME FROM information_schema.INNODB_SYS_TABLESPACES";
const PLUGINS: &str = "SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS \
    WHERE PLUGIN_LIBRARY IS NOT NULL AND PLUGIN_STATUS = 'ACTIVE' \
    AND PLUGIN_TYPE IN ('STORAGE ENGINE', 'ENCRYPTION')";

pub struct MariaDb {
    version: Version,
}

impl MariaDb {
    pub fn new(version: Version) -> MariaDb {
        MariaDb { version }
    }

    /// 10.5 split the old privileges into finer ones.
    fn fine_privileges(&self) -> bool {
        self.version.at_least(10, 5)
    }

    /// Since 11.0, SUPER no longer allows what has a privilege of its own.
    fn super_is_all(&self) -> bool {
        !self.version.at_least(11, 0)
    }
}

impl Dialect for MariaDb {
    fn set_up(&self, lock_timeout_s: u64) -> Vec<String> {
        vec![
            SILENCE.into(),
            "SET SESSION net_write_timeout = 3600".into(),
            format!("SET SESSION lock_wait_timeout = {lock_timeout_s}"),
            "SET SESSION autocommit = 1, max_statement_time = 0".into(),
        ]
    }

    fn lock_plan(
        &self,
        choice: LockChoice,
        _: &mut dyn ServerClient,
        variables: &Variables,
    ) -> Result<LockPlan, ServerError> {
        let mut plan = match choice {
            LockChoice::Auto | LockChoice::BackupStage => BACKUP_STAGE,
            LockChoice::Ftwrl => FTWRL,
            LockChoice::None => NO_LOCK,
            LockChoice::Binlog => {
                return Err(ServerError::NoSuchLock {
                    choice,
                    version: self.version.clone(),
                });
            }
        };
        if leaves_rocksdb_in_memory(variables) {
            plan.flush_logs = FLUSH_LOGS_AND_ROCKSDB;
            plan.announce = match plan.name {
                "backup-stage" => &[FLUSH_ROCKSDB, "BACKUP STAGE START"],
                _ => &[FLUSH_ROCKSDB],
            };
        }
        Ok(plan)
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
        let mut needed = vec![
            Privilege {
                name: "RELOAD",
                why: "to hold commits for the cut",
                also: &[],
            },
            Privilege {
                name: "PROCESS",
                why: "to find tablespaces outside the data directory",
                also: &[],
            },
        ];
        if self.fine_privileges() {
            needed.push(Privilege {
                name: "BINLOG MONITOR",
                why: "to read the position",
                also: match self.super_is_all() {
                    true => &["REPLICATION CLIENT", "SUPER"],
                    false => &["REPLICATION CLIENT"],
                },
            });
            needed.push(Privilege {
                name: "SLAVE MONITOR",
                why: "to read the positions of replication channels",
                also: &["REPLICA MONITOR"],
            });
        } else {
            needed.push(Privilege {
                name: "REPLICATION CLIENT",
                why: "to read the position",
                also: &["SUPER"],
            });
        }
        if self.flush_change(variables).is_some() {
            needed.push(Privilege {
                name: "SUPER",
                why: "to raise innodb_flush_log_at_trx_commit, which is 0, for the cut",
                also: &[],
            });
        }
        if leaves_rocksdb_in_memory(variables) {
            needed.push(Privilege {
                name: "SUPER",
                why: "to have RocksDB write out what it keeps in memory",
                also: &[],
            });
        }
        needed
    }

    fn coordinates(
        &self,
        client: &mut dyn ServerClient,
    ) -> Result<Option<Coordinates>, ClientError> {
        read::coordinates(client, COORDINATES)
    }

    fn gtids(&self, client: &mut dyn ServerClient) -> Result<Vec<(String, String)>, ClientError> {
        read::pairs(client, GTIDS)
    }

    fn gtid_variable(&self) -> &'static str {
        "gtid_binlog_pos"
    }

    fn channels(&self, client: &mut dyn ServerClient) -> Result<Vec<Channel>, ClientError> {
        Ok(client.query(CHANNELS)?.iter().map(channel).collect())
    }

    fn stop_applier(&self, channel: &str) -> String {
        format!("STOP SLAVE {} SQL_THREAD", quoted(channel))
    }

    fn start_applier(&self, channel: &str) -> String {
        format!("START SLAVE {} SQL_THREAD", quoted(channel))
    }

    fn gives_up_stops(&self) -> bool {
        false
    }

    fn applier_privilege(&self) -> Privilege {
        let (name, also): (_, &[_]) = match (self.fine_privileges(), self.super_is_all()) {
            (false, _) => ("SUPER", &["REPLICATION SLAVE ADMIN"]),
            (true, true) => ("REPLICATION SLAVE ADMIN", &["REPLICA ADMIN", "SUPER"]),
            (true, false) => ("REPLICATION SLAVE ADMIN", &["REPLICA ADMIN"]),
        };
        Privilege {
            name,
            why: "to stop the applier for the cut",
            also,
        }
    }

    fn temporary_tables(&self, client: &mut dyn ServerClient) -> Result<u64, ClientError> {
        read::status(client, "SHOW GLOBAL STATUS LIKE 'Slave_open_temp_tables'")
    }

    fn tablespace_files(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        // 10.6 moved the paths from one table to the other.
        let statement = match self.version.at_least(10, 6) {
            true => TABLESPACES,
            false => DATAFILES,
        };
        read::first_column(client, statement)
    }

    fn plugin_libraries(&self, client: &mut dyn ServerClient) -> Result<Vec<String>, ClientError> {
        read::first_column(client, PLUGINS)
    }
}

/// 0 and 2 both mean that its log stays in memory for up to a second.
fn leaves_rocksdb_in_memory(variables: &Variables) -> bool {
    let flush = variables.get("rocksdb_flush_log_at_trx_commit");
    flush.is_some_and(|value| value != "1")
}

fn channel(row: &Row) -> Channel {
    let text = |name: &str| row.get(name).unwrap_or_default().to_string();
    Channel {
        name: text("Connection_name"),
        host: text("Master_Host"),
        port: text("Master_Port").parse().unwrap_or(0),
        user: text("Master_User"),
        source_log_file: text("Relay_Master_Log_File"),
        exec_source_log_pos: text("Exec_Master_Log_Pos").parse().unwrap_or(0),
        relay_log_file: text("Relay_Log_File"),
        // Not the variable of that name: this is gtid_current_pos, in which the server's own transactions are.
        gtid_set: text("Gtid_Slave_Pos"),
        auto_position: !matches!(row.get("Using_Gtid"), None | Some("No" | "")),
        applier_running: row.get("Slave_SQL_Running") == Some("Yes"),
        receiver_running: row.get("Slave_IO_Running") == Some("Yes"),
        filters: position::filters(row),
        until: position::until(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;
    use crate::server::Flavor;

    fn mariadb(minor: u32) -> MariaDb {
        MariaDb::new(Version::plain(Flavor::MariaDb, (10, minor, 1)))
    }

    fn privilege_names(minor: u32, flush: &str) -> Vec<&'static str> {
        let variables = Variables::from([("innodb_flush_log_at_trx_commit", flush)]);
        let needed = mariadb(minor).privileges(&variables);
        needed.iter().map(|privilege| privilege.name).collect()
    }

    #[test]
    fn super_is_only_needed_where_the_log_is_not_flushed_at_commit() {
        let usual = ["RELOAD", "PROCESS", "BINLOG MONITOR", "SLAVE MONITOR"];
        assert_eq!(privilege_names(11, "1"), usual);
        assert_eq!(privilege_names(11, "0")[4], "SUPER");
        assert_eq!(
            privilege_names(4, "2"),
            ["RELOAD", "PROCESS", "REPLICATION CLIENT"]
        );
    }

    #[test]
    fn rocksdb_that_does_not_sync_is_written_out_before_and_under_the_lock() {
        let plan = |flush: &str| {
            let variables = Variables::from([("rocksdb_flush_log_at_trx_commit", flush)]);
            let mut client = ScriptedClient::new();
            mariadb(11)
                .lock_plan(LockChoice::Auto, &mut client, &variables)
                .unwrap()
        };
        assert_eq!(plan("1"), BACKUP_STAGE);
        for flush in ["0", "2"] {
            assert_eq!(plan(flush).announce[0], FLUSH_ROCKSDB);
            assert_eq!(plan(flush).flush_logs, FLUSH_LOGS_AND_ROCKSDB);
        }
    }

    #[test]
    fn since_11_0_super_is_not_enough_for_what_has_a_privilege_of_its_own() {
        let allowed_by_super = |major, minor| {
            let dialect = MariaDb::new(Version::plain(Flavor::MariaDb, (major, minor, 1)));
            let position = dialect.privileges(&Variables::default());
            let needed = [&position[2], &dialect.applier_privilege()];
            needed.map(|privilege| privilege.also.contains(&"SUPER"))
        };
        assert_eq!(allowed_by_super(10, 11), [true, true]);
        assert_eq!(allowed_by_super(11, 0), [false, false]);
    }

    #[test]
    fn a_lock_of_another_flavor_is_refused() {
        let (choice, variables) = (LockChoice::Binlog, Variables::default());
        let plan = mariadb(11).lock_plan(choice, &mut ScriptedClient::new(), &variables);
        let error = plan.unwrap_err();
        assert_eq!(
            error.to_string(),
            "--lock=binlog does not exist on MariaDB 10.11.1"
        );
    }

    #[test]
    fn a_channel_has_the_file_and_offset_of_its_applier() {
        let columns = [
            "Connection_name",
            "Master_Host",
            "Master_Port",
            "Master_User",
            "Master_Log_File",
            "Relay_Master_Log_File",
            "Exec_Master_Log_Pos",
            "Using_Gtid",
            "Slave_SQL_Running",
        ];
        let values = [
            "",
            "h",
            "3307",
            "repl",
            "bin.000009",
            "bin.000007",
            "573",
            "Slave_Pos",
            "Yes",
        ];
        let mut client = ScriptedClient::new().rows(CHANNELS, &columns, &[&values]);
        let channels = mariadb(11).channels(&mut client).unwrap();
        client.finish();
        assert_eq!(channels[0].source_log_file, "bin.000007");
        assert_eq!(channels[0].exec_source_log_pos, 573);
        assert!(channels[0].auto_position && channels[0].applier_running);
    }

    #[test]
    fn tablespaces_are_asked_for_where_the_version_has_their_paths() {
        let columns = &["path"];
        for (minor, statement) in [(5, DATAFILES), (6, TABLESPACES)] {
            let mut client = ScriptedClient::new().rows(statement, columns, &[&["./db/t.ibd"]]);
            let files = mariadb(minor).tablespace_files(&mut client).unwrap();
            client.finish();
            assert_eq!(files, ["./db/t.ibd"]);
        }
    }

    #[test]
    fn a_server_without_a_binlog_has_no_coordinates() {
        let mut client = ScriptedClient::new().done(COORDINATES);
        assert_eq!(mariadb(11).coordinates(&mut client).unwrap(), None);
    }
}
