//! Tells the tests where the engine's build script put the victim programs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let victims = std::env::var("DEP_HOTMIRROR_VICTIMS_DIR").unwrap_or_default();
    println!("cargo::rustc-env=HOTMIRROR_VICTIMS_DIR={victims}");
}
