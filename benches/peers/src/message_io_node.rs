//! message-io: a node whose handler is called for every event.
//!
//! Its own framed transport has another framing, so this is its plain TCP with PDUs found by hand.
//! It hands over what each read brought, 64 KiB at most, and that is answered with one `send`. It
//! reads until a socket is empty, sends by trying again until the socket takes all, and has a
//! second thread that wakes up every 50 ms.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;

use message_io::network::{Endpoint, NetEvent, Transport};
use message_io::node::{self, NodeHandler};

use crate::{listening, pdu};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    let (handler, listener) = node::split::<()>();
    let (_, address) = handler.network().listen(Transport::Tcp, listening::ADDRESS)?;
    listening::tune_listener_of(address.port())?;
    port_sink(address.port());
    let mut clients: HashMap<Endpoint, Client> = HashMap::new();
    listener.for_each(move |event| match event.network() {
        NetEvent::Accepted(endpoint, _) => drop(clients.insert(endpoint, Client::default())),
        NetEvent::Message(endpoint, bytes) => {
            let client = clients.get_mut(&endpoint);
            if client.is_some_and(|client| client.echo(&handler, endpoint, bytes).is_err()) {
                clients.remove(&endpoint);
                handler.network().remove(endpoint.resource_id());
            }
        }
        NetEvent::Disconnected(endpoint) => drop(clients.remove(&endpoint)),
        NetEvent::Connected(..) => unreachable!("this node does not connect"),
    });
    Ok(())
}

/// The bytes of a client that are not a whole PDU yet.
#[derive(Default)]
struct Client {
    carry: Vec<u8>,
}

impl Client {
    fn echo(
        &mut self,
        handler: &NodeHandler<()>,
        endpoint: Endpoint,
        bytes: &[u8],
    ) -> io::Result<()> {
        if self.carry.is_empty() {
            let whole = pdu::whole(bytes)?;
            if whole.len > 0 {
                // A client that is gone gets its event later.
                handler.network().send(endpoint, &bytes[..whole.len]);
            }
            self.carry.extend_from_slice(&bytes[whole.len..]);
            return Ok(());
        }
        self.carry.extend_from_slice(bytes);
        let whole = pdu::whole(&self.carry)?;
        if whole.len > 0 {
            handler.network().send(endpoint, &self.carry[..whole.len]);
            self.carry.drain(..whole.len);
        }
        Ok(())
    }
}
