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
    /// How often an entry came, went, or was given out to be changed, but for quiet changes.
    changes: u64,
}

impl<T> Table<T> {
    pub(crate) const fn new(len_max: usize) -> Self {
        Self { slab: Slab::new(), generation: 0, len_max, changes: 0 }
    }

    /// A handle for a new entry; `None`, and the entry back, when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Handle, T> {
        if self.slab.len() >= self.len_max {
            return Err(value);
        }
        self.changes += 1;
        self.generation = self.generation % Handle::GENERATION_MAX + 1;
        let index = self.slab.insert((self.generation, value));
        let index = u32::try_from(index).expect("a table is limited to 2³² entries");
        Ok(Handle::new(index, self.generation))
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<T> {
        self.find(handle)?;
        self.changes += 1;
        Some(self.slab.remove(handle.index() as usize).1)
    }

    pub(crate) fn find(&self, handle: Handle) -> Option<&T> {
        match self.slab.get(handle.index() as usize) {
            Some((generation, value)) if *generation == handle.generation() => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn find_mut(&mut self, handle: Handle) -> Option<&mut T> {
        self.changes += 1;
        self.find_quietly(handle)
    }

    /// As [`find_mut`](Self::find_mut), for changes that do not count as such: nobody may go by
    /// [`changes`](Self::changes) who cares for what is changed in this way.
    #[inline]
    pub(crate) fn find_quietly(&mut self, handle: Handle) -> Option<&mut T> {
        match self.slab.get_mut(handle.index() as usize) {
            Some((generation, value)) if *generation == handle.generation() => Some(value),
            _ => None,
        }
    }

    /// A number that stays the same for as long as no entry may have changed, but quietly: what
    /// else was learnt of one still holds.
    #[inline]
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
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

    /// Every way to change an entry is noticed, but the one that says it is not to be.
    #[test]
    fn changes_are_noticed() {
        let mut table = Table::new(2);
        let mut last = table.changes();
        let mut is_new = |changes: u64| std::mem::replace(&mut last, changes) != changes;
        let handle = table.insert('a').unwrap();
        assert!(is_new(table.changes()));
        assert_eq!(table.find(handle), Some(&'a'));
        assert_eq!(table.find_quietly(handle), Some(&mut 'a'));
        assert!(!is_new(table.changes()));
        assert_eq!(table.find_mut(handle), Some(&mut 'a'));
        assert!(is_new(table.changes()));
        table.remove(handle);
        assert!(is_new(table.changes()));
    }

    /// Generations wrap to one, never to zero.
    #[test]
    fn generations_wrap_without_zero() {
        let mut table = Table::new(1);
        table.generation = Handle::GENERATION_MAX;
        assert_eq!(table.insert(()).unwrap().generation(), 1);
    }
}
