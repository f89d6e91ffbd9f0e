//! Disks that fail under the source or the destination while a backup of the C library copies: the backup's result is the system's number, and the program meets no error.
//!
//! The program says when it is in the middle of the copy, and waits there until the harm is done.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use hotmirror_tests::mount::Mount;
use hotmirror_tests::skip;

use crate::ground::{Place, check};

macro_rules! mounted {
    ($mount:expr) => {
        match $mount {
            Ok(mount) => mount,
            Err(reason) => skip!("{reason}"),
        }
    };
}

/// Runs the scenario, with `harm` done in the middle of the copy; the backup is to fail with `errno`.
fn fails_with(errno: i32, mut command: Command, harm: impl FnOnce()) {
    let mut child = command
        .env("EXPECTED", errno.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("It runs");
    let mut line = String::new();
    let said = BufReader::new(child.stdout.take().expect("Its output")).read_line(&mut line);
    // A program that ended before says why below.
    if said.is_ok() && line == "copying\n" {
        harm();
        let stdin = child.stdin.as_mut().expect("Its input");
        stdin.write_all(b"go on\n").expect("It waits");
    }
    check("harmed", &child.wait_with_output().expect("It ends"));
}

fn is_empty(directory: &Path) -> bool {
    let mut entries = std::fs::read_dir(directory).expect("Readable");
    entries.next().is_none()
}

/// An empty directory on a file system.
fn destination_on(mount: &Mount) -> std::path::PathBuf {
    let destination = mount.path().join("destination");
    std::fs::create_dir(&destination).expect("A directory");
    destination
}

#[test]
fn a_source_without_room_is_the_programs_affair() {
    let mount = mounted!(Mount::tmpfs(48));
    let place = Place::in_memory().with_source(mount.path());
    place.run("faults", "no_room");
    place.compare("no_room");
}

#[test]
fn a_source_that_cannot_be_read_is_eio() {
    let mount = mounted!(Mount::image(64));
    let source = mount.path().join("source");
    std::fs::create_dir(&source).expect("A directory");
    std::fs::write(source.join("large"), vec![7u8; 40 << 20]).expect("A file");
    let place = Place::in_memory();
    let second = Place::in_memory();
    let mut command = place.command(&[], "faults", "harmed");
    command
        .env("SECOND_SOURCE", &source)
        .env("SECOND_DESTINATION", second.destination());
    fails_with(5, command, || mount.cut_off(8));
    assert!(is_empty(&place.destination()) && is_empty(&second.destination()));
}

#[test]
fn a_destination_that_fills_up_is_enospc() {
    let mount = mounted!(Mount::tmpfs(48));
    let place = Place::in_memory().with_destination(destination_on(&mount));
    let command = place.command(&[], "faults", "harmed");
    fails_with(28, command, || mount.fill());
    assert!(is_empty(&place.destination()));
}

#[test]
fn a_destination_that_becomes_read_only_is_erofs() {
    let mount = mounted!(Mount::image(64));
    let place = Place::in_memory().with_destination(destination_on(&mount));
    let command = place.command(&[], "faults", "harmed");
    fails_with(30, command, || mount.make_read_only());
}

#[test]
fn a_destination_whose_disk_fails_is_eio() {
    let mount = mounted!(Mount::image_on_image(64));
    let place = Place::in_memory().with_destination(destination_on(&mount));
    let command = place.command(&[], "faults", "harmed");
    fails_with(5, command, || mount.fail_writes());
}

#[test]
fn a_destination_that_goes_away_is_enoent() {
    let mount = mounted!(Mount::tmpfs(64));
    let place = Place::in_memory().with_destination(destination_on(&mount));
    let command = place.command(&[], "faults", "harmed");
    fails_with(2, command, || mount.vanish());
    assert!(is_empty(&mount.path()));
}
