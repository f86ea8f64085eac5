//! The same stream gives the same PDUs, however it is split and whenever delivery pauses.
//!
//! All through the public surface. The oracle cuts the whole stream at once, with arithmetic of its
//! own; what was copied is told by where a lent PDU's bytes are.

#![forbid(unsafe_code)]

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use uring_netlib::pdu::{Endian, FrameSpec, LengthCounts, Reader};

/// Where a stream ends: all of it is PDUs, or these bytes are left over, or the next PDU is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Rest(Vec<u8>),
    Bad,
}

/// A framing, told twice: to the library, and to the oracle.
#[derive(Clone, Copy, Debug)]
struct Framing {
    spec: FrameSpec,
    offset: usize,
    width: usize,
    is_little: bool,
    /// What is to be added to the length for the whole frame.
    uncounted: u128,
    header_len: usize,
}

impl Framing {
    fn length_of(&self, head: &[u8]) -> Option<u128> {
        let mut field = head.get(self.offset..self.offset + self.width)?.to_vec();
        if self.is_little {
            field.reverse();
        }
        Some(field.iter().fold(0, |value, byte| value * 256 + u128::from(*byte)) + self.uncounted)
    }

    /// A whole PDU with `body`; all of its header but the length is `fill`.
    fn pdu(&self, body: &[u8], fill: u8) -> Vec<u8> {
        let mut frame = vec![fill; self.header_len];
        frame.extend_from_slice(body);
        let length = (frame.len() as u128 - self.uncounted).to_be_bytes();
        let mut field = length[length.len() - self.width..].to_vec();
        if self.is_little {
            field.reverse();
        }
        frame[self.offset..self.offset + self.width].copy_from_slice(&field);
        frame
    }

    /// The oracle: every PDU of a stream that is there as a whole.
    fn cut(&self, stream: &[u8]) -> (Vec<Vec<u8>>, End) {
        let (mut pdus, mut rest) = (Vec::new(), stream);
        let (min, max) = (u128::from(self.spec.min()), u128::from(self.spec.max()));
        loop {
            match self.length_of(rest) {
                Some(len) if len < min || len > max => return (pdus, End::Bad),
                Some(len) if len <= rest.len() as u128 => {
                    let (frame, behind) = rest.split_at(usize::try_from(len).unwrap());
                    pdus.push(frame.to_vec());
                    rest = behind;
                }
                _ => return (pdus, End::Rest(rest.to_vec())),
            }
        }
    }
}

fn framings() -> Vec<Framing> {
    let framing = |spec: FrameSpec, offset, width, is_little, uncounted| {
        let header_len = usize::from(spec.header_len());
        assert_eq!(spec.validate(), Ok(()));
        Framing { spec, offset, width, is_little, uncounted, header_len }
    };
    let after = LengthCounts::AfterLength;
    vec![
        framing(FrameSpec::teamtalk(), 0, 4, false, 0),
        framing(FrameSpec::goim().with_max(300), 0, 4, false, 0),
        framing(FrameSpec::u32_be(), 0, 4, false, 4),
        framing(FrameSpec::u32_le().with_max(300), 0, 4, true, 4),
        framing(FrameSpec::u16_be().with_min(3), 0, 2, false, 2),
        framing(FrameSpec::new(0, 1, Endian::Big, LengthCounts::Body, 1), 0, 1, false, 1),
        framing(FrameSpec::new(3, 3, Endian::Little, LengthCounts::Body, 9), 3, 3, true, 9),
        framing(FrameSpec::new(1, 2, Endian::Big, after, 20).with_max(200), 1, 2, false, 3),
    ]
}

/// What a run through a reader gave, and what it cost.
#[derive(Debug, Default)]
struct Run {
    pdus: Vec<Vec<u8>>,
    /// Bytes of PDUs that were not lent from the input.
    copied: usize,
    end: Option<End>,
}

impl Run {
    /// Feeds `chunks` to a reader the way a connection does: before each PDU, `pause` says whether
    /// delivery rests until the next chunk.
    fn of<'a>(
        spec: &FrameSpec,
        chunks: impl IntoIterator<Item = &'a [u8]>,
        mut pause: impl FnMut() -> bool,
    ) -> Self {
        let (mut reader, mut run, mut spare) = (Reader::new(), Self::default(), Vec::new());
        for chunk in chunks {
            if !reader.has_buffer() {
                let _ = reader.move_to(std::mem::take(&mut spare));
            }
            let mut input = chunk;
            while !pause() && run.step(spec, &mut reader, &mut input, chunk) {}
            reader.hold(input);
            if reader.is_empty() {
                spare = reader.take_buffer();
            }
        }
        while run.step(spec, &mut reader, &mut &[][..], &[]) {}
        run.end.get_or_insert_with(|| End::Rest(reader.unread().to_vec()));
        run
    }

    /// Takes one PDU; false where there is none.
    fn step(
        &mut self,
        spec: &FrameSpec,
        reader: &mut Reader,
        input: &mut &[u8],
        chunk: &[u8],
    ) -> bool {
        match reader.next(spec, input) {
            Ok(Some(pdu)) => {
                assert_eq!(pdu.body(), &pdu.frame()[usize::from(spec.header_len())..]);
                self.copied += if is_inside(pdu.frame(), chunk) { 0 } else { pdu.frame().len() };
                self.pdus.push(pdu.frame().to_vec());
                true
            }
            Ok(None) => false,
            Err(_) => {
                self.end = Some(End::Bad);
                false
            }
        }
    }
}

fn is_inside(frame: &[u8], chunk: &[u8]) -> bool {
    let Range { start, end } = chunk.as_ptr_range();
    let frame = frame.as_ptr_range();
    start <= frame.start && frame.end <= end
}

/// `stream` cut into chunks of the given sizes, over and over; a size of 0 is an empty chunk.
fn split<'a>(stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut chunks, mut rest) = (Vec::new(), stream);
    for size in sizes.iter().chain([&1]).cycle() {
        let (chunk, behind) = rest.split_at(rest.len().min(*size));
        chunks.push(chunk);
        rest = behind;
        if rest.is_empty() {
            return chunks;
        }
    }
    unreachable!("the sizes repeat until the stream is used up");
}

fn never() -> bool {
    false
}

/// A stream of PDUs with bodies of the given sizes, short enough for every framing.
fn stream_of(framing: &Framing, body_sizes: &[usize]) -> Vec<u8> {
    let bodies = body_sizes.iter().zip(0_u8..).map(|(size, fill)| (vec![fill; *size], fill));
    bodies.flat_map(|(body, fill)| framing.pdu(&body, fill)).collect()
}

/// Framings, PDUs, chunk sizes and pauses.
fn plans() -> impl Strategy<Value = (Framing, Vec<u8>, Vec<usize>, Vec<bool>)> {
    let framing = proptest::sample::select(framings());
    let bodies = vec(vec(any::<u8>(), 1..150), 0..20);
    let sizes = vec(prop_oneof![0..4_usize, 0..40_usize, 0..1000_usize], 1..20);
    (framing, bodies, any::<u8>(), 0..150_usize, sizes, vec(any::<bool>(), 1..30)).prop_map(
        |(framing, bodies, fill, cut_off, sizes, pauses)| {
            let pdus = bodies.iter().map(|body| framing.pdu(body, fill));
            let mut stream: Vec<u8> = pdus.flatten().collect();
            // The last one is cut off somewhere.
            stream.truncate(stream.len() - cut_off.min(stream.len()));
            (framing, stream, sizes, pauses)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any PDUs, any split: the oracle's PDUs and rest, and only split PDUs are copied.
    #[test]
    fn any_split_gives_the_same_pdus((framing, stream, sizes, _) in plans()) {
        let (pdus, end) = framing.cut(&stream);
        let chunks = split(&stream, &sizes);
        let run = Run::of(&framing.spec, chunks.iter().copied(), never);
        let copied = split_bytes(&pdus, &chunks);
        prop_assert_eq!((run.pdus, run.end, run.copied), (pdus, Some(end), copied));
    }

    /// The same with delivery that pauses and goes on between any two PDUs.
    #[test]
    fn any_pause_gives_the_same_pdus((framing, stream, sizes, pauses) in plans()) {
        let (pdus, end) = framing.cut(&stream);
        let mut pauses = pauses.into_iter().cycle();
        let run = Run::of(&framing.spec, split(&stream, &sizes), || pauses.next().unwrap());
        prop_assert_eq!((run.pdus, run.end), (pdus, Some(end)));
    }

    /// Bytes of nobody's making: the same PDUs up to the same end, good or bad.
    #[test]
    fn any_bytes_give_what_the_oracle_gives(
        framing in proptest::sample::select(framings()),
        stream in vec(prop_oneof![3 => Just(0), 2 => 0..40_u8, 1 => any::<u8>()], 0..600),
        sizes in vec(0..30_usize, 1..20),
        pauses in vec(any::<bool>(), 1..30),
    ) {
        let (pdus, end) = framing.cut(&stream);
        let mut pauses = pauses.into_iter().cycle();
        let run = Run::of(&framing.spec, split(&stream, &sizes), || pauses.next().unwrap());
        prop_assert_eq!((run.pdus, run.end), (pdus, Some(end)));
    }
}

/// The bytes of those PDUs that lie across the border of two chunks.
fn split_bytes(pdus: &[Vec<u8>], chunks: &[&[u8]]) -> usize {
    let mut border = 0;
    let mut borders: Vec<usize> = Vec::new();
    for chunk in chunks {
        border += chunk.len();
        borders.push(border);
    }
    let (mut start, mut bytes) = (0, 0);
    for pdu in pdus {
        let end = start + pdu.len();
        let is_split = borders.iter().any(|border| start < *border && *border < end);
        bytes += if is_split { pdu.len() } else { 0 };
        start = end;
    }
    bytes
}

/// Two chunks, at every position of a stream of several PDUs, with and without a pause between.
#[test]
fn every_split_position_gives_the_same_pdus() {
    for framing in framings() {
        let stream = stream_of(&framing, &[1, 20, 150, 2, 1, 33]);
        let (pdus, end) = framing.cut(&stream);
        assert_eq!((pdus.len(), &end), (6, &End::Rest(Vec::new())));
        for at in 0..=stream.len() {
            let chunks = [&stream[..at], &stream[at..]];
            let run = Run::of(&framing.spec, chunks, never);
            assert_eq!((&run.pdus, run.end.as_ref()), (&pdus, Some(&end)), "split at {at}");
            assert_eq!(run.copied, split_bytes(&pdus, &chunks), "split at {at}");
            let run = Run::of(&framing.spec, chunks, || true);
            assert_eq!((&run.pdus, run.end.as_ref()), (&pdus, Some(&end)), "held, split at {at}");
        }
    }
}

/// Three chunks, at every pair of positions: a PDU in three parts, and a border in the length.
#[test]
fn every_pair_of_split_positions_gives_the_same_pdus() {
    for framing in framings() {
        let stream = stream_of(&framing, &[1, 20, 2]);
        let (pdus, _) = framing.cut(&stream);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                let run = Run::of(&framing.spec, chunks, never);
                assert_eq!(run.pdus, pdus, "split at {first} and {second}");
            }
        }
    }
}

/// The smallest chunks there are.
#[test]
fn one_byte_at_a_time_gives_the_same_pdus() {
    for framing in framings() {
        let stream = stream_of(&framing, &[1, 20, 150, 2, 1, 33]);
        let run = Run::of(&framing.spec, stream.chunks(1), never);
        let (pdus, end) = framing.cut(&stream);
        assert_eq!((run.pdus, run.end), (pdus, Some(end)));
    }
}

/// A bad length behind good PDUs spares them, and is told at the last of its own bytes, however it
/// arrives.
#[test]
fn a_bad_length_ends_the_stream_after_the_good_pdus() {
    let framing = framings()[0];
    for bad in (0..16).chain([(1 << 20) + 1, u32::MAX]) {
        let mut stream = stream_of(&framing, &[1, 20]);
        stream.extend_from_slice(&bad.to_be_bytes());
        for at in 0..=stream.len() {
            let run = Run::of(&framing.spec, [&stream[..at], &stream[at..]], never);
            assert_eq!((run.pdus.len(), run.end), (2, Some(End::Bad)), "{bad} split at {at}");
        }
        stream.pop();
        let run = Run::of(&framing.spec, stream.chunks(7), never);
        assert_eq!((run.pdus.len(), run.end), (2, Some(End::Rest(stream[53..].to_vec()))));
    }
}

/// What was held is lent from where it lies: each PDU is right behind the one before, so that no
/// byte is moved between the first and the last.
#[test]
fn a_hundred_thousand_held_pdus_are_lent_without_a_move() {
    let framing = framings()[0];
    let stream = stream_of(&framing, &[0, 1, 40]).repeat(100_000_usize.div_ceil(3));
    let mut reader = Reader::new();
    let (mut held, mut moved) = (0, 0);
    for chunk in stream.chunks(1448) {
        let place = reader.unread().as_ptr();
        reader.hold(chunk);
        moved += if reader.unread().as_ptr() == place { 0 } else { held };
        held += chunk.len();
    }
    assert!(moved <= 2 * held, "{moved} bytes moved to hold {held}");

    let (mut expected, mut count) = (reader.unread().as_ptr_range(), 0);
    while let Some(pdu) = reader.next(&framing.spec, &mut &[][..]).unwrap() {
        let frame = pdu.frame().as_ptr_range();
        assert_eq!(frame.start, expected.start);
        expected.start = frame.end;
        count += 1;
    }
    assert_eq!((count, expected.start), (100_002, expected.end));
    assert!(reader.is_empty());
}

/// Pipelined PDUs cost at most their split ones, in chunks of any size: nothing whole is copied.
#[test]
fn pipelined_pdus_are_copied_only_where_they_are_split() {
    let framing = framings()[0];
    let stream = stream_of(&framing, &[0, 1, 40, 100]).repeat(2_500);
    let pdus = framing.cut(&stream).0;
    assert_eq!(pdus.len(), 10_000);
    for size in [15, 16, 17, 205, 4096, 65_536, stream.len()] {
        let run = Run::of(&framing.spec, stream.chunks(size), never);
        let borders = stream.len().div_ceil(size) - 1;
        assert_eq!(run.pdus, pdus);
        assert!(run.copied <= stream.len().min(borders * 116), "chunks of {size}");
    }
}

/// A peer that sends a header of 1 MiB and little else costs little else.
#[test]
fn a_promise_of_a_megabyte_allocates_none() {
    let spec = FrameSpec::teamtalk();
    let mut reader = Reader::new();
    reader.hold(&(1_u32 << 20).to_be_bytes());
    for _ in 0..3 {
        assert_eq!(reader.next(&spec, &mut &[0; 4][..]), Ok(None));
    }
    assert_eq!(reader.len(), 16);
    assert!(reader.into_buffer().capacity() <= 32);
}
