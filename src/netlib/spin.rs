//! Whether a loop that has nothing to do looks on for a moment before it sleeps.
//!
//! To sleep and to be woken costs the processor more than the moment, where the next completion
//! comes soon; where it does not, looking is wasted. Which it is depends on the load and on the
//! machine, and is not guessed here but measured: the CPU time of the thread for each PDU, for a
//! stretch of waits one way and now and then a stretch the other way. The cheaper way is kept until
//! the next try. After a change that comes soon, as the judgement may have been of a moment that
//! was like no other; each try that confirms it doubles the time to the next. A try that turns out
//! to be far dearer is given up before its end.
//!
//! Completions are counted only where there are no PDUs: who looks finds what comes in smaller
//! pieces, so that each of them costs less, and all of them together more.
//!
//! Reads no clock: it is told what was waited for, and asks for the CPU time where it needs it.

#![forbid(unsafe_code)]

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Spin {
    /// How long it is looked for at most; zero for never.
    span: Duration,
    is_looking: bool,
    /// The way in hand was the dearer one when it was measured last.
    is_trying: bool,
    /// Of the stretch in hand.
    waits: u32,
    completions: u64,
    /// CPU time at its start, and how many PDUs there had been; `None` before the first.
    start: Option<(Duration, u64)>,
    /// Stretches until the other way is tried.
    stretches_left: u32,
    /// How many there are from the last try to the next.
    distance: u32,
    /// CPU time in ns for each PDU: asleep, and looking. `None` before it was measured.
    costs: [Option<u64>; 2],
    /// It is for each completion, as there were no PDUs.
    is_of_completions: bool,
}

impl Spin {
    pub(super) const fn new(span: Duration) -> Self {
        Self {
            span,
            is_looking: false,
            is_trying: false,
            waits: 0,
            completions: 0,
            start: None,
            stretches_left: 0,
            distance: 1,
            costs: [None; 2],
            is_of_completions: false,
        }
    }

    /// How long to look before sleeping, if at all.
    pub(super) fn span(&self) -> Option<Duration> {
        self.is_looking.then_some(self.span)
    }

    /// A wait that could have slept has yielded so many completions, after so many PDUs since the
    /// loop began. At the end of a stretch, and once early in a try, the thread's CPU time is asked
    /// for.
    pub(super) fn note(
        &mut self,
        completions: usize,
        pdus: u64,
        cpu_time: impl FnOnce() -> Duration,
    ) {
        if self.span.is_zero() {
            return;
        }
        self.waits += 1;
        self.completions += completions as u64;
        let is_early = self.waits < STRETCH && self.start.is_some();
        if is_early && !(self.is_trying && self.waits == GLANCE) {
            return;
        }
        let now = cpu_time();
        if let Some((start, pdus_before)) = self.start
            && self.completions > 0
        {
            let nanos = u64::try_from(now.saturating_sub(start).as_nanos()).unwrap_or(u64::MAX);
            let pdus = pdus - pdus_before;
            if (pdus == 0) != self.is_of_completions {
                if is_early {
                    return;
                }
                self.is_of_completions = pdus == 0;
                self.costs = [None; 2];
                self.distance = 1;
                self.stretches_left = 0;
            }
            let cost = nanos / if pdus == 0 { self.completions } else { pdus };
            if is_early && !self.is_far_dearer(cost) {
                return;
            }
            self.judge(cost);
        }
        self.start = Some((now, pdus));
        self.waits = 0;
        self.completions = 0;
    }

    /// A stretch is over, and this is what it cost.
    fn judge(&mut self, cost: u64) {
        let known = &mut self.costs[usize::from(self.is_looking)];
        *known = match *known {
            // Whatever disturbs a stretch makes it dearer, so that alone does not end a way.
            Some(before) if cost > before && !self.is_trying => Some(before + (cost - before) / 4),
            _ => Some(cost),
        };
        let [Some(asleep), Some(looking)] = self.costs else {
            self.is_looking = !self.is_looking;
            self.is_trying = true;
            return;
        };
        let is_better = looking <= asleep;
        match (self.is_trying, self.is_looking == is_better) {
            (false, true) => {}
            (true, false) => self.distance = (2 * self.distance).min(BETWEEN_TRIES),
            (false, false) | (true, true) => self.distance = 1,
        }
        self.is_trying = self.is_looking == is_better && self.stretches_left == 0;
        if self.is_looking != is_better {
            self.is_looking = is_better;
            self.stretches_left = self.distance;
        } else if self.is_trying {
            self.is_looking = !self.is_looking;
        } else {
            self.stretches_left -= 1;
        }
    }

    /// Whether the way in hand costs so much more than the other that a few waits are enough to
    /// say so.
    fn is_far_dearer(&self, cost: u64) -> bool {
        self.costs[usize::from(!self.is_looking)].is_some_and(|other| cost > other + other / 4)
    }
}

/// Waits of a stretch.
const STRETCH: u32 = 256;

/// Waits after which a try is looked at for the first time.
const GLANCE: u32 = STRETCH / 8;

/// Stretches between two tries of the way that was dearer, when it was so for some time: what a
/// try costs counts for 1/32, and for an eighth of that where it is far dearer.
const BETWEEN_TRIES: u32 = 31;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs stretches in which a wait costs so many µs asleep and looking, with one completion
    /// each; how many of them were spent looking.
    fn looking(spin: &mut Spin, stretches: u32, asleep_us: u64, looking_us: u64) -> u32 {
        let (mut count, mut cpu) = (0, Duration::ZERO);
        spin.start = None;
        for _ in 0..stretches {
            count += u32::from(spin.is_looking);
            for _ in 0..=STRETCH {
                let cost = if spin.is_looking { looking_us } else { asleep_us };
                cpu += Duration::from_micros(cost);
                let was_looking = spin.is_looking;
                spin.note(1, 0, || cpu);
                if spin.waits == 0 && was_looking != spin.is_looking {
                    break;
                }
            }
        }
        count
    }

    /// Where looking is cheaper it is done nearly always, and where it is dearer hardly ever.
    #[test]
    fn the_cheaper_way_is_kept() {
        let mut spin = Spin::new(Duration::from_micros(50));
        assert!(looking(&mut spin, 320, 30, 20) > 290);
        let mut spin = Spin::new(Duration::from_micros(50));
        assert!(looking(&mut spin, 320, 20, 30) < 30);
    }

    /// A change of the load is found out, either way.
    #[test]
    fn a_change_is_found_out() {
        let mut spin = Spin::new(Duration::from_micros(50));
        looking(&mut spin, 100, 30, 20);
        looking(&mut spin, 100, 20, 30);
        assert!(looking(&mut spin, 100, 20, 30) < 15);
        looking(&mut spin, 100, 30, 20);
        assert!(looking(&mut spin, 100, 30, 20) > 85);
    }

    /// Once a change was found out, it is looked at again soon, however long the way before it had
    /// been confirmed; and so where PDUs take the place of completions.
    #[test]
    fn what_is_new_is_tried_again_soon() {
        let tries_within = |spin: &mut Spin, stretches| {
            let mut tries = 0;
            for _ in 0..stretches {
                looking(spin, 1, 20, 30);
                tries += u32::from(spin.is_trying);
            }
            tries
        };
        let mut spin = Spin::new(Duration::from_micros(50));
        looking(&mut spin, 200, 30, 20);
        assert_eq!(spin.distance, BETWEEN_TRIES);
        while spin.is_looking || spin.is_trying {
            looking(&mut spin, 1, 20, 30);
        }
        assert!(tries_within(&mut spin, 12) >= 2);
        looking(&mut spin, 200, 20, 30);
        assert_eq!(tries_within(&mut spin, 12), 0, "confirmed for long");
        spin.note(1, 1, || Duration::ZERO);
        while spin.waits > 0 {
            spin.note(1, 1, || Duration::from_secs(1));
        }
        assert!(spin.distance == 1 && spin.stretches_left <= 1, "of PDUs nothing is known");
    }

    /// What was judged in a moment that was like no other is mended as soon as the moment is over.
    #[test]
    fn a_false_judgement_does_not_last() {
        for (asleep_us, looking_us) in [(30, 20), (20, 30)] {
            let mut spin = Spin::new(Duration::from_micros(50));
            looking(&mut spin, 3, looking_us, asleep_us);
            let looked = looking(&mut spin, 20, asleep_us, looking_us);
            let right = if looking_us < asleep_us { looked } else { 20 - looked };
            assert!(right >= 14, "{right} of 20 the cheaper way");
        }
    }

    /// What counts is PDUs: a way that sees each of them in more pieces is not the cheaper one for
    /// that.
    #[test]
    fn pieces_are_no_work() {
        let mut spin = Spin::new(Duration::from_micros(50));
        let (mut cpu, mut pdus, mut looked) = (Duration::ZERO, 0, 0);
        for wait in 0..100 * STRETCH {
            // Looking, a PDU comes in four pieces of 10 us, and else in two of 15 us.
            let (pieces, cost) = if spin.is_looking { (4, 10) } else { (2, 15) };
            looked += u32::from(spin.is_looking);
            cpu += Duration::from_micros(cost);
            pdus += u64::from(wait % pieces == 0);
            spin.note(1, pdus, || cpu);
        }
        assert!(looked < 10 * STRETCH, "{looked} waits of {}", 100 * STRETCH);
    }

    /// A try that is far dearer ends after an eighth of a stretch, the first look as well; one that
    /// is a little dearer ends with its stretch.
    #[test]
    fn a_try_that_is_far_dearer_ends_early() {
        for (looking_us, expected) in [(30, GLANCE), (22, STRETCH)] {
            let (mut spin, mut cpu, mut tried) = (Spin::new(Duration::from_micros(50)), 0, 0);
            for _ in 0..(2 * BETWEEN_TRIES + 4) * STRETCH {
                let was_looking = spin.is_looking;
                tried += u32::from(was_looking);
                cpu += if was_looking { looking_us } else { 20 };
                spin.note(1, 0, || Duration::from_micros(cpu));
                if was_looking && !spin.is_looking {
                    break;
                }
            }
            assert_eq!(tried, expected, "{looking_us} us");
        }
    }

    /// One stretch that something has disturbed does not change the way.
    #[test]
    fn a_disturbed_stretch_changes_nothing() {
        let mut spin = Spin::new(Duration::from_micros(50));
        while spin.stretches_left < 4 {
            looking(&mut spin, 1, 20, 25);
        }
        assert_eq!(looking(&mut spin, 1, 35, 25), 0);
        assert_eq!(looking(&mut spin, 2, 20, 25), 0);
    }

    /// A loop that is told not to look never does, and never asks what it costs.
    #[test]
    fn no_span_is_no_looking() {
        let mut spin = Spin::new(Duration::ZERO);
        for _ in 0..10 * STRETCH {
            spin.note(1, 0, || unreachable!("nothing is measured"));
            assert_eq!(spin.span(), None);
        }
    }
}
