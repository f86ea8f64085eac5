//! glommio: an executor pinned to the core, a task for each connection.
//!
//! Its streams read into and write from slices. What one read brought is answered with one
//! `write_all`, straight from the buffer it came into.

#![forbid(unsafe_code)]

use std::io;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use crate::{is_of_client, listening, pdu};

/// Serves until the process ends; `port_sink` is told the port before the first client.
pub(crate) fn serve(core: usize, port_sink: impl FnOnce(u16)) -> io::Result<()> {
    // Memory for files, of which there are none here, is all that is spared.
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core)).io_memory(IO_MEMORY_LEN);
    let executor = executor.make().map_err(io::Error::from)?;
    executor.run(async {
        let listener = TcpListener::bind(listening::ADDRESS).map_err(io::Error::from)?;
        let port = listener.local_addr().map_err(io::Error::from)?.port();
        listening::tune_listener_of(port)?;
        port_sink(port);
        loop {
            match listener.accept().await.map_err(io::Error::from) {
                Ok(stream) => drop(glommio::spawn_local(echo(stream)).detach()),
                Err(error) if is_of_client(&error) => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Ends with the client, or with its first error.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut input = vec![0; pdu::READ_LEN_MIN];
    let mut filled = 0;
    loop {
        let len = stream.read(&mut input[filled..]).await?;
        if len == 0 {
            return Ok(());
        }
        filled += len;
        let whole = pdu::whole(&input[..filled])?;
        if whole.len > 0 {
            stream.write_all(&input[..whole.len]).await?;
            input.copy_within(whole.len..filled, 0);
        }
        let was_filled = filled == input.len();
        filled -= whole.len;
        let capacity = pdu::capacity_after(input.len(), was_filled, whole.next_len);
        input.resize(capacity, 0);
    }
}

const IO_MEMORY_LEN: usize = 64 << 10;
