//! Buffers that the kernel fills when bytes come, in a ring that it shares with us.
//!
//! The kernel takes them in order, and each is the warmer in the core's cache the sooner it comes
//! round again. So the kernel is given few at a time, those first that came back last, and more
//! only when they did not suffice. Nothing here is ever freed, for the kernel may write to it as
//! long as the ring lives.

use std::alloc::{self, Layout};
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

pub(super) struct Buffers {
    /// Shared with the kernel; as many entries as there are buffers.
    entries: NonNull<BufRingEntry>,
    /// All buffers, one behind the other.
    memory: NonNull<u8>,
    count: u16,
    buffer_len: usize,
    /// Behind the last entry that the kernel was told of.
    tail: u16,
    /// Buffers that the kernel has, and how many it should have.
    provided: u16,
    provided_aim: u16,
    /// Buffers that nobody has, the warmest last.
    free: Vec<u16>,
}

impl Buffers {
    /// `count` is a power of two; the kernel has `provided_aim` of them at first.
    pub(super) fn register(
        ring: &IoUring,
        group: u16,
        (provided_aim, count): (u16, u16),
        buffer_len: usize,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two");
        let entries = allocate(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let memory = allocate(usize::from(count) * buffer_len)?;
        let address = entries.as_ptr() as u64;
        // SAFETY: `entries` is page-aligned memory for `count` entries, and is never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, group, 0) }?;
        let (tail, provided, free) = (0, 0, (0..count).collect());
        Ok(Self { entries, memory, count, buffer_len, tail, provided, provided_aim, free })
    }

    /// Notes that the kernel has filled a buffer.
    pub(super) const fn take(&mut self) {
        self.provided -= 1;
    }

    /// Notes that the kernel has found no buffer.
    pub(super) fn ask_for_more(&mut self) {
        self.provided_aim = (self.provided_aim * 2).min(self.count);
    }

    /// Ends the use of a buffer.
    pub(super) fn give_back(&mut self, id: u16) {
        self.free.push(id);
    }

    /// Gives the kernel as many buffers as it should have. One store, however many they are.
    pub(super) fn provide(&mut self) {
        let before = self.tail;
        while self.provided < self.provided_aim
            && let Some(id) = self.free.pop()
        {
            self.write_entry(id);
            self.tail = self.tail.wrapping_add(1);
            self.provided += 1;
        }
        if self.tail != before {
            self.store_tail();
        }
    }

    fn write_entry(&mut self, id: u16) {
        let (address, slot) = (self.address(id), usize::from(self.tail & (self.count - 1)));
        // SAFETY: `slot` is below `count`, so the entry is inside of the memory of the entries.
        let mut entry = unsafe { self.entries.add(slot) };
        // SAFETY: the kernel reads entries only up to the tail that it was told, and this one is
        // past it, as it has no more buffers than there are; nobody else refers to it.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address as u64);
        entry.set_len(u32::try_from(self.buffer_len).expect("buffers are some KiB"));
        entry.set_bid(id);
    }

    fn store_tail(&self) {
        // SAFETY: `entries` is the address of the first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 that lives as long as the entries; this side writes
        // it only here, atomically, and the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries are written before the kernel sees the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }

    /// The first bytes of a buffer that was taken and not given back.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(len <= self.buffer_len, "the kernel fills no more than a buffer");
        // SAFETY: inside of the memory, which was zeroed at first and so is initialized. The
        // kernel does not write to a buffer that it has filled before that is given back, which
        // takes `self` mutably; what is received into the rest of one lies behind `len`.
        unsafe { slice::from_raw_parts(self.address(id), len) }
    }

    /// Where a buffer begins.
    pub(super) fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "the kernel names only buffers that it was given");
        // SAFETY: `id` is below `count`, so the buffer is inside of the memory of all.
        unsafe { self.memory.add(usize::from(id) * self.buffer_len) }.as_ptr()
    }

    /// Whether so few buffers are left that none should be kept for long.
    pub(super) fn is_short(&self) -> bool {
        self.free.len() < usize::from(self.count / 2)
    }
}

/// Zeroed memory at a page boundary, for as long as the process lives.
fn allocate(len: usize) -> io::Result<NonNull<u8>> {
    let layout = Layout::from_size_align(len, PAGE_LEN).map_err(io::Error::other)?;
    assert!(len > 0, "there is at least one buffer, and it has bytes");
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(memory).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

const PAGE_LEN: usize = 4096;
