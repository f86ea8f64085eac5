//! What a connection's method is lent besides the object: its own connection, and all the rest.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::{Answer, Call, CallRefused, Connection};
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

    /// Sends a received PDU on, as [`Netlib::forward`] does.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn forward(&mut self, pdu: Pdu<'_>) -> Result<SendStatus, SendError> {
        self.net.forward(self.handle, pdu)
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

    /// Sends a request, and calls `handler` with the reply, or with the reason why there is none.
    ///
    /// The library picks the sequence number, from 1 to 65535 and round again: one that no other
    /// call of this connection has, and as long after its last use as can be. The reply is the PDU
    /// that has it and the ids that [`Call`] says; it goes to `handler` instead of
    /// [`on_pdu`](Connection::on_pdu). Without one within `timeout`, in whole milliseconds and at
    /// least one, never early, the answer is [`TimedOut`], and a reply that comes later goes to
    /// `on_pdu`. While receiving is paused no reply comes, and time goes on.
    ///
    /// A call that was accepted gets exactly one answer, from the event loop (C1). When the
    /// connection ends it is [`Closed`], before [`on_close`](Connection::on_close): nothing can be
    /// sent then, and closing changes nothing. After the application's own close or abort there is
    /// no answer (C2), and the handler is dropped.
    ///
    /// The handler is lent what a method of the object is lent: inside it every call is allowed,
    /// and a panic closes the connection. `C` is the type of the object, which the handler names.
    /// A call outlives a [`replace`](Self::replace) by an object of the same type. If the object is
    /// of another type when the answer comes, the handler is dropped, and a reply goes to that
    /// object's `on_pdu`.
    ///
    /// [`TimedOut`]: super::CallError::TimedOut
    /// [`Closed`]: super::CallError::Closed
    ///
    /// ```
    /// use std::time::Duration;
    /// use uring_netlib::conn::{Call, CallError, Connection, Context};
    /// use uring_netlib::pdu::Header;
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct Login {
    ///     #[prost(string, tag = "1")]
    ///     name: String,
    /// }
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct LoginReply {
    ///     #[prost(uint32, tag = "1")]
    ///     user_id: u32,
    /// }
    ///
    /// const LOGIN: Call = Call::new(Header::new(1, 0x0103), 0x0104);
    ///
    /// struct Client {
    ///     user_id: Option<u32>,
    /// }
    ///
    /// impl Connection<()> for Client {
    ///     fn on_confirm(&mut self, _: &mut (), context: &mut Context<'_, ()>) {
    ///         let (login, limit) = (Login { name: "ann".into() }, Duration::from_secs(15));
    ///         let call = context.call(LOGIN, &login, limit, |me: &mut Self, _, context, answer| {
    ///             match answer.map(|pdu| pdu.decode::<LoginReply>()) {
    ///                 Ok(Ok(reply)) => me.user_id = Some(reply.user_id),
    ///                 Ok(Err(_)) | Err(CallError::TimedOut) => context.close(),
    ///                 // The connection is over, and `on_close` comes next.
    ///                 Err(_) => {}
    ///             }
    ///         });
    ///         if call.is_err() {
    ///             context.abort();
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// [`CallRefused`]: nothing was sent, and `handler` will not be called.
    pub fn call<C, F>(
        &mut self,
        call: Call,
        message: &impl prost::Message,
        timeout: Duration,
        handler: F,
    ) -> Result<SendStatus, CallRefused>
    where
        C: 'static,
        F: FnOnce(&mut C, &mut A, &mut Context<'_, A>, Answer<'_>) + 'static,
    {
        self.net.call(self.handle, call, message, timeout, handler)
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
