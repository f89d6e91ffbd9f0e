//! Each call and spelling leaves the record that tells what it did.

mod driver;

use std::collections::HashMap;
use std::path::Path;

use driver::{Scratch, Session, Taken, Victim, file_id};
use engine::capture_log::{FileId, LostReason, Mode, Record};

/// Files that actions can name.
fn prepare(scratch: &Scratch) -> HashMap<FileId, String> {
    let data = scratch.data();
    for (name, len) in [("a", 8192), ("b", 4096), ("c", 0)] {
        std::fs::write(data.join(name), vec![1u8; len]).expect("Scratch is writable");
    }
    std::fs::create_dir(data.join("d")).expect("Scratch is writable");
    ["a", "b", "c", "d"]
        .map(|name| (file_id(&data.join(name)), name.to_string()))
        .into()
}

/// A record as a line of text, files by the name that they had first, paths relative to `root`.
fn line(taken: &Taken, names: &HashMap<FileId, String>, root: &Path) -> String {
    let name = |file: FileId| names.get(&file).cloned().unwrap_or_else(|| "new".into());
    let relative = |path: &[u8]| {
        let path = std::str::from_utf8(path).expect("Text").to_string();
        let root = format!("{}/", root.display());
        path.strip_prefix(&root)
            .map_or_else(|| path.clone(), str::to_string)
    };
    match taken.record() {
        Record::Write {
            file,
            offset,
            len,
            payload,
        } => {
            let payload = payload.map_or(String::new(), |bytes| {
                assert_eq!(bytes.len() as u64, len);
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                format!(" of {}", bytes[0])
            });
            format!("write {} {offset}+{len}{payload}", name(file))
        }
        Record::Truncate { file, len } => format!("truncate {} {len}", name(file)),
        Record::Allocate {
            file,
            offset,
            len,
            keep_size,
        } => {
            format!(
                "allocate {} {offset}+{len}{}",
                name(file),
                if keep_size { " keep" } else { "" }
            )
        }
        Record::Punch { file, offset, len } => format!("punch {} {offset}+{len}", name(file)),
        Record::Zero {
            file,
            offset,
            len,
            keep_size,
        } => {
            format!(
                "zero {} {offset}+{len}{}",
                name(file),
                if keep_size { " keep" } else { "" }
            )
        }
        Record::Create {
            file,
            path,
            attributes,
            fresh,
        } => {
            let kind = if fresh { "create" } else { "found" };
            format!(
                "{kind} {} {} {:o}",
                name(file),
                relative(path),
                attributes.mode
            )
        }
        Record::Rename {
            file,
            from,
            to,
            replaced,
            exchange,
            directory,
        } => {
            let mut text = format!("rename {} {} {}", name(file), relative(from), relative(to));
            if let Some(replaced) = replaced {
                text += &format!(" over {}", name(replaced));
            }
            text + if exchange { " exchange" } else { "" }
                + if directory { " directory" } else { "" }
        }
        Record::Unlink { file, path } => format!("unlink {} {}", name(file), relative(path)),
        Record::Link { file, path } => format!("link {} {}", name(file), relative(path)),
        Record::Symlink { path, target, .. } => {
            format!(
                "symlink {} to {}",
                relative(path),
                String::from_utf8_lossy(target)
            )
        }
        Record::Mkdir {
            path, attributes, ..
        } => format!("mkdir {} {:o}", relative(path), attributes.mode),
        Record::Rmdir { file, path } => format!("rmdir {} {}", name(file), relative(path)),
        Record::Opaque { file, mapped } => {
            format!(
                "opaque {}{}",
                name(file),
                if mapped { " mapped" } else { "" }
            )
        }
        Record::Rescan => "rescan".into(),
        Record::Cut { id } => format!("cut {id}"),
    }
}

/// Makes `action` in a fresh directory and gives its records, one line each.
fn records_of(actions: &[&str], mode: Mode) -> Vec<String> {
    let scratch = Scratch::new();
    let names = prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let (last, before) = actions.split_last().expect("At least one");
    for action in before {
        assert!(victim.act(action) >= 0, "{action}");
    }
    let mut session = Session::begin(&scratch, victim.pid(), 1, mode);
    let result = victim.act(last);
    assert!(
        result >= 0,
        "{last}: {}",
        std::io::Error::from_raw_os_error(-result as i32)
    );
    assert!(session.link.is_quiet().expect("A barrier"));
    let lines = session
        .drain()
        .iter()
        .map(|taken| line(taken, &names, &scratch.data()))
        .collect();
    session.switch(1, Mode::Idle);
    victim.end();
    lines
}

/// Checks (action, records in Extents mode, records in Payload mode).
fn check(cases: &[(&str, &str, &str)]) {
    for (action, extents, payload) in cases {
        let actions: Vec<&str> = action.split("; ").collect();
        assert_eq!(
            records_of(&actions, Mode::Extents).join(", "),
            *extents,
            "{action}, Extents"
        );
        assert_eq!(
            records_of(&actions, Mode::Payload).join(", "),
            *payload,
            "{action}, Payload"
        );
    }
}

/// Checks actions whose records are the same in both modes.
fn check_same(cases: &[(&str, &str)]) {
    let cases: Vec<_> = cases
        .iter()
        .map(|(action, records)| (*action, *records, *records))
        .collect();
    check(&cases);
}

#[test]
fn a_write_at_an_offset_is_its_range_and_then_its_bytes() {
    let calls = [
        "pwrite",
        "pwrite64",
        "pwritev",
        "pwritev64",
        "pwritev2",
        "pwritev64v2",
        "sys_pwrite64",
        "sys_pwritev",
        "sys_pwritev2",
    ];
    for call in calls {
        check(&[(
            &format!("{call} a 10 3000 7"),
            "write a 10+3000",
            "write a 10+3000 of 7",
        )]);
    }
}

#[test]
fn a_write_at_the_position_is_found_where_it_went() {
    for call in [
        "write",
        "writev",
        "sys_write",
        "sys_writev",
        "pwritev2_position",
    ] {
        check(&[(
            &format!("{call} a 5000 100 8"),
            "write a 5000+100",
            "write a 5000+100 of 8",
        )]);
    }
}

#[test]
fn an_appending_write_is_at_the_old_end() {
    for call in ["append", "pwrite_append", "pwritev2_append"] {
        check(&[(
            &format!("{call} a 5 100 9"),
            "write a 8192+100",
            "write a 8192+100 of 9",
        )]);
    }
}

#[test]
fn a_change_of_size_is_itself() {
    check_same(&[
        ("ftruncate a 100", "truncate a 100"),
        ("ftruncate64 a 100000", "truncate a 100000"),
        ("truncate a 5", "truncate a 5"),
        ("truncate64 a 5", "truncate a 5"),
        ("sys_truncate a 6", "truncate a 6"),
        ("sys_ftruncate a 6", "truncate a 6"),
        ("fallocate a 0 8000 1000", "allocate a 8000+1000"),
        ("fallocate64 a 1 8000 1000", "allocate a 8000+1000 keep"),
        ("fallocate a 3 0 4096", "punch a 0+4096"),
        ("fallocate a 16 0 4096", "zero a 0+4096"),
        ("fallocate a 17 0 4096", "zero a 0+4096 keep"),
        ("fallocate a 8 0 4096", "opaque a"),
        ("sys_fallocate a 0 0 9000", "allocate a 0+9000"),
        ("posix_fallocate a 0 9000", "allocate a 0+9000"),
        ("posix_fallocate64 a 1 9000", "allocate a 1+9000"),
    ]);
}

#[test]
fn an_open_that_makes_a_file_is_a_creation() {
    for call in [
        "open",
        "open64",
        "openat",
        "openat64",
        "open_excl",
        "creat",
        "creat64",
        "sys_open",
        "sys_openat",
        "sys_creat",
    ] {
        check_same(&[(&format!("{call} d/n"), "create new d/n 640")]);
    }
}

#[test]
fn an_open_of_what_is_there_changes_nothing_unless_it_empties() {
    check_same(&[
        ("open a", ""),
        ("openat64 a", ""),
        ("open_trunc a", "truncate a 0"),
        ("creat a", "truncate a 0"),
        ("sys_creat a", "truncate a 0"),
        ("symlink d/n d/l; open a", ""),
    ]);
}

#[test]
fn a_creation_through_a_symbolic_link_names_the_target() {
    check_same(&[
        ("symlink ../d/n d/l; open d/l", "create new d/n 640"),
        ("chdir d; open ../n", "create new n 640"),
    ]);
}

#[test]
fn a_temporary_file_is_a_creation() {
    let calls = [
        "mkstemp t/XXXXXX",
        "mkstemp64 t/XXXXXX",
        "mkostemp t/XXXXXX",
        "mkostemp64 t/XXXXXX",
    ];
    let with_suffix = [
        "mkstemps t/XXXXXX.n",
        "mkstemps64 t/XXXXXX.n",
        "mkostemps t/XXXXXX.n",
        "mkostemps64 t/XXXXXX.n",
    ];
    for call in calls.iter().chain(&with_suffix) {
        let records = records_of(&["mkdir t", call], Mode::Payload).join(", ");
        assert!(
            records.starts_with("create new t/") && records.ends_with(" 600"),
            "{call}: {records}"
        );
    }
}

#[test]
fn an_unnamed_file_appears_when_it_is_linked() {
    check_same(&[("open_tmpfile d/n", "link new d/n, opaque new")]);
}

#[test]
fn names_are_absolute_and_resolved() {
    for call in [
        "rename",
        "renameat",
        "renameat2",
        "sys_rename",
        "sys_renameat",
        "sys_renameat2",
    ] {
        check_same(&[
            (&format!("{call} a d/n"), "rename a a d/n"),
            (&format!("{call} a b"), "rename a a b over b"),
            (&format!("{call} ./d/../a .//d//n"), "rename a a d/n"),
            (&format!("{call} d e"), "rename d d e directory"),
            (&format!("{call} d/ e/"), "rename d d e directory"),
        ]);
    }
    check_same(&[
        ("exchange a b", "rename a a b over b exchange"),
        ("noreplace a d/n", "rename a a d/n"),
        ("link a n; rename a n", ""),
        ("rename a a", ""),
    ]);
}

#[test]
fn a_removal_names_what_was_there() {
    for call in ["unlink", "unlinkat", "remove", "sys_unlink", "sys_unlinkat"] {
        check_same(&[(&format!("{call} d/../a"), "unlink a a")]);
    }
    for call in ["rmdir", "removedir", "remove", "sys_rmdir"] {
        check_same(&[
            (&format!("{call} d"), "rmdir d d"),
            (&format!("{call} d/"), "rmdir d d"),
        ]);
    }
}

#[test]
fn a_new_name_is_a_link_a_symlink_or_a_directory() {
    for call in ["link", "linkat", "sys_link", "sys_linkat"] {
        check_same(&[(&format!("{call} a d/n"), "link a d/n")]);
    }
    for call in ["symlink", "symlinkat", "sys_symlink", "sys_symlinkat"] {
        check_same(&[(&format!("{call} ../a d/n"), "symlink d/n to ../a")]);
    }
    for call in ["mkdir", "mkdirat", "sys_mkdir", "sys_mkdirat"] {
        check_same(&[
            (&format!("{call} d/n"), "mkdir d/n 751"),
            (&format!("{call} d/n/"), "mkdir d/n 751"),
        ]);
    }
    let made = records_of(&["mkdtemp d/XXXXXX"], Mode::Extents).join(", ");
    assert!(
        made.starts_with("mkdir d/") && made.ends_with(" 700"),
        "{made}"
    );
}

#[test]
fn a_copy_in_the_kernel_is_a_range_without_bytes() {
    for call in ["sendfile", "sendfile64", "copy_file_range"] {
        check(&[(&format!("{call} b a 100 50"), "write a 100+50", "opaque a")]);
    }
    check_same(&[("splice b a 100 50", "opaque a")]);
}

#[test]
fn a_stream_makes_its_file_suspect() {
    check_same(&[
        ("fopen d/n", "create new d/n 644, opaque new, opaque new"),
        ("fopen a", "truncate a 0, opaque a, opaque a"),
        ("fopen64 a", "opaque a, opaque a"),
        ("freopen d/n", "create new d/n 644, opaque new, opaque new"),
        ("freopen64 a", "truncate a 0, opaque a, opaque a"),
        ("fdopen a", "opaque a, opaque a, opaque a"),
        ("fopen_read a", ""),
    ]);
}

#[test]
fn a_stream_that_is_opened_anew_without_a_path_makes_its_file_suspect() {
    // By the reopening, a flush and the close.
    check_same(&[("freopen_read a", "opaque a, opaque a, opaque a")]);
}

#[test]
fn a_writable_shared_mapping_makes_its_file_suspect() {
    for call in [
        "mmap",
        "mmap64",
        "sys_mmap",
        "mprotect",
        "pkey_mprotect",
        "sys_mprotect",
    ] {
        check_same(&[(&format!("{call} a"), "opaque a mapped, opaque a mapped")]);
    }
    check_same(&[("mmap_private a", ""), ("mprotect_private a", "")]);
}

#[test]
fn memory_that_an_allocator_makes_writable_is_looked_at_only_where_files_are_shared() {
    for shared in [false, true] {
        let scratch = Scratch::new();
        prepare(&scratch);
        let mut victim = Victim::start(&scratch);
        if shared {
            assert_eq!(victim.act("mmap a"), 0);
        }
        let session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
        // The session is mapped by the first call that it concerns.
        assert_eq!(victim.act("pwrite a 0 10 1"), 10);
        assert_eq!(victim.act("no_more_files"), 0);
        // To look takes a descriptor.
        assert_eq!(victim.act("mprotect_anonymous"), 0);
        assert_eq!(session.segment.reader().lost().is_some(), shared);
    }
}

#[test]
fn an_asynchronous_write_is_noted_when_it_is_fetched() {
    for submit in ["aio_submit", "aio_submitv", "sys_aio_submit"] {
        for fetch in ["aio_fetch", "aio_pfetch", "sys_aio_fetch"] {
            // Submitted before the session began: the descriptor could be another file's.
            let actions = format!("{submit} a 100 50 7; {fetch}");
            check(&[(&actions, "write a 100+50", "opaque a")]);
        }
    }
    check_same(&[("aio_submit_append a 0 50 7; aio_fetch", "opaque a")]);
}

#[test]
fn a_grace_period_waits_for_asynchronous_writes_of_the_session() {
    let scratch = Scratch::new();
    let names = prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    assert_eq!(victim.act("aio_submit a 0 50 7"), 1);
    assert!(!session.link.is_quiet().expect("A barrier"));
    assert!(
        session
            .link
            .grace(true, std::time::Duration::from_millis(20))
            .is_err()
    );
    session.switch(1, Mode::Payload);
    assert_eq!(victim.act("aio_fetch"), 50);
    session.link.grace(true, driver::BOUND).expect("It is done");
    assert_eq!(
        line(&session.drain()[0], &names, &scratch.data()),
        "write a 0+50 of 7"
    );
    // Submitted in the session, fetched after it: the table is clear all the same.
    assert_eq!(victim.act("aio_submit a 0 50 7"), 1);
    session.switch(1, Mode::Idle);
    assert_eq!(victim.act("aio_fetch"), 50);
    assert!(session.link.is_quiet().expect("A barrier"));
}

#[test]
fn an_asynchronous_write_is_noted_as_it_was_submitted() {
    for mode in [Mode::Extents, Mode::Payload] {
        let scratch = Scratch::new();
        let names = prepare(&scratch);
        let mut victim = Victim::start(&scratch);
        let mut session = Session::begin(&scratch, victim.pid(), 1, mode);
        let bytes = match mode {
            Mode::Payload => " of 7",
            _ => "",
        };
        let written = format!("write a 100+50{bytes}");
        for (submit, expected) in [
            ("aio_submit_reused a 100 50 7", written.as_str()),
            ("aio_submitv_reused a 100 50 7", written.as_str()),
            ("aio_submit_rwf_append a 0 50 7", "opaque a"),
        ] {
            assert_eq!(victim.act(submit), 1, "{submit}");
            assert_eq!(victim.act("aio_fetch"), 50, "{submit}");
            let taken = session.drain();
            assert_eq!(
                line(&taken[0], &names, &scratch.data()),
                expected,
                "{submit}"
            );
        }
    }
}

#[test]
fn the_bytes_of_an_asynchronous_write_are_not_noted_for_an_inode_that_may_be_another_files() {
    for (actions, expected) in [
        (&["aio_submit a 0 50 7", "unlink a"][..], "unlink a a"),
        (
            &["aio_submit a 0 50 7", "rename b a"],
            "rename b b a over a",
        ),
        (&["aio_submit_unnamed a 0 50 7"], "unlink a a"),
    ] {
        let scratch = Scratch::new();
        let names = prepare(&scratch);
        let mut victim = Victim::start(&scratch);
        let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
        for action in actions {
            assert!(victim.act(action) >= 0, "{action}");
        }
        // Of another file, which keeps its name.
        assert_eq!(victim.act("aio_submit c 0 50 8"), 1);
        assert_eq!(victim.act("aio_fetch"), 50);
        let taken = session.drain();
        let lines = taken
            .iter()
            .map(|taken| line(taken, &names, &scratch.data()));
        let expected = [expected, "opaque a", "write c 0+50 of 8"];
        assert_eq!(lines.collect::<Vec<_>>(), expected, "{actions:?}");
        // Nor does the slot remember it.
        assert_eq!(victim.act("aio_submit c 0 50 8"), 1);
        assert_eq!(victim.act("aio_fetch"), 50);
        let last = line(&session.drain()[0], &names, &scratch.data());
        assert_eq!(last, "write c 0+50 of 8");
    }
}

#[test]
fn a_session_with_an_older_write_to_a_descriptor_that_is_closed_is_lost() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    assert_eq!(victim.act("aio_submit a 0 50 7"), 1);
    assert_eq!(victim.act("aio_close"), 0);
    let session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    assert_eq!(victim.act("aio_fetch"), 50);
    let lost = (LostReason::Unidentified as u32, libc::EBADF as u64);
    assert_eq!(session.segment.reader().lost(), Some(lost));
}

#[test]
fn writes_with_one_control_block_are_told_apart_by_the_programs_data() {
    for mode in [Mode::Extents, Mode::Payload] {
        let scratch = Scratch::new();
        let names = prepare(&scratch);
        let mut victim = Victim::start(&scratch);
        let mut session = Session::begin(&scratch, victim.pid(), 1, mode);
        assert_eq!(victim.act("aio_submit a 100 50 7"), 1);
        assert_eq!(victim.act("aio_submit_again a 300 40 8"), 1);
        assert!(victim.act("aio_fetch") > 0);
        let taken = session.drain();
        let mut lines: Vec<String> = taken
            .iter()
            .map(|taken| line(taken, &names, &scratch.data()))
            .collect();
        lines.sort();
        let expected = match mode {
            Mode::Payload => ["write a 100+50 of 7", "write a 300+40 of 8"],
            _ => ["write a 100+50", "write a 300+40"],
        };
        assert_eq!(lines, expected);
        assert!(session.link.is_quiet().expect("A barrier"));
        assert_eq!(session.segment.reader().lost(), None);
    }
}

#[test]
fn a_session_in_which_two_writes_can_not_be_told_apart_is_lost() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    assert_eq!(victim.act("aio_submit a 100 50 7"), 1);
    assert_eq!(victim.act("aio_submit_same a 300 40 8"), 1);
    let lost = session.segment.reader().lost();
    let reason = LostReason::AioReused as u32;
    assert_eq!(lost.map(|(reason, _)| reason), Some(reason));
}

#[test]
fn a_large_file_that_loses_its_last_name_is_freed_and_leaves_no_descriptor() {
    let scratch = Scratch::new();
    let names = prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    let open = |pid: u32| {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    let before = open(victim.pid());
    let file = std::fs::File::options()
        .write(true)
        .open(scratch.data().join("a"));
    let (file, bytes) = (file.unwrap(), vec![1; 80 << 20]);
    std::io::Write::write_all(&mut &file, &bytes).unwrap();
    assert_eq!(victim.act("unlink a"), 0);
    assert_eq!(
        line(&session.drain()[0], &names, &scratch.data()),
        "unlink a a"
    );
    assert_eq!(open(victim.pid()), before);
}

#[test]
fn a_destroyed_context_makes_the_files_of_its_writes_suspect_and_clears_the_table() {
    for destroy in ["aio_destroy", "aio_release", "sys_aio_destroy"] {
        for mode in [Mode::Extents, Mode::Payload] {
            let scratch = Scratch::new();
            let names = prepare(&scratch);
            let mut victim = Victim::start(&scratch);
            let mut session = Session::begin(&scratch, victim.pid(), 1, mode);
            assert_eq!(victim.act("aio_submit a 0 50 7"), 1);
            assert!(!session.link.is_quiet().expect("A barrier"));
            assert_eq!(victim.act(destroy), 0);
            assert!(session.link.is_quiet().expect("A barrier"), "{destroy}");
            let taken = session.drain();
            assert_eq!(taken.len(), 1, "{destroy}");
            assert_eq!(line(&taken[0], &names, &scratch.data()), "opaque a");
            // Destroyed after the session: the table is clear all the same.
            assert_eq!(victim.act("aio_submit a 0 50 7"), 1);
            session.switch(1, Mode::Idle);
            assert_eq!(victim.act(destroy), 0);
            assert!(session.link.is_quiet().expect("A barrier"), "{destroy}");
        }
    }
}

#[test]
fn a_session_in_which_an_older_context_is_destroyed_is_lost() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    assert_eq!(victim.act("aio_submit a 0 50 7"), 1);
    let session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    assert_eq!(victim.act("aio_destroy"), 0);
    let lost = session.segment.reader().lost();
    let reason = LostReason::AioContextDestroyed as u32;
    assert_eq!(lost.map(|(reason, _)| reason), Some(reason));
}

#[test]
fn a_refused_submission_leaves_nothing_in_the_table() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Extents);
    assert!(victim.act("aio_submit_bad a 0 50 7") <= 0);
    assert!(session.link.is_quiet().expect("A barrier"));
    assert!(session.drain().is_empty());
}

#[test]
fn what_cannot_be_captured_is_declined() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    assert_eq!(victim.act("mmap_sync a"), -i64::from(libc::EOPNOTSUPP));
    assert_eq!(victim.act("sys_io_uring_setup"), -i64::from(libc::ENOSYS));
}

#[test]
fn a_failed_call_leaves_no_record_and_its_errno() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
    for (action, errno) in [
        ("rename none n", libc::ENOENT),
        ("unlink none", libc::ENOENT),
        ("mkdir d", libc::EEXIST),
        ("rmdir a", libc::ENOTDIR),
        ("open none/n", libc::ENOENT),
        ("open_excl a", libc::EEXIST),
        ("noreplace a b", libc::EEXIST),
        ("link a b", libc::EEXIST),
        ("ftruncate a -1", libc::EINVAL),
        ("pwrite a -1 10 1", libc::EINVAL),
        ("fopen none/n", libc::ENOENT),
    ] {
        assert_eq!(victim.act(action), -i64::from(errno), "{action}");
    }
    assert!(session.drain().is_empty());
}

#[test]
fn a_write_that_fails_as_if_half_way_makes_its_file_suspect() {
    for mode in [Mode::Extents, Mode::Payload] {
        let scratch = Scratch::new();
        let names = prepare(&scratch);
        let mut victim = Victim::start(&scratch);
        let mut session = Session::begin(&scratch, victim.pid(), 1, mode);
        assert_eq!(victim.act("no_more_space"), 0);
        for action in ["pwrite a 50 10 7", "write a 50 10 7", "append a 0 10 7"] {
            assert_eq!(victim.act(action), -i64::from(libc::EFBIG), "{action}");
            let taken = session.drain();
            assert_eq!(taken.len(), 1, "{action}");
            let seen = line(&taken[0], &names, &scratch.data());
            assert_eq!(seen, "opaque a", "{action}");
        }
    }
}

#[test]
fn a_session_with_a_change_of_a_file_that_can_not_be_told_is_lost() {
    for action in [
        "pwrite a 0 10 7",
        "write a 0 10 7",
        "append a 0 10 7",
        "ftruncate a 10",
        "truncate a 10",
        "fallocate a 0 0 9000",
        "sendfile b a 0 10",
        "mmap a",
        "open d/n",
        "creat a",
        "mkstemp XXXXXX",
        "fopen a",
        "fdopen a",
        "aio_submit a 0 50 7",
    ] {
        let scratch = Scratch::new();
        prepare(&scratch);
        let mut victim = Victim::start(&scratch);
        let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
        // The library looks at the session's own file the first time.
        assert_eq!(victim.act("pwrite c 0 1 1"), 1);
        assert_eq!(victim.act(&format!("no_stat {}", libc::EIO)), 0);
        assert_eq!(session.drain().len(), 1);
        assert!(victim.act(action) >= 0, "{action}");
        let lost = (LostReason::Unidentified as u32, libc::EIO as u64);
        assert_eq!(session.segment.reader().lost(), Some(lost), "{action}");
    }
}

#[test]
fn a_closed_descriptor_is_no_file_and_loses_nothing() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin(&scratch, victim.pid(), 1, Mode::Payload);
    let failed = -i64::from(libc::EBADF);
    assert_eq!(victim.act("pwrite_closed"), failed);
    assert!(session.drain().is_empty());
}

#[test]
fn files_on_other_devices_are_not_recorded() {
    let scratch = Scratch::new();
    prepare(&scratch);
    let mut victim = Victim::start(&scratch);
    let mut session = Session::begin_on(
        &scratch.run(),
        victim.pid(),
        1,
        Mode::Payload,
        &[0xdead],
        1 << 20,
    );
    for action in [
        "pwrite a 0 10 1",
        "write a 0 10 1",
        "ftruncate a 5",
        "open n",
        "rename n m",
        "unlink m",
        "mkdir e",
        "fopen a",
        "mmap b",
    ] {
        assert!(victim.act(action) >= 0, "{action}");
    }
    assert!(session.drain().is_empty());
}
