//! Files in shared memory, made and opened so that neither side can be tricked or killed through them.
//!
//! Names in a runtime directory are guessable, so files are created with O_EXCL and O_NOFOLLOW and mode 0600, and a file that is opened must be
//! a regular one, of mode 0600, of an expected owner. A page that can't be allocated at first touch is SIGBUS in whoever
//! touches it, so every page is reserved before the file is used, and a file is never truncated.
//!
//! The library calls these from inside hooked calls: nothing here allocates, and system calls are made directly (by rustix), since libc's names
//! are interposed there.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// Where rendezvous and segments live unless `HOTMIRROR_RUNTIME_DIR` says otherwise.
pub const RUNTIME_DIR: &str = "/dev/shm";
pub const RUNTIME_DIR_VARIABLE: &str = "HOTMIRROR_RUNTIME_DIR";

const OPEN_FLAGS: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Creates `path` with `len` reserved bytes, all zero. On failure nothing is left behind.
pub fn create(path: &CStr, len: u64) -> Result<OwnedFd, Errno> {
    let flags = OPEN_FLAGS | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    // A umask may have taken bits away, and `open_trusted` asks for exactly these.
    let reserved =
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).and_then(|()| reserve(&file, len));
    match reserved {
        Ok(()) => Ok(file),
        Err(errno) => {
            let _ = rustix::fs::unlink(path);
            Err(errno)
        }
    }
}

/// Makes a file of `len` reserved bytes that has no name.
pub fn create_unnamed(len: u64) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create(c"hotmirror", rustix::fs::MemfdFlags::CLOEXEC)?;
    reserve(&file, len)?;
    Ok(file)
}

fn reserve(file: impl AsFd, len: u64) -> Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
            Err(Errno::INTR) => continue,
            result => return result,
        }
    }
}

/// Opens `path` if it is a file of ours: regular, 0600, owned by root or by `owner`, and at least `len` long.
///
/// EPERM: not trusted. EINVAL: too short.
pub fn open_trusted(path: &CStr, owner: u32, len: u64) -> Result<(OwnedFd, Stat), Errno> {
    let file = rustix::fs::open(path, OPEN_FLAGS, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let trusted = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_mode & 0o777 == 0o600
        && (stat.st_uid == 0 || stat.st_uid == owner);
    if !trusted {
        return Err(Errno::PERM);
    }
    if (stat.st_size as u64) < len {
        return Err(Errno::INVAL);
    }
    Ok((file, stat))
}

/// Maps the first `len` bytes for reading and writing, shared.
pub fn map(file: impl AsFd, len: usize) -> Result<*mut u8, Errno> {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory.
    let address = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }?;
    Ok(address.cast())
}

/// Memory of this process alone, all zero.
pub fn map_private(len: usize) -> Result<*mut u8, Errno> {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no memory.
    let address = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) }?;
    Ok(address.cast())
}

/// Unmaps what [`map`] gave.
///
/// # Safety
/// Nothing refers to the mapping any more.
pub unsafe fn unmap(address: *mut u8, len: usize) {
    // SAFETY: the caller's word.
    let _ = unsafe { rustix::mm::munmap(address.cast(), len) };
}
