//! The statements, to the letter, for each server and each way of following.

use std::path::Path;

use super::*;
use crate::args::low::{Of, StartAt};
use crate::backup::roots::{Role, RootEntry};
use crate::server::{Channel, Coordinates, Flavor, Position, Version};
use plan::Start;

fn manifest(flavor: Flavor, numbers: (u32, u32, u32)) -> Manifest {
    let mut manifest = restore::tests::manifest(std::path::Path::new("/"), Vec::new());
    manifest.server.version = Version::plain(flavor, numbers);
    let is_mariadb = flavor == Flavor::MariaDb;
    manifest.server.hostname = "db1".into();
    manifest.server.port = 3306;
    manifest.position = Some(Position {
        coordinates: Coordinates {
            file: "bin.000004".into(),
            offset: 1234,
        },
        gtid_set: if is_mariadb { "0-1-42" } else { "u:1-42" }.into(),
        gtid_mode: "ON".into(),
        gtid_variables: Vec::new(),
    });
    let channel = |name: &str, auto_position| Channel {
        name: name.into(),
        host: "up".into(),
        port: 3307,
        user: "repl".into(),
        source_log_file: "up.000007".into(),
        exec_source_log_pos: 573,
        gtid_set: if is_mariadb { "0-9-7,1-8-3" } else { "u:1-42" }.into(),
        auto_position,
        ..Channel::default()
    };
    manifest.channels = vec![channel("one", true), channel("two", false)];
    manifest
}

fn wishes(of: Of) -> Wishes {
    Wishes {
        of,
        user: Some("repl".into()),
        password: Some("it's".into()),
        ..Wishes::default()
    }
}

fn statements(manifest: &Manifest, wishes: &Wishes) -> Vec<String> {
    let plan = Plan::new(manifest, wishes).unwrap();
    let statements = Words::of(&manifest.server.version).set_up(&plan, true);
    statements
        .into_iter()
        .map(|statement| statement.text)
        .collect()
}

#[test]
fn a_replica_of_a_mariadb_starts_from_its_gtid() {
    let manifest = manifest(Flavor::MariaDb, (10, 11, 1));
    assert_eq!(
        statements(&manifest, &wishes(Of::Source)),
        [
            "RESET SLAVE 'one' ALL",
            "RESET SLAVE 'two' ALL",
            "RESET MASTER",
            "SET GLOBAL gtid_slave_pos = '0-1-42'",
            "CHANGE MASTER '' TO MASTER_HOST = 'db1', MASTER_PORT = 3306, MASTER_USER = 'repl', \
             MASTER_PASSWORD = 'it''s', MASTER_USE_GTID = slave_pos",
            "START SLAVE ''",
        ]
    );
}

#[test]
fn a_sibling_of_a_mariadb_follows_each_channel_as_it_did() {
    let manifest = manifest(Flavor::MariaDb, (10, 11, 1));
    let kept = Wishes {
        of: Of::Sibling,
        ..Wishes::default()
    };
    assert_eq!(
        statements(&manifest, &kept),
        [
            "RESET MASTER",
            "SET GLOBAL gtid_slave_pos = '0-9-7,1-8-3'",
            "CHANGE MASTER 'one' TO MASTER_HOST = 'up', MASTER_PORT = 3307, MASTER_USER = 'repl', MASTER_USE_GTID = slave_pos",
            "CHANGE MASTER 'two' TO MASTER_HOST = 'up', MASTER_PORT = 3307, MASTER_USER = 'repl', \
             MASTER_USE_GTID = no, MASTER_LOG_FILE = 'up.000007', MASTER_LOG_POS = 573",
            "START SLAVE 'one'",
            "START SLAVE 'two'",
        ]
    );
}

#[test]
fn what_a_mysql_has_on_its_way_to_gtids_is_purged_and_does_not_decide_where_to_start() {
    let mut manifest = manifest(Flavor::MySql, (9, 7, 4));
    manifest.channels.remove(0);
    for (mode, set) in [
        ("OFF", ""),
        ("OFF_PERMISSIVE", "u:1-42"),
        ("ON_PERMISSIVE", "u:1-42"),
    ] {
        manifest.position.as_mut().unwrap().gtid_mode = mode.into();
        for of in [Of::Source, Of::Sibling] {
            let plan = Plan::new(&manifest, &wishes(of)).unwrap();
            assert_eq!(plan.gtid_set, set, "{mode}");
            assert!(matches!(plan.follow[0].start, Start::At(_)), "{mode}");
        }
    }
}

#[test]
fn a_replica_of_a_mysql_has_its_transactions_purged() {
    let manifest = manifest(Flavor::MySql, (9, 7, 4));
    assert_eq!(
        statements(&manifest, &wishes(Of::Source)),
        [
            "RESET REPLICA ALL FOR CHANNEL 'one'",
            "RESET REPLICA ALL FOR CHANNEL 'two'",
            "RESET BINARY LOGS AND GTIDS",
            "SET GLOBAL gtid_purged = 'u:1-42'",
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'db1', SOURCE_PORT = 3306, SOURCE_USER = 'repl', \
             SOURCE_PASSWORD = 'it''s', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1 FOR CHANNEL ''",
            "START REPLICA FOR CHANNEL ''",
        ]
    );
}

#[test]
fn a_copy_without_binlogs_has_gtids_in_a_table_on_mysql_alone() {
    for (flavor, numbers, resets) in [
        (Flavor::MySql, (9, 7, 4), true),
        (Flavor::MySql, (5, 7, 44), true),
        (Flavor::MariaDb, (10, 11, 1), false),
    ] {
        let manifest = manifest(flavor, numbers);
        let plan = Plan::new(&manifest, &wishes(Of::Sibling)).unwrap();
        let words = Words::of(&manifest.server.version);
        let statements = words.set_up(&plan, false);
        let first = statements.first().expect("There are some");
        assert_eq!(first.text.starts_with("RESET"), resets, "{}", first.text);
    }
}

#[test]
fn a_server_without_gtids_starts_by_file_and_offset() {
    let mut manifest = manifest(Flavor::Percona, (5, 6, 40));
    manifest.channels.clear();
    manifest.position.as_mut().unwrap().gtid_mode = "OFF".into();
    assert_eq!(
        statements(&manifest, &wishes(Of::Source)),
        [
            "RESET MASTER",
            "CHANGE MASTER TO MASTER_HOST = 'db1', MASTER_PORT = 3306, MASTER_USER = 'repl', \
             MASTER_PASSWORD = 'it''s', MASTER_AUTO_POSITION = 0, MASTER_LOG_FILE = 'bin.000004', MASTER_LOG_POS = 1234",
            "START SLAVE",
        ]
    );
}

#[test]
fn file_and_offset_can_be_asked_for() {
    let manifest = manifest(Flavor::MariaDb, (10, 11, 1));
    let by_position = Wishes {
        start_at: StartAt::Position,
        ..wishes(Of::Source)
    };
    let change = &statements(&manifest, &by_position)[4];
    assert!(
        change.ends_with(
            "MASTER_USE_GTID = no, MASTER_LOG_FILE = 'bin.000004', MASTER_LOG_POS = 1234"
        )
    );
}

#[test]
fn a_channel_that_is_not_chosen_is_forgotten() {
    let manifest = manifest(Flavor::MySql, (8, 0, 22));
    let one = Wishes {
        channels: vec!["two".into()],
        ..wishes(Of::Sibling)
    };
    let statements = statements(&manifest, &one);
    assert_eq!(statements[0], "RESET REPLICA ALL FOR CHANNEL 'one'");
    assert_eq!(statements[1], "RESET MASTER");
    assert!(
        statements[3].starts_with("CHANGE MASTER TO MASTER_HOST"),
        "{statements:?}"
    );
    assert_eq!(statements[4], "START REPLICA FOR CHANNEL 'two'");
}

#[test]
fn a_password_is_never_shown() {
    let manifest = manifest(Flavor::MySql, (9, 7, 4));
    let plan = Plan::new(&manifest, &wishes(Of::Source)).unwrap();
    let statements = Words::of(&manifest.server.version).set_up(&plan, true);
    let shown: String = statements
        .into_iter()
        .map(|statement| statement.shown)
        .collect();
    assert!(
        shown.contains("SOURCE_PASSWORD = '…'") && !shown.contains("it'"),
        "{shown}"
    );
}

#[test]
fn what_cannot_be_followed_is_said() {
    let refusal =
        |manifest: &Manifest, wishes: Wishes| Plan::new(manifest, &wishes).unwrap_err().to_string();
    let mut alone = manifest(Flavor::MariaDb, (10, 11, 1));
    let unknown = Wishes {
        channels: vec!["three".into()],
        ..wishes(Of::Sibling)
    };
    assert_eq!(
        refusal(&alone, unknown),
        "The backup has no channel \"three\", only \"one\", \"two\""
    );
    let elsewhere = Wishes {
        host: Some("h".into()),
        ..wishes(Of::Sibling)
    };
    assert!(refusal(&alone, elsewhere).contains("2 channels"));
    assert_eq!(
        refusal(&alone, Wishes::default()),
        "--replication-user is required"
    );
    (alone.channels, alone.position) = (Vec::new(), None);
    assert!(refusal(&alone, wishes(Of::Sibling)).contains("follows no source"));
    assert!(refusal(&alone, wishes(Of::Source)).contains("no position"));
}

fn identity_in(data_dir: &Path) -> Identity {
    Identity {
        data_dir: data_dir.into(),
        server_id: 7,
        socket: data_dir.join("s"),
        port: None,
        program: vec!["/usr/sbin/mariadbd".into()],
        channels: Vec::new(),
        options: Vec::new(),
    }
}

fn destination(place: &str, role: Role, source: impl Into<PathBuf>, now: &Path) -> Destination {
    let root = RootEntry {
        source: source.into(),
        place: place.into(),
        roles: vec![role],
    };
    Destination::new(&root, now.into())
}

#[test]
fn mysql_looks_for_tablespaces_where_they_are_now() {
    let mut manifest = manifest(Flavor::MySql, (9, 7, 0));
    let format = &mut manifest.server.settings.format;
    format.insert("innodb_directories".into(), "/far/ts;/other".into());
    format.insert("keyring_file_data".into(), "/far/ts/keys".into());
    format.insert(
        "innodb_data_file_path".into(),
        "ibdata1:12M;/far/ts/ibdata2:12M:autoextend".into(),
    );
    format.insert(
        "file_key_management_filekey".into(),
        "FILE:/far/ts/key".into(),
    );
    let destinations = [
        destination(
            "external/0",
            Role::Tablespaces,
            "/far/ts",
            "/new/ts".as_ref(),
        ),
        destination("external/1", Role::Tablespaces, "/more", "/more".as_ref()),
    ];
    let text = identity_in("/new/data".as_ref()).option_file(&manifest, &destinations, None);
    for line in [
        "loose_innodb_directories = /new/ts;/other;/more",
        "loose_keyring_file_data = /new/ts/keys",
        "loose_file_key_management_filekey = FILE:/new/ts/key",
        "loose_innodb_data_file_path = ibdata1:12M;/new/ts/ibdata2:12M:autoextend",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[test]
fn logs_and_sockets_of_another_server_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("logs")).unwrap();
    let mut manifest = manifest(Flavor::MySql, (9, 7, 0));
    manifest.server.settings.log_bin = Some(at("logs/bin").display().to_string());
    let identity = Identity {
        socket: at("socket"),
        ..identity_in(&at("data"))
    };
    let refused = |destinations: &[Destination]| {
        let checked = identity.check_free(&manifest, destinations);
        checked.err().map(|failure| failure.message())
    };
    std::fs::write(at("logs/bingo.000001"), "").unwrap();
    assert_eq!(refused(&[]), None);
    std::fs::write(at("logs/bin.000001"), "").unwrap();
    let message = refused(&[]).unwrap();
    assert!(message.contains("bin.000001 is there already"), "{message}");
    let mut appliers = manifest.clone();
    appliers.server.settings.log_bin = None;
    let paths = &mut appliers.server.settings.paths;
    let info = at("logs/relay.info");
    paths.insert("relay_log_info_file".into(), info.display().to_string());
    assert!(identity.check_free(&appliers, &[]).is_ok());
    std::fs::write(&info, "").unwrap();
    assert!(identity.check_free(&appliers, &[]).is_err());
    let elsewhere = destination("external/0", Role::Binlog, at("logs"), &at("new"));
    assert_eq!(refused(std::slice::from_ref(&elsewhere)), None);
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let message = refused(&[elsewhere]).unwrap();
    assert!(message.contains("listens at"), "{message}");
}

#[test]
fn what_makes_a_server_the_one_that_was_backed_up_is_put_away() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = manifest(Flavor::MySql, (9, 7, 0));
    for name in ["auto.cnf", "mysqld-auto.cnf"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    // Root gives the option file to the owner of the directory: whoever runs the test.
    let identity = identity_in(dir.path());
    identity.settle(&manifest, &[]).unwrap();
    assert!(!dir.path().join("auto.cnf").exists());
    assert!(!dir.path().join("mysqld-auto.cnf").exists());
    assert!(dir.path().join("mysqld-auto.cnf.source").exists());
    identity.settle(&manifest, &[]).unwrap();
}

#[test]
fn the_option_file_leads_nowhere_into_the_old_server() {
    let mut manifest = manifest(Flavor::MariaDb, (10, 11, 1));
    let settings = &mut manifest.server.settings;
    settings.format.insert("server_id".into(), "1".into());
    settings.paths.insert("datadir".into(), "/old/data/".into());
    settings
        .paths
        .insert("innodb_undo_directory".into(), "/old/data/undo".into());
    settings.log_bin = Some("/old/data/log/bin".into());
    settings.log_bin_index = Some("/old/data/log/other.index".into());
    let identity = Identity {
        channels: vec!["replicate_do_db=a".into()],
        options: vec!["innodb_buffer_pool_size=1G".into()],
        ..identity_in("/new".as_ref())
    };
    let destination = destination("data", Role::Data, "/old/data", "/new".as_ref());
    let text = identity.option_file(&manifest, &[destination], Some(0));
    assert!(!text.contains("/old"), "{text}");
    for line in [
        "loose_server_id = 7",
        "loose_innodb_undo_directory = /new/undo",
        "log_bin = /new/log/bin",
        "log_bin_index = /new/log/other.index",
        "replicate_do_db=a",
        "relay_log = db1-relay-bin",
        "user = root",
        "skip_networking",
        "innodb_buffer_pool_size=1G",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in {text}"
        );
    }
}
