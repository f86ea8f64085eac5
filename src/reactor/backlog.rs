//! Outbound bytes of one socket, waiting for their turn.
//!
//! Knows nothing of sockets: bytes go in through [`Backlog::admit`] and then [`Backlog::pending`],
//! [`Backlog::push`] or [`Backlog::lend`], leave with [`Backlog::take`], and the caller decides
//! when. Holds at most `limits.max` bytes, those in flight included and shared and lent ones
//! counted in full; beyond that it refuses whole messages, never halves of them.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::spare::Spare;
use crate::driver::{Lender, Loan, Outgoing};
use crate::error::SendError;
use crate::options::BacklogLimits;
use crate::shared::Queued;

/// What became of bytes that were queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// They will be sent; there is room for more.
    Queued,
    /// They will be sent, but the pending bytes are above the high mark: send no more until
    /// [`Event::Write`](crate::Event::Write).
    AboveHighMark,
}

#[derive(Debug)]
pub(crate) struct Backlog {
    pending: Outgoing,
    flying: usize,
    /// What is kept of the flying for this socket alone.
    flying_own: usize,
    limits: BacklogLimits,
    /// The user was told to wait, so the way back below the low mark is an event.
    owes_event: bool,
}

impl Backlog {
    pub(crate) const fn new(limits: BacklogLimits) -> Self {
        Self { pending: Outgoing::new(), flying: 0, flying_own: 0, limits, owes_event: false }
    }

    pub(crate) fn set_limits(&mut self, limits: BacklogLimits) {
        self.limits = limits;
    }

    pub(crate) const fn limits(&self) -> BacklogLimits {
        self.limits
    }

    /// Bytes that are pending or in flight.
    pub(crate) const fn queued(&self) -> usize {
        self.pending.len() + self.flying
    }

    /// What is kept of the queued bytes for this socket alone.
    #[inline]
    pub(crate) fn own_queued(&self) -> usize {
        self.pending.kept_len() + self.flying_own
    }

    /// How many bytes are queued with `len` more, if they may be.
    #[inline]
    pub(crate) fn admit(&mut self, len: usize) -> Result<usize, SendError> {
        let (queued, limit) = (self.queued(), self.limits.max as usize);
        if len <= limit.saturating_sub(queued) { Ok(queued + len) } else { Err(self.refuse(len)) }
    }

    #[cold]
    fn refuse(&mut self, len: usize) -> SendError {
        let (queued, limit) = (self.queued(), self.limits.max as usize);
        if len > limit {
            return SendError::TooLong { len, max: limit };
        }
        self.owes_event = true;
        SendError::Full { queued, len, limit }
    }

    /// Where `len` admitted bytes are written to.
    #[inline]
    pub(crate) fn pending(&mut self, len: usize, spare: &mut Spare) -> &mut Vec<u8> {
        if self.pending.is_growing() {
            self.settle(spare);
        }
        self.own(len, spare)
    }

    #[inline]
    fn own(&mut self, len: usize, spare: &mut Spare) -> &mut Vec<u8> {
        let own = self.pending.own_mut(|| spare.take_load());
        if own.capacity() - own.len() < len {
            make_room(own, len, spare);
        }
        own
    }

    /// Queues a shared body, which was admitted, behind what is pending.
    pub(crate) fn push(&mut self, queued: Queued, spare: &mut Spare) {
        self.settle(spare);
        self.pending.push(queued, || spare.take_load());
    }

    /// Queues received bytes, which were admitted, where they are; or a copy of them where too many
    /// buffers are kept already. How many were copied.
    #[inline]
    pub(crate) fn lend(&mut self, lender: &Lender, range: Range<u32>, spare: &mut Spare) -> usize {
        if self.pending.grow(lender, &range) { 0 } else { self.lend_anew(lender, range, spare) }
    }

    #[inline(never)]
    fn lend_anew(&mut self, lender: &Lender, range: Range<u32>, spare: &mut Spare) -> usize {
        self.settle(spare);
        if let Some(loan) = Loan::new(lender, range.clone()) {
            self.pending.lend(loan, || spare.take_load());
            return 0;
        }
        let bytes = &lender[range.start as usize..range.end as usize];
        self.own(bytes.len(), spare).extend_from_slice(bytes);
        bytes.len()
    }

    /// Whether some of what is pending is lent, which was not counted when it was queued.
    pub(crate) const fn has_loans(&self) -> bool {
        self.pending.has_loans()
    }

    /// Something else than what follows in a buffer comes next.
    #[inline(never)]
    fn settle(&mut self, spare: &mut Spare) {
        if let Some(little) = self.pending.settle() {
            self.own(little.len(), spare).extend_from_slice(little.bytes());
        }
    }

    /// What to tell whoever queued something, with which there are so many bytes.
    #[inline]
    pub(crate) fn status(&mut self, queued: usize) -> SendStatus {
        if queued <= self.limits.high as usize {
            return SendStatus::Queued;
        }
        self.owes_event = true;
        SendStatus::AboveHighMark
    }

    /// All pending bytes, to be sent at once; they are in flight until [`land`](Self::land). `None`
    /// while others are in flight (I5), or when there are none.
    #[inline]
    pub(crate) fn take(&mut self, spare: &mut Spare) -> Option<Outgoing> {
        // Also of what has to wait: a few bytes must not keep a buffer meanwhile.
        if self.pending.is_growing() {
            self.settle(spare);
        }
        if self.flying > 0 || self.pending.is_empty() {
            return None;
        }
        let outgoing = std::mem::take(&mut self.pending);
        self.flying = outgoing.len();
        self.flying_own = outgoing.kept_len();
        Some(outgoing)
    }

    /// The bytes in flight have arrived, or never will.
    pub(crate) fn land(&mut self) {
        self.flying = 0;
        self.flying_own = 0;
    }

    /// Gives the pending bytes up; they are not sent any more.
    pub(crate) fn clear(&mut self) -> Outgoing {
        std::mem::take(&mut self.pending)
    }

    pub(crate) const fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether an event is due; it is then taken as delivered.
    pub(crate) fn take_event(&mut self) -> bool {
        let is_due = self.owes_event && self.queued() <= self.limits.low as usize;
        if is_due {
            self.owes_event = false;
        }
        is_due
    }
}

/// Exchanges a buffer for one that `len` more bytes fit into, if there is a larger one.
// Apart from the pending bytes that have room, which would pay for its frame.
#[inline(never)]
fn make_room(own: &mut Vec<u8>, len: usize, spare: &mut Spare) {
    let mut roomier = spare.take(own.len() + len);
    if roomier.capacity() > own.capacity() {
        roomier.extend_from_slice(own);
        std::mem::swap(own, &mut roomier);
    }
    spare.give(roomier);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::outgoing::Flight;
    use crate::driver::pool::Pool;
    use crate::driver::{Chunk, PLACE_LEN, Stock};
    use crate::shared::{Ledger, Shared};

    fn push(backlog: &mut Backlog, len: usize) -> Result<SendStatus, SendError> {
        let queued = backlog.admit(len)?;
        let pending = backlog.pending(len, &mut Spare::new(Stock::default()));
        pending.resize(pending.len() + len, 0);
        assert_eq!(queued, backlog.queued());
        Ok(backlog.status(queued))
    }

    fn take(backlog: &mut Backlog) -> Option<Outgoing> {
        backlog.take(&mut Spare::new(Stock::default()))
    }

    fn pattern(range: Range<u32>) -> Vec<u8> {
        range.map(|at| (at % 251).to_le_bytes()[0]).collect()
    }

    fn small() -> Backlog {
        Backlog::new(BacklogLimits { low: 10, high: 20, max: 40 })
    }

    /// The cap counts pending and flying bytes, and refuses a message as a whole.
    #[test]
    fn nothing_passes_the_cap() {
        let mut backlog = small();
        assert_eq!(push(&mut backlog, 40), Ok(SendStatus::AboveHighMark));
        assert_eq!(push(&mut backlog, 1), Err(SendError::Full { queued: 40, len: 1, limit: 40 }));
        assert_eq!(take(&mut backlog).map(|bytes| bytes.len()), Some(40));
        assert_eq!(push(&mut backlog, 1), Err(SendError::Full { queued: 40, len: 1, limit: 40 }));
        backlog.land();
        let never = SendError::TooLong { len: usize::MAX, max: 40 };
        assert_eq!(push(&mut backlog, usize::MAX), Err(never));
        assert_eq!(push(&mut backlog, 20), Ok(SendStatus::Queued));
    }

    /// Below the low mark comes one event, after the high mark was passed or a send refused.
    #[test]
    fn the_low_mark_is_told_once() {
        let mut backlog = small();
        assert_eq!(push(&mut backlog, 20), Ok(SendStatus::Queued));
        take(&mut backlog);
        backlog.land();
        assert!(!backlog.take_event(), "nobody was told to wait");
        assert_eq!(push(&mut backlog, 21), Ok(SendStatus::AboveHighMark));
        take(&mut backlog);
        assert!(!backlog.take_event(), "21 bytes are in flight");
        push(&mut backlog, 10).unwrap();
        backlog.land();
        assert!(backlog.take_event(), "10 bytes are pending");
        assert!(!backlog.take_event(), "told once");
        push(&mut backlog, 31).unwrap_err();
        assert!(backlog.take_event(), "a refusal is told as well");
    }

    /// Lent bytes keep their place among the others, however many there are and whatever comes
    /// behind them; each is kept as its own bytes or costs a place.
    #[test]
    fn lent_bytes_keep_their_place() {
        let (pool, ledger) = (Pool::new(4, 1600).unwrap(), Ledger::new());
        let mut chunk = pool.take().unwrap();
        chunk.space().copy_from_slice(&pattern(0..1600));
        chunk.set_len(1600);
        let chunk = Lender::Chunk(chunk);
        let spare = &mut Spare::new(Stock::default());
        let mut backlog = Backlog::new(BacklogLimits { low: 1, high: 1 << 20, max: 1 << 20 });
        backlog.pending(1, spare).push(200);
        backlog.lend(&chunk, 0..200, spare);
        assert_eq!(backlog.own_queued(), 1 + PLACE_LEN);
        backlog.lend(&chunk, 200..400, spare);
        assert_eq!((backlog.own_queued(), backlog.queued()), (1 + PLACE_LEN, 401));
        backlog.lend(&chunk, 500..590, spare);
        assert_eq!(backlog.own_queued(), 1 + PLACE_LEN + 90, "too few to be lent");
        backlog.push(Queued::new(&Shared::from(vec![201; 9]), ledger), spare);
        assert_eq!(backlog.own_queued(), 1 + PLACE_LEN + 90 + PLACE_LEN);
        backlog.lend(&chunk, 600..1000, spare);
        backlog.pending(1, spare).push(202);
        backlog.lend(&chunk, 1000..1600, spare);
        drop(chunk);
        let outgoing = backlog.take(spare).unwrap();
        assert_eq!(
            backlog.own_queued(),
            1 + PLACE_LEN + 90 + PLACE_LEN + PLACE_LEN + 1 + PLACE_LEN
        );
        let own = [vec![200], vec![201; 9], vec![202]];
        let lent = [pattern(0..400), pattern(500..590), pattern(600..1000), pattern(1000..1600)];
        let expected = [&own[0], &lent[0], &lent[1], &own[1], &lent[2], &own[2], &lent[3]];
        let expected = expected.map(Vec::as_slice).concat();
        assert_eq!(outgoing.len(), expected.len());
        let flight = Flight::new(outgoing);
        assert_eq!(flight.rest().collect::<Vec<_>>().concat(), expected);
        assert_eq!((flight.rest().count(), pool.free_count()), (7, 3));
        drop(flight);
        assert_eq!(pool.free_count(), 4);
    }

    /// Bytes of half of the buffers are lent; beyond that they are copied.
    #[test]
    fn half_of_the_buffers_are_lent() {
        let pool = Pool::new(5, 160).unwrap();
        let spare = &mut Spare::new(Stock::default());
        let mut backlog = Backlog::new(BacklogLimits { low: 1, high: 1 << 20, max: 1 << 20 });
        let mut chunks: Vec<Chunk> = (0..5).map(|_| pool.take().unwrap()).collect();
        for (chunk, mark) in chunks.iter_mut().zip(1..) {
            chunk.space().fill(mark);
            chunk.set_len(160);
        }
        let lend = |chunk| backlog.lend(&Lender::Chunk(chunk), 0..160, spare);
        let copied: usize = chunks.into_iter().map(lend).sum();
        assert_eq!(copied, 3 * 160);
        assert_eq!(pool.free_count(), 3);
        assert_eq!(backlog.own_queued(), 2 * PLACE_LEN + 3 * 160);
        let flight = Flight::new(backlog.take(spare).unwrap());
        let expected = (1..6).flat_map(|mark| [mark; 160]).collect::<Vec<u8>>();
        assert_eq!(flight.rest().collect::<Vec<_>>().concat(), expected);
        drop(flight);
        assert!(pool.take().unwrap().keep().is_some(), "those that came back are lent again");
    }

    /// Only one lot of bytes is in flight at a time.
    #[test]
    fn one_lot_flies_at_a_time() {
        let mut backlog = small();
        push(&mut backlog, 5).unwrap();
        assert!(take(&mut backlog).is_some());
        push(&mut backlog, 5).unwrap();
        assert!(take(&mut backlog).is_none());
        backlog.land();
        assert!(take(&mut backlog).is_some() && !backlog.has_pending());
    }
}
