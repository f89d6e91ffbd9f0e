//! The backup has the binlogs that recovery needs, its index says so, and its last one ends at the position.

use super::*;
use crate::backup::roots;
use crate::backup::sight::Sight;
use crate::client::scripted::ScriptedClient;

struct Fixture {
    dir: tempfile::TempDir,
    roots: Roots,
    variables: Variables,
    location: Location,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let datadir = dir.path().join("source");
        std::fs::create_dir(&datadir).unwrap();
        std::fs::create_dir_all(dir.path().join("stage/data")).unwrap();
        let datadir = std::fs::canonicalize(datadir)
            .unwrap()
            .display()
            .to_string();
        let base = format!("{datadir}/bin");
        let variables = Variables::from([
            ("datadir", datadir.as_str()),
            ("log_bin", "ON"),
            ("log_bin_basename", base.as_str()),
        ]);
        Fixture {
            roots: roots::find(&variables, &[], &Sight::default()).unwrap(),
            location: Location::of(&variables).unwrap(),
            variables,
            dir,
        }
    }

    fn stage(&self) -> PathBuf {
        self.dir.path().join("stage")
    }

    fn filter(&self, choice: Binlogs) -> Filter {
        let mut filter = self.roots.filter(&self.variables, &[]).unwrap();
        let logs: [&[&str]; 3] = [&["bin.000001"], &["bin.000002"], &["bin.000003"]];
        let mut client = ScriptedClient::new();
        if choice != Binlogs::All {
            client = client.rows("SHOW BINARY LOGS", &["Log_name"], &logs);
        }
        self.location
            .select(choice, &mut client, &mut filter)
            .unwrap();
        client.finish();
        filter
    }

    fn left_out(&self, choice: Binlogs, name: &str) -> bool {
        self.filter(choice)
            .leaves_out(&self.roots.datadir().join(name))
    }

    /// Puts a file into the stage and gives its entry.
    fn staged(&self, name: &str, content: &[u8]) -> Entry {
        let path = Path::new("data").join(name);
        std::fs::write(self.stage().join(&path), content).unwrap();
        let kind = Kind::File {
            size: content.len() as u64,
            crc32c: crc32c::crc32c(content),
            link_to: None,
        };
        Entry {
            path,
            kind,
            mode: 0o660,
            uid: 0,
            gid: 0,
            modified_ns: 0,
        }
    }

    fn position(&self, entries: &[Entry], before: u64, after: u64) -> Result<u64, BinlogError> {
        let at = |offset| {
            Some(Coordinates {
                file: "bin.000003".into(),
                offset,
            })
        };
        let readings = Readings {
            before: at(before),
            after: at(after),
            ..Readings::default()
        };
        let position = self
            .location
            .position(&self.stage(), &self.roots, entries, &readings)?;
        Ok(position.offset)
    }
}

/// A binlog with one event, naming `checkpoint`; 4 + 19 + 14 bytes long for a name of ten.
fn binlog(checkpoint: &str) -> Vec<u8> {
    let mut bytes = b"\xfebin".to_vec();
    let mut header = [0; 19];
    header[4] = 161;
    header[9] = 19 + 4 + checkpoint.len() as u8;
    bytes.extend(header);
    bytes.extend((checkpoint.len() as u32).to_le_bytes());
    bytes.extend(checkpoint.as_bytes());
    bytes
}

#[test]
fn needed_are_the_last_two_and_those_to_come() {
    let fixture = Fixture::new();
    assert!(fixture.left_out(Binlogs::Needed, "bin.000001"));
    for name in ["bin.000002", "bin.000003", "bin.000004", "bin.index"] {
        assert!(!fixture.left_out(Binlogs::Needed, name), "{name}");
    }
    assert!(!fixture.left_out(Binlogs::All, "bin.000001"));
}

#[test]
fn where_recovery_begins_with_the_last_it_is_needed_alone() {
    let fixture = Fixture::new();
    for (checkpoint, is_alone) in [("bin.000002", false), ("bin.000003", true)] {
        let path = fixture.location.path("bin.000003");
        std::fs::write(path, binlog(checkpoint)).unwrap();
        assert_eq!(
            fixture.left_out(Binlogs::Needed, "bin.000002"),
            is_alone,
            "{checkpoint}"
        );
        assert!(!fixture.left_out(Binlogs::Needed, "bin.000003"));
    }
}

#[test]
fn a_new_binlog_is_begun_and_waited_for() {
    let fixture = Fixture::new();
    let path = fixture.location.path("bin.000003");
    std::fs::write(&path, binlog("bin.000002")).unwrap();
    let logs: [&[&str]; 2] = [&["bin.000002"], &["bin.000003"]];
    let mut client = ScriptedClient::new()
        .done("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
        .rows("SHOW BINARY LOGS", &["Log_name"], &logs);
    std::thread::scope(|threads| {
        threads.spawn(|| std::fs::write(&path, binlog("bin.000003")).unwrap());
        let cancel = Cancel::default();
        assert!(fixture.location.rotate(&mut client, &cancel).unwrap());
    });
    client.finish();
    assert!(fixture.left_out(Binlogs::Rotate, "bin.000002"));
    assert!(!fixture.left_out(Binlogs::Rotate, "bin.000003"));
}

#[test]
fn a_signal_ends_the_wait_for_a_new_binlog() {
    let fixture = Fixture::new();
    let path = fixture.location.path("bin.000003");
    std::fs::write(&path, binlog("bin.000002")).unwrap();
    let mut client = ScriptedClient::new()
        .done("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS")
        .rows("SHOW BINARY LOGS", &["Log_name"], &[&["bin.000003"]]);
    let cancel = Cancel::default();
    cancel.request();
    let rotated = fixture.location.rotate(&mut client, &cancel);
    assert!(matches!(rotated, Err(Failure::Cancelled(_))));
}

#[test]
fn none_means_no_binlog_ever_and_nothing_else() {
    let fixture = Fixture::new();
    for name in [
        "bin.000001",
        "bin.000003",
        "bin.000099",
        "bin.index",
        "bin.state",
    ] {
        assert!(fixture.left_out(Binlogs::None, name), "{name}");
    }
    for name in ["binary", "bin.txt", "db"] {
        assert!(!fixture.left_out(Binlogs::None, name), "{name}");
    }
}

#[test]
fn the_index_lists_what_is_there_and_leads_to_no_other_place() {
    let fixture = Fixture::new();
    let index = b"/live/bin.000001\n/live/bin.000002\n./bin.000003\n";
    let mut entries = vec![
        fixture.staged("bin.index", index),
        fixture.staged("bin.000002", b""),
        fixture.staged("bin.000003", b""),
    ];
    let location = &fixture.location;
    location
        .settle_index(&fixture.stage(), &fixture.roots, &mut entries)
        .unwrap();
    let text = std::fs::read(fixture.stage().join("data/bin.index")).unwrap();
    assert_eq!(text, b"./bin.000002\n./bin.000003\n");
    let Kind::File { size, crc32c, .. } = &entries[0].kind else {
        unreachable!()
    };
    assert_eq!((*size, *crc32c), (26, crc32c::crc32c(&text)));
}

#[test]
fn a_binlog_that_ends_at_the_position_is_right() {
    let fixture = Fixture::new();
    let entries = [fixture.staged("bin.000003", &binlog("bin.000003"))];
    assert_eq!(fixture.position(&entries, 37, 37).unwrap(), 37);
    assert_eq!(fixture.position(&entries, 30, 60).unwrap(), 37);
}

#[test]
fn a_binlog_that_ends_elsewhere_fails_the_backup() {
    let fixture = Fixture::new();
    let entries = [fixture.staged("bin.000003", &binlog("bin.000003"))];
    for (before, after) in [(38, 38), (36, 36)] {
        let error = fixture.position(&entries, before, after).unwrap_err();
        assert!(matches!(error, BinlogError::OtherEnd { .. }), "{error}");
    }
}

#[test]
fn a_checkpoint_in_a_binlog_that_was_left_out_fails_the_backup() {
    let fixture = Fixture::new();
    let entries = [fixture.staged("bin.000003", &binlog("bin.000001"))];
    let error = fixture.position(&entries, 37, 37).unwrap_err();
    assert!(matches!(error, BinlogError::LeftOut { .. }), "{error}");
}

#[test]
fn a_missing_last_binlog_fails_the_backup() {
    let fixture = Fixture::new();
    let error = fixture.position(&[], 37, 37).unwrap_err();
    assert!(matches!(error, BinlogError::Missing(_)), "{error}");
}

#[test]
fn a_binlog_that_the_server_has_closed_is_no_position() {
    let readings = Readings::default();
    let error = readings.ends().unwrap_err();
    assert!(matches!(error, BinlogError::Closed), "{error}");
}
