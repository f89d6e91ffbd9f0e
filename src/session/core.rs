//! What the threads of a session share, and waiting for the reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::SessionOptions;
use super::error::SessionError;
use crate::capture_log::record::Header;
use crate::capture_log::{Attributes, Control, FileId, Link, Segment};
use crate::catalog::{Catalog, Work};
use crate::copy::Disks;
use crate::digest::Digests;
use crate::extents::Extents;
use crate::live::Mirror;
use crate::monitor::{Event, Phase, Progress};
use crate::pass::Ledger;
use crate::source::{self, Traits};
use crate::target::Stage;

/// What is removed while the log is read takes a few milliseconds.
/// A target may take a while for each, and the log fills meanwhile.
const REMOVING_AT_ONCE: Duration = Duration::from_millis(5);
const REMOVED_AT_ONCE_BYTES: u64 = 64 << 20;

/// What the reader does with the records that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Note what became dirty.
    Note,
    /// Note up to this position, then wait.
    NoteUntil(u64),
    /// Apply to the stage, until the Cut of this id is taken.
    Apply { cut: u64 },
    /// The Cut was taken. What stands behind it is set aside without its bytes: the audit looks at it, and the log, which takes them from a server that goes on, does not fill.
    Beyond,
}

/// Changed by the reader for each record, and by the session between phases.
pub(super) struct State {
    pub catalog: Catalog,
    pub mirror: Mirror,
    pub reading: Reading,
    /// Every record below was handled.
    pub position: u64,
    /// Records of names that came while a scan runs.
    pub deferred: Option<Vec<(Header, Vec<u8>)>>,
    /// Records behind the cut, without their bytes.
    pub beyond: Vec<(Header, Vec<u8>)>,
    /// What the control word must be; anything else means that capture was switched off.
    pub control: Control,
    pub failure: Option<SessionError>,
    pub log_used_max_bytes: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub copied_bytes: AtomicU64,
    pub total_bytes: AtomicU64,
    pub copied_files: AtomicU64,
    pub total_files: AtomicU64,
    pub pass: AtomicU32,
    pub log_used_bytes: AtomicU64,
}

pub(super) struct Core {
    pub options: SessionOptions,
    pub link: Link,
    pub segment: Segment,
    pub stage: Arc<Stage>,
    pub digests: Arc<Digests>,
    pub disks: Disks,
    /// File systems whose changes are recorded: those that the scope lay on when the session began.
    pub devices: Vec<u64>,
    /// Source and target are on one file system that shares blocks.
    pub reflink: bool,
    pub state: Mutex<State>,
    pub changed: Condvar,
    pub counters: Counters,
    pub cancelled: Arc<AtomicBool>,
    /// Set with [`State::failure`], and stays when that is taken.
    pub failed: AtomicBool,
    /// Ends the reader.
    pub stopped: AtomicBool,
}

impl Core {
    /// True when all work is in vain. Takes no lock: the throttle asks with its own one held, and the reader, with that of the state held, calls an exclude function that may set the throttle.
    pub fn over(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// Ends the session. The lock of the state orders both for those who wait under it.
    pub fn fail(&self, failure: SessionError) {
        let mut state = self.state.lock();
        state.failure.get_or_insert(failure);
        self.failed.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub fn check(&self) -> Result<(), SessionError> {
        self.check_locked(&mut self.state.lock())
    }

    fn check_locked(&self, state: &mut State) -> Result<(), SessionError> {
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if self.failed.load(Ordering::Relaxed) {
            return Err(SessionError::Failed);
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(SessionError::Cancelled);
        }
        Ok(())
    }

    /// Position behind the last record appended so far.
    pub fn tail(&self) -> u64 {
        self.segment.reader().tail()
    }

    /// Waits until the reader has handled every record that is in the log now.
    pub fn drain(&self) -> Result<(), SessionError> {
        let tail = self.tail();
        self.wait(|state| state.position >= tail).map(drop)
    }

    /// Waits for a state that the reader brings about; as long as it makes progress, or until the bound.
    pub fn wait(
        &self,
        done: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>, SessionError> {
        let bound = self.options.grace_bound;
        let mut state = self.state.lock();
        let (mut position, mut since) = (state.position, Instant::now());
        loop {
            self.check_locked(&mut state)?;
            if done(&state) {
                return Ok(state);
            }
            if state.position != position {
                (position, since) = (state.position, Instant::now());
            }
            if since.elapsed() > bound {
                return Err(SessionError::Undrained { bound });
            }
            self.changed.wait_for(&mut state, Duration::from_millis(20));
        }
    }

    /// Bytes that are dirty, by the sizes that files have by now: one that was never looked at, since it came from outside or is new, may be of any. The looks are taken
    /// without the lock of the state, since the source may be slow.
    pub fn dirty_bytes(&self) -> u64 {
        let files = self.state.lock().catalog.dirty_beyond_size();
        let sizes = files.into_iter().filter_map(|(path, file)| {
            let size = source::size_of(&path, file)?;
            Some((file, size))
        });
        let sizes: Vec<_> = sizes.collect();
        let catalog = &mut self.state.lock().catalog;
        for (file, size) in sizes {
            catalog.note_size(file, size);
        }
        catalog.dirty_bytes()
    }

    /// What a last copy may have: while it is made, the log takes the bytes of all that is written.
    pub fn enough_bytes(&self) -> u64 {
        self.segment.capacity() / 2
    }

    /// Removes the copies of files that are gone, however long that takes: not while records carry bytes.
    pub fn remove_dropped(&self) {
        while let Some(slot) = self.next_dropped() {
            self.stage.remove_slot(slot);
        }
    }

    /// As much of it as takes a moment: a long copy goes piece by piece.
    pub fn remove_some_dropped(&self) {
        let start = Instant::now();
        while start.elapsed() < REMOVING_AT_ONCE {
            let Some(slot) = self.next_dropped() else {
                return;
            };
            if self.stage.shorten_slot(slot, REMOVED_AT_ONCE_BYTES) {
                return self.state.lock().catalog.drop_later(slot);
            }
            self.stage.remove_slot(slot);
        }
    }

    fn next_dropped(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let slot = state.catalog.next_dropped()?;
        state.mirror.close(slot);
        self.digests.remove(slot);
        Some(slot)
    }

    pub fn phase(&self, phase: Phase) {
        self.options.monitor.event(&Event::Phase(phase));
        self.report();
    }

    pub fn warn(&self, text: String) {
        self.options.monitor.event(&Event::Warning(text));
    }

    pub fn report(&self) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.options.monitor.event(&Event::Progress(Progress {
            copied_bytes: load(&self.counters.copied_bytes),
            total_bytes: load(&self.counters.total_bytes),
            copied_files: load(&self.counters.copied_files),
            total_files: load(&self.counters.total_files),
            pass: self.counters.pass.load(Ordering::Relaxed),
            log_used_bytes: load(&self.counters.log_used_bytes),
            log_capacity_bytes: self.segment.capacity(),
        }));
    }
}

impl Ledger for Core {
    fn is_known(&self, file: FileId, slot: u64) -> bool {
        let state = self.state.lock();
        state
            .catalog
            .file(file)
            .is_some_and(|file| file.slot == slot)
    }

    fn put_back(&self, file: FileId, slot: u64, extents: Extents) {
        self.state.lock().catalog.put_back(file, slot, extents);
    }

    fn copied(&self, work: &Work, traits: Traits, attributes: Attributes) {
        let mut state = self.state.lock();
        let known = state
            .catalog
            .file_mut(work.file)
            .filter(|file| file.slot == work.slot);
        if let Some(file) = known {
            file.copied = true;
            file.see(traits, work.since);
            // Of a file that came in under a new name nothing else tells them.
            file.attributes = attributes;
        }
    }
}
