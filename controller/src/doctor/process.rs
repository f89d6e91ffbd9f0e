//! What can be seen of the server process from outside: the library in it, its mappings, its asynchronous I/O.
//!
//! What makes it right: /proc says what is loaded now, which is what counts, and not what a unit file says should be.

use std::path::Path;

use hotmirror::capture_log::layout::PROTOCOL_VERSION;
use hotmirror::capture_log::{Control, Link, LinkError, link};

use super::{Finding, systemd};
use crate::backup::process::ServerProcess;
use crate::backup::roots::Roots;
use crate::server::Variables;

const LIBRARY_NAME: &str = "libhotmirror";

/// One line of /proc/<pid>/maps.
struct Mapping<'m> {
    is_shared_writable: bool,
    path: &'m str,
}

fn mappings_in(maps: &str) -> impl Iterator<Item = Mapping<'_>> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let permissions = fields.nth(1)?;
        let path = line.find('/').map(|start| &line[start..])?;
        Some(Mapping {
            is_shared_writable: permissions.starts_with("rw") && permissions.ends_with('s'),
            path,
        })
    })
}

fn maps(process: &ServerProcess) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/maps", process.pid)).ok()
}

/// Is the library loaded, and do we speak its protocol?
pub fn library(runtime_dir: &Path, process: &ServerProcess) -> Vec<Finding> {
    let file = maps(process).and_then(|maps| loaded_library(&maps));
    let mut findings: Vec<Finding> = file
        .iter()
        .map(|path| Finding::good(format!("{path} is loaded")))
        .collect();
    match Link::open(runtime_dir, process.pid) {
        Ok(link) => findings.extend(spoken(&link)),
        Err(error) => findings.push(no_link(error, file.is_some(), runtime_dir, process)),
    }
    findings
}

/// Its file, if one by its name is mapped.
fn loaded_library(maps: &str) -> Option<String> {
    let mut paths = mappings_in(maps).map(|mapping| mapping.path);
    let is_library = |path: &&str| {
        Path::new(path)
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY_NAME))
    };
    paths.find(is_library).map(str::to_string)
}

fn spoken(link: &Link) -> Vec<Finding> {
    let version = link.library_version();
    let mut findings = vec![Finding::good(format!(
        "Library {version} answers at {}, protocol {PROTOCOL_VERSION} on both sides",
        link.path().display()
    ))];
    let control = link.control();
    if control != Control::IDLE {
        findings.push(Finding::note(
            format!("Session {:014x} is on", control.session()),
            "`hotmirror status` shows it; if it shows none, `hotmirror recover` ends it",
        ));
    }
    findings
}

fn no_link(
    error: LinkError,
    is_loaded: bool,
    runtime_dir: &Path,
    process: &ServerProcess,
) -> Finding {
    let remedy = match &error {
        LinkError::OtherProtocol { .. } => {
            "Install library and program of the same version, and restart the server".into()
        }
        LinkError::NotLoaded { .. } if is_loaded => format!(
            "The library is loaded but could not make {} (is {} read-only, full, or another directory for the server? \
             HOTMIRROR_RUNTIME_DIR must be the same for both); its line on the server's stderr says why",
            runtime_dir
                .join(link::rendezvous_name(process.pid))
                .display(),
            runtime_dir.display()
        ),
        LinkError::NotLoaded { .. } | LinkError::Stale { .. } => format!(
            "Set LD_PRELOAD={} for the server and restart it; `hotmirror doctor --print-systemd` prints a drop-in",
            systemd::library().display()
        ),
        _ => "Run as root or as the server's system user".into(),
    };
    Finding::bad(error.to_string(), remedy)
}

/// Writable shared mappings of files that are backed up: their changes can't be seen one by one.
pub fn mappings(process: &ServerProcess, roots: &Roots) -> Vec<Finding> {
    let maps = maps(process).unwrap_or_default();
    let mut paths: Vec<&str> = mappings_in(&maps)
        .filter(|mapping| mapping.is_shared_writable)
        .map(|mapping| mapping.path)
        .filter(|path| roots.place(Path::new(path)).is_some())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    if paths.is_empty() {
        return vec![Finding::good(
            "No file of the server's is mapped shared and writable",
        )];
    }
    let finding = |path: &&str| {
        Finding::note(
            format!(
                "{path} is mapped shared and writable: stores to it can't be captured, and no backup settles while it is"
            ),
            "Turn the feature off that maps it (for a redo log on persistent memory: move it to a disk)",
        )
    };
    paths.iter().map(finding).collect()
}

/// Which asynchronous I/O the server uses; io_uring can't be watched and must have been declined.
pub fn asynchronous_io(process: &ServerProcess, variables: &Variables) -> Finding {
    if variables.get("innodb_use_native_aio") == Some("OFF") {
        return Finding::good("InnoDB writes with its own threads (innodb_use_native_aio is off)");
    }
    let links = std::fs::read_dir(format!("/proc/{}/fd", process.pid))
        .into_iter()
        .flatten()
        .flatten();
    let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    let has_ring = targets
        .into_iter()
        .any(|target| target.as_os_str() == "anon_inode:[io_uring]");
    if has_ring {
        return Finding::bad(
            "The server uses io_uring, whose writes cannot be seen",
            "Load the library, which makes the server use libaio, and restart it",
        );
    }
    match maps(process).is_some_and(|maps| maps.contains("/[aio]") || maps.contains("libaio")) {
        true => Finding::good("The server uses libaio, which the library sees"),
        false => Finding::good("The server uses no asynchronous I/O of the kernel's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f01 r-xp 00000000 08:01 12 /opt/my lib/libhotmirror.so
7f01-7f02 rw-s 00000000 08:01 13 /var/lib/mysql/ib_logfile0
7f02-7f03 r--s 00000000 08:01 14 /var/lib/mysql/other
7f03-7f04 rw-p 00000000 00:00 0 [heap]
";

    #[test]
    fn the_library_is_found_by_its_name() {
        assert_eq!(
            loaded_library(MAPS).as_deref(),
            Some("/opt/my lib/libhotmirror.so")
        );
        assert_eq!(
            loaded_library("7f00-7f01 r-xp 0 08:01 12 /usr/lib/libc.so.6"),
            None
        );
    }

    #[test]
    fn only_shared_writable_mappings_count() {
        let writable = mappings_in(MAPS).filter(|mapping| mapping.is_shared_writable);
        let paths: Vec<&str> = writable.map(|mapping| mapping.path).collect();
        assert_eq!(paths, ["/var/lib/mysql/ib_logfile0"]);
    }
}
