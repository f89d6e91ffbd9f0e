//! A bound on how fast the source is read, changeable while a backup runs.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Shared by all workers. Credit accrues with time and is spent by bytes; who overspends waits until it is even.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes per second; 0 is no bound.
    rate: u64,
    /// Nothing is read until the rate is set.
    paused: bool,
    /// When everything that was spent so far is paid for.
    paid_until: Instant,
}

impl Throttle {
    /// `bytes_per_second`: 0 is no bound.
    pub fn new(bytes_per_second: u64) -> Throttle {
        let state = State {
            rate: bytes_per_second,
            paused: false,
            paid_until: Instant::now(),
        };
        Throttle {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Holds for bytes that are not yet paid for, too.
    pub fn set(&self, bytes_per_second: u64) {
        let mut state = self.state.lock();
        state.rate = bytes_per_second;
        state.paused = false;
        state.paid_until = Instant::now();
        self.changed.notify_all();
    }

    /// Holds everything up until the rate is set.
    pub fn pause(&self) {
        self.state.lock().paused = true;
        self.changed.notify_all();
    }

    /// Waits while paused, or until `stop` says so: before anything is read.
    pub fn hold(&self, stop: &dyn Fn() -> bool) {
        let mut state = self.state.lock();
        while state.paused && !stop() {
            self.changed
                .wait_for(&mut state, Duration::from_millis(200));
        }
    }

    pub fn rate(&self) -> u64 {
        self.state.lock().rate
    }

    /// Spends `bytes`, and waits until that is paid for, the rate changes, or `stop` says so.
    pub fn spend(&self, bytes: u64, stop: &dyn Fn() -> bool) {
        let mut state = self.state.lock();
        if state.rate == 0 || state.paused {
            return;
        }
        let now = Instant::now();
        // A cost beyond a year is as good as any.
        let seconds = (bytes as f64 / state.rate as f64).min(3e7);
        let cost = Duration::from_secs_f64(seconds);
        state.paid_until = state.paid_until.max(now) + cost;
        let due = state.paid_until;
        while state.rate != 0
            && !state.paused
            && state.paid_until >= due
            && Instant::now() < due
            && !stop()
        {
            let step = due.min(Instant::now() + Duration::from_millis(200));
            self.changed.wait_until(&mut state, step);
        }
    }
}
