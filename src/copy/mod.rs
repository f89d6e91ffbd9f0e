//! Copying a byte range from a source file to its copy, with holes kept as holes.
//!
//! Three ways, the first that serves: sharing blocks, on file systems that can; direct I/O, which takes hardly any CPU from the server and leaves the page
//! cache to it; and plain reads and writes, for what is small, unaligned or in the page cache already.
//!
//! The source may change meanwhile. That is no matter: whatever changes is recorded, and copied again.

mod direct;
mod holes;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::Advice;
use rustix::io::Errno;

use self::direct::{AlignedBuffer, is_aligned, is_cached, open_direct};
use self::holes::{Part, next_part};
use crate::digest::{BLOCK_LEN, Digests};
use crate::throttle::Throttle;

pub use self::holes::make_hole;

/// A range shorter than this is not worth opening a file a second time.
const DIRECT_LEN_MIN: u64 = 256 << 10;

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
}

/// A source file and its copy, open.
pub struct Pair {
    slot: u64,
    source: File,
    target: File,
    direct_source: Option<File>,
    direct_target: Option<File>,
}

impl Pair {
    /// `len`: how much of it is about to be copied.
    pub fn new(slot: u64, source: File, target: File, len: u64) -> Pair {
        let mut pair = Pair {
            slot,
            source,
            target,
            direct_source: None,
            direct_target: None,
        };
        if len >= DIRECT_LEN_MIN {
            pair.direct_source = open_direct(&pair.source, false);
            pair.direct_target = open_direct(&pair.target, true);
        }
        pair
    }

    /// Gives the copy the size that the source has now. If that changed after the extents were taken, the log knows, and it comes again.
    pub fn match_size(&self, digests: &Digests) -> io::Result<()> {
        let size = self.source.metadata()?.len();
        let copy_size = self.target.metadata()?.len();
        if copy_size == size {
            return Ok(());
        }
        digests.forget(self.slot, copy_size.min(size)..u64::MAX);
        self.target.set_len(size)
    }
}

impl<'c> Copier<'c> {
    pub fn new(context: CopyContext<'c>) -> Copier<'c> {
        Copier {
            context,
            buffer: AlignedBuffer::new(),
        }
    }

    /// Makes `range` of the copy equal to that of the source, as far as the source reaches. Gives the bytes of data copied.
    pub fn copy(&mut self, pair: &Pair, range: Range<u64>) -> Result<u64, CopyError> {
        let mut at = range.start;
        let mut copied = 0;
        while at < range.end {
            match next_part(&pair.source, at, range.end).map_err(CopyError::Source)? {
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

    /// Goes block by block, so that a block copied in one go gets its checksum on the way.
    fn copy_data(&mut self, pair: &Pair, range: Range<u64>) -> Result<u64, CopyError> {
        let context = self.context;
        let mut at = range.start;
        while at < range.end {
            context.throttle.hold(context.stop);
            if (context.stop)() {
                return Err(CopyError::Cancelled);
            }
            let len = (range.end - at).min(BLOCK_LEN - at % BLOCK_LEN);
            context.digests.forget(pair.slot, at..at + len);
            let (done, crc) = self.copy_block(pair, at, len)?;
            if done == 0 {
                // The source was cut short meanwhile: that is in the log.
                break;
            }
            if let Some(crc) = crc {
                context.digests.note(pair.slot, at, done, crc);
            }
            (context.on_bytes)(done);
            context.throttle.spend(done, context.stop);
            at += done;
        }
        Ok(at - range.start)
    }

    /// Gives the bytes copied, and their checksum unless they never were in this process.
    fn copy_block(
        &mut self,
        pair: &Pair,
        at: u64,
        len: u64,
    ) -> Result<(u64, Option<u32>), CopyError> {
        if self.context.reflink {
            let (mut from, mut to) = (at, at);
            let shared = rustix::fs::copy_file_range(
                &pair.source,
                Some(&mut from),
                &pair.target,
                Some(&mut to),
                len as usize,
            );
            match shared {
                Ok(done @ 1..) => return Ok((done as u64, None)),
                Ok(0) | Err(Errno::INTR | Errno::AGAIN) => {}
                // Not possible here, or an error of either side: the plain copy finds out which.
                Err(_) => self.context.reflink = false,
            }
        }
        self.copy_through_buffer(pair, at, len)
            .map(|(done, crc)| (done, Some(crc)))
    }

    fn copy_through_buffer(
        &mut self,
        pair: &Pair,
        at: u64,
        len: u64,
    ) -> Result<(u64, u32), CopyError> {
        let (mut done, mut crc) = (0, 0);
        let cached = is_cached(&pair.source, at);
        while done < len {
            let offset = at + done;
            let wanted = (len - done).min(AlignedBuffer::LEN as u64) as usize;
            let buffer = &mut self.buffer.bytes()[..wanted];
            let direct = pair
                .direct_source
                .as_ref()
                .filter(|_| !cached && is_aligned(offset, wanted));
            let got = read_some(direct.unwrap_or(&pair.source), buffer, offset)
                .or_else(|_| read_some(&pair.source, buffer, offset))
                .map_err(CopyError::Source)?;
            if got == 0 {
                break;
            }
            let bytes = &buffer[..got];
            crc = crc32c::crc32c_append(crc, bytes);
            write(pair, bytes, offset).map_err(CopyError::Target)?;
            done += got as u64;
        }
        Ok((done, crc))
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

fn write(pair: &Pair, bytes: &[u8], at: u64) -> io::Result<()> {
    let direct = pair
        .direct_target
        .as_ref()
        .filter(|_| is_aligned(at, bytes.len()));
    if let Some(direct) = direct {
        match direct.write_all_at(bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            result => return result,
        }
    }
    pair.target.write_all_at(bytes, at)?;
    start_write_back(&pair.target, at, bytes.len() as u64);
    Ok(())
}

/// Lets the kernel begin to write the range out, so that dirty pages don't pile up until the final sync.
fn start_write_back(target: &File, at: u64, len: u64) {
    // For dirty pages this advice means: start writing; only clean ones are dropped.
    let _ = rustix::fs::fadvise(target, at, std::num::NonZeroU64::new(len), Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let throttle = Throttle::new(0);
            let context = CopyContext {
                throttle: &throttle,
                digests: &self.digests,
                stop: &|| stop,
                on_bytes: &|_| (),
                reflink: false,
            };
            let (source, target) = (
                self.source.try_clone().unwrap(),
                self.target.try_clone().unwrap(),
            );
            let pair = Pair::new(1, source, target, range.end - range.start);
            let copied = Copier::new(context).copy(&pair, range)?;
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
    fn a_cancelled_copy_says_so() {
        let files = files();
        files.source.write_all_at(&[1; 100], 0).unwrap();
        assert!(matches!(
            files.copy(0..100, true),
            Err(CopyError::Cancelled)
        ));
    }
}
