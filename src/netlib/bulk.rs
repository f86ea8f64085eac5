//! Large PDUs, which come back from the driver in buffers of their own.
//!
//! Which they are, the reactor decides (`reactor/bulk.rs`); here is what is told of them.

#![forbid(unsafe_code)]

use bytes::Bytes;

use super::Netlib;
use crate::driver::{Driver, Lender, Lot, Rest};
use crate::event::{Event, Handle};
use crate::pdu::Pdu;
use crate::reactor::{State, TAIL_LEN};
use crate::shared;

impl<A> Netlib<A> {
    /// What a large PDU missed has come, or part of it.
    // Apart from the dispatch of small PDUs, which would pay for its frame.
    #[inline(never)]
    pub(super) fn on_filled(&mut self, app: &mut A, handle: Handle, rest: Rest) {
        let now_ms = self.reactor.now_ms;
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.bulk.land(&rest);
        let received = rest.received();
        if socket.state() != State::Connected {
            // Nobody wants it any more.
            socket.closing().discarded += received;
            return self.reactor.spare.give(rest.into_buffer());
        }
        if received > 0 {
            self.reactor.stats.bytes_in += received as u64;
            socket.pulse.note_received(now_ms);
            socket.fill_meter(now_ms);
        }
        if rest.is_fresh() {
            self.deliver_fresh(app, handle, rest.into_buffer());
        } else if let Err(buffer) = self.tell_alone(app, handle, rest.into_buffer()) {
            // It is not whole, or not to be told now: as if it had come in chunks.
            let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
            socket.reader = buffer.into();
            self.deliver(app, handle, &[]);
        }
        if self.reactor.sockets.find(handle).is_some_and(|socket| socket.hold.is_on()) {
            self.reactor.tighten(handle);
        }
        self.judge_speed(app, handle, received);
        self.judge_unready(app, handle);
        // If the buffer was called back because of a silence, that is judged now.
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        if socket.state() == State::Connected && socket.next_due().0 <= now_ms {
            self.on_watch(app, handle, now_ms);
        }
    }

    /// Delivers a buffer that may begin anywhere, and end anywhere.
    fn deliver_fresh(&mut self, app: &mut A, handle: Handle, mut buffer: Vec<u8>) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let len = match socket.framing().map(|spec| spec.frame_len(&buffer)) {
            Some(Ok(Some(len))) if socket.reader.is_empty() => len,
            // PDUs of a bad length, or of which not even that is known, are a chunk's business.
            _ => 0,
        };
        let is_large = len > self.reactor.large_len;
        if is_large && len > buffer.len() {
            socket.reader = buffer.into();
            return self.deliver(app, handle, &[]);
        }
        if is_large && len + TAIL_LEN >= buffer.len() {
            // What comes behind it is undelivered while it is told.
            if len < buffer.len() {
                let mut tail = self.reactor.spare.take(buffer.len() - len);
                tail.extend_from_slice(&buffer[len..]);
                socket.reader = tail.into();
                buffer.truncate(len);
            }
            match self.tell_alone(app, handle, buffer) {
                Ok(()) => {}
                Err(mut buffer) => {
                    let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
                    buffer.extend_from_slice(socket.reader.unread());
                    socket.reader = buffer.into();
                }
            }
            return self.deliver_more(app, handle);
        }
        socket.bulk.note_lot(buffer.len() < self.reactor.buffer_len / 2);
        let lot = Lot::new(buffer, self.driver.stock().clone());
        self.deliver_lent(app, handle, Lender::of_lot(&lot), &lot);
    }

    fn deliver_more(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if !socket.reader.is_empty() {
            self.deliver(app, handle, &[]);
        }
    }

    /// Tells of a buffer that is one PDU, which may then be shared; otherwise gives it back.
    fn tell_alone(&mut self, app: &mut A, handle: Handle, buffer: Vec<u8>) -> Result<(), Vec<u8>> {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return Ok(()) };
        let Some(spec) = socket.framing() else { return Err(buffer) };
        let len = buffer.len();
        let is_whole = spec.frame_len(&buffer) == Ok(Some(len));
        let is_tight = buffer.capacity() <= 2 * len;
        if socket.hold.keeps_back() || !is_whole || !is_tight {
            return Err(buffer);
        }
        let bytes = seal(buffer, socket.bulk.is_longest(len));
        self.reactor.stats.pdus_in += 1;
        self.tell(app, handle, Event::Pdu(Pdu::alone(&bytes, len, spec.header_len())));
        if let Some(buffer) = shared::into_buffer(bytes) {
            self.reactor.spare.give(buffer);
        }
        if let Some(socket) = self.reactor.sockets.find_mut(handle) {
            socket.meter_pdu();
            socket.bulk.note_pdu(len, self.reactor.large_len);
            if socket.state() == State::Connected {
                socket.pulse.note_frame(false, true, self.reactor.now_ms);
            }
        }
        Ok(())
    }
}

/// The bytes of a PDU at the beginning of its buffer, and perhaps some behind it. Where no PDU has
/// been longer, none needs more room, and it is given up for good.
#[inline(never)]
fn seal(mut buffer: Vec<u8>, is_longest: bool) -> Bytes {
    let len = buffer.len();
    if is_longest && buffer.capacity() - len > FILLED_MAX {
        buffer.shrink_to(len + TAIL_LEN);
    }
    // Of a full vector, `Bytes` need no memory of their own before they are shared. To fill more
    // than a little costs more than that memory.
    if buffer.capacity() - len <= FILLED_MAX {
        buffer.resize(buffer.capacity(), 0);
    }
    Bytes::from(buffer)
}

/// So many bytes behind a large PDU are filled.
const FILLED_MAX: usize = 2 * TAIL_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 50_000;

    fn sealed(capacity: usize, is_longest: bool) -> (usize, Option<usize>) {
        let mut buffer = Vec::with_capacity(capacity);
        buffer.resize(LEN, 7);
        let bytes = seal(buffer, is_longest);
        assert!(bytes[..LEN] == [7; LEN]);
        (bytes.len(), shared::into_buffer(bytes).map(|buffer| buffer.capacity()))
    }

    /// Only a little is filled behind a PDU; a roomy buffer stays as it is for longer PDUs, and is
    /// cut where there were none.
    #[test]
    fn a_roomy_buffer_is_not_filled() {
        let tight = LEN + TAIL_LEN;
        for is_longest in [false, true] {
            assert_eq!(sealed(LEN, is_longest), (LEN, Some(LEN)));
            assert_eq!(sealed(tight, is_longest), (tight, Some(tight)));
        }
        assert_eq!(sealed(2 * LEN, false), (LEN, Some(2 * LEN)));
        assert_eq!(sealed(2 * LEN, true), (tight, Some(tight)));
    }
}
