//! Skipped tests, said aloud: scripts/test counts these lines and prints them at the end.

/// Ends the test that calls it, with a line that says what is missing.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skip::say(module_path!(), &format!($($reason)*));
        return;
    }};
}

/// Written to the file that `HOTMIRROR_SKIPPED` names, since the test runner swallows the output of a test that passes.
pub fn say(place: &str, reason: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("main").to_string();
    let line = format!("SKIPPED {place}::{test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("HOTMIRROR_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|e| panic!("Cannot write to {}: {e}", path.display()));
    }
}

/// True in the long run of the tests (`scripts/test --long`).
pub fn long() -> bool {
    std::env::var_os("HOTMIRROR_LONG").is_some_and(|value| value == "1")
}
