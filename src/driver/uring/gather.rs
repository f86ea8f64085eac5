//! Where the kernel finds the pieces of a send that has several.
//!
//! Only addresses: the bytes they point at are kept by the flight, and both stay put until the
//! request's last completion. A gather is on the heap, because its request points at it.

#![forbid(unsafe_code)]

use libc::{iovec, msghdr};

use crate::sys;

#[derive(Debug)]
pub(super) struct Gather {
    message: msghdr,
    slices: Vec<iovec>,
}

impl Gather {
    /// Points at as many of the pieces as one request takes.
    pub(super) fn fill<'p>(&mut self, pieces: impl Iterator<Item = &'p [u8]>) {
        self.slices.clear();
        self.slices.extend(pieces.take(PIECES_MAX).map(|piece| iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        }));
        self.message.msg_iov = self.slices.as_mut_ptr();
        // Of another type in each C library; there are few enough for all of them.
        self.message.msg_iovlen = self.slices.len() as _;
    }

    /// What the request is given; good until the next [`fill`](Self::fill).
    pub(super) fn message(&self) -> *const msghdr {
        &raw const self.message
    }
}

/// Gathers between two uses, so that a send with several pieces costs no allocation.
#[derive(Debug)]
pub(super) struct SpareGathers {
    #[expect(clippy::vec_box, reason = "requests point at them, so they keep their place")]
    gathers: Vec<Box<Gather>>,
}

impl SpareGathers {
    pub(super) const fn new() -> Self {
        Self { gathers: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Box<Gather> {
        let make = || Gather { message: sys::empty_message(), slices: Vec::new() };
        self.gathers.pop().unwrap_or_else(|| Box::new(make()))
    }

    /// Keeps one for the next use, unless it is large or there are many.
    pub(super) fn give(&mut self, gather: Box<Gather>) {
        if self.gathers.len() < GATHERS_MAX && gather.slices.capacity() <= SLICES_KEPT_MAX {
            self.gathers.push(gather);
        }
    }
}

/// Pieces of one request: the kernel takes no more.
const PIECES_MAX: usize = 1024;

/// What is kept of gathers: at most about 5 MiB.
const GATHERS_MAX: usize = 8192;
const SLICES_KEPT_MAX: usize = 32;
