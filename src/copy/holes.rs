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

/// Writes zeros over what isn't zero in `range`, which ends within `target`: a copy that is sparse there stays so.
fn write_zeros(target: &File, range: Range<u64>) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
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
        if buffer[..got] != ZEROS[..got] {
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
