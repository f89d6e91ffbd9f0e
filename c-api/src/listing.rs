//! Lists directories by libc's opendir, readdir and closedir, as ordinary functions: a program may interpose them, and what they report is reported.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

/// The error of the call that has just failed. A program's own version may have left a number that is none.
fn last_errno() -> Errno {
    // SAFETY: the address is the calling thread's errno.
    match unsafe { *libc::__errno_location() } {
        errno @ 1..4096 => Errno::from_raw_os_error(errno),
        _ => Errno::IO,
    }
}

/// True if a call has left an error behind since [`clear_errno`].
fn has_errno() -> bool {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() != 0 }
}

fn clear_errno() {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = 0 };
}

pub fn list(path: &Path, _directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path is NUL-terminated.
    let stream = unsafe { libc::opendir(path.as_ptr()) };
    if stream.is_null() {
        return Err(last_errno());
    }
    let mut names = Vec::new();
    let read = loop {
        clear_errno();
        // SAFETY: an open stream, which only this thread knows.
        let item = unsafe { libc::readdir(stream) };
        if item.is_null() {
            match has_errno() {
                false => break Ok(()),
                true => break Err(last_errno()),
            }
        }
        // SAFETY: readdir gave an entry, which holds until the next call on the stream; its name is NUL-terminated.
        let name = unsafe { CStr::from_ptr((&raw const (*item).d_name).cast()) };
        names.push(OsStr::from_bytes(name.to_bytes()).to_os_string());
    };
    // SAFETY: the stream is open, and is not used again.
    let closed = match unsafe { libc::closedir(stream) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    };
    read.and(closed).map(|()| names)
}
