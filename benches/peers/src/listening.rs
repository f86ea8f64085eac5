//! The sockets that the peers listen on: all with the same backlog, and without Nagle's delay.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;

use socket2::SockRef;

/// Where every peer listens: a port that the kernel chooses.
pub(crate) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listener for the frameworks that take one from std.
pub(crate) fn listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind(ADDRESS)?;
    tune(SockRef::from(&listener))?;
    Ok(listener)
}

/// Gives the listener of a framework that hides it what [`listener`] has from the start.
pub(crate) fn tune_listener_of(port: u16) -> io::Result<()> {
    for fd in 3..DESCRIPTOR_MAX {
        // SAFETY: the descriptor is borrowed for this turn only, in which nobody closes any: the
        // server has no client yet. One that is not open makes every call on it fail.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = SockRef::from(&fd);
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        if address.is_some_and(|address| address.port() == port) {
            return tune(socket);
        }
    }
    Err(io::Error::other("the listener was not found"))
}

/// Sockets that are accepted inherit `TCP_NODELAY`, so it costs them no call of their own.
fn tune(listener: SockRef<'_>) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    // Clients that connect faster than they are accepted must not be told to come back later.
    listener.listen(BACKLOG)
}

const BACKLOG: i32 = 4096;
/// A server that has just started has fewer descriptors.
const DESCRIPTOR_MAX: i32 = 256;
