//! The three system calls of epoll, made safe.

#![expect(unsafe_code, reason = "system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::sys::check;

/// An epoll instance, and the events of its last wait.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What one event says of its socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// The number that the socket was registered with.
    pub(super) key: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer finished, or the connection broke: reads go on until one returns zero.
    pub(super) hung_up: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes plain numbers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Registers a socket once, for everything, edge-triggered. Closing it takes it off again.
    pub(super) fn add_socket(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.add(socket, key, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP)
    }

    /// Registers an event descriptor, for being signalled. It can always be written to, and each
    /// read would be an edge of that.
    pub(super) fn add_event(&self, event: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.add(event, key, libc::EPOLLIN)
    }

    fn add(&self, socket: BorrowedFd<'_>, key: u64, interest: i32) -> io::Result<()> {
        let interest = interest | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: key };
        let (epoll, fd) = (self.epoll.as_raw_fd(), socket.as_raw_fd());
        // SAFETY: `event` is a valid event for the length of the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for events; `None` waits without a limit. A signal ends the wait without any.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: a wait that ends before its timer is due would be spent spinning.
        let timeout = timeout.map_or(-1, |limit| {
            i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        self.events.clear();
        let (epoll, events) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr());
        let capacity = i32::try_from(EVENTS_MAX).expect("fits");
        // SAFETY: the vector has room for `EVENTS_MAX` events, and the kernel writes no more.
        match check(unsafe { libc::epoll_wait(epoll, events, capacity, timeout) }) {
            Ok(count) => {
                let count = usize::try_from(count).expect("checked not to be negative");
                // SAFETY: the kernel has written the first `count` events.
                unsafe { self.events.set_len(count) };
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The events of the last wait, by position.
    pub(super) fn ready(&self, position: usize) -> Option<Ready> {
        let event = self.events.get(position)?;
        let (key, events) = (event.u64, event.events.cast_signed());
        let broken = libc::EPOLLERR | libc::EPOLLHUP;
        let hung_up = events & (libc::EPOLLRDHUP | broken) != 0;
        Some(Ready {
            key,
            readable: hung_up || events & libc::EPOLLIN != 0,
            writable: events & (libc::EPOLLOUT | broken) != 0,
            hung_up,
        })
    }
}

/// Events taken a wait; those beyond come with the next.
const EVENTS_MAX: usize = 1024;
