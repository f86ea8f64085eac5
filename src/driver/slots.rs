//! A driver's own table: what it keeps per handle, one indexed look-up away.
//!
//! The index is the reactor's; the whole handle is compared, so that a completion or a call that
//! comes late finds nothing rather than the next socket in the same place.

#![forbid(unsafe_code)]

use crate::event::Handle;

#[derive(Debug)]
pub(crate) struct Slots<S> {
    slots: Vec<Option<(Handle, S)>>,
}

impl<S> Slots<S> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    pub(crate) fn insert(&mut self, handle: Handle, slot: S) {
        let index = handle.index() as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        let place = &mut self.slots[index];
        assert!(place.is_none(), "the reactor frees a handle before it gives its place away");
        *place = Some((handle, slot));
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<S> {
        let place = self.slots.get_mut(handle.index() as usize)?;
        place.take_if(|(owner, _)| *owner == handle).map(|(_, slot)| slot)
    }

    pub(crate) fn find(&self, handle: Handle) -> Option<&S> {
        match self.slots.get(handle.index() as usize)? {
            Some((owner, slot)) if *owner == handle => Some(slot),
            _ => None,
        }
    }

    pub(crate) fn find_mut(&mut self, handle: Handle) -> Option<&mut S> {
        match self.slots.get_mut(handle.index() as usize)? {
            Some((owner, slot)) if *owner == handle => Some(slot),
            _ => None,
        }
    }

    /// The slot of a handle that the caller knows to be adopted.
    pub(crate) fn expect_mut(&mut self, handle: Handle) -> &mut S {
        self.find_mut(handle).expect("the reactor calls only for sockets that it had adopted")
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> {
        self.slots.iter().flatten().map(|(handle, _)| *handle)
    }
}
