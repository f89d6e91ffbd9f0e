//! A backup of more data than there is memory, of a server that lives on the page cache.
//!
//! Rule: what the server has read stays in memory, and what the backup writes does not pile up there. A plain copy of the same files, made afterwards in the same memory,
//! does one or the other, or the test would prove nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use hotmirror_tests::memory_group::MemoryGroup;
use hotmirror_tests::program::Program;
use hotmirror_tests::server::{Server, ServerOptions};
use hotmirror_tests::{scratch, skip};

const MB: u64 = 1 << 20;
/// For server, backup and page cache together: the server needs 200 at most, the capture log 64.
const MEMORY_MB: u64 = 640;
const HOT_MB: u64 = 200;
const COLD_MB: u64 = 1500;
/// More dirty pages than these have piled up.
const DIRTY_MB_MAX: u64 = COLD_MB / 30;

/// A table that is written once and read from the page cache, which is all the cache that MyISAM has for rows.
fn make_hot_table(server: &Server) {
    let rows = HOT_MB * 16;
    let insert =
        format!("INSERT INTO hot.t SELECT seq, REPEAT('x', 65000) FROM hot.seq_1_to_{rows}");
    server.execute(&[
        "CREATE DATABASE hot",
        "CREATE TABLE hot.t (id INT PRIMARY KEY, v LONGBLOB) ENGINE=MyISAM",
        &insert,
        "FLUSH TABLES hot.t",
    ]);
}

/// Files as tables have them that nobody has used for long.
fn make_cold_files(dir: &Path, file_bytes: u64) {
    std::fs::create_dir(dir).expect("A database's directory");
    let bytes = vec![7u8; file_bytes as usize];
    for number in 0..COLD_MB * MB / file_bytes {
        std::fs::write(dir.join(format!("t{number}.MYD")), &bytes).expect("Room for the data");
    }
}

/// What is below `dir` is read from the disk from now on.
fn forget(dir: &Path) {
    let script =
        r#"sync -f "$1" && find "$1" -type f -exec dd if={} iflag=nocache count=0 status=none \;"#;
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(dir)
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "No way to forget files"
    );
}

fn cached_mb(file: &Path) -> u64 {
    let output = Command::new("fincore")
        .args(["-b", "-n", "-o", "RES"])
        .arg(file)
        .output();
    let output = output.unwrap_or_else(|e| panic!("fincore: {e}"));
    let bytes = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse::<u64>();
    bytes.unwrap_or_else(|_| panic!("fincore: {output:?}")) / MB
}

/// What a copy did to the memory that it was made in.
#[derive(Debug)]
struct Effect {
    hot_mb_before: u64,
    hot_mb_after: u64,
    dirty_mb_max: u64,
}

impl Effect {
    fn evicts(&self) -> bool {
        self.hot_mb_after < self.hot_mb_before / 4 * 3
    }

    fn piles_up(&self) -> bool {
        self.dirty_mb_max > DIRTY_MB_MAX
    }
}

struct Ground {
    server: Server,
    group: MemoryGroup,
}

impl Ground {
    fn new(cold_file_bytes: u64) -> Result<Ground, String> {
        let group = MemoryGroup::new(MEMORY_MB)?;
        let wrapper = group.wrapper();
        let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let options = ServerOptions::hooked().wrapper(&words);
        let server = options.option("--innodb-buffer-pool-size=32M").start();
        make_hot_table(&server);
        make_cold_files(&server.data_dir().join("cold"), cold_file_bytes);
        Ok(Ground { server, group })
    }

    fn hot_file(&self) -> PathBuf {
        self.server.data_dir().join("hot/t.MYD")
    }

    /// What `work` does, once the server has read the hot table and nothing else is in memory.
    fn effect(&self, work: impl FnOnce()) -> Effect {
        forget(self.server.data_dir());
        self.server.execute(&["CHECKSUM TABLE hot.t EXTENDED"]);
        let hot_mb_before = cached_mb(&self.hot_file());
        assert!(
            hot_mb_before > HOT_MB / 10 * 9,
            "{hot_mb_before} MB are hot"
        );
        let done = AtomicBool::new(false);
        let sample = || {
            let mut dirty_bytes_max = 0;
            while !done.load(Ordering::Relaxed) {
                dirty_bytes_max = self.group.dirty_bytes().max(dirty_bytes_max);
                // Samples, not a wait.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            dirty_bytes_max
        };
        let dirty_bytes_max = std::thread::scope(|scope| {
            let sampler = scope.spawn(sample);
            work();
            done.store(true, Ordering::Relaxed);
            sampler.join().expect("The samples")
        });
        Effect {
            hot_mb_before,
            hot_mb_after: cached_mb(&self.hot_file()),
            dirty_mb_max: dirty_bytes_max / MB,
        }
    }

    fn back_up(&self, target: &Path) {
        let run = Program::for_server(&self.server)
            .backup(target)
            .spawn(Stdio::piped());
        self.group.add(run.pid());
        let outcome = run.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome}");
    }

    fn copy(&self, target: &Path) {
        let path = |path: &Path| path.to_str().expect("A path of plain text").to_string();
        let data = path(self.server.data_dir());
        self.group.run(&["cp", "-r", &data, &path(target)]);
    }
}

fn a_backup_leaves_memory_alone(cold_file_bytes: u64) {
    let ground = match Ground::new(cold_file_bytes) {
        Ok(ground) => ground,
        Err(reason) => skip!("{reason}"),
    };
    let home = scratch::dir();
    let target = home.path().join("copy");
    let backup = ground.effect(|| ground.back_up(&target));
    std::fs::remove_dir_all(&target).expect("The backup can be removed");
    let copy = ground.effect(|| ground.copy(&target));
    println!("Files of {cold_file_bytes} bytes. Backup: {backup:?}. Plain copy: {copy:?}");
    assert!(
        !backup.evicts(),
        "The server's files were evicted: {backup:?}"
    );
    assert!(!backup.piles_up(), "Dirty pages piled up: {backup:?}");
    assert!(
        copy.evicts() || copy.piles_up(),
        "A plain copy does no harm either: {copy:?}"
    );
}

#[test]
fn a_backup_of_large_files_leaves_the_page_cache_to_the_server() {
    a_backup_leaves_memory_alone(100 * MB);
}

#[test]
fn a_backup_of_small_files_leaves_the_page_cache_to_the_server() {
    // What is shorter than a direct read pays for.
    a_backup_leaves_memory_alone(100 << 10);
}

#[test]
fn a_backup_of_files_that_end_anywhere_leaves_the_page_cache_to_the_server() {
    a_backup_leaves_memory_alone(MB * 3 / 2 + 777);
}
