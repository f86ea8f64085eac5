//! The sockets of one `Netlib`, as a state machine over completions.
//!
//! Never makes a system call, never reads a clock, never calls user code: it is told what
//! completed and what time it is, gives operations to a [`Driver`], and leaves the telling to
//! `netlib/`. Its centre is [`Reactor::reconcile`], which compares what a socket's state asks for
//! with what is outstanding, and submits the difference.

#![forbid(unsafe_code)]

mod admission;
mod backlog;
mod bulk;
mod closing;
mod kept;
mod meter;
mod pulse;
mod socket;
mod spare;
mod table;
pub(crate) mod timer;

use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use admission::{Admission, Block};
pub use backlog::SendStatus;
pub(crate) use bulk::{Bulk, TAIL_LEN};
pub(crate) use closing::Release;
#[cfg(any(test, fuzzing))]
pub(crate) use meter::model as meter_model;
pub(crate) use pulse::Due;
pub(crate) use socket::{
    Attempt, Census, Gate, Hold, MemberKey, Origin, Parting, Settings, Socket, State,
};
pub(crate) use spare::Spare;
pub(crate) use table::Table;
#[cfg(any(test, fuzzing))]
pub(crate) use timer::model as timer_model;
pub(crate) use timer::{TimerKey, Wheel};

use crate::driver::{Driver, End, Lending, Op, Ops, Stock};
use crate::error::SendError;
use crate::event::Handle;
use crate::options::{NEVER, Options};
use crate::planted::{self, Bug};
use crate::shared::Ledger;
use crate::stats::Stats;

#[derive(Debug)]
pub(crate) struct Reactor<C> {
    pub(crate) sockets: Table<Socket<C>>,
    pub(crate) census: Census,
    pub(crate) alarms: Wheel<Alarm>,
    pub(crate) spare: Spare,
    /// What is being delivered, if it is so much that a send may read from it.
    pub(crate) lending: Option<Lending>,
    pub(crate) stats: Stats,
    /// The time of the turn, as it was told last.
    pub(crate) now_ms: u64,
    /// Under which shared bodies are counted.
    ledger: Ledger,
    /// Sockets with pending bytes, to be sent at the end of the turn.
    dirty: Vec<Handle>,
    /// Sockets whose receive found no buffer, in the order in which they get their turn (D7).
    starved: VecDeque<Handle>,
    /// Turns for which receives go through that queue although it may be empty: the one in which
    /// a buffer was missing, and the next. Whoever is re-armed before another one is found to be
    /// starved would otherwise take its buffer, turn after turn.
    scarce_turns: u8,
    /// Sockets with something to be told that no completion will bring: bytes that were held.
    deferred: VecDeque<Handle>,
    /// Bytes kept for all sockets; shared bodies count once.
    buffered: usize,
    buffered_max: usize,
    /// How many there may be when something is sent: what is being received keeps some room for
    /// itself, as it cannot be refused.
    sendable_max: usize,
    /// Sockets that had to be refused because all together keep so much.
    crowd: VecDeque<Handle>,
    /// PDUs that are longer are large ones.
    pub(crate) large_len: usize,
    pub(crate) buffer_len: usize,
    /// Listeners that rest because no descriptor was left (D10).
    resting: Vec<Handle>,
    pause_min_ms: u64,
    pause_max_ms: u64,
}

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// A user's timer.
    User(Handle),
    /// A connection's call with this sequence number has no reply yet.
    Call(Handle, u16),
    /// An attempt to connect has taken too long.
    Connect(Handle),
    /// A connection's next deadline, as it stood when it was armed.
    Watch(Handle),
    /// A closed connection is to be looked at.
    Close(Handle),
    /// A listener has rested.
    Accept(Handle),
    /// A member of a reconnect set has waited.
    Reconnect { set: Handle, index: u32 },
}

impl<C> Reactor<C> {
    pub(crate) fn new(options: &Options, stock: Stock) -> Self {
        Self {
            sockets: Table::new(options.sockets_max as usize),
            census: Census::default(),
            alarms: Wheel::new(),
            spare: Spare::new(stock),
            lending: None,
            stats: Stats::default(),
            now_ms: 0,
            ledger: Ledger::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            scarce_turns: 0,
            deferred: VecDeque::new(),
            buffered: 0,
            buffered_max: options.buffered_bytes_max,
            sendable_max: options.buffered_bytes_max - options.buffered_bytes_max / 8,
            crowd: VecDeque::new(),
            large_len: LARGE_BUFFERS * options.pool_buffer_len as usize,
            buffer_len: options.pool_buffer_len as usize,
            resting: Vec::new(),
            pause_min_ms: millis(options.accept_pause_min).max(1),
            pause_max_ms: millis(options.accept_pause_max).max(1),
        }
    }

    /// A handle for a new socket; `None` when there are too many.
    pub(crate) fn insert(&mut self, socket: Socket<C>) -> Option<Handle> {
        let state = socket.state();
        let handle = self.sockets.insert(socket).ok()?;
        self.census.add(state);
        Some(handle)
    }

    /// Takes a socket out of the table, with which its handle goes stale for good.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Socket<C>> {
        let socket = self.sockets.remove(handle)?;
        self.census.remove(socket.state());
        self.buffered -= socket.counted;
        if socket.is_crowded {
            self.crowd.retain(|crowded| *crowded != handle);
        }
        if let Some(origin) = &socket.origin
            && let Some(listener) = self.sockets.find_mut(origin.listener)
            && let Some(gate) = &mut listener.gate
        {
            gate.admission.leave(origin.block);
        }
        Some(socket)
    }

    /// A connection was let in by its listener.
    pub(crate) fn enter(&mut self, handle: Handle, origin: Origin) {
        let Some(listener) = self.sockets.find_mut(origin.listener) else { return };
        let Some(gate) = listener.gate.as_mut().filter(|gate| gate.admission.counts()) else {
            return;
        };
        gate.admission.enter(origin.block);
        if let Some(socket) = self.sockets.find_mut(handle) {
            socket.origin = Some(Box::new(origin));
        }
    }

    /// The socket of a handle that its user still owns.
    pub(crate) fn owned(&mut self, handle: Handle) -> Option<&mut Socket<C>> {
        self.sockets.find_mut(handle).filter(|socket| socket.is_owned())
    }

    /// The socket of a handle, if it may send, and to be changed only by that.
    pub(crate) fn sendable(&mut self, handle: Handle) -> Result<&mut Socket<C>, SendError> {
        sendable(&mut self.sockets, handle)
    }

    pub(crate) fn mark_dirty(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        if !socket.is_dirty && socket.backlog.has_pending() {
            socket.is_dirty = true;
            self.dirty.push(handle);
        }
    }

    /// Gives all pending bytes of each dirty socket to the driver, as one send per socket.
    pub(crate) fn flush<D: Driver>(&mut self, driver: &mut D) {
        if self.dirty.is_empty() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for handle in dirty.drain(..) {
            let Some(socket) = self.sockets.find_mut(handle) else { continue };
            socket.is_dirty = false;
            if socket.backlog.has_loans() {
                self.buffered = self.buffered - socket.counted + socket.count();
            }
            let may_send = matches!(socket.state(), State::Connected | State::Flushing);
            if !may_send || socket.broken().is_some() {
                continue;
            }
            if let Some(outgoing) = socket.backlog.take(&mut self.spare) {
                socket.outstanding.insert(Op::Send);
                socket.pulse.note_flight(self.now_ms);
                driver.send(handle, outgoing);
                // An alarm that is armed already is nearly always in time.
                if socket.pulse.look_ms() < socket.alarm_ms {
                    self.watch(handle);
                }
            }
        }
        self.dirty = dirty;
    }

    /// Something is to be told to the socket's user without a completion that would bring it.
    pub(crate) fn defer(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        if !socket.is_deferred {
            socket.is_deferred = true;
            self.deferred.push_back(handle);
        }
    }

    pub(crate) fn pop_deferred(&mut self) -> Option<Handle> {
        let handle = self.deferred.pop_front()?;
        if let Some(socket) = self.sockets.find_mut(handle) {
            socket.is_deferred = false;
        }
        Some(handle)
    }

    pub(crate) fn deferred_count(&self) -> usize {
        self.deferred.len()
    }

    /// Whether there is work that no completion will announce, so that nothing may be waited for.
    pub(crate) fn is_busy(&self) -> bool {
        let has_told_all = self.crowd.is_empty() || !self.may_tell_crowd();
        let has_queued = !self.deferred.is_empty() || !self.dirty.is_empty();
        let is_fed = self.starved.is_empty();
        let spins = planted::has(Bug::StarvedSpins) && self.stats.no_buffers > 0;
        has_queued || !is_fed || !has_told_all || spins
    }

    /// The socket's receive found no buffer (D7).
    pub(crate) fn starve(&mut self, handle: Handle) {
        self.stats.no_buffers += 1;
        self.scarce_turns = 2;
        self.queue_for_buffers(handle);
    }

    /// The socket may receive when those that wait for buffers have had their turn.
    fn queue_for_buffers(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        if !socket.is_starved {
            socket.is_starved = true;
            if planted::has(Bug::StarvedForgotten) {
                return;
            }
            self.starved.push_back(handle);
        }
    }

    /// Lets as many starved sockets receive again as there are buffers, first come first. Those
    /// that do not want to any more, or are gone, take nobody's turn.
    #[inline]
    pub(crate) fn feed<D: Driver>(&mut self, driver: &mut D, buffers: usize) {
        self.scarce_turns = self.scarce_turns.saturating_sub(1);
        if !self.starved.is_empty() {
            self.feed_starved(driver, buffers);
        }
    }

    fn feed_starved<D: Driver>(&mut self, driver: &mut D, mut buffers: usize) {
        while buffers > 0
            && let Some(handle) = self.starved.pop_front()
        {
            let Some(socket) = self.sockets.find_mut(handle) else { continue };
            socket.is_starved = false;
            if socket.wants_receive() && !socket.outstanding.has(Op::Receive) {
                buffers -= 1;
                self.receive(driver, handle);
            }
            // While it waited its silence was not watched.
            self.watch(handle);
        }
    }

    fn is_scarce(&self) -> bool {
        self.scarce_turns > 0 || !self.starved.is_empty()
    }

    /// The listener found no descriptor: it rests, longer each time, until one is closed.
    pub(crate) fn rest(&mut self, handle: Handle, now_ms: u64) {
        self.stats.accept_pauses += 1;
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let Some(gate) = &mut socket.gate else { return };
        let doubled = gate.pause_ms.saturating_mul(2);
        gate.pause_ms = doubled.clamp(self.pause_min_ms, self.pause_max_ms);
        let deadline = now_ms.saturating_add(gate.pause_ms);
        self.arm(handle, deadline, Alarm::Accept(handle));
        self.resting.push(handle);
    }

    /// Too many clients came at once: the listener rests until then.
    pub(crate) fn rest_until(&mut self, handle: Handle, due_ms: u64) {
        self.stats.accept_pauses += 1;
        self.arm(handle, due_ms, Alarm::Accept(handle));
    }

    /// Ends a listener's rest.
    pub(crate) fn awaken<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        self.resting.retain(|resting| *resting != handle);
        self.disarm(handle);
        self.reconcile(driver, handle);
    }

    /// Sets the socket's one alarm.
    pub(crate) fn arm(&mut self, handle: Handle, deadline_ms: u64, alarm: Alarm) {
        self.disarm(handle);
        let key = self.alarms.insert(deadline_ms, alarm);
        if let Some(socket) = self.sockets.find_mut(handle) {
            socket.alarm = Some(key);
            socket.alarm_ms = deadline_ms;
        }
    }

    /// Sees to it that a connection's alarm goes off no later than its next deadline. One that
    /// goes off earlier looks again, so it is left alone.
    pub(crate) fn watch(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find(handle) else { return };
        let (due_ms, _) = socket.next_due();
        if socket.state() == State::Connected && due_ms < socket.alarm_ms {
            self.arm_watch(handle, due_ms);
        }
    }

    /// Looks at a connection's deadlines at that time.
    pub(crate) fn arm_watch(&mut self, handle: Handle, due_ms: u64) {
        self.arm(handle, due_ms, Alarm::Watch(handle));
    }

    pub(crate) fn disarm(&mut self, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        socket.alarm_ms = NEVER;
        if let Some(key) = socket.alarm.take() {
            self.alarms.cancel(key);
        }
    }

    /// Submits whatever the socket's state asks for and is not outstanding, cancels what it does
    /// not want any more, and frees the socket once it is over.
    #[inline]
    pub(crate) fn reconcile<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        self.buffered = self.buffered - socket.counted + socket.count();
        if !socket.is_settled() {
            self.reconcile_unsettled(driver, handle);
        }
    }

    #[inline(never)]
    fn reconcile_unsettled<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let is_scarce = self.is_scarce();
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        if socket.state() == State::Flushing && socket.backlog.queued() == 0 {
            if socket.peer_finished {
                // The close says so to the peer; there is nothing to be waited for.
                socket.enter(State::Cancelling, &mut self.census);
            } else {
                driver.end(handle, End::Write);
                socket.enter(State::Lingering, &mut self.census);
            }
        }
        if socket.state() == State::Lingering && socket.is_flooded() {
            self.hasten(handle);
        }
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let (state, armed) = (socket.state(), socket.outstanding);
        match (socket.wants_accept(), armed.has(Op::Accept)) {
            (true, false) => {
                socket.outstanding.insert(Op::Accept);
                self.stats.armed += 1;
                driver.accept(handle);
            }
            (false, true) if !socket.cancelled.has(Op::Accept) => {
                socket.cancelled.insert(Op::Accept);
                driver.cancel(handle, Ops::only(Op::Accept));
            }
            (true, true) | (false, _) => {}
        }
        match (socket.wants_receive(), armed.has(Op::Receive)) {
            // Nobody overtakes those that wait for buffers already.
            (true, false) if is_scarce => self.queue_for_buffers(handle),
            (true, false) => self.receive(driver, handle),
            (wants, true) if !socket.cancelled.has(Op::Receive) => {
                if !wants || socket.is_misarmed() {
                    socket.cancelled.insert(Op::Receive);
                    driver.cancel(handle, Ops::only(Op::Receive));
                }
            }
            (true, true) | (false, _) => {}
        }
        if state == State::Cancelling {
            self.retire(driver, handle);
        }
    }

    /// Cancels what is outstanding, or frees the socket when nothing is (I3).
    fn retire<D: Driver>(&mut self, driver: &mut D, handle: Handle) {
        let Some(socket) = self.sockets.find_mut(handle) else { return };
        let fresh = socket.outstanding.without(socket.cancelled);
        let is_over = fresh.is_empty() && planted::has(Bug::FreedAtCancel);
        if !socket.outstanding.is_empty() && !is_over {
            if !fresh.is_empty() {
                socket.cancelled = socket.cancelled.or(fresh);
                driver.cancel(handle, fresh);
            }
            return;
        }
        self.disarm(handle);
        let has_descriptor = driver.socket(handle).is_some();
        if has_descriptor {
            driver.close(handle);
        }
        if let Some(mut socket) = self.remove(handle) {
            self.recycle(socket.backlog.clear());
            self.spare.give(socket.reader.into_buffer());
        }
        self.stats.closed += 1;
        if has_descriptor {
            self.awaken_all(driver);
        }
    }

    /// A descriptor was freed: listeners that rested for want of one try again.
    pub(crate) fn awaken_all<D: Driver>(&mut self, driver: &mut D) {
        for handle in std::mem::take(&mut self.resting) {
            self.disarm(handle);
            self.reconcile(driver, handle);
        }
    }
}

/// The socket of a handle, if it may send. Quietly: that it does is no reason for whoever delivers
/// to it to look at it again, as what a send changes (the backlog, what is counted of it, that it
/// is dirty, when it sent last) is no matter of delivering.
fn sendable<C>(
    sockets: &mut Table<Socket<C>>,
    handle: Handle,
) -> Result<&mut Socket<C>, SendError> {
    match sockets.find_quietly(handle) {
        Some(socket) if socket.may_send() => Ok(socket),
        Some(socket) if socket.is_owned() => Err(SendError::NotConnected),
        _ => Err(SendError::Stale),
    }
}

/// A PDU is large if it has more bytes than so many pool buffers.
const LARGE_BUFFERS: usize = 2;

/// A duration in whole milliseconds, rounded up so that nothing happens early.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 4)
}
