//! Small helpers: medians, percentiles, sizes, what is in the page cache, and compiling what is written in C.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use hotmirror_tests::artifacts;

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 50)
}

/// The nearest of the values.
pub fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// The first number that a command prints.
fn number(command: &mut Command) -> f64 {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.split_whitespace().next();
    first
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{command:?} printed {text:?}"))
}

/// Space that the files below `dir` take.
pub fn size_gb(dir: &Path) -> f64 {
    number(Command::new("du").args(["-s", "-B1"]).arg(dir)) / 1e9
}

/// A file, and how much of it is in the page cache.
struct Cached {
    bytes: u64,
    size: u64,
    file: PathBuf,
}

/// Of every file below `dir`.
fn cached(dir: &Path) -> Vec<Cached> {
    let script = r#"find "$1" -type f -print0 | xargs -0 -r fincore -b -n -r -o RES,SIZE,FILE"#;
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(dir)
        .output()
        .expect("fincore");
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        Some(Cached {
            bytes: fields.next()?.parse().ok()?,
            size: fields.next()?.parse().ok()?,
            file: fields.next()?.into(),
        })
    };
    // A file may have gone meanwhile, which fincore takes for a failure.
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(!told.is_empty(), "fincore tells nothing of {dir:?}");
    told.lines().filter_map(of_line).collect()
}

/// How much of the files below `dir` is in the page cache.
pub fn cached_mb(dir: &Path) -> f64 {
    let bytes: u64 = cached(dir).iter().map(|cached| cached.bytes).sum();
    bytes as f64 / 1e6
}

/// The files below a directory that are not in the page cache, or less than half. The server works past it, and so must a copy that is compared to a backup.
pub fn cold_files(dir: &Path) -> BTreeSet<PathBuf> {
    let is_cold = |cached: &Cached| cached.bytes * 2 < cached.size;
    let cold = cached(dir).into_iter().filter(is_cold);
    cold.map(|cached| cached.file).collect()
}

/// Compiles `SOURCE.c` of the directory for it; gives what was made.
pub fn compile(source: &str, made: &str, options: &[&str], home: &Path) -> PathBuf {
    let source = artifacts::workspace().join(format!("tests/bench/{source}.c"));
    let made = home.join(made);
    let status = Command::new("cc")
        .arg("-O2")
        .args(options)
        .arg("-o")
        .args([&made, &source])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "Cannot compile {}",
        source.display()
    );
    made
}
