//! The settings that a copy needs to start as this server did.
//!
//! What makes it right: what decides how the files are read (page size, which files make up a tablespace, engines and key stores) is taken over; paths
//! are those of the files themselves, with links in them resolved, as the roots of the backup are: so each can be told to be in one of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::roots::{canonical, named_in_place};
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
    DATA_FILES,
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
    FILE_KEY,
    "file_key_management_encryption_algorithm",
    "keyring_file_data",
    "keyring_encrypted_file_data",
    "keyring_vault_config",
    "keyring_okv_conf_dir",
    "keyring_aws_conf_file",
    "keyring_aws_data_file",
    "keyring_aws_cmk_id",
    "keyring_aws_region",
    "plugin_maturity",
];

/// Files of the system tablespace: `file:size:attributes`, one behind the other.
pub const DATA_FILES: &str = "innodb_data_file_path";

/// How to read the file of keys: the key itself, or behind the prefix where that is.
pub const FILE_KEY: &str = "file_key_management_filekey";
pub const FILE_KEY_PREFIX: &str = "FILE:";

/// What else than filters decides what an applier does with what it gets. Of two names of one variable the first counts.
const APPLIER: &[&[&str]] = &[
    &["gtid_ignore_duplicates"],
    &["replicate_events_marked_for_skip"],
    &["slave_run_triggers_for_rbr"],
    &["slave_ddl_exec_mode"],
    &["replica_exec_mode", "slave_exec_mode"],
    &["replica_skip_errors", "slave_skip_errors"],
    &["replica_type_conversions", "slave_type_conversions"],
];

/// Where the server's program has its own files. As they are named: a link to the version in use is meant to be followed at each start.
const PROGRAM_PATHS: &[&str] = &[
    "basedir",
    "plugin_dir",
    "lc_messages_dir",
    "character_sets_dir",
];

/// Where the files are.
const PATHS: &[&str] = &[
    "datadir",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "innodb_doublewrite_dir",
    "aria_log_dir_path",
    "rocksdb_datadir",
    "rocksdb_wal_dir",
    "tokudb_data_dir",
    "tokudb_log_dir",
    "relay_log_info_file",
];

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    pub format: BTreeMap<String, String>,
    pub paths: BTreeMap<String, String>,
    /// How its appliers did what they did: a sibling's do the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub applier: BTreeMap<String, String>,
    /// Base name of the binlogs, if there are any.
    pub log_bin: Option<String>,
    /// The indexes, where they are not named as the logs are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bin_index: Option<String>,
    pub relay_log: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_log_index: Option<String>,
    /// Libraries of engines and key stores.
    pub plugin_libraries: Vec<String>,
    /// Those that are loaded before the engines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub early_plugin_libraries: Vec<String>,
}

impl Settings {
    pub fn of(
        variables: &Variables,
        plugin_libraries: Vec<String>,
        early_plugin_libraries: Vec<String>,
    ) -> Settings {
        let take = |names: &'static [&str]| {
            names.iter().filter_map(|name| {
                let value = variables.get(name).filter(|value| !value.is_empty())?;
                Some((name.to_string(), value.to_string()))
            })
        };
        let datadir = canonical(&variables.datadir());
        let shown = |path: PathBuf| inside_or_whole(&named_in_place(&path), &datadir);
        let index = |base: &str, index: &str| {
            let (base, index) = (variables.path(base)?, variables.path(index)?);
            (index != with_suffix(&base, ".index")).then(|| shown(index))
        };
        Settings {
            format: take(FORMAT).collect(),
            paths: take(PATHS)
                .map(resolved)
                .chain(take(PROGRAM_PATHS))
                .collect(),
            applier: APPLIER
                .iter()
                .filter_map(|names| take(names).next())
                .filter(|(_, value)| value != "OFF")
                .collect(),
            log_bin: variables
                .path("log_bin_basename")
                .filter(|_| variables.is_on("log_bin"))
                .map(shown),
            log_bin_index: index("log_bin_basename", "log_bin_index"),
            relay_log: variables.path("relay_log_basename").map(shown),
            relay_log_index: index("relay_log_basename", "relay_log_index"),
            plugin_libraries,
            early_plugin_libraries,
        }
    }

    /// Lines `name=value` of what a sibling's appliers take over.
    pub fn applier_lines(&self) -> impl Iterator<Item = String> + '_ {
        let line =
            |(name, value): (&String, &String)| format!("loose_{name}={}", option_value(value));
        self.applier.iter().map(line)
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
        let mut logs = vec![
            ("relay_log", &self.relay_log),
            ("relay_log_index", &self.relay_log_index),
        ];
        if with_binlogs {
            logs.extend([
                ("log_bin", &self.log_bin),
                ("log_bin_index", &self.log_bin_index),
            ]);
        } else {
            text.push_str("skip_log_bin\n");
        }
        for (name, value) in logs {
            if let Some(value) = value {
                let _ = writeln!(text, "{name} = {}", option_value(value));
            }
        }
        if !self.early_plugin_libraries.is_empty() {
            // There is no option that adds to it.
            let libraries = self.early_plugin_libraries.join(";");
            let _ = writeln!(text, "early_plugin_load = {}", option_value(&libraries));
        }
        for library in &self.plugin_libraries {
            let _ = writeln!(text, "plugin_load_add = {}", option_value(library));
        }
        text
    }
}

/// A relative path is meant relative to the data directory, and stays so.
fn resolved((name, value): (String, String)) -> (String, String) {
    let path = Path::new(&value);
    match path.is_absolute() {
        true => (name, canonical(path).display().to_string()),
        false => (name, value),
    }
}

/// Relative inside the data directory: an index with absolute names would lead a copy to the files of the live server.
fn inside_or_whole(path: &Path, datadir: &Path) -> String {
    let inside = path.strip_prefix(datadir).unwrap_or(path);
    inside.display().to_string()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
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
            ("datadir", "/nowhere/my sql/"),
            ("innodb_page_size", "16384"),
            ("innodb_log_group_home_dir", "./"),
            ("log_bin", "ON"),
            ("log_bin_basename", "/nowhere/mysql/bin"),
            ("log_bin_index", "/nowhere/mysql/bin.index"),
            ("unrelated", "x"),
        ]);
        let keyrings = vec!["keyring_file.so".into(), "keyring_vault.so".into()];
        let settings = Settings::of(&variables, vec!["ha_rocksdb.so".into()], keyrings);
        assert_eq!(
            settings.option_file(true),
            "# Settings of the server that was backed up\n[mysqld]\nloose_innodb_page_size = 16384\n\
             loose_datadir = \"/nowhere/my sql/\"\nloose_innodb_log_group_home_dir = ./\n\
             log_bin = /nowhere/mysql/bin\nearly_plugin_load = keyring_file.so;keyring_vault.so\n\
             plugin_load_add = ha_rocksdb.so\n"
        );
    }

    #[test]
    fn what_appliers_do_is_kept_apart_and_under_one_name() {
        let variables = Variables::from([
            ("datadir", "/nowhere/"),
            ("slave_exec_mode", "IDEMPOTENT"),
            ("replica_exec_mode", "IDEMPOTENT"),
            ("slave_skip_errors", "OFF"),
            ("slave_run_triggers_for_rbr", "YES"),
            ("slave_type_conversions", ""),
        ]);
        let settings = Settings::of(&variables, Vec::new(), Vec::new());
        let lines: Vec<_> = settings.applier_lines().collect();
        assert_eq!(
            lines,
            [
                "loose_replica_exec_mode=IDEMPOTENT",
                "loose_slave_run_triggers_for_rbr=YES"
            ]
        );
        assert!(!settings.option_file(true).contains("exec_mode"));
    }

    #[test]
    fn paths_are_those_behind_links_and_relative_inside_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let at = |name: &str| real.join(name).display().to_string();
        for made in ["real/log", "far"] {
            std::fs::create_dir_all(real.join(made)).unwrap();
        }
        for (target, link) in [("real", "data"), ("far", "near")] {
            std::os::unix::fs::symlink(target, real.join(link)).unwrap();
        }
        let variables = Variables::from([
            ("datadir", at("data/").as_str()),
            ("innodb_undo_directory", &at("near")),
            ("plugin_dir", &at("near")),
            ("log_bin", "ON"),
            ("log_bin_basename", &at("data/log/bin")),
            ("log_bin_index", &at("near/other.index")),
            ("relay_log_basename", &at("near/relay")),
            ("relay_log_index", &at("near/relay.index")),
        ]);
        let settings = Settings::of(&variables, Vec::new(), Vec::new());
        assert_eq!(settings.paths["datadir"], at("real"));
        assert_eq!(settings.paths["innodb_undo_directory"], at("far"));
        assert_eq!(settings.paths["plugin_dir"], at("near"));
        assert_eq!(settings.log_bin.as_deref(), Some("log/bin"));
        assert_eq!(settings.log_bin_index, Some(at("far/other.index")));
        assert_eq!(settings.relay_log, Some(at("far/relay")));
        assert_eq!(settings.relay_log_index, None);
    }
}
