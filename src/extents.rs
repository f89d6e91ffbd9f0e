//! Sets of byte ranges: which parts of a file changed since they were copied.
//!
//! A set may grow coarser (cover bytes that did not change, which costs a needless copy), never finer.

use std::collections::BTreeMap;
use std::ops::Range;

/// The range of a whole file, whatever its length.
pub const WHOLE: Range<u64> = 0..u64::MAX;

/// Ranges kept exactly; beyond, neighbours are merged.
const RANGE_COUNT_MAX: usize = 32_768;

/// Many files are wholly dirty at once, at the begin: that takes no memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extents {
    Whole,
    /// Disjoint, non-adjacent ranges, by start.
    Ranges(BTreeMap<u64, u64>),
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
        let Extents::Ranges(ranges) = self else {
            return;
        };
        if range.is_empty() {
            return;
        }
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
        if (start..end) == WHOLE {
            *self = Extents::Whole;
            return;
        }
        ranges.insert(start, end);
        if ranges.len() > RANGE_COUNT_MAX {
            coarsen(ranges);
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

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let (whole, ranges) = match self {
            Extents::Whole => (Some(WHOLE), None),
            Extents::Ranges(ranges) => (None, Some(ranges)),
        };
        let ranges = ranges.into_iter().flatten();
        whole
            .into_iter()
            .chain(ranges.map(|(&start, &end)| start..end))
    }

    /// Where the last range ends; 0 if there is none.
    pub fn end(&self) -> u64 {
        match self {
            Extents::Whole => WHOLE.end,
            Extents::Ranges(ranges) => ranges.last_key_value().map_or(0, |(_, &end)| end),
        }
    }

    /// Bytes covered in a file of `size` bytes.
    pub fn bytes(&self, size: u64) -> u64 {
        self.iter()
            .map(|range| range.end.min(size).saturating_sub(range.start))
            .sum()
    }

    /// Closes gaps of at most `gap` bytes: one longer copy is cheaper than two short ones.
    pub fn merge_gaps(&mut self, gap: u64) {
        if let Extents::Ranges(ranges) = self {
            merge_gaps(ranges, gap);
        }
    }
}

fn merge_gaps(ranges: &mut BTreeMap<u64, u64>, gap: u64) {
    let mut merged: BTreeMap<u64, u64> = BTreeMap::new();
    for (start, end) in std::mem::take(ranges) {
        match merged.last_entry() {
            Some(mut last) if start - *last.get() <= gap => {
                last.insert(end);
            }
            _ => {
                merged.insert(start, end);
            }
        }
    }
    *ranges = merged;
}

fn coarsen(ranges: &mut BTreeMap<u64, u64>) {
    let mut gap = 64 << 10;
    while ranges.len() > RANGE_COUNT_MAX / 2 {
        merge_gaps(ranges, gap);
        gap *= 4;
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
        fn merging_gaps_only_adds(
            ranges in prop::collection::vec((0..SIZE, 0..20usize), 0..40), gap in 0..64u64
        ) {
            let exact = set(&ranges);
            let mut merged = exact.clone();
            merged.merge_gaps(gap);
            let before = covered(&exact);
            prop_assert!(covered(&merged).iter().zip(&before).all(|(now, was)| *now || !*was));
            let list: Vec<_> = merged.iter().collect();
            prop_assert!(list.windows(2).all(|pair| pair[1].start - pair[0].end > gap));
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
    fn a_crowded_set_grows_coarser_and_stays_bounded() {
        let mut extents = Extents::default();
        let count = RANGE_COUNT_MAX as u64 * 3;
        for index in 0..count {
            extents.insert(index * 32_768..index * 32_768 + 16_384);
        }
        assert!(extents.iter().count() <= RANGE_COUNT_MAX);
        for index in (0..count).step_by(997) {
            assert!(
                extents
                    .iter()
                    .any(|range| range.contains(&(index * 32_768 + 16_383)))
            );
        }
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
