//! Leaving the page cache to the server: what passes through it on its way to the copy is dropped from it.
//!
//! Rule: of the source only pages go that were not there before, since those are the server's. Of the copy all go, once they are on the disk, and a worker is never ahead of the disk
//! by more than a little: neither clean pages nor dirty ones pile up.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
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
    pub fn add(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        drop_pages(file, &range);
        let Ok(file) = file.try_clone() else {
            return Ok(());
        };
        self.bytes += range.end - range.start;
        self.ranges.push_back((file, range));
        while self.bytes > PENDING_BYTES_MAX {
            // Whoever is told of an error first is the only one on older kernels.
            self.end_first(|file, range| {
                wait_until_written(file, range.start, range.end - range.start)
            })?;
        }
        // Small ranges are many, and to wait for each would take long.
        while self.ranges.len() > PENDING_COUNT_MAX {
            self.end_first(|_, _| Ok(()))?;
        }
        Ok(())
    }

    fn end_first(
        &mut self,
        prepare: impl FnOnce(&File, &Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((file, range)) = self.ranges.pop_front() else {
            return Ok(());
        };
        self.bytes -= range.end - range.start;
        prepare(&file, &range)?;
        drop_pages(&file, &range);
        Ok(())
    }
}

impl Drop for Pending {
    /// What is not written yet by then is dropped when the copy gets its name.
    fn drop(&mut self) {
        while !self.ranges.is_empty() {
            let _ = self.end_first(|_, _| Ok(()));
        }
    }
}

/// Begins to write what is dirty of `len` bytes, 0 for all that come, and waits for it.
pub(crate) fn wait_until_written(file: &File, at: u64, len: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is passed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), at as i64, len as i64, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
