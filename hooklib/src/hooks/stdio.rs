//! Streams. What they write stays inside libc until the buffer is full, and goes from there to the kernel by a call that can't be interposed. So a stream's
//! file is suspect whenever something may have been written: when it is flushed or closed, and when a name for it is made.

use engine::capture_log::{Control, Mode};
use libc::{FILE, c_char, c_int};
use rustix::fs::{OFlags, Stat};

use super::open;
use crate::capture::{Capture, Found, open_flags, recorded, stat, unregistered};
use crate::inflight::Call;
use crate::lifecycle;

type Stream = *mut FILE;

fn fd_of(stream: &Stream) -> c_int {
    if stream.is_null() {
        return -1;
    }
    // SAFETY: a stream that libc gave to its caller and that is not closed yet.
    unsafe { libc::fileno(*stream) }
}

/// What a descriptor stands for, if it can write.
fn writable(fd: c_int) -> Found<Stat> {
    if open_flags(fd).intersects(OFlags::WRONLY | OFlags::RDWR) {
        stat(fd)
    } else {
        Ok(None)
    }
}

/// fopen and freopen, by their mode.
fn opened(path: *const c_char, mode: *const c_char, real: impl FnOnce() -> Stream) -> Stream {
    // SAFETY: null, or a string, of which libc reads this byte too.
    let letter = unsafe { mode.cast::<u8>().as_ref() }.copied();
    if !matches!(letter, Some(b'w' | b'a')) || lifecycle::live_or_revived().is_none() {
        return real();
    }
    // SAFETY: a path is null or NUL-terminated.
    unsafe {
        open::creating(
            libc::AT_FDCWD,
            path,
            letter == Some(b'w'),
            std::ptr::null_mut(),
            real,
            fd_of,
        )
    }
}

/// freopen without a path: libc opens the stream's own file anew by its descriptor, and may empty what was open for reading only. It is looked at before,
/// since a thread that is cancelled inside tells nothing.
fn reopened(stream: Stream, real: impl FnOnce() -> Stream) -> Stream {
    if lifecycle::live_or_revived().is_none() {
        return real();
    }
    let before = stat(fd_of(&stream));
    unregistered(Control::IDLE, real, |capture, _| note(capture, before))
}

/// A call that may write out what `stream` holds. A pipe may block it: only files are registered for.
fn flushed<R: Copy>(stream: Stream, otherwise: R, real: impl FnOnce() -> R) -> R {
    if lifecycle::live().is_none() {
        return real();
    }
    if stream.is_null() {
        return flushed_all(real);
    }
    // Before the call: afterwards the descriptor may be closed.
    let before = writable(fd_of(&stream));
    let mut seen = lifecycle::control();
    if seen.mode() != Mode::Idle
        && let Some(call) = Call::enter()
    {
        seen = call.control();
        let is_watched = |capture: Capture<'_>| {
            let before = capture.told(before);
            before.is_some_and(|before| capture.identify(&before).is_some())
        };
        if Capture::of(&call).is_some_and(is_watched) {
            return recorded(&call, otherwise, real, |capture, real| {
                real.run();
                note(capture, before);
            });
        }
    }
    unregistered(seen, real, |capture, _| note(capture, before))
}

fn note(capture: &Capture<'_>, stat: Found<Stat>) {
    if let Some(file) = capture.told(stat).and_then(|stat| capture.identify(&stat)) {
        capture.opaque(file);
    }
}

/// fflush(NULL): libc's list of streams can't be seen. The two that servers keep are noted here, the others when they are closed.
fn flushed_all<R: Copy>(real: impl FnOnce() -> R) -> R {
    unregistered(Control::IDLE, real, |capture, _| {
        note(capture, writable(libc::STDOUT_FILENO));
        note(capture, writable(libc::STDERR_FILENO));
    })
}

/// A stream over an open descriptor. From now on the file is written behind our back.
fn adopted(fd: c_int, real: impl FnOnce() -> Stream) -> Stream {
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        return real();
    }
    recorded(&call, std::ptr::null_mut(), real, |capture, real| {
        if real.run().is_some_and(|stream| !stream.is_null()) {
            note(capture, writable(fd));
        }
    })
}

hooks! {
    fdopen = libc::fdopen:
    (fd: c_int, mode: *const c_char) -> Stream, |real| {
        // SAFETY: the caller's arguments, unchanged.
        adopted(fd, || unsafe { real(fd, mode) })
    }
}

cancellation_points! {
    fopen = libc::fopen, fopen64 = libc::fopen64:
    (path: *const c_char, mode: *const c_char) -> Stream, |real| {
        // SAFETY: the caller's arguments, unchanged.
        opened(path, mode, || unsafe { real(path, mode) })
    }

    freopen = libc::freopen, freopen64 = libc::freopen64:
    (path: *const c_char, mode: *const c_char, stream: Stream) -> Stream, |real| {
        // SAFETY: the caller's arguments, unchanged.
        let real = || unsafe { real(path, mode, stream) };
        flushed(stream, std::ptr::null_mut(), || {
            if path.is_null() { reopened(stream, real) } else { opened(path, mode, real) }
        })
    }

    fflush = libc::fflush, fclose = libc::fclose:
    (stream: Stream) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        flushed(stream, libc::EOF, || unsafe { real(stream) })
    }
}
