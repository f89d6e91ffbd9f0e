//! Paths as records give them: absolute, every directory resolved, naming the directory entry itself.
//!
//! They are learned from /proc/self/fd, so that the working directory, dirfds and symbolic links on the way don't matter. Buffers have a fixed
//! size and live on the stack, which a server may have nearly used up: so they are filled where they are, and never moved. A path that can't be learned is None, and the caller then says so in the log.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::real::{errno, set_errno, syscall};

pub const PATH_MAX: usize = 4096;

/// `/proc/self/fd/` and a number.
const FD_LINK_LEN: usize = 32;

/// A path under construction, NUL-terminated at all times.
pub struct PathBuffer<const LEN: usize = PATH_MAX> {
    bytes: [u8; LEN],
    len: usize,
}

impl PathBuffer {
    pub const fn new() -> PathBuffer {
        PathBuffer::of_len()
    }
}

impl<const LEN: usize> PathBuffer<LEN> {
    const fn of_len() -> PathBuffer<LEN> {
        PathBuffer {
            bytes: [0; LEN],
            len: 0,
        }
    }

    fn clear(&mut self) {
        self.len = 0;
        if let Some(first) = self.bytes.first_mut() {
            *first = 0;
        }
    }

    /// None if there is no room.
    pub fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.len.checked_add(part.len()).filter(|end| *end < LEN)?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(part);
        *self.bytes.get_mut(end)? = 0;
        self.len = end;
        Some(())
    }

    pub fn push_number(&mut self, number: u32) -> Option<()> {
        let mut digits = [0u8; 10];
        let mut rest = number;
        let mut at = digits.len();
        loop {
            at = at.checked_sub(1)?;
            *digits.get_mut(at)? = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(digits.get(at..)?)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

/// A directory argument of an `…at` call. Negative values are none that a `BorrowedFd` may have; a number that no descriptor reaches fails the same way.
pub fn directory(dirfd: c_int) -> BorrowedFd<'static> {
    match dirfd {
        libc::AT_FDCWD => CWD,
        // SAFETY: not -1; used for a system call of this hooked call only, and one on a closed descriptor merely fails.
        ..0 => unsafe { BorrowedFd::borrow_raw(c_int::MAX) },
        // SAFETY: as above.
        fd => unsafe { BorrowedFd::borrow_raw(fd) },
    }
}

/// The caller's path; None if the kernel can't read it, or finds it too long: then the real call fails, and must do so with its own error.
///
/// # Safety
/// If it can be read, it is NUL-terminated, and unchanged during the hooked call.
pub unsafe fn given<'p>(path: *const c_char) -> Option<&'p CStr> {
    // SAFETY: the kernel has read it to its end.
    is_usable(path).then(|| unsafe { CStr::from_ptr(path) })
}

/// True if the kernel can read the path at this address, and finds it no longer than a path may be.
pub fn is_usable(path: *const c_char) -> bool {
    let before = errno();
    let args = [
        libc::AT_FDCWD.into(),
        path as c_long,
        libc::F_OK.into(),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel checks the address.
    let found = unsafe { syscall(libc::SYS_faccessat, args) };
    let unusable = found < 0 && matches!(errno(), libc::EFAULT | libc::ENAMETOOLONG);
    set_errno(before);
    !path.is_null() && !unusable
}

/// What `path` names now; None if nothing, or if it can't be seen.
pub fn look(dirfd: c_int, path: &CStr, follow: bool) -> Option<Stat> {
    seen(dirfd, path, follow).ok()
}

/// As [`look`], with the reason.
pub fn seen(dirfd: c_int, path: &CStr, follow: bool) -> Result<Stat, Errno> {
    let flags = if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    rustix::fs::statat(directory(dirfd), path, flags)
}

/// The path behind an open descriptor, in `path`.
pub fn of_fd(fd: c_int, path: &mut PathBuffer) -> Option<&[u8]> {
    path.clear();
    let mut link = PathBuffer::<FD_LINK_LEN>::of_len();
    link.push(b"/proc/self/fd/")?;
    link.push_number(u32::try_from(fd).ok()?)?;
    read_link(CWD, link.as_c_str(), path)?;
    Some(path.as_bytes()).filter(|path| path.starts_with(b"/"))
}

/// Appends what the symbolic link `path` holds.
pub fn read_link(directory: BorrowedFd<'_>, path: &CStr, target: &mut PathBuffer) -> Option<()> {
    let room = target.bytes.get_mut(target.len..)?;
    let len = rustix::fs::readlinkat_raw(directory, path, &mut *room).ok()?;
    // A full buffer may hold a cut path.
    *room.get_mut(len)? = 0;
    target.len = target.len.checked_add(len)?;
    Some(())
}

/// The path of the directory entry that `path` names, whether or not it exists, in `entry`.
pub fn of_entry<'e>(dirfd: c_int, path: &CStr, entry: &'e mut PathBuffer) -> Option<&'e [u8]> {
    let (parent, name) = split(path.to_bytes())?;
    entry.clear();
    entry.push(parent)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(directory(dirfd), entry.as_c_str(), flags, Mode::empty());
    of_fd(parent.ok()?.as_raw_fd(), entry)?;
    if entry.as_bytes() != b"/" {
        entry.push(b"/")?;
    }
    entry.push(name)?;
    Some(entry.as_bytes())
}

/// The device that the entry which `path` names is on, or would be. None if that can't be told, as behind a symbolic link.
#[inline(never)]
pub fn device(dirfd: c_int, path: &CStr) -> Option<u64> {
    if let Some(stat) = look(dirfd, path, false) {
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        return (!is_link).then_some(stat.st_dev);
    }
    let (parent, _) = split(path.to_bytes())?;
    let mut parent_path = PathBuffer::new();
    parent_path.push(parent)?;
    Some(look(dirfd, parent_path.as_c_str(), true)?.st_dev)
}

/// Parent directory and last component. None if the last component names no entry of its parent.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')?
        .checked_add(1)?;
    let path = path.get(..end)?;
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&b"/"[..], path.get(1..)?),
        Some(slash) => (path.get(..slash)?, path.get(slash.checked_add(1)?..)?),
        None => (&b"."[..], path),
    };
    (name != b"." && name != b"..").then_some((parent, name))
}
