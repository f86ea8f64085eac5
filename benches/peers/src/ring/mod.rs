//! The floor: an echo server straight on io_uring, as fast as it was made by hand.
//!
//! A multishot accept, and for each connection a multishot receive into a ring of small buffers.
//! The whole PDUs of one receive go back with one send from the very buffer they came in; what
//! comes while that flies is sent after it, together. Long PDUs and floods are received one at a
//! time into larger buffers, and the rest of a begun one by an exact receive to its place. It has
//! no timers, no callbacks and no statistics. It blocks when there is nothing to do; it does not
//! spin.
//!
//! Start with [`Ring::serve`]; `receive.rs` has what is done with bytes, `connection.rs` the
//! states, `buffers.rs` what the kernel fills, and `requests.rs` all that is asked of it.

mod buffers;
mod connection;
mod receive;
mod requests;

use std::collections::VecDeque;
use std::{io, mem};

use io_uring::cqueue;
use slab::Slab;

use crate::{is_of_client, listening, pdu};

use connection::{Connection, Flying};
use requests::{Op, Requests};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    let listener = listening::listener()?;
    let port = listener.local_addr()?.port();
    let mut requests = Requests::new(listener)?;
    requests.accept()?;
    port_sink(port);
    let (connections, spare) = (Slab::new(), Vec::new());
    let (starved, queue) = (Vec::new(), VecDeque::new());
    Ring { requests, connections, starved, queue, spare, is_accepting: true }.serve()
}

struct Ring {
    requests: Requests,
    connections: Slab<Connection>,
    /// Connections whose receive found no buffer.
    starved: Vec<usize>,
    /// Connections that wait for their turn of a bulk receive.
    queue: VecDeque<usize>,
    /// Memory for the longest PDUs; the warmest last.
    spare: Vec<Vec<u8>>,
    is_accepting: bool,
}

impl Ring {
    fn serve(mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        loop {
            self.receive_queued()?;
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

fn keep(spare: &mut Vec<Vec<u8>>, mut bytes: Vec<u8>) {
    if bytes.capacity() >= pdu::PDU_LEN_MAX && spare.len() < SPARE_MAX {
        bytes.clear();
        spare.push(bytes);
    }
}

/// Memory for the longest PDUs that is kept.
const SPARE_MAX: usize = 16;
