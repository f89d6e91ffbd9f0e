//! libaio. A write is noted when its completion is fetched, before the caller sees the event: only then is it known that, and how much, was written.
//!
//! Between submission and completion the kernel works on the file with no thread in a call. So that a grace period can wait for that too, a write
//! that is submitted while capturing is entered in the rendezvous' table of asynchronous writes, before the kernel gets it.
//!
//! Waiting for events blocks: it is not registered, and the mode is looked at when there are some. A write that was submitted in Idle and completes
//! in a session is noted like any other, and an entry in the table is cleared in whatever mode the completion comes.
//!
//! Destroying a context waits for what is in flight, and nobody ever sees its events: the files of the context's claims are suspect, and the claims are released.
//! Of what was submitted in Idle there are no claims; a session in which such a context is destroyed is lost.
//!
//! A file may lose its last name, and once the kernel is done with the write, its inode be another file's by the time the event is fetched. Bytes would then go into that
//! one's copy, so such a write makes suspect what has the inode.
//!
//! The system calls are made directly. libaio itself need not be there.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use engine::capture_log::layout::{AIO_SLOT_COUNT, AIO_SLOTS_OFFSET, AioSlot, Rendezvous};
use engine::capture_log::{FileId, LostReason};
use libc::{c_int, c_long, c_void, iovec, timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::caller_memory::{each_part, peek};
use crate::capture::{Buffers, Capture, named_file, open_flags, recorded, stat};
use crate::inflight::Call;
use crate::lifecycle;
use crate::real::{self, errno, set_errno};

#[allow(
    non_camel_case_types,
    non_upper_case_globals,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod header {
    include!(env!("HOTMIRROR_BINDINGS"));
}
use header::{io_event, io_iocb_cmd_IO_CMD_PWRITE, io_iocb_cmd_IO_CMD_PWRITEV, iocb};

/// libc's crate does not have it on all architectures.
pub const SYS_IO_PGETEVENTS: c_long = header::__NR_io_pgetevents as c_long;

/// Slots looked at before the table counts as full.
const PROBES: usize = 64;

/// Claims not yet released: without any, a completion need not look for one.
static CLAIMED: AtomicUsize = AtomicUsize::new(0);

/// What each claim in the table is for, learned when the write is submitted: by its completion the descriptor may be closed, and stand for another file, and the kernel
/// has copied what describes the write, so that the program may have put something else there. The context is written last, and the others count only while it is there.
static CLAIMS: [Claim; AIO_SLOT_COUNT] = [const { Claim::new() }; AIO_SLOT_COUNT];

/// More buffers of one write than these are not kept.
const PARTS_MAX: usize = 8;
const AT_THE_END: u64 = u64::MAX;

struct Claim {
    /// 0 while the others are another write's.
    context: AtomicU64,
    /// What the program tells the write by, if it has several under way with one control block.
    data: AtomicU64,
    device: AtomicU64,
    inode: AtomicU64,
    offset: AtomicU64,
    part_count: AtomicU64,
    /// Address and length of each.
    parts: [[AtomicU64; 2]; PARTS_MAX],
    /// The file has lost a name, or has none: by the time of the completion the inode may be another's. Also set while the others are not yet.
    unnamed: AtomicBool,
}

/// A write as the kernel takes it.
#[derive(Clone, Copy)]
struct Submitted {
    file: FileId,
    /// None if it goes to the end of the file.
    offset: Option<u64>,
    parts: [iovec; PARTS_MAX],
    /// 0 if they are not known.
    part_count: usize,
}

const NO_PART: iovec = iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

impl Submitted {
    fn of(iocb: &iocb, file: FileId) -> Submitted {
        // SAFETY: a write's arguments are in this member of the union; for a vector the member of the other name has the same layout.
        let arguments = unsafe { &iocb.u.c };
        let appends = iocb.aio_rw_flags as c_int & libc::RWF_APPEND != 0
            || open_flags(iocb.aio_fildes as c_int).contains(OFlags::APPEND);
        let mut write = Submitted {
            file,
            offset: u64::try_from(arguments.offset).ok().filter(|_| !appends),
            parts: [NO_PART; PARTS_MAX],
            part_count: 0,
        };
        let len = arguments.nbytes as usize;
        if iocb.aio_lio_opcode as u32 == io_iocb_cmd_IO_CMD_PWRITE {
            write.parts[0] = iovec {
                iov_base: arguments.buf,
                iov_len: len,
            };
            write.part_count = 1;
            return write;
        }
        let mut room = write.parts.iter_mut();
        let all = each_part(arguments.buf.cast(), len, |part| {
            *room.next()? = *part;
            Some(())
        });
        write.part_count = all.map_or(0, |()| len);
        write
    }
}

impl Claim {
    const fn new() -> Claim {
        Claim {
            context: AtomicU64::new(0),
            data: AtomicU64::new(0),
            device: AtomicU64::new(0),
            inode: AtomicU64::new(0),
            offset: AtomicU64::new(0),
            part_count: AtomicU64::new(0),
            parts: [const { [AtomicU64::new(0), AtomicU64::new(0)] }; PARTS_MAX],
            unnamed: AtomicBool::new(false),
        }
    }

    fn set(&self, context: u64, data: u64, write: &Submitted) {
        self.data.store(data, Ordering::Relaxed);
        self.device.store(write.file.device, Ordering::Relaxed);
        self.inode.store(write.file.inode, Ordering::Relaxed);
        self.offset
            .store(write.offset.unwrap_or(AT_THE_END), Ordering::Relaxed);
        self.part_count
            .store(write.part_count as u64, Ordering::Relaxed);
        let parts = self.parts.iter().zip(&write.parts);
        for ([address, len], part) in parts.take(write.part_count) {
            address.store(part.iov_base as u64, Ordering::Relaxed);
            len.store(part.iov_len as u64, Ordering::Relaxed);
        }
        // Pairs with the acquire in `is_of`: whoever takes the slot for a write's finds that write.
        self.context.store(context, Ordering::Release);
    }

    /// True if it is for the write with this data; of two that only their data tells apart, the other's may be about to be set.
    fn is_of(&self, data: u64) -> bool {
        self.context.load(Ordering::Acquire) != 0 && self.data.load(Ordering::Relaxed) == data
    }

    fn file(&self) -> FileId {
        FileId {
            device: self.device.load(Ordering::Relaxed),
            inode: self.inode.load(Ordering::Relaxed),
        }
    }

    fn get(&self) -> Submitted {
        let offset = self.offset.load(Ordering::Relaxed);
        let mut write = Submitted {
            file: self.file(),
            offset: Some(offset).filter(|offset| *offset != AT_THE_END),
            parts: [NO_PART; PARTS_MAX],
            part_count: self.part_count.load(Ordering::Relaxed) as usize,
        };
        let parts = write.parts.iter_mut().zip(&self.parts);
        for (part, [address, len]) in parts.take(write.part_count) {
            part.iov_base = address.load(Ordering::Relaxed) as *mut c_void;
            part.iov_len = len.load(Ordering::Relaxed) as usize;
        }
        write
    }
}

fn table(rendezvous: &'static Rendezvous) -> &'static [AioSlot] {
    let base = std::ptr::from_ref(rendezvous).cast::<u8>();
    // SAFETY: the mapping that the rendezvous is the first page of holds the table at this offset.
    let slots = unsafe { base.add(AIO_SLOTS_OFFSET) }.cast::<AioSlot>();
    // SAFETY: as above; the slots are atomics, and the mapping stays for good.
    unsafe { std::slice::from_raw_parts(slots, AIO_SLOT_COUNT) }
}

fn candidates(
    rendezvous: &'static Rendezvous,
    iocb: u64,
) -> impl Iterator<Item = (&'static AioSlot, &'static Claim)> {
    let start = AioSlot::start(iocb, AIO_SLOT_COUNT);
    let slots = table(rendezvous).iter().zip(&CLAIMS);
    slots.cycle().skip(start).take(PROBES)
}

/// Claims a slot for a write, and then looks what it is for. If it can't, why the session is lost.
fn claim(
    rendezvous: &'static Rendezvous,
    context: u64,
    (iocb, data): (u64, u64),
    describe: impl FnOnce(&Claim) -> Submitted,
) -> Result<(), LostReason> {
    if find(rendezvous, iocb, data).is_some() {
        return Err(LostReason::AioReused);
    }
    CLAIMED.fetch_add(1, Ordering::Relaxed);
    let mut candidates = candidates(rendezvous, iocb);
    let Some((_, claimed)) = candidates.find(|(slot, _)| slot.claim(iocb)) else {
        CLAIMED.fetch_sub(1, Ordering::Relaxed);
        return Err(LostReason::AioTableFull);
    };
    // With the one in `unnamed`: either that finds the slot taken, or the look finds the name gone.
    fence(Ordering::SeqCst);
    claimed.set(context, data, &describe(claimed));
    Ok(())
}

/// The claim of a write that is under way.
fn find(
    rendezvous: &'static Rendezvous,
    iocb: u64,
    data: u64,
) -> Option<(&'static AioSlot, &'static Claim)> {
    if CLAIMED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let mut candidates = candidates(rendezvous, iocb);
    candidates.find(|(slot, claim)| slot.is_held_by(iocb) && claim.is_of(data))
}

fn release(slot: &AioSlot, claim: &Claim, iocb: u64) {
    // Before the slot is free for the next claim.
    claim.context.store(0, Ordering::Relaxed);
    claim.unnamed.store(false, Ordering::Relaxed);
    if slot.release(iocb) {
        CLAIMED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// In a forked child: the claims and the contexts are the parent's.
pub fn forget() {
    CLAIMED.store(0, Ordering::Relaxed);
    for slot in &UNTRACKED {
        slot.store(0, Ordering::Relaxed);
    }
    UNTRACKED_CROWD.store(false, Ordering::Relaxed);
}

/// Contexts to which something was submitted in Idle: what of it is in flight is not known. A server has a few dozen.
static UNTRACKED: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
const UNTRACKED_PROBES: usize = 16;
/// A context found no room.
static UNTRACKED_CROWD: AtomicBool = AtomicBool::new(false);

fn untracked(context: u64) -> impl Iterator<Item = &'static AtomicU64> {
    // Contexts are addresses of pages.
    let start = (context >> 12) as usize % UNTRACKED.len();
    let slots = UNTRACKED.iter().cycle();
    slots.skip(start).take(UNTRACKED_PROBES)
}

#[inline]
fn leave_untracked(context: u64) {
    let known = untracked(context).any(|slot| {
        slot.load(Ordering::Relaxed) == context
            || slot
                .compare_exchange(0, context, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    });
    if !known {
        UNTRACKED_CROWD.store(true, Ordering::Relaxed);
    }
}

fn take_untracked(context: u64) -> bool {
    let take = |slot: &AtomicU64| {
        slot.compare_exchange(context, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    };
    let count = untracked(context).filter(|slot| take(slot)).count();
    count > 0 || UNTRACKED_CROWD.load(Ordering::Relaxed)
}

fn is_write(iocb: &iocb) -> bool {
    let command = iocb.aio_lio_opcode as u32;
    command == io_iocb_cmd_IO_CMD_PWRITE || command == io_iocb_cmd_IO_CMD_PWRITEV
}

/// The writes among iocbs `from..to` of a submission, each by the address of its control block and the program's own data, up to the first that can't be read: the kernel
/// goes no further either.
fn each_write(
    iocbs: *const *const iocb,
    from: usize,
    to: usize,
    mut visit: impl FnMut((u64, u64), &iocb),
) {
    for index in from..to {
        // SAFETY: a pointer is valid whatever its bytes.
        let Some(address) = (unsafe { peek(iocbs.wrapping_add(index)) }) else {
            return;
        };
        // SAFETY: an iocb is numbers and pointers.
        let Some(iocb) = (unsafe { peek(address) }) else {
            return;
        };
        if is_write(&iocb) {
            visit((address as u64, iocb.data as u64), &iocb);
        }
    }
}

/// io_submit; `real` gives the number of iocbs that the kernel took, or something negative.
pub fn submitted(
    context: c_long,
    count: c_long,
    iocbs: *const *const iocb,
    real: impl FnOnce() -> c_long,
) -> c_long {
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        leave_untracked(context as u64);
        return real();
    }
    recorded(&call, -1, real, |capture, real| {
        let rendezvous = call.rendezvous();
        let count = usize::try_from(count).unwrap_or(0);
        each_write(iocbs, 0, count, |write, iocb| {
            let describe = |claim: &Claim| {
                let found = capture.told(named_file(iocb.aio_fildes as c_int));
                // Whether the session watches it or not: another may be on when it completes. A default one is watched by none.
                let (file, names) = found.unwrap_or_default();
                if names == 0 {
                    claim.unnamed.store(true, Ordering::Relaxed);
                }
                Submitted::of(iocb, file)
            };
            if let Err(reason) = claim(rendezvous, context as u64, write, describe) {
                capture.lose_to(reason, AIO_SLOT_COUNT as u64);
            }
        });
        let taken = real
            .run()
            .and_then(|taken| usize::try_from(taken).ok())
            .unwrap_or(0);
        each_write(iocbs, taken.min(count), count, |(iocb, data), _| {
            if let Some((slot, claim)) = find(rendezvous, iocb, data) {
                release(slot, claim, iocb);
            }
        });
    })
}

/// Set in the context of claims while it is being destroyed.
const ENDING: u64 = 1;

/// io_destroy; `real` gives 0 or something negative. It may wait, so it is not registered.
pub fn destroyed(context: c_long, real: impl FnOnce() -> c_long) -> c_long {
    let Some(rendezvous) = lifecycle::live() else {
        return real();
    };
    let context = context as u64;
    // Before the call: after it, the kernel may give the number to another context.
    let untracked = take_untracked(context);
    for (_, claim, _) in claims(rendezvous, context) {
        // Unless it has completed since, and the slot is another's.
        let (relaxed, ending) = (Ordering::Relaxed, context | ENDING);
        let _ = claim
            .context
            .compare_exchange(context, ending, relaxed, relaxed);
    }
    let result = real();
    if result == 0 {
        note_destroyed(context, untracked);
    } else if untracked {
        leave_untracked(context);
    }
    result
}

/// All claims: slot, claim, control block.
fn holders(
    rendezvous: &'static Rendezvous,
) -> impl Iterator<Item = (&'static AioSlot, &'static Claim, u64)> {
    let any = CLAIMED.load(Ordering::Relaxed) != 0;
    let slots = table(rendezvous).iter().zip(&CLAIMS).filter(move |_| any);
    slots.filter_map(|(slot, claim)| Some((slot, claim, slot.holder()?)))
}

/// Those of a context.
fn claims(
    rendezvous: &'static Rendezvous,
    context: u64,
) -> impl Iterator<Item = (&'static AioSlot, &'static Claim, u64)> {
    holders(rendezvous)
        .filter(move |(_, claim, _)| claim.context.load(Ordering::Acquire) == context)
}

/// `file` has lost a name, and the lock of the names is held, so that no other has got its inode.
pub fn unnamed(capture: &Capture<'_>, file: FileId) {
    let Some(rendezvous) = lifecycle::live() else {
        return;
    };
    fence(Ordering::SeqCst);
    let concerned = || {
        holders(rendezvous)
            .map(|(_, claim, _)| claim)
            .filter(|claim| {
                // One that is being described may be for any file.
                claim.context.load(Ordering::Acquire) == 0 || claim.file() == file
            })
    };
    if concerned().next().is_none() {
        return;
    }
    // Whoever has found the file named has then appended.
    let _held = capture.hold_whole(file);
    for claim in concerned() {
        claim.unnamed.store(true, Ordering::Relaxed);
    }
}

#[cold]
fn note_destroyed(context: u64, untracked: bool) {
    let Some(call) = Call::enter() else { return };
    let ending = || claims(call.rendezvous(), context | ENDING);
    if !call.idle() {
        recorded(
            &call,
            (),
            || (),
            |capture, _| {
                if untracked {
                    capture.lose_to(LostReason::AioContextDestroyed, 0);
                }
                // Whether they were done, and how much of them, nobody knows.
                for file in ending().map(|(_, claim, _)| claim.file()) {
                    if capture.watches(file) {
                        capture.opaque(file);
                    }
                }
            },
        );
    }
    for (slot, claim, iocb) in ending() {
        release(slot, claim, iocb);
    }
}

/// io_getevents; `real` gives the number of events, or something negative.
///
/// # Safety
/// `events` has room for what `real` gives.
pub unsafe fn completed(events: *const io_event, real: impl FnOnce() -> c_long) -> c_long {
    let count = real();
    if count > 0 && lifecycle::live().is_some() {
        // SAFETY: the caller's word: the kernel has just filled them in.
        note_events(unsafe { std::slice::from_raw_parts(events, count as usize) });
    }
    count
}

fn note_events(events: &[io_event]) {
    let Some(call) = Call::enter() else { return };
    let claimed = |event: &io_event| find(call.rendezvous(), event.obj as u64, event.data as u64);
    if call.idle() && CLAIMED.load(Ordering::Relaxed) == 0 {
        return;
    }
    if !call.idle() {
        recorded(
            &call,
            (),
            || (),
            |capture, _| {
                for event in events {
                    let claim = claimed(event).map(|(_, claim)| claim);
                    let write = match claim {
                        Some(claim) => Some(claim.get()),
                        None => unclaimed(capture, event.obj),
                    };
                    match (write, event.res as i64) {
                        (Some(write), len @ 1..) => {
                            note_written(capture, &write, claim, len as u64);
                        }
                        (Some(write), errno @ ..=-1) if capture.watches(write.file) => {
                            capture.failed(write.file, -errno as c_int);
                        }
                        _ => {}
                    }
                }
            },
        );
    }
    for event in events {
        if let Some((slot, claim)) = claimed(event) {
            release(slot, claim, event.obj as u64);
        }
    }
}

/// A write that was submitted in Idle, as far as what describes it is still there. Once its descriptor is closed nothing tells its file, and the session is lost.
fn unclaimed(capture: &Capture<'_>, iocb: *const iocb) -> Option<Submitted> {
    // SAFETY: an iocb is numbers and pointers.
    let iocb = unsafe { peek(iocb) }.filter(is_write)?;
    let open = stat(iocb.aio_fildes as c_int).and_then(|stat| stat.ok_or(Errno::BADF));
    let stat = capture.told(open.map(Some))?;
    Some(Submitted::of(&iocb, capture.identify(&stat)?))
}

fn note_written(capture: &Capture<'_>, write: &Submitted, claim: Option<&Claim>, len: u64) {
    if !capture.watches(write.file) {
        return;
    }
    let Some(offset) = write.offset else {
        return capture.opaque(write.file);
    };
    let _held = capture.hold_range(write.file, offset, Some(len));
    // In a signal handler no lock was taken. Without a claim the descriptor may be another file's by now.
    let is_sure = || {
        write.part_count > 0
            && !capture.nested()
            && claim.is_some_and(|claim| !claim.unnamed.load(Ordering::Relaxed))
    };
    if capture.payload() && !is_sure() {
        return capture.opaque(write.file);
    }
    let buffers = Buffers::Many(write.parts.as_ptr(), write.part_count);
    capture.written(write.file, offset, len, buffers);
}

/// A system call as libaio makes it: the negative errno is the result, and errno itself stays.
unsafe fn as_libaio(number: c_long, args: [c_long; 6]) -> c_long {
    let before = errno();
    // SAFETY: the caller's word.
    let result = unsafe { real::syscall(number, args) };
    let failure = errno();
    set_errno(before);
    if result < 0 {
        -c_long::from(failure)
    } else {
        result
    }
}

optional_hooks! {
    io_submit = c"io_submit":
    (context: c_long, count: c_long, iocbs: *const *const iocb) -> c_int, |_real| {
        let args = [context, count, iocbs as c_long, 0, 0, 0];
        // SAFETY: the caller's arguments, unchanged.
        submitted(context, count, iocbs, || unsafe { as_libaio(libc::SYS_io_submit, args) }) as c_int
    }

    // libaio's other name for it does not go through this one.
    io_destroy = c"io_destroy":
    (context: c_long) -> c_int, |_real| {
        let args = [context, 0, 0, 0, 0, 0];
        // SAFETY: the caller's argument, unchanged.
        destroyed(context, || unsafe { as_libaio(libc::SYS_io_destroy, args) }) as c_int
    }

    io_queue_release = c"io_queue_release":
    (context: c_long) -> c_int, |_real| {
        let args = [context, 0, 0, 0, 0, 0];
        // SAFETY: the caller's argument, unchanged.
        destroyed(context, || unsafe { as_libaio(libc::SYS_io_destroy, args) }) as c_int
    }

    io_getevents = c"io_getevents":
    (context: c_long, min: c_long, max: c_long, events: *mut io_event, timeout: *mut timespec) -> c_int, |_real| {
        let args = [context, min, max, events as c_long, timeout as c_long, 0];
        // SAFETY: the caller's arguments, unchanged.
        unsafe { completed(events, || as_libaio(libc::SYS_io_getevents, args)) as c_int }
    }

    io_pgetevents = c"io_pgetevents":
    (context: c_long, min: c_long, max: c_long, events: *mut io_event, timeout: *mut timespec, mask: *mut libc::sigset_t) -> c_int, |_real| {
        // The kernel wants the mask together with its size.
        let mask = [mask as usize, SIGNAL_COUNT / 8];
        let args = [context, min, max, events as c_long, timeout as c_long, mask.as_ptr() as c_long];
        // SAFETY: the caller's arguments, in the form of the system call.
        unsafe { completed(events, || as_libaio(SYS_IO_PGETEVENTS, args)) as c_int }
    }
}

const SIGNAL_COUNT: usize = 64;
