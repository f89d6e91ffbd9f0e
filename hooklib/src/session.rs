//! The session that the control word names: its segment, mapped when a hooked call first meets it.
//!
//! One session is mapped at a time. The previous one's mapping is taken away when the next is mapped: by then nobody uses it, because a
//! controller starts a session only after a grace period in Idle.
//!
//! The pages of the mapping exist, but the first touch of each is a fault. A write whose record is the first to reach so many of them would stand still for a
//! millisecond, so they are brought in ahead of the tail, a few by each call. That is done by reading one of them: the kernel maps those around it along, which takes no lock
//! of the address space. One that the server holds, to map memory or to give it back, is waited for by whoever asks for pages by a system call.
//!
//! A segment that can't be mapped is refused: the library says so in the rendezvous and switches capture off, and the controller sees both.

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use engine::capture_log::layout::{
    DEVICE_COUNT_MAX, NAME_LEN, PAGE_SIZE, PROTOCOL_VERSION, RING_OFFSET, Rendezvous,
    SEGMENT_MAGIC, SegmentHeader,
};
use engine::capture_log::memory::MappedRing;
use engine::capture_log::ring::LogWriter;
use engine::capture_log::{Control, LostReason, shm};
use rustix::fd::AsFd;
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::cancellation::Deferred;
use crate::inflight::Call;
use crate::{locks, rendezvous};

/// What one call brings in: as much as the kernel maps at one fault unless it is told otherwise (fault_around_bytes).
const BRING_IN_LEN: usize = 64 << 10;

/// The mapped session. Everything is copied from the segment once, after it was checked.
struct Mapped {
    /// 0 while none is mapped; stored last.
    session: AtomicU64,
    base: AtomicPtr<u8>,
    capacity: AtomicUsize,
    /// Bytes of the ring that some call has brought in, or has begun to.
    brought_in: AtomicUsize,
    device_count: AtomicUsize,
    devices: [AtomicU64; DEVICE_COUNT_MAX],
}

static MAPPED: Mapped = Mapped {
    session: AtomicU64::new(0),
    base: AtomicPtr::new(std::ptr::null_mut()),
    capacity: AtomicUsize::new(0),
    brought_in: AtomicUsize::new(0),
    device_count: AtomicUsize::new(0),
    devices: [const { AtomicU64::new(0) }; DEVICE_COUNT_MAX],
};

pub type Writer = LogWriter<'static, MappedRing>;

/// The log of the session that the call has seen; None if there is none, or none that can be used.
pub fn writer(call: &Call) -> Option<Writer> {
    if call.idle() {
        return None;
    }
    let session = call.control().session();
    // Pairs with the release in `map`.
    if MAPPED.session.load(Ordering::Acquire) != session {
        map(call, session)?;
    }
    let base = MAPPED.base.load(Ordering::Relaxed);
    // SAFETY: mapped, checked to hold a header, and not unmapped before a grace period has seen this call end.
    let header = unsafe { &*base.cast::<SegmentHeader>() };
    // SAFETY: the mapping is longer than the header's page.
    let ring = unsafe { base.add(RING_OFFSET) };
    let capacity = MAPPED.capacity.load(Ordering::Relaxed);
    if MAPPED.brought_in.load(Ordering::Relaxed) < capacity {
        bring_in(ring, capacity);
    }
    // SAFETY: `map` saw that the file, every page reserved, holds `capacity` bytes behind the header.
    let ring = unsafe { MappedRing::new(ring, capacity) };
    Some(LogWriter::new(header, ring))
}

/// Brings in the next pages of the ring.
#[cold]
fn bring_in(ring: *mut u8, capacity: usize) {
    let at = MAPPED.brought_in.fetch_add(BRING_IN_LEN, Ordering::Relaxed);
    if at < capacity {
        // SAFETY: inside the mapping, which stays while this call is registered; whatever the byte is by then, it is not used.
        let _ = unsafe { ring.wrapping_add(at).read_volatile() };
    }
}

/// True if the mapped session watches `device`.
pub fn watches(device: u64) -> bool {
    let count = MAPPED.device_count.load(Ordering::Relaxed);
    MAPPED
        .devices
        .iter()
        .take(count)
        .any(|watched| watched.load(Ordering::Relaxed) == device)
}

#[cold]
fn map(call: &Call, session: u64) -> Option<()> {
    // Closing a file is a cancellation point.
    let _deferred = Deferred::new();
    let Some(_guard) = locks::session(call.nested()) else {
        refuse(call, Errno::DEADLK);
        return None;
    };
    if MAPPED.session.load(Ordering::Acquire) == session {
        return Some(());
    }
    unmap_previous();
    match map_segment(call.rendezvous(), session) {
        Ok(()) => {
            MAPPED.session.store(session, Ordering::Release);
            Some(())
        }
        Err(errno) => {
            refuse(call, errno);
            None
        }
    }
}

/// Maps the segment of a session before any call can see that session.
#[cfg(feature = "embedded")]
pub fn adopt(session: u64, segment: &std::fs::File) -> Result<(), Errno> {
    let _guard = locks::session(false);
    unmap_previous();
    let stat = rustix::fs::fstat(segment)?;
    map_file(segment, &stat, session)?;
    MAPPED.session.store(session, Ordering::Release);
    Ok(())
}

fn unmap_previous() {
    MAPPED.session.store(0, Ordering::Relaxed);
    let old = MAPPED.base.swap(std::ptr::null_mut(), Ordering::Relaxed);
    if !old.is_null() {
        // SAFETY: the session that used it is over, and no call refers to it: see above.
        unsafe { shm::unmap(old, RING_OFFSET + MAPPED.capacity.load(Ordering::Relaxed)) };
    }
}

fn map_segment(rendezvous: &Rendezvous, session: u64) -> Result<(), Errno> {
    let mut name = [0u8; NAME_LEN];
    for (bytes, word) in name.chunks_exact_mut(8).zip(&rendezvous.session_name) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
    // A plain file name of ours, nothing that leads out of the directory.
    if !name.starts_with(b"hotmirror.") || name.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    let path = rendezvous::path_of(name).ok_or(Errno::NAMETOOLONG)?;
    let owner = rustix::process::geteuid().as_raw();
    let (file, stat) = shm::open_trusted(path.as_c_str(), owner, (RING_OFFSET + PAGE_SIZE) as u64)?;
    map_file(&file, &stat, session)
}

fn map_file(file: impl AsFd, stat: &Stat, session: u64) -> Result<(), Errno> {
    let len = usize::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
    let base = shm::map(file, len)?;
    // SAFETY: the mapping is at least two pages long.
    let header = unsafe { &*base.cast::<SegmentHeader>() };
    let checked = check(header, session, len);
    if checked.is_err() {
        // SAFETY: mapped above, and not published.
        unsafe { shm::unmap(base, len) };
    }
    let capacity = checked?;
    let count = (header.device_count.load(Ordering::Relaxed) as usize).min(DEVICE_COUNT_MAX);
    for (to, from) in MAPPED.devices.iter().zip(&header.devices) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    MAPPED.device_count.store(count, Ordering::Relaxed);
    MAPPED.capacity.store(capacity, Ordering::Relaxed);
    MAPPED.brought_in.store(0, Ordering::Relaxed);
    MAPPED.base.store(base, Ordering::Relaxed);
    Ok(())
}

/// The ring's capacity, which fills the file to its end.
fn check(header: &SegmentHeader, session: u64, len: usize) -> Result<usize, Errno> {
    let capacity = header.capacity.load(Ordering::Relaxed) as usize;
    // Pairs with the release with which the controller stores it last.
    let sound = header.magic.load(Ordering::Acquire) == SEGMENT_MAGIC
        && header.protocol.load(Ordering::Relaxed) == PROTOCOL_VERSION
        && header.session.load(Ordering::Relaxed) == session
        && len.checked_sub(RING_OFFSET) == Some(capacity)
        && capacity.is_multiple_of(PAGE_SIZE);
    if sound {
        Ok(capacity)
    } else {
        Err(Errno::BADMSG)
    }
}

fn refuse(call: &Call, errno: Errno) {
    let rendezvous = call.rendezvous();
    rendezvous
        .refused_errno
        .store(errno.raw_os_error() as u32, Ordering::Relaxed);
    // Pairs with the acquire in `Link::refusal`, for the errno.
    rendezvous
        .refused_session
        .store(call.control().session(), Ordering::Release);
    switch_off(rendezvous, call.control().session());
}

/// Switches capture off, in whatever mode the session is by now.
pub fn switch_off(rendezvous: &Rendezvous, session: u64) {
    let word = &rendezvous.control.word;
    let _ = word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |now| {
        (Control(now).session() == session).then_some(Control::IDLE.0)
    });
}

/// A change of this call can't be put into the log: nothing that misses it may become a backup (I3).
pub fn lose(call: &Call, detail: Errno) {
    if let Some(writer) = writer(call) {
        writer.lose(LostReason::Unidentified, detail.raw_os_error() as u64);
        switch_off(call.rendezvous(), call.control().session());
    }
}

/// In a forked child: the log is the parent's.
pub fn forget() {
    MAPPED.session.store(0, Ordering::Relaxed);
    MAPPED.base.store(std::ptr::null_mut(), Ordering::Relaxed);
}
