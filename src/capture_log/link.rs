//! The controller's end: finding the library in a process, and the segment of one session.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation};

use super::control::{Control, Mode};
use super::grace::{self, FlightTables, Flights};
use super::layout::*;
use super::memory::MappedRing;
use super::ring::{LogReader, LogWriter};
use super::shm;
use super::sync::Ordering;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("Process {pid} does not have the library loaded (no {path})")]
    NotLoaded { pid: u32, path: PathBuf },
    #[error("{path} is not a file of ours: {source}")]
    NotTrusted { path: PathBuf, source: io::Error },
    #[error("Cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "The library in process {pid} speaks protocol {found}, this program {PROTOCOL_VERSION}"
    )]
    OtherProtocol { pid: u32, found: u32 },
    #[error("{path} was left by an earlier process {pid}")]
    Stale { pid: u32, path: PathBuf },
    #[error("Session {session:014x} is on in process {pid}")]
    Busy { pid: u32, session: u64 },
    #[error(
        "Capture was switched off in process {pid} (control word {found:#x}, expected {expected:#x})"
    )]
    SwitchedOff { pid: u32, found: u64, expected: u64 },
    #[error("{under_way} of process {pid} did not end within {bound:?}")]
    Grace {
        pid: u32,
        under_way: String,
        bound: Duration,
    },
    #[error("Cannot reserve {len} bytes for the capture log in {dir}: {source}")]
    NoRoom {
        dir: PathBuf,
        len: u64,
        source: io::Error,
    },
    #[error("Cannot issue a memory barrier: {0}")]
    Barrier(io::Error),
    #[error("{count} devices to watch, at most {DEVICE_COUNT_MAX} are possible")]
    TooManyDevices { count: usize },
}

/// `HOTMIRROR_RUNTIME_DIR`, or /dev/shm.
pub fn runtime_dir() -> PathBuf {
    std::env::var_os(shm::RUNTIME_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(shm::RUNTIME_DIR), PathBuf::from)
}

/// File name of a process's rendezvous.
pub fn rendezvous_name(pid: u32) -> String {
    format!("hotmirror.{pid}")
}

/// File name of a session's segment.
pub fn segment_name(pid: u32, session: u64) -> String {
    format!("hotmirror.{pid}.{session:014x}")
}

/// Field `number`, counted from 1, of /proc/<pid>/stat: of those behind the name.
pub(crate) fn stat_field(stat: &[u8], number: usize) -> Option<&str> {
    // The name in field 2 may hold anything: blanks, brackets, and bytes that are no text.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let behind_name = std::str::from_utf8(stat.get(name_end + 2..)?).ok()?;
    behind_name.split(' ').nth(number.checked_sub(3)?)
}

/// Start time of a process in clock ticks since boot: field 22 of /proc/<pid>/stat.
pub fn start_time_ticks(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    stat_field(&stat, 22)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "No start time in stat"))
}

/// True if process `pid` is the one that started at `start_time_ticks`, and still has its memory (field 23): one that is ending, or that its parent has
/// not yet waited for, has none.
pub fn is_running(pid: u32, start_time_ticks: u64) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let number = |field| stat_field(&stat, field).and_then(|text| text.parse::<u64>().ok());
    number(22) == Some(start_time_ticks) && number(23) != Some(0)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// The rendezvous of one process, mapped.
pub struct Link {
    memory: Memory,
    /// None to the library in this process.
    file: Option<File>,
    path: PathBuf,
    pid: u32,
    uid: u32,
}

/// Where a rendezvous is.
enum Memory {
    Mapped(MmapRaw),
    /// The library is in this very process.
    Own(&'static Rendezvous),
}

impl Memory {
    fn base(&self) -> *mut u8 {
        match self {
            Memory::Mapped(map) => map.as_mut_ptr(),
            Memory::Own(rendezvous) => std::ptr::from_ref(*rendezvous).cast_mut().cast(),
        }
    }
}

impl Link {
    /// To the library in this process, which keeps its rendezvous, tables and all, to itself.
    pub fn to_self(rendezvous: &'static Rendezvous) -> Result<Link, LinkError> {
        let link = Link {
            memory: Memory::Own(rendezvous),
            file: None,
            path: "the library in this process".into(),
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
        };
        link.check(RENDEZVOUS_LEN)?;
        Ok(link)
    }

    /// Opens the rendezvous of `pid` in `dir`, checking that it is that process's and of our protocol.
    pub fn open(dir: &Path, pid: u32) -> Result<Link, LinkError> {
        let path = dir.join(rendezvous_name(pid));
        let io = |source| LinkError::Io {
            path: path.clone(),
            source,
        };
        let uid = std::os::unix::fs::MetadataExt::uid(
            &std::fs::metadata(format!("/proc/{pid}")).map_err(io)?,
        );
        let c_path = c_path(&path).map_err(io)?;
        let opened = shm::open_trusted(&c_path, uid, PAGE_SIZE as u64);
        let (file, stat) = match opened {
            Ok(opened) => opened,
            Err(rustix::io::Errno::NOENT) => return Err(LinkError::NotLoaded { pid, path }),
            Err(rustix::io::Errno::PERM | rustix::io::Errno::LOOP) => {
                let source = io::ErrorKind::PermissionDenied.into();
                return Err(LinkError::NotTrusted { path, source });
            }
            Err(errno) => return Err(io(errno.into())),
        };
        let file = File::from(file);
        let map = MmapOptions::new()
            .len(stat.st_size as usize)
            .map_raw(&file)
            .map_err(io)?;
        let link = Link {
            memory: Memory::Mapped(map),
            file: Some(file),
            path,
            pid,
            uid,
        };
        link.check(stat.st_size as usize)?;
        Ok(link)
    }

    /// Keeps other controllers from beginning a session for as long as this lives: between the look for one that is on and the switch lies a grace period, which is
    /// about the calls of the session before.
    pub fn claim(&self) -> Result<(), LinkError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            match errno {
                rustix::io::Errno::WOULDBLOCK => LinkError::Busy {
                    pid: self.pid,
                    session: self.control().session(),
                },
                errno => LinkError::Io {
                    path: self.path.clone(),
                    source: errno.into(),
                },
            }
        })
    }

    fn check(&self, len: usize) -> Result<(), LinkError> {
        let rendezvous = self.rendezvous();
        let stale = || LinkError::Stale {
            pid: self.pid,
            path: self.path.clone(),
        };
        if rendezvous.magic.load(Ordering::Acquire) != RENDEZVOUS_MAGIC {
            return Err(stale());
        }
        let found = rendezvous.protocol.load(Ordering::Relaxed);
        if found != PROTOCOL_VERSION {
            return Err(LinkError::OtherProtocol {
                pid: self.pid,
                found,
            });
        }
        let start = start_time_ticks(self.pid).map_err(|source| LinkError::Io {
            path: self.path.clone(),
            source,
        })?;
        let same = rendezvous.start_time_ticks.load(Ordering::Relaxed) == start
            && rendezvous.pid.load(Ordering::Relaxed) == self.pid
            && rendezvous.slot_count.load(Ordering::Relaxed) as usize == FLIGHT_SLOT_COUNT
            && rendezvous.aio_slot_count.load(Ordering::Relaxed) as usize == AIO_SLOT_COUNT
            && len >= RENDEZVOUS_LEN;
        if same { Ok(()) } else { Err(stale()) }
    }

    fn rendezvous(&self) -> &Rendezvous {
        // SAFETY: at least a page is mapped for as long as `self` lives, page-aligned; every field is an atomic but the
        // version, which the library wrote before the magic.
        unsafe { &*self.memory.base().cast::<Rendezvous>() }
    }

    fn tables(&self) -> FlightTables<'_> {
        let base = self.memory.base();
        // SAFETY: `check` saw that the mapping holds both tables.
        let slots = unsafe { base.add(FLIGHT_SLOTS_OFFSET) }.cast::<FlightSlot>();
        // SAFETY: as above.
        let aio_slots = unsafe { base.add(AIO_SLOTS_OFFSET) }.cast::<AioSlot>();
        FlightTables {
            // SAFETY: as above; the slots are atomics.
            slots: unsafe { std::slice::from_raw_parts(slots, FLIGHT_SLOT_COUNT) },
            // SAFETY: as above.
            aio_slots: unsafe { std::slice::from_raw_parts(aio_slots, AIO_SLOT_COUNT) },
            crowd: &self.rendezvous().crowd,
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Effective user of the process.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn library_version(&self) -> String {
        let bytes = self.rendezvous().library_version;
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    pub fn control(&self) -> Control {
        Control(self.rendezvous().control.word.load(Ordering::SeqCst))
    }

    /// The errno with which the library could not map `session`, if so.
    pub fn refusal(&self, session: u64) -> Option<i32> {
        let rendezvous = self.rendezvous();
        (rendezvous.refused_session.load(Ordering::Acquire) == session)
            .then(|| rendezvous.refused_errno.load(Ordering::Relaxed) as i32)
    }

    /// Tells the library which segment a session uses; before the mode that names the session.
    pub fn announce(&self, name: &str) {
        let mut bytes = [0u8; NAME_LEN];
        let len = name.len().min(NAME_LEN - 1);
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        for (word, chunk) in self
            .rendezvous()
            .session_name
            .iter()
            .zip(bytes.chunks_exact(8))
        {
            word.store(
                u64::from_ne_bytes(chunk.try_into().expect("8 bytes")),
                Ordering::Relaxed,
            );
        }
    }

    /// Changes the control word, if it still is what this session last set it to.
    pub fn switch(&self, from: Control, to: Control) -> Result<(), LinkError> {
        let word = &self.rendezvous().control.word;
        match word.compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Ok(()),
            Err(found) if from == Control::IDLE => Err(LinkError::Busy {
                pid: self.pid,
                session: Control(found).session(),
            }),
            Err(found) => Err(LinkError::SwitchedOff {
                pid: self.pid,
                found,
                expected: from.0,
            }),
        }
    }

    /// Switches `session` off in whatever mode it is; true if it was on.
    pub fn switch_off(&self, session: u64) -> bool {
        let control = self.control();
        control.mode() != Mode::Idle
            && control.session() == session
            && (self.switch(control, Control::IDLE).is_ok() || self.switch_off(session))
    }

    /// The fence of the controller's side; see [`super::grace`].
    pub fn barrier(&self) -> Result<(), LinkError> {
        if self.rendezvous().membarrier.load(Ordering::Relaxed) == 0 {
            super::sync::fence(Ordering::SeqCst);
            return Ok(());
        }
        grace::barrier().map_err(LinkError::Barrier)
    }

    /// Waits until every call that is under way now has landed. `aio`: asynchronous writes too.
    pub fn grace(&self, aio: bool, bound: Duration) -> Result<(), LinkError> {
        self.barrier()?;
        self.tables()
            .wait(aio, bound)
            .map_err(|flights| LinkError::Grace {
                pid: self.pid,
                under_way: self.describe(&flights),
                bound,
            })
    }

    /// True if nothing is under way: no hooked call, no asynchronous write. Exact while the process is stopped.
    pub fn is_quiet(&self) -> Result<bool, LinkError> {
        self.barrier()?;
        Ok(self.tables().under_way(true).is_empty())
    }

    /// Names the threads and the calls that they are in, from /proc.
    fn describe(&self, flights: &Flights) -> String {
        let mut parts: Vec<String> = flights
            .thread_slots()
            .take(4)
            .map(|index| {
                let tid = self.tables().slots[index].owner_tid.load(Ordering::Relaxed);
                let read = |name: &str| {
                    std::fs::read_to_string(format!("/proc/{}/task/{tid}/{name}", self.pid))
                        .map_or_else(|_| "?".into(), |text| text.trim().to_string())
                };
                let call = read("syscall");
                let number = call.split(' ').next().unwrap_or("?");
                format!("thread {tid} ({}, system call {number})", read("comm"))
            })
            .collect();
        let more = flights.thread_slots().count().saturating_sub(parts.len());
        if more > 0 {
            parts.push(format!("{more} more threads"));
        }
        if flights.aio_count() > 0 {
            parts.push(format!("{} asynchronous writes", flights.aio_count()));
        }
        if parts.is_empty() {
            parts.push("a call".into());
        }
        parts.join(", ")
    }
}

fn check_devices(devices: &[u64]) -> Result<(), LinkError> {
    let count = devices.len();
    match count <= DEVICE_COUNT_MAX {
        true => Ok(()),
        false => Err(LinkError::TooManyDevices { count }),
    }
}

fn segment_len(capacity: u64) -> u64 {
    RING_OFFSET as u64 + capacity.next_multiple_of(PAGE_SIZE as u64)
}

/// Writes to every page. A page that is only reserved is cleared by whoever touches it first, which would be the server, and one by one: the kernel maps the
/// pages around one that is read as well, but only those that have content.
fn give_content(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for at in (0..len).step_by(zeros.len()) {
        let rest = usize::try_from(len - at).unwrap_or(usize::MAX);
        file.write_all_at(&zeros[..rest.min(zeros.len())], at)?;
    }
    Ok(())
}

fn no_room(dir: &Path, len: u64) -> impl Fn(rustix::io::Errno) -> LinkError {
    let dir = dir.to_path_buf();
    move |errno| LinkError::NoRoom {
        dir: dir.clone(),
        len,
        source: errno.into(),
    }
}

/// The segment of one session; removed when dropped.
pub struct Segment {
    map: MmapRaw,
    file: File,
    /// Empty: the segment has no name.
    path: PathBuf,
    capacity: u64,
}

impl Segment {
    /// Makes the segment for `session`: reserved, readable by the process behind `link`, watching `devices`.
    pub fn create(
        dir: &Path,
        link: &Link,
        session: u64,
        capacity: u64,
        devices: &[u64],
    ) -> Result<Segment, LinkError> {
        check_devices(devices)?;
        let path = dir.join(segment_name(link.pid, session));
        let len = segment_len(capacity);
        let c_path = c_path(&path).map_err(|source| LinkError::Io {
            path: path.clone(),
            source,
        })?;
        let file = shm::create(&c_path, len).map_err(no_room(dir, len))?;
        let segment = Segment::fill_in(file.into(), path, session, len, devices)?;
        segment.hand_over(link.uid)?;
        Ok(segment)
    }

    /// Makes a segment that has no name, for the library in this process.
    pub fn create_private(
        session: u64,
        capacity: u64,
        devices: &[u64],
    ) -> Result<Segment, LinkError> {
        check_devices(devices)?;
        let len = segment_len(capacity);
        let file = shm::create_unnamed(len).map_err(no_room(Path::new("memory"), len))?;
        Segment::fill_in(file.into(), PathBuf::new(), session, len, devices)
    }

    fn fill_in(
        file: File,
        path: PathBuf,
        session: u64,
        len: u64,
        devices: &[u64],
    ) -> Result<Segment, LinkError> {
        let io = |source| LinkError::Io {
            path: path.clone(),
            source,
        };
        let capacity = len - RING_OFFSET as u64;
        give_content(&file, len).map_err(io)?;
        let map = MmapOptions::new()
            .len(len as usize)
            .map_raw(&file)
            .map_err(io)?;
        let segment = Segment {
            map,
            file,
            path,
            capacity,
        };
        let header = segment.header();
        header.protocol.store(PROTOCOL_VERSION, Ordering::Relaxed);
        header
            .device_count
            .store(devices.len() as u32, Ordering::Relaxed);
        header.session.store(session, Ordering::Relaxed);
        header.capacity.store(capacity, Ordering::Relaxed);
        for (slot, device) in header.devices.iter().zip(devices) {
            slot.store(*device, Ordering::Relaxed);
        }
        header.magic.store(SEGMENT_MAGIC, Ordering::Release);
        Ok(segment)
    }

    /// Gives the file to the server's user, if root made it for somebody else.
    fn hand_over(&self, uid: u32) -> Result<(), LinkError> {
        if rustix::process::geteuid().as_raw() == uid {
            return Ok(());
        }
        std::os::unix::fs::fchown(self.file.as_fd(), Some(uid), None).map_err(|source| {
            LinkError::Io {
                path: self.path.clone(),
                source,
            }
        })
    }

    fn header(&self) -> &SegmentHeader {
        // SAFETY: the mapping is longer than a page, page-aligned, and lives as long as `self`; every field is an atomic.
        unsafe { &*self.map.as_mut_ptr().cast::<SegmentHeader>() }
    }

    fn ring(&self) -> MappedRing {
        // SAFETY: the segment is one page longer than the capacity.
        let base = unsafe { self.map.as_mut_ptr().add(RING_OFFSET) };
        // SAFETY: mapped, reserved, and alive as long as `self`, from which the reader and writer borrow.
        unsafe { MappedRing::new(base, self.capacity as usize) }
    }

    pub fn reader(&self) -> LogReader<'_, MappedRing> {
        LogReader::new(self.header(), self.ring())
    }

    /// For the controller's own records: Cut.
    pub fn writer(&self) -> LogWriter<'_, MappedRing> {
        LogWriter::new(self.header(), self.ring())
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the ring's memory back although the server keeps it mapped until its next session. Only after a grace period in
    /// Idle: then no hooked call refers to it any more.
    pub fn release_memory(&self) {
        Segment::release_memory_of(&self.file);
    }

    /// The same, for a segment that another controller left.
    pub fn release_memory_of(file: &File) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        if len > RING_OFFSET as u64 {
            let len = len - RING_OFFSET as u64;
            let _ = rustix::fs::fallocate(file, flags, RING_OFFSET as u64, len);
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
