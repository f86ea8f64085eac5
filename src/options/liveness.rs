//! What ends a connection that stands still, and what keeps one alive.

#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::Bytes;

use crate::pdu::{HEADER_LEN, Header};
use crate::reactor::millis;

/// Deadlines of a connection, and its heartbeat.
///
/// All of them together are one alarm per connection on the timing wheel: what a connection costs
/// does not depend on how many there are, and a PDU costs a note of the time. Deadlines have
/// whole milliseconds, at least one, and are never early. `Duration::MAX` is never. One that runs
/// out ends the connection as [`CloseReason::Expired`](crate::CloseReason::Expired).
///
/// [`Options::liveness`](crate::Options::liveness) says what new sockets start with,
/// [`SocketOptions::set_liveness`](crate::SocketOptions::set_liveness) what one socket has; what a
/// listener has is inherited by what it accepts.
///
/// | | [`new`][n] | [`client`][c] | [`mobile`][m] | [`server_to_server`][s] |
/// |---|---|---|---|---|
/// | [`handshake`](Self::handshake) | never | 15 s | 15 s | never |
/// | [`frame`](Self::frame) | 30 s | 30 s | 30 s | 30 s |
/// | [`read_idle`](Self::read_idle) | never | 120 s | 300 s | 30 s |
/// | [`write_stall`](Self::write_stall) | 10 s | 10 s | 10 s | 10 s |
/// | [`lifetime`](Self::lifetime) | never | never | never | never |
/// | [`heartbeat`](Self::heartbeat) | never | never | never | 5 s |
///
/// [n]: Self::new
/// [c]: Self::client
/// [m]: Self::mobile
/// [s]: Self::server_to_server
///
/// While a connection is paused, by [`pause_receive`](crate::Netlib::pause_receive) or by a limit,
/// silence is not held against the peer. Nor is it when its bytes wait in the kernel because the
/// loop was kept away or the process was stopped: the kernel is asked before a peer is closed.
///
/// They hold for connections that were accepted and for those that this side asked for alike. So a
/// process that does both had better give its listeners their own.
///
/// ```
/// use std::time::Duration;
/// use uring_netlib::{Event, Handle, Liveness, Netlib, Options};
///
/// fn on_event(_: &mut (), net: &mut Netlib<()>, handle: Handle, event: Event<'_>) {
///     if let Event::Pdu(_login) = event {
///         // Who has logged in may stay.
///         net.mark_ready(handle).ok();
///     }
/// }
///
/// let mut net = Options::new().liveness(Liveness::client()).build()?;
/// net.listen("127.0.0.1:0", on_event, 0)?;
/// let upstream = net.listen("127.0.0.1:0", on_event, 0)?;
/// let liveness = Liveness::server_to_server().lifetime(Duration::from_secs(86_400));
/// net.option(upstream)?.set_liveness(liveness);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Liveness {
    // In ms; `NEVER` for never.
    pub(crate) handshake_ms: u64,
    pub(crate) frame_ms: u64,
    pub(crate) read_idle_ms: u64,
    pub(crate) write_stall_ms: u64,
    pub(crate) lifetime_ms: u64,
    pub(crate) heartbeat_ms: u64,
    pub(crate) heartbeat_frame: Bytes,
}

impl Liveness {
    /// For connections of which nothing is known: a PDU that has started must become whole, and
    /// what is sent must be taken; silence is allowed.
    pub fn new() -> Self {
        let mut frame = [0; HEADER_LEN];
        HEARTBEAT.write(16, &mut frame);
        Self {
            handshake_ms: NEVER,
            frame_ms: 30_000,
            read_idle_ms: NEVER,
            write_stall_ms: 10_000,
            lifetime_ms: NEVER,
            heartbeat_ms: NEVER,
            heartbeat_frame: Bytes::copy_from_slice(&frame),
        }
    }

    /// For a server's connections from desktop clients, which send a heartbeat every 30 s.
    pub fn client() -> Self {
        Self { handshake_ms: 15_000, read_idle_ms: 120_000, ..Self::new() }
    }

    /// For a server's connections from mobile clients, which are slower to find out that they have
    /// lost their network.
    pub fn mobile() -> Self {
        Self { handshake_ms: 15_000, read_idle_ms: 300_000, ..Self::new() }
    }

    /// For either side of a connection between servers: both send heartbeats.
    pub fn server_to_server() -> Self {
        Self { heartbeat_ms: 5_000, read_idle_ms: 30_000, ..Self::new() }
    }

    /// How long after it was opened a connection has to be
    /// [marked as ready](crate::Netlib::mark_ready), for instance by a login. Default never.
    pub fn handshake(mut self, limit: Duration) -> Self {
        self.handshake_ms = limit_ms(limit);
        self
    }

    /// How long after its first byte a PDU has to be whole, with
    /// [`Delivery::Pdu`](crate::Delivery::Pdu). Bytes that come in drips do not extend it. Default
    /// 30 s.
    pub fn frame(mut self, limit: Duration) -> Self {
        self.frame_ms = limit_ms(limit);
        self
    }

    /// How long a peer may be silent. Any byte counts as a sign of life. Default never.
    pub fn read_idle(mut self, limit: Duration) -> Self {
        self.read_idle_ms = limit_ms(limit);
        self
    }

    /// How long the peer may take nothing of what is being sent. A peer that is slow and takes
    /// some is none that stalls. Progress is looked at eight times in this span, so a stall ends
    /// up to an eighth later. Default 10 s.
    pub fn write_stall(mut self, limit: Duration) -> Self {
        self.write_stall_ms = limit_ms(limit);
        self
    }

    /// How long a connection may last. Default for ever.
    pub fn lifetime(mut self, limit: Duration) -> Self {
        self.lifetime_ms = limit_ms(limit);
        self
    }

    /// After how long a time without sending the library sends a heartbeat, unless bytes are
    /// pending, which tell as much. Default never. It goes between any two sends, so each of them
    /// has to be of whole PDUs.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat_ms = limit_ms(interval);
        self
    }

    /// The bytes of a heartbeat. Default the PDU without a body of service 7 and command 0x0701.
    pub fn heartbeat_frame(mut self, frame: impl Into<Bytes>) -> Self {
        self.heartbeat_frame = frame.into();
        self
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self::new()
    }
}

/// A limit in ms: at least one, and `NEVER` for the longest.
pub(super) fn limit_ms(limit: Duration) -> u64 {
    if limit == Duration::MAX { NEVER } else { millis(limit).max(1) }
}

/// A time that does not come.
pub(crate) const NEVER: u64 = u64::MAX;

const HEARTBEAT: Header = Header::new(7, 0x0701);
