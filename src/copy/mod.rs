//! Copying a byte range from a source file to its copy, with holes kept as holes.
//!
//! Three ways, the first that serves: sharing blocks, on file systems that can; direct I/O, which takes hardly any CPU from the server and leaves the page
//! cache to it; and plain reads and writes, for what is small, unaligned or in the page cache already.
//!
//! The source may change meanwhile. That is no matter: whatever changes is recorded, and copied again.

mod cache;
mod depth;
mod direct;
mod holes;
mod share;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use self::cache::Pending;
use self::direct::{AlignedBuffer, Direct, Resident, aligned_len, is_aligned};
use self::holes::{Holes, Part, is_zero};
use self::share::{Shared, share};
use crate::digest::Digests;
use crate::throttle::Throttle;

pub use self::cache::drop_pages;
pub(crate) use self::cache::wait_until_written;
pub use self::depth::Disks;
pub use self::holes::{hole_end, make_hole};

/// A range shorter than this is not worth opening a file a second time.
const DIRECT_LEN_MIN: u64 = 256 << 10;
/// What is read and written at once: a commit of the server waits for one of them at least. With half of it the same bytes take longer, since each transfer costs some time of its own.
pub const TRANSFER_LEN: usize = 512 << 10;

/// Which side of a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("Cannot read the source: {0}")]
    Source(#[source] io::Error),
    #[error("Cannot write the copy: {0}")]
    Target(#[source] io::Error),
    #[error("Cancelled")]
    Cancelled,
}

/// What copiers share.
#[derive(Clone, Copy)]
pub struct CopyContext<'c> {
    pub throttle: &'c Throttle,
    pub digests: &'c Digests,
    pub stop: &'c (dyn Fn() -> bool + Sync),
    /// Told of progress, in bytes.
    pub on_bytes: &'c (dyn Fn(u64) + Sync),
    /// Source and target are on one file system that shares blocks.
    pub reflink: bool,
}

/// One copier per worker: it owns the buffer.
pub struct Copier<'c> {
    context: CopyContext<'c>,
    buffer: AlignedBuffer,
    pending: Pending,
}

/// A source file and its copy, open.
pub struct Pair {
    slot: u64,
    source: File,
    target: File,
    direct_source: Option<Direct>,
    direct_target: Option<Direct>,
    /// Blocks may be shared, for all that is known. Others may be where these can't: a source can have directories on several file systems.
    may_share: Cell<bool>,
    holes: Holes,
}

impl Pair {
    /// `len`: how much of it is about to be copied.
    pub fn new(slot: u64, source: File, target: File, len: u64, disks: &Disks) -> Pair {
        let mut pair = Pair {
            holes: Holes::of(&source),
            slot,
            source,
            target,
            direct_source: None,
            direct_target: None,
            may_share: Cell::new(true),
        };
        if len >= DIRECT_LEN_MIN {
            pair.direct_source = Direct::open(&pair.source, false, disks);
            pair.direct_target = Direct::open(&pair.target, true, disks);
        }
        pair
    }

    /// Gives the copy the size that the source is seen to have, before anything is written, so that large writes don't have to extend it. Small ones do that on
    /// their way; but what an earlier pass left beyond that size is cut off in any case. The source may have grown again by the time that the copy gets its size,
    /// by a call whose record tells of no bytes but of the new end, and has zeros there.
    pub fn make_room(&self, seen_size: u64, digests: &Digests) -> io::Result<()> {
        match self.direct_target.is_some() || self.target.metadata()?.len() > seen_size {
            true => self.resize(seen_size, digests),
            false => Ok(()),
        }
    }

    /// Gives the copy the size that the source has now. If that changed after the extents were taken, the log knows, and it comes again.
    pub fn match_size(&self, digests: &Digests) -> io::Result<()> {
        self.resize(self.source.metadata()?.len(), digests)
    }

    fn resize(&self, size: u64, digests: &Digests) -> io::Result<()> {
        let copy_size = self.target.metadata()?.len();
        // In any case: another worker may have cut off what this one had just written, and noted afterwards.
        digests.forget(self.slot, copy_size.min(size)..u64::MAX);
        match copy_size == size {
            true => Ok(()),
            false => self.target.set_len(size),
        }
    }

    /// Reads from the source what is in the page cache from there, and everything else past it. A direct read of what is dirty there would have to write it out first.
    fn read(&self, buffer: &mut [u8], at: u64, resident: &Resident) -> io::Result<usize> {
        let is_direct = is_aligned(at, buffer.len()) && !resident.has(at, buffer.len());
        match self.direct_source.as_ref().filter(|_| is_direct) {
            Some(direct) => direct
                .read(buffer, at)
                .or_else(|_| self.read_through_cache(buffer, at, resident)),
            None => self.read_through_cache(buffer, at, resident),
        }
    }

    /// Of `len` bytes what can be copied past the page cache at once, or all of them if nothing can.
    fn direct_len(&self, at: u64, len: u64) -> u64 {
        let aligned = aligned_len(len);
        match self.direct_source.is_some() && is_aligned(at, 0) && aligned > 0 {
            true => aligned,
            false => len,
        }
    }

    /// The page cache is as it was afterwards.
    fn read_through_cache(
        &self,
        buffer: &mut [u8],
        at: u64,
        resident: &Resident,
    ) -> io::Result<usize> {
        let got = read_some(&self.source, buffer, at);
        for range in resident.absent(at, buffer.len()) {
            drop_pages(&self.source, &range);
        }
        got
    }

    fn write(&self, bytes: &[u8], at: u64, pending: &mut Pending) -> io::Result<()> {
        let direct = self.direct_target.as_ref();
        if let Some(direct) = direct.filter(|_| is_aligned(at, bytes.len())) {
            match direct.write(bytes, at) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        self.target.write_all_at(bytes, at)?;
        pending.add(&self.target, at..at + bytes.len() as u64)
    }
}

impl<'c> Copier<'c> {
    /// Fails if there is no memory for its buffer.
    pub fn new(context: CopyContext<'c>) -> io::Result<Copier<'c>> {
        let buffer = AlignedBuffer::new()?;
        Ok(Copier {
            context,
            buffer,
            pending: Pending::default(),
        })
    }

    /// Makes `range` of the copy equal to that of the source, as far as the source reaches. Gives the bytes of data copied.
    pub fn copy(&mut self, pair: &Pair, range: Range<u64>) -> Result<u64, CopyError> {
        let mut at = range.start;
        let mut copied = 0;
        while at < range.end {
            let part = pair.holes.next_part(&pair.source, at, range.end);
            match part.map_err(CopyError::Source)? {
                Part::Data(end) => {
                    copied += self.copy_data(pair, at..end)?;
                    at = end;
                }
                Part::Hole(end) => {
                    self.context.digests.forget(pair.slot, at..end);
                    make_hole(&pair.target, at..end).map_err(CopyError::Target)?;
                    at = end;
                }
                Part::End => break,
            }
        }
        Ok(copied)
    }

    /// Goes a buffer at a time.
    fn copy_data(&mut self, pair: &Pair, range: Range<u64>) -> Result<u64, CopyError> {
        let context = self.context;
        // Of no interest where blocks are shared.
        let mut resident = None;
        let mut at = range.start;
        while at < range.end {
            context.throttle.hold(context.stop);
            if (context.stop)() {
                return Err(CopyError::Cancelled);
            }
            let done = match self.share(pair, at..range.end) {
                Some(done) => done,
                None => {
                    let resident =
                        resident.get_or_insert_with(|| Resident::of(&pair.source, &range));
                    self.copy_through_buffer(pair, at..range.end, resident)?
                }
            };
            if done == 0 {
                // The source was cut short meanwhile: that is in the log.
                break;
            }
            (context.on_bytes)(done);
            context.throttle.spend(done, context.stop);
            at += done;
        }
        Ok(at - range.start)
    }

    /// Gives the bytes at the begin of `range` that the copy shares with the source now, or None where they can't be shared.
    fn share(&self, pair: &Pair, range: Range<u64>) -> Option<u64> {
        if !self.context.reflink || !pair.may_share.get() {
            return None;
        }
        self.context.digests.forget(pair.slot, range.clone());
        match share(&pair.source, &pair.target, &range) {
            Shared::Bytes(done) => Some(done),
            Shared::Nothing => None,
            Shared::Never => {
                pair.may_share.set(false);
                None
            }
        }
    }

    fn copy_through_buffer(
        &mut self,
        pair: &Pair,
        range: Range<u64>,
        resident: &Resident,
    ) -> Result<u64, CopyError> {
        let at = range.start;
        // Ends where a buffer of the range's neighbours would, so that the next begins aligned.
        let buffer_len = TRANSFER_LEN as u64;
        let len = (buffer_len - at % buffer_len).min(range.end - at);
        let len = pair.direct_len(at, len);
        let buffer = &mut self.buffer.bytes()[..len as usize];
        let digests = self.context.digests;
        let got = pair.read(buffer, at, resident).map_err(CopyError::Source)?;
        let bytes = &buffer[..got];
        let written = at..at + got as u64;
        digests.forget(pair.slot, written.clone());
        match !pair.holes.are_told() && is_zero(bytes) {
            true => make_hole(&pair.target, written),
            false => pair.write(bytes, at, &mut self.pending),
        }
        .map_err(CopyError::Target)?;
        digests.note(pair.slot, at, bytes);
        Ok(got as u64)
    }
}

fn read_some(source: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match source.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Advice;
    use std::os::unix::fs::MetadataExt;

    /// A source and a copy on a real file system, where direct I/O is possible.
    struct Files {
        _dir: tempfile::TempDir,
        source: File,
        target: File,
        digests: Digests,
    }

    fn files() -> Files {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let open = |name: &str| {
            let path = dir.path().join(name);
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .unwrap()
        };
        let (source, target) = (open("source"), open("target"));
        Files {
            _dir: dir,
            source,
            target,
            digests: Digests::default(),
        }
    }

    impl Files {
        fn copy(&self, range: Range<u64>, stop: bool) -> Result<u64, CopyError> {
            self.copy_with(range, stop, false)
        }

        fn copy_with(
            &self,
            range: Range<u64>,
            stop: bool,
            reflink: bool,
        ) -> Result<u64, CopyError> {
            let (throttle, disks) = (Throttle::new(0), Disks::new(1));
            let context = CopyContext {
                throttle: &throttle,
                digests: &self.digests,
                stop: &|| stop,
                on_bytes: &|_| (),
                reflink,
            };
            let (source, target) = (
                self.source.try_clone().unwrap(),
                self.target.try_clone().unwrap(),
            );
            let pair = Pair::new(1, source, target, range.end - range.start, &disks);
            let copied = Copier::new(context).unwrap().copy(&pair, range)?;
            pair.match_size(&self.digests).unwrap();
            Ok(copied)
        }

        fn contents(&self) -> (Vec<u8>, Vec<u8>) {
            let read = |file: &File| {
                let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            (read(&self.source), read(&self.target))
        }
    }

    #[test]
    fn holes_stay_holes_and_data_stays_data() {
        let files = files();
        files.source.write_all_at(&[7; 8192], 1 << 20).unwrap();
        files.source.set_len(8 << 20).unwrap();
        files.copy(0..u64::MAX, false).unwrap();
        let (source, target) = files.contents();
        assert!(source == target);
        assert!(files.target.metadata().unwrap().blocks() <= 32);
    }

    #[test]
    fn where_holes_are_not_told_zeros_are_left_out() {
        let files = files();
        let (len, end) = (8 << 20, (8 << 20) + 777);
        files.source.write_all_at(&[7; 8192], 1 << 20).unwrap();
        files.source.write_all_at(&[0; 1 << 20], 4 << 20).unwrap();
        files.source.set_len(end).unwrap();
        files.target.write_all_at(&vec![9; len], 0).unwrap();
        let (throttle, disks) = (Throttle::new(0), Disks::new(1));
        let context = CopyContext {
            throttle: &throttle,
            digests: &files.digests,
            stop: &|| false,
            on_bytes: &|_| (),
            reflink: false,
        };
        let clone = |file: &File| file.try_clone().unwrap();
        let (source, target) = (clone(&files.source), clone(&files.target));
        let mut pair = Pair::new(1, source, target, end, &disks);
        pair.holes = Holes::untold();
        let mut copier = Copier::new(context).unwrap();
        assert_eq!(copier.copy(&pair, 0..u64::MAX).unwrap(), end);
        pair.match_size(&files.digests).unwrap();
        let (source, target) = files.contents();
        assert!(source == target);
        assert!(files.target.metadata().unwrap().blocks() <= 2 * 1024);
        let sum = files.digests.sum(1, &files.target).unwrap();
        assert_eq!(sum, (end, crc32c::crc32c(&source)));
        // Nothing is there to copy of what was cut off.
        files.source.set_len(1 << 20).unwrap();
        assert_eq!(copier.copy(&pair, 1 << 20..end).unwrap(), 0);
    }

    #[test]
    fn a_hole_in_the_source_clears_what_the_copy_had_there() {
        let files = files();
        files.source.set_len(1 << 20).unwrap();
        files.target.write_all_at(&[9; 1 << 20], 0).unwrap();
        files.copy(4096..500_000, false).unwrap();
        let (_, target) = files.contents();
        assert!(target[..4096].iter().all(|byte| *byte == 9));
        assert!(target[4096..500_000].iter().all(|byte| *byte == 0));
        assert!(target[500_000..].iter().all(|byte| *byte == 9));
    }

    #[test]
    fn lengths_that_are_no_multiple_of_a_block_are_copied_and_summed() {
        for len in [1, 511, 4095, 4097, 1 << 20, (4 << 20) + 1, (9 << 20) + 777] {
            let files = files();
            let bytes: Vec<u8> = (0..len)
                .map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect();
            files.source.write_all_at(&bytes, 0).unwrap();
            files.source.sync_all().unwrap();
            let _ = rustix::fs::fadvise(&files.source, 0, None, Advice::DontNeed);
            files.copy(0..u64::MAX, false).unwrap();
            let (source, target) = files.contents();
            assert!(source == target, "{len} bytes");
            assert_eq!(
                files.digests.sum(1, &files.target).unwrap(),
                (u64::from(len), crc32c::crc32c(&bytes))
            );
        }
    }

    #[test]
    fn where_blocks_cant_be_shared_the_bytes_pass_through_here_and_are_summed() {
        let files = files();
        let bytes = vec![7; 1 << 20];
        files.source.write_all_at(&bytes, 0).unwrap();
        if share(&files.source, &files.target, &(0..1 << 20)) != Shared::Never {
            return;
        }
        files.copy_with(0..u64::MAX, false, true).unwrap();
        let (source, target) = files.contents();
        assert!(source == target);
        // What is known already isn't read back.
        files.target.write_all_at(&[8; 1 << 20], 0).unwrap();
        let (_, sum) = files.digests.sum(1, &files.target).unwrap();
        assert_eq!(sum, crc32c::crc32c(&bytes));
    }

    #[test]
    fn files_that_cant_share_blocks_end_that_for_no_others() {
        let files = files();
        let elsewhere = tempfile::tempfile_in("/dev/shm").unwrap();
        elsewhere.write_all_at(&[7; 8192], 0).unwrap();
        let (throttle, disks) = (Throttle::new(0), Disks::new(1));
        let context = CopyContext {
            throttle: &throttle,
            digests: &files.digests,
            stop: &|| false,
            on_bytes: &|_| (),
            reflink: true,
        };
        let mut copier = Copier::new(context).unwrap();
        let target = || files.target.try_clone().unwrap();
        let pair = Pair::new(1, elsewhere, target(), 8192, &disks);
        copier.copy(&pair, 0..8192).unwrap();
        assert!(!pair.may_share.get() && copier.context.reflink);
        let source = files.source.try_clone().unwrap();
        assert!(Pair::new(1, source, target(), 1, &disks).may_share.get());
    }

    #[test]
    fn what_is_in_the_page_cache_is_told_without_bringing_anything_there() {
        let files = files();
        let len = 3 << 20;
        files.source.write_all_at(&vec![1; len], 0).unwrap();
        files.source.sync_all().unwrap();
        let range = 4096..len as u64;
        let cached = Resident::of(&files.source, &range);
        assert!(cached.has(4096, len - 4096) && cached.has(1 << 20, 777));
        assert!(!cached.has(0, 4096) && !cached.has(8192, len));
        let dropped = rustix::fs::fadvise(&files.source, 0, None, Advice::DontNeed);
        dropped.unwrap();
        for _ in 0..2 {
            let nothing = Resident::of(&files.source, &range);
            assert!(!nothing.has(4096, 4096) && !nothing.has(1 << 20, len - (1 << 20)));
        }
        let mut page = [0; 4096];
        files.source.read_exact_at(&mut page, 1 << 20).unwrap();
        let some = Resident::of(&files.source, &range);
        assert!(some.has(1 << 20, 4096) && !some.has(4096, len - 4096));
    }

    #[test]
    fn a_copy_leaves_the_page_cache_as_it_was() {
        let page = 4096;
        // A small file, and a large one that ends within a page.
        for len in [25 * page, (1 << 20) + 40 * page + 777] {
            let files = files();
            files.source.write_all_at(&vec![1; len], 0).unwrap();
            files.source.sync_all().unwrap();
            let dropped = rustix::fs::fadvise(&files.source, 0, None, Advice::DontNeed);
            dropped.unwrap();
            // What the server has read stays, whatever the kernel read ahead with it.
            let mut some = vec![0; 3 * page];
            files
                .source
                .read_exact_at(&mut some, 2 * page as u64)
                .unwrap();
            let range = 0..len as u64;
            let before = Resident::of(&files.source, &range);
            files.copy(0..u64::MAX, false).unwrap();
            assert!(Resident::of(&files.source, &range) == before, "{len} bytes");
            let (source, target) = files.contents();
            assert!(source == target);
        }
    }

    #[test]
    fn a_cancelled_copy_says_so() {
        let files = files();
        files.source.write_all_at(&[1; 100], 0).unwrap();
        assert!(matches!(
            files.copy(0..100, true),
            Err(CopyError::Cancelled)
        ));
    }
}
