//! Timers by deadline: arming, cancelling and firing one costs the same however many are armed.
//!
//! Never reads a clock and never waits: time is what [`Wheel::pop_expired`] was last told, in
//! ticks of one millisecond, and [`Wheel::next_tick`] says how long nothing needs to be told.
//!
//! A wheel of digits. A tick, written in base 64, has [`LEVELS`] digits; a timer waits on the
//! level of the highest digit in which its tick differs from the wheel's position, in the slot of
//! that digit. When the position reaches a slot, its timers have that digit in common with it and
//! go down to the level of the next one that differs, until they stand on level zero, where a
//! slot is one tick. Hence three facts that everything here rests on:
//!
//! - Position and tick determine the slot, so it need not be stored, and timers of one tick share
//!   a list from first to last, in the order of arming.
//! - What waits on a lower level is due before anything on a higher one, and on a level the lower
//!   slot is due first: the earliest slot is two searches for a bit away, over any span of time.
//! - The digits cover all of `u64`, so no deadline is out of range.

#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
pub(crate) mod model;

use std::fmt;
use std::num::NonZeroU32;

/// Names one armed timer of one [`Wheel`]; *stale* once that timer has fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

/// Armed timers, each with a payload.
///
/// Keeps the memory for as many timers as were ever armed at once, and allocates for more only.
pub(crate) struct Wheel<T> {
    entries: Vec<Entry<T>>,
    /// First of the vacant entries, linked by `next`.
    vacant: u32,
    len: usize,
    /// First entry of each slot, level by level.
    heads: Box<[u32; LEVELS * SLOTS]>,
    /// Of each level, one bit per slot that has entries.
    occupied: [u64; LEVELS],
    /// No armed timer is due before it. Entries are filed relative to it.
    position: u64,
    /// The latest time heard of, not before the position: what is armed now is due after it.
    now_ms: u64,
}

struct Entry<T> {
    due_ms: u64,
    /// Neighbours in the ring of the slot; the first entry's `previous` is the last one.
    next: u32,
    previous: u32,
    generation: NonZeroU32,
    /// `None` while vacant.
    payload: Option<T>,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            vacant: NONE,
            len: 0,
            heads: Box::new([NONE; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
            position: 0,
            now_ms: 0,
        }
    }

    /// Arms a timer, due at `deadline_ms` of the clock that [`pop_expired`](Self::pop_expired) is
    /// told. A deadline that has passed, by the latest time told, moves to the tick after that
    /// time; `u64::MAX` is never due.
    ///
    /// # Panics
    /// With 2³² timers armed.
    pub(crate) fn insert(&mut self, deadline_ms: u64, payload: T) -> TimerKey {
        // Were it due in the turn that arms it, a callback that re-arms itself would never let
        // that turn end.
        let due_ms = deadline_ms.max(self.now_ms + 1);
        let index = self.occupy(due_ms, payload);
        self.link(index);
        self.len += 1;
        TimerKey { index, generation: self.entries[index as usize].generation }
    }

    /// Disarms a timer; `None` if the key is stale.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.contains(key).then(|| self.remove(key.index).1)
    }

    /// Takes one timer that is due at or before `now_ms`, with the tick it was due at; `None` when
    /// all of them are out.
    ///
    /// In the order of their ticks, and of arming within one tick. A timer that is armed between
    /// two calls with the same time never comes out of the second one.
    pub(crate) fn pop_expired(&mut self, now_ms: u64) -> Option<(TimerKey, u64, T)> {
        // The last tick is never reached, so there is always one to move a deadline to.
        let now_ms = now_ms.min(NEVER - 1);
        self.now_ms = self.now_ms.max(now_ms);
        while let Some((place, tick)) = self.earliest().filter(|(_, tick)| *tick <= now_ms) {
            self.position = tick;
            if place < SLOTS {
                let index = self.heads[place];
                let key = TimerKey { index, generation: self.entries[index as usize].generation };
                let (due_ms, payload) = self.remove(index);
                return Some((key, due_ms, payload));
            }
            self.cascade(place);
        }
        // No slot with entries begins on the way there, so each entry's highest differing digit
        // stays the same; and what is armed next is filed relative to now, not to long ago.
        self.position = self.position.max(now_ms);
        None
    }

    /// How many timers are armed.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether the key's timer is armed.
    pub(crate) fn contains(&self, key: TimerKey) -> bool {
        self.entries
            .get(key.index as usize)
            .is_some_and(|entry| entry.generation == key.generation && entry.payload.is_some())
    }

    /// The earliest tick worth telling [`pop_expired`](Self::pop_expired): nothing is due before
    /// it; at it perhaps only entries go down a level, so a timer costs a wake per level at most.
    ///
    /// `None` when no timer will ever be due. After a `pop_expired(now_ms)` that returned `None`,
    /// it is later than `now_ms`, whatever is armed or cancelled until the next call.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        self.earliest().map(|(_, tick)| tick).filter(|tick| *tick != NEVER)
    }

    /// The first slot with entries, and the tick at which it begins.
    fn earliest(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        // The position's digit of this level is replaced, those above stay, those below are zero.
        let shift = level * DIGIT_BITS as usize;
        let tick = ((self.position >> shift) & !DIGIT_MASK | u64::from(slot)) << shift;
        Some((level * SLOTS + slot as usize, tick))
    }

    /// Where an entry belongs that is due at `due_ms`.
    fn place(&self, due_ms: u64) -> usize {
        // With the lowest digit's bits set, equal ticks count as differing in that digit.
        let level = ((due_ms ^ self.position) | DIGIT_MASK).ilog2() / DIGIT_BITS;
        let slot = ((due_ms >> (level * DIGIT_BITS)) & DIGIT_MASK) as usize;
        level as usize * SLOTS + slot
    }

    /// Files the entries of a slot anew, in their order, now that the position has reached it.
    fn cascade(&mut self, place: usize) {
        let head = self.clear(place);
        let mut index = head;
        loop {
            let next = self.entries[index as usize].next;
            self.link(index);
            if next == head {
                return;
            }
            index = next;
        }
    }

    /// Appends an entry to the ring of the slot it belongs to.
    fn link(&mut self, index: u32) {
        let place = self.place(self.entries[index as usize].due_ms);
        let head = self.heads[place];
        if head == NONE {
            self.heads[place] = index;
            self.occupied[place / SLOTS] |= 1 << (place % SLOTS);
            self.join(index, index);
        } else {
            let last = self.entries[head as usize].previous;
            self.join(last, index);
            self.join(index, head);
        }
    }

    /// Takes an entry out of its ring.
    fn unlink(&mut self, index: u32) {
        let Entry { due_ms, next, previous, .. } = self.entries[index as usize];
        let place = self.place(due_ms);
        if next == index {
            self.clear(place);
            return;
        }
        self.join(previous, next);
        if self.heads[place] == index {
            self.heads[place] = next;
        }
    }

    fn join(&mut self, previous: u32, next: u32) {
        self.entries[previous as usize].next = next;
        self.entries[next as usize].previous = previous;
    }

    /// Empties a slot; what was its first entry.
    fn clear(&mut self, place: usize) -> u32 {
        self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        std::mem::replace(&mut self.heads[place], NONE)
    }

    fn occupy(&mut self, due_ms: u64, payload: T) -> u32 {
        let index = self.vacant;
        if let Some(entry) = self.entries.get_mut(index as usize) {
            self.vacant = entry.next;
            entry.due_ms = due_ms;
            entry.payload = Some(payload);
            return index;
        }
        let index = u32::try_from(self.entries.len()).unwrap_or(NONE);
        assert!(index != NONE, "fewer than 2³² timers are armed at once");
        let (payload, generation) = (Some(payload), NonZeroU32::MIN);
        self.entries.push(Entry { due_ms, next: index, previous: index, generation, payload });
        index
    }

    /// Disarms an armed timer: when it was due, and its payload.
    fn remove(&mut self, index: u32) -> (u64, T) {
        self.unlink(index);
        self.len -= 1;
        let entry = &mut self.entries[index as usize];
        let payload = entry.payload.take().expect("a linked entry has a payload");
        // An entry whose generations are used up stays vacant for good: a few bytes every 2³²
        // timers, and a stale key never comes to name another timer.
        if let Some(generation) = entry.generation.checked_add(1) {
            entry.generation = generation;
            entry.next = self.vacant;
            self.vacant = index;
        }
        (entry.due_ms, payload)
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .field("now_ms", &self.now_ms)
            .field("next_tick", &self.next_tick())
            .finish_non_exhaustive()
    }
}

const DIGIT_BITS: u32 = 6;
const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;
/// One per value of a digit, and per bit of a `u64`.
const SLOTS: usize = 1 << DIGIT_BITS;
/// As many as a `u64` has digits.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;
/// A tick that is not reached; what deadlines saturate to.
const NEVER: u64 = u64::MAX;
/// Not an index.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::model::Step;
    use super::*;

    /// Few bits and many bits alike, so that every level has its turn.
    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![0..5_u64, 0..200_u64, (0..64_u32, any::<u64>()).prop_map(|(n, bits)| bits >> n)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => span().prop_map(Step::ArmLater),
            2 => span().prop_map(Step::ArmAt),
            1 => (0..3_u64).prop_map(|back| Step::ArmAt(u64::MAX - back)),
            3 => any::<usize>().prop_map(Step::Cancel),
            3 => (0..100_u64).prop_map(Step::Advance),
            1 => (20..64_u32, any::<u64>()).prop_map(|(n, bits)| Step::Advance(bits >> n)),
            3 => (1..4_usize).prop_map(|count| Step::Pop { count, back: 0 }),
            2 => Just(Step::Pop { count: usize::MAX, back: 0 }),
            1 => (1..4_usize, 1..100_u64).prop_map(|(count, back)| Step::Pop { count, back }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever is armed, cancelled and popped in whatever order, every timer comes out at the
        /// first pop at or after its tick, in order, and once.
        #[test]
        fn a_wheel_does_what_a_sorted_map_does(steps in vec(step(), 0..300)) {
            model::run(steps);
        }

        /// A loop that waits for nothing but the next tick wakes at a timer's tick, and at most
        /// once a level on the way there.
        #[test]
        fn the_way_to_a_timer_takes_few_wakes(start in span(), span in span()) {
            let mut wheel = Wheel::new();
            let start_ms = start.min(NEVER - 2);
            let due_ms = start_ms.saturating_add(span).clamp(start_ms + 1, NEVER - 1);
            assert_eq!(wheel.pop_expired(start_ms), None);
            wheel.insert(due_ms, ());
            for _ in 0..LEVELS {
                let tick = wheel.next_tick().expect("one is armed");
                if let Some((_, popped_ms, ())) = wheel.pop_expired(tick) {
                    prop_assert_eq!((tick, popped_ms), (due_ms, due_ms));
                    return Ok(());
                }
            }
            prop_assert!(false, "too many wakes");
        }
    }

    /// A timer that re-arms itself for now lets the turn end, and fires in the next tick.
    #[test]
    fn a_timer_armed_in_a_turn_is_not_due_in_it() {
        let mut wheel = Wheel::new();
        wheel.insert(0, "first");
        wheel.insert(7, "second");
        for now_ms in [10, 11, u64::MAX - 1] {
            for payload in ["first", "second"] {
                assert_eq!(wheel.pop_expired(now_ms).map(|(_, _, popped)| popped), Some(payload));
                wheel.insert(now_ms, payload);
            }
            assert_eq!(wheel.pop_expired(now_ms), None);
            assert!(wheel.next_tick().is_none_or(|tick| tick == now_ms + 1));
        }
        assert_eq!((wheel.pop_expired(u64::MAX), wheel.len), (None, 2), "time has ended");
    }

    /// Timers of one tick come out in the order of arming, from whatever distance each was armed.
    #[test]
    fn order_survives_cascades() {
        let mut wheel = Wheel::new();
        let due_ms = 1 << 40;
        for number in 0..1000 {
            wheel.insert(due_ms, number);
            let now_ms = due_ms - (due_ms >> (number / 20));
            assert_eq!(wheel.pop_expired(now_ms.min(due_ms - 1)), None);
        }
        let popped: Vec<_> = std::iter::from_fn(|| wheel.pop_expired(due_ms)).collect();
        assert!(popped.iter().map(|(_, _, number)| *number).eq(0..1000));
    }

    /// A hundred thousand timers, armed and cancelled again and again, leave nothing behind and
    /// use the same memory.
    #[test]
    fn memory_does_not_grow_with_use() {
        let mut wheel = Wheel::new();
        for round in 0..3 {
            let keys: Vec<_> = (0..100_000).map(|n| wheel.insert(n * 7919 % 600_000, n)).collect();
            assert_eq!((wheel.len, wheel.entries.len()), (100_000, 100_000), "round {round}");
            for (key, number) in keys.iter().zip(0..) {
                assert_eq!(wheel.cancel(*key), Some(number));
            }
            assert!(keys.iter().all(|key| wheel.cancel(*key).is_none()));
            assert!(wheel.len == 0 && wheel.next_tick().is_none());
        }
    }

    /// A stale key, or a number that never was a key, reaches no timer, not even after as many
    /// timers as there are generations.
    #[test]
    fn a_stale_key_reaches_no_timer() {
        let mut wheel = Wheel::new();
        let [min, max] = [NonZeroU32::MIN, NonZeroU32::MAX];
        assert_eq!(wheel.cancel(TimerKey { index: 0, generation: min }), None);
        let first = wheel.insert(1, 'a');
        assert_eq!(wheel.cancel(first), Some('a'));
        assert_eq!(
            wheel.cancel(TimerKey { generation: min.saturating_add(1), ..first }),
            None,
            "vacant"
        );
        wheel.entries[0].generation = max;
        let last = wheel.insert(1, 'b');
        assert_eq!((last.index, wheel.cancel(last)), (first.index, Some('b')));
        let next = wheel.insert(1, 'c');
        assert_ne!(next.index, first.index, "the entry has no generation left");
        assert_eq!((wheel.cancel(first), wheel.cancel(last)), (None, None));
        assert_eq!(wheel.cancel(TimerKey { index: u32::MAX, generation: max }), None);
        assert!(wheel.contains(next));
    }
}
