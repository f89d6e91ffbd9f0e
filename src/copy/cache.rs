//! Leaving the page cache to the server: what passes through it on its way to the copy is dropped from it.
//!
//! Rule: of the source only pages go that were not there before, since those are the server's. Of the copy all go, once they are on the disk, and a worker is never ahead of the disk
//! by more than a little: neither clean pages nor dirty ones pile up.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::fs::Advice;

/// So much may be on its way to the disk for each worker, …
const PENDING_BYTES_MAX: u64 = 1 << 20;
/// … in so many ranges, each of which keeps a file open.
const PENDING_COUNT_MAX: usize = 32;

/// Drops what is clean, and has the kernel begin to write what is dirty.
pub fn drop_pages(file: &File, range: &Range<u64>) {
    if let Some(len) = NonZeroU64::new(range.end - range.start) {
        let _ = rustix::fs::fadvise(file, range.start, Some(len), Advice::DontNeed);
    }
}

/// Ranges of copies that were written through the page cache lately.
#[derive(Default)]
pub(super) struct Pending {
    ranges: VecDeque<(File, Range<u64>)>,
    bytes: u64,
}

impl Pending {
    /// Has the kernel begin to write the range out, and waits for earlier ones if there are too many.
    pub fn add(&mut self, file: &File, range: Range<u64>) {
        drop_pages(file, &range);
        let Ok(file) = file.try_clone() else {
            return;
        };
        self.bytes += range.end - range.start;
        self.ranges.push_back((file, range));
        while self.bytes > PENDING_BYTES_MAX {
            self.end_first(wait_until_written);
        }
        // Small ranges are many, and to wait for each would take long.
        while self.ranges.len() > PENDING_COUNT_MAX {
            self.end_first(|_, _| ());
        }
    }

    fn end_first(&mut self, prepare: impl FnOnce(&File, &Range<u64>)) {
        if let Some((file, range)) = self.ranges.pop_front() {
            self.bytes -= range.end - range.start;
            prepare(&file, &range);
            drop_pages(&file, &range);
        }
    }
}

impl Drop for Pending {
    /// What is not written yet by then is dropped when the copy gets its name.
    fn drop(&mut self) {
        while !self.ranges.is_empty() {
            self.end_first(|_, _| ());
        }
    }
}

/// Begins to write what is dirty, and waits for it. An error shows when the file system is synced.
pub(super) fn wait_until_written(file: &File, range: &Range<u64>) {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (at, len) = (range.start as i64, (range.end - range.start) as i64);
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is passed.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) };
}
