//! Handles that were refused for want of room for all, and are told when there is some: first
//! come, first told.
//!
//! Who is closed meanwhile is left where it is, as it would be long to look for, until those are
//! more than the others.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    numbers: VecDeque<i32>,
    /// How many of them do not wait any more.
    gone: usize,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Lets some come, of whom the last one is told first.
    pub(crate) fn push_reversed(&mut self, come: impl FnOnce(&mut dyn FnMut(i32))) {
        let known = self.numbers.len();
        come(&mut |number| self.numbers.push_back(number));
        self.numbers.make_contiguous()[known..].reverse();
    }

    /// The next one, of those that `takes` says wait still.
    pub(crate) fn pop(&mut self, mut takes: impl FnMut(i32) -> bool) -> Option<i32> {
        loop {
            let number = self.numbers.pop_front()?;
            if takes(number) {
                return Some(number);
            }
            self.gone = self.gone.saturating_sub(1);
        }
    }

    /// One of them does not wait any more.
    pub(crate) fn leave(&mut self, mut waits: impl FnMut(i32) -> bool) {
        self.gone += 1;
        if self.gone * 2 > self.numbers.len() {
            self.numbers.retain(|number| waits(*number));
            self.gone = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Those that come together are told in the order in which they were refused, after all others.
    #[test]
    fn the_first_to_come_is_told_first() {
        let mut waiting = Waiting::default();
        waiting.push_reversed(|push| [2, 1].into_iter().for_each(push));
        waiting.push_reversed(|push| [4, 3].into_iter().for_each(push));
        let told: Vec<i32> = std::iter::from_fn(|| waiting.pop(|_| true)).collect();
        assert_eq!(told, [1, 2, 3, 4]);
    }

    /// Who is gone is neither told nor kept for long, however many come and go.
    #[test]
    fn those_that_are_gone_are_forgotten() {
        let mut waiting = Waiting::default();
        let mut live: HashSet<i32> = HashSet::new();
        for number in 0..10_000 {
            waiting.push_reversed(|push| push(number));
            live.insert(number);
            if number >= 5 {
                live.remove(&number);
                waiting.leave(|number| live.contains(&number));
            }
            assert!(waiting.numbers.len() <= 11);
        }
        let told: Vec<i32> = std::iter::from_fn(|| waiting.pop(|one| live.remove(&one))).collect();
        assert_eq!(told, [0, 1, 2, 3, 4]);
        assert!(waiting.is_empty() && waiting.gone == 0);
        waiting.push_reversed(|push| push(1));
        waiting.leave(|_| false);
        assert!(waiting.is_empty(), "nobody is kept for nobody");
    }
}
