//! Which description of a session is the current one: agreed on by threads that don't wait for each other.
//!
//! Every thread that meets a new session describes it, and one exchange of a pointer decides whose description is used; the others take theirs away again.
//!
//! Why nobody looks at a description that is gone. A session begins after a grace period: no call of an earlier session is left when one of this session is published. What
//! the earlier one describes is of no use from then on, and goes. Its description still is looked at, by calls of this session that compare its number with theirs; it goes
//! when the session after this one is published, and by then those calls have ended, too. For the same reason the pointer that a call finds is an earlier session's or this
//! one's, a description's address is not used again while a call may compare with it, and the exchange can't take one for the other.

use std::ptr::null_mut;

use super::sync::{AtomicPtr, Ordering};

pub struct Current<T> {
    /// Null before the first session.
    current: AtomicPtr<T>,
    /// The one before.
    previous: AtomicPtr<T>,
}

/// What became of a description.
pub enum Published<T> {
    /// It is current. What `before` describes is of no use any more, and `earlier` itself is not; either may be null.
    Ours { before: *mut T, earlier: *mut T },
    /// Another thread had described the session already, so.
    Theirs(*mut T),
}

impl<T> Current<T> {
    #[cfg(not(loom))]
    pub const fn new() -> Current<T> {
        Current {
            current: AtomicPtr::new(null_mut()),
            previous: AtomicPtr::new(null_mut()),
        }
    }

    #[cfg(loom)]
    pub fn new() -> Current<T> {
        Current {
            current: AtomicPtr::new(null_mut()),
            previous: AtomicPtr::new(null_mut()),
        }
    }

    /// This session's description, or that of an earlier one, or null. It may be looked at while the call is registered.
    pub fn get(&self) -> *mut T {
        // Pairs with the release in `publish`.
        self.current.load(Ordering::Acquire)
    }

    /// Puts `new`, which describes the caller's session, in the place of `before`, which the caller found and which does not.
    pub fn publish(&self, before: *mut T, new: *mut T) -> Published<T> {
        // Release: the description is whole. Acquire: so is that of another thread, whose pointer is found.
        let exchanged =
            self.current
                .compare_exchange(before, new, Ordering::AcqRel, Ordering::Acquire);
        match exchanged {
            // One thread of each session gets here, and grace periods put them into an order.
            Ok(_) => Published::Ours {
                before,
                earlier: self.previous.swap(before, Ordering::AcqRel),
            },
            Err(theirs) => Published::Theirs(theirs),
        }
    }

    /// In a forked child, which has one thread: as before the first session.
    pub fn forget(&self) {
        self.current.store(null_mut(), Ordering::Relaxed);
        self.previous.store(null_mut(), Ordering::Relaxed);
    }
}

impl<T> Default for Current<T> {
    fn default() -> Current<T> {
        Current::new()
    }
}
