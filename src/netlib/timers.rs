//! Timers and loop callbacks of the surface: what users register, and when it is called.
//!
//! The timing wheel itself is in `reactor/timer.rs`; the loop in `turn.rs` calls this.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::time::Duration;

use super::Netlib;
use super::tell::Notice;
use crate::error::Stale;
use crate::event::{Callback, Event, Handle, LoopId, TimerId};
use crate::reactor::{Alarm, TimerKey, millis};

pub(super) struct Timer<A> {
    target: Target<A>,
    /// `None` for a timer that fires once.
    period_ms: Option<NonZeroU64>,
    key: Option<TimerKey>,
}

/// Who is told that a timer is due.
enum Target<A> {
    Callback(Callback<A>, u64),
    /// A connection's object; the timer goes with the connection.
    Connection(Handle),
}

// Derived, these would ask the same of `A`, of which a target holds nothing.
impl<A> Clone for Target<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Target<A> {}

pub(super) struct Loop<A> {
    id: u64,
    callback: Callback<A>,
    user_data: u64,
}

/// How often a timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// One time, and the timer is gone.
    Once,
    /// Every interval, until it is deleted. After a stall the times that were missed are left out,
    /// and the rhythm goes on as before.
    Forever,
}

impl<A> Netlib<A> {
    /// Calls `callback` with [`Event::Timer`](crate::Event::Timer) after `interval`, once or again
    /// and again. Monotonic, in whole milliseconds and at least one, never early.
    ///
    /// ```
    /// use std::time::Duration;
    /// use uring_netlib::{Event, Handle, Netlib, Options, Repeat};
    ///
    /// fn tick(count: &mut u32, net: &mut Netlib<u32>, _: Handle, event: Event<'_>) {
    ///     *count += 1;
    ///     if let (Event::Timer { timer, .. }, 3) = (event, *count) {
    ///         net.delete_timer(timer).ok();
    ///         net.stop_event();
    ///     }
    /// }
    ///
    /// let (mut net, mut count) = (Options::new().build()?, 0);
    /// net.register_timer(Duration::from_millis(5), Repeat::Forever, tick, 0);
    /// net.eventloop(&mut count, Duration::MAX)?;
    /// assert_eq!(count, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// With more than 2²⁴ timers.
    pub fn register_timer(
        &mut self,
        interval: Duration,
        repeat: Repeat,
        callback: Callback<A>,
        user_data: u64,
    ) -> TimerId {
        self.insert_timer(interval, repeat, Target::Callback(callback, user_data))
    }

    /// A timer of a connection's object. It is told of nothing once the connection is gone.
    pub(crate) fn set_connection_timer(
        &mut self,
        handle: Handle,
        interval: Duration,
        repeat: Repeat,
    ) -> TimerId {
        let timer = self.insert_timer(interval, repeat, Target::Connection(handle));
        match self.reactor.owned(handle) {
            Some(socket) => socket.timers.get_or_insert_default().push(timer),
            // The connection is gone, and so is its timer.
            None => drop(self.delete_timer(timer)),
        }
        timer
    }

    fn insert_timer(&mut self, interval: Duration, repeat: Repeat, target: Target<A>) -> TimerId {
        let interval = interval.max(Duration::from_millis(1));
        let interval_ms = NonZeroU64::new(millis(interval)).unwrap_or(NonZeroU64::MIN);
        let period_ms = (repeat == Repeat::Forever).then_some(interval_ms);
        let inserted = self.timers.insert(Timer { target, period_ms, key: None });
        let Ok(id) = inserted else { panic!("no more than 2²⁴ timers") };
        let deadline = self.deadline(interval);
        let key = self.reactor.alarms.insert(deadline, Alarm::User(id));
        if let Some(timer) = self.timers.find_mut(id) {
            timer.key = Some(key);
        }
        TimerId(id.to_bits())
    }

    /// Deletes a timer; it does not fire any more, not even in this turn.
    ///
    /// # Errors
    /// [`Stale`]: it fired for the last time, or was deleted before.
    pub fn delete_timer(&mut self, name: TimerId) -> Result<(), Stale> {
        let timer = self.timers.remove(Handle::from_bits(name.0)).ok_or(Stale)?;
        if let Some(key) = timer.key {
            self.reactor.alarms.cancel(key);
        }
        if let Target::Connection(handle) = timer.target {
            self.forget_timer(handle, name);
        }
        Ok(())
    }

    /// A connection does not have that timer any more.
    // Apart from the timers of no connection, which would pay for its frame.
    #[inline(never)]
    fn forget_timer(&mut self, handle: Handle, name: TimerId) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if let Some(timers) = &mut socket.timers {
            timers.retain(|one| *one != name);
        }
    }

    /// Deletes the timers of a connection's object.
    pub(super) fn delete_timers_of(&mut self, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        for timer in socket.timers.take().into_iter().flat_map(|timers| *timers) {
            // Stale says that it has fired.
            let _ = self.delete_timer(timer);
        }
    }

    /// Calls `callback` with [`Event::Loop`](crate::Event::Loop) at the end of every turn, from
    /// the next one on if it is added by a loop callback.
    pub fn add_loop(&mut self, callback: Callback<A>, user_data: u64) -> LoopId {
        self.loops_added += 1;
        let id = self.loops_added;
        self.loops.push(Loop { id, callback, user_data });
        LoopId(id)
    }

    /// Removes a loop callback, at once.
    ///
    /// # Errors
    /// [`Stale`]: it was removed before.
    pub fn remove_loop(&mut self, id: LoopId) -> Result<(), Stale> {
        let position = self.loops.iter().position(|one| one.id == id.0).ok_or(Stale)?;
        self.loops.remove(position);
        Ok(())
    }

    pub(super) fn fire_timer(&mut self, app: &mut A, id: Handle, deadline_ms: u64, now_ms: u64) {
        let Some(timer) = self.timers.find_mut(id) else { return };
        let (name, target) = (TimerId(id.to_bits()), timer.target);
        match timer.period_ms {
            Some(period_ms) => {
                // The rhythm is kept, and the beats that were missed are left out.
                let beats = (now_ms - deadline_ms) / period_ms + 1;
                let next = deadline_ms.saturating_add(beats.saturating_mul(period_ms.get()));
                timer.key = Some(self.reactor.alarms.insert(next, Alarm::User(id)));
            }
            // Found above, so it cannot be stale.
            None => drop(self.delete_timer(name)),
        }
        match target {
            Target::Callback(callback, user_data) => {
                let event = Event::Timer { timer: name, user_data };
                self.panics(|net| callback(app, net, Handle::NONE, event));
            }
            Target::Connection(handle) => self.tell_object(app, handle, Notice::Timer(name)),
        }
    }

    /// Calls the loop callbacks that were there when the turn ended, in the order in which they
    /// were added. They may add and remove any.
    pub(super) fn call_loops(&mut self, app: &mut A) {
        let (mut last, newest) = (0, self.loops_added);
        loop {
            let next = self.loops.partition_point(|one| one.id <= last);
            let Some(one) = self.loops.get(next).filter(|one| one.id <= newest) else { return };
            last = one.id;
            let (callback, user_data, id) = (one.callback, one.user_data, LoopId(one.id));
            let event = Event::Loop { id, user_data };
            self.panics(|net| callback(app, net, Handle::NONE, event));
        }
    }
}

/// Timers of one `Netlib`.
pub(super) const TIMERS_MAX: usize = 1 << 24;
