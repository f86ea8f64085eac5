//! A socket as the library hands it round: on its way into a driver or out of one, and looked at
//! while the driver has it.
//!
//! Nobody above the seam sees a descriptor: here are the questions and the options that a socket
//! has, whatever it is made of. Where sockets are made is `system.rs`.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{SockAddr, SockRef, TcpKeepalive};

#[cfg(feature = "sim")]
use super::sim::{Look, Loose};

/// A socket that no driver has; dropping it closes it.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// One of the kernel's.
    System(OwnedFd),
    #[cfg(feature = "sim")]
    Sim(Loose),
}

impl Endpoint {
    /// The descriptor, for a driver of the kernel's sockets.
    pub(crate) fn into_system(self) -> io::Result<OwnedFd> {
        match self {
            Self::System(socket) => Ok(socket),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// The socket, for the simulated driver.
    #[cfg(feature = "sim")]
    pub(crate) fn into_sim(self) -> io::Result<Loose> {
        match self {
            Self::System(_) => Err(io::Error::from_raw_os_error(libc::EBADF)),
            Self::Sim(socket) => Ok(socket),
        }
    }

    pub(crate) fn peer_address(&self) -> io::Result<SockAddr> {
        match self {
            Self::System(socket) => SockRef::from(socket).peer_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.peer_address(),
        }
    }
}

impl From<OwnedFd> for Endpoint {
    fn from(socket: OwnedFd) -> Self {
        Self::System(socket)
    }
}

/// A look at a socket that a driver has.
#[derive(Debug)]
pub(crate) enum View<'d> {
    System(SockRef<'d>),
    #[cfg(feature = "sim")]
    Sim(Look<'d>),
}

impl<'d> View<'d> {
    pub(crate) fn of_system(socket: &'d OwnedFd) -> Self {
        Self::System(SockRef::from(socket))
    }

    pub(crate) fn local_address(&self) -> io::Result<SockAddr> {
        match self {
            Self::System(socket) => socket.local_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.local_address(),
        }
    }

    pub(crate) fn peer_address(&self) -> io::Result<SockAddr> {
        match self {
            Self::System(socket) => socket.peer_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.peer_address(),
        }
    }

    pub(crate) fn send_buffer_size(&self) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.send_buffer_size(),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.send_buffer_size(),
        }
    }

    pub(crate) fn set_send_buffer_size(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::System(socket) => socket.set_send_buffer_size(bytes),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.set_send_buffer_size(bytes),
        }
    }

    pub(crate) fn receive_buffer_size(&self) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.recv_buffer_size(),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.receive_buffer_size(),
        }
    }

    pub(crate) fn set_receive_buffer_size(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::System(socket) => socket.set_recv_buffer_size(bytes),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.set_receive_buffer_size(bytes),
        }
    }

    pub(crate) fn nodelay(&self) -> io::Result<bool> {
        match self {
            Self::System(socket) => socket.tcp_nodelay(),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.nodelay(),
        }
    }

    pub(crate) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Self::System(socket) => socket.set_tcp_nodelay(nodelay),
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.set_nodelay(nodelay),
        }
    }

    pub(crate) fn keepalive(&self) -> io::Result<Option<Duration>> {
        match self {
            Self::System(socket) => match socket.keepalive()? {
                true => socket.tcp_keepalive_time().map(Some),
                false => Ok(None),
            },
            #[cfg(feature = "sim")]
            Self::Sim(socket) => socket.keepalive(),
        }
    }

    pub(crate) fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        match (self, idle) {
            (Self::System(socket), Some(idle)) => {
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
            }
            (Self::System(socket), None) => socket.set_keepalive(false),
            #[cfg(feature = "sim")]
            (Self::Sim(socket), idle) => socket.set_keepalive(idle),
        }
    }
}
