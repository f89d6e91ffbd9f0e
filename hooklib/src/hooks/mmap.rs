//! Memory mappings of files. Stores to a mapping pass no function, so a file that has a writable shared one, or has one made writable, is suspect as a whole.
//!
//! MAP_SYNC (a server's redo log on persistent memory) is declined with the answer of a file system that has no such thing: servers then write
//! through calls. Allocators call mmap from malloc, before this library and even libc are ready: all mappings but writable shared ones of a file pass
//! straight through.

use std::sync::atomic::{AtomicBool, Ordering};

use engine::capture_log::Record;
use libc::{
    MAP_ANONYMOUS, MAP_SHARED, MAP_SHARED_VALIDATE, PROT_WRITE, c_int, c_long, c_void, off64_t,
    size_t,
};

use crate::capture::{self, Capture, recorded};
use crate::inflight::Call;
use crate::real::syscall;
use crate::{lifecycle, maps, real};

const MAP_TYPE: c_int = 0xf;

/// This process has shared a file's memory, at some time. Else no mprotect can let it store to a file, and an allocator, which calls that often, need not wait
/// until all mappings are looked at, nor have a descriptor left for it.
///
/// Set before the mapping is there. Who changes its protection has learned of it from who made it, so Relaxed is enough.
static SHARED_FILES: AtomicBool = AtomicBool::new(false);

/// What this process maps already when it gets a rendezvous. Later mappings are seen when they are made.
pub fn look_for_shared_files() {
    let seen = maps::each_mapping(|mapping| {
        if mapping.shared {
            SHARED_FILES.store(true, Ordering::Relaxed);
        }
    });
    if seen.is_none() {
        SHARED_FILES.store(true, Ordering::Relaxed);
    }
}

#[inline]
pub fn mapped(
    prot: c_int,
    flags: c_int,
    fd: c_int,
    real: impl FnOnce() -> *mut c_void,
) -> *mut c_void {
    let kind = flags & MAP_TYPE;
    let shares_file =
        (kind == MAP_SHARED || kind == MAP_SHARED_VALIDATE) && flags & MAP_ANONYMOUS == 0;
    if !shares_file {
        return real();
    }
    if kind == MAP_SHARED_VALIDATE && flags & libc::MAP_SYNC != 0 && lifecycle::is_server() {
        real::set_errno(libc::EOPNOTSUPP);
        return libc::MAP_FAILED;
    }
    if !SHARED_FILES.load(Ordering::Relaxed) && may_be_regular(fd) {
        SHARED_FILES.store(true, Ordering::Relaxed);
    }
    if prot & PROT_WRITE == 0 {
        return real();
    }
    map_writable(fd, real)
}

fn may_be_regular(fd: c_int) -> bool {
    capture::stat(fd).map_or(true, |stat| {
        stat.is_some_and(|stat| capture::is_regular(&stat))
    })
}

fn map_writable(fd: c_int, real: impl FnOnce() -> *mut c_void) -> *mut c_void {
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        return real();
    }
    recorded(&call, libc::MAP_FAILED, real, |capture, real| {
        if let (Some(address), Some(file)) = (real.run(), capture.file(fd))
            && address != libc::MAP_FAILED
        {
            capture.append(&Record::Opaque { file, mapped: true });
        }
    })
}

/// mprotect: from here on the caller may store to what it has mapped, be it for reading only so far. A call that fails may have done so to a part of it.
pub fn protected(
    address: *mut c_void,
    len: size_t,
    prot: c_int,
    real: impl FnOnce() -> c_int,
) -> c_int {
    match prot & PROT_WRITE {
        0 => real(),
        _ => stored(address, len, real),
    }
}

/// msync, by which the caller says that it has stored something, and what lets it store.
pub fn stored(address: *mut c_void, len: size_t, real: impl FnOnce() -> c_int) -> c_int {
    if !SHARED_FILES.load(Ordering::Relaxed) {
        return real();
    }
    let Some(call) = Call::enter() else {
        return real();
    };
    if call.idle() {
        return real();
    }
    recorded(&call, -1, real, |capture, real| {
        if real.run().is_some() {
            note_stored(capture, address as u64, len as u64);
        }
    })
}

fn note_stored(capture: &Capture<'_>, start: u64, len: u64) {
    let end = start.saturating_add(len);
    let seen = maps::each_mapping(|mapping| {
        if mapping.shared
            && mapping.writable
            && mapping.start < end
            && start < mapping.end
            && let Some(file) = mapping.file().filter(|file| capture.watches(*file))
        {
            capture.append(&Record::Opaque { file, mapped: true });
        }
    });
    if seen.is_none() {
        capture.lose(rustix::io::Errno::IO);
    }
}

unsafe extern "C" fn map_by_number(
    address: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off64_t,
) -> *mut c_void {
    let (address, len) = (address as c_long, len as c_long);
    let args = [address, len, prot.into(), flags.into(), fd.into(), offset];
    // SAFETY: the caller's arguments, unchanged.
    unsafe { syscall(libc::SYS_mmap, args) as *mut c_void }
}

unsafe extern "C" fn protect_by_number(address: *mut c_void, len: size_t, prot: c_int) -> c_int {
    let args = [address as c_long, len as c_long, prot.into(), 0, 0, 0];
    // SAFETY: the caller's arguments, unchanged.
    unsafe { syscall(libc::SYS_mprotect, args) as c_int }
}

hooks! {
    mmap = libc::mmap => map_by_number, mmap64 = libc::mmap64 => map_by_number:
    (address: *mut c_void, len: size_t, prot: c_int, flags: c_int, fd: c_int, offset: off64_t) -> *mut c_void, |real| {
        // SAFETY: the caller's arguments, unchanged.
        mapped(prot, flags, fd, || unsafe { real(address, len, prot, flags, fd, offset) })
    }

    mprotect = libc::mprotect => protect_by_number:
    (address: *mut c_void, len: size_t, prot: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        protected(address, len, prot, || unsafe { real(address, len, prot) })
    }
}

optional_hooks! {
    // Before glibc 2.27 libc does not have it.
    pkey_mprotect = c"pkey_mprotect":
    (address: *mut c_void, len: size_t, prot: c_int, key: c_int) -> c_int, |_real| {
        let args = [address as c_long, len as c_long, prot.into(), key.into(), 0, 0];
        // SAFETY: the caller's arguments, unchanged.
        protected(address, len, prot, || unsafe { syscall(libc::SYS_pkey_mprotect, args) } as c_int)
    }
}

cancellation_points! {
    msync = libc::msync:
    (address: *mut c_void, len: size_t, flags: c_int) -> c_int, |real| {
        // SAFETY: the caller's arguments, unchanged.
        stored(address, len, || unsafe { real(address, len, flags) })
    }
}
