//! Many bytes that were received at once, in a buffer of the stock.
//!
//! The last who refers to them gives the buffer back.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use super::Stock;

#[derive(Clone)]
pub(crate) struct Lot(Rc<Received>);

struct Received {
    buffer: Vec<u8>,
    stock: Stock,
    is_kept: Cell<bool>,
}

impl Lot {
    pub(crate) fn new(buffer: Vec<u8>, stock: Stock) -> Self {
        Self(Rc::new(Received { buffer, stock, is_kept: Cell::new(false) }))
    }

    /// The same bytes once more, to be kept for longer than they are delivered. `None` where as
    /// many are kept already as may be.
    pub(crate) fn keep(&self) -> Option<Self> {
        let Received { buffer, stock, is_kept } = &*self.0;
        if !is_kept.get() && !stock.keep(buffer.capacity()) {
            return None;
        }
        is_kept.set(true);
        Some(self.clone())
    }

    /// How long its buffer is.
    pub(crate) fn space_len(&self) -> usize {
        self.0.buffer.capacity()
    }

    /// Whether both are of the same buffer.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Lot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.buffer
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.is_kept.get() {
            self.stock.keep_no_more(self.buffer.capacity());
        }
        self.stock.give(std::mem::take(&mut self.buffer));
    }
}

impl fmt::Debug for Lot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lot({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lot's buffer is given back when nobody has the lot any more.
    #[test]
    fn a_lot_gives_its_buffer_back() {
        let stock = Stock::default();
        let lot = Lot::new(vec![7; 100], stock.clone());
        let kept = lot.keep().unwrap();
        assert!(kept.is_same(&lot));
        drop(lot);
        assert!(stock.pop().is_none());
        assert_eq!(*kept, [7; 100]);
        drop(kept);
        assert_eq!(stock.pop().map(|buffer| buffer.capacity()), Some(100));
    }

    /// No more bytes are kept than may be, and those that came back are kept again.
    #[test]
    fn lots_are_kept_up_to_the_limit() {
        let stock = Stock::default();
        let lot = || Lot::new(Vec::with_capacity(512 << 10), stock.clone());
        let kept: Vec<Lot> = (0..8).map_while(|_| lot().keep()).collect();
        assert_eq!(kept.len(), 4);
        assert!(kept[0].keep().is_some(), "it is kept already");
        drop(kept);
        assert!(lot().keep().is_some());
    }
}
