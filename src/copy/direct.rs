//! Direct I/O: past the page cache, in aligned pieces.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::ReadWriteFlags;

/// Offsets, lengths and addresses are multiples of this. No file system in use asks for more.
const ALIGNMENT: usize = 4096;

pub(super) fn is_aligned(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(ALIGNMENT as u64) && len.is_multiple_of(ALIGNMENT)
}

/// Opens the same file once more, for direct I/O. None where that is not possible: it is an optimisation only.
pub(super) fn open_direct(file: &File, write: bool) -> Option<File> {
    let access = if write {
        OFlags::WRONLY
    } else {
        OFlags::RDONLY | OFlags::NOATIME
    };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .ok()
        .map(File::from)
}

/// True if the page at `at` is in the page cache: then a direct read would have to write it out first if it is dirty, and a plain one is free.
pub(super) fn is_cached(file: &File, at: u64) -> bool {
    let mut byte = [0u8];
    rustix::io::preadv2(
        file,
        &mut [IoSliceMut::new(&mut byte)],
        at,
        ReadWriteFlags::NOWAIT,
    )
    .is_ok()
}

/// A buffer whose bytes begin at a multiple of the alignment.
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
}

impl AlignedBuffer {
    pub const LEN: usize = 1 << 20;

    pub fn new() -> AlignedBuffer {
        AlignedBuffer {
            bytes: vec![0; Self::LEN + ALIGNMENT],
        }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let skip = self.bytes.as_ptr().align_offset(ALIGNMENT);
        &mut self.bytes[skip..skip + Self::LEN]
    }
}
