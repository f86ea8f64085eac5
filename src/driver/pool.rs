//! Receive buffers of one driver: one block of memory, cut into buffers of one size.
//!
//! A buffer is free, with the kernel, or lent as a [`Chunk`]; the last chunk of a buffer gives it
//! back when it is dropped. Only those of half of the buffers may be kept for longer than the
//! dispatch of their completion (I6), so the other half is bounded by one batch and not by slow
//! peers. The memory lives until the last chunk is gone.

#![expect(unsafe_code, reason = "buffers change hands with the kernel")]

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::{fmt, io, iter, slice};

#[derive(Clone)]
pub(crate) struct Pool {
    region: Rc<Region>,
}

struct Region {
    memory: NonNull<u8>,
    layout: Layout,
    buffer_len: usize,
    count: u16,
    /// The free ones. Last in, first out: the buffer that is still warm goes next.
    free: RefCell<Vec<u16>>,
    /// How many chunks each of the buffers has that are kept; none of the others is counted.
    chunks: Box<[Cell<u32>]>,
    /// How many buffers are kept.
    kept: Cell<u16>,
    /// Whether what comes back is overwritten, so that its use is seen.
    #[cfg(feature = "sim")]
    is_poisoned: bool,
}

impl Pool {
    /// A pool of `count` buffers; `ENOMEM` where there is not as much memory.
    pub(crate) fn new(count: u16, buffer_len: u32) -> io::Result<Self> {
        let region = Region::new(count, buffer_len)?;
        Ok(Self { region: Rc::new(region) })
    }

    /// A pool whose buffers are overwritten when they come back.
    #[cfg(feature = "sim")]
    pub(crate) fn poisoned(count: u16, buffer_len: u32) -> io::Result<Self> {
        let mut region = Region::new(count, buffer_len)?;
        region.is_poisoned = true;
        Ok(Self { region: Rc::new(region) })
    }

    /// A free buffer, as an empty chunk to be filled.
    pub(crate) fn take(&self) -> Option<Chunk> {
        let id = self.region.free.borrow_mut().pop()?;
        Some(Chunk { region: Rc::clone(&self.region), id, len: 0 })
    }

    /// One of the free buffers, by its place among them; the last is the one that
    /// [`take`](Self::take) gives.
    #[cfg(feature = "sim")]
    pub(crate) fn take_any(&self, place: usize) -> Option<Chunk> {
        let mut free = self.region.free.borrow_mut();
        let id = (place < free.len()).then(|| free.swap_remove(place))?;
        Some(Chunk { region: Rc::clone(&self.region), id, len: 0 })
    }

    /// Takes a free buffer out for the kernel: its id, and where it is.
    pub(crate) fn give_to_kernel(&self) -> Option<(u16, *mut u8)> {
        let id = self.region.free.borrow_mut().pop()?;
        Some((id, self.region.address(id)))
    }

    /// The chunk that the kernel filled: `len` bytes of a buffer that was given to it.
    #[inline]
    pub(crate) fn claim(&self, id: u16, len: u32) -> Chunk {
        assert!(id < self.region.count, "the kernel returns only ids that it was given");
        assert!(len as usize <= self.region.buffer_len, "the kernel stays within a buffer");
        Chunk { region: Rc::clone(&self.region), id, len }
    }

    pub(crate) fn buffer_len(&self) -> usize {
        self.region.buffer_len
    }

    pub(crate) fn count(&self) -> u16 {
        self.region.count
    }

    pub(crate) fn free_count(&self) -> usize {
        self.region.free.borrow().len()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, len, free) = (self.count(), self.buffer_len(), self.free_count());
        write!(f, "Pool({count} of {len} bytes, {free} free)")
    }
}

impl Region {
    fn new(count: u16, buffer_len: u32) -> io::Result<Self> {
        let buffer_len = buffer_len as usize;
        let layout = Layout::from_size_align(usize::from(count) * buffer_len, ALIGN)
            .expect("Options: 32768 buffers of 1 MiB fit into an address space");
        assert!(layout.size() > 0, "Options: a pool has buffers, and they have bytes");
        // SAFETY: the layout's size is not zero, by the assertion above.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
        let free = RefCell::new((0..count).rev().collect());
        Ok(Self {
            memory,
            layout,
            buffer_len,
            count,
            free,
            chunks: iter::repeat_n(Cell::new(0), count.into()).collect(),
            kept: Cell::new(0),
            #[cfg(feature = "sim")]
            is_poisoned: false,
        })
    }

    #[inline]
    fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "a buffer's id is below the count");
        self.memory.as_ptr().wrapping_add(usize::from(id) * self.buffer_len)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated by `Pool::new` with this very layout. Nobody points into it any more:
        // chunks hold the region alive, and a driver keeps its pool until the kernel is done (D9).
        unsafe { alloc::dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// One received buffer, lent. Dropping it gives the buffer back, unless the chunk is
/// [kept](Self::keep) elsewhere.
pub(crate) struct Chunk {
    region: Rc<Region>,
    id: u16,
    len: u32,
}

impl Chunk {
    /// The same bytes once more, to be kept for longer than they are dispatched. `None` where
    /// half of the buffers are kept already.
    pub(crate) fn keep(&self) -> Option<Self> {
        let Region { chunks, kept, count, .. } = &*self.region;
        let chunks = &chunks[usize::from(self.id)];
        match chunks.get() {
            0 if kept.get() >= count / 2 => return None,
            0 => {
                kept.set(kept.get() + 1);
                chunks.set(2);
            }
            several => chunks.set(several + 1),
        }
        Some(Self { region: Rc::clone(&self.region), ..*self })
    }

    /// How long its buffer is.
    #[inline]
    pub(crate) fn space_len(&self) -> usize {
        self.region.buffer_len
    }

    /// Whether both are of the same buffer.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && Rc::ptr_eq(&self.region, &other.region)
    }

    /// The whole buffer, to be written to.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        assert_eq!(self.region.chunks[usize::from(self.id)].get(), 0, "nobody else reads it");
        let address = self.region.address(self.id);
        // SAFETY: `address` starts one buffer of `buffer_len` initialised bytes inside the region,
        // which this chunk keeps alive. A buffer is free, the kernel's or lent, and lent to no
        // other chunk, as was asserted; so nobody else reads or writes it during this borrow.
        unsafe { slice::from_raw_parts_mut(address, self.region.buffer_len) }
    }

    /// Says how many bytes of the space were written.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.region.buffer_len, "a chunk is at most one buffer long");
        self.len = u32::try_from(len).expect("Options: a buffer is at most 1 MiB long");
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let address = self.region.address(self.id);
        // SAFETY: as in `space`, but that others may read as well; nobody writes while there are
        // several chunks. `len` was checked against the buffer's length when it was set.
        unsafe { slice::from_raw_parts(address, self.len as usize) }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        let chunks = &self.region.chunks[usize::from(self.id)];
        match chunks.get() {
            0 => {}
            1 => {
                chunks.set(0);
                self.region.kept.set(self.region.kept.get() - 1);
            }
            several => return chunks.set(several - 1),
        }
        #[cfg(feature = "sim")]
        if self.region.is_poisoned {
            let len = self.len as usize;
            self.space()[..len].fill(POISON);
        }
        self.region.free.borrow_mut().push(self.id);
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

/// What a buffer holds that came back: bytes that no test sends in a row.
#[cfg(feature = "sim")]
const POISON: u8 = 0xDD;

/// Alignment of the block: buffers of a page start at a page.
const ALIGN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every buffer is lent at most once, holds its own bytes, and comes back when dropped.
    #[test]
    fn a_buffer_is_lent_once_and_comes_back() {
        let pool = Pool::new(3, 64).unwrap();
        let mut lent: Vec<Chunk> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none());
        for (mark, chunk) in (1u8..).zip(&mut lent) {
            chunk.space().fill(mark);
            chunk.set_len(usize::from(mark));
        }
        for (mark, chunk) in (1u8..).zip(&lent) {
            assert_eq!(**chunk, vec![mark; usize::from(mark)][..]);
        }
        lent.pop();
        assert_eq!(pool.free_count(), 1);
        drop(lent);
        assert_eq!(pool.free_count(), 3);
    }

    /// A chunk keeps its memory alive, even when the pool is gone.
    #[test]
    fn a_chunk_outlives_its_pool() {
        let pool = Pool::new(1, 64).unwrap();
        let mut chunk = pool.take().unwrap();
        drop(pool);
        chunk.space()[0] = 7;
        chunk.set_len(1);
        assert_eq!(*chunk, [7]);
    }

    /// What was in a buffer that came back is overwritten, where that is asked for.
    #[cfg(feature = "sim")]
    #[test]
    fn a_poisoned_buffer_keeps_nothing() {
        let pool = Pool::poisoned(1, 64).unwrap();
        let mut chunk = pool.take().unwrap();
        chunk.space().fill(7);
        chunk.set_len(10);
        drop(chunk);
        assert_eq!(pool.take().unwrap().space()[..11], [[POISON; 10].as_slice(), &[7]].concat());
    }

    /// The kernel cannot make us read past a buffer.
    #[test]
    #[should_panic(expected = "within a buffer")]
    fn a_length_past_the_buffer_is_refused() {
        let pool = Pool::new(1, 64).unwrap();
        let (id, _) = pool.give_to_kernel().unwrap();
        drop(pool.claim(id, 65));
    }
}
