//! The ring's bytes behind a trait, so that the protocol in [`super::ring`] is one piece of code for shared memory and for loom.

use super::sync::AtomicU64;

/// Bytes of a ring. Positions are offsets into the ring, already taken modulo its capacity.
///
/// # Safety
/// `commit_word` must give the atomic word that overlays the eight bytes at that position, and the byte ranges must not move.
pub unsafe trait RingMemory {
    fn capacity(&self) -> usize;

    /// The word at `at`, a multiple of [`super::record::ALIGN`].
    fn commit_word(&self, at: usize) -> &AtomicU64;

    /// # Safety
    /// `source` is readable for `len` bytes; the caller owns `at..at + len` (it reserved it and has not published it).
    unsafe fn put(&self, at: usize, source: *const u8, len: usize);

    /// # Safety
    /// `at..at + len` was published and is not yet given back.
    unsafe fn get(&self, at: usize, target: &mut [u8]);

    /// # Safety
    /// The caller is the consumer, and `at..at + len` was published and is not yet given back.
    unsafe fn zero(&self, at: usize, len: usize);
}

/// A ring in a mapping that outlives it.
#[derive(Clone, Copy)]
#[cfg_attr(loom, allow(dead_code))]
pub struct MappedRing {
    base: *mut u8,
    capacity: usize,
}

// SAFETY: the pointer is only a base address; who may touch which bytes is decided by the protocol in `ring`.
unsafe impl Send for MappedRing {}
// SAFETY: as above.
unsafe impl Sync for MappedRing {}

impl MappedRing {
    /// # Safety
    /// `base` is page-aligned, mapped readable and writable for `capacity` bytes for as long as the ring is used, and all its
    /// pages are reserved (a page that can't be allocated on first touch would be SIGBUS).
    pub unsafe fn new(base: *mut u8, capacity: usize) -> MappedRing {
        MappedRing { base, capacity }
    }
}

// SAFETY: `commit_word` overlays the bytes at `base + at`, and the mapping does not move.
#[cfg(not(loom))]
unsafe impl RingMemory for MappedRing {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn commit_word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= self.capacity);
        // SAFETY: in bounds by the callers in `ring`, which take positions modulo the capacity.
        let word = unsafe { self.base.add(at) }.cast::<u64>();
        // SAFETY: aligned to 8, valid for the mapping's life, and only accessed atomically while it may be shared.
        unsafe { AtomicU64::from_ptr(word) }
    }

    unsafe fn put(&self, at: usize, source: *const u8, len: usize) {
        debug_assert!(at + len <= self.capacity);
        // SAFETY: in bounds as above.
        let target = unsafe { self.base.add(at) };
        // SAFETY: the caller owns the range, and a server's buffer never overlaps the ring.
        unsafe { target.copy_from_nonoverlapping(source, len) };
    }

    unsafe fn get(&self, at: usize, target: &mut [u8]) {
        debug_assert!(at + target.len() <= self.capacity);
        // SAFETY: in bounds as above.
        let source = unsafe { self.base.add(at) };
        // SAFETY: the range is published, so no producer writes it.
        unsafe { source.copy_to_nonoverlapping(target.as_mut_ptr(), target.len()) };
    }

    unsafe fn zero(&self, at: usize, len: usize) {
        debug_assert!(at + len <= self.capacity);
        // SAFETY: in bounds as above.
        let target = unsafe { self.base.add(at) };
        // SAFETY: the consumer owns published bytes until it moves the head over them.
        unsafe { target.write_bytes(0, len) };
    }
}
