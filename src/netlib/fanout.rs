//! One body to many receivers.

#![forbid(unsafe_code)]

use bytes::Bytes;

use super::Netlib;
use crate::error::SendError;
use crate::event::Handle;
use crate::pdu::Pdu;
use crate::reactor::SendStatus;
use crate::shared::Shared;

impl<A> Netlib<A> {
    /// Queues bytes that others get as well, without copying them; those below 512 bytes are copied
    /// all the same, because it is cheaper. Otherwise as [`send`](Self::send), order included. The
    /// limits of the socket's backlog count them in full.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send_shared(
        &mut self,
        handle: Handle,
        shared: &Shared,
    ) -> Result<SendStatus, SendError> {
        self.reactor.queue_shared(handle, shared)
    }

    /// Sends a received PDU on, as it came: to whoever sent it, or to somebody else. Otherwise as
    /// [`send`](Self::send). A PDU that was received into a buffer of its own is not copied on its
    /// way, see [`Pdu::to_bytes`].
    ///
    /// ```
    /// use uring_netlib::{Event, Handle, Netlib};
    ///
    /// fn echo(_: &mut (), net: &mut Netlib<()>, handle: Handle, event: Event<'_>) {
    ///     if let Event::Pdu(pdu) = event
    ///         && let Err(error) = net.forward(handle, pdu)
    ///     {
    ///         println!("{} bytes are not answered: {error}", pdu.frame().len());
    ///     }
    /// }
    /// # let _ = echo;
    /// ```
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    #[inline]
    pub fn forward(&mut self, handle: Handle, pdu: Pdu<'_>) -> Result<SendStatus, SendError> {
        match pdu.owner() {
            Some(owner) => self.share(handle, owner, pdu.frame().len()),
            None => self.send(handle, pdu.frame()),
        }
    }

    #[inline(never)]
    fn share(
        &mut self,
        handle: Handle,
        owner: &Bytes,
        len: usize,
    ) -> Result<SendStatus, SendError> {
        self.send_shared(handle, &Shared::from(owner.slice(..len)))
    }

    /// Queues the same bytes for many, as [`send_shared`](Self::send_shared) does for each of them,
    /// and counts how it went. Whoever has no room, is not connected or is closed already is
    /// refused, and the others are served. To know who was refused, send to each by itself.
    ///
    /// ```
    /// use uring_netlib::{Event, Handle, Netlib, Shared};
    ///
    /// /// A room in which everybody hears what anybody says.
    /// #[derive(Default)]
    /// struct Room {
    ///     guests: Vec<Handle>,
    /// }
    ///
    /// fn on_event(room: &mut Room, net: &mut Netlib<Room>, handle: Handle, event: Event<'_>) {
    ///     match event {
    ///         Event::Connect { .. } => room.guests.push(handle),
    ///         Event::Close(_) => room.guests.retain(|guest| *guest != handle),
    ///         Event::Pdu(said) => {
    ///             let shared = Shared::from(said.to_bytes());
    ///             let told = net.broadcast(room.guests.iter().copied(), &shared);
    ///             println!("{} guests are too slow", told.refused);
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// # let _ = on_event;
    /// ```
    pub fn broadcast(
        &mut self,
        handles: impl IntoIterator<Item = Handle>,
        shared: &Shared,
    ) -> Broadcast {
        let mut broadcast = Broadcast::default();
        for handle in handles {
            let count = match self.reactor.queue_shared(handle, shared) {
                Ok(SendStatus::Queued) => &mut broadcast.queued,
                Ok(SendStatus::AboveHighMark) => &mut broadcast.above_high_mark,
                Err(_) => &mut broadcast.refused,
            };
            *count += 1;
        }
        broadcast
    }
}

/// What became of a broadcast; each receiver is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "receivers may have been refused"]
pub struct Broadcast {
    /// Those it will be sent to, and who have room for more.
    pub queued: usize,
    /// Those it will be sent to, and who are to get no more until
    /// [`Event::Write`](crate::Event::Write).
    pub above_high_mark: usize,
    /// Those it will not be sent to.
    pub refused: usize,
}
