//! What one send carries: a socket's own bytes in one vector, and bodies that it shares with
//! others in between.
//!
//! The backlog fills an [`Outgoing`], a driver sends it by way of a [`Flight`], and the reactor
//! takes it apart for its memory. Without shared bodies it is a plain vector and costs no more.

#![forbid(unsafe_code)]

use std::{iter, mem};

use crate::shared::Queued;

#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) own: Vec<u8>,
    /// In the order in which they go, so by position as well.
    parts: Vec<Part>,
    shared_len: usize,
}

/// A shared body among the own bytes.
#[derive(Debug)]
pub(crate) struct Part {
    /// How many of the own bytes go before it.
    position: usize,
    queued: Queued,
}

impl Outgoing {
    pub(crate) const fn new() -> Self {
        Self { own: Vec::new(), parts: Vec::new(), shared_len: 0 }
    }

    /// Appends a shared body; `list` gives the memory of the list of them when there is none yet.
    pub(crate) fn push(&mut self, queued: Queued, list: impl FnOnce() -> Vec<Part>) {
        if self.parts.capacity() == 0 {
            self.parts = list();
        }
        self.shared_len += queued.bytes().len();
        self.parts.push(Part { position: self.own.len(), queued });
    }

    pub(crate) const fn len(&self) -> usize {
        self.own.len() + self.shared_len
    }

    /// Memory that is kept for it alone: its own bytes, and the places of the shared bodies.
    pub(crate) const fn kept_len(&self) -> usize {
        self.own.len() + self.parts.len() * PLACE_LEN
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes it apart: the own bytes, each shared body, and the memory of the list of them.
    pub(crate) fn dismantle(mut self, each: impl FnMut(Queued)) -> (Vec<u8>, Vec<Part>) {
        self.parts.drain(..).map(|part| part.queued).for_each(each);
        (self.own, self.parts)
    }

    /// Own bytes and shared bodies by turns, some of them empty; an empty one behind the last.
    fn piece(&self, index: usize) -> &[u8] {
        let part = index / 2;
        if index % 2 == 1 {
            return self.parts.get(part).map_or(&[], |part| part.queued.bytes());
        }
        let position = |part: usize| self.parts.get(part).map_or(self.own.len(), |p| p.position);
        let start = part.checked_sub(1).map_or(0, position);
        &self.own[start..position(part)]
    }

    const fn pieces(&self) -> usize {
        2 * self.parts.len() + 1
    }
}

/// What a place of a shared body costs: an entry in the list, which doubles, and in a gather.
pub(crate) const PLACE_LEN: usize = 64;

impl From<Vec<u8>> for Outgoing {
    fn from(own: Vec<u8>) -> Self {
        Self { own, ..Self::new() }
    }
}

/// An [`Outgoing`] on its way, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    outgoing: Outgoing,
    /// The piece that is next, and how many of its bytes have left.
    piece: usize,
    offset: usize,
}

impl Flight {
    pub(crate) const fn new(outgoing: Outgoing) -> Self {
        Self { outgoing, piece: 0, offset: 0 }
    }

    /// What has not left yet, none of it empty.
    pub(crate) fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let pieces = self.piece + 1..self.outgoing.pieces();
        iter::once(&self.outgoing.piece(self.piece)[self.offset..])
            .chain(pieces.map(|piece| self.outgoing.piece(piece)))
            .filter(|piece| !piece.is_empty())
    }

    /// What has not left yet, if it is one piece.
    pub(crate) fn only_piece(&self) -> Option<&[u8]> {
        let mut rest = self.rest();
        rest.next().filter(|_| rest.next().is_none())
    }

    /// So many bytes more have left.
    pub(crate) fn advance(&mut self, mut len: usize) {
        while len > 0 {
            let left = self.outgoing.piece(self.piece).len() - self.offset;
            assert!(
                left > 0 || self.piece < self.outgoing.pieces(),
                "no more leaves than there is"
            );
            if len < left {
                self.offset += len;
                return;
            }
            len -= left;
            self.piece += 1;
            self.offset = 0;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rest().next().is_none()
    }

    /// What it carried, sent or not; nothing flies after that.
    pub(crate) fn land(&mut self) -> Outgoing {
        mem::take(self).outgoing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{Ledger, Shared};

    fn mixed() -> (Outgoing, Vec<u8>) {
        let ledger = Ledger::new();
        let mut outgoing = Outgoing::new();
        let share = |outgoing: &mut Outgoing, bytes: &'static [u8]| {
            let shared = Shared::from(bytes.to_vec());
            outgoing.push(Queued::new(&shared, ledger), Vec::new);
        };
        share(&mut outgoing, b"one ");
        outgoing.own.extend_from_slice(b"two ");
        share(&mut outgoing, b"three ");
        share(&mut outgoing, b"four ");
        outgoing.own.extend_from_slice(b"five");
        (outgoing, b"one two three four five".to_vec())
    }

    /// Own and shared bytes leave in the order in which they came, cut at whatever bytes.
    #[test]
    fn pieces_leave_in_order_from_any_byte() {
        let (outgoing, expected) = mixed();
        assert_eq!(outgoing.len(), expected.len());
        for step in 1..=expected.len() {
            let mut flight = Flight::new(mixed().0);
            for start in (0..expected.len()).step_by(step) {
                assert_eq!(flight.rest().collect::<Vec<_>>().concat(), expected[start..]);
                assert!(!flight.is_over());
                flight.advance(step.min(expected.len() - start));
            }
            assert!(flight.is_over());
            assert_eq!(flight.land().len(), expected.len());
        }
    }

    /// Without shared bodies there is one piece, and no list.
    #[test]
    fn own_bytes_are_one_piece() {
        let flight = Flight::new(Outgoing::from(vec![7; 10]));
        assert_eq!(flight.rest().collect::<Vec<_>>(), [[7; 10]]);
        assert_eq!(flight.outgoing.parts.capacity(), 0);
        assert!(Flight::default().is_over());
    }

    /// Taken apart, an outgoing gives every body once, and its memory.
    #[test]
    fn what_was_sent_gives_its_memory_back() {
        let (outgoing, _) = mixed();
        let mut bodies = 0;
        let (own, list) = outgoing.dismantle(|_| bodies += 1);
        assert_eq!((bodies, &own[..], list.len()), (3, &b"two five"[..], 0));
        assert!(list.capacity() >= 3);
    }
}
