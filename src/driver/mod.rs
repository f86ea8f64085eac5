//! The one seam: operations go in, completions come out, and nothing else crosses.
//!
//! A driver owns everything that the kernel can see: descriptors, bytes in flight, the buffer
//! pool. Above it there is no readiness and no system call on a socket in use; below it there are
//! no connections, PDUs or callbacks. Read [`Driver`] next, then `uring/` and the `fallback/`
//! folder, which keep the same contract, checked by `conformance/`.
//!
//! # The contract
//!
//! - **D1** Every submitted operation yields exactly one *last* completion; an accept and a
//!   receive stay armed and may yield others before it.
//! - **D2** After [`cancel`](Driver::cancel) the last completion still comes: with the real
//!   outcome, or with `ECANCELED`.
//! - **D3** Nothing completes inside a submitting call; only [`wait`](Driver::wait) yields.
//! - **D4** At most one accept or connect, one receive and one send are outstanding per handle.
//! - **D5** A send completes once: for all of its bytes, or with a failure. Short writes are the
//!   driver's business. Either way the bytes come back, to be used again.
//! - **D6** Bytes of one socket arrive in order; the end of the stream comes after all of them,
//!   once.
//! - **D7** With no buffer free a receive ends with `NoBuffers`, and nothing is lost. It may be
//!   submitted again once buffers came back, and then it makes progress. A receive into a buffer of
//!   its own gives that back in its one completion, with what has come: less than was asked for
//!   where it was cancelled or disturbed, and before an end or a failure, of which a receive of
//!   another kind tells.
//! - **D8** A `wait` of zero never blocks; a fired waker ends a `wait`.
//! - **D9** Dropping a driver frees no memory that the kernel may still touch: it drains, and
//!   past a deadline it leaks.
//! - **D10** Out of descriptors, an accept ends with that error, and the client who knocked stays
//!   in the listener's queue for the accept that follows.

mod auto;
pub(crate) mod buf_ring;
#[cfg(all(test, feature = "sim"))]
mod conformance;
mod endpoint;
mod loan;
mod lot;
pub(crate) mod outgoing;
pub(crate) mod pool;
mod rest;
#[cfg(feature = "sim")]
pub(crate) mod sim;
pub(crate) mod slots;
pub(crate) mod stock;
mod system;
pub(crate) mod token;
pub(crate) mod uring;
pub(crate) mod waker;

use std::io;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef};

use crate::error::Errno;
use crate::event::Handle;

pub(crate) use auto::Auto;
pub(crate) use endpoint::{Endpoint, View};
pub(crate) use loan::{Lender, Lending, Loan};
pub(crate) use lot::Lot;
pub(crate) use outgoing::{Load, Outgoing, PLACE_LEN};
pub(crate) use pool::Chunk;
pub(crate) use rest::{Form, Rest};
pub(crate) use stock::Stock;
pub(crate) use token::{Op, Ops};
pub(crate) use waker::Waker;

/// Accepts operations and later yields their completions; the contract stands above.
///
/// Handles are given out by the reactor. All calls for one go to the socket that it adopted last.
pub(crate) trait Driver {
    /// Takes a socket over: from here on the driver owns the descriptor. On failure it is closed,
    /// and the handle stays free.
    fn adopt(&mut self, socket: Endpoint, family: Family, handle: Handle) -> io::Result<()>;
    /// Accepts clients until it fails or is cancelled.
    fn accept(&mut self, handle: Handle);
    /// Connects once.
    fn connect(&mut self, handle: Handle, peer: SockAddr);
    /// Receives into pool buffers until the stream ends, buffers run out, or it is cancelled.
    fn receive(&mut self, handle: Handle);
    /// Receives once, at most `len` bytes, into a buffer of the stock that is taken when bytes are
    /// there and not before: for what may be a whole large PDU.
    fn receive_whole(&mut self, handle: Handle, len: usize);
    /// Receives once, into a buffer of the caller's, for as long as bytes are missing in it. Where
    /// it comes back with fewer, only a receive of another kind tells whether there was an end.
    fn receive_rest(&mut self, handle: Handle, rest: Rest);
    /// Sends all of the bytes, which are not empty and are settled.
    fn send(&mut self, handle: Handle, outgoing: Outgoing);
    /// Ends a side of the connection, or says how its close shall end it. A socket that is not
    /// connected any more is left alone.
    fn end(&mut self, handle: Handle, end: End);
    /// Asks those of the operations that are outstanding to end.
    fn cancel(&mut self, handle: Handle, ops: Ops);
    /// Closes the descriptor, in the next wait at the latest; nothing may be outstanding.
    fn close(&mut self, handle: Handle);
    /// Closes now what else the next wait would; whether there was any.
    fn finish_closes(&mut self) -> bool {
        false
    }
    /// Submits what is due, waits for a completion, the waker or the timeout, and yields what
    /// there is. `None` waits without a limit.
    fn wait(&mut self, timeout: Option<Duration>, batch: &mut Vec<Completion>) -> io::Result<()>;
    /// Ends a `wait` from any thread.
    fn waker(&self) -> Waker;
    /// Whether bytes of the peer wait to be received. Asked rarely, never per PDU.
    fn has_unread(&self, handle: Handle) -> bool;
    /// A look at the socket, for options and names; `None` when none is adopted.
    fn socket(&self, handle: Handle) -> Option<View<'_>>;
    /// Whether a connection still has its peer; a reset takes it away, an end of stream does not.
    /// Costs a system call.
    fn has_peer(&self, handle: Handle) -> bool {
        self.socket(handle).is_some_and(|socket| socket.peer_address().is_ok())
    }
    /// A number that grows whenever bytes of the socket's sends have left it: how many the peer's
    /// kernel has acknowledged, or taken where the peer is on this machine. `None` where that is
    /// not to be known. Costs a system call, so it is for whoever looks for sends that are stuck,
    /// and not for each of them.
    fn progress(&self, handle: Handle) -> Option<u64>;
    /// How many bytes of its sends that have completed the peer's kernel has not acknowledged, once
    /// the writing side was ended; closing the socket may lose them. None are known of where the
    /// peer is on this machine without TCP, as it has them at once. Costs a system call.
    fn unacknowledged(&self, handle: Handle) -> usize;
    /// Where it takes large buffers from, and where they may be given back.
    fn stock(&self) -> &Stock;
    /// What it has counted.
    fn counters(&self) -> DriverCounters;
}

/// The kind of a socket, as far as drivers treat kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Inet,
    Unix,
}

impl Family {
    pub(crate) fn of(address: &SockAddr) -> Self {
        if address.domain() == Domain::UNIX { Self::Unix } else { Self::Inet }
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer sees the end of the stream after all that was sent; receiving goes on.
    Write,
    /// Nothing is sent any more, and receiving ends after what has arrived.
    Both,
    /// Nothing changes yet, but the close will be a reset.
    Reset,
}

impl End {
    /// Does it to a socket. A failure says that the connection is gone already.
    pub(crate) fn apply(self, socket: BorrowedFd<'_>) {
        let socket = SockRef::from(&socket);
        let _ = match self {
            Self::Write => socket.shutdown(Shutdown::Write),
            Self::Both => socket.shutdown(Shutdown::Both),
            Self::Reset => socket.set_linger(Some(Duration::ZERO)),
        };
    }
}

/// Connects a Unix-domain socket, which never takes time: it is done or refused. `EAGAIN` says
/// that the listener's queue is full.
pub(crate) fn connect_at_once(socket: BorrowedFd<'_>, peer: &SockAddr) -> Outcome {
    let socket = SockRef::from(&socket);
    let connected = socket
        .set_nonblocking(true)
        .and_then(|()| socket.connect(peer))
        .and_then(|()| socket.set_nonblocking(false));
    match connected {
        Ok(()) => Outcome::Connected,
        Err(error) => Outcome::ConnectFailed(Errno::from_io(&error)),
    }
}

/// One outcome of one operation.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) handle: Handle,
    /// Whether the operation is over (D1).
    pub(crate) last: bool,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// A client; a completion nobody wants closes it by being dropped.
    Accepted(Endpoint),
    AcceptFailed(Errno),
    Connected,
    ConnectFailed(Errno),
    Received(Chunk),
    /// What came of a rest, be it nothing; or a buffer with some bytes.
    Filled(Rest),
    EndOfStream,
    NoBuffers,
    ReceiveFailed(Errno),
    /// The bytes come back, for their memory.
    Sent(Outgoing),
    SendFailed(Errno, Outgoing),
}

impl Outcome {
    /// Whether it says that the operation was cancelled.
    #[cfg(feature = "sim")]
    pub(crate) const fn is_cancelled(&self) -> bool {
        match self {
            Self::AcceptFailed(errno)
            | Self::ConnectFailed(errno)
            | Self::ReceiveFailed(errno)
            | Self::SendFailed(errno, _) => errno.is_cancellation(),
            Self::Filled(rest) => rest.missing() > 0 && !rest.is_fresh(),
            _ => false,
        }
    }

    /// Which operation it belongs to.
    pub(crate) const fn op(&self) -> Op {
        match self {
            Self::Accepted(_) | Self::AcceptFailed(_) => Op::Accept,
            Self::Connected | Self::ConnectFailed(_) => Op::Connect,
            Self::Received(_)
            | Self::Filled(_)
            | Self::EndOfStream
            | Self::NoBuffers
            | Self::ReceiveFailed(_) => Op::Receive,
            Self::Sent(_) | Self::SendFailed(..) => Op::Send,
        }
    }
}

/// How many bytes are received into large buffers in a wait. What is received in one and sent on in
/// the next is then still in the processor's cache.
pub(crate) const LARGE_BYTES_PER_WAIT: usize = 256 * 1024;

/// Plain counts since the driver was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DriverCounters {
    /// Calls that submitted or waited: `io_uring_enter`, or `epoll_wait`.
    pub(crate) waits: u64,
    /// Requests to send, short writes' remainders included.
    pub(crate) sends: u64,
    /// Waker wake-ups.
    pub(crate) wakeups: u64,
    /// Times the kernel could not post completions at once.
    pub(crate) overflows: u64,
    /// Buffers free, with the kernel, and lent: their sum never changes.
    pub(crate) buffers_free: u32,
    pub(crate) buffers_kernel: u32,
    pub(crate) buffers_lent: u32,
}
