//! The yardstick: a plain, good echo server straight on epoll, as one writes it in C.
//!
//! One thread, one loop, no library. It parses PDUs and sends all whole ones of one read back
//! with one send. Its limits are those of a yardstick: no timeouts, no statistics, no tuning that
//! a plain server would not have. It must not be slower than it can be while it stays plain, for
//! every ratio in the report is one to this.
//!
//! Edge-triggered: waiting for room to write then costs no `epoll_ctl`, as both conditions are
//! watched from the start, and the kernel does not poll each socket that it reported once more in
//! the next wait, only to find it empty. The latter is within the noise of this bench.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::HEADER_LEN;
use super::sys::{self, EDGE, ENDED, Epoll, READABLE, WRITABLE};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    sys::raise_accept_queue(&listener)?;
    let mut epoll = Epoll::new()?;
    let listener_token = token_of(&listener);
    epoll.add(&listener, listener_token, READABLE)?;
    port_sink(listener.local_addr()?.port());

    // By descriptor. An event never meets its successor: a descriptor has one event per wait, and
    // its connection is closed only while that one is handled.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut shared = vec![0; SHARED_LEN];
    loop {
        for index in 0..epoll.wait(None)? {
            let (token, events) = epoll.event(index);
            if token == listener_token {
                accept_all(&listener, &epoll, &mut connections)?;
                continue;
            }
            let slot = &mut connections[token];
            let connection = slot.as_mut().expect("a closed descriptor has no events");
            // A broken connection ends as one that the peer has closed.
            if !connection.advance(events, &mut shared).unwrap_or(false) {
                *slot = None;
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let token = token_of(&stream);
        epoll.add(&stream, token, READABLE | WRITABLE | ENDED | EDGE)?;
        if connections.len() <= token {
            connections.resize_with(token + 1, || None);
        }
        connections[token] = Some(Connection::new(stream));
    }
}

struct Connection {
    stream: TcpStream,
    /// There may be bytes to read that no further edge will announce.
    is_readable: bool,
    has_ended: bool,
    carry: Carry,
    /// Answers that the socket had no room for, and how many of their bytes it took since.
    pending: Vec<u8>,
    pending_sent: usize,
}

impl Connection {
    const fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            is_readable: false,
            has_ended: false,
            carry: Carry::new(),
            pending: Vec::new(),
            pending_sent: 0,
        }
    }

    /// Does all that can be done without waiting, and returns whether the connection goes on.
    fn advance(&mut self, events: u32, shared: &mut [u8]) -> io::Result<bool> {
        self.is_readable |= events & (READABLE | ENDED) != 0;
        self.has_ended |= events & ENDED != 0;
        // A peer that does not take its answers is not read, so it cannot fill our memory.
        while self.flush()? && self.is_readable {
            let received = match self.receive(shared) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if received.is_end {
                return Ok(false);
            }
            // After a short read the next bytes come with an edge of their own; the end of the
            // stream does not if its edge was this one.
            self.is_readable = !received.is_short || self.has_ended;
            self.echo(&shared[..received.shared])?;
        }
        Ok(true)
    }

    /// Whether no answer is left that waits for room.
    fn flush(&mut self) -> io::Result<bool> {
        while self.pending_sent < self.pending.len() {
            match self.stream.write(&self.pending[self.pending_sent..]) {
                Ok(sent) => self.pending_sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.pending.clear();
        self.pending_sent = 0;
        Ok(true)
    }

    /// Reads once: what a begun PDU lacks goes to its place, what follows to the shared buffer.
    fn receive(&mut self, shared: &mut [u8]) -> io::Result<Received> {
        if self.carry.is_empty() {
            let len = self.stream.read(shared)?;
            return Ok(Received { shared: len, is_short: len < shared.len(), is_end: len == 0 });
        }
        let room = self.carry.room();
        let (lacking, capacity) = (room.len(), room.len() + shared.len());
        let mut buffers = [IoSliceMut::new(room), IoSliceMut::new(shared)];
        let len = self.stream.read_vectored(&mut buffers)?;
        self.carry.filled += len.min(lacking);
        let shared = len.saturating_sub(lacking);
        Ok(Received { shared, is_short: len < capacity, is_end: len == 0 })
    }

    /// Sends the PDU that is carried, if it is whole by now, and all whole ones of `bytes`.
    fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes = self.carry.complete(bytes)?;
        if !self.carry.is_empty() && !self.carry.is_whole()? {
            return Ok(());
        }
        let (whole, begun) = bytes.split_at(whole_len(bytes)?);
        self.send_carried_and(whole)?;
        self.carry.filled = 0;
        let rest = self.carry.begin(begun)?;
        debug_assert!(rest.is_empty(), "what is not whole is less than one PDU");
        Ok(())
    }

    fn send_carried_and(&mut self, whole: &[u8]) -> io::Result<()> {
        let carried = self.carry.bytes();
        let sent = match (carried, whole) {
            ([], []) => return Ok(()),
            ([], whole) => self.stream.write(whole),
            (carried, []) => self.stream.write(carried),
            (carried, whole) => {
                self.stream.write_vectored(&[IoSlice::new(carried), IoSlice::new(whole)])
            }
        };
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.pending.extend_from_slice(&carried[sent.min(carried.len())..]);
        self.pending.extend_from_slice(&whole[sent.saturating_sub(carried.len())..]);
        Ok(())
    }
}

/// What one read brought.
struct Received {
    /// Bytes in the shared buffer.
    shared: usize,
    /// Less than there was room for, so the socket is empty.
    is_short: bool,
    is_end: bool,
}

/// The first bytes of a PDU whose last have not come. Its memory stays with the connection.
struct Carry {
    buffer: Vec<u8>,
    filled: usize,
}

impl Carry {
    const fn new() -> Self {
        Self { buffer: Vec::new(), filled: 0 }
    }

    /// Copies from `bytes` what belongs to the PDU that was begun, and returns the others.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        if self.is_empty() { Ok(bytes) } else { self.begin(bytes) }
    }

    fn begin<'a>(&mut self, mut bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        // Two steps at most: to the end of the header, and from there to the end of the PDU. The
        // room is made even if no byte is left for it, as the next read goes there.
        while !bytes.is_empty() || self.filled == HEADER_LEN {
            let target = self.target()?;
            if self.buffer.len() < target {
                self.buffer.resize(target, 0);
            }
            let (now, later) = bytes.split_at(bytes.len().min(target - self.filled));
            self.buffer[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if now.is_empty() {
                break;
            }
        }
        Ok(bytes)
    }

    fn room(&mut self) -> &mut [u8] {
        let target = self.target().expect("the length was checked when the header was whole");
        &mut self.buffer[self.filled..target]
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    fn is_whole(&self) -> io::Result<bool> {
        Ok(self.filled >= HEADER_LEN && self.filled == self.target()?)
    }

    /// Where the bytes that are missing end: those of the header first, as it tells the others.
    fn target(&self) -> io::Result<usize> {
        Ok(pdu_len(self.bytes())?.unwrap_or(HEADER_LEN))
    }
}

/// How many of the first bytes are whole PDUs.
fn whole_len(bytes: &[u8]) -> io::Result<usize> {
    let mut end = 0;
    while let Some(len) = pdu_len(&bytes[end..])? {
        if len > bytes.len() - end {
            break;
        }
        end += len;
    }
    Ok(end)
}

/// The length of the PDU that begins here, if its header is whole.
fn pdu_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some((field, _)) = bytes.split_first_chunk().filter(|_| bytes.len() >= HEADER_LEN) else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*field) as usize;
    if (HEADER_LEN..=PDU_LEN_MAX).contains(&len) {
        Ok(Some(len))
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, format!("a PDU of {len} bytes")))
    }
}

fn token_of(source: &impl AsRawFd) -> usize {
    source.as_raw_fd().unsigned_abs() as usize
}

/// One buffer for the reads of all connections: it stays in the core's cache.
const SHARED_LEN: usize = 64 << 10;
const PDU_LEN_MAX: usize = 1 << 20;
