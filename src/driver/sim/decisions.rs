//! Everything that a simulated network leaves to chance, drawn from a seed or from given bytes.
//!
//! Bytes are for a fuzzer: each decision takes as few of them as it needs, so that a changed byte
//! changes one decision, and a zero lets happen whatever has a chance at all. Once they are used
//! up a generator with a seed of its own goes on, so that whatever waits for luck has it at last.

#![forbid(unsafe_code)]

use fastrand::Rng;

#[derive(Debug)]
pub(crate) struct Decisions {
    random: Rng,
    bytes: Vec<u8>,
    /// How many of the bytes are used up.
    used: usize,
}

impl Decisions {
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), bytes: Vec::new(), used: 0 }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self { random: Rng::with_seed(AFTERWARDS), bytes: bytes.to_vec(), used: 0 }
    }

    /// A number below `end`, which is above zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "a number below zero is asked for");
        if self.used == self.bytes.len() {
            return self.random.u64(0..end);
        }
        self.take((end - 1).checked_ilog2().map_or(0, |bits| bits / 8 + 1)) % end
    }

    /// An index below `end`, which is above zero.
    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("it is below a usize")
    }

    /// A number from one to the other, both included.
    pub(crate) fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.below((max - min).saturating_add(1))
    }

    /// Whether something happens that has a chance of so many ten-thousandths.
    pub(crate) fn chance(&mut self, chance: u32) -> bool {
        if chance == 0 {
            return false;
        }
        if self.used == self.bytes.len() {
            return self.random.u32(0..CERTAIN) < chance;
        }
        self.take(1) * u64::from(CERTAIN) < u64::from(chance) * 256
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.chance(CERTAIN / 2)
    }

    /// One of several, of which there is at least one.
    pub(crate) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(self.index(last + 1), last);
        }
    }

    /// A seed for a generator of somebody's own.
    pub(crate) fn seed(&mut self) -> u64 {
        if self.used == self.bytes.len() { self.random.u64(..) } else { self.take(8) }
    }

    /// A number of so many bytes; where they end it is a shorter one.
    fn take(&mut self, count: u32) -> u64 {
        let end = self.bytes.len().min(self.used + count as usize);
        let taken = &self.bytes[self.used..end];
        self.used = end;
        taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// A chance of all.
const CERTAIN: u32 = 10_000;

/// The seed of what is decided when the bytes are used up.
const AFTERWARDS: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// A decision takes as many bytes as its range needs, and none where there is no choice.
    #[test]
    fn a_decision_takes_as_few_bytes_as_it_needs() {
        let mut decisions = Decisions::from_bytes(&[7, 1, 2, 255, 3]);
        assert_eq!(decisions.below(1), 0);
        assert_eq!(decisions.below(256), 7);
        assert_eq!(decisions.below(257), 0x0102 % 257);
        assert!(!decisions.chance(0) && decisions.chance(CERTAIN));
        assert_eq!((decisions.below(10), decisions.used), (3, 5));
    }

    /// A zero lets happen what has any chance, and the greatest byte only what is certain.
    #[test]
    fn a_byte_decides_a_chance() {
        let mut decisions = Decisions::from_bytes(&[0, 255, 127, 128]);
        assert!(decisions.chance(1));
        assert!(!decisions.chance(CERTAIN - 40));
        assert!(decisions.coin() && !decisions.coin());
    }

    /// Bytes that are used up are followed by the same numbers each time, within their range.
    #[test]
    fn bytes_that_are_used_up_are_followed_by_numbers() {
        let numbers = |bytes: &[u8]| {
            let mut decisions = Decisions::from_bytes(bytes);
            decisions.below(1 << bytes.len());
            (0..100).map(|_| decisions.between(3, 9)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[]), numbers(&[]));
        assert!((3..=9).all(|number| numbers(&[1]).contains(&number)));
        assert_eq!(numbers(&[1]), numbers(&[2]));
    }

    /// Every order of a list comes about.
    #[test]
    fn a_shuffle_reaches_every_order() {
        let mut decisions = Decisions::from_seed(1);
        let orders: std::collections::BTreeSet<[u8; 4]> = (0..1000)
            .map(|_| {
                let mut list = [1, 2, 3, 4];
                decisions.shuffle(&mut list);
                list
            })
            .collect();
        assert_eq!(orders.len(), 24);
    }
}
