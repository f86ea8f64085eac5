//! The echo server on this library: one PDU in, the same PDU out.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use uring_netlib::{Address, BacklogLimits, Event, Handle, Netlib, Options};

/// Serves until the process ends; `port_sink` is told the port before the first client.
/// `backend` is `uring` or `epoll`; a backend that this kernel lacks is an error.
pub(crate) fn serve_ours(backend: &str, port_sink: impl FnOnce(u16)) -> io::Result<()> {
    let backend = backend.parse().map_err(io::Error::other)?;
    // Room for the deepest cell, so that pausing is not what is measured.
    let limits = BacklogLimits { low: 1 << 20, high: 4 << 20, max: 64 << 20 };
    let options = Options::new().backend(backend).backlog(limits);
    let mut net = options.build().map_err(io::Error::other)?;
    let listener = net.listen("127.0.0.1:0", echo, 0).map_err(io::Error::other)?;
    let option = net.option(listener).map_err(io::Error::other)?;
    let Address::Ip(address) = option.local_address().map_err(io::Error::other)? else {
        return Err(io::Error::other("an IPv4 listener has an IPv4 address"));
    };
    port_sink(address.port());
    net.eventloop(&mut (), Duration::MAX).map_err(io::Error::other)
}

fn echo(_: &mut (), net: &mut Netlib<()>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = event
        && net.forward(handle, pdu).is_err()
    {
        // The generator notices, and says so.
        let _ = net.abort(handle);
    }
}
