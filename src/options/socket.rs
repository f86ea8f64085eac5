//! What sockets start with: how they deliver, how much may be pending, how listeners accept.

#![forbid(unsafe_code)]

use super::Rate;
use crate::pdu::FrameSpec;

/// How received bytes reach the callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// As they arrive, lent in [`Event::Read`](crate::Event::Read).
    Push,
    /// As whole PDUs in [`Event::Pdu`](crate::Event::Pdu), cut as the framing says.
    Pdu(FrameSpec),
    /// `Event::Read` tells that bytes are there, [`Netlib::recv`](crate::Netlib::recv) copies them
    /// out. While [`Options::pull_bytes_max`](crate::Options::pull_bytes_max) bytes wait, the
    /// socket does not receive.
    Pull,
}

impl Default for Delivery {
    fn default() -> Self {
        Self::Pdu(FrameSpec::teamtalk())
    }
}

/// How many pending bytes a socket may have.
///
/// Pending are the bytes that `send` took and the kernel has not: those that wait, and those in
/// flight, which count in full until the last of them has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLimits {
    /// At or below this many bytes `Event::Write` comes, if it is due. Default 32 KiB.
    pub low: u32,
    /// Above this many bytes `send` answers `AboveHighMark`. Default 64 KiB.
    pub high: u32,
    /// No send may pass this many bytes. Default 1 MiB. An empty backlog takes any single PDU
    /// that is not longer than this.
    pub max: u32,
}

impl BacklogLimits {
    pub(crate) const fn are_ordered(self) -> bool {
        self.low <= self.high && self.high <= self.max && self.max > 0
    }
}

impl Default for BacklogLimits {
    fn default() -> Self {
        Self { low: 32 * 1024, high: 64 * 1024, max: 1024 * 1024 }
    }
}

/// Options of one listener.
///
/// ```
/// let options = uring_netlib::ListenOptions::new().dual_stack(true).backlog(1024);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    pub(crate) dual_stack: bool,
    pub(crate) reuse_port: bool,
    pub(crate) backlog: u16,
    pub(crate) connections_max: u32,
    pub(crate) connections_per_address_max: u32,
    pub(crate) accept_rate: Option<Rate>,
}

impl ListenOptions {
    /// What [`Netlib::listen`](crate::Netlib::listen) uses.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            dual_stack: false,
            reuse_port: false,
            backlog: 4096,
            connections_max: u32::MAX,
            connections_per_address_max: u32::MAX,
            accept_rate: None,
        }
    }

    /// Whether an IPv6 listener takes IPv4 clients as well. Default no, whatever the system's
    /// own default is. Nothing else than IPv6 is changed by it.
    #[must_use]
    pub const fn dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Whether other listeners, of other threads, may share the port (`SO_REUSEPORT`). Default no.
    #[must_use]
    pub const fn reuse_port(mut self, reuse_port: bool) -> Self {
        self.reuse_port = reuse_port;
        self
    }

    /// Clients that may wait to be accepted. Default 4096; the kernel caps it at
    /// `net.core.somaxconn`.
    #[must_use]
    pub const fn backlog(mut self, clients: u16) -> Self {
        self.backlog = clients;
        self
    }

    /// Connections that the listener may have open, those that still close included. Default as
    /// many as [`Options::sockets_max`](crate::Options::sockets_max). A client beyond it is
    /// accepted and closed at once, and counted as rejected.
    #[must_use]
    pub const fn connections_max(mut self, connections: u32) -> Self {
        self.connections_max = connections;
        self
    }

    /// Connections that one address may have open at the listener, where an IPv6 network of 64
    /// bits counts as one address. Default any number; many clients may share an address. Costs a
    /// system call an accept. Unix-domain clients have no address.
    #[must_use]
    pub const fn connections_per_address_max(mut self, connections: u32) -> Self {
        self.connections_per_address_max = connections;
        self
    }

    /// How fast clients are accepted. Default as they come. Those that come faster wait in the
    /// kernel's queue, see [`backlog`](Self::backlog).
    #[must_use]
    pub const fn accept_rate(mut self, rate: Rate) -> Self {
        self.accept_rate = Some(rate);
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}
