//! The settings that a copy needs to start as this server did.
//!
//! What makes it right: what decides how the files are read (page size, which files make up a tablespace, engines and key stores) is taken over; paths
//! are written as they were, and `prepare` and `restore` put their own behind them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::server::Variables;

/// How the files are read. Names that a flavor does not have are skipped.
const FORMAT: &[&str] = &[
    "server_id",
    "lower_case_table_names",
    "character_set_server",
    "collation_server",
    "default_storage_engine",
    "explicit_defaults_for_timestamp",
    "gtid_domain_id",
    "gtid_mode",
    "enforce_gtid_consistency",
    "binlog_format",
    "log_slave_updates",
    "innodb_page_size",
    "innodb_data_file_path",
    "innodb_file_per_table",
    "innodb_undo_tablespaces",
    "innodb_log_file_size",
    "innodb_log_files_in_group",
    "innodb_redo_log_capacity",
    "innodb_checksum_algorithm",
    "innodb_compression_algorithm",
    "innodb_encrypt_tables",
    "innodb_encrypt_log",
    "innodb_directories",
    "aria_log_file_size",
    "aria_encrypt_tables",
    "encrypt_binlog",
    "encrypt_tmp_files",
    "file_key_management_filename",
    "file_key_management_filekey",
    "file_key_management_encryption_algorithm",
    "keyring_file_data",
    "plugin_maturity",
];

/// Where the files are.
const PATHS: &[&str] = &[
    "datadir",
    "basedir",
    "plugin_dir",
    "lc_messages_dir",
    "character_sets_dir",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "innodb_doublewrite_dir",
    "aria_log_dir_path",
    "rocksdb_datadir",
    "rocksdb_wal_dir",
];

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    pub format: BTreeMap<String, String>,
    pub paths: BTreeMap<String, String>,
    /// Base name of the binlogs, if there are any.
    pub log_bin: Option<String>,
    pub relay_log: Option<String>,
    /// Libraries of engines and key stores.
    pub plugin_libraries: Vec<String>,
}

impl Settings {
    pub fn of(variables: &Variables, plugin_libraries: Vec<String>) -> Settings {
        let take = |names: &[&str]| {
            let pair = |name: &&str| {
                let value = variables.get(name).filter(|value| !value.is_empty())?;
                Some((name.to_string(), value.to_string()))
            };
            names.iter().filter_map(pair).collect()
        };
        let text = |name: &str| base_name(&variables.path(name)?, &variables.datadir());
        Settings {
            format: take(FORMAT),
            paths: take(PATHS),
            log_bin: text("log_bin_basename").filter(|_| variables.is_on("log_bin")),
            relay_log: text("relay_log_basename"),
            plugin_libraries,
        }
    }

    /// As an option file. `with_binlogs`: the copy has binlogs, which its recovery must look at.
    pub fn option_file(&self, with_binlogs: bool) -> String {
        let mut text = String::from("# Settings of the server that was backed up\n[mysqld]\n");
        // Loose: an engine that is not there any more must not keep the server from starting.
        for (name, value) in &self.format {
            let _ = writeln!(text, "loose_{name} = {}", option_value(value));
        }
        for (name, value) in &self.paths {
            let _ = writeln!(text, "loose_{name} = {}", option_value(value));
        }
        if !with_binlogs {
            text.push_str("skip_log_bin\n");
        } else if let Some(base) = &self.log_bin {
            let _ = writeln!(text, "log_bin = {}", option_value(base));
        }
        if let Some(base) = &self.relay_log {
            let _ = writeln!(text, "relay_log = {}", option_value(base));
        }
        for library in &self.plugin_libraries {
            let _ = writeln!(text, "plugin_load_add = {}", option_value(library));
        }
        text
    }
}

/// Relative inside the data directory: an index with absolute names would lead a copy to the files of the live server.
fn base_name(path: &Path, datadir: &Path) -> Option<String> {
    let shown = match path.parent()? == datadir.components().collect::<PathBuf>() {
        true => Path::new(path.file_name()?),
        false => path,
    };
    Some(shown.display().to_string())
}

/// Quoted where a reader of option files would see something else.
pub fn option_value(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:;+,".contains(c);
    if value.chars().all(is_plain) {
        value.into()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_an_option_file() {
        let variables = Variables::from([
            ("datadir", "/var/lib/my sql/"),
            ("innodb_page_size", "16384"),
            ("log_bin", "ON"),
            ("log_bin_basename", "/var/lib/mysql/bin"),
            ("unrelated", "x"),
        ]);
        let settings = Settings::of(&variables, vec!["ha_rocksdb.so".into()]);
        assert_eq!(
            settings.option_file(true),
            "# Settings of the server that was backed up\n[mysqld]\nloose_innodb_page_size = 16384\n\
             loose_datadir = \"/var/lib/my sql/\"\nlog_bin = /var/lib/mysql/bin\nplugin_load_add = ha_rocksdb.so\n"
        );
    }
}
