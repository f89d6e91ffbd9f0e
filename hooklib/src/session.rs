//! The session that the control word names: its segment, mapped when a hooked call first meets it.
//!
//! Every thread that meets a new session maps it, and one of the mappings is used (`engine::capture_log::current`). So none waits for another that maps, whom the
//! scheduler may have taken the processor from: that was a stall of a whole time slice for all threads of a busy server.
//!
//! The pages of the mapping exist, but the first touch of each is a fault. A write whose record is the first to reach so many of them would stand still for a
//! millisecond, so they are brought in ahead of the tail, a few by each call. That is done by reading one of them: the kernel maps those around it along, which takes no lock
//! of the address space. One that the server holds, to map memory or to give it back, is waited for by whoever asks for pages by a system call.
//!
//! A segment that can't be mapped is refused: the library says so in the rendezvous and switches capture off, and the controller sees both.

use std::sync::atomic::{AtomicUsize, Ordering, fence};

use engine::capture_log::current::{Current, Published};
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
use crate::path::PathBuffer;
use crate::rendezvous;

/// What one call brings in: as much as the kernel maps at one fault unless it is told otherwise (fault_around_bytes).
const BRING_IN_LEN: usize = 64 << 10;

/// A mapped session, in a page of its own. Everything is copied from the segment once, after it was checked.
pub struct Mapped {
    session: u64,
    /// The segment: a page of header, then the ring.
    base: *mut u8,
    capacity: usize,
    device_count: usize,
    devices: [u64; DEVICE_COUNT_MAX],
    /// Bytes of the ring that some call has brought in, or has begun to.
    brought_in: AtomicUsize,
}

const _: () = assert!(size_of::<Mapped>() <= PAGE_SIZE);

static CURRENT: Current<Mapped> = Current::new();

/// How often a thread lets others go before it maps in any case: nothing here is worth standing still for.
const TURNS_MAX: u32 = 1000;
/// Of threads that map a session at the same time: the most as a rule, and how many there are.
const MAPPERS_MAX: usize = 4;
static MAPPERS: AtomicUsize = AtomicUsize::new(0);

pub type Writer = LogWriter<'static, MappedRing>;

/// The session that the call has seen; None if there is none, or none that can be used.
pub fn of(call: &Call) -> Option<&Mapped> {
    if call.idle() {
        return None;
    }
    let session = call.control().session();
    match current(session) {
        Ok(mapped) => Some(mapped),
        Err(found) => map(call, session, found),
    }
}

/// `session`, if it is mapped; else the pointer that is found in its place. For a registered call of that session.
fn current(session: u64) -> Result<&'static Mapped, *mut Mapped> {
    let found = CURRENT.get();
    // SAFETY: null, or a description that may be looked at while the call is registered.
    let mapped = unsafe { found.as_ref() };
    mapped
        .filter(|mapped| mapped.session == session)
        .ok_or(found)
}

impl Mapped {
    /// The log. Only for as long as a call of this session is registered.
    pub fn writer(&self) -> Writer {
        // SAFETY: mapped, checked to hold a header, and not unmapped before a grace period has seen this call end.
        let header = unsafe { &*self.base.cast::<SegmentHeader>() };
        // SAFETY: the mapping is longer than the header's page.
        let ring = unsafe { self.base.add(RING_OFFSET) };
        if self.brought_in.load(Ordering::Relaxed) < self.capacity {
            self.bring_in(ring);
        }
        // SAFETY: `Mapped::of_file` saw that the file, every page reserved, holds `capacity` bytes behind the header.
        let ring = unsafe { MappedRing::new(ring, self.capacity) };
        LogWriter::new(header, ring)
    }

    /// True if the session watches `device`.
    pub fn watches(&self, device: u64) -> bool {
        let mut devices = self.devices.iter().take(self.device_count);
        devices.any(|watched| *watched == device)
    }

    /// Brings in the next pages of the ring.
    #[cold]
    fn bring_in(&self, ring: *mut u8) {
        let at = self.brought_in.fetch_add(BRING_IN_LEN, Ordering::Relaxed);
        if at < self.capacity {
            // SAFETY: inside the mapping, which stays while this call is registered; whatever the byte is by then, it is not used.
            let _ = unsafe { ring.wrapping_add(at).read_volatile() };
        }
    }

    fn of_segment(rendezvous: &Rendezvous, session: u64) -> Result<*mut Mapped, Errno> {
        // The control word named the session, and was loaded relaxed: what was written before it is visible from here on.
        fence(Ordering::Acquire);
        let mut name = [0u8; NAME_LEN];
        for (bytes, word) in name.chunks_exact_mut(8).zip(&rendezvous.session_name) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        // A plain file name of ours, nothing that leads out of the directory.
        if !name.starts_with(b"hotmirror.") || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        let mut path = PathBuffer::new();
        rendezvous::push_path_of(name, &mut path).ok_or(Errno::NAMETOOLONG)?;
        let owner = rustix::process::geteuid().as_raw();
        let len_min = (RING_OFFSET + PAGE_SIZE) as u64;
        let (file, stat) = shm::open_trusted(path.as_c_str(), owner, len_min)?;
        Mapped::of_file(&file, &stat, session)
    }

    /// In a page of its own from the start: a server's stack may be nearly used up.
    fn of_file(file: impl AsFd, stat: &Stat, session: u64) -> Result<*mut Mapped, Errno> {
        let len = usize::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
        let base = shm::map(file, len)?;
        // SAFETY: the mapping is at least two pages long.
        let header = unsafe { &*base.cast::<SegmentHeader>() };
        let capacity = check(header, session, len).inspect_err(|_| {
            // SAFETY: mapped above, not published, and not looked at again.
            unsafe { shm::unmap(base, len) };
        })?;
        let device_count = header.device_count.load(Ordering::Relaxed) as usize;
        let page = shm::map_private(PAGE_SIZE).inspect_err(|_| {
            // SAFETY: as above.
            unsafe { shm::unmap(base, len) };
        })?;
        let page = page.cast::<Mapped>();
        // SAFETY: a page is long enough for it, aligned, and all zero, which all of the fields may be; nobody else knows of it.
        let mapped = unsafe { &mut *page };
        mapped.session = session;
        mapped.base = base;
        mapped.capacity = capacity;
        mapped.device_count = device_count.min(DEVICE_COUNT_MAX);
        for (to, from) in mapped.devices.iter_mut().zip(&header.devices) {
            *to = from.load(Ordering::Relaxed);
        }
        Ok(page)
    }

    /// # Safety
    /// Nobody uses the segment through this mapping.
    unsafe fn unmap(&self) {
        // SAFETY: the caller's word.
        unsafe { shm::unmap(self.base, RING_OFFSET + self.capacity) };
    }
}

/// One of the threads that map at the same time. Five hundred would take as many descriptors, of which the server may have few left.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let one_more = |count: usize| (count < MAPPERS_MAX).then_some(count.wrapping_add(1));
        let taken = MAPPERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        // Not made unless it was taken: it is given back when it is dropped.
        taken.is_ok().then(|| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        MAPPERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `found`: the pointer that did not lead to this session.
#[cold]
fn map(call: &Call, session: u64, mut found: *mut Mapped) -> Option<&'static Mapped> {
    // Closing a file is a cancellation point.
    let _deferred = Deferred::new();
    let mut place = Place::take();
    let mut turns = 0;
    // A nested call may have interrupted one that maps.
    while place.is_none() && !call.nested() && turns < TURNS_MAX {
        turns = turns.wrapping_add(1);
        std::thread::yield_now();
        match current(session) {
            Ok(mapped) => return Some(mapped),
            Err(now) => found = now,
        }
        place = Place::take();
    }
    let mapped = Mapped::of_segment(call.rendezvous(), session);
    match mapped.and_then(|mapped| publish(mapped, found)) {
        Ok(mapped) => Some(mapped),
        Err(errno) => {
            refuse(call, errno);
            None
        }
    }
}

/// Maps the segment of a session before any call can see that session.
#[cfg(feature = "embedded")]
pub fn adopt(session: u64, segment: &std::fs::File) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(segment)?;
    let mapped = Mapped::of_file(segment, &stat, session)?;
    publish(mapped, CURRENT.get()).map(drop)
}

/// Makes what `Mapped::of_file` gave the current session in place of `before`, unless another thread has done that meanwhile. Gives the one that is current then.
fn publish(page: *mut Mapped, before: *mut Mapped) -> Result<&'static Mapped, Errno> {
    let current = match CURRENT.publish(before, page) {
        Published::Ours { before, earlier } => {
            // SAFETY: null, or a description that this call may still look at.
            if let Some(before) = unsafe { before.as_ref() } {
                // SAFETY: no call of its session is left.
                unsafe { before.unmap() };
            }
            if !earlier.is_null() {
                // SAFETY: nobody looks at it any more.
                unsafe { shm::unmap(earlier.cast(), PAGE_SIZE) };
            }
            page
        }
        Published::Theirs(theirs) => {
            // SAFETY: nobody else has seen the page or the mapping in it.
            unsafe {
                (*page).unmap();
                shm::unmap(page.cast(), PAGE_SIZE);
            }
            theirs
        }
    };
    // SAFETY: written before it was published, and there while calls of this session are.
    Ok(unsafe { &*current })
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
    if let Some(session) = of(call) {
        let writer = session.writer();
        writer.lose(LostReason::Unidentified, detail.raw_os_error() as u64);
        switch_off(call.rendezvous(), call.control().session());
    }
}

/// In a forked child: the log is the parent's. True if the parent ever had one.
pub fn forget() -> bool {
    let had_session = !CURRENT.get().is_null();
    CURRENT.forget();
    MAPPERS.store(0, Ordering::Relaxed);
    had_session
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_not_taken_is_not_given_back() {
        let places = [(); MAPPERS_MAX].map(|()| Place::take());
        assert!(places.iter().all(Option::is_some));
        assert!(Place::take().is_none() && Place::take().is_none());
        drop(places);
        assert_eq!(MAPPERS.load(Ordering::Relaxed), 0);
    }
}
