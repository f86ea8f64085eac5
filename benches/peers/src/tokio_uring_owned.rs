//! tokio-uring: tokio's scheduler over a ring, one thread, a task for each connection, owned
//! buffers.
//!
//! What one read brought is answered with one `write_all`, straight from the buffer it came into.
//! The ring has the flags that tokio-uring gives it by itself, and as many entries as a server
//! with so many connections wants.

#![forbid(unsafe_code)]

use std::io;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

use crate::{is_of_client, listening, pdu};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    tokio_uring::builder().entries(RING_ENTRIES).start(async {
        let listener = TcpListener::from_std(listening::listener()?);
        port_sink(listener.local_addr()?.port());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio_uring::spawn(echo(stream))),
                Err(error) if is_of_client(&error) => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Ends with the client, or with its first error.
async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut input = Vec::with_capacity(pdu::READ_LEN_MIN);
    loop {
        let filled = input.len();
        let (outcome, target) = stream.read(input.slice(filled..)).await;
        input = target.into_inner();
        if outcome? == 0 {
            return Ok(());
        }
        let was_filled = input.len() == input.capacity();
        let whole = pdu::whole(&input)?;
        if whole.len > 0 {
            let (outcome, source) = stream.write_all(input.slice(..whole.len)).await;
            outcome?;
            input = source.into_inner();
            input.drain(..whole.len);
        }
        let capacity = pdu::capacity_after(input.capacity(), was_filled, whole.next_len);
        input.reserve_exact(capacity - input.len());
    }
}

const RING_ENTRIES: u32 = 1024;
