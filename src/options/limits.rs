//! How much one peer may ask for.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::liveness::limit_ms;

/// So many a second on average, and so many at once after a pause: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

impl Rate {
    /// `count` a second, at least one, and as many at once.
    pub const fn per_second(count: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self { per_second: count, burst: count }
    }

    /// How many may come at once, at least one. Default what a second allows.
    pub const fn burst(self, burst: u32) -> Self {
        Self { burst: if burst == 0 { 1 } else { burst }, ..self }
    }
}

/// What one connection may ask of this side. Nothing is limited by default but what
/// [`BacklogLimits`](crate::BacklogLimits) and the framing limit.
///
/// A peer that is too fast is not received from until its bucket is half full again: the kernel's
/// buffers fill, and then its own. One that goes on for too long is closed, as
/// [`CloseReason::Exceeded`](crate::CloseReason::Exceeded).
///
/// [`Options::limits`](crate::Options::limits) says what new sockets start with,
/// [`SocketOptions::set_limits`](crate::SocketOptions::set_limits) what one socket has; what a
/// listener has is inherited by what it accepts.
///
/// ```
/// use uring_netlib::{Limits, Netlib, Options, Rate};
///
/// let limits = Limits::new()
///     .pdus(Rate::per_second(20).burst(100))
///     .bytes(Rate::per_second(64 * 1024))
///     .unready_bytes_max(4096);
/// let net: Netlib<()> = Options::new().limits(limits).build()?;
/// # let _ = net;
/// # Ok::<(), uring_netlib::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Limits {
    pub(crate) pdus: Option<Rate>,
    pub(crate) bytes: Option<Rate>,
    pub(crate) patience_ms: u64,
    pub(crate) unready_bytes_max: u32,
}

impl Limits {
    /// No limits.
    pub const fn new() -> Self {
        Self { pdus: None, bytes: None, patience_ms: 30_000, unready_bytes_max: u32::MAX }
    }

    /// PDUs that a peer may send, with [`Delivery::Pdu`](crate::Delivery::Pdu). Default any
    /// number.
    pub const fn pdus(mut self, rate: Rate) -> Self {
        self.pdus = Some(rate);
        self
    }

    /// Bytes that a peer may send. Default any number.
    pub const fn bytes(mut self, rate: Rate) -> Self {
        self.bytes = Some(rate);
        self
    }

    /// How long a peer may be too fast: from its first pause until its buckets are full again. One
    /// that takes longer is closed with its next pause. Default 30 s; `Duration::MAX` never
    /// closes. A single burst may thus be as long as this time allows.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience_ms = limit_ms(limit);
        self
    }

    /// Bytes that are kept for a connection that is not
    /// [marked as ready](crate::Netlib::mark_ready) yet: who has not logged in gets no megabyte of
    /// memory. No PDU may be longer, header included, and a connection that is paused is closed
    /// when more than this has come meanwhile, as
    /// [`CloseReason::Exceeded`](crate::CloseReason::Exceeded). Default what the framing allows.
    /// The shortest PDU always passes.
    pub const fn unready_bytes_max(mut self, bytes: u32) -> Self {
        self.unready_bytes_max = bytes;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
