//! How much one peer may ask for.

#![forbid(unsafe_code)]

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
/// buffers fill, and then its own. One that is too fast time and again is closed, as
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
///     .unready_pdu_bytes_max(4096);
/// let net: Netlib<()> = Options::new().limits(limits).build()?;
/// # let _ = net;
/// # Ok::<(), uring_netlib::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Limits {
    pub(crate) pdus: Option<Rate>,
    pub(crate) bytes: Option<Rate>,
    pub(crate) strikes_max: u32,
    pub(crate) unready_pdu_bytes_max: u32,
}

impl Limits {
    /// No limits.
    pub const fn new() -> Self {
        Self { pdus: None, bytes: None, strikes_max: 10, unready_pdu_bytes_max: u32::MAX }
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

    /// How often a peer may be paused for being too fast, without its bucket having been full in
    /// between, before the next time closes it. Default 10; `u32::MAX` never closes.
    pub const fn strikes_max(mut self, strikes: u32) -> Self {
        self.strikes_max = strikes;
        self
    }

    /// The longest PDU, header included, of a connection that is not
    /// [marked as ready](crate::Netlib::mark_ready) yet: who has not logged in gets no megabyte of
    /// memory. Default what the framing allows.
    pub const fn unready_pdu_bytes_max(mut self, bytes: u32) -> Self {
        self.unready_pdu_bytes_max = bytes;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
