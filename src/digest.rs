//! Checksums of the copies, block by block, taken while the bytes pass through.
//!
//! A block is known only while nothing has touched its copy since it was copied in one go; everything else is read back at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use parking_lot::Mutex;
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

pub const BLOCK_LEN: u64 = 4 << 20;

/// Checksum of a block in a hole.
static ZEROS_CRC: LazyLock<u32> = LazyLock::new(|| crc32c::crc32c(&vec![0; BLOCK_LEN as usize]));

/// Length and CRC-32C of a block.
type Block = Option<(u64, u32)>;

#[derive(Debug, Default)]
pub struct Digests {
    slots: Mutex<HashMap<u64, Vec<Block>>>,
}

impl Digests {
    /// `len` bytes at `at` were copied and have this checksum. Counts if that is a block, or the begin of one (which it is if the file ends there).
    pub fn note(&self, slot: u64, at: u64, len: u64, crc: u32) {
        if !at.is_multiple_of(BLOCK_LEN) || len > BLOCK_LEN {
            return;
        }
        let index = (at / BLOCK_LEN) as usize;
        let mut slots = self.slots.lock();
        let blocks = slots.entry(slot).or_default();
        if blocks.len() <= index {
            blocks.resize(index + 1, None);
        }
        blocks[index] = Some((len, crc));
    }

    /// The copy's `range` is about to change.
    pub fn forget(&self, slot: u64, range: Range<u64>) {
        if let Some(blocks) = self.slots.lock().get_mut(&slot) {
            let first = ((range.start / BLOCK_LEN) as usize).min(blocks.len());
            let last = (range.end.div_ceil(BLOCK_LEN) as usize).clamp(first, blocks.len());
            blocks[first..last].fill(None);
        }
    }

    /// Size and checksum of a whole copy that nobody changes any more. Reads what is not known.
    pub fn sum(&self, slot: u64, copy: &File) -> io::Result<(u64, u32)> {
        let size = copy.metadata()?.len();
        let known = self.slots.lock().remove(&slot).unwrap_or_default();
        let (mut crc, mut buffer) = (0, Vec::new());
        for index in 0..size.div_ceil(BLOCK_LEN) {
            let at = index * BLOCK_LEN;
            let len = BLOCK_LEN.min(size - at);
            match known.get(index as usize) {
                Some(Some((known_len, block_crc))) if *known_len == len && at == 0 => {
                    crc = *block_crc;
                }
                Some(Some((known_len, block_crc))) if *known_len == len => {
                    crc = crc32c::crc32c_combine(crc, *block_crc, len as usize);
                }
                // Logs are allocated long before they are written.
                _ if len == BLOCK_LEN && is_hole(copy, at..at + len) => {
                    crc = crc32c::crc32c_combine(crc, *ZEROS_CRC, len as usize);
                }
                _ => {
                    buffer.resize(len as usize, 0);
                    copy.read_exact_at(&mut buffer, at)?;
                    crc = crc32c::crc32c_append(crc, &buffer);
                    // Nobody reads a copy soon: the page cache is the server's.
                    let _ = rustix::fs::fadvise(copy, at, NonZeroU64::new(len), Advice::DontNeed);
                }
            }
        }
        Ok((size, crc))
    }
}

/// Where it can't be told, reading tells.
fn is_hole(copy: &File, range: Range<u64>) -> bool {
    match rustix::fs::seek(copy, SeekFrom::Data(range.start)) {
        Ok(data) => data >= range.end,
        Err(errno) => errno == Errno::NXIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn known_and_unknown_blocks_give_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..(BLOCK_LEN * 2 + 999) as u32)
            .map(|at| (at >> 5) as u8)
            .collect();
        let expected = (bytes.len() as u64, crc32c::crc32c(&bytes));
        let copy = file(&bytes);
        for known in 0..8 {
            let digests = Digests::default();
            for (index, block) in bytes.chunks(BLOCK_LEN as usize).enumerate() {
                if known >> index & 1 == 1 {
                    let at = index as u64 * BLOCK_LEN;
                    digests.note(1, at, block.len() as u64, crc32c::crc32c(block));
                }
            }
            assert_eq!(digests.sum(1, &copy).unwrap(), expected);
        }
    }

    #[test]
    fn a_block_that_was_touched_is_read_again() {
        let bytes = vec![5; BLOCK_LEN as usize * 2];
        let digests = Digests::default();
        digests.note(1, 0, BLOCK_LEN, 1);
        digests.note(1, BLOCK_LEN, BLOCK_LEN, 2);
        digests.forget(1, BLOCK_LEN - 1..BLOCK_LEN + 1);
        assert_eq!(
            digests.sum(1, &file(&bytes)).unwrap().1,
            crc32c::crc32c(&bytes)
        );
    }

    #[test]
    fn a_hole_beside_data_counts_as_zeros() {
        let copy = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; BLOCK_LEN as usize * 4 + 5];
        bytes[BLOCK_LEN as usize * 2 - 1] = 1;
        copy.set_len(bytes.len() as u64).unwrap();
        copy.write_all_at(&[1], BLOCK_LEN * 2 - 1).unwrap();
        let expected = (bytes.len() as u64, crc32c::crc32c(&bytes));
        assert_eq!(Digests::default().sum(1, &copy).unwrap(), expected);
    }

    #[test]
    fn holes_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cannot_be_read = File::create(dir.path().join("copy")).unwrap();
        cannot_be_read.set_len(BLOCK_LEN * 3).unwrap();
        let (size, crc) = Digests::default().sum(1, &cannot_be_read).unwrap();
        let zeros = vec![0; BLOCK_LEN as usize * 3];
        assert_eq!((size, crc), (BLOCK_LEN * 3, crc32c::crc32c(&zeros)));
    }

    #[test]
    fn a_block_that_was_the_last_and_no_longer_is_counts_no_more() {
        let digests = Digests::default();
        digests.note(1, 0, 10, 7);
        assert_eq!(
            digests.sum(1, &file(&[3; 20])).unwrap(),
            (20, crc32c::crc32c(&[3; 20]))
        );
    }
}
