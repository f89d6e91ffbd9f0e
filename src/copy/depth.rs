//! How many large transfers, reads and writes, are under way at the disk at a time.
//!
//! A disk that serves one request after the other gets no faster by more of them: they only stand before those of the server, which are short and which its commits wait for. A disk
//! that serves several at once does get faster. No file system tells which it is, so the depth is found by trial. It begins at one; now and then twice or half as many are let
//! through for a moment, and the larger number stays where it brings a third more bytes.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A shorter transfer is over soon, and is not held up.
const LARGE_LEN: usize = 128 << 10;
/// A rate is told from this much time and this many transfers at least.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_COUNT_MIN: u32 = 32;
/// Windows from one trial to the next.
const REST: u32 = 16;
/// What twice the depth has to bring, as a multiple.
const GAIN: f64 = 4.0 / 3.0;

/// Shared by all copiers of a session.
pub struct Depth {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    under_way: usize,
    window: Window,
    trials: Trials,
}

/// A transfer under way, until dropped.
pub(super) struct Transfer<'d> {
    depth: &'d Depth,
    bytes: u64,
}

impl Depth {
    /// `most`: as many copiers as there are.
    pub fn new(most: usize) -> Depth {
        let state = State {
            under_way: 0,
            window: Window::new(Instant::now()),
            trials: Trials::new(most),
        };
        Depth {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits for its turn. None: too short to be counted.
    pub(super) fn begin(&self, len: usize) -> Option<Transfer<'_>> {
        if len < LARGE_LEN {
            return None;
        }
        let mut state = self.state.lock();
        state.window.enter(Instant::now());
        // Whoever is under way wakes the next one.
        while state.under_way >= state.trials.depth() {
            self.changed.wait(&mut state);
        }
        state.under_way += 1;
        Some(Transfer {
            depth: self,
            bytes: len as u64,
        })
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let mut state = self.depth.state.lock();
        state.under_way -= 1;
        match state.window.leave(self.bytes, Instant::now()) {
            Some(rate) => {
                state.trials.judge(rate);
                // The depth may be another.
                self.depth.changed.notify_all();
            }
            None => _ = self.depth.changed.notify_one(),
        }
    }
}

/// What was transferred while anybody wanted to.
struct Window {
    /// Transfers that are under way or wait for their turn.
    present: usize,
    /// Until when `wanted` is counted.
    at: Instant,
    wanted: Duration,
    bytes: u64,
    count: u32,
}

impl Window {
    fn new(at: Instant) -> Window {
        Window {
            present: 0,
            at,
            wanted: Duration::ZERO,
            bytes: 0,
            count: 0,
        }
    }

    fn enter(&mut self, now: Instant) {
        self.pass(now);
        self.present += 1;
    }

    /// Gives the rate, in bytes per second, of a window that is complete; the next one begins.
    fn leave(&mut self, bytes: u64, now: Instant) -> Option<f64> {
        self.pass(now);
        self.present -= 1;
        self.bytes += bytes;
        self.count += 1;
        if self.wanted < WINDOW || self.count < WINDOW_COUNT_MIN {
            return None;
        }
        let rate = self.bytes as f64 / self.wanted.as_secs_f64();
        let present = self.present;
        *self = Window {
            present,
            ..Window::new(now)
        };
        Some(rate)
    }

    fn pass(&mut self, now: Instant) {
        if self.present > 0 {
            self.wanted += now - self.at;
        }
        self.at = now;
    }
}

/// The depth that is settled, and the one that is tried.
struct Trials {
    most: usize,
    settled: usize,
    /// At the settled depth, in its last window.
    rate: f64,
    tried: Option<usize>,
    is_downward: bool,
    windows_left: u32,
}

impl Trials {
    fn new(most: usize) -> Trials {
        Trials {
            most: most.max(1),
            settled: 1,
            rate: 0.0,
            tried: None,
            is_downward: false,
            windows_left: 0,
        }
    }

    fn depth(&self) -> usize {
        self.tried.unwrap_or(self.settled)
    }

    /// Takes the rate of a window, and settles the depth of the next.
    fn judge(&mut self, rate: f64) {
        let Some(tried) = self.tried.take() else {
            self.rate = rate;
            match self.windows_left {
                0 => self.try_another(),
                _ => self.windows_left -= 1,
            }
            return;
        };
        let is_kept = match tried > self.settled {
            true => rate >= self.rate * GAIN,
            false => rate * GAIN > self.rate,
        };
        tracing::debug!(
            tried,
            settled = self.settled,
            rate,
            before = self.rate,
            is_kept,
            "a depth was tried"
        );
        if is_kept {
            (self.settled, self.rate) = (tried, rate);
            // In the same direction at once.
            self.is_downward = !self.is_downward;
            self.try_another();
        } else {
            self.windows_left = REST;
        }
    }

    /// Up and down in turns, where there is a choice.
    fn try_another(&mut self) {
        let (twice, half) = ((self.settled * 2).min(self.most), self.settled / 2);
        let (can_rise, can_fall) = (twice > self.settled, half > 0);
        let falls = can_fall && (self.is_downward || !can_rise);
        self.is_downward = !falls;
        self.tried = match falls {
            true => Some(half),
            false => can_rise.then_some(twice),
        };
        self.windows_left = REST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Depths in the order of their windows, on a disk that gives `rate` at a depth.
    fn depths(most: usize, windows: usize, rate: impl Fn(usize, usize) -> f64) -> Vec<usize> {
        let mut trials = Trials::new(most);
        let depth = |window| {
            let depth = trials.depth();
            trials.judge(rate(depth, window));
            depth
        };
        (0..windows).map(depth).collect()
    }

    fn share(depths: &[usize], depth: usize) -> f64 {
        let matching = depths.iter().filter(|found| **found == depth).count();
        matching as f64 / depths.len() as f64
    }

    #[test]
    fn on_a_disk_that_serves_one_after_the_other_one_is_enough() {
        // More get a little more of it, at the server's cost.
        let depths = depths(4, 1000, |depth, _| [0.0, 1.0, 1.2, 1.3, 1.35][depth]);
        assert!(share(&depths, 1) > 0.9);
        assert!(share(&depths, 4) == 0.0);
    }

    #[test]
    fn on_a_disk_that_serves_several_as_many_are_under_way() {
        for (lanes, most, expected) in [(2, 4, 2), (4, 4, 4), (64, 4, 4), (8, 256, 8), (64, 3, 3)] {
            let depths = depths(most, 1000, |depth, _| depth.min(lanes) as f64);
            let first = depths.iter().position(|depth| *depth == expected);
            assert!(first.unwrap() < 6, "{lanes} of {most}: {depths:?}");
            assert!(share(&depths, expected) > 0.85, "{lanes} of {most}");
        }
    }

    #[test]
    fn a_disk_that_becomes_another_is_followed() {
        let lanes = |window| if window < 500 { 4 } else { 1 };
        let depths = depths(4, 1000, |depth, window| depth.min(lanes(window)) as f64);
        assert!(share(&depths[100..500], 4) > 0.85);
        assert!(share(&depths[600..], 1) > 0.85);
    }

    #[test]
    fn one_copier_tries_nothing() {
        assert_eq!(share(&depths(1, 100, |_, _| 1.0), 1), 1.0);
        assert_eq!(share(&depths(0, 100, |_, _| 1.0), 1), 1.0);
    }

    #[test]
    fn time_in_which_nobody_wants_to_transfer_does_not_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(start);
        let mut rates = Vec::new();
        for second in 0..u64::from(WINDOW_COUNT_MIN) {
            window.enter(at(second * 1000));
            window.enter(at(second * 1000 + 2));
            for end in [5, 10] {
                rates.extend(window.leave(1000, at(second * 1000 + end)));
            }
        }
        // 2000 bytes in each 10 ms.
        assert!(!rates.is_empty());
        assert!(
            rates.iter().all(|rate| (rate - 200_000.0).abs() < 1.0),
            "{rates:?}"
        );
    }

    #[test]
    fn no_more_are_under_way_than_the_depth_allows_and_all_come_to_their_turn() {
        let depth = Depth::new(4);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..5000 {
                        let _transfer = depth.begin(LARGE_LEN);
                        assert!(depth.state.lock().under_way <= 4);
                    }
                });
            }
        });
        let state = depth.state.lock();
        assert_eq!((state.under_way, state.window.present), (0, 0));
        drop(state);
        assert!(depth.begin(LARGE_LEN - 1).is_none());
    }
}
