//! The part of a `Netlib` that other threads may hold.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::driver::Waker;

/// Reaches the loop of a [`Netlib`](crate::Netlib) from other threads and from signal handlers.
///
/// Cheap to clone. Once the `Netlib` is gone its calls do nothing.
///
/// ```
/// use std::time::Duration;
/// use uring_netlib::{Netlib, Options};
///
/// let mut net: Netlib<()> = Options::new().build()?;
/// let remote = net.remote();
/// std::thread::spawn(move || remote.stop());
/// net.eventloop(&mut (), Duration::from_secs(60))?; // Returns at once, not after a minute.
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Remote {
    waker: Waker,
    must_stop: Arc<AtomicBool>,
}

impl Remote {
    pub(crate) fn new(waker: Waker) -> Self {
        Self { waker, must_stop: Arc::new(AtomicBool::new(false)) }
    }

    /// Lets `eventloop` return; the next one, if none is running. Safe in a signal handler.
    pub fn stop(&self) {
        self.must_stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ends the wait in progress, or the next one, so that a turn comes: its loop callbacks can
    /// look at what this thread has left for them. Safe in a signal handler.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Whether a stop was asked for; it is then taken as done.
    pub(crate) fn take_stop(&self) -> bool {
        // Looked at in each turn, and a swap is dear.
        self.must_stop.load(Ordering::Acquire) && self.must_stop.swap(false, Ordering::AcqRel)
    }
}
