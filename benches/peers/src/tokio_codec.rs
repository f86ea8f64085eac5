//! tokio with tokio-util's codecs: `Framed` over `LengthDelimitedCodec`, a task for each
//! connection.
//!
//! All PDUs that are there are fed, then flushed once. `send` for each PDU, as simple examples
//! have it, would flush and so write once for each: at 16 in flight that costs ten times as much.

#![forbid(unsafe_code)]

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder, Framed, LengthDelimitedCodec};

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
async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut framed = Framed::with_capacity(stream, PduCodec::new(), pdu::READ_LEN_MIN);
    framed.set_backpressure_boundary(pdu::READ_LEN_MAX);
    while let Some(pdu) = framed.next().await {
        framed.feed(pdu?).await?;
        while let Some(Some(pdu)) = framed.next().now_or_never() {
            framed.feed(pdu?).await?;
        }
        framed.flush().await?;
    }
    Ok(())
}

/// Whole PDUs, headers included, in both directions.
struct PduCodec(LengthDelimitedCodec);

impl PduCodec {
    fn new() -> Self {
        let codec = LengthDelimitedCodec::builder()
            .length_field_length(4)
            .num_skip(0)
            .max_frame_length(pdu::PDU_LEN_MAX)
            .new_codec();
        Self(codec)
    }
}

impl Decoder for PduCodec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match self.0.decode(source)? {
            Some(pdu) if pdu.len() < pdu::HEADER_LEN => Err(pdu::malformed(pdu.len())),
            Some(pdu) => {
                pdu::count_served(1);
                Ok(Some(pdu.freeze()))
            }
            None => Ok(None),
        }
    }
}

impl Encoder<Bytes> for PduCodec {
    type Error = io::Error;

    fn encode(&mut self, pdu: Bytes, target: &mut BytesMut) -> io::Result<()> {
        target.extend_from_slice(&pdu);
        Ok(())
    }
}
