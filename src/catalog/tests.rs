//! Scans that run while names change, against a model of the file system: whatever a scan saw half of, the catalog is exact once the log is replayed.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::source::Root;

const NAME_COUNT: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Create(usize),
    Unlink(usize),
    Rename(usize, usize),
    Link(usize, usize),
    /// The reader takes what is in the log.
    Read,
    /// Every file that is dirty is copied.
    Copy,
    /// A scan looks at the names in this order, an operation behind each: directories that change may show a name twice.
    Scan(Vec<(usize, Option<Box<Op>>)>),
}

/// An inode, and which of the files that had its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    inode: u64,
    birth: i64,
}

/// What an operation appended to the log.
enum Done {
    Create(File, usize),
    Unlink(File, usize),
    Rename(File, usize, usize),
    Link(File, usize),
}

struct Model {
    names: [Option<File>; NAME_COUNT],
    births: i64,
    log: Vec<Done>,
    catalog: Catalog,
    copies: HashMap<u64, File>,
}

fn path(name: usize) -> PathBuf {
    format!("/root/{name}").into()
}

fn id(file: File) -> FileId {
    FileId {
        device: 1,
        inode: file.inode,
    }
}

impl Model {
    fn new() -> Model {
        let root = Root {
            source: "/root".into(),
            place: "data".into(),
        };
        Model {
            names: [None; NAME_COUNT],
            births: 0,
            log: Vec::new(),
            catalog: Catalog::new(Scope::new(vec![root], Arc::new(|_| false))),
            copies: HashMap::new(),
        }
    }

    fn change(&mut self, op: &Op) {
        match *op {
            Op::Create(name) if self.names[name].is_none() => {
                let is_used = |inode: &u64| self.names.iter().flatten().any(|f| f.inode == *inode);
                let inode = (1..).find(|inode| !is_used(inode)).expect("Endless");
                self.births += 1;
                let birth = self.births;
                let file = File { inode, birth };
                self.names[name] = Some(file);
                self.log.push(Done::Create(file, name));
            }
            Op::Unlink(name) => {
                if let Some(file) = self.names[name].take() {
                    self.log.push(Done::Unlink(file, name));
                }
            }
            Op::Rename(from, to) => {
                // A rename of a file to another name of itself does nothing.
                if let Some(file) = self.names[from].filter(|file| self.names[to] != Some(*file)) {
                    self.names[from] = None;
                    self.names[to] = Some(file);
                    self.log.push(Done::Rename(file, from, to));
                }
            }
            Op::Link(from, to) if self.names[to].is_none() => {
                if let Some(file) = self.names[from] {
                    self.names[to] = Some(file);
                    self.log.push(Done::Link(file, to));
                }
            }
            _ => {}
        }
    }

    fn read(&mut self) {
        for done in std::mem::take(&mut self.log) {
            let bytes = |name: usize| path(name).into_os_string().into_encoded_bytes();
            let (from, to) = match done {
                Done::Rename(_, from, to) => (bytes(from), bytes(to)),
                Done::Create(_, name) | Done::Unlink(_, name) | Done::Link(_, name) => {
                    (bytes(name), bytes(name))
                }
            };
            let (from, to) = (from.as_slice(), to.as_slice());
            self.catalog.note_name(&match done {
                Done::Create(file, _) => Record::Create {
                    file: id(file),
                    path: to,
                    attributes: Attributes::default(),
                    fresh: true,
                },
                Done::Unlink(file, _) => Record::Unlink {
                    file: id(file),
                    path: to,
                },
                Done::Link(file, _) => Record::Link {
                    file: id(file),
                    path: to,
                },
                Done::Rename(file, ..) => Record::Rename {
                    file: id(file),
                    from,
                    to,
                    replaced: None,
                    exchange: false,
                    directory: false,
                },
            });
        }
    }

    /// As a pass does: a file is found by its name, or not at all.
    fn copy(&mut self) {
        for work in self.catalog.take_work() {
            let found = (0..NAME_COUNT).find(|name| path(*name) == work.path);
            let found = found.and_then(|name| self.names[name]);
            match found.filter(|file| id(*file) == work.file) {
                None => self.catalog.put_back(work.file, work.slot, work.extents),
                Some(file) => {
                    self.copies.insert(work.slot, file);
                    let state = self.catalog.file_mut(work.file).expect("It is known");
                    state.copied = true;
                    let (traits, since) = (traits(file), work.since);
                    state.seen = Some(Seen { traits, since });
                }
            }
        }
    }

    fn scan(&mut self, looks: &[(usize, Option<Box<Op>>)]) {
        let all = (0..NAME_COUNT).map(|name| (name, None));
        let (since, mut entries) = (self.catalog.mark(), Vec::new());
        for (name, op) in looks.iter().cloned().chain(all) {
            if let Some(file) = self.names[name] {
                entries.push(Entry {
                    path: path(name),
                    file: id(file),
                    found: Found::File,
                    attributes: Attributes::default(),
                    traits: traits(file),
                    allocated: 0,
                });
            }
            if let Some(op) = op {
                self.change(&op);
            }
        }
        self.catalog.adopt(entries, since);
        self.read();
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Read => self.read(),
            Op::Copy => self.copy(),
            Op::Scan(looks) => self.scan(looks),
            op => self.change(op),
        }
    }

    fn check(&self) {
        let catalog = &self.catalog;
        let expected: BTreeMap<OsString, Node> = (0..NAME_COUNT)
            .filter_map(|name| Some((path(name).into(), Node::File(id(self.names[name]?)))))
            .collect();
        assert_eq!(catalog.names, expected);
        for file in self.names.iter().flatten() {
            let state = catalog
                .file(id(*file))
                .expect("A name has a file behind it");
            let names = self.names.iter().flatten().filter(|named| *named == file);
            assert_eq!(state.names, names.count() as u64, "names of {file:?}");
            let is_dirty = state.dirty.iter().eq(Extents::Whole.iter());
            let copy = self.copies.get(&state.slot);
            assert!(
                is_dirty || copy == Some(file),
                "{file:?} passes for copied, but the copy is of {copy:?}"
            );
        }
        let named: std::collections::HashSet<FileId> =
            self.names.iter().flatten().map(|file| id(*file)).collect();
        assert_eq!(catalog.files.len(), named.len(), "files without a name");
    }
}

fn traits(file: File) -> Traits {
    Traits {
        size: 1,
        modified_ns: 0,
        born_ns: file.birth,
    }
}

fn change() -> impl Strategy<Value = Op> {
    let name = 0..NAME_COUNT;
    prop_oneof![
        3 => name.clone().prop_map(Op::Create),
        1 => name.clone().prop_map(Op::Unlink),
        3 => (name.clone(), name.clone()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => (name.clone(), name).prop_map(|(from, to)| Op::Link(from, to)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let look = (
        0..NAME_COUNT,
        proptest::option::of(change().prop_map(Box::new)),
    );
    prop_oneof![
        6 => change(),
        1 => Just(Op::Read),
        1 => Just(Op::Copy),
        1 => proptest::collection::vec(look, 0..8).prop_map(Op::Scan),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn scans_of_names_that_change_become_exact(
        before in proptest::collection::vec(change(), 0..8),
        ops in proptest::collection::vec(op(), 0..40),
    ) {
        let mut model = Model::new();
        for op in &before {
            model.change(op);
        }
        // Capture begins.
        model.log.clear();
        model.scan(&[]);
        for op in &ops {
            model.run(op);
        }
        model.read();
        model.check();
    }
}

#[test]
fn a_record_explains_no_change_that_comes_after_the_next_look() {
    let mut model = Model::new();
    model.change(&Op::Create(0));
    model.scan(&[]);
    let file = model.names[0].expect("It was made");
    let looks = |modified_ns| Traits {
        modified_ns,
        ..traits(file)
    };
    let explains = |model: &Model, modified_ns| {
        let state = model.catalog.file(id(file)).expect("It is known");
        state.explains(&looks(modified_ns))
    };
    model.copy();
    assert!(explains(&model, 0) && !explains(&model, 1));
    model.catalog.note_data(id(file), 0..1);
    assert!(explains(&model, 1), "it was recorded");
    let work = model.catalog.take_work();
    model.catalog.note_data(id(file), 0..1);
    let seen = |since| {
        Some(Seen {
            traits: looks(1),
            since,
        })
    };
    let state = model.catalog.file_mut(id(file)).expect("It is known");
    state.seen = seen(work[0].since);
    assert!(explains(&model, 2), "it may have come after the look");
    let since = model.catalog.mark();
    let state = model.catalog.file_mut(id(file)).expect("It is known");
    state.seen = seen(since);
    assert!(!explains(&model, 2), "both records are older than the look");
}

#[test]
fn a_change_without_a_record_is_copied_though_the_next_scan_finds_another_recorded() {
    let mut model = Model::new();
    model.change(&Op::Create(0));
    model.scan(&[]);
    model.copy();
    let file = model.names[0].expect("It was made");
    let why = model.catalog.distrust(&[path(0), path(1)]);
    assert!(why.is_some());
    assert_eq!(model.catalog.needs_scan(), why.as_deref());
    model.catalog.note_data(id(file), 0..1);
    model.scan(&[]);
    assert_eq!(model.catalog.needs_scan(), None);
    let state = model.catalog.file(id(file)).expect("It is known");
    assert!(state.dirty.iter().eq([WHOLE]), "{:?}", state.dirty);
}

#[test]
fn what_is_below_a_directory_is_not_what_only_begins_like_it() {
    let mut catalog = Model::new().catalog;
    let names = [
        "/root/a",
        "/root/a-b",
        "/root/a/c",
        "/root/a/c/d",
        "/root/a0",
    ];
    for name in names {
        let file = FileId {
            device: 1,
            inode: 1,
        };
        catalog.names.insert(name.into(), Node::File(file));
    }
    let below = catalog.below(Path::new("/root/a"));
    assert_eq!(
        below,
        ["/root/a", "/root/a/c", "/root/a/c/d"].map(PathBuf::from)
    );
}

#[test]
fn a_file_from_outside_counts_as_what_it_is_found_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("large");
    std::fs::write(&inside, vec![1; 5000]).unwrap();
    let found = crate::source::look(&inside).unwrap().expect("It is there");
    let root = Root {
        source: dir.path().into(),
        place: "data".into(),
    };
    let mut catalog = Catalog::new(Scope::new(vec![root], Arc::new(|_| false)));
    catalog.note_name(&Record::Rename {
        file: found.file,
        from: b"/elsewhere/large",
        to: inside.as_os_str().as_bytes(),
        replaced: None,
        exchange: false,
        directory: false,
    });
    let look = |catalog: &mut Catalog| {
        let beyond = catalog.dirty_beyond_size();
        for (path, file) in &beyond {
            let size = crate::source::size_of(path, *file).expect("It is there");
            catalog.note_size(*file, size);
        }
        (beyond.len(), catalog.dirty_bytes())
    };
    assert_eq!(look(&mut catalog), (1, 5000));
    // Copied, and written behind its end.
    catalog.take_work();
    catalog.note_data(found.file, 4000..4500);
    assert_eq!(look(&mut catalog), (0, 500));
    std::fs::write(&inside, vec![1; 9000]).unwrap();
    catalog.note_data(found.file, 5000..9000);
    assert_eq!(look(&mut catalog), (1, 4500));
    let other = FileId {
        inode: found.file.inode + 1,
        ..found.file
    };
    assert_eq!(crate::source::size_of(&inside, other), None);
}

#[test]
fn a_dirty_file_is_found_whatever_else_has_no_name() {
    let mut model = Model::new();
    model.change(&Op::Create(0));
    model.scan(&[]);
    for inode in 100..200 {
        model.catalog.state_or_new(FileId { device: 1, inode });
    }
    assert_eq!(model.catalog.first_dirty(), Some(path(0).as_path()));
}

fn renamed<'a>(from: &'a str, to: &'a str, exchange: bool, directory: bool) -> Record<'a> {
    Record::Rename {
        file: FileId {
            device: 1,
            inode: 77,
        },
        from: from.as_bytes(),
        to: to.as_bytes(),
        replaced: None,
        exchange,
        directory,
    }
}

#[test]
fn what_is_renamed_elsewhere_asks_for_no_scan() {
    let mut catalog = Model::new().catalog;
    let (out, far) = ("/elsewhere/a", "/elsewhere/b");
    for (exchange, directory) in [(true, false), (true, true), (false, true)] {
        catalog.note_name(&renamed(out, far, exchange, directory));
        catalog.ask_for_scan_if_moved(&renamed(out, far, exchange, directory));
        assert_eq!(catalog.needs_scan(), None);
    }
    for (from, to) in [(out, "/root/a"), ("/root/a", out), ("/", "/other")] {
        let mut catalog = Model::new().catalog;
        catalog.ask_for_scan_if_moved(&renamed(from, to, false, true));
        assert!(catalog.needs_scan().is_some(), "{from} to {to}");
    }
}

#[test]
fn a_file_that_came_from_outside_is_copied_whole_though_it_is_taken_for_another() {
    // A file system without times of birth; the inode was another file's, which was copied.
    let mut model = Model::new();
    model.change(&Op::Create(0));
    model.scan(&[]);
    model.copy();
    let file = id(model.names[0].expect("It was made"));
    for record in [
        Record::Rename {
            file,
            from: b"/elsewhere/x",
            to: b"/root/0",
            replaced: None,
            exchange: false,
            directory: false,
        },
        Record::Link {
            file,
            path: b"/root/0",
        },
    ] {
        model
            .catalog
            .file_mut(file)
            .expect("It is known")
            .dirty
            .take();
        model.catalog.note_name(&record);
        let state = model.catalog.file(file).expect("It is known");
        assert_eq!(state.dirty, Extents::Whole);
    }
}
