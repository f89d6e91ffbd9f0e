//! Sharing blocks: a range of the copy becomes the source's own blocks, until either side writes there.
//!
//! By FICLONERANGE and not by copy_file_range, which copies through the page cache where blocks can't be shared, and does not say so.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::ioctl::{Setter, opcode};

use super::cache::wait_until_written;

/// Where shared ranges begin and end, but for a file's end. A file system with larger blocks refuses some of them, and these are copied.
const BLOCK_LEN: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// So many bytes from the begin of the range.
    Bytes(u64),
    /// Not this range.
    Nothing,
    /// Not these files.
    Never,
}

/// Shares what can be shared at the begin of `range`, which lies within the source.
pub(super) fn share(source: &File, target: &File, range: &Range<u64>) -> Shared {
    let Ok(metadata) = source.metadata() else {
        return Shared::Nothing;
    };
    let end = match range.end >= metadata.len() {
        true => metadata.len(),
        false => range.end - range.end % BLOCK_LEN,
    };
    if !range.start.is_multiple_of(BLOCK_LEN) || end <= range.start {
        return Shared::Nothing;
    }
    let len = end - range.start;
    // The kernel shares only what is on the disk. What isn't it writes out first, while nobody else may write to the file: it is done before, where the server has to
    // wait for nothing.
    let _ = wait_until_written(source, range.start, len);
    match clone_range(source, target, range.start, len) {
        Ok(()) => Shared::Bytes(len),
        // The last two: it was cut short just now, or is not made of such blocks.
        Err(Errno::INTR | Errno::AGAIN | Errno::INVAL) => Shared::Nothing,
        // Or an error of either side: the plain copy finds out which.
        Err(_) => Shared::Never,
    }
}

fn clone_range(source: &File, target: &File, at: u64, len: u64) -> Result<(), Errno> {
    const CLONE_RANGE: rustix::ioctl::Opcode = opcode::write::<libc::file_clone_range>(0x94, 13);
    let range = libc::file_clone_range {
        src_fd: source.as_raw_fd().into(),
        src_offset: at,
        src_length: len,
        dest_offset: at,
    };
    // SAFETY: this number takes a pointer to such a structure, which the kernel only reads.
    let request = unsafe { Setter::<CLONE_RANGE, _>::new(range) };
    // SAFETY: as above; the descriptor in it is open as long as `source` is borrowed.
    unsafe { rustix::ioctl::ioctl(target, request) }
}
