//! When passes have copied enough for the payload phase, and when more of them are in vain.
//!
//! Rule: what is left for the payload phase is no more than a last copy may have, however little the pass before copied. Passes go on as long as they get anywhere, up
//! to the number that the user allows. They end early only if what is left is too much for a last copy, did not get less for several passes in a row, and these
//! took long: a burst of writes that is over in seconds ends no backup, and a throttled backup does not copy for hours what it can't catch up with.

use std::time::Duration;

use crate::pass::PassOutcome;

/// A pass of at most this many bytes is followed by the payload phase.
pub(super) const SMALL_PASS_BYTES: u64 = 8 << 20;
/// So many passes in a row get nowhere before they are found to be in vain, …
const IN_VAIN_MAX: u32 = 3;
/// … and so long together.
const IN_VAIN_MIN: Duration = Duration::from_secs(10);

/// What is to be done after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Again,
    /// Little enough is left for the payload phase.
    Enough,
    /// `shrinking`: only the number of passes is used up.
    GiveUp {
        shrinking: bool,
    },
}

/// How the passes of one round went so far.
#[derive(Debug)]
pub(super) struct Convergence {
    /// What a last copy may have.
    enough_bytes: u64,
    passes_max: u32,
    pub passes: u32,
    last_copied_bytes: u64,
    /// What was to be copied when it was least, since it last was little enough; a little less does not count.
    least_left_bytes: u64,
    in_vain: u32,
    in_vain_time: Duration,
}

impl Convergence {
    /// `left_bytes`: what the first pass has to copy.
    pub fn new(enough_bytes: u64, passes_max: u32, left_bytes: u64) -> Convergence {
        Convergence {
            enough_bytes,
            passes_max: passes_max.max(1),
            passes: 0,
            last_copied_bytes: u64::MAX,
            least_left_bytes: left_bytes,
            in_vain: 0,
            in_vain_time: Duration::ZERO,
        }
    }

    /// After a pass that took so long; `left_bytes`: what changed meanwhile.
    pub fn judge(&mut self, outcome: &PassOutcome, left_bytes: u64, took: Duration) -> Verdict {
        self.passes += 1;
        let copied_bytes = outcome.copied_bytes;
        let fits = copied_bytes <= self.enough_bytes;
        let flat = fits && copied_bytes > self.last_copied_bytes / 10 * 7;
        self.last_copied_bytes = copied_bytes;
        // A small pass may be followed by a burst of writes.
        let little_is_left = left_bytes <= self.enough_bytes;
        let is_steady = copied_bytes <= SMALL_PASS_BYTES || flat;
        if outcome.moved_files == 0 && is_steady && little_is_left {
            return Verdict::Enough;
        }
        // A file that moved on is left whole: that tells nothing about the rate of writes.
        if outcome.moved_files == 0 {
            self.note_left(left_bytes, took);
        }
        if self.in_vain >= IN_VAIN_MAX && self.in_vain_time >= IN_VAIN_MIN {
            return Verdict::GiveUp { shrinking: false };
        }
        if self.passes < self.passes_max {
            return Verdict::Again;
        }
        match little_is_left {
            true => Verdict::Enough,
            false => Verdict::GiveUp {
                shrinking: self.in_vain == 0,
            },
        }
    }

    fn note_left(&mut self, left_bytes: u64, took: Duration) {
        let least = self.least_left_bytes;
        let is_enough = left_bytes <= self.enough_bytes;
        if is_enough || left_bytes < least / 10 * 9 {
            // What comes behind little enough is a burst, whose passes are measured by one another.
            self.least_left_bytes = if is_enough { u64::MAX } else { left_bytes };
            self.in_vain = 0;
            self.in_vain_time = Duration::ZERO;
            return;
        }
        // What grows like that is copied in vain at a cost that grows, too.
        let grew_much = left_bytes / 2 > least;
        self.in_vain += if grew_much { 2 } else { 1 };
        self.in_vain_time += took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Again, Enough, GiveUp};

    const MB: u64 = 1 << 20;
    const IN_VAIN: Verdict = GiveUp { shrinking: false };

    /// Passes of a round whose last copy may have 32 MB. Each copies what the one before left, and takes so long.
    fn verdicts(passes_max: u32, seconds: u64, left_mb: &[u64]) -> Vec<Verdict> {
        let mut convergence = Convergence::new(32 * MB, passes_max, left_mb[0] * MB);
        let judge = |pair: &[u64]| {
            let outcome = PassOutcome {
                copied_bytes: pair[0] * MB,
                moved_files: 0,
            };
            convergence.judge(&outcome, pair[1] * MB, Duration::from_secs(seconds))
        };
        left_mb.windows(2).map(judge).collect()
    }

    #[test]
    fn a_small_pass_is_enough() {
        assert_eq!(verdicts(20, 60, &[500, 40, 8, 8]), [Again, Again, Enough]);
    }

    #[test]
    fn a_burst_behind_a_small_pass_is_copied_first() {
        let left = [500, 8, 400, 300, 30, 7, 6];
        let verdicts = verdicts(20, 60, &left);
        assert_eq!(verdicts[..5], [Again; 5]);
        assert_eq!(verdicts[5], Enough);
    }

    #[test]
    fn a_burst_behind_the_last_pass_allowed_is_too_much_for_a_last_copy() {
        let used_up = GiveUp { shrinking: true };
        assert_eq!(verdicts(2, 60, &[500, 8, 400]), [Again, used_up]);
    }

    #[test]
    fn a_load_that_begins_behind_a_small_pass_and_stays_is_given_up() {
        let verdicts = verdicts(20, 60, &[500, 8, 400, 410, 390, 400]);
        assert_eq!(verdicts[..4], [Again; 4]);
        assert_eq!(verdicts[4], IN_VAIN);
    }

    #[test]
    fn passes_that_stay_as_they_are_are_enough_if_a_last_copy_may_have_that() {
        assert_eq!(verdicts(20, 60, &[500, 30, 30, 30]), [Again, Again, Enough]);
    }

    #[test]
    fn three_passes_that_get_nowhere_are_given_up() {
        let left = [500, 510, 490, 470];
        assert_eq!(verdicts(20, 60, &left), [Again, Again, IN_VAIN]);
    }

    #[test]
    fn what_grows_is_given_up_sooner() {
        assert_eq!(verdicts(20, 60, &[500, 1100, 2300]), [Again, IN_VAIN]);
    }

    #[test]
    fn passes_that_shrink_slowly_go_on_to_their_number() {
        let left = [1000, 930, 890, 840, 790, 740, 690];
        let verdicts = verdicts(6, 60, &left);
        assert_eq!(verdicts[..5], [Again; 5]);
        assert_eq!(verdicts[5], GiveUp { shrinking: true });
    }

    #[test]
    fn one_that_shrinks_begins_the_count_anew() {
        let left = [500, 520, 510, 400, 410, 390, 380];
        let verdicts = verdicts(20, 60, &left);
        assert_eq!(verdicts[..5], [Again; 5]);
        assert_eq!(verdicts[5], IN_VAIN);
    }

    #[test]
    fn quick_passes_are_made_up_to_their_number() {
        let verdicts = verdicts(6, 1, &[500; 7]);
        assert_eq!(verdicts[..5], [Again; 5]);
        assert_eq!(verdicts[5], IN_VAIN);
    }

    #[test]
    fn a_number_of_passes_that_is_used_up_is_no_harm_if_little_is_left() {
        let left = [500, 100, 20];
        assert_eq!(verdicts(2, 60, &left), [Again, Enough]);
        let left = [500, 100, 33];
        let used_up = GiveUp { shrinking: true };
        assert_eq!(verdicts(2, 60, &left), [Again, used_up]);
    }

    #[test]
    fn files_that_moved_are_no_reason_to_give_up() {
        let mut convergence = Convergence::new(32 * MB, 20, 500 * MB);
        let outcome = PassOutcome {
            copied_bytes: 500 * MB,
            moved_files: 1,
        };
        for _ in 1..20 {
            let verdict = convergence.judge(&outcome, 900 * MB, Duration::from_secs(60));
            assert_eq!(verdict, Again);
        }
    }
}
