//! tokio: one thread, a task for each connection, framing in a `BytesMut`.
//!
//! What one read brought is answered with one `write_all`, straight from the buffer it came into.

#![forbid(unsafe_code)]

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{is_of_client, listening, pdu};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = listening::listener()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        port_sink(listener.local_addr()?.port());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(echo(stream))),
                Err(error) if is_of_client(&error) => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Ends with the client, or with its first error.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut input = BytesMut::with_capacity(pdu::READ_LEN_MIN);
    let mut read_len = input.capacity();
    while stream.read_buf(&mut input).await? > 0 {
        let was_filled = input.len() >= read_len;
        let whole = pdu::whole(&input)?;
        if whole.len > 0 {
            stream.write_all(&input[..whole.len]).await?;
            input.advance(whole.len);
        }
        read_len = pdu::capacity_after(read_len, was_filled, whole.next_len);
        input.reserve(read_len - input.len());
    }
    Ok(())
}
