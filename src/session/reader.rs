//! The reader: the one thread that takes records from the capture log, from attach until the cut.
//!
//! It polls: a server thread never sends it a message (I1). It is also the watchman: a lost session, capture switched off, a record that is never
//! finished or a server that is gone end the session here.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::{Core, Reading, State};
use super::error::SessionError;
use crate::capture_log::link;
use crate::capture_log::memory::MappedRing;
use crate::capture_log::record::Header;
use crate::capture_log::ring::{LogReader, Next};
use crate::capture_log::{LostReason, Record};

const BATCH_LEN: usize = 256;
const POLL_MIN: Duration = Duration::from_micros(100);
const POLL_MAX: Duration = Duration::from_millis(2);
const GONE_INTERVAL: Duration = Duration::from_millis(100);
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Runs until the session stops it or fails.
pub(super) fn run(core: &Core, start_time: u64) {
    let mut reader = Reader {
        core,
        log: core.segment.reader(),
        body: Vec::new(),
        unpublished: None,
        start_time,
        looked_for_server: Instant::now(),
    };
    let mut pause = POLL_MIN;
    let mut reported = Instant::now();
    while !core.stopped.load(Ordering::Acquire) {
        match reader.batch() {
            Ok(0) => {
                // While records are applied no pass comes that would do it, maybe for hours; and the last copies, during which the log fills, don't do it.
                if matches!(core.state.lock().reading, Reading::Apply { .. }) {
                    core.remove_some_dropped();
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(POLL_MAX);
            }
            Ok(_) => pause = POLL_MIN,
            Err(failure) => return core.fail(failure),
        }
        if reported.elapsed() > REPORT_INTERVAL {
            reported = Instant::now();
            core.report();
        }
    }
}

struct Reader<'c> {
    core: &'c Core,
    log: LogReader<'c, MappedRing>,
    body: Vec<u8>,
    /// Where a record is begun but not finished, and since when that is seen.
    unpublished: Option<(u64, Instant)>,
    start_time: u64,
    looked_for_server: Instant,
}

impl Reader<'_> {
    /// Handles the next records; gives how many.
    fn batch(&mut self) -> Result<usize, SessionError> {
        let mut state = self.core.state.lock();
        let used = self.log.tail().wrapping_sub(self.log.head());
        state.log_used_max_bytes = state.log_used_max_bytes.max(used);
        self.core
            .counters
            .log_used_bytes
            .store(used, Ordering::Relaxed);
        let mut count = 0;
        while count < BATCH_LEN && self.may_take(&state) {
            let (next, header) = self.log.next(&mut self.body);
            match next {
                Next::Taken(position) => {
                    self.handle(&mut state, header, position)?;
                    state.position = self.log.head();
                    count += 1;
                }
                Next::Empty => break,
                Next::Unpublished(position) => {
                    self.watch_unpublished(position)?;
                    break;
                }
                Next::Damaged(position) => return Err(SessionError::Damaged { position }),
            }
        }
        self.core.changed.notify_all();
        if count < BATCH_LEN {
            self.check_health(&state)?;
        }
        Ok(count)
    }

    fn may_take(&self, state: &State) -> bool {
        match state.reading {
            Reading::Note | Reading::Apply { .. } | Reading::Beyond => true,
            Reading::NoteUntil(position) => self.log.head() < position,
        }
    }

    fn handle(
        &mut self,
        state: &mut State,
        header: Header,
        position: u64,
    ) -> Result<(), SessionError> {
        let record =
            Record::decode(header, &self.body).ok_or(SessionError::Damaged { position })?;
        if let (Record::Cut { id }, Reading::Apply { cut }) = (&record, state.reading) {
            if *id == cut {
                state.reading = Reading::Beyond;
            }
            return Ok(());
        }
        match state.reading {
            Reading::Apply { .. } => state
                .mirror
                .apply(&mut state.catalog, &record)
                .map_err(|source| SessionError::Mirror { source }),
            Reading::Beyond => {
                let (header, body) = record.without_payload().encode();
                state.beyond.push((header, body.concat()));
                Ok(())
            }
            _ => {
                note(state, &record, header, &self.body);
                Ok(())
            }
        }
    }

    fn watch_unpublished(&mut self, position: u64) -> Result<(), SessionError> {
        let bound = self.core.options.grace_bound;
        match self.unpublished {
            Some((seen, since)) if seen == position => {
                if since.elapsed() > bound {
                    return Err(self
                        .lost()
                        .unwrap_or(SessionError::Unpublished { position, bound }));
                }
            }
            _ => self.unpublished = Some((position, Instant::now())),
        }
        Ok(())
    }

    /// Why the session is lost, if it is.
    fn lost(&self) -> Option<SessionError> {
        let (reason, detail) = self.log.lost()?;
        Some(if reason == LostReason::LogFull as u32 {
            let capacity_bytes = self.core.segment.capacity();
            SessionError::LogFull {
                capacity_bytes,
                wanted_bytes: detail,
            }
        } else {
            SessionError::Lost { reason, detail }
        })
    }

    fn check_health(&mut self, state: &State) -> Result<(), SessionError> {
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        let (pid, link) = (self.core.options.pid, &self.core.link);
        if self.looked_for_server.elapsed() > GONE_INTERVAL {
            self.looked_for_server = Instant::now();
            if !link::is_running(pid, self.start_time) {
                return Err(SessionError::ServerGone { pid });
            }
        }
        let control = link.control();
        if control != state.control {
            // Whoever loses the session says why before it switches off.
            if let Some(lost) = self.lost() {
                return Err(lost);
            }
            if let Some(errno) = link.refusal(self.core.options.session) {
                return Err(SessionError::Refused {
                    source: std::io::Error::from_raw_os_error(errno),
                });
            }
            let (found, expected) = (control.0, state.control.0);
            return Err(crate::capture_log::LinkError::SwitchedOff {
                pid,
                found,
                expected,
            }
            .into());
        }
        Ok(())
    }
}

/// Notes what a record made dirty; while a scan runs, names wait until it is over.
pub(super) fn note(state: &mut State, record: &Record<'_>, header: Header, body: &[u8]) {
    use crate::extents::WHOLE;
    let catalog = &mut state.catalog;
    match *record {
        Record::Write {
            file, offset, len, ..
        }
        | Record::Punch { file, offset, len }
        | Record::Allocate {
            file, offset, len, ..
        }
        | Record::Zero {
            file, offset, len, ..
        } => {
            catalog.note_data(file, offset..offset.saturating_add(len));
        }
        Record::Truncate { file, len } => catalog.note_data(file, len..WHOLE.end),
        Record::Opaque { file, mapped } => {
            catalog.note_data(file, WHOLE);
            catalog.note_mapped(mapped.then_some(file));
        }
        Record::Cut { .. } => {}
        _ => match &mut state.deferred {
            Some(deferred) => deferred.push((header, body.to_vec())),
            None => _ = catalog.note_name(record),
        },
    }
}
