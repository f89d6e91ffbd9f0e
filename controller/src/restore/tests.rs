//! A restore puts back what was there, where it is asked to, and never over anything.

use std::os::unix::fs::symlink;

use hotmirror::manifest::Stats;

use super::*;
use crate::args::low::{Binlogs, RestoreWay};
use crate::backup::cut::LockTimes;
use crate::backup::roots::RootEntry;
use crate::backup::settings::Settings;
use crate::backup::spellings::Spellings;
use crate::files;
use crate::manifest::{BinlogEntry, Prepared, ServerEntry};
use crate::server::{Channel, Flavor, Version};

/// A backup with a data directory and one external root, of a server that was in `old`.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let fixture = Fixture {
            dir: tempfile::tempdir().unwrap(),
        };
        let old = fixture.path("old");
        let backup = fixture.path("backup");
        std::fs::create_dir_all(backup.join("data/db")).unwrap();
        std::fs::create_dir_all(backup.join("external/0")).unwrap();
        std::fs::write(backup.join("data/db/t.ibd"), vec![7; 5000]).unwrap();
        std::fs::write(backup.join("external/0/t.MYD"), "rows").unwrap();
        symlink(old.join("far/t.MYD"), backup.join("data/db/t.MYD")).unwrap();
        symlink("db", backup.join("data/alias")).unwrap();
        let index = format!("{}/far/bin.000001\n", old.display());
        std::fs::write(backup.join("data/bin.index"), index).unwrap();
        let root = |place: &str, source: PathBuf, role: Role| RootEntry {
            place: place.into(),
            source,
            roles: vec![role],
        };
        let roots = vec![
            root("data", old.join("data"), Role::Data),
            root("external/0", old.join("far"), Role::Linked),
        ];
        manifest(&backup, roots).replace(&backup).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn args(&self, move_back: bool) -> RestoreArgs {
        RestoreArgs {
            way: RestoreWay {
                copy_back: !move_back,
                move_back,
            },
            from: self.path("backup"),
            data_dir: self.path("new/data"),
            external: vec![format!("0={}", self.path("new/far").display())],
            owner: None,
            no_verify: false,
            mysqld: None,
        }
    }

    fn assert_restored(&self) {
        let data = self.path("new/data");
        assert_eq!(std::fs::read(data.join("db/t.ibd")).unwrap(), vec![7; 5000]);
        assert_eq!(std::fs::read(data.join("alias/t.MYD")).unwrap(), b"rows");
        let link = std::fs::read_link(data.join("db/t.MYD")).unwrap();
        assert_eq!(link, self.path("new/far/t.MYD"));
        let index = std::fs::read_to_string(data.join("bin.index")).unwrap();
        assert_eq!(
            index,
            format!("{}/bin.000001\n", self.path("new/far").display())
        );
        assert_eq!(names(&data), ["alias", "bin.index", "db"]);
        assert_eq!(names(&self.path("new/far")), ["t.MYD"]);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn manifest(backup: &Path, roots: Vec<RootEntry>) -> Manifest {
    let places: Vec<PathBuf> = roots.iter().map(|root| root.place.clone()).collect();
    Manifest {
        format_version: 1,
        program_version: "0".into(),
        session: "0".into(),
        started: String::new(),
        cut_at: String::new(),
        finished: String::new(),
        server: ServerEntry {
            version: Version::plain(Flavor::MariaDb, (10, 11, 1)),
            uuid: String::new(),
            server_id: 1,
            hostname: String::new(),
            port: 0,
            executable: "/nowhere/mariadbd".into(),
            arguments: Vec::new(),
            library_version: String::new(),
            settings: Settings::default(),
        },
        position: None,
        channels: Vec::new(),
        times: LockTimes::default(),
        binlogs: BinlogEntry {
            choice: Binlogs::Needed,
            base: None,
            index: None,
        },
        roots,
        spellings: Spellings::default(),
        exclude: Vec::new(),
        warnings: Vec::new(),
        stats: Stats::default(),
        golden: None,
        prepare_begun: None,
        prepared: None::<Prepared>,
        entries: files::inventory(backup, &places).unwrap(),
    }
}

#[test]
fn a_copy_is_put_back_with_links_leading_to_the_new_places() {
    let fixture = Fixture::new();
    run(&fixture.args(false)).unwrap();
    fixture.assert_restored();
    crate::verify::run(&fixture.path("backup")).unwrap();
}

#[test]
fn a_moved_backup_is_used_up() {
    let fixture = Fixture::new();
    run(&fixture.args(true)).unwrap();
    fixture.assert_restored();
    assert!(Manifest::read(&fixture.path("backup")).is_err());
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("new/data/precious")).unwrap();
    let failure = run(&fixture.args(false)).unwrap_err();
    assert!(
        matches!(failure, Failure::Restore(RestoreError::NotEmpty(_))),
        "{failure}"
    );
    assert_eq!(names(&fixture.path("new")), ["data"]);
    assert_eq!(names(&fixture.path("new/data")), ["precious"]);
}

#[test]
fn an_external_name_that_exists_is_not_overwritten() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("new/far")).unwrap();
    std::fs::write(fixture.path("new/far/t.MYD"), "mine").unwrap();
    let failure = run(&fixture.args(false)).unwrap_err();
    assert!(
        matches!(failure, Failure::Restore(RestoreError::InTheWay(_))),
        "{failure}"
    );
    assert_eq!(
        std::fs::read(fixture.path("new/far/t.MYD")).unwrap(),
        b"mine"
    );
    assert!(!fixture.path("new/data").exists());
}

#[test]
fn a_name_that_comes_while_a_restore_runs_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootEntry {
        place: "external/0".into(),
        source: "/old".into(),
        roles: vec![Role::Binlog],
    };
    let destination = Destination::new(&root, dir.path().into());
    let stages = place::Stages::make(std::slice::from_ref(&destination)).unwrap();
    std::fs::write(destination.stage.join("bin.000001"), "backup").unwrap();
    let name = dir.path().join("bin.000001");
    std::fs::write(&name, "server").unwrap();
    let error = stages.publish().unwrap_err().to_string();
    assert!(error.contains("bin.000001"), "{error}");
    assert_eq!(std::fs::read(&name).unwrap(), b"server");
}

#[test]
fn channels_by_file_and_offset_are_told_to_begin_anew() {
    let mut manifest = manifest(Path::new("/"), Vec::new());
    let channel = |name: &str, auto_position| Channel {
        name: name.into(),
        source_log_file: "up.000007".into(),
        exec_source_log_pos: 573,
        auto_position,
        ..Channel::default()
    };
    manifest.channels = vec![channel("one", true), channel("two", false)];
    let advice: Vec<String> = relay_log_advice(&manifest).collect();
    assert_eq!(
        advice,
        [
            "Channel \"two\" replicates by file and offset: set relay_log_recovery=ON before the server starts, and it goes on at up.000007:573"
        ]
    );
}

#[test]
fn a_damaged_backup_is_not_restored_and_nothing_is_left() {
    for move_back in [false, true] {
        let fixture = Fixture::new();
        std::fs::write(fixture.path("backup/data/db/t.ibd"), vec![8; 5000]).unwrap();
        let failure = run(&fixture.args(move_back)).unwrap_err();
        assert!(
            failure.message().contains("data/db/t.ibd: checksum"),
            "{}",
            failure.message()
        );
        assert!(!fixture.path("new").exists());
        Manifest::read(&fixture.path("backup")).unwrap();
    }
}

#[test]
fn an_external_root_that_the_backup_does_not_have_is_an_error() {
    let fixture = Fixture::new();
    let mut args = fixture.args(false);
    args.external.push("7=/somewhere".into());
    assert!(run(&args).is_err());
}

#[test]
fn what_is_named_by_way_of_a_link_of_the_old_server_leads_to_its_new_place() {
    let fixture = Fixture::new();
    let (old, backup) = (fixture.path("old"), fixture.path("backup"));
    std::fs::create_dir_all(old.join("far")).unwrap();
    symlink(old.join("far"), fixture.path("near")).unwrap();
    let mut manifest = Manifest::read(&backup).unwrap();
    manifest.spellings.learn(&fixture.path("near"));
    let index = format!("{}/bin.000001\n", fixture.path("near").display());
    std::fs::write(backup.join("data/bin.index"), index).unwrap();
    let link = backup.join("data/db/t.MYD");
    std::fs::remove_file(&link).unwrap();
    symlink(fixture.path("near/t.MYD"), &link).unwrap();
    manifest.entries = files::inventory(&backup, &["data".into(), "external/0".into()]).unwrap();
    manifest.replace(&backup).unwrap();
    // The link was on the other host.
    std::fs::remove_file(fixture.path("near")).unwrap();
    run(&fixture.args(false)).unwrap();
    fixture.assert_restored();
}

#[test]
fn a_relative_link_to_a_root_that_stays_leads_there_from_the_new_place_too() {
    let fixture = Fixture::new();
    let backup = fixture.path("backup");
    let mut manifest = Manifest::read(&backup).unwrap();
    let link = backup.join("data/db/t.MYD");
    std::fs::remove_file(&link).unwrap();
    symlink("../../far/t.MYD", &link).unwrap();
    manifest.entries = files::inventory(&backup, &["data".into(), "external/0".into()]).unwrap();
    manifest.replace(&backup).unwrap();
    let mut args = fixture.args(false);
    args.external.clear();
    // What a link that stayed as it is would lead to.
    std::fs::create_dir_all(fixture.path("new/far")).unwrap();
    run(&args).unwrap();
    let link = std::fs::read_link(fixture.path("new/data/db/t.MYD")).unwrap();
    assert_eq!(link, fixture.path("old/far/t.MYD"));
    assert_eq!(std::fs::read(link).unwrap(), b"rows");
}

#[test]
fn a_link_that_leads_nowhere_is_in_the_way_too() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("new/far")).unwrap();
    symlink("/none", fixture.path("new/far/t.MYD")).unwrap();
    let failure = run(&fixture.args(false)).unwrap_err();
    assert!(
        matches!(failure, Failure::Restore(RestoreError::InTheWay(_))),
        "{failure}"
    );
}
