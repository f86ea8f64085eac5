//! Ends a wait from any thread, or from a signal handler.
//!
//! An event descriptor and a flag: while a wake-up is on its way, further ones cost no system
//! call. The driver re-arms it with [`Waker::take`] *before* the woken thread looks at whatever it
//! was woken for, so none is lost.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys;

#[derive(Clone, Debug)]
pub(crate) struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    signalled: AtomicBool,
}

impl Waker {
    /// A waker over a new event descriptor. io_uring needs a blocking one, as it hands requests on
    /// non-blocking files back at once.
    pub(crate) fn new(is_blocking: bool) -> io::Result<Self> {
        let event = sys::event_descriptor(is_blocking)?;
        Ok(Self { shared: Arc::new(Shared { event, signalled: AtomicBool::new(false) }) })
    }

    /// Ends the wait in progress, or else the next one.
    pub(crate) fn wake(&self) {
        // AcqRel: what the caller wrote before is seen by the thread that takes the flag.
        if !self.shared.signalled.swap(true, Ordering::AcqRel) {
            sys::signal_event(self.shared.event.as_fd());
        }
    }

    /// Lets later wakes signal again; the driver calls it once it has read the descriptor.
    pub(crate) fn take(&self) {
        self.shared.signalled.swap(false, Ordering::AcqRel);
    }

    /// Whether a wake-up is on its way.
    #[cfg(feature = "sim")]
    pub(crate) fn is_signalled(&self) -> bool {
        self.shared.signalled.load(Ordering::Acquire)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
