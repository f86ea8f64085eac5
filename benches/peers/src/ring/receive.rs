//! What the ring server receives, and what it does with it.
//!
//! Most PDUs come by a multishot receive and go back from the buffer they came in. Long ones and
//! floods are received one at a time, a few connections in a turn, and what is missing of a begun
//! PDU comes by an exact receive to its place.

#![forbid(unsafe_code)]

use std::{io, mem};

use io_uring::cqueue;

use crate::pdu::{self, Whole};

use super::buffers::Buffers;
use super::connection::{BULK_LEN, Flying, Group, Receiving};
use super::{Ring, requests};

impl Ring {
    pub(super) fn on_receive(&mut self, slot: usize, result: i32, flags: u32) -> io::Result<()> {
        let receiving = &mut self.connections[slot].receiving;
        let is_last = !cqueue::more(flags);
        let group = match *receiving {
            Receiving::Multishot { .. } => Group::Small,
            Receiving::Bulk => Group::Bulk,
            Receiving::Poll => return self.on_poll(slot, result),
            Receiving::Exact => return self.on_exact(slot, result),
            Receiving::InPlace { id, filled, len } => {
                return self.on_in_place(slot, result, id, filled, len);
            }
            Receiving::Nothing | Receiving::Queued => unreachable!("a receive ends once"),
        };
        if is_last {
            *receiving = Receiving::Nothing;
        }
        if let Some(id) = cqueue::buffer_select(flags) {
            self.requests.buffers_mut(group).take();
            self.on_bytes(slot, group, id, usize::try_from(result).unwrap_or(0))?;
        }
        if is_last { self.on_end(slot, result) } else { Ok(()) }
    }

    fn on_poll(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let receiving = &mut self.connections[slot].receiving;
        if result < 0 {
            *receiving = Receiving::Nothing;
            return self.on_end(slot, result);
        }
        *receiving = Receiving::Queued;
        self.queue.push_back(slot);
        Ok(())
    }

    /// Receives of the next few connections with many bytes.
    ///
    /// A bulk receive that the kernel completes when it likes would do so for all connections that
    /// have bytes, one after the other, and when their answers are sent the first is out of the
    /// core's cache. So readiness is polled, and few are received and sent at a time.
    pub(super) fn receive_queued(&mut self) -> io::Result<()> {
        for _ in 0..BULK_RECEIVES_MAX {
            let Some(slot) = self.queue.pop_front() else { break };
            let connection = &mut self.connections[slot];
            connection.receiving = Receiving::Bulk;
            self.requests.receive_bulk(slot, connection)?;
        }
        Ok(())
    }

    /// Answers what has come, or keeps it until more has.
    fn on_bytes(&mut self, slot: usize, group: Group, id: u16, len: usize) -> io::Result<()> {
        let connection = &self.connections[slot];
        let answered = if connection.is_broken || len == 0 {
            self.requests.buffers_mut(group).give_back(id);
            return Ok(());
        } else if connection.is_idle() {
            self.answer_from_buffer(slot, group, id, len)?
        } else {
            self.answer_later(slot, group, id, len)
        };
        match answered {
            Ok(next_len) => self.connections[slot].learn(group, len, next_len),
            Err(_) => return self.break_off(slot),
        }
        self.leave_multishot(slot)
    }

    /// Sends the whole PDUs of a buffer as they are, after the one that they complete. Returns
    /// what is known of the length of the next, or the error of a PDU.
    fn answer_from_buffer(
        &mut self,
        slot: usize,
        group: Group,
        id: u16,
        len: usize,
    ) -> io::Result<io::Result<usize>> {
        let connection = &mut self.connections[slot];
        let buffers = self.requests.buffers_mut(group);
        let bytes = buffers.bytes(id, len);
        let completed = match connection.carry.is_empty() {
            true => Ok((0, false)),
            false => connection.complete_carried(bytes),
        };
        let found = completed.and_then(|(used, is_whole)| {
            pdu::whole(&bytes[used..]).map(|whole| (used, is_whole, whole))
        });
        let (used, is_whole, Whole { len: whole_len, next_len }) = match found {
            Ok(found) => found,
            Err(error) => {
                buffers.give_back(id);
                return Ok(Err(error));
            }
        };
        if !connection.carry.is_empty() && !is_whole {
            let known = pdu::pdu_len(&connection.carry).ok().flatten();
            buffers.give_back(id);
            return Ok(Ok(known.unwrap_or(pdu::HEADER_LEN)));
        }
        let carried = mem::take(&mut connection.carry);
        pdu::count_served(u64::from(is_whole));
        let whole = used..used + whole_len;
        let begun = &bytes[whole.end..];
        if whole.end == 0 && fits_in_place(buffers, group, len, next_len) {
            connection.receiving = Receiving::InPlace { id, filled: len, len: next_len };
            self.requests.receive_in_place(slot, connection)?;
            return Ok(Ok(next_len));
        }
        if !begun.is_empty() {
            make_room(&mut self.spare, &mut connection.carry, next_len);
            connection.carry.extend_from_slice(begun);
        }
        connection.flying = match (carried.is_empty(), whole.is_empty()) {
            (true, true) => {
                buffers.give_back(id);
                return Ok(Ok(next_len));
            }
            (true, false) => Flying::Buffer { group, id, len: whole.end },
            (false, true) => {
                buffers.give_back(id);
                Flying::Own { bytes: carried, sent: 0 }
            }
            (false, false) => Flying::Both { carried, group, id, range: whole },
        };
        self.requests.send(slot, connection)?;
        Ok(Ok(next_len))
    }

    /// Keeps what has come while answers fly. Returns as [`answer_from_buffer`] does.
    ///
    /// [`answer_from_buffer`]: Self::answer_from_buffer
    fn answer_later(
        &mut self,
        slot: usize,
        group: Group,
        id: u16,
        len: usize,
    ) -> io::Result<usize> {
        let connection = &mut self.connections[slot];
        let buffers = self.requests.buffers_mut(group);
        connection.carry.extend_from_slice(buffers.bytes(id, len));
        buffers.give_back(id);
        let whole = pdu::whole(&connection.carry)?;
        connection.queue_carried(whole);
        Ok(whole.next_len)
    }

    /// Ends the multishot receive of a connection that is better off without.
    fn leave_multishot(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        match &mut connection.receiving {
            Receiving::Multishot { is_cancelled } if connection.is_bulk && !*is_cancelled => {
                *is_cancelled = true;
                self.requests.cancel_receive(slot)
            }
            _ => Ok(()),
        }
    }

    /// The rest of a long PDU is in its place in `carry`.
    fn on_exact(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        connection.receiving = Receiving::Nothing;
        if !requests::take_exact(connection, result) {
            // Less than was asked for comes only when no more will.
            return self.on_end(slot, result.min(0));
        }
        pdu::count_served(1);
        // Nothing waited when this was asked for, and nothing else has come since.
        mem::swap(&mut connection.pending, &mut connection.carry);
        self.send_pending(slot)?;
        self.on_end(slot, result)
    }

    fn on_in_place(
        &mut self,
        slot: usize,
        result: i32,
        id: u16,
        filled: usize,
        len: usize,
    ) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        connection.receiving = Receiving::Nothing;
        if usize::try_from(result).is_ok_and(|more| filled + more == len) {
            pdu::count_served(1);
            connection.flying = Flying::Buffer { group: Group::Bulk, id, len };
            self.requests.send(slot, connection)?;
            return self.on_end(slot, result);
        }
        self.requests.buffers_mut(Group::Bulk).give_back(id);
        self.on_end(slot, result.min(0))
    }

    /// A receive has ended: asks for the next, if the client may send more.
    fn on_end(&mut self, slot: usize, result: i32) -> io::Result<()> {
        match -result {
            libc::ENOBUFS => {
                let is_bulk = self.connections[slot].is_bulk;
                let group = if is_bulk { Group::Bulk } else { Group::Small };
                self.requests.buffers_mut(group).ask_for_more();
                self.starved.push(slot);
                return Ok(());
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN | i32::MIN..=-1 => {}
            0 => self.connections[slot].has_ended = true,
            _ => return self.break_off(slot),
        }
        self.arm(slot)?;
        self.close_if_done(slot)
    }

    /// Asks for the next receive of a connection, unless its answers must go out first.
    pub(super) fn arm(&mut self, slot: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(slot) else { return Ok(()) };
        let may_receive = matches!(connection.receiving, Receiving::Nothing)
            && connection.pending.is_empty()
            && !connection.has_ended
            && !connection.is_broken;
        if !may_receive {
            return Ok(());
        }
        if !connection.is_bulk {
            connection.receiving = Receiving::Multishot { is_cancelled: false };
            return self.requests.receive_multishot(slot, connection);
        }
        let pdu_len = pdu::pdu_len(&connection.carry).ok().flatten().unwrap_or(0);
        if pdu_len >= connection.carry.len() + EXACT_LEN_MIN {
            make_room(&mut self.spare, &mut connection.carry, pdu_len);
            connection.receiving = Receiving::Exact;
            return self.requests.receive_exact(slot, connection, pdu_len);
        }
        connection.receiving = Receiving::Poll;
        self.requests.poll(slot, connection)
    }
}

/// Whether the rest of a PDU can be received behind its beginning: there is room, it is worth a
/// request, and others have buffers enough if it does not come for long.
fn fits_in_place(buffers: &Buffers, group: Group, filled: usize, len: usize) -> bool {
    let is_worth_it = (filled + EXACT_LEN_MIN..=BULK_LEN).contains(&len);
    group == Group::Bulk && is_worth_it && !buffers.is_short()
}

/// Makes room for a PDU of that length. Large memory is used again, as new one would be mapped
/// page by page.
fn make_room(spare: &mut Vec<Vec<u8>>, carry: &mut Vec<u8>, len: usize) {
    if carry.capacity() >= len {
        return;
    }
    if len < SPARE_LEN_MIN {
        carry.reserve_exact(len - carry.len());
        return;
    }
    let mut large = spare.pop().unwrap_or_else(|| Vec::with_capacity(pdu::PDU_LEN_MAX));
    large.extend_from_slice(carry);
    *carry = large;
}

/// Bulk receives in one turn: two turns' buffers fit into the core's cache.
const BULK_RECEIVES_MAX: usize = 4;
/// What is missing of a PDU is received to its place if it is so much.
const EXACT_LEN_MIN: usize = 8 << 10;
/// PDUs from that length on are put into memory that is kept.
const SPARE_LEN_MIN: usize = 128 << 10;
