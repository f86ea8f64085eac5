//! How sockets go once their users are done with them.
//!
//! A connection that is closed gracefully is kept until its peer has acknowledged all that was
//! accepted for it: closed earlier, it would answer whatever the peer sends next with a reset, and
//! that loses what the kernel still has to send. So its alarm looks, now and then and not each
//! turn, at how much is left. The last look is at the deadline, and ends it one way or the other.

#![forbid(unsafe_code)]

use std::mem;
use std::time::Duration;

use super::{Alarm, Parting, Reactor, State, millis};
use crate::driver::{Driver, End};
use crate::event::Handle;
use crate::options::NEVER;

/// How a socket goes once its user is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Pending bytes are sent first, and the peer's end of stream is awaited.
    Flush,
    /// At once: there is no connection, or none that could carry anything.
    Drop,
    /// At once, and the peer of a connection is told by a reset.
    Reset,
}

impl Parting {
    /// A connection that is closed now has so long in all. The end of a peer that had nothing to
    /// get is waited for from now on; of another, from when it has everything.
    pub(crate) fn new(now_ms: u64, timeout: Duration, has_pending: bool) -> Self {
        let close_by_ms = now_ms.saturating_add(millis(timeout));
        Self {
            first_look_ms: now_ms.saturating_add(FIRST_LOOK_MS),
            close_by_ms,
            linger_by_ms: if has_pending { NEVER } else { now_ms.saturating_add(LINGER_MS) },
            left: 0,
        }
    }
}

impl<C> Reactor<C> {
    /// The user is done with the socket; one that flushes has its time.
    pub(crate) fn release<D: Driver>(
        &mut self,
        driver: &mut D,
        handle: Handle,
        release: Release,
        parting: Parting,
    ) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        // Nobody is told of it any more.
        self.spare.give(mem::take(&mut socket.reader).into_buffer());
        match release {
            Release::Flush => {
                socket.enter(State::Flushing, &mut self.census);
                socket.closing().parting = parting;
                let first_ms = parting.close_by_ms.min(parting.first_look_ms);
                self.arm(handle, first_ms, Alarm::Close(handle));
            }
            Release::Drop => {
                if socket.state() == State::Listening {
                    // Frees the address at once; the accept may take a while to be cancelled.
                    driver.end(handle, End::Both);
                }
                socket.enter(State::Cancelling, &mut self.census);
            }
            Release::Reset => {
                socket.enter(State::Cancelling, &mut self.census);
                driver.end(handle, End::Reset);
            }
        }
        self.resting.retain(|resting| *resting != handle);
        self.reconcile(driver, handle);
    }

    /// Looks at a closing connection: it waits on, or goes.
    pub(crate) fn look_at_closing<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let now_ms = self.now_ms;
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let left = match socket.state() {
            State::Lingering => driver.unacknowledged(handle),
            // More waits here than the kernel has taken.
            State::Flushing => usize::MAX,
            // It is over, but for completions that are still to come.
            _ => return,
        };
        if !driver.has_peer(handle) {
            // One that sends too much is not received from, which would tell.
            return self.cut(driver, handle);
        }
        let is_flooded = socket.is_flooded();
        let parting = &mut socket.closing().parting;
        let Parting { close_by_ms, linger_by_ms, left: left_before, .. } = *parting;
        if left == 0 || left_before == 0 {
            parting.left = left;
        }
        let next_ms = match left {
            0 if is_flooded => now_ms,
            0 if left_before > 0 || linger_by_ms == NEVER => {
                // It may just now have got hold of it; its end is waited for a little longer.
                parting.linger_by_ms = now_ms.saturating_add(LINGER_MS);
                parting.linger_by_ms
            }
            0 => linger_by_ms,
            _ => now_ms.saturating_add(LOOK_MS),
        };
        let next_ms = next_ms.min(close_by_ms);
        if next_ms > now_ms {
            return self.arm(handle, next_ms, Alarm::Close(handle));
        }
        if left > 0 {
            self.stats.closes_cut += 1;
            // To a peer that has taken some, the kernel goes on giving it.
            if left_before > 0 && left >= left_before {
                driver.end(handle, End::Reset);
            }
        }
        self.cut(driver, handle);
    }

    /// The peer of a closing connection sends more than is waited for. It goes as soon as it has
    /// acknowledged everything.
    pub(super) fn hasten(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find(handle) else { return };
        let soon_ms = self.now_ms.saturating_add(LOOK_MS);
        if soon_ms < socket.alarm_ms {
            self.arm(handle, soon_ms, Alarm::Close(handle));
        }
    }

    /// Cuts a closing connection short.
    pub(crate) fn cut<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        if socket.state() == State::Flushing {
            // What is pending is lost, and the peer shall know.
            driver.end(handle, End::Reset);
        }
        socket.enter(State::Cancelling, &mut self.census);
        self.disarm(handle);
        self.reconcile(driver, handle);
    }
}

/// How long the end of a peer is waited for that has nothing more to get: 2 s.
const LINGER_MS: u64 = 2000;

/// After how long a closing connection is looked at first; hardly any is there for so long.
const FIRST_LOOK_MS: u64 = 1000;

/// Between two looks at one that has not got everything yet.
const LOOK_MS: u64 = 250;
