//! A stream gives the same PDUs however it is split, and under any framing: those that a naive
//! reading of the whole stream finds.
//!
//! The bytes are a framing, the sizes of the pieces, and the stream.

#![no_main]

use libfuzzer_sys::fuzz_target;
use uring_netlib::pdu::{ByteReader, Endian, FrameSpec, LengthCounts, Reader, Underflow};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = ByteReader::new(bytes);
    let Ok((framing, sizes)) = framing(&mut bytes) else { return };
    let stream = bytes.remaining();
    if stream.is_empty() {
        // A length of no bytes would be bad already, but nobody asks before something has come.
        return;
    }
    let expected = framing.cut(stream);
    let longest = expected.0.iter().map(Vec::len).max().unwrap_or(0);
    assert_eq!(read(&framing.spec, [stream], longest), expected, "as one piece");
    assert_eq!(read(&framing.spec, stream.chunks(1), longest), expected, "byte by byte");
    assert_eq!(read(&framing.spec, pieces(stream, sizes), longest), expected, "in pieces");
});

/// The frames of a stream, and how it ends: with so many bytes left over, or a bad length.
type Cut = (Vec<Vec<u8>>, Result<usize, ()>);

/// A framing, as the library has it and in numbers that do not overflow.
struct Framing {
    spec: FrameSpec,
    offset: usize,
    width: usize,
    is_little: bool,
    uncounted: u128,
}

fn framing<'a>(bytes: &mut ByteReader<'a>) -> Result<(Framing, [u8; 4]), Underflow> {
    let choice = bytes.u8()?;
    let sizes = bytes.u32()?.to_be_bytes();
    let (offset, width, header_len) = match choice & 7 {
        0 | 1 => (0, 4, 16),
        2 => (0, 4, 4),
        3 => (0, 2, 2),
        4 => (u16::from(bytes.u8()? % 8), bytes.u8()? % 5, u16::from(bytes.u8()? % 32)),
        _ => (bytes.u16()?, bytes.u8()?, bytes.u16()?),
    };
    let is_little = choice & 8 != 0;
    let end = u128::from(offset) + u128::from(width);
    let (counts, uncounted) = match choice >> 4 & 3 {
        0 => (LengthCounts::Frame, 0),
        1 => (LengthCounts::AfterLength, end),
        _ => (LengthCounts::Body, u128::from(header_len)),
    };
    let endian = if is_little { Endian::Little } else { Endian::Big };
    let mut spec = FrameSpec::new(offset, width, endian, counts, header_len);
    if choice & 64 != 0 {
        spec = spec.with_min(bytes.u32()?);
    }
    if choice & 128 != 0 {
        spec = spec.with_max(bytes.u32()?);
    }
    let framing =
        Framing { spec, offset: offset.into(), width: width.into(), is_little, uncounted };
    if spec.validate().is_ok() {
        let is_whole = (1..=4).contains(&width) && end <= u128::from(header_len);
        assert!(is_whole && spec.min() >= u32::from(header_len) && spec.max() >= spec.min());
        assert!((1_u128 << (8 * width)) - 1 + uncounted >= u128::from(spec.min()));
    }
    Ok((framing, sizes))
}

impl Framing {
    /// `None` where the length is not there yet, and nothing where it is out of its limits.
    fn frame_len(&self, rest: &[u8]) -> Option<Option<usize>> {
        let field = rest.get(self.offset..self.offset + self.width)?;
        let value = |bytes: &mut dyn Iterator<Item = &u8>| {
            // More than four bytes are no valid framing, whose length may be as large as it likes.
            bytes.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let value =
            if self.is_little { value(&mut field.iter().rev()) } else { value(&mut field.iter()) };
        let len = u128::from(value) + self.uncounted;
        let least = u128::from(self.spec.min()).max(self.spec.header_len().into()).max(1);
        let is_good = least <= len && len <= u128::from(self.spec.max());
        Some(is_good.then(|| usize::try_from(len).expect("at most the longest frame")))
    }

    fn cut(&self, stream: &[u8]) -> Cut {
        let (mut frames, mut rest) = (Vec::new(), stream);
        loop {
            match self.frame_len(rest) {
                Some(None) => return (frames, Err(())),
                Some(Some(len)) if len <= rest.len() => {
                    frames.push(rest[..len].to_vec());
                    rest = &rest[len..];
                }
                Some(Some(_)) | None => return (frames, Ok(rest.len())),
            }
        }
    }
}

/// What a reader makes of the pieces. It never has room for more than twice what it must hold.
fn read<'a>(spec: &FrameSpec, pieces: impl IntoIterator<Item = &'a [u8]>, longest: usize) -> Cut {
    let (mut reader, mut frames, mut held_max) = (Reader::new(), Vec::new(), longest);
    for piece in pieces {
        let mut input = piece;
        loop {
            match reader.next(spec, &mut input) {
                Ok(Some(pdu)) => {
                    assert!(!pdu.frame().is_empty(), "a frame has bytes");
                    assert!(pdu.frame().ends_with(pdu.body()));
                    frames.push(pdu.frame().to_vec());
                }
                Ok(None) => break,
                Err(error) => {
                    let again = reader.next(spec, &mut input).map(|_| ());
                    assert_eq!(again, Err(error), "a bad length stays bad");
                    return (frames, Err(()));
                }
            }
        }
        reader.hold(input);
        held_max = held_max.max(reader.len());
        let most = 2 * (held_max + piece.len()).max(64);
        assert!(reader.capacity() <= most, "a length is only a promise until the bytes are there");
    }
    (frames, Ok(reader.len()))
}

/// The stream in pieces of these sizes, over and over; some of them may be empty.
fn pieces(stream: &[u8], sizes: [u8; 4]) -> Vec<&[u8]> {
    let (mut pieces, mut rest) = (Vec::new(), stream);
    for size in sizes.iter().chain([&1]).cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(rest.len().min((*size).into()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}
