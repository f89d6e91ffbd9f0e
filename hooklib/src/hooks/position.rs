//! Writes at the file position or at the end, and copies inside the kernel. The descriptor may be a pipe or a socket, where the call may block for
//! ever, so idle it is not registered, and while capturing the kind of file is looked at first.
//!
//! Where such a write went is learned under a per-file lock, by asking before and after, and believed only if both answers agree: another process
//! or a descriptor that shares the position could have come between. Otherwise the whole file is suspect.

use std::cell::Cell;

use engine::capture_log::FileId;
use libc::{c_int, c_long, c_uint, c_void, iovec, loff_t, off64_t, size_t, ssize_t};
use rustix::fd::BorrowedFd;
use rustix::fs::{OFlags, SeekFrom};

use super::write::many;
use crate::bounce::Bounce;
use crate::capture::{
    Buffers, Capture, is_regular, open_flags, recorded, size, stat, unregistered,
};
use crate::inflight::Call;
use crate::real::{RealCall, errno, syscall};
use crate::{lifecycle, locks};

/// write and its like; `append`: at the end whatever the descriptor's flags; `moves`: the position moves with it.
pub fn advancing(
    fd: c_int,
    buffers: Buffers,
    append: bool,
    moves: bool,
    real: impl FnOnce(Buffers) -> ssize_t,
) -> ssize_t {
    let given = Cell::new(buffers);
    on_captured(
        fd,
        || real(given.get()),
        |capture, file, real| {
            if capture.nested() {
                note_unordered(capture, file, real);
            } else if append || open_flags(fd).contains(OFlags::APPEND) {
                note_appended(capture, fd, file, &given, real);
            } else if moves {
                note_advanced(capture, fd, file, &given, real);
            }
        },
    )
}

/// Makes `real` as a registered call if `fd` is a watched file, else without registration.
fn on_captured<F: FnOnce() -> ssize_t>(
    fd: c_int,
    real: F,
    note: impl FnOnce(&Capture<'_>, FileId, &RealCall<ssize_t, F>),
) -> ssize_t {
    let mut seen = lifecycle::control();
    if seen.mode() != engine::capture_log::Mode::Idle
        && let Some(call) = Call::enter()
    {
        seen = call.control();
        if let Some(file) = Capture::of(&call).and_then(|capture| capture.file(fd)) {
            return recorded(&call, -1, real, |capture, real| note(capture, file, real));
        }
    }
    if lifecycle::forked() {
        revive_for(fd);
    }
    unregistered(seen, real, |capture, written| {
        if written.is_none_or(|written| written > 0) {
            capture.opaque_fd(fd);
        }
    })
}

fn is_file(fd: c_int) -> bool {
    stat(fd).is_ok_and(|stat| stat.is_some_and(|stat| is_regular(&stat)))
}

/// A forked child gets a rendezvous when it writes to a file, not when it talks to its parent through a pipe.
#[cold]
fn revive_for(fd: c_int) {
    if is_file(fd) {
        lifecycle::live_or_revived();
    }
}

fn note_advanced(
    capture: &Capture<'_>,
    fd: c_int,
    file: FileId,
    given: &Cell<Buffers>,
    real: &RealCall<ssize_t, impl FnOnce() -> ssize_t>,
) {
    let _position = locks::position(file);
    let before = tell(fd);
    let _held = capture.hold_range(file, before.unwrap_or(0), given.get().len());
    let steady = capture.steady(given);
    let Some(written) = run(capture, file, real) else {
        return;
    };
    match before {
        Some(before) if tell(fd) == before.checked_add(written) => {
            note_written(capture, file, before, written, steady.as_ref());
        }
        _ => capture.opaque(file),
    }
}

/// Makes a call that writes: gives how much it wrote, if anything. One that failed is noted here.
pub fn run(
    capture: &Capture<'_>,
    file: FileId,
    real: &RealCall<ssize_t, impl FnOnce() -> ssize_t>,
) -> Option<u64> {
    match real.run()? {
        -1 => {
            capture.failed(file, errno());
            None
        }
        written => u64::try_from(written).ok().filter(|written| *written > 0),
    }
}

/// A write in a signal handler: no lock was taken.
fn note_unordered(
    capture: &Capture<'_>,
    file: FileId,
    real: &RealCall<ssize_t, impl FnOnce() -> ssize_t>,
) {
    if run(capture, file, real).is_some() {
        capture.opaque(file);
    }
}

/// A write that went to the end of the file.
pub fn note_appended(
    capture: &Capture<'_>,
    fd: c_int,
    file: FileId,
    given: &Cell<Buffers>,
    real: &RealCall<ssize_t, impl FnOnce() -> ssize_t>,
) {
    if capture.nested() {
        return note_unordered(capture, file, real);
    }
    let _position = locks::position(file);
    // Where the end is must not change any more once it is known.
    let _held = capture.hold_whole(file);
    let before = size(fd);
    let steady = capture.steady(given);
    let Some(written) = run(capture, file, real) else {
        return;
    };
    match before {
        Some(before) if size(fd) == before.checked_add(written) => {
            note_written(capture, file, before, written, steady.as_ref());
        }
        _ => capture.opaque(file),
    }
}

pub fn note_written(
    capture: &Capture<'_>,
    file: FileId,
    offset: u64,
    len: u64,
    steady: Option<&Bounce>,
) {
    match steady {
        Some(bounce) => capture.written(file, offset, len, bounce.buffers()),
        // The bytes never were in this process, or may have changed meanwhile.
        None if capture.payload() => capture.opaque(file),
        None => capture.written(file, offset, len, Buffers::Kernel),
    }
}

fn tell(fd: c_int) -> Option<u64> {
    // SAFETY: a descriptor that has just been looked at, hence not -1; only borrowed for the system call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::seek(fd, SeekFrom::Current(0)).ok()
}

/// A copy inside the kernel, to the file position or to the offset at `offset`.
pub fn copied(
    from: c_int,
    to: c_int,
    offset: *const loff_t,
    real: impl FnOnce() -> ssize_t,
) -> ssize_t {
    // A source that is no file may block: no registration.
    let blocks = lifecycle::control().mode() != engine::capture_log::Mode::Idle && !is_file(from);
    if blocks {
        return unregistered(
            engine::capture_log::Control::IDLE,
            real,
            |capture, copied| {
                if copied.is_none_or(|copied| copied > 0) {
                    capture.opaque_fd(to);
                }
            },
        );
    }
    if offset.is_null() {
        return advancing(to, Buffers::Kernel, false, true, |_| real());
    }
    on_captured(to, real, |capture, file, real| {
        let Some(copied) = run(capture, file, real) else {
            return;
        };
        // SAFETY: the real call has read it, and moved it on by what was copied.
        let end = unsafe { *offset };
        match u64::try_from(end.wrapping_sub(copied as loff_t)) {
            Ok(start) => note_written(capture, file, start, copied, None),
            Err(_) => capture.opaque(file),
        }
    })
}

/// Before glibc 2.27 libc does not have it.
unsafe extern "C-unwind" fn copy_file_range_by_number(
    from: c_int,
    from_offset: *mut off64_t,
    to: c_int,
    to_offset: *mut off64_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    let (from_offset, to_offset) = (from_offset as c_long, to_offset as c_long);
    let args = [
        from.into(),
        from_offset,
        to.into(),
        to_offset,
        len as c_long,
        flags.into(),
    ];
    // SAFETY: the caller's arguments, unchanged.
    unsafe { syscall(libc::SYS_copy_file_range, args) as ssize_t }
}

hooks! {
    sendfile = libc::sendfile, sendfile64 = libc::sendfile64:
    (to: c_int, from: c_int, offset: *mut off64_t, len: size_t) -> ssize_t, |real| {
        // SAFETY: the caller's arguments, unchanged.
        copied(from, to, std::ptr::null(), || unsafe { real(to, from, offset, len) })
    }
}

cancellation_points! {
    write = libc::write:
    (fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t, |real| {
        advancing(fd, Buffers::One(buffer.cast(), len), false, true, |buffers| {
            // SAFETY: the caller's arguments, or a copy of its bytes.
            buffers.with_one(|buffer, len| unsafe { real(fd, buffer, len) })
        })
    }

    writev = libc::writev:
    (fd: c_int, array: *const iovec, count: c_int) -> ssize_t, |real| {
        advancing(fd, many(array, count), false, true, |buffers| {
            // SAFETY: the caller's arguments, or a copy of its bytes.
            buffers.with_array(|array, count| unsafe { real(fd, array, count) })
        })
    }

    copy_file_range = libc::copy_file_range => copy_file_range_by_number:
    (from: c_int, from_offset: *mut off64_t, to: c_int, to_offset: *mut off64_t, len: size_t, flags: c_uint) -> ssize_t, |real| {
        // SAFETY: the caller's arguments, unchanged.
        copied(from, to, to_offset, || unsafe { real(from, from_offset, to, to_offset, len, flags) })
    }

    splice = libc::splice:
    (from: c_int, from_offset: *mut loff_t, to: c_int, to_offset: *mut loff_t, len: size_t, flags: c_uint) -> ssize_t, |real| {
        // SAFETY: the caller's arguments, unchanged.
        copied(from, to, to_offset, || unsafe { real(from, from_offset, to, to_offset, len, flags) })
    }
}
