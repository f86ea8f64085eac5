//! How the length of a PDU is found, and which lengths are believed.
//!
//! Pure arithmetic over the first bytes of a frame. It must stay total: no spec, validated or not,
//! and no bytes may make it overflow, panic, or tell of a frame without bytes.

#![forbid(unsafe_code)]

use std::{error, fmt};

use super::header::HEADER_LEN;

/// Where the length of a PDU stands and what it counts, and how long a whole PDU may be.
///
/// The limits are for the *whole* frame in bytes, header included, whatever the length counts. A
/// peer whose PDU is out of them is cut off as soon as its length is known, before any of the rest
/// is stored.
///
/// ```
/// use uring_netlib::pdu::{Endian, FrameSpec, LengthCounts};
///
/// // A type byte, three bytes of body length, the body.
/// let spec = FrameSpec::new(1, 3, Endian::Big, LengthCounts::Body, 4).with_max(64 * 1024);
/// spec.validate()?;
/// assert_eq!(spec.frame_len(b"\x01\x00\x00")?, None);
/// assert_eq!(spec.frame_len(b"\x01\x00\x00\x05")?, Some(9));
/// assert!(spec.frame_len(b"\x01\xff\xff\xff").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameSpec {
    offset: u16,
    width: u8,
    endian: Endian,
    counts: LengthCounts,
    header_len: u16,
    min: u32,
    max: u32,
}

impl FrameSpec {
    /// The [`Header`](super::Header) of 16 bytes, whose first four say the length of the whole PDU,
    /// big-endian. From 16 bytes to 1 MiB. This is the default.
    #[must_use]
    pub const fn teamtalk() -> Self {
        Self::new(0, 4, Endian::Big, LengthCounts::Frame, PDU_HEADER_LEN)
    }

    /// A header of 16 bytes, whose first four say the length of the whole packet, big-endian; what
    /// follows them is the application's to read. Bodies of at most 4096 bytes.
    #[must_use]
    pub const fn goim() -> Self {
        Self::teamtalk().with_max(PDU_HEADER_LEN as u32 + 4096)
    }

    /// Four bytes of length, big-endian, and as many bytes of body. At most 1 MiB, the length
    /// included.
    #[must_use]
    pub const fn u32_be() -> Self {
        Self::new(0, 4, Endian::Big, LengthCounts::AfterLength, 4)
    }

    /// Four bytes of length, little-endian, and as many bytes of body. At most 1 MiB, the length
    /// included.
    #[must_use]
    pub const fn u32_le() -> Self {
        Self::new(0, 4, Endian::Little, LengthCounts::AfterLength, 4)
    }

    /// Two bytes of length, big-endian, and as many bytes of body. At most 65537 bytes, which is
    /// all that two bytes can say.
    #[must_use]
    pub const fn u16_be() -> Self {
        Self::new(0, 2, Endian::Big, LengthCounts::AfterLength, 2)
    }

    /// A framing of one's own: a length of `width` bytes (1 to 4) stands `offset` bytes into a
    /// header of `header_len` bytes.
    ///
    /// From a bare header to 1 MiB, or to the most that the length can say if that is less.
    /// [`validate`](Self::validate) tells whether all that fits together.
    #[must_use]
    pub const fn new(
        offset: u16,
        width: u8,
        endian: Endian,
        counts: LengthCounts,
        header_len: u16,
    ) -> Self {
        let min = header_len as u32;
        let spec = Self { offset, width, endian, counts, header_len, min, max: MAX_DEFAULT };
        let longest = spec.longest();
        match longest < MAX_DEFAULT as u64 {
            #[expect(clippy::cast_possible_truncation, reason = "it is less than 1 MiB")]
            true => spec.with_max(longest as u32),
            false => spec,
        }
    }

    /// Sets the longest whole frame in bytes. It bounds what one peer can make this side buffer.
    #[must_use]
    pub const fn with_max(self, max: u32) -> Self {
        Self { max, ..self }
    }

    /// Sets the shortest whole frame in bytes, for protocols whose bodies are never empty.
    #[must_use]
    pub const fn with_min(self, min: u32) -> Self {
        Self { min, ..self }
    }

    /// Whether the parts fit together.
    ///
    /// A spec that is refused here harms nobody when used all the same, but cuts frames that make
    /// no sense.
    ///
    /// # Errors
    /// [`FrameSpecError`], the first thing that does not fit.
    pub fn validate(&self) -> Result<(), FrameSpecError> {
        let Self { header_len, min, max, width, .. } = *self;
        if !(1..=4).contains(&width) {
            return Err(FrameSpecError::Width { width });
        }
        let end = self.length_end();
        if end > usize::from(header_len) {
            return Err(FrameSpecError::LengthOutsideHeader { end, header_len });
        }
        if min < u32::from(header_len) {
            return Err(FrameSpecError::MinBelowHeader { min, header_len });
        }
        if max < min {
            return Err(FrameSpecError::MaxBelowMin { max, min });
        }
        let longest = self.longest();
        if longest < u64::from(min) {
            return Err(FrameSpecError::MinUnsayable { min, longest });
        }
        Ok(())
    }

    /// The length in bytes of the whole frame that starts with `head`; `None` where `head` is too
    /// short to tell.
    ///
    /// # Errors
    /// [`FrameError`] where the length is out of the limits.
    #[inline]
    pub fn frame_len(&self, head: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(field) = head.get(usize::from(self.offset)..self.length_end()) else {
            return Ok(None);
        };
        let len = self.uncounted().saturating_add(self.endian.number(field));
        // No frame is shorter than its header, nor empty: a reader would lend empty frames forever.
        let min = self.min.max(u32::from(self.header_len)).max(1);
        if len < u64::from(min) {
            return Err(FrameError::TooShort { len, min });
        }
        match u32::try_from(len) {
            Ok(len) if len <= self.max => Ok(Some(len as usize)),
            _ => Err(FrameError::TooLong { len, max: self.max }),
        }
    }

    /// The longest whole frame in bytes.
    #[must_use]
    pub const fn max(&self) -> u32 {
        self.max
    }

    /// The shortest whole frame in bytes.
    #[must_use]
    pub const fn min(&self) -> u32 {
        self.min
    }

    /// The bytes in front of the body.
    #[must_use]
    pub const fn header_len(&self) -> u16 {
        self.header_len
    }

    /// How many bytes must be there for the length to be known.
    pub(super) const fn length_end(&self) -> usize {
        self.offset as usize + self.width as usize
    }

    /// The bytes of a frame that its length leaves out.
    const fn uncounted(&self) -> u64 {
        match self.counts {
            LengthCounts::Frame => 0,
            LengthCounts::AfterLength => self.length_end() as u64,
            LengthCounts::Body => self.header_len as u64,
        }
    }

    /// The longest frame that the length has digits for.
    const fn longest(&self) -> u64 {
        let digits = match self.width {
            0..=4 => (1_u64 << (8 * self.width)) - 1,
            _ => u32::MAX as u64,
        };
        self.uncounted() + digits
    }
}

impl Default for FrameSpec {
    fn default() -> Self {
        Self::teamtalk()
    }
}

/// The order of a length's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endian {
    /// The highest byte first, as is usual on the network.
    Big,
    /// The lowest byte first.
    Little,
}

impl Endian {
    /// What the digits say.
    #[inline]
    fn number(self, digits: &[u8]) -> u64 {
        // Nearly every protocol has four, and a loop over them would cost more than all the rest.
        match (digits.try_into(), self) {
            (Ok(four), Self::Big) => u32::from_be_bytes(four).into(),
            (Ok(four), Self::Little) => u32::from_le_bytes(four).into(),
            (Err(_), _) => self.number_of_any(digits),
        }
    }

    #[inline(never)]
    fn number_of_any(self, digits: &[u8]) -> u64 {
        let push = |value: u64, digit: &u8| value << 8 | u64::from(*digit);
        match self {
            Self::Big => digits.iter().fold(0, push),
            Self::Little => digits.iter().rev().fold(0, push),
        }
    }
}

/// Which bytes a length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthCounts {
    /// All of the frame, header and length included.
    Frame,
    /// All that follows the length: the rest of the header, and the body.
    AfterLength,
    /// The body alone.
    Body,
}

/// A PDU whose length is out of the limits of its [`FrameSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameError {
    /// The whole frame would be shorter than allowed.
    TooShort {
        /// Bytes of the whole frame, as the peer says.
        len: u64,
        /// The least that is allowed.
        min: u32,
    },
    /// The whole frame would be longer than allowed.
    TooLong {
        /// Bytes of the whole frame, as the peer says.
        len: u64,
        /// The most that is allowed.
        max: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len, min } => write!(f, "length {len} is below the least of {min}"),
            Self::TooLong { len, max } => write!(f, "length {len} is above the most of {max}"),
        }
    }
}

impl error::Error for FrameError {}

/// Why a [`FrameSpec`] cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameSpecError {
    /// The length has neither one, two, three nor four bytes.
    Width {
        /// Bytes of the length.
        width: u8,
    },
    /// The length is not, or not wholly, in the header.
    LengthOutsideHeader {
        /// Where the length ends, in bytes from the start of the frame.
        end: usize,
        /// Bytes of the header.
        header_len: u16,
    },
    /// The shortest frame has no room for the header.
    MinBelowHeader {
        /// Bytes of the shortest frame.
        min: u32,
        /// Bytes of the header.
        header_len: u16,
    },
    /// The longest frame is shorter than the shortest.
    MaxBelowMin {
        /// Bytes of the longest frame.
        max: u32,
        /// Bytes of the shortest frame.
        min: u32,
    },
    /// The length has too few bytes to tell of even the shortest frame.
    MinUnsayable {
        /// Bytes of the shortest frame.
        min: u32,
        /// Bytes of the longest frame that the length can tell of.
        longest: u64,
    },
}

impl fmt::Display for FrameSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Width { width } => write!(f, "a length of {width} bytes is not 1 to 4 bytes"),
            Self::LengthOutsideHeader { end, header_len } => {
                write!(f, "the length ends at byte {end}, outside the header of {header_len}")
            }
            Self::MinBelowHeader { min, header_len } => {
                write!(f, "a shortest frame of {min} bytes has no room for {header_len} of header")
            }
            Self::MaxBelowMin { max, min } => {
                write!(f, "a longest frame of {max} bytes is shorter than the shortest of {min}")
            }
            Self::MinUnsayable { min, longest } => {
                write!(f, "the length can say at most {longest}, below the shortest of {min}")
            }
        }
    }
}

impl error::Error for FrameSpecError {}

const MAX_DEFAULT: u32 = 1 << 20;

#[expect(clippy::cast_possible_truncation, reason = "16 fits")]
const PDU_HEADER_LEN: u16 = HEADER_LEN as u16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length around the limits, and the worst a peer can say.
    #[test]
    fn a_length_outside_the_limits_is_an_error() {
        let spec = FrameSpec::teamtalk();
        for len in 0..16_u32 {
            let error = FrameError::TooShort { len: len.into(), min: 16 };
            assert_eq!(spec.frame_len(&len.to_be_bytes()), Err(error));
        }
        for len in [16_u32, 17, 4096, 1 << 20] {
            assert_eq!(spec.frame_len(&len.to_be_bytes()), Ok(Some(len as usize)));
        }
        for len in [(1_u32 << 20) + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, u32::MAX] {
            let error = FrameError::TooLong { len: len.into(), max: 1 << 20 };
            assert_eq!(spec.frame_len(&len.to_be_bytes()), Err(error));
        }
    }

    /// The verdict needs the length's own bytes and not one more.
    #[test]
    fn a_length_is_judged_as_soon_as_it_is_there() {
        let spec = FrameSpec::new(3, 2, Endian::Big, LengthCounts::Frame, 16);
        let head = [9, 9, 9, 0, 15, 9];
        for len in 0..5 {
            assert_eq!(spec.frame_len(&head[..len]), Ok(None));
        }
        assert_eq!(spec.frame_len(&head[..5]), Err(FrameError::TooShort { len: 15, min: 16 }));
        assert_eq!(spec.frame_len(&head), Err(FrameError::TooShort { len: 15, min: 16 }));
    }

    /// What the length leaves out is added, in either byte order and any width.
    #[test]
    fn the_frame_is_what_the_length_counts_and_the_rest() {
        let head = [0xaa, 0, 0, 2, 1, 0, 0, 0xaa];
        let len = |width, endian, counts| {
            FrameSpec::new(2, width, endian, counts, 8).with_max(u32::MAX).frame_len(&head)
        };
        use {Endian::*, LengthCounts::*};
        assert_eq!(len(2, Little, Frame), Ok(Some(0x200)));
        assert_eq!(len(2, Little, AfterLength), Ok(Some(4 + 0x200)));
        assert_eq!(len(2, Little, Body), Ok(Some(8 + 0x200)));
        assert_eq!(len(3, Big, Frame), Ok(Some(0x201)));
        assert_eq!(len(3, Little, Frame), Ok(Some(0x1_0200)));
        assert_eq!(len(4, Big, AfterLength), Ok(Some(6 + 0x0002_0100)));
        assert_eq!(len(1, Big, Body), Ok(Some(8)));
    }

    /// The largest length plus what it leaves out is still a number, and an error.
    #[test]
    fn no_length_overflows() {
        for counts in [LengthCounts::Frame, LengthCounts::AfterLength, LengthCounts::Body] {
            let spec = FrameSpec::new(0, 4, Endian::Big, counts, u16::MAX).with_max(u32::MAX);
            assert_eq!(spec.validate(), Ok(()));
            let uncounted = spec.uncounted();
            let expected = match counts {
                LengthCounts::Frame => Ok(Some(u32::MAX as usize)),
                _ => Err(FrameError::TooLong { len: uncounted + 0xffff_ffff, max: u32::MAX }),
            };
            assert_eq!(spec.frame_len(&[0xff; 4]), expected);
        }
    }

    /// The presets hold, and have the limits that their documentation promises.
    #[test]
    fn presets_are_valid_and_have_their_limits() {
        let limits = |spec: FrameSpec| {
            assert_eq!(spec.validate(), Ok(()));
            (spec.header_len(), spec.min(), spec.max())
        };
        assert_eq!(limits(FrameSpec::default()), (16, 16, 1 << 20));
        assert_eq!(limits(FrameSpec::teamtalk()), (16, 16, 1 << 20));
        assert_eq!(limits(FrameSpec::goim()), (16, 16, 4112));
        assert_eq!(limits(FrameSpec::u32_be()), (4, 4, 1 << 20));
        assert_eq!(limits(FrameSpec::u32_le()), (4, 4, 1 << 20));
        assert_eq!(limits(FrameSpec::u16_be()), (2, 2, 65_537));
        assert_eq!(FrameSpec::u16_be().frame_len(&[0xff, 0xff]), Ok(Some(65_537)));
        assert_eq!(FrameSpec::u32_le().frame_len(&[1, 0, 0, 0]), Ok(Some(5)));
        assert_eq!(size_of::<FrameSpec>(), 16);
    }

    /// Each way in which the parts can disagree has its own error.
    #[test]
    fn specs_that_cannot_be_are_refused() {
        let new = |offset, width, counts, header_len| {
            FrameSpec::new(offset, width, Endian::Big, counts, header_len)
        };
        let frame = LengthCounts::Frame;
        for width in [0, 5, 8, 255] {
            let error = FrameSpecError::Width { width };
            assert_eq!(new(0, width, frame, 512).validate(), Err(error));
        }
        for (offset, width, header_len) in [(0, 4, 3), (13, 4, 16), (u16::MAX, 4, u16::MAX)] {
            let end = usize::from(offset) + usize::from(width);
            let error = FrameSpecError::LengthOutsideHeader { end, header_len };
            assert_eq!(new(offset, width, frame, header_len).validate(), Err(error));
        }
        let spec = FrameSpec::teamtalk();
        let error = FrameSpecError::MinBelowHeader { min: 15, header_len: 16 };
        assert_eq!(spec.with_min(15).validate(), Err(error));
        let error = FrameSpecError::MaxBelowMin { max: 16, min: 17 };
        assert_eq!(spec.with_min(17).with_max(16).validate(), Err(error));
        let error = FrameSpecError::MinUnsayable { min: 300, longest: 255 };
        assert_eq!(new(0, 1, frame, 300).with_max(400).validate(), Err(error));
        assert_eq!(new(0, 1, LengthCounts::Body, 300).validate(), Ok(()));
        assert_eq!(new(12, 4, frame, 16).with_min(16).with_max(16).validate(), Ok(()));
    }

    /// Refused specs are total as well: no panic, and no frame without bytes or without a header.
    #[test]
    fn refused_specs_do_no_harm() {
        for (offset, header_len) in [(0, 0), (0, u16::MAX), (u16::MAX, 0), (u16::MAX, u16::MAX)] {
            for width in [0, 1, 4, 5, 8, 9, 255] {
                for counts in [LengthCounts::Frame, LengthCounts::AfterLength, LengthCounts::Body] {
                    for (min, max) in [(0, 0), (0, u32::MAX), (u32::MAX, 0), (u32::MAX, u32::MAX)] {
                        let spec =
                            FrameSpec::new(offset, width, Endian::Little, counts, header_len)
                                .with_min(min)
                                .with_max(max);
                        for byte in [0, 1, 0xff] {
                            let len = spec.frame_len(&vec![byte; 70_000]);
                            let least = usize::from(header_len).max(1);
                            assert!(!matches!(len, Ok(Some(len)) if len < least), "{spec:?}");
                        }
                    }
                }
            }
        }
    }
}
