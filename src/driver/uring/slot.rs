//! What the ring driver keeps of one adopted socket.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use socket2::SockAddr;

use super::super::outgoing::Flight;
use super::super::{Family, Form, Op, Ops};
use super::gather::Gather;

/// One adopted socket.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) socket: OwnedFd,
    pub(super) family: Family,
    pub(super) outstanding: Ops,
    /// Those of the outstanding that were asked to end, and must not be started again.
    pub(super) cancelled: Ops,
    /// What the kernel reads from while a send is outstanding, and where it finds the pieces of it
    /// if there are several.
    pub(super) flight: Flight,
    pub(super) gather: Option<Box<Gather>>,
    /// Bytes of all sends so far, as far as completions have told.
    pub(super) sent_in_all: u64,
    /// What the receive that is outstanding goes into, or went into last.
    pub(super) form: Form,
    /// Since when a multishot receive may have missed a reset.
    pub(super) run: Run,
    /// It has: the single form takes over, and knows.
    pub(super) is_single: bool,
    /// Where a connect goes to, for as long as the kernel may read it.
    pub(super) peer: Option<Box<SockAddr>>,
}

/// What is known of a multishot receive.
///
/// One that has just been armed, or that has taken more buffers in a row than the kernel takes in
/// a go, may find data and a reset in one look; it then takes the data and waits for a second
/// wake-up that never comes. At all other times a reset is a wake-up of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Armed, and the socket was not found empty since.
    Fresh,
    /// So many buffers since the socket was found empty.
    Going(u8),
}

impl Run {
    /// Half of what the kernel takes in a go, to be on the safe side.
    const LONG: u8 = 16;

    /// Whether a reset may have been missed, by the buffer that is next to be noted: only if the
    /// socket is empty now.
    pub(super) fn is_suspect(self, has_more: bool) -> bool {
        !has_more && (self == Self::Fresh || self == Self::Going(Self::LONG))
    }

    /// One buffer more.
    pub(super) fn note(&mut self, has_more: bool) {
        *self = match (*self, has_more) {
            (Self::Fresh, true) => Self::Fresh,
            (Self::Going(count), true) => Self::Going((count + 1).min(Self::LONG)),
            (_, false) => Self::Going(0),
        };
    }
}

impl Slot {
    /// A socket with which nothing was done yet.
    pub(super) fn new(socket: OwnedFd, family: Family) -> Self {
        Self {
            socket,
            family,
            outstanding: Ops::NONE,
            cancelled: Ops::NONE,
            flight: Flight::default(),
            gather: None,
            sent_in_all: 0,
            form: Form::Many,
            run: Run::Fresh,
            // Multishot receives on Unix-domain sockets miss the end of the stream on kernels as
            // late as 6.19; single ones do not.
            is_single: family == Family::Unix,
            peer: None,
        }
    }

    pub(super) fn start(&mut self, op: Op) {
        assert!(!self.outstanding.has(op), "D4: one {op:?} per handle");
        self.outstanding.insert(op);
    }

    /// Notes that the operation is over.
    pub(super) fn end(&mut self, op: Op) {
        self.outstanding.remove(op);
        self.cancelled.remove(op);
    }

    /// With WAITALL the kernel itself waits for room, and completes once for all bytes. Unix-domain
    /// sockets do without: no one but us counts what has left them, see `Driver::progress`.
    pub(super) fn send_flags(&self) -> i32 {
        match self.family {
            Family::Inet => libc::MSG_NOSIGNAL | libc::MSG_WAITALL,
            Family::Unix => libc::MSG_NOSIGNAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A missed reset is looked for when a receive finds the socket empty for the first time since
    /// it was armed, or after many buffers in a row; else never, as the look is a system call.
    #[test]
    fn a_missed_reset_is_looked_for_once_an_arming() {
        let mut run = Run::Fresh;
        let mut looks = |has_more: bool| {
            let is_suspect = run.is_suspect(has_more);
            run.note(has_more);
            is_suspect
        };
        assert!(!looks(true) && !looks(true));
        assert!(looks(false), "empty for the first time");
        for _ in 0..100 {
            assert!(!looks(false), "small messages cost no look");
        }
        for _ in 0..Run::LONG - 1 {
            assert!(!looks(true));
        }
        assert!(!looks(false), "a short run");
        for _ in 0..2 * Run::LONG {
            assert!(!looks(true));
        }
        assert!(looks(false), "a long run");
    }
}
