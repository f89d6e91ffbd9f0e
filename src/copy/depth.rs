//! How many large transfers, reads and writes, are under way at a disk at a time.
//!
//! A disk that serves one request after the other gets no faster by more of them: they only stand before those of the server, which are short and which its commits wait for. A disk
//! that serves several at once does get faster. No file system tells which it is, so the depth is found by trial. It begins at one; now and then twice or half as many are let
//! through for a moment, and the larger number stays where it brings a third more bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A shorter transfer is over soon, and is not held up.
const LARGE_LEN: usize = 128 << 10;
/// A rate is told from this much time at least, and from so many transfers for each one of the depth: some of them began under the depth before.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_COUNT: usize = 16;
/// Windows from one trial to the next.
const REST: u32 = 16;
/// What twice the depth has to bring, as a multiple.
const GAIN: f64 = 4.0 / 3.0;

/// The disks that a session reads and writes, each with its depth.
pub struct Disks {
    most: usize,
    /// By device number.
    depths: Mutex<HashMap<u64, Arc<Depth>>>,
}

impl Disks {
    /// `most`: as many copiers as there are.
    pub fn new(most: usize) -> Disks {
        Disks {
            most,
            depths: Mutex::default(),
        }
    }

    /// That of the disk on which `file` is.
    pub(super) fn depth(&self, file: &File) -> io::Result<Arc<Depth>> {
        let device = file.metadata()?.dev();
        let mut depths = self.depths.lock();
        let depth = depths.entry(device);
        Ok(depth
            .or_insert_with(|| Arc::new(Depth::new(self.most)))
            .clone())
    }
}

/// Of one disk; shared by all copiers.
pub(super) struct Depth {
    gate: Mutex<Gate>,
    changed: Condvar,
}

/// A transfer under way, until dropped.
pub(super) struct Transfer<'d> {
    depth: &'d Depth,
    bytes: u64,
}

impl Depth {
    fn new(most: usize) -> Depth {
        Depth {
            gate: Mutex::new(Gate::new(most, Instant::now())),
            changed: Condvar::new(),
        }
    }

    /// Waits for its turn. None: too short to be counted.
    pub fn begin(&self, len: usize) -> Option<Transfer<'_>> {
        if len < LARGE_LEN {
            return None;
        }
        let mut gate = self.gate.lock();
        gate.window.enter(Instant::now());
        // Whoever is under way wakes the next one.
        while !gate.let_through() {
            self.changed.wait(&mut gate);
        }
        Some(Transfer {
            depth: self,
            bytes: len as u64,
        })
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let maybe_larger = self.depth.gate.lock().end(self.bytes, Instant::now());
        match maybe_larger {
            true => _ = self.depth.changed.notify_all(),
            false => _ = self.depth.changed.notify_one(),
        }
    }
}

/// Who is let through, and what came of it.
struct Gate {
    under_way: usize,
    window: Window,
    trials: Trials,
}

impl Gate {
    fn new(most: usize, now: Instant) -> Gate {
        Gate {
            under_way: 0,
            window: Window::new(now),
            trials: Trials::new(most),
        }
    }

    fn let_through(&mut self) -> bool {
        let has_room = self.under_way < self.trials.depth();
        self.under_way += usize::from(has_room);
        has_room
    }

    /// True if a window is complete, and the depth may be another.
    fn end(&mut self, bytes: u64, now: Instant) -> bool {
        self.under_way -= 1;
        self.window.leave(bytes, now);
        let rate = self.window.rate(self.trials.transfers_to_judge());
        if let Some(rate) = rate {
            self.trials.judge(rate);
            self.window.restart();
        }
        rate.is_some()
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
    count: usize,
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

    fn leave(&mut self, bytes: u64, now: Instant) {
        self.pass(now);
        self.present -= 1;
        self.bytes += bytes;
        self.count += 1;
    }

    fn pass(&mut self, now: Instant) {
        if self.present > 0 {
            self.wanted += now - self.at;
        }
        self.at = now;
    }

    /// In bytes per second, if the window is long enough.
    fn rate(&self, count_min: usize) -> Option<f64> {
        let is_complete = self.wanted >= WINDOW && self.count >= count_min;
        is_complete.then(|| self.bytes as f64 / self.wanted.as_secs_f64())
    }

    /// The next one; whoever is present stays so.
    fn restart(&mut self) {
        let present = self.present;
        *self = Window {
            present,
            ..Window::new(self.at)
        };
    }
}

/// The depth that is settled, and the one that is tried.
struct Trials {
    most: usize,
    settled: usize,
    /// At the settled depth; the last windows count most.
    rate: f64,
    tried: Option<usize>,
    /// Up and down in turns.
    tries_up_next: bool,
    windows_left: u32,
}

impl Trials {
    fn new(most: usize) -> Trials {
        Trials {
            most: most.max(1),
            settled: 1,
            rate: 0.0,
            tried: None,
            tries_up_next: true,
            windows_left: 0,
        }
    }

    fn depth(&self) -> usize {
        self.tried.unwrap_or(self.settled)
    }

    fn transfers_to_judge(&self) -> usize {
        WINDOW_COUNT * self.depth().max(self.settled)
    }

    /// Takes the rate of a window, and sets the depth of the next.
    fn judge(&mut self, rate: f64) {
        match self.tried.take() {
            Some(tried) => self.judge_trial(tried, rate),
            None => self.rest(rate),
        }
    }

    fn rest(&mut self, rate: f64) {
        self.rate = match self.rate {
            0.0 => rate,
            before => before * 0.75 + rate * 0.25,
        };
        if self.windows_left > 0 {
            self.windows_left -= 1;
            return;
        }
        let up = self.tries_up_next;
        self.tried = self.next(up).or_else(|| self.next(!up));
        self.tries_up_next = !up;
        self.windows_left = REST;
    }

    fn judge_trial(&mut self, tried: usize, rate: f64) {
        let up = tried > self.settled;
        let is_kept = match up {
            true => rate >= self.rate * GAIN,
            false => rate * GAIN > self.rate,
        };
        let (settled, before) = (self.settled, self.rate);
        tracing::debug!(settled, before, tried, rate, is_kept, "a depth was tried");
        if is_kept {
            (self.settled, self.rate) = (tried, rate);
            // Maybe that is not the end of it.
            self.tried = self.next(up);
        }
    }

    /// Twice or half the settled depth, if that is possible.
    fn next(&self, up: bool) -> Option<usize> {
        let next = match up {
            true => (self.settled * 2).min(self.most),
            false => (self.settled / 2).max(1),
        };
        (next != self.settled).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

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
    fn where_more_take_only_a_little_from_the_server_one_is_enough() {
        let depths = depths(4, 1000, |depth, _| [0.0, 1.0, 1.2, 1.3, 1.35][depth]);
        assert!(share(&depths, 1) > 0.9);
        assert!(share(&depths, 4) == 0.0);
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

    /// The depth found on a disk that serves `lanes` transfers at a time, in the order in which they come, by copiers that always have more.
    fn found(lanes: usize, copiers: usize, transfer: Duration) -> usize {
        let mut now = Instant::now();
        let mut gate = Gate::new(copiers, now);
        (0..copiers).for_each(|_| gate.window.enter(now));
        let mut free: BinaryHeap<_> = (0..lanes).map(|_| Reverse(now)).collect();
        let mut ends = BinaryHeap::new();
        let mut settled = vec![0; copiers + 1];
        for _ in 0..100_000 {
            while ends.len() < copiers && gate.let_through() {
                let Reverse(lane) = free.pop().unwrap();
                let end = lane.max(now) + transfer;
                free.push(Reverse(end));
                ends.push(Reverse(end));
            }
            let Reverse(end) = ends.pop().unwrap();
            now = end;
            gate.end(1 << 19, now);
            gate.window.enter(now);
            settled[gate.trials.settled] += 1;
        }
        let most = settled.iter().max();
        settled
            .iter()
            .position(|count| Some(count) == most)
            .unwrap()
    }

    #[test]
    fn as_many_are_under_way_as_the_disk_serves_at_once() {
        for (lanes, copiers, expected) in [
            (1, 4, 1),
            (2, 4, 2),
            (4, 4, 4),
            (64, 4, 4),
            (64, 3, 3),
            (1, 64, 1),
            (8, 64, 8),
            (100, 64, 64),
        ] {
            for transfer in [300, 10_000, 200_000].map(Duration::from_micros) {
                let found = found(lanes, copiers, transfer);
                assert_eq!(
                    found, expected,
                    "{lanes} lanes, {copiers} copiers, {transfer:?}"
                );
            }
        }
    }

    #[test]
    fn time_in_which_nobody_wants_to_transfer_does_not_count() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(start);
        for second in 0..10 {
            window.enter(at(second * 1000));
            window.enter(at(second * 1000 + 2));
            window.leave(1000, at(second * 1000 + 5));
            assert_eq!(window.rate(0), None);
            window.leave(1000, at(second * 1000 + 10));
        }
        assert_eq!((window.rate(21), window.rate(20)), (None, Some(200_000.0)));
        window.enter(at(10_000));
        window.restart();
        window.leave(1000, at(10_100));
        assert_eq!(window.rate(1), Some(10_000.0));
    }

    #[test]
    fn whoever_finds_no_room_waits_for_the_end_of_another_transfer() {
        let depth = Depth::new(1);
        let first = depth.begin(LARGE_LEN);
        std::thread::scope(|threads| {
            let second = threads.spawn(|| drop(depth.begin(LARGE_LEN)));
            while depth.gate.lock().window.present < 2 {
                std::thread::yield_now();
            }
            assert!(depth.begin(LARGE_LEN - 1).is_none());
            assert_eq!(depth.gate.lock().under_way, 1);
            assert!(!second.is_finished());
            drop(first);
        });
        let gate = depth.gate.lock();
        assert_eq!((gate.under_way, gate.window.present), (0, 0));
    }

    #[test]
    fn all_come_to_their_turn_while_the_depth_changes() {
        let depth = Depth::new(4);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for turn in 0..5000 {
                        let _transfer = depth.begin(LARGE_LEN);
                        let mut gate = depth.gate.lock();
                        assert!(gate.under_way <= 4);
                        gate.trials.settled = 1 + turn % 4;
                    }
                });
            }
        });
        assert_eq!(depth.gate.lock().window.present, 0);
    }

    #[test]
    fn files_on_one_disk_share_its_depth() {
        let disks = Disks::new(4);
        let depth = |path: &str| disks.depth(&File::open(path).unwrap()).unwrap();
        assert!(Arc::ptr_eq(
            &depth("/proc/self/stat"),
            &depth("/proc/self/status")
        ));
        assert!(!Arc::ptr_eq(&depth("/proc/self/stat"), &depth("/")));
    }
}
