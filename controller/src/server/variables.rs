//! The server's settings, read once.
//!
//! What makes it right: names that a flavor does not have are simply absent, and an empty value counts as absent where a path is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::client::{ClientError, ServerClient};

pub const STATEMENT: &str = "SHOW GLOBAL VARIABLES";

#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    pub fn read(client: &mut dyn ServerClient) -> Result<Variables, ClientError> {
        let rows = client.query(STATEMENT)?;
        let pair = |row: &crate::client::Row| {
            let name = row.get("Variable_name")?.to_ascii_lowercase();
            Some((name, row.get("Value").unwrap_or_default().to_string()))
        };
        Ok(Variables(rows.iter().filter_map(pair).collect()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("ON" | "1" | "YES"))
    }

    pub fn datadir(&self) -> PathBuf {
        PathBuf::from(self.get("datadir").unwrap_or_default())
    }

    /// A path-valued setting, made absolute as the server does: relative to its data directory.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name).filter(|value| !value.is_empty())?;
        Some(clean(&self.datadir().join(value)))
    }

    /// The same for a setting that may list several, with colons between them.
    pub fn paths(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let list = self.get(name).unwrap_or_default().split(':');
        let datadir = self.datadir();
        list.filter(|value| !value.is_empty())
            .map(move |value| clean(&datadir.join(value)))
    }

    pub fn server_id(&self) -> u32 {
        self.get("server_id")
            .and_then(|id| id.parse().ok())
            .unwrap_or(0)
    }
}

/// Without "." components and trailing slashes.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Variables {
    fn from(pairs: [(&str, &str); N]) -> Variables {
        Variables(
            pairs
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_below_the_data_directory() {
        let variables = Variables::from([
            ("datadir", "/var/lib/mysql/"),
            ("innodb_undo_directory", "./"),
            ("log_bin_basename", "/var/log/mysql/bin"),
            ("innodb_data_home_dir", ""),
        ]);
        assert_eq!(
            variables.path("innodb_undo_directory"),
            Some("/var/lib/mysql".into())
        );
        assert_eq!(
            variables.path("log_bin_basename"),
            Some("/var/log/mysql/bin".into())
        );
        assert_eq!(variables.path("innodb_data_home_dir"), None);
    }

    #[test]
    fn a_list_of_paths_has_colons() {
        let variables = Variables::from([("datadir", "/d"), ("tmpdir", "/tmp:tmp/:")]);
        let paths: Vec<PathBuf> = variables.paths("tmpdir").collect();
        assert_eq!(paths, [Path::new("/tmp"), Path::new("/d/tmp")]);
        assert_eq!(variables.paths("innodb_tmpdir").count(), 0);
    }
}
