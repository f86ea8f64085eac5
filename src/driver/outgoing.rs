//! What one send carries: a socket's own bytes in one vector, and in between bodies that it shares
//! with others, and received bytes that stay where they are.
//!
//! The backlog fills an [`Outgoing`], a driver sends it by way of a [`Flight`], and the reactor
//! takes it apart for its memory. It is one pointer, and none where there are no bytes, so that a
//! socket that is idle has no more of it than that; what it points at goes round.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::{iter, mem};

use super::{Lender, Loan};
use crate::shared::Queued;

#[derive(Debug, Default)]
pub(crate) struct Outgoing(Option<Box<Load>>);

/// The bytes of an [`Outgoing`], and how far they are on their way.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) own: Vec<u8>,
    /// In the order in which they go, so by position as well.
    parts: Vec<Part>,
    /// Of all parts.
    parts_len: usize,
    /// Goes behind everything else, and takes in what follows it where it is. Once something else
    /// comes behind it, it is a part, or own bytes.
    growing: Option<Loan>,
    /// Whether there was one.
    has_loans: bool,
    /// The piece that is next, and how many of its bytes have left.
    piece: usize,
    offset: usize,
}

/// Bytes that are somewhere else, among the own ones.
#[derive(Debug)]
struct Part {
    /// How many of the own bytes go before it.
    position: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Shared(Queued),
    Lent(Loan),
}

impl Body {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(queued) => queued.bytes(),
            Self::Lent(loan) => loan.bytes(),
        }
    }
}

impl Outgoing {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// The own bytes, to be appended to; `load` gives memory for what there is none for yet.
    pub(crate) fn own_mut(&mut self, load: impl FnOnce() -> Box<Load>) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_with(load).own
    }

    /// Appends a shared body; `load` gives memory for what there is none for yet.
    pub(crate) fn push(&mut self, queued: Queued, load: impl FnOnce() -> Box<Load>) {
        self.0.get_or_insert_with(load).push(Body::Shared(queued));
    }

    /// Whether the last of its bytes are lent, and may become more.
    pub(crate) const fn is_growing(&self) -> bool {
        matches!(&self.0, Some(load) if load.growing.is_some())
    }

    /// Whether some of its bytes are lent, or were.
    pub(crate) const fn has_loans(&self) -> bool {
        matches!(&self.0, Some(load) if load.has_loans)
    }

    /// Takes in bytes of a lender if they follow those that were lent last. Whether they do.
    #[inline]
    pub(crate) fn grow(&mut self, lender: &Lender, range: &Range<u32>) -> bool {
        let growing = self.0.as_mut().and_then(|load| load.growing.as_mut());
        growing.is_some_and(|loan| loan.grow(lender, range))
    }

    /// Appends bytes that are lent, and takes in what follows them from now on.
    pub(crate) fn lend(&mut self, loan: Loan, load: impl FnOnce() -> Box<Load>) {
        let load = self.0.get_or_insert_with(load);
        debug_assert!(load.growing.is_none(), "only the last loan grows");
        load.growing = Some(loan);
        load.has_loans = true;
    }

    /// Something else comes next. What was lent last is returned if it is so little that a copy is
    /// cheaper; it is then not among the bytes any more.
    pub(crate) fn settle(&mut self) -> Option<Loan> {
        let load = self.0.as_mut()?;
        let loan = load.growing.take()?;
        if loan.is_little() {
            return Some(loan);
        }
        load.push(Body::Lent(loan));
        None
    }

    #[inline]
    pub(crate) const fn len(&self) -> usize {
        match &self.0 {
            Some(load) => load.own.len() + load.parts_len + load.growing_len(),
            None => 0,
        }
    }

    /// Memory that is kept for it alone: its own bytes, and the places of the others.
    #[inline]
    pub(crate) fn kept_len(&self) -> usize {
        match &self.0 {
            Some(load) => {
                let growing = match &load.growing {
                    Some(loan) if loan.is_little() => loan.len(),
                    Some(_) => PLACE_LEN,
                    None => 0,
                };
                load.own.len() + load.parts.len() * PLACE_LEN + growing
            }
            None => 0,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes it apart: each shared body, and the memory of all else, if it has any. What was lent
    /// is given back.
    pub(crate) fn dismantle(self, mut each: impl FnMut(Queued)) -> Option<Box<Load>> {
        let mut load = self.0?;
        if !load.parts.is_empty() {
            for part in load.parts.drain(..) {
                if let Body::Shared(queued) = part.body {
                    each(queued);
                }
            }
            load.parts_len = 0;
        }
        load.growing = None;
        load.has_loans = false;
        load.own.clear();
        Some(load)
    }
}

impl Load {
    #[inline]
    fn push(&mut self, body: Body) {
        self.parts_len += body.bytes().len();
        self.parts.push(Part { position: self.own.len(), body });
    }

    const fn growing_len(&self) -> usize {
        match &self.growing {
            Some(loan) => loan.len(),
            None => 0,
        }
    }

    /// Its memory: its own, of own bytes, and of the list of parts.
    pub(crate) const fn memory(&self) -> usize {
        size_of::<Self>() + self.own.capacity() + self.parts.capacity() * size_of::<Part>()
    }

    /// Whether it has own bytes only, as most have.
    const fn is_plain(&self) -> bool {
        self.parts.is_empty()
    }

    /// Own bytes and parts by turns, some of them empty; an empty one behind the last.
    fn piece(&self, index: usize) -> &[u8] {
        let part = index / 2;
        if index % 2 == 1 {
            return self.parts.get(part).map_or(&[], |part| part.body.bytes());
        }
        let position = |part: usize| self.parts.get(part).map_or(self.own.len(), |p| p.position);
        let start = part.checked_sub(1).map_or(0, position);
        &self.own[start..position(part)]
    }

    const fn pieces(&self) -> usize {
        2 * self.parts.len() + 1
    }

    fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let pieces = self.piece + 1..self.pieces();
        iter::once(&self.piece(self.piece)[self.offset..])
            .chain(pieces.map(|piece| self.piece(piece)))
            .filter(|piece| !piece.is_empty())
    }
}

/// What a place of a part costs: an entry in the list, which doubles, and in a gather.
pub(crate) const PLACE_LEN: usize = 2 * size_of::<Part>() + 16;

impl From<Vec<u8>> for Outgoing {
    fn from(own: Vec<u8>) -> Self {
        Self(Some(Box::new(Load { own, ..Load::default() })))
    }
}

/// An [`Outgoing`] on its way.
#[derive(Debug, Default)]
pub(crate) struct Flight(Outgoing);

impl Flight {
    /// Of what is settled.
    pub(crate) fn new(mut outgoing: Outgoing) -> Self {
        debug_assert!(!outgoing.is_growing(), "nothing comes behind what flies");
        if let Some(load) = &mut outgoing.0 {
            (load.piece, load.offset) = (0, 0);
        }
        Self(outgoing)
    }

    /// What has not left yet, none of it empty.
    pub(crate) fn rest(&self) -> impl Iterator<Item = &[u8]> {
        self.0.0.iter().flat_map(|load| load.rest())
    }

    /// What has not left yet, if it is one piece.
    pub(crate) fn only_piece(&self) -> Option<&[u8]> {
        let load = self.0.0.as_ref()?;
        if load.is_plain() {
            return load.own.get(load.offset..).filter(|rest| !rest.is_empty());
        }
        let mut rest = load.rest();
        rest.next().filter(|_| rest.next().is_none())
    }

    /// So many bytes more have left.
    pub(crate) fn advance(&mut self, mut len: usize) {
        let Some(load) = &mut self.0.0 else { return };
        if load.is_plain() {
            load.offset += len;
            assert!(load.offset <= load.own.len(), "no more leaves than there is");
            return;
        }
        while len > 0 {
            let left = load.piece(load.piece).len() - load.offset;
            assert!(left > 0 || load.piece < load.pieces(), "no more leaves than there is");
            if len < left {
                load.offset += len;
                return;
            }
            len -= left;
            load.piece += 1;
            load.offset = 0;
        }
    }

    /// So many bytes more have left: lands, if these are the last and it has own bytes only, as
    /// most have; otherwise nothing is changed.
    #[inline]
    pub(crate) fn land_if_last(&mut self, len: usize) -> Option<Outgoing> {
        let load = self.0.0.as_ref()?;
        (load.is_plain() && load.own.len() - load.offset == len).then(|| self.land())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.0.as_ref().is_none_or(|load| match load.is_plain() {
            true => load.offset == load.own.len(),
            false => load.rest().next().is_none(),
        })
    }

    /// What it carried, sent or not; nothing flies after that.
    pub(crate) fn land(&mut self) -> Outgoing {
        mem::take(&mut self.0)
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
            outgoing.push(Queued::new(&shared, ledger), Box::default);
        };
        share(&mut outgoing, b"one ");
        outgoing.own_mut(Box::default).extend_from_slice(b"two ");
        share(&mut outgoing, b"three ");
        share(&mut outgoing, b"four ");
        outgoing.own_mut(Box::default).extend_from_slice(b"five");
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
        assert_eq!(flight.0.0.unwrap().parts.capacity(), 0);
        assert!(Flight::default().is_over());
    }

    /// What is sent again starts with its first byte.
    #[test]
    fn a_flight_starts_with_the_first_byte() {
        let (outgoing, expected) = mixed();
        let mut flight = Flight::new(outgoing);
        flight.advance(7);
        let flight = Flight::new(flight.land());
        assert_eq!(flight.rest().collect::<Vec<_>>().concat(), expected);
    }

    /// Taken apart, an outgoing gives every body once, and its memory.
    #[test]
    fn what_was_sent_gives_its_memory_back() {
        let (outgoing, _) = mixed();
        let mut bodies = 0;
        let load = outgoing.dismantle(|_| bodies += 1).unwrap();
        assert_eq!((bodies, load.parts.len()), (3, 0));
        assert!(load.parts.capacity() >= 3 && load.own.capacity() >= 8);
        assert!(Outgoing(Some(load)).is_empty());
    }
}
