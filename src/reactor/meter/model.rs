//! What a token bucket must do, in numbers too large to overflow: for the tests and for the fuzzer.
//!
//! Not in the library itself. It must stay so plain that it is right at a glance.

#![forbid(unsafe_code)]

use super::{Bucket, Limits, Meter, Rate};

/// What happens to a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Time goes on, and the bucket fills.
    Fill(u64),
    /// So many are taken.
    Take(usize),
    /// The bucket says when it is half full.
    HalfFull,
}

/// Takes the steps with a bucket and with plain arithmetic.
///
/// # Panics
/// Where the two differ.
pub(crate) fn run(rate: Rate, start_ms: u64, steps: impl IntoIterator<Item = Step>) {
    let mut bucket = Bucket::new(rate, start_ms);
    let (per_second, capacity) = (i128::from(rate.per_second), i128::from(rate.burst) * 1000);
    let (mut level, mut now_ms) = (capacity, start_ms);
    for step in steps {
        match step {
            Step::Fill(span_ms) => {
                let then_ms = now_ms;
                now_ms = now_ms.saturating_add(span_ms);
                level = capacity.min(level + i128::from(now_ms - then_ms) * per_second);
                assert_eq!(bucket.fill(now_ms), level == capacity);
            }
            Step::Take(count) => {
                level -= count as i128 * 1000;
                assert_eq!(bucket.take(count), level < 0);
            }
            Step::HalfFull => {
                let missing = (capacity / 2 - level).max(0);
                let wait_ms = missing.unsigned_abs().div_ceil(per_second.unsigned_abs());
                let then_ms = u128::from(now_ms) + wait_ms;
                assert_eq!(u128::from(bucket.half_full_ms()), then_ms.min(u64::MAX.into()));
            }
        }
        assert_eq!(i128::from(bucket.level), level);
    }
}

/// A peer sends so many bytes after so many milliseconds each. It may send what its bucket has, and
/// is closed when it was too fast for longer than the patience with it.
///
/// # Panics
/// Where it gets more, or is closed sooner or later than that.
pub(crate) fn pace(rate: Rate, patience_ms: u64, sends: impl IntoIterator<Item = (u64, usize)>) {
    let limits = Limits { patience_ms, ..Limits::new().bytes(rate) };
    let mut meter = Meter::new(&limits, 0).expect("bytes are limited");
    let (per_second, burst) = (u128::from(rate.per_second), u128::from(rate.burst));
    let (mut now_ms, mut full_ms, mut too_fast_since_ms) = (0_u64, 0_u64, None);
    // What was taken since the bucket was full is its burst, what time brought, and an overdraft.
    let mut taken = 0_u128;
    for (span_ms, len) in sends {
        now_ms = now_ms.saturating_add(span_ms);
        meter.fill(now_ms);
        if meter.bytes.is_some_and(|bucket| bucket.level == super::capacity(rate)) {
            (taken, full_ms, too_fast_since_ms) = (0, now_ms, None);
        }
        let brought = u128::from(now_ms - full_ms) * per_second;
        taken += len as u128 * 1000;
        let is_over = meter.take_bytes(len);
        assert_eq!(is_over, taken > burst * 1000 + brought);
        if is_over {
            let since_ms = *too_fast_since_ms.get_or_insert(now_ms);
            assert_eq!(meter.strike(now_ms), now_ms - since_ms <= patience_ms, "patience ends");
            let until_ms = meter.paused_until_ms;
            assert!(until_ms > now_ms || until_ms == u64::MAX, "a pause takes time");
            now_ms = until_ms;
        }
        if now_ms == u64::MAX {
            return;
        }
    }
}
