//! Sets of byte ranges: which parts of a file changed since they were copied.
//!
//! A set may grow coarser (cover bytes that did not change, which costs a needless copy), never finer.

use std::collections::BTreeMap;
use std::ops::Range;

use roaring::RoaringBitmap;

/// The range of a whole file, whatever its length.
pub const WHOLE: Range<u64> = 0..u64::MAX;

/// Ranges kept exactly, in some 120 KiB; beyond, they become blocks.
const RANGE_COUNT_MAX: usize = 4096;
/// InnoDB's page.
const BLOCK_LEN: u64 = 16 << 10;
/// Of more blocks, a file has only where it is written: 64 TiB.
const BLOCKS_END: u64 = BLOCK_LEN << 32;

#[derive(Clone, Debug, PartialEq)]
pub enum Extents {
    /// Many files are wholly dirty at once, at the begin: that takes no memory of its own.
    Whole,
    /// Disjoint, non-adjacent ranges, by start.
    Ranges(BTreeMap<u64, u64>),
    /// Of a file with changes all over.
    Blocks(Blocks),
}

impl Default for Extents {
    fn default() -> Extents {
        Extents::Ranges(BTreeMap::new())
    }
}

impl Extents {
    pub fn is_empty(&self) -> bool {
        matches!(self, Extents::Ranges(ranges) if ranges.is_empty())
    }

    /// Adds `range`, merging it with what it overlaps or touches.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if range == WHOLE {
            *self = Extents::Whole;
            return;
        }
        match self {
            Extents::Whole => {}
            Extents::Blocks(blocks) => blocks.insert(range),
            Extents::Ranges(ranges) => {
                let merged = insert(ranges, range);
                if merged == WHOLE {
                    *self = Extents::Whole;
                } else if ranges.len() > RANGE_COUNT_MAX {
                    *self = Extents::Blocks(Blocks::of(ranges));
                }
            }
        }
    }

    pub fn extend(&mut self, other: Extents) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// Takes the ranges out, leaving the set empty.
    pub fn take(&mut self) -> Extents {
        std::mem::take(self)
    }

    /// Disjoint, non-adjacent, by start.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Range<u64>> + '_> {
        match self {
            Extents::Whole => Box::new(std::iter::once(WHOLE)),
            Extents::Ranges(ranges) => Box::new(ranges.iter().map(|(&start, &end)| start..end)),
            Extents::Blocks(blocks) => Box::new(blocks.iter()),
        }
    }

    /// Where the last range ends; 0 if there is none.
    pub fn end(&self) -> u64 {
        match self {
            Extents::Whole => WHOLE.end,
            Extents::Ranges(ranges) => ranges.last_key_value().map_or(0, |(_, &end)| end),
            Extents::Blocks(blocks) => blocks.end(),
        }
    }

    /// Bytes covered in a file of `size` bytes.
    pub fn bytes(&self, size: u64) -> u64 {
        self.iter()
            .map(|range| range.end.min(size).saturating_sub(range.start))
            .sum()
    }

    /// The ranges with gaps of at most `gap` bytes closed: one longer copy is cheaper than two short ones.
    pub fn without_gaps(&self, gap: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut ranges = self.iter().peekable();
        std::iter::from_fn(move || {
            let mut merged = ranges.next()?;
            while let Some(next) = ranges.next_if(|next| next.start - merged.end <= gap) {
                merged.end = next.end;
            }
            Some(merged)
        })
    }
}

/// Gives the range that `range` became.
fn insert(ranges: &mut BTreeMap<u64, u64>, range: Range<u64>) -> Range<u64> {
    let (mut start, mut end) = (range.start, range.end);
    // Candidates begin at or before `end`; going backwards, the first one that ends before `start` is the last to look at.
    while let Some((&near_start, &near_end)) = ranges.range(..=end).next_back() {
        if near_end < start {
            break;
        }
        ranges.remove(&near_start);
        start = start.min(near_start);
        end = end.max(near_end);
    }
    ranges.insert(start, end);
    start..end
}

/// Ranges in whole blocks. Takes no more than 8 KiB for a GiB, and two bytes for a block of those that lie alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    blocks: RoaringBitmap,
    /// Everything from there on; `u64::MAX`: nothing.
    from: u64,
}

impl Blocks {
    fn of(ranges: &BTreeMap<u64, u64>) -> Blocks {
        let mut blocks = Blocks {
            blocks: RoaringBitmap::new(),
            from: u64::MAX,
        };
        for (&start, &end) in ranges {
            blocks.insert(start..end);
        }
        blocks
    }

    /// `range` is not empty.
    fn insert(&mut self, range: Range<u64>) {
        if range.end > BLOCKS_END {
            self.from = self.from.min(range.start);
            return;
        }
        let (first, last) = (range.start / BLOCK_LEN, (range.end - 1) / BLOCK_LEN);
        self.blocks.insert_range(first as u32..=last as u32);
    }

    fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut blocks = self.blocks.iter();
        // The bitmap tells a run in parts.
        let parts = std::iter::from_fn(move || {
            let run = blocks.next_range()?;
            let at = |block: u32| u64::from(block) * BLOCK_LEN;
            Some(at(*run.start())..at(*run.end()) + BLOCK_LEN)
        });
        let from = self.from;
        let open = (from < u64::MAX).then_some(from..u64::MAX);
        let before = parts.take_while(move |part| part.start < from);
        let mut parts = before.chain(open).peekable();
        std::iter::from_fn(move || {
            let mut run = parts.next()?;
            while let Some(next) = parts.next_if(|next| next.start <= run.end) {
                run.end = next.end;
            }
            Some(run)
        })
    }

    fn end(&self) -> u64 {
        match self.blocks.max() {
            _ if self.from < u64::MAX => u64::MAX,
            Some(last) => (u64::from(last) + 1) * BLOCK_LEN,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 512;

    fn bitmap(ranges: &[(usize, usize)]) -> Vec<bool> {
        let mut bits = vec![false; SIZE];
        for &(start, len) in ranges {
            bits[start..(start + len).min(SIZE)].fill(true);
        }
        bits
    }

    fn covered(extents: &Extents) -> Vec<bool> {
        (0..SIZE as u64)
            .map(|at| extents.iter().any(|range| range.contains(&at)))
            .collect()
    }

    fn set(ranges: &[(usize, usize)]) -> Extents {
        let mut extents = Extents::default();
        for &(start, len) in ranges {
            extents.insert(start as u64..(start + len).min(SIZE) as u64);
        }
        extents
    }

    proptest! {
        #[test]
        fn a_set_covers_what_a_bitmap_covers(
            ranges in prop::collection::vec((0..SIZE, 0..SIZE / 4), 0..60)
        ) {
            let extents = set(&ranges);
            prop_assert_eq!(covered(&extents), bitmap(&ranges));
            let bits = bitmap(&ranges).iter().filter(|bit| **bit).count() as u64;
            prop_assert_eq!(extents.bytes(SIZE as u64), bits);
            prop_assert_eq!(extents.end(), extents.iter().last().map_or(0, |range| range.end));
            let list: Vec<_> = extents.iter().collect();
            prop_assert!(list.windows(2).all(|pair| pair[0].end < pair[1].start));
        }

        #[test]
        fn closing_gaps_only_adds(
            ranges in prop::collection::vec((0..SIZE, 0..20usize), 0..40), gap in 0..64u64
        ) {
            let exact = set(&ranges);
            let list: Vec<_> = exact.without_gaps(gap).collect();
            let mut merged = Extents::default();
            list.iter().for_each(|range| merged.insert(range.clone()));
            let before = covered(&exact);
            prop_assert!(covered(&merged).iter().zip(&before).all(|(now, was)| *now || !*was));
            prop_assert!(list.windows(2).all(|pair| pair[1].start - pair[0].end > gap));
        }

        #[test]
        fn blocks_cover_the_blocks_of_what_was_inserted(
            ranges in prop::collection::vec((0..SIZE as u64, 1..40u64), 0..30),
            open in prop::option::of((0..SIZE as u64 * BLOCK_LEN, BLOCKS_END + 1..=u64::MAX)),
        ) {
            let mut blocks = Blocks::of(&BTreeMap::new());
            let mut expected = [false; SIZE * 2];
            for (block, len) in ranges {
                // Of each block some bytes, and of the last only one.
                let start = block * BLOCK_LEN + block % BLOCK_LEN;
                blocks.insert(start..(block + len - 1) * BLOCK_LEN + BLOCK_LEN.min(block % BLOCK_LEN + 1));
                expected[block as usize..(block + len) as usize].fill(true);
            }
            if let Some((from, end)) = open {
                blocks.insert(from..end);
                expected[from.div_ceil(BLOCK_LEN) as usize..].fill(true);
                let is_in_block = !from.is_multiple_of(BLOCK_LEN);
                prop_assert!(!is_in_block || blocks.iter().any(|range| range.contains(&from)));
            }
            let list: Vec<_> = blocks.iter().collect();
            prop_assert!(list.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(blocks.end(), list.last().map_or(0, |range| range.end));
            for (block, expected) in expected.into_iter().enumerate() {
                let at = block as u64 * BLOCK_LEN;
                prop_assert_eq!(list.iter().any(|range| range.contains(&at)), expected);
            }
        }

        #[test]
        fn extending_is_the_union(
            left in prop::collection::vec((0..SIZE, 0..40usize), 0..20),
            right in prop::collection::vec((0..SIZE, 0..40usize), 0..20)
        ) {
            let mut union = set(&left);
            union.extend(set(&right));
            let both: Vec<_> = left.into_iter().chain(right).collect();
            prop_assert_eq!(covered(&union), bitmap(&both));
        }
    }

    #[test]
    fn a_large_file_with_changes_all_over_is_not_mostly_dirty() {
        const FILE_LEN: u64 = 100 << 30;
        let (mut extents, count) = (Extents::default(), 200_000);
        // Any odd factor scatters them.
        let block = |index: u64| index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (FILE_LEN / BLOCK_LEN);
        let pages: Vec<_> = (0..count).map(|index| block(index) * BLOCK_LEN).collect();
        for page in &pages {
            extents.insert(*page..page + BLOCK_LEN);
        }
        assert!(extents.bytes(FILE_LEN) <= count * BLOCK_LEN);
        let ranges: Vec<_> = extents.iter().collect();
        for page in pages {
            let next = ranges.partition_point(|range| range.start <= page);
            assert!(ranges[next - 1].contains(&(page + BLOCK_LEN - 1)));
        }
        let Extents::Blocks(Blocks { blocks, .. }) = &extents else {
            panic!("{} ranges", ranges.len());
        };
        assert!(blocks.serialized_size() < 1 << 20);
    }

    #[test]
    fn a_crowded_set_may_be_cut_anywhere() {
        let mut extents = Extents::default();
        for index in 0..=RANGE_COUNT_MAX as u64 {
            extents.insert(index * 3 * BLOCK_LEN..index * 3 * BLOCK_LEN + 1);
        }
        assert!(matches!(extents, Extents::Blocks(_)));
        extents.insert(BLOCK_LEN * 4..u64::MAX);
        let ranges: Vec<_> = extents.iter().collect();
        assert_eq!(ranges, [0..BLOCK_LEN, BLOCK_LEN * 3..u64::MAX]);
        extents.insert(WHOLE);
        assert_eq!(extents, Extents::Whole);
    }

    #[test]
    fn a_whole_file_swallows_everything() {
        let mut extents = set(&[(5, 10), (100, 3)]);
        extents.insert(WHOLE);
        assert_eq!(extents, Extents::Whole);
        assert_eq!(extents.iter().collect::<Vec<_>>(), [WHOLE]);
        assert_eq!(extents.bytes(77), 77);
    }
}
