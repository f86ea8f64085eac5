//! Whom a listener lets in: how many, how many of one address, and how fast.
//!
//! Counts only. Who is counted is told when they come and when they have gone.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::meter::Bucket;
use crate::options::ListenOptions;

/// What one listener has let in.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: u32,
    connections_max: u32,
    by_block: BTreeMap<Block, u32>,
    per_address_max: u32,
    rate: Option<Bucket>,
}

/// Addresses that count as one: an IPv4 address, or the 64 bits of network of an IPv6 one, of
/// which a host has all the addresses it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Block {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl Block {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl Admission {
    pub(crate) fn new(options: &ListenOptions, now_ms: u64) -> Self {
        Self {
            connections: 0,
            connections_max: options.connections_max,
            by_block: BTreeMap::new(),
            per_address_max: options.connections_per_address_max,
            rate: options.accept_rate.map(|rate| Bucket::new(rate, now_ms)),
        }
    }

    /// Whether addresses have to be told.
    pub(crate) fn asks_for_addresses(&self) -> bool {
        self.per_address_max < u32::MAX
    }

    /// Whether connections are counted at all.
    pub(crate) fn counts(&self) -> bool {
        self.connections_max < u32::MAX || self.asks_for_addresses()
    }

    /// Whether one more may come in.
    pub(crate) fn has_room(&self, block: Option<Block>) -> bool {
        let of_block = block.and_then(|block| self.by_block.get(&block)).copied().unwrap_or(0);
        self.connections < self.connections_max && of_block < self.per_address_max
    }

    pub(crate) fn enter(&mut self, block: Option<Block>) {
        self.connections += 1;
        if let Some(block) = block {
            *self.by_block.entry(block).or_insert(0) += 1;
        }
    }

    pub(crate) fn leave(&mut self, block: Option<Block>) {
        self.connections -= 1;
        let Some(block) = block else { return };
        match self.by_block.get_mut(&block) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_block.remove(&block)),
        }
    }

    /// One more has knocked. Until when nobody else shall, if they come too fast.
    pub(crate) fn knock(&mut self, now_ms: u64) -> Option<u64> {
        let bucket = self.rate.as_mut()?;
        bucket.fill(now_ms);
        bucket.take(1).then(|| bucket.half_full_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Rate;

    fn block(text: &str) -> Option<Block> {
        Some(Block::of(text.parse().unwrap()))
    }

    /// Each address has its own count, and all together have one.
    #[test]
    fn addresses_are_counted_apart_and_together() {
        let options = ListenOptions::new().connections_max(3).connections_per_address_max(2);
        let mut admission = Admission::new(&options, 0);
        let (one, other) = (block("192.0.2.1"), block("192.0.2.2"));
        for _ in 0..2 {
            assert!(admission.has_room(one));
            admission.enter(one);
        }
        assert!(!admission.has_room(one) && admission.has_room(other));
        admission.enter(other);
        assert!(!admission.has_room(other) && !admission.has_room(None), "three in all");
        admission.leave(one);
        assert!(admission.has_room(one) && admission.has_room(other));
        admission.leave(one);
        admission.leave(other);
        assert!(admission.by_block.is_empty() && admission.connections == 0, "nothing is left");
    }

    /// A host cannot be many by its IPv6 addresses, nor by writing its IPv4 address as one.
    #[test]
    fn an_ipv6_network_counts_as_one() {
        assert_eq!(block("2001:db8::1"), block("2001:db8::ffff:1:2:3"));
        assert_ne!(block("2001:db8::1"), block("2001:db8:0:1::1"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
    }

    /// Who comes too fast waits until half of the burst is there again.
    #[test]
    fn a_rate_makes_them_wait() {
        let rate = Rate::per_second(10).burst(4);
        let mut admission = Admission::new(&ListenOptions::new().accept_rate(rate), 0);
        assert!((0..4).all(|_| admission.knock(0).is_none()));
        assert_eq!(admission.knock(0), Some(300), "one of debt and two of burst");
        assert_eq!(admission.knock(300), None);
    }
}
