//! Byte buffers between two uses, so that none is allocated per PDU and none is kept per
//! connection.
//!
//! Two stacks, for buffers up to 32 KiB and for larger ones: whoever has a few bytes to keep must
//! not sit on a megabyte.

#![forbid(unsafe_code)]

#[derive(Debug)]
pub(crate) struct Spare {
    small: Stack,
    large: Stack,
}

/// Last in, first out: the buffer that is still warm goes next.
#[derive(Debug)]
struct Stack {
    buffers: Vec<Vec<u8>>,
    /// Capacity of all of them.
    bytes: usize,
    bytes_max: usize,
}

impl Spare {
    pub(crate) const fn new() -> Self {
        Self { small: Stack::new(SMALL_BYTES_MAX), large: Stack::new(LARGE_BYTES_MAX) }
    }

    /// An empty buffer for about `len` bytes; it may have to grow.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        if len > SMALL_LEN / 2
            && let Some(buffer) = self.large.pop()
        {
            return buffer;
        }
        self.small.pop().unwrap_or_default()
    }

    /// Keeps a buffer's memory for the next use, unless enough is kept already.
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        match buffer.capacity() {
            0 => {}
            1..=SMALL_LEN => self.small.push(buffer),
            _ => self.large.push(buffer),
        }
    }
}

impl Stack {
    const fn new(bytes_max: usize) -> Self {
        Self { buffers: Vec::new(), bytes: 0, bytes_max }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    fn push(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= self.bytes_max {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

/// The greatest capacity of a small buffer.
const SMALL_LEN: usize = 32 * 1024;

/// Memory that is kept in small buffers, of one `Netlib`.
const SMALL_BYTES_MAX: usize = 4 << 20;

/// Memory that is kept in large buffers, of one `Netlib`.
const LARGE_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer given is the buffer taken, empty; and no more memory is kept than the limit.
    #[test]
    fn memory_is_kept_up_to_the_limit() {
        let mut spare = Spare::new();
        spare.give(vec![1; 100]);
        let buffer = spare.take(1);
        assert!(buffer.is_empty() && buffer.capacity() >= 100);
        assert_eq!(spare.take(1).capacity(), 0);
        for _ in 0..40 {
            spare.give(Vec::with_capacity(1 << 20));
        }
        assert_eq!((spare.large.buffers.len(), spare.large.bytes), (16, LARGE_BYTES_MAX));
    }

    /// Few bytes get no large buffer, however many there are; many bytes get what there is.
    #[test]
    fn few_bytes_get_no_large_buffer() {
        let mut spare = Spare::new();
        spare.give(Vec::with_capacity(1 << 20));
        assert_eq!(spare.take(1).capacity(), 0);
        assert_eq!(spare.take(SMALL_LEN).capacity(), 1 << 20);
        spare.give(Vec::with_capacity(SMALL_LEN));
        assert_eq!(spare.take(1 << 20).capacity(), SMALL_LEN);
    }
}
