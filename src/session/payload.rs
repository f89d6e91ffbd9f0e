//! The payload phase: into it, out of it again, and what may still be copied while it lasts.

use std::path::Path;

use super::convergence::SMALL_PASS_BYTES;
use super::core::Reading;
use super::error::SessionError;
use super::{Session, audit, reader};
use crate::capture_log::{Mode, Record};
use crate::monitor::Phase;
use crate::source;
use crate::throttle::Throttle;

/// Passes in the payload phase, each with the names of its moment. Where names change all the time, each pass finds some of the files that are left.
const FOLLOW_COUNT_MAX: u32 = 256;
/// The same, of what comes up between the payload phase and a cut.
const CATCH_UP_COUNT_MAX: u32 = 8;
/// Times that the payload phase may be left again.
const RETURN_COUNT_MAX: u32 = 8;

impl Session {
    /// Enters the payload phase. From then on the stage is kept current from the log alone.
    pub fn go_live(&mut self) -> Result<(), SessionError> {
        for _ in 0..RETURN_COUNT_MAX {
            self.make_room_for_last_copy()?;
            self.core.phase(Phase::Payload);
            let why = match self.try_live()? {
                None => {
                    self.end_phase(Phase::Payload);
                    return Ok(());
                }
                Some(why) => why,
            };
            tracing::debug!(why, "leaving the payload phase");
            self.leave_payload()?;
            self.end_phase(Phase::Payload);
            self.converge()?;
        }
        let why = self
            .unsettled()
            .unwrap_or_else(|| "files changed without a record".into());
        Err(SessionError::Unsettled {
            returns: RETURN_COUNT_MAX,
            why,
        })
    }

    /// Passes, if more is dirty than a last copy may have: the caller may have waited for minutes since the last one, and while the last copy is made the log fills with bytes.
    fn make_room_for_last_copy(&mut self) -> Result<(), SessionError> {
        // Once more at the last copy, which by then finds little to do.
        if audit::sees_mappings(&self.core) {
            self.settle_mappings()?;
        }
        self.core.drain()?;
        match self.core.dirty_bytes() > self.core.enough_bytes() {
            true => self.converge(),
            false => Ok(()),
        }
    }

    /// Gives the reason if only the source could settle something.
    fn try_live(&mut self) -> Result<Option<String>, SessionError> {
        let _preferred = crate::threads::Preferred::begin();
        let core = self.core.clone();
        self.switch(Mode::Payload, |_, _| ())?;
        // First until no call is left that records without bytes, and takes no locks; then until none is left that may have run beside one of these.
        core.link.grace(false, core.options.grace_bound)?;
        core.link.grace(false, core.options.grace_bound)?;
        let behind = {
            let mut state = core.state.lock();
            let tail = core.tail();
            state.reading = Reading::NoteUntil(tail);
            tail
        };
        core.wait(|state| state.position >= behind).map(drop)?;
        if let Some(why) = core.state.lock().catalog.needs_scan() {
            return Ok(Some(why.into()));
        }
        // Before the last copy, since a copy of what is mapped settles nothing. A mapping that is made from here on has a record, which the reader has yet to take.
        if let Some(why) = self.settle_mappings()? {
            return Ok(Some(why));
        }
        if let Some(why) = self.follow(FOLLOW_COUNT_MAX)? {
            return Ok(Some(why));
        }
        let unexplained = audit::unexplained(&core)?;
        let distrusted = {
            // Whatever else is found, since a record may explain the change by the next audit.
            let catalog = &mut core.state.lock().catalog;
            let why = catalog.needs_scan().map(String::from);
            let distrusted = catalog.distrust(&unexplained);
            if why.is_some() {
                return Ok(why);
            }
            distrusted
        };
        // Which explains changes without a record, too.
        if let Some(why) = self.mapped()? {
            return Ok(Some(why));
        }
        match unexplained.first() {
            None => Ok(None),
            Some(path) if let Some(device) = self.unwatched(path) => {
                let path = path.clone();
                Err(SessionError::Unwatched { path, device })
            }
            Some(path) if self.stats.returns + 1 >= RETURN_COUNT_MAX => {
                Err(SessionError::Unexplained {
                    count: unexplained.len(),
                    path: path.clone(),
                })
            }
            Some(path) => {
                core.warn(format!(
                    "{} files or names changed without a record, among them {}; copying again",
                    unexplained.len(),
                    path.display()
                ));
                Ok(distrusted)
            }
        }
    }

    /// The device of what is at `path`, if no changes on it are recorded.
    fn unwatched(&self, path: &Path) -> Option<u64> {
        let device = source::look(path).ok()??.file.device;
        (!self.core.devices.contains(&device)).then_some(device)
    }

    /// Has what was mapped for writing copied once more, if nothing is any longer. Gives what is.
    ///
    /// No store is lost: what was noted before the look and is not mapped by then has seen its last store, and is copied behind it; what is mapped later is noted
    /// anew, behind the set that was taken out.
    fn settle_mappings(&self) -> Result<Option<String>, SessionError> {
        let before = self.core.state.lock().catalog.take_mapped();
        let mapped = self.mapped()?;
        let catalog = &mut self.core.state.lock().catalog;
        match mapped {
            None => catalog.note_unmapped(before),
            Some(_) => catalog.note_mapped(before),
        }
        Ok(mapped)
    }

    /// What is mapped for writing now, if anything.
    fn mapped(&self) -> Result<Option<String>, SessionError> {
        let path = audit::mapped_for_writing(&self.core)?;
        Ok(path.map(|path| format!("{} is mapped for writing by the server", path.display())))
    }

    /// Copies what is dirty while the reader waits, and has it apply what it waited with. Again, for what came to be dirty behind the pass or was renamed
    /// before the pass got to it: names are exact whenever the reader waits. Gives the reason if that does not end. The reader applies afterwards in any case.
    fn follow(&mut self, count_max: u32) -> Result<Option<String>, SessionError> {
        let core = self.core.clone();
        for _ in 0..count_max {
            self.stats.copied_bytes += self.pass(&Throttle::new(0))?.copied_bytes;
            core.link.grace(true, core.options.grace_bound)?;
            core.state.lock().reading = Reading::Apply {
                cut: self.next_cut(),
            };
            core.drain()?;
            if !self.hold_for_pass() {
                return Ok(self.unsettled());
            }
        }
        core.state.lock().reading = Reading::Apply {
            cut: self.next_cut(),
        };
        Ok(self.unsettled())
    }

    /// Has the reader wait where it is, if there is something dirty and a pass behind it may settle that.
    fn hold_for_pass(&self) -> bool {
        let cut = self.next_cut();
        if !self.hold_if_dirty() {
            return false;
        }
        // Of what is dirty where the reader waits; and while it does, the log fills with bytes.
        let is_little = self.core.dirty_bytes() <= SMALL_PASS_BYTES;
        if !is_little {
            self.core.state.lock().reading = Reading::Apply { cut };
        }
        is_little
    }

    fn hold_if_dirty(&self) -> bool {
        let mut state = self.core.state.lock();
        let is_clean = state.catalog.first_dirty().is_none();
        // What is mapped goes on changing without a record, so a copy of it settles nothing.
        let is_mapped = state.catalog.mapped().is_some();
        if is_clean || is_mapped || state.catalog.needs_scan().is_some() {
            return false;
        }
        state.reading = Reading::NoteUntil(state.position);
        true
    }

    /// Copies what only the source could give since the session went live (a file that was renamed in from outside), if there is such a thing and it is
    /// little: a cut that follows at once is the sooner settled. What it can't settle, the cut will tell.
    pub fn catch_up(&mut self) -> Result<(), SessionError> {
        let core = self.core.clone();
        core.drain()?;
        let is_live = matches!(core.state.lock().reading, Reading::Apply { .. });
        if !is_live || !self.hold_for_pass() {
            return Ok(());
        }
        let _preferred = crate::threads::Preferred::begin();
        self.follow(CATCH_UP_COUNT_MAX).map(drop)
    }

    /// What only the source could give, if anything.
    pub(super) fn unsettled(&self) -> Option<String> {
        let state = self.core.state.lock();
        if let Some(why) = state.catalog.needs_scan() {
            return Some(why.into());
        }
        if let Some(file) = state.catalog.mapped() {
            let path = state.catalog.name_of(file).map(Path::display);
            let path = path.map_or_else(|| "A file".into(), |path| path.to_string());
            return Some(format!("{path} was mapped for writing by the server"));
        }
        let path = state.catalog.first_dirty()?;
        Some(format!(
            "{} changed in a way that the log does not hold",
            path.display()
        ))
    }

    /// What the audit after the cut finds, if anything; another scan is then asked for.
    pub(super) fn unexplained_after_cut(&self) -> Result<Option<String>, SessionError> {
        let core = &self.core;
        let unexplained = audit::unexplained_after_cut(core)?;
        let Some(path) = unexplained.first() else {
            return Ok(None);
        };
        core.warn(format!(
            "{} files or names changed without a record before the cut, among them {}; another cut is needed",
            unexplained.len(),
            path.display()
        ));
        Ok(core.state.lock().catalog.distrust(&unexplained))
    }

    pub(super) fn leave_payload(&mut self) -> Result<(), SessionError> {
        self.stats.returns += 1;
        self.switch(Mode::Extents, |state, _| {
            // What no copy could settle may be no file: a socket, a FIFO or a symbolic link looks like one in the log, if it comes under its name from outside.
            if let Some(path) = state.catalog.first_dirty() {
                let why = format!("{} may be no file", path.display());
                state.catalog.ask_for_scan(why);
            }
            for (header, body) in std::mem::take(&mut state.beyond) {
                if let Some(record) = Record::decode(header, &body) {
                    reader::note(state, &record, header, &body);
                }
            }
            state.reading = Reading::Note;
        })?;
        self.core.link.grace(false, self.core.options.grace_bound)?;
        Ok(())
    }
}
