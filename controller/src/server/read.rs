//! Readings that flavors share: a position, GTID variables, the first column.
//!
//! What makes it right: an answer that lacks what it must have is an error that names the statement, never a default.

use super::Coordinates;
use crate::client::{ClientError, Row, ServerClient};

/// None if there is no row: the server writes no binlog.
pub fn coordinates(
    client: &mut dyn ServerClient,
    statement: &str,
) -> Result<Option<Coordinates>, ClientError> {
    let rows = client.query(statement)?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let coordinates = || {
        let file = row.get("File")?.to_string();
        let offset = row.get("Position")?.parse().ok()?;
        Some(Coordinates { file, offset })
    };
    coordinates()
        .map(Some)
        .ok_or_else(|| ClientError::Unexpected {
            statement: statement.into(),
            what: "file and position".into(),
        })
}

/// Names and values of the first row.
pub fn pairs(
    client: &mut dyn ServerClient,
    statement: &str,
) -> Result<Vec<(String, String)>, ClientError> {
    let rows = client.query(statement)?;
    let columns = rows.into_iter().next().unwrap_or_default().0;
    Ok(columns
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .collect())
}

pub fn first_column(
    client: &mut dyn ServerClient,
    statement: &str,
) -> Result<Vec<String>, ClientError> {
    let rows = client.query(statement)?;
    let values = rows.iter().filter_map(Row::first);
    Ok(values.map(str::to_string).collect())
}

pub const FLUSH_AT_COMMIT: &str = "SELECT @@global.innodb_flush_log_at_trx_commit";

/// With 0, FLUSH ENGINE LOGS does nothing for InnoDB. A server without InnoDB does not know the variable.
pub fn keeps_logs(client: &mut dyn ServerClient) -> Result<bool, ClientError> {
    const UNKNOWN_VARIABLE: u16 = 1193;
    match first_column(client, FLUSH_AT_COMMIT) {
        Ok(values) => Ok(values.first().is_some_and(|value| value == "0")),
        Err(ClientError::Statement { code, .. }) if code == UNKNOWN_VARIABLE => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets a global variable from `after` back to `before`. Gives its value if that is another by now: then it is somebody else's, and is left alone.
pub fn set_back(
    client: &mut dyn ServerClient,
    name: &str,
    before: &str,
    after: &str,
) -> Result<Option<String>, ClientError> {
    let now = client.value(&format!("SELECT @@global.{name}"))?;
    if now != after {
        return Ok(Some(now));
    }
    client.run(&format!("SET GLOBAL {name} = {before}"))?;
    Ok(None)
}

/// The value that a SHOW STATUS statement gives; 0 if the server does not have the variable.
pub fn status(client: &mut dyn ServerClient, statement: &str) -> Result<u64, ClientError> {
    let rows = client.query(statement)?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let value = row.get("Value").and_then(|value| value.parse().ok());
    value.ok_or_else(|| ClientError::Unexpected {
        statement: statement.into(),
        what: "number".into(),
    })
}
