//! Which of a connection's PDUs are received straight into buffers of their own.
//!
//! A small PDU is best taken out of whatever a pool buffer brings. Of a large one that would copy
//! every byte. A connection whose PDUs were large is expected to go on like that until so many
//! small ones came in a row: what it sends is received into a buffer as long as the longest of them
//! was, which then is the PDU, or its beginning; and the rest of one that has begun is received
//! behind that.
//!
//! The same serves a flood, small PDUs that fill one pool buffer after the other: a few sockets a
//! turn, each with many bytes at once, leave more of what was received in the processor's cache
//! until it is sent on than all sockets at once, each with whatever has come.
//!
//! Room is given for what has been earned and not for what is promised: twice what has come of
//! the PDU, or what the longest of those before it had.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;

use super::{Reactor, Socket, State};
use crate::driver::{Driver, Op, Ops, Rest};
use crate::event::Handle;
use crate::options::Delivery;

#[derive(Debug, Default)]
pub(crate) struct Bulk {
    /// So many small PDUs more, and no large one is expected any longer.
    patience: u8,
    /// Pool buffers that were filled in a row.
    filled: u8,
    /// So many receives of little more, and no flood is expected any longer. After each, less is
    /// expected of the next.
    flood: u8,
    /// Whether the receive that is outstanding is one into pool buffers.
    is_many: bool,
    /// The last rest came back with less than was asked for. Why, a receive of another kind tells.
    was_short: bool,
    /// How long the longest of the large PDUs was.
    earned: u32,
    /// The capacity of the buffer that the driver has.
    lent: Option<NonZeroU32>,
}

impl Bulk {
    /// Whether large PDUs are expected.
    pub(crate) const fn is_on(&self) -> bool {
        self.patience > 0
    }

    /// Whether much is expected at once, in whatever PDUs.
    const fn is_much(&self) -> bool {
        self.patience > 0 || self.flood > 0
    }

    /// A large PDU has started.
    pub(crate) const fn start(&mut self) {
        if !self.is_much() {
            self.was_short = false;
        }
        self.patience = PATIENCE;
    }

    /// A pool buffer was received, full or not.
    const fn note_chunk(&mut self, is_full: bool) {
        self.filled = if is_full { self.filled + 1 } else { 0 };
        if self.filled >= FLOOD_BUFFERS {
            if !self.is_much() {
                self.was_short = false;
            }
            self.filled = 0;
            self.flood = FLOOD_PATIENCE;
        }
    }

    /// What was there was received at once, while much is expected.
    pub(crate) const fn note_lot(&mut self, is_little: bool) {
        self.flood = match (self.flood, is_little) {
            (0, _) => 0,
            (flood, true) => flood - 1,
            (_, false) => FLOOD_PATIENCE,
        };
    }

    /// A PDU of `len` bytes was whole, while large ones are expected.
    pub(crate) fn note_pdu(&mut self, len: usize, large_len: usize) {
        if len > large_len {
            self.patience = PATIENCE;
            self.earned = self.earned.max(u32::try_from(len).unwrap_or(u32::MAX));
        } else {
            self.patience = self.patience.saturating_sub(1);
            self.earned = if self.patience == 0 { 0 } else { self.earned };
        }
    }

    /// Whether none of the large PDUs was longer.
    pub(crate) const fn is_longest(&self, len: usize) -> bool {
        len >= self.earned as usize
    }

    /// A rest is back.
    pub(crate) const fn land(&mut self, rest: &Rest) {
        self.lent = None;
        self.was_short = rest.missing() > 0 && !rest.is_fresh();
    }

    /// Memory that the driver has.
    #[inline]
    pub(crate) fn lent_len(&self) -> usize {
        self.lent.map_or(0, |capacity| capacity.get() as usize)
    }

    /// Whether the outstanding receive is one into a PDU's own buffer.
    pub(crate) const fn is_lent(&self) -> bool {
        self.lent.is_some()
    }
}

impl<C> Socket<C> {
    /// A pool buffer was received, full or not. Who is held to a rate floods nobody.
    pub(crate) const fn note_chunk(&mut self, is_full: bool) {
        self.bulk.note_chunk(is_full && self.meter.is_none());
    }

    /// How many bytes a buffer is to have in the end that is given to the PDU which has started;
    /// `None` where the next receive is better one of another kind.
    fn room_for_rest(&self) -> Option<usize> {
        if self.bulk.was_short || !self.bulk.is_on() {
            return None;
        }
        let held = self.reader.len();
        let len = self.framing()?.frame_len(self.reader.unread()).ok()??;
        let earned = held.saturating_mul(2).max(self.bulk.earned as usize);
        let allowed = self.meter.as_ref().map_or(usize::MAX, |meter| meter.bytes_left());
        let room = len.min(earned).min(held.saturating_add(allowed)).min(ROOM_MAX);
        (held > 0 && room > held + TAIL_LEN).then_some(room)
    }

    /// How many bytes are received where much is expected: as many as the longest PDU had, or as
    /// some pool buffers have, and a few, so that less comes than there is room for.
    fn whole_len(&self, buffer_len: usize) -> usize {
        let allowed = self.meter.as_ref().map_or(usize::MAX, |meter| meter.bytes_left());
        let flood_len = match self.bulk.flood {
            0 => 0,
            // What is asked for counts for how many sockets have their turn.
            flood => (usize::from(FLOOD_BUFFERS) * buffer_len) >> (FLOOD_PATIENCE - flood),
        };
        (self.bulk.earned as usize)
            .max(flood_len)
            .min(ROOM_MAX)
            .saturating_add(TAIL_LEN)
            .min(allowed)
            .max(TAIL_LEN)
    }

    /// Whether much is expected of it at once, to be told as PDUs.
    const fn is_bulky(&self) -> bool {
        let is_cut = matches!(self.delivery(), Delivery::Pdu(_));
        self.bulk.is_much() && is_cut && matches!(self.state(), State::Connected)
    }

    /// Whether the outstanding receive stands in the way of what is wanted now.
    pub(super) const fn is_misarmed(&self) -> bool {
        if self.is_bulky() { self.bulk.is_many } else { self.bulk.is_lent() }
    }
}

impl<C> Reactor<C> {
    pub(super) fn receive<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        socket.outstanding.insert(Op::Receive);
        self.stats.armed += 1;
        socket.bulk.is_many = !socket.is_bulky();
        if socket.bulk.is_many {
            driver.receive(handle);
        } else {
            self.receive_large(driver, handle);
        }
    }

    // Apart from the re-arming of small receives, which would pay for its frame.
    #[inline(never)]
    fn receive_large<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let Some(room) = socket.room_for_rest() else {
            let len = socket.whole_len(self.buffer_len);
            self.tighten(handle);
            return driver.receive_whole(handle, len);
        };
        let held = socket.reader.len();
        let is_fitting = (room..=2 * room).contains(&socket.reader.capacity());
        // Room is counted like bytes, but nobody has to go for the sake of room, nor is refused.
        let has_room = self.buffered + 2 * room - held <= self.buffered_max / 2;
        if has_room && !is_fitting {
            let former = socket.reader.move_to(self.spare.take_fitting(room));
            self.spare.give(former);
        } else if !has_room {
            let former = socket.reader.move_to(Vec::with_capacity(held));
            self.spare.give(former);
            return driver.receive_whole(handle, TAIL_LEN);
        }
        let buffer = std::mem::take(&mut socket.reader).into_unread();
        socket.bulk.lent = u32::try_from(buffer.capacity()).ok().and_then(NonZeroU32::new);
        driver.receive_rest(handle, Rest::new(buffer, room - held));
        self.recount(handle);
    }

    /// Keeps what is held in no more memory than it takes: nobody counts what a buffer has room
    /// for once the driver has given it back.
    pub(crate) fn tighten(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let held = socket.reader.len();
        if socket.reader.capacity() > 2 * held + TAIL_LEN {
            let former = socket.reader.move_to(self.spare.take(held));
            self.spare.give(former);
        }
    }

    /// Has a PDU's own buffer given back, because what is to be done with it may have changed.
    pub(crate) fn recall<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        if socket.bulk.is_lent() && !socket.cancelled.has(Op::Receive) {
            socket.cancelled.insert(Op::Receive);
            driver.cancel(handle, Ops::only(Op::Receive));
        }
    }
}

/// What may come behind a large PDU in its buffer.
pub(crate) const TAIL_LEN: usize = 1024;

/// The most room that one PDU is given; what is longer is received in parts.
const ROOM_MAX: usize = 1 << 30;

/// How many bytes of a flood are received at once, in pool buffers; and so many that are full, one
/// after the other, make a flood.
const FLOOD_BUFFERS: u8 = 4;

/// So many receives of little in a row, and a flood is over.
const FLOOD_PATIENCE: u8 = 4;

/// So many small PDUs in a row, and a connection counts as one of small PDUs again.
const PATIENCE: u8 = 8;

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::driver::{Family, Stock};
    use crate::options::{Limits, Options, Rate};
    use crate::reactor::socket::Settings;

    const LARGE_LEN: usize = 1000;

    /// Large PDUs are expected after one has started, and until enough small ones came in a row.
    #[test]
    fn patience_ends_after_small_ones_in_a_row() {
        let mut bulk = Bulk::default();
        assert!(!bulk.is_on());
        bulk.start();
        for _ in 0..3 {
            bulk.note_pdu(LARGE_LEN + 1, LARGE_LEN);
            for _ in 1..PATIENCE {
                bulk.note_pdu(LARGE_LEN, LARGE_LEN);
                assert!(bulk.is_on() && bulk.earned == 1001, "what was sent stays earned");
            }
        }
        bulk.note_pdu(1, LARGE_LEN);
        assert!(!bulk.is_on() && bulk.earned == 0);
    }

    /// A flood is expected after full buffers in a row, and until little has come so often in a
    /// row.
    #[test]
    fn a_flood_is_full_buffers_in_a_row() {
        let mut bulk = Bulk::default();
        for is_full in [true, true, true, false, true, true, true] {
            bulk.note_chunk(is_full);
            assert!(!bulk.is_much());
        }
        bulk.note_chunk(true);
        assert!(bulk.is_much() && !bulk.is_on(), "of large PDUs nothing is known");
        for _ in 0..3 {
            bulk.note_lot(false);
            for _ in 1..FLOOD_PATIENCE {
                bulk.note_lot(true);
                assert!(bulk.is_much());
            }
        }
        bulk.note_lot(true);
        assert!(!bulk.is_much());
    }

    /// A rest that came back short is not asked for again before something else has come.
    #[test]
    fn a_short_rest_is_found_out_about() {
        let mut bulk = Bulk { lent: NonZeroU32::new(10), ..Bulk::default() };
        let mut buffer = Vec::with_capacity(10);
        buffer.push(1);
        bulk.land(&Rest::new(buffer, 9));
        assert!(bulk.was_short && !bulk.is_lent());
        bulk.land(&Rest::new(Vec::with_capacity(10), 10));
        assert!(!bulk.was_short);
    }

    fn reactor() -> (Reactor<()>, Handle) {
        let options = Options::new();
        let mut reactor = Reactor::new(&options, Stock::default());
        let settings = Settings {
            delivery: options.delivery,
            backlog: options.backlog,
            liveness: Rc::new(options.liveness),
            limits: Rc::new(options.limits),
        };
        let socket = Socket::new(State::Connected, Family::Inet, ((), 0), settings);
        let handle = reactor.insert(socket).unwrap();
        (reactor, handle)
    }

    /// Who is held to a rate floods nobody.
    #[test]
    fn no_flood_is_expected_of_who_is_held_to_a_rate() {
        let (mut reactor, handle) = reactor();
        let socket = reactor.sockets.find_mut(handle).unwrap();
        let limits = Limits::new().bytes(Rate::per_second(1 << 20));
        socket.set_limits(Rc::new(limits), 0);
        for _ in 0..3 * FLOOD_BUFFERS {
            socket.note_chunk(true);
        }
        assert!(!socket.bulk.is_much());
        socket.set_limits(Rc::new(Limits::new()), 0);
        for _ in 0..FLOOD_BUFFERS {
            socket.note_chunk(true);
        }
        assert!(socket.bulk.is_much());
    }

    /// A few bytes do not sit in a large buffer, of which only they would be counted.
    #[test]
    fn a_few_bytes_hold_no_large_buffer() {
        let (mut reactor, handle) = reactor();
        let mut buffer = Vec::with_capacity(1 << 20);
        buffer.extend_from_slice(b"a few");
        reactor.sockets.find_mut(handle).unwrap().reader = buffer.into();
        reactor.tighten(handle);
        let reader = &reactor.sockets.find(handle).unwrap().reader;
        assert!(reader.unread() == b"a few" && reader.capacity() < 4 * TAIL_LEN);
    }

    /// Room is counted, but who has only room is not who keeps the most; and what is being
    /// cancelled keeps nothing that anybody could have given up.
    #[test]
    fn room_is_not_what_a_peer_has_sent() {
        let (mut reactor, handle) = reactor();
        let socket = reactor.sockets.find_mut(handle).unwrap();
        socket.bulk.lent = NonZeroU32::new(1 << 20);
        reactor.recount(handle);
        assert_eq!((reactor.buffered(), reactor.largest()), (1 << 20, None));
        let socket = reactor.sockets.find_mut(handle).unwrap();
        socket.enter(State::Cancelling, &mut reactor.census);
        reactor.recount(handle);
        assert_eq!(reactor.buffered(), 0);
    }
}
