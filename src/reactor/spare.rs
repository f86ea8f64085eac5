//! Byte buffers between two uses, so that none is allocated per PDU and none is kept per
//! connection.

#![forbid(unsafe_code)]

#[derive(Debug)]
pub(crate) struct Spare {
    /// Last in, first out: the buffer that is still warm goes next.
    buffers: Vec<Vec<u8>>,
    /// Capacity of all of them.
    bytes: usize,
}

impl Spare {
    pub(crate) const fn new() -> Self {
        Self { buffers: Vec::new(), bytes: 0 }
    }

    /// An empty buffer, of whatever capacity.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer's memory for the next use, unless enough is kept already.
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity == 0 || self.bytes + capacity > BYTES_MAX {
            return;
        }
        buffer.clear();
        self.bytes += capacity;
        self.buffers.push(buffer);
    }
}

/// Memory that is kept for later, of one `Netlib`.
const BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer given is the buffer taken, empty; and no more memory is kept than the limit.
    #[test]
    fn memory_is_kept_up_to_the_limit() {
        let mut spare = Spare::new();
        spare.give(vec![1; 100]);
        let buffer = spare.take();
        assert!(buffer.is_empty() && buffer.capacity() >= 100);
        assert_eq!(spare.take().capacity(), 0);
        for _ in 0..40 {
            spare.give(Vec::with_capacity(1 << 20));
        }
        assert_eq!((spare.buffers.len(), spare.bytes), (16, BYTES_MAX));
    }
}
