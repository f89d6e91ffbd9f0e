//! A hooked call's registration: from before it loads the control word until after it has appended (see the engine's `grace`).
//!
//! Each thread owns one slot of the shared table, which it finds at its first call and keeps in a thread-local. Nobody gives a slot back: the slot of
//! a thread that is gone is taken over, so threads need no destructor.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use engine::capture_log::grace::{self, Entered};
use engine::capture_log::layout::{FLIGHT_SLOT_COUNT, FLIGHT_SLOTS_OFFSET, FlightSlot, Rendezvous};
use engine::capture_log::{Control, Mode};
use rustix::thread::Pid;

use crate::lifecycle;

/// Slots tried before dead owners are looked for, and slots whose owner is looked at.
const FREE_PROBES: usize = 8;
const DEAD_PROBES: usize = 64;
/// A thread that found no slot tries again after this many calls.
const CROWD_CALLS: u32 = 1024;

/// Mirrors `struct hotmirror_thread` in shim.c, where it lives: stable Rust has no initial-exec thread-locals.
#[repr(C)]
struct ThreadState {
    slot: Cell<*const FlightSlot>,
    /// Calls inside each other while the thread counts in the crowd.
    crowd_depth: Cell<u32>,
    crowd_calls: Cell<u32>,
    /// Not 0: this thread makes the backup, and its own calls are none of the program's.
    passed_by: Cell<u32>,
}

#[cfg(not(target_arch = "x86_64"))]
unsafe extern "C" {
    fn hotmirror_thread() -> *const ThreadState;
}

/// The calling thread's state. It lives as long as the thread, hence as long as the caller's frame, to which the reference must stay bound.
#[inline(always)]
fn thread<'frame>() -> &'frame ThreadState {
    let state: *const ThreadState;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the initial-exec access sequence of the ABI: the variable's offset, and the thread pointer that is kept at fs:0.
    unsafe {
        std::arch::asm!(
            "mov {0}, qword ptr [rip + hotmirror_thread_state@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) state,
            options(pure, readonly, nostack),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the function only gives an address.
    unsafe {
        state = hotmirror_thread();
    }
    // SAFETY: the state is the thread's own, zeroed when the thread began.
    unsafe { &*state }
}

/// The slot in [`thread`], or null, with one load less: an idle call waits for each.
#[inline(always)]
fn slot_of_thread() -> *const FlightSlot {
    #[cfg(target_arch = "x86_64")]
    {
        const { assert!(std::mem::offset_of!(ThreadState, slot) == 0) };
        let slot: *const FlightSlot;
        // SAFETY: as in `thread`; the slot is the state's first word.
        unsafe {
            std::arch::asm!(
                "mov {0}, qword ptr [rip + hotmirror_thread_state@GOTTPOFF]",
                "mov {0}, qword ptr fs:[{0}]",
                out(reg) slot,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        slot
    }
    #[cfg(not(target_arch = "x86_64"))]
    thread().slot.get()
}

/// A registered call; dropping it ends the registration.
pub struct Call {
    rendezvous: &'static Rendezvous,
    /// None: counted in the crowd.
    registration: Option<(&'static FlightSlot, Entered)>,
    control: Control,
    nested: bool,
}

impl Call {
    /// Registers the calling thread. None where nothing is ever captured.
    #[inline(always)]
    pub fn enter() -> Option<Call> {
        let rendezvous = lifecycle::live_or_revived()?;
        let thread = thread();
        let slot = thread.slot.get();
        // SAFETY: null, or a slot in the rendezvous' mapping, which stays for good; a fork resets it to null.
        let slot = match unsafe { slot.as_ref() } {
            Some(slot) => Some(slot),
            None => find_slot(rendezvous, thread),
        };
        let (registration, nested) = match slot {
            Some(slot) => {
                let entered = slot.enter(lifecycle::membarrier());
                (Some((slot, entered)), entered.nested())
            }
            None => (None, join_crowd(rendezvous, thread)),
        };
        // Relaxed is enough: the controller's barrier falls either before this load, which then sees the new word, or behind the registration.
        let mut control = Control(rendezvous.control.word.load(Ordering::Relaxed));
        if control.mode() != Mode::Idle && thread.passed_by.get() != 0 {
            control = Control::IDLE;
        }
        Some(Call {
            rendezvous,
            registration,
            control,
            nested,
        })
    }

    #[inline]
    pub fn control(&self) -> Control {
        self.control
    }

    #[inline]
    pub fn idle(&self) -> bool {
        self.control.mode() == Mode::Idle
    }

    /// True inside another hooked call of this thread: in a signal handler. It must take no lock, since the outer call may hold it.
    pub fn nested(&self) -> bool {
        self.nested
    }

    pub fn rendezvous(&self) -> &'static Rendezvous {
        self.rendezvous
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        match self.registration {
            Some((slot, entered)) => slot.leave(entered),
            None => leave_crowd(self.rendezvous),
        }
    }
}

/// A registered call of an idle process: no more than what [`Call`] does for one. Dropping it ends the registration.
pub struct Idle {
    slot: &'static FlightSlot,
    entered: Entered,
}

impl Idle {
    /// None where it takes more: a session is on, or the thread has no slot yet, or is inside another call, or has to put the fence itself. Then the call is
    /// not registered, and nothing was done; [`Call::enter`] looks again.
    #[inline(always)]
    pub fn enter() -> Option<Idle> {
        let rendezvous = lifecycle::live_unfenced()?;
        // SAFETY: null, or a slot in the rendezvous' mapping, which stays for good; a fork resets it to null.
        let slot: &'static FlightSlot = unsafe { slot_of_thread().as_ref() }?;
        let entered = slot.enter(true);
        if entered.nested() {
            return None;
        }
        let idle = Idle { slot, entered };
        // Relaxed: as in `Call::enter`.
        let control = Control(rendezvous.control.word.load(Ordering::Relaxed));
        (control == Control::IDLE).then_some(idle)
    }
}

impl Drop for Idle {
    #[inline(always)]
    fn drop(&mut self) {
        self.slot.leave(self.entered);
    }
}

/// True if the thread is in the crowd already.
#[cold]
fn join_crowd(rendezvous: &Rendezvous, thread: &ThreadState) -> bool {
    let depth = thread.crowd_depth.get();
    thread.crowd_depth.set(depth.wrapping_add(1));
    grace::enter_crowd(&rendezvous.crowd);
    depth > 0
}

#[cold]
fn leave_crowd(rendezvous: &Rendezvous) {
    let thread = thread();
    grace::leave_crowd(&rendezvous.crowd);
    thread
        .crowd_depth
        .set(thread.crowd_depth.get().wrapping_sub(1));
}

/// Finds the calling thread a slot. Its sequence is left even, and is otherwise not disturbed: a controller may be comparing it.
#[cold]
fn find_slot(rendezvous: &'static Rendezvous, thread: &ThreadState) -> Option<&'static FlightSlot> {
    // A nested call may not move to a slot while the outer one counts in the crowd.
    let calls = thread.crowd_calls.get();
    thread.crowd_calls.set(calls.wrapping_add(1));
    if thread.crowd_depth.get() > 0 || !calls.is_multiple_of(CROWD_CALLS) {
        return None;
    }
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let slots = slots(rendezvous);
    let start = tid as usize % FLIGHT_SLOT_COUNT;
    let from = |count: usize| slots.iter().cycle().skip(start).take(count);
    let slot = from(FREE_PROBES)
        .find(|slot| take(slot, tid, false))
        .or_else(|| from(DEAD_PROBES).find(|slot| take(slot, tid, true)))
        .or_else(|| from(FLIGHT_SLOT_COUNT).find(|slot| take(slot, tid, false)))?;
    // A thread that died inside a call left it odd.
    let sequence = slot.sequence.load(Ordering::Relaxed);
    if sequence & 1 == 1 {
        slot.sequence
            .store(sequence.wrapping_add(1), Ordering::Release);
    }
    thread.slot.set(slot);
    thread.crowd_calls.set(0);
    Some(slot)
}

fn slots(rendezvous: &'static Rendezvous) -> &'static [FlightSlot] {
    let base = std::ptr::from_ref(rendezvous).cast::<u8>();
    // SAFETY: the mapping that the rendezvous is the first page of holds the table at this offset.
    let slots = unsafe { base.add(FLIGHT_SLOTS_OFFSET) }.cast::<FlightSlot>();
    // SAFETY: as above; the slots are atomics, and the mapping stays for good.
    unsafe { std::slice::from_raw_parts(slots, FLIGHT_SLOT_COUNT) }
}

/// Takes a slot that is free, was this thread id's, or (asked with `dead`) belongs to a thread that is gone.
fn take(slot: &FlightSlot, tid: u32, dead: bool) -> bool {
    let owner = slot.owner_tid.load(Ordering::Relaxed);
    owner == tid
        || (owner == 0 || dead && is_gone(owner))
            && slot
                .owner_tid
                .compare_exchange(owner, tid, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
}

/// A thread id that is in use again, here or in another process, counts as alive: its slot is not needed badly enough.
fn is_gone(tid: u32) -> bool {
    let pid = i32::try_from(tid).ok().and_then(Pid::from_raw);
    rustix::thread::sched_getaffinity(pid) == Err(rustix::io::Errno::SRCH)
}

/// Whether the calling thread's calls are left out of every session; gives what held before.
#[cfg(feature = "embedded")]
pub fn pass_by(passed_by: bool) -> bool {
    thread().passed_by.replace(passed_by.into()) != 0
}

/// In a forked child: the slot belongs to the parent.
pub fn forget() {
    let thread = thread();
    thread.slot.set(std::ptr::null());
    thread.crowd_depth.set(0);
    thread.crowd_calls.set(0);
    thread.passed_by.set(0);
}
