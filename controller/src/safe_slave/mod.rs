//! Appliers of replication channels: stopped for a cut, with no temporary table open if asked for, and put back as they were.
//!
//! What makes it right: it runs before any lock is taken, since an applier that waits for a lock can't stop. Temporary tables are not in a backup; the statements of a source that use
//! one would fail on a replica made from a cut between them. Their number is read again behind each stop, because an applier may open one until it stops, and behind the
//! last one it is the number of all. A channel that was stopped before stays stopped, and every stop is on the undo stack before it is made. One that is to stop somewhere
//! by itself (`UNTIL`) is left alone: a plain START would have it run past that.

use std::time::Duration;

use crate::cancel::{Cancel, Cancelled};
use crate::client::{ClientError, ServerClient};
use crate::server::Dialect;
use crate::undo::{Change, UndoError, UndoStack};

/// Between looks at the number of temporary tables, which no server gives notice of.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Looks for which other channels are given to close their tables once.
const OTHERS_LOOKS: u32 = 20;

/// MySQL's `rpl_stop_replica_timeout` is over, and the applier's event group is not.
const STOP_TIMED_OUT: u16 = 1875;

/// `--safe-slave-timeout-action`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeoutAction {
    /// End the backup
    #[default]
    Fail,
    /// Go on, with a warning in the manifest
    Proceed,
}

/// `--safe-slave`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// 0 means one try.
    pub timeout: Duration,
    pub action: TimeoutAction,
}

#[derive(Debug, thiserror::Error)]
pub enum SafeSlaveError {
    #[error("The server is a member of a replication group, whose applier cannot be stopped")]
    GroupMember,
    #[error("The appliers still have {open} temporary tables open after {seconds} s")]
    Timeout { open: u64, seconds: u64 },
    #[error(
        "{open} temporary tables of appliers are open, and no applier runs that could close them"
    )]
    NobodyRuns { open: u64 },
    #[error(
        "The applier of channel '{channel}' was asked to stop, and still has not after {seconds} s; it stops when its transaction is over"
    )]
    StillRuns { channel: String, seconds: u64 },
    #[error(
        "The applier of channel '{channel}' runs UNTIL ({condition}), which would be lost if it was stopped for the cut and started again: back up when it has got there, or start it without UNTIL"
    )]
    Until { channel: String, condition: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The undo stack, as far as it is needed here.
pub trait Journal {
    fn push(&mut self, change: Change) -> Result<usize, UndoError>;
    fn strike(&mut self, number: usize) -> Result<(), UndoError>;
}

impl Journal for UndoStack {
    fn push(&mut self, change: Change) -> Result<usize, UndoError> {
        UndoStack::push(self, change)
    }

    fn strike(&mut self, number: usize) -> Result<(), UndoError> {
        UndoStack::strike(self, number)
    }
}

/// Time that passes, and can be cancelled.
pub trait Clock {
    fn elapsed(&self) -> Duration;
    fn pause(&mut self, duration: Duration) -> Result<(), Cancelled>;
}

pub struct RealClock<'c> {
    start: std::time::Instant,
    cancel: &'c Cancel,
}

impl RealClock<'_> {
    pub fn new(cancel: &Cancel) -> RealClock<'_> {
        let start = std::time::Instant::now();
        RealClock { start, cancel }
    }
}

impl Clock for RealClock<'_> {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&mut self, duration: Duration) -> Result<(), Cancelled> {
        std::thread::sleep(duration);
        self.cancel.check()
    }
}

/// Appliers that ran and are stopped now: channel, and number on the undo stack.
#[must_use = "what was stopped has to be started again"]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stopped(Vec<(String, usize)>);

/// Who is asked, in which words, and where changes are noted.
pub struct Appliers<'a> {
    pub client: &'a mut dyn ServerClient,
    pub dialect: &'a dyn Dialect,
    pub journal: &'a mut dyn Journal,
}

impl Appliers<'_> {
    /// Stops those that run; a stop that the server gives up is asked for again until `bound`.
    pub fn stop(
        &mut self,
        bound: Duration,
        clock: &mut dyn Clock,
    ) -> Result<Stopped, SafeSlaveError> {
        let mut stopped = Stopped::default();
        for name in self.running()? {
            self.stop_one(&name, &mut stopped, bound, clock)?;
        }
        Ok(stopped)
    }

    pub fn start(&mut self, stopped: Stopped) -> Result<(), SafeSlaveError> {
        for (name, number) in stopped.0 {
            self.client.run(&self.dialect.start_applier(&name))?;
            self.journal.strike(number)?;
        }
        Ok(())
    }

    /// Stops the appliers with no temporary table open on any. Gives a warning if it went on without.
    pub fn stop_safely(
        &mut self,
        request: Request,
        clock: &mut dyn Clock,
    ) -> Result<(Stopped, Option<String>), SafeSlaveError> {
        if self.dialect.is_group_member(self.client)? {
            return Err(SafeSlaveError::GroupMember);
        }
        let running = self.running()?;
        let mut stopped = Stopped::default();
        if running.is_empty() {
            return match self.look()? {
                0 => Ok((stopped, None)),
                open => Err(SafeSlaveError::NobodyRuns { open }),
            };
        }
        for (index, name) in running.iter().enumerate() {
            let others_run = index + 1 < running.len();
            while !self.try_one(name, others_run, &mut stopped, request.timeout, clock)? {
                if clock.elapsed() >= request.timeout {
                    self.start(stopped)?;
                    return self.give_up(request, clock);
                }
                clock.pause(LOOK_INTERVAL)?;
            }
        }
        Ok((stopped, None))
    }

    /// One channel after the other: a moment when none of several has a table open may never come, but each has its own. True if the channel
    /// stopped without.
    fn try_one(
        &mut self,
        name: &str,
        others_run: bool,
        stopped: &mut Stopped,
        bound: Duration,
        clock: &mut dyn Clock,
    ) -> Result<bool, SafeSlaveError> {
        // A look costs the applier nothing, a stop does.
        if self.look()? > 0 {
            return Ok(false);
        }
        self.stop_one(name, stopped, bound, clock)?;
        // The count is the sum of all channels: those that run on come down to nothing again, if this one has none.
        let mut looks_left = if others_run { OTHERS_LOOKS } else { 1 };
        while self.look()? > 0 {
            looks_left -= 1;
            if looks_left == 0 {
                let last = Stopped(stopped.0.pop().into_iter().collect());
                self.start(last)?;
                return Ok(false);
            }
            clock.pause(LOOK_INTERVAL)?;
        }
        Ok(true)
    }

    fn give_up(
        &mut self,
        request: Request,
        clock: &mut dyn Clock,
    ) -> Result<(Stopped, Option<String>), SafeSlaveError> {
        let (open, seconds) = (self.look()?, request.timeout.as_secs());
        let error = SafeSlaveError::Timeout { open, seconds };
        match request.action {
            TimeoutAction::Fail => Err(error),
            TimeoutAction::Proceed => {
                let warning = format!("{error}: a replica made from this backup may fail");
                let bound = clock.elapsed() + request.timeout;
                Ok((self.stop(bound, clock)?, Some(warning)))
            }
        }
    }

    fn stop_one(
        &mut self,
        name: &str,
        stopped: &mut Stopped,
        bound: Duration,
        clock: &mut dyn Clock,
    ) -> Result<(), SafeSlaveError> {
        let channel = name.to_string();
        let number = self.journal.push(Change::Applier { channel })?;
        let stop = self.dialect.stop_applier(name);
        loop {
            match self.client.run(&stop) {
                Ok(()) => break,
                // It goes on stopping; to start it before it has stopped would do nothing.
                Err(ClientError::Statement {
                    code: STOP_TIMED_OUT,
                    ..
                }) => {
                    let (channel, elapsed) = (name.to_string(), clock.elapsed());
                    if elapsed >= bound {
                        let seconds = elapsed.as_secs();
                        return Err(SafeSlaveError::StillRuns { channel, seconds });
                    }
                    clock.pause(LOOK_INTERVAL)?;
                }
                Err(error) => {
                    if let ClientError::Privilege { .. } = error {
                        // Nothing happened, and to undo it would be refused, too.
                        self.journal.strike(number)?;
                    }
                    return Err(error.into());
                }
            }
        }
        stopped.0.push((name.into(), number));
        Ok(())
    }

    fn look(&mut self) -> Result<u64, ClientError> {
        self.dialect.temporary_tables(self.client)
    }

    /// Those that are to be stopped. Fails before any is, if one could not be put back as it was.
    fn running(&mut self) -> Result<Vec<String>, SafeSlaveError> {
        let mut channels = self.dialect.channels(self.client)?;
        channels.retain(|channel| channel.applier_running);
        if let Some(found) = channels.iter().find(|channel| !channel.until.is_empty()) {
            let (channel, condition) = (found.name.clone(), found.until.clone());
            return Err(SafeSlaveError::Until { channel, condition });
        }
        Ok(channels.into_iter().map(|channel| channel.name).collect())
    }
}

#[cfg(test)]
mod tests;
