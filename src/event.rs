//! What user code sees: handles, events and the reasons for which a connection ends.
//!
//! Plain values only. Who delivers them, and under which rules, stands in `netlib/turn.rs`.

#![forbid(unsafe_code)]

use std::fmt;

use crate::error::Errno;
use crate::netlib::Netlib;
use crate::pdu::{FrameError, Pdu};

/// Names one socket of one [`Netlib`]; cheap to copy, store and send elsewhere.
///
/// A handle is an index and a generation, never a descriptor. Once its socket is closed it is
/// *stale*: every call with it fails with a typed error, and it never reaches another socket. The
/// generation has 24 bits; it takes 2²⁴ further sockets of one `Netlib`, and the same slot, before
/// a value can return.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u64);

impl Handle {
    /// Names no socket. [`Event::Timer`] and [`Event::Loop`] carry it, and every call refuses it.
    pub const NONE: Self = Self(0);

    pub(crate) const GENERATION_MAX: u32 = (1 << 24) - 1;

    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        assert!(generation != 0 && generation <= Self::GENERATION_MAX, "a generation has 24 bits");
        Self((generation as u64) << 32 | index as u64)
    }

    /// The handle as an integer, for tables of your own. [`Handle::NONE`] is 0.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The handle that [`to_bits`](Self::to_bits) made; any other number names no socket.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & 0x00FF_FFFF_FFFF_FFFF)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is the index")]
    pub(crate) const fn index(self) -> u32 {
        self.0 as u32
    }

    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & Self::GENERATION_MAX
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({}.{})", self.index(), self.generation())
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

/// Names one timer of one [`Netlib`]; stale once it fired for the last time or was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(pub(crate) u64);

/// Names one loop callback of one [`Netlib`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopId(pub(crate) u64);

/// User code: called by the event loop and by nothing else (C1).
///
/// It is lent the application's state and the whole `Netlib`. Events borrow from neither (C3), so
/// inside it everything is allowed: send, close, listen, connect, timers, replacing the callback.
pub type Callback<A> = fn(&mut A, &mut Netlib<A>, Handle, Event<'_>);

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A client was accepted: the handle is the new connection. It has its listener's callback,
    /// user data and settings, and starts to receive once this callback has returned (C5).
    Connect {
        /// The listener that accepted it.
        listener: Handle,
    },
    /// A connection that this side asked for is open.
    Confirm,
    /// Bytes arrived. With [`Delivery::Push`](crate::Delivery::Push) they are lent here; with
    /// [`Delivery::Pull`](crate::Delivery::Pull) the slice is empty, and
    /// [`Netlib::recv`] copies them out.
    Read(&'a [u8]),
    /// A whole PDU arrived ([`Delivery::Pdu`](crate::Delivery::Pdu)), lent in place.
    Pdu(Pdu<'a>),
    /// The pending bytes fell to the low mark, after a send had passed the high mark or had been
    /// refused as [`SendError::Full`](crate::SendError::Full); or all sockets together keep few
    /// enough bytes again, after a send had been refused as
    /// [`SendError::Exhausted`](crate::SendError::Exhausted).
    Write,
    /// The connection, the attempt to connect, or the listener is over. The last event of its
    /// handle, exactly once; it does not come after the application's own close (C2). Inside this
    /// callback the handle can still be asked for its options.
    Close(CloseReason),
    /// A timer is due. The handle is [`Handle::NONE`].
    Timer {
        /// Which timer.
        timer: TimerId,
        /// What [`Netlib::register_timer`] was given.
        user_data: u64,
    },
    /// Another turn of the loop. The handle is [`Handle::NONE`].
    Loop {
        /// Which loop callback.
        id: LoopId,
        /// What [`Netlib::add_loop`] was given.
        user_data: u64,
    },
}

/// Why a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer finished its side; every byte before that was delivered (C6).
    PeerClosed,
    /// The peer finished its side in the middle of a PDU.
    Truncated {
        /// Bytes of the unfinished PDU that had arrived.
        received: usize,
    },
    /// The peer reset the connection, or is gone.
    Reset,
    /// The peer sent a PDU whose length is out of bounds; nothing of it was delivered.
    BadFrame(FrameError),
    /// Nobody listens at the peer's address.
    Refused,
    /// No route to the peer.
    Unreachable,
    /// The kernel gave the connection up, or the attempt outlasted
    /// [`Options::connect_timeout`](crate::Options::connect_timeout).
    TimedOut,
    /// The host name has no address.
    ResolveFailed,
    /// A deadline of [`Liveness`](crate::Liveness) ran out.
    Expired(Deadline),
    /// The peer asked for more than it may.
    Exceeded(Limit),
    /// The user's code for this connection panicked.
    Panicked,
    /// Any other refusal by the kernel.
    Failed(Errno),
}

impl CloseReason {
    /// The reason that stands for an errno of connect, receive, send or accept.
    pub(crate) fn from_errno(errno: Errno) -> Self {
        match errno.0 {
            libc::ECONNREFUSED | libc::ENOENT => Self::Refused,
            libc::ECONNRESET | libc::EPIPE => Self::Reset,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::ENETUNREACH | libc::EHOSTUNREACH => Self::Unreachable,
            _ => Self::Failed(errno),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Truncated { received } => {
                write!(f, "closed by the peer {received} bytes into a PDU")
            }
            Self::Reset => f.write_str("reset by the peer"),
            Self::BadFrame(error) => write!(f, "bad PDU: {error}"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("peer unreachable"),
            Self::TimedOut => f.write_str("timed out"),
            Self::ResolveFailed => f.write_str("host name has no address"),
            Self::Expired(deadline) => write!(f, "expired: {deadline}"),
            Self::Exceeded(limit) => write!(f, "exceeded: {limit}"),
            Self::Panicked => f.write_str("its handler panicked"),
            Self::Failed(errno) => write!(f, "failed: {errno}"),
        }
    }
}

/// Which deadline of a connection ran out, see [`Liveness`](crate::Liveness).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deadline {
    /// It was not marked as ready in time.
    Handshake,
    /// A PDU that had started did not become whole in time.
    Frame,
    /// Nothing was received for too long.
    ReadIdle,
    /// The peer took nothing of what was being sent for too long.
    WriteStall,
    /// It has lasted as long as it may.
    Lifetime,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "not ready in time",
            Self::Frame => "a PDU was not whole in time",
            Self::ReadIdle => "nothing was received for too long",
            Self::WriteStall => "the peer took nothing for too long",
            Self::Lifetime => "its lifetime is over",
        })
    }
}

/// Which limit a peer exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// It sent too fast for too long, see [`Limits`](crate::Limits).
    Rate,
    /// More bytes were kept for it than for any other when all sockets together kept more than
    /// [`Options::buffered_bytes_max`](crate::Options::buffered_bytes_max); or more than
    /// [`Limits::unready_bytes_max`](crate::Limits::unready_bytes_max) before it was ready.
    Buffered,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "it sent too fast for too long",
            Self::Buffered => "too many bytes are kept for it",
        })
    }
}

/// The five states of a socket, with the names that netlib gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketState {
    /// Made, but nothing asked of the kernel yet: its host name is being resolved.
    Idle,
    /// Accepts clients.
    Listening,
    /// Waits for the peer to accept.
    Connecting,
    /// Sends and receives.
    Connected,
    /// Its Close event is being delivered.
    Closing,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handle keeps its index and generation through its bits, and an op tag is not part of it.
    #[test]
    fn a_handle_survives_its_bits() {
        for (index, generation) in [(0, 1), (7, 2), (u32::MAX, Handle::GENERATION_MAX)] {
            let handle = Handle::new(index, generation);
            assert_eq!((handle.index(), handle.generation()), (index, generation));
            assert_eq!(Handle::from_bits(handle.to_bits() | 0xAB << 56), handle);
            assert_ne!(handle, Handle::NONE);
        }
    }
}
