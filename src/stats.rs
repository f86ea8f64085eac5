//! What a `Netlib` has counted: plain numbers, always on.

#![forbid(unsafe_code)]

/// Counts since the `Netlib` was built, from [`Netlib::stats`](crate::Netlib::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sockets that are open now, listeners and closing ones included.
    pub sockets: u64,
    /// Clients accepted.
    pub accepted: u64,
    /// Clients accepted and closed at once, because `sockets_max` was reached or the kernel had no
    /// memory to watch them.
    pub rejected: u64,
    /// Times a listener rested because no descriptor was left.
    pub accept_pauses: u64,
    /// Connections that this side asked for and got.
    pub connected: u64,
    /// Sockets closed, for whatever reason.
    pub closed: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes whose send completed.
    pub bytes_out: u64,
    /// Whole PDUs delivered.
    pub pdus_in: u64,
    /// Connections closed because of a PDU's length.
    pub bad_frames: u64,
    /// PDUs that a dispatcher had no handler for, or could not decode.
    pub dispatch_errors: u64,
    /// Panics of user code that were caught.
    pub panics: u64,
    /// Sends that were refused as `SendError::Full`.
    pub sends_refused: u64,
    /// Requests to send that went to the kernel.
    pub sends: u64,
    /// Calls that submitted or waited: `io_uring_enter`, or `epoll_wait`.
    pub waits: u64,
    /// Completions, in all turns.
    pub completions: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Receives that ended because no buffer was free.
    pub no_buffers: u64,
    /// Operations armed, again or for the first time.
    pub armed: u64,
    /// Times the kernel could not post completions at once.
    pub overflows: u64,
    /// Wake-ups by other threads.
    pub wakeups: u64,
    /// Receive buffers that are free.
    pub buffers_free: u64,
    /// Receive buffers that the kernel has, to be filled.
    pub buffers_kernel: u64,
    /// Receive buffers lent to a callback; 0 outside of callbacks.
    pub buffers_lent: u64,
}
