//! Finds what is under test: `libhotmirror.so` and `hotmirror`, in the build directory of the test's own executable.
//!
//! Rule: never anything from elsewhere on the machine, so that a test can't pass on an installed version.

use std::path::{Path, PathBuf};

/// target/<profile>: a test's executable is in its `deps`, a program in itself.
pub fn build_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("The path of this executable");
    let parent = executable
        .parent()
        .expect("A directory around the executable");
    match parent.file_name() {
        Some(name) if name == "deps" => parent.parent().expect("A directory around deps").into(),
        _ => parent.into(),
    }
}

fn built(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace` with this profile first (scripts/test does)",
        path.display()
    );
    path
}

/// The library to preload into a server.
pub fn library() -> PathBuf {
    built("libhotmirror.so")
}

/// The C library, which can be preloaded, too.
pub fn c_library() -> PathBuf {
    built("libHotBackup.so")
}

/// The program.
pub fn program() -> PathBuf {
    built("hotmirror")
}

/// Root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("The workspace around this package")
}

/// What is made once and reused by later runs: templates of data directories.
pub fn cache_dir() -> PathBuf {
    let dir = workspace().join("target/servers");
    std::fs::create_dir_all(&dir)
        .unwrap_or_else(|e| panic!("Cannot create {}: {e}", dir.display()));
    dir
}
