//! Replaying a log onto an old copy equals what the calls did to the files, whatever the order in which threads made them.

mod driver;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use driver::{Scratch, Session, Taken, Victim, file_id};
use engine::capture_log::{FileId, Mode, Record};

/// A copy of the data directory, kept current by records alone.
struct Replica {
    root: PathBuf,
    source: PathBuf,
    paths: HashMap<FileId, PathBuf>,
}

impl Replica {
    /// Copies `source`, which has files only.
    fn of(source: &Path, root: &Path) -> Replica {
        std::fs::create_dir(root).expect("Scratch is writable");
        let mut paths = HashMap::new();
        for entry in std::fs::read_dir(source).expect("Readable") {
            let entry = entry.expect("Readable");
            let copy = root.join(entry.file_name());
            std::fs::copy(entry.path(), &copy).expect("Scratch is writable");
            paths.insert(file_id(&entry.path()), copy);
        }
        Replica {
            root: root.into(),
            source: source.into(),
            paths,
        }
    }

    fn open(&self, file: FileId) -> std::fs::File {
        let path = self.paths.get(&file).expect("A known file");
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("It is in the replica")
    }

    fn local(&self, path: &[u8]) -> PathBuf {
        let path = Path::new(std::str::from_utf8(path).expect("Text"));
        self.root
            .join(path.strip_prefix(&self.source).expect("Below the source"))
    }

    fn apply(&mut self, taken: &Taken) {
        match taken.record() {
            Record::Write {
                file,
                offset,
                payload,
                ..
            } => {
                self.open(file)
                    .write_all_at(payload.expect("Payload mode"), offset)
                    .expect("Written");
            }
            Record::Truncate { file, len } => self.open(file).set_len(len).expect("Set"),
            Record::Punch { file, offset, len } => {
                let target = self.open(file);
                let end = target.metadata().expect("Open").len().min(offset + len);
                if offset < end {
                    target
                        .write_all_at(&vec![0; (end - offset) as usize], offset)
                        .expect("Written");
                }
            }
            Record::Create {
                file, path, fresh, ..
            } => {
                assert!(fresh);
                let path = self.local(path);
                std::fs::File::create_new(&path).expect("Not there yet");
                self.paths.insert(file, path);
            }
            Record::Rename { file, from, to, .. } => {
                let (from, to) = (self.local(from), self.local(to));
                std::fs::rename(from, &to).expect("It is there");
                self.paths.insert(file, to);
            }
            Record::Unlink { file, path } => {
                std::fs::remove_file(self.local(path)).expect("It is there");
                self.paths.remove(&file);
            }
            other => panic!("{other:?} is not expected"),
        }
    }

    fn assert_equal(&self) {
        let names = |dir: &Path| {
            let entries = std::fs::read_dir(dir).expect("Readable");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("Readable").file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.root), names(&self.source));
        for name in names(&self.root) {
            let (copy, original) = (
                std::fs::read(self.root.join(&name)),
                std::fs::read(self.source.join(&name)),
            );
            assert!(
                copy.expect("Readable") == original.expect("Readable"),
                "{name:?} differs"
            );
        }
    }
}

#[test]
fn concurrent_overlapping_writes_are_replayed_in_file_order() {
    for round in 0..3 {
        let scratch = Scratch::new();
        std::fs::write(scratch.data().join("a"), vec![1u8; 100_000]).expect("Scratch is writable");
        let mut replica = Replica::of(&scratch.data(), &scratch.run().with_file_name("replica"));
        let mut victim = Victim::start(&scratch);
        let device = file_id(&scratch.data()).device;
        let mut session = Session::begin_on(
            &scratch.run(),
            victim.pid(),
            1 + round,
            Mode::Payload,
            &[device],
            256 << 20,
        );
        assert_eq!(victim.act("threads a 6 1000"), 0);
        let taken = session.drain();
        assert!(taken.len() > 5000, "{}", taken.len());
        for taken in &taken {
            replica.apply(taken);
        }
        replica.assert_equal();
    }
}

#[test]
fn names_and_reused_inodes_are_replayed() {
    let scratch = Scratch::new();
    std::fs::write(scratch.data().join("a"), vec![1u8; 1000]).expect("Scratch is writable");
    let mut replica = Replica::of(&scratch.data(), &scratch.run().with_file_name("replica"));
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
    assert_eq!(victim.act("shuffle x 4 300"), 0);
    for taken in session.drain() {
        replica.apply(&taken);
    }
    replica.assert_equal();
}
