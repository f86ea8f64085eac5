//! Bytes that are sent to many: one body, held by reference count wherever it waits.
//!
//! Never copied once it is here, unless it is so short that copying is cheaper. See
//! `driver/outgoing.rs` for how it travels between a socket's own bytes.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::pdu::{self, EncodeError, Header};

/// Bytes to be sent to many, encoded once and shared from there on.
///
/// A clone is another reference to the same bytes. They are freed when the last one is gone: the
/// application's own, and those of the sockets that have yet to send them.
///
/// ```
/// use uring_netlib::pdu::Header;
/// use uring_netlib::{Handle, Netlib, Shared};
///
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct Said {
///     #[prost(string, tag = "1")]
///     text: String,
/// }
///
/// /// Tells everybody in a room, and says how many could not be told.
/// fn say<A>(net: &mut Netlib<A>, room: &[Handle], text: &str) -> usize {
///     let said = Said { text: text.to_owned() };
///     match Shared::pdu(Header::new(3, 0x0301), &said, 1 << 20) {
///         Ok(shared) => net.broadcast(room.iter().copied(), &shared).refused,
///         Err(_) => room.len(),
///     }
/// }
/// # let _ = say::<()>;
/// ```
#[derive(Clone)]
pub struct Shared {
    body: Rc<Body>,
}

struct Body {
    bytes: Bytes,
    /// Whose backlogs `queued` counts.
    ledger: Cell<Ledger>,
    queued: Cell<usize>,
}

impl Shared {
    /// A PDU, `header` and `message`, of at most `max` bytes, header included.
    ///
    /// ```
    /// use uring_netlib::Shared;
    /// use uring_netlib::pdu::Header;
    ///
    /// let heartbeat = Shared::pdu(Header::new(7, 0x0701), &(), 1 << 20)?;
    /// assert_eq!(heartbeat.bytes()[..], *b"\0\0\0\x10\0\x01\0\0\0\x07\x07\x01\0\0\0\0");
    /// # Ok::<(), uring_netlib::pdu::EncodeError>(())
    /// ```
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] where it would have more than `max` bytes.
    ///
    /// # Panics
    /// When a message that is written by hand encodes to another length than it says.
    pub fn pdu(
        header: Header,
        message: &impl prost::Message,
        max: u32,
    ) -> Result<Self, EncodeError> {
        let mut bytes = Vec::new();
        pdu::encode(&header, message, max, &mut bytes)?;
        Ok(Self::from(bytes))
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.bytes.len()
    }

    /// Whether it has a place that is counted there.
    pub(crate) fn is_counted_by(&self, ledger: Ledger) -> bool {
        self.body.queued.get() > 0 && self.body.ledger.get() == ledger
    }

    /// Whether there are none, so that sending them does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.bytes.is_empty()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.body.bytes
    }
}

impl From<Bytes> for Shared {
    fn from(bytes: Bytes) -> Self {
        let (ledger, queued) = (Cell::new(Ledger::NONE), Cell::new(0));
        Self { body: Rc::new(Body { bytes, ledger, queued }) }
    }
}

impl From<Vec<u8>> for Shared {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} bytes, queued {} times)", self.len(), self.body.queued.get())
    }
}

/// A body's place in one backlog, until it was sent or given up.
///
/// Bodies are counted, so that the bytes of a body can be charged once to whoever holds it in many
/// backlogs. While one owner of backlogs holds a body, others hold it uncounted, as if each of
/// their places were the only one.
#[derive(Debug)]
pub(crate) struct Queued {
    shared: Shared,
    is_counted: bool,
}

impl Queued {
    pub(crate) fn new(shared: &Shared, ledger: Ledger) -> Self {
        let body = &shared.body;
        if body.queued.get() == 0 {
            body.ledger.set(ledger);
        }
        let is_counted = body.ledger.get() == ledger;
        if is_counted {
            body.queued.set(body.queued.get() + 1);
        }
        Self { shared: shared.clone(), is_counted }
    }

    /// Whether the body has no other place that is counted with this one, so that dropping this
    /// one lets go of it.
    pub(crate) fn is_only(&self) -> bool {
        !self.is_counted || self.shared.body.queued.get() == 1
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.shared.body.bytes
    }

    /// Gives the place up; the body's memory, where nobody else has the body any more.
    pub(crate) fn into_buffer(self) -> Option<Vec<u8>> {
        let body = Rc::clone(&self.shared.body);
        drop(self);
        into_buffer(Rc::into_inner(body)?.bytes)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.is_counted {
            let queued = &self.shared.body.queued;
            queued.set(queued.get() - 1);
        }
    }
}

/// The memory of bytes that nobody else has, empty.
pub(crate) fn into_buffer(bytes: Bytes) -> Option<Vec<u8>> {
    let mut bytes = bytes.try_into_mut().ok()?;
    bytes.clear();
    Some(bytes.into())
}

/// Names an owner of backlogs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ledger(u64);

impl Ledger {
    const NONE: Self = Self(0);

    /// One that no other has.
    pub(crate) fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self(MADE.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the places of a body in one owner's backlogs, one is the first and one the last.
    #[test]
    fn a_body_has_a_first_and_a_last_place() {
        let (shared, ledger) = (Shared::from(vec![7; 10]), Ledger::new());
        for _ in 0..2 {
            assert!(!shared.is_counted_by(ledger));
            let first = Queued::new(&shared, ledger);
            assert!(first.is_only() && shared.is_counted_by(ledger));
            let second = Queued::new(&shared.clone(), ledger);
            assert!(!first.is_only() && !second.is_only());
            drop(first);
            assert!(second.is_only());
        }
    }

    /// What two owners hold, one counts, and the other treats each place as the only one.
    #[test]
    fn two_owners_do_not_count_each_others_places() {
        let (shared, here, there) = (Shared::from(vec![7; 10]), Ledger::new(), Ledger::new());
        let counted = Queued::new(&shared, here);
        let others = [Queued::new(&shared, there), Queued::new(&shared, there)];
        assert!(counted.is_only() && others.iter().all(Queued::is_only));
        assert!(shared.is_counted_by(here) && !shared.is_counted_by(there));
        drop(counted);
        let counted = [Queued::new(&shared, here), Queued::new(&shared, here)];
        assert!(others.iter().all(Queued::is_only) && !counted[0].is_only());
        drop((counted, others));
        assert_eq!(Rc::strong_count(&shared.body), 1);
    }
}
