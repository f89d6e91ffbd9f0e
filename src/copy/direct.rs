//! Direct I/O: past the page cache, in aligned pieces.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapOptions};
use rustix::fs::{Mode, OFlags};

use super::depth::{Depth, Disks};
use super::{TRANSFER_LEN, read_some};

/// Offsets, lengths and addresses are multiples of this. No file system in use asks for more.
const ALIGNMENT: usize = 4096;

pub(super) fn is_aligned(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(ALIGNMENT as u64) && len.is_multiple_of(ALIGNMENT)
}

/// The largest aligned length that is not more than `len`.
pub(super) fn aligned_len(len: u64) -> u64 {
    len - len % ALIGNMENT as u64
}

/// A file open for direct I/O, and the disk that it is on.
pub(super) struct Direct {
    file: File,
    depth: Arc<Depth>,
}

impl Direct {
    /// Opens the same file once more. None where that is not possible: it is an optimisation only.
    pub fn open(file: &File, write: bool, disks: &Disks) -> Option<Direct> {
        let access = if write {
            OFlags::WRONLY
        } else {
            OFlags::RDONLY | OFlags::NOATIME
        };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(Direct {
            file: opened.into(),
            depth: disks.depth(file).ok()?,
        })
    }

    pub fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let _turn = self.depth.begin(buffer.len());
        read_some(&self.file, buffer, at)
    }

    pub fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let _turn = self.depth.begin(bytes.len());
        self.file.write_all_at(bytes, at)
    }
}

/// Which pages of a stretch of a file are in the page cache. Asked without reading anything: to try to read without waiting makes the kernel read ahead,
/// into the page cache.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Resident {
    at: u64,
    /// The lowest bit of each tells of a page.
    pages: Vec<u8>,
}

impl Resident {
    /// Of any `range` within the file. Nothing, where that can't be told: it is a hint only.
    pub fn of(file: &File, range: &Range<u64>) -> Resident {
        let at = range.start - range.start % ALIGNMENT as u64;
        let len = (range.end - at) as usize;
        let Ok(mapping) = MmapOptions::new()
            .offset(at)
            .len(len)
            .map_raw_read_only(file)
        else {
            return Resident::default();
        };
        let mut pages = vec![0; len.div_ceil(ALIGNMENT)];
        // SAFETY: the mapping begins at a page and is `len` bytes, for which there are as many bytes to fill as pages; none of it is touched.
        let told = unsafe { libc::mincore(mapping.as_mut_ptr().cast(), len, pages.as_mut_ptr()) };
        match told {
            0 => Resident { at, pages },
            _ => Resident::default(),
        }
    }

    /// Which parts of a stretch are not, in whole pages.
    pub fn absent(&self, offset: u64, len: usize) -> Vec<Range<u64>> {
        let page_len = ALIGNMENT as u64;
        let mut absent: Vec<Range<u64>> = Vec::new();
        let (first, end) = (offset / page_len, (offset + len as u64).div_ceil(page_len));
        for page in first..end {
            let index = page.checked_sub(self.at / page_len);
            let state = index.and_then(|index| self.pages.get(index as usize));
            if state.is_none_or(|state| state & 1 == 1) {
                continue;
            }
            let at = page * page_len;
            match absent.last_mut() {
                Some(last) if last.end == at => last.end += page_len,
                _ => absent.push(at..at + page_len),
            }
        }
        absent
    }

    /// True if all of a stretch is. What is there in parts only takes more reads than what isn't at all.
    pub fn has(&self, offset: u64, len: usize) -> bool {
        let Some(skip) = offset.checked_sub(self.at) else {
            return false;
        };
        let (first, end) = (
            skip as usize / ALIGNMENT,
            (skip as usize + len).div_ceil(ALIGNMENT),
        );
        let pages = self.pages.get(first..end);
        pages.is_some_and(|pages| pages.iter().all(|page| page & 1 == 1))
    }
}

/// A buffer whose bytes begin at a multiple of the alignment, in one huge page where the kernel has one to spare: then the device gets them as one
/// stretch of memory instead of hundreds.
pub(super) struct AlignedBuffer {
    memory: MmapMut,
}

impl AlignedBuffer {
    const HUGE_PAGE_LEN: usize = 2 << 20;

    pub fn new() -> io::Result<AlignedBuffer> {
        let memory = MmapMut::map_anon(Self::HUGE_PAGE_LEN * 2)?;
        // Without huge pages everything works the same.
        let _ = memory.advise(Advice::HugePage);
        Ok(AlignedBuffer { memory })
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let skip = self.memory.as_ptr().align_offset(Self::HUGE_PAGE_LEN);
        &mut self.memory[skip..skip + TRANSFER_LEN]
    }
}
