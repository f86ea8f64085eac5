//! The event loop: one turn after the other.
//!
//! A turn gives all pending bytes to the driver, waits, and then tells in this order: what
//! completed, what was held back, what is due, how reconnect sets changed, and that the turn is
//! over.

#![forbid(unsafe_code)]

use std::time::Duration;
use std::{io, mem};

use super::Netlib;
use crate::conn::MemberEnd;
use crate::driver::{Completion, Driver, Op, Ops};
use crate::error::RunError;
use crate::event::{CloseReason, Event, Handle};
use crate::planted::{self, Bug};
use crate::reactor::{Alarm, MemberKey, Release, State};
use crate::sys;

impl<A> Netlib<A> {
    /// Runs turns until [`stop_event`](Self::stop_event) or [`Remote::stop`](crate::Remote::stop),
    /// and can be called again after that. Each turn waits at most `wait_timeout`, so loop
    /// callbacks come at least that often; `Duration::MAX` waits for events alone. An idle loop
    /// costs nothing between its turns.
    ///
    /// A panic of user code ends its connection and not the loop, see
    /// [`Options::abort_on_panic`](crate::Options::abort_on_panic).
    ///
    /// # Errors
    /// [`RunError::Nested`] from inside a callback (C4); [`RunError::System`] where the kernel
    /// refuses to wait.
    pub fn eventloop(&mut self, app: &mut A, wait_timeout: Duration) -> Result<(), RunError> {
        if self.is_in_turn {
            return Err(RunError::Nested);
        }
        self.is_running = true;
        let mut result = Ok(());
        while result.is_ok() && !self.remote.take_stop() {
            result = self.turn_alone(app, wait_timeout);
        }
        self.is_running = false;
        self.driver.finish_closes();
        result
    }

    /// One turn, for programs that have a loop of their own. Waits at most `wait_timeout`.
    ///
    /// # Errors
    /// As [`eventloop`](Self::eventloop).
    pub fn turn(&mut self, app: &mut A, wait_timeout: Duration) -> Result<(), RunError> {
        let result = self.turn_alone(app, wait_timeout);
        // There may be no other turn that does it.
        self.driver.finish_closes();
        result
    }

    fn turn_alone(&mut self, app: &mut A, wait_timeout: Duration) -> Result<(), RunError> {
        if mem::replace(&mut self.is_in_turn, true) {
            return Err(RunError::Nested);
        }
        let result = self.turn_once(app, wait_timeout);
        self.is_in_turn = false;
        result
    }

    fn turn_once(&mut self, app: &mut A, wait_timeout: Duration) -> Result<(), RunError> {
        self.reactor.flush(&mut self.driver);
        let mut batch = mem::take(&mut self.batch);
        let waited = self.wait(wait_timeout, &mut batch);
        self.reactor.now_ms = self.now_ms();
        self.reactor.stats.count_batch(batch.len());
        for completion in batch.drain(..) {
            self.dispatch(app, completion);
        }
        self.batch = batch;
        waited.map_err(RunError::System)?;
        if self.resolver.is_asked() {
            for answer in self.resolver.answers() {
                self.on_resolved(app, answer);
            }
        }
        // Those that are deferred meanwhile wait for the next turn.
        for _ in 0..self.reactor.deferred_count() {
            if let Some(handle) = self.reactor.pop_deferred() {
                self.on_deferred(app, handle);
            }
        }
        self.tell_crowd(app);
        self.start_sets(app);
        self.fire_alarms(app);
        self.tell_sets(app);
        self.call_loops(app);
        // Every chunk of this turn is back, but those that are lent to sends: nearly as many
        // sockets as there are buffers can go on, and the others wait in turn once more.
        self.reactor.feed(&mut self.driver, self.options.pool_buffers.into());
        Ok(())
    }

    /// Waits for completions; where that pays, looks for them for a moment before it sleeps.
    fn wait(&mut self, wait_timeout: Duration, batch: &mut Vec<Completion>) -> io::Result<()> {
        let limit = self.wait_limit(wait_timeout);
        if limit == Some(Duration::ZERO) {
            return self.driver.wait(limit, batch);
        }
        match self.spin.span() {
            None => self.driver.wait(limit, batch)?,
            Some(span) => {
                if !self.look_out(limit.map_or(span, |limit| limit.min(span)), batch)? {
                    // Asked again, as looking has taken some of the time.
                    let limit = self.wait_limit(wait_timeout);
                    self.driver.wait(limit, batch)?;
                }
            }
        }
        self.spin.note(batch.len(), self.reactor.stats.pdus_in, sys::thread_cpu_time);
        Ok(())
    }

    /// Looks for completions without sleeping. Whether the wait is over: there are some, or
    /// another thread wants a turn.
    fn look_out(&mut self, span: Duration, batch: &mut Vec<Completion>) -> io::Result<bool> {
        let end = self.clock.elapsed() + span;
        let wakeups = self.driver.counters().wakeups;
        loop {
            self.driver.wait(Some(Duration::ZERO), batch)?;
            if !batch.is_empty() || self.driver.counters().wakeups != wakeups {
                return Ok(true);
            }
            if self.clock.elapsed() >= end {
                return Ok(false);
            }
        }
    }

    /// How long the driver may wait; `None` for as long as it takes.
    pub(super) fn wait_limit(&self, wait_timeout: Duration) -> Option<Duration> {
        if self.reactor.is_busy() || self.sets.is_busy() {
            return Some(Duration::ZERO);
        }
        let due = self.reactor.alarms.next_tick();
        let due = due.map(|tick| self.clock.until(Duration::from_millis(tick)));
        let limit = due.map_or(wait_timeout, |due| due.min(wait_timeout));
        (limit < WAIT_MAX).then_some(limit)
    }

    fn fire_alarms(&mut self, app: &mut A) {
        // What comes due while callbacks run has the next turn, which does not wait for it.
        let now_ms = self.reactor.now_ms;
        while let Some((_, deadline_ms, alarm)) = self.reactor.alarms.pop_expired(now_ms) {
            self.reactor.stats.count_alarm(now_ms.saturating_sub(deadline_ms));
            match alarm {
                Alarm::User(timer) => self.fire_timer(app, timer, deadline_ms, now_ms),
                Alarm::Call(handle, seq) => self.on_call_timeout(app, handle, seq),
                Alarm::Connect(handle) => self.on_connect_timeout(app, handle),
                Alarm::Watch(handle) => self.on_watch(app, handle, now_ms),
                Alarm::Close(handle) => self.reactor.look_at_closing(&mut self.driver, handle),
                Alarm::Accept(handle) => self.reactor.awaken(&mut self.driver, handle),
                Alarm::Reconnect { set, index } => self.attempt(app, MemberKey { set, index }),
            }
        }
    }

    fn on_connect_timeout(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.owned(handle) else { return };
        match socket.state() {
            // The next address gets its turn when this attempt has ended.
            State::Connecting if socket.has_candidates() => {
                socket.cancelled.insert(Op::Connect);
                self.driver.cancel(handle, Ops::only(Op::Connect));
            }
            State::Idle | State::Connecting => self.fail(app, handle, CloseReason::TimedOut),
            _ => {}
        }
    }

    /// An attempt or a connection failed: its user is told, and it is freed at once.
    pub(super) fn fail(&mut self, app: &mut A, handle: Handle, reason: CloseReason) {
        self.finish(app, handle, reason, Release::Drop);
    }

    /// Tells the user, as the last event of the handle, and lets the socket go.
    pub(super) fn finish(
        &mut self,
        app: &mut A,
        handle: Handle,
        reason: CloseReason,
        release: Release,
    ) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let is_first = socket.is_owned() && socket.state() != State::Ending;
        assert!(is_first, "C2: an end is told once, and to who has not closed");
        let was_connected = socket.state() == State::Connected;
        self.reactor.stats.closes.count(reason);
        socket.enter(State::Ending, &mut self.reactor.census);
        self.reactor.disarm(handle);
        self.leave_set(handle, MemberEnd::Closed(reason));
        self.close_calls(app, handle, reason);
        self.tell(app, handle, Event::Close(reason));
        if planted::has(Bug::EndTwice) {
            self.tell(app, handle, Event::Close(reason));
        }
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        let release = match release {
            _ if socket.is_aborted && was_connected => Release::Reset,
            // Nothing can be flushed any more.
            Release::Flush if socket.broken().is_some() => Release::Drop,
            release => release,
        };
        self.release(handle, release);
    }
}

/// A wait that is as good as endless; kernels refuse numbers much greater.
const WAIT_MAX: Duration = Duration::from_secs(1 << 30);
