//! What a `Netlib` has counted: plain numbers, always on.

#![forbid(unsafe_code)]

use crate::event::{CloseReason, Deadline, Limit};

/// A snapshot of what a `Netlib` counts, from [`Netlib::stats`](crate::Netlib::stats).
///
/// Taking it costs a copy of these numbers and no walk over anything, so it may be taken every
/// second. What is there *now* goes up and down; everything else only grows, since the `Netlib`
/// was built. How to read them:
///
/// - *Is it busy?* `pdus_in` and `bytes_in` over time; `batches` says how much one call to the
///   kernel brings: mostly single completions is an idle loop, full batches a loaded one.
/// - *Is it late?* `timer_late_ms_max`: alarms go off late when callbacks take long.
/// - *Who is slow?* `sends_refused`, `closes.write_stall`, `buffered_bytes`: peers that do not
///   read.
/// - *Who is hostile?* `closes.bad_frame`, `closes.handshake`, `closes.frame`, `rate_pauses`,
///   `rejected`, `dispatch_errors`.
/// - *Is it too small?* `no_buffers`: the pool of receive buffers; `overflows`: the ring;
///   `accept_pauses`: the limit of descriptors; `rejected`: the limits of sockets.
/// - *Does it leak?* `sockets`, `timers`, `buffered_bytes` and `buffers_lent` go back to where they
///   were when the load is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Now: sockets that are open, listeners and those that still close included.
    pub sockets: u64,
    /// Now: attempts to connect whose host name is being resolved.
    pub resolving: u64,
    /// Now: listeners.
    pub listening: u64,
    /// Now: attempts to connect.
    pub connecting: u64,
    /// Now: open connections.
    pub connected: u64,
    /// Now: sockets that are closing: they flush, or wait for the peer's end.
    pub closing: u64,
    /// Now: timers and deadlines that are armed, all of them together.
    pub timers: u64,
    /// Now: bytes that are kept for sockets: parts of PDUs, what was held back, what is to be sent.
    /// A [`Shared`](crate::Shared) body counts once, however many sockets it waits in; what is sent
    /// from the buffer that it came in counts with its place.
    pub buffered_bytes: u64,
    /// Now: receive buffers that are free.
    pub buffers_free: u64,
    /// Now: receive buffers that the kernel has, to be filled.
    pub buffers_kernel: u64,
    /// Now: receive buffers that are lent: to a callback, or to sends of what a callback was given
    /// in them. Those lent to sends are at most half of all.
    pub buffers_lent: u64,

    /// Clients accepted.
    pub accepted: u64,
    /// Clients accepted and closed at once, because a limit of connections was reached or the
    /// kernel had no memory to watch them.
    pub rejected: u64,
    /// Times a listener rested, because no descriptor was left or its accept rate was used up.
    pub accept_pauses: u64,
    /// Connections that this side asked for and got.
    pub confirmed: u64,
    /// Sockets closed, for whatever reason.
    pub closed: u64,
    /// Why connections, attempts and listeners ended.
    pub closes: Closes,
    /// Connections that were closed gracefully, and whose peers had not acknowledged everything
    /// within [`Options::close_timeout`](crate::Options::close_timeout).
    pub closes_cut: u64,

    /// Bytes received; those of a large PDU count when its buffer is full, or is needed back.
    pub bytes_in: u64,
    /// Bytes whose send completed.
    pub bytes_out: u64,
    /// Whole PDUs delivered.
    pub pdus_in: u64,
    /// Messages queued: each accepted call of a `send` that is not empty, and each receiver of a
    /// broadcast.
    pub messages_out: u64,
    /// Heartbeats that the library sent; they count among the messages.
    pub heartbeats: u64,
    /// Sends that were refused as `SendError::Full` or `SendError::Exhausted`.
    pub sends_refused: u64,
    /// Times a peer was not received from, because it was too fast.
    pub rate_pauses: u64,
    /// PDUs that a dispatcher had no handler for, or could not decode.
    pub dispatch_errors: u64,
    /// Panics of user code that were caught.
    pub panics: u64,

    /// Turns of the loop.
    pub turns: u64,
    /// Calls that submitted or waited: `io_uring_enter`, or `epoll_wait`.
    pub waits: u64,
    /// Completions, in all turns.
    pub completions: u64,
    /// Turns by how many completions they had: 0, 1, 2 or 3, 4 to 7, 8 to 15, 16 to 31, 32 to 63,
    /// 64 or more.
    pub batches: [u64; 8],
    /// Requests to send that went to the kernel.
    pub sends: u64,
    /// Operations armed, again or for the first time.
    pub armed: u64,
    /// Receives that ended because no buffer was free.
    pub no_buffers: u64,
    /// Times the kernel could not post completions at once.
    pub overflows: u64,
    /// Wake-ups by other threads.
    pub wakeups: u64,
    /// Timers and deadlines that went off.
    pub timers_fired: u64,
    /// How late they were, in milliseconds, all of them together.
    pub timer_late_ms: u64,
    /// How late the latest of them was, in milliseconds.
    pub timer_late_ms_max: u64,
}

impl Stats {
    #[inline]
    pub(crate) fn count_batch(&mut self, completions: usize) {
        self.turns += 1;
        self.completions += completions as u64;
        let class = (usize::BITS - completions.leading_zeros()) as usize;
        self.batches[class.min(self.batches.len() - 1)] += 1;
    }

    pub(crate) fn count_alarm(&mut self, late_ms: u64) {
        self.timers_fired += 1;
        self.timer_late_ms += late_ms;
        self.timer_late_ms_max = self.timer_late_ms_max.max(late_ms);
    }
}

/// How often sockets ended for each reason, listeners and attempts to connect included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closes {
    /// The application closed or aborted it; no Close event tells of these.
    pub by_application: u64,
    /// [`CloseReason::PeerClosed`].
    pub peer_closed: u64,
    /// [`CloseReason::Truncated`].
    pub truncated: u64,
    /// [`CloseReason::Reset`].
    pub reset: u64,
    /// [`CloseReason::BadFrame`].
    pub bad_frame: u64,
    /// [`CloseReason::Refused`].
    pub refused: u64,
    /// [`CloseReason::Unreachable`].
    pub unreachable: u64,
    /// [`CloseReason::TimedOut`].
    pub timed_out: u64,
    /// [`CloseReason::ResolveFailed`].
    pub resolve_failed: u64,
    /// [`Deadline::Handshake`].
    pub handshake: u64,
    /// [`Deadline::Frame`].
    pub frame: u64,
    /// [`Deadline::ReadIdle`].
    pub read_idle: u64,
    /// [`Deadline::WriteStall`].
    pub write_stall: u64,
    /// [`Deadline::Lifetime`].
    pub lifetime: u64,
    /// [`Limit::Rate`].
    pub rate: u64,
    /// [`Limit::Buffered`].
    pub buffered: u64,
    /// [`CloseReason::Panicked`].
    pub panicked: u64,
    /// [`CloseReason::Failed`].
    pub failed: u64,
}

impl Closes {
    pub(crate) fn count(&mut self, reason: CloseReason) {
        *match reason {
            CloseReason::PeerClosed => &mut self.peer_closed,
            CloseReason::Truncated { .. } => &mut self.truncated,
            CloseReason::Reset => &mut self.reset,
            CloseReason::BadFrame(_) => &mut self.bad_frame,
            CloseReason::Refused => &mut self.refused,
            CloseReason::Unreachable => &mut self.unreachable,
            CloseReason::TimedOut => &mut self.timed_out,
            CloseReason::ResolveFailed => &mut self.resolve_failed,
            CloseReason::Expired(Deadline::Handshake) => &mut self.handshake,
            CloseReason::Expired(Deadline::Frame) => &mut self.frame,
            CloseReason::Expired(Deadline::ReadIdle) => &mut self.read_idle,
            CloseReason::Expired(Deadline::WriteStall) => &mut self.write_stall,
            CloseReason::Expired(Deadline::Lifetime) => &mut self.lifetime,
            CloseReason::Exceeded(Limit::Rate) => &mut self.rate,
            CloseReason::Exceeded(Limit::Buffered) => &mut self.buffered,
            CloseReason::Panicked => &mut self.panicked,
            CloseReason::Failed(_) => &mut self.failed,
        } += 1;
    }
}
