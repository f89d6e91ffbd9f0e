//! The cut: hold the server, bring its logs out, mark the moment, read where it is, let it go.
//!
//! What makes it right: positions are read on both sides of the mark. Under a lock nothing commits, so what lies between the two readings, if anything, is no
//! transaction, and the binlog in the backup must end between them. Every wait is bounded by the session's lock_wait_timeout, and if the connection is
//! lost, so is the lock, and the backup ends.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::binlogs::BinlogError;
use crate::client::{ClientError, ServerClient};
use crate::server::{
    self, Channel, Coordinates, Dialect, GlobalChange, LockPlan, PositionFrom, read,
};

/// While commits are held, a connection that says nothing for so long is ended by the server, and its lock with it: whoever stops this program then (a shell, a frozen group of
/// processes) stops the server for no longer.
pub const HELD_SILENCE: &str = "SET SESSION wait_timeout = 30";

/// Times that a lock is asked for again after a deadlock.
const DEADLOCK_COUNT_MAX: u32 = 20;

/// How the server was held.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LockTimes {
    pub lock: String,
    /// From asking for the block of commits until it was released.
    pub lock_ms: f64,
    /// From asking for the block of DDL until it was released.
    pub ddl_lock_ms: f64,
}

/// What was read while the server was held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Right before and right after the mark; None without a binlog.
    pub before: Option<Coordinates>,
    pub after: Option<Coordinates>,
    pub gtids: Vec<(String, String)>,
    pub channels: Vec<Channel>,
    /// The logs may not have come out: the cut has to be repeated.
    pub kept_logs: bool,
    pub times: LockTimes,
}

impl Readings {
    /// Where the binlog was on both sides of the mark, of a server that writes one as far as its settings tell.
    pub fn ends(&self) -> Result<(&Coordinates, &Coordinates), BinlogError> {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => Ok((before, after)),
            _ => Err(BinlogError::Closed),
        }
    }
}

/// Runs a lock plan's statements. Dropped while the lock is held, it tries to release it; if that fails, the end of the connection does.
pub struct Holder<'c> {
    client: &'c mut dyn ServerClient,
    dialect: &'c dyn Dialect,
    plan: LockPlan,
    raised: Option<GlobalChange>,
    is_held: bool,
    may_be_silent: bool,
}

impl<'c> Holder<'c> {
    /// Announces the backup, and raises what must be raised for the logs to come out. Holds nobody up.
    pub fn announce(
        client: &'c mut dyn ServerClient,
        dialect: &'c dyn Dialect,
        plan: LockPlan,
        raise: Option<GlobalChange>,
    ) -> Result<Holder<'c>, ClientError> {
        let mut holder = Holder {
            client,
            dialect,
            plan,
            raised: None,
            is_held: true,
            may_be_silent: !plan.holds_commits(),
        };
        holder.lock_all(plan.announce)?;
        if let Some(change) = raise {
            let statement = format!("SET GLOBAL {} = {}", change.name, change.after);
            holder.raised = Some(change);
            holder.client.run(&statement)?;
        }
        Ok(holder)
    }

    /// The mark may take long: files are compared under the lock.
    pub fn may_be_silent(mut self) -> Holder<'c> {
        self.may_be_silent = true;
        self
    }

    /// Holds the server, calls `mark` at the moment of the cut, and lets go.
    pub fn cut<M, E: From<ClientError>>(
        mut self,
        mark: impl FnOnce() -> Result<M, E>,
    ) -> Result<(M, Readings), E> {
        if !self.may_be_silent {
            self.client.run(HELD_SILENCE)?;
        }
        let ddl_start = Instant::now();
        self.lock_all(self.plan.block_ddl)?;
        let commit_start = Instant::now();
        self.lock_all(self.plan.block_commit)?;
        // Whoever sets that meanwhile is seen on one side of the flush or the other.
        let kept_before = self.dialect.keeps_logs(self.client)?;
        self.run_all(self.plan.flush_logs)?;
        let before = self.dialect.coordinates(self.client)?;
        // Where nothing is held, only what was read before the mark is sure to be in the backup.
        let early_gtids = match self.plan.position {
            PositionFrom::Binlog => Some(self.dialect.gtids(self.client)?),
            _ => None,
        };
        let mark = mark()?;
        let after = self.dialect.coordinates(self.client)?;
        let gtids = match early_gtids {
            Some(gtids) => gtids,
            None => self.dialect.gtids(self.client)?,
        };
        let channels = self.dialect.channels(self.client)?;
        let kept_logs = kept_before || self.dialect.keeps_logs(self.client)?;
        self.release()?;
        let is_locking = self.plan.holds_commits();
        let times = LockTimes {
            lock: self.plan.name.into(),
            lock_ms: if is_locking {
                milliseconds(commit_start.elapsed())
            } else {
                0.0
            },
            ddl_lock_ms: if is_locking {
                milliseconds(ddl_start.elapsed())
            } else {
                0.0
            },
        };
        self.lower()?;
        if !self.may_be_silent {
            self.client.run(server::SILENCE)?;
        }
        let readings = Readings {
            before,
            after,
            gtids,
            channels,
            kept_logs,
            times,
        };
        Ok((mark, readings))
    }

    /// Takes locks, one after the other. A DDL that holds one and wants another may meet us between the two: the server then has us give way, leaves us with what we
    /// held before, and the DDL goes on.
    fn lock_all(&mut self, statements: &[&str]) -> Result<(), ClientError> {
        for statement in statements {
            let mut tries_left = DEADLOCK_COUNT_MAX;
            loop {
                match self.client.run(statement) {
                    Err(ClientError::Deadlock { .. }) if tries_left > 0 => tries_left -= 1,
                    result => break result?,
                }
            }
        }
        Ok(())
    }

    fn run_all(&mut self, statements: &[&str]) -> Result<(), ClientError> {
        statements
            .iter()
            .try_for_each(|statement| self.client.run(statement))
    }

    fn release(&mut self) -> Result<(), ClientError> {
        self.is_held = false;
        self.run_all(self.plan.release)
    }

    /// Sets back what was raised, unless somebody else has set it meanwhile.
    fn lower(&mut self) -> Result<(), ClientError> {
        let Some(change) = self.raised.take() else {
            return Ok(());
        };
        read::set_back(self.client, change.name, &change.before, &change.after).map(drop)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        if self.is_held {
            let _ = self.release();
        }
        let _ = self.lower();
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
