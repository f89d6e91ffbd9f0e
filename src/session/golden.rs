//! The golden comparison: with the server stopped right at the cut, source and stage must be equal to the byte.
//!
//! The server is stopped by SIGSTOP, at a moment when no hooked call and no asynchronous write is under way (a call half done is in neither state). If some are,
//! it runs on for a moment and is stopped again.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::error::SessionError;
use super::{Cut, Session};
use crate::capture_log::link::stat_field;
use crate::catalog::{Catalog, Node};
use crate::source::{self, Entry, Found};
use crate::target::Stage;

const STOP_COUNT_MAX: u32 = 2_000;
const TRY_COUNT_MAX: u32 = 5;
const DIFFERENCE_COUNT_MAX: usize = 50;

/// What a comparison found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GoldenReport {
    pub files: u64,
    pub bytes: u64,
    /// None, if all is well.
    pub differences: Vec<String>,
    /// Times the server had to be stopped until nothing was under way.
    pub stops: u32,
}

impl Session {
    /// Like [`Session::cut`] and [`Session::settle_cut`], with the server stopped and compared in between.
    pub fn golden_cut(&mut self) -> Result<(Cut, GoldenReport), SessionError> {
        for _ in 0..TRY_COUNT_MAX {
            let core = self.core.clone();
            self.catch_up()?;
            let (frozen, stops) = freeze(&core)?;
            let cut = self.cut()?;
            if self.settle_cut(&cut)? {
                let mut report = compare(&core)?;
                report.stops = stops;
                drop(frozen);
                return Ok((cut, report));
            }
            drop(frozen);
            self.converge()?;
            self.go_live()?;
        }
        let why = "the golden cut was not settled".into();
        Err(SessionError::Unsettled {
            returns: TRY_COUNT_MAX,
            why,
        })
    }
}

/// A stopped process; runs on when dropped.
struct Frozen {
    pid: Pid,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::CONT);
    }
}

fn freeze(core: &Core) -> Result<(Frozen, u32), SessionError> {
    let pid = core.options.pid;
    let gone = || SessionError::ServerGone { pid };
    for stops in 1..=STOP_COUNT_MAX {
        core.check()?;
        let frozen = Frozen {
            pid: Pid::from_raw(pid as i32).ok_or_else(gone)?,
        };
        kill_process(frozen.pid, Signal::STOP).map_err(|_| gone())?;
        while !all_stopped(pid).map_err(|_| gone())? {
            core.check()?;
            std::thread::yield_now();
        }
        if core.link.is_quiet()? {
            return Ok((frozen, stops));
        }
        drop(frozen);
        // Lets whoever was under way land; an odd pause, not to beat in time with the load.
        std::thread::sleep(Duration::from_micros(300 + u64::from(stops % 7) * 170));
    }
    Err(SessionError::NeverQuiet {
        tries: STOP_COUNT_MAX,
    })
}

fn all_stopped(pid: u32) -> std::io::Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(stat) = std::fs::read(task?.path().join("stat")) else {
            continue;
        };
        if !matches!(stat_field(&stat, 3), Some("T" | "t" | "Z" | "X")) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn compare(core: &Core) -> Result<GoldenReport, SessionError> {
    let state = core.state.lock();
    let catalog = &state.catalog;
    let mut report = GoldenReport::default();
    let entries = source::scan(catalog.scope())?;
    for entry in &entries {
        if report.differences.len() >= DIFFERENCE_COUNT_MAX {
            break;
        }
        if let Some(difference) = difference(catalog, &core.stage, entry, &mut report)? {
            report
                .differences
                .push(format!("{}: {difference}", entry.path.display()));
        }
    }
    let extra = catalog.names_missing_in(&entries).into_iter();
    report
        .differences
        .extend(extra.map(|path| format!("{}: only in the copy", path.display())));
    Ok(report)
}

fn difference(
    catalog: &Catalog,
    stage: &Stage,
    entry: &Entry,
    report: &mut GoldenReport,
) -> Result<Option<String>, SessionError> {
    let file = match (catalog.name(&entry.path), &entry.found) {
        (None, _) => return Ok(Some("missing in the copy".into())),
        (Some(Node::Directory(_)), Found::Directory) => return Ok(None),
        (Some(Node::Symlink(known)), Found::Symlink(target)) if known == target => return Ok(None),
        (Some(Node::File(file)), Found::File) if *file == entry.file => *file,
        (Some(node), found) => {
            return Ok(Some(format!(
                "{found:?} {:?}, {node:?} in the copy",
                entry.file
            )));
        }
    };
    let slot = catalog.file(file).map_or(0, |state| state.slot);
    let copy_path = stage.slot_path(slot);
    report.files += 1;
    let compared = compare_files(&entry.path, &copy_path);
    let (bytes, difference) = compared.map_err(|source| SessionError::Io {
        action: "compare",
        path: entry.path.clone(),
        source,
    })?;
    report.bytes += bytes;
    Ok(difference)
}

fn compare_files(source: &Path, copy: &Path) -> std::io::Result<(u64, Option<String>)> {
    const BLOCK_LEN: usize = 1 << 20;
    let (mut left, mut right) = (File::open(source)?, File::open(copy)?);
    let (left_len, right_len) = (left.metadata()?.len(), right.metadata()?.len());
    if left_len != right_len {
        return Ok((
            0,
            Some(format!("{left_len} bytes, {right_len} in the copy")),
        ));
    }
    let (mut left_block, mut right_block) = (Vec::new(), Vec::new());
    let mut at = 0u64;
    while at < left_len {
        left_block.clear();
        right_block.clear();
        (&mut left)
            .take(BLOCK_LEN as u64)
            .read_to_end(&mut left_block)?;
        (&mut right)
            .take(BLOCK_LEN as u64)
            .read_to_end(&mut right_block)?;
        if left_block != right_block {
            let first = left_block
                .iter()
                .zip(&right_block)
                .position(|(left, right)| left != right);
            let first = at + first.unwrap_or(left_block.len().min(right_block.len())) as u64;
            return Ok((at, Some(format!("differs at byte {first} of {left_len}"))));
        }
        if left_block.is_empty() {
            break;
        }
        at += left_block.len() as u64;
    }
    Ok((at, None))
}
