//! Timers by their callback and data, as netlib knows them.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use uring_netlib::TimerId;

/// Names a timer: the addresses of its callback and of its data.
pub(crate) type Key = (usize, usize);

/// What the runtime knows a timer by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beat {
    /// Every so many milliseconds, by a timer of the runtime.
    Timer(TimerId),
    /// Once a turn, in the order of these numbers.
    Turn(u64),
}

/// Timers: found by key when they are registered, and by place when they are due.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    places: Vec<Option<(Key, Beat)>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    /// Those that are due once a turn.
    of_turn: BTreeMap<u64, Key>,
    turns_given: u64,
}

impl Timers {
    /// The place of a timer, and its beat if there was one of that key already.
    pub(crate) fn place_of(&mut self, key: Key) -> (usize, Option<Beat>) {
        if let Some(place) = self.by_key.get(&key) {
            return (*place, self.places[*place].map(|(_, beat)| beat));
        }
        let place = self.free.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(None);
        }
        self.by_key.insert(key, place);
        (place, None)
    }

    pub(crate) fn set(&mut self, place: usize, key: Key, beat: Beat) {
        if let Beat::Turn(number) = beat {
            self.of_turn.insert(number, key);
        }
        if let Some((_, Beat::Turn(former))) = self.places[place].replace((key, beat)) {
            self.of_turn.remove(&former);
        }
    }

    /// A beat of once a turn, after all others of that kind.
    pub(crate) fn next_turn(&mut self) -> Beat {
        self.turns_given += 1;
        Beat::Turn(self.turns_given)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Beat> {
        let place = self.by_key.remove(&key)?;
        self.free.push(place);
        let (_, beat) = self.places[place].take()?;
        if let Beat::Turn(number) = beat {
            self.of_turn.remove(&number);
        }
        Some(beat)
    }

    pub(crate) fn key_at(&self, place: u64) -> Option<Key> {
        let place = self.places.get(usize::try_from(place).ok()?)?;
        place.map(|(key, _)| key)
    }

    pub(crate) fn has_turns(&self) -> bool {
        !self.of_turn.is_empty()
    }

    /// The first timer of once a turn whose number is above `last` and at most `newest`.
    pub(crate) fn next_of_turn(&self, last: u64, newest: u64) -> Option<(u64, Key)> {
        let next = self.of_turn.range(last + 1..).next();
        next.filter(|(number, _)| **number <= newest).map(|(number, key)| (*number, *key))
    }

    pub(crate) fn newest_turn(&self) -> u64 {
        self.turns_given
    }
}
