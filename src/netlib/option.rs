//! Options of one open socket: typed, read and set through [`Netlib::option`].

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use super::Netlib;
use super::tell::Owner;
use crate::address::Address;
use crate::driver::{Driver, Family, View};
use crate::error::OptionError;
use crate::event::{Callback, Handle};
use crate::options::{BacklogLimits, Delivery, Limits, Liveness};
use crate::reactor::Socket;

/// One socket's options, from [`Netlib::option`].
///
/// A listener's callback, user data, delivery, backlog limits, liveness and limits are what its
/// accepted sockets start with.
///
/// ```
/// use uring_netlib::{Delivery, Event, Handle, Netlib, Options};
///
/// fn ignore(_: &mut (), _: &mut Netlib<()>, _: Handle, _: Event<'_>) {}
///
/// let mut net = Options::new().build()?;
/// let listener = net.listen("127.0.0.1:0", ignore, 7)?;
/// let mut option = net.option(listener)?;
/// option.set_delivery(Delivery::Push)?;
/// println!("listening on {}, user data {}", option.local_address()?, option.user_data());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SocketOptions<'n, A> {
    net: &'n mut Netlib<A>,
    handle: Handle,
}

impl<'n, A> SocketOptions<'n, A> {
    pub(super) fn new(net: &'n mut Netlib<A>, handle: Handle) -> Self {
        Self { net, handle }
    }

    /// Replaces the callback, or the object of a connection by a callback. The next event goes to
    /// the new one, also in the batch in hand. Calls of the object get no answer any more.
    pub fn set_callback(&mut self, callback: Callback<A>) {
        self.net.delete_timers_of(self.handle);
        let former = self.net.change_owner(self.handle, Owner::Callback(callback));
        self.net.panics(|_| drop(former));
    }

    /// Replaces the user data.
    pub fn set_user_data(&mut self, user_data: u64) {
        self.socket_mut().user_data = user_data;
    }

    /// Changes how received bytes are delivered, from the next byte on that was not delivered.
    ///
    /// # Errors
    /// [`OptionError::Frame`]: the framing cannot be.
    pub fn set_delivery(&mut self, delivery: Delivery) -> Result<(), OptionError> {
        if let Delivery::Pdu(spec) = delivery {
            spec.validate().map_err(OptionError::Frame)?;
        }
        let socket = self.socket_mut();
        let is_new = socket.set_delivery(delivery);
        if is_new {
            // What has started may be no PDU any more; if it is one, it is noted again.
            socket.pulse.note_frame(false, false, 0);
        }
        if is_new {
            socket.hold.by_pull = false;
            // What is unread is delivered in the new way, and the peer is heard again if it was
            // not.
            let now_ms = self.net.now_ms();
            let net = &mut *self.net;
            net.reactor.recall(&mut net.driver, self.handle);
            net.resume(self.handle, now_ms);
        }
        Ok(())
    }

    /// Changes the limits of the pending bytes; those that are pending already stay.
    ///
    /// # Errors
    /// [`OptionError::Marks`]: they are not in order.
    pub fn set_backlog_limits(&mut self, limits: BacklogLimits) -> Result<(), OptionError> {
        if !limits.are_ordered() {
            return Err(OptionError::Marks);
        }
        self.socket_mut().backlog.set_limits(limits);
        Ok(())
    }

    /// Changes the deadlines and the heartbeat. They go on from what has happened so far: a peer
    /// that has been silent for longer than it may from now on is closed by the next turn.
    pub fn set_liveness(&mut self, liveness: Liveness) {
        self.net.set_liveness(self.handle, liveness);
    }

    /// Changes what the peer may ask for. Its rate counts from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.net.set_limits(self.handle, limits);
    }

    /// Asks the kernel for a send buffer of so many bytes (`SO_SNDBUF`); it doubles the number.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet, or the kernel refuses.
    pub fn set_send_buffer_size(&mut self, bytes: usize) -> Result<(), OptionError> {
        self.with_view(|socket| socket.set_send_buffer_size(bytes))
    }

    /// Asks the kernel for a receive buffer of so many bytes (`SO_RCVBUF`); it doubles the number.
    /// Sockets inherit it from their listener.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet, or the kernel refuses.
    pub fn set_receive_buffer_size(&mut self, bytes: usize) -> Result<(), OptionError> {
        self.with_view(|socket| socket.set_receive_buffer_size(bytes))
    }

    /// Whether small segments go out at once (`TCP_NODELAY`). Default yes.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet, or the kernel refuses, as it does for Unix-domain.
    pub fn set_nodelay(&mut self, nodelay: bool) -> Result<(), OptionError> {
        self.with_view(|socket| socket.set_nodelay(nodelay))
    }

    /// After how long a silence the kernel asks whether the peer is there (`SO_KEEPALIVE`,
    /// `TCP_KEEPIDLE`); whole seconds, at least one. `None`, the default, never asks.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet, or the kernel refuses.
    pub fn set_keepalive(&mut self, idle: Option<Duration>) -> Result<(), OptionError> {
        let idle = idle.map(|idle| idle.max(Duration::from_secs(1)));
        self.with_view(|socket| socket.set_keepalive(idle))
    }

    /// The callback; `None` where a connection's object or a factory of objects stands for it.
    pub fn callback(&self) -> Option<Callback<A>> {
        match self.socket().owner {
            Owner::Callback(callback) => Some(callback),
            Owner::Object(_) | Owner::Factory(_) => None,
        }
    }

    /// What `listen` or `connect` was given, or was set since.
    pub fn user_data(&self) -> u64 {
        self.socket().user_data
    }

    /// How received bytes are delivered.
    pub fn delivery(&self) -> Delivery {
        self.socket().delivery()
    }

    /// The limits of the pending bytes.
    pub fn backlog_limits(&self) -> BacklogLimits {
        self.socket().backlog.limits()
    }

    /// The deadlines and the heartbeat.
    pub fn liveness(&self) -> Liveness {
        Liveness::clone(self.socket().pulse.rules())
    }

    /// What the peer may ask for.
    pub fn limits(&self) -> Limits {
        Limits::clone(&self.socket().limits)
    }

    /// Whether the connection was [marked as ready](Netlib::mark_ready).
    pub fn is_ready(&self) -> bool {
        self.socket().pulse.is_ready
    }

    /// Bytes that were sent and have not left yet, those in flight included.
    pub fn pending_bytes(&self) -> usize {
        self.socket().backlog.queued()
    }

    /// Bytes that have arrived and were not delivered yet: of a split PDU, held, or not pulled.
    pub fn undelivered_bytes(&self) -> usize {
        self.socket().reader.len()
    }

    /// Whether nothing more will arrive: the peer has finished its side, or is gone. Close comes
    /// once what has arrived is delivered.
    pub fn has_ended(&self) -> bool {
        self.socket().end().is_some()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet, or the socket has no peer (any more).
    pub fn remote_address(&self) -> Result<Address, OptionError> {
        self.with_view(|socket| socket.peer_address()).map(|address| Address::from_kernel(&address))
    }

    /// The own address.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet.
    pub fn local_address(&self) -> Result<Address, OptionError> {
        self.with_view(|socket| socket.local_address())
            .map(|address| Address::from_kernel(&address))
    }

    /// The kernel's send buffer in bytes, as the kernel counts it.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet.
    pub fn send_buffer_size(&self) -> Result<usize, OptionError> {
        self.with_view(|socket| socket.send_buffer_size())
    }

    /// The kernel's receive buffer in bytes, as the kernel counts it.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet.
    pub fn receive_buffer_size(&self) -> Result<usize, OptionError> {
        self.with_view(|socket| socket.receive_buffer_size())
    }

    /// Whether small segments go out at once; `true` for Unix-domain sockets, which know no other.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet.
    pub fn nodelay(&self) -> Result<bool, OptionError> {
        if self.socket().family == Family::Unix {
            return Ok(true);
        }
        self.with_view(|socket| socket.nodelay())
    }

    /// After how long a silence the kernel asks for the peer; `None` when it never asks.
    ///
    /// # Errors
    /// [`OptionError`]: no descriptor yet, or the kernel refuses.
    pub fn keepalive(&self) -> Result<Option<Duration>, OptionError> {
        self.with_view(|socket| socket.keepalive())
    }

    fn socket(&self) -> &Socket<Owner<A>> {
        self.net.reactor.sockets.find(self.handle).expect("found when the options were asked for")
    }

    fn socket_mut(&mut self) -> &mut Socket<Owner<A>> {
        let found = self.net.reactor.sockets.find_mut(self.handle);
        found.expect("found when the options were asked for")
    }

    fn with_view<T>(&self, call: impl FnOnce(View<'_>) -> io::Result<T>) -> Result<T, OptionError> {
        let socket = self.net.driver.socket(self.handle).ok_or(OptionError::NotYet)?;
        call(socket).map_err(OptionError::System)
    }
}
