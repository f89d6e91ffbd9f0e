//! Opens that may create or empty a file. All others pass straight through: they change nothing, and hooked calls keep no table of descriptors.
//!
//! While capturing, names are locked over the look before, the real call and the append, so that an inode that is used again is seen as unlinked before it is
//! seen as created. Opening a FIFO or a device may block: it is looked at first and then left alone.

use std::ffi::CStr;

use engine::capture_log::{Attributes, Control, FileId, Record};
use libc::{c_char, c_int, mode_t};
use rustix::fs::Stat;

use crate::capture::{Capture, is_regular, recorded, stat, unregistered};
use crate::inflight::Call;
use crate::path::{self, PathBuffer};
use crate::{lifecycle, locks};

/// open and its like, by their flags.
///
/// # Safety
/// `path` is null or NUL-terminated.
#[inline]
pub unsafe fn opened(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    real: impl FnOnce() -> c_int,
) -> c_int {
    if !may_change(flags) || lifecycle::live_or_revived().is_none() {
        return real();
    }
    // SAFETY: the caller's word.
    unsafe { creating(dirfd, path, flags & libc::O_TRUNC != 0, -1, real, |fd| *fd) }
}

/// A file without a name is noted when it gets one.
fn may_change(flags: c_int) -> bool {
    flags & (libc::O_CREAT | libc::O_TRUNC) != 0
        && flags & libc::O_PATH == 0
        && flags & libc::O_TMPFILE != libc::O_TMPFILE
}

/// openat2 of a path that leads elsewhere than a look at it would, since it begins at a root of its own: only what was opened tells.
pub fn opened_below(flags: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if !may_change(flags) || lifecycle::live_or_revived().is_none() {
        return real();
    }
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        return real();
    }
    recorded(&call, -1, real, |capture, real| {
        note_unseen(capture, real.run());
    })
}

/// A call that makes, empties or finds the file at `path` and gives a descriptor (`fd_of` its result; negative: failed).
///
/// # Safety
/// `path` is null or NUL-terminated.
pub unsafe fn creating<R: Copy>(
    dirfd: c_int,
    path: *const c_char,
    truncates: bool,
    failed: R,
    real: impl FnOnce() -> R,
    fd_of: impl Fn(&R) -> c_int,
) -> R {
    let seen = lifecycle::control();
    if seen.mode() != engine::capture_log::Mode::Idle
        // SAFETY: the caller's word.
        && let Some(path) = unsafe { path::given(path) }
        && let device = path::device(dirfd, path)
        && let Some(call) = Call::enter()
        && let Some(capture) = Capture::of(&call)
        && capture.may_concern(device)
    {
        return create_captured(call, dirfd, path, truncates, failed, real, fd_of);
    }
    unregistered(seen, real, |capture, result| {
        note_unseen(capture, result.as_ref().map(fd_of))
    })
}

#[cold]
#[inline(never)]
fn create_captured<R: Copy>(
    call: Call,
    dirfd: c_int,
    path: &CStr,
    truncates: bool,
    failed: R,
    real: impl FnOnce() -> R,
    fd_of: impl Fn(&R) -> c_int,
) -> R {
    if path::look(dirfd, path, true).is_some_and(|stat| !is_regular(&stat)) {
        drop(call);
        // Should a file have come to its place meanwhile, what was opened tells. A thread that was cancelled waited for a FIFO.
        return unregistered(Control::IDLE, real, |capture, result| {
            if let Some(result) = result {
                note_unseen(capture, Some(fd_of(&result)));
            }
        });
    }
    recorded(&call, failed, real, |capture, real| {
        let _names = (!capture.nested()).then(locks::namespace);
        let before = path::look(dirfd, path, true);
        let emptied = before
            .filter(|_| truncates)
            .and_then(|stat| capture.identify(&stat));
        let _held = emptied.map(|file| capture.hold_whole(file));
        let fd = real.run().map_or(-1, |result| fd_of(&result));
        note(capture, fd, before.as_ref(), truncates);
    })
}

/// An open file, if its changes are recorded.
fn watched(capture: &Capture<'_>, fd: c_int) -> Option<(Stat, FileId)> {
    let stat = capture.told(stat(fd))?;
    Some((stat, capture.identify(&stat)?))
}

/// Notes what an open on a watched device did, given what was at its path before.
fn note(capture: &Capture<'_>, fd: c_int, before: Option<&Stat>, truncates: bool) {
    let Some((after, file)) = watched(capture, fd) else {
        return;
    };
    match before {
        None => note_new(capture, fd, &after),
        Some(before) if before.st_ino != after.st_ino => note_late(capture, fd),
        // In a signal handler no lock was taken: the order against the call that was interrupted is unknown.
        Some(_) if truncates && capture.nested() => capture.opaque(file),
        Some(_) if truncates => capture.append(&Record::Truncate { file, len: 0 }),
        Some(_) => {}
    }
}

/// As [`note_late`], for a call that was made without the lock of the names: nobody renames the file between the look and the append.
fn note_unseen(capture: &Capture<'_>, fd: Option<c_int>) {
    let _names = (!capture.nested()).then(locks::namespace);
    match fd {
        Some(fd) => note_late(capture, fd),
        None => capture.append(&Record::Rescan),
    }
}

/// What is true of an open file of which nothing is known: its name, and that it may have changed.
pub fn note_late(capture: &Capture<'_>, fd: c_int) {
    let Some((after, file)) = watched(capture, fd) else {
        return;
    };
    note_name(capture, fd, &after, false);
    capture.opaque(file);
}

/// The call made the file. Another thread may have found and filled it since: so whether it is empty is looked at where nobody else can write and
/// append, since a record of bytes ahead of the one that says "empty" would be undone by it.
fn note_new(capture: &Capture<'_>, fd: c_int, after: &Stat) {
    let _held = capture.identify(after).map(|file| capture.hold_whole(file));
    let fresh =
        !capture.nested() && stat(fd).is_ok_and(|now| now.is_some_and(|now| now.st_size == 0));
    note_name(capture, fd, after, fresh);
    if capture.nested() {
        capture.append(&Record::Rescan);
    }
}

/// `fresh`: the call made the file, and it is empty.
pub fn note_name(capture: &Capture<'_>, fd: c_int, after: &Stat, fresh: bool) {
    let Some(file) = capture.identify(after).filter(|_| after.st_nlink > 0) else {
        return;
    };
    match path::of_fd(fd, &mut PathBuffer::new()) {
        Some(path) => {
            let attributes = attributes(after);
            capture.append(&Record::Create {
                file,
                path,
                attributes,
                fresh,
            });
        }
        None => capture.append(&Record::Rescan),
    }
    if !fresh {
        capture.opaque(file);
    }
}

pub fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

/// mkstemp and its like: the file they give is new.
fn made_unique(template: *const c_char, real: impl FnOnce() -> c_int) -> c_int {
    lifecycle::live_or_revived();
    let seen = lifecycle::control();
    if seen.mode() != engine::capture_log::Mode::Idle
        // SAFETY: a template is null or NUL-terminated.
        && let Some(path) = unsafe { path::given(template) }
        && let device = path::device(libc::AT_FDCWD, path)
        && let Some(call) = Call::enter()
        && let Some(capture) = Capture::of(&call)
        && capture.may_concern(device)
    {
        return recorded(&call, -1, real, |capture, real| {
            let _names = (!capture.nested()).then(locks::namespace);
            let fd = real.run().unwrap_or(-1);
            if let Some(after) = capture.told(stat(fd)) {
                note_new(capture, fd, &after);
            }
        });
    }
    unregistered(seen, real, note_unseen)
}

cancellation_points! {
    creat = libc::creat, creat64 = libc::creat64:
    (path: *const c_char, mode: mode_t) -> c_int, |real| {
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
        // SAFETY: the caller's arguments, unchanged; a path is NUL-terminated.
        unsafe { opened(libc::AT_FDCWD, path, flags, || real(path, mode)) }
    }

    mkstemp = libc::mkstemp, mkstemp64:
    (template: *mut c_char) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        made_unique(template, || unsafe { real(template) })
    }

    mkostemp = libc::mkostemp, mkostemp64:
    (template: *mut c_char, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        made_unique(template, || unsafe { real(template, flags) })
    }

    mkstemps = libc::mkstemps, mkstemps64:
    (template: *mut c_char, suffix_len: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        made_unique(template, || unsafe { real(template, suffix_len) })
    }

    mkostemps = libc::mkostemps, mkostemps64:
    (template: *mut c_char, suffix_len: c_int, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        made_unique(template, || unsafe { real(template, suffix_len, flags) })
    }

    // glibc's spellings when it checks, in a fortified program, that an open without a mode needs none. They may still empty a file.
    __open_2, __open64_2:
    (path: *const c_char, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged; a path is NUL-terminated.
        unsafe { opened(libc::AT_FDCWD, path, flags, || real(path, flags)) }
    }

    __openat_2, __openat64_2:
    (dirfd: c_int, path: *const c_char, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged; a path is NUL-terminated.
        unsafe { opened(dirfd, path, flags, || real(dirfd, path, flags)) }
    }
}
