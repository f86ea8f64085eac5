//! What has to be true of a simulated workload, whatever its network does.
//!
//! Both ends of every connection tell the oracle what they send and what they are told. It knows
//! the network's faults only where a promise depends on there being none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use uring_netlib::{CloseReason, Errno, Handle};

/// What the network of a seed may do, and so what its programs are held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing that ends a connection happens but what the programs do: all that was sent before a
    /// close arrives.
    Calm,
    /// Anything but altered bytes: what arrives is the beginning of what was sent.
    #[default]
    Wild,
    /// Bits are turned over: there are no panics, no leaks, and an end.
    Corrupt,
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A PDU's body: which connection, the how many-th of this direction, and bytes that follow from
/// both.
pub(crate) fn body(connection: u32, number: u32, len: usize) -> Vec<u8> {
    let mut body = [connection.to_be_bytes(), number.to_be_bytes()].concat();
    body.extend((0..len).map(|at| pattern((connection, number), at)));
    body
}

/// The bytes of a body that follow from which PDU of which connection it was made for. Never twice
/// the byte of poison in a row.
fn pattern((connection, number): Origin, at: usize) -> u8 {
    let seed = connection.wrapping_mul(31).wrapping_add(number.wrapping_mul(7));
    seed.wrapping_add(u32::try_from(at).unwrap_or(0)).to_le_bytes()[0]
}

/// A connection, and the number of one of its PDUs.
pub(crate) type Origin = (u32, u32);

/// A PDU that is to come: how long its body is, and where the bytes behind its numbers are from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) len: usize,
    pub(crate) origin: Origin,
}

/// One direction of one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    sent: u32,
    received: u32,
    /// The sender has closed gracefully.
    is_closed: bool,
    /// The sender has gone without a word.
    is_aborted: bool,
}

/// What one end has been told of one handle.
#[derive(Debug, Default)]
struct End {
    connection: Option<u32>,
    is_open: bool,
    /// Nothing may be told any more.
    is_over: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    flows: BTreeMap<(u32, Side), Flow>,
    /// The PDUs that are to come.
    coming: BTreeMap<(u32, Side), VecDeque<Sent>>,
    /// By the program that owns the handle.
    ends: BTreeMap<(usize, Handle), End>,
    /// Those of them that are open.
    live: BTreeSet<(usize, Handle)>,
    /// What the network is held to.
    kind: Kind,
    pub(crate) breach: Option<String>,
    pub(crate) pdus: u64,
    pub(crate) closes: u64,
}

impl Oracle {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    pub(crate) fn break_rule(&mut self, text: impl FnOnce() -> String) {
        if self.breach.is_none() {
            self.breach = Some(text());
        }
    }

    /// A program has asked for a connection.
    pub(crate) fn on_connect(&mut self, program: usize, handle: Handle, connection: u32) {
        let end = End { connection: Some(connection), ..End::default() };
        self.ends.insert((program, handle), end);
    }

    /// A connection was announced.
    pub(crate) fn on_open(&mut self, program: usize, handle: Handle) {
        let end = self.ends.entry((program, handle)).or_default();
        if end.is_open || end.is_over {
            self.break_rule(|| format!("C2: {handle} of program {program} is announced twice"));
        } else {
            end.is_open = true;
            self.live.insert((program, handle));
        }
    }

    /// The number that the next PDU of an end gets, and of which connection.
    pub(crate) fn next_number(
        &self,
        program: usize,
        handle: Handle,
        side: Side,
    ) -> Option<(u32, u32)> {
        let end = self.ends.get(&(program, handle)).filter(|end| end.is_open && !end.is_over)?;
        let connection = end.connection?;
        let flow = self.flows.get(&(connection, side)).copied().unwrap_or_default();
        Some((connection, flow.sent))
    }

    pub(crate) fn on_sent(&mut self, connection: u32, side: Side, sent: Sent) {
        self.flows.entry((connection, side)).or_default().sent += 1;
        self.coming.entry((connection, side)).or_default().push_back(sent);
    }

    /// A PDU was delivered to this side. Where its bytes are from, if that is known.
    pub(crate) fn on_pdu(
        &mut self,
        program: usize,
        handle: Handle,
        side: Side,
        bytes: &[u8],
    ) -> Option<Origin> {
        self.pdus += 1;
        let end = self.ends.entry((program, handle)).or_default();
        let is_live = end.is_open && !end.is_over;
        let words = bytes.first_chunk::<8>().map(|words| u64::from_be_bytes(*words));
        if !is_live {
            self.break_rule(|| format!("C2: a PDU for {handle}, which is not open"));
            return None;
        }
        if self.kind == Kind::Corrupt {
            return None;
        }
        let Some(words) = words else {
            self.break_rule(|| format!("altered: a PDU of {} bytes", bytes.len()));
            return None;
        };
        let word = |shift: u32| u32::try_from(words >> shift & 0xFFFF_FFFF).unwrap_or(0);
        let (connection, number) = (word(32), word(0));
        let known = *end.connection.get_or_insert(connection);
        let flow = self.flows.entry((connection, side.other())).or_default();
        let (expected, sent) = (flow.received, flow.sent);
        flow.received += 1;
        if known != connection || number != expected || number >= sent {
            self.break_rule(|| {
                format!(
                    "order: PDU {number} of connection {connection} on {handle} of {side:?}, \
                     {expected} of {sent} was next on connection {known}"
                )
            });
            return None;
        }
        let coming = self.coming.get_mut(&(connection, side.other()));
        let Sent { len, origin } = coming.and_then(VecDeque::pop_front)?;
        let is_same = (bytes[8..].iter().zip(0..)).all(|(byte, at)| *byte == pattern(origin, at));
        if len != bytes.len() || !is_same {
            self.break_rule(|| format!("altered: PDU {number} of connection {connection}"));
        }
        Some(origin)
    }

    /// A connection, or an attempt, has ended from outside.
    pub(crate) fn on_close(
        &mut self,
        program: usize,
        handle: Handle,
        side: Side,
        reason: CloseReason,
    ) {
        self.closes += 1;
        self.live.remove(&(program, handle));
        let end = self.ends.entry((program, handle)).or_default();
        if std::mem::replace(&mut end.is_over, true) {
            return self.break_rule(|| format!("C2: {handle} of program {program} ends twice"));
        }
        let Some(connection) = end.connection.filter(|_| end.is_open) else { return };
        let ours = self.flows.entry((connection, side)).or_default();
        let own = *ours;
        ours.is_aborted |= reason != CloseReason::PeerClosed;
        let flow = self.flows.get(&(connection, side.other())).copied().unwrap_or_default();
        let is_whole = flow.received == flow.sent;
        if self.kind == Kind::Calm
            && flow.is_closed
            && !own.is_closed
            && !own.is_aborted
            && !is_whole
        {
            self.break_rule(|| {
                format!(
                    "C7: {:?} closed connection {connection} after {} PDUs, of which {} have come, \
                     and it ended as {reason}",
                    side.other(),
                    flow.sent,
                    flow.received
                )
            });
        }
    }

    /// A listener has ended. Its kernel may deny it to accept, but no client can end it.
    pub(crate) fn on_listener_end(&mut self, reason: CloseReason) {
        let is_denied = matches!(reason, CloseReason::Failed(Errno(libc::EACCES | libc::EINVAL)));
        if self.kind == Kind::Calm || !is_denied {
            self.break_rule(|| format!("listener: it ended as {reason}"));
        }
    }

    /// A program closes a connection by itself.
    pub(crate) fn on_own_close(
        &mut self,
        program: usize,
        handle: Handle,
        side: Side,
        is_abort: bool,
    ) {
        let Some(end) = self.ends.get_mut(&(program, handle)) else { return };
        end.is_over = true;
        self.live.remove(&(program, handle));
        let Some(connection) = end.connection.filter(|_| end.is_open) else { return };
        let flow = self.flows.entry((connection, side)).or_default();
        flow.is_closed |= !is_abort;
        flow.is_aborted |= is_abort;
    }

    /// A program is lost with its host: nothing is ever told to it again.
    pub(crate) fn on_crash(&mut self, program: usize) {
        self.ends.retain(|(owner, _), _| *owner != program);
        self.live.retain(|(owner, _)| *owner != program);
    }

    /// Whether a connection is open, and may be told of.
    pub(crate) fn is_open(&self, program: usize, handle: Handle) -> bool {
        self.live.contains(&(program, handle))
    }

    /// The open connections of a program.
    pub(crate) fn open(&self, program: usize) -> impl Iterator<Item = Handle> {
        let (first, last) = ((program, Handle::NONE), (program + 1, Handle::NONE));
        self.live.range(first..last).map(|(_, handle)| *handle)
    }

    /// Whether all that was accepted on connections with both ends open has been delivered.
    pub(crate) fn is_complete(&self) -> bool {
        self.waiting().is_none()
    }

    /// A connection with both ends open on which something is still to come.
    pub(crate) fn waiting(&self) -> Option<String> {
        if self.kind == Kind::Corrupt {
            return None;
        }
        let mut ends: BTreeMap<u32, u32> = BTreeMap::new();
        for end in self.ends.values().filter(|end| end.is_open && !end.is_over) {
            if let Some(connection) = end.connection {
                *ends.entry(connection).or_default() += 1;
            }
        }
        let (connection, flow) = self.flows.iter().find(|((connection, _), flow)| {
            ends.get(connection) == Some(&2) && flow.received < flow.sent
        })?;
        Some(format!("{connection:?} {flow:?}"))
    }

    /// Every connection that was announced has ended once, by the end of a workload.
    pub(crate) fn expect_all_over(&mut self) {
        let open = self.ends.iter().find(|(_, end)| !end.is_over).map(|(key, _)| *key);
        if let Some((program, handle)) = open {
            self.break_rule(|| format!("C2: {handle} of program {program} has no end"));
        }
    }

    /// A timer has fired.
    pub(crate) fn on_timer(&mut self, due: Duration, now: Duration) {
        if now < due {
            self.break_rule(|| format!("early: a timer for {due:?} at {now:?}"));
        }
    }
}
