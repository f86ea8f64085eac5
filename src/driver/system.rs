//! Makes the kernel's sockets, for the drivers that serve those.

#![forbid(unsafe_code)]

use std::io;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Endpoint, Family};
use crate::address::Address;
use crate::options::ListenOptions;

/// A socket to connect to that peer.
pub(super) fn connector(peer: &SockAddr) -> io::Result<Endpoint> {
    let socket = Socket::new(peer.domain(), Type::STREAM, None)?;
    if Family::of(peer) == Family::Inet {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(Endpoint::System(socket.into()))
}

/// A listening socket.
pub(super) fn listener(
    address: &Address,
    kernel: &SockAddr,
    options: ListenOptions,
) -> io::Result<Endpoint> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(kernel.domain(), Type::STREAM, None)?;
        if kernel.domain() != Domain::UNIX {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(options.reuse_port)?;
            // Accepted sockets inherit it, which saves a call for each.
            socket.set_tcp_nodelay(true)?;
        }
        if kernel.domain() == Domain::IPV6 {
            socket.set_only_v6(!options.dual_stack)?;
        }
        Ok(socket)
    };
    let mut socket = open()?;
    if let Err(error) = socket.bind(kernel) {
        let Address::Path(path) = address else { return Err(error) };
        if error.kind() != io::ErrorKind::AddrInUse || is_served(kernel) {
            return Err(error);
        }
        // A path outlives its listener. Nobody serves this one, so it is taken over.
        std::fs::remove_file(path)?;
        socket = open()?;
        socket.bind(kernel)?;
    }
    socket.listen(options.backlog.into())?;
    Ok(Endpoint::System(socket.into()))
}

/// Whether somebody accepts clients at a Unix-domain path, or it is no socket at all.
fn is_served(kernel: &SockAddr) -> bool {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(|socket| socket.connect(kernel));
    // Only a socket without a listener refuses; files that are no sockets refuse as well.
    let is_refused =
        matches!(&probe, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
    let is_socket = kernel.as_pathname().and_then(|path| std::fs::metadata(path).ok());
    let is_socket = is_socket
        .is_some_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()));
    !(is_refused && is_socket)
}
