//! Facts about processes and this machine that several commands ask for.
//!
//! What makes it right: a process is its pid and its start time; a pid alone may belong to somebody else by now.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hotmirror::capture_log::link::start_time_ticks;

pub fn is_alive(pid: u32, start_ticks: u64) -> bool {
    start_time_ticks(pid).is_ok_and(|ticks| ticks == start_ticks)
}

pub fn own_start_ticks() -> u64 {
    start_time_ticks(std::process::id()).unwrap_or(0)
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A session's id: random, 56 bits, not 0.
pub fn random_session() -> std::io::Result<u64> {
    let mut bytes = [0u8; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes[..7])?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

/// Where undo stacks and status files live unless `--state-dir` says otherwise.
pub fn default_state_dir() -> PathBuf {
    if is_root() {
        return "/var/lib/hotmirror".into();
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(home);
    state.unwrap_or_else(|| "/tmp".into()).join("hotmirror")
}

/// Writes `path`, which survives a power cut once its directory does.
pub fn write_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    std::io::Write::write_all(&mut file, content)?;
    file.sync_all()
}

/// Writes what a server reads as `owner`, whatever the umask: one that it may not read ends it, and one that everybody may write to it ignores, and starts on whatever data
/// directory it was built for. Nobody else may read it, since keys may be in it.
pub fn write_options(path: &Path, text: &str, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    file.write_all(text.as_bytes())
}

/// Replaces `path` as a whole: readers see the old content or the new, also after a power cut if `durable`.
pub fn replace_file(path: &Path, content: &[u8], durable: bool) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        std::io::Write::write_all(&mut file, content)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    } else if durable {
        std::fs::File::open(directory)?.sync_all()?;
    }
    written
}

/// USER or USER:GROUP, names or numbers, as numbers; a user without a group has its own.
pub fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    owner_in(text, &passwd, &group)
}

fn owner_in(text: &str, passwd: &str, group: &str) -> Result<(u32, u32), String> {
    let (user, group_name) = text
        .split_once(':')
        .map_or((text, None), |(u, g)| (u, Some(g)));
    let field = |line: &str, index: usize| line.split(':').nth(index)?.parse::<u32>().ok();
    let line_of = |table: &'_ str, name: &str| {
        let named = |line: &&str| line.split(':').next() == Some(name);
        let numbered = |line: &&str| line.split(':').nth(2) == Some(name);
        let found = table
            .lines()
            .find(named)
            .or_else(|| table.lines().find(numbered));
        found.map(str::to_string)
    };
    let account = line_of(passwd, user);
    let uid = account
        .as_deref()
        .and_then(|line| field(line, 2))
        .or_else(|| user.parse().ok());
    let uid = uid.ok_or_else(|| format!("there is no user {user}"))?;
    let gid = match group_name {
        Some(name) => line_of(group, name)
            .and_then(|line| field(&line, 2))
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("there is no group {name}"))?,
        None => account
            .as_deref()
            .and_then(|line| field(line, 3))
            .unwrap_or(uid),
    };
    Ok((uid, gid))
}

/// True if both paths lead to the same file or directory.
pub fn is_same_file(one: &Path, other: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (one, other) = (std::fs::metadata(one)?, std::fs::metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// A line on stdout. Who reads it may have gone, which is no reason to fail.
pub fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_named_or_numbered() {
        let passwd = "root:x:0:0::/root:\nmysql:x:104:111:MariaDB:/nonexistent:/bin/false\n";
        let group = "root:x:0:\nmysql:x:111:\nbackup:x:34:\n";
        let owner = |text: &str| owner_in(text, passwd, group);
        assert_eq!(owner("mysql"), Ok((104, 111)));
        assert_eq!(owner("mysql:backup"), Ok((104, 34)));
        assert_eq!(owner("104"), Ok((104, 111)));
        assert_eq!(owner("999:998"), Ok((999, 998)));
        assert_eq!(
            owner("nobody-here"),
            Err("there is no user nobody-here".into())
        );
    }

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        replace_file(&path, b"one", false).unwrap();
        replace_file(&path, b"two", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
