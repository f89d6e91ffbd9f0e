//! Checksums of the copies, taken while the bytes pass through.
//!
//! They are kept by granule: an aligned stretch that is no longer than what an engine writes at a time, so that a page that is written again
//! gets its new checksum with its new bytes, and hardly anything has to be read back at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;
use rustix::fs::Advice;

use crate::copy;

/// InnoDB's page.
const GRANULE_LEN_MIN: u64 = 16 << 10;
/// Nothing is known of a granule that is not copied at once.
const GRANULE_LEN_MAX: u64 = copy::TRANSFER_LEN as u64;
/// At 4 bytes for each, granules take at most 64 MiB of memory: 256 GB in the shortest ones, 8 TiB in the longest, and from there 8 MiB for each TiB. As much again is left for
/// what grows; and where a file has holes, so that its granules are many more than its bytes, what is beyond that is read back.
const GRANULE_COUNT_MAX: u64 = 16 << 20;
/// To combine checksums takes some microseconds, to append a granule of zeros some nanoseconds.
const COMBINED_COUNT: u64 = 64 << 10;
/// What is read back at a time.
const READ_LEN: u64 = 4 << 20;

/// What is known of one copy.
#[derive(Debug, Default)]
struct Sums {
    /// CRC-32C of each whole granule. One whose checksum is 0 counts as unknown, and is read back.
    granules: Vec<Option<NonZeroU32>>,
    /// Where a begin of a granule lies, its length and its CRC-32C: the whole rest if the copy ends there.
    tail: Option<(u64, u64, u32)>,
}

#[derive(Debug)]
pub struct Digests {
    granule_len: u64,
    zeros_crc: u32,
    append: Append,
    known: Mutex<Known>,
}

/// What is known of all copies.
#[derive(Debug)]
struct Known {
    slots: HashMap<u64, Sums>,
    /// Granules for which there still may be memory.
    count_left: usize,
}

impl Known {
    /// The sums of a copy with room for `count` granules, if there is memory for that many.
    fn with_room(&mut self, slot: u64, count: usize) -> Option<&mut Sums> {
        let sums = self.slots.entry(slot).or_default();
        let more = count.saturating_sub(sums.granules.len());
        self.count_left = self.count_left.checked_sub(more)?;
        if more > 0 {
            sums.granules.resize(count, None);
        }
        Some(sums)
    }

    fn remove(&mut self, slot: u64) -> Option<Sums> {
        let sums = self.slots.remove(&slot)?;
        self.count_left += sums.granules.len();
        Some(sums)
    }
}

impl Default for Digests {
    fn default() -> Digests {
        Digests::for_bytes(0)
    }
}

impl Digests {
    /// For copies of about so many bytes altogether.
    pub fn for_bytes(total: u64) -> Digests {
        let granule_len = total
            .div_ceil(GRANULE_COUNT_MAX)
            .next_power_of_two()
            .clamp(GRANULE_LEN_MIN, GRANULE_LEN_MAX);
        let count = total.div_ceil(granule_len).max(GRANULE_COUNT_MAX);
        Digests {
            granule_len,
            zeros_crc: crc32c::crc32c(&vec![0; granule_len as usize]),
            append: Append::new(granule_len),
            known: Mutex::new(Known {
                slots: HashMap::new(),
                count_left: 2 * count as usize,
            }),
        }
    }

    /// The copy has these bytes at `at` now.
    pub fn note(&self, slot: u64, at: u64, bytes: &[u8]) {
        let granule_len = self.granule_len as usize;
        let first = at.div_ceil(self.granule_len);
        let skip = (first * self.granule_len - at) as usize;
        let Some(bytes) = bytes.get(skip..).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        let whole = bytes.chunks_exact(granule_len);
        let rest = whole.remainder();
        let crcs: Vec<_> = whole
            .map(|granule| NonZeroU32::new(crc32c::crc32c(granule)))
            .collect();
        let (first, end) = (first as usize, first as usize + crcs.len());
        let tail = (end as u64 * self.granule_len, rest.len() as u64);
        let tail = (!rest.is_empty()).then(|| (tail.0, tail.1, crc32c::crc32c(rest)));
        let mut known = self.known.lock();
        let Some(sums) = known.with_room(slot, end) else {
            return;
        };
        sums.granules[first..end].copy_from_slice(&crcs);
        sums.tail = tail.or(sums.tail);
    }

    /// The copy's `range` is about to change.
    pub fn forget(&self, slot: u64, range: Range<u64>) {
        let mut known = self.known.lock();
        let Some(sums) = known.slots.get_mut(&slot) else {
            return;
        };
        let count = sums.granules.len();
        let first = ((range.start / self.granule_len) as usize).min(count);
        let last = (range.end.div_ceil(self.granule_len) as usize).clamp(first, count);
        sums.granules[first..last].fill(None);
        let overlaps = |at: u64, len: u64| at < range.end && range.start < at + len;
        if sums.tail.is_some_and(|(at, len, _)| overlaps(at, len)) {
            sums.tail = None;
        }
    }

    /// The copy is no more.
    pub fn remove(&self, slot: u64) {
        self.known.lock().remove(slot);
    }

    /// Size and checksum of a whole copy that nobody changes any more. Reads what is not known.
    pub fn sum(&self, slot: u64, copy: &File) -> io::Result<(u64, u32)> {
        let size = copy.metadata()?.len();
        let sums = self.known.lock().remove(slot).unwrap_or_default();
        let known = |at: u64| {
            let granule = sums.granules.get((at / self.granule_len) as usize);
            granule.copied().flatten().map(NonZeroU32::get)
        };
        let (mut at, mut crc, mut buffer) = (0, 0, Vec::new());
        while at < size {
            let len = self.granule_len.min(size - at);
            let is_whole = len == self.granule_len;
            match (known(at), sums.tail) {
                (Some(granule_crc), _) if is_whole => crc = self.append.to(crc) ^ granule_crc,
                (_, Some((tail_at, tail_len, tail_crc))) if (tail_at, tail_len) == (at, len) => {
                    // To combine takes longer than to read a small file.
                    crc = match at {
                        0 => tail_crc,
                        _ => crc32c::crc32c_combine(crc, tail_crc, len as usize),
                    };
                }
                _ => {
                    // Logs are allocated long before they are written.
                    let hole = copy::hole_end(copy, at, size).unwrap_or(at);
                    let granules = (hole - at) / self.granule_len;
                    if granules > 0 {
                        crc = self.with_zeros(crc, granules);
                        at += granules * self.granule_len;
                        continue;
                    }
                    let mut end = at + len;
                    while end < size && end - at < READ_LEN && known(end).is_none() {
                        end = size.min(end + self.granule_len);
                    }
                    crc = read_back(copy, at..end, crc, &mut buffer)?;
                    at = end;
                    continue;
                }
            }
            at += len;
        }
        Ok((size, crc))
    }

    /// `crc` with so many granules of zeros behind what it is of: a sparse file may be as long as offsets go.
    fn with_zeros(&self, mut crc: u32, count: u64) -> u32 {
        for _ in 0..count % COMBINED_COUNT {
            crc = self.append.to(crc) ^ self.zeros_crc;
        }
        let len = (count - count % COMBINED_COUNT) * self.granule_len;
        match len {
            0 => crc,
            _ => crc32c::crc32c_combine(crc, crc_of_zeros(len), len as usize),
        }
    }
}

/// `crc` with the bytes of `range` behind what it is of.
fn read_back(copy: &File, range: Range<u64>, crc: u32, buffer: &mut Vec<u8>) -> io::Result<u32> {
    let len = range.end - range.start;
    buffer.resize(len as usize, 0);
    copy.read_exact_at(buffer, range.start)?;
    // Nobody reads a copy soon: the page cache is the server's.
    let _ = rustix::fs::fadvise(copy, range.start, NonZeroU64::new(len), Advice::DontNeed);
    Ok(crc32c::crc32c_append(crc, buffer))
}

/// What a checksum becomes when a fixed number of bytes follows, but for those bytes' own checksum: a linear map of its bits, as a table for each of its bytes.
struct Append([[u32; 256]; 4]);

impl Append {
    fn new(len: u64) -> Append {
        let bits: [u32; 32] =
            std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, len as usize));
        let of = |crc: u32| (0..32).filter(move |bit| crc >> bit & 1 == 1);
        let map = |crc: u32| of(crc).fold(0, |sum, bit| sum ^ bits[bit]);
        Append(std::array::from_fn(|byte| {
            std::array::from_fn(|value| map((value as u32) << (8 * byte)))
        }))
    }

    fn to(&self, crc: u32) -> u32 {
        let bytes = crc.to_le_bytes().into_iter().zip(&self.0);
        bytes.fold(0, |sum, (byte, table)| sum ^ table[byte as usize])
    }
}

impl std::fmt::Debug for Append {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Append")
    }
}

/// In a time that grows with the number of digits of `len`.
fn crc_of_zeros(len: u64) -> u32 {
    let (mut crc, mut of_power, mut power) = (0, crc32c::crc32c(&[0]), 1);
    let mut rest = len;
    while rest > 0 {
        if rest & 1 == 1 {
            crc = crc32c::crc32c_combine(crc, of_power, power);
        }
        of_power = crc32c::crc32c_combine(of_power, of_power, power);
        power = power.wrapping_mul(2);
        rest >>= 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = GRANULE_LEN_MIN;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn bytes(len: u64) -> Vec<u8> {
        (0..len as u32).map(|at| (at >> 5) as u8).collect()
    }

    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, u64, u8),
        Resize(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        let offset = || prop_oneof![0..LEN * 6, (0..7u64).prop_map(|index| index * LEN)];
        prop_oneof![
            4 => (offset(), offset(), any::<u8>())
                .prop_map(|(at, len, byte)| Change::Write(at, len, byte)),
            1 => offset().prop_map(Change::Resize),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn whatever_is_written_over_what_the_sum_is_that_of_the_bytes(
            changes in prop::collection::vec(change(), 0..12)
        ) {
            let (digests, copy) = (Digests::default(), tempfile::tempfile().unwrap());
            for change in changes {
                match change {
                    Change::Write(at, len, byte) => {
                        let bytes: Vec<u8> = (0..len).map(|at| at as u8 ^ byte).collect();
                        digests.forget(1, at..at + len);
                        copy.write_all_at(&bytes, at).unwrap();
                        digests.note(1, at, &bytes);
                    }
                    Change::Resize(size) => {
                        let before = copy.metadata().unwrap().len();
                        digests.forget(1, size.min(before)..u64::MAX);
                        copy.set_len(size).unwrap();
                    }
                }
            }
            let mut all = vec![0; copy.metadata().unwrap().len() as usize];
            copy.read_exact_at(&mut all, 0).unwrap();
            prop_assert_eq!(
                digests.sum(1, &copy).unwrap(),
                (all.len() as u64, crc32c::crc32c(&all))
            );
        }
    }

    #[test]
    fn what_was_noted_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cannot_be_read = File::create(dir.path().join("copy")).unwrap();
        let (digests, bytes) = (Digests::default(), bytes(LEN * 5 + 777));
        cannot_be_read.write_all_at(&bytes, 0).unwrap();
        digests.note(1, 0, &bytes);
        let page = &bytes[LEN as usize..][..LEN as usize];
        digests.forget(1, LEN..LEN * 2);
        digests.note(1, LEN, page);
        assert_eq!(
            digests.sum(1, &cannot_be_read).unwrap(),
            (LEN * 5 + 777, crc32c::crc32c(&bytes))
        );
    }

    #[test]
    fn a_write_at_a_huge_offset_takes_no_memory_for_what_is_before_it() {
        let (digests, page) = (Digests::default(), vec![7; LEN as usize]);
        digests.note(1, 1 << 50, &page);
        digests.note(2, u64::MAX - 2 * LEN + 1, &page);
        let copy = file(&page);
        digests.note(1, 0, &page);
        let count_left = || digests.known.lock().count_left as u64;
        assert_eq!(count_left(), 2 * GRANULE_COUNT_MAX - 1);
        assert_eq!(digests.sum(1, &copy).unwrap(), (LEN, crc32c::crc32c(&page)));
        assert_eq!(count_left(), 2 * GRANULE_COUNT_MAX);
    }

    #[test]
    fn what_there_is_no_memory_for_is_read_back() {
        let (digests, bytes) = (Digests::default(), bytes(LEN * 3 + 5));
        digests.known.lock().count_left = 2;
        let copy = file(&bytes);
        for (at, part) in (0..).step_by(LEN as usize).zip(bytes.chunks(LEN as usize)) {
            digests.note(1, at, part);
        }
        let sum = digests.sum(1, &copy).unwrap();
        assert_eq!(sum, (LEN * 3 + 5, crc32c::crc32c(&bytes)));
    }

    #[test]
    fn holes_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cannot_be_read = File::create(dir.path().join("copy")).unwrap();
        let size = READ_LEN * 3;
        cannot_be_read.set_len(size).unwrap();
        let sum = Digests::default().sum(1, &cannot_be_read).unwrap();
        assert_eq!(sum, (size, crc32c::crc32c(&vec![0; size as usize])));
    }

    #[test]
    fn a_hole_beside_data_counts_as_zeros() {
        let copy = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; READ_LEN as usize * 4 + 5];
        bytes[READ_LEN as usize * 2 - 1] = 1;
        copy.set_len(bytes.len() as u64).unwrap();
        copy.write_all_at(&[1], READ_LEN * 2 - 1).unwrap();
        let expected = (bytes.len() as u64, crc32c::crc32c(&bytes));
        assert_eq!(Digests::default().sum(1, &copy).unwrap(), expected);
    }

    #[test]
    fn a_sparse_file_of_exabytes_is_summed_and_takes_no_memory() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let copy = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(dir.path().join("copy"))
            .unwrap();
        let digests = Digests::for_bytes(LEN);
        let at = (1 << 60) + LEN;
        copy.write_all_at(&bytes(LEN), at).unwrap();
        digests.note(1, at, &bytes(LEN));
        let zeros = digests.with_zeros(0, at / LEN);
        let expected = crc32c::crc32c_combine(zeros, crc32c::crc32c(&bytes(LEN)), LEN as usize);
        assert_eq!(digests.sum(1, &copy).unwrap(), (at + LEN, expected));
    }

    #[test]
    fn granules_of_zeros_count_as_their_bytes() {
        let digests = Digests::default();
        for count in [0, 1, 5, COMBINED_COUNT, COMBINED_COUNT + 3] {
            let mut expected = crc32c::crc32c(b"before");
            for _ in 0..count {
                expected = crc32c::crc32c_append(expected, &[0; LEN as usize]);
            }
            assert_eq!(
                digests.with_zeros(crc32c::crc32c(b"before"), count),
                expected
            );
        }
    }

    #[test]
    fn a_tail_that_no_longer_is_the_end_counts_no_more() {
        let digests = Digests::default();
        digests.note(1, 0, &[7; 10]);
        assert_eq!(
            digests.sum(1, &file(&[3; 20])).unwrap(),
            (20, crc32c::crc32c(&[3; 20]))
        );
    }

    #[test]
    fn much_data_is_summed_in_longer_granules() {
        let of = |gb: u64| Digests::for_bytes(gb << 30).granule_len;
        assert_eq!(
            [0, 1, 256, 257, 1024].map(of),
            [LEN, LEN, LEN, LEN * 2, LEN * 4]
        );
        assert_eq!(of(1 << 30), copy::TRANSFER_LEN as u64);
        let (digests, bytes) = (Digests::for_bytes(1 << 40), bytes(LEN * 9));
        digests.note(1, 0, &bytes);
        assert_eq!(
            digests.sum(1, &file(&bytes)).unwrap().1,
            crc32c::crc32c(&bytes)
        );
    }
}
