//! A real server under the library: it starts, declines io_uring for libaio, and works undisturbed while sessions come and go. Skipped where there is no MariaDB.

mod driver;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use driver::{BOUND, Scratch, Session};
use engine::capture_log::{Mode, Record};

const SERVER: &str = "/usr/sbin/mariadbd";

struct Server {
    child: Child,
    socket: std::path::PathBuf,
    log: std::path::PathBuf,
}

impl Server {
    fn start(scratch: &Scratch, user: &str) -> Server {
        let data = scratch.data();
        let top = scratch.run().with_file_name("");
        // The server's user makes files in the first, and goes through the others.
        for (dir, mode) in [(&top, 0o1777), (&data, 0o755), (&scratch.run(), 0o1777)] {
            std::fs::set_permissions(dir, PermissionsExt::from_mode(mode)).expect("It is ours");
        }
        let user = format!("--user={user}");
        let (socket, log) = (
            scratch.run().with_file_name("socket"),
            scratch.run().with_file_name("server.log"),
        );
        let installed = Command::new("mariadb-install-db")
            .args([
                "--no-defaults",
                &user,
                "--auth-root-authentication-method=normal",
            ])
            .arg(format!("--datadir={}", data.display()))
            .output()
            .expect("It is installed");
        assert!(installed.status.success(), "{installed:?}");
        let child = Command::new(SERVER)
            .args([
                "--no-defaults",
                &user,
                "--skip-networking",
                "--log-bin=bin",
                "--innodb-buffer-pool-size=64M",
            ])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--log-error={}", log.display()))
            .env("LD_PRELOAD", driver::library())
            .env("HOTMIRROR_RUNTIME_DIR", scratch.run())
            .stderr(Stdio::null())
            .spawn()
            .expect("It starts");
        let server = Server { child, socket, log };
        let start = Instant::now();
        while server.query("SELECT 1").is_none() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn query(&self, sql: &str) -> Option<String> {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "-uroot", "-N", "-e", sql])
            .arg(format!("--socket={}", self.socket.display()));
        let output = command
            .stderr(Stdio::null())
            .output()
            .expect("The client is installed");
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn sysbench(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sysbench");
        command
            .args([
                "oltp_write_only",
                "--mysql-user=root",
                "--tables=2",
                "--table-size=20000",
                "--threads=2",
            ])
            .arg(format!("--mysql-socket={}", self.socket.display()))
            .args(arguments)
            .stdout(Stdio::piped());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Default)]
struct Counts {
    ranges: u64,
    payload_bytes: u64,
    names: u64,
    opaque: u64,
}

fn count(session: &mut Session, counts: &mut Counts) {
    for taken in session.drain() {
        match taken.record() {
            Record::Write { payload: None, .. } => counts.ranges += 1,
            Record::Write {
                payload: Some(payload),
                ..
            } => counts.payload_bytes += payload.len() as u64,
            Record::Opaque { .. } => counts.opaque += 1,
            _ => counts.names += 1,
        }
    }
}

/// None, said aloud, where there is no MariaDB.
fn server(scratch: &Scratch, user: &str) -> Option<Server> {
    if !Path::new(SERVER).exists() {
        eprintln!("skipped: no {SERVER}");
        return None;
    }
    Some(Server::start(scratch, user))
}

#[test]
fn pages_that_the_server_writes_asynchronously_are_recorded() {
    let scratch = Scratch::new();
    let Some(server) = server(&scratch, "root") else {
        return;
    };
    let table = "CREATE TABLE test.t (a INT PRIMARY KEY, b VARCHAR(2000))";
    let fill = "INSERT INTO test.t SELECT seq, REPEAT('x', 2000) FROM test.seq_1_to_3000";
    server.query(table).expect("It works");
    server.query(fill).expect("It works");
    let file = driver::file_id(&scratch.data().join("test/t.ibd"));
    let mut session = Session::begin(&scratch, server.child.id(), 1, Mode::Extents);
    server
        .query("UPDATE test.t SET b = REPEAT('y', 1999)")
        .expect("It works");
    server
        .query("SET GLOBAL innodb_max_dirty_pages_pct = 0")
        .expect("It works");
    let (mut written, start) = (0, Instant::now());
    while written < 3 << 20 {
        assert!(
            start.elapsed() < BOUND,
            "{written} bytes of the table were recorded"
        );
        for taken in session.drain() {
            if let Record::Write { file: of, len, .. } = taken.record()
                && of == file
            {
                written += len;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    session
        .link
        .grace(true, BOUND)
        .expect("Asynchronous writes end");
}

#[test]
fn a_server_that_changes_its_user_is_captured() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let scratch = Scratch::new();
    let Some(server) = server(&scratch, "mysql") else {
        return;
    };
    let mut session = Session::begin(&scratch, server.child.id(), 1, Mode::Payload);
    assert_ne!(session.link.uid(), 0);
    server
        .query("CREATE TABLE test.t (a INT) ENGINE=InnoDB; INSERT INTO test.t VALUES (1)")
        .expect("It works");
    assert_eq!(session.link.refusal(1), None);
    let mut counts = Counts::default();
    count(&mut session, &mut counts);
    assert!(counts.payload_bytes > 0 && counts.names > 0, "{counts:?}");
}

#[test]
fn a_loaded_server_works_on_through_many_sessions() {
    let scratch = Scratch::new();
    let Some(server) = server(&scratch, "root") else {
        return;
    };
    assert!(
        server.log().contains("Using Linux native AIO"),
        "{}",
        server.log()
    );
    server.query("CREATE DATABASE sbtest").expect("It works");
    assert!(
        server
            .sysbench(&["prepare"])
            .output()
            .expect("It is installed")
            .status
            .success()
    );
    let load = server
        .sysbench(&["--time=12", "--report-interval=1", "run"])
        .spawn()
        .expect("It is installed");
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut sessions = 0;
    while start.elapsed() < Duration::from_secs(9) {
        sessions += 1;
        let device = driver::file_id(&scratch.data()).device;
        let mut session = Session::begin_on(
            &scratch.run(),
            server.child.id(),
            sessions,
            Mode::Extents,
            &[device],
            64 << 20,
        );
        run_for(Duration::from_millis(300), || {
            count(&mut session, &mut counts)
        });
        let name = format!(
            "CREATE TABLE sbtest.t{sessions} (a INT) ENGINE=Aria; DROP TABLE sbtest.t{sessions}"
        );
        server.query(&name).expect("It works");
        session.switch(sessions, Mode::Payload);
        session
            .link
            .grace(true, BOUND)
            .expect("Asynchronous writes end");
        run_for(Duration::from_millis(300), || {
            count(&mut session, &mut counts)
        });
        session.switch(sessions, Mode::Idle);
        count(&mut session, &mut counts);
    }
    let output = load.wait_with_output().expect("It ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("reconnects:                          0"),
        "{text}"
    );
    println!("{sessions} sessions, {counts:?}");
    assert!(
        counts.ranges > 1000 && counts.payload_bytes > 1 << 20 && counts.names > 4,
        "{counts:?}"
    );
    let status = server
        .query("CHECK TABLE sbtest.sbtest1")
        .expect("It works");
    assert!(status.contains("OK"), "{status}");
    assert!(!server.log().contains("[ERROR]"), "{}", server.log());
}

fn run_for(time: Duration, mut step: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < time {
        step();
        std::thread::sleep(Duration::from_millis(5));
    }
}
