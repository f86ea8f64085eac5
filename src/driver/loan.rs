//! Received bytes that a send reads from where they are, in the buffer that they came in.

#![forbid(unsafe_code)]

use std::ops::{Deref, Range};

use super::{Chunk, Lot, PLACE_LEN};

/// Received bytes that may be lent: they are kept for as long as a loan of them is.
#[derive(Debug)]
pub(crate) enum Lender {
    Chunk(Chunk),
    Lot(Lot),
}

impl Lender {
    /// A lender of the chunk's bytes, if there are enough of them to be worth a buffer. None where
    /// too many buffers are kept already.
    #[inline]
    pub(crate) fn of_chunk(chunk: &Chunk) -> Option<Self> {
        let is_worth_it = chunk.len() >= chunk.space_len() / LENDER;
        is_worth_it.then(|| chunk.keep().map(Self::Chunk)).flatten()
    }

    /// A lender of the lot's bytes, if there are enough of them to be worth a buffer.
    pub(crate) fn of_lot(lot: &Lot) -> Option<Self> {
        let is_worth_it = lot.len() >= lot.space_len() / LENDER;
        is_worth_it.then(|| Self::Lot(lot.clone()))
    }

    fn keep(&self) -> Option<Self> {
        match self {
            Self::Chunk(chunk) => chunk.keep().map(Self::Chunk),
            Self::Lot(lot) => lot.keep().map(Self::Lot),
        }
    }

    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Chunk(chunk), Self::Chunk(other)) => chunk.is_same(other),
            (Self::Lot(lot), Self::Lot(other)) => lot.is_same(other),
            _ => false,
        }
    }

    /// Whether so many bytes are not worth that it is kept, nor a place of their own in a send.
    fn is_little(&self, len: usize) -> bool {
        let whole = match self {
            Self::Chunk(chunk) => chunk.space_len(),
            Self::Lot(lot) => lot.space_len(),
        };
        len < (whole / LITTLE).max(PLACE_LEN)
    }
}

impl Deref for Lender {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Lot(lot) => lot,
        }
    }
}

/// A lender while its bytes are delivered.
#[derive(Debug)]
pub(crate) struct Lending {
    lender: Lender,
    /// Where its bytes begin, and how many they are: asked for each PDU.
    address: usize,
    len: u32,
}

impl Lending {
    pub(crate) fn new(lender: Lender) -> Self {
        let bytes: &[u8] = &lender;
        let len = u32::try_from(bytes.len()).expect("a buffer is at most 1 GiB long");
        Self { address: bytes.as_ptr().addr(), len, lender }
    }

    pub(crate) const fn lender(&self) -> &Lender {
        &self.lender
    }

    /// Where these bytes are, if they are the lender's.
    #[inline]
    pub(crate) fn position_of(&self, bytes: &[u8]) -> Option<Range<u32>> {
        let start = u32::try_from(bytes.as_ptr().addr().wrapping_sub(self.address)).ok()?;
        let len = u32::try_from(bytes.len()).ok()?;
        let end = start.checked_add(len).filter(|end| *end <= self.len)?;
        Some(start..end)
    }
}

/// Some of a lender's bytes, kept until they have left.
#[derive(Debug)]
pub(crate) struct Loan {
    lender: Lender,
    range: Range<u32>,
}

impl Loan {
    /// `None` where too many buffers are kept already.
    pub(crate) fn new(lender: &Lender, range: Range<u32>) -> Option<Self> {
        Some(Self { lender: lender.keep()?, range })
    }

    /// Takes in more of the lender's bytes, if they are what follows. Whether they are.
    #[inline]
    pub(crate) fn grow(&mut self, lender: &Lender, range: &Range<u32>) -> bool {
        let follows = self.range.end == range.start && self.lender.is_same(lender);
        if follows {
            self.range.end = range.end;
        }
        follows
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.lender[self.range.start as usize..self.range.end as usize]
    }

    /// Whether a copy is cheaper.
    pub(crate) fn is_little(&self) -> bool {
        self.lender.is_little(self.len())
    }

    pub(crate) const fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }
}

/// What part of a buffer is to be filled for its bytes to be lent.
const LENDER: usize = 8;

/// What is little, as a part of a buffer.
const LITTLE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Stock;
    use crate::driver::pool::Pool;

    /// A lender knows its own bytes, and no others.
    #[test]
    fn a_lender_knows_its_own_bytes() {
        let lender = Lender::Lot(Lot::new(vec![1; 64], Stock::default()));
        let other = Lender::Lot(Lot::new(vec![1; 64], Stock::default()));
        let lending = Lending::new(lender);
        let bytes: &[u8] = lending.lender();
        assert_eq!(lending.position_of(&bytes[3..64]), Some(3..64));
        assert_eq!(lending.position_of(bytes), Some(0..64));
        assert_eq!(lending.position_of(&bytes[64..]), Some(64..64));
        assert_eq!((lending.position_of(&other), lending.position_of(&[1])), (None, None));
    }

    /// A loan takes in what follows it in the same buffer, and nothing else.
    #[test]
    fn a_loan_grows_by_what_follows() {
        let pool = Pool::new(4, 64).unwrap();
        let mut chunks = [pool.take().unwrap(), pool.take().unwrap()];
        for chunk in &mut chunks {
            for (byte, value) in chunk.space().iter_mut().zip(0..) {
                *byte = value;
            }
            chunk.set_len(64);
        }
        let chunks = chunks.map(Lender::Chunk);
        let lot = Lender::Lot(Lot::new(vec![0; 64], Stock::default()));
        let mut loan = Loan::new(&chunks[0], 4..8).unwrap();
        assert!(!loan.grow(&chunks[0], &(9..12)) && !loan.grow(&chunks[0], &(0..4)));
        assert!(!loan.grow(&chunks[1], &(8..12)) && !loan.grow(&lot, &(8..12)));
        assert!(loan.grow(&chunks[0], &(8..10)));
        assert_eq!((loan.bytes(), loan.len()), ([4, 5, 6, 7, 8, 9].as_slice(), 6));
    }
}
