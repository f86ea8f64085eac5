//! Readiness turned into completions: the epoll driver.
//!
//! One edge-triggered registration per socket sets its latches, `readable` and `writable`; a
//! system call that would block clears them. Sockets with work that may go on stand in a run
//! queue, and each pass gives each of them one step, so that no socket starves another. Bytes go
//! into the same pool as with the ring, and the contract is the same, see `driver/mod.rs`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;
use std::{fmt, io};

use socket2::{SockAddr, SockRef};

use super::epoll::{Poller, Ready};
use super::slot::{Slot, Step};
use crate::driver::outgoing::{Flight, Outgoing};
use crate::driver::pool::Pool;
use crate::driver::slots::Slots;
use crate::driver::{
    Completion, Driver, DriverCounters, End, Endpoint, Family, Form, LARGE_BYTES_PER_WAIT, Op, Ops,
    Outcome, Rest, Stock, View, Waker, connect_at_once,
};
use crate::error::Errno;
use crate::event::Handle;
use crate::options::Options;
use crate::sys;

pub(crate) struct Epoll {
    poller: Poller,
    slots: Slots<Slot>,
    /// Sockets that have an operation which may go on. Each stands in it at most once.
    runnable: VecDeque<Handle>,
    /// Outcomes of what needed no waiting, for the next `wait` (D3).
    settled: Vec<Completion>,
    pool: Pool,
    stock: Stock,
    /// Sockets that receive into large buffers once those before them have had their turn, and
    /// bytes that went into such buffers in this wait.
    postponed: VecDeque<Handle>,
    large_bytes: usize,
    waker: Waker,
    /// The last wait did not look for events, because it had completions at once.
    has_skipped: bool,
    counters: DriverCounters,
}

impl Epoll {
    pub(crate) fn new(options: &Options) -> io::Result<Self> {
        let poller = Poller::new()?;
        let waker = Waker::new(false)?;
        poller.add_event(waker.descriptor(), WAKER_KEY)?;
        Ok(Self {
            poller,
            slots: Slots::new(),
            runnable: VecDeque::new(),
            settled: Vec::new(),
            stock: Stock::default(),
            postponed: VecDeque::new(),
            large_bytes: 0,
            pool: Pool::new(options.pool_buffers, options.pool_buffer_len)?,
            waker,
            has_skipped: false,
            counters: DriverCounters::default(),
        })
    }

    fn start(&mut self, handle: Handle, op: Op) {
        let slot = self.slots.expect_mut(handle);
        assert!(!slot.outstanding.has(op), "D4: one {op:?} per handle");
        slot.outstanding.insert(op);
        self.enqueue(handle);
    }

    /// Puts a socket into the run queue, if one of its operations may go on.
    fn enqueue(&mut self, handle: Handle) {
        let slot = self.slots.expect_mut(handle);
        if !slot.is_queued && !slot.ready().is_empty() {
            slot.is_queued = true;
            self.runnable.push_back(handle);
        }
    }

    fn start_receive(&mut self, handle: Handle, form: Form) {
        self.start(handle, Op::Receive);
        let slot = self.slots.expect_mut(handle);
        if let Some(outcome) = slot.form.start(form) {
            self.settle(handle, outcome);
        }
    }

    /// Ends an operation without a system call, with an outcome for the next wait.
    fn settle(&mut self, handle: Handle, outcome: Outcome) {
        self.slots.expect_mut(handle).outstanding.remove(outcome.op());
        self.settled.push(Completion { handle, last: true, outcome });
    }

    fn look_for_events(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.counters.waits += 1;
        self.poller.wait(timeout)?;
        let mut position = 0;
        while let Some(ready) = self.poller.ready(position) {
            position += 1;
            if ready.key == WAKER_KEY {
                self.counters.wakeups += 1;
                sys::reset_event(self.waker.descriptor());
                self.waker.take();
            } else {
                self.latch(ready);
            }
        }
        Ok(())
    }

    fn latch(&mut self, ready: Ready) {
        let handle = Handle::from_bits(ready.key);
        let Some(slot) = self.slots.find_mut(handle) else { return };
        slot.readable |= ready.readable;
        slot.writable |= ready.writable;
        slot.hung_up |= ready.hung_up;
        self.enqueue(handle);
    }

    /// Gives the runnable sockets one step each a pass, until the batch has so many completions.
    fn run(&mut self, batch: &mut Vec<Completion>, full: usize) {
        for _ in 0..PASSES_MAX {
            for _ in 0..self.runnable.len() {
                if batch.len() >= full {
                    return;
                }
                let Some(handle) = self.runnable.pop_front() else { return };
                let Some(slot) = self.slots.find_mut(handle) else { continue };
                slot.is_queued = false;
                // Nobody overtakes those that wait already.
                let may_be_large =
                    self.postponed.is_empty() && self.large_bytes < LARGE_BYTES_PER_WAIT;
                self.step(handle, may_be_large, batch);
                self.enqueue(handle);
            }
            if self.runnable.is_empty() {
                return;
            }
        }
    }

    /// Gives one step each to those that have waited longest for a large buffer.
    fn run_postponed(&mut self, batch: &mut Vec<Completion>) {
        while self.large_bytes < LARGE_BYTES_PER_WAIT
            && let Some(handle) = self.postponed.pop_front()
        {
            let Some(slot) = self.slots.find_mut(handle) else { continue };
            slot.is_postponed = false;
            self.step(handle, true, batch);
            self.enqueue(handle);
        }
    }

    /// One step for each of a socket's operations that may go on.
    fn step(&mut self, handle: Handle, may_be_large: bool, batch: &mut Vec<Completion>) {
        let others = self.slots.expect_mut(handle).ready().without(Ops::only(Op::Receive));
        if !others.is_empty() {
            self.step_others(handle, others, batch);
        }
        let slot = self.slots.expect_mut(handle);
        // Receives go on for a while: answers to what is read together leave together.
        for _ in 0..READS_PER_STEP {
            if !slot.ready().has(Op::Receive) {
                return;
            }
            let step = match slot.form {
                Form::Whole(_) if !may_be_large => {
                    debug_assert!(!slot.is_postponed, "it waits once");
                    slot.is_postponed = true;
                    return self.postponed.push_back(handle);
                }
                Form::Whole(len) => {
                    let step = slot.receive_whole(len, &self.stock);
                    if matches!(step, Step::Yield { .. }) {
                        self.large_bytes += len;
                    }
                    step
                }
                Form::Rest(_) => slot.receive_rest(),
                Form::Many | Form::Taken(_) | Form::Ended(_) => slot.receive(&self.pool),
            };
            slot.yield_step(Op::Receive, step, handle, batch);
        }
    }

    // Apart from receives, which would pay for its frame.
    #[inline(never)]
    fn step_others(&mut self, handle: Handle, ops: Ops, batch: &mut Vec<Completion>) {
        let slot = self.slots.expect_mut(handle);
        for op in [Op::Send, Op::Connect, Op::Accept].into_iter().filter(|op| ops.has(*op)) {
            let step = match op {
                Op::Send => {
                    self.counters.sends += 1;
                    slot.send()
                }
                Op::Connect => slot.finish_connect(),
                Op::Accept => slot.accept(),
                Op::Receive | Op::Cancel | Op::Wake => unreachable!("not among these"),
            };
            slot.yield_step(op, step, handle, batch);
        }
    }
}

impl Driver for Epoll {
    fn adopt(&mut self, socket: Endpoint, family: Family, handle: Handle) -> io::Result<()> {
        let socket = socket.into_system()?;
        self.poller.add_socket(socket.as_fd(), handle.to_bits())?;
        self.slots.insert(handle, Slot::new(socket, family));
        Ok(())
    }

    fn accept(&mut self, handle: Handle) {
        let slot = self.slots.expect_mut(handle);
        let unblocked = SockRef::from(&slot.socket).set_nonblocking(true);
        slot.readable = true;
        self.start(handle, Op::Accept);
        if let Err(error) = unblocked {
            self.settle(handle, Outcome::AcceptFailed(Errno::from_io(&error)));
        }
    }

    fn connect(&mut self, handle: Handle, peer: SockAddr) {
        let slot = self.slots.expect_mut(handle);
        if slot.family == Family::Unix {
            let outcome = connect_at_once(slot.socket.as_fd(), &peer);
            slot.hung_up = false;
            slot.readable = false;
            return self.settled.push(Completion { handle, last: true, outcome });
        }
        // Whatever an unconnected socket reported is no answer to this.
        slot.writable = false;
        slot.hung_up = false;
        let socket = SockRef::from(&slot.socket);
        let connected = socket.set_nonblocking(true).and_then(|()| socket.connect(&peer));
        self.start(handle, Op::Connect);
        match connected {
            Ok(()) => {
                self.slots.expect_mut(handle).writable = true;
                self.settle(handle, Outcome::Connected);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => {
                self.settle(handle, Outcome::ConnectFailed(Errno::from_io(&error)));
            }
        }
    }

    fn receive(&mut self, handle: Handle) {
        self.start_receive(handle, Form::Many);
    }

    fn receive_whole(&mut self, handle: Handle, len: usize) {
        self.start_receive(handle, Form::Whole(len));
    }

    fn receive_rest(&mut self, handle: Handle, rest: Rest) {
        self.start_receive(handle, Form::Rest(rest));
    }

    fn send(&mut self, handle: Handle, outgoing: Outgoing) {
        assert!(!outgoing.is_empty(), "D5: a send has bytes");
        let slot = self.slots.expect_mut(handle);
        assert!(!slot.outstanding.has(Op::Send), "D4: one send per handle");
        slot.flight = Flight::new(outgoing);
        slot.outstanding.insert(Op::Send);
        if !slot.writable {
            return;
        }
        // The answers of one turn leave at once, and not behind what other sockets have to read.
        self.counters.sends += 1;
        match slot.send() {
            Step::Yield { outcome, .. } => self.settle(handle, outcome),
            Step::Again => self.enqueue(handle),
            Step::Blocked => {}
        }
    }

    fn end(&mut self, handle: Handle, end: End) {
        end.apply(self.slots.expect_mut(handle).socket.as_fd());
    }

    fn cancel(&mut self, handle: Handle, ops: Ops) {
        let Some(slot) = self.slots.find_mut(handle) else { return };
        let targets = slot.outstanding.and(ops);
        for op in targets.iter() {
            let outcome = match op {
                Op::Accept => Outcome::AcceptFailed(Errno::CANCELLED),
                Op::Connect => Outcome::ConnectFailed(Errno::CANCELLED),
                Op::Receive => match self.slots.expect_mut(handle).form.take_rest() {
                    Some(rest) => Outcome::Filled(rest),
                    None => Outcome::ReceiveFailed(Errno::CANCELLED),
                },
                Op::Send => {
                    let outgoing = self.slots.expect_mut(handle).flight.land();
                    Outcome::SendFailed(Errno::CANCELLED, outgoing)
                }
                Op::Cancel | Op::Wake => continue,
            };
            self.settle(handle, outcome);
        }
    }

    fn close(&mut self, handle: Handle) {
        let slot = self.slots.remove(handle).expect("only an adopted socket is closed");
        assert!(slot.outstanding.is_empty(), "a socket is closed with nothing outstanding (I3)");
    }

    fn wait(&mut self, timeout: Option<Duration>, batch: &mut Vec<Completion>) -> io::Result<()> {
        let before = batch.len();
        self.large_bytes = 0;
        batch.append(&mut self.settled);
        self.run_postponed(batch);
        // What is settled has had its system call, so it takes no room of what is still to be done.
        let full = batch.len() + BATCH_MAX;
        self.run(batch, full);
        // Whoever has completions takes them before anything else is waited for. Looking for
        // events is skipped at most once in a row, so that busy sockets do not hide idle ones.
        let has_some = batch.len() > before;
        if has_some && !self.has_skipped {
            self.has_skipped = true;
            return Ok(());
        }
        self.has_skipped = false;
        let must_return = has_some || !self.runnable.is_empty() || !self.postponed.is_empty();
        self.look_for_events(if must_return { Some(Duration::ZERO) } else { timeout })?;
        self.run(batch, full);
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn has_unread(&self, handle: Handle) -> bool {
        self.slots.find(handle).is_some_and(|slot| sys::has_unread(slot.socket.as_fd()))
    }

    fn socket(&self, handle: Handle) -> Option<View<'_>> {
        self.slots.find(handle).map(|slot| View::of_system(&slot.socket))
    }

    fn progress(&self, handle: Handle) -> Option<u64> {
        let slot = self.slots.find(handle)?;
        match slot.family {
            Family::Inet => sys::acknowledged(slot.socket.as_fd()),
            Family::Unix => Some(slot.sent_in_all),
        }
    }

    fn unacknowledged(&self, handle: Handle) -> usize {
        let slot = self.slots.find(handle).filter(|slot| slot.family == Family::Inet);
        slot.map_or(0, |slot| sys::unacknowledged(slot.socket.as_fd()))
    }

    fn stock(&self) -> &Stock {
        &self.stock
    }

    fn counters(&self) -> DriverCounters {
        let free = u32::try_from(self.pool.free_count()).expect("at most 32768 buffers");
        DriverCounters {
            buffers_free: free,
            buffers_kernel: 0,
            buffers_lent: u32::from(self.pool.count()) - free,
            ..self.counters
        }
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoll({} runnable, {:?})", self.runnable.len(), self.pool)
    }
}

/// The waker's registration: no handle has these bits.
const WAKER_KEY: u64 = Handle::NONE.to_bits();

/// Passes of one wait over the run queue.
const PASSES_MAX: usize = 2;

/// Buffers that one socket may fill in one step.
const READS_PER_STEP: usize = 16;

/// Completions after which a wait returns, so that one turn stays short and its chunks in cache.
const BATCH_MAX: usize = 64;
