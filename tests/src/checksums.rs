//! What two servers hold, compared: a checksum of every row of every user table.
//!
//! Rule: only meaningful while nobody writes; the caller has stopped the load and waited for the replica.

use std::collections::BTreeMap;

use mysql::prelude::Queryable;

use crate::server::Server;

const USER_TABLES: &str = "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables \
     WHERE table_type = 'BASE TABLE' \
     AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1";

/// Names of all user tables.
pub fn user_tables(server: &Server) -> Vec<String> {
    server
        .conn()
        .query(USER_TABLES)
        .unwrap_or_else(|e| panic!("{USER_TABLES}: {e}"))
}

/// Checksum of each user table; None where the server could not read the table.
pub fn checksums(server: &Server) -> BTreeMap<String, Option<u64>> {
    let mut conn = server.conn();
    let tables = user_tables(server);
    tables
        .into_iter()
        .map(|table| {
            let query = format!("CHECKSUM TABLE {table} EXTENDED");
            let row: Option<(String, Option<u64>)> = conn
                .query_first(&query)
                .unwrap_or_else(|e| panic!("{query}: {e}"));
            (table, row.and_then(|(_, sum)| sum))
        })
        .collect()
}

/// Fails unless both hold the same tables with the same rows; gives their number.
#[track_caller]
pub fn assert_equal(source: &Server, copy: &Server, what: &str) -> usize {
    let (theirs, ours) = (checksums(source), checksums(copy));
    assert!(!theirs.is_empty(), "{what}: no tables to compare");
    let differences: Vec<String> = theirs
        .keys()
        .chain(ours.keys())
        .filter(|table| theirs.get(*table) != ours.get(*table) || theirs.get(*table) == Some(&None))
        .map(|table| {
            format!(
                "{table}: source {:?}, copy {:?}",
                theirs.get(table),
                ours.get(table)
            )
        })
        .collect();
    assert!(
        differences.is_empty(),
        "{what} differs from its source: {differences:#?}"
    );
    theirs.len()
}

/// Fails unless CHECK TABLE … EXTENDED finds every user table in order; gives their number.
#[track_caller]
pub fn assert_tables_in_order(server: &Server, what: &str) -> usize {
    let mut conn = server.conn();
    let tables = user_tables(server);
    for table in &tables {
        let query = format!("CHECK TABLE {table} EXTENDED");
        let rows: Vec<(String, String, String, String)> = conn
            .query(&query)
            .unwrap_or_else(|e| panic!("{what}: {query}: {e}"));
        let in_order = rows
            .last()
            .is_some_and(|row| row.2 == "status" && row.3 == "OK")
            && rows.iter().all(|row| row.2 != "error");
        assert!(in_order, "{what}: {query}: {rows:?}");
    }
    tables.len()
}
