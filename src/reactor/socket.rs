//! One socket as the reactor sees it: its state, what it owes its user, what it has outstanding.
//!
//! A record without behaviour of its own beyond a few questions; transitions are in `mod.rs`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use super::Bulk;
use super::admission::{Admission, Block};
use super::backlog::Backlog;
use super::meter::Meter;
use super::pulse::{Due, Pulse};
use super::timer::TimerKey;
use crate::driver::{Family, Op, Ops};
use crate::event::{CloseReason, Handle, SocketState, TimerId};
use crate::options::{BacklogLimits, Delivery, Limits, Liveness, NEVER};
use crate::pdu::{FrameSpec, Reader};

// What each PDU looks at stands together, at the front.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Socket<C> {
    state: State,
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
    pub(crate) is_crowded: bool,
    /// The application cut the connection: what is pending is not flushed.
    pub(crate) is_aborted: bool,
    /// The peer's end of stream was seen.
    pub(crate) peer_finished: bool,
    /// How it is cut into PDUs, or who is told of them, may be another since this was last unset.
    pub(crate) is_changed: bool,
    pub(crate) owner: C,
    /// `None` until something of the connection's end is known.
    closing: Option<Box<Closing>>,
    /// `None` where nothing is limited.
    pub(crate) meter: Option<Box<Meter>>,
    pub(crate) bulk: Bulk,
    delivery: Delivery,
    /// Bytes kept for this socket, as they were counted last.
    pub(crate) counted: usize,
    pub(crate) backlog: Backlog,
    pub(crate) reader: Reader,
    pub(crate) pulse: Pulse,
    /// When the alarm is due; `NEVER` without one.
    pub(crate) alarm_ms: u64,
    pub(crate) limits: Rc<Limits>,
    /// The one alarm of the state: of connecting, of a connection's next deadline, of closing, or
    /// of a listener's rest.
    pub(crate) alarm: Option<TimerKey>,
    /// PDUs that reached no handler.
    pub(crate) errors: u32,
    pub(crate) user_data: u64,
    /// The member of a reconnect set whose connection or attempt this is.
    pub(crate) member: Option<Box<MemberKey>>,
    /// Timers that go with the connection.
    #[expect(clippy::box_collection, reason = "hardly any socket has some")]
    pub(crate) timers: Option<Box<Vec<TimerId>>>,
    /// Of an attempt to connect to a host.
    pub(crate) attempt: Option<Box<Attempt>>,
    /// Of a listener.
    pub(crate) gate: Option<Box<Gate>>,
    /// Of an accepted connection, where its listener counts: who let it in.
    pub(crate) origin: Option<Box<Origin>>,
}

/// How a connection ends.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// How a send failed. The connection's end follows when receiving ends.
    pub(crate) broken: Option<CloseReason>,
    /// The connection's end, to be told after the bytes that are held.
    pub(crate) end: Option<CloseReason>,
    /// Bytes that came after the user was done with the socket.
    pub(crate) discarded: usize,
    pub(crate) parting: Parting,
}

/// Until when a closing connection is kept, and what is known of how it goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parting {
    /// Before it, nobody asks what is left.
    pub(crate) first_look_ms: u64,
    /// At this time it goes, whatever is left.
    pub(crate) close_by_ms: u64,
    /// Until then the end of a peer is waited for that has acknowledged everything; `NEVER` while
    /// it is not known to have.
    pub(crate) linger_by_ms: u64,
    /// Bytes that were not acknowledged at the first look; 0 before it, and once there are none.
    pub(crate) left: usize,
}

/// What is kept of an attempt to connect to a host that may have several addresses.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// When it must be over, all of its addresses included.
    pub(crate) deadline_ms: u64,
    /// Further addresses of the host, to be tried in turn.
    pub(crate) candidates: VecDeque<SocketAddr>,
}

/// What is kept of a listener.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) admission: Admission,
    /// Accepts that failed in a row.
    pub(crate) failures: u8,
    /// Its pause when it found no descriptor, in ms; doubled each time.
    pub(crate) pause_ms: u64,
}

/// Which listener counts a connection, and for which address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) listener: Handle,
    pub(crate) block: Option<Block>,
}

/// Names one member of one reconnect set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberKey {
    pub(crate) set: Handle,
    pub(crate) index: u32,
}

/// Where a socket is in its life. Forward only, from the top to the bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// All of them, in the order of life.
    const ALL: [Self; 8] = [
        Self::Idle,
        Self::Listening,
        Self::Connecting,
        Self::Connected,
        Self::Ending,
        Self::Flushing,
        Self::Lingering,
        Self::Cancelling,
    ];

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

/// How many sockets are in each state.
#[derive(Debug, Default)]
pub(crate) struct Census {
    counts: [u32; State::ALL.len()],
}

impl Census {
    pub(crate) fn add(&mut self, state: State) {
        self.counts[state as usize] += 1;
    }

    pub(crate) fn remove(&mut self, state: State) {
        self.counts[state as usize] -= 1;
    }

    /// Sockets that their users see as such, or those that no user sees any more.
    pub(crate) fn count(&self, public: Option<SocketState>) -> u64 {
        let states = State::ALL.into_iter().filter(|state| state.public() == public);
        states.map(|state| u64::from(self.counts[state as usize])).sum()
    }
}

/// Why a connected socket does not receive, if it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Hold {
    /// `pause_receive` was called.
    pub(crate) by_user: bool,
    /// As many bytes wait for `recv` as may.
    pub(crate) by_pull: bool,
    /// The peer was too fast.
    pub(crate) by_meter: bool,
}

impl Hold {
    pub(crate) const fn is_on(self) -> bool {
        self.by_user || self.by_pull || self.by_meter
    }

    /// Whether what has arrived may not be delivered either.
    pub(crate) const fn keeps_back(self) -> bool {
        self.by_user || self.by_meter
    }
}

/// What a socket starts with, and what a listener passes on.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) delivery: Delivery,
    pub(crate) backlog: BacklogLimits,
    pub(crate) liveness: Rc<Liveness>,
    pub(crate) limits: Rc<Limits>,
}

impl<C> Socket<C> {
    pub(crate) fn new(
        state: State,
        family: Family,
        (owner, user_data): (C, u64),
        settings: Settings,
    ) -> Self {
        let Settings { delivery, backlog, liveness, limits } = settings;
        Self {
            state,
            family,
            outstanding: Ops::NONE,
            cancelled: Ops::NONE,
            hold: Hold::default(),
            is_dirty: false,
            is_starved: false,
            is_deferred: false,
            is_crowded: false,
            is_aborted: false,
            peer_finished: false,
            closing: None,
            reader: Reader::new(),
            bulk: Bulk::default(),
            backlog: Backlog::new(backlog),
            delivery,
            is_changed: false,
            owner,
            user_data,
            member: None,
            timers: None,
            alarm: None,
            alarm_ms: NEVER,
            pulse: Pulse::new(liveness, 0),
            limits,
            meter: None,
            attempt: None,
            errors: 0,
            counted: 0,
            gate: None,
            origin: None,
        }
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    pub(crate) const fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Changes how received bytes are delivered; whether that is another way than before.
    pub(crate) fn set_delivery(&mut self, delivery: Delivery) -> bool {
        self.is_changed = true;
        std::mem::replace(&mut self.delivery, delivery) != delivery
    }

    /// Gives it another owner, and returns the former one.
    pub(crate) fn set_owner(&mut self, owner: C) -> C {
        self.is_changed = true;
        std::mem::replace(&mut self.owner, owner)
    }

    /// The application says that the peer is who it should be.
    pub(crate) const fn set_ready(&mut self) {
        self.is_changed = true;
        self.pulse.is_ready = true;
    }

    /// How a send failed, if one has.
    pub(crate) const fn broken(&self) -> Option<CloseReason> {
        match &self.closing {
            Some(closing) => closing.broken,
            None => None,
        }
    }

    /// Whether it is open, and no send has failed.
    pub(crate) fn may_send(&self) -> bool {
        self.state == State::Connected && self.broken().is_none()
    }

    /// How receiving ended, if it has.
    pub(crate) const fn end(&self) -> Option<CloseReason> {
        match &self.closing {
            Some(closing) => closing.end,
            None => None,
        }
    }

    /// Something of the connection's end is known from now on.
    pub(crate) fn closing(&mut self) -> &mut Closing {
        self.closing.get_or_insert_default()
    }

    /// The driver has answered an operation for the last time.
    #[inline]
    pub(crate) const fn finish(&mut self, op: Op) {
        self.outstanding.remove(op);
        self.cancelled.remove(op);
    }

    /// Counts the bytes that are kept for it, and for no other: parts of PDUs, room for the rest
    /// of one, what is held back, and own bytes that are pending.
    #[inline]
    pub(crate) fn count(&mut self) -> usize {
        // Of a socket that is being cancelled nobody can ask to keep less.
        self.counted = match self.state {
            State::Cancelling => 0,
            _ => self.reader.len() + self.bulk.lent_len() + self.backlog.own_queued(),
        };
        self.counted
    }

    /// Whether its host has further addresses to be tried.
    pub(crate) fn has_candidates(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| !attempt.candidates.is_empty())
    }

    /// Whether its user has not given it up.
    pub(crate) fn is_owned(&self) -> bool {
        self.state < State::Flushing
    }

    /// Goes on to another state.
    pub(crate) fn enter(&mut self, state: State, census: &mut Census) {
        census.remove(self.state);
        census.add(state);
        self.state = state;
    }

    /// What a connection accepted by this listener starts with.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            delivery: self.delivery,
            backlog: self.backlog.limits(),
            liveness: Rc::clone(self.pulse.rules()),
            limits: Rc::clone(&self.limits),
        }
    }

    /// Changes what the peer may ask for; its rate counts from now on.
    pub(crate) fn set_limits(&mut self, limits: Rc<Limits>, now_ms: u64) {
        self.is_changed = true;
        self.limits = limits;
        if self.state == State::Connected {
            self.meter = Meter::new(&self.limits, now_ms);
        }
    }

    /// The connection is open: its deadlines count from now on, and its rate.
    pub(crate) fn open(&mut self, now_ms: u64) {
        self.pulse.open(now_ms);
        self.meter = Meter::new(&self.limits, now_ms);
    }

    /// Time has passed for the peer's rate.
    pub(crate) fn fill_meter(&mut self, now_ms: u64) {
        if let Some(meter) = &mut self.meter {
            meter.fill(now_ms);
        }
    }

    /// A PDU is delivered; a peer that is too fast is held back after it.
    pub(crate) fn meter_pdu(&mut self) {
        if let Some(meter) = &mut self.meter {
            self.hold.by_meter |= meter.take_pdu();
        }
    }

    /// The framing of what arrives; who is not ready yet may send less at once.
    pub(crate) fn framing(&self) -> Option<FrameSpec> {
        match self.delivery {
            Delivery::Pdu(spec) if self.pulse.is_ready => Some(spec),
            Delivery::Pdu(spec) => {
                let max = self.limits.unready_bytes_max.max(spec.min());
                Some(spec.with_max(spec.max().min(max)))
            }
            Delivery::Push | Delivery::Pull => None,
        }
    }

    /// What of an open connection is due next, and when.
    pub(crate) fn next_due(&self) -> (u64, Due) {
        let is_heard = !self.hold.is_on() && !self.is_starved && !self.is_deferred;
        let next = self.pulse.next(is_heard && !self.peer_finished);
        match &self.meter {
            Some(meter) if meter.paused_until_ms <= next.0 => (meter.paused_until_ms, Due::Resume),
            _ => next,
        }
    }

    /// Whether an accept ought to be outstanding.
    pub(crate) fn wants_accept(&self) -> bool {
        self.state == State::Listening && self.alarm.is_none() && !self.hold.by_user
    }

    /// Whether it is an open connection that receives as it should: nothing needs to be done.
    #[inline]
    pub(crate) const fn is_settled(&self) -> bool {
        matches!(self.state, State::Connected)
            && self.outstanding.has(Op::Receive)
            && self.wants_receive()
            && !self.is_misarmed()
    }

    /// Whether the peer of a closing connection has sent more than is waited for.
    pub(crate) const fn is_flooded(&self) -> bool {
        match &self.closing {
            Some(closing) => closing.discarded > DISCARDED_MAX,
            None => false,
        }
    }

    /// Whether a receive ought to be outstanding.
    pub(crate) const fn wants_receive(&self) -> bool {
        // Held bytes are delivered first: more of them would pile up behind a user who pauses at
        // each one.
        if self.peer_finished || self.is_starved || self.is_deferred {
            return false;
        }
        match self.state {
            State::Connected => !self.hold.is_on() && self.end().is_none(),
            // What still comes is dropped. Left unread, it would turn the close into a reset,
            // and a reset may overtake what the peer has not read yet.
            State::Flushing | State::Lingering => !self.is_flooded(),
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
