//! The floor: an echo server straight on io_uring, as fast as it was made by hand.
//!
//! A multishot accept, and for each connection a multishot receive into a ring of small buffers.
//! The whole PDUs of one receive go back with one send from the very buffer they came in; what
//! comes while that flies is sent after it, together. Long PDUs and floods are received one at a
//! time into larger buffers, and the rest of a begun one by an exact receive to its place. It has
//! no timers, no callbacks, no statistics and no limits but those of memory per connection, so
//! nothing of general use can be faster.
//!
//! Start with [`Ring::serve`]; `connection.rs` has the states, `buffers.rs` what the kernel fills,
//! and `requests.rs` all that is asked of it.

mod buffers;
mod connection;
mod requests;

use std::io;
use std::mem;

use io_uring::cqueue;
use slab::Slab;

use crate::pdu::Whole;
use crate::{is_of_client, listening, pdu};

use buffers::Buffers;
use connection::{BULK_LEN, Connection, Flying, Group, Receiving};
use requests::{Op, Requests};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    let listener = listening::listener()?;
    let port = listener.local_addr()?.port();
    let mut requests = Requests::new(listener)?;
    requests.accept()?;
    port_sink(port);
    let (connections, spare) = (Slab::new(), Vec::new());
    Ring { requests, connections, starved: Vec::new(), spare, is_accepting: true }.serve()
}

struct Ring {
    requests: Requests,
    connections: Slab<Connection>,
    /// Connections whose receive found no buffer.
    starved: Vec<usize>,
    /// Memory for the longest PDUs; the warmest last.
    spare: Vec<Vec<u8>>,
    is_accepting: bool,
}

impl Ring {
    fn serve(mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        loop {
            self.requests.wait(&mut completions)?;
            for entry in completions.drain(..) {
                let (op, slot) = Op::of(entry.user_data());
                match op {
                    Op::Accept => self.on_accept(entry.result(), entry.flags())?,
                    Op::Receive => self.on_receive(slot, entry.result(), entry.flags())?,
                    Op::Send => self.on_send(slot, entry.result())?,
                    Op::Other => {}
                }
            }
            // By the time that these are submitted the kernel has more buffers.
            for slot in mem::take(&mut self.starved) {
                self.arm(slot)?;
            }
        }
    }

    fn on_accept(&mut self, result: i32, flags: u32) -> io::Result<()> {
        self.is_accepting = cqueue::more(flags);
        match requests::accepted(result) {
            Ok(fd) => {
                let slot = self.connections.insert(Connection::new(fd));
                self.arm(slot)?;
            }
            // Goes on when a descriptor becomes free.
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Ok(()),
            Err(error) if is_of_client(&error) => {}
            Err(error) => return Err(error),
        }
        if self.is_accepting { Ok(()) } else { self.accept() }
    }

    fn accept(&mut self) -> io::Result<()> {
        self.is_accepting = true;
        self.requests.accept()
    }

    fn on_receive(&mut self, slot: usize, result: i32, flags: u32) -> io::Result<()> {
        let receiving = &mut self.connections[slot].receiving;
        let is_last = !cqueue::more(flags);
        let group = match *receiving {
            Receiving::Multishot { .. } => Group::Small,
            Receiving::Bulk => Group::Bulk,
            Receiving::Exact => return self.on_exact(slot, result),
            Receiving::InPlace { id, filled, len } => {
                return self.on_in_place(slot, result, id, filled, len);
            }
            Receiving::Nothing => unreachable!("a receive ends once"),
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
    fn arm(&mut self, slot: usize) -> io::Result<()> {
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
        connection.receiving = Receiving::Bulk;
        self.requests.receive_bulk(slot, connection)
    }

    fn send_pending(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        if connection.pending.is_empty() || !matches!(connection.flying, Flying::Nothing) {
            return Ok(());
        }
        connection.flying = Flying::Own { bytes: mem::take(&mut connection.pending), sent: 0 };
        self.requests.send(slot, connection)
    }

    fn on_send(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        let is_full = result == -libc::EAGAIN;
        let count = usize::try_from(result).ok().or(is_full.then_some(0));
        let flying = mem::replace(&mut connection.flying, Flying::Nothing);
        let rest = match (flying, count) {
            (Flying::Buffer { group, id, len }, count) => {
                let buffers = self.requests.buffers_mut(group);
                // A client that takes no more must not keep a buffer from the others.
                let rest = count.filter(|count| *count < len).map(|count| Flying::Own {
                    bytes: buffers.bytes(id, len)[count..].to_vec(),
                    sent: 0,
                });
                buffers.give_back(id);
                rest
            }
            (Flying::Both { carried, group, id, range }, count) => {
                let buffers = self.requests.buffers_mut(group);
                let len = carried.len() + range.len();
                let rest = count.filter(|count| *count < len).map(|count| {
                    let rest = &buffers.bytes(id, range.end)[range.start..];
                    let unsent = [&carried[..], rest].concat().split_off(count);
                    Flying::Own { bytes: unsent, sent: 0 }
                });
                buffers.give_back(id);
                keep(&mut self.spare, carried);
                rest
            }
            (Flying::Own { bytes, sent }, Some(count)) if sent + count < bytes.len() => {
                Some(Flying::Own { bytes, sent: sent + count })
            }
            (Flying::Own { bytes, .. }, _) => {
                keep(&mut self.spare, bytes);
                None
            }
            (Flying::Nothing, _) => unreachable!("a send completes once"),
        };
        if count.is_none() {
            return self.break_off(slot);
        }
        if let Some(rest) = rest {
            connection.flying = rest;
            return self.requests.send(slot, connection);
        }
        self.send_pending(slot)?;
        self.arm(slot)?;
        self.close_if_done(slot)
    }

    /// Gives a connection up. What the kernel has of it completes soon.
    fn break_off(&mut self, slot: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        connection.is_broken = true;
        // One that is not connected any more needs no shutdown.
        let _ = socket2::SockRef::from(&connection.fd).shutdown(std::net::Shutdown::Both);
        self.close_if_done(slot)
    }

    fn close_if_done(&mut self, slot: usize) -> io::Result<()> {
        if !self.connections.get(slot).is_some_and(Connection::is_done) {
            return Ok(());
        }
        self.requests.close(self.connections.remove(slot).fd)?;
        if self.is_accepting { Ok(()) } else { self.accept() }
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

fn keep(spare: &mut Vec<Vec<u8>>, mut bytes: Vec<u8>) {
    if bytes.capacity() >= pdu::PDU_LEN_MAX && spare.len() < SPARE_MAX {
        bytes.clear();
        spare.push(bytes);
    }
}

/// What is missing of a PDU is received to its place if it is so much.
const EXACT_LEN_MIN: usize = 8 << 10;
/// PDUs from that length on are put into memory that is kept.
const SPARE_LEN_MIN: usize = 128 << 10;
const SPARE_MAX: usize = 16;
