//! What the epoll driver keeps of one adopted socket, and one step of each of its operations.
//!
//! A step makes at most one system call that may block, and says what came of it.

#![forbid(unsafe_code)]

use std::io;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use socket2::SockRef;

use crate::driver::outgoing::Flight;
use crate::driver::pool::Pool;
use crate::driver::{Completion, Family, Form, Op, Ops, Outcome, Rest, Stock};
use crate::error::Errno;
use crate::event::Handle;
use crate::sys;

/// One adopted socket.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) socket: OwnedFd,
    pub(super) family: Family,
    pub(super) outstanding: Ops,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// No further edge will come: reads go on until one returns zero or fails.
    pub(super) hung_up: bool,
    /// Stands in the queue of that name.
    pub(super) is_queued: bool,
    pub(super) is_postponed: bool,
    pub(super) form: Form,
    pub(super) flight: Flight,
    /// Bytes of all sends so far.
    pub(super) sent_in_all: u64,
}

/// What one step of one socket came to.
pub(super) enum Step {
    /// The operation goes on at once.
    Again,
    /// It waits for an edge.
    Blocked,
    Yield {
        last: bool,
        outcome: Outcome,
    },
}

impl Slot {
    /// A socket with which nothing was done yet.
    pub(super) fn new(socket: OwnedFd, family: Family) -> Self {
        Self {
            socket,
            family,
            outstanding: Ops::NONE,
            // Data that came with the connection makes an edge at once; until it does, to try
            // would be a wasted call. Room to send is there from the start.
            readable: false,
            writable: true,
            hung_up: false,
            is_queued: false,
            is_postponed: false,
            form: Form::Many,
            flight: Flight::default(),
            sent_in_all: 0,
        }
    }

    /// The operations that may go on without waiting for an edge.
    pub(super) fn ready(&self) -> Ops {
        let mut ready = Ops::NONE;
        if self.readable && !self.is_postponed {
            ready = READING;
        }
        if self.writable {
            ready = ready.or(WRITING);
        }
        ready.and(self.outstanding)
    }

    /// Yields what an operation's step came to, if it came to something.
    #[inline]
    pub(super) fn yield_step(
        &mut self,
        op: Op,
        step: Step,
        handle: Handle,
        batch: &mut Vec<Completion>,
    ) {
        let Step::Yield { last, outcome } = step else { return };
        if last {
            self.outstanding.remove(op);
        }
        batch.push(Completion { handle, last, outcome });
    }

    pub(super) fn send(&mut self) -> Step {
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

    pub(super) fn finish_connect(&self) -> Step {
        let outcome = match SockRef::from(&self.socket).take_error() {
            Ok(None) => Outcome::Connected,
            Ok(Some(error)) | Err(error) => Outcome::ConnectFailed(Errno::from_io(&error)),
        };
        Step::Yield { last: true, outcome }
    }

    pub(super) fn accept(&mut self) -> Step {
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
    pub(super) fn receive_rest(&mut self) -> Step {
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

    pub(super) fn receive_whole(&mut self, len: usize, stock: &Stock) -> Step {
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

    pub(super) fn receive(&mut self, pool: &Pool) -> Step {
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

/// The operations that wait until a socket is readable, and until it is writable.
const READING: Ops = Ops::only(Op::Accept).or(Ops::only(Op::Receive));
const WRITING: Ops = Ops::only(Op::Connect).or(Ops::only(Op::Send));

/// Pieces that one call sends; what is behind them goes with the next.
const PIECES_PER_CALL: usize = 64;

/// Bytes that the kernel takes in one call at most, whatever room the socket has: two GiB without
/// the largest page that there is.
const CALL_BYTES_MAX: usize = 0x7fff_0000;
