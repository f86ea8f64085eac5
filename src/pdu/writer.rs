//! PDUs appended to the bytes that are to be sent.
//!
//! Writes straight to the end of the caller's vector, never by way of a temporary one, and either
//! a whole PDU or nothing.

#![forbid(unsafe_code)]

use std::{error, fmt};

use super::header::{HEADER_LEN, Header};

/// Appends a PDU, `header` and `message`, to `out`. Returns its length in bytes, header included.
///
/// ```
/// use uring_netlib::pdu::{Header, encode};
///
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct RoleSet {
///     #[prost(uint32, required, tag = "1")]
///     master: u32,
/// }
///
/// let mut out = Vec::new();
/// assert_eq!(encode(&Header::new(7, 0x0707), &RoleSet { master: 1 }, 1 << 20, &mut out)?, 18);
/// assert_eq!(out, b"\0\0\0\x12\0\x01\0\0\0\x07\x07\x07\0\0\0\0\x08\x01");
/// # Ok::<(), uring_netlib::pdu::EncodeError>(())
/// ```
///
/// # Errors
/// [`EncodeError::TooLong`] where the PDU would have more than `max` bytes; nothing was appended.
///
/// # Panics
/// When `message` is written by hand and does not encode to as many bytes as it says: the length
/// in the header would be wrong, and the peer lost for good. Nothing was appended then.
pub fn encode(
    header: &Header,
    message: &impl prost::Message,
    max: u32,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let start = out.len();
    let mut whole = WholeOrNothing { out, start, is_whole: false };
    let len = begin(header, message.encoded_len(), max, whole.out)?;
    message.encode(whole.out).expect("a vector has room for every message");
    assert_eq!(whole.out.len() - start, len, "a message has as many bytes as it says");
    whole.is_whole = true;
    Ok(len)
}

/// Takes back what was appended, unless it became whole: a panic must not leave half a PDU.
struct WholeOrNothing<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    is_whole: bool,
}

impl Drop for WholeOrNothing<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.out.truncate(self.start);
        }
    }
}

/// Appends a PDU, `header` and `body`, to `out`. Returns its length in bytes, header included.
///
/// ```
/// use uring_netlib::pdu::{Header, encode_bytes};
///
/// let mut out = Vec::new();
/// assert_eq!(encode_bytes(&Header::new(7, 0x0701), b"", 1 << 20, &mut out), Ok(16));
/// assert!(encode_bytes(&Header::new(7, 0x0701), &[0; 100], 115, &mut out).is_err());
/// assert_eq!(out.len(), 16);
/// ```
///
/// # Errors
/// [`EncodeError::TooLong`] where the PDU would have more than `max` bytes; nothing was appended.
pub fn encode_bytes(
    header: &Header,
    body: &[u8],
    max: u32,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let len = begin(header, body.len(), max, out)?;
    out.extend_from_slice(body);
    Ok(len)
}

/// Appends the header of a PDU and makes room for its body. Returns the length of the whole.
fn begin(
    header: &Header,
    body_len: usize,
    max: u32,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let len = body_len.saturating_add(HEADER_LEN);
    let length = match u32::try_from(len) {
        Ok(length) if length <= max => length,
        _ => return Err(EncodeError::TooLong { len, max }),
    };
    let mut bytes = [0; HEADER_LEN];
    header.write(length, &mut bytes);
    out.reserve(len);
    out.extend_from_slice(&bytes);
    Ok(len)
}

/// Why a PDU was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// It would be longer than allowed.
    TooLong {
        /// Bytes of the whole PDU.
        len: usize,
        /// The most that is allowed.
        max: u32,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(f, "a PDU of {len} bytes is longer than {max}"),
        }
    }
}

impl error::Error for EncodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::{Buf, BufMut};
    use prost::DecodeError;
    use prost::encoding::{DecodeContext, WireType};

    /// A message that claims to have `claimed` bytes and has `written`.
    #[derive(Debug, Default)]
    struct Liar {
        claimed: usize,
        written: usize,
    }

    impl prost::Message for Liar {
        fn encode_raw(&self, out: &mut impl BufMut) {
            out.put_bytes(0, self.written);
        }

        fn merge_field(
            &mut self,
            _: u32,
            _: WireType,
            _: &mut impl Buf,
            _: DecodeContext,
        ) -> Result<(), DecodeError> {
            Ok(())
        }

        fn encoded_len(&self) -> usize {
            self.claimed
        }

        fn clear(&mut self) {}
    }

    /// The limit counts the header, is itself allowed, and a refusal leaves no trace.
    #[test]
    fn a_pdu_over_the_limit_appends_nothing() {
        let header = Header::default();
        let mut out = b"before".to_vec();
        assert_eq!(encode_bytes(&header, b"four", 20, &mut out), Ok(20));
        assert_eq!(out.len(), 26);
        let error = EncodeError::TooLong { len: 20, max: 19 };
        assert_eq!(encode_bytes(&header, b"four", 19, &mut out), Err(error));
        assert_eq!(encode(&header, &Liar { claimed: 4, written: 4 }, 19, &mut out), Err(error));
        assert!(encode_bytes(&header, b"", 0, &mut out).is_err());
        assert_eq!(out.len(), 26);
        assert!(out.starts_with(b"before\0\0\0\x14"));
    }

    /// Sizes that do not fit the length, or not even a `usize` with the header, are only errors.
    #[test]
    fn sizes_beyond_the_length_are_refused() {
        let mut out = Vec::new();
        for claimed in [u32::MAX as usize - 15, u32::MAX as usize + 1, usize::MAX] {
            let message = Liar { claimed, written: 0 };
            let error = encode(&Header::default(), &message, u32::MAX, &mut out);
            let len = claimed.saturating_add(16);
            assert_eq!(error, Err(EncodeError::TooLong { len, max: u32::MAX }));
        }
        assert_eq!(out.capacity(), 0);
    }

    /// A wrong length never leaves.
    #[test]
    #[should_panic(expected = "as many bytes as it says")]
    fn a_message_that_lies_about_its_length_is_caught() {
        let message = Liar { claimed: 4, written: 3 };
        let _ = encode(&Header::default(), &message, 1024, &mut Vec::new());
    }

    /// One allocation holds the whole PDU: nothing is encoded elsewhere first, nothing grows twice.
    #[test]
    fn a_pdu_goes_straight_into_the_vector() {
        let mut out = Vec::with_capacity(116);
        let place = out.as_ptr();
        let message = Liar { claimed: 100, written: 100 };
        assert_eq!(encode(&Header::default(), &message, 1024, &mut out), Ok(116));
        assert_eq!((out.as_ptr(), out.len(), out.capacity()), (place, 116, 116));
    }
}
