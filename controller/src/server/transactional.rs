//! Which user tables are written without transactions: what a cut without a table lock would catch half-way.
//!
//! What makes it right: the server says which of its engines have transactions, so engines that nobody here has heard of count right. Tables that keep
//! nothing on disk don't count.

use super::read;
use crate::client::{ClientError, ServerClient};

pub const STATEMENT: &str = "SELECT CONCAT(t.TABLE_SCHEMA, '.', t.TABLE_NAME) AS name \
    FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
    WHERE t.TABLE_TYPE = 'BASE TABLE' AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES' \
    AND t.ENGINE NOT IN ('MEMORY', 'BLACKHOLE', 'FEDERATED', 'PERFORMANCE_SCHEMA') \
    AND t.TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') LIMIT 1";

/// One of the tables, if there are any.
pub fn first_other(client: &mut dyn ServerClient) -> Result<Option<String>, ClientError> {
    Ok(read::first_column(client, STATEMENT)?.into_iter().next())
}

pub const IN_MEMORY: &str = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) AS name \
    FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
    AND (ENGINE = 'ARCHIVE' OR CREATE_OPTIONS LIKE '%delay_key_write=1%') \
    AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') LIMIT 1";

/// One of the tables of which the server keeps in memory what was written, if there are any.
pub fn first_in_memory(client: &mut dyn ServerClient) -> Result<Option<String>, ClientError> {
    Ok(read::first_column(client, IN_MEMORY)?.into_iter().next())
}
