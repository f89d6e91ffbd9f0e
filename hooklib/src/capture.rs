//! What a hooked call does while a session is on: which files it notes, and how records get into the log.
//!
//! Two ways of making a real call, one for each kind: [`recorded`] for calls on files, which stay registered over the real call, and [`unregistered`] for
//! calls that may block on something else. Both call the real function exactly once, return its result, and keep its errno.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{Ordering, compiler_fence, fence};

use engine::capture_log::{Control, FileId, LostReason, Mode, Record};
use libc::{iovec, ssize_t};
use rustix::fs::{AtFlags, FileType, OFlags, Stat, Statx, StatxFlags};
use rustix::io::Errno;

use crate::bounce::{self, Bounce};
use crate::cancellation::Deferred;
use crate::inflight::Call;
use crate::lifecycle;
use crate::locks::{self, Held};
use crate::real::{RealCall, errno, set_errno};
use crate::session::{self, Mapped};

/// A registered call during a session.
pub struct Capture<'c> {
    call: &'c Call,
    session: &'c Mapped,
    writer: session::Writer,
}

impl<'c> Capture<'c> {
    /// None if the call need note nothing.
    pub fn of(call: &'c Call) -> Option<Capture<'c>> {
        session::of(call).map(|session| Capture {
            call,
            session,
            writer: session.writer(),
        })
    }

    pub fn payload(&self) -> bool {
        self.call.control().mode() == Mode::Payload
    }

    /// True in a signal handler that interrupted a hooked call: no lock may be taken.
    pub fn nested(&self) -> bool {
        self.call.nested()
    }

    /// The file behind `fd`, if it is one that the session watches.
    pub fn file(&self, fd: c_int) -> Option<FileId> {
        self.told(file(fd)).filter(|file| self.watches(*file))
    }

    /// What was found behind a descriptor. If the kernel did not tell, it may be a watched file, and the session is lost.
    pub fn told<T>(&self, found: Found<T>) -> Option<T> {
        found.unwrap_or_else(|errno| {
            self.lose(errno);
            None
        })
    }

    /// As [`Capture::file`], if its changes go into the log under locks that give them the files' order.
    pub fn identify(&self, stat: &Stat) -> Option<FileId> {
        is_regular(stat).then(|| self.entry(stat)).flatten()
    }

    /// What `stat` describes, of whatever kind, if it is on a watched device.
    pub fn entry(&self, stat: &Stat) -> Option<FileId> {
        self.session.watches(stat.st_dev).then_some(FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    pub fn watches(&self, file: FileId) -> bool {
        self.session.watches(file.device)
    }

    /// False if nothing that happens to an entry on `device` can matter to the session. None is a device that could not be told.
    pub fn may_concern(&self, device: Option<u64>) -> bool {
        device.is_none_or(|device| self.session.watches(device))
    }

    pub fn append(&self, record: &Record<'_>) {
        if self.writer.append(record).is_err() {
            self.switch_off();
        }
    }

    pub fn opaque(&self, file: FileId) {
        self.append(&Record::Opaque {
            file,
            mapped: false,
        });
    }

    /// As [`Capture::opaque`], if `fd` is a watched file.
    pub fn opaque_fd(&self, fd: c_int) {
        if let Some(file) = self.file(fd) {
            self.opaque(file);
        }
    }

    /// Notes a call that failed with `errno`, if it may have changed the file all the same.
    pub fn failed(&self, file: FileId, errno: c_int) {
        if may_have_changed(errno) {
            self.opaque(file);
        }
    }

    /// Where the record is to carry the bytes, lets the real call write a copy that nobody else can change. Until then, readies the memory for such copies.
    pub fn steady(&self, given: &Cell<Buffers>) -> Option<Bounce> {
        let bounce = match (self.payload(), given.get()) {
            (true, buffers) => Bounce::copy_of(buffers)?,
            (false, Buffers::One(_, len)) => {
                bounce::bring_in_ahead(len);
                return None;
            }
            (false, _) => return None,
        };
        given.set(bounce.buffers());
        Some(bounce)
    }

    /// The first `len` bytes of `buffers` were written at `offset`.
    pub fn written(&self, file: FileId, offset: u64, len: u64, buffers: Buffers) {
        if !self.payload() {
            return self.append(&Record::Write {
                file,
                offset,
                len,
                payload: None,
            });
        }
        let Ok(mut reservation) = self.writer.reserve_write(file, offset, len) else {
            return self.switch_off();
        };
        buffers.pieces(len, |piece, len| {
            // SAFETY: the real call has just read these bytes.
            unsafe { reservation.put(piece, len) }
        });
        reservation.publish();
    }

    /// Exclusion from other changes of the range, where the log's order matters and locks may be taken.
    pub fn hold_range(&self, file: FileId, offset: u64, len: Option<u64>) -> Held {
        match len {
            _ if !self.payload() || self.nested() => Held::default(),
            Some(len) => locks::range(file, offset, len),
            None => locks::whole(file),
        }
    }

    pub fn hold_whole(&self, file: FileId) -> Held {
        self.hold_range(file, 0, None)
    }

    /// A change was made that no record can tell.
    pub fn lose(&self, why: Errno) {
        self.lose_to(LostReason::Unidentified, why.raw_os_error() as u64);
    }

    pub fn lose_to(&self, reason: LostReason, detail: u64) {
        self.writer.lose(reason, detail);
        self.switch_off();
    }

    fn switch_off(&self) {
        session::switch_off(self.call.rendezvous(), self.call.control().session());
    }
}

/// False for what the kernel answers before it changes anything. Whatever else there is may come half-way: a direct write goes to the disk in pieces, of which
/// one may fail with any errno of the block layer while others are on the disk, and network and user-space file systems have errnos of their own. A record
/// too many costs that the file is read again. EAGAIN and EROFS are not taken for harmless, since a later piece can meet a full queue or a journal that was given up.
fn may_have_changed(errno: c_int) -> bool {
    !matches!(
        errno,
        libc::EBADF
            | libc::EINVAL
            | libc::ESPIPE
            | libc::EPERM
            | libc::EACCES
            | libc::ETXTBSY
            | libc::ENOSYS
            | libc::EOPNOTSUPP
    )
}

/// Where the bytes of a write come from.
#[derive(Clone, Copy)]
pub enum Buffers {
    One(*const u8, usize),
    /// An array of iovec: not looked at before the real call has accepted it.
    Many(*const iovec, usize),
    /// Inside the kernel: the record can't carry them.
    Kernel,
}

impl Buffers {
    /// Gives the one buffer of a call that takes one.
    pub fn with_one(self, call: impl FnOnce(*const c_void, usize) -> ssize_t) -> ssize_t {
        match self {
            Buffers::One(address, len) => call(address.cast(), len),
            Buffers::Many(..) | Buffers::Kernel => call(std::ptr::null(), 0),
        }
    }

    /// Gives an array of buffers, for a call that takes many.
    pub fn with_array(self, call: impl FnOnce(*const iovec, c_int) -> ssize_t) -> ssize_t {
        match self {
            Buffers::One(address, len) => {
                let one = iovec {
                    iov_base: address.cast_mut().cast(),
                    iov_len: len,
                };
                call(&one, 1)
            }
            Buffers::Many(array, count) => call(array, count as c_int),
            Buffers::Kernel => call(std::ptr::null(), 0),
        }
    }

    /// How many bytes are asked for, if that is known without following a pointer.
    pub fn len(self) -> Option<u64> {
        match self {
            Buffers::One(_, len) => Some(len as u64),
            Buffers::Many(..) | Buffers::Kernel => None,
        }
    }

    /// Gives the first `len` bytes, piece by piece.
    fn pieces(self, len: u64, mut piece: impl FnMut(*const u8, usize)) {
        let mut left = len as usize;
        match self {
            Buffers::One(address, len) => piece(address, len.min(left)),
            Buffers::Many(array, count) => {
                for index in 0..count {
                    // SAFETY: the real call has read the whole array.
                    let iovec = unsafe { &*array.wrapping_add(index) };
                    let len = iovec.iov_len.min(left);
                    piece(iovec.iov_base.cast(), len);
                    left = left.wrapping_sub(len);
                    if left == 0 {
                        break;
                    }
                }
            }
            Buffers::Kernel => {}
        }
    }
}

/// A descriptor of the program's, for one system call.
fn borrowed<'call>(fd: c_int) -> Option<BorrowedFd<'call>> {
    // SAFETY: not -1; the descriptor is used in one call only, where one that is closed makes it fail.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// What is behind a descriptor: None if it is closed, an error if the file system (a network's, or a program's) can't tell now.
pub type Found<T> = Result<Option<T>, Errno>;

/// How often a call that signals interrupt is made again: a hooked call must end some time.
const ATTEMPTS_MAX: u32 = 100;

fn found<T>(mut ask: impl FnMut() -> Result<T, Errno>) -> Found<T> {
    for _ in 0..ATTEMPTS_MAX {
        match ask() {
            Err(Errno::INTR) => {}
            Err(Errno::BADF) => return Ok(None),
            told => return told.map(Some),
        }
    }
    Err(Errno::INTR)
}

pub fn stat(fd: c_int) -> Found<Stat> {
    match borrowed(fd) {
        Some(fd) => found(|| rustix::fs::fstat(fd)),
        None => Ok(None),
    }
}

/// Only what is asked for: since Linux 6.13 a file system that is asked for a file's times, as fstat does, gives the next write a time of its own, and
/// writes the inode for it. None where that can't be asked.
fn look(fd: c_int, wanted: StatxFlags) -> Option<Statx> {
    let seen = rustix::fs::statx(borrowed(fd)?, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    (seen.stx_mask & wanted.bits() == wanted.bits()).then_some(seen)
}

/// Bytes of an open file.
pub fn size(fd: c_int) -> Option<u64> {
    match look(fd, StatxFlags::SIZE) {
        Some(seen) => Some(seen.stx_size),
        None => u64::try_from(stat(fd).ok()??.st_size).ok(),
    }
}

/// What a descriptor stands for, if that is a regular file.
pub fn file(fd: c_int) -> Found<FileId> {
    let found = file_and_names(fd, StatxFlags::empty())?;
    Ok(found.map(|(file, _)| file))
}

/// As [`file`], with the number of its names.
pub fn named_file(fd: c_int) -> Found<(FileId, u64)> {
    file_and_names(fd, StatxFlags::NLINK)
}

fn file_and_names(fd: c_int, wanted: StatxFlags) -> Found<(FileId, u64)> {
    let wanted = wanted | StatxFlags::TYPE | StatxFlags::INO;
    let (mode, file, names) = match look(fd, wanted) {
        Some(seen) => {
            let device = rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor);
            let inode = seen.stx_ino;
            let file = FileId { device, inode };
            (seen.stx_mode.into(), file, seen.stx_nlink.into())
        }
        None => {
            let Some(stat) = stat(fd)? else {
                return Ok(None);
            };
            let (device, inode) = (stat.st_dev, stat.st_ino);
            (stat.st_mode, FileId { device, inode }, stat.st_nlink)
        }
    };
    let is_file = FileType::from_raw_mode(mode) == FileType::RegularFile;
    Ok(is_file.then_some((file, names)))
}

pub fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Status flags of an open file; empty if they can't be had.
pub fn open_flags(fd: c_int) -> OFlags {
    borrowed(fd)
        .and_then(|fd| rustix::fs::fcntl_getfl(fd).ok())
        .unwrap_or(OFlags::empty())
}

/// Makes the real call from inside `body`, which notes it; or without, if there is nothing to note.
#[cold]
#[inline(never)]
pub fn recorded<R: Copy, F: FnOnce() -> R>(
    call: &Call,
    otherwise: R,
    real: F,
    body: impl FnOnce(&Capture<'_>, &RealCall<R, F>),
) -> R {
    let _deferred = Deferred::new();
    let real = RealCall::new(real);
    let told = catch_unwind(AssertUnwindSafe(|| {
        if let Some(capture) = Capture::of(call) {
            body(&capture, &real);
        }
    }));
    if told.is_err() {
        session::lose(call, Errno::FAULT);
    }
    real.finish(otherwise)
}

/// Makes the real call without registration. If a session other than the one in `seen` is on afterwards, `note` tells it what was done; None if the thread
/// was cancelled inside the call, whatever it had done by then.
#[inline]
pub fn unregistered<R: Copy>(
    seen: Control,
    real: impl FnOnce() -> R,
    note: impl FnOnce(&Capture<'_>, Option<R>),
) -> R {
    let mut afterwards = Afterwards {
        seen,
        result: None,
        note: Some(note),
    };
    let result = real();
    afterwards.result = Some(result);
    result
}

/// Looks for a session when the call is over, whether it returns or is unwound.
struct Afterwards<R: Copy, N: FnOnce(&Capture<'_>, Option<R>)> {
    seen: Control,
    result: Option<R>,
    note: Option<N>,
}

impl<R: Copy, N: FnOnce(&Capture<'_>, Option<R>)> Drop for Afterwards<R, N> {
    #[inline]
    fn drop(&mut self) {
        // The controller's barrier falls behind the load, then what the real call did is visible to its base copy; or before it, then the load sees the session.
        compiler_fence(Ordering::SeqCst);
        if !lifecycle::membarrier() {
            // The controller has no such barrier.
            fence(Ordering::SeqCst);
        }
        let now = lifecycle::control();
        if now.mode() != Mode::Idle
            && now.session() != self.seen.session()
            && let Some(note) = self.note.take()
        {
            note_late(self.result, note);
        }
    }
}

#[cold]
#[inline(never)]
fn note_late<R: Copy>(result: Option<R>, note: impl FnOnce(&Capture<'_>, Option<R>)) {
    let errno = errno();
    if let Some(call) = Call::enter() {
        recorded(&call, (), || (), |capture, _| note(capture, result));
    }
    set_errno(errno);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_interrupts_is_asked_again_and_only_a_closed_descriptor_is_nothing() {
        let after = |answers: &[Result<u8, Errno>]| {
            let mut answers = answers.iter();
            let given = found(|| *answers.next().expect("Not asked again"));
            assert!(answers.next().is_none());
            given
        };
        let interrupted = Err(Errno::INTR);
        assert_eq!(after(&[interrupted, interrupted, Ok(7)]), Ok(Some(7)));
        assert_eq!(after(&[interrupted, Err(Errno::BADF)]), Ok(None));
        assert_eq!(after(&[Err(Errno::STALE)]), Err(Errno::STALE));
        assert_eq!(found(|| Err::<u8, _>(Errno::INTR)), Err(Errno::INTR));
    }

    #[test]
    fn a_failure_is_harmless_only_if_the_kernel_gives_it_before_it_writes() {
        for errno in [
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EINTR,
            libc::EIO,
            libc::EFBIG,
            libc::EFAULT,
            libc::ENODATA,
            libc::EREMOTEIO,
            libc::ETIMEDOUT,
            libc::ESTALE,
            libc::EAGAIN,
        ] {
            assert!(may_have_changed(errno), "{errno}");
        }
        for errno in [libc::EBADF, libc::EINVAL, libc::EOPNOTSUPP] {
            assert!(!may_have_changed(errno), "{errno}");
        }
    }
}
