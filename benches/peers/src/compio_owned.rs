//! compio on its io_uring driver: one thread, a task for each connection, owned buffers.
//!
//! What one read brought is answered with one `write_all`, straight from the buffer it came into.
//! The ring has the flags that compio gives it by itself.

#![forbid(unsafe_code)]

use std::io;

use compio::BufResult;
use compio::buf::{IntoInner, IoBuf};
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::Runtime;

use crate::{is_of_client, listening, pdu};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(port_sink: impl FnOnce(u16)) -> io::Result<()> {
    Runtime::new()?.block_on(async {
        let listener = TcpListener::from_std(listening::listener()?)?;
        port_sink(listener.local_addr()?.port());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => compio::runtime::spawn(echo(stream)).detach(),
                Err(error) if is_of_client(&error) => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Ends with the client, or with its first error.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut input = Vec::with_capacity(pdu::READ_LEN_MIN);
    loop {
        let filled = input.len();
        let BufResult(outcome, target) = stream.read(input.slice(filled..)).await;
        input = target.into_inner();
        if outcome? == 0 {
            return Ok(());
        }
        let was_filled = input.len() == input.capacity();
        let whole = pdu::whole(&input)?;
        if whole.len > 0 {
            let BufResult(outcome, source) = stream.write_all(input.slice(..whole.len)).await;
            outcome?;
            input = source.into_inner();
            input.drain(..whole.len);
        }
        let capacity = pdu::capacity_after(input.capacity(), was_filled, whole.next_len);
        input.reserve_exact(capacity - input.len());
    }
}
