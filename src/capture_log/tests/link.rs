//! Files in shared memory: only those of ours are opened, each refusal says what is wrong, and a control word is only
//! changed by whom it belongs to. The library's side is played by the test.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use tempfile::TempDir;

use crate::capture_log::layout::*;
use crate::capture_log::link::{is_running, rendezvous_name, segment_name, start_time_ticks};
use crate::capture_log::{Control, Link, LinkError, Mode, Record, Segment, shm};

const SESSION: u64 = 0x12_3456_789a_bcde;

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// A runtime directory in which this process has "loaded" the library.
struct Library {
    dir: TempDir,
    map: *mut u8,
}

impl Library {
    fn new() -> Library {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(rendezvous_name(std::process::id()));
        let file: OwnedFd = shm::create(&c_path(&path), RENDEZVOUS_LEN as u64).unwrap();
        let map = shm::map(&file, RENDEZVOUS_LEN).unwrap();
        let library = Library { dir, map };
        let pid = std::process::id();
        let rendezvous = library.rendezvous();
        rendezvous
            .protocol
            .store(PROTOCOL_VERSION, Ordering::Relaxed);
        rendezvous.pid.store(pid, Ordering::Relaxed);
        let start = start_time_ticks(pid).unwrap();
        rendezvous.start_time_ticks.store(start, Ordering::Relaxed);
        let (slots, aio_slots) = (FLIGHT_SLOT_COUNT as u32, AIO_SLOT_COUNT as u32);
        rendezvous.slot_count.store(slots, Ordering::Relaxed);
        rendezvous
            .aio_slot_count
            .store(aio_slots, Ordering::Relaxed);
        rendezvous.magic.store(RENDEZVOUS_MAGIC, Ordering::Release);
        library
    }

    fn rendezvous(&self) -> &Rendezvous {
        // SAFETY: mapped until `self` is dropped, page-aligned, all zero or atomics.
        unsafe { &*self.map.cast::<Rendezvous>() }
    }

    fn slot(&self, index: usize) -> &FlightSlot {
        // SAFETY: the mapping holds the whole table.
        let slots = unsafe { self.map.add(FLIGHT_SLOTS_OFFSET) }.cast::<FlightSlot>();
        // SAFETY: as above; `index` is below the table's length.
        unsafe { &*slots.add(index) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(rendezvous_name(std::process::id()))
    }

    fn open(&self) -> Result<Link, LinkError> {
        Link::open(self.dir.path(), std::process::id())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from `self` any more.
        unsafe { shm::unmap(self.map, RENDEZVOUS_LEN) };
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Ok(_) => panic!("Opened"),
            Err(error) => assert!(matches!(error, $pattern $(if $guard)?), "{error:?}: {error}"),
        }
    };
}

#[test]
fn a_process_without_the_library_is_named() {
    let dir = tempfile::tempdir().unwrap();
    refused!(
        Link::open(dir.path(), std::process::id()),
        LinkError::NotLoaded { .. }
    );
}

#[test]
fn a_process_that_does_not_exist_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    refused!(Link::open(dir.path(), u32::MAX - 1), LinkError::Io { .. });
}

#[test]
fn a_rendezvous_that_others_may_touch_is_not_trusted() {
    for mode in [0o644, 0o660, 0o606, 0o400, 0o700] {
        let library = Library::new();
        set_mode(&library.path(), mode);
        refused!(library.open(), LinkError::NotTrusted { .. });
    }
}

#[test]
fn a_rendezvous_of_another_user_is_not_trusted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let library = Library::new();
    std::os::unix::fs::chown(library.path(), Some(4242), None).unwrap();
    refused!(library.open(), LinkError::NotTrusted { .. });
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let library = Library::new();
    let elsewhere = library.dir.path().join("elsewhere");
    std::fs::rename(library.path(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, library.path()).unwrap();
    refused!(library.open(), LinkError::NotTrusted { .. });
}

#[test]
fn what_is_no_regular_file_is_refused_without_blocking() {
    let library = Library::new();
    std::fs::remove_file(library.path()).unwrap();
    std::fs::create_dir(library.path()).unwrap();
    refused!(library.open(), LinkError::Io { .. });
    std::fs::remove_dir(library.path()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, library.path(), kind, mode, 0).unwrap();
    refused!(library.open(), LinkError::NotTrusted { .. });
}

#[test]
fn a_rendezvous_that_is_too_short_is_never_read_past_its_end() {
    for len in [
        0,
        1,
        PAGE_SIZE as u64 - 1,
        PAGE_SIZE as u64,
        RENDEZVOUS_LEN as u64 - 1,
    ] {
        let library = Library::new();
        let bytes = std::fs::read(library.path()).unwrap();
        std::fs::remove_file(library.path()).unwrap();
        std::fs::write(library.path(), &bytes[..len as usize]).unwrap();
        set_mode(&library.path(), 0o600);
        refused!(
            library.open(),
            LinkError::Io { .. } | LinkError::Stale { .. }
        );
    }
}

#[test]
fn another_protocol_is_named() {
    let library = Library::new();
    library
        .rendezvous()
        .protocol
        .store(PROTOCOL_VERSION + 1, Ordering::Relaxed);
    refused!(library.open(), LinkError::OtherProtocol { found, .. } if found == PROTOCOL_VERSION + 1);
}

#[test]
fn a_rendezvous_of_an_earlier_process_with_this_pid_is_stale() {
    let library = Library::new();
    library
        .rendezvous()
        .start_time_ticks
        .fetch_sub(1, Ordering::Relaxed);
    refused!(library.open(), LinkError::Stale { .. });
}

#[test]
fn a_rendezvous_that_is_not_ready_is_stale() {
    let library = Library::new();
    library.rendezvous().magic.store(0, Ordering::Relaxed);
    refused!(library.open(), LinkError::Stale { .. });
}

#[test]
fn tables_of_another_size_are_refused() {
    let library = Library::new();
    library
        .rendezvous()
        .slot_count
        .store(u32::MAX, Ordering::Relaxed);
    refused!(library.open(), LinkError::Stale { .. });
}

#[test]
fn one_session_at_a_time() {
    let library = Library::new();
    let link = library.open().unwrap();
    let ours = Control::new(SESSION, Mode::Extents);
    link.switch(Control::IDLE, ours).unwrap();
    refused!(
        link.switch(Control::IDLE, Control::new(5, Mode::Extents)),
        LinkError::Busy {
            session: SESSION,
            ..
        }
    );
    assert!(!link.switch_off(5));
    assert_eq!(link.control(), ours);
    link.switch(ours, Control::new(SESSION, Mode::Payload))
        .unwrap();
    assert!(link.switch_off(SESSION));
    assert!(!link.switch_off(SESSION));
    assert_eq!(link.control(), Control::IDLE);
}

#[test]
fn a_session_that_the_library_switched_off_learns_it_at_its_next_switch() {
    let library = Library::new();
    let link = library.open().unwrap();
    let ours = Control::new(SESSION, Mode::Extents);
    link.switch(Control::IDLE, ours).unwrap();
    library
        .rendezvous()
        .control
        .word
        .store(0, Ordering::Relaxed);
    refused!(
        link.switch(ours, Control::new(SESSION, Mode::Payload)),
        LinkError::SwitchedOff { found: 0, .. }
    );
}

#[test]
fn a_mode_that_is_none_reads_as_idle() {
    for mode in 3..=255 {
        assert_eq!(Control(SESSION << 8 | mode).mode(), Mode::Idle);
    }
    assert_eq!(Control::new(SESSION, Mode::Payload).session(), SESSION);
    assert_eq!(Control::new(SESSION, Mode::Payload).mode(), Mode::Payload);
}

#[test]
fn a_refusal_counts_for_its_own_session_only() {
    let library = Library::new();
    let link = library.open().unwrap();
    library
        .rendezvous()
        .refused_errno
        .store(13, Ordering::Relaxed);
    library
        .rendezvous()
        .refused_session
        .store(SESSION, Ordering::Release);
    assert_eq!(link.refusal(SESSION), Some(13));
    assert_eq!(link.refusal(SESSION - 1), None);
}

#[test]
fn a_grace_period_past_its_bound_names_the_thread() {
    let library = Library::new();
    let link = library.open().unwrap();
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    library.slot(3).owner_tid.store(tid, Ordering::Relaxed);
    let entered = library.slot(3).enter(false);
    assert!(!link.is_quiet().unwrap());
    let error = link.grace(true, Duration::from_millis(5)).unwrap_err();
    assert!(
        error.to_string().contains(&format!("thread {tid}")),
        "{error}"
    );
    library.slot(3).leave(entered);
    link.grace(true, Duration::from_millis(5)).unwrap();
    assert!(link.is_quiet().unwrap());
}

#[test]
fn a_segment_is_private_whole_and_gone_with_its_session() {
    let library = Library::new();
    let link = library.open().unwrap();
    let segment = Segment::create(library.dir.path(), &link, SESSION, 5000, &[1, 2]).unwrap();
    let path = segment.path().to_path_buf();
    assert_eq!(
        path,
        library
            .dir
            .path()
            .join(segment_name(std::process::id(), SESSION))
    );
    assert_eq!(segment.capacity(), 8192);
    let meta = path.symlink_metadata().unwrap();
    assert_eq!((meta.mode() & 0o777, meta.len()), (0o600, 3 * 4096));
    assert!(meta.blocks() * 512 >= meta.len(), "not reserved");
    let position = segment.writer().append(&Record::Cut { id: 9 }).unwrap();
    assert_eq!((position, segment.reader().tail()), (0, 48));
    drop(segment);
    assert!(!path.exists());
}

#[test]
fn a_segment_is_never_made_over_something_that_is_there() {
    let library = Library::new();
    let link = library.open().unwrap();
    let path = library
        .dir
        .path()
        .join(segment_name(std::process::id(), SESSION));
    std::os::unix::fs::symlink("/nowhere/at/all", &path).unwrap();
    assert!(Segment::create(library.dir.path(), &link, SESSION, 4096, &[]).is_err());
    assert!(path.symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_log_without_room_names_its_length_and_leaves_nothing() {
    let library = Library::new();
    let link = library.open().unwrap();
    let made = Segment::create(library.dir.path(), &link, SESSION, 1 << 45, &[]);
    refused!(made, LinkError::NoRoom { .. });
    assert_eq!(std::fs::read_dir(library.dir.path()).unwrap().count(), 1);
}

#[test]
fn too_many_devices_are_refused() {
    let library = Library::new();
    let link = library.open().unwrap();
    let made = Segment::create(library.dir.path(), &link, SESSION, 4096, &[1; 33]);
    refused!(made, LinkError::TooManyDevices { count: 33 });
}

#[test]
fn a_file_shorter_than_asked_for_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = c_path(&dir.path().join("short"));
    shm::create(&path, 100).unwrap();
    assert_eq!(shm::open_trusted(&path, 0, 101).unwrap_err(), Errno::INVAL);
    shm::open_trusted(&path, 0, 100).unwrap();
}

#[test]
fn a_process_may_have_a_name_that_is_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir
        .path()
        .join(std::ffi::OsStr::from_bytes(b"a) R \xff\xfe"));
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut child = std::process::Command::new(&program)
        .arg("60")
        .spawn()
        .unwrap();
    let start = start_time_ticks(child.id());
    let is_running = start
        .as_ref()
        .is_ok_and(|start| is_running(child.id(), *start));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_running, "{start:?}");
}
