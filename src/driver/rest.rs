//! A PDU's own buffer on its way through a driver, which receives what the PDU misses into it.
//!
//! Only what it is: how bytes get in, each driver knows for itself. Until its completion the
//! buffer belongs to the driver, which may have shown it to the kernel (I1).

#![forbid(unsafe_code)]

/// How a receive goes.
#[derive(Debug, Default)]
pub(crate) enum Form {
    /// Into pool buffers, for as long as it is armed.
    #[default]
    Many,
    /// Into a buffer for at most so many bytes, which is taken when bytes are there.
    Whole(usize),
    /// Into that buffer.
    Taken(Rest),
    /// Into a buffer of its own, which stays put until the last completion.
    Rest(Rest),
}

impl Form {
    /// Takes the buffer out of a receive that is over; `None` where it has none.
    pub(crate) fn take_rest(&mut self) -> Option<Rest> {
        match std::mem::take(self) {
            Self::Rest(rest) | Self::Taken(rest) => Some(rest),
            Self::Many | Self::Whole(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rest {
    buffer: Vec<u8>,
    /// How long the buffer was at first, and is to become.
    start: usize,
    goal: usize,
}

impl Rest {
    /// To receive `len` bytes behind those that the buffer has, for which there is room.
    pub(crate) fn new(buffer: Vec<u8>, len: usize) -> Self {
        let start = buffer.len();
        assert!(len > 0 && buffer.capacity() - start >= len, "a rest has bytes, and room for them");
        Self { buffer, start, goal: start + len }
    }

    /// How many bytes have come.
    pub(crate) const fn received(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Whether it had no bytes at first: all that it has may be more than one PDU, or less.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.start == 0
    }

    /// How many have not.
    pub(crate) const fn missing(&self) -> usize {
        self.goal - self.buffer.len()
    }

    /// Where they come to: at most `missing` bytes are appended.
    pub(crate) const fn buffer_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}
