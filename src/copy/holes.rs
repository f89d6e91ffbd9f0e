//! Holes: finding them in a source, making them in a copy.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

pub(super) enum Part {
    Data(u64),
    Hole(u64),
    End,
}

/// What lies at `at`, and where that ends, not looking beyond `limit`.
pub(super) fn next_part(source: &File, at: u64, limit: u64) -> io::Result<Part> {
    match rustix::fs::seek(source, SeekFrom::Data(at)) {
        Ok(data) if data == at => match rustix::fs::seek(source, SeekFrom::Hole(at)) {
            Ok(hole) => Ok(Part::Data(hole.min(limit))),
            Err(Errno::NXIO) => Ok(Part::End),
            Err(errno) => Err(errno.into()),
        },
        Ok(data) => Ok(Part::Hole(data.min(limit))),
        // No data from here on: a hole up to the end, if there is a rest at all.
        Err(Errno::NXIO) => {
            let size = source.metadata()?.len();
            Ok(if at < size {
                Part::Hole(size.min(limit))
            } else {
                Part::End
            })
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Makes `range` of `target` read as zeros, without growing it.
pub fn make_hole(target: &File, range: Range<u64>) -> io::Result<()> {
    let size = target.metadata()?.len();
    let range = range.start..range.end.min(size);
    if range.is_empty() {
        return Ok(());
    }
    // Nothing but a hole there already.
    if let Err(Errno::NXIO) = rustix::fs::seek(target, SeekFrom::Data(range.start)) {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(target, flags, range.start, range.end - range.start) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(target, range),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes zeros over `range`.
pub fn write_zeros(target: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = [0u8; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(zeros.len() as u64);
        target.write_all_at(&zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}
