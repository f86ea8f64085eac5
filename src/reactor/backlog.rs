//! Outbound bytes of one socket, waiting for their turn.
//!
//! Knows nothing of sockets: bytes go in through [`Backlog::admit`] and then [`Backlog::pending`]
//! or [`Backlog::push`], leave with [`Backlog::take`], and the caller decides when. Holds at most
//! `limits.max` bytes, those in flight included and shared bodies counted in full; beyond that it
//! refuses whole messages, never halves of them.

#![forbid(unsafe_code)]

use super::spare::Spare;
use crate::driver::Outgoing;
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
    pub(crate) const fn own_queued(&self) -> usize {
        self.pending.kept_len() + self.flying_own
    }

    /// Whether `len` more bytes may be queued.
    #[inline]
    pub(crate) fn admit(&mut self, len: usize) -> Result<(), SendError> {
        let (queued, limit) = (self.queued(), self.limits.max as usize);
        if len <= limit.saturating_sub(queued) {
            return Ok(());
        }
        if len > limit {
            return Err(SendError::TooLong { len, max: limit });
        }
        self.owes_event = true;
        Err(SendError::Full { queued, len, limit })
    }

    /// Where `len` admitted bytes are written to.
    #[inline]
    pub(crate) fn pending(&mut self, len: usize, spare: &mut Spare) -> &mut Vec<u8> {
        let own = self.pending.own_mut(|| spare.take_load());
        if own.capacity() - own.len() < len {
            make_room(own, len, spare);
        }
        own
    }

    /// Queues a shared body, which was admitted, behind what is pending.
    pub(crate) fn push(&mut self, queued: Queued, spare: &mut Spare) {
        self.pending.push(queued, || spare.take_load());
    }

    /// What to tell whoever queued something.
    pub(crate) fn status(&mut self) -> SendStatus {
        if self.queued() <= self.limits.high as usize {
            return SendStatus::Queued;
        }
        self.owes_event = true;
        SendStatus::AboveHighMark
    }

    /// All pending bytes, to be sent at once; they are in flight until [`land`](Self::land). `None`
    /// while others are in flight (I5), or when there are none.
    pub(crate) fn take(&mut self) -> Option<Outgoing> {
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
    use crate::driver::Stock;

    fn push(backlog: &mut Backlog, len: usize) -> Result<SendStatus, SendError> {
        backlog.admit(len)?;
        let pending = backlog.pending(len, &mut Spare::new(Stock::default()));
        pending.resize(pending.len() + len, 0);
        Ok(backlog.status())
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
        assert_eq!(backlog.take().map(|bytes| bytes.len()), Some(40));
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
        backlog.take();
        backlog.land();
        assert!(!backlog.take_event(), "nobody was told to wait");
        assert_eq!(push(&mut backlog, 21), Ok(SendStatus::AboveHighMark));
        backlog.take();
        assert!(!backlog.take_event(), "21 bytes are in flight");
        push(&mut backlog, 10).unwrap();
        backlog.land();
        assert!(backlog.take_event(), "10 bytes are pending");
        assert!(!backlog.take_event(), "told once");
        push(&mut backlog, 31).unwrap_err();
        assert!(backlog.take_event(), "a refusal is told as well");
    }

    /// Only one lot of bytes is in flight at a time.
    #[test]
    fn one_lot_flies_at_a_time() {
        let mut backlog = small();
        push(&mut backlog, 5).unwrap();
        assert!(backlog.take().is_some());
        push(&mut backlog, 5).unwrap();
        assert!(backlog.take().is_none());
        backlog.land();
        assert!(backlog.take().is_some() && !backlog.has_pending());
    }
}
