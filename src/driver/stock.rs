//! Large buffers between two uses, which the reactor and its driver take from the same stack.
//!
//! Last in, first out: the buffer that is still in the processor's cache goes next. No more memory
//! is kept than the limit; what is given beyond it is freed.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

#[derive(Clone, Default)]
pub(crate) struct Stock(Rc<RefCell<Stack>>);

#[derive(Default)]
struct Stack {
    buffers: Vec<Vec<u8>>,
    /// Capacity of all of them.
    bytes: usize,
    /// Capacity of those that are kept for sends.
    kept: usize,
}

impl Stock {
    /// The topmost buffer, whatever its length.
    pub(crate) fn pop(&self) -> Option<Vec<u8>> {
        self.0.borrow_mut().remove(0)
    }

    /// An empty buffer with room for `len` bytes, and for no more than twice as many; a new one
    /// where none of the topmost few fits.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let mut stack = self.0.borrow_mut();
        let fits = |buffer: &Vec<u8>| (len..=2 * len).contains(&buffer.capacity());
        let from_top = stack.buffers.iter().rev().take(LOOKED_AT_MAX).position(fits);
        let found = from_top.and_then(|from_top| stack.remove(from_top));
        found.unwrap_or_else(|| Vec::with_capacity(len))
    }

    /// Keeps a buffer's memory for the next use, unless enough is kept already.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut stack = self.0.borrow_mut();
        buffer.clear();
        if buffer.capacity() > 0 && stack.bytes + buffer.capacity() <= BYTES_MAX {
            stack.bytes += buffer.capacity();
            stack.buffers.push(buffer);
        }
    }

    /// Whether a buffer of this capacity may be kept for sends, and then counts it.
    pub(crate) fn keep(&self, capacity: usize) -> bool {
        let mut stack = self.0.borrow_mut();
        let may_be_kept = stack.kept + capacity <= KEPT_MAX;
        if may_be_kept {
            stack.kept += capacity;
        }
        may_be_kept
    }

    /// One that was kept is not any more.
    pub(crate) fn keep_no_more(&self, capacity: usize) {
        self.0.borrow_mut().kept -= capacity;
    }
}

impl Stack {
    fn remove(&mut self, from_top: usize) -> Option<Vec<u8>> {
        let index = self.buffers.len().checked_sub(1 + from_top)?;
        let buffer = self.buffers.remove(index);
        self.bytes -= buffer.capacity();
        Some(buffer)
    }
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stack = self.0.borrow();
        write!(f, "Stock({} buffers of {} bytes)", stack.buffers.len(), stack.bytes)
    }
}

/// Buffers among which one is looked for that fits.
const LOOKED_AT_MAX: usize = 8;

/// Memory of received bytes that are kept for sends.
const KEPT_MAX: usize = 2 << 20;

/// Memory that is kept, of one `Netlib`.
const BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// No more memory is kept than the limit.
    #[test]
    fn memory_is_kept_up_to_the_limit() {
        let stock = Stock::default();
        for _ in 0..40 {
            stock.give(Vec::with_capacity(1 << 20));
        }
        assert_eq!((stock.0.borrow().buffers.len(), stock.0.borrow().bytes), (16, BYTES_MAX));
    }

    /// A buffer is neither too small nor much too large, and the one that was given last of those.
    #[test]
    fn a_buffer_that_fits_is_found() {
        let stock = Stock::default();
        for kib in [64, 100, 1024, 70] {
            stock.give(Vec::with_capacity(kib << 10));
        }
        let take = |kib: usize| stock.take(kib << 10).capacity() >> 10;
        assert_eq!([take(64), take(64), take(64), take(64)], [70, 100, 64, 64]);
        assert_eq!(stock.0.borrow().bytes, 1 << 20);
    }
}
