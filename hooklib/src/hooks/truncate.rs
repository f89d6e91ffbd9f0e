//! Changes of a file's size and of the space behind it. In a session that carries payloads the whole file is locked for a truncation: it must stand in the
//! log between the writes between which it happened.
//!
//! What allocates, punches or zeroes locks its range only. It changes no byte outside, and may make the file longer, which it does to the same effect before or
//! after any other write: the file is as long as the longest of them wants it. (Where a file system can't allocate, libc writes zeros into the range itself.) What
//! has to know where the file ends holds all of it.

use engine::capture_log::{FileId, Record};
use libc::{c_char, c_int, off64_t};

use crate::capture::{Capture, recorded};
use crate::inflight::Call;
use crate::{locks, path};

/// ftruncate, by descriptor.
pub fn to_len(fd: c_int, len: i64, real: impl FnOnce() -> c_int) -> c_int {
    changing(fd, None, real, |capture, file, result| {
        note_len(capture, file, len, result)
    })
}

fn note_len(capture: &Capture<'_>, file: FileId, len: i64, result: c_int) {
    match (result, u64::try_from(len)) {
        (0, Ok(len)) => capture.append(&Record::Truncate { file, len }),
        _ => capture.failed(file, crate::real::errno()),
    }
}

/// fallocate. A failure may have changed the file too: space can run out half-way.
pub fn allocated(
    fd: c_int,
    mode: c_int,
    offset: i64,
    len: i64,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let range = in_place(mode).then_some((offset, len));
    changing(fd, range, real, |capture, file, result| {
        if result != 0 {
            return capture.failed(file, crate::real::errno());
        }
        match allocation(file, mode, offset, len) {
            Some(record) => capture.append(&record),
            None => capture.opaque(file),
        }
    })
}

/// posix_fallocate gives its errno as the result.
fn allocated_posix(fd: c_int, offset: i64, len: i64, real: impl FnOnce() -> c_int) -> c_int {
    changing(
        fd,
        Some((offset, len)),
        real,
        |capture, file, result| match allocation(file, 0, offset, len) {
            Some(record) if result == 0 => capture.append(&record),
            _ => capture.failed(file, result),
        },
    )
}

/// False for modes that shift the bytes behind the range, and for those that nobody knows yet.
fn in_place(mode: c_int) -> bool {
    let may_be = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_UNSHARE_RANGE;
    matches!(
        mode & !may_be,
        0 | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE
    )
}

/// None for modes that are not [`in_place`].
fn allocation(file: FileId, mode: c_int, offset: i64, len: i64) -> Option<Record<'static>> {
    let (offset, len) = (u64::try_from(offset).ok()?, u64::try_from(len).ok()?);
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_UNSHARE_RANGE) {
        0 => Some(Record::Allocate {
            file,
            offset,
            len,
            keep_size,
        }),
        libc::FALLOC_FL_PUNCH_HOLE => Some(Record::Punch { file, offset, len }),
        libc::FALLOC_FL_ZERO_RANGE => Some(Record::Zero {
            file,
            offset,
            len,
            keep_size,
        }),
        _ => None,
    }
}

/// `range`: offset and length of all that changes, if it is not the whole file.
fn changing(
    fd: c_int,
    range: Option<(i64, i64)>,
    real: impl FnOnce() -> c_int,
    note: impl FnOnce(&Capture<'_>, FileId, c_int),
) -> c_int {
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        return real();
    }
    recorded(&call, -1, real, |capture, real| {
        let Some(file) = capture.file(fd) else { return };
        let range =
            range.and_then(|(offset, len)| Some((offset.try_into().ok()?, len.try_into().ok()?)));
        let _held = match range {
            Some((offset, len)) => capture.hold_range(file, offset, Some(len)),
            None => capture.hold_whole(file),
        };
        match real.run() {
            // No lock was taken: the order against the call that was interrupted is unknown.
            Some(_) if capture.nested() => capture.opaque(file),
            Some(result) => note(capture, file, result),
            None => {}
        }
    })
}

/// truncate, by path: under the lock of the names, so that the path means the same before and during the call.
///
/// # Safety
/// `path` is null or NUL-terminated.
pub unsafe fn by_path(path: *const c_char, len: i64, real: impl FnOnce() -> c_int) -> c_int {
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        return real();
    }
    // SAFETY: the caller's word.
    let Some(path) = (unsafe { path::given(path) }) else {
        return real();
    };
    recorded(&call, -1, real, |capture, real| {
        let _names = (!capture.nested()).then(locks::namespace);
        let before = path::seen(libc::AT_FDCWD, path, true);
        let Some(file) = before.ok().and_then(|stat| capture.identify(&stat)) else {
            // While the path still means what was looked at.
            let result = real.run();
            if let (Err(errno), Some(0)) = (before, result) {
                capture.lose(errno);
            }
            return;
        };
        let _held = capture.hold_whole(file);
        match real.run() {
            Some(0) if capture.nested() => capture.opaque(file),
            Some(result) => note_len(capture, file, len, result),
            None => {}
        }
    })
}

hooks! {
    ftruncate = libc::ftruncate, ftruncate64 = libc::ftruncate64:
    (fd: c_int, len: off64_t) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        to_len(fd, len, || unsafe { real(fd, len) })
    }

    truncate = libc::truncate, truncate64 = libc::truncate64:
    (path: *const c_char, len: off64_t) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged; a path is NUL-terminated.
        unsafe { by_path(path, len, || real(path, len)) }
    }
}

cancellation_points! {
    fallocate = libc::fallocate, fallocate64 = libc::fallocate64:
    (fd: c_int, mode: c_int, offset: off64_t, len: off64_t) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        allocated(fd, mode, offset, len, || unsafe { real(fd, mode, offset, len) })
    }

    posix_fallocate = libc::posix_fallocate, posix_fallocate64 = libc::posix_fallocate64:
    (fd: c_int, offset: off64_t, len: off64_t) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        allocated_posix(fd, offset, len, || unsafe { real(fd, offset, len) })
    }
}
