//! The functional self-test: a new ring does once what a server will ask of it, and may be refused.
//!
//! Flags tell little: a sandbox may allow the set-up and refuse the rest, and of the multishot
//! forms no flag tells at all. A form that the kernel lacks is found out here, and given up by the
//! driver's own rule; anything else that fails makes the ring unfit.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::super::{Completion, Driver, Family, Op, Ops, Outcome};
use super::Uring;
use crate::error::{Errno, UringError};
use crate::event::Handle;

pub(super) fn run(driver: &mut Uring) -> Result<(), UringError> {
    let mut exercise = Exercise { driver, pending: Vec::new(), step: "make a socket pair" };
    exercise
        .receive()
        .and_then(|()| exercise.wake())
        .and_then(|()| exercise.accept())
        .and_then(|()| exercise.close())
        .map_err(|error| UringError::SelfTest {
            step: exercise.step,
            errno: Errno::from_io(&error),
        })
}

struct Exercise<'d> {
    driver: &'d mut Uring,
    /// Outcomes that were not asked for yet: they come in any order.
    pending: Vec<Completion>,
    step: &'static str,
}

impl Exercise<'_> {
    fn receive(&mut self) -> io::Result<()> {
        let (near, far) = UnixStream::pair()?;
        let (left, right) = (Handle::new(0, 1), Handle::new(1, 1));
        // Treated as TCP, to try the multishot form; its end of stream is not asked for.
        self.driver.adopt(OwnedFd::from(near).into(), Family::Inet, left)?;
        self.driver.adopt(OwnedFd::from(far).into(), Family::Inet, right)?;
        self.step = "receive into a ring buffer";
        self.driver.receive(left);
        self.driver.send(right, b"ping".to_vec().into());
        self.expect(|outcome| matches!(outcome, Outcome::Sent(_)))?;
        let is_armed = !self
            .expect(|outcome| matches!(outcome, Outcome::Received(chunk) if **chunk == *b"ping"))?;
        self.step = "cancel a receive";
        if !is_armed {
            self.driver.receive(left);
        }
        self.driver.cancel(left, Ops::ALL);
        // Older kernels (seen on 6.1) ask for a buffer before they look for data. With a pool of
        // one, which "ping" has taken, the receive has then ended by itself: it is over either way.
        self.expect(|outcome| matches!(outcome, Outcome::ReceiveFailed(_) | Outcome::NoBuffers))?;
        self.driver.close(left);
        self.driver.close(right);
        Ok(())
    }

    fn wake(&mut self) -> io::Result<()> {
        self.step = "be woken";
        self.driver.waker().wake();
        for _ in 0..WAITS {
            if self.driver.counters().wakeups > 0 {
                return Ok(());
            }
            self.driver.wait(Some(WAIT), &mut self.pending)?;
        }
        Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
    }

    fn accept(&mut self) -> io::Result<()> {
        self.step = "accept a client";
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // An address without a name asks the kernel for a free one, which nobody else knows.
        listener.bind(&SockAddr::unix("")?)?;
        listener.listen(1)?;
        let address = listener.local_addr()?;
        let (server, client) = (Handle::new(0, 2), Handle::new(1, 2));
        self.driver.adopt(OwnedFd::from(listener).into(), Family::Unix, server)?;
        self.driver.accept(server);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Treated as TCP, to try the request.
        self.driver.adopt(OwnedFd::from(socket).into(), Family::Inet, client)?;
        self.driver.connect(client, address);
        self.expect(|outcome| matches!(outcome, Outcome::Connected))?;
        let is_armed = !self.expect(|outcome| matches!(outcome, Outcome::Accepted(_)))?;
        if is_armed {
            self.driver.cancel(server, Ops::only(Op::Accept));
            self.expect(|outcome| matches!(outcome, Outcome::AcceptFailed(_)))?;
        }
        self.driver.close(server);
        self.driver.close(client);
        Ok(())
    }

    /// A refused close would be a descriptor lost, and nobody would be told.
    fn close(&mut self) -> io::Result<()> {
        self.step = "close";
        let (near, mut far) = UnixStream::pair()?;
        far.set_nonblocking(true)?;
        let handle = Handle::new(0, 1);
        self.driver.adopt(OwnedFd::from(near).into(), Family::Unix, handle)?;
        self.driver.close(handle);
        self.driver.wait(Some(Duration::ZERO), &mut self.pending)?;
        far.read(&mut [0]).map(drop)
    }

    /// Waits for an outcome, and says whether it was the last of its operation.
    fn expect(&mut self, is_it: impl Fn(&Outcome) -> bool) -> io::Result<bool> {
        for _ in 0..WAITS {
            if let Some(position) = self.pending.iter().position(|one| is_it(&one.outcome)) {
                return Ok(self.pending.remove(position).last);
            }
            if let Some(errno) = self.pending.iter().find_map(|one| failure(&one.outcome)) {
                return Err(io::Error::from_raw_os_error(errno.0));
            }
            self.driver.wait(Some(WAIT), &mut self.pending)?;
        }
        Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
    }
}

fn failure(outcome: &Outcome) -> Option<Errno> {
    match outcome {
        Outcome::AcceptFailed(errno)
        | Outcome::ConnectFailed(errno)
        | Outcome::ReceiveFailed(errno)
        | Outcome::SendFailed(errno, _) => Some(*errno),
        Outcome::NoBuffers => Some(Errno(libc::ENOBUFS)),
        Outcome::EndOfStream => Some(Errno(libc::EPIPE)),
        Outcome::Accepted(_)
        | Outcome::Connected
        | Outcome::Received(_)
        | Outcome::Filled(_)
        | Outcome::Sent(_) => None,
    }
}

/// How long one outcome may take, in steps: 1 s in all.
const WAIT: Duration = Duration::from_millis(20);
const WAITS: u32 = 50;
