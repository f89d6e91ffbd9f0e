//! MySQL's words for replication, which changed over its versions.
//!
//! What makes it right: statements are those of the version in use, never older spellings that it might still take; columns are found under either name.

use super::{Channel, Version, position};
use crate::client::{ClientError, Row, ServerClient};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub coordinates: &'static str,
    pub channels: &'static str,
    pub temporary_tables: &'static str,
    /// REPLICA or SLAVE.
    noun: &'static str,
    named_channels: bool,
    groups: bool,
}

impl Words {
    pub fn of(version: &Version) -> Words {
        let is_since = |numbers| version.numbers >= numbers;
        let replica = version.says_replica();
        Words {
            coordinates: match version.says_binary_log() {
                true => "SHOW BINARY LOG STATUS",
                false => "SHOW MASTER STATUS",
            },
            channels: match replica {
                true => "SHOW REPLICA STATUS",
                false => "SHOW SLAVE STATUS",
            },
            temporary_tables: match is_since((8, 0, 26)) {
                true => "SHOW GLOBAL STATUS LIKE 'Replica_open_temp_tables'",
                false => "SHOW GLOBAL STATUS LIKE 'Slave_open_temp_tables'",
            },
            noun: if replica { "REPLICA" } else { "SLAVE" },
            named_channels: version.has_named_channels(),
            groups: is_since((5, 7, 17)),
        }
    }

    /// `verb` is START or STOP.
    pub fn applier(&self, verb: &str, channel: &str) -> String {
        let statement = format!("{verb} {} SQL_THREAD", self.noun);
        match self.named_channels {
            true => format!("{statement} FOR CHANNEL {}", crate::client::quoted(channel)),
            false => statement,
        }
    }

    pub fn is_group_member(&self, client: &mut dyn ServerClient) -> Result<bool, ClientError> {
        if !self.groups {
            return Ok(false);
        }
        let members = "SELECT MEMBER_ID FROM performance_schema.replication_group_members \
            WHERE MEMBER_ID <> '' AND MEMBER_STATE <> 'OFFLINE' LIMIT 1";
        Ok(!client.query(members)?.is_empty())
    }
}

pub const GTIDS: &str =
    "SELECT @@global.gtid_executed AS gtid_executed, @@global.gtid_purged AS gtid_purged";

/// A row of `channels`.
pub fn channel(row: &Row) -> Channel {
    let text = |new: &str, old: &str| {
        row.get(new)
            .or(row.get(old))
            .unwrap_or_default()
            .to_string()
    };
    let number = |new: &str, old: &str| text(new, old).parse().unwrap_or(0);
    Channel {
        name: text("Channel_Name", ""),
        host: text("Source_Host", "Master_Host"),
        port: number("Source_Port", "Master_Port") as u16,
        user: text("Source_User", "Master_User"),
        source_log_file: text("Relay_Source_Log_File", "Relay_Master_Log_File"),
        exec_source_log_pos: number("Exec_Source_Log_Pos", "Exec_Master_Log_Pos"),
        relay_log_file: text("Relay_Log_File", ""),
        // The server breaks long sets into lines.
        gtid_set: text("Executed_Gtid_Set", "").replace('\n', ""),
        auto_position: text("Auto_Position", "") == "1",
        applier_running: text("Replica_SQL_Running", "Slave_SQL_Running") == "Yes",
        receiver_running: text("Replica_IO_Running", "Slave_IO_Running") != "No",
        filters: position::filters(row),
        until: position::until(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;
    use crate::server::Flavor;

    fn words(major: u32, minor: u32, patch: u32) -> Words {
        Words::of(&Version::plain(Flavor::MySql, (major, minor, patch)))
    }

    #[test]
    fn statements_are_those_of_the_version() {
        assert_eq!(words(9, 7, 4).coordinates, "SHOW BINARY LOG STATUS");
        assert_eq!(words(8, 0, 40).coordinates, "SHOW MASTER STATUS");
        assert_eq!(words(8, 0, 40).channels, "SHOW REPLICA STATUS");
        assert_eq!(words(8, 0, 21).channels, "SHOW SLAVE STATUS");
        assert_eq!(
            words(9, 7, 4).applier("STOP", "it's"),
            "STOP REPLICA SQL_THREAD FOR CHANNEL 'it''s'"
        );
        assert_eq!(
            words(5, 7, 22).applier("START", ""),
            "START SLAVE SQL_THREAD FOR CHANNEL ''"
        );
        assert_eq!(words(5, 6, 24).applier("STOP", ""), "STOP SLAVE SQL_THREAD");
    }

    #[test]
    fn columns_are_found_under_either_name() {
        let row = |columns: &[&str]| {
            let values = ["one", "h", "3307", "repl", "bin.000007", "573", "Yes", "1"];
            let pairs = columns.iter().zip(values);
            Row(pairs
                .map(|(name, value)| (name.to_string(), Some(value.into())))
                .collect())
        };
        let new = row(&[
            "Channel_Name",
            "Source_Host",
            "Source_Port",
            "Source_User",
            "Relay_Source_Log_File",
            "Exec_Source_Log_Pos",
            "Replica_SQL_Running",
            "Auto_Position",
        ]);
        let old = row(&[
            "Channel_Name",
            "Master_Host",
            "Master_Port",
            "Master_User",
            "Relay_Master_Log_File",
            "Exec_Master_Log_Pos",
            "Slave_SQL_Running",
            "Auto_Position",
        ]);
        assert_eq!(channel(&new), channel(&old));
        let channel = channel(&new);
        assert_eq!((channel.port, channel.exec_source_log_pos), (3307, 573));
        assert!(channel.applier_running && channel.auto_position);
    }

    #[test]
    fn servers_without_groups_are_not_asked_for_them() {
        let mut client = ScriptedClient::new();
        assert!(!words(5, 6, 24).is_group_member(&mut client).unwrap());
        client.finish();
    }
}
