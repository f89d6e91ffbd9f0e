//! Which privileges the user has, so that a missing one is named before anything is done.
//!
//! What makes it right: only global grants count, since everything we need is global; ALL PRIVILEGES includes everything.

use super::{Privilege, ServerError};
use crate::client::{ClientError, ServerClient};

/// The user as the server knows it, and its global privileges in capitals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub user: String,
    global: Vec<String>,
}

impl Grants {
    pub fn read(client: &mut dyn ServerClient) -> Result<Grants, ClientError> {
        let user = client.value("SELECT CURRENT_USER()")?;
        let rows = client.query("SHOW GRANTS")?;
        let lines = || rows.iter().filter_map(|row| row.first());
        let mut global: Vec<String> = lines().flat_map(global_privileges).collect();
        // One that is revoked anywhere (MySQL's partial_revokes) hides something from us.
        let revoked: Vec<String> = lines().flat_map(revoked_privileges).collect();
        global.retain(|name| !revoked.contains(name));
        Ok(Grants { user, global })
    }

    fn has(&self, privilege: &Privilege) -> bool {
        let names = [&["ALL PRIVILEGES", privilege.name], privilege.also].concat();
        self.global
            .iter()
            .any(|granted| names.contains(&granted.as_str()))
    }

    pub fn missing<'p>(&self, needed: &'p [Privilege]) -> Vec<&'p Privilege> {
        needed
            .iter()
            .filter(|privilege| !self.has(privilege))
            .collect()
    }

    pub fn require(&self, needed: &[Privilege]) -> Result<(), ServerError> {
        let missing = self.missing(needed);
        if missing.is_empty() {
            return Ok(());
        }
        let named = |privilege: &&Privilege| format!("{} ({})", privilege.name, privilege.why);
        Err(ServerError::PrivilegesMissing {
            user: self.user.clone(),
            missing: missing.iter().map(named).collect(),
        })
    }
}

/// The names in `GRANT a, b ON *.* TO …`; nothing for a grant on less than everything.
fn global_privileges(line: &str) -> Vec<String> {
    let rest = line.strip_prefix("GRANT ");
    match rest.and_then(|rest| rest.split_once(" ON *.* ")) {
        Some((names, _)) => names_in(names),
        None => Vec::new(),
    }
}

/// The names in `REVOKE a, b ON schema.* FROM …`.
fn revoked_privileges(line: &str) -> Vec<String> {
    let rest = line.strip_prefix("REVOKE ");
    match rest.and_then(|rest| rest.split_once(" ON ")) {
        Some((names, _)) => names_in(names),
        None => Vec::new(),
    }
}

fn names_in(names: &str) -> Vec<String> {
    names
        .split(',')
        .map(|name| name.trim().to_ascii_uppercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;

    const RELOAD: Privilege = Privilege {
        name: "RELOAD",
        why: "to lock",
        also: &[],
    };
    const MONITOR: Privilege = Privilege {
        name: "BINLOG MONITOR",
        why: "to read the position",
        also: &["REPLICATION CLIENT"],
    };

    fn grants(lines: &[&str]) -> Grants {
        let rows: Vec<&[&str]> = lines.iter().map(std::slice::from_ref).collect();
        let mut client = ScriptedClient::new()
            .rows("SELECT CURRENT_USER()", &["u"], &[&["b@localhost"]])
            .rows("SHOW GRANTS", &["Grants for b@localhost"], &rows);
        let grants = Grants::read(&mut client).unwrap();
        client.finish();
        grants
    }

    #[test]
    fn a_missing_privilege_is_named_with_its_reason() {
        let grants = grants(&["GRANT RELOAD, PROCESS ON *.* TO `b`@`localhost`"]);
        let error = grants.require(&[RELOAD, MONITOR]).unwrap_err().to_string();
        assert_eq!(
            error,
            "User b@localhost lacks BINLOG MONITOR (to read the position)"
        );
    }

    #[test]
    fn all_privileges_and_other_names_count() {
        let all = grants(&["GRANT ALL PRIVILEGES ON *.* TO `b`@`localhost` WITH GRANT OPTION"]);
        all.require(&[RELOAD, MONITOR]).unwrap();
        let older = grants(&["GRANT RELOAD, REPLICATION CLIENT ON *.* TO 'b'@'localhost'"]);
        older.require(&[RELOAD, MONITOR]).unwrap();
    }

    #[test]
    fn what_is_revoked_on_one_database_is_missing() {
        const SELECT: Privilege = Privilege {
            name: "SELECT",
            ..RELOAD
        };
        let grants = grants(&[
            "GRANT SELECT, RELOAD ON *.* TO `b`@`localhost`",
            "REVOKE SELECT, INSERT ON `secret`.* FROM `b`@`localhost`",
        ]);
        assert_eq!(grants.missing(&[RELOAD, SELECT]).len(), 1);
    }

    #[test]
    fn a_grant_on_one_database_does_not_count() {
        let grants = grants(&[
            "GRANT USAGE ON *.* TO `b`@`localhost`",
            "GRANT ALL PRIVILEGES ON `x`.* TO `b`@`localhost`",
        ]);
        assert_eq!(grants.missing(&[RELOAD]).len(), 1);
    }
}
