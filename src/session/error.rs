//! Why a session ended without a backup.

use std::path::PathBuf;

use crate::capture_log::{LinkError, LostReason};
use crate::human::Bytes;
use crate::pass::PassError;
use crate::source::ScanError;
use crate::target::TargetError;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(
        "The capture log of {capacity_bytes} bytes overflowed, {wanted_bytes} bytes more were wanted"
    )]
    LogFull {
        capacity_bytes: u64,
        wanted_bytes: u64,
    },
    #[error("Changes were missed: {}", describe(*reason, *detail))]
    Lost { reason: u32, detail: u64 },
    #[error("The server could not map the capture log: {source}")]
    Refused { source: std::io::Error },
    #[error("The capture log is damaged at position {position}")]
    Damaged { position: u64 },
    #[error(
        "A record at position {position} was begun and not finished within {bound:?}: its thread was killed or is stuck"
    )]
    Unpublished {
        position: u64,
        bound: std::time::Duration,
    },
    #[error("The capture log was not drained within {bound:?}")]
    Undrained { bound: std::time::Duration },
    #[error("Cannot mirror a change into the stage: {source}")]
    Mirror { source: std::io::Error },
    #[error(
        "After {passes} passes {} still changed during the last one; at the end it may be {}, half of the capture log{}",
        Bytes(*left_bytes), Bytes(*enough_bytes), at_throttle(*throttle)
    )]
    NotConverging {
        /// Since the session last began to copy what changed.
        passes: u32,
        /// What changed during the last of them.
        left_bytes: u64,
        /// What a last copy may have.
        enough_bytes: u64,
        /// Bytes per second; 0 is no bound.
        throttle: u64,
        /// Only the number of passes was used up.
        shrinking: bool,
    },
    #[error(
        "Files keep changing in ways that only a fresh copy could give, after {returns} tries: {why}"
    )]
    Unsettled { returns: u32, why: String },
    #[error("{count} files or names changed without the library seeing it, among them {path}")]
    Unexplained { count: usize, path: PathBuf },
    #[error(
        "{path} is on device {device:#x}, which is not watched: it was mounted after the session began"
    )]
    Unwatched { path: PathBuf, device: u64 },
    #[error("The server process {pid} is gone")]
    ServerGone { pid: u32 },
    #[error("The server was not quiet at any of {tries} stops")]
    NeverQuiet { tries: u32 },
    #[error("Cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("Cancelled")]
    Cancelled,
    #[error("The session has failed already")]
    Failed,
}

impl SessionError {
    /// What shows when a server is about to end, shortly before it does.
    pub(super) fn is_perhaps_the_end(&self) -> bool {
        let ends = LostReason::AioContextDestroyed as u32;
        matches!(self, SessionError::Lost { reason, .. } if *reason == ends)
    }
}

fn at_throttle(rate: u64) -> String {
    match rate {
        0 => String::new(),
        rate => format!(" (throttled to {}/s)", Bytes(rate)),
    }
}

fn describe(reason: u32, detail: u64) -> String {
    let errno = || std::io::Error::from_raw_os_error(detail as i32);
    match LostReason::from_number(reason) {
        Some(LostReason::LogFull) => format!("no room for {detail} bytes in the capture log"),
        Some(LostReason::NotMapped) => {
            format!("the server could not map the capture log: {}", errno())
        }
        Some(LostReason::Unidentified) => {
            format!("a changed file could not be identified: {}", errno())
        }
        Some(LostReason::AioTableFull) => {
            format!("more than {detail} asynchronous writes were in flight")
        }
        Some(LostReason::AioContextDestroyed) => {
            "asynchronous writes may have been in flight when their context was destroyed".into()
        }
        Some(LostReason::AioReused) => {
            "an asynchronous write was submitted in the control block and with the data of one that was in flight".into()
        }
        None => format!("unknown reason {reason}, detail {detail}"),
    }
}
