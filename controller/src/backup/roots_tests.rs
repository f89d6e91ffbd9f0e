//! Roots are found from settings and links, taken once, and leave out what a copy must not have.

use std::os::unix::fs::symlink;

use super::*;

/// A server's directories below a temporary one.
struct Server {
    dir: tempfile::TempDir,
}

impl Server {
    fn new(directories: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        Server { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        std::fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Sources relative to the temporary directory, with their places.
    fn places(&self, roots: &Roots) -> Vec<(String, String)> {
        let base = self.path("");
        let relative = |path: &Path| path.strip_prefix(&base).unwrap().display().to_string();
        let mut places: Vec<_> = roots
            .entries
            .iter()
            .map(|entry| (entry.place.display().to_string(), relative(&entry.source)))
            .collect();
        places.sort();
        places
    }
}

/// What the server's roots are found to be, by what we see.
fn found(variables: &Variables, tablespace_files: &[String]) -> Roots {
    find(variables, tablespace_files, &Sight::default()).unwrap()
}

fn check(roots: &Roots, link: (&Path, PathBuf)) -> Result<(), RootError> {
    roots.check_links([link], &mut Spellings::default())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .collect()
}

#[test]
fn a_server_with_everything_in_its_data_directory_has_one_root() {
    let server = Server::new(&["data"]);
    let datadir = server.text("data/");
    let bin = server.text("data/bin");
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("log_bin_basename", bin.as_str()),
        ("innodb_log_group_home_dir", "./"),
        ("innodb_data_file_path", "ibdata1:12M:autoextend"),
        ("aria_log_dir_path", datadir.as_str()),
    ]);
    let roots = found(&variables, &["./a/t.ibd".into()]);
    assert_eq!(server.places(&roots), pairs(&[("data", "data")]));
}

#[test]
fn directories_outside_are_external_roots_that_keep_only_what_belongs() {
    let server = Server::new(&["data", "log", "redo", "far/db"]);
    let (datadir, bin, redo) = (
        server.text("data"),
        server.text("log/bin"),
        server.text("redo"),
    );
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("log_bin_basename", bin.as_str()),
        ("innodb_log_group_home_dir", redo.as_str()),
    ]);
    let roots = found(&variables, &[server.text("far/db/t.ibd")]);
    let expected = [
        ("data", "data"),
        ("external/0", "far/db"),
        ("external/1", "log"),
        ("external/2", "redo"),
    ];
    assert_eq!(server.places(&roots), pairs(&expected));
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("log/bin.000001")));
    assert!(filter.leaves_out(&server.path("log/syslog")));
    for kept in ["redo/ib_logfile0", "redo/undo_1_trunc.log"] {
        assert!(!filter.leaves_out(&server.path(kept)), "{kept}");
    }
    assert!(!filter.leaves_out(&server.path("far/db/t.ibd")));
    assert_eq!(
        roots.place(&server.path("log/bin.000001")),
        Some("external/1/bin.000001".into())
    );
}

#[test]
fn a_directory_that_is_taken_whole_is_known_for_what_lies_in_it() {
    let server = Server::new(&["data", "ssd/ts/db"]);
    symlink(server.path("ssd"), server.path("data/fast")).unwrap();
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let roots = found(&variables, &[server.text("ssd/ts/db/t.ibd")]);
    let outer = roots
        .entries
        .iter()
        .find(|root| root.source == server.path("ssd"))
        .unwrap();
    assert!(
        outer.roles.contains(&Role::Tablespaces),
        "{:?}",
        outer.roles
    );
}

#[test]
fn where_the_appliers_are_is_taken_from_elsewhere() {
    let server = Server::new(&["data", "far"]);
    let (datadir, info) = (server.text("data"), server.text("far/applier.info"));
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("relay_log_info_file", info.as_str()),
    ]);
    let roots = found(&variables, &[]);
    let expected = [("data", "data"), ("external/0", "far")];
    assert_eq!(server.places(&roots), pairs(&expected));
    for (name, is_taken) in [
        ("applier.info", true),
        ("applier-one.info", true),
        ("applier.info.old", false),
        ("other", false),
    ] {
        assert_eq!(roots.takes(&server.path("far").join(name)), is_taken);
    }
}

#[test]
fn a_database_keeps_its_name_in_a_data_directory_elsewhere() {
    let server = Server::new(&["data/db", "far/db", "far/foreign"]);
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let roots = found(&variables, &[server.text("far/db/t.ibd")]);
    assert_eq!(
        server.places(&roots),
        pairs(&[("data", "data"), ("external/0", "far")])
    );
    assert!(roots.takes(&server.path("far/db/t.ibd")));
    assert!(!roots.takes(&server.path("far/foreign/x")));
}

#[test]
fn linked_databases_and_tables_are_followed() {
    let server = Server::new(&["data/db", "far/shop", "fast"]);
    symlink(server.path("far/shop"), server.path("data/shop")).unwrap();
    std::fs::write(server.path("fast/t.MYD"), "").unwrap();
    symlink(server.path("fast/t.MYD"), server.path("data/db/t.MYD")).unwrap();
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let roots = found(&variables, &[]);
    let expected = [
        ("data", "data"),
        ("external/0", "far/shop"),
        ("external/1", "fast"),
    ];
    assert_eq!(server.places(&roots), pairs(&expected));
}

#[test]
fn the_binlogs_may_lie_in_a_directory_around_the_data_directory() {
    let server = Server::new(&["mysql/data"]);
    let (datadir, bin) = (server.text("mysql/data"), server.text("mysql/bin"));
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("log_bin_basename", bin.as_str()),
    ]);
    let roots = found(&variables, &[]);
    assert_eq!(
        roots.place(&server.path("mysql/data/ibdata1")),
        Some("data/ibdata1".into())
    );
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("mysql/data/ibdata1")));
    assert!(filter.leaves_out(&server.path("mysql/other")));
}

#[test]
fn what_a_copy_must_not_have_is_left_out() {
    let server = Server::new(&["data/tmp"]);
    let datadir = server.text("data");
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("pid_file", "vm.pid"),
        ("log_error", "./vm.err"),
        ("tmpdir", "tmp"),
        ("rocksdb_datadir", "./#rocksdb"),
        ("innodb_temp_data_file_path", "ibtmp1:12M:autoextend"),
    ]);
    let filter = found(&variables, &[]).filter(&variables, &[]).unwrap();
    for name in [
        "auto.cnf",
        "vm.pid",
        "vm.err",
        "tmp/#sql-temptable-1.MAI",
        "ibtmp1",
        "#innodb_temp",
        "ddl.log",
        "#rocksdb/LOG",
    ] {
        assert!(filter.leaves_out(&server.path("data").join(name)), "{name}");
    }
    for name in [
        "ibdata1",
        "aria_log_control",
        "tmp",
        "ddl_recovery.log",
        "db/#sql-alter.ibd",
        "#rocksdb/000012.log",
    ] {
        assert!(
            !filter.leaves_out(&server.path("data").join(name)),
            "{name}"
        );
    }
}

#[test]
fn the_cache_of_a_galera_node_is_left_out() {
    let server = Server::new(&["data"]);
    let datadir = server.text("data");
    let leaves_out = |wsrep, name| {
        let variables = Variables::from([("datadir", datadir.as_str()), ("wsrep_on", wsrep)]);
        let filter = found(&variables, &[]).filter(&variables, &[]).unwrap();
        filter.leaves_out(&server.path("data").join(name))
    };
    for name in ["galera.cache", "gcache.page.000001"] {
        assert!(leaves_out("ON", name), "{name}");
        assert!(!leaves_out("OFF", name), "{name}");
    }
    assert!(!leaves_out("ON", "grastate.dat"));
}

#[test]
fn a_directory_for_temporary_files_that_holds_logs_is_kept() {
    let server = Server::new(&["data", "ssd"]);
    let (datadir, ssd) = (server.text("data"), server.text("ssd"));
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("innodb_log_group_home_dir", ssd.as_str()),
        ("tmpdir", ssd.as_str()),
    ]);
    let roots = found(&variables, &[]);
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("ssd/ib_logfile0")));
    assert!(filter.leaves_out(&server.path("ssd/#sql-temptable-1.MAI")));
}

#[test]
fn a_directory_for_temporary_files_is_kept_if_a_linked_table_lies_in_it() {
    let server = Server::new(&["data/db", "ssd"]);
    std::fs::write(server.path("ssd/t.MYD"), "").unwrap();
    symlink(server.path("ssd/t.MYD"), server.path("data/db/t.MYD")).unwrap();
    let (datadir, ssd) = (server.text("data"), server.text("ssd"));
    let variables = Variables::from([("datadir", datadir.as_str()), ("tmpdir", ssd.as_str())]);
    let roots = found(&variables, &[]);
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("ssd/t.MYD")));
}

#[test]
fn a_directory_for_temporary_files_in_the_data_directory_is_kept_if_logs_lie_in_it() {
    let server = Server::new(&["data/fast/undo"]);
    let (datadir, fast) = (server.text("data"), server.text("data/fast"));
    let undo = server.text("data/fast/undo");
    for (name, directory) in [
        ("innodb_log_group_home_dir", &fast),
        ("innodb_data_home_dir", &fast),
        ("innodb_undo_directory", &undo),
    ] {
        let variables = Variables::from([
            ("datadir", datadir.as_str()),
            (name, directory.as_str()),
            ("innodb_data_file_path", "ibdata1:12M:autoextend"),
            ("tmpdir", "fast"),
        ]);
        let roots = found(&variables, &[]);
        assert_eq!(server.places(&roots), pairs(&[("data", "data")]));
        let filter = roots.filter(&variables, &[]).unwrap();
        for kept in ["fast/ib_logfile0", "fast/undo"] {
            let path = server.path("data").join(kept);
            assert!(!filter.leaves_out(&path), "{name}: {kept}");
        }
    }
    let variables = Variables::from([("datadir", datadir.as_str()), ("tmpdir", "fast")]);
    let files = ["./fast/t.ibd".to_string()];
    let roots = found(&variables, &files);
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("data/fast/t.ibd")));
}

#[test]
fn every_directory_for_temporary_files_is_emptied_a_linked_one_too() {
    let server = Server::new(&["data/one", "ssd"]);
    symlink(server.path("ssd"), server.path("data/two")).unwrap();
    let (datadir, ssd) = (server.text("data"), server.text("ssd"));
    let list = format!("{ssd}:one");
    let variables = Variables::from([("datadir", datadir.as_str()), ("tmpdir", list.as_str())]);
    let roots = found(&variables, &[]);
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(filter.leaves_out(&server.path("data/one/#sql-1.MAI")));
    assert!(filter.leaves_out(&server.path("ssd/#sql-1.MAI")));
    assert!(!filter.leaves_out(&server.path("data/one")));
}

#[test]
fn a_linked_directory_for_temporary_files_is_kept_if_another_linked_one_lies_in_it() {
    let server = Server::new(&["data", "ssd/shop"]);
    symlink(server.path("ssd"), server.path("data/tmp")).unwrap();
    symlink(server.path("ssd/shop"), server.path("data/shop")).unwrap();
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str()), ("tmpdir", "tmp")]);
    let roots = found(&variables, &[]);
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("ssd/shop")));
}

#[test]
fn a_link_into_an_emptied_directory_is_an_error() {
    let server = Server::new(&["data/tmp/db"]);
    std::fs::write(server.path("data/tmp/db/t.ibd"), "").unwrap();
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str()), ("tmpdir", "tmp")]);
    let roots = found(&variables, &[]);
    let link = (Path::new("data/db/t.isl"), server.path("data/tmp/db/t.ibd"));
    assert!(matches!(
        check(&roots, link),
        Err(RootError::Escaped { .. })
    ));
}

#[test]
fn the_directories_of_tokudb_are_taken_whole() {
    let server = Server::new(&["data", "toku", "toku_log"]);
    let datadir = server.text("data");
    let (toku, log) = (server.text("toku"), server.text("toku_log"));
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("tokudb_data_dir", toku.as_str()),
        ("tokudb_log_dir", log.as_str()),
    ]);
    let roots = found(&variables, &[]);
    let expected = [
        ("data", "data"),
        ("external/0", "toku"),
        ("external/1", "toku_log"),
    ];
    assert_eq!(server.places(&roots), pairs(&expected));
    assert!(roots.takes(&server.path("toku/tokudb.directory")));
    assert!(roots.takes(&server.path("toku_log/log000000000001.tokulog29")));
}

#[test]
fn a_tablespace_is_found_by_a_name_that_leads_out_of_the_data_directory() {
    let server = Server::new(&["data/db", "far"]);
    std::fs::write(server.path("far/ts.ibd"), "").unwrap();
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    for name in ["../far/ts.ibd".into(), server.text("data/../far/ts.ibd")] {
        let roots = found(&variables, std::slice::from_ref(&name));
        assert!(roots.takes(&server.path("far/ts.ibd")), "{name}");
        let link = (Path::new(&name), server.path("data").join(&name));
        check(&roots, link).unwrap();
    }
    // And one that comes back into it.
    let files = ["../data/db/t.ibd".into()];
    let roots = found(&variables, &files);
    assert_eq!(server.places(&roots), pairs(&[("data", "data")]));
}

#[test]
fn a_system_tablespace_on_a_device_is_refused() {
    let server = Server::new(&["data"]);
    let datadir = server.text("data");
    let variables = |files| {
        Variables::from([
            ("datadir", datadir.as_str()),
            ("innodb_data_home_dir", ""),
            ("innodb_data_file_path", files),
        ])
    };
    symlink("/dev/null", server.path("data/linked")).unwrap();
    std::fs::write(server.path("data/ibdata1"), "").unwrap();
    for files in [
        "ibdata1:12M;/dev/null:3Graw",
        "ibdata1:12M;linked:12M:autoextend",
    ] {
        let error = find(&variables(files), &[], &Sight::default()).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }
    found(&variables("ibdata1:12M;later:12M"), &[]);
}

#[test]
fn what_is_another_directory_for_the_server_is_refused() {
    let server = Server::new(&["data", "late"]);
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    // The server's root, in which these paths are missing or lead to other directories.
    let root = server.path("root");
    let below = |path: PathBuf| root.join(path.strip_prefix("/").unwrap());
    std::fs::create_dir_all(below(server.path("data"))).unwrap();
    let sight = Sight::from(root.clone());
    let error = find(&variables, &[], &sight).unwrap_err();
    assert!(matches!(error, RootError::SeenOtherwise { .. }), "{error}");

    let mut roots = found(&variables, &[]);
    roots.sight = sight;
    let target = server.path("missing/t.ibd");
    let check = || check(&roots, (Path::new("data/t.isl"), target.clone()));
    check().unwrap();
    std::fs::create_dir_all(below(target.clone())).unwrap();
    assert!(matches!(check(), Err(RootError::SeenOtherwise { .. })));
}

#[test]
fn a_link_that_appeared_during_the_backup_is_an_error() {
    let server = Server::new(&["data", "late"]);
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let roots = found(&variables, &[]);
    let link = (Path::new("data/late"), server.path("late"));
    assert!(matches!(
        check(&roots, link),
        Err(RootError::Escaped { .. })
    ));
    let inner = (Path::new("data/x"), server.path("data/db/x"));
    check(&roots, inner).unwrap();
}

#[test]
fn a_link_to_a_directory_around_the_data_directory_is_refused() {
    let server = Server::new(&["around/data"]);
    symlink(server.path("around"), server.path("around/data/up")).unwrap();
    let datadir = server.text("around/data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let error = find(&variables, &[], &Sight::default()).unwrap_err();
    assert!(matches!(error, RootError::Around { .. }), "{error}");
}
