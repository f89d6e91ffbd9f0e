//! One source, two kinds of atomics: the standard ones, and loom's when the protocol is model-checked
//! (`RUSTFLAGS="--cfg loom"`).

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// loom has no asymmetric fences. `membarrier` turns the compiler fence of every running thread into a full
/// one at that moment, so the model puts a full fence in its place.
#[cfg(loom)]
pub fn compiler_fence(order: Ordering) {
    fence(order);
}
