//! Memory between two uses, so that none is allocated per PDU and none is kept per connection.
//!
//! Two stacks of byte buffers, up to 32 KiB and larger: whoever has a few bytes to keep must not
//! sit on a megabyte. And one of the loads that pending bytes stand in, which keep their own small
//! buffers, and the lists of the bodies that are shared.

#![forbid(unsafe_code)]

use crate::driver::{Load, Stock};

#[derive(Debug)]
pub(crate) struct Spare {
    small: Stack<Vec<u8>>,
    large: Stock,
    loads: Stack<Box<Load>>,
}

/// Last in, first out: the memory that is still warm goes next.
#[derive(Debug)]
struct Stack<M> {
    memories: Vec<M>,
    /// Of all of them.
    bytes: usize,
    bytes_max: usize,
}

trait Memory {
    fn bytes(&self) -> usize;
}

impl Memory for Vec<u8> {
    fn bytes(&self) -> usize {
        self.capacity()
    }
}

impl Memory for Box<Load> {
    fn bytes(&self) -> usize {
        self.memory()
    }
}

impl Spare {
    pub(crate) const fn new(large: Stock) -> Self {
        Self { small: Stack::new(SMALL_BYTES_MAX), large, loads: Stack::new(LOADS_BYTES_MAX) }
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

    /// An empty buffer with room for `len` bytes, and for no more than twice as many.
    pub(crate) fn take_fitting(&self, len: usize) -> Vec<u8> {
        self.large.take(len)
    }

    /// Keeps a buffer's memory for the next use, unless enough is kept already.
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        match buffer.capacity() {
            0 => {}
            1..=SMALL_LEN => self.small.push(buffer),
            _ => self.large.give(buffer),
        }
    }

    /// A load without bytes.
    #[inline]
    pub(crate) fn take_load(&mut self) -> Box<Load> {
        self.loads.pop().unwrap_or_default()
    }

    /// Keeps a load without bytes, unless enough is kept already.
    #[inline]
    pub(crate) fn give_load(&mut self, mut load: Box<Load>) {
        if load.own.capacity() > SMALL_LEN {
            self.large.give(std::mem::take(&mut load.own));
        }
        self.loads.push(load);
    }
}

impl<M: Memory> Stack<M> {
    const fn new(bytes_max: usize) -> Self {
        Self { memories: Vec::new(), bytes: 0, bytes_max }
    }

    fn pop(&mut self) -> Option<M> {
        let memory = self.memories.pop()?;
        self.bytes -= memory.bytes();
        Some(memory)
    }

    fn push(&mut self, memory: M) {
        let bytes = memory.bytes();
        if self.bytes + bytes <= self.bytes_max {
            self.bytes += bytes;
            self.memories.push(memory);
        }
    }
}

/// The greatest capacity of a small buffer.
const SMALL_LEN: usize = 32 * 1024;

/// Memory that is kept in small buffers, of one `Netlib`.
const SMALL_BYTES_MAX: usize = 4 << 20;

/// Memory that is kept in loads, of one `Netlib`: for 25,000 receivers of one body, or of short
/// PDUs of their own.
const LOADS_BYTES_MAX: usize = 6 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer given is the buffer taken, empty; and no more memory is kept than the limit.
    #[test]
    fn memory_is_kept_up_to_the_limit() {
        let mut spare = Spare::new(Stock::default());
        spare.give(vec![1; 100]);
        let buffer = spare.take(1);
        assert!(buffer.is_empty() && buffer.capacity() >= 100);
        assert_eq!(spare.take(1).capacity(), 0);
    }

    /// Few bytes get no large buffer, however many there are; many bytes get what there is.
    #[test]
    fn few_bytes_get_no_large_buffer() {
        let mut spare = Spare::new(Stock::default());
        spare.give(Vec::with_capacity(1 << 20));
        assert_eq!(spare.take(1).capacity(), 0);
        assert_eq!(spare.take(SMALL_LEN).capacity(), 1 << 20);
        spare.give(Vec::with_capacity(SMALL_LEN));
        assert_eq!(spare.take(1 << 20).capacity(), SMALL_LEN);
    }
}
