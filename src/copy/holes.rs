//! Holes: finding them in a source, making them in a copy.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// File systems that tell the holes of a file as they are at that moment, whatever of it is not on the disk yet. ZFS before 2.2.2 does not, nor do those in
/// user space that the kernel keeps writes back from; and what others pass such a question to is unknown here.
const TOLD_BY: [libc::c_long; 4] = [
    libc::EXT4_SUPER_MAGIC,
    libc::XFS_SUPER_MAGIC,
    libc::BTRFS_SUPER_MAGIC,
    libc::TMPFS_MAGIC,
];

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) enum Part {
    Data(u64),
    Hole(u64),
    End,
}

/// Where a source has holes.
pub(super) struct Holes {
    /// Its file system tells.
    are_told: bool,
    /// A stretch that was found to have none. To look for the next hole takes the file system past all extents up to there, and a pass asks for each dirty page.
    /// Should one be made there meanwhile, its zeros are copied.
    data: Cell<(u64, u64)>,
}

impl Holes {
    pub fn of(source: &File) -> Holes {
        Holes {
            are_told: are_told(source),
            data: Cell::default(),
        }
    }

    #[cfg(test)]
    pub fn untold() -> Holes {
        Holes {
            are_told: false,
            data: Cell::default(),
        }
    }

    /// Else what is copied is looked at for zeros.
    pub fn are_told(&self) -> bool {
        self.are_told
    }

    /// What lies at `at`, and where that ends, not looking beyond `limit`.
    pub fn next_part(&self, source: &File, at: u64, limit: u64) -> io::Result<Part> {
        let (data_start, data_end) = self.data.get();
        if (data_start..data_end).contains(&at) {
            return Ok(Part::Data(data_end.min(limit)));
        }
        if !self.are_told {
            return Ok(match source.metadata()?.len() {
                size if at < size => Part::Data(size.min(limit)),
                _ => Part::End,
            });
        }
        match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(data) if data == at => match rustix::fs::seek(source, SeekFrom::Hole(at)) {
                Ok(hole) => {
                    self.data.set((at, hole));
                    Ok(Part::Data(hole.min(limit)))
                }
                Err(Errno::NXIO) => Ok(Part::End),
                Err(errno) => Err(errno.into()),
            },
            Ok(data) => Ok(Part::Hole(data.min(limit))),
            // No data from here on: a hole up to the end, if there is a rest at all.
            Err(Errno::NXIO) => Ok(match source.metadata()?.len() {
                size if at < size => Part::Hole(size.min(limit)),
                _ => Part::End,
            }),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn are_told(file: &File) -> bool {
    let told_by = rustix::fs::fstatfs(file).map(|stat| stat.f_type as libc::c_long);
    told_by.is_ok_and(|told_by| TOLD_BY.contains(&told_by))
}

/// Where the hole ends that is at `at` for certain: `size` if nothing comes behind it.
pub fn hole_end(file: &File, at: u64, size: u64) -> Option<u64> {
    if !are_told(file) {
        return None;
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data == at => None,
        Ok(data) => Some(data.min(size)),
        Err(Errno::NXIO) => Some(size),
        Err(_) => None,
    }
}

/// Whether there is nothing but zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks(ZEROS.len());
    pieces.all(|piece| *piece == ZEROS[..piece.len()])
}

/// Makes `range` of `target` read as zeros, without growing it.
pub fn make_hole(target: &File, range: Range<u64>) -> io::Result<()> {
    let size = target.metadata()?.len();
    let range = range.start..range.end.min(size);
    if range.is_empty() {
        return Ok(());
    }
    if hole_end(target, range.start, size).is_some_and(|end| end >= range.end) {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(target, flags, range.start, range.end - range.start) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(target, range),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes zeros over what isn't zero in `range`, which ends within `target`: a copy that is sparse there stays so.
fn write_zeros(target: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = ZEROS;
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(ZEROS.len() as u64) as usize;
        let got = match target.read_at(&mut buffer[..len], at) {
            // Cut off meanwhile: nothing is there any more.
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if !is_zero(&buffer[..got]) {
            target.write_all_at(&ZEROS[..got], at)?;
        }
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn parts(holes: &Holes, source: &File, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut data = Vec::new();
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                match holes.next_part(source, at, range.end).unwrap() {
                    Part::Data(end) => {
                        data.push(at..end);
                        at = end;
                    }
                    Part::Hole(end) => at = end,
                    Part::End => break,
                }
            }
        }
        data
    }

    #[test]
    fn a_stretch_of_data_is_asked_for_once() {
        let source = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        source.set_len(8 << 20).unwrap();
        source.write_all_at(&[1; 1 << 20], 1 << 20).unwrap();
        source.write_all_at(&[1; 1 << 20], 4 << 20).unwrap();
        let holes = Holes::of(&source);
        assert!(holes.are_told());
        let pages: Vec<Range<u64>> = (0..512).map(|page| page << 14..(page + 1) << 14).collect();
        let is_data = |page: &&Range<u64>| [1, 4].contains(&(page.start >> 20));
        let all = parts(&holes, &source, &pages);
        assert!(all.iter().eq(pages.iter().filter(is_data)));
        // The file system is not asked again: what is a hole by now is still data.
        source.set_len(4 << 20).unwrap();
        source.set_len(8 << 20).unwrap();
        let page = (4 << 20) + 16384..(4 << 20) + 32768;
        let pages = [page];
        assert_eq!(parts(&holes, &source, &pages), pages);
        assert_eq!(parts(&Holes::of(&source), &source, &pages), []);
    }

    #[test]
    fn zeros_are_written_only_over_what_is_not_zero() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let len = 1 << 30;
        file.set_len(len).unwrap();
        write_zeros(&file, 0..len).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        file.write_all_at(&[7; 200_000], 1000).unwrap();
        write_zeros(&file, 2000..150_001).unwrap();
        let mut bytes = vec![0; 201_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let zeros = |range: Range<usize>| bytes[range].iter().all(|byte| *byte == 0);
        let sevens = |range: Range<usize>| bytes[range].iter().all(|byte| *byte == 7);
        assert!(zeros(0..1000) && zeros(2000..150_001));
        assert!(sevens(1000..2000) && sevens(150_001..201_000));
        assert_eq!(file.metadata().unwrap().len(), len);
    }
}
