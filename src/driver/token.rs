//! The 64 bits that travel through the kernel with every request: `op | generation | index`.
//!
//! A token of op 0 is the bare handle. Nothing here is an address, so a completion that comes
//! late or twice can be told from a good one and can do no harm.

#![forbid(unsafe_code)]

use crate::event::Handle;

/// What a request asks for. The values are bits, so that [`Ops`] can hold several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    Accept = 1,
    Connect = 2,
    Receive = 4,
    Send = 8,
    /// A request to end another one; its own completion says nothing.
    Cancel = 16,
    /// The driver's own read of its waker.
    Wake = 32,
}

/// A set of operations of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Ops(u8);

impl Ops {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const ALL: Self =
        Self(Op::Accept as u8 | Op::Connect as u8 | Op::Receive as u8 | Op::Send as u8);

    pub(crate) const fn only(op: Op) -> Self {
        Self(op as u8)
    }

    pub(crate) const fn has(self, op: Op) -> bool {
        self.0 & op as u8 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn insert(&mut self, op: Op) {
        self.0 |= op as u8;
    }

    pub(crate) const fn remove(&mut self, op: Op) {
        self.0 &= !(op as u8);
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Op> {
        [Op::Accept, Op::Connect, Op::Receive, Op::Send].into_iter().filter(move |op| self.has(*op))
    }
}

/// A request's `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl Token {
    pub(crate) const fn new(op: Op, handle: Handle) -> Self {
        Self((op as u64) << 56 | handle.to_bits())
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn handle(self) -> Handle {
        Handle::from_bits(self.0)
    }

    /// Whether a request of that kind carries it.
    pub(crate) const fn is(self, op: Op) -> bool {
        self.0 >> 56 == op as u64
    }

    /// `None` for bits that no request of ours carries.
    pub(crate) const fn op(self) -> Option<Op> {
        match self.0 >> 56 {
            1 => Some(Op::Accept),
            2 => Some(Op::Connect),
            4 => Some(Op::Receive),
            8 => Some(Op::Send),
            16 => Some(Op::Cancel),
            32 => Some(Op::Wake),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token gives back the op and the handle it was made of.
    #[test]
    fn a_token_keeps_op_and_handle() {
        let handle = Handle::new(u32::MAX, Handle::GENERATION_MAX);
        for op in [Op::Accept, Op::Connect, Op::Receive, Op::Send, Op::Cancel, Op::Wake] {
            let token = Token::from_bits(Token::new(op, handle).to_bits());
            assert_eq!((token.op(), token.handle()), (Some(op), handle));
        }
        assert_eq!(Token::from_bits(handle.to_bits()).op(), None);
    }

    /// A set of operations holds what was put in, and gives it out once.
    #[test]
    fn a_set_of_operations_holds_what_was_put_in() {
        let mut ops = Ops::NONE;
        ops.insert(Op::Send);
        ops.insert(Op::Receive);
        assert_eq!(ops.iter().collect::<Vec<_>>(), [Op::Receive, Op::Send]);
        ops.remove(Op::Receive);
        assert!(ops.has(Op::Send) && !ops.has(Op::Receive) && !ops.is_empty());
        assert!(ops.and(Ops::only(Op::Receive)).is_empty());
        assert_eq!(Ops::ALL.iter().count(), 4);
    }
}
