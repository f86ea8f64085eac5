//! What every peer does with bytes: finds PDUs in them, checks their bounds, and counts them.
//!
//! The peers differ in how they wait and where their buffers live, and in nothing else. So the
//! framing is here, once, and with it the sizes of what is read at a time.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Length of a PDU's header in bytes; the first four are the PDU's length, big-endian.
pub(crate) const HEADER_LEN: usize = 16;
/// Bytes of the longest PDU: 1 MiB of payload.
pub(crate) const PDU_LEN_MAX: usize = HEADER_LEN + (1 << 20);

/// What a connection reads at first, in bytes: little, as most connections are idle.
pub(crate) const READ_LEN_MIN: usize = 4 << 10;
/// What a busy one reads at most, unless a PDU is longer.
pub(crate) const READ_LEN_MAX: usize = 64 << 10;

/// The whole PDUs at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    /// How many bytes they are.
    pub(crate) len: usize,
    /// Length of the PDU that follows, as far as is known: of its header at least.
    pub(crate) next_len: usize,
}

/// Finds and counts the whole PDUs; fails at a length that no PDU has.
pub(crate) fn whole(bytes: &[u8]) -> io::Result<Whole> {
    let (mut len, mut count) = (0, 0);
    let next_len = loop {
        let Some(pdu_len) = pdu_len(&bytes[len..])? else { break HEADER_LEN };
        if pdu_len > bytes.len() - len {
            break pdu_len;
        }
        len += pdu_len;
        count += 1;
    };
    count_served(count);
    Ok(Whole { len, next_len })
}

/// The length of the PDU that begins here, if its header is whole.
pub(crate) fn pdu_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some((field, _)) = bytes.split_first_chunk().filter(|_| bytes.len() >= HEADER_LEN) else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*field) as usize;
    if (HEADER_LEN..=PDU_LEN_MAX).contains(&len) { Ok(Some(len)) } else { Err(malformed(len)) }
}

/// The error of a PDU whose length is out of bounds.
pub(crate) fn malformed(len: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a PDU of {len} bytes"))
}

/// Capacity that a connection's buffer should have for its next read: twice as much while reads
/// fill it, and room for the PDU that has begun.
pub(crate) fn capacity_after(capacity: usize, was_filled: bool, next_len: usize) -> usize {
    let busy = if was_filled { (capacity * 2).min(READ_LEN_MAX) } else { capacity };
    busy.max(next_len).max(capacity)
}

/// A server has one thread that counts, so no atomic addition is needed.
pub(crate) fn count_served(pdus: u64) {
    SERVED.store(SERVED.load(Ordering::Relaxed) + pdus, Ordering::Relaxed);
}

/// PDUs that this process has served.
static SERVED: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    fn pdu(len: u32) -> Vec<u8> {
        let mut bytes = vec![7; len as usize];
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    /// Whole PDUs end where the last begun one starts, and its length is told.
    #[test]
    fn whole_pdus_end_where_a_begun_one_starts() {
        let bytes = [pdu(16), pdu(40), pdu(100)].concat();
        assert_eq!(whole(&bytes).unwrap(), Whole { len: 156, next_len: 16 });
        assert_eq!(whole(&bytes[..155]).unwrap(), Whole { len: 56, next_len: 100 });
        assert_eq!(whole(&bytes[..60]).unwrap(), Whole { len: 56, next_len: 16 });
        assert_eq!(whole(&[]).unwrap(), Whole { len: 0, next_len: 16 });
    }

    /// A length below a header's or above the longest PDU's is an error.
    #[test]
    fn lengths_out_of_bounds_are_errors() {
        let longest = u32::try_from(PDU_LEN_MAX).unwrap();
        for (len, is_right) in [(15, false), (16, true), (longest, true), (longest + 1, false)] {
            let mut bytes = pdu(16);
            bytes[..4].copy_from_slice(&u32::to_be_bytes(len));
            assert_eq!(whole(&bytes).is_ok(), is_right, "{len}");
        }
    }
}
