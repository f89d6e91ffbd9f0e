//! Passes on what the engine's build script made: the shim to link, and the structures to include.

fn main() {
    // Two packages use this script, each with a folder of its own: a path would be looked for in both.
    println!("cargo::rerun-if-env-changed=DEP_HOTMIRROR_SHIM_DIR");
    let made = |name: &str| {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by the engine's build script"))
    };
    println!(
        "cargo::rustc-link-search=native={}",
        made("DEP_HOTMIRROR_SHIM_DIR")
    );
    println!("cargo::rustc-link-lib=static=hotmirror_shim");
    println!(
        "cargo::rustc-env=HOTMIRROR_BINDINGS={}",
        made("DEP_HOTMIRROR_BINDINGS")
    );
}
