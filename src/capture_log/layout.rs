//! The bytes of the two files in shared memory through which the library and the controller meet.
//!
//! ```text
//! hotmirror.<pid>              made by the library when the server starts, kept for its whole life
//!   page 0      Rendezvous: who this is, and the control word that every hooked call loads
//!   then        FlightSlot × slot_count: which threads are inside a hooked call
//!   then        AioSlot × aio_slot_count: which asynchronous writes the kernel still works on
//!
//! hotmirror.<pid>.<session>    made by the controller for one session, 0600, every page reserved beforehand
//!   page 0      SegmentHeader: devices to watch, tail, head, lost
//!   then        the ring, `capacity` bytes
//! ```
//!
//! Either side may die at any moment. What the other one then sees: a rendezvous whose process is gone (removed by the next
//! controller), or a control word that is not idle with nobody who reads (the ring fills, the library marks the session
//! lost and turns capture off; `hotmirror recover` does the same at once).
//!
//! Neither side trusts the other: every field that the other side can write is read once, checked, and then used.

use super::sync::{AtomicU32, AtomicU64};

/// Changes with every change to this file or to the records.
pub const PROTOCOL_VERSION: u32 = 1;

/// "HOTMIRRV" and "HOTMIRSG" as little-endian words.
pub const RENDEZVOUS_MAGIC: u64 = u64::from_le_bytes(*b"HOTMIRRV");
pub const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"HOTMIRSG");

pub const PAGE_SIZE: usize = 4096;

/// One slot per thread that was ever inside a hooked call and still lives.
pub const FLIGHT_SLOT_COUNT: usize = 16_384;

/// InnoDB keeps at most 64 write threads × 256 requests in the air.
pub const AIO_SLOT_COUNT: usize = 16_384;

pub const DEVICE_COUNT_MAX: usize = 32;

pub const NAME_LEN: usize = 64;

/// First page of `hotmirror.<pid>`.
#[repr(C, align(64))]
pub struct Rendezvous {
    /// [`RENDEZVOUS_MAGIC`], stored last, with release: a reader that sees it sees the rest.
    pub magic: AtomicU64,
    pub protocol: AtomicU32,
    pub pid: AtomicU32,
    /// Field 22 of /proc/<pid>/stat: tells a process from a later one with its pid.
    pub start_time_ticks: AtomicU64,
    /// 1 if the process registered for `MEMBARRIER_CMD_GLOBAL_EXPEDITED`; 0 if its hooks fence themselves.
    pub membarrier: AtomicU32,
    pub slot_count: AtomicU32,
    pub aio_slot_count: AtomicU32,
    _reserved: AtomicU32,
    /// Version of the library, NUL-padded.
    pub library_version: [u8; NAME_LEN],
    /// The word that every hooked call loads; on a cache line of its own. See [`super::control`].
    pub control: ControlLine,
    /// File name of the session's segment, NUL-padded; written by the controller before `control` names the session.
    pub session_name: [AtomicU64; NAME_LEN / 8],
    /// Session id that the library could not map, and the errno of its try.
    pub refused_session: AtomicU64,
    pub refused_errno: AtomicU32,
    /// Registrations that found no free slot: a shared counter of calls in flight.
    pub crowd: AtomicU32,
}

#[repr(C, align(64))]
pub struct ControlLine {
    pub word: AtomicU64,
}

/// One thread's registration; see [`super::grace`].
#[derive(Default)]
#[repr(C, align(64))]
pub struct FlightSlot {
    /// Odd while the thread is inside a hooked call.
    pub sequence: AtomicU64,
    /// Thread id of the owner, 0 if free. A dead owner's slot may be taken.
    pub owner_tid: AtomicU32,
    _reserved: AtomicU32,
}

/// One asynchronous write: (address of the iocb << 16) | tag; address 0 is free.
#[derive(Default)]
#[repr(C)]
pub struct AioSlot {
    pub word: AtomicU64,
}

/// First page of `hotmirror.<pid>.<session>`.
#[derive(Default)]
#[repr(C, align(64))]
pub struct SegmentHeader {
    /// [`SEGMENT_MAGIC`], stored last by the controller.
    pub magic: AtomicU64,
    pub protocol: AtomicU32,
    pub device_count: AtomicU32,
    pub session: AtomicU64,
    /// Bytes of the ring, a multiple of [`PAGE_SIZE`].
    pub capacity: AtomicU64,
    pub devices: [AtomicU64; DEVICE_COUNT_MAX],
    pub tail: Cursor,
    pub head: Cursor,
    pub lost: LostLine,
}

/// A byte position in the endless log; the ring holds position modulo capacity.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Cursor {
    pub position: AtomicU64,
}

#[derive(Default)]
#[repr(C, align(64))]
pub struct LostLine {
    /// A [`super::LostReason`] as number, 0 while nothing is lost. Set once.
    pub reason: AtomicU32,
    _reserved: AtomicU32,
    /// What the reason names: bytes that found no room, errno…
    pub detail: AtomicU64,
}

pub const FLIGHT_SLOTS_OFFSET: usize = PAGE_SIZE;
pub const AIO_SLOTS_OFFSET: usize =
    FLIGHT_SLOTS_OFFSET + FLIGHT_SLOT_COUNT * size_of::<FlightSlot>();
pub const RENDEZVOUS_LEN: usize = AIO_SLOTS_OFFSET + AIO_SLOT_COUNT * size_of::<AioSlot>();
pub const RING_OFFSET: usize = PAGE_SIZE;

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Rendezvous>() <= PAGE_SIZE);
    assert!(size_of::<SegmentHeader>() <= PAGE_SIZE);
    assert!(size_of::<FlightSlot>() == 64);
    assert!(RENDEZVOUS_LEN.is_multiple_of(PAGE_SIZE));
};
