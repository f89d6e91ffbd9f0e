//! Statements that make, change, move and remove files: tables, databases, binlogs.
//!
//! Rule: every statement finds what it needs whatever the ones before it did, so that one that fails is worth a look.

use mysql::Conn;

use super::{DATABASE, Shared, writer};
use crate::random::Random;

const TABLES: u64 = 6;

pub fn run(mut conn: Conn, shared: &Shared, seed: u64) {
    let mut random = Random::new(seed ^ 0xdd1);
    while !shared.stopped() {
        for statement in step(shared, &mut random) {
            if !shared.change(&mut conn, &statement) {
                return;
            }
        }
    }
}

/// A few statements that belong together.
fn step(shared: &Shared, random: &mut Random) -> Vec<String> {
    let engines = shared.engines;
    let number = random.below(TABLES);
    let table = format!("{DATABASE}.d_{number}");
    let engine = random.pick(engines);
    match random.below(16) {
        0..=5 => vec![create(&table, engine), fill(&table, random)],
        6 => vec![create(&table, engine), format!("DROP TABLE {table}")],
        7 => vec![
            create(&table, engine),
            fill(&table, random),
            format!("DROP TABLE IF EXISTS {table}_moved"),
            format!("RENAME TABLE {table} TO {table}_moved"),
        ],
        8 => vec![create(&table, engine), format!("TRUNCATE TABLE {table}")],
        9 => vec![create(&table, engine), format!("OPTIMIZE TABLE {table}")],
        10 => alter(shared, &table, engine, random),
        11 => vec![format!(
            "OPTIMIZE TABLE {}",
            writer::any_table(engines, random)
        )],
        12 => vec![format!(
            "ALTER TABLE {} FORCE",
            writer::any_table(engines, random)
        )],
        13 => vec![format!(
            "TRUNCATE TABLE {}",
            writer::any_table(engines, random)
        )],
        14 => vec!["FLUSH BINARY LOGS".into()],
        _ => database(random, engine),
    }
}

/// MySQL can't add a column only if it is missing, so its table is a new one.
fn alter(shared: &Shared, table: &str, engine: &str, random: &mut Random) -> Vec<String> {
    let add = match shared.is_mariadb {
        true => "ADD COLUMN IF NOT EXISTS added INT DEFAULT 7, FORCE",
        false => "ADD COLUMN added INT DEFAULT 7",
    };
    let engine_after = random.pick(shared.engines);
    let mut statements = vec![
        create(table, engine),
        fill(table, random),
        format!("ALTER TABLE {table} {add}"),
        format!("ALTER TABLE {table} DROP COLUMN added, ENGINE={engine_after}"),
    ];
    if !shared.is_mariadb {
        statements.insert(0, format!("DROP TABLE IF EXISTS {table}"));
    }
    statements
}

fn create(table: &str, engine: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(500)) ENGINE={engine}"
    )
}

fn fill(table: &str, random: &mut Random) -> String {
    let rows: Vec<String> = (0..1 + random.below(40))
        .map(|_| format!("(REPEAT('{:x}', {}))", random.word(), random.below(20)))
        .collect();
    format!("INSERT INTO {table} (v) VALUES {}", rows.join(","))
}

fn database(random: &mut Random, engine: &str) -> Vec<String> {
    let name = format!("{DATABASE}_{}", random.below(2));
    vec![
        format!("CREATE DATABASE IF NOT EXISTS {name}"),
        create(&format!("{name}.t"), engine),
        fill(&format!("{name}.t"), random),
        format!("DROP DATABASE {name}"),
    ]
}
