//! What a process is to the library from its start to its end, through forks, a change of user, and everything that can be in the way.

mod driver;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use driver::{BOUND, Scratch, Session, Victim};
use engine::capture_log::layout;
use engine::capture_log::{Control, Link, LinkError, Mode, Record, Segment};

fn with_file(scratch: &Scratch) {
    std::fs::write(scratch.data().join("a"), [1u8; 100]).expect("Scratch is writable");
}

#[test]
fn a_server_has_a_rendezvous_from_start_to_exit() {
    let scratch = Scratch::new();
    let victim = Victim::start(&scratch);
    assert_eq!(
        scratch.runtime_files(),
        [format!("hotmirror.{}", victim.pid())]
    );
    let link = Link::open(&scratch.run(), victim.pid()).expect("It speaks our protocol");
    assert_eq!(link.library_version(), env!("CARGO_PKG_VERSION"));
    assert_eq!(link.control(), Control::IDLE);
    victim.end();
    assert!(scratch.runtime_files().is_empty());
}

#[test]
fn any_other_process_is_left_alone() {
    let scratch = Scratch::new();
    let mut command = Victim::command(&scratch);
    command.env_remove("HOTMIRROR_PROCESS");
    let mut victim = Victim::start_by(command);
    assert!(scratch.runtime_files().is_empty());
    for action in ["open n", "pwrite n 0 10 1", "rename n m", "unlink m"] {
        assert!(victim.act(action) >= 0, "{action}");
    }
    victim.end();
}

#[test]
fn an_allocator_may_begin_before_the_library() {
    let scratch = Scratch::new();
    let allocator = scratch.run().join("allocator.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/allocator.c");
    let built = Command::new("cc")
        .args([
            "-shared",
            "-fPIC",
            "-O1",
            "-fno-builtin",
            source,
            "-ldl",
            "-o",
        ])
        .arg(&allocator)
        .status()
        .expect("cc is installed");
    assert!(built.success());
    let preloaded = format!("{}:{}", driver::library().display(), allocator.display());
    let mut command = Victim::command(&scratch);
    let mut victim = Victim::start_by({
        command.env("LD_PRELOAD", &preloaded);
        command
    });
    with_file(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
    assert_eq!(victim.act("pwrite a 0 10 1"), 10);
    assert_eq!(session.drain().len(), 1);
    victim.end();
    // The same where the process is no server.
    let other = Command::new("/bin/true")
        .env("LD_PRELOAD", &preloaded)
        .status();
    assert!(other.expect("true is installed").success());
}

#[test]
fn the_list_of_names_is_separated_by_commas() {
    let scratch = Scratch::new();
    let mut command = Victim::command(&scratch);
    let name = command
        .get_program()
        .to_string_lossy()
        .rsplit('/')
        .next()
        .expect("A name")
        .to_string();
    command.env("HOTMIRROR_PROCESS", format!("mysqld,{name},other"));
    let victim = Victim::start_by(command);
    assert_eq!(scratch.runtime_files().len(), 1);
    victim.end();
}

#[test]
fn without_a_runtime_directory_the_server_runs_and_says_so_once() {
    let scratch = Scratch::new();
    let mut command = Victim::command(&scratch);
    command
        .env("HOTMIRROR_RUNTIME_DIR", "/proc/none")
        .stderr(Stdio::piped());
    let mut victim = Victim::start_by(command);
    with_file(&scratch);
    assert_eq!(victim.act("pwrite a 0 10 1"), 10);
    let mut stderr = victim.child.stderr.take().expect("Piped");
    victim.end();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut said).expect("Text");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("/proc/none/hotmirror.") && said.contains("No such file"),
        "{said}"
    );
}

#[test]
fn a_file_left_by_an_earlier_process_with_the_pid_is_replaced() {
    let scratch = Scratch::new();
    // The shell's pid becomes the victim's.
    let victim = Victim::command(&scratch);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(r#"umask 077; echo stale > "$HOTMIRROR_RUNTIME_DIR/hotmirror.$$"; export LD_PRELOAD="$LIB"; exec "$@""#);
    command
        .arg("sh")
        .arg(victim.get_program())
        .args(victim.get_args());
    for (name, value) in victim.get_envs() {
        let name = if name == "LD_PRELOAD" {
            "LIB".as_ref()
        } else {
            name
        };
        command.env(name, value.expect("Set"));
    }
    command
        .current_dir(scratch.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let victim = Victim::start_by(command);
    Link::open(&scratch.run(), victim.pid()).expect("It is a new one");
    victim.end();
}

#[test]
fn a_forked_child_gets_a_rendezvous_when_it_changes_a_file() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
    let child = victim.act("fork_write a") as u32;
    let file = scratch.data().join("a");
    let start = Instant::now();
    while file.metadata().expect("It exists").len() != 77 {
        assert!(start.elapsed() < BOUND);
        std::thread::yield_now();
    }
    // The child starts idle, and what it writes is not in its parent's log.
    let link = Link::open(&scratch.run(), child).expect("It has its own");
    assert_eq!(link.control(), Control::IDLE);
    assert!(session.drain().is_empty());
    assert_eq!(victim.act("pwrite a 0 10 1"), 10);
    assert_eq!(session.drain().len(), 1);
}

#[test]
fn a_child_that_ends_leaves_its_parents_rendezvous() {
    let scratch = Scratch::new();
    let mut victim = Victim::start(&scratch);
    assert_eq!(victim.act("fork_exit"), 0);
    assert_eq!(victim.act("fork_exec"), 0);
    assert_eq!(
        scratch.runtime_files(),
        [format!("hotmirror.{}", victim.pid())]
    );
    victim.end();
}

#[test]
fn a_server_that_gave_up_root_can_be_captured() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    with_file(&scratch);
    let file = scratch.data().join("a");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).expect("It is ours");
    for dir in [
        scratch.data(),
        scratch.run(),
        scratch.run().parent().expect("Scratch").into(),
    ] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).expect("It is ours");
    }
    let mut victim = Victim::start(&scratch);
    assert_eq!(victim.act("setuid 65534"), 0);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
    assert_eq!(victim.act("pwrite a 0 10 1"), 10);
    assert_eq!(session.link.refusal(1), None);
    assert_eq!(session.drain().len(), 1);
}

#[test]
fn a_segment_that_cannot_be_mapped_is_refused() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    let link = Link::open(&scratch.run(), victim.pid()).expect("The library is there");
    let segment = Segment::create(&scratch.run(), &link, 5, 1 << 20, &[]).expect("There is room");
    let name = segment
        .path()
        .file_name()
        .expect("A name")
        .to_string_lossy()
        .into_owned();
    for (session, announced, errno) in [
        (7, "hotmirror.none", libc::ENOENT),
        (8, "../hotmirror.x", libc::EINVAL),
        (9, name.as_str(), libc::EBADMSG),
    ] {
        link.announce(announced);
        link.switch(Control::IDLE, Control::new(session, Mode::Extents))
            .expect("Idle");
        assert_eq!(victim.act("pwrite a 0 10 1"), 10);
        assert_eq!(link.refusal(session), Some(errno));
        assert_eq!(link.control(), Control::IDLE);
    }
}

#[test]
fn a_full_log_ends_the_capture_and_nothing_else() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    let device =
        std::os::unix::fs::MetadataExt::dev(&scratch.data().metadata().expect("It exists"));
    let session = Session::begin_on(
        &scratch.run(),
        victim.pid(),
        3,
        Mode::Payload,
        &[device],
        4096,
    );
    for _ in 0..3 {
        assert_eq!(victim.act("pwrite a 0 3000 1"), 3000);
    }
    assert_eq!(
        session.segment.reader().lost().map(|(reason, _)| reason),
        Some(1)
    );
    assert_eq!(session.link.control(), Control::IDLE);
    assert_eq!(victim.act("pwrite a 0 3000 1"), 3000);
}

#[test]
fn one_session_follows_another() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    for id in 1..20 {
        let mut session = Session::begin(&scratch, victim.pid(), id, Mode::Extents);
        assert_eq!(victim.act("pwrite a 0 10 1"), 10);
        session.switch(id, Mode::Payload);
        assert_eq!(victim.act("pwrite a 0 10 1"), 10);
        session.switch(id, Mode::Idle);
        assert_eq!(victim.act("pwrite a 0 10 1"), 10);
        let taken = session.drain();
        let payloads: Vec<bool> = taken
            .iter()
            .map(|taken| {
                matches!(
                    taken.record(),
                    Record::Write {
                        payload: Some(_),
                        ..
                    }
                )
            })
            .collect();
        assert_eq!(payloads, [false, true]);
    }
}

#[test]
fn a_call_that_blocks_on_a_fifo_holds_up_no_grace_period() {
    let scratch = Scratch::new();
    let mut victim = Victim::start(&scratch);
    assert_eq!(victim.act("mkfifo f"), 0);
    for mode in [Mode::Idle, Mode::Extents] {
        let id = 1 + mode as u64;
        let session =
            (mode != Mode::Idle).then(|| Session::begin(&scratch, victim.pid(), id, mode));
        victim.tell("open_fifo f");
        wait_until_in_open(victim.pid());
        let link = Link::open(&scratch.run(), victim.pid()).expect("The library is there");
        link.grace(true, Duration::from_secs(1))
            .expect("The open is not registered");
        let _reader = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(scratch.data().join("f"));
        assert_eq!(victim.hear(), 0);
        drop(session);
        link.switch_off(id);
    }
}

/// Until a thread of the process sleeps in open or openat.
fn wait_until_in_open(pid: u32) {
    let start = Instant::now();
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("It runs");
        let calls = threads
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("syscall")).ok());
        let numbers = [libc::SYS_open, libc::SYS_openat].map(|number| format!("{number} "));
        if calls
            .into_iter()
            .any(|call| numbers.iter().any(|number| call.starts_with(number)))
        {
            return;
        }
        assert!(start.elapsed() < BOUND);
        std::thread::yield_now();
    }
}

#[test]
fn calls_in_a_signal_handler_do_not_wait_for_the_call_they_interrupt() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    let device = driver::file_id(&scratch.data()).device;
    for mode in [Mode::Extents, Mode::Payload] {
        let id = mode as u64;
        let mut session =
            Session::begin_on(&scratch.run(), victim.pid(), id, mode, &[device], 256 << 20);
        // Maps the segment: a call that interrupts the mapping would end the session.
        assert_eq!(victim.act("pwrite a 0 10 1"), 10);
        assert_eq!(victim.act(&format!("interrupted a {}", 300 * id)), 0);
        let taken = session.drain();
        let opaque = taken
            .iter()
            .filter(|taken| matches!(taken.record(), Record::Opaque { .. }))
            .count();
        assert!(
            opaque > 0,
            "{mode:?}: no signal came during a hooked call, of {} records",
            taken.len()
        );
        assert_eq!(session.link.refusal(id), None);
        // The signal is the process's: another thread of it may still be in the handler.
        let quiet = session.link.grace(true, Duration::from_secs(10));
        quiet.expect("A registration that ended with its call");
        session.switch(id, Mode::Idle);
    }
}

/// Gives every slot that is free an owner.
fn occupy_slots(scratch: &Scratch, pid: u32, owner: u32, sequence: u64) {
    let path = scratch.run().join(format!("hotmirror.{pid}"));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("It is ours");
    for index in 0..layout::FLIGHT_SLOT_COUNT {
        let at = (layout::FLIGHT_SLOTS_OFFSET + index * size_of::<layout::FlightSlot>()) as u64;
        let mut word = [0; 4];
        file.read_exact_at(&mut word, at + 8)
            .expect("It is long enough");
        if u32::from_ne_bytes(word) == 0 {
            file.write_all_at(&sequence.to_ne_bytes(), at)
                .expect("It is long enough");
            file.write_all_at(&owner.to_ne_bytes(), at + 8)
                .expect("It is long enough");
        }
    }
}

#[test]
fn a_thread_without_a_slot_is_counted_in_the_crowd() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    occupy_slots(&scratch, victim.pid(), std::process::id(), 0);
    let device = driver::file_id(&scratch.data()).device;
    let mut session = Session::begin_on(
        &scratch.run(),
        victim.pid(),
        1,
        Mode::Payload,
        &[device],
        256 << 20,
    );
    assert_eq!(victim.act("threads a 6 300"), 0);
    assert!(session.drain().len() > 1500);
    assert!(session.link.is_quiet().expect("A barrier"));
}

#[test]
fn the_slot_of_a_dead_thread_is_taken_over() {
    let scratch = Scratch::new();
    with_file(&scratch);
    let mut victim = Victim::start(&scratch);
    // No thread has this id; the owner died inside a call.
    occupy_slots(&scratch, victim.pid(), (1 << 22) + 1, 7);
    assert_eq!(victim.act("pwrite a 0 10 1"), 10);
    let path = scratch.run().join(format!("hotmirror.{}", victim.pid()));
    let bytes = std::fs::read(path).expect("It is ours");
    let slots = bytes[layout::FLIGHT_SLOTS_OFFSET..layout::AIO_SLOTS_OFFSET].chunks(64);
    let taken: Vec<u64> = slots
        .filter(|slot| slot[8..12] != ((1u32 << 22) + 1).to_ne_bytes())
        .map(|slot| u64::from_ne_bytes(slot[..8].try_into().expect("8 bytes")))
        .collect();
    assert_eq!(taken, [10]);
}

#[test]
fn a_second_session_finds_the_process_busy() {
    let scratch = Scratch::new();
    let victim = Victim::start(&scratch);
    let first = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    let second = first
        .link
        .switch(Control::IDLE, Control::new(2, Mode::Extents));
    assert!(matches!(second, Err(LinkError::Busy { session: 1, .. })));
}
