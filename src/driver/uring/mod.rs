//! The io_uring driver: requests into the submission queue, one `io_uring_enter` a turn that
//! submits and waits, completions out of the completion queue.
//!
//! Multishot accept and receive where the kernel has them, receive buffers that the kernel picks
//! from a ring when data is there, and one send in flight per socket (I5). How the ring is set up
//! and tried stands in `setup.rs`, what a completion means in `complete.rs`.

#![expect(unsafe_code, reason = "requests carry addresses that the kernel uses later")]

mod complete;
mod exercise;
mod gather;
mod setup;
mod slot;

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::thread::ThreadId;
use std::time::Duration;
use std::{fmt, io, mem};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

use super::buf_ring::{self, BufRing};
use super::outgoing::{Flight, Outgoing};
use super::slots::Slots;
use super::token::Token;
use super::{
    Completion, Driver, DriverCounters, End, Endpoint, Family, Form, LARGE_BYTES_PER_WAIT, Op, Ops,
    Outcome, Rest, Stock, View, Waker, connect_at_once,
};
use crate::error::Errno;
use crate::event::Handle;
use crate::options::{Feature, Features};
use crate::sys;
use complete::complete_usual;
use gather::SpareGathers;
use slot::{Run, Slot};

pub(crate) struct Uring {
    /// Dropped by hand, because it must go before the memory that the kernel writes to (D9).
    ring: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<BufRing>,
    slots: ManuallyDrop<Slots<Slot>>,
    wake_count: ManuallyDrop<Box<u64>>,
    waker: Waker,
    features: Features,
    /// Requests from before the first wait, and those for which the submission queue was full.
    unsubmitted: VecDeque<squeue::Entry>,
    /// Who made the ring, until the first wait: that is who may use it, and nobody else ever.
    maker: Option<ThreadId>,
    gathers: SpareGathers,
    stock: Stock,
    /// Sockets with bytes for a large buffer, which wait for their turn, and how many went into
    /// such buffers since the last one.
    readable: VecDeque<Handle>,
    large_bytes: usize,
    /// Outcomes of what needed no request, for the next `wait` (D3).
    settled: Vec<Completion>,
    /// Completions that take more than a look, while they are reaped.
    others: Vec<cqueue::Entry>,
    /// Closes that may wait to be submitted. No completion tells of them, so none is in flight.
    closes: usize,
    /// Requests without a last completion, the driver's own included.
    in_flight: usize,
    is_draining: bool,
    counters: DriverCounters,
}

impl Uring {
    /// The features that this ring has and uses.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    fn submit_accept(&mut self, handle: Handle) {
        let fd = Fd(self.slots.expect_mut(handle).socket.as_raw_fd());
        let entry = if self.features.has(Feature::AcceptMulti) {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            opcode::Accept::new(fd, address, len).flags(libc::SOCK_CLOEXEC).build()
        };
        self.push(entry.user_data(Token::new(Op::Accept, handle).to_bits()));
    }

    fn start_receive(&mut self, handle: Handle, form: Form) {
        let slot = self.slots.expect_mut(handle);
        slot.start(Op::Receive);
        if let Some(outcome) = slot.form.start(form) {
            slot.end(Op::Receive);
            return self.settled.push(Completion { handle, last: true, outcome });
        }
        self.submit_receive(handle);
    }

    /// Whether a rest is one request for all of its bytes. What came of one that was cut short
    /// shows why in TCP's state alone; and kernels before 6.1, which do not defer work either,
    /// may forget what had come when such a request is cancelled.
    fn waits_for_all(&self, handle: Handle) -> bool {
        let family = self.slots.find(handle).map(|slot| slot.family);
        family == Some(Family::Inet) && self.features.has(Feature::DeferTaskrun)
    }

    fn submit_receive(&mut self, handle: Handle) {
        let waits_for_all = self.waits_for_all(handle);
        let slot = self.slots.expect_mut(handle);
        let fd = Fd(slot.socket.as_raw_fd());
        let is_multi = self.features.has(Feature::ReceiveMulti) && !slot.is_single;
        let buffer_len = self.buffers.pool().buffer_len();
        slot.run = Run::Fresh;
        let one = |len: usize| {
            let len = u32::try_from(len).expect("Options: a buffer is at most 1 MiB long");
            opcode::Recv::new(fd, std::ptr::null_mut(), len)
                .buf_group(buf_ring::GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        let entry = match &mut slot.form {
            Form::Many if is_multi => opcode::RecvMulti::new(fd, buf_ring::GROUP).build(),
            Form::Many | Form::Ended(_) => one(buffer_len),
            Form::Whole(_) => opcode::PollAdd::new(fd, POLL_IN).build(),
            Form::Taken(rest) => {
                let len = u32::try_from(rest.missing()).unwrap_or(1 << 30);
                let room = rest.buffer_mut().spare_capacity_mut().as_mut_ptr();
                let flags = libc::MSG_DONTWAIT;
                opcode::Recv::new(fd, room.cast(), len).flags(flags).build()
            }
            Form::Rest(rest) => {
                let len = u32::try_from(rest.missing()).unwrap_or(1 << 30);
                let room = rest.buffer_mut().spare_capacity_mut().as_mut_ptr();
                let flags = if waits_for_all { libc::MSG_WAITALL } else { 0 };
                opcode::Recv::new(fd, room.cast(), len).flags(flags).build()
            }
        };
        self.push(entry.user_data(Token::new(Op::Receive, handle).to_bits()));
    }

    /// Sends what of the flight is not sent yet.
    fn submit_send(&mut self, handle: Handle) {
        let slot = self.slots.expect_mut(handle);
        let (fd, flags) = (Fd(slot.socket.as_raw_fd()), slot.send_flags());
        let entry = if let Some(only) = slot.flight.only_piece() {
            // The kernel sends at most 2 GiB a call; what it leaves goes with the next request.
            let len = u32::try_from(only.len()).unwrap_or(1 << 30);
            opcode::Send::new(fd, only.as_ptr(), len).flags(flags).build()
        } else {
            let gather = slot.gather.get_or_insert_with(|| self.gathers.take());
            gather.fill(slot.flight.rest());
            opcode::SendMsg::new(fd, gather.message()).flags(flags.cast_unsigned()).build()
        };
        self.counters.sends += 1;
        self.push(entry.user_data(Token::new(Op::Send, handle).to_bits()));
    }

    /// Receives into large buffers for sockets that are readable, as many as go in one turn.
    fn serve_readable(&mut self) {
        while self.large_bytes < LARGE_BYTES_PER_WAIT
            && let Some(handle) = self.readable.pop_front()
        {
            self.take_large(handle);
        }
    }

    /// Receives into a large buffer what has come for a socket.
    fn take_large(&mut self, handle: Handle) {
        let Some(slot) = self.slots.find_mut(handle) else { return };
        let Form::Whole(len) = slot.form else { return };
        if slot.cancelled.has(Op::Receive) {
            slot.end(Op::Receive);
            let outcome = Outcome::ReceiveFailed(Errno::CANCELLED);
            return self.settled.push(Completion { handle, last: true, outcome });
        }
        self.large_bytes += len;
        slot.form = Form::Taken(Rest::new(self.stock.take(len), len));
        self.submit_receive(handle);
    }

    fn submit_wake(&mut self) {
        let count: *mut u64 = &raw mut **self.wake_count;
        let entry = opcode::Read::new(Fd(self.waker.descriptor().as_raw_fd()), count.cast(), 8);
        self.push(entry.build().user_data(Token::new(Op::Wake, Handle::NONE).to_bits()));
    }

    /// Closes a socket along with whatever else is submitted: without a system call of its own,
    /// and with the peers of a turn woken together. No completion tells of it, so it is not in
    /// flight either.
    fn submit_close(&mut self, socket: OwnedFd) {
        let entry = opcode::Close::new(Fd(socket.into_raw_fd())).build();
        self.queue(entry.flags(squeue::Flags::SKIP_SUCCESS));
        self.closes += 1;
    }

    /// Queues a request. It counts as in flight from here on, wherever it waits.
    fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        self.queue(entry);
    }

    fn queue(&mut self, entry: squeue::Entry) {
        if self.maker.is_some() || !self.unsubmitted.is_empty() || !self.try_push(&entry) {
            self.unsubmitted.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: whatever a request points at (the flight's own bytes and the bodies that it holds
        // by reference, its gather, the rest's buffer, the peer's address, the wake count) is on
        // the heap and stays there, untouched, until the request's last completion: slots are
        // removed only with nothing outstanding, and `drop` drains or leaks (D9).
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        // Full: let the kernel take what is there. It may refuse for now, but loses nothing.
        let _ = self.enter(0, None);
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Moves requests that found no place into the queue, in order.
    fn refill(&mut self) {
        while let Some(entry) = self.unsubmitted.pop_front() {
            if !self.try_push(&entry) {
                self.unsubmitted.push_front(entry);
                return;
            }
        }
    }

    /// The one system call: submits what is queued and waits for `want` completions.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let queue = self.ring.submission();
        let queued = u32::try_from(queue.len()).expect("a queue has at most 32768 entries");
        self.counters.overflows += u64::from(queue.cq_overflow());
        drop(queue);
        let mut flags = EnterFlags::EXT_ARG;
        // Without a wish to wait and without this flag, deferred completions would not be run;
        // while submitting in mid-turn they must not be (D3).
        if want > 0 || timeout.is_some() {
            flags |= EnterFlags::GETEVENTS;
        }
        if want > 0 && self.features.has(Feature::NoIowait) {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let limit = timeout.map(Timespec::from);
        let args = limit.iter().fold(SubmitArgs::new(), |args, limit| args.timespec(limit));
        self.counters.waits += 1;
        // SAFETY: the arguments are what EXT_ARG promises, and they outlive the call.
        let result =
            unsafe { self.ring.submitter().enter(queued, want, flags.bits(), Some(&args)) };
        match result {
            Ok(taken) => {
                if taken == queued as usize && self.unsubmitted.is_empty() {
                    self.closes = 0;
                }
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // Time out and signals are no errors. The others ask to reap first: the
                // completion queue is full, or the kernel is short of memory for the moment.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Yields the completions that are in the queue: for as long as they are of the usual kinds,
    /// from where they are; all others behind them, in order.
    fn reap(&mut self, batch: &mut Vec<Completion>) {
        let queue = self.ring.completion();
        batch.reserve(queue.len());
        for entry in queue {
            let parts = (&mut *self.slots, &mut *self.buffers, &mut self.in_flight);
            if !self.others.is_empty() || !complete_usual(parts, &entry, batch) {
                self.others.push(entry);
            }
        }
        if !self.others.is_empty() {
            self.complete_others(batch);
        }
    }

    #[inline(never)]
    fn complete_others(&mut self, batch: &mut Vec<Completion>) {
        let mut others = mem::take(&mut self.others);
        for entry in others.drain(..) {
            self.complete(&entry, batch);
        }
        self.others = others;
    }

    /// Ends every request and waits for their last completions. Whether it saw them all.
    fn drain(&mut self) -> bool {
        if self.maker.is_some() {
            return true; // The kernel has been told of none.
        }
        self.is_draining = true;
        let handles: Vec<Handle> = self.slots.handles().collect();
        for handle in handles {
            self.cancel(handle, Ops::ALL);
        }
        self.submit_cancel(Token::new(Op::Wake, Handle::NONE));
        let (mut batch, mut waits) = (Vec::new(), 0);
        while waits < DRAIN_WAITS {
            self.refill();
            if self.enter(1, Some(DRAIN_WAIT)).is_err() {
                // Whatever the kernel did not take, it does not touch.
                let left = self.ring.submission().len() + self.unsubmitted.len();
                return self.in_flight + self.closes == left;
            }
            let before = self.in_flight;
            self.reap(&mut batch);
            batch.clear();
            if self.in_flight == 0 {
                return true;
            }
            waits += u32::from(self.in_flight >= before);
        }
        false
    }

    fn submit_cancel(&mut self, target: Token) {
        let entry = opcode::AsyncCancel::new(target.to_bits()).build();
        self.push(entry.user_data(Token::new(Op::Cancel, target.handle()).to_bits()));
    }
}

impl Driver for Uring {
    fn adopt(&mut self, socket: Endpoint, family: Family, handle: Handle) -> io::Result<()> {
        let socket = socket.into_system()?;
        self.slots.insert(handle, Slot::new(socket, family));
        Ok(())
    }

    fn accept(&mut self, handle: Handle) {
        self.slots.expect_mut(handle).start(Op::Accept);
        self.submit_accept(handle);
    }

    fn connect(&mut self, handle: Handle, peer: SockAddr) {
        let slot = self.slots.expect_mut(handle);
        if slot.family == Family::Unix {
            // Nothing to wait for: it succeeds or fails at once. As a request it would hold a
            // worker thread of the kernel for as long as the listener's queue is full.
            let outcome = connect_at_once(slot.socket.as_fd(), &peer);
            return self.settled.push(Completion { handle, last: true, outcome });
        }
        slot.start(Op::Connect);
        let peer = slot.peer.insert(Box::new(peer));
        let fd = Fd(slot.socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, peer.as_ptr().cast(), peer.len()).build();
        self.push(entry.user_data(Token::new(Op::Connect, handle).to_bits()));
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
        slot.start(Op::Send);
        slot.flight = Flight::new(outgoing);
        self.submit_send(handle);
    }

    fn end(&mut self, handle: Handle, end: End) {
        end.apply(self.slots.expect_mut(handle).socket.as_fd());
    }

    fn cancel(&mut self, handle: Handle, ops: Ops) {
        let Some(slot) = self.slots.find_mut(handle) else { return };
        let targets = slot.outstanding.and(ops);
        slot.cancelled = slot.cancelled.or(targets);
        for op in targets.iter() {
            self.submit_cancel(Token::new(op, handle));
        }
    }

    fn close(&mut self, handle: Handle) {
        let slot = self.slots.remove(handle).expect("only an adopted socket is closed");
        assert!(slot.outstanding.is_empty(), "a socket is closed with nothing outstanding (I3)");
        // Before the first wait there may never be one; dropped, it is closed at once.
        if self.maker.is_none() {
            self.submit_close(slot.socket);
        }
    }

    fn finish_closes(&mut self) -> bool {
        let had_some = self.closes > 0;
        if had_some {
            self.refill();
            // If the kernel cannot take them now, the next wait tells why.
            let _ = self.enter(0, None);
        }
        had_some
    }

    fn wait(&mut self, timeout: Option<Duration>, batch: &mut Vec<Completion>) -> io::Result<()> {
        self.make_mine()?;
        self.buffers.publish();
        self.serve_readable();
        self.refill();
        let has_settled = !self.settled.is_empty();
        batch.append(&mut self.settled);
        let has_completions = !self.ring.completion().is_empty();
        let is_ready = has_settled
            || has_completions
            || !self.unsubmitted.is_empty()
            || !self.readable.is_empty();
        let is_polling = is_ready || timeout == Some(Duration::ZERO);
        if is_polling {
            self.enter(0, Some(Duration::ZERO))?;
        } else {
            self.enter(1, timeout)?;
        }
        self.large_bytes = 0;
        self.reap(batch);
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
        let pool = self.buffers.pool();
        let free = u32::try_from(pool.free_count()).expect("at most 32768 buffers");
        let kernel = u32::from(self.buffers.provided());
        DriverCounters {
            buffers_free: free,
            buffers_kernel: kernel,
            buffers_lent: u32::from(pool.count()) - free - kernel,
            ..self.counters
        }
    }
}

impl Slot {
    /// Takes a rest out of a receive that is over, with `len` bytes that the kernel added to it.
    /// `None` for a receive of another kind.
    fn land_rest(&mut self, len: usize) -> Option<Rest> {
        let (Form::Rest(_) | Form::Taken(_)) = self.form else { return None };
        let mut rest = self.form.take_rest()?;
        assert!(len <= rest.missing(), "the kernel stays within what it was given");
        let buffer = rest.buffer_mut();
        let len = buffer.len() + len;
        // SAFETY: the request that is over wrote so many bytes behind those that there were, and
        // it was given no more than there was room for.
        unsafe { buffer.set_len(len) };
        Some(rest)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let is_quiet = self.drain();
        // SAFETY: never touched again: this is `drop`, and nothing below uses the ring.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if !is_quiet {
            // The kernel may still write to buffers, or read from flights: leaked, not freed.
            return;
        }
        // SAFETY: dropped once, here; the ring that knew the buffers is gone.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
        // SAFETY: dropped once, here; no request refers to flights or addresses any more.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
        // SAFETY: dropped once, here; the request that wrote to it has had its completion.
        unsafe { ManuallyDrop::drop(&mut self.wake_count) };
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (features, buffers) = (self.features, &*self.buffers);
        write!(f, "Uring({} in flight, {features:?}, {buffers:?})", self.in_flight)
    }
}

const POLL_IN: u32 = libc::POLLIN.cast_unsigned() as u32;

/// How long a dropped driver waits for the next of its requests to end, in steps: 2 s in all.
const DRAIN_WAIT: Duration = Duration::from_millis(20);
const DRAIN_WAITS: u32 = 100;
