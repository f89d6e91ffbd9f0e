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
    let roots = find(&variables, &["./a/t.ibd".into()]).unwrap();
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
    let roots = find(&variables, &[server.text("far/db/t.ibd")]).unwrap();
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
    assert!(!filter.leaves_out(&server.path("redo/ib_logfile0")));
    assert!(!filter.leaves_out(&server.path("far/db/t.ibd")));
    assert_eq!(
        roots.place(&server.path("log/bin.000001")),
        Some("external/1/bin.000001".into())
    );
}

#[test]
fn a_database_keeps_its_name_in_a_data_directory_elsewhere() {
    let server = Server::new(&["data/db", "far/db", "far/foreign"]);
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let roots = find(&variables, &[server.text("far/db/t.ibd")]).unwrap();
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
    let roots = find(&variables, &[]).unwrap();
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
    let roots = find(&variables, &[]).unwrap();
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
    let filter = find(&variables, &[])
        .unwrap()
        .filter(&variables, &[])
        .unwrap();
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
fn a_directory_for_temporary_files_that_holds_logs_is_kept() {
    let server = Server::new(&["data", "ssd"]);
    let (datadir, ssd) = (server.text("data"), server.text("ssd"));
    let variables = Variables::from([
        ("datadir", datadir.as_str()),
        ("innodb_log_group_home_dir", ssd.as_str()),
        ("tmpdir", ssd.as_str()),
    ]);
    let roots = find(&variables, &[]).unwrap();
    let filter = roots.filter(&variables, &[]).unwrap();
    assert!(!filter.leaves_out(&server.path("ssd/ib_logfile0")));
    assert!(filter.leaves_out(&server.path("ssd/#sql-temptable-1.MAI")));
}

#[test]
fn a_link_that_appeared_during_the_backup_is_an_error() {
    let server = Server::new(&["data", "late"]);
    let datadir = server.text("data");
    let variables = Variables::from([("datadir", datadir.as_str())]);
    let roots = find(&variables, &[]).unwrap();
    let link = (Path::new("data/late"), server.path("late"));
    assert!(matches!(
        roots.check_links([link]),
        Err(RootError::Escaped { .. })
    ));
    let inner = (Path::new("data/x"), server.path("data/db/x"));
    roots.check_links([inner]).unwrap();
}
