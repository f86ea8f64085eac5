//! A PDU's own buffer on its way through a driver, which receives what the PDU misses into it; and
//! the forms of receives that there are.
//!
//! Only what they are: how bytes get in, each driver knows for itself. Until its completion the
//! buffer belongs to the driver, which may have shown it to the kernel (I1).

#![forbid(unsafe_code)]

use super::Outcome;
use crate::error::Errno;

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
    /// None does: the last was a rest, and has found how the connection ended.
    Ended(Errno),
}

impl Form {
    /// Starts a receive, or says at once what comes of it.
    pub(crate) fn start(&mut self, form: Self) -> Option<Outcome> {
        let Self::Ended(errno) = *self else {
            *self = form;
            return None;
        };
        if let Self::Rest(rest) = form {
            // Of an end the next receive tells that is no rest.
            return Some(Outcome::Filled(rest));
        }
        *self = Self::Many;
        Some(Outcome::ReceiveFailed(errno))
    }

    /// Takes the buffer out of a receive that is over; `None` where it has none.
    pub(crate) fn take_rest(&mut self) -> Option<Rest> {
        match std::mem::take(self) {
            Self::Rest(rest) | Self::Taken(rest) => Some(rest),
            Self::Many | Self::Whole(_) | Self::Ended(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rest {
    buffer: Vec<u8>,
    /// How long the buffer was at first, and is to become.
    start: u32,
    goal: u32,
}

impl Rest {
    /// To receive `len` bytes behind those that the buffer has, for which there is room.
    pub(crate) fn new(buffer: Vec<u8>, len: usize) -> Self {
        let start = buffer.len();
        assert!(len > 0 && buffer.capacity() - start >= len, "a rest has bytes, and room for them");
        let count = |bytes: usize| u32::try_from(bytes).expect("a PDU has less than 4 GiB");
        let (start, goal) = (count(start), count(start + len));
        Self { buffer, start, goal }
    }

    /// How many bytes have come.
    pub(crate) const fn received(&self) -> usize {
        self.buffer.len() - self.start as usize
    }

    /// Whether it had no bytes at first: all that it has may be more than one PDU, or less.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.start == 0
    }

    /// How many have not.
    pub(crate) const fn missing(&self) -> usize {
        self.goal as usize - self.buffer.len()
    }

    /// Where they come to: at most `missing` bytes are appended.
    pub(crate) const fn buffer_mut(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end that a rest has found is told once, by the next receive that is no rest.
    #[test]
    fn an_end_is_told_by_the_next_receive_that_is_no_rest() {
        let mut form = Form::Ended(Errno(libc::ECONNRESET));
        let rest = || Form::Rest(Rest::new(Vec::with_capacity(10), 10));
        assert!(matches!(form.start(rest()), Some(Outcome::Filled(rest)) if rest.received() == 0));
        let told = form.start(Form::Whole(10));
        assert!(matches!(told, Some(Outcome::ReceiveFailed(Errno(libc::ECONNRESET)))));
        assert!(form.start(Form::Whole(10)).is_none() && matches!(form, Form::Whole(10)));
    }
}
