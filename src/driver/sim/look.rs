//! A simulated socket from outside of its driver: without one, or looked at.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockAddr;

use super::Net;
use super::socket::Socket;
use super::world::Id;

/// A socket that no driver has; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Loose {
    /// `None` once it was adopted.
    net: Option<Net>,
    id: Id,
}

impl Loose {
    pub(super) const fn new(net: Net, id: Id) -> Self {
        Self { net: Some(net), id }
    }

    /// Gives the socket to a node.
    pub(super) fn adopt(mut self, node: usize) -> Id {
        if let Some(net) = self.net.take() {
            let mut world = net.lock();
            if let Some(socket) = world.sockets.get_mut(&self.id) {
                socket.node = Some(node);
            }
            world.stir(Some(node));
        }
        self.id
    }

    pub(crate) fn peer_address(&self) -> io::Result<SockAddr> {
        let net = self.net.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Look { net, id: self.id }.peer_address()
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        if let Some(net) = &self.net {
            net.lock().close(self.id);
        }
    }
}

/// A look at a socket of the world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'d> {
    pub(super) net: &'d Net,
    pub(super) id: Id,
}

impl Look<'_> {
    pub(crate) fn local_address(self) -> io::Result<SockAddr> {
        self.with(|socket| socket.local.into())
    }

    pub(crate) fn peer_address(self) -> io::Result<SockAddr> {
        let world = self.net.lock();
        let stream = world.stream(self.id).filter(|stream| stream.is_answered && !stream.is_dead);
        let peer: Option<SocketAddr> = stream.map(|stream| stream.peer);
        peer.map(Into::into).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))
    }

    pub(crate) fn send_buffer_size(self) -> io::Result<usize> {
        self.with(|socket| socket.send_capacity)
    }

    pub(crate) fn set_send_buffer_size(self, bytes: usize) -> io::Result<()> {
        self.with(|socket| socket.send_capacity = bytes.max(1))
    }

    pub(crate) fn receive_buffer_size(self) -> io::Result<usize> {
        self.with(|socket| socket.receive_capacity)
    }

    pub(crate) fn set_receive_buffer_size(self, bytes: usize) -> io::Result<()> {
        self.with(|socket| socket.receive_capacity = bytes.max(1))
    }

    pub(crate) fn nodelay(self) -> io::Result<bool> {
        self.with(|socket| socket.nodelay)
    }

    pub(crate) fn set_nodelay(self, nodelay: bool) -> io::Result<()> {
        self.with(|socket| socket.nodelay = nodelay)
    }

    pub(crate) fn keepalive(self) -> io::Result<Option<Duration>> {
        self.with(|socket| socket.keepalive)
    }

    pub(crate) fn set_keepalive(self, idle: Option<Duration>) -> io::Result<()> {
        self.with(|socket| socket.keepalive = idle)
    }

    fn with<T>(self, call: impl FnOnce(&mut Socket) -> T) -> io::Result<T> {
        let mut world = self.net.lock();
        let socket = world.sockets.get_mut(&self.id);
        socket.map(call).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}
