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
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        spec: &FrameSpec,
        input: &mut &'i [u8],
    ) -> Result<Option<Pdu<'s>>, FrameError> {
        if self.is_empty() {
            return cut(spec, input);
        }
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

    /// Hands in an empty vector whose memory the carry is to use.
    ///
    /// # Panics
    /// When bytes are held, or `buffer` is not empty.
    pub fn set_buffer(&mut self, buffer: Vec<u8>) {
        assert!(self.is_empty(), "a buffer changes only while nothing is held");
        assert!(buffer.is_empty(), "a recycled buffer is empty");
        *self = Self { carry: buffer, start: 0 };
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

    /// Ends the reader: held bytes are dropped, their memory is given back as an empty vector.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        let mut buffer = self.carry;
        buffer.clear();
        buffer
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
    /// Held bytes move only when the vector is full, and a move is paid for by as many bytes that
    /// were consumed or appended since the last one: appending is linear over all calls.
    fn append(&mut self, bytes: &[u8], goal: usize) {
        if bytes.len() > self.carry.capacity() - self.carry.len() {
            let is_mostly_consumed = self.start >= self.len();
            self.carry.drain(..self.start);
            self.start = 0;
            let needed = self.carry.len() + bytes.len();
            if !is_mostly_consumed || needed > self.carry.capacity() {
                // Never more than twice what is there, whatever the goal: a peer may have lied.
                let target = needed.saturating_mul(2).min(goal.max(needed));
                self.carry.reserve_exact(target - self.carry.len());
            }
        }
        self.carry.extend_from_slice(bytes);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Cuts the first PDU off `input`, if it is whole.
fn cut<'i>(spec: &FrameSpec, input: &mut &'i [u8]) -> Result<Option<Pdu<'i>>, FrameError> {
    let Some(len) = spec.frame_len(input)? else { return Ok(None) };
    let Some((frame, rest)) = input.split_at_checked(len) else { return Ok(None) };
    *input = rest;
    Ok(Some(Pdu::new(frame, spec.header_len())))
}
