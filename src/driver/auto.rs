//! The driver that a `Netlib` really has: one of them, behind one `match`.
//!
//! Also decides which: [`Auto::start`] tries io_uring and says why when epoll takes over.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::time::Duration;

use socket2::SockAddr;

#[cfg(feature = "sim")]
use super::sim::Sim;
use super::uring::Uring;
use super::{
    Completion, Driver, DriverCounters, End, Endpoint, Family, Ops, Outgoing, Rest, Stock, View,
    Waker, system,
};
use crate::address::Address;
use crate::error::{BuildError, UringError};
use crate::event::Handle;
use crate::fallback::Epoll;
use crate::options::{Backend, ListenOptions, Options};

#[derive(Debug)]
pub(crate) enum Auto {
    Uring(Box<Uring>),
    Epoll(Box<Epoll>),
    #[cfg(feature = "sim")]
    Sim(Box<Sim>),
}

impl Auto {
    /// The driver that the options ask for, and why it is not io_uring when that was tried.
    pub(crate) fn start(options: &Options) -> Result<(Self, Option<UringError>), BuildError> {
        let epoll = |options| Epoll::new(options).map(Box::new).map_err(BuildError::System);
        match options.backend {
            Backend::Epoll => Ok((Self::Epoll(epoll(options)?), None)),
            Backend::Uring => {
                let uring = Uring::new(options).map_err(BuildError::Uring)?;
                Ok((Self::Uring(Box::new(uring)), None))
            }
            #[cfg(feature = "sim")]
            Backend::Sim => {
                let sim = Sim::new(options).map_err(BuildError::System)?;
                Ok((Self::Sim(Box::new(sim)), None))
            }
            Backend::Auto => match Uring::new(options) {
                Ok(uring) => Ok((Self::Uring(Box::new(uring)), None)),
                Err(reason) => {
                    // A standard error that nobody reads any more is no reason to fail.
                    let _ = writeln!(io::stderr(), "uring-netlib: using epoll, because {reason}");
                    Ok((Self::Epoll(epoll(options)?), Some(reason)))
                }
            },
        }
    }

    /// A listening socket of the driver's kind, to be adopted; `kernel` is the same address.
    pub(crate) fn listener(
        &mut self,
        address: &Address,
        kernel: &SockAddr,
        options: ListenOptions,
    ) -> io::Result<Endpoint> {
        self.make(|driver| match driver {
            Self::Uring(_) | Self::Epoll(_) => system::listener(address, kernel, options),
            #[cfg(feature = "sim")]
            Self::Sim(driver) => driver.listener(kernel, options),
        })
    }

    /// A socket of the driver's kind, to be adopted and connected to that peer.
    pub(crate) fn connector(&mut self, peer: &SockAddr) -> io::Result<Endpoint> {
        self.make(|driver| match driver {
            Self::Uring(_) | Self::Epoll(_) => system::connector(peer),
            #[cfg(feature = "sim")]
            Self::Sim(driver) => driver.connector(peer),
        })
    }

    /// Makes a socket. Where that fails while others are still to be closed, it may have been for
    /// want of their descriptors or addresses.
    fn make(&mut self, socket: impl Fn(&Self) -> io::Result<Endpoint>) -> io::Result<Endpoint> {
        socket(self).or_else(|error| if self.finish_closes() { socket(self) } else { Err(error) })
    }

    /// A seed for random numbers that must be the same each time; `None` where they need not.
    pub(crate) fn seed(&self) -> Option<u64> {
        match self {
            Self::Uring(_) | Self::Epoll(_) => None,
            #[cfg(feature = "sim")]
            Self::Sim(driver) => Some(driver.seed()),
        }
    }

    /// Whether the driver's sockets can be connected to what a host's name stands for.
    pub(crate) const fn knows_names(&self) -> bool {
        match self {
            Self::Uring(_) | Self::Epoll(_) => true,
            #[cfg(feature = "sim")]
            Self::Sim(_) => false,
        }
    }
}

/// Passes a call on to whichever driver it is.
macro_rules! either {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Auto::Uring($driver) => $call,
            Auto::Epoll($driver) => $call,
            #[cfg(feature = "sim")]
            Auto::Sim($driver) => $call,
        }
    };
}

impl Driver for Auto {
    fn adopt(&mut self, socket: Endpoint, family: Family, handle: Handle) -> io::Result<()> {
        either!(self, driver => driver.adopt(socket, family, handle))
    }

    fn accept(&mut self, handle: Handle) {
        either!(self, driver => driver.accept(handle));
    }

    fn connect(&mut self, handle: Handle, peer: SockAddr) {
        either!(self, driver => driver.connect(handle, peer));
    }

    fn receive(&mut self, handle: Handle) {
        either!(self, driver => driver.receive(handle));
    }

    fn receive_whole(&mut self, handle: Handle, len: usize) {
        either!(self, driver => driver.receive_whole(handle, len));
    }

    fn receive_rest(&mut self, handle: Handle, rest: Rest) {
        either!(self, driver => driver.receive_rest(handle, rest));
    }

    fn send(&mut self, handle: Handle, outgoing: Outgoing) {
        either!(self, driver => driver.send(handle, outgoing));
    }

    fn end(&mut self, handle: Handle, end: End) {
        either!(self, driver => driver.end(handle, end));
    }

    fn cancel(&mut self, handle: Handle, ops: Ops) {
        either!(self, driver => driver.cancel(handle, ops));
    }

    fn finish_closes(&mut self) -> bool {
        either!(self, driver => driver.finish_closes())
    }

    fn close(&mut self, handle: Handle) {
        either!(self, driver => driver.close(handle));
    }

    fn wait(&mut self, timeout: Option<Duration>, batch: &mut Vec<Completion>) -> io::Result<()> {
        either!(self, driver => driver.wait(timeout, batch))
    }

    fn waker(&self) -> Waker {
        either!(self, driver => driver.waker())
    }

    fn has_unread(&self, handle: Handle) -> bool {
        either!(self, driver => driver.has_unread(handle))
    }

    fn socket(&self, handle: Handle) -> Option<View<'_>> {
        either!(self, driver => driver.socket(handle))
    }

    fn progress(&self, handle: Handle) -> Option<u64> {
        either!(self, driver => driver.progress(handle))
    }

    fn unacknowledged(&self, handle: Handle) -> usize {
        either!(self, driver => driver.unacknowledged(handle))
    }

    fn stock(&self) -> &Stock {
        either!(self, driver => driver.stock())
    }

    fn counters(&self) -> DriverCounters {
        either!(self, driver => driver.counters())
    }
}
