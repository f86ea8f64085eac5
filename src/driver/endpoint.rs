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

/// A socket that no driver has; dropping it closes it.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// One of the kernel's.
    System(OwnedFd),
}

impl Endpoint {
    /// The descriptor, for a driver of the kernel's sockets.
    pub(crate) fn into_system(self) -> io::Result<OwnedFd> {
        match self {
            Self::System(socket) => Ok(socket),
        }
    }

    pub(crate) fn peer_address(&self) -> io::Result<SockAddr> {
        match self {
            Self::System(socket) => SockRef::from(socket).peer_addr(),
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
}

impl<'d> View<'d> {
    pub(crate) fn of_system(socket: &'d OwnedFd) -> Self {
        Self::System(SockRef::from(socket))
    }

    pub(crate) fn local_address(&self) -> io::Result<SockAddr> {
        match self {
            Self::System(socket) => socket.local_addr(),
        }
    }

    pub(crate) fn peer_address(&self) -> io::Result<SockAddr> {
        match self {
            Self::System(socket) => socket.peer_addr(),
        }
    }

    pub(crate) fn send_buffer_size(&self) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.send_buffer_size(),
        }
    }

    pub(crate) fn set_send_buffer_size(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::System(socket) => socket.set_send_buffer_size(bytes),
        }
    }

    pub(crate) fn receive_buffer_size(&self) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.recv_buffer_size(),
        }
    }

    pub(crate) fn set_receive_buffer_size(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::System(socket) => socket.set_recv_buffer_size(bytes),
        }
    }

    pub(crate) fn nodelay(&self) -> io::Result<bool> {
        match self {
            Self::System(socket) => socket.tcp_nodelay(),
        }
    }

    pub(crate) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Self::System(socket) => socket.set_tcp_nodelay(nodelay),
        }
    }

    pub(crate) fn keepalive(&self) -> io::Result<Option<Duration>> {
        match self {
            Self::System(socket) => match socket.keepalive()? {
                true => socket.tcp_keepalive_time().map(Some),
                false => Ok(None),
            },
        }
    }

    pub(crate) fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        match (self, idle) {
            (Self::System(socket), Some(idle)) => {
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
            }
            (Self::System(socket), None) => socket.set_keepalive(false),
        }
    }
}
