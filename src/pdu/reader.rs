//! From a stream of bytes, cut anywhere, to whole PDUs.
//!
//! Knows nothing of sockets: received bytes come in with [`Reader::next`], and what could not be
//! delivered is kept with [`Reader::hold`]. It must never copy a PDU that arrived whole, never copy
//! a byte twice without bytes that paid for it, and never allocate on a peer's word: a length is
//! only a promise until the bytes are there.

#![forbid(unsafe_code)]

use std::{fmt, mem};

use super::Pdu;
use super::frame::{FrameError, FrameSpec};

/// Cuts the bytes of one connection into PDUs.
///
/// The stream is what the reader holds, called the carry, followed by the input. The input of a
/// call must therefore begin with the first byte that was neither consumed nor held.
///
/// ```
/// use uring_netlib::pdu::{FrameSpec, Reader};
///
/// let (spec, mut reader) = (FrameSpec::u16_be(), Reader::new());
/// let mut input = &b"\0\x02hi\0\x05th"[..];
/// let pdu = reader.next(&spec, &mut input)?.ok_or("the first is whole")?;
/// assert_eq!(pdu.body(), b"hi");
///
/// // The second is not: it stays in the input, and the caller decides what becomes of it.
/// assert_eq!(reader.next(&spec, &mut input)?, None);
/// assert_eq!(input, b"\0\x05th");
/// reader.hold(input);
///
/// let mut input = &b"ere"[..];
/// let pdu = reader.next(&spec, &mut input)?.ok_or("the second is whole now")?;
/// assert_eq!(pdu.body(), b"there");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Reader {
    /// Held bytes from `start` on. Those before are consumed, or belong to the PDU lent last, and
    /// stay until their room is needed: to consume is to move `start`.
    carry: Vec<u8>,
    start: usize,
}

impl Reader {
    /// Holds nothing and has no buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { carry: Vec::new(), start: 0 }
    }

    /// Lends the next PDU of the carry and `input`, and consumes it from them; `None` when it is
    /// not whole yet.
    ///
    /// A PDU that is whole in `input` is lent from there and not copied. Of one that began in the
    /// carry, the missing bytes are moved over from `input`, and it is lent from the carry.
    ///
    /// After `None`, `input` holds what was not moved: nothing if the carry had a beginning, else a
    /// beginning whose length is good as far as it is known. [`hold`](Self::hold) it.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the next PDU's length is known to be out of the limits of `spec`.
    /// At most the length itself was moved; the same error comes again when asked again, since no
    /// frame can be found after a bad one.
    #[inline]
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        spec: &FrameSpec,
        input: &mut &'i [u8],
    ) -> Result<Option<Pdu<'s>>, FrameError> {
        if self.is_empty() {
            let frame = cut(spec, input)?;
            return Ok(frame.map(|frame| Pdu::new(frame, spec.header_len())));
        }
        self.next_of_carry(spec, input)
    }

    // Apart from what is whole in the input, as most PDUs are.
    #[inline(never)]
    fn next_of_carry(
        &mut self,
        spec: &FrameSpec,
        input: &mut &[u8],
    ) -> Result<Option<Pdu<'_>>, FrameError> {
        let Some(len) = self.complete(spec, input)? else { return Ok(None) };
        let frame_start = self.start;
        self.start += len;
        Ok(Some(Pdu::new(&self.carry[frame_start..self.start], spec.header_len())))
    }

    /// Keeps bytes for later, behind those that are held already.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.append(bytes, usize::MAX);
    }

    /// Drops the first `len` of the held bytes.
    ///
    /// # Panics
    /// When fewer are held.
    pub fn consume(&mut self, len: usize) {
        assert!(len <= self.len(), "no more is consumed than is held");
        self.start += len;
    }

    /// Takes the carry's memory away, as an empty vector, so that an idle connection costs none.
    ///
    /// # Panics
    /// When bytes are held.
    #[must_use]
    pub fn take_buffer(&mut self) -> Vec<u8> {
        assert!(self.is_empty(), "a buffer changes only while nothing is held");
        mem::take(self).into_buffer()
    }

    /// Moves what is held to another, empty vector, and gives the old one, empty.
    ///
    /// # Panics
    /// When `buffer` is not empty.
    #[must_use]
    pub fn move_to(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        assert!(buffer.is_empty(), "a recycled buffer is empty");
        buffer.extend_from_slice(self.unread());
        mem::replace(self, Self { carry: buffer, start: 0 }).into_buffer()
    }

    /// How many bytes the carry has room for, those that are held included.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.carry.capacity()
    }

    /// Ends the reader: held bytes are dropped, their memory is given back as an empty vector.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        let mut buffer = self.carry;
        buffer.clear();
        buffer
    }

    /// Ends the reader, and gives what is held out of the carry's memory.
    pub(crate) fn into_unread(mut self) -> Vec<u8> {
        self.carry.drain(..self.start);
        self.carry
    }

    /// The held bytes.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.carry[self.start..]
    }

    /// How many bytes are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.carry.len() - self.start
    }

    /// Whether no bytes are held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the carry has memory, used or not.
    #[must_use]
    pub fn has_buffer(&self) -> bool {
        self.carry.capacity() > 0
    }

    /// Moves over what the carry's first PDU misses. Returns the PDU's length once it is whole.
    fn complete(
        &mut self,
        spec: &FrameSpec,
        input: &mut &[u8],
    ) -> Result<Option<usize>, FrameError> {
        let known = match spec.frame_len(self.unread())? {
            Some(len) => Some(len),
            None => {
                self.move_over(input, spec.length_end());
                spec.frame_len(self.unread())?
            }
        };
        let Some(len) = known else { return Ok(None) };
        self.move_over(input, len);
        Ok((self.len() >= len).then_some(len))
    }

    /// Moves bytes from `input` until `goal` bytes are held, or until `input` is empty.
    fn move_over(&mut self, input: &mut &[u8], goal: usize) {
        let missing = goal.saturating_sub(self.len());
        let (moved, rest) = input.split_at(missing.min(input.len()));
        self.append(moved, goal);
        *input = rest;
    }

    /// Appends to the carry, which is expected to hold `goal` bytes in the end.
    ///
    /// Held bytes move only when the vector is full, and then get as much room again: before they
    /// move the next time, as many bytes must have come, or their PDU is complete. All calls
    /// together are linear in the bytes appended.
    fn append(&mut self, bytes: &[u8], goal: usize) {
        if self.is_empty() {
            self.carry.clear();
            self.start = 0;
        }
        if bytes.len() > self.carry.capacity() - self.carry.len() {
            self.carry.drain(..self.start);
            self.start = 0;
            // Never more than twice what is there, whatever the goal: a peer may have lied.
            let needed = self.carry.len() + bytes.len();
            let target = needed.saturating_mul(2).min(goal.max(needed));
            self.carry.reserve_exact(target - self.carry.len());
        }
        self.carry.extend_from_slice(bytes);
    }
}

/// Holds these bytes.
impl From<Vec<u8>> for Reader {
    fn from(carry: Vec<u8>) -> Self {
        Self { carry, start: 0 }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Cuts the first PDU off `input`, if it is whole.
#[inline]
pub(crate) fn cut<'i>(
    spec: &FrameSpec,
    input: &mut &'i [u8],
) -> Result<Option<&'i [u8]>, FrameError> {
    let Some(len) = spec.frame_len(input)? else { return Ok(None) };
    let Some((frame, rest)) = input.split_at_checked(len) else { return Ok(None) };
    *input = rest;
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: FrameSpec = FrameSpec::teamtalk();

    /// A PDU of `len` bytes, as far as its length is concerned.
    fn pdu(len: u32) -> Vec<u8> {
        let mut frame = vec![0x55; len as usize];
        frame[..4].copy_from_slice(&len.to_be_bytes());
        frame
    }

    /// What is whole in the input is lent from there: the carry stays without memory.
    #[test]
    fn a_whole_pdu_is_lent_from_the_input() {
        let stream = [pdu(16), pdu(20), pdu(31)[..30].to_vec()].concat();
        let (mut reader, mut input) = (Reader::new(), &stream[..]);
        for range in [0..16, 16..36] {
            let frame = reader.next(&SPEC, &mut input).unwrap().unwrap().frame();
            assert!(std::ptr::eq(frame, &stream[range]));
        }
        assert_eq!(reader.next(&SPEC, &mut input), Ok(None));
        assert_eq!(input, &stream[36..]);
        assert!(!reader.has_buffer());
    }

    /// The carry takes what its PDU misses; the PDU behind it is lent from the input again.
    #[test]
    fn only_the_missing_bytes_are_moved() {
        let (split, whole) = (pdu(100), pdu(50));
        for at in 1..100 {
            let mut reader = Reader::new();
            reader.hold(&split[..at]);
            let tail = [&split[at..], &whole].concat();
            let mut input = &tail[..];
            assert_eq!(reader.next(&SPEC, &mut input).unwrap().unwrap().frame(), split);
            assert_eq!(input, whole);
            assert!(reader.is_empty() && reader.has_buffer());
            let frame = reader.next(&SPEC, &mut input).unwrap().unwrap().frame();
            assert!(std::ptr::eq(frame, &tail[100 - at..]));
        }
    }

    /// A started PDU swallows the input until it is whole, a byte at a time if need be.
    #[test]
    fn a_pdu_that_is_not_whole_takes_all_of_the_input() {
        let frame = pdu(40);
        let mut reader = Reader::new();
        reader.hold(&frame[..1]);
        for byte in frame[1..39].chunks(1) {
            let mut input = byte;
            assert_eq!(reader.next(&SPEC, &mut input), Ok(None));
            assert!(input.is_empty());
        }
        assert_eq!(reader.next(&SPEC, &mut &[][..]), Ok(None));
        let mut input = &frame[39..];
        assert_eq!(reader.next(&SPEC, &mut input).unwrap().unwrap().frame(), frame);
    }

    /// A bad length is told at its last byte, wherever the split, every time, and stores nothing
    /// beyond the length.
    #[test]
    fn a_bad_length_is_an_error_at_once_and_for_ever() {
        for len in (0..16).chain([(1 << 20) + 1, u32::MAX - 15, u32::MAX]) {
            let error = SPEC.frame_len(&len.to_be_bytes()).unwrap_err();
            let bytes = [&len.to_be_bytes()[..], &[0; 60]].concat();
            for at in 0..=bytes.len() {
                let mut reader = Reader::new();
                reader.hold(&bytes[..at]);
                let mut input = &bytes[at..];
                for _ in 0..3 {
                    assert_eq!(reader.next(&SPEC, &mut input), Err(error));
                }
                let stored = if at == 0 { 0 } else { at.max(4) };
                assert_eq!((reader.len(), input.len()), (stored, bytes.len() - stored));
                let held = reader.into_buffer();
                assert!(held.capacity() <= 2 * stored.max(4), "{len} split at {at}");
            }
            let mut input = &bytes[..3];
            assert_eq!(Reader::new().next(&SPEC, &mut input), Ok(None));
        }
    }

    /// Promised lengths cost nothing: memory follows the bytes that came, and ends at the frame.
    #[test]
    fn memory_follows_what_arrived_not_what_was_promised() {
        let len = 1_u32 << 20;
        let frame = pdu(len);
        let mut reader = Reader::new();
        reader.hold(&frame[..16]);
        assert_eq!(reader.next(&SPEC, &mut &[][..]), Ok(None));
        assert!(reader.carry.capacity() <= 32);
        for chunk in frame[16..].chunks(1460) {
            let mut input = chunk;
            let is_whole = reader.next(&SPEC, &mut input).unwrap().is_some();
            assert!(reader.carry.capacity() <= 2 * reader.carry.len());
            assert_eq!(is_whole, reader.is_empty());
        }
        assert_eq!(reader.carry.capacity(), len as usize);
    }

    /// Held bytes move seldom enough: the bytes moved never pass a small multiple of those held,
    /// whatever the pattern of holding and consuming.
    #[test]
    fn holding_and_consuming_is_linear() {
        for (lead, step) in [(0, 1), (1, 1), (1000, 1), (1000, 7), (1000, 1000), (4096, 5000)] {
            let mut reader = Reader::new();
            // Too tight a buffer is where moving without growing would never end.
            let _ = reader.move_to(Vec::with_capacity(lead + step));
            reader.hold(&vec![0; lead]);
            let (mut held, mut moved) = (lead, 0);
            for _ in 0..20_000 {
                let (place, start) = (reader.carry.as_ptr(), reader.start);
                let len = reader.len();
                reader.hold(&vec![0; step]);
                held += step;
                if reader.carry.as_ptr() != place || reader.start != start {
                    moved += len;
                }
                reader.consume(step);
            }
            assert_eq!(reader.len(), lead);
            assert!(moved <= 2 * held, "{moved} bytes moved for {held} held");
            assert!(reader.carry.capacity() <= 2 * (lead + step), "memory follows what is held");
        }
    }

    /// Raw use: what is held can be looked at and dropped in any portions.
    #[test]
    fn held_bytes_are_consumed_from_the_front() {
        let mut reader = Reader::new();
        reader.hold(b"one");
        reader.hold(b"two");
        assert_eq!((reader.unread(), reader.len()), (&b"onetwo"[..], 6));
        reader.consume(4);
        assert_eq!(reader.unread(), b"wo");
        reader.hold(b"3");
        reader.consume(3);
        assert!(reader.is_empty() && reader.unread().is_empty());
    }

    /// More than is held cannot be consumed.
    #[test]
    #[should_panic(expected = "no more is consumed than is held")]
    fn consuming_too_much_panics() {
        let mut reader = Reader::new();
        reader.hold(b"ab");
        reader.consume(1);
        reader.consume(2);
    }

    /// The carry's memory goes round: handed in, used from its front for PDU after PDU, taken away.
    #[test]
    fn a_buffer_goes_in_and_comes_out() {
        let frame = pdu(64);
        let mut reader = Reader::new();
        assert!(!reader.has_buffer());
        let buffer = Vec::with_capacity(100);
        let place = buffer.as_ptr();
        let _ = reader.move_to(buffer);
        for _ in 0..3 {
            reader.hold(&frame[..10]);
            assert_eq!(reader.unread().as_ptr(), place);
            assert!(reader.next(&SPEC, &mut &frame[10..]).unwrap().is_some());
        }
        let buffer = reader.take_buffer();
        assert_eq!((buffer.as_ptr(), buffer.len(), buffer.capacity()), (place, 0, 100));
        assert!(!reader.has_buffer());
        reader.hold(b"dropped");
        assert!(reader.into_buffer().is_empty());
    }

    /// The carry's memory is not taken from under held bytes.
    #[test]
    #[should_panic(expected = "only while nothing is held")]
    fn a_buffer_in_use_stays() {
        let mut reader = Reader::new();
        reader.hold(b"held");
        let _ = reader.take_buffer();
    }

    /// Held bytes move to another buffer, and what was consumed does not.
    #[test]
    fn held_bytes_move_to_another_buffer() {
        let mut reader = Reader::new();
        reader.hold(b"so held");
        reader.consume(3);
        let old = reader.move_to(Vec::with_capacity(100));
        assert!(old.is_empty() && old.capacity() >= 7 && reader.capacity() >= 100);
        assert_eq!(reader.unread(), b"held");
    }

    /// A buffer in use is not taken away.
    #[test]
    #[should_panic(expected = "only while nothing is held")]
    fn a_buffer_in_use_is_not_taken() {
        let mut reader = Reader::new();
        reader.hold(b"held");
        let _ = reader.take_buffer();
    }

    /// A spec that was never validated neither panics nor lends PDUs without end.
    #[test]
    fn refused_specs_end_as_well() {
        use crate::pdu::{Endian, LengthCounts};
        for (offset, width, header_len) in [(0, 0, 0), (4, 0, 0), (3, 9, 2), (0, 255, 16)] {
            for counts in [LengthCounts::Frame, LengthCounts::AfterLength, LengthCounts::Body] {
                let spec = FrameSpec::new(offset, width, Endian::Big, counts, header_len)
                    .with_min(0)
                    .with_max(u32::MAX);
                for at in 0..100 {
                    let mut reader = Reader::new();
                    reader.hold(&[0; 100][at..]);
                    let mut input = &[1; 100][..];
                    for _ in 0..=200 {
                        match reader.next(&spec, &mut input) {
                            Ok(Some(pdu)) => assert!(!pdu.frame().is_empty()),
                            Ok(None) | Err(_) => break,
                        }
                    }
                    assert!(!matches!(reader.next(&spec, &mut input), Ok(Some(_))), "{spec:?}");
                }
            }
        }
    }
}
