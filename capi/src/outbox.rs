//! What is asked of the loop and done later: a ring of fixed size between those who may not touch
//! the library and the one thread that may; and for that one where anything is in it already.
//!
//! Any thread puts in, and any signal handler, whatever it has interrupted: putting in takes no
//! lock, allocates nothing and waits for nobody. Only the owner of the library takes out, and
//! never inside of a signal handler.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Bytes for a handle, for which there is room.
    Send {
        number: i32,
        bytes: &'a [u8],
    },
    /// A timer, as its callback, its data and its interval.
    SetTimer {
        callback: usize,
        data: usize,
        interval_ms: u64,
    },
    DeleteTimer {
        callback: usize,
        data: usize,
    },
}

/// Entries of a header and a payload, in whole words. A header is written last, so an entry whose
/// header is zero is one that somebody is still writing.
pub(crate) struct Outbox {
    words: [AtomicU64; WORDS],
    /// A [`Span`], in one number: so that an empty ring can start from its beginning again, which
    /// keeps those few words in the core's cache, and so that nobody claims by a promise that the
    /// owner has taken back.
    span: AtomicU64,
}

/// The words that are claimed, in 32, 16 and 16 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    /// Words that may be claimed by sends. The sockets have room for so many in all: those that
    /// are claimed are promised.
    promised_max: u32,
    /// Where they begin and end. Both count on and wrap; places are what is left by `WORDS`.
    head: u16,
    tail: u16,
}

impl Span {
    #[expect(clippy::cast_possible_truncation, reason = "it is cut into its parts")]
    const fn unpack(span: u64) -> Self {
        Self { promised_max: (span >> 32) as u32, head: (span >> 16) as u16, tail: span as u16 }
    }

    fn pack(self) -> u64 {
        u64::from(self.promised_max) << 32 | u64::from(self.head) << 16 | u64::from(self.tail)
    }

    const fn is_empty(self) -> bool {
        self.head == self.tail
    }

    const fn len(self) -> usize {
        self.tail.wrapping_sub(self.head) as usize
    }
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; WORDS], span: AtomicU64::new(0) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        Span::unpack(self.span.load(Ordering::Relaxed)).is_empty()
    }

    /// There is room for so many bytes, for all sockets together, those that wait included.
    /// Only the owner knows, and what it does not know is not promised.
    #[inline]
    pub(crate) fn set_room(&self, bytes: usize) {
        self.promise(|_| Some(bytes));
    }

    /// The same, if nothing waits; whether that is so. The owner, who is about to use room up, lets
    /// nobody else have it any more.
    #[inline]
    pub(crate) fn set_room_if_empty(&self, bytes: usize) -> bool {
        self.promise(|span| span.is_empty().then_some(bytes))
    }

    /// Of `room` bytes in all, leaves those that wait to them, and up to `len` of the others to the
    /// owner; how many these are.
    pub(crate) fn set_aside(&self, room: usize, len: usize) -> usize {
        let mut aside = 0;
        self.promise(|span| {
            aside = len.min(room.saturating_sub(span.len() * 8));
            Some(room - aside)
        });
        aside
    }

    /// Puts bytes in, all of them or none; whether there was room.
    pub(crate) fn push_send(&self, number: i32, bytes: &[u8]) -> bool {
        let Some(at) = self.claim(SEND, 1 + bytes.len().div_ceil(8)) else { return false };
        let (whole, rest) = bytes.as_chunks::<8>();
        for (word, bytes) in self.words[at + 1..].iter().zip(whole) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            let place = &self.words[at + 1 + whole.len()];
            place.store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
        let number = u64::from(number.unsigned_abs());
        self.words[at].store(SEND | (bytes.len() as u64) << 32 | number, Ordering::Release);
        true
    }

    pub(crate) fn push_timer(&self, callback: usize, data: usize, interval_ms: u64) -> bool {
        self.push_words(SET_TIMER, [callback as u64, data as u64, interval_ms])
    }

    pub(crate) fn push_delete(&self, callback: usize, data: usize) -> bool {
        self.push_words(DELETE_TIMER, [callback as u64, data as u64, 0])
    }

    /// Takes out what was put in before this call. `scratch` is memory to work with. If `act`
    /// panics, the request in hand is done with, and the others wait for the next time.
    pub(crate) fn drain(&self, scratch: &mut Vec<u8>, mut act: impl FnMut(Request<'_>)) {
        let Span { head, tail, .. } = Span::unpack(self.span.load(Ordering::Acquire));
        let mut drained = Drained { outbox: self, head };
        while drained.head != tail {
            let at = place_of(drained.head);
            let header = self.words[at].load(Ordering::Acquire);
            if header == 0 {
                // Another thread is about to write it. What follows must not overtake it.
                thread::yield_now();
                continue;
            }
            let entry = Entry { drained: &mut drained, at, len: words_of(header) };
            self.take(at, header, scratch, &mut act);
            drop(entry);
        }
    }

    /// Acts on one entry.
    fn take(
        &self,
        at: usize,
        header: u64,
        scratch: &mut Vec<u8>,
        act: &mut impl FnMut(Request<'_>),
    ) {
        let size = size_of(header);
        let kind = header & KINDS;
        match kind {
            PADDING => {}
            SEND => {
                let words = size.div_ceil(8);
                if scratch.len() < words * 8 {
                    scratch.resize(words * 8, 0);
                }
                let (places, _) = scratch.as_chunks_mut::<8>();
                let payload = &self.words[at + 1..][..words];
                for (place, word) in places.iter_mut().zip(payload) {
                    *place = word.load(Ordering::Relaxed).to_ne_bytes();
                }
                let number = i32::try_from(header & NUMBER_MAX).expect("it was one");
                act(Request::Send { number, bytes: &scratch[..size] });
            }
            _ => {
                let word = |index: usize| self.words[at + index].load(Ordering::Relaxed);
                let address = |index: usize| usize::try_from(word(index)).expect("it was one");
                let (callback, data, interval_ms) = (address(1), address(2), word(3));
                act(match kind {
                    SET_TIMER => Request::SetTimer { callback, data, interval_ms },
                    _ => Request::DeleteTimer { callback, data },
                });
            }
        }
    }

    fn push_words(&self, kind: u64, payload: [u64; 3]) -> bool {
        let Some(at) = self.claim(kind, 1 + payload.len()) else { return false };
        for (word, value) in self.words[at + 1..].iter().zip(payload) {
            word.store(value, Ordering::Relaxed);
        }
        self.words[at].store(kind, Ordering::Release);
        true
    }

    /// Promises so much as `room_at` says, in bytes, if it says so; whether it did.
    #[inline]
    fn promise(&self, mut room_at: impl FnMut(Span) -> Option<usize>) -> bool {
        let mut bits = self.span.load(Ordering::Acquire);
        loop {
            let span = Span::unpack(bits);
            let Some(room) = room_at(span) else { return false };
            let promised_max = u32::from(count_of((room / 8).min(WORDS)));
            // Where there is plenty for the whole ring it stays the same, and costs no more.
            if span.promised_max == promised_max {
                return true;
            }
            match self.exchange(bits, Span { promised_max, ..span }) {
                Ok(_) => return true,
                Err(newer) => bits = newer,
            }
        }
    }

    /// The place of an entry of so many words, which nobody else writes to, if there is room.
    fn claim(&self, kind: u64, words: usize) -> Option<usize> {
        let mut bits = self.span.load(Ordering::Acquire);
        loop {
            let span = Span::unpack(bits);
            let max = if kind == SEND { span.promised_max as usize } else { WORDS };
            let at = place_of(span.tail);
            // An entry does not straddle the end.
            let padding = if words > WORDS - at { WORDS - at } else { 0 };
            let claimed = padding + words;
            if span.len() + claimed > max {
                return None;
            }
            let tail = span.tail.wrapping_add(count_of(claimed));
            match self.exchange(bits, Span { tail, ..span }) {
                Ok(_) if padding > 0 => {
                    self.words[at].store(PADDING | (padding as u64) << 32, Ordering::Release);
                    return Some(0);
                }
                Ok(_) => return Some(at),
                Err(newer) => bits = newer,
            }
        }
    }

    fn exchange(&self, known: u64, next: Span) -> Result<u64, u64> {
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        self.span.compare_exchange_weak(known, next.pack(), order, failed)
    }
}

/// What has been taken out, up to `head`, is free when this goes.
struct Drained<'a> {
    outbox: &'a Outbox,
    head: u16,
}

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        let head = self.head;
        // Who claims a place after this sees that its words are zero.
        let release = |bits| {
            let span = Span::unpack(bits);
            let (head, tail) = if head == span.tail { (0, 0) } else { (head, span.tail) };
            Some(Span { head, tail, ..span }.pack())
        };
        let _ = self.outbox.span.fetch_update(Ordering::AcqRel, Ordering::Acquire, release);
    }
}

/// The entry in hand, which is taken out when this goes.
struct Entry<'d, 'a> {
    drained: &'d mut Drained<'a>,
    at: usize,
    len: usize,
}

impl Drop for Entry<'_, '_> {
    fn drop(&mut self) {
        for word in &self.drained.outbox.words[self.at..self.at + self.len] {
            word.store(0, Ordering::Relaxed);
        }
        self.drained.head = self.drained.head.wrapping_add(count_of(self.len));
    }
}

/// What a header says of its payload: how many words of padding, or bytes of a send.
const fn size_of(header: u64) -> usize {
    (header >> 32 & SIZE_MAX) as usize
}

/// How many words an entry has.
const fn words_of(header: u64) -> usize {
    match header & KINDS {
        PADDING => size_of(header),
        SEND => 1 + size_of(header).div_ceil(8),
        _ => 4,
    }
}

const fn place_of(count: u16) -> usize {
    count as usize % WORDS
}

fn count_of(words: usize) -> u16 {
    u16::try_from(words).expect("the ring is shorter than that")
}

/// Bytes that wait at most, headers included.
pub(crate) const OUTBOX_LEN: u32 = 256 << 10;

/// The longest send that is put in, in bytes.
pub(crate) const SEND_MAX: usize = 64 << 10;

const WORDS: usize = OUTBOX_LEN as usize / 8;
const NUMBER_MAX: u64 = i32::MAX as u64;
const SIZE_MAX: u64 = (1 << 24) - 1;
const KINDS: u64 = 0xFF << 56;
const PADDING: u64 = 1 << 56;
const SEND: u64 = 2 << 56;
const SET_TIMER: u64 = 3 << 56;
const DELETE_TIMER: u64 = 4 << 56;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251).to_le_bytes()[0]).collect()
    }

    fn with_room() -> Box<Outbox> {
        let outbox = Box::new(Outbox::new());
        outbox.set_room(usize::MAX);
        outbox
    }

    /// What is put in comes out as it was, in that order.
    #[test]
    fn requests_come_out_in_order_and_whole() {
        let outbox = with_room();
        let mut scratch = Vec::new();
        for round in 0..2000_usize {
            let bytes = pattern(round % 1900);
            let number = i32::try_from(round).unwrap() + 1;
            assert!(outbox.push_send(number, &bytes));
            assert!(outbox.push_timer(round, 7, u64::MAX));
            assert!(outbox.push_delete(8, round));
            let mut told = 0;
            outbox.drain(&mut scratch, |request| {
                let expected = [
                    Request::Send { number, bytes: &bytes },
                    Request::SetTimer { callback: round, data: 7, interval_ms: u64::MAX },
                    Request::DeleteTimer { callback: 8, data: round },
                ];
                assert_eq!(request, expected[told]);
                told += 1;
            });
            assert_eq!(told, 3);
            assert!(outbox.is_empty());
        }
        // Else what is about to be written would look as if it were.
        assert!(outbox.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    /// A ring that is never empty goes on from its end to its beginning.
    #[test]
    fn requests_come_out_whole_across_the_end() {
        let outbox = with_room();
        let (mut sent, mut came) = (0, 0);
        assert!(outbox.push_timer(0, 0, 0), "the first one");
        for _ in 0..2000 {
            outbox.drain(&mut Vec::new(), |request| {
                // What is put in meanwhile waits for the next time.
                sent += 1;
                assert!(outbox.push_send(sent, &pattern(sent.unsigned_abs() as usize)));
                let Request::Send { number, bytes } = request else { return };
                came += 1;
                assert_eq!(number, came);
                assert_eq!(bytes, pattern(came.unsigned_abs() as usize));
            });
        }
        assert_eq!((sent, came), (2000, 1999));
    }

    /// A full ring takes nothing, and everything that it took before is still there.
    #[test]
    fn a_full_ring_refuses_whole_requests() {
        let outbox = with_room();
        let bytes = pattern(SEND_MAX);
        let mut taken = 0;
        while outbox.push_send(1, &bytes) {
            taken += 1;
        }
        assert_eq!(taken, 3, "256 KiB hold three of 64 KiB with their headers");
        let mut out = 0;
        outbox.drain(&mut Vec::new(), |request| {
            assert_eq!(request, Request::Send { number: 1, bytes: &bytes });
            out += 1;
        });
        assert_eq!(out, taken);
        assert!(outbox.push_send(1, &bytes), "there is room again");
    }

    /// Sends are taken as far as there is room for all; timers are not kept from coming.
    #[test]
    fn sends_wait_for_room_in_all() {
        let outbox = Box::new(Outbox::new());
        assert!(!outbox.push_send(1, b"hello",), "no room is known of");
        outbox.set_room(40);
        assert!(outbox.push_send(1, b"sixteen of bytes"));
        assert!(!outbox.push_send(1, b"sixteen of bytes"), "those that wait count");
        assert!(outbox.push_delete(1, 2));
        assert!(!outbox.is_empty());
        outbox.drain(&mut Vec::new(), |_| ());
        assert!(outbox.push_send(1, b"sixteen of bytes"));
    }

    /// The owner takes what is promised to nobody, and only while nothing waits where that matters.
    #[test]
    fn the_owner_takes_what_nobody_was_promised() {
        let outbox = Box::new(Outbox::new());
        assert_eq!(outbox.set_aside(100, 20), 20);
        assert!(outbox.push_send(1, &[0; 72]), "80 are left");
        assert_eq!(outbox.set_aside(100, 30), 20, "80 wait");
        assert!(!outbox.push_send(1, &[]));
        assert!(!outbox.set_room_if_empty(100));
        assert!(!outbox.push_send(1, &[]), "that changed nothing");
        outbox.drain(&mut Vec::new(), |_| ());
        assert!(outbox.set_room_if_empty(15));
        assert!(!outbox.push_send(1, b"x"));
        assert!(outbox.set_room_if_empty(16));
        assert!(outbox.push_send(1, b"x"));
        assert_eq!(outbox.set_aside(8, 1), 0, "more waits than there is room for by now");
    }

    /// Who puts something in while the owner looks is seen, and keeps its room.
    #[test]
    fn the_owner_looks_again() {
        let outbox = Box::new(Outbox::new());
        outbox.set_room(100);
        let mut looks = Vec::new();
        let is_done = outbox.promise(|span| {
            looks.push(span.len());
            if looks.len() == 1 {
                assert!(outbox.push_send(1, b"x"), "the room is promised still");
            }
            span.is_empty().then_some(8)
        });
        assert!(!is_done);
        assert_eq!(looks, [0, 2]);
        assert!(outbox.push_send(1, b"x"), "nothing has changed");
    }

    /// A panic takes the request in hand with it, and neither those before nor those behind.
    #[test]
    fn a_panic_costs_one_request() {
        let outbox = with_room();
        for data in 0..5 {
            assert!(outbox.push_delete(9, data));
        }
        let mut done = Vec::new();
        while !outbox.is_empty() {
            let drained = catch_unwind(AssertUnwindSafe(|| {
                outbox.drain(&mut Vec::new(), |request| {
                    let Request::DeleteTimer { data, .. } = request else { unreachable!() };
                    assert_ne!(data, 2, "on purpose");
                    done.push(data);
                });
            }));
            assert_eq!(drained.is_err(), done == [0, 1]);
        }
        assert_eq!(done, [0, 1, 3, 4]);
        assert!(outbox.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    /// Threads that put in at once lose nothing, and each keeps its own order.
    #[test]
    fn threads_share_the_ring() {
        const COUNT: u64 = 20_000;
        let outbox = with_room();
        let mut next = [0; 3];
        thread::scope(|scope| {
            for thread in 0..3 {
                let outbox = &outbox;
                scope.spawn(move || {
                    for number in 0..COUNT {
                        while !outbox.push_timer(thread, 0, number) {
                            thread::yield_now();
                        }
                    }
                });
            }
            while next != [COUNT; 3] {
                outbox.drain(&mut Vec::new(), |request| {
                    let Request::SetTimer { callback, interval_ms, .. } = request else {
                        panic!("{request:?} was not put in");
                    };
                    assert_eq!(interval_ms, next[callback]);
                    next[callback] += 1;
                });
            }
        });
    }
}
