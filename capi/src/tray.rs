//! Short sends of the owner's own, on their way to the runtime: until the callback in hand is over,
//! or outside of the loop, after a stop, until the next call that needs it or the loop.
//!
//! The outbox would do, as it does for everybody else; here nobody comes between, so it costs no
//! atomic operation. Nothing is allocated after the start: whoever puts in may be a signal handler
//! that has interrupted `malloc`. Only who is inside of the library comes near it.

#![forbid(unsafe_code)]

/// Entries of a header and a payload, one behind the other.
#[derive(Debug)]
pub(crate) struct Tray {
    space: Box<[u8]>,
    /// Where the next one to be taken out begins.
    start: usize,
    end: usize,
}

impl Tray {
    pub(crate) fn new() -> Self {
        Self { space: vec![0; TRAY_LEN].into(), start: 0, end: 0 }
    }

    /// Puts bytes in, all of them or none; whether there was room.
    #[inline]
    pub(crate) fn push(&mut self, number: i32, bytes: &[u8]) -> bool {
        let Some(end) = self.end_of(bytes.len()) else { return false };
        let place = &mut self.space[self.end..end];
        let (header, payload) = place.split_at_mut(HEADER_LEN);
        let len = u32::try_from(bytes.len()).expect("it is shorter than the tray");
        header[..4].copy_from_slice(&number.to_ne_bytes());
        header[4..].copy_from_slice(&len.to_ne_bytes());
        payload.copy_from_slice(bytes);
        self.end = end;
        true
    }

    /// Takes the first one out.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(i32, &[u8])> {
        let (number, rest) = self.space[self.start..self.end].split_first_chunk()?;
        let (len, _) = rest.split_first_chunk().expect("a header has two parts");
        let (number, len) = (i32::from_ne_bytes(*number), u32::from_ne_bytes(*len) as usize);
        let from = self.start + HEADER_LEN;
        self.start = from + len;
        if self.start == self.end {
            // The next ones come where these were, which the core's cache has.
            (self.start, self.end) = (0, 0);
        }
        Some((number, &self.space[from..from + len]))
    }

    /// Whether there is room for so many bytes.
    #[inline]
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.end_of(len).is_some()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Bytes that wait, and somewhat more: headers count as well.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// How much longer it is with so many bytes more.
    #[inline]
    pub(crate) const fn len_of(bytes_len: usize) -> usize {
        HEADER_LEN.saturating_add(bytes_len)
    }

    fn end_of(&self, len: usize) -> Option<usize> {
        let end = self.end.checked_add(Self::len_of(len))?;
        (end <= TRAY_LEN).then_some(end)
    }
}

const TRAY_LEN: usize = 64 << 10;
/// Of an entry: whose it is, and how long its payload is.
const HEADER_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// What is put in comes out as it was, in that order, also where more is put in meanwhile.
    #[test]
    fn sends_come_out_in_order_and_whole() {
        let mut tray = Tray::new();
        let bytes: Vec<u8> = (0..=255).collect();
        let (mut sent, mut came) = (0, 0);
        for round in 0..2000_usize {
            for _ in 0..=round % 3 {
                sent += 1;
                assert!(tray.push(sent, &bytes[..sent.unsigned_abs() as usize % 257]));
            }
            while came < sent - i32::try_from(round % 2).unwrap() {
                came += 1;
                let expected = &bytes[..came.unsigned_abs() as usize % 257];
                assert_eq!(tray.pop(), Some((came, expected)));
            }
            if came == sent {
                assert_eq!(tray.pop(), None);
                assert!(tray.is_empty());
            }
        }
    }

    /// A full tray takes nothing, keeps what it has, and is as good as new when that is out.
    #[test]
    fn a_full_tray_refuses_whole_sends() {
        let mut tray = Tray::new();
        let bytes = vec![7; 20_000];
        for _ in 0..3 {
            assert!(tray.has_room(bytes.len()) && tray.push(1, &bytes));
        }
        assert!(!tray.has_room(bytes.len()) && !tray.push(1, &bytes));
        assert!(!tray.has_room(usize::MAX));
        assert!((60_000..60_100).contains(&tray.len()));
        for _ in 0..3 {
            assert_eq!(tray.pop(), Some((1, &bytes[..])));
        }
        assert!(tray.push(i32::MAX, &[0; TRAY_LEN - HEADER_LEN]));
        assert_eq!(
            tray.pop().map(|(number, bytes)| (number, bytes.len())),
            Some((i32::MAX, 65_528))
        );
    }
}
