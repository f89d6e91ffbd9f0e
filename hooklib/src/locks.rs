//! Locks that order server threads among themselves while capturing, so that the log has the order in which the files were changed.
//!
//! None is ever waited for by the backup or held while something blocks that is no file. They are always taken in this order, and within a
//! kind by rising index, so they can't deadlock: namespace → position → file → regions → blocks.
//!
//! A range is held over a real write, which takes as long as the disk does. So a thread should have to wait only for another that changes the same
//! bytes, which engines hardly ever do: a short range is held by its blocks, of an InnoDB page each, and a longer one by whole regions. What holds blocks shares their
//! regions, and what holds either shares the file.
//!
//! They are striped: two files may share a lock, which costs a wait and nothing else. There are so many that hardly any do: a wait, however short, is a turn
//! of the scheduler, which takes milliseconds where many threads want the processor. std's locks are used since they are a futex and a word: they allocate
//! nothing and can live in a static. (parking_lot allocates for a thread that has to wait.) Poison means nothing here: the locks guard no data.

use std::cell::UnsafeCell;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use engine::capture_log::FileId;

/// As many as there are files in a large server: what has a position (a binlog) holds its file's over a real write, and must not find there another's that
/// waits for the disk. A position and a file take 20 bytes together, 320 KiB in all, of which only what is taken is ever touched, except that a child forked
/// from a process that had a session writes them all anew, like those below.
const FILE_STRIPES: usize = 16 << 10;
const REGION_STRIPES: usize = 16 << 10;
const BLOCK_STRIPES: usize = 64 << 10;
const REGION_LEN: u64 = 1 << 20;
const BLOCK_LEN: u64 = 16 << 10;
/// A change that touches more regions takes the whole file.
const REGIONS_MAX: usize = 8;
/// A change that touches more blocks takes their regions.
const BLOCKS_MAX: usize = 8;

struct Locks {
    namespace: Mutex<()>,
    positions: [Mutex<()>; FILE_STRIPES],
    files: [RwLock<()>; FILE_STRIPES],
    regions: [RwLock<()>; REGION_STRIPES],
    blocks: [Mutex<()>; BLOCK_STRIPES],
}

impl Locks {
    const fn new() -> Locks {
        Locks {
            namespace: Mutex::new(()),
            positions: [const { Mutex::new(()) }; FILE_STRIPES],
            files: [const { RwLock::new(()) }; FILE_STRIPES],
            regions: [const { RwLock::new(()) }; REGION_STRIPES],
            blocks: [const { Mutex::new(()) }; BLOCK_STRIPES],
        }
    }
}

struct Shared(UnsafeCell<Locks>);
// SAFETY: replaced only in a forked child while it has one thread.
unsafe impl Sync for Shared {}
static LOCKS: Shared = Shared(UnsafeCell::new(Locks::new()));
/// Never taken: what free locks look like. They are too many to be made on the stack of a thread that forks.
static FREE: Shared = Shared(UnsafeCell::new(Locks::new()));

fn locks() -> &'static Locks {
    // SAFETY: see `Shared`.
    unsafe { &*LOCKS.0.get() }
}

/// Makes all locks free.
///
/// # Safety
/// No other thread exists.
pub unsafe fn renew() {
    // SAFETY: two statics; nobody else is there to hold a reference that matters, and the locks own nothing that would have to be dropped or that a copy would share.
    unsafe { LOCKS.0.get().copy_from_nonoverlapping(FREE.0.get(), 1) };
}

pub type Guard = MutexGuard<'static, ()>;

type Sharing = RwLockReadGuard<'static, ()>;
type Excluding = RwLockWriteGuard<'static, ()>;

fn lock(mutex: &'static Mutex<()>) -> Guard {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn share(lock: &'static RwLock<()>) -> Sharing {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn exclude(lock: &'static RwLock<()>) -> Excluding {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held over a call that changes names, and the looks before it.
pub fn namespace() -> Guard {
    lock(&locks().namespace)
}

/// Held over a call that moves a file's position.
pub fn position(file: FileId) -> Option<Guard> {
    locks()
        .positions
        .get(hash(file, 0) % FILE_STRIPES)
        .map(lock)
}

/// A changing call's hold on what it changes. Fields drop in their order, the innermost locks first.
#[must_use]
#[derive(Default)]
pub struct Held {
    _blocks: [Option<Guard>; BLOCKS_MAX],
    /// A short range can lie across the border of two.
    _shared_regions: [Option<Sharing>; 2],
    _regions: [Option<Excluding>; REGIONS_MAX],
    _shared: Option<Sharing>,
    _exclusive: Option<Excluding>,
}

fn lock_of_file(file: FileId) -> Option<&'static RwLock<()>> {
    locks().files.get(hash(file, 0) % FILE_STRIPES)
}

/// Against everything else that happens to the file.
pub fn whole(file: FileId) -> Held {
    Held {
        _exclusive: lock_of_file(file).map(exclude),
        ..Held::default()
    }
}

/// Against what else happens to the range.
pub fn range(file: FileId, offset: u64, len: u64) -> Held {
    let touched = |unit: u64| {
        let last = offset.saturating_add(len.max(1)).wrapping_sub(1) / unit;
        (offset / unit, last)
    };
    let (regions, blocks) = (touched(REGION_LEN), touched(BLOCK_LEN));
    let fits = |(first, last): (u64, u64), most: usize| last.saturating_sub(first) < most as u64;
    if !fits(regions, REGIONS_MAX) {
        return whole(file);
    }
    let mut held = Held {
        _shared: lock_of_file(file).map(share),
        ..Held::default()
    };
    let (all_regions, all_blocks) = (&locks().regions, &locks().blocks);
    if !fits(blocks, BLOCKS_MAX) {
        take(&mut held._regions, all_regions, file, regions, exclude);
        return held;
    }
    take(&mut held._shared_regions, all_regions, file, regions, share);
    take(&mut held._blocks, all_blocks, file, blocks, lock);
    held
}

/// Takes the locks of units `first..=last`, at most `N`, by rising index, and one that several share only once.
fn take<const N: usize, L, G>(
    guards: &mut [Option<G>; N],
    all: &'static [L],
    file: FileId,
    (first, last): (u64, u64),
    lock: impl Fn(&'static L) -> G,
) {
    let mut stripes = [usize::MAX; N];
    for (stripe, unit) in stripes.iter_mut().zip(first..=last) {
        *stripe = hash(file, unit.wrapping_add(1)) % all.len().max(1);
    }
    stripes.sort_unstable();
    let mut taken = usize::MAX;
    for (guard, stripe) in guards.iter_mut().zip(stripes) {
        if stripe != taken {
            *guard = all.get(stripe).map(&lock);
            taken = stripe;
        }
    }
}

fn hash(file: FileId, block: u64) -> usize {
    let mixed =
        (file.inode ^ file.device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}
