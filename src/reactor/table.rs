//! A slab with generations: handles that go stale instead of naming the next one in their place.

#![forbid(unsafe_code)]

use slab::Slab;

use crate::event::Handle;

#[derive(Debug)]
pub(crate) struct Table<T> {
    slab: Slab<(u32, T)>,
    /// Of the newest entry. One count for the whole table, so that a place that is used over and
    /// over does not run through the generations faster than the table as a whole.
    generation: u32,
    len_max: usize,
}

impl<T> Table<T> {
    pub(crate) const fn new(len_max: usize) -> Self {
        Self { slab: Slab::new(), generation: 0, len_max }
    }

    /// A handle for a new entry; `None`, and the entry back, when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Handle, T> {
        if self.slab.len() >= self.len_max {
            return Err(value);
        }
        self.generation = self.generation % Handle::GENERATION_MAX + 1;
        let index = self.slab.insert((self.generation, value));
        let index = u32::try_from(index).expect("a table is limited to 2³² entries");
        Ok(Handle::new(index, self.generation))
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<T> {
        self.find(handle)?;
        Some(self.slab.remove(handle.index() as usize).1)
    }

    pub(crate) fn find(&self, handle: Handle) -> Option<&T> {
        match self.slab.get(handle.index() as usize) {
            Some((generation, value)) if *generation == handle.generation() => Some(value),
            _ => None,
        }
    }

    pub(crate) fn find_mut(&mut self, handle: Handle) -> Option<&mut T> {
        match self.slab.get_mut(handle.index() as usize) {
            Some((generation, value)) if *generation == handle.generation() => Some(value),
            _ => None,
        }
    }

    /// All entries, with their handles.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slab.iter().map(|(index, (generation, value))| {
            let index = u32::try_from(index).expect("a table is limited to 2³² entries");
            (Handle::new(index, *generation), value)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handle finds its own entry for as long as it is there, and nothing after that.
    #[test]
    fn a_stale_handle_finds_nothing() {
        let mut table = Table::new(2);
        let first = table.insert('a').unwrap();
        let second = table.insert('b').unwrap();
        assert_eq!(table.insert('c'), Err('c'), "the table is full");
        assert_eq!(table.remove(first), Some('a'));
        let third = table.insert('c').unwrap();
        assert_eq!(third.index(), first.index(), "the place is used again");
        assert_eq!(table.find(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!((table.find(second), table.find(third)), (Some(&'b'), Some(&'c')));
        assert_eq!(table.find(Handle::NONE), None);
    }

    /// Generations wrap to one, never to zero.
    #[test]
    fn generations_wrap_without_zero() {
        let mut table = Table::new(1);
        table.generation = Handle::GENERATION_MAX;
        assert_eq!(table.insert(()).unwrap().generation(), 1);
    }
}
