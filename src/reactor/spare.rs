//! Memory between two uses, so that none is allocated per PDU and none is kept per connection.
//!
//! Two stacks of byte buffers, up to 32 KiB and larger: whoever has a few bytes to keep must not
//! sit on a megabyte. And one of the lists in which bodies stand that are shared.

#![forbid(unsafe_code)]

use crate::driver::{Part, Stock};

#[derive(Debug)]
pub(crate) struct Spare {
    small: Stack<u8>,
    large: Stock,
    lists: Stack<Part>,
}

/// Last in, first out: the buffer that is still warm goes next.
#[derive(Debug)]
struct Stack<T> {
    buffers: Vec<Vec<T>>,
    /// Capacity of all of them.
    bytes: usize,
    bytes_max: usize,
}

impl Spare {
    pub(crate) const fn new(large: Stock) -> Self {
        Self { small: Stack::new(SMALL_BYTES_MAX), large, lists: Stack::new(LISTS_BYTES_MAX) }
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

    /// An empty list of shared bodies.
    pub(crate) fn take_list(&mut self) -> Vec<Part> {
        self.lists.pop().unwrap_or_default()
    }

    /// Keeps a list's memory, unless enough is kept already.
    pub(crate) fn give_list(&mut self, mut list: Vec<Part>) {
        list.clear();
        if list.capacity() > 0 {
            self.lists.push(list);
        }
    }
}

impl<T> Stack<T> {
    const fn new(bytes_max: usize) -> Self {
        Self { buffers: Vec::new(), bytes: 0, bytes_max }
    }

    fn pop(&mut self) -> Option<Vec<T>> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.capacity() * size_of::<T>();
        Some(buffer)
    }

    fn push(&mut self, buffer: Vec<T>) {
        let bytes = buffer.capacity() * size_of::<T>();
        if self.bytes + bytes <= self.bytes_max {
            self.bytes += bytes;
            self.buffers.push(buffer);
        }
    }
}

/// The greatest capacity of a small buffer.
const SMALL_LEN: usize = 32 * 1024;

/// Memory that is kept in small buffers, of one `Netlib`.
const SMALL_BYTES_MAX: usize = 4 << 20;

/// Memory that is kept in lists of shared bodies, of one `Netlib`.
const LISTS_BYTES_MAX: usize = 2 << 20;

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
