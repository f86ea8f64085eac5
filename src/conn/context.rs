//! What a connection's method is lent besides the object: its own connection, and all the rest.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::Connection;
use crate::error::SendError;
use crate::event::{Handle, TimerId};
use crate::netlib::{Netlib, Repeat};
use crate::pdu::{Header, Pdu};
use crate::reactor::SendStatus;
use crate::shared::Shared;

/// One connection, for the length of one call of its object's methods.
#[derive(Debug)]
pub struct Context<'n, A> {
    net: &'n mut Netlib<A>,
    handle: Handle,
}

impl<'n, A> Context<'n, A> {
    pub(crate) fn new(net: &'n mut Netlib<A>, handle: Handle) -> Self {
        Self { net, handle }
    }

    /// Queues bytes.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send(&mut self, bytes: &[u8]) -> Result<SendStatus, SendError> {
        self.net.send(self.handle, bytes)
    }

    /// Queues a PDU, encoded straight into the pending bytes.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send_pdu(
        &mut self,
        header: Header,
        message: &impl prost::Message,
    ) -> Result<SendStatus, SendError> {
        self.net.send_pdu(self.handle, header, message)
    }

    /// Queues bytes that others get as well, see [`Netlib::send_shared`]. For the others there is
    /// [`Netlib::broadcast`], by way of [`net`](Self::net).
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send_shared(&mut self, shared: &Shared) -> Result<SendStatus, SendError> {
        self.net.send_shared(self.handle, shared)
    }

    /// Queues the answer to a request: it has the request's service id and sequence number, and a
    /// command id of its own.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn reply(
        &mut self,
        request: &Pdu<'_>,
        command_id: u16,
        message: &impl prost::Message,
    ) -> Result<SendStatus, SendError> {
        let asked = request.header().unwrap_or_default();
        let header = Header::new(asked.service_id, command_id).with_seq(asked.seq);
        self.net.send_pdu(self.handle, header, message)
    }

    /// Closes this connection gracefully; the object is dropped when the method has returned. A
    /// connection that is closed already stays so.
    pub fn close(&mut self) {
        // Stale says that it is closed already.
        let _ = self.net.close(self.handle);
    }

    /// Closes this connection at once, by a reset. A connection that is closed already stays so.
    pub fn abort(&mut self) {
        let _ = self.net.abort(self.handle);
    }

    /// Says that the application takes this connection for a real one, see
    /// [`Netlib::mark_ready`].
    pub fn mark_ready(&mut self) {
        // Stale says that it is closed already, and then there is nothing to be ready for.
        let _ = self.net.mark_ready(self.handle);
    }

    /// Stops receiving from this peer, see [`Netlib::pause_receive`].
    pub fn pause_receive(&mut self) {
        let _ = self.net.pause_receive(self.handle);
    }

    /// Receives from this peer again; what was kept is delivered by the next turn.
    pub fn resume_receive(&mut self) {
        let _ = self.net.resume_receive(self.handle);
    }

    /// One more thing that this peer got wrong; how many there are by now.
    pub(super) fn count_error(&mut self) -> u32 {
        self.net.count_error(self.handle)
    }

    /// Puts another object in this one's place; this one is dropped when the method has returned.
    pub fn replace(&mut self, object: Box<dyn Connection<A>>) {
        self.net.set_object(self.handle, object);
    }

    /// Calls [`on_timer`](Connection::on_timer) after `interval`, once or again and again. The
    /// timer is deleted with the connection.
    pub fn set_timer(&mut self, interval: Duration, repeat: Repeat) -> TimerId {
        self.net.set_connection_timer(self.handle, interval, repeat)
    }

    /// This connection's handle, for others to reach it by.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Everything else: other connections by their handles, listeners, timers, statistics.
    pub fn net(&mut self) -> &mut Netlib<A> {
        self.net
    }
}
