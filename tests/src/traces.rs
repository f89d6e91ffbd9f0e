//! What a backup must leave behind when it fails: nothing.
//!
//! Rule: looked at from outside, as a user would find it: the control word in shared memory, files, locks as seen by other
//! connections, connections as seen by the server.

use std::path::Path;
use std::time::{Duration, Instant};

use hotmirror::capture_log::{Control, Link};
use mysql::prelude::Queryable;

use crate::program::Program;
use crate::scratch;
use crate::server::Server;

/// How long a server may need to notice that a connection is gone, and to release what it held.
const RELEASE_BOUND: Duration = Duration::from_secs(10);

/// Fails if a failed backup left anything on the server or below `home`, where its target was to be.
///
/// `kept`: what was below `home` before.
#[track_caller]
pub fn assert_none(server: &Server, program: &Program, home: &Path, kept: &[&str]) {
    assert_capture_is_off(server);
    assert_nothing_is_locked(server);
    let left = scratch::tree(home);
    let left: Vec<_> = left
        .iter()
        .filter(|path| !kept.iter().any(|kept| path.starts_with(kept)))
        .collect();
    assert!(left.is_empty(), "Left below {}: {left:?}", home.display());
    let state: Vec<_> = match program.state_dir().is_dir() {
        true => scratch::tree(program.state_dir()),
        false => Vec::new(),
    };
    let undo: Vec<_> = state
        .iter()
        .filter(|path| path.to_string_lossy().contains("undo"))
        .collect();
    assert!(undo.is_empty(), "Left to undo: {undo:?}");
}

/// Fails unless the library records nothing and no segment is left.
#[track_caller]
pub fn assert_capture_is_off(server: &Server) {
    let link = Link::open(server.runtime_dir(), server.pid()).expect("The library in the server");
    assert_eq!(link.control(), Control::IDLE, "Capture is on");
    let segments: Vec<_> = scratch::tree(server.runtime_dir())
        .into_iter()
        .filter(|path| {
            let name = path.to_string_lossy();
            name.starts_with(&format!("hotmirror.{}.", server.pid()))
        })
        .collect();
    assert!(segments.is_empty(), "Segments are left: {segments:?}");
}

/// Fails unless tables of every engine can be made, written and dropped at once.
#[track_caller]
pub fn assert_nothing_is_locked(server: &Server) {
    let start = Instant::now();
    let mut conn = server.conn();
    conn.query_drop("SET SESSION lock_wait_timeout = 10, innodb_lock_wait_timeout = 10")
        .expect("A timeout");
    conn.query_drop("CREATE DATABASE IF NOT EXISTS probe")
        .expect("A database");
    for engine in server.flavor().engines() {
        for statement in [
            format!("CREATE TABLE probe.t (i INT) ENGINE={engine}"),
            "INSERT INTO probe.t VALUES (1)".into(),
            "DROP TABLE probe.t".into(),
        ] {
            conn.query_drop(&statement)
                .unwrap_or_else(|e| panic!("A lock is left? {statement}: {e}"));
        }
    }
    let took = start.elapsed();
    assert!(took < RELEASE_BOUND, "Locks were left for {took:?}");
}
