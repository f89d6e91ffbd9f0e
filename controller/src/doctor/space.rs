//! Room for a session: shared memory for the capture log, and disk at the target.
//!
//! What makes it right: figures are those of the file systems that a backup would use, not of those that are usual.

use std::path::Path;

use indicatif::HumanBytes;

use super::Finding;
use crate::backup::keep::Filter;
use crate::backup::preflight;
use crate::backup::roots::Roots;

/// The default capture log, with what the rendezvous takes.
const SHARED_MEMORY_NEEDED: u64 = 72 << 20;

pub fn shared_memory(runtime_dir: &Path) -> Finding {
    let shown = runtime_dir.display();
    let Ok(stat) = rustix::fs::statvfs(runtime_dir) else {
        return Finding::bad(
            format!("{shown} cannot be looked at"),
            "Mount a tmpfs there",
        );
    };
    let free = stat.f_bavail * stat.f_frsize;
    if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Finding::bad(
            format!("{shown} is read-only"),
            "Mount it writable, or set HOTMIRROR_RUNTIME_DIR to another directory in memory, for server and program",
        );
    }
    let text = format!("{} are free in {shown}", HumanBytes(free));
    match free >= SHARED_MEMORY_NEEDED {
        true => Finding::good(text),
        false => Finding::bad(
            format!(
                "{text}, the default capture log takes {}",
                HumanBytes(SHARED_MEMORY_NEEDED)
            ),
            "Make it larger (docker: --shm-size), or use a smaller --log-size",
        ),
    }
}

pub fn target(target: &Path, roots: &Roots, filter: &Filter) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = preflight::check_target(target, roots) {
        findings.push(Finding::bad(
            error.to_string(),
            "Choose another --target-dir",
        ));
    }
    let Some((free, used)) = preflight::space(target, roots, filter) else {
        return findings;
    };
    let text = format!(
        "{} are free for {}, the files to copy take {}",
        HumanBytes(free),
        target.display(),
        HumanBytes(used)
    );
    findings.push(match free > used {
        true => Finding::good(text),
        false => Finding::note(
            text,
            "Make room, unless the target's file system shares blocks with the source's",
        ),
    });
    findings
}
