//! MySQL in use: files all over the place, users of few privileges, long statements, no binlog.
//!
//! Rule: whatever the server keeps anywhere is in the backup, and the backup asks for nothing that it does not need.

use std::path::Path;

use hotmirror_tests::flavor::Flavor;
use hotmirror_tests::load::Load;
use hotmirror_tests::program::Program;
use hotmirror_tests::proof::{Plan, hooked, replicas_equal, start_copy};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::{checksums, scratch};
use mysql::prelude::Queryable;
use serde_json::Value;

const MYSQL: &str = "mysql-9.7";

/// A fresh data directory, of a server that was shut down.
fn make_data(data: &Path) {
    let start = ServerOptions::plain().flavor(&Flavor::named(MYSQL));
    let mut first = start.without_binlog().start();
    first.shut_down();
    scratch::copy(first.data_dir(), data);
}

/// The server on `data` will have a key store.
fn keep_keys(data: &Path, keys: &Path) {
    let store = format!("{{\"path\": \"{}\", \"read_only\": false}}", keys.display());
    let components = r#"{"components": "file://component_keyring_file"}"#;
    std::fs::write(data.join("component_keyring_file.cnf"), store).expect("A key store");
    std::fs::write(data.join("mysqld.my"), components).expect("A list of components");
}

fn hooked_on(data: &Path) -> ServerOptions {
    let start = ServerOptions::hooked().flavor(&Flavor::named(MYSQL));
    start.data_dir(data)
}

/// MySQL with every directory that can be elsewhere elsewhere, encrypted and compressed tables, and a key store.
struct Scattered {
    home: tempfile::TempDir,
    server: Server,
}

impl Scattered {
    fn directory(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn options(home: &Path) -> Vec<String> {
        let place = |option: &str, name: &str| format!("--{option}={}", home.join(name).display());
        vec![
            place("log-bin", "binlogs/bin"),
            place("innodb-log-group-home-dir", "redo"),
            place("innodb-undo-directory", "undo"),
            place("innodb-doublewrite-dir", "doublewrite"),
            place("innodb-directories", "spaces"),
            "--innodb-redo-log-encrypt=ON".into(),
            "--innodb-undo-log-encrypt=ON".into(),
        ]
    }

    fn start() -> Scattered {
        let home = scratch::dir();
        let data = home.path().join("data");
        make_data(&data);
        for name in ["binlogs", "redo", "undo", "doublewrite", "spaces", "keys"] {
            std::fs::create_dir(home.path().join(name)).expect("A directory");
        }
        let moved = [
            ("#innodb_redo", "redo"),
            ("undo_001", "undo"),
            ("undo_002", "undo"),
        ];
        for (name, to) in moved {
            std::fs::rename(data.join(name), home.path().join(to).join(name)).expect("A move");
        }
        keep_keys(&data, &home.path().join("keys/keyring"));
        let options = Scattered::options(home.path());
        let start = hooked_on(&data);
        let server = options
            .iter()
            .fold(start, |start, option| start.option(option))
            .start();
        Scattered { home, server }
    }

    /// Tables and tablespaces of every kind.
    fn fill(&self) {
        let spaces = self.directory("spaces").display().to_string();
        let undo = self.directory("undo").display().to_string();
        self.server.execute(&[
            "CREATE DATABASE s",
            &format!("CREATE TABLESPACE general ADD DATAFILE '{spaces}/general.ibd' ENCRYPTION='Y'"),
            &format!("CREATE UNDO TABLESPACE more ADD DATAFILE '{undo}/more.ibu'"),
            "CREATE TABLE s.inside (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT) TABLESPACE general ENCRYPTION='Y'",
            "CREATE TABLE s.secret (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT) ENCRYPTION='Y'",
            "CREATE TABLE s.packed (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT) COMPRESSION='zlib'",
            "CREATE TABLE s.small (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT) ROW_FORMAT=COMPRESSED",
            &format!(
                "CREATE TABLE s.far (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT) DATA DIRECTORY='{spaces}'"
            ),
        ]);
        for table in ["inside", "secret", "packed", "small", "far"] {
            let rows = vec!["(REPEAT('scattered', 300))"; 300].join(",");
            self.server
                .execute(&[&format!("INSERT INTO s.{table} (v) VALUES {rows}")]);
        }
    }
}

#[test]
fn mysql_with_encrypted_binlogs_has_its_position() {
    let home = scratch::dir();
    let data = home.path().join("data");
    make_data(&data);
    keep_keys(&data, &home.path().join("keyring"));
    let plan = Plan {
        lock: "ftwrl",
        ..Plan::mysql()
    };
    let plan = plan.with(&["--binlog-encryption=ON"]);
    let start = hooked_on(&data);
    let options = plan.options.iter();
    let source = options.fold(start, |start, option| start.option(option));
    replicas_equal(&source.start(), &plan, 2);
}

#[test]
fn mysql_is_taken_whole_wherever_its_files_are() {
    let source = Scattered::start();
    source.fill();
    let program = Program::for_server(&source.server);
    let load = Load::mixed(&source.server, 77);
    let backup = source.directory("backup");
    let manifest = program
        .backup(&backup)
        .arg("--test-freeze-at-cut")
        .success()
        .manifest();
    assert_eq!(manifest["golden"]["differences"], Value::Array(Vec::new()));
    assert_eq!(manifest["lock"], "none", "{manifest:#}");
    load.stop_cleanly();
    let expected = checksums::checksums(&source.server);
    program.run("prepare").arg(&backup).success();
    // Two servers made from it would have the same identity.
    assert!(!backup.join("data/auto.cnf").exists());
    // The source's own directories go, so that nothing of it can be used by mistake.
    let Scattered { home, server } = source;
    drop(server);
    for name in [
        "data",
        "binlogs",
        "redo",
        "undo",
        "doublewrite",
        "spaces",
        "keys",
    ] {
        std::fs::remove_dir_all(home.path().join(name)).expect("A removal");
    }
    let data = home.path().join("data");
    program
        .run("restore")
        .arg("--copy-back")
        .arg(format!("--from={}", backup.display()))
        .arg(format!("--data-dir={}", data.display()))
        .success();
    let options = Scattered::options(home.path());
    let start = ServerOptions::plain()
        .flavor(&Flavor::named(MYSQL))
        .data_dir(&data);
    let copy = options
        .iter()
        .fold(start, |start, option| start.option(option))
        .start();
    checksums::assert_tables_in_order(&copy, "The restored server");
    let found = checksums::checksums(&copy);
    for table in ["inside", "secret", "packed", "small", "far"] {
        let name = format!("`s`.`{table}`");
        assert_eq!(found[&name], expected[&name], "{name}");
    }
}

#[test]
fn mysql_without_a_binlog_is_backed_up_without_a_position() {
    let flavor = Flavor::named(MYSQL);
    let server = ServerOptions::hooked()
        .flavor(&flavor)
        .without_binlog()
        .option("--skip-log-bin");
    let server = server.start();
    let load = Load::writes(&server, 5);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let run = Program::for_server(&server)
        .backup(&target)
        .arg("--test-freeze-at-cut");
    let manifest = run.success().manifest();
    load.stop_cleanly();
    assert_eq!(manifest["position"], Value::Null);
    assert_eq!(manifest["golden"]["differences"], Value::Array(Vec::new()));
    let copy = start_copy(&server, &target.join("data"), 9, &["--skip-log-bin".into()]);
    checksums::assert_tables_in_order(&copy, "The copy");
}

#[test]
fn a_user_of_mysql_needs_what_is_documented_and_no_more() {
    let server = hooked(MYSQL, &[]);
    server.execute(&[
        "CREATE ROLE backups",
        "CREATE USER own@localhost, role@localhost, blind@localhost",
        "GRANT SELECT, RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO own@localhost, backups",
        "GRANT backups TO role@localhost",
        "ALTER USER role@localhost DEFAULT ROLE backups",
        "GRANT RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO blind@localhost",
    ]);
    let home = scratch::dir();
    let backup = |user: &str| {
        let program = Program::for_server(&server).as_user(user, "");
        program.backup(&home.path().join(user)).outcome()
    };
    for user in ["own", "role"] {
        let outcome = backup(user);
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }
    backup("blind").assert_failed(4, &["SELECT", "have no transactions"]);
}

/// A statement that runs for long neither fails nor holds up a backup that takes no lock; one that takes a lock gives up in time.
#[test]
fn long_statements_of_mysql_are_left_alone() {
    let server = hooked(MYSQL, &[]);
    server.execute(&[
        "CREATE DATABASE l",
        "CREATE TABLE l.t (i INT)",
        "INSERT INTO l.t VALUES (1)",
    ]);
    let statements = [
        "SELECT i + SLEEP(20) FROM l.t",
        "UPDATE l.t SET i = i + SLEEP(20)",
    ];
    let threads = statements.map(|statement| {
        let mut conn = server.conn();
        std::thread::spawn(move || {
            conn.query_drop(statement)
                .map_err(|e| format!("{statement}: {e}"))
        })
    });
    let running =
        "SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_STATE = 'User sleep'";
    while server.value(running) != "2" {
        std::thread::yield_now();
    }
    let home = scratch::dir();
    let program = Program::for_server(&server);
    program.backup(&home.path().join("free")).success();
    assert_eq!(
        server.value(running),
        "2",
        "The backup waited for a statement"
    );
    let locked = program
        .backup(&home.path().join("locked"))
        .arg("--lock=ftwrl")
        .arg("--lock-timeout=2");
    locked
        .outcome()
        .assert_failed(9, &["FLUSH TABLES WITH READ LOCK"]);
    assert_eq!(
        server.value(running),
        "2",
        "The lock waited longer than it may"
    );
    assert!(!home.path().join("locked").exists());
    for thread in threads {
        thread
            .join()
            .expect("A thread")
            .expect("A statement that goes on");
    }
}

/// Nothing that a crash leaves then can be recovered.
#[test]
fn a_mysql_without_its_redo_log_is_refused() {
    let flavor = Flavor::named(MYSQL);
    let server = ServerOptions::hooked().flavor(&flavor).start();
    let home = scratch::dir();
    let backup = || Program::for_server(&server).backup(&home.path().join("backup"));
    server.execute(&["ALTER INSTANCE DISABLE INNODB REDO_LOG"]);
    backup()
        .outcome()
        .assert_failed(11, &["redo log is disabled", "ENABLE INNODB REDO_LOG"]);
    server.execute(&["ALTER INSTANCE ENABLE INNODB REDO_LOG"]);
    backup().success();
}
