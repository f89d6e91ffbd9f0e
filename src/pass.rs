//! A pass: copying what is dirty, with several workers. The base copy is the pass in which everything is.
//!
//! Extents are taken out of the catalog before the source is read (see [`crate::catalog::Catalog::take_work`]). What could not be copied, for whatever reason, is put
//! back: the catalog never believes more than what is in the stage.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::capture_log::{Attributes, FileId};
use crate::catalog::Work;
use crate::copy::{Copier, CopyContext, CopyError, Disks, Pair};
use crate::extents::Extents;
use crate::source::{self, OpenError, Traits};
use crate::target::Stage;

/// Files are copied in pieces of this length, so that a large one keeps all workers busy.
const PIECE_LEN: u64 = 64 << 20;
/// Longer pieces rather than more than about so many: a sparse file may be as long as offsets go.
const PIECE_COUNT: u64 = 4096;
/// Gaps between extents that are copied along.
const GAP_LEN: u64 = 32 << 10;

#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("Cannot open {path} in the source: {source}")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Copy { path: PathBuf, source: CopyError },
    #[error("Cannot create the copy of {path}: {source}")]
    Slot {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("No memory to copy through: {0}")]
    Memory(#[source] std::io::Error),
    #[error("Cancelled")]
    Cancelled,
}

/// Where a pass takes its dirty files from and puts back what it could not copy.
pub trait Ledger: Sync {
    fn put_back(&self, file: FileId, slot: u64, extents: Extents);
    /// False if it was removed meanwhile, as far as the log was read.
    fn is_known(&self, file: FileId, slot: u64) -> bool;
    /// All of the work of this file was done; `seen`: its traits before it was first read.
    fn copied(&self, work: &Work, traits: Traits, attributes: Attributes);
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassOutcome {
    pub copied_bytes: u64,
    /// Files that were not to be found under their names, and stay dirty.
    pub moved_files: u64,
}

/// What all workers share.
pub struct Pass<'a> {
    pub stage: &'a Stage,
    pub copying: CopyContext<'a>,
    pub disks: &'a Disks,
    pub ledger: &'a dyn Ledger,
    pub parallel: usize,
    pub on_file: &'a (dyn Fn() + Sync),
}

/// A file's share in a pass, with the pieces still to do.
struct Item {
    work: Work,
    pieces_left: AtomicUsize,
    failed: AtomicBool,
    seen: Mutex<Option<(Traits, Attributes)>>,
}

impl Pass<'_> {
    /// Copies all of `work`. On an error everything that is not copied is put back first.
    pub fn run(&self, work: Vec<Work>) -> Result<PassOutcome, PassError> {
        let copiers = (0..self.parallel.max(1)).map(|_| Copier::new(self.copying));
        let copiers = match copiers.collect::<Result<Vec<_>, _>>() {
            Ok(copiers) => copiers,
            Err(error) => {
                for work in work {
                    self.ledger.put_back(work.file, work.slot, work.extents);
                }
                return Err(PassError::Memory(error));
            }
        };
        let (sender, receiver) = bounded::<(Arc<Item>, Vec<Range<u64>>)>(self.parallel * 4);
        let failure: Mutex<Option<PassError>> = Mutex::new(None);
        let (copied, moved) = (AtomicU64::new(0), AtomicU64::new(0));
        let failed = || failure.lock().is_some();
        std::thread::scope(|scope| {
            for mut copier in copiers {
                let receiver = receiver.clone();
                let (failure, copied, moved) = (&failure, &copied, &moved);
                scope.spawn(move || {
                    crate::threads::started();
                    crate::threads::ask_for_short_turns();
                    for (item, ranges) in receiver {
                        let failed = failure.lock().is_some();
                        match self.copy_piece(&mut copier, &item, &ranges, failed) {
                            Ok(Some(bytes)) => _ = copied.fetch_add(bytes, Ordering::Relaxed),
                            Ok(None) => _ = moved.fetch_add(1, Ordering::Relaxed),
                            Err(error) => _ = failure.lock().get_or_insert(error),
                        }
                    }
                });
            }
            drop(receiver);
            for work in work {
                if failed() || (self.copying.stop)() {
                    self.ledger.put_back(work.file, work.slot, work.extents);
                    continue;
                }
                self.send_pieces(work, &sender);
            }
            drop(sender);
        });
        match failure.into_inner() {
            Some(error) => Err(error),
            None if (self.copying.stop)() => Err(PassError::Cancelled),
            None => Ok(PassOutcome {
                copied_bytes: copied.into_inner(),
                moved_files: moved.into_inner(),
            }),
        }
    }

    fn send_pieces(
        &self,
        work: Work,
        sender: &crossbeam_channel::Sender<(Arc<Item>, Vec<Range<u64>>)>,
    ) {
        let pieces = pieces(&work.extents, work.size);
        let item = Arc::new(Item {
            work,
            pieces_left: AtomicUsize::new(pieces.len()),
            failed: AtomicBool::new(false),
            seen: Mutex::new(None),
        });
        for ranges in pieces {
            // The workers outlive the loop: they end when the sender is dropped.
            let _ = sender.send((item.clone(), ranges));
        }
    }

    /// Gives the bytes copied, or None if the file was not found under its name. `has_failed`: another piece did, and this one is only put back.
    fn copy_piece(
        &self,
        copier: &mut Copier<'_>,
        item: &Item,
        ranges: &[Range<u64>],
        has_failed: bool,
    ) -> Result<Option<u64>, PassError> {
        let result = match has_failed {
            true => Err(PassError::Cancelled),
            false => self.copy_ranges(copier, item, ranges),
        };
        if !matches!(result, Ok(Some(_))) {
            item.failed.store(true, Ordering::Relaxed);
        }
        let last = item.pieces_left.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.end(item);
        }
        result
    }

    /// All pieces were tried.
    fn end(&self, item: &Item) {
        let work = &item.work;
        if item.failed.load(Ordering::Relaxed) {
            // The pieces that were copied, too: the look that the next copy begins with vouches for all of the file, and a change without a record may lie between.
            self.ledger
                .put_back(work.file, work.slot, work.extents.clone());
            return;
        }
        let (traits, attributes) = item.seen.lock().unwrap_or_default();
        self.ledger.copied(work, traits, attributes);
        (self.on_file)();
    }

    fn copy_ranges(
        &self,
        copier: &mut Copier<'_>,
        item: &Item,
        ranges: &[Range<u64>],
    ) -> Result<Option<u64>, PassError> {
        let path = || item.work.path.clone();
        let (file, slot) = (item.work.file, item.work.slot);
        let opened = source::open(&item.work.path, file, || self.ledger.is_known(file, slot));
        let (source, traits, attributes) = match opened {
            Ok(opened) => opened,
            Err(OpenError::Moved) => return Ok(None),
            Err(OpenError::Io(source)) => {
                return Err(PassError::Open {
                    path: path(),
                    source,
                });
            }
        };
        item.seen.lock().get_or_insert((traits, attributes));
        let slot = |source| PassError::Slot {
            path: path(),
            source,
        };
        let target = self.stage.open_slot(item.work.slot).map_err(slot)?;
        let len = ranges
            .iter()
            .map(|range| range.end.min(traits.size).saturating_sub(range.start))
            .sum();
        let pair = Pair::new(item.work.slot, source, target, len, self.disks);
        pair.make_room(traits.size, self.copying.digests)
            .map_err(slot)?;
        let mut bytes = 0;
        for range in ranges {
            // Else a file that grows faster than it is copied would never be done. Nothing beyond is lost: who made the file longer than this look at it found appends
            // the record behind the look, hence behind the moment when the extents were taken, so that the rest is dirty again, or applied to the copy; and where no
            // record tells of bytes, there are zeros, in the copy too, since it was cut at the size of this look.
            let range = range.start..range.end.min(traits.size);
            bytes += copier.copy(&pair, range).map_err(|source| match source {
                CopyError::Cancelled => PassError::Cancelled,
                source => PassError::Copy {
                    path: path(),
                    source,
                },
            })?;
        }
        // For what the range's end leaves open.
        pair.match_size(self.copying.digests).map_err(slot)?;
        Ok(Some(bytes))
    }
}

/// Splits extents into what one worker does at a time. What reaches beyond the size stays in one piece: the file may have grown, but a range may be as long as offsets
/// go, where a file was cut or a hole punched up to whatever end.
fn pieces(extents: &Extents, size: u64) -> Vec<Vec<Range<u64>>> {
    let len = PIECE_LEN.max(size / PIECE_COUNT);
    let mut pieces = Vec::new();
    let mut piece: Vec<Range<u64>> = Vec::new();
    let mut piece_len = 0;
    for range in extents.without_gaps(GAP_LEN) {
        let mut at = range.start;
        while at < range.end {
            let mut end = range.end.min(at.saturating_add(len - piece_len));
            if end >= size {
                end = range.end;
            }
            piece_len += end.min(size.max(at)) - at;
            piece.push(at..end);
            at = end;
            if piece_len >= len {
                pieces.push(std::mem::take(&mut piece));
                piece_len = 0;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Mark;
    use crate::digest::Digests;
    use crate::extents::WHOLE;
    use crate::source::Found;
    use crate::throttle::Throttle;
    use std::os::unix::fs::FileExt;

    #[derive(Default)]
    struct Book {
        back: Mutex<Vec<Extents>>,
        copied: Mutex<u32>,
    }

    impl Ledger for Book {
        fn put_back(&self, _: FileId, _: u64, extents: Extents) {
            self.back.lock().push(extents);
        }
        fn is_known(&self, _: FileId, _: u64) -> bool {
            true
        }
        fn copied(&self, _: &Work, _: Traits, _: Attributes) {
            *self.copied.lock() += 1;
        }
    }

    /// A directory with a source in it, which is empty, and a stage beside it.
    fn ground() -> (tempfile::TempDir, PathBuf, Stage, Book) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let stage = Stage::create(&dir.path().join("t")).unwrap();
        (dir, source, stage, Book::default())
    }

    fn run(stage: &Stage, book: &Book, work: Vec<Work>) -> Result<PassOutcome, PassError> {
        run_with(stage, book, work, 2, &|_| ())
    }

    fn run_with(
        stage: &Stage,
        book: &Book,
        work: Vec<Work>,
        parallel: usize,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<PassOutcome, PassError> {
        let (throttle, digests) = (Throttle::new(0), Digests::default());
        let pass = Pass {
            stage,
            copying: CopyContext {
                throttle: &throttle,
                digests: &digests,
                stop: &|| false,
                on_bytes,
                reflink: false,
            },
            disks: &Disks::new(2),
            ledger: book,
            parallel,
            on_file: &|| (),
        };
        pass.run(work)
    }

    fn work_for(dir: &std::path::Path, name: &str, content: &[u8]) -> Work {
        std::fs::write(dir.join(name), content).unwrap();
        let root = source::Root {
            source: dir.into(),
            place: "data".into(),
        };
        let scope = source::Scope::new(vec![root], Arc::new(|_| false));
        let entries = source::scan(&scope).unwrap();
        let entry = entries
            .into_iter()
            .find(|entry| entry.found == Found::File && entry.path.ends_with(name))
            .unwrap();
        let (path, size) = (entry.path, entry.traits.size);
        Work {
            file: entry.file,
            slot: 1,
            path,
            extents: Extents::Whole,
            size,
            since: Mark::default(),
        }
    }

    #[test]
    fn a_file_that_moved_stays_dirty() {
        let (dir, source, stage, book) = ground();
        let work = work_for(&source, "a", b"hello");
        std::fs::rename(source.join("a"), dir.path().join("a")).unwrap();
        let outcome = run(&stage, &book, vec![work]).unwrap();
        assert_eq!(outcome.moved_files, 1);
        assert_eq!(*book.back.lock(), [Extents::Whole]);
        assert_eq!(*book.copied.lock(), 0);
    }

    #[test]
    fn a_file_that_moves_between_its_pieces_stays_dirty_as_a_whole() {
        let (dir, source, stage, book) = ground();
        let mut work = work_for(&source, "a", b"hello");
        let file = std::fs::File::options()
            .write(true)
            .open(source.join("a"))
            .unwrap();
        file.set_len(PIECE_LEN + 1).unwrap();
        work.size = PIECE_LEN + 1;
        let (from, to) = (source.join("a"), dir.path().join("a"));
        let outcome = run_with(&stage, &book, vec![work], 1, &|_| {
            std::fs::rename(&from, &to).unwrap();
        });
        assert_eq!(outcome.unwrap().moved_files, 1);
        assert_eq!(*book.back.lock(), [Extents::Whole]);
        assert_eq!(*book.copied.lock(), 0);
    }

    #[test]
    fn all_that_a_failed_pass_did_not_copy_is_put_back() {
        let (_dir, source, stage, book) = ground();
        let mut work = work_for(&source, "a", b"hello");
        work.size = PIECE_LEN * 20;
        // Nothing can be copied there.
        std::fs::create_dir(stage.slot_path(work.slot)).unwrap();
        let others = (0..20).map(|_| work.clone()).collect();
        assert!(run(&stage, &book, others).is_err());
        assert_eq!(*book.back.lock(), vec![Extents::Whole; 20]);
    }

    #[test]
    fn a_file_that_was_renamed_is_found_beside_its_name() {
        let (_dir, source, stage, book) = ground();
        let work = work_for(&source, "a", b"hello");
        let slot = work.slot;
        std::fs::rename(source.join("a"), source.join("b")).unwrap();
        // Another file under the old name is not it.
        std::fs::write(source.join("a"), "other").unwrap();
        let outcome = run(&stage, &book, vec![work]).unwrap();
        assert_eq!((outcome.moved_files, *book.copied.lock()), (0, 1));
        assert_eq!(std::fs::read(stage.slot_path(slot)).unwrap(), b"hello");
    }

    #[test]
    fn a_directory_with_the_inode_of_a_file_that_is_gone_is_not_it() {
        let (_dir, source, stage, book) = ground();
        std::fs::create_dir(source.join("beside")).unwrap();
        let mut work = work_for(&source, "a", b"hello");
        let inode = std::os::unix::fs::MetadataExt::ino(&source.join("beside").metadata().unwrap());
        work.file.inode = inode;
        let outcome = run(&stage, &book, vec![work]).unwrap();
        assert_eq!(outcome.moved_files, 1);
    }

    #[test]
    fn a_failed_copy_puts_its_extents_back() {
        let (_dir, source, stage, book) = ground();
        let work = work_for(&source, "a", b"hello");
        std::fs::remove_dir_all(stage.path()).unwrap();
        assert!(matches!(
            run(&stage, &book, vec![work]),
            Err(PassError::Slot { .. })
        ));
        assert_eq!(*book.back.lock(), [Extents::Whole]);
    }

    #[test]
    fn a_copy_takes_content_and_size() {
        let (_dir, source, stage, book) = ground();
        let work = work_for(&source, "a", b"hello");
        stage
            .open_slot(1)
            .unwrap()
            .write_all_at(b"something longer", 0)
            .unwrap();
        run(&stage, &book, vec![work]).unwrap();
        assert_eq!(std::fs::read(stage.slot_path(1)).unwrap(), b"hello");
        assert_eq!(*book.copied.lock(), 1);
    }

    #[test]
    fn a_file_that_grows_as_fast_as_it_is_copied_is_copied_as_long_as_it_was() {
        let (_dir, source, stage, book) = ground();
        let work = work_for(&source, "a", &[1; 3000]);
        let file = std::fs::File::options()
            .append(true)
            .open(source.join("a"))
            .unwrap();
        let grown = AtomicU64::new(0);
        let grow = |bytes: u64| {
            let end = grown.fetch_add(bytes, Ordering::Relaxed);
            if end < 1 << 20 {
                std::io::Write::write_all(&mut &file, &vec![2; bytes as usize]).unwrap();
            }
        };
        let outcome = run_with(&stage, &book, vec![work], 2, &grow).unwrap();
        assert_eq!((outcome.copied_bytes, *book.copied.lock()), (3000, 1));
        let copy = std::fs::read(stage.slot_path(1)).unwrap();
        assert_eq!(copy[..3000], [1; 3000]);
    }

    #[test]
    fn what_an_earlier_pass_left_beyond_the_end_is_not_there_when_the_file_has_grown_again() {
        let (_dir, source, stage, book) = ground();
        let mut work = work_for(&source, "a", &[1; 3000]);
        work.extents = Extents::default();
        work.extents.insert(2000..WHOLE.end);
        std::fs::write(stage.slot_path(1), [7; 3000]).unwrap();
        // Cut at 2500, and longer again before the copy gets its size; the record of the latter says no more than that the file ends at 3000.
        let file = std::fs::File::options()
            .write(true)
            .open(source.join("a"))
            .unwrap();
        file.set_len(2500).unwrap();
        let grow = |_| file.set_len(3000).unwrap();
        run_with(&stage, &book, vec![work], 2, &grow).unwrap();
        let copy = std::fs::read(stage.slot_path(1)).unwrap();
        assert_eq!(copy[..2000], [7; 2000]);
        assert_eq!(copy[2000..2500], [1; 500]);
        assert_eq!(copy[2500..], [0; 500]);
    }

    #[test]
    fn pieces_cover_the_extents_and_no_more_than_the_gap_rule_allows() {
        let mut extents = Extents::default();
        extents.insert(10..20);
        extents.insert(PIECE_LEN * 2..PIECE_LEN * 4 + 5);
        let pieces = pieces(&extents, PIECE_LEN * 5);
        let mut covered = Extents::default();
        pieces
            .iter()
            .flatten()
            .for_each(|range| covered.insert(range.clone()));
        assert_eq!(covered, extents);
        assert!(pieces.len() >= 2);
    }

    #[test]
    fn a_range_far_beyond_the_size_is_one_piece() {
        let mut extents = Extents::default();
        extents.insert(5..i64::MAX as u64);
        let ends = |size| -> Vec<u64> {
            let pieces = pieces(&extents, size).concat();
            pieces.iter().map(|range| range.end).collect()
        };
        assert_eq!(ends(3), [i64::MAX as u64]);
        assert_eq!(ends(PIECE_LEN * 2), [PIECE_LEN + 5, i64::MAX as u64]);
    }

    #[test]
    fn a_whole_file_is_cut_by_its_size_and_stays_open_ended() {
        let pieces = pieces(&Extents::Whole, PIECE_LEN * 3 + 1);
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[3].last().unwrap().end, u64::MAX);
    }

    #[test]
    fn a_file_of_exabytes_has_no_more_than_some_thousand_pieces() {
        let pieces = pieces(&Extents::Whole, 1 << 60);
        assert!(pieces.len() as u64 <= PIECE_COUNT + 1);
        assert_eq!(pieces.concat().last().unwrap().end, u64::MAX);
    }
}
