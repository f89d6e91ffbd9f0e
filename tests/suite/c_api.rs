//! The conformance suite of libHotBackup.so: the programs in tests/c_api, each scenario in a process of its own, and source compared with destination afterwards.
//!
//! Scenarios run in memory, where disks don't matter; those of holes and times run on a disk, too. The same programs run under valgrind, under other allocators and with
//! the library preloaded.

#[path = "c_api_faults.rs"]
mod faults;
#[path = "c_api_ground.rs"]
mod ground;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ground::{C, LIBRARIES, PROGRAMS, Place, build_dir, check, compare, compile};

/// Tests of one scenario each: run, and compared where the line ends with `compare`.
macro_rules! scenarios {
    ($($test:ident = $program:literal $scenario:literal $(, $compare:ident)?;)+) => {
        $(#[test]
        fn $test() {
            let place = Place::in_memory();
            place.run($program, $scenario);
            $(place.$compare($scenario);)?
        })+

        /// Programs and their scenarios.
        const SCENARIOS: &[(&str, &str)] = &[$(($program, $scenario)),+];
    };
}

// Not compared: those that end without a backup, and those that go on writing behind the cut. These check by themselves what may be in the copy.

scenarios! {
    a_missing_destination_is_enoent = "results" "missing";
    null_and_nothing_are_einval = "results" "null";
    callbacks_may_be_null = "results" "no_functions", compare;
    a_destination_that_is_a_file_is_einval = "results" "not_a_directory";
    a_destination_with_content_is_einval_and_kept = "results" "not_empty";
    a_missing_source_is_enoent = "results" "no_source";
    a_destination_inside_the_source_is_refused = "results" "inside_the_source";
    a_source_inside_a_source_is_einval = "results" "source_inside_a_source", compare;
    a_poll_that_says_stop_is_the_result_and_leaves_nothing = "results" "stopped", compare;
    a_second_call_at_the_same_time_is_ebusy = "results" "busy", compare;
    what_opendir_readdir_and_closedir_report_is_reported = "listing" "failing", compare;
    a_change_of_another_process_before_the_cut_is_in_the_copy = "callbacks" "changed_from_outside", compare;
    a_change_of_modes_before_the_cut_is_in_the_copy = "callbacks" "modes", compare;
    a_file_that_nobody_saw_at_the_cut_has_a_time_near_it = "callbacks" "made_when_live";
    what_comes_from_outside_and_is_no_file_is_settled = "callbacks" "no_files", compare;
    the_moments_are_where_they_are_promised = "callbacks" "moments";
    zero_bytes_per_second_pause_until_changed = "callbacks" "paused", compare;
    one_byte_per_second_about_stops_and_is_polled = "callbacks" "slowed", compare;
    a_store_behind_the_copy_of_what_is_no_longer_mapped_is_in_the_copy = "callbacks" "stored_behind_the_copy", compare;
    a_store_to_what_was_mapped_for_reading_only_is_in_the_copy = "callbacks" "stored_once_allowed", compare;
    a_rate_is_kept = "callbacks" "at_a_rate", compare;
    what_is_excluded_is_left_out = "callbacks" "excluded", compare;
    an_exclude_function_that_sets_the_throttle_holds_nobody_up = "callbacks" "throttled_by_exclude", compare;
    signals_stay_with_the_program = "callbacks" "signalled", compare;
    functions_that_call_the_library_again_get_ebusy = "callbacks" "called_again", compare;
    every_change_is_in_the_copy = "changes" "all", compare;
    create_against_rename = "races" "create_against_rename", compare;
    create_against_unlink = "races" "create_against_unlink", compare;
    two_equal_renames_at_once = "races" "equal_renames", compare;
    writes_during_the_copy_of_the_same_range = "races" "write_during_copy", compare;
    unlink_during_the_copy_of_open_and_closed_files = "races" "unlink_during_copy", compare;
    rename_against_the_cut = "races" "rename_against_the_cut";
    writers_on_twenty_descriptors_around_the_cut = "races" "around_the_cut";
    opens_against_the_start_and_the_end = "races" "open_against_start_and_end", compare;
    many_pairs_of_directories = "races" "many_pairs", compare;
    five_hundred_threads = "races" "crowd", compare;
    children_begin_anew = "races" "forks", compare;
    ten_threads_open_and_close_over_a_hundred_backups = "races" "hundred_backups", compare;
    calls_on_a_pipe_are_interrupted = "faults" "interrupted_calls", compare;
    a_log_that_overflows_while_copying_grows = "faults" "overflow", compare;
    a_log_that_overflows_when_live_is_enobufs_and_the_next_is_larger = "faults" "overflow_when_live", compare;
    a_program_of_the_ancestors_runs_unchanged = "ancestor" "all", compare;
    and_one_in_c_plus_plus = "ancestor++" "all", compare;
    a_library_that_no_call_comes_to_is_enosys = "opened_late" "all";
    a_session_goes_from_step_to_step = "session" "whole", compare;
    wrong_turns_are_told_and_harmless = "session" "wrong_turns", compare;
    an_older_caller_is_understood = "session" "older_caller", compare;
    what_is_mapped_while_live_is_settled_or_refused = "session" "mapped_while_live", compare;
}

#[test]
fn every_change_is_in_the_copy_on_a_disk() {
    let place = Place::on(build_dir());
    place.run("changes", "all");
    place.compare("all");
    let blocks = |root: PathBuf| {
        root.join("live-space/sparse")
            .metadata()
            .expect("It is there")
            .blocks()
    };
    assert!(
        blocks(place.destination()) < 2048,
        "holes were filled: {} blocks",
        blocks(place.destination())
    );
}

/// Permissions mean nothing to root.
fn as_nobody(program: &str, scenario: &str) -> Place {
    let place = Place::in_memory();
    let wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    for path in [place.source(), place.destination()] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("Root runs the tests");
    }
    let mut command = place.command(&wrapper, program, scenario);
    // The build directory may be closed to nobody.
    let library = PROGRAMS.path().join("libHotBackup.so");
    std::fs::copy(build_dir().join("libHotBackup.so"), library).expect("The library");
    command.env("LD_LIBRARY_PATH", PROGRAMS.path());
    check(scenario, &command.output().expect("setpriv is installed"));
    place
}

#[test]
fn a_destination_without_permission_is_eacces() {
    as_nobody("results", "not_writable");
}

#[test]
fn a_source_file_without_permission_is_eacces() {
    as_nobody("results", "unreadable_source");
}

#[test]
fn five_hundred_threads_of_a_user_that_is_not_root() {
    as_nobody("races", "crowd").compare("crowd");
}

#[test]
fn destinations_may_be_on_several_file_systems() {
    let (memory, disk) = (Place::in_memory(), Place::on(build_dir()));
    let mut command = memory.command(&[], "races", "across_file_systems");
    command
        .env("OTHER_SOURCE", disk.source())
        .env("OTHER_DESTINATION", disk.destination());
    check("across_file_systems", &command.output().expect("It runs"));
    for (source, copy) in [
        (
            memory.source().join("stays"),
            memory.destination().join("stays"),
        ),
        (memory.source().join("leaves"), disk.destination()),
        (disk.source(), memory.destination().join("comes")),
    ] {
        compare(&source, &copy, "across_file_systems");
    }
}

#[test]
fn a_full_disk_is_enospc() {
    let place = Place::in_memory();
    let script = "mount -t tmpfs -o size=8m none \"$4\" && exec \"$@\"";
    let wrapper = ["unshare", "-m", "sh", "-c", script, "sh"];
    let output = place.command(&wrapper, "results", "full").output();
    check("full", &output.expect("unshare is installed"));
}

#[test]
fn other_allocators_and_preloading_make_no_difference() {
    for allocator in ["libjemalloc.so.2", "libtcmalloc_minimal.so.4"] {
        let path = Path::new("/usr/lib/x86_64-linux-gnu").join(allocator);
        assert!(
            path.exists(),
            "{allocator} is missing: install libjemalloc2 and libtcmalloc-minimal4"
        );
        for order in [
            format!("{}:libHotBackup.so", path.display()),
            format!("libHotBackup.so:{}", path.display()),
        ] {
            for (program, scenario) in [
                ("changes", "all"),
                ("races", "create_against_rename"),
                ("races", "forks"),
            ] {
                let place = Place::in_memory();
                let mut command = place.command(&[], program, scenario);
                if allocator.contains("tcmalloc") {
                    command.env("CHILDREN_ONLY_WRITE", "1");
                }
                check(
                    scenario,
                    &command.env("LD_PRELOAD", &order).output().expect("It runs"),
                );
                place.compare(scenario);
            }
        }
    }
}

/// The program of order.c, linked with `libraries`, and a place to run it in.
fn linked(name: &str, compiler: &[&str], libraries: &[&str]) -> (Place, Command) {
    compile(&PROGRAMS.path().join(name), "order", compiler, libraries);
    let place = Place::in_memory();
    let scenario = name.split('-').next().expect("Its first word");
    let command = place.command(&[], name, scenario);
    (place, command)
}

#[test]
fn a_library_with_a_name_in_front_is_enosys_and_named() {
    let dir = PROGRAMS.path();
    let own_write = dir.join("libown_write.so");
    compile(&own_write, "own_write", &["cc", "-shared", "-fPIC"], &[]);
    let own_write = own_write.to_str().expect("Text");
    for (program, front, name, library) in [
        ("behind-libaio", "-laio", "io_destroy", "libaio.so"),
        ("behind-own-write", own_write, "write", "libown_write.so"),
    ] {
        let libraries = ["-Wl,--no-as-needed", front, "-lHotBackup", "-laio"];
        let (_place, mut command) = linked(program, C, &libraries);
        command.env("NAME", name).env("LIBRARY", library);
        check(program, &command.output().expect("It runs"));
    }
}

#[test]
fn a_program_of_any_kind_that_is_linked_with_it_first_is_backed_up() {
    let fixed = [C, &["-fno-pie", "-no-pie"]].concat();
    let sanitized = [C, &["-fsanitize=address"]].concat();
    let archive = [
        "-l:libHotBackup.a",
        "-lgcc_s",
        "-lpthread",
        "-ldl",
        "-lm",
        "-laio",
    ];
    for (program, compiler, libraries) in [
        ("in_front-fixed", &fixed[..], LIBRARIES),
        ("in_front-sanitized", &sanitized, LIBRARIES),
        ("in_front-archive", C, &archive),
        ("in_front-fixed-archive", &fixed, &archive),
    ] {
        let (place, mut command) = linked(program, compiler, libraries);
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        check(program, &command.output().expect("It runs"));
        place.compare(program);
    }
}

#[test]
fn a_preloaded_program_that_never_calls_it_runs_as_before() {
    let output = Command::new("sh")
        .args([
            "-c",
            "dd if=/dev/zero of=/dev/null bs=4k count=1000 && (echo child)",
        ])
        .env("LD_PRELOAD", build_dir().join("libHotBackup.so"))
        .output()
        .expect("sh");
    check("preloaded", &output);
    let names = std::fs::read_dir("/dev/shm").expect("Readable");
    let pid = format!("hotmirror.{}", std::process::id());
    assert!(names.flatten().all(|entry| entry.file_name() != *pid));
}

/// What is not run under memcheck, and why.
const NOT_UNDER_MEMCHECK: &[(&str, &str)] = &[
    ("slowed", "as paused, at a rate"),
    ("at_a_rate", "checks how long it takes"),
    (
        "crowd",
        "valgrind has one thread at a time: five hundred hardly get on",
    ),
    (
        "forks",
        "what only the stacks of the parent's threads know counts as lost in a child",
    ),
    (
        "hundred_backups",
        "as open_against_start_and_end, many times more",
    ),
];

/// Run under memcheck only if there is time: longer than 10 s.
const LONG_UNDER_MEMCHECK: &[&str] = &["around_the_cut", "open_against_start_and_end", "overflow"];

#[test]
fn memcheck_finds_nothing() {
    let wrapper = [
        "valgrind",
        "--quiet",
        "--error-exitcode=99",
        "--errors-for-leak-kinds=definite",
        "--leak-check=full",
        "--child-silent-after-fork=yes",
        "--fair-sched=yes",
    ];
    let skipped = |scenario: &str| {
        NOT_UNDER_MEMCHECK.iter().any(|(name, _)| *name == scenario)
            || LONG_UNDER_MEMCHECK.contains(&scenario) && !hotmirror_tests::skip::long()
    };
    let mut failures = Vec::new();
    for (program, scenario) in SCENARIOS {
        if skipped(scenario) {
            continue;
        }
        let place = Place::in_memory();
        let mut command = place.command(&wrapper, program, scenario);
        command.env("NO_BAD_POINTERS", "1");
        let start = Instant::now();
        let output = command.output().expect("valgrind is installed");
        println!("{scenario}: {:.1} s", start.elapsed().as_secs_f64());
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            failures.push(format!("{scenario}: {}\n{text}", output.status));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
