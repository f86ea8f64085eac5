//! What passes between two sockets of a simulated network: attempts to connect, bytes, ends and
//! resets, each after its delay, in order, and only for as long as there is room.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::socket::{Content, Role, Segment, Socket, Stream};
use super::trace::Note;
use super::world::{Happening, Id, World};
use crate::error::Errno;

impl World {
    /// An attempt to connect reaches its host.
    pub(super) fn knock(&mut self, id: Id, attempt: u32) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let Role::Connecting { peer, answer: None } = socket.role else { return };
        let (from, is_lost) = (socket.host, socket.is_lost);
        if is_lost {
            return;
        }
        let Some(to) = self.find_host(peer.ip()) else {
            return self.settle(id, Errno(libc::EHOSTUNREACH));
        };
        let is_cut = self.shut_until(from, to).or(self.shut_until(to, from)).is_some();
        if is_cut || self.is_down(to) {
            return self.knock_again(id, attempt);
        }
        let listener = self.listeners.get(&peer).copied();
        let Some(listener) = listener else {
            return self.settle(id, Errno(libc::ECONNREFUSED));
        };
        if self.chance(self.faults.refuse) {
            self.counts.refused += 1;
            return self.settle(id, Errno(libc::ECONNREFUSED));
        }
        let has_room = self.sockets.get(&listener).is_some_and(|socket| match &socket.role {
            Role::Listener { queue, capacity, .. } => queue.len() < *capacity,
            Role::Fresh | Role::Connecting { .. } | Role::Stream(_) => false,
        });
        if has_room { self.pair(id, listener) } else { self.knock_again(id, attempt) }
    }

    /// Nobody has answered. The kernel asks again, after twice as long each time.
    fn knock_again(&mut self, id: Id, attempt: u32) {
        if attempt >= ATTEMPTS_MAX {
            return self.settle(id, Errno(libc::ETIMEDOUT));
        }
        self.note(id, Note::Retries(attempt + 1));
        self.plan(SECOND << attempt, Happening::Knock(id, attempt + 1));
    }

    fn settle(&mut self, id: Id, errno: Errno) {
        if errno.0 == libc::ECONNREFUSED {
            self.note(id, Note::Refused);
        }
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if let Role::Connecting { answer, .. } = &mut socket.role {
            *answer = Some(errno);
        }
        let node = socket.node;
        self.stir(node);
    }

    /// Makes a connection of an attempt and a new socket in a listener's queue.
    fn pair(&mut self, client: Id, listener: Id) {
        let (send_capacity, receive_capacity) = (self.capacity(), self.capacity());
        let Some(served) = self.sockets.get(&listener) else { return };
        let (host, local, server) = (served.host, served.local, served.node);
        let Some(socket) = self.sockets.get(&client) else { return };
        let (peer, client_host) = (socket.local, socket.host);
        let accepted = Socket {
            node: None,
            host,
            local,
            is_closed: false,
            is_lost: false,
            send_capacity,
            receive_capacity,
            nodelay: true,
            keepalive: None,
            role: Role::Stream(Stream::new(client, client_host, peer)),
        };
        let accepted = self.insert(accepted);
        if let Some(Socket { role: Role::Listener { queue, .. }, .. }) =
            self.sockets.get_mut(&listener)
        {
            queue.push_back(accepted);
        }
        let mut stream = Stream::new(accepted, host, local);
        stream.is_answered = false;
        if let Some(socket) = self.sockets.get_mut(&client) {
            socket.role = Role::Stream(stream);
        }
        self.note(accepted, Note::Queued);
        self.stir(server);
        let delay = self.delay();
        self.plan(delay, Happening::Answer(client));
    }

    /// The answer to an attempt reaches who made it.
    pub(super) fn answer(&mut self, id: Id) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let (host, node) = (socket.host, socket.node);
        let Some(stream) = self.stream(id).filter(|stream| !stream.is_answered) else { return };
        if let Some(until) = self.shut_until(stream.other_host, host) {
            return self.wait_until(until, Happening::Answer(id));
        }
        if let Some(stream) = self.stream_mut(id) {
            stream.is_answered = true;
        }
        self.note(id, Note::Connected);
        self.stir(node);
    }

    /// Plans for when a link is open again, unless only a healing opens it.
    fn wait_until(&mut self, until: u64, happening: Happening) {
        if until != u64::MAX {
            let delay = until - self.now() + self.delay();
            self.plan(delay, happening);
        }
    }

    /// How many bytes a socket may send at once.
    pub(super) fn room(&self, id: Id) -> usize {
        let Some(socket) = self.sockets.get(&id) else { return 0 };
        match &socket.role {
            Role::Stream(stream) => socket.send_capacity.saturating_sub(stream.outbox_len),
            Role::Fresh | Role::Listener { .. } | Role::Connecting { .. } => 0,
        }
    }

    /// Sends bytes, for which there is room.
    pub(super) fn push(&mut self, id: Id, bytes: VecDeque<u8>) {
        self.note(id, Note::Sent(bytes.len()));
        if let Some(stream) = self.stream_mut(id) {
            stream.outbox_len += bytes.len();
        }
        self.dispatch(id, Content::Data(bytes));
    }

    /// Says that nothing more will be sent.
    pub(super) fn shut_down(&mut self, id: Id) {
        let Some(stream) = self.stream_mut(id) else { return };
        if !stream.is_dead && !std::mem::replace(&mut stream.is_shut, true) {
            self.note(id, Note::Shut);
            self.dispatch(id, Content::End);
        }
    }

    /// Ends both directions at once. What was sent and has not arrived is lost, or some of it.
    pub(super) fn reset(&mut self, id: Id) {
        self.note(id, Note::Reset);
        let Some(stream) = self.stream(id) else { return };
        let left = stream.outbox.len();
        let left = self.decisions.index(left + 1);
        if let Some(stream) = self.stream_mut(id) {
            stream.is_dead = true;
            stream.keep_first(left);
        }
        let node = self.sockets.get(&id).and_then(|socket| socket.node);
        self.stir(node);
        self.dispatch(id, Content::Reset);
    }

    fn dispatch(&mut self, id: Id, content: Content) {
        let time = self.now() + self.delay();
        let Some(stream) = self.stream_mut(id) else { return };
        let time = time.max(stream.last_time);
        stream.last_time = time;
        stream.outbox.push_back(Segment { time, content });
        let delay = time - self.now();
        self.plan(delay, Happening::Deliver(id));
    }

    /// What a socket has sent reaches its peer, for as long as it is due and there is room.
    pub(super) fn deliver(&mut self, id: Id) {
        loop {
            let now = self.now();
            let Some(socket) = self.sockets.get(&id) else { return };
            let Role::Stream(stream) = &socket.role else { return };
            let Some(segment) = stream.outbox.front().filter(|first| first.time <= now) else {
                break;
            };
            let (host, other, other_host) = (socket.host, stream.other, stream.other_host);
            let is_data = matches!(segment.content, Content::Data(_));
            if let Some(until) = self.shut_until(host, other_host) {
                return self.wait_until(until, Happening::Deliver(id));
            }
            if self.is_down(other_host) {
                return;
            }
            if is_data && self.chance(self.faults.reset) {
                self.counts.resets += 1;
                self.on_reset(id);
                self.on_reset(other);
                self.bury(other);
                return self.bury(id);
            }
            let is_going_on =
                if is_data { self.carry(id, other) } else { self.conclude(id, other) };
            if !is_going_on {
                break;
            }
        }
        self.bury(id);
    }

    /// Carries the first piece of data to the peer; whether there may be more to do.
    fn carry(&mut self, id: Id, other: Id) -> bool {
        let now = self.now();
        let Some(target) = self.sockets.get(&other) else {
            // It had seen the end of this stream, so this cannot be but after a reset.
            self.on_reset(id);
            return true;
        };
        let is_gone = target.is_closed || target.is_lost;
        let (capacity, target_node) = (target.receive_capacity, target.node);
        let Role::Stream(receiver) = &target.role else { return false };
        if receiver.is_dead {
            if let Some(stream) = self.stream_mut(id) {
                stream.drop_outbox();
            }
            return true;
        }
        if is_gone || receiver.is_deaf {
            self.reset(other);
            return true;
        }
        let room = capacity.saturating_sub(receiver.inbox.len());
        let len = self.part(room.min(self.first_len(id)));
        let turned = self.turned_bit(len);
        let Some(sender) = self.stream_mut(id) else { return false };
        if room == 0 && sender.is_dead {
            // A reset waits for no room; what is before it is lost.
            sender.drop_outbox();
            return true;
        }
        let Some(Segment { content: Content::Data(bytes), time }) = sender.outbox.front_mut()
        else {
            return false;
        };
        let mut piece: Vec<u8> = bytes.drain(..len).collect();
        if let Some((position, bit)) = turned {
            piece[position] ^= bit;
        }
        let is_whole = bytes.is_empty();
        if !is_whole && len < room {
            *time = now + 1;
        }
        sender.outbox_len -= len;
        sender.acknowledged += len as u64;
        let is_dead = sender.is_dead;
        if is_whole {
            sender.outbox.pop_front();
        } else if len < room {
            self.plan(1, Happening::Deliver(id));
        }
        if len > 0 {
            if let Some(receiver) = self.stream_mut(other) {
                receiver.inbox.extend(piece);
            }
            self.note(other, Note::Arrived(len));
            self.stir(target_node);
            let node = self.sockets.get(&id).and_then(|socket| socket.node);
            self.stir(node);
        }
        // What a reset comes behind must not wait for room.
        is_whole || is_dead
    }

    /// How long the piece of data is that a socket sends next.
    fn first_len(&self, id: Id) -> usize {
        match self.stream(id).and_then(|stream| stream.outbox.front()) {
            Some(Segment { content: Content::Data(bytes), .. }) => bytes.len(),
            _ => 0,
        }
    }

    /// Which byte of so many arrives wrong, and the bit of it that is turned over.
    fn turned_bit(&mut self, len: usize) -> Option<(usize, u8)> {
        if len == 0 || !self.chance(self.faults.corrupt) {
            return None;
        }
        self.counts.corrupted += 1;
        Some((self.decisions.index(len), 1 << self.decisions.below(8)))
    }

    /// The end of a stream, or a reset, reaches the peer; whether there may be more to do.
    fn conclude(&mut self, id: Id, other: Id) -> bool {
        let Some(stream) = self.stream_mut(id) else { return false };
        let Some(Segment { content, .. }) = stream.outbox.pop_front() else { return false };
        if matches!(content, Content::Reset) {
            stream.drop_outbox();
            self.on_reset(other);
            self.bury(other);
            return false;
        }
        let Some(target) = self.sockets.get_mut(&other) else { return true };
        let (node, is_lost) = (target.node, target.is_lost);
        let Role::Stream(receiver) = &mut target.role else { return true };
        if is_lost && !receiver.is_dead {
            self.reset(other);
            return true;
        }
        receiver.has_end = true;
        self.note(other, Note::EndArrived);
        self.stir(node);
        self.bury(other);
        true
    }

    fn on_reset(&mut self, id: Id) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let node = socket.node;
        let Role::Stream(stream) = &mut socket.role else { return };
        stream.drop_outbox();
        if std::mem::replace(&mut stream.is_dead, true) {
            return;
        }
        stream.error = Some(Errno(libc::ECONNRESET));
        stream.is_answered = true;
        self.note(id, Note::WasReset);
        self.stir(node);
    }

    /// Takes a socket away that its program has closed and that has nothing left to do.
    pub(super) fn bury(&mut self, id: Id) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let Role::Stream(stream) = &socket.role else { return };
        let has_peer = self.sockets.contains_key(&stream.other);
        let is_over = stream.is_dead || stream.has_end || !has_peer;
        if socket.is_closed && stream.outbox.is_empty() && is_over {
            self.sockets.remove(&id);
        }
    }

    /// Takes the next client out of a listener's queue.
    pub(super) fn pop_client(&mut self, id: Id) -> Option<Id> {
        match &mut self.sockets.get_mut(&id)?.role {
            Role::Listener { queue, .. } => queue.pop_front(),
            Role::Fresh | Role::Connecting { .. } | Role::Stream(_) => None,
        }
    }

    /// Bytes were received, so more may arrive.
    pub(super) fn made_room(&mut self, id: Id) {
        let Some(other) = self.stream(id).map(|stream| stream.other) else { return };
        if self.stream(other).is_some_and(|peer| !peer.outbox.is_empty()) {
            let delay = self.delay();
            self.plan(delay, Happening::Deliver(other));
        }
    }
}

impl Stream {
    /// Drops all but so many of the pieces that are on their way.
    pub(super) fn keep_first(&mut self, count: usize) {
        self.outbox.truncate(count);
        let len = |segment: &Segment| match &segment.content {
            Content::Data(bytes) => bytes.len(),
            Content::End | Content::Reset => 0,
        };
        self.outbox_len = self.outbox.iter().map(len).sum();
    }

    fn drop_outbox(&mut self) {
        // A reset that is on its way stays: it is all that the peer will hear.
        self.outbox.retain(|segment| matches!(segment.content, Content::Reset));
        self.outbox_len = 0;
    }
}

/// Attempts of one connect, which take 127 s.
const ATTEMPTS_MAX: u32 = 6;
const SECOND: u64 = 1_000_000_000;
