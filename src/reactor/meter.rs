//! Token buckets: how fast somebody may go.
//!
//! Pure arithmetic on times that it is told. A bucket may be overdrawn, by what had come before
//! anybody could say no; it then takes the longer to fill.

#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
pub(crate) mod model;

use crate::options::{Limits, NEVER, Rate};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// In thousandths, so that a millisecond brings a whole number of them.
    level: i64,
    filled_ms: u64,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Rate, now_ms: u64) -> Self {
        Self { rate, level: capacity(rate), filled_ms: now_ms }
    }

    /// Puts in what the time since has brought; whether it is full.
    pub(crate) fn fill(&mut self, now_ms: u64) -> bool {
        let span_ms = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = now_ms;
        let brought = i64::try_from(span_ms).unwrap_or(i64::MAX);
        let brought = brought.saturating_mul(self.rate.per_second.into());
        self.level = self.level.saturating_add(brought).min(capacity(self.rate));
        self.level == capacity(self.rate)
    }

    /// Takes so many out; whether more were asked for than were there.
    pub(crate) fn take(&mut self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000);
        self.level = self.level.saturating_sub(count);
        self.level < 0
    }

    /// How many may be taken.
    pub(crate) fn left(&self) -> usize {
        usize::try_from(self.level / 1000).unwrap_or(0)
    }

    /// When it will be half full.
    pub(crate) fn half_full_ms(&self) -> u64 {
        let missing = (capacity(self.rate) / 2).saturating_sub(self.level).max(0).unsigned_abs();
        self.filled_ms.saturating_add(missing.div_ceil(self.rate.per_second.into()))
    }
}

fn capacity(rate: Rate) -> i64 {
    i64::from(rate.burst) * 1000
}

/// How fast one peer goes.
#[derive(Debug)]
pub(crate) struct Meter {
    pdus: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Since when the peer has been too fast, without its buckets having been full; `NEVER` when
    /// it is not.
    since_ms: u64,
    patience_ms: u64,
    /// Until when the peer is not received from; `NEVER` while it is.
    pub(crate) paused_until_ms: u64,
}

impl Meter {
    /// `None` where nothing is limited.
    pub(crate) fn new(limits: &Limits, now_ms: u64) -> Option<Box<Self>> {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now_ms));
        let (pdus, bytes) = (bucket(limits.pdus), bucket(limits.bytes));
        let patience_ms = limits.patience_ms;
        let meter = Self { pdus, bytes, since_ms: NEVER, patience_ms, paused_until_ms: NEVER };
        (pdus.is_some() || bytes.is_some()).then(|| Box::new(meter))
    }

    /// Time has passed.
    pub(crate) fn fill(&mut self, now_ms: u64) {
        let fill =
            |bucket: &mut Option<Bucket>| bucket.as_mut().is_none_or(|bucket| bucket.fill(now_ms));
        let (is_full, other_is_full) = (fill(&mut self.pdus), fill(&mut self.bytes));
        if is_full && other_is_full {
            self.since_ms = NEVER;
        }
    }

    /// Bytes came; whether they were too many.
    pub(crate) fn take_bytes(&mut self, len: usize) -> bool {
        self.bytes.as_mut().is_some_and(|bucket| bucket.take(len))
    }

    /// How many bytes may come.
    pub(crate) fn bytes_left(&self) -> usize {
        self.bytes.map_or(usize::MAX, |bucket| bucket.left())
    }

    /// A PDU came; whether it was one too many.
    pub(crate) fn take_pdu(&mut self) -> bool {
        self.pdus.as_mut().is_some_and(|bucket| bucket.take(1))
    }

    /// The peer is paused until its buckets are half full; `false` if it was too fast for too long.
    pub(crate) fn strike(&mut self, now_ms: u64) -> bool {
        let half_full = |bucket: &Option<Bucket>| bucket.map_or(0, |bucket| bucket.half_full_ms());
        self.paused_until_ms = half_full(&self.pdus).max(half_full(&self.bytes));
        self.since_ms = self.since_ms.min(now_ms);
        now_ms - self.since_ms <= self.patience_ms
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::model::Step;
    use super::*;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2000_u64).prop_map(Step::Fill),
            (0..10_usize).prop_map(Step::Take),
            Just(Step::HalfFull),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever is taken whenever, a bucket has what its burst and time have brought.
        #[test]
        fn a_bucket_does_what_plain_arithmetic_does(
            per_second in 1..20_u32,
            burst in 1..10_u32,
            steps in vec(step(), 0..100),
        ) {
            model::run(Rate::per_second(per_second).burst(burst), 0, steps);
        }

        /// A peer gets what its rate allows, and is closed once it was too fast for too long.
        #[test]
        fn a_peer_is_paused_and_closed_as_its_rate_says(
            per_second in 1..20_u32,
            burst in 1..10_u32,
            patience_ms in 0..10_000_u64,
            sends in vec((0..1000_u64, 0..10_usize), 0..100),
        ) {
            model::pace(Rate::per_second(per_second).burst(burst), patience_ms, sends);
        }
    }

    /// A burst is taken at once, and after that so many a second.
    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Rate::per_second(10).burst(5), 1000);
        assert!((0..5).all(|_| !bucket.take(1)));
        assert!(bucket.take(1), "the sixth is one too many");
        assert!(!bucket.fill(1100), "a tenth of a second brings one, which pays for the sixth");
        assert!(bucket.take(1));
        assert!(!bucket.fill(1399) && bucket.take(2), "a millisecond is missing");
        assert!(bucket.fill(10_000), "no more than the burst is kept");
        assert!(!bucket.take(5) && bucket.take(1));
    }

    /// It is half full exactly when it says so, also after it was overdrawn.
    #[test]
    fn a_bucket_knows_when_it_is_half_full() {
        for overdraft in [0, 1, 7, 1000] {
            let mut bucket = Bucket::new(Rate::per_second(3).burst(8), 50);
            bucket.take(8 + overdraft);
            let half_full_ms = bucket.half_full_ms();
            let mut before = bucket;
            before.fill(half_full_ms - 1);
            assert!(before.take(4), "a millisecond before");
            bucket.fill(half_full_ms);
            assert!(!bucket.take(4) && bucket.take(1), "four are there and no more");
        }
    }

    /// The time in which a peer is too fast counts until the buckets are full.
    #[test]
    fn a_peer_that_has_been_quiet_is_forgiven() {
        let limits = Limits::new().bytes(Rate::per_second(1000)).patience(Duration::from_secs(5));
        let mut meter = Meter::new(&limits, 0).unwrap();
        let mut overdraw = |now_ms| {
            meter.fill(now_ms);
            assert!(meter.take_bytes(10_000));
            meter.strike(now_ms)
        };
        assert!(overdraw(7) && overdraw(1000) && overdraw(5007) && !overdraw(5008));
        assert!(overdraw(90_000) && overdraw(95_000) && !overdraw(95_001));
        assert!(Meter::new(&Limits::new(), 0).is_none(), "without limits there is no meter");
    }

    /// The extremes neither overflow nor last for ever.
    #[test]
    fn extremes_saturate() {
        let mut bucket = Bucket::new(Rate::per_second(u32::MAX).burst(u32::MAX), u64::MAX);
        assert!(bucket.take(usize::MAX));
        bucket.fill(u64::MAX);
        assert!(bucket.half_full_ms() == u64::MAX);
        let mut bucket = Bucket::new(Rate::per_second(0).burst(0), 0);
        assert!(!bucket.take(1) && bucket.take(1));
        assert!(bucket.fill(u64::MAX));
    }
}
