//! The password: from the command line, a prompt, an option file or the environment, in this order.
//!
//! What makes it right: a prompt goes to the terminal itself, so that it works while output is redirected, and echo comes back whatever happens.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Where the servers' clients look for a password.
pub const VARIABLE: &str = "MYSQL_PWD";

/// `given`: `--password=x`; `Some("")` is `--password` alone, which asks.
pub fn find(given: &Option<Option<String>>, from_file: Option<&str>) -> io::Result<Option<String>> {
    match given {
        Some(Some(password)) => Ok(Some(password.clone())),
        Some(None) => ask().map(Some),
        None => Ok(from_file
            .map(str::to_string)
            .or_else(|| std::env::var(VARIABLE).ok())),
    }
}

struct Silenced<'t> {
    terminal: &'t File,
    before: Termios,
}

impl Drop for Silenced<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn ask() -> io::Result<String> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(b"Enter password: ")?;
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    {
        let _silenced = Silenced {
            terminal: &terminal,
            before,
        };
        BufReader::new(&terminal).read_line(&mut line)?;
    }
    terminal.write_all(b"\n")?;
    Ok(line.trim_end_matches('\n').to_string())
}

/// Who runs this program.
pub fn login_name() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    if crate::system::is_root() {
        return "root".into();
    }
    variable("USER")
        .or_else(|| variable("LOGNAME"))
        .unwrap_or_else(|| "root".into())
}
