//! The file `hotmirror.<pid>`: made when a server starts, removed when it exits.
//!
//! A forked child makes its own from inside a hooked call, perhaps in a signal handler, so nothing here allocates or takes a lock.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::io::Write;

use engine::capture_log::layout::{
    AIO_SLOT_COUNT, FLIGHT_SLOT_COUNT, PAGE_SIZE, PROTOCOL_VERSION, RENDEZVOUS_LEN,
    RENDEZVOUS_MAGIC, Rendezvous,
};
use engine::capture_log::sync::Ordering;
use engine::capture_log::{grace, shm};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::EMBEDDED;
use crate::path::PathBuffer;

/// The runtime directory; written once, by the constructor.
struct RuntimeDir(UnsafeCell<PathBuffer>);
// SAFETY: only written before the process is live, when one thread runs.
unsafe impl Sync for RuntimeDir {}
static RUNTIME_DIR: RuntimeDir = RuntimeDir(UnsafeCell::new(PathBuffer::new()));

pub struct Made {
    pub address: *mut Rendezvous,
    pub pid: u32,
    pub membarrier: bool,
}

/// Keeps the directory's path; once, in the constructor.
pub fn remember_dir() {
    let dir = std::env::var_os(shm::RUNTIME_DIR_VARIABLE).filter(|dir| !dir.is_empty());
    // Servers change their working directory.
    let dir = dir.and_then(|dir| std::path::absolute(dir).ok());
    let dir = dir.as_deref().map_or(shm::RUNTIME_DIR.as_bytes(), |dir| {
        dir.as_os_str().as_encoded_bytes()
    });
    // SAFETY: only the constructor calls this.
    let kept = unsafe { &mut *RUNTIME_DIR.0.get() };
    if kept.push(dir).is_none() {
        let _ = kept.push(shm::RUNTIME_DIR.as_bytes());
    }
}

/// The path of `name` in the runtime directory.
pub fn push_path_of(name: &[u8], path: &mut PathBuffer) -> Option<()> {
    // SAFETY: not written any more.
    let dir = unsafe { &*RUNTIME_DIR.0.get() };
    path.push(dir.as_bytes())?;
    path.push(b"/")?;
    path.push(name)
}

fn own_path(pid: u32) -> Option<PathBuffer> {
    let mut path = PathBuffer::new();
    push_path_of(b"hotmirror.", &mut path)?;
    path.push_number(pid)?;
    Some(path)
}

fn own_pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

/// Makes and fills in the file, all but its magic.
pub fn create() -> Result<Made, Errno> {
    let pid = own_pid();
    let start_time_ticks = start_time_ticks().ok_or(Errno::NOENT)?;
    let base = match EMBEDDED {
        true => shm::map_private(RENDEZVOUS_LEN)?,
        false => map_named(pid)?,
    };
    let membarrier = grace::register_for_barrier();
    let address = base.cast::<Rendezvous>();
    fill_in(address, pid, start_time_ticks, membarrier);
    Ok(Made {
        address,
        pid,
        membarrier,
    })
}

fn map_named(pid: u32) -> Result<*mut u8, Errno> {
    let path = own_path(pid).ok_or(Errno::NAMETOOLONG)?;
    let file = create_file(path.as_c_str())?;
    shm::map(&file, RENDEZVOUS_LEN).inspect_err(|_| {
        let _ = rustix::fs::unlink(path.as_c_str());
    })
}

/// A file with our pid in its name was left by a process that had the pid before, or by this one before an exec.
fn create_file(path: &CStr) -> Result<rustix::fd::OwnedFd, Errno> {
    let len = RENDEZVOUS_LEN as u64;
    match shm::create(path, len) {
        Err(Errno::EXIST) => {
            shm::open_trusted(path, rustix::process::geteuid().as_raw(), 0)?;
            rustix::fs::unlink(path)?;
            shm::create(path, len)
        }
        result => result,
    }
}

fn fill_in(address: *mut Rendezvous, pid: u32, start_time_ticks: u64, membarrier: bool) {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    // SAFETY: the mapping is RENDEZVOUS_LEN long, and no one else looks at the field before the magic is there.
    let field = unsafe { &mut (*address).library_version };
    for (to, from) in field.iter_mut().zip(version) {
        *to = *from;
    }
    // SAFETY: mapped for good; the other fields are atomics.
    let rendezvous = unsafe { &*address };
    rendezvous
        .protocol
        .store(PROTOCOL_VERSION, Ordering::Relaxed);
    rendezvous.pid.store(pid, Ordering::Relaxed);
    rendezvous
        .start_time_ticks
        .store(start_time_ticks, Ordering::Relaxed);
    rendezvous
        .membarrier
        .store(membarrier.into(), Ordering::Relaxed);
    rendezvous
        .slot_count
        .store(FLIGHT_SLOT_COUNT as u32, Ordering::Relaxed);
    rendezvous
        .aio_slot_count
        .store(AIO_SLOT_COUNT as u32, Ordering::Relaxed);
}

/// Lets controllers see what [`create`] filled in.
pub fn announce(address: *mut Rendezvous) {
    // SAFETY: what `create` mapped, for good.
    let rendezvous = unsafe { &*address };
    rendezvous.magic.store(RENDEZVOUS_MAGIC, Ordering::Release);
}

/// Field 22 of /proc/self/stat.
fn start_time_ticks() -> Option<u64> {
    let file = rustix::fs::openat(
        CWD,
        c"/proc/self/stat",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut buffer = [0u8; PAGE_SIZE];
    let len = rustix::io::read(&file, &mut buffer[..]).ok()?;
    let stat = buffer.get(..len)?;
    // The name in field 2 may hold anything, blanks and brackets too; field 3 is two bytes behind its last bracket.
    let behind_name = stat.get(
        stat.iter()
            .rposition(|byte| *byte == b')')?
            .checked_add(2)?..,
    )?;
    let field = behind_name.split(|byte| *byte == b' ').nth(22 - 3)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

pub fn remove(pid: u32) {
    if let Some(path) = own_path(pid) {
        let _ = rustix::fs::unlink(path.as_c_str());
    }
}

/// The one line on the server's stderr: there will be no backups of it.
pub fn complain(errno: Errno) {
    let mut line = [0u8; 2 * crate::path::PATH_MAX];
    let mut rest = &mut line[..];
    let path = own_path(own_pid());
    let path = path.as_ref().map_or(&b"?"[..], PathBuffer::as_bytes);
    let _ = rest.write_all(b"hotmirror: Cannot create ");
    let _ = rest.write_all(path);
    let _ = writeln!(
        rest,
        ": {}; this server cannot be backed up until it is restarted",
        std::io::Error::from(errno)
    );
    let left = rest.len();
    let text = line.get(..line.len().saturating_sub(left)).unwrap_or(&[]);
    // SAFETY: only borrowed for this one write, which fails if the descriptor is closed.
    let stderr = unsafe { rustix::fd::BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
    let _ = rustix::io::write(stderr, text);
}
