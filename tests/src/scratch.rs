//! Directories that a test works in and that go away with it.

use std::path::{Path, PathBuf};

/// Names stay short: the path of a Unix socket has 107 bytes.
pub fn dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("hm-")
        .rand_bytes(5)
        .tempdir()
        .unwrap_or_else(|e| {
            panic!(
                "Cannot make a directory in {}: {e}",
                std::env::temp_dir().display()
            )
        })
}

/// A runtime directory for library and program: in memory, where pages can be reserved and a session of another test isn't seen.
pub fn runtime_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("hm-")
        .rand_bytes(5)
        .tempdir_in("/dev/shm")
        .unwrap_or_else(|e| panic!("Cannot make a directory in /dev/shm: {e}"))
}

/// Copies a directory with everything that its files have: owners, modes, times, holes, links.
pub fn copy(source: &Path, target: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "--sparse=always", "-T"])
        .args([source, target])
        .status()
        .expect("cp can be run");
    assert!(
        status.success(),
        "Cannot copy {} to {}: {status}",
        source.display(),
        target.display()
    );
}

/// Every path below `dir`, relative to it and sorted.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(parent) = open.pop() {
        let entries = std::fs::read_dir(&parent)
            .unwrap_or_else(|e| panic!("Cannot read {}: {e}", parent.display()));
        for entry in entries.map(|entry| entry.expect("A directory entry")) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            found.push(
                entry
                    .path()
                    .strip_prefix(dir)
                    .expect("Below the directory")
                    .into(),
            );
        }
    }
    found.sort();
    found
}
