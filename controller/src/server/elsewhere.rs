//! Engines whose data the server's process does not write, so that no copy of its files has it.
//!
//! What makes it right: only a server that has such an engine is asked for its tables, since older servers open each one to answer. A user who may not read a table does not
//! see it, so the engine itself is reason to warn, too.

use crate::client::{ClientError, Row, ServerClient};

pub const ENGINES: &str = "SELECT ENGINE FROM information_schema.ENGINES \
    WHERE ENGINE IN ('Columnstore', 'S3', 'ndbcluster') AND SUPPORT IN ('YES', 'DEFAULT')";
pub const TABLES: &str = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) AS name, ENGINE \
    FROM information_schema.TABLES WHERE ENGINE IN ('Columnstore', 'S3', 'ndbcluster') \
    AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') LIMIT 1";

/// What to warn of, if there is such an engine.
pub fn warning(client: &mut dyn ServerClient) -> Result<Option<String>, ClientError> {
    let engines = client.query(ENGINES)?;
    let Some(engine) = engines.first().and_then(Row::first) else {
        return Ok(None);
    };
    // The engine may have to ask elsewhere, in vain, which is no reason to end a backup.
    let tables = client.query(TABLES).unwrap_or_default();
    let found = tables
        .first()
        .and_then(|row| Some((row.get("name")?, row.get("ENGINE")?)));
    Ok(Some(match found {
        Some((table, engine)) => format!(
            "Table {table} is of engine {engine}, which keeps data outside of this server: that data, and that of other such tables, is not in the backup; back it up by the engine's own means"
        ),
        None => format!(
            "Engine {engine} is active, which keeps data outside of this server: if it has tables, which this user can't see, their data is not in the backup"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::ScriptedClient;

    fn warning_of(client: ScriptedClient) -> Option<String> {
        let mut client = client;
        let warning = warning(&mut client).unwrap();
        client.finish();
        warning
    }

    #[test]
    fn tables_whose_data_is_elsewhere_are_warned_of_by_name() {
        let engine = || ScriptedClient::new().rows(ENGINES, &["ENGINE"], &[&["Columnstore"]]);
        let table: &[&str] = &["shop.facts", "Columnstore"];
        let client = engine().rows(TABLES, &["name", "ENGINE"], &[table]);
        let text = warning_of(client).unwrap();
        let expected = "Table shop.facts is of engine Columnstore, ";
        assert!(text.starts_with(expected), "{text}");
        let text = warning_of(engine().done(TABLES)).unwrap();
        assert!(text.starts_with("Engine Columnstore is active"), "{text}");
    }

    #[test]
    fn an_engine_that_cannot_list_its_tables_ends_no_backup() {
        let client = ScriptedClient::new().rows(ENGINES, &["ENGINE"], &[&["S3"]]);
        let text = warning_of(client.error(TABLES, 3, "Got error from S3")).unwrap();
        assert!(text.starts_with("Engine S3 is active"), "{text}");
    }

    #[test]
    fn a_server_without_such_engines_is_not_asked_for_tables() {
        assert_eq!(warning_of(ScriptedClient::new().done(ENGINES)), None);
    }
}
