//! What is done about a connection whose time has come: heartbeats, deadlines, and peers that
//! were too fast.
//!
//! When that is, the reactor says (`reactor/pulse.rs`, `reactor/meter.rs`); here is what follows.

#![forbid(unsafe_code)]

use std::rc::Rc;

use super::Netlib;
use crate::driver::Driver;
use crate::error::Stale;
use crate::event::{CloseReason, Deadline, Event, Handle, Limit};
use crate::options::{Limits, Liveness, NEVER};
use crate::reactor::{Due, Release, State};

impl<A> Netlib<A> {
    /// Says that a connection has done what the application asks of a new one, such as a login:
    /// its [handshake deadline](crate::Liveness::handshake) is met, and its PDUs may be
    /// [as long as those of any other](crate::Limits::unready_bytes_max).
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn mark_ready(&mut self, handle: Handle) -> Result<(), Stale> {
        self.reactor.owned(handle).ok_or(Stale)?.set_ready();
        Ok(())
    }

    /// A connection's alarm went off: what is due by now is done, and the next deadline armed.
    pub(super) fn on_watch(&mut self, app: &mut A, handle: Handle, now_ms: u64) {
        self.reactor.disarm(handle);
        // Each of them is due once; a rule of one millisecond must not hold the loop up.
        for _ in 0..DUE_MAX {
            let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
            if socket.state() != State::Connected {
                return;
            }
            match socket.next_due() {
                (due_ms, _) if due_ms > now_ms => break,
                (_, Due::Heartbeat) => self.send_heartbeat(handle, now_ms),
                (_, Due::Look) => {
                    let progress = self.driver.progress(handle);
                    if socket.pulse.is_stalled(progress, now_ms) {
                        let reason = CloseReason::Expired(Deadline::WriteStall);
                        return self.finish(app, handle, reason, Release::Reset);
                    }
                }
                (_, Due::Resume) => self.resume_metered(handle, now_ms),
                // What has come of a large PDU is not known before its buffer is back.
                (_, Due::Expired(Deadline::ReadIdle)) if socket.bulk.is_lent() => {
                    self.reactor.recall(&mut self.driver, handle);
                    return self.reactor.arm_watch(handle, now_ms.saturating_add(UNHEARD_MS));
                }
                (_, Due::Expired(deadline)) => {
                    if self.is_unheard(handle, deadline) {
                        // It is heard soon; until then its deadline is a little later.
                        let later_ms = now_ms.saturating_add(UNHEARD_MS);
                        return self.reactor.arm_watch(handle, later_ms);
                    }
                    let reason = CloseReason::Expired(deadline);
                    return self.finish(app, handle, reason, Release::Flush);
                }
            }
        }
        self.reactor.watch(handle);
    }

    /// Whether a silence is not the peer's fault: what it has sent waits in the kernel, because
    /// the loop was away, or this process was stopped. It is asked when a deadline runs out, and
    /// at no other time.
    fn is_unheard(&self, handle: Handle, deadline: Deadline) -> bool {
        let is_of_silence =
            matches!(deadline, Deadline::ReadIdle | Deadline::Frame | Deadline::Handshake);
        is_of_silence && self.driver.has_unread(handle)
    }

    fn send_heartbeat(&mut self, handle: Handle, now_ms: u64) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.pulse.note_sent(now_ms);
        let frame = socket.pulse.rules().heartbeat_frame.clone();
        // Bytes that are pending tell as much, and a heartbeat that were refused would owe its
        // user an event that he did not ask for.
        let is_of_use = socket.backlog.queued() == 0 && !frame.is_empty();
        if is_of_use && self.reactor.has_room(frame.len()) && self.send(handle, &frame).is_ok() {
            self.reactor.stats.heartbeats += 1;
        }
    }

    /// So many bytes were delivered; a peer that was too fast is paused, or has to go.
    pub(super) fn judge_speed(&mut self, app: &mut A, handle: Handle, len: usize) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let is_connected = socket.state() == State::Connected;
        let Some(meter) = &mut socket.meter else { return };
        socket.hold.by_meter |= meter.take_bytes(len);
        let is_paused = meter.paused_until_ms != NEVER;
        if !is_connected || !socket.hold.by_meter || is_paused {
            return;
        }
        if !meter.strike(self.reactor.now_ms) {
            let reason = CloseReason::Exceeded(Limit::Rate);
            return self.finish(app, handle, reason, Release::Flush);
        }
        self.reactor.stats.rate_pauses += 1;
        self.reactor.watch(handle);
    }

    /// Too much is kept for all together: whoever has the most of it has to go. It is looked for
    /// among all sockets, which is paid for by the bytes that it had sent.
    pub(super) fn judge_sizes(&mut self, app: &mut A) {
        while self.reactor.is_overfull()
            && let Some((handle, state)) = self.reactor.largest()
        {
            match state {
                State::Connected => {
                    let reason = CloseReason::Exceeded(Limit::Buffered);
                    self.finish(app, handle, reason, Release::Reset);
                }
                _ => self.reactor.cut(&mut self.driver, handle),
            }
            self.reactor.give_up(handle);
        }
    }

    /// Whether more is kept for a connection that is not ready than may be.
    pub(super) fn judge_unready(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        let is_too_much = socket.reader.len() > socket.limits.unready_bytes_max as usize;
        if socket.state() == State::Connected && !socket.pulse.is_ready && is_too_much {
            let reason = CloseReason::Exceeded(Limit::Buffered);
            self.finish(app, handle, reason, Release::Reset);
        }
    }

    /// There is room again: whoever was refused for want of it is told.
    pub(super) fn tell_crowd(&mut self, app: &mut A) {
        // Who is refused again waits for the next turn.
        for _ in 0..self.reactor.crowd_len() {
            let Some(handle) = self.reactor.pop_crowded() else { return };
            let Some(socket) = self.reactor.sockets.find_mut(handle) else { continue };
            if socket.state() == State::Connected && socket.broken().is_none() {
                // If its own pending bytes are above the low mark, that one comes on top.
                socket.backlog.take_event();
                self.tell(app, handle, Event::Write);
            }
        }
    }

    fn resume_metered(&mut self, handle: Handle, now_ms: u64) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if let Some(meter) = &mut socket.meter {
            meter.fill(now_ms);
            meter.paused_until_ms = NEVER;
        }
        socket.hold.by_meter = false;
        self.resume(handle, now_ms);
    }

    /// Goes on with a connection that was held back.
    pub(super) fn resume(&mut self, handle: Handle, now_ms: u64) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if !socket.reader.is_empty() || socket.end().is_some() {
            self.reactor.defer(handle);
        }
        self.hear_again(handle, now_ms);
    }

    /// Receives again after a time in which the peer was not heard.
    pub(super) fn hear_again(&mut self, handle: Handle, now_ms: u64) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.pulse.hear(now_ms);
        self.reactor.reconcile(&mut self.driver, handle);
        self.reactor.watch(handle);
    }

    pub(super) fn set_liveness(&mut self, handle: Handle, liveness: Liveness) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.pulse.set_rules(Rc::new(liveness));
        self.reactor.watch(handle);
    }

    pub(super) fn set_limits(&mut self, handle: Handle, limits: Limits) {
        let now_ms = self.now_ms();
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.set_limits(Rc::new(limits), now_ms);
        let was_paused = std::mem::take(&mut socket.hold.by_meter);
        // A longest PDU that has changed may free bytes that are held, or doom them.
        if was_paused || !socket.reader.is_empty() {
            self.resume(handle, now_ms);
        }
        self.reactor.recall(&mut self.driver, handle);
    }
}

/// More than a connection has deadlines.
const DUE_MAX: usize = 8;

/// How long a peer has whose bytes wait in the kernel when its deadline runs out.
const UNHEARD_MS: u64 = 1000;
