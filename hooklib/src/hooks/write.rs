//! Writes at a given offset. The commonest calls of a server, and the simplest: the file is whatever the descriptor stands for, the range is given.
//!
//! The call is registered whatever the mode: a write to a file does not block, and idle this is two stores. While a session carries payloads, the
//! range is locked over the real call and the append, so that overlapping writes reach the log in the order in which they reach the file.

use std::cell::Cell;

use libc::{c_int, c_long, c_void, iovec, off_t, off64_t, size_t, ssize_t};
use rustix::fs::OFlags;

use super::position;
use crate::capture::{Buffers, Capture, open_flags, recorded};
use crate::inflight::Call;
use crate::real::{RealCall, syscall};

/// pwrite and its like. Negative results are failures.
#[inline]
pub fn at(
    fd: c_int,
    buffers: Buffers,
    offset: i64,
    real: impl FnOnce(Buffers) -> ssize_t,
) -> ssize_t {
    let Some(call) = Call::enter() else {
        return real(buffers);
    };
    if call.idle() {
        return real(buffers);
    }
    let given = Cell::new(buffers);
    recorded(
        &call,
        -1,
        || real(given.get()),
        |capture, real| note_at(capture, fd, &given, offset, real),
    )
}

fn note_at(
    capture: &Capture<'_>,
    fd: c_int,
    given: &Cell<Buffers>,
    offset: i64,
    real: &RealCall<ssize_t, impl FnOnce() -> ssize_t>,
) {
    let (Some(file), Ok(offset)) = (capture.file(fd), u64::try_from(offset)) else {
        return;
    };
    // Linux appends whatever offset is given.
    if open_flags(fd).contains(OFlags::APPEND) {
        return position::note_appended(capture, fd, file, given, real);
    }
    let _held = capture.hold_range(file, offset, given.get().len());
    let steady = capture.steady(given);
    if let Some(written) = position::run(capture, file, real) {
        // In a signal handler no lock was taken, so the order against other writes is unknown.
        let steady = steady.as_ref().filter(|_| !capture.nested());
        position::note_written(capture, file, offset, written, steady);
    }
}

/// pwritev2: offset -1 stands for the file position, and a flag makes it append.
fn with_flags(
    fd: c_int,
    buffers: Buffers,
    offset: i64,
    flags: c_int,
    real: impl FnOnce(Buffers) -> ssize_t,
) -> ssize_t {
    if offset == -1 || flags & libc::RWF_APPEND != 0 {
        position::advancing(
            fd,
            buffers,
            flags & libc::RWF_APPEND != 0,
            offset == -1,
            real,
        )
    } else {
        at(fd, buffers, offset, real)
    }
}

/// A negative count stays one, for the real call to refuse.
pub fn many(array: *const iovec, count: c_int) -> Buffers {
    Buffers::Many(array, count as usize)
}

/// The `pwritev2` family by its arguments, for libc's names and for `syscall`.
pub fn vector_at(
    fd: c_int,
    array: *const iovec,
    count: c_int,
    offset: i64,
    flags: c_int,
    real: impl FnOnce(Buffers) -> ssize_t,
) -> ssize_t {
    with_flags(fd, many(array, count), offset, flags, real)
}

/// Before glibc 2.26 libc does not have it.
unsafe extern "C-unwind" fn pwritev2_by_number(
    fd: c_int,
    array: *const iovec,
    count: c_int,
    offset: off64_t,
    flags: c_int,
) -> ssize_t {
    // The offset is a low and a high half, of which the low one is all of it on 64 bits.
    let args = [
        fd.into(),
        array as c_long,
        count.into(),
        offset,
        0,
        flags.into(),
    ];
    // SAFETY: the caller's arguments, unchanged.
    unsafe { syscall(libc::SYS_pwritev2, args) as ssize_t }
}

registered_cancellation_points! {
    pwrite = libc::pwrite, pwrite64 = libc::pwrite64:
    (fd: c_int, buffer: *const c_void, len: size_t, offset: off64_t) -> ssize_t, |real| {
        at(fd, Buffers::One(buffer.cast(), len), offset, |buffers| {
            // SAFETY: the caller's arguments, or a copy of its bytes.
            buffers.with_one(|buffer, len| unsafe { real(fd, buffer, len, offset) })
        })
    }

    pwritev = libc::pwritev, pwritev64 = libc::pwritev64:
    (fd: c_int, array: *const iovec, count: c_int, offset: off_t) -> ssize_t, |real| {
        at(fd, many(array, count), offset, |buffers| {
            // SAFETY: the caller's arguments, or a copy of its bytes.
            buffers.with_array(|array, count| unsafe { real(fd, array, count, offset) })
        })
    }
}

cancellation_points! {
    pwritev2 = libc::pwritev2 => pwritev2_by_number, pwritev64v2 = libc::pwritev64v2 => pwritev2_by_number:
    (fd: c_int, array: *const iovec, count: c_int, offset: off64_t, flags: c_int) -> ssize_t, |real| {
        vector_at(fd, array, count, offset, flags, |buffers| {
            // SAFETY: the caller's arguments, or a copy of its bytes.
            buffers.with_array(|array, count| unsafe { real(fd, array, count, offset, flags) })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_libc_without_pwritev2_writes_where_it_is_told() {
        let fd = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(fd);
        let array = Buffers::One(b"text".as_ptr(), 4);
        let write = |offset, flags| {
            array.with_array(|array, count| {
                // SAFETY: an open file and a buffer that lives.
                unsafe { pwritev2_by_number(file.as_raw_fd(), array, count, offset, flags) }
            })
        };
        assert_eq!(write(2, 0), 4);
        assert_eq!(write(0, libc::RWF_APPEND), 4);
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"\0\0texttext");
    }
}
