//! Requests that wait for their replies: the calls of one connection.
//!
//! Knows numbers, ids and handlers; sends nothing and reads no clock. Who tells the handlers is
//! `netlib/calls.rs`.

#![forbid(unsafe_code)]

use std::{error, fmt, mem};

use super::{Connection, Context};
use crate::error::SendError;
use crate::event::CloseReason;
use crate::pdu::{Header, Pdu};
use crate::reactor::TimerKey;

/// A kind of request, and how its reply is known.
///
/// A reply has the request's service id and sequence number, and the command id that is named
/// here. So a request or a notification of the peer's own that happens to carry the same number
/// is not taken for the reply.
///
/// ```
/// use uring_netlib::conn::Call;
/// use uring_netlib::pdu::Header;
///
/// const LOGIN: Call = Call::new(Header::new(1, 0x0103), 0x0104);
/// # let _ = LOGIN;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub(crate) header: Header,
    pub(crate) reply_command_id: u16,
}

impl Call {
    /// A request with this header, whose sequence number the library picks, and the command id of
    /// the reply.
    #[must_use]
    pub const fn new(header: Header, reply_command_id: u16) -> Self {
        Self { header, reply_command_id }
    }
}

/// What a call's handler is told: the reply, lent in place, or why there is none.
pub type Answer<'a> = Result<Pdu<'a>, CallError>;

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The reply did not come in time. One that comes later is a PDU like any other.
    TimedOut,
    /// The connection ended first.
    Closed(CloseReason),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no reply in time"),
            Self::Closed(reason) => write!(f, "the connection ended before the reply: {reason}"),
        }
    }
}

impl error::Error for CallError {}

/// Why a call was not started: nothing was sent, and its handler will not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallRefused {
    /// The request was not queued.
    Send(SendError),
    /// As many calls of this connection as [`Options::calls_max`](crate::Options::calls_max) wait
    /// for their replies.
    TooMany {
        /// That many.
        limit: usize,
    },
    /// The connection does not deliver PDUs with the 16-byte header, so no reply could be told
    /// from anything else.
    NoHeader,
    /// The connection has a callback, or an object of another type than the handler is for.
    NoObject,
}

impl fmt::Display for CallRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(_) => f.write_str("the request cannot be sent"),
            Self::TooMany { limit } => write!(f, "{limit} calls wait for their replies already"),
            Self::NoHeader => f.write_str("the connection's framing has no sequence numbers"),
            Self::NoObject => f.write_str("the connection has no object of the handler's type"),
        }
    }
}

impl error::Error for CallRefused {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Send(source) => Some(source),
            Self::TooMany { .. } | Self::NoHeader | Self::NoObject => None,
        }
    }
}

impl From<SendError> for CallRefused {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

/// A call's handler, whatever the type of its object; whether the object was of that type.
pub(crate) type CallHandler<A> =
    Box<dyn FnOnce(&mut dyn Connection<A>, &mut A, &mut Context<'_, A>, Answer<'_>) -> bool>;

pub(crate) fn erase<C: 'static, A>(
    handler: impl FnOnce(&mut C, &mut A, &mut Context<'_, A>, Answer<'_>) + 'static,
) -> CallHandler<A> {
    Box::new(move |object, app, context, answer| {
        let Some(object) = object.as_any_mut().downcast_mut() else { return false };
        handler(object, app, context, answer);
        true
    })
}

/// The calls of one connection that wait for their replies.
///
/// A call stands in the slot that its number names, modulo the number of slots, and a number is
/// picked so that its slot is free: a look-up is an index and a comparison. At least half of the
/// slots are free, so that picking passes over one taken slot a call, on average.
pub(crate) struct Calls<A> {
    /// None, or a power of two.
    slots: Vec<Option<Waiting<A>>>,
    len: usize,
    /// The number that was given away last. Numbers go round, so that one is used again as late
    /// as possible, and a reply that comes too late is not taken for another's.
    last: u16,
}

pub(crate) struct Waiting<A> {
    pub(crate) call: Call,
    pub(crate) alarm: TimerKey,
    pub(crate) handler: CallHandler<A>,
}

impl<A> Calls<A> {
    /// The number of the next call, with room made for it; `None` when `limit` calls wait.
    pub(crate) fn next_seq(&mut self, limit: u16) -> Option<u16> {
        if self.len >= usize::from(limit) {
            return None;
        }
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let mut seq = self.last;
        loop {
            seq = seq.wrapping_add(1);
            // Zero is what nobody asked for.
            if seq != 0 && self.slots[self.place(seq)].is_none() {
                return Some(seq);
            }
        }
    }

    /// Keeps a call, whose header has the number that [`next_seq`](Self::next_seq) told.
    pub(crate) fn insert(&mut self, waiting: Waiting<A>) {
        self.last = waiting.call.header.seq;
        let place = self.place(self.last);
        let former = self.slots[place].replace(waiting);
        assert!(former.is_none(), "a number is picked so that its slot is free");
        self.len += 1;
    }

    /// Takes the call that this PDU is the reply to.
    pub(crate) fn take_replied(&mut self, pdu: &Pdu<'_>) -> Option<Waiting<A>> {
        if self.len == 0 {
            return None;
        }
        let reply = pdu.header()?;
        let Call { header, reply_command_id } = self.find(reply.seq)?.call;
        let is_reply =
            reply.service_id == header.service_id && reply.command_id == reply_command_id;
        if is_reply { self.take(reply.seq) } else { None }
    }

    /// Takes the call with this number.
    pub(crate) fn take(&mut self, seq: u16) -> Option<Waiting<A>> {
        self.find(seq)?;
        let place = self.place(seq);
        let waiting = self.slots[place].take();
        self.len -= 1;
        if self.len == 0 && self.slots.len() > SLOTS_KEPT {
            self.slots = Vec::new();
        }
        waiting
    }

    /// The calls' alarms.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = TimerKey> {
        self.slots.iter().flatten().map(|waiting| waiting.alarm)
    }

    /// All calls, the oldest first, but for those that waited while the numbers went round.
    pub(crate) fn into_waiting(mut self) -> impl Iterator<Item = Waiting<A>> {
        if !self.slots.is_empty() {
            let oldest = self.place(self.last.wrapping_add(1));
            self.slots.rotate_left(oldest);
        }
        self.slots.into_iter().flatten()
    }

    fn find(&self, seq: u16) -> Option<&Waiting<A>> {
        // Without slots the place is one that is not there.
        let waiting = self.slots.get(self.place(seq))?.as_ref()?;
        (waiting.call.header.seq == seq).then_some(waiting)
    }

    fn place(&self, seq: u16) -> usize {
        usize::from(seq) & self.slots.len().wrapping_sub(1)
    }

    /// Numbers that differ modulo the slots differ modulo twice as many.
    fn grow(&mut self) {
        let former = mem::take(&mut self.slots);
        let count = (former.len() * 2).max(SLOTS_MIN);
        self.slots.resize_with(count, || None);
        for waiting in former.into_iter().flatten() {
            let place = self.place(waiting.call.header.seq);
            self.slots[place] = Some(waiting);
        }
    }
}

// Derived, it would ask the same of `A`, of which an empty table holds nothing.
impl<A> Default for Calls<A> {
    fn default() -> Self {
        Self { slots: Vec::new(), len: 0, last: 0 }
    }
}

const SLOTS_MIN: usize = 8;

/// A table with more slots than that gives them back when it is empty.
const SLOTS_KEPT: usize = 64;

/// So that half of the slots are free when there are as many as numbers.
pub(crate) const CALLS_MAX: u16 = 1 << 15;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::pdu::HEADER_LEN;
    use crate::reactor::Wheel;

    fn add(calls: &mut Calls<()>, limit: u16) -> Option<u16> {
        let header = Header::new(1, 2).with_seq(calls.next_seq(limit)?);
        let (call, alarm) = (Call::new(header, 3), Wheel::new().insert(1, ()));
        calls.insert(Waiting { call, alarm, handler: Box::new(|_, _, _, _| true) });
        Some(header.seq)
    }

    fn replied(calls: &mut Calls<()>, header: Header) -> Option<u16> {
        let mut frame = [0; HEADER_LEN];
        header.write(16, &mut frame);
        let waiting = calls.take_replied(&Pdu::new(&frame, 16))?;
        Some(waiting.call.header.seq)
    }

    proptest! {
        /// Whatever is added and answered, a number names the one call that has it, and is never 0.
        #[test]
        fn a_number_names_one_call(
            last in any::<u16>(),
            steps in prop::collection::vec((any::<bool>(), any::<u16>()), 1..400),
        ) {
            let mut calls = Calls { last, ..Calls::default() };
            let mut waiting = BTreeSet::new();
            for (is_call, number) in steps {
                if is_call {
                    let seq = add(&mut calls, CALLS_MAX).unwrap();
                    prop_assert!(seq != 0 && waiting.insert(seq), "{seq} names two calls");
                } else {
                    // One that waits where there is one, so that both kinds are asked for.
                    let seq = waiting.range(number..).next().copied().unwrap_or(number);
                    let found = calls.take(seq).map(|waiting| waiting.call.header.seq);
                    prop_assert_eq!(found, waiting.take(&seq));
                }
                prop_assert!(calls.len * 2 <= calls.slots.len(), "half of the slots are free");
            }
            prop_assert_eq!(calls.alarms().count(), waiting.len());
            let left: BTreeSet<u16> =
                calls.into_waiting().map(|waiting| waiting.call.header.seq).collect();
            prop_assert_eq!(left, waiting);
        }
    }

    /// A reply has the number and the ids that its call names; it is found once.
    #[test]
    fn a_reply_is_known_by_number_and_ids() {
        let mut calls = Calls::default();
        let reply = Header::new(1, 3).with_seq(1);
        assert_eq!(replied(&mut calls, reply), None, "nothing was called");
        assert_eq!(add(&mut calls, 1), Some(1));
        for other in [Header::new(2, 3).with_seq(1), Header::new(1, 2).with_seq(1)] {
            assert_eq!(replied(&mut calls, other), None);
        }
        for seq in [0, 2, 9] {
            assert_eq!(replied(&mut calls, reply.with_seq(seq)), None);
        }
        assert_eq!(replied(&mut calls, reply), Some(1));
        assert_eq!(replied(&mut calls, reply), None);
    }

    /// As many calls as the greatest limit says wait at once, and are given back the oldest first.
    #[test]
    fn the_greatest_limit_has_numbers_enough() {
        let mut calls = Calls { last: 65_000, ..Calls::default() };
        let adding = std::iter::from_fn(|| add(&mut calls, CALLS_MAX));
        let seqs: Vec<u16> = adding.take(usize::from(CALLS_MAX) + 1).collect();
        assert_eq!(seqs.len(), usize::from(CALLS_MAX));
        assert_eq!((seqs[0], seqs[534], seqs[535]), (65_001, 65_535, 1));
        assert_eq!(calls.slots.len(), 1 << 16);
        let left = calls.into_waiting().map(|waiting| waiting.call.header.seq);
        assert!(left.eq(seqs));
    }

    /// A burst's memory is given back when the last of its calls is answered.
    #[test]
    fn an_empty_table_keeps_few_slots() {
        let mut calls = Calls::default();
        for (count, kept) in [(10, 32), (32, 64), (33, 0)] {
            let seqs: Vec<u16> = (0..count).filter_map(|_| add(&mut calls, CALLS_MAX)).collect();
            assert!(seqs.iter().all(|seq| calls.take(*seq).is_some()));
            assert_eq!(calls.slots.len(), kept, "after {count} calls");
        }
    }
}
