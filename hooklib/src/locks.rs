//! Locks that order server threads among themselves while capturing, so that the log has the order in which the files were changed.
//!
//! None is ever waited for by the backup or held while something blocks that is no file. They are always taken in this order, and within a
//! kind by rising index, so they can't deadlock: namespace → position → file → blocks.
//!
//! They are striped: two files may share a lock, which costs a wait and nothing else. std's locks are used since they are a futex and a word: they allocate
//! nothing and can live in a static. (parking_lot allocates for a thread that has to wait.) Poison means nothing here: the locks guard no data.

use std::cell::UnsafeCell;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use engine::capture_log::FileId;

const FILE_STRIPES: usize = 64;
const BLOCK_STRIPES: usize = 256;
const BLOCK_LEN: u64 = 1 << 20;
/// A change that touches more blocks takes the whole file.
const BLOCKS_MAX: usize = 8;

struct Locks {
    session: Mutex<()>,
    namespace: Mutex<()>,
    positions: [Mutex<()>; FILE_STRIPES],
    files: [RwLock<()>; FILE_STRIPES],
    blocks: [Mutex<()>; BLOCK_STRIPES],
}

impl Locks {
    const fn new() -> Locks {
        Locks {
            session: Mutex::new(()),
            namespace: Mutex::new(()),
            positions: [const { Mutex::new(()) }; FILE_STRIPES],
            files: [const { RwLock::new(()) }; FILE_STRIPES],
            blocks: [const { Mutex::new(()) }; BLOCK_STRIPES],
        }
    }
}

struct Shared(UnsafeCell<Locks>);
// SAFETY: replaced only in a forked child while it has one thread.
unsafe impl Sync for Shared {}
static LOCKS: Shared = Shared(UnsafeCell::new(Locks::new()));

fn locks() -> &'static Locks {
    // SAFETY: see `Shared`.
    unsafe { &*LOCKS.0.get() }
}

/// Makes all locks free.
///
/// # Safety
/// No other thread exists.
pub unsafe fn renew() {
    // SAFETY: nobody else is there to hold a reference that matters, and the locks own nothing that would have to be dropped.
    unsafe { LOCKS.0.get().write(Locks::new()) };
}

pub type Guard = MutexGuard<'static, ()>;

fn lock(mutex: &'static Mutex<()>) -> Guard {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held over the mapping of a session; None if a nested call would have to wait for it.
pub fn session(nested: bool) -> Option<Guard> {
    if nested {
        locks().session.try_lock().ok()
    } else {
        Some(lock(&locks().session))
    }
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

/// A changing call's hold on what it changes.
#[must_use]
#[derive(Default)]
pub struct Held {
    _blocks: [Option<Guard>; BLOCKS_MAX],
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _exclusive: Option<RwLockWriteGuard<'static, ()>>,
}

/// Against everything else that happens to the file.
pub fn whole(file: FileId) -> Held {
    let lock = locks().files.get(hash(file, 0) % FILE_STRIPES);
    Held {
        _exclusive: lock.map(|lock| lock.write().unwrap_or_else(PoisonError::into_inner)),
        ..Held::default()
    }
}

/// Against what else happens to the range.
pub fn range(file: FileId, offset: u64, len: u64) -> Held {
    let first = offset / BLOCK_LEN;
    let last = offset.saturating_add(len.max(1)).wrapping_sub(1) / BLOCK_LEN;
    if last.saturating_sub(first) >= BLOCKS_MAX as u64 {
        return whole(file);
    }
    let lock_of_file = locks().files.get(hash(file, 0) % FILE_STRIPES);
    let mut held = Held {
        _shared: lock_of_file.map(|lock| lock.read().unwrap_or_else(PoisonError::into_inner)),
        ..Held::default()
    };
    let mut stripes = [usize::MAX; BLOCKS_MAX];
    for (stripe, block) in stripes.iter_mut().zip(first..=last) {
        *stripe = hash(file, block.wrapping_add(1)) % BLOCK_STRIPES;
    }
    stripes.sort_unstable();
    let mut taken = usize::MAX;
    for (guard, stripe) in held._blocks.iter_mut().zip(stripes) {
        if stripe != taken {
            *guard = locks().blocks.get(stripe).map(lock);
            taken = stripe;
        }
    }
    held
}

fn hash(file: FileId, block: u64) -> usize {
    let mixed =
        (file.inode ^ file.device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}
