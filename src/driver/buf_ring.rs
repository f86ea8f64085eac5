//! The provided-buffer ring: where the kernel finds receive buffers.
//!
//! Buffers that came back are put into it with one release store a turn. The kernel takes them
//! from its head in order and names each by its id in the completion.

#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{fmt, io};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::pool::{Chunk, Pool};

pub(crate) struct BufRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    /// Slots of the ring less one; their number is a power of two.
    mask: u16,
    tail: u16,
    /// Buffers that the kernel has.
    provided: u16,
    pool: Pool,
}

/// The one buffer group that a ring has.
pub(crate) const GROUP: u16 = 0;

impl BufRing {
    /// Registers a ring for all of the pool's buffers, and fills it.
    pub(crate) fn register(ring: &IoUring, pool: Pool) -> io::Result<Self> {
        let slots = pool.count().next_power_of_two();
        let layout = Layout::array::<BufRingEntry>(usize::from(slots))
            .and_then(|layout| layout.align_to(PAGE))
            .expect("32768 entries fit into an address space");
        // SAFETY: there is at least one slot, so the layout's size is not zero.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        let entries = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut this = Self { entries, layout, mask: slots - 1, tail: 0, provided: 0, pool };
        let address = entries.as_ptr() as u64;
        // SAFETY: `entries` is page-aligned memory for `slots` entries, and it is freed only by
        // `drop`, which the ring driver runs after the ring itself is gone (D9).
        unsafe { ring.submitter().register_buf_ring_with_flags(address, slots, GROUP, 0) }?;
        this.publish();
        Ok(this)
    }

    /// Hands all free buffers to the kernel. One store, however many they are.
    pub(crate) fn publish(&mut self) {
        let before = self.tail;
        while let Some((id, address)) = self.pool.give_to_kernel() {
            let slot = usize::from(self.tail & self.mask);
            // SAFETY: `slot` is at most `mask`, so the entry is inside the ring's memory.
            let mut entry = unsafe { self.entries.add(slot) };
            // SAFETY: the kernel reads entries only up to the tail that is stored below, and this
            // one is past it; on this side `self` is borrowed mutably, and owns the memory.
            let entry = unsafe { entry.as_mut() };
            entry.set_addr(address as u64);
            entry.set_len(u32::try_from(self.pool.buffer_len()).expect("at most 1 MiB"));
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
        }
        if self.tail != before {
            self.store_tail();
        }
    }

    fn store_tail(&self) {
        // SAFETY: `entries` is the address of the ring's first entry, as `tail` asks for.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is a u16 of ours at an even address, alive as long as the ring; this
        // side writes it only here, atomically, and the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries are written before the kernel sees the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }

    /// The chunk of a completion that carries a buffer.
    #[inline]
    pub(crate) fn claim(&mut self, id: u16, len: u32) -> Chunk {
        assert!(self.provided > 0, "the kernel returns only buffers that it was given");
        self.provided -= 1;
        self.pool.claim(id, len)
    }

    pub(crate) fn provided(&self) -> u16 {
        self.provided
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: allocated by `register` with this layout; the ring that knew of it is gone, or
        // the driver has leaked this value instead of dropping it (D9).
        unsafe { alloc::dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}

impl fmt::Debug for BufRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufRing({} provided of {:?})", self.provided, self.pool)
    }
}

/// The kernel wants the ring's memory at a page boundary, and pages have up to 64 KiB.
const PAGE: usize = 64 * 1024;

const _: () = assert!(size_of::<BufRingEntry>() == 16, "the kernel's layout of an entry");
