//! One socket of a simulated network: what it is, and what may be asked of it at once.
//!
//! What takes time is in `transport.rs`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::trace::Note;
use super::world::{Happening, Id, World};
use crate::driver::End;
use crate::error::Errno;

#[derive(Debug)]
pub(super) struct Socket {
    /// Whose it is; nobody's before it is adopted, and after it is closed.
    pub(super) node: Option<usize>,
    pub(super) host: usize,
    pub(super) local: SocketAddr,
    pub(super) is_closed: bool,
    pub(super) is_lost: bool,
    /// Bytes of what was sent and has not arrived.
    pub(super) send_capacity: usize,
    /// Bytes of what has arrived and was not received.
    pub(super) receive_capacity: usize,
    pub(super) nodelay: bool,
    pub(super) keepalive: Option<Duration>,
    pub(super) role: Role,
}

#[derive(Debug)]
pub(super) enum Role {
    Fresh,
    Listener { queue: VecDeque<Id>, capacity: usize, is_open: bool },
    Connecting { peer: SocketAddr, answer: Option<Errno> },
    Stream(Stream),
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    /// The other end, which may be gone.
    pub(super) other: Id,
    pub(super) other_host: usize,
    pub(super) peer: SocketAddr,
    /// Whether who asked for it has been told that it is there.
    pub(super) is_answered: bool,
    /// What was sent and has not arrived.
    pub(super) outbox: VecDeque<Segment>,
    pub(super) outbox_len: usize,
    /// When the last of it arrives at the earliest: nothing overtakes it.
    pub(super) last_time: u64,
    /// What has arrived and was not received.
    pub(super) inbox: VecDeque<u8>,
    pub(super) has_end: bool,
    /// The reset that no operation has reported yet.
    pub(super) error: Option<Errno>,
    /// Nothing goes either way any more.
    pub(super) is_dead: bool,
    /// Its end was sent.
    pub(super) is_shut: bool,
    /// Nothing more is received.
    pub(super) is_deaf: bool,
    pub(super) resets_on_close: bool,
    /// Bytes that have arrived at the peer.
    pub(super) acknowledged: u64,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) time: u64,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Data(VecDeque<u8>),
    End,
    Reset,
}

impl Stream {
    pub(super) const fn new(other: Id, other_host: usize, peer: SocketAddr) -> Self {
        Self {
            other,
            other_host,
            peer,
            is_answered: true,
            outbox: VecDeque::new(),
            outbox_len: 0,
            last_time: 0,
            inbox: VecDeque::new(),
            has_end: false,
            error: None,
            is_dead: false,
            is_shut: false,
            is_deaf: false,
            resets_on_close: false,
            acknowledged: 0,
        }
    }

    pub(super) fn is_readable(&self) -> bool {
        !self.inbox.is_empty() || self.has_end || self.is_dead || self.is_deaf
    }
}

impl World {
    pub(super) fn open(&mut self, node: usize) -> Socket {
        let host = self.host_of(node);
        Socket {
            node: None,
            host,
            local: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            is_closed: false,
            is_lost: self.is_lost(node),
            send_capacity: self.capacity(),
            receive_capacity: self.capacity(),
            nodelay: true,
            keepalive: None,
            role: Role::Fresh,
        }
    }

    pub(super) fn listen(
        &mut self,
        node: usize,
        address: SocketAddr,
        capacity: usize,
    ) -> Result<Id, Errno> {
        let host = self.host_of(node);
        let ip = self.address(host);
        if !address.ip().is_unspecified() && address.ip() != ip {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        let port = if address.port() == 0 { self.free_port(host) } else { address.port() };
        let local = SocketAddr::new(ip, port);
        if self.is_lost(node) || self.listeners.contains_key(&local) {
            return Err(Errno(libc::EADDRINUSE));
        }
        let mut socket = self.open(node);
        socket.local = local;
        socket.role = Role::Listener { queue: VecDeque::new(), capacity, is_open: true };
        let id = self.insert(socket);
        self.listeners.insert(local, id);
        self.note(id, Note::Listens(port));
        Ok(id)
    }

    pub(super) fn connect(&mut self, id: Id, peer: SocketAddr) {
        let Some(host) = self.sockets.get(&id).map(|socket| socket.host) else { return };
        let local = SocketAddr::new(self.address(host), self.free_port(host));
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.local = local;
        socket.role = Role::Connecting { peer, answer: None };
        self.note(id, Note::Connects(peer.port()));
        let mut delay = self.delay();
        if self.chance(self.faults.late_connect) {
            self.counts.late_connects += 1;
            delay += self.decisions.between(0, LATE_MAX);
        }
        self.plan(delay, Happening::Knock(id, 0));
    }

    pub(super) fn stream(&self, id: Id) -> Option<&Stream> {
        match &self.sockets.get(&id)?.role {
            Role::Stream(stream) => Some(stream),
            Role::Fresh | Role::Listener { .. } | Role::Connecting { .. } => None,
        }
    }

    pub(super) fn stream_mut(&mut self, id: Id) -> Option<&mut Stream> {
        match &mut self.sockets.get_mut(&id)?.role {
            Role::Stream(stream) => Some(stream),
            Role::Fresh | Role::Listener { .. } | Role::Connecting { .. } => None,
        }
    }

    pub(super) fn end(&mut self, id: Id, end: End) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let node = socket.node;
        match (&mut socket.role, end) {
            (Role::Stream(stream), End::Reset) => stream.resets_on_close = true,
            (Role::Stream(stream), End::Both) => {
                stream.is_deaf = true;
                self.shut_down(id);
            }
            (Role::Stream(_), End::Write) => self.shut_down(id),
            (Role::Listener { .. }, End::Both) => self.stop_listening(id),
            (Role::Fresh | Role::Listener { .. } | Role::Connecting { .. }, _) => {}
        }
        self.stir(node);
    }

    pub(super) fn close(&mut self, id: Id) {
        self.note(id, Note::Closed);
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.node = None;
        if socket.is_lost {
            return self.bury(id);
        }
        socket.is_closed = true;
        match &socket.role {
            Role::Listener { .. } => {
                self.stop_listening(id);
                self.sockets.remove(&id);
            }
            Role::Fresh | Role::Connecting { .. } => {
                self.sockets.remove(&id);
            }
            Role::Stream(stream) => {
                // A close with unread bytes is a reset.
                let is_reset =
                    stream.resets_on_close || !stream.is_answered || !stream.inbox.is_empty();
                match (stream.is_dead, is_reset) {
                    (true, _) => {}
                    (false, true) => self.reset(id),
                    (false, false) => self.shut_down(id),
                }
                self.bury(id);
            }
        }
    }

    /// Frees the address, and lets go of who waits to be accepted.
    fn stop_listening(&mut self, id: Id) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let local = socket.local;
        let Role::Listener { queue, is_open, .. } = &mut socket.role else { return };
        *is_open = false;
        let waiting = std::mem::take(queue);
        if self.listeners.get(&local) == Some(&id) {
            self.listeners.remove(&local);
        }
        for client in waiting {
            if let Some(stream) = self.stream_mut(client) {
                stream.resets_on_close = true;
            }
            self.close(client);
        }
    }
}

/// How late an answer to an attempt to connect may be: 10 s.
const LATE_MAX: u64 = 10_000_000_000;
