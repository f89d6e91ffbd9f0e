//! Victims: for each call of the C library that changes files, in each spelling, a program that makes it over and over is backed
//! up while it works, and the copy is what its files were at the cut.
//!
//! Rule: a copy never differs. Where the hook can't see the bytes of a change, the session may say so instead of giving a copy; such
//! actions are listed here with what it may say. All others must give a copy each time, and changes must have been captured and
//! mirrored, so that no test passes because nothing happened.

use hotmirror::session::{Root, Session, SessionError};
use hotmirror_tests::skip::long;
use hotmirror_tests::victim::{Victim, actions, differences};

/// What a session may say of an action instead of giving a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Nothing: the copy is made.
    None,
    /// Only the source could give the bytes, and they change as fast as they are copied.
    Unsettled,
    /// A libc-internal write was found out by the audit.
    Unseen,
    /// Something had been submitted before the session began, whose context was destroyed or whose descriptor was closed; or its file is too busy, as above.
    Untracked,
}

impl Refusal {
    fn allowed(program: &str, action: &str) -> Refusal {
        match (program, action) {
            ("truncate", "fallocate_collapse" | "fallocate64_insert")
            | ("names", "exchange_directories" | "replace_directory" | "rename_directory")
            | ("open", "tmpfile" | "tmpfile_empty_path")
            // Each round has calls that failed as if half-way.
            | ("failing", "bad_descriptor" | "bad_pointer" | "short_write" | "fault_inside")
            | ("trouble", "found")
            | ("cancel", "copy")
            | ("exerciser", "tree" | "crowd" | "alone")
            | ("trouble", "handler_names" | "handler")
            | ("kernel", _) => Refusal::Unsettled,
            ("mapping", "private") => Refusal::None,
            ("mapping" | "stdio", _) => Refusal::Unseen,
            ("aio", "destroyed" | "destroyed_raw" | "removed") => Refusal::Untracked,
            _ => Refusal::None,
        }
    }

    fn allows(self, error: &SessionError) -> bool {
        match error {
            SessionError::Unsettled { .. } => matches!(
                self,
                Refusal::Unsettled | Refusal::Unseen | Refusal::Untracked
            ),
            SessionError::Unexplained { .. } => self == Refusal::Unseen,
            SessionError::Lost { .. } => self == Refusal::Untracked,
            _ => false,
        }
    }
}

/// Backs one victim up several times; the reasons why that is not as it should be.
fn failures(program: &str, action: &str, seed: u64, cuts: u64) -> Vec<String> {
    let refusal = Refusal::allowed(program, action);
    let mut victim = Victim::start(program, action, seed);
    let (mut changes, mut copies, mut returns, mut found) = (0, 0, 0, Vec::new());
    let mut cut = 0;
    let must_capture = matches!(refusal, Refusal::None | Refusal::Untracked);
    // Sessions may be lost to what the victim does now and then, and some victims change a file only now and then: one session must get through, and see a change.
    while cut < cuts || must_capture && (copies == 0 || changes == 0) && cut < cuts * 10 {
        let copy = match cut % 2 {
            0 => victim.back_up(),
            _ => victim.back_up_golden(),
        };
        match copy {
            Ok(copy) => {
                let stats = copy.stats.catalog;
                copies += 1;
                changes += stats.changes_after_copy + stats.name_records;
                returns += copy.stats.returns;
                for difference in &copy.differences {
                    eprintln!("{program} {action} {seed}, copy {cut}: {difference}");
                }
                found.extend(copy.differences);
            }
            Err(error) if refusal.allows(&error) => {}
            Err(error) => found.push(error.to_string()),
        }
        cut += 1;
    }
    println!(
        "{program} {action} {seed}: {copies} copies of {cut}, {changes} changes mirrored, {returns} returns"
    );
    if changes == 0 && must_capture {
        found.push("nothing was captured".into());
    }
    victim.end();
    found
        .into_iter()
        .take(5)
        .map(|what| format!("{program} {action} {seed}: {what}"))
        .collect()
}

/// HOTMIRROR_ACTION asks for one of them alone.
fn is_asked_for(action: &str) -> bool {
    std::env::var("HOTMIRROR_ACTION").map_or(true, |only| only == action)
}

fn every_action_is_mirrored(program: &str) {
    let cuts = if long() { 20 } else { 3 };
    let found: Vec<String> = actions(program)
        .iter()
        .filter(|action| is_asked_for(action))
        .flat_map(|action| {
            let found = std::panic::catch_unwind(|| failures(program, action, 1, cuts));
            // What was the matter is on standard error already.
            found.unwrap_or_else(|_| {
                vec![format!(
                    "{program} {action}: the victim or its driver failed"
                )]
            })
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_write_is_mirrored() {
    every_action_is_mirrored("write");
}

#[test]
fn every_open_is_mirrored() {
    every_action_is_mirrored("open");
}

#[test]
fn every_change_of_size_is_mirrored() {
    every_action_is_mirrored("truncate");
}

#[test]
fn every_change_of_names_is_mirrored() {
    every_action_is_mirrored("names");
}

#[test]
fn every_copy_inside_the_kernel_is_mirrored() {
    every_action_is_mirrored("kernel");
}

#[test]
fn a_mapped_file_is_mirrored_or_refused() {
    every_action_is_mirrored("mapping");
}

#[test]
fn stdio_is_mirrored_or_refused() {
    every_action_is_mirrored("stdio");
}

#[test]
fn every_asynchronous_write_is_mirrored() {
    every_action_is_mirrored("aio");
}

#[test]
fn every_direct_system_call_is_mirrored() {
    every_action_is_mirrored("syscalls");
}

#[test]
fn calls_that_fail_or_do_less_than_asked_are_mirrored_as_they_were() {
    every_action_is_mirrored("failing");
}

#[test]
fn what_cancelled_threads_have_done_is_mirrored() {
    every_action_is_mirrored("cancel");
}

#[test]
fn trouble_is_mirrored() {
    every_action_is_mirrored("trouble");
}

#[test]
fn random_exercises_are_mirrored() {
    every_action_is_mirrored("exerciser");
}

#[test]
fn random_exercises_of_many_seeds_are_mirrored() {
    let (seeds, cuts) = if long() { (40, 4) } else { (2, 2) };
    let first = std::env::var("HOTMIRROR_SEED").map_or(2, |seed| seed.parse().expect("A number"));
    let found: Vec<String> = (first..first + seeds)
        .flat_map(|seed| {
            let failures = |action: &&str| failures("exerciser", action, seed, cuts);
            let actions = [
                "alone",
                "files",
                "tree",
                "crowd",
                "collision",
                "collision_mixed",
                "big",
            ];
            let actions = actions.iter().filter(|action| is_asked_for(action));
            actions.flat_map(failures).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_log_that_is_too_small_ends_the_session_and_not_the_victim() {
    let mut victim = Victim::start("write", "large", 5);
    let target = tempfile::tempdir().expect("A directory");
    let mut options = victim.session_options(&target.path().join("backup"));
    options.log_size = 1 << 20;
    let ended = Session::attach(options).and_then(|mut session| {
        // Else passes would find more than a last copy may have, again and again.
        let frozen = victim.freeze()?;
        session.base_copy()?;
        session.converge()?;
        session.go_live()?;
        drop(frozen);
        victim.wait_for_work();
        session.golden_cut().map(drop)
    });
    assert!(
        matches!(ended, Err(SessionError::LogFull { .. })),
        "{ended:?}"
    );
    assert_eq!(
        std::fs::read_dir(target.path()).expect("Readable").count(),
        0
    );
    victim.wait_for_work();
    let copy = victim
        .back_up()
        .expect("The next session is not the lost one");
    assert_eq!(copy.differences, Vec::<String>::new());
    victim.end();
}

/// With a log of 16 MiB a last copy may have 8, of the 12 that the victim rewrites.
#[test]
fn what_changes_while_the_caller_waits_to_go_live_is_copied_before() {
    let mut victim = Victim::start("write", "large", 6);
    let target = tempfile::tempdir().expect("A directory");
    let mut options = victim.session_options(&target.path().join("backup"));
    options.log_size = 16 << 20;
    let mut session = Session::attach(options).expect("A session");
    let frozen = victim.freeze().expect("Quiet");
    session.base_copy().expect("A copy");
    session.converge().expect("Passes");
    drop(frozen);
    (0..5).for_each(|_| victim.wait_for_work());
    let frozen = victim.freeze().expect("Quiet");
    session.go_live().expect("Payload");
    let cut = session.cut().expect("A cut");
    assert!(session.settle_cut(&cut).expect("A cut"));
    let settled = session.finish().expect("A stage");
    let root = settled.stage.path().join("data");
    assert_eq!(differences(&victim.data(), &root), Vec::<String>::new());
    assert!(settled.stats.passes > 1, "{:?}", settled.stats);
    drop(frozen);
    victim.end();
}

/// The victim writes three times what the log holds between the cut and the look whether it holds.
#[test]
fn what_is_written_behind_the_cut_does_not_fill_the_log() {
    let mut victim = Victim::start("write", "large", 7);
    let target = tempfile::tempdir().expect("A directory");
    let mut options = victim.session_options(&target.path().join("backup"));
    options.log_size = 32 << 20;
    let mut session = Session::attach(options).expect("A session");
    session.base_copy().expect("A copy");
    session.converge().expect("Passes");
    session.go_live().expect("Payload");
    let cut = session.cut().expect("A cut");
    (0..2).for_each(|_| victim.wait_for_work());
    assert!(session.settle_cut(&cut).expect("A cut"));
    session.finish().expect("A stage");
    victim.end();
}

#[test]
fn names_that_move_between_roots_are_mirrored() {
    for action in [
        "rename",
        "link",
        "rename_exchange",
        "unlink",
        "mkdir",
        "mkstemp",
    ] {
        let mut victim = Victim::start("names", action, 3);
        let mut records = 0;
        for _ in 0..3 {
            let target = tempfile::tempdir().expect("A directory");
            let mut options = victim.session_options(&target.path().join("backup"));
            let root = |name: &str, place: &str| Root {
                source: victim.data().join(name),
                place: place.into(),
            };
            options.roots = vec![root("dir0", "external/0"), root("dir1", "external/1")];
            options.roots.push(Root {
                source: victim.data(),
                place: "data".into(),
            });
            let mut session = Session::attach(options).expect("A session");
            session.base_copy().expect("A copy");
            session.converge().expect("Passes");
            session.go_live().expect("Payload");
            victim.wait_for_work();
            let (_, report) = session.golden_cut().expect("A cut");
            assert_eq!(report.differences, Vec::<String>::new(), "{action}");
            let settled = session.finish().expect("A stage");
            records += settled.stats.catalog.name_records;
        }
        assert!(records > 0, "{action}");
        victim.end();
    }
}
