//! Bugs that runtimes on io_uring have had, put back on purpose, to see that seeds and tests catch
//! them.
//!
//! Never part of what users get: without `--cfg netlib_planted`, which is no feature that could be
//! switched on by mistake, the question whether a bug is planted is a constant `false`. With it,
//! the environment variable `NETLIB_PLANTED` names the one that the process has. `ci/bugs` plants
//! one after the other, and says what catches each.

#![forbid(unsafe_code)]

#[cfg(feature = "sim")]
use crate::driver::outgoing::Flight;

/// A bug, named as `NETLIB_PLANTED` does. The number is that of its class, see
/// `tests/sim_regressions.rs`. Where a class is about the kernel's memory or queue, the bug stands
/// in what has the same duty here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bug {
    /// 1: a request that could not be submitted at once is freed, and the kernel has it after all.
    #[cfg(feature = "sim")]
    FreedInFlight,
    /// 2: what a cancelled operation brings although it was cancelled is nobody's.
    ResultLeaked,
    /// 3: a driver that is dropped leaves what is in flight as it is.
    #[cfg(feature = "sim")]
    DroppedInFlight,
    /// 4: completions that found no room in the queue are lost.
    #[cfg(feature = "sim")]
    OverflowLost,
    /// 4: completions that found no room in the queue are not asked for; they come with the next.
    #[cfg(feature = "sim")]
    OverflowLeft,
    /// 5: who found no buffer is never armed again.
    StarvedForgotten,
    /// 5: once a buffer was missing, the loop does not rest any more.
    StarvedSpins,
    /// 6: a client that was gone before it was accepted ends the listener.
    ListenerEnded,
    /// 6: a client that is gone when it is accepted is not announced, and not closed.
    GoneClientKept,
    /// 7: the end of the stream overtakes bytes that are held back.
    EndBeforeBytes,
    /// 7: the end of the stream is told twice.
    EndTwice,
    /// 8: a socket is freed once its operations are cancelled, and not when they are over.
    FreedAtCancel,
    /// C2: a user who has closed is told what had arrived.
    ToldAfterClose,
}

/// Whether this bug is put back.
#[cfg(not(netlib_planted))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}

/// Whether this bug is put back.
#[cfg(netlib_planted)]
pub(crate) fn has(bug: Bug) -> bool {
    use std::env;
    use std::sync::LazyLock;

    static PLANTED: LazyLock<String> =
        LazyLock::new(|| env::var("NETLIB_PLANTED").unwrap_or_default());
    !PLANTED.is_empty() && format!("{bug:?}") == *PLANTED
}

/// Memory that is given away before its time, as whoever gets it next leaves it.
#[cfg(feature = "sim")]
pub(crate) fn give_away(flight: &mut Flight) {
    let len = flight.rest().map(<[u8]>::len).sum();
    *flight = Flight::new(vec![0xDD; len].into());
}
