//! How long to wait before the next attempt to connect.
//!
//! Plain arithmetic: knows no clock, and draws from random numbers that it is lent. Who counts the
//! failures is `netlib/sets.rs`.

#![forbid(unsafe_code)]

use std::iter;
use std::time::Duration;

use fastrand::Rng;

/// The waits between one failure of a connection and the next attempt: each twice as long as the
/// one before, up to a longest.
///
/// A failure is whatever ends a connection or an attempt: a refusal, a reset, a time-out, the
/// application's own close. The waits begin anew once a connection has stayed open for
/// [`reset_after`](Self::reset_after).
///
/// ```
/// use std::time::Duration;
/// use uring_netlib::conn::Backoff;
///
/// // 1, 2, 4, 8, 8, 8 … seconds, each shortened by up to a half.
/// let patient = Backoff::new().first(Duration::from_secs(1)).longest(Duration::from_secs(8));
/// // 4, 8, 16, 32, 64, 4, 8 … seconds sharp.
/// let teamtalk = Backoff::teamtalk();
/// assert_ne!(patient, teamtalk);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a back-off does nothing until a set is made with it"]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    has_jitter: bool,
    starts_over: bool,
    reset_after: Duration,
    seed: Option<u64>,
}

impl Backoff {
    /// 500 ms, doubled up to 30 s, with jitter; anew after 10 s of being open.
    pub const fn new() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            has_jitter: true,
            starts_over: false,
            reset_after: Duration::from_secs(10),
            seed: None,
        }
    }

    /// TeamTalk's timing: 4, 8, 16, 32, 64 s and then 4 s again, without jitter; anew whenever a
    /// connection opens.
    ///
    /// All clients of a server that went away come back in the same second, and a peer that
    /// accepts and closes at once is tried every 4 s for ever.
    pub const fn teamtalk() -> Self {
        Self {
            first: Duration::from_secs(4),
            longest: Duration::from_secs(64),
            has_jitter: false,
            starts_over: true,
            reset_after: Duration::ZERO,
            seed: None,
        }
    }

    /// The first wait. Default 500 ms; less than 1 ms counts as that.
    pub const fn first(mut self, wait: Duration) -> Self {
        self.first = wait;
        self
    }

    /// The longest wait. Default 30 s; less than the first counts as that.
    pub const fn longest(mut self, wait: Duration) -> Self {
        self.longest = wait;
        self
    }

    /// Whether each wait is drawn from its upper half, evenly, so that the clients of one server do
    /// not come back all at once. Default yes.
    pub const fn jitter(mut self, is_on: bool) -> Self {
        self.has_jitter = is_on;
        self
    }

    /// Whether the first wait follows the longest. Default no: the longest is kept.
    pub const fn start_over(mut self, is_on: bool) -> Self {
        self.starts_over = is_on;
        self
    }

    /// How long a connection must have been open for the waits to begin anew. Default 10 s, so that
    /// a peer that accepts and closes at once is left alone for longer and longer; with zero, any
    /// connection that opens will do.
    pub const fn reset_after(mut self, open: Duration) -> Self {
        self.reset_after = open;
        self
    }

    /// Makes the jitter the same each time, for tests. Default another one for each set.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The random numbers for a set with this back-off, `fallback` being what a simulation seeds
    /// them with.
    pub(crate) fn random(&self, fallback: Option<u64>) -> Rng {
        self.seed.or(fallback).map_or_else(Rng::new, Rng::with_seed)
    }

    /// Whether a connection that was open for so long lets the waits begin anew.
    pub(crate) fn is_reset_by(&self, open: Duration) -> bool {
        open >= self.reset_after
    }

    /// The wait after so many failures in a row, the latest not counted.
    pub(crate) fn wait(&self, failures: u32, random: &mut Rng) -> Duration {
        let first = self.first.max(FIRST_MIN);
        let longest = self.longest.max(first);
        let doubled = |wait: &Duration| wait.checked_mul(2).filter(|wait| *wait <= longest);
        // Each wait is twice the one before, so there are fewer than a hundred.
        let mut waits = iter::successors(Some(first), doubled);
        let whole = match self.starts_over {
            true => waits.clone().nth(failures as usize % waits.count()),
            false => waits.nth(failures as usize),
        };
        let whole = whole.unwrap_or(longest);
        if !self.has_jitter {
            return whole;
        }
        let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random.u64(nanos.div_ceil(2)..=nanos))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// Less would be no back-off.
const FIRST_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;

    fn seconds(backoff: Backoff, count: u32) -> Vec<u64> {
        let mut random = backoff.random(None);
        (0..count).map(|failures| backoff.wait(failures, &mut random).as_secs()).collect()
    }

    /// TeamTalk's waits double from 4 to 64 seconds and begin again.
    #[test]
    fn teamtalks_waits_are_as_traced() {
        let expected = [4, 8, 16, 32, 64, 4, 8, 16, 32, 64, 4];
        assert_eq!(seconds(Backoff::teamtalk(), 11), expected);
    }

    /// Without starting over the longest wait is kept, whether doubling meets it or not.
    #[test]
    fn the_longest_wait_is_kept() {
        let plain = Backoff::new().jitter(false).first(Duration::from_secs(3));
        assert_eq!(seconds(plain.longest(Duration::from_secs(10)), 5), [3, 6, 10, 10, 10]);
        assert_eq!(seconds(plain.longest(Duration::from_secs(12)), 5), [3, 6, 12, 12, 12]);
        let again = plain.start_over(true).longest(Duration::from_secs(10));
        assert_eq!(seconds(again, 5), [3, 6, 3, 6, 3], "one that doubling misses is not reached");
    }

    /// The least and the greatest of settings give waits all the same.
    #[test]
    fn extreme_settings_are_waits_all_the_same() {
        let random = &mut Rng::with_seed(1);
        for backoff in [Backoff::new().jitter(false), Backoff::teamtalk()] {
            let least = backoff.first(Duration::ZERO).longest(Duration::ZERO);
            for failures in [0, 1, u32::MAX] {
                assert_eq!(least.wait(failures, random), Duration::from_millis(1));
            }
            let greatest = backoff.first(Duration::MAX).longest(Duration::ZERO);
            for failures in [0, 1, u32::MAX] {
                assert_eq!(greatest.wait(failures, random), Duration::MAX);
            }
        }
        let long = Backoff::new().jitter(false).longest(Duration::MAX);
        assert_eq!(long.wait(u32::MAX, random), Duration::MAX);
        let centuries = Backoff::new().first(Duration::MAX).wait(0, random);
        assert!(centuries > Duration::from_secs(1 << 33), "{centuries:?}");
    }

    /// A seed gives the same waits each time, and without one they differ.
    #[test]
    fn a_seed_repeats_the_jitter() {
        let waits = |backoff: Backoff| {
            let mut random = backoff.random(None);
            [0; 8].map(|_| backoff.wait(9, &mut random))
        };
        assert_eq!(waits(Backoff::new().seed(7)), waits(Backoff::new().seed(7)));
        assert_ne!(waits(Backoff::new().seed(7)), waits(Backoff::new().seed(8)));
        assert_ne!(waits(Backoff::new()), waits(Backoff::new()));
    }

    /// Waits begin anew after the connection was open for as long as that, or longer.
    #[test]
    fn the_reset_includes_its_bound() {
        let bound = Duration::from_secs(10);
        assert!(Backoff::new().is_reset_by(bound));
        assert!(!Backoff::new().is_reset_by(bound - Duration::from_nanos(1)));
        assert!(Backoff::teamtalk().is_reset_by(Duration::ZERO));
    }

    proptest! {
        /// With jitter a wait lies in the upper half of what it is without, ends included.
        #[test]
        fn jitter_stays_in_the_upper_half(
            first in 0..100_000_u64,
            longest in 0..1_000_000_u64,
            failures in 0..100_u32,
            starts_over: bool,
            seed: u64,
        ) {
            let backoff = Backoff::new()
                .first(Duration::from_millis(first))
                .longest(Duration::from_millis(longest))
                .start_over(starts_over);
            let random = &mut Rng::with_seed(seed);
            let whole = backoff.jitter(false).wait(failures, random);
            let drawn = backoff.wait(failures, random);
            prop_assert!(whole / 2 <= drawn && drawn <= whole, "{drawn:?} of {whole:?}");
        }
    }

    /// Jitter spreads over the whole of the upper half.
    #[test]
    fn jitter_spreads_evenly() {
        let backoff = Backoff::new().first(Duration::from_secs(8)).longest(Duration::ZERO).seed(1);
        let mut random = backoff.random(None);
        let mut counts = [0_u32; 4];
        for _ in 0..4000 {
            let second = backoff.wait(0, &mut random).as_secs().clamp(4, 7);
            counts[usize::try_from(second - 4).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
