//! The interface that C programs see: the header is what the sources say, C and C++ compile against it, it reads back with the layouts of the library, and the library
//! exports the agreed names and no others.
//!
//! `HOTMIRROR_WRITE_HEADER=1` writes the header instead of comparing it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const OWN_SYMBOLS: &str = include_str!("../../c-api/symbols.txt");
const HOOKS: &str = include_str!("../../hooklib/symbols.txt");

fn c_api() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn include_dir() -> PathBuf {
    c_api().join("include")
}

/// target/<profile>/deps, where Cargo builds the library for the tests of its package, however they are started.
fn build_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("The path of this executable");
    executable.parent().expect("target/<profile>/deps").into()
}

#[test]
fn the_header_is_what_the_sources_say() {
    let config = cbindgen::Config::from_file(c_api().join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(c_api().join("src/api.rs"))
        .generate()
        .expect("src/api.rs is parsed");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let path = include_dir().join("hotmirror.h");
    if std::env::var_os("HOTMIRROR_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).expect("The header is writable");
    }
    let kept = std::fs::read(&path).unwrap_or_default();
    assert!(
        kept == made,
        "{} is not what src/api.rs says: run this test with HOTMIRROR_WRITE_HEADER=1",
        path.display()
    );
}

#[test]
fn c_and_c_plus_plus_compile_against_both_headers() {
    let dir = tempfile::tempdir().expect("A directory");
    for (compiler, standard, suffix) in [
        ("cc", "c99", "c"),
        ("cc", "c11", "c"),
        ("c++", "c++11", "cc"),
        ("c++", "c++17", "cc"),
    ] {
        let source = dir.path().join("both").with_extension(suffix);
        let text = "#include \"hotmirror.h\"\n#include \"backup.h\"\n\
            int main(void) { return hotmirror_version() == NULL || tokubackup_version_string == NULL; }\n";
        std::fs::write(&source, text).expect("Writable");
        let status = Command::new(compiler)
            .args([
                &format!("-std={standard}"),
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pedantic",
                "-c",
                "-o",
                "/dev/null",
            ])
            .arg("-I")
            .arg(include_dir())
            .arg(&source)
            .status()
            .expect("A compiler");
        assert!(status.success(), "{compiler} {standard}");
    }
}

#[test]
fn the_header_reads_back_with_the_layouts_of_the_library() {
    let bindings = bindgen::Builder::default()
        .header(include_dir().join("hotmirror.h").to_string_lossy())
        .allowlist_item("hotmirror_.*|HOTMIRROR_.*")
        .layout_tests(true)
        .generate()
        .expect("libclang")
        .to_string();
    // What `api.rs` says, on the platforms that the hooks know: pointers, sizes and u64 of 8 bytes.
    for (structure, size) in [("hotmirror_options", 64), ("hotmirror_progress_info", 48)] {
        let wanted = format!(
            "[\"Size of {structure}\"][::std::mem::size_of::<{structure}>() - {size}usize]"
        );
        assert!(bindings.contains(&wanted), "{wanted}\n{bindings}");
    }
    for (field, offset) in [
        ("hotmirror_options::size", 0),
        ("hotmirror_options::dir_count", 24),
        ("hotmirror_options::exclude", 32),
        ("hotmirror_options::log_size", 56),
        ("hotmirror_progress_info::log_used_bytes", 40),
    ] {
        let wanted = format!("[\"Offset of field: {field}\"]");
        let line = bindings
            .lines()
            .skip_while(|line| !line.contains(&wanted))
            .take(2)
            .collect::<String>();
        assert!(
            line.contains(&format!("- {offset}usize]")),
            "{field}: {line}"
        );
    }
    assert!(bindings.contains("hotmirror_result_HOTMIRROR_INTERNAL: hotmirror_result = 9"));
}

fn exported(library: &Path) -> BTreeSet<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library)
        .output()
        .expect("nm is installed");
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .expect("Text")
        .lines()
        .filter_map(|line| line.split_whitespace().last().map(str::to_string))
        .collect()
}

#[test]
fn the_exported_symbols_are_exactly_the_hooks_and_the_two_interfaces() {
    let agreed: BTreeSet<String> = HOOKS
        .lines()
        .chain(OWN_SYMBOLS.lines())
        .map(str::to_string)
        .collect();
    let exported = exported(&build_dir().join("libHotBackup.so"));
    let missing: Vec<_> = agreed.difference(&exported).collect();
    let surplus: Vec<_> = exported.difference(&agreed).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing {missing:?}, surplus {surplus:?}"
    );
}

#[test]
fn the_library_has_the_ancestors_soname() {
    let output = Command::new("readelf")
        .arg("-d")
        .arg(build_dir().join("libHotBackup.so"))
        .output()
        .expect("readelf is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("soname: [libHotBackup.so]"), "{text}");
}
