//! `hotmirror replica`: one command from a backup to a running replica.
//!
//! Rule: what the command calls a replica that has caught up equals its source, table by table, without anybody's further help.

#[path = "replica_made.rs"]
mod made;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hotmirror_tests::channels::Ground;
use hotmirror_tests::load::Load;
use hotmirror_tests::program::{Program, exit};
use hotmirror_tests::replica::{self, By, Position};
use hotmirror_tests::server::{REPLICATION_PASSWORD, REPLICATION_USER, Server, ServerOptions};
use hotmirror_tests::{checksums, flavor::Flavor, scratch};
use made::Made;

/// Backs up under load and lets the command make a replica, by GTID and by file and offset.
fn replicas_made_by_the_command_equal_their_source(source: &Server, options: &[&str]) {
    let program = Program::for_server(source);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let load = Load::mixed(source, 1);
    program.backup(&target).success();
    load.wait_for_statements(200);
    load.stop_cleanly();
    for start_at in ["auto", "position"] {
        let data_dir = home.path().join(start_at);
        let run = made::of_source(&program, &target, &data_dir, source)
            .arg(format!("--start-at={start_at}"));
        let replica = Made::by(run, &data_dir, source.flavor());
        assert!(
            replica.outcome.stdout.ends_with("completed OK!\n"),
            "{}",
            replica.outcome
        );
        assert!(
            !replica
                .outcome
                .stdout
                .contains("= 'repl', MASTER_PASSWORD = 'repl'"),
            "{}",
            replica.outcome
        );
        let copy = replica.reopen(options);
        checksums::assert_equal(source, &copy, start_at);
        checksums::assert_tables_in_order(&copy, start_at);
    }
}

#[test]
fn a_replica_of_a_mariadb_equals_it() {
    let source = ServerOptions::hooked().start();
    replicas_made_by_the_command_equal_their_source(&source, &[]);
}

#[test]
fn a_replica_of_a_mysql_equals_it() {
    let flavor = Flavor::named("mysql-9.7");
    let gtids = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
    let start = ServerOptions::hooked().flavor(&flavor);
    let source = gtids
        .iter()
        .fold(start, |start, option| start.option(*option))
        .start();
    replicas_made_by_the_command_equal_their_source(&source, &gtids);
}

#[test]
fn a_replica_with_external_roots_touches_none_of_its_source() {
    let outside = scratch::dir();
    let place = |name: &str| {
        let path = outside.path().join(name);
        std::fs::create_dir(&path).expect("A directory");
        path.display().to_string()
    };
    let (binlogs, undo, far) = (place("binlogs"), place("undo"), place("far"));
    let elsewhere = [
        format!("--innodb-undo-directory={undo}"),
        "--innodb-undo-tablespaces=3".into(),
        format!(
            "--innodb-data-file-path={}/ibdata1:12M:autoextend",
            place("system")
        ),
    ];
    let fresh = fresh(&elsewhere);
    let source = ServerOptions::hooked()
        .option(format!("--log-bin={binlogs}/bin"))
        .data_dir(fresh.path());
    let source = elsewhere.into_iter().fold(source, ServerOptions::option);
    let source = source.start();
    source.execute(&[
        &format!("CREATE USER {REPLICATION_USER}@'%' IDENTIFIED BY '{REPLICATION_PASSWORD}'"),
        &format!("GRANT REPLICATION SLAVE ON *.* TO {REPLICATION_USER}@'%'"),
        "CREATE DATABASE far",
        &format!("CREATE TABLE far.t (a INT PRIMARY KEY) ENGINE=InnoDB DATA DIRECTORY='{far}'"),
        "INSERT INTO far.t VALUES (1), (2)",
    ]);
    let program = Program::for_server(&source);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let manifest = program.backup(&target).success().manifest();
    source.execute(&["INSERT INTO far.t VALUES (3)"]);
    let data_dir = home.path().join("replica");
    let run = made::of_source(&program, &target, &data_dir, &source);
    let run = relocated(&manifest, home.path())
        .iter()
        .fold(run, |run, word| run.arg(word));
    let replica = Made::by(run, &data_dir, source.flavor());
    let log =
        std::fs::read_to_string(data_dir.join("hotmirror_replica.cnf")).expect("The option file");
    assert!(
        !log.contains(&outside.path().display().to_string()),
        "{log}"
    );
    drop(replica);
    source.execute(&["INSERT INTO far.t VALUES (4)", "CHECK TABLE far.t"]);
}

/// A MySQL server with all that could make its replica take the source's place: settings that are persisted, and files elsewhere that are named by way of a link.
fn entangled(outside: &Path) -> Server {
    let near = outside.join("near");
    for place in ["far", "logs"] {
        std::fs::create_dir(outside.join(place)).expect("A directory");
    }
    std::os::unix::fs::symlink(outside, &near).expect("A link");
    let far = outside.join("far").display().to_string();
    let near = near.display();
    let source = ServerOptions::hooked()
        .flavor(&Flavor::named("mysql-9.7"))
        .option(format!("--log-bin={near}/logs/bin"))
        .option(format!("--log-bin-index={near}/logs/other.index"))
        .option(format!("--innodb-directories={far}"))
        .start();
    source.execute(&[
        "CREATE DATABASE far",
        &format!("CREATE TABLE far.t (a INT PRIMARY KEY) DATA DIRECTORY='{far}'"),
        "INSERT INTO far.t VALUES (1), (2)",
        "SET PERSIST event_scheduler = ON",
        "SET PERSIST server_id = 4711",
    ]);
    let odd = source.data_dir().join(OsStr::from_bytes(b"caf\xe9.bak"));
    std::fs::write(odd, "no text").expect("A file");
    source
}

#[test]
fn a_replica_of_a_server_with_persisted_settings_and_links_is_a_server_of_its_own() {
    let outside = scratch::dir();
    let source = entangled(outside.path());
    let program = Program::for_server(&source);
    let home = scratch::dir();
    let target = home.path().join("backup");
    let manifest = program.backup(&target).success().manifest();
    source.execute(&["INSERT INTO far.t VALUES (3)"]);
    let data_dir = home.path().join("replica");
    let command = || made::of_source(&program, &target, &data_dir, &source);
    let externals = relocated(&manifest, home.path());
    assert_eq!(externals.len(), 2, "{}", manifest["roots"]);
    // In the places of the source, it would reset the source's own binlogs.
    command()
        .outcome()
        .assert_failed(exit::TARGET, &["is there already"]);
    let elsewhere = || externals.iter().fold(command(), |run, word| run.arg(word));
    let socket = format!("--socket={}", source.socket().display());
    elsewhere()
        .arg(socket)
        .outcome()
        .assert_failed(exit::USAGE, &["A server listens at"]);
    let replica = Made::by(elsewhere(), &data_dir, source.flavor());
    let options = std::fs::read_to_string(data_dir.join("hotmirror_replica.cnf"));
    let options = options.expect("The option file");
    let old = outside.path().display().to_string();
    assert!(!options.contains(&old), "{options}");
    assert!(data_dir.join(OsStr::from_bytes(b"caf\xe9.bak")).exists());
    let variables = "SELECT CONCAT_WS(' ', @@server_id, @@event_scheduler, @@log_bin_index)";
    let found = replica.value(variables);
    assert!(
        !found.starts_with("4711 ") && found.contains(" OFF "),
        "{found}"
    );
    assert!(
        found.ends_with("/other.index") && !found.contains(&old),
        "{found}"
    );
    let tables = replica.value("SELECT CONCAT_WS(' ', COUNT(*), MAX(a)) FROM far.t");
    assert_eq!(tables, "3 3");
    drop(replica);
    source.execute(&["INSERT INTO far.t VALUES (4)", "CHECK TABLE far.t"]);
    let binlog = "SELECT @@log_bin_basename";
    let binlog = source.value(binlog) + ".000001";
    assert!(Path::new(&binlog).exists(), "{binlog}");
}

/// A sibling applies what the server that was backed up did, and not what that one left out.
fn a_sibling_keeps_the_filters(server: &str, filter: &[&str]) {
    let ground = Ground::new(server, &["one"]);
    ground.replica.execute(filter);
    ground.sources[0].execute(&[
        "CREATE DATABASE f",
        "CREATE TABLE f.kept (a INT PRIMARY KEY)",
        "CREATE TABLE f.skipped (a INT PRIMARY KEY)",
        "INSERT INTO f.skipped VALUES (1)",
    ]);
    let caught_up = replica::catch_up_channel(
        &ground.replica,
        &ground.sources[0],
        By::FileAndOffset,
        "one",
    );
    caught_up.expect("A replica with a filter");
    let home = scratch::dir();
    let target = home.path().join("backup");
    let program = ground.program();
    program.backup(&target).success();
    ground.sources[0].execute(&[
        "INSERT INTO f.skipped VALUES (2)",
        "INSERT INTO f.kept VALUES (2)",
    ]);
    let data_dir = home.path().join("sibling");
    let run = made::command(&program, &target, &data_dir)
        .arg("--of=sibling")
        .arg(format!("--replication-password={REPLICATION_PASSWORD}"));
    let sibling = Made::by(run, &data_dir, ground.replica.flavor());
    assert_eq!(sibling.value("SELECT COUNT(*) FROM f.kept"), "1");
    let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'f'";
    assert_eq!(sibling.value(tables), "1");
}

#[test]
fn a_sibling_of_a_mariadb_keeps_the_filters() {
    let filter = [
        "STOP SLAVE 'one'",
        "SET GLOBAL one.replicate_ignore_table = 'f.skipped'",
        "START SLAVE 'one'",
    ];
    a_sibling_keeps_the_filters("mariadb-10.11", &filter);
}

#[test]
fn a_sibling_of_a_mysql_keeps_the_filters() {
    let filter = [
        "STOP REPLICA SQL_THREAD FOR CHANNEL 'one'",
        "CHANGE REPLICATION FILTER REPLICATE_IGNORE_TABLE = (f.skipped) FOR CHANNEL 'one'",
        "START REPLICA SQL_THREAD FOR CHANNEL 'one'",
    ];
    a_sibling_keeps_the_filters("mysql-9.7", &filter);
}

#[test]
fn a_sibling_of_a_mysql_without_binlogs_starts_from_its_gtids() {
    let flavor = Flavor::named("mysql-9.7");
    let start = |start: ServerOptions, id| {
        let start = start.flavor(&flavor).server_id(id);
        let start = start.option("--gtid-mode=ON");
        start.option("--enforce-gtid-consistency=ON")
    };
    let source = start(ServerOptions::plain(), 1).start();
    let replica = start(ServerOptions::hooked(), 11);
    let replica = replica.option("--skip-log-bin").start();
    let position = Position::of(&source);
    replica::follow_channel(&replica, &source, &position, By::Gtid, "one");
    source.execute(&[
        "CREATE DATABASE g",
        "CREATE TABLE g.t (a INT PRIMARY KEY)",
        "INSERT INTO g.t VALUES (1)",
    ]);
    replica::catch_up_channel(&replica, &source, By::Gtid, "one").expect("A replica");
    let home = scratch::dir();
    let target = home.path().join("backup");
    let program = Program::for_server(&replica);
    program.backup(&target).success();
    source.execute(&["INSERT INTO g.t VALUES (2)"]);
    let data_dir = home.path().join("sibling");
    let run = made::command(&program, &target, &data_dir)
        .arg("--of=sibling")
        .arg(format!("--replication-password={REPLICATION_PASSWORD}"));
    let sibling = Made::by(run, &data_dir, &flavor);
    let rows = sibling.value("SELECT GROUP_CONCAT(a ORDER BY a) FROM g.t");
    assert_eq!(rows, "1,2");
}

/// Has `replica` follow `source`, both from their beginning.
fn follow(replica: &Server, source: &Server) {
    replica.execute(&[
        &format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = '{REPLICATION_USER}', \
             MASTER_PASSWORD = '{REPLICATION_PASSWORD}', MASTER_USE_GTID = slave_pos",
            source.port()
        ),
        "START SLAVE",
    ]);
}

/// Waits until `replica` has applied all that `source` has in its binlog.
fn wait_for(replica: &Server, source: &Server) {
    let end = source.value("SELECT @@gtid_binlog_pos");
    let waited = replica.value(&format!("SELECT MASTER_GTID_WAIT('{end}', 60)"));
    assert_eq!(waited, "0", "{end}");
}

/// What a server of a ring wrote is in its data, and at its source; it has not come back when the backup is made.
#[test]
fn a_sibling_in_a_ring_gets_nothing_twice() {
    let ring = |start: ServerOptions, id: u32| {
        let domain = format!("--gtid-domain-id={id}");
        let start = start.server_id(id).option("--log-slave-updates");
        let server = start.option(domain).start();
        server.execute(&["RESET MASTER"]);
        server
    };
    let one = ring(ServerOptions::hooked(), 1);
    let other = ring(ServerOptions::plain(), 2);
    follow(&one, &other);
    follow(&other, &one);
    one.execute(&[
        "CREATE DATABASE ring",
        "CREATE TABLE ring.t (a INT PRIMARY KEY)",
    ]);
    wait_for(&other, &one);
    other.execute(&["INSERT INTO ring.t VALUES (1)"]);
    wait_for(&one, &other);
    one.execute(&["STOP SLAVE IO_THREAD", "INSERT INTO ring.t VALUES (2)"]);
    wait_for(&other, &one);
    let program = Program::for_server(&one);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    other.execute(&["INSERT INTO ring.t VALUES (3)"]);
    one.execute(&["INSERT INTO ring.t VALUES (4)"]);
    wait_for(&other, &one);
    let data_dir = home.path().join("sibling");
    let run = made::command(&program, &target, &data_dir)
        .arg("--of=sibling")
        .arg(format!("--replication-password={REPLICATION_PASSWORD}"));
    let sibling = Made::by(run, &data_dir, one.flavor());
    let rows = sibling.value("SELECT GROUP_CONCAT(a ORDER BY a) FROM ring.t");
    assert_eq!(rows, "1,2,3,4");
}

/// Arguments that give each external root a place below `home`.
fn relocated(manifest: &serde_json::Value, home: &Path) -> Vec<String> {
    let roots = manifest["roots"].as_array().expect("Roots").iter();
    roots
        .filter_map(|root| root["place"].as_str()?.strip_prefix("external/"))
        .map(|number| {
            format!(
                "--external={number}={}",
                home.join(format!("at-{number}")).display()
            )
        })
        .collect()
}

/// A data directory of which something is elsewhere from the start, as `options` say.
fn fresh(options: &[String]) -> tempfile::TempDir {
    let dir = scratch::dir();
    let flavor = Flavor::main();
    let output = std::process::Command::new(&flavor.install[0])
        .args(&flavor.install[1..])
        .arg(format!("--datadir={}", dir.path().display()))
        .args(options)
        .arg(flavor.small_redo())
        .output()
        .expect("The server's installer");
    assert!(output.status.success(), "{output:?}");
    dir
}

#[test]
fn a_dry_run_shows_the_statements_and_does_nothing() {
    let source = ServerOptions::hooked().start();
    let program = Program::for_server(&source);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    let data_dir = home.path().join("replica");
    let outcome = made::of_source(&program, &target, &data_dir, &source)
        .arg("--dry-run")
        .success();
    for words in [
        "RESET MASTER;",
        "SET GLOBAL gtid_slave_pos = ",
        "CHANGE MASTER '' TO MASTER_HOST = '127.0.0.1'",
        "START SLAVE '';",
    ] {
        assert!(outcome.stdout.contains(words), "No {words} in {outcome}");
    }
    assert!(
        outcome.stdout.contains("MASTER_PASSWORD = '…'"),
        "{outcome}"
    );
    assert!(!data_dir.exists());
}

#[test]
fn what_cannot_become_a_replica_is_refused_before_anything_is_restored() {
    let source = ServerOptions::hooked().start();
    let program = Program::for_server(&source);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    let data_dir = home.path().join("replica");
    let refused = |argument: &str, words: &[&str]| {
        let run = made::of_source(&program, &target, &data_dir, &source).arg(argument);
        run.outcome().assert_failed(exit::USAGE, words);
        assert!(!data_dir.exists());
    };
    refused("--of=sibling", &["follows no source"]);
    refused("--server-id=1", &["--server-id", "replica needs one"]);
    let nobody = made::command(&program, &target, &data_dir).outcome();
    nobody.assert_failed(exit::USAGE, &["--replication-user"]);
    assert!(!data_dir.exists());
}

#[test]
fn a_replica_that_is_refused_by_its_source_says_so() {
    let source = ServerOptions::hooked().start();
    let program = Program::for_server(&source);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    let data_dir = home.path().join("replica");
    let run = made::command(&program, &target, &data_dir)
        .arg("--source-host=127.0.0.1")
        .arg(format!("--source-port={}", source.port()))
        .arg("--replication-user=nobody");
    let outcome = run.outcome();
    let _ended = made::ending(&outcome, &data_dir);
    outcome.assert_failed(17, &["channel", "nobody", "denied"]);
}
