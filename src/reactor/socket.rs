//! One socket as the reactor sees it: its state, what it owes its user, what it has outstanding.
//!
//! A record without behaviour of its own beyond a few questions; transitions are in `mod.rs`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::backlog::Backlog;
use super::timer::TimerKey;
use crate::driver::{Family, Ops};
use crate::event::{CloseReason, SocketState, TimerId};
use crate::options::{BacklogLimits, Delivery};
use crate::pdu::Reader;

#[derive(Debug)]
pub(crate) struct Socket<C> {
    pub(crate) state: State,
    pub(crate) family: Family,
    /// What the driver has and has not answered for the last time.
    pub(crate) outstanding: Ops,
    /// Those of the outstanding that were asked to end.
    pub(crate) cancelled: Ops,
    pub(crate) hold: Hold,
    /// Stands in the queue of that name.
    pub(crate) is_dirty: bool,
    pub(crate) is_starved: bool,
    pub(crate) is_deferred: bool,
    /// The application cut the connection: what is pending is not flushed.
    pub(crate) is_aborted: bool,
    /// The peer's end of stream was seen.
    pub(crate) peer_finished: bool,
    /// How a send failed. The connection's end follows when receiving ends.
    pub(crate) broken: Option<CloseReason>,
    /// The connection's end, to be told after the bytes that are held.
    pub(crate) end: Option<CloseReason>,
    pub(crate) reader: Reader,
    pub(crate) backlog: Backlog,
    pub(crate) delivery: Delivery,
    pub(crate) owner: C,
    pub(crate) user_data: u64,
    /// Timers that go with the connection.
    pub(crate) timers: Vec<TimerId>,
    /// The one deadline of the state: of connecting, of closing, or of a listener's rest.
    pub(crate) alarm: Option<TimerKey>,
    /// When an attempt to connect must be over, all of its addresses included.
    pub(crate) deadline_ms: u64,
    /// Further addresses of a connecting socket's host, to be tried in turn.
    pub(crate) candidates: VecDeque<SocketAddr>,
    /// Bytes that came after the user was done with the socket.
    pub(crate) discarded: usize,
    /// PDUs that reached no handler.
    pub(crate) errors: u32,
    /// Accepts that failed in a row.
    pub(crate) accept_failures: u8,
    /// The pause of a listener that found no descriptor, in ms; doubled each time.
    pub(crate) pause_ms: u64,
}

/// Where a socket is in its life. Forward only, from the top to the bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its host name is being resolved.
    Idle,
    Listening,
    Connecting,
    Connected,
    /// Its Close event is being delivered.
    Ending,
    /// Given up by its user; pending bytes still go out.
    Flushing,
    /// The peer was told the end of the stream; its own end is awaited.
    Lingering,
    /// Everything outstanding was cancelled; the last completion frees it.
    Cancelling,
}

impl State {
    /// The state as users see it; `None` once the handle is stale for them.
    pub(crate) const fn public(self) -> Option<SocketState> {
        match self {
            Self::Idle => Some(SocketState::Idle),
            Self::Listening => Some(SocketState::Listening),
            Self::Connecting => Some(SocketState::Connecting),
            Self::Connected => Some(SocketState::Connected),
            Self::Ending => Some(SocketState::Closing),
            Self::Flushing | Self::Lingering | Self::Cancelling => None,
        }
    }
}

/// Why a connected socket does not receive, if it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Hold {
    /// `pause_receive` was called.
    pub(crate) by_user: bool,
    /// As many bytes wait for `recv` as may.
    pub(crate) by_pull: bool,
}

impl Hold {
    pub(crate) const fn is_on(self) -> bool {
        self.by_user || self.by_pull
    }
}

impl<C> Socket<C> {
    pub(crate) fn new(
        state: State,
        family: Family,
        (owner, user_data): (C, u64),
        (delivery, limits): (Delivery, BacklogLimits),
    ) -> Self {
        Self {
            state,
            family,
            outstanding: Ops::NONE,
            cancelled: Ops::NONE,
            hold: Hold::default(),
            is_dirty: false,
            is_starved: false,
            is_deferred: false,
            is_aborted: false,
            peer_finished: false,
            broken: None,
            end: None,
            reader: Reader::new(),
            backlog: Backlog::new(limits),
            delivery,
            owner,
            user_data,
            timers: Vec::new(),
            alarm: None,
            deadline_ms: u64::MAX,
            candidates: VecDeque::new(),
            discarded: 0,
            errors: 0,
            accept_failures: 0,
            pause_ms: 0,
        }
    }

    /// Whether an accept ought to be outstanding.
    pub(crate) fn wants_accept(&self) -> bool {
        self.state == State::Listening && self.alarm.is_none() && !self.hold.by_user
    }

    /// Whether the peer of a closing connection has sent more than is waited for.
    pub(crate) const fn is_flooded(&self) -> bool {
        self.discarded > DISCARDED_MAX
    }

    /// Whether a receive ought to be outstanding.
    pub(crate) const fn wants_receive(&self) -> bool {
        // Held bytes are delivered first: more of them would pile up behind a user who pauses at
        // each one.
        if self.peer_finished || self.is_starved || self.is_deferred {
            return false;
        }
        match self.state {
            State::Connected => !self.hold.is_on() && self.end.is_none(),
            // What still comes is dropped. Left unread, it would turn the close into a reset,
            // and a reset may overtake what the peer has not read yet.
            State::Flushing | State::Lingering => self.discarded <= DISCARDED_MAX,
            State::Idle
            | State::Listening
            | State::Connecting
            | State::Ending
            | State::Cancelling => false,
        }
    }
}

/// Bytes that a closing connection may still send before it is left unread.
const DISCARDED_MAX: usize = 1 << 20;
