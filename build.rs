//! Builds what is C and takes structures from the system's headers, for the crates of the workspace that need them; stamps the revision.
//!
//! Cargo hands what is printed as metadata to the build scripts of direct dependents, as `DEP_HOTMIRROR_…`. Each share is skipped where its
//! sources don't exist, as in a published crate.

use std::path::{Path, PathBuf};
use std::process::Command;

const SHIM: &str = "hooklib/src/shim.c";
const VICTIMS: &str = "tests/victims";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    stamp_revision();
    if Path::new(SHIM).exists() {
        build_shim(&out_dir);
        generate_bindings(&out_dir.join("bindings.rs"));
    }
    if Path::new(VICTIMS).is_dir() {
        build_victims(&out_dir.join("victims"));
    }
}

/// The variadic functions, as a static archive that hooklib links.
fn build_shim(out_dir: &Path) {
    println!("cargo::rerun-if-changed={SHIM}");
    // The metadata that cc would print makes this crate link the archive, and with it every program that uses the engine.
    cc::Build::new()
        .file(SHIM)
        .cargo_metadata(false)
        .flag("-fvisibility=hidden")
        // A cancelled thread unwinds through it.
        .flag("-fexceptions")
        .warnings_into_errors(true)
        .opt_level(2)
        .compile("hotmirror_shim");
    println!("cargo::metadata=shim_dir={}", out_dir.display());
}

/// libaio's structures and the kernel's constants.
fn generate_bindings(bindings: &Path) {
    bindgen::Builder::default()
        .header_contents(
            "wanted.h",
            "#include <libaio.h>\n#include <linux/falloc.h>\n#include <linux/fs.h>\n#include <sys/syscall.h>\n",
        )
        .allowlist_type("iocb|io_event|io_iocb_cmd")
        .allowlist_var("FALLOC_FL_.*|RWF_APPEND|__NR_io_pgetevents")
        .opaque_type("sockaddr|timespec")
        .derive_debug(false)
        .generate()
        .expect("libaio.h is needed: install libaio-dev and libclang-dev")
        .write_to_file(bindings)
        .expect("OUT_DIR is writable");
    println!("cargo::metadata=bindings={}", bindings.display());
}

/// Each `tests/victims/NAME.c` becomes the program `NAME`.
fn build_victims(victims_dir: &Path) {
    println!("cargo::rerun-if-changed={VICTIMS}");
    std::fs::create_dir_all(victims_dir).expect("OUT_DIR is writable");
    let compiler = cc::Build::new()
        .opt_level(1)
        .cargo_metadata(false)
        .get_compiler();
    let sources = std::fs::read_dir(VICTIMS).expect("The folder of victims is readable");
    for source in sources.map(|entry| entry.expect("The folder of victims is readable").path()) {
        if source.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        println!("cargo::rerun-if-changed={}", source.display());
        let program = victims_dir.join(source.file_stem().expect("A file has a name"));
        let status = compiler
            .to_command()
            .args(["-D_GNU_SOURCE", "-Wall"])
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .args(["-lpthread", "-laio"])
            .status()
            .expect("The C compiler starts");
        assert!(status.success(), "Cannot compile {}", source.display());
    }
    println!("cargo::metadata=victims_dir={}", victims_dir.display());
}

/// Version and revision, for the engine and for who depends on it.
fn stamp_revision() {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
        Some(text).filter(|text| !text.is_empty())
    };
    let revision = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=HOTMIRROR_REVISION={revision}");
    println!(
        "cargo::rustc-env=HOTMIRROR_VERSION={}",
        env!("CARGO_PKG_VERSION")
    );
    println!("cargo::metadata=revision={revision}");
    if let Some(head) = git(&["rev-parse", "--git-path", "HEAD"]) {
        println!("cargo::rerun-if-changed={head}");
    }
    // A commit moves the branch, not HEAD. Only a release follows it: a development build would be rebuilt at each commit.
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let branch = git(&["symbolic-ref", "-q", "HEAD"]).filter(|_| release);
    if let Some(path) = branch.and_then(|branch| git(&["rev-parse", "--git-path", &branch])) {
        println!("cargo::rerun-if-changed={path}");
    }
}
