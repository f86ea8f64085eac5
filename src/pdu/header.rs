//! The 16-byte header of a PDU, as it stands on the wire.
//!
//! Reads and writes the fields and judges none of them: which lengths are good is for
//! [`FrameSpec`](super::FrameSpec) to say, which ids mean something is for the application.

#![forbid(unsafe_code)]

/// Bytes of a [`Header`] on the wire.
pub const HEADER_LEN: usize = 16;

/// The fields of the 16-byte header, but for the length.
///
/// The length in front of them is computed when a header is [written](Self::write), so that it
/// cannot disagree with the PDU. On the wire all of it is big-endian and without padding:
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | length of the whole PDU, these 16 bytes included |
/// | 4 | 2 | `version` |
/// | 6 | 2 | `flag` |
/// | 8 | 2 | `service_id` |
/// | 10 | 2 | `command_id` |
/// | 12 | 2 | `seq` |
/// | 14 | 2 | `reserved` |
///
/// ```
/// use uring_netlib::pdu::{HEADER_LEN, Header};
///
/// let login = Header::new(0x0001, 0x0103).with_seq(101);
/// let mut bytes = [0; HEADER_LEN];
/// login.write(36, &mut bytes);
/// assert_eq!(bytes, *b"\0\0\0\x24\0\x01\0\0\0\x01\x01\x03\0\x65\0\0");
/// assert_eq!(Header::parse(&bytes), Some(login));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the protocol, 1 by default.
    pub version: u16,
    /// Without a meaning so far, 0 by default.
    pub flag: u16,
    /// The group of commands.
    pub service_id: u16,
    /// What the PDU says; the usual key of a dispatcher.
    pub command_id: u16,
    /// Chosen by who asks and repeated in the answer; 0 in what nobody asked for.
    pub seq: u16,
    /// Without a meaning so far, 0 by default.
    pub reserved: u16,
}

impl Header {
    /// Version 1, and 0 in all other fields.
    #[must_use]
    pub const fn new(service_id: u16, command_id: u16) -> Self {
        Self { version: VERSION, flag: 0, service_id, command_id, seq: 0, reserved: 0 }
    }

    /// The same header with another sequence number.
    #[must_use]
    pub const fn with_seq(self, seq: u16) -> Self {
        Self { seq, ..self }
    }

    /// The header at the front of `frame`; `None` where `frame` is shorter than [`HEADER_LEN`].
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = frame.first_chunk()?;
        let field = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            version: field(4),
            flag: field(6),
            service_id: field(8),
            command_id: field(10),
            seq: field(12),
            reserved: field(14),
        })
    }

    /// Writes the header of a PDU that has `length` bytes, the header's own included.
    pub fn write(&self, length: u32, out: &mut [u8; HEADER_LEN]) {
        out[0..4].copy_from_slice(&length.to_be_bytes());
        out[4..6].copy_from_slice(&self.version.to_be_bytes());
        out[6..8].copy_from_slice(&self.flag.to_be_bytes());
        out[8..10].copy_from_slice(&self.service_id.to_be_bytes());
        out[10..12].copy_from_slice(&self.command_id.to_be_bytes());
        out[12..14].copy_from_slice(&self.seq.to_be_bytes());
        out[14..16].copy_from_slice(&self.reserved.to_be_bytes());
    }
}

impl Default for Header {
    /// Command 0 of the service for all that belongs to no other.
    fn default() -> Self {
        Self::new(SERVICE_OTHER, 0)
    }
}

const VERSION: u16 = 1;
const SERVICE_OTHER: u16 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field has its own two bytes, none is swapped with a neighbour.
    #[test]
    fn every_field_stands_at_its_offset() {
        let bytes = *b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10";
        let header = Header {
            version: 0x0506,
            flag: 0x0708,
            service_id: 0x090a,
            command_id: 0x0b0c,
            seq: 0x0d0e,
            reserved: 0x0f10,
        };
        assert_eq!(Header::parse(&bytes), Some(header));
        let mut out = [0; HEADER_LEN];
        header.write(0x0102_0304, &mut out);
        assert_eq!(out, bytes);
    }

    /// What is shorter than a header has none; what is longer has it in front.
    #[test]
    fn a_header_takes_sixteen_bytes() {
        let bytes = [0xff; 40];
        for len in 0..HEADER_LEN {
            assert_eq!(Header::parse(&bytes[..len]), None);
        }
        assert_eq!(Header::parse(&bytes), Header::parse(&bytes[..HEADER_LEN]));
        assert_eq!(Header::parse(&bytes).map(|header| header.reserved), Some(0xffff));
    }

    /// What is not said goes out as version 1, service 7, and zeros.
    #[test]
    fn defaults_are_those_of_the_wire() {
        let mut out = [0xee; HEADER_LEN];
        Header::default().write(16, &mut out);
        assert_eq!(out, *b"\0\0\0\x10\0\x01\0\0\0\x07\0\0\0\0\0\0");
        assert_eq!(Header::new(7, 0).with_seq(9), Header { seq: 9, ..Header::default() });
    }
}
