//! Plain numbers and counted bytes, for bodies and blobs that are not protobuf.
//!
//! Numbers are big-endian, bytes and text stand behind a `u32` count. A read that fails consumes
//! nothing, and no count, however large, reaches outside of the bytes that are there.

#![forbid(unsafe_code)]

use std::{error, fmt, str};

/// Reads numbers and counted bytes off the front of a slice.
///
/// Every read fails with [`Underflow`] where too few bytes are left for it, and then consumes none.
///
/// ```
/// use uring_netlib::pdu::ByteReader;
///
/// let mut reader = ByteReader::new(b"\0\0\0\x09\0\0\0\x02hi\xff");
/// assert_eq!(reader.u32()?, 9);
/// assert_eq!(reader.text()?, "hi");
/// assert_eq!(reader.i8()?, -1);
/// assert!(reader.u8().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
}

impl<'a> ByteReader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Result<u8, Underflow> {
        self.take().map(u8::from_be_bytes)
    }

    /// Reads one byte as a signed number.
    pub fn i8(&mut self) -> Result<i8, Underflow> {
        self.take().map(i8::from_be_bytes)
    }

    /// Reads two bytes.
    pub fn u16(&mut self) -> Result<u16, Underflow> {
        self.take().map(u16::from_be_bytes)
    }

    /// Reads two bytes as a signed number.
    pub fn i16(&mut self) -> Result<i16, Underflow> {
        self.take().map(i16::from_be_bytes)
    }

    /// Reads four bytes.
    pub fn u32(&mut self) -> Result<u32, Underflow> {
        self.take().map(u32::from_be_bytes)
    }

    /// Reads four bytes as a signed number.
    pub fn i32(&mut self) -> Result<i32, Underflow> {
        self.take().map(i32::from_be_bytes)
    }

    /// Reads a count of four bytes and as many bytes as it says, lent in place.
    pub fn data(&mut self) -> Result<&'a [u8], Underflow> {
        let (data, rest) = self.counted()?;
        self.rest = rest;
        Ok(data)
    }

    /// Reads a count of four bytes and as many bytes of UTF-8 as it says, lent in place.
    ///
    /// # Errors
    /// [`TextError`]: too few bytes are left, or they are not UTF-8; none was consumed.
    pub fn text(&mut self) -> Result<&'a str, TextError> {
        let (data, rest) = self.counted()?;
        let text = str::from_utf8(data)?;
        self.rest = rest;
        Ok(text)
    }

    /// The bytes that are left.
    #[must_use]
    pub const fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Underflow> {
        let (bytes, rest) = split_number(self.rest)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Counted bytes and what follows them.
    fn counted(&self) -> Result<(&'a [u8], &'a [u8]), Underflow> {
        let (count, rest) = split_number(self.rest)?;
        let needed = u32::from_be_bytes(count) as usize;
        rest.split_at_checked(needed).ok_or(Underflow { needed, left: rest.len() })
    }
}

fn split_number<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Underflow> {
    match bytes.split_first_chunk() {
        Some((number, rest)) => Ok((*number, rest)),
        None => Err(Underflow { needed: N, left: bytes.len() }),
    }
}

/// Appends numbers and counted bytes to a vector: what [`ByteReader`] reads.
///
/// ```
/// use uring_netlib::pdu::ByteWriter;
///
/// let mut out = Vec::new();
/// ByteWriter::new(&mut out).u32(9).text("hi")?.i8(-1);
/// assert_eq!(out, b"\0\0\0\x09\0\0\0\x02hi\xff");
/// # Ok::<(), uring_netlib::pdu::DataTooLong>(())
/// ```
#[derive(Debug)]
pub struct ByteWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> ByteWriter<'a> {
    /// Appends to `out`, which keeps what it has.
    #[must_use]
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a signed number of one byte.
    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a signed number of two bytes.
    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a signed number of four bytes.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a count of four bytes, and `data`.
    ///
    /// # Errors
    /// [`DataTooLong`] where the count cannot say that many bytes; nothing was appended.
    pub fn data(&mut self, data: &[u8]) -> Result<&mut Self, DataTooLong> {
        let count = count(data.len())?;
        Ok(self.u32(count).put(data))
    }

    /// Appends a count of four bytes, and `text` as UTF-8.
    ///
    /// # Errors
    /// [`DataTooLong`] where the count cannot say that many bytes; nothing was appended.
    pub fn text(&mut self, text: &str) -> Result<&mut Self, DataTooLong> {
        self.data(text.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }
}

fn count(len: usize) -> Result<u32, DataTooLong> {
    u32::try_from(len).map_err(|_| DataTooLong { len })
}

/// A read wanted more bytes than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Underflow {
    /// Bytes that the read wanted.
    pub needed: usize,
    /// Bytes that were left.
    pub left: usize,
}

impl fmt::Display for Underflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes needed, {} left", self.needed, self.left)
    }
}

impl error::Error for Underflow {}

/// Why a text was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// Too few bytes are left.
    Underflow(Underflow),
    /// The bytes are not UTF-8.
    Utf8(str::Utf8Error),
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Underflow(_) => f.write_str("the text is cut off"),
            Self::Utf8(_) => f.write_str("the text is not UTF-8"),
        }
    }
}

impl error::Error for TextError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Underflow(source) => Some(source),
            Self::Utf8(source) => Some(source),
        }
    }
}

impl From<Underflow> for TextError {
    fn from(source: Underflow) -> Self {
        Self::Underflow(source)
    }
}

impl From<str::Utf8Error> for TextError {
    fn from(source: str::Utf8Error) -> Self {
        Self::Utf8(source)
    }
}

/// Data has more bytes than its count can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataTooLong {
    /// Bytes of the data.
    pub len: usize,
}

impl fmt::Display for DataTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data of {} bytes is longer than its count can say", self.len)
    }
}

impl error::Error for DataTooLong {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every primitive comes back as it was written, at its very extremes.
    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        ByteWriter::new(&mut out)
            .u8(u8::MAX)
            .i8(i8::MIN)
            .u16(u16::MAX)
            .i16(i16::MIN)
            .u32(u32::MAX)
            .i32(i32::MIN)
            .data(b"\0\xff")
            .and_then(|writer| writer.data(b""))
            .and_then(|writer| writer.text("日本"))
            .unwrap();
        let mut reader = ByteReader::new(&out);
        assert_eq!((reader.u8(), reader.i8()), (Ok(u8::MAX), Ok(i8::MIN)));
        assert_eq!((reader.u16(), reader.i16()), (Ok(u16::MAX), Ok(i16::MIN)));
        assert_eq!((reader.u32(), reader.i32()), (Ok(u32::MAX), Ok(i32::MIN)));
        assert_eq!((reader.data(), reader.data()), (Ok(&b"\0\xff"[..]), Ok(&b""[..])));
        assert_eq!((reader.text(), reader.remaining()), (Ok("日本"), &b""[..]));
    }

    /// A blob of three numbers, as servers really exchange it.
    #[test]
    fn a_golden_blob_is_written_and_read() {
        let mut out = Vec::new();
        ByteWriter::new(&mut out).u32(1).u32(9).u32(0);
        assert_eq!(out, b"\0\0\0\x01\0\0\0\x09\0\0\0\0");
        let mut reader = ByteReader::new(&out);
        assert_eq!((reader.u32(), reader.u32(), reader.u32()), (Ok(1), Ok(9), Ok(0)));
    }

    /// A read that fails leaves all bytes where they are, the count of a cut-off text included.
    #[test]
    fn a_failed_read_consumes_nothing() {
        let mut reader = ByteReader::new(b"\0\0\0");
        assert_eq!(reader.u32(), Err(Underflow { needed: 4, left: 3 }));
        assert_eq!(reader.i32(), Err(Underflow { needed: 4, left: 3 }));
        assert_eq!(reader.data(), Err(Underflow { needed: 4, left: 3 }));
        assert_eq!((reader.u16(), reader.u16()), (Ok(0), Err(Underflow { needed: 2, left: 1 })));
        assert_eq!(reader.i16(), Err(Underflow { needed: 2, left: 1 }));
        assert_eq!((reader.u8(), reader.u8()), (Ok(0), Err(Underflow { needed: 1, left: 0 })));
        assert_eq!(reader.i8(), Err(Underflow { needed: 1, left: 0 }));

        let cut_off = b"\0\0\0\x03ab";
        let mut reader = ByteReader::new(cut_off);
        assert_eq!(reader.data(), Err(Underflow { needed: 3, left: 2 }));
        let error = TextError::Underflow(Underflow { needed: 3, left: 2 });
        assert_eq!((reader.text(), reader.remaining()), (Err(error), &cut_off[..]));
        let not_text = b"\0\0\0\x02\xc3\x28";
        let mut reader = ByteReader::new(not_text);
        assert!(matches!(reader.text(), Err(TextError::Utf8(_))));
        assert_eq!(reader.remaining(), not_text);
        assert_eq!(reader.data(), Ok(&b"\xc3\x28"[..]));
    }

    /// Counts near the top of `u32` are too large, and nothing wraps.
    #[test]
    fn huge_counts_underflow() {
        for count in [u32::MAX, u32::MAX - 3, u32::MAX - 4, 1 << 31] {
            let bytes = [&count.to_be_bytes()[..], b"abc"].concat();
            let needed = count as usize;
            let data = ByteReader::new(&bytes).data();
            assert_eq!(data, Err(Underflow { needed, left: 3 }));
        }
    }

    /// Data that its count cannot say is refused.
    #[test]
    fn data_beyond_its_count_is_refused() {
        assert_eq!(count(u32::MAX as usize), Ok(u32::MAX));
        let len = u32::MAX as usize + 1;
        assert_eq!(count(len), Err(DataTooLong { len }));
    }
}
