//! Names the library as programs that were linked with the ancestor look for it, and hands on the names of the hooks.

use std::path::PathBuf;

const HOOKS: &str = "../hooklib/symbols.txt";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={HOOKS}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libHotBackup.so");
    let names = std::fs::read_to_string(HOOKS).expect("The list of hooks");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    std::fs::write(out_dir.join("hooks.rs"), format!("hooks! {{ {names} }}"))
        .expect("OUT_DIR is writable");
}
