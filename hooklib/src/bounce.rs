//! A private copy of the bytes of one write: what the real call writes and what the record carries are then the same, whatever happens to the caller's
//! buffer meanwhile.
//!
//! Servers do write from buffers that other threads go on filling: MariaDB appends to the last block of its redo log buffer while that
//! block is being written. Any state of such a buffer may end up in the file, and the bytes found in it after the call need not be those. A record made of them would
//! put bytes into the backup that the file never had. So while records carry payloads, a write goes through a copy: one of the outcomes that the caller had to expect anyway.
//!
//! What can't be read is not copied, so that a bad address stays what it is, an EFAULT of the real call (I2).
//! Memory comes from two small pools, of short buffers and of long ones, or is mapped for the one call: nothing is allocated. A long one is brought in before it is
//! filled: to touch the pages one by one for the first time would hold up a write of some megabytes for a millisecond. To bring in all of them at once may still, so long writes
//! bring in a part each while records carry no payloads yet.

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use libc::iovec;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::caller_memory::{copy, each_part};
use crate::capture::Buffers;

/// A buffer longer than this is brought in as a whole.
const TOUCHED_LEN: usize = 64 << 10;
/// Of a long buffer, what one write brings in ahead: 64 pages of the usual length, a tenth of a millisecond.
const AHEAD_LEN: usize = 256 << 10;
/// Long buffers that are brought in ahead; hardly ever are more of them in use at once.
const AHEAD_COUNT: usize = 2;
const PAGE_LEN_MIN: usize = 4096;
/// Of one length: bits of a word.
const BUFFER_COUNT_MAX: usize = 64;
/// A write longer than this is not copied.
const LEN_MAX: usize = 64 << 20;

/// Buffers of one length, mapped together and kept.
struct Pool {
    len: usize,
    count: usize,
    base: AtomicPtr<u8>,
    /// One bit per buffer; set: free. The lowest is taken, so that few of them are ever touched.
    free: AtomicU64,
    /// Of each buffer, how much is there already. Belongs to whoever has the buffer.
    brought_in: [AtomicUsize; BUFFER_COUNT_MAX],
}

impl Pool {
    const fn new(len: usize, count: usize) -> Pool {
        Pool {
            len,
            count,
            base: AtomicPtr::new(std::ptr::null_mut()),
            free: AtomicU64::new(Pool::all(count)),
            brought_in: [const { AtomicUsize::new(0) }; BUFFER_COUNT_MAX],
        }
    }

    const fn all(count: usize) -> u64 {
        u64::MAX >> (64 - count)
    }
}

/// Servers write pages of at most the first length one by one, and hardly ever more of a log at a time than the second.
static POOLS: [Pool; 2] = [Pool::new(64 << 10, BUFFER_COUNT_MAX), Pool::new(4 << 20, 4)];

/// Page-aligned, so that it serves direct I/O.
pub struct Bounce {
    address: *mut u8,
    len: usize,
    /// Pool and index in it, or None for a mapping of its own.
    pooled: Option<(&'static Pool, usize)>,
}

impl Bounce {
    /// Copies what `buffers` holds. None if that can't be done; the real call then has to do with the original.
    pub fn copy_of(buffers: Buffers) -> Option<Bounce> {
        match buffers {
            Buffers::One(address, len) => {
                let bounce = Bounce::of_len(len)?;
                // SAFETY: it has room for so many.
                unsafe { copy(address, bounce.address, len) }.then_some(bounce)
            }
            Buffers::Many(array, count) => Bounce::gather(array, count),
            Buffers::Kernel => None,
        }
    }

    /// Reads the array twice, since there may be no room to keep it: should it change meanwhile, there is no copy.
    fn gather(array: *const iovec, count: usize) -> Option<Bounce> {
        let mut len = 0usize;
        each_part(array, count, |part| {
            len = len.checked_add(part.iov_len)?;
            Some(())
        })?;
        let bounce = Bounce::of_len(len)?;
        let mut done = 0usize;
        each_part(array, count, |part| {
            let end = done.checked_add(part.iov_len).filter(|end| *end <= len)?;
            let to = bounce.address.wrapping_add(done);
            done = end;
            // SAFETY: `bounce` has room for `len` bytes.
            unsafe { copy(part.iov_base.cast(), to, part.iov_len) }.then_some(())
        })?;
        (done == len).then_some(bounce)
    }

    fn of_len(len: usize) -> Option<Bounce> {
        if len == 0 || len > LEN_MAX {
            return None;
        }
        let fits = POOLS.iter().filter(|pool| len <= pool.len);
        let bounce = match fits.filter_map(|pool| Bounce::from_pool(pool, len)).next() {
            Some(bounce) => bounce,
            None => Bounce {
                address: map(len)?,
                len,
                pooled: None,
            },
        };
        if len > TOUCHED_LEN {
            bounce.bring_in();
        }
        Some(bounce)
    }

    /// Of a buffer of a pool, how much is there already.
    fn known(&self) -> Option<&'static AtomicUsize> {
        self.pooled
            .and_then(|(pool, index)| pool.brought_in.get(index))
    }

    /// All of a buffer by one system call, the first time. Kernels that can't do it leave the pages to be touched.
    fn bring_in(&self) {
        let known = self.known();
        let (from, to) = match known {
            // Buffers of a pool are a multiple of it long, and it is one of a page.
            Some(known) => (
                known.load(Ordering::Relaxed),
                self.len.next_multiple_of(TOUCHED_LEN),
            ),
            None => (0, self.len),
        };
        let Some(len) = to.checked_sub(from).filter(|len| *len > 0) else {
            return;
        };
        // SAFETY: inside this buffer's mapping, whose bytes stay what they are.
        let _ = unsafe {
            let missing = self.address.wrapping_add(from).cast();
            rustix::mm::madvise(missing, len, Advice::LinuxPopulateWrite)
        };
        if let Some(known) = known {
            known.store(to, Ordering::Relaxed);
        }
    }

    fn from_pool(pool: &'static Pool, len: usize) -> Option<Bounce> {
        let base = mapped(pool)?;
        let taken = pool
            .free
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| {
                (free != 0).then_some(free & free.wrapping_sub(1))
            });
        Some(Bounce::at(
            pool,
            base,
            taken.ok()?.trailing_zeros() as usize,
            len,
        ))
    }

    /// A certain one.
    fn take(pool: &'static Pool, index: usize, len: usize) -> Option<Bounce> {
        let base = mapped(pool)?;
        let free = pool.free.fetch_and(!(1 << index), Ordering::Acquire);
        (free & 1 << index != 0).then(|| Bounce::at(pool, base, index, len))
    }

    fn at(pool: &'static Pool, base: *mut u8, index: usize, len: usize) -> Bounce {
        Bounce {
            address: base.wrapping_add(index * pool.len),
            len,
            pooled: Some((pool, index)),
        }
    }

    pub fn buffers(&self) -> Buffers {
        Buffers::One(self.address, self.len)
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        match self.pooled {
            // Pairs with the acquire in `from_pool`: the next user's bytes come after ours were read.
            Some((pool, index)) => _ = pool.free.fetch_or(1 << index, Ordering::Release),
            // SAFETY: mapped by `of_len` for this value alone.
            None => _ = unsafe { rustix::mm::munmap(self.address.cast(), self.len) },
        }
    }
}

/// A write of `len` bytes needs no copy, since records carry no payloads yet: brings in a part of a buffer for those of this length that will. Page by page: a
/// fault waits for no lock of the address space, on kernels from 6.4.
pub fn bring_in_ahead(len: usize) {
    let [_, pool] = &POOLS;
    if !(TOUCHED_LEN + 1..=pool.len).contains(&len) {
        return;
    }
    let wanted = len.next_multiple_of(TOUCHED_LEN);
    let ahead = pool.brought_in.iter().take(AHEAD_COUNT);
    let lacking = ahead
        .map(|known| known.load(Ordering::Relaxed))
        .position(|known| known < wanted);
    // Belongs to us until it is dropped.
    let Some(bounce) = lacking.and_then(|index| Bounce::take(pool, index, len)) else {
        return;
    };
    let Some(known) = bounce.known() else { return };
    let begin = known.load(Ordering::Relaxed);
    let end = wanted.min(begin + AHEAD_LEN);
    for at in (begin..end).step_by(PAGE_LEN_MIN) {
        // SAFETY: in the buffer, whose bytes are of no matter to anybody now.
        unsafe { bounce.address.wrapping_add(at).write_volatile(0) };
    }
    known.fetch_max(end, Ordering::Relaxed);
}

/// Maps the pools, which takes no memory yet: to map is to wait for whoever else in the server maps something, which no captured call should.
pub fn prepare() {
    for pool in &POOLS {
        let _ = mapped(pool);
    }
}

fn mapped(pool: &Pool) -> Option<*mut u8> {
    let base = pool.base.load(Ordering::Acquire);
    if !base.is_null() {
        return Some(base);
    }
    let len = pool.len * pool.count;
    let made = map(len)?;
    let null = std::ptr::null_mut();
    match pool
        .base
        .compare_exchange(null, made, Ordering::AcqRel, Ordering::Acquire)
    {
        Ok(_) => Some(made),
        Err(theirs) => {
            // SAFETY: nobody else has seen it.
            let _ = unsafe { rustix::mm::munmap(made.cast(), len) };
            Some(theirs)
        }
    }
}

fn map(len: usize) -> Option<*mut u8> {
    let (prot, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::PRIVATE | MapFlags::NORESERVE,
    );
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory.
    let mapped = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) };
    mapped.ok().map(|address| address.cast())
}

/// In a forked child: the parent's threads, which held buffers, are not there.
pub fn forget() {
    for pool in &POOLS {
        pool.free.store(Pool::all(pool.count), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_writes_bring_in_ahead_what_those_after_them_need() {
        let [_, pool] = &POOLS;
        let known = || {
            let buffers = pool.brought_in.iter().take(pool.count);
            let known: Vec<usize> = buffers.map(|len| len.load(Ordering::Relaxed)).collect();
            known
        };
        for len in [0, 1, TOUCHED_LEN, pool.len + 1, usize::MAX] {
            bring_in_ahead(len);
            assert_eq!(known(), [0; 4], "{len}");
        }
        let len = 5 * AHEAD_LEN / 2;
        let held = Bounce::take(pool, 0, 1).unwrap();
        bring_in_ahead(len);
        assert_eq!(known(), [0; 4], "the first is in use");
        drop(held);
        for calls in 1..=2 * 3 {
            bring_in_ahead(len);
            let sum: usize = known().iter().sum();
            assert_eq!(sum, calls / 3 * len + calls % 3 * AHEAD_LEN);
        }
        bring_in_ahead(len);
        assert_eq!(known(), [len, len, 0, 0]);
        assert_eq!(pool.free.load(Ordering::Relaxed), Pool::all(pool.count));
    }
}
