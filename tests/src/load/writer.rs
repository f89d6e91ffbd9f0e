//! One writer: inserts, updates, deletes, blobs and short transactions on tables of every engine.
//!
//! Rule: ids are drawn from a fixed range, so that the tables keep their size however long the load runs.

use mysql::Conn;
use mysql::prelude::Queryable;

use super::{DATABASE, Shared};
use crate::random::Random;

const TABLES_PER_ENGINE: u64 = 2;
const ROWS: u64 = 1500;
const BLOB_BYTES_MAX: u64 = 150_000;

pub fn create_tables(conn: &mut Conn, engines: &[&str]) {
    let mut run = |statement: String| {
        conn.query_drop(&statement)
            .unwrap_or_else(|e| panic!("{statement}: {e}"))
    };
    run(format!("CREATE DATABASE IF NOT EXISTS {DATABASE}"));
    for engine in engines {
        for number in 0..TABLES_PER_ENGINE {
            let table = table(engine, number);
            run(format!(
                "CREATE TABLE IF NOT EXISTS {table} (id INT PRIMARY KEY, n BIGINT NOT NULL, s VARCHAR(200), b LONGBLOB, \
                 KEY by_n (n), KEY by_s (s)) ENGINE={engine}"
            ));
        }
    }
}

fn table(engine: &str, number: u64) -> String {
    format!("{DATABASE}.w_{}_{number}", engine.to_lowercase())
}

pub fn any_table(engines: &[&str], random: &mut Random) -> String {
    let engine = random.pick(engines);
    table(engine, random.below(TABLES_PER_ENGINE))
}

pub fn run(mut conn: Conn, shared: &Shared, seed: u64) {
    let mut random = Random::new(seed);
    // OPTIMIZE has the table opened anew: a transaction that waits for that, and one that waits for its rows, would wait for each
    // other for as long as a row may be waited for.
    let goes_on = shared.write(&mut conn, "SET SESSION innodb_lock_wait_timeout = 1");
    while goes_on && !shared.stopped() {
        let goes_on = match random.below(8) {
            0 => transaction(&mut conn, shared, &mut random),
            _ => {
                let table = any_table(shared.engines, &mut random);
                shared.write(&mut conn, &statement(&table, &mut random))
            }
        };
        if !goes_on {
            return;
        }
    }
}

fn transaction(conn: &mut Conn, shared: &Shared, random: &mut Random) -> bool {
    let table = table("InnoDB", random.below(TABLES_PER_ENGINE));
    let mut goes_on = shared.write(conn, "BEGIN");
    for _ in 0..1 + random.below(6) {
        goes_on = goes_on && shared.write(conn, &statement(&table, random));
    }
    let end = if random.below(6) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    goes_on && shared.write(conn, end)
}

fn statement(table: &str, random: &mut Random) -> String {
    let (id, n) = (random.below(ROWS), random.word() >> 1);
    let text = "x".repeat(random.below(180) as usize);
    match random.below(10) {
        0..=3 => format!("REPLACE INTO {table} VALUES ({id}, {n}, '{n:x}{text}', NULL)"),
        4..=6 => format!(
            "UPDATE {table} SET n = {n}, s = '{text}{n}' WHERE id BETWEEN {id} AND {}",
            id + 3
        ),
        7 => format!("DELETE FROM {table} WHERE id BETWEEN {id} AND {}", id + 20),
        _ => {
            let repeats = random.below(BLOB_BYTES_MAX) / 16;
            format!("REPLACE INTO {table} VALUES ({id}, {n}, NULL, REPEAT('{n:016x}', {repeats}))")
        }
    }
}
