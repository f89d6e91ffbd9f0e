//! The library exports exactly the names in symbols.txt: a spelling that is missing makes backups that miss its writes, and a name too many interposes what
//! nobody has thought about.

mod driver;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Names that a library defines for others, without their versions.
fn symbols(library: &Path) -> BTreeSet<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library)
        .output()
        .expect("nm is installed");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("Text");
    let name = |line: &str| {
        line.split_whitespace()
            .last()
            .map(|name| name.split('@').next().unwrap_or(name).to_string())
    };
    text.lines().filter_map(name).collect()
}

/// What the library is linked with, one per line.
fn needed() -> String {
    let output = Command::new("ldd")
        .arg(driver::library())
        .output()
        .expect("ldd is installed");
    String::from_utf8(output.stdout).expect("Text")
}

#[test]
fn the_exported_symbols_are_exactly_the_list() {
    let list: BTreeSet<String> = include_str!("../symbols.txt")
        .lines()
        .map(str::to_string)
        .collect();
    let exported = symbols(&driver::library());
    let missing: Vec<_> = list.difference(&exported).collect();
    let surplus: Vec<_> = exported.difference(&list).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing {missing:?}, surplus {surplus:?}"
    );
}

#[test]
fn every_spelling_that_libc_has_is_there() {
    let needed = needed();
    let libc = needed
        .split_whitespace()
        .find(|word| word.contains("/libc.so"))
        .expect("It is linked with libc");
    let of_libc = symbols(Path::new(libc));
    let list: BTreeSet<&str> = include_str!("../symbols.txt").lines().collect();
    let mut checked = 0;
    for name in &list {
        for spelling in [
            format!("{name}64"),
            name.replace("v2", "v64v2"),
            name.strip_suffix("64").unwrap_or(name).into(),
        ] {
            if of_libc.contains(&spelling) {
                assert!(list.contains(spelling.as_str()), "{spelling}");
                checked += 1;
            }
        }
    }
    assert!(
        checked > list.len(),
        "{checked} spellings of {}",
        list.len()
    );
}

#[test]
fn the_library_needs_no_library_that_a_server_may_lack() {
    for line in needed().lines() {
        let known = ["linux-vdso", "libc.so", "libgcc_s.so", "ld-linux"];
        assert!(known.iter().any(|name| line.contains(name)), "{line}");
    }
}
