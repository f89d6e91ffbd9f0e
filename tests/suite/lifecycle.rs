//! The life around a backup: how servers start, what `doctor` and `status` say, and the way from a backup to a running server.
//!
//! Rule: what is documented for users is done here as they would do it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hotmirror_tests::load::Load;
use hotmirror_tests::mount::Mount;
use hotmirror_tests::program::{Program, exit};
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::steps::Stepped;
use hotmirror_tests::{artifacts, checksums, scratch, traces};
use serde_json::Value;

/// A server with rows in every engine, and no load on it.
fn filled(options: ServerOptions) -> Server {
    let server = options.start();
    let load = Load::mixed(&server, 21);
    load.wait_for_statements(500);
    load.stop_cleanly();
    server
}

#[test]
fn a_server_that_changes_its_user_is_backed_up() {
    let server = filled(ServerOptions::hooked().user("mysql"));
    let home = scratch::dir();
    let target = home.path().join("backup");
    Program::for_server(&server).backup(&target).success();
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    assert_ne!(owner(server.data_dir()), 0);
    assert_eq!(
        owner(&target.join("data/ibdata1")),
        owner(&server.data_dir().join("ibdata1"))
    );
    let copy = ServerOptions::plain()
        .user("mysql")
        .data_dir(&target.join("data"))
        .start();
    checksums::assert_equal(&server, &copy, "The copy");
}

#[test]
fn a_server_started_by_a_script_is_backed_up() {
    let server = ServerOptions::plain().start();
    let home = scratch::dir();
    let data = home.path().join("data");
    drop(server);
    scratch::copy(&hotmirror_tests::flavor::Flavor::main().template(), &data);
    let runtime_dir = scratch::runtime_dir();
    let socket = home.path().join("sock");
    let mut script = Script::start(home.path(), &data, runtime_dir.path());
    script.wait_until_ready(&socket);
    let target = home.path().join("backup");
    let output = Command::new(artifacts::program())
        .args(["backup", "--no-defaults", "--user=root"])
        .arg(format!("--socket={}", socket.display()))
        .arg(format!(
            "--state-dir={}",
            home.path().join("state").display()
        ))
        .arg(format!("--target-dir={}", target.display()))
        .env("HOTMIRROR_RUNTIME_DIR", runtime_dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The script, its tools and what they forked leave no rendezvous of their own.
    let left: Vec<_> = scratch::tree(runtime_dir.path());
    assert_eq!(left.len(), 1, "{left:?}");
}

/// mysqld_safe and the server that it starts.
struct Script {
    child: std::process::Child,
    pid_file: PathBuf,
}

impl Script {
    fn start(home: &Path, data: &Path, runtime_dir: &Path) -> Script {
        let place = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let pid_file = home.join("pid");
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "TERM",
                "mysqld_safe",
                "--no-defaults",
                "--user=root",
            ])
            .args(["--skip-networking", "--log-bin=binlog", "--skip-syslog"])
            .args([place("datadir", data), place("socket", &home.join("sock"))])
            .args([
                place("pid-file", &pid_file),
                place("log-error", &home.join("error.log")),
            ])
            .env("LD_PRELOAD", artifacts::library())
            .env("HOTMIRROR_RUNTIME_DIR", runtime_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mysqld_safe can be run");
        Script { child, pid_file }
    }

    fn wait_until_ready(&mut self, socket: &Path) {
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "No server at {}",
                socket.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // The script first, or it starts the server again.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = std::fs::read_to_string(&self.pid_file).ok();
        let pid = pid.and_then(|text| rustix::process::Pid::from_raw(text.trim().parse().ok()?));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn a_runtime_directory_that_cannot_be_written_makes_the_library_inert_and_says_so_once() {
    let mount = match Mount::image(64) {
        Ok(mount) => mount,
        Err(reason) => hotmirror_tests::skip!("{reason}"),
    };
    mount.make_read_only();
    let server = ServerOptions::hooked().runtime_dir(&mount.path()).start();
    let load = Load::writes(&server, 22);
    load.wait_for_statements(500);
    load.stop_cleanly();
    let log = server.error_log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.to_lowercase().contains("hotmirror"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(&mount.path().display().to_string()),
        "{lines:?}"
    );
    let home = scratch::dir();
    let program = Program::for_server(&server);
    let outcome = program.backup(&home.path().join("backup")).outcome();
    outcome.assert_failed(exit::LIBRARY, &["library"]);
    let doctor = program.on_server("doctor").outcome();
    assert_ne!(doctor.code, Some(0), "{doctor}");
    assert!(
        doctor
            .to_string()
            .contains(&mount.path().display().to_string()),
        "{doctor}"
    );
}

#[test]
fn doctor_finds_a_good_server_in_order_and_names_the_remedy_for_another() {
    let server = ServerOptions::hooked().start();
    let doctor = Program::for_server(&server).on_server("doctor").success();
    assert!(
        doctor.stdout.to_lowercase().contains("protocol"),
        "{doctor}"
    );
    let server = ServerOptions::plain().start();
    let doctor = Program::for_server(&server).on_server("doctor").outcome();
    assert_ne!(doctor.code, Some(0), "{doctor}");
    assert!(doctor.stdout.contains("LD_PRELOAD"), "{doctor}");
    let drop_in = Program::for_server(&server)
        .on_server("doctor")
        .arg("--print-systemd")
        .success();
    assert!(drop_in.stdout.contains("LD_PRELOAD"), "{drop_in}");
}

#[test]
fn status_shows_a_running_backup_and_nothing_afterwards() {
    let server = ServerOptions::hooked().start();
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let backup = Stepped::start(program.backup(&home.path().join("backup")));
    assert!(backup.run_to(|event| event["phase"] == "base_copy"));
    let status = program.run("status").arg("--json").success();
    let shown: Value =
        serde_json::from_str(status.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {status}"));
    assert!(shown.to_string().contains("backup"), "{shown}");
    assert_eq!(backup.outcome().code, Some(0));
    let status = program.run("status").arg("--json").outcome();
    assert_eq!(status.stdout.trim(), "", "{status}");
}

#[test]
fn a_throttled_backup_goes_on_when_the_throttle_is_lifted() {
    let server = ServerOptions::hooked().start();
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let target = home.path().join("backup");
    // At this rate it would take hours.
    let backup = Stepped::start(program.backup(&target).arg("--throttle=10k"));
    assert!(backup.run_to(|event| event["phase"] == "base_copy"));
    backup.step();
    program.run("throttle").arg("0").success();
    let start = Instant::now();
    let outcome = backup.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(start.elapsed() < Duration::from_secs(60), "{outcome}");
}

#[test]
fn a_backup_is_verified_and_one_changed_byte_is_found() {
    let server = filled(ServerOptions::hooked());
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    program.run("verify").arg(&target).success();
    let path = target.join("data/ibdata1");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let outcome = program.run("verify").arg(&target).outcome();
    assert_ne!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.to_string().contains("ibdata1"), "{outcome}");
    let restored = home.path().join("restored");
    let outcome = restore(&program, &target, &restored, "--copy-back").outcome();
    assert_ne!(outcome.code, Some(0), "{outcome}");
}

fn restore(program: &Program, from: &Path, to: &Path, way: &str) -> hotmirror_tests::program::Run {
    program
        .run("restore")
        .arg(way)
        .arg(format!("--from={}", from.display()))
        .arg(format!("--data-dir={}", to.display()))
}

#[test]
fn a_prepared_backup_is_restored_by_copy_and_by_move() {
    let server = filled(ServerOptions::hooked());
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    // What can't even begin leaves the backup as it was.
    let run = program.run("prepare").arg("--mysqld=/nonexistent/mysqld");
    let outcome = run.arg(&target).outcome();
    outcome.assert_failed(exit::USAGE, &["/nonexistent/mysqld"]);
    let unprepared = home.path().join("unprepared");
    restore(&program, &target, &unprepared, "--copy-back").success();
    program.run("prepare").arg(&target).success();
    let manifest = hotmirror_tests::program::manifest(&target).unwrap();
    assert!(!manifest["prepared"].is_null(), "{manifest:#}");
    for (name, way) in [("copied", "--copy-back"), ("moved", "--move-back")] {
        let data = home.path().join(name);
        restore(&program, &target, &data, way).success();
        let copy = ServerOptions::plain().data_dir(&data).start();
        checksums::assert_equal(&server, &copy, name);
    }
}

#[test]
fn a_restore_into_a_directory_that_is_not_empty_is_refused() {
    let server = ServerOptions::hooked().start();
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let target = home.path().join("backup");
    program.backup(&target).success();
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("precious"), "mine").unwrap();
    let outcome = restore(&program, &target, &data, "--copy-back").outcome();
    outcome.assert_failed(exit::TARGET, &["not empty"]);
    assert_eq!(scratch::tree(&data).len(), 1);
    // No directory without a manifest is taken for a backup.
    let outcome = restore(&program, &data, &home.path().join("other"), "--copy-back").outcome();
    assert_ne!(outcome.code, Some(0), "{outcome}");
}

#[test]
fn roots_outside_the_data_directory_are_backed_up_and_restored() {
    let places = scratch::dir();
    let place = |name: &str| {
        let dir = places.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let binlogs = place("binlogs");
    std::fs::write(binlogs.join("unrelated"), "not ours").unwrap();
    let server = ServerOptions::hooked()
        .option(format!("--log-bin={}/mybin", binlogs.display()))
        .start();
    place_elsewhere(&server, &place("database"), &place("tablespace"));
    let load = Load::mixed(&server, 23);
    let program = Program::for_server(&server);
    let target = places.path().join("backup");
    program.backup(&target).success();
    load.stop_cleanly();
    assert!(target.join("external").is_dir());
    let unrelated = scratch::tree(&target)
        .into_iter()
        .find(|path| path.ends_with("unrelated"));
    assert_eq!(unrelated, None);

    let manifest = hotmirror_tests::program::manifest(&target).unwrap();
    let data = places.path().join("restored");
    let mut run = restore(&program, &target, &data, "--copy-back");
    let new_places = restored_places(&manifest, places.path());
    for (number, _, dir) in &new_places {
        run = run.arg(format!("--external={number}={}", dir.display()));
    }
    let new_binlogs = &new_places
        .iter()
        .find(|(_, source, _)| *source == binlogs)
        .unwrap()
        .2;
    run.success();
    let copy = ServerOptions::plain()
        .data_dir(&data)
        .option(format!("--log-bin={}/mybin", new_binlogs.display()))
        .start();
    assert_eq!(copy.value("SELECT COUNT(*) FROM linked.t"), "3");
    assert_eq!(copy.value("SELECT COUNT(*) FROM test_elsewhere.t"), "3");
    checksums::assert_tables_in_order(&copy, "The restored copy");
    let database = std::fs::canonicalize(data.join("linked")).unwrap();
    assert!(
        database != places.path().join("database/linked"),
        "The copy writes to the source's files"
    );
}

/// A symlinked database, and a table whose tablespace is elsewhere.
fn place_elsewhere(server: &Server, database: &Path, tablespace: &Path) {
    server.execute(&["CREATE DATABASE linked", "CREATE DATABASE test_elsewhere"]);
    let inside = server.data_dir().join("linked");
    let outside = database.join("linked");
    std::fs::rename(&inside, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    server.execute(&[
        "CREATE TABLE linked.t (i INT PRIMARY KEY)",
        "INSERT INTO linked.t VALUES (1), (2), (3)",
        &format!(
            "CREATE TABLE test_elsewhere.t (i INT PRIMARY KEY) DATA DIRECTORY='{}'",
            tablespace.display()
        ),
        "INSERT INTO test_elsewhere.t VALUES (1), (2), (3)",
    ]);
}

/// Each external root of a backup: its number, where it came from, and a new place for it.
fn restored_places(manifest: &Value, home: &Path) -> Vec<(String, PathBuf, PathBuf)> {
    let roots = manifest["roots"]
        .as_array()
        .unwrap_or_else(|| panic!("No roots: {manifest:#}"));
    let text = |root: &Value, key: &str| root[key].as_str().unwrap_or_default().to_string();
    roots
        .iter()
        .filter_map(|root| {
            let number = text(root, "place").strip_prefix("external/")?.to_string();
            let dir = home.join(format!("new-{number}"));
            Some((number, PathBuf::from(text(root, "source")), dir))
        })
        .collect()
}

#[test]
fn excluded_tables_and_unwanted_binlogs_are_left_out() {
    let server = filled(ServerOptions::hooked());
    server.execute(&[
        "FLUSH BINARY LOGS",
        "FLUSH BINARY LOGS",
        "FLUSH BINARY LOGS",
    ]);
    let program = Program::for_server(&server);
    let home = scratch::dir();
    let binlogs = |name: &str, argument: &str| -> usize {
        let target = home.path().join(name);
        program.backup(&target).arg(argument).success();
        let files = scratch::tree(&target.join("data"));
        let is_binlog = |path: &&PathBuf| path.to_string_lossy().starts_with("binlog.0");
        files.iter().filter(is_binlog).count()
    };
    let all = binlogs("all", "--binlogs=all");
    let needed = binlogs("needed", "--binlogs=needed");
    assert!(all > needed && needed >= 1, "{all} of all, {needed} needed");
    assert_eq!(binlogs("none", "--binlogs=none"), 0);
    assert_eq!(binlogs("rotated", "--binlogs=rotate"), 1);
    let target = home.path().join("excluded");
    program
        .backup(&target)
        .arg("--exclude=load_test.w_aria_0")
        .success();
    let files = scratch::tree(&target.join("data/load_test"));
    assert!(
        !files
            .iter()
            .any(|path| path.to_string_lossy().starts_with("w_aria_0")),
        "{files:?}"
    );
    assert!(
        files
            .iter()
            .any(|path| path.to_string_lossy().starts_with("w_aria_1")),
        "{files:?}"
    );
}

#[test]
fn a_server_that_is_not_backed_up_serves_as_ever() {
    let server = ServerOptions::hooked().start();
    let load = Load::mixed(&server, 24);
    load.wait_for_statements(3000);
    load.stop_cleanly();
    checksums::assert_tables_in_order(&server, "A server with the library idle");
    traces::assert_capture_is_off(&server);
    let mut server = server;
    let runtime_dir = scratch::tree(server.runtime_dir());
    assert_eq!(runtime_dir.len(), 1, "{runtime_dir:?}");
    assert!(server.shut_down().success());
    let runtime_dir = scratch::tree(server.runtime_dir());
    assert!(runtime_dir.is_empty(), "{runtime_dir:?}");
}

#[test]
fn completions_and_manual_pages_are_written() {
    let server = ServerOptions::plain().start();
    let program = Program::for_server(&server);
    let home = scratch::dir();
    program.run("man").arg(home.path()).success();
    assert!(!scratch::tree(home.path()).is_empty());
    let bash = program.run("completions").arg("bash").success();
    assert!(bash.stdout.contains("hotmirror"), "{bash}");
}
