//! What a wheel must do, told by a sorted map: for the tests and for the fuzzer.
//!
//! Not in the library itself. It must stay so plain that it is right at a glance.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::{NEVER, TimerKey, Wheel};

/// What is done to a wheel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Arms, this much later than now.
    ArmLater(u64),
    /// Arms at this tick, be it in the past.
    ArmAt(u64),
    /// Cancels one of the keys there ever were: this one, counted round and round.
    Cancel(usize),
    /// Time goes on, and nobody asks.
    Advance(u64),
    /// Takes as many as that, at a time that lies this much in the past.
    Pop { count: usize, back: u64 },
}

/// Takes the steps with a new wheel and with the map.
///
/// # Panics
/// Where the two differ.
pub(crate) fn run(steps: impl IntoIterator<Item = Step>) {
    let (mut wheel, mut model, mut now_ms) = (Wheel::new(), Model::default(), 0_u64);
    for step in steps {
        match step {
            Step::ArmLater(span) => model.arm(&mut wheel, now_ms.saturating_add(span)),
            Step::ArmAt(deadline_ms) => model.arm(&mut wheel, deadline_ms),
            Step::Cancel(_) if model.keys.is_empty() => {}
            Step::Cancel(choice) => model.cancel(&mut wheel, choice % model.keys.len()),
            Step::Advance(span) => now_ms = now_ms.saturating_add(span),
            Step::Pop { count, back } => {
                let then_ms = now_ms.saturating_sub(back);
                (0..count).all(|_| model.pop(&mut wheel, then_ms));
            }
        }
        model.check(&wheel);
    }
    while model.pop(&mut wheel, u64::MAX) {}
    assert_eq!(wheel.next_tick(), None);
}

/// The rules in their plainest form: a sorted map of what is armed.
#[derive(Default)]
struct Model {
    armed: BTreeMap<(u64, usize), TimerKey>,
    /// Of all timers there ever were, by number.
    keys: Vec<(TimerKey, u64)>,
    told_ms: u64,
    /// Whether the latest time told has let out all that was due.
    is_drained: bool,
    len_max: usize,
}

impl Model {
    fn arm(&mut self, wheel: &mut Wheel<usize>, deadline_ms: u64) {
        let number = self.keys.len();
        let key = wheel.insert(deadline_ms, number);
        let due_ms = deadline_ms.max(self.told_ms + 1);
        assert!(self.keys.iter().all(|(other, _)| *other != key), "a key names one timer");
        self.keys.push((key, due_ms));
        self.armed.insert((due_ms, number), key);
        self.len_max = self.len_max.max(self.armed.len());
    }

    fn cancel(&mut self, wheel: &mut Wheel<usize>, number: usize) {
        let (key, due_ms) = self.keys[number];
        let expected = self.armed.remove(&(due_ms, number)).map(|_| number);
        assert_eq!(wheel.contains(key), expected.is_some());
        assert_eq!(wheel.cancel(key), expected);
    }

    /// Whether there was one.
    fn pop(&mut self, wheel: &mut Wheel<usize>, now_ms: u64) -> bool {
        let told_ms = now_ms.min(NEVER - 1);
        self.is_drained &= told_ms <= self.told_ms;
        self.told_ms = self.told_ms.max(told_ms);
        let first = self.armed.first_entry();
        let due = first.filter(|first| first.key().0 <= now_ms && first.key().0 != NEVER);
        let expected = due.map(|due| due.remove_entry());
        let expected = expected.map(|((due_ms, number), key)| (key, due_ms, number));
        assert_eq!(wheel.pop_expired(now_ms), expected);
        if expected.is_none() {
            assert!(wheel.next_tick().is_none_or(|tick| tick > now_ms), "nobody spins");
        }
        self.is_drained = expected.is_none() && (self.is_drained || now_ms >= self.told_ms);
        expected.is_some()
    }

    fn check(&self, wheel: &Wheel<usize>) {
        assert_eq!(wheel.len, self.armed.len());
        assert!(wheel.entries.len() <= self.len_max, "vacant entries are used first");
        if self.is_drained {
            let tick = wheel.next_tick();
            assert!(tick.is_none_or(|tick| tick > self.told_ms), "nor for what is armed since");
        }
        match (wheel.next_tick(), self.armed.keys().next()) {
            (tick, None) => assert_eq!(tick, None),
            (_, Some((NEVER, _))) => {}
            (tick, Some((due_ms, _))) => {
                assert!(tick.is_some_and(|tick| tick <= *due_ms), "nobody oversleeps");
            }
        }
    }
}
