//! The servers' option files: `/etc/mysql/my.cnf`, `~/.my.cnf` and their includes.
//!
//! What makes it right: the groups, the escapes and the order are those of the servers' own clients, so that a file that works for
//! them works here. In `[client]` we take what we know; an unknown name in `[hotmirror]`, which is ours alone, is an error.

use std::path::{Path, PathBuf};

use super::low::DefaultsArgs;

const STANDARD_FILES: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];
const INCLUDE_DEPTH_MAX: u32 = 10;
const CLIENT_GROUPS: [&str; 3] = ["client", "client-server", "client-mariadb"];
const OWN_GROUP: &str = "hotmirror";
const CLIENT_NAMES: [&str; 5] = ["host", "port", "socket", "user", "password"];
const OWN_NAMES: [&str; 17] = [
    "target-dir",
    "parallel",
    "throttle",
    "log-size",
    "lock",
    "lock-timeout",
    "grace-timeout",
    "max-passes",
    "exclude",
    "binlogs",
    "compat-info",
    "state-dir",
    "safe-slave",
    "safe-slave-timeout",
    "safe-slave-timeout-action",
    "wait-for-long-queries",
    "kill-long-queries-after",
];

#[derive(Debug, thiserror::Error)]
pub enum OptionFileError {
    #[error("Cannot read the option file {path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}, line {line}: {reason}")]
    Syntax {
        path: PathBuf,
        line: usize,
        reason: String,
    },
}

/// Names (with dashes) and values, later ones winning.
#[derive(Clone, Debug, Default)]
pub struct Options {
    entries: Vec<(String, String)>,
}

impl Options {
    pub fn load(args: &DefaultsArgs) -> Result<Options, OptionFileError> {
        let mut reader = Reader::new(args.defaults_group_suffix.as_deref().unwrap_or_default());
        if let Some(file) = &args.defaults_file {
            reader.file(file, 0)?;
            return Ok(reader.finish());
        }
        if args.no_defaults {
            return Ok(Options::default());
        }
        for file in STANDARD_FILES
            .map(Path::new)
            .into_iter()
            .filter(|file| file.exists())
        {
            reader.file(file, 0)?;
        }
        if let Some(file) = &args.defaults_extra_file {
            reader.file(file, 0)?;
        }
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".my.cnf"));
        if let Some(file) = home.filter(|file| file.exists()) {
            reader.file(&file, 0)?;
        }
        Ok(reader.finish())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let mut entries = self.entries.iter().rev();
        let (_, value) = entries.find(|(found, _)| found == name)?;
        Some(value)
    }

    pub fn get_all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let entries = self.entries.iter().filter(move |(found, _)| found == name);
        entries.map(|(_, value)| value.as_str())
    }

    #[cfg(test)]
    pub fn from_text(text: &str) -> Options {
        let mut reader = Reader::new("");
        reader.text(Path::new("test"), text, 0).unwrap();
        reader.finish()
    }
}

struct Reader {
    suffix: String,
    client: Vec<(String, String)>,
    own: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Group {
    Client,
    Own,
    Other,
}

impl Reader {
    fn new(suffix: &str) -> Reader {
        Reader {
            suffix: suffix.into(),
            client: Vec::new(),
            own: Vec::new(),
        }
    }

    /// `[hotmirror]` behind `[client]`, so that it wins.
    fn finish(mut self) -> Options {
        self.client.append(&mut self.own);
        Options {
            entries: self.client,
        }
    }

    fn file(&mut self, path: &Path, depth: u32) -> Result<(), OptionFileError> {
        let text = std::fs::read(path).map_err(|source| OptionFileError::Io {
            path: path.into(),
            source,
        })?;
        self.text(path, &String::from_utf8_lossy(&text), depth)
    }

    fn text(&mut self, path: &Path, text: &str, depth: u32) -> Result<(), OptionFileError> {
        let mut group = Group::Other;
        for (index, line) in text.lines().enumerate() {
            let wrong = |reason: String| OptionFileError::Syntax {
                path: path.into(),
                line: index + 1,
                reason,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(directive) = line.strip_prefix('!') {
                self.include(directive, depth)
                    .map_err(|error| match error {
                        Include::Read(error) => error,
                        Include::Wrong(reason) => wrong(reason),
                    })?;
            } else if let Some(name) = line.strip_prefix('[') {
                let name = name.split(']').next().unwrap_or_default();
                group = self.group(name);
            } else {
                self.entry(group, line).map_err(wrong)?;
            }
        }
        Ok(())
    }

    fn group(&self, name: &str) -> Group {
        let is = |group: &str| name == group || name.strip_prefix(group) == Some(&self.suffix);
        if is(OWN_GROUP) {
            Group::Own
        } else if CLIENT_GROUPS.into_iter().any(is) {
            Group::Client
        } else {
            Group::Other
        }
    }

    fn entry(&mut self, group: Group, line: &str) -> Result<(), String> {
        let line = without_comment(line);
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let name = name.trim().replace('_', "-");
        let value = unescaped(value.trim());
        let is_client_name = CLIENT_NAMES.contains(&name.as_str());
        match group {
            Group::Client if is_client_name => self.client.push((name, value)),
            Group::Own if is_client_name || OWN_NAMES.contains(&name.as_str()) => {
                self.own.push((name, value));
            }
            Group::Own => return Err(format!("unknown option {name} in [{OWN_GROUP}]")),
            _ => {}
        }
        Ok(())
    }

    /// One that can't be opened is left out, as by the servers' clients: it may be for others.
    fn included(&mut self, path: &Path, depth: u32) -> Result<(), OptionFileError> {
        match std::fs::File::open(path) {
            Ok(_) => self.file(path, depth + 1),
            Err(_) => Ok(()),
        }
    }

    fn include(&mut self, directive: &str, depth: u32) -> Result<(), Include> {
        if depth >= INCLUDE_DEPTH_MAX {
            return Err(Include::Wrong("includes are nested too deeply".into()));
        }
        let (word, path) = directive
            .split_once(char::is_whitespace)
            .unwrap_or((directive, ""));
        let path = Path::new(path.trim());
        match word {
            "includedir" => {
                for file in option_files_in(path)? {
                    self.included(&file, depth)?;
                }
            }
            "include" => self.included(path, depth)?,
            _ => return Err(Include::Wrong(format!("unknown directive !{directive}"))),
        }
        Ok(())
    }
}

enum Include {
    Read(OptionFileError),
    Wrong(String),
}

impl From<OptionFileError> for Include {
    fn from(error: OptionFileError) -> Include {
        Include::Read(error)
    }
}

fn option_files_in(dir: &Path) -> Result<Vec<PathBuf>, OptionFileError> {
    let failed = |source| OptionFileError::Io {
        path: dir.into(),
        source,
    };
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cnf"));
    paths.sort();
    Ok(paths)
}

/// A comment may follow on the same line, wherever a # stands that is in no quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in line.char_indices() {
        match c {
            '#' if quote.is_none() => return line[..at].trim_end(),
            '"' | '\'' if !escaped && quote.is_none() => quote = Some(c),
            _ if !escaped && quote == Some(c) => quote = None,
            _ => {}
        }
        escaped = quote.is_some() && c == '\\' && !escaped;
    }
    line
}

/// Without quotes around it, and with the escapes of these files replaced.
fn unescaped(value: &str) -> String {
    let quoted =
        |quote: char| value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote);
    let inner = if quoted('"') || quoted('\'') {
        &value[1..value.len() - 1]
    } else {
        value
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (c, false) => text.push(c),
            _ => match chars.next() {
                Some('b') => text.push('\u{8}'),
                Some('t') => text.push('\t'),
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('s') => text.push(' '),
                Some(c @ ('\\' | '"' | '\'')) => text.push(c),
                Some(c) => text.extend(['\\', c]),
                None => text.push('\\'),
            },
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_group_wins_over_client_and_others_do_not_count() {
        let options = Options::from_text(
            "[hotmirror]\nuser=b\n[client]\nuser = c\nsocket=/s # here\nssl-ca=x\n[mysqld]\nport=1\n",
        );
        assert_eq!(options.get("user"), Some("b"));
        assert_eq!(options.get("socket"), Some("/s"));
        assert_eq!(options.get("port"), None);
    }

    #[test]
    fn values_lose_quotes_and_escapes() {
        let options = Options::from_text("[client]\npassword=\"a # \\\\b\\s\"\n");
        assert_eq!(options.get("password"), Some("a # \\b "));
    }

    #[test]
    fn a_comment_may_follow_anything_but_what_is_in_quotes() {
        for (line, value) in [
            ("password=\"abc\" # note", "abc"),
            ("password=foo#bar", "foo"),
            ("password='a#b'#c", "a#b"),
            ("password=\"a\\\"#b\"", "a\"#b"),
            ("password=it's # not a comment", "it's # not a comment"),
        ] {
            let options = Options::from_text(&format!("[client]\n{line}\n"));
            assert_eq!(options.get("password"), Some(value), "{line}");
        }
    }

    #[test]
    fn an_unknown_name_in_our_group_is_an_error() {
        let mut reader = Reader::new("");
        let error = reader
            .text(Path::new("f"), "[hotmirror]\n\nparalel=2\n", 0)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "f, line 3: unknown option paralel in [hotmirror]"
        );
    }

    #[test]
    fn what_is_looked_up_in_our_group_may_stand_there() {
        let text = "[hotmirror]\nsafe-slave\nsafe_slave_timeout=3\nwait-for-long-queries=4\n";
        let options = Options::from_text(text);
        assert_eq!(options.get("safe-slave-timeout"), Some("3"));
        assert_eq!(options.get("wait-for-long-queries"), Some("4"));
    }

    #[test]
    fn includes_and_group_suffixes_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("conf.d");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("a.cnf"), "[client_two]\nport=3307\n").unwrap();
        std::fs::write(inner.join("b.txt"), "[client]\nport=1\n").unwrap();
        let main = dir.path().join("my.cnf");
        let includes = format!("!include {0}/none.cnf\n!includedir\t{0}\n", inner.display());
        std::fs::write(&main, includes).unwrap();
        let args = DefaultsArgs {
            defaults_file: Some(main),
            defaults_group_suffix: Some("_two".into()),
            ..DefaultsArgs::default()
        };
        assert_eq!(Options::load(&args).unwrap().get("port"), Some("3307"));
    }
}
