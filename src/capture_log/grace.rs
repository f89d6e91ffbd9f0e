//! The grace period: after the control word changed, wait until no hooked call that may have seen the old one is still under way.
//!
//! A hooked call registers before it loads the control word and unregisters after it has appended, by two plain stores to a slot that its thread
//! owns: the slot's sequence is odd while the thread is inside. The expensive half is on the controller's side: it stores the control word, issues
//! `membarrier(GLOBAL_EXPEDITED)`, and then reads all slots.
//!
//! Why no call is missed: take a call that loaded the old control word. In its thread's program order, "sequence := odd" comes before that load.
//! `membarrier` puts a full fence into every running thread of the registered process, between two of its instructions (a thread that isn't running passes a full fence
//! when it is scheduled). If that fence falls before the load, the load sees the new word, against the assumption. So it falls after the load,
//! hence after "sequence := odd", and the controller, which reads the slots after `membarrier`, sees odd or a later value. If it sees odd, it waits for
//! any change; if it sees a later even value, the call is over.
//!
//! Why its record is complete then: "sequence := even" is a release store after the append, and the controller's load is an acquire.
//!
//! Nested calls (a signal handler that writes while its thread is inside a hooked call) find an odd sequence and leave it alone: the outer call's registration
//! covers them. A signal between the outer call's load and store of the sequence makes the sequence fall back by two at most; the controller only compares for
//! "changed since I looked", and every value it can see twice is odd only while a call is inside, so it waits longer at worst.
//!
//! Where `membarrier` is missing, the library says so in the rendezvous and fences each registration itself.

use std::time::{Duration, Instant};

use rustix::thread::MembarrierCommand;

use super::layout::{AioSlot, FlightSlot};
use super::sync::{AtomicU32, Ordering, compiler_fence, fence};

/// A registration; `leave` it after the append.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Entered {
    /// Odd sequence to end, or 0 for a nested call.
    sequence: u64,
}

impl Entered {
    /// True if the thread was inside a hooked call already: this one runs in a signal handler, and may hold no lock.
    pub fn nested(self) -> bool {
        self.sequence == 0
    }
}

impl FlightSlot {
    /// Registers the calling thread, the slot's owner.
    #[inline]
    pub fn enter(&self, membarrier: bool) -> Entered {
        let sequence = self.sequence.load(Ordering::Relaxed);
        if sequence & 1 == 1 {
            return Entered { sequence: 0 };
        }
        // Release, although nothing of this call is done yet: the controller that sees this value takes the call before for
        // over, and pairs with it (a relaxed store would cut the line from that call's release).
        self.sequence.store(sequence + 1, Ordering::Release);
        if membarrier {
            // Made a full fence, when it matters, by the controller's membarrier.
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        Entered {
            sequence: sequence + 1,
        }
    }

    #[inline]
    pub fn leave(&self, entered: Entered) {
        if !entered.nested() {
            // Pairs with the acquire in `Flights::gone`.
            self.sequence.store(entered.sequence + 1, Ordering::Release);
        }
    }
}

impl AioSlot {
    /// The slot to start looking from.
    pub fn start(iocb: u64, slot_count: usize) -> usize {
        ((iocb >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % slot_count
    }

    fn holds(word: u64, iocb: u64) -> bool {
        word >> 16 == iocb & 0xffff_ffff_ffff
    }

    /// True from a successful claim for `iocb` until its release.
    pub fn is_held_by(&self, iocb: u64) -> bool {
        Self::holds(self.word.load(Ordering::Relaxed), iocb)
    }

    /// The iocb that this slot holds, as far as the word has room for its address.
    pub fn holder(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Relaxed);
        (word >> 16 != 0).then_some(word >> 16)
    }

    /// Notes, before the kernel gets it, that `iocb` is on its way. False if this slot is taken.
    pub fn claim(&self, iocb: u64) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        let next = iocb << 16 | (word.wrapping_add(1) & 0xffff);
        word >> 16 == 0
            && self
                .word
                .compare_exchange(word, next, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
    }

    /// Notes that `iocb` is done and recorded. False if this slot does not hold it.
    pub fn release(&self, iocb: u64) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        // Pairs with the acquire in `Flights::gone`.
        Self::holds(word, iocb)
            && self
                .word
                .compare_exchange(word, word & 0xffff, Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }
}

/// Who is inside a hooked call, or in the kernel's hands, at one moment.
#[derive(Debug, Default)]
pub struct Flights {
    threads: Vec<(usize, u64)>,
    aio: Vec<(usize, u64)>,
    crowd: bool,
}

/// The shared tables that a grace period looks at.
#[derive(Clone, Copy)]
pub struct FlightTables<'s> {
    pub slots: &'s [FlightSlot],
    pub aio_slots: &'s [AioSlot],
    pub crowd: &'s AtomicU32,
}

impl FlightTables<'_> {
    /// Who is under way now. The caller has issued the barrier. `aio`: asynchronous writes too.
    pub fn under_way(&self, aio: bool) -> Flights {
        Flights {
            aio: if aio { self.aio_claims() } else { Vec::new() },
            ..self.calls()
        }
    }

    fn calls(&self) -> Flights {
        let slots = self.slots.iter().enumerate();
        Flights {
            threads: slots
                .map(|(index, slot)| (index, slot.sequence.load(Ordering::Acquire)))
                .filter(|(_, sequence)| sequence & 1 == 1)
                .collect(),
            aio: Vec::new(),
            crowd: self.crowd.load(Ordering::Acquire) != 0,
        }
    }

    fn aio_claims(&self) -> Vec<(usize, u64)> {
        let slots = self.aio_slots.iter().enumerate();
        slots
            .map(|(index, slot)| (index, slot.word.load(Ordering::Acquire)))
            .filter(|(_, word)| word >> 16 != 0)
            .collect()
    }

    /// Strikes off who has landed; true once all have.
    pub fn gone(&self, flights: &mut Flights) -> bool {
        flights
            .threads
            .retain(|&(index, seen)| self.slots[index].sequence.load(Ordering::Acquire) == seen);
        flights
            .aio
            .retain(|&(index, seen)| self.aio_slots[index].word.load(Ordering::Acquire) == seen);
        flights.crowd = flights.crowd && self.crowd.load(Ordering::Acquire) != 0;
        flights.threads.is_empty() && flights.aio.is_empty() && !flights.crowd
    }

    /// Waits until everything that is under way now has landed. On timeout, what has not.
    pub fn wait(&self, aio: bool, bound: Duration) -> Result<(), Flights> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        self.wait_with(aio, || {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
            start.elapsed() <= bound
        })
    }

    /// [`FlightTables::wait`] with a pause of the caller's, which gives false when the time is up.
    ///
    /// Threads first: one that is inside `io_submit` may not have claimed its slots yet.
    pub fn wait_with(&self, aio: bool, mut pause: impl FnMut() -> bool) -> Result<(), Flights> {
        let mut flights = self.calls();
        while !self.gone(&mut flights) {
            if !pause() {
                return Err(flights);
            }
        }
        flights.aio = if aio { self.aio_claims() } else { Vec::new() };
        while !self.gone(&mut flights) {
            if !pause() {
                return Err(flights);
            }
        }
        Ok(())
    }
}

impl Flights {
    pub fn is_empty(&self) -> bool {
        self.threads.is_empty() && self.aio.is_empty() && !self.crowd
    }

    /// Indices of the slots of threads that are inside a call.
    pub fn thread_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.threads.iter().map(|&(index, _)| index)
    }

    pub fn aio_count(&self) -> usize {
        self.aio.len()
    }
}

/// Registers a call whose thread found no free slot.
///
/// Here the order is kept by a full read-modify-write; all such calls share one line.
pub fn enter_crowd(crowd: &AtomicU32) {
    crowd.fetch_add(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

pub fn leave_crowd(crowd: &AtomicU32) {
    crowd.fetch_sub(1, Ordering::Release);
}

/// Puts a full fence into every running thread of processes that registered for it.
pub fn barrier() -> std::io::Result<()> {
    fence(Ordering::SeqCst);
    rustix::thread::membarrier(MembarrierCommand::GlobalExpedited).map_err(Into::into)
}

/// Lets other processes' [`barrier`] reach this one.
pub fn register_for_barrier() -> bool {
    rustix::thread::membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok()
}
