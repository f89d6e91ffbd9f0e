//! Tests of the capture protocol, one file per module of it. The order of memory accesses is model-checked in `loom_tests`; here are
//! the values, the sizes, real threads, and files that should not be trusted.

mod grace;
mod link;
mod record;
mod ring;

use memmap2::{MmapMut, MmapOptions};

use super::layout::SegmentHeader;
use super::memory::MappedRing;
use super::ring::{LogReader, LogWriter};

/// A ring in private memory, of any capacity.
struct TestLog {
    header: SegmentHeader,
    map: MmapMut,
    capacity: usize,
}

impl TestLog {
    fn new(capacity: usize) -> TestLog {
        let map = MmapOptions::new().len(capacity).map_anon().unwrap();
        TestLog {
            header: SegmentHeader::default(),
            map,
            capacity,
        }
    }

    fn ring(&self) -> MappedRing {
        // SAFETY: page-aligned anonymous memory of this length, which outlives what borrows from `self`.
        unsafe { MappedRing::new(self.map.as_ptr().cast_mut(), self.capacity) }
    }

    fn writer(&self) -> LogWriter<'_, MappedRing> {
        LogWriter::new(&self.header, self.ring())
    }

    fn reader(&self) -> LogReader<'_, MappedRing> {
        LogReader::new(&self.header, self.ring())
    }
}
