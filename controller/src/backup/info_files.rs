//! The position in words: hotmirror_binlog_info, hotmirror_slave_info, and the files that users of other tools know.
//!
//! What makes it right: the lines are to the letter those that existing scripts read.

use std::path::Path;

use crate::server::{Channel, Flavor, Position, Version};
use crate::system;

pub const BINLOG_INFO: &str = "hotmirror_binlog_info";
pub const SLAVE_INFO: &str = "hotmirror_slave_info";

/// File names and contents.
pub fn files(
    version: &Version,
    position: Option<&Position>,
    channels: &[Channel],
    compat: bool,
) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut add = |name: &str, content: String| files.push((name.to_string(), content));
    if let Some(position) = position {
        add(BINLOG_INFO, binlog_line(position));
    }
    if !channels.is_empty() {
        add(SLAVE_INFO, channels.iter().map(slave_line).collect());
    }
    if !compat {
        return files;
    }
    let prefix = match version.flavor {
        Flavor::MariaDb => "mariadb_backup",
        _ => "xtrabackup",
    };
    if let Some(position) = position {
        let line = tabbed(position);
        add("xtrabackup_binlog_info", line.clone());
        if version.flavor == Flavor::MariaDb {
            add("mariadb_backup_binlog_info", line);
        }
    }
    if !channels.is_empty() {
        let lines = match version.flavor {
            Flavor::MariaDb => mariadb_channels(channels),
            _ => mysql_channels(version, channels, position),
        };
        add(&format!("{prefix}_slave_info"), lines);
    }
    files
}

pub fn write(directory: &Path, files: &[(String, String)]) -> std::io::Result<()> {
    files.iter().try_for_each(|(name, content)| {
        system::write_file(&directory.join(name), content.as_bytes())
    })
}

fn binlog_line(position: &Position) -> String {
    format!(
        "filename: {}, position: {}, gtid_mode: {}, GTID of last change: {}\n",
        position.coordinates.file,
        position.coordinates.offset,
        position.gtid_mode,
        position.gtid_set
    )
}

fn slave_line(channel: &Channel) -> String {
    format!(
        "host: {}, user: {}, port: {}, master log file: {}, relay log file: {}, exec master log pos: {}, executed gtid set: {}, channel name: {}\n",
        channel.host,
        channel.user,
        channel.port,
        channel.source_log_file,
        channel.relay_log_file,
        channel.exec_source_log_pos,
        channel.gtid_set,
        channel.name
    )
}

fn tabbed(position: &Position) -> String {
    let Position {
        coordinates,
        gtid_set,
        ..
    } = position;
    match gtid_set.is_empty() {
        true => format!("{}\t{}\n", coordinates.file, coordinates.offset),
        false => format!("{}\t{}\t{gtid_set}\n", coordinates.file, coordinates.offset),
    }
}

fn mariadb_channels(channels: &[Channel]) -> String {
    let by_gtid = channels.iter().find(|channel| channel.auto_position);
    let mut text = by_gtid.map_or(String::new(), |channel| {
        format!("SET GLOBAL gtid_slave_pos = '{}';\n", channel.gtid_set)
    });
    for channel in channels {
        let name = match channel.name.as_str() {
            "" => String::new(),
            name => format!(" '{name}'"),
        };
        let target = match channel.auto_position {
            true => "master_use_gtid = slave_pos".to_string(),
            false => format!(
                "master_log_file = '{}', master_log_pos = {}",
                channel.source_log_file, channel.exec_source_log_pos
            ),
        };
        text.push_str(&format!("CHANGE MASTER{name} TO {target};\n"));
    }
    text
}

fn mysql_channels(version: &Version, channels: &[Channel], position: Option<&Position>) -> String {
    let (change, word) = match version.has_change_source() {
        true => ("CHANGE REPLICATION SOURCE", "SOURCE"),
        false => ("CHANGE MASTER", "MASTER"),
    };
    let mut text = String::new();
    // Without a position, as without a binlog, what was executed of the sources is what the channels say.
    let by_gtid = channels.iter().find(|channel| channel.auto_position);
    let set = position.map(|position| &position.gtid_set);
    let set = by_gtid.map(|channel| set.unwrap_or(&channel.gtid_set));
    if let Some(set) = set.filter(|set| !set.is_empty()) {
        text.push_str(&format!("SET GLOBAL gtid_purged='{set}';\n"));
    }
    for channel in channels {
        let target = match channel.auto_position {
            true => format!("{word}_AUTO_POSITION=1"),
            false => format!(
                "{word}_LOG_FILE='{}', {word}_LOG_POS={}",
                channel.source_log_file, channel.exec_source_log_pos
            ),
        };
        let name = match channel.name.as_str() {
            "" => String::new(),
            name => format!(" FOR CHANNEL '{name}'"),
        };
        text.push_str(&format!("{change} TO {target}{name};\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Coordinates;

    fn mariadb() -> Version {
        Version::plain(Flavor::MariaDb, (10, 11, 1))
    }

    fn position() -> Position {
        Position {
            coordinates: Coordinates {
                file: "bin.000001".into(),
                offset: 17320462,
            },
            gtid_set: "0-1-42".into(),
            gtid_mode: "ON".into(),
            gtid_variables: Vec::new(),
        }
    }

    fn channel(name: &str, auto_position: bool) -> Channel {
        Channel {
            name: name.into(),
            host: "127.0.0.1".into(),
            port: 13000,
            user: "repl".into(),
            source_log_file: "master-bin.000001".into(),
            exec_source_log_pos: 573,
            relay_log_file: "relay-bin.000002".into(),
            gtid_set: "0-1-5".into(),
            auto_position,
            ..Channel::default()
        }
    }

    fn content(files: &[(String, String)], name: &str) -> String {
        files
            .iter()
            .find(|(found, _)| found == name)
            .unwrap()
            .1
            .clone()
    }

    #[test]
    fn without_a_position_of_its_own_a_replica_has_what_its_channels_executed() {
        let version = Version::plain(Flavor::MySql, (9, 7, 0));
        let text = mysql_channels(&version, &[channel("", true)], None);
        assert!(
            text.starts_with("SET GLOBAL gtid_purged='0-1-5';\n"),
            "{text}"
        );
    }

    #[test]
    fn a_version_gets_the_words_that_it_knows() {
        let lines = |flavor, numbers| {
            let channels = [channel("", true), channel("two", false)];
            mysql_channels(
                &Version::plain(flavor, numbers),
                &channels,
                Some(&position()),
            )
        };
        assert_eq!(
            lines(Flavor::MySql, (8, 0, 23)),
            "SET GLOBAL gtid_purged='0-1-42';\n\
             CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION=1;\n\
             CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='master-bin.000001', SOURCE_LOG_POS=573 FOR CHANNEL 'two';\n"
        );
        let older = "SET GLOBAL gtid_purged='0-1-42';\n\
             CHANGE MASTER TO MASTER_AUTO_POSITION=1;\n\
             CHANGE MASTER TO MASTER_LOG_FILE='master-bin.000001', MASTER_LOG_POS=573 FOR CHANNEL 'two';\n";
        assert_eq!(lines(Flavor::MySql, (8, 0, 22)), older);
        assert_eq!(lines(Flavor::Percona, (5, 7, 22)), older);
    }

    #[test]
    fn the_lines_are_those_that_scripts_read() {
        let channels = [channel("", false), channel("two", false)];
        let files = files(&mariadb(), Some(&position()), &channels, false);
        assert_eq!(files.len(), 2);
        assert_eq!(
            content(&files, BINLOG_INFO),
            "filename: bin.000001, position: 17320462, gtid_mode: ON, GTID of last change: 0-1-42\n"
        );
        assert_eq!(
            content(&files, SLAVE_INFO).lines().nth(1).unwrap(),
            "host: 127.0.0.1, user: repl, port: 13000, master log file: master-bin.000001, \
             relay log file: relay-bin.000002, exec master log pos: 573, executed gtid set: 0-1-5, channel name: two"
        );
    }

    #[test]
    fn the_files_of_other_tools_are_written_on_request() {
        let channels = [channel("", true), channel("two", false)];
        let files = files(&mariadb(), Some(&position()), &channels, true);
        let line = "bin.000001\t17320462\t0-1-42\n";
        assert_eq!(content(&files, "xtrabackup_binlog_info"), line);
        assert_eq!(content(&files, "mariadb_backup_binlog_info"), line);
        assert_eq!(
            content(&files, "mariadb_backup_slave_info"),
            "SET GLOBAL gtid_slave_pos = '0-1-5';\n\
             CHANGE MASTER TO master_use_gtid = slave_pos;\n\
             CHANGE MASTER 'two' TO master_log_file = 'master-bin.000001', master_log_pos = 573;\n"
        );
    }

    #[test]
    fn without_a_position_or_channels_there_is_no_file() {
        assert!(files(&mariadb(), None, &[], true).is_empty());
    }
}
