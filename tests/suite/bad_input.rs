//! Bad input: each has a message that names the cause, an exit code of its own kind, and changes nothing.
//!
//! Rule: "nothing changed" is looked up on disk, in shared memory and on the server, not taken from the message.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hotmirror_tests::program::{PRIVILEGES, Program, exit};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::steps::Stepped;
use hotmirror_tests::{artifacts, scratch, traces};

struct Ground {
    server: Server,
    program: Program,
    home: tempfile::TempDir,
}

fn ground() -> Ground {
    let server = ServerOptions::hooked().start();
    Ground {
        program: Program::for_server(&server),
        home: scratch::dir(),
        server,
    }
}

impl Ground {
    #[track_caller]
    fn assert_unchanged(&self, kept: &[&str]) {
        traces::assert_none(&self.server, &self.program, self.home.path(), kept);
    }
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let ground = ground();
    let target = ground.home.path().join("backup");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("precious"), "mine").unwrap();
    let outcome = ground.program.backup(&target).outcome();
    outcome.assert_failed(exit::TARGET, &["empty", &target.display().to_string()]);
    assert_eq!(
        std::fs::read_to_string(target.join("precious")).unwrap(),
        "mine"
    );
    ground.assert_unchanged(&["backup"]);
}

#[test]
fn the_stage_of_another_backup_is_kept() {
    let ground = ground();
    let target = ground.home.path().join("backup");
    let stage = ground.home.path().join(".backup.hotmirror-partial");
    std::fs::create_dir(&stage).unwrap();
    std::fs::write(stage.join("precious"), "theirs").unwrap();
    let outcome = ground.program.backup(&target).outcome();
    outcome.assert_failed(exit::TARGET, &[&stage.display().to_string()]);
    assert_eq!(
        std::fs::read_to_string(stage.join("precious")).unwrap(),
        "theirs"
    );
    ground.assert_unchanged(&[".backup.hotmirror-partial"]);
}

#[test]
fn a_target_that_is_a_file_is_refused() {
    let ground = ground();
    let target = ground.home.path().join("backup");
    std::fs::write(&target, "mine").unwrap();
    ground
        .program
        .backup(&target)
        .outcome()
        .assert_failed(exit::TARGET, &["directory"]);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
    ground.assert_unchanged(&["backup"]);
}

#[test]
fn a_target_inside_a_root_is_refused() {
    let ground = ground();
    let before = scratch::tree(ground.server.data_dir()).len();
    let target = ground.server.data_dir().join("backup");
    let outcome = ground.program.backup(&target).outcome();
    outcome.assert_failed(exit::TARGET, &[&target.display().to_string()]);
    assert!(!target.exists());
    assert_eq!(scratch::tree(ground.server.data_dir()).len(), before);
    ground.assert_unchanged(&[]);
}

#[test]
fn a_target_inside_a_root_by_way_of_a_link_is_refused() {
    let ground = ground();
    let link = ground.home.path().join("link");
    std::os::unix::fs::symlink(ground.server.data_dir(), &link).unwrap();
    let outcome = ground.program.backup(&link.join("backup")).outcome();
    outcome.assert_failed(exit::TARGET, &["backup"]);
    assert!(!ground.server.data_dir().join("backup").exists());
    ground.assert_unchanged(&["link"]);
}

#[test]
fn a_root_inside_the_target_is_refused() {
    let ground = ground();
    // The server's home holds the data directory.
    let target = ground.server.home().to_path_buf();
    let outcome = ground.program.backup(&target).outcome();
    outcome.assert_failed(exit::TARGET, &[&target.display().to_string()]);
    ground.assert_unchanged(&[]);
}

#[test]
fn a_server_without_the_library_is_refused() {
    let server = ServerOptions::plain().start();
    let home = scratch::dir();
    let program = Program::for_server(&server);
    let outcome = program.backup(&home.path().join("backup")).outcome();
    outcome.assert_failed(exit::LIBRARY, &["library", "LD_PRELOAD"]);
    assert_eq!(scratch::tree(home.path()).len(), 0);
    traces::assert_nothing_is_locked(&server);
}

#[test]
fn a_server_that_sees_another_directory_at_the_same_path_is_refused() {
    let mut probe = Command::new("unshare");
    if !probe
        .args(["--mount", "true"])
        .status()
        .is_ok_and(|s| s.success())
    {
        hotmirror_tests::skip!("no mount namespace can be made");
    }
    let home = scratch::dir();
    let (ours, theirs) = (home.path().join("log"), home.path().join("theirs"));
    std::fs::create_dir(&ours).unwrap();
    std::fs::create_dir(&theirs).unwrap();
    let mount = format!(
        "mount --bind {} {} && exec \"$@\"",
        theirs.display(),
        ours.display()
    );
    let server = ServerOptions::hooked()
        .option(format!("--log-bin={}/bin", ours.display()))
        .wrapper(&["unshare", "--mount", "sh", "-c", &mount, "sh"])
        .start();
    let program = Program::for_server(&server);
    let outcome = program.backup(&home.path().join("backup")).outcome();
    outcome.assert_failed(exit::SOURCE, &[&ours.display().to_string(), "the server"]);
    traces::assert_none(&server, &program, home.path(), &["log", "theirs"]);
}

#[test]
fn a_library_of_another_protocol_version_is_refused() {
    const PROTOCOL_OFFSET: u64 = 8;
    let ground = ground();
    let path = ground
        .server
        .runtime_dir()
        .join(format!("hotmirror.{}", ground.server.pid()));
    let mut rendezvous = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut set_protocol = |version: u32| {
        rendezvous.seek(SeekFrom::Start(PROTOCOL_OFFSET)).unwrap();
        rendezvous.write_all(&version.to_ne_bytes()).unwrap();
    };
    set_protocol(9999);
    let outcome = ground
        .program
        .backup(&ground.home.path().join("backup"))
        .outcome();
    outcome.assert_failed(exit::LIBRARY, &["protocol 9999"]);
    set_protocol(hotmirror::capture_log::layout::PROTOCOL_VERSION);
    ground.assert_unchanged(&[]);
}

#[test]
fn a_wrong_password_is_refused() {
    let ground = ground();
    ground
        .server
        .execute(&["CREATE USER backup@localhost IDENTIFIED BY 'right'"]);
    let program = ground.program.as_user("backup", "wrong");
    let outcome = program.backup(&ground.home.path().join("backup")).outcome();
    outcome.assert_failed(exit::CONNECTION, &["backup", "Access denied"]);
    assert!(!outcome.to_string().contains("'right'"));
    ground.assert_unchanged(&[]);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let ground = ground();
    let program = ground.program.at_socket("/nowhere/sock");
    let outcome = program.backup(&ground.home.path().join("backup")).outcome();
    outcome.assert_failed(exit::CONNECTION, &["/nowhere/sock"]);
    ground.assert_unchanged(&[]);
}

#[test]
fn missing_privileges_are_named_and_those_of_the_manual_suffice() {
    let ground = ground();
    ground
        .server
        .execute(&["CREATE USER backup@localhost IDENTIFIED BY 'b'"]);
    let program = ground.program.as_user("backup", "b");
    let backup = |name: &str| program.backup(&ground.home.path().join(name));
    let outcome = backup("backup").outcome();
    outcome.assert_failed(exit::PRIVILEGES, &["RELOAD", "PROCESS", "BINLOG MONITOR"]);
    ground
        .server
        .execute(&["GRANT PROCESS ON *.* TO backup@localhost"]);
    let outcome = backup("backup").outcome();
    outcome.assert_failed(exit::PRIVILEGES, &["RELOAD"]);
    ground.assert_unchanged(&[]);
    ground
        .server
        .execute(&[&format!("GRANT {PRIVILEGES} ON *.* TO backup@localhost")]);
    backup("granted").success();
}

#[test]
fn a_second_session_is_refused_and_the_first_one_goes_on() {
    let ground = ground();
    let first = Stepped::start(ground.program.backup(&ground.home.path().join("first")));
    assert!(first.run_to(|event| event["phase"] == "base_copy"));
    let outcome = ground
        .program
        .backup(&ground.home.path().join("second"))
        .outcome();
    outcome.assert_failed(exit::BUSY, &["running"]);
    assert!(!ground.home.path().join("second").exists());
    let outcome = first.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    ground.assert_unchanged(&["first"]);
}

#[test]
fn no_permission_on_the_data_directory_is_named() {
    let ground = ground();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap()
    };
    open(ground.server.home());
    open(ground.server.runtime_dir());
    // A place that another user can use: its own target, state and a copy of the program.
    let home = ground.home.path();
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::copy(artifacts::program(), home.join("program")).unwrap();
    std::fs::set_permissions(
        ground.server.data_dir(),
        std::fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(home.join("program"))
        .args(["backup", "--no-defaults", "--user=root"])
        .arg(format!("--socket={}", ground.server.socket().display()))
        .arg(format!("--state-dir={}", home.join("state").display()))
        .arg(format!("--target-dir={}", home.join("backup").display()))
        .env("HOTMIRROR_RUNTIME_DIR", ground.server.runtime_dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::CONNECTION), "{text}");
    assert!(text.to_lowercase().contains("permission"), "{text}");
    assert!(!home.join("backup").exists());
    ground.assert_unchanged(&["program", "state"]);
}

#[test]
fn a_server_without_a_binlog_gives_a_backup_without_a_position_and_a_warning() {
    let server = ServerOptions::hooked().without_binlog().start();
    let home = scratch::dir();
    let target = home.path().join("backup");
    let outcome = Program::for_server(&server).backup(&target).success();
    assert!(
        outcome.to_string().to_lowercase().contains("binlog"),
        "{outcome}"
    );
    assert!(!target.join("hotmirror_binlog_info").exists());
    assert!(
        outcome.stdout.trim_end().ends_with("completed OK!"),
        "{outcome}"
    );
    let copy = ServerOptions::plain()
        .without_binlog()
        .data_dir(&target.join("data"))
        .start();
    assert_eq!(copy.value("SELECT 1"), "1");
}

#[test]
fn a_log_size_that_is_no_number_is_refused() {
    let ground = ground();
    let run = ground.program.backup(&ground.home.path().join("backup"));
    run.arg("--log-size=many")
        .outcome()
        .assert_failed(exit::USAGE, &["log-size", "many"]);
    ground.assert_unchanged(&[]);
}
