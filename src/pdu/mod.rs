//! Protocol data units: their header, their framing, and the way from bytes to PDUs and back.
//!
//! No I/O, no clock, no sockets, and no `unsafe`: bytes come in as slices and leave as slices. A
//! [`FrameSpec`] says how long a frame is, a [`Reader`] cuts the stream into [`Pdu`]s and lends
//! them in place, [`encode`] appends one to the bytes to be sent. [`ByteReader`] and [`ByteWriter`]
//! are for bodies that are made of plain numbers and counted strings.
//!
//! ```
//! use uring_netlib::pdu::{FrameSpec, Header, Reader, encode_bytes};
//!
//! let mut stream = Vec::new();
//! encode_bytes(&Header::new(7, 0x0701), b"", 1024, &mut stream)?;
//! encode_bytes(&Header::new(3, 0x0301), b"hello", 1024, &mut stream)?;
//!
//! // However the network cuts the stream, the PDUs stay whole.
//! let (spec, mut reader, mut commands) = (FrameSpec::teamtalk(), Reader::new(), Vec::new());
//! for mut chunk in stream.chunks(10) {
//!     while let Some(pdu) = reader.next(&spec, &mut chunk)? {
//!         commands.extend(pdu.header().map(|header| header.command_id));
//!     }
//!     reader.hold(chunk);
//! }
//! assert_eq!(commands, [0x0701, 0x0301]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

use std::fmt;

use bytes::Bytes;

mod frame;
mod header;
mod primitives;
mod reader;
mod writer;

pub use frame::{Endian, FrameError, FrameSpec, FrameSpecError, LengthCounts};
pub use header::{HEADER_LEN, Header};
pub use primitives::{ByteReader, ByteWriter, DataTooLong, TextError, Underflow};
pub use reader::Reader;
pub(crate) use reader::cut;
pub use writer::{EncodeError, encode, encode_bytes};

/// A whole PDU, lent in place.
///
/// `Debug` tells its length and its header but not its body, which is not for logs.
#[derive(Clone, Copy)]
pub struct Pdu<'a> {
    frame: &'a [u8],
    header_len: u16,
    /// What keeps the bytes, where the PDU has them for itself.
    owner: Option<&'a Bytes>,
}

impl<'a> Pdu<'a> {
    pub(crate) const fn new(frame: &'a [u8], header_len: u16) -> Self {
        Self { frame, header_len, owner: None }
    }

    /// A PDU of `len` bytes at the beginning of a buffer of its own.
    pub(crate) fn alone(owner: &'a Bytes, len: usize, header_len: u16) -> Self {
        Self { frame: &owner[..len], header_len, owner: Some(owner) }
    }

    /// All of its bytes as they came, header included; sent on, they are the same PDU again.
    #[must_use]
    pub const fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// All of its bytes, to be kept or shared after the callback has returned. A copy, unless the
    /// PDU is so large that it was received into a buffer of its own: of that it is a share, which
    /// keeps the whole buffer, of at most twice as many bytes.
    ///
    /// ```
    /// use uring_netlib::Event;
    ///
    /// fn keep(event: Event<'_>, kept: &mut Vec<bytes::Bytes>) {
    ///     if let Event::Pdu(pdu) = event {
    ///         kept.push(pdu.to_bytes());
    ///     }
    /// }
    /// # let _ = keep;
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.owner {
            Some(owner) => owner.slice(..self.frame.len()),
            None => Bytes::copy_from_slice(self.frame),
        }
    }

    /// What keeps the bytes, if they can be shared, which costs less than a copy.
    pub(crate) const fn owner(&self) -> Option<&'a Bytes> {
        self.owner
    }

    /// The bytes after the header; may be none.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.frame[usize::from(self.header_len)..]
    }

    /// Its header; `None` where the framing has another header than one of [`HEADER_LEN`] bytes.
    #[must_use]
    pub fn header(&self) -> Option<Header> {
        match usize::from(self.header_len) {
            HEADER_LEN => Header::parse(self.frame),
            _ => None,
        }
    }

    /// Decodes the body.
    ///
    /// ```
    /// use uring_netlib::pdu::{FrameSpec, Header, Reader, encode};
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct ReadNotify {
    ///     #[prost(uint32, required, tag = "1")]
    ///     user_id: u32,
    /// }
    ///
    /// let mut sent = Vec::new();
    /// encode(&Header::new(3, 0x0304), &ReadNotify { user_id: 9 }, 1024, &mut sent)?;
    ///
    /// let (mut reader, mut input) = (Reader::new(), &sent[..]);
    /// let pdu = reader.next(&FrameSpec::teamtalk(), &mut input)?.ok_or("all of it is there")?;
    /// assert_eq!(pdu.decode::<ReadNotify>()?.user_id, 9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`prost::DecodeError`] where the body is no such message.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.body())
    }
}

/// Wherever their bytes lie.
impl PartialEq for Pdu<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.frame, self.header_len) == (other.frame, other.header_len)
    }
}

impl Eq for Pdu<'_> {}

impl fmt::Debug for Pdu<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pdu")
            .field("len", &self.frame.len())
            .field("header", &self.header())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real PDUs: service, command, seq, the header in hex, the body in hex.
    const GOLDEN: &[(u16, u16, u16, &str, &str)] = &[
        (7, 0x0707, 0, "00000012000100000007070700000000", "0801"),
        (7, 0x0708, 0, "00000010000100000007070800000000", ""),
        (
            7,
            0x0709,
            0,
            "00000031000100000007070900000000",
            "0a0831302e302e302e31120831302e302e302e3218b8940120e80728003202766d",
        ),
        (
            1,
            0x0103,
            101,
            "00000024000100000001010300650000",
            "0a05757365723112027077180120012a03312e30",
        ),
        (
            7,
            0x0703,
            101,
            "0000002a000100000007070300650000",
            "0a05757365723112027077a2010c000000010000000900000000",
        ),
        (7, 0x070b, 0, "00000014000100000007070b00000000", "08011001"),
        (7, 0x070a, 0, "00000016000100000007070a00000000", "080110011801"),
        (7, 0x070d, 0, "00000016000100000007070d00000000", "080110011801"),
        (
            1,
            0x0104,
            101,
            "00000043000100000001010400650000",
            "08e09b92d80610001a026f6b20012a23080110011a046e69636b2200280132003a047265616c42004a\
             05757365723150005a00",
        ),
        (3, 0x0301, 6, "0000001f000100000003030100060000", "080110021800200028013203686579"),
        (
            3,
            0x0301,
            6,
            "00000032000100000003030100060000",
            "08011002180020e19b92d80628013203686579a2010c000000010000000900000000",
        ),
        (3, 0x0302, 6, "00000018000100000003030200060000", "08011002184d2001"),
        (
            3,
            0x0301,
            0,
            "00000023000100000003030100000000",
            "08011002184d20e19b92d80628013203686579",
        ),
        (3, 0x0304, 0, "00000018000100000003030400000000", "08021001184d2001"),
        (3, 0x0308, 8, "00000014000100000003030800080000", "08021000"),
        (1, 0x0107, 0, "00000014000100000001010700000000", "08011001"),
        (7, 0x0701, 0, "00000010000100000007070100000000", ""),
        (
            1,
            0x0102,
            9,
            "0000002c000100000001010200090000",
            "080012093132372e302e302e311a093132372e302e302e3120d08c01",
        ),
        (
            1,
            0x0104,
            5,
            "00000029000100000001010400050000",
            "08cca092d80610031a0fe69c8de58aa1e7abafe5bc82e5b8b8",
        ),
        (3, 0x0306, 6, "00000016000100000003030600060000", "08cca092d806"),
    ];

    #[derive(Clone, PartialEq, prost::Message)]
    struct LoginRequest {
        #[prost(string, required, tag = "1")]
        user_name: String,
        #[prost(string, required, tag = "2")]
        password: String,
        #[prost(uint32, required, tag = "3")]
        online_status: u32,
        #[prost(uint32, required, tag = "4")]
        client_type: u32,
        #[prost(string, optional, tag = "5")]
        client_version: Option<String>,
    }

    fn from_hex(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    /// What other implementations have sent is read, and written the same.
    #[test]
    fn golden_pdus_are_read_and_written_to_the_byte() {
        for &(service_id, command_id, seq, head, body) in GOLDEN {
            let (body, frame) = (from_hex(body), from_hex(&[head, body].concat()));
            let header = Header::new(service_id, command_id).with_seq(seq);
            let mut reader = Reader::new();
            let mut input = &frame[..];
            let pdu = reader.next(&FrameSpec::teamtalk(), &mut input).unwrap().unwrap();
            assert_eq!((pdu.header(), pdu.body()), (Some(header), &body[..]));
            assert_eq!((pdu.frame(), input), (&frame[..], &[][..]));
            let mut out = Vec::new();
            assert_eq!(encode_bytes(&header, &body, 1024, &mut out), Ok(frame.len()));
            assert_eq!(out, frame);
        }
    }

    /// A message goes through header and protobuf to the very bytes of a real login, and back.
    #[test]
    fn a_golden_login_is_encoded_and_decoded() {
        let login = LoginRequest {
            user_name: "user1".into(),
            password: "pw".into(),
            online_status: 1,
            client_type: 1,
            client_version: Some("1.0".into()),
        };
        let (.., head, body) = GOLDEN[3];
        let frame = from_hex(&[head, body].concat());
        let mut out = Vec::new();
        let header = Header::new(1, 0x0103).with_seq(101);
        assert_eq!(encode(&header, &login, 1024, &mut out), Ok(frame.len()));
        assert_eq!(out, frame);
        assert_eq!(Pdu::new(&frame, 16).decode(), Ok(login));
        assert!(Pdu::new(&frame[..30], 16).decode::<LoginRequest>().is_err());
    }

    /// A framing without the 16-byte header has none, however long its frames are.
    #[test]
    fn only_sixteen_byte_headers_are_parsed() {
        let frame = [0; 40];
        assert_eq!(Pdu::new(&frame, 4).header(), None);
        assert_eq!(Pdu::new(&frame, 4).body().len(), 36);
        assert!(Pdu::new(&frame, 16).header().is_some());
    }

    /// Bodies stay out of logs.
    #[test]
    fn debug_does_not_show_the_body() {
        let pdu = format!("{:?}", Pdu::new(b"\0\x06secret", 2));
        assert_eq!(pdu, "Pdu { len: 8, header: None, .. }");
    }
}
