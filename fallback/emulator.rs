//! Readiness turned into completions: the epoll driver.
//!
//! One edge-triggered registration per socket sets its latches, `readable` and `writable`; a
//! system call that would block clears them. Sockets with work that may go on stand in a run
//! queue, and each pass gives each of them one step, so that no socket starves another. Bytes go
//! into the same pool as with the ring, and the contract is the same, see `driver/mod.rs`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use std::{fmt, io};

use socket2::{SockAddr, SockRef};

use super::epoll::{Poller, Ready};
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
    /// Bytes that went into large buffers in this wait.
    large_bytes: usize,
    waker: Waker,
    /// The last wait did not look for events, because it had completions at once.
    has_skipped: bool,
    counters: DriverCounters,
}

/// One adopted socket.
#[derive(Debug)]
struct Slot {
    socket: OwnedFd,
    family: Family,
    outstanding: Ops,
    readable: bool,
    writable: bool,
    /// No further edge will come: reads go on until one returns zero or fails.
    hung_up: bool,
    is_queued: bool,
    form: Form,
    flight: Flight,
    /// Bytes of all sends so far.
    sent_in_all: u64,
}

/// What one step of one socket came to.
enum Step {
    /// The operation goes on at once.
    Again,
    /// It waits for an edge.
    Blocked,
    Yield {
        last: bool,
        outcome: Outcome,
    },
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
        if !slot.is_queued && slot.may_go_on() {
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
                self.step(handle, batch);
                self.enqueue(handle);
            }
            if self.runnable.is_empty() {
                return;
            }
        }
    }

    /// One step for each of a socket's operations that may go on.
    fn step(&mut self, handle: Handle, batch: &mut Vec<Completion>) {
        for op in [Op::Send, Op::Connect, Op::Accept, Op::Receive] {
            // Receives go on for a while: answers to what is read together leave together.
            let tries = if op == Op::Receive { READS_PER_STEP } else { 1 };
            for _ in 0..tries {
                let slot = self.slots.expect_mut(handle);
                if !slot.may_go_on_with(op) {
                    break;
                }
                let step = match op {
                    Op::Send => {
                        self.counters.sends += 1;
                        slot.send()
                    }
                    Op::Connect => slot.finish_connect(),
                    Op::Accept => slot.accept(),
                    Op::Receive => match slot.form {
                        Form::Whole(_) if self.large_bytes >= LARGE_BYTES_PER_WAIT => break,
                        Form::Whole(len) => {
                            let step = slot.receive_whole(len, &self.stock);
                            if matches!(step, Step::Yield { .. }) {
                                self.large_bytes += len;
                            }
                            step
                        }
                        Form::Rest(_) => slot.receive_rest(),
                        Form::Many | Form::Taken(_) | Form::Ended(_) => slot.receive(&self.pool),
                    },
                    Op::Cancel | Op::Wake => Step::Blocked,
                };
                if let Step::Yield { last, outcome } = step {
                    if last {
                        slot.outstanding.remove(op);
                    }
                    batch.push(Completion { handle, last, outcome });
                }
            }
        }
    }
}

impl Driver for Epoll {
    fn adopt(&mut self, socket: Endpoint, family: Family, handle: Handle) -> io::Result<()> {
        let socket = socket.into_system()?;
        self.poller.add_socket(socket.as_fd(), handle.to_bits())?;
        let slot = Slot {
            socket,
            family,
            outstanding: Ops::NONE,
            // Data that came with the connection makes an edge at once; until it does, to try
            // would be a wasted call. Room to send is there from the start.
            readable: false,
            writable: true,
            hung_up: false,
            is_queued: false,
            form: Form::Many,
            flight: Flight::default(),
            sent_in_all: 0,
        };
        self.slots.insert(handle, slot);
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
        let must_return = has_some || !self.runnable.is_empty();
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

impl Slot {
    fn may_go_on(&self) -> bool {
        self.outstanding.iter().any(|op| self.may_go_on_with(op))
    }

    fn may_go_on_with(&self, op: Op) -> bool {
        let is_ready = match op {
            Op::Accept | Op::Receive => self.readable,
            Op::Connect | Op::Send => self.writable,
            Op::Cancel | Op::Wake => false,
        };
        is_ready && self.outstanding.has(op)
    }

    fn send(&mut self) -> Step {
        match self.send_pieces() {
            Ok((len, is_short)) => {
                self.flight.advance(len);
                self.sent_in_all += len as u64;
                if is_short {
                    self.writable = false;
                    return Step::Blocked;
                }
                if !self.flight.is_over() {
                    return Step::Again;
                }
                Step::Yield { last: true, outcome: Outcome::Sent(self.flight.land()) }
            }
            Err(error) => match Errno::from_io(&error) {
                Errno(libc::EAGAIN) => {
                    self.writable = false;
                    Step::Blocked
                }
                Errno(libc::EINTR) => Step::Again,
                errno => {
                    let outcome = Outcome::SendFailed(errno, self.flight.land());
                    Step::Yield { last: true, outcome }
                }
            },
        }
    }

    /// Sends what fits of the flight's next pieces, in one call: how many bytes, and whether the
    /// socket has no room for more. The kernel then makes an edge when it has some again, as after
    /// a call that would block.
    fn send_pieces(&self) -> io::Result<(usize, bool)> {
        let is_short = |sent: usize, offered: usize| sent < offered.min(CALL_BYTES_MAX);
        if let Some(only) = self.flight.only_piece() {
            let sent = sys::send(self.socket.as_fd(), only)?;
            return Ok((sent, is_short(sent, only.len())));
        }
        let mut slices = [IoSlice::new(&[]); PIECES_PER_CALL];
        let (mut count, mut offered) = (0, 0);
        for (slice, piece) in slices.iter_mut().zip(self.flight.rest()) {
            *slice = IoSlice::new(piece);
            count += 1;
            offered += piece.len();
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = SockRef::from(&self.socket).send_vectored_with_flags(&slices[..count], flags)?;
        Ok((sent, is_short(sent, offered)))
    }

    fn finish_connect(&self) -> Step {
        let outcome = match SockRef::from(&self.socket).take_error() {
            Ok(None) => Outcome::Connected,
            Ok(Some(error)) | Err(error) => Outcome::ConnectFailed(Errno::from_io(&error)),
        };
        Step::Yield { last: true, outcome }
    }

    fn accept(&mut self) -> Step {
        match sys::accept(self.socket.as_fd()) {
            Ok(client) => Step::Yield { last: false, outcome: Outcome::Accepted(client.into()) },
            Err(error) => match Errno::from_io(&error) {
                Errno(libc::EAGAIN) => {
                    self.readable = false;
                    Step::Blocked
                }
                Errno(libc::EINTR) => Step::Again,
                errno => Step::Yield { last: true, outcome: Outcome::AcceptFailed(errno) },
            },
        }
    }

    /// Receives what is there of a rest. Of an end or a failure the next receive tells.
    fn receive_rest(&mut self) -> Step {
        let Form::Rest(rest) = &mut self.form else { return Step::Blocked };
        let (wanted, mut end) = (rest.missing(), None);
        match sys::receive_behind(self.socket.as_fd(), rest.buffer_mut(), wanted) {
            Ok(len) if len > 0 && len < wanted => {
                self.readable = self.hung_up;
                return Step::Again;
            }
            Ok(_) => {}
            Err(error) => match Errno::from_io(&error) {
                Errno(libc::EAGAIN) => {
                    self.readable = false;
                    return Step::Blocked;
                }
                Errno(libc::EINTR) => return Step::Again,
                errno => end = Some(errno),
            },
        }
        let Some(rest) = self.form.take_rest() else { return Step::Blocked };
        if let Some(errno) = end {
            self.form = Form::Ended(errno);
        }
        Step::Yield { last: true, outcome: Outcome::Filled(rest) }
    }

    fn receive_whole(&mut self, len: usize, stock: &Stock) -> Step {
        let mut rest = Rest::new(stock.take(len), len);
        let outcome = match sys::receive_behind(self.socket.as_fd(), rest.buffer_mut(), len) {
            Ok(0) => Outcome::EndOfStream,
            Ok(_) => {
                self.readable = rest.missing() == 0 || self.hung_up;
                return Step::Yield { last: true, outcome: Outcome::Filled(rest) };
            }
            Err(error) => match Errno::from_io(&error) {
                Errno(libc::EAGAIN) => {
                    self.readable = false;
                    stock.give(rest.into_buffer());
                    return Step::Blocked;
                }
                Errno(libc::EINTR) => {
                    stock.give(rest.into_buffer());
                    return Step::Again;
                }
                errno => Outcome::ReceiveFailed(errno),
            },
        };
        stock.give(rest.into_buffer());
        Step::Yield { last: true, outcome }
    }

    fn receive(&mut self, pool: &Pool) -> Step {
        let Some(mut chunk) = pool.take() else {
            return Step::Yield { last: true, outcome: Outcome::NoBuffers };
        };
        match sys::receive(self.socket.as_fd(), chunk.space()) {
            Ok(0) => Step::Yield { last: true, outcome: Outcome::EndOfStream },
            Ok(len) => {
                // Data and FIN may share one edge. A short read then says nothing about the FIN,
                // and no second edge will come, so a hang-up keeps the latch until the read that
                // returns zero.
                self.readable = len == chunk.space().len() || self.hung_up;
                chunk.set_len(len);
                Step::Yield { last: false, outcome: Outcome::Received(chunk) }
            }
            Err(error) => match Errno::from_io(&error) {
                Errno(libc::EAGAIN) => {
                    self.readable = false;
                    Step::Blocked
                }
                Errno(libc::EINTR) => Step::Again,
                errno => Step::Yield { last: true, outcome: Outcome::ReceiveFailed(errno) },
            },
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

/// Pieces that one call sends; what is behind them goes with the next.
const PIECES_PER_CALL: usize = 64;

/// Bytes that the kernel takes in one call at most, whatever room the socket has: two GiB without
/// the largest page that there is.
const CALL_BYTES_MAX: usize = 0x7fff_0000;

/// Buffers that one socket may fill in one step.
const READS_PER_STEP: usize = 16;

/// Completions after which a wait returns, so that one turn stays short and its chunks in cache.
const BATCH_MAX: usize = 64;
