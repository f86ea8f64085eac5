//! Bytes that are kept for sockets: what is queued for each, and the count of all.
//!
//! What a socket has is its backlog's and its reader's business; here is how bytes come in and go
//! out, and what happens when all sockets together keep too many. A shared body counts once.

#![forbid(unsafe_code)]

use super::backlog::{Backlog, SendStatus};
use super::{Reactor, Socket, Spare, State, sendable};
use crate::driver::{Lending, Outgoing, PLACE_LEN};
use crate::error::SendError;
use crate::event::Handle;
use crate::shared::{Queued, Shared};

impl<C> Reactor<C> {
    /// Queues bytes by letting `write` append `len` of them to the pending ones.
    pub(crate) fn queue(
        &mut self,
        handle: Handle,
        len: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<SendStatus, SendError> {
        self.admit(handle, len, len, self.sendable_max, |backlog, spare, _| {
            write(backlog.pending(len, spare));
            Kept { own: len, shared: 0 }
        })
    }

    /// Queues bytes: a copy, or by reference where they are of what is being delivered.
    pub(crate) fn queue_bytes(
        &mut self,
        handle: Handle,
        bytes: &[u8],
    ) -> Result<SendStatus, SendError> {
        let len = bytes.len();
        self.admit(handle, len, len, self.sendable_max, |backlog, spare, lending| {
            if let Some(lending) = lending
                && let Some(range) = lending.position_of(bytes)
            {
                // What a loan takes is found out when all of the turn's are known.
                return Kept { own: backlog.lend(lending.lender(), range, spare), shared: 0 };
            }
            backlog.pending(len, spare).extend_from_slice(bytes);
            Kept { own: len, shared: 0 }
        })
    }

    /// Queues bytes whatever all sockets together keep.
    pub(crate) fn queue_promised(
        &mut self,
        handle: Handle,
        bytes: &[u8],
    ) -> Result<SendStatus, SendError> {
        let len = bytes.len();
        self.admit(handle, len, len, usize::MAX, |backlog, spare, _| {
            backlog.pending(len, spare).extend_from_slice(bytes);
            Kept { own: len, shared: 0 }
        })
    }

    /// Queues a shared body by reference, or a copy of a short one.
    pub(crate) fn queue_shared(
        &mut self,
        handle: Handle,
        shared: &Shared,
    ) -> Result<SendStatus, SendError> {
        let len = shared.len();
        if len < SHARED_LEN_MIN {
            return self.queue(handle, len, |pending| pending.extend_from_slice(shared.bytes()));
        }
        let ledger = self.ledger;
        let body_len = if shared.is_counted_by(ledger) { 0 } else { len };
        let charge = PLACE_LEN + body_len;
        self.admit(handle, len, charge, self.sendable_max, |backlog, spare, _| {
            backlog.push(Queued::new(shared, ledger), spare);
            Kept { own: PLACE_LEN, shared: body_len }
        })
    }

    /// Whether so many bytes more may be queued. What is being received keeps some room for
    /// itself, as it cannot be refused.
    pub(crate) const fn has_room(&self, len: usize) -> bool {
        self.buffered.saturating_add(len) <= self.sendable_max
    }

    /// How many bytes more may be queued.
    pub(crate) const fn room(&self) -> usize {
        self.sendable_max.saturating_sub(self.buffered)
    }

    /// Takes apart what was sent, or was given up and will not be.
    pub(crate) fn recycle(&mut self, outgoing: Outgoing) {
        let (mut freed, spare) = (0, &mut self.spare);
        let load = outgoing.dismantle(|queued| {
            if queued.is_only() {
                freed += queued.bytes().len();
                reuse(queued, spare);
            }
        });
        self.buffered -= freed;
        if let Some(load) = load {
            self.spare.give_load(load);
        }
    }

    /// Counts the bytes kept for a socket anew, after they have changed.
    pub(crate) fn recount(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        self.buffered = self.buffered - socket.counted + socket.count();
    }

    pub(crate) const fn buffered(&self) -> usize {
        self.buffered
    }

    /// Whether more is kept than may be.
    pub(crate) const fn is_overfull(&self) -> bool {
        self.buffered > self.buffered_max
    }

    /// The socket for which the most bytes are kept.
    pub(crate) fn largest(&self) -> Option<(Handle, State)> {
        // Room that was given is not what the peer has sent.
        let kept = |socket: &Socket<C>| socket.counted.saturating_sub(socket.bulk.lent_len());
        let sockets = self.sockets.iter().filter(|(_, socket)| kept(socket) > 0);
        let largest = sockets.max_by_key(|(_, socket)| kept(socket));
        largest.map(|(handle, socket)| (handle, socket.state()))
    }

    /// Frees what is kept for a socket that is being cancelled; only what is in flight stays.
    pub(crate) fn give_up(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let (pending, reader) = (socket.backlog.clear(), std::mem::take(&mut socket.reader));
        self.recycle(pending);
        self.spare.give(reader.into_buffer());
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let before = socket.counted;
        socket.counted = 0;
        self.buffered -= before;
    }

    /// Sockets that were refused for want of room.
    pub(crate) fn crowd_len(&self) -> usize {
        self.crowd.len()
    }

    /// Whether there is room again for those that were refused for want of it.
    pub(super) const fn may_tell_crowd(&self) -> bool {
        self.buffered <= self.buffered_max / 4 * 3
    }

    /// The next of the sockets that were refused for want of room, if there is room again.
    pub(crate) fn pop_crowded(&mut self) -> Option<Handle> {
        if !self.may_tell_crowd() {
            return None;
        }
        let handle = self.crowd.pop_front()?;
        if let Some(socket) = self.sockets.find_mut(handle) {
            socket.is_crowded = false;
        }
        Some(handle)
    }

    /// Lets `append` queue `len` bytes, for which at most `charge` are kept, if all sockets keep no
    /// more than `max` together then. The one way in; [`recycle`](Self::recycle) is the way out.
    #[inline]
    fn admit(
        &mut self,
        handle: Handle,
        len: usize,
        charge: usize,
        max: usize,
        append: impl FnOnce(&mut Backlog, &mut Spare, Option<&Lending>) -> Kept,
    ) -> Result<SendStatus, SendError> {
        let socket = sendable(&mut self.sockets, handle)?;
        let queued = match socket.backlog.admit(len) {
            Ok(queued) => queued,
            Err(error) => {
                self.stats.sends_refused += u64::from(matches!(error, SendError::Full { .. }));
                return Err(error);
            }
        };
        if len == 0 {
            return Ok(socket.backlog.status(queued));
        }
        if self.buffered.saturating_add(charge) > max {
            return Err(self.refuse_crowded(handle, len, charge));
        }
        socket.pulse.note_sent(self.now_ms);
        let kept = append(&mut socket.backlog, &mut self.spare, self.lending.as_ref());
        socket.counted += kept.own;
        self.buffered += kept.own + kept.shared;
        self.stats.messages_out += 1;
        if !socket.is_dirty {
            socket.is_dirty = true;
            self.dirty.push(handle);
        }
        Ok(socket.backlog.status(queued))
    }

    /// All together keep too many bytes for `charge` more.
    #[cold]
    fn refuse_crowded(&mut self, handle: Handle, len: usize, charge: usize) -> SendError {
        let max = self.sendable_max;
        if charge > max {
            return SendError::TooLong { len, max };
        }
        self.stats.sends_refused += 1;
        let Some(socket) = self.sockets.find_mut(handle) else { return SendError::Stale };
        if !socket.is_crowded {
            socket.is_crowded = true;
            self.crowd.push_back(handle);
        }
        SendError::Exhausted { buffered: self.buffered }
    }
}

/// Bytes that are kept once some are queued, and were not before.
struct Kept {
    /// For that socket alone.
    own: usize,
    /// Those of a body that others share.
    shared: usize,
}

/// Keeps the memory of a body that nobody has any more.
#[inline(never)]
fn reuse(queued: Queued, spare: &mut Spare) {
    if queued.bytes().len() >= REUSED_LEN_MIN
        && let Some(buffer) = queued.into_buffer()
    {
        spare.give(buffer);
    }
}

/// Of shorter bodies the memory is not worth looking after.
const REUSED_LEN_MIN: usize = 4096;

/// Shorter bodies are copied: an entry of their own in a send costs more.
const SHARED_LEN_MIN: usize = 512;
