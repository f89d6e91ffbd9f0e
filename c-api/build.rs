//! Names the library as programs that were linked with the ancestor look for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libHotBackup.so");
}
