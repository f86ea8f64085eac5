//! The members of a reconnect set: which of them are open, and who is next.
//!
//! A record without timers or sockets of its own: `netlib/sets.rs` connects, waits and tells, and
//! passes in what time it is. A set is made by [`Netlib::connect_set`](crate::Netlib::connect_set).

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;
use std::{error, fmt};

use super::Connection;
use crate::address::{Address, AddressError};
use crate::error::ConnectError;
use crate::event::{CloseReason, Handle};
use crate::netlib::Netlib;
use crate::reactor::{MemberKey, TimerKey};

/// Names one reconnect set of one [`Netlib`]; stale once the set was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetId(pub(crate) Handle);

/// What a member of a set is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberState {
    /// The next attempt is waited for.
    Waiting {
        /// How long it still is until then.
        left: Duration,
    },
    /// An attempt is on its way.
    Connecting,
    /// There is a connection.
    Open {
        /// The connection's handle.
        handle: Handle,
        /// How long it has been open.
        age: Duration,
    },
}

/// One member of a set, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberInfo<'a> {
    /// The set.
    pub set: SetId,
    /// Which member: the place of its address in the list that the set was made with, from 0.
    pub index: usize,
    /// Where it connects to.
    pub address: &'a Address,
    /// What it is doing.
    pub state: MemberState,
    /// Connections and attempts that ended since its waits last began anew.
    pub failures: u32,
}

/// A member of a set has changed its state; see [`Netlib::watch_set`].
#[derive(Debug)]
#[non_exhaustive]
pub struct SetChange {
    /// The set.
    pub set: SetId,
    /// Which member: the place of its address in the list that the set was made with, from 0.
    pub index: usize,
    /// What it was doing. The handle of a connection that ended is stale, or about to be.
    pub before: MemberState,
    /// What it does now; `left` is the whole wait.
    pub after: MemberState,
    /// Why the connection or the attempt ended, where one did.
    pub end: Option<MemberEnd>,
    pub(crate) addresses: Rc<[Address]>,
}

impl SetChange {
    /// Where the member connects to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.addresses[self.index]
    }
}

/// Why a member's connection, or its attempt to connect, is over. Each is a failure like any
/// other: a new attempt follows.
#[derive(Debug)]
#[non_exhaustive]
pub enum MemberEnd {
    /// As [`Connection::on_close`] was told; `Panicked` as well where the set's factory did.
    Closed(CloseReason),
    /// The attempt did not even start.
    NotStarted(ConnectError),
    /// The application closed it.
    ByApplication,
}

impl fmt::Display for MemberEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => reason.fmt(f),
            Self::NotStarted(error) => error.fmt(f),
            Self::ByApplication => f.write_str("closed by the application"),
        }
    }
}

/// Why there is no set. Nothing is left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetError {
    /// The list of addresses is empty.
    NoAddress,
    /// One of them cannot be connected to, ever.
    Address {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        source: AddressError,
    },
    /// The list has more than 4096 addresses.
    TooManyAddresses,
    /// This `Netlib` has 65,536 sets.
    TooManySets,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("a set needs an address"),
            Self::Address { index, .. } => write!(f, "address {index} of the set cannot be used"),
            Self::TooManyAddresses => write!(f, "a set has at most {MEMBERS_MAX} addresses"),
            Self::TooManySets => f.write_str("there are too many sets"),
        }
    }
}

impl error::Error for SetError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Address { source, .. } => Some(source),
            Self::NoAddress | Self::TooManyAddresses | Self::TooManySets => None,
        }
    }
}

/// Makes the object of each attempt.
pub(crate) type MemberFactory<A> = dyn Fn(&mut A, MemberInfo<'_>) -> Box<dyn Connection<A>>;

/// Who is told of changes.
pub(crate) type Watcher<A> = dyn Fn(&mut A, &mut Netlib<A>, &SetChange);

/// What a member is doing, with what it takes to end it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// Without an alarm until the loop has made the set's first attempts.
    Waiting {
        until: Duration,
        alarm: Option<TimerKey>,
    },
    /// Without a handle while the factory runs.
    Connecting {
        handle: Handle,
    },
    Open {
        handle: Handle,
        since: Duration,
        order: u64,
    },
}

impl Phase {
    fn state(self, now: Duration) -> MemberState {
        match self {
            Self::Waiting { until, .. } => MemberState::Waiting { left: until.saturating_sub(now) },
            Self::Connecting { .. } => MemberState::Connecting,
            Self::Open { handle, since, .. } => {
                MemberState::Open { handle, age: now.saturating_sub(since) }
            }
        }
    }
}

#[derive(Debug)]
struct Member {
    phase: Phase,
    failures: u32,
    /// Tells this member from all others, and is the same wherever its address is.
    salt: u64,
}

/// The members of one set.
#[derive(Debug)]
pub(crate) struct Roster {
    addresses: Rc<[Address]>,
    members: Vec<Member>,
    /// The open members by age: the first is the master.
    open: BTreeMap<u64, (u32, Handle)>,
    /// Connections that have ever been open; the newest one's order.
    opened: u64,
    /// The order of the member that was picked last.
    picked: u64,
    /// Their handles by age, until that changes.
    handles: Option<Rc<[Handle]>>,
}

impl Roster {
    pub(crate) fn new(addresses: Vec<Address>, now: Duration) -> Self {
        let mut namesakes = BTreeMap::new();
        let phase = Phase::Waiting { until: now, alarm: None };
        let member = |address: &Address| {
            let text = address.to_string();
            let place = fnv(text.as_bytes());
            let namesake = namesakes.entry(text).or_insert(0_u64);
            *namesake += 1;
            Member { phase, failures: 0, salt: mix(place ^ mix(*namesake)) }
        };
        let members = addresses.iter().map(member).collect();
        let addresses = addresses.into();
        Self { addresses, members, open: BTreeMap::new(), opened: 0, picked: 0, handles: None }
    }

    /// Puts a member into another phase; what it was doing.
    pub(crate) fn enter(&mut self, index: u32, phase: Phase) -> Phase {
        let member = &mut self.members[index as usize];
        let before = std::mem::replace(&mut member.phase, phase);
        if let Phase::Open { order, .. } = before {
            self.open.remove(&order);
            self.handles = None;
        }
        if let Phase::Open { handle, order, .. } = phase {
            self.open.insert(order, (index, handle));
            self.handles = None;
        }
        before
    }

    /// The order of a member that opens now.
    pub(crate) fn next_order(&mut self) -> u64 {
        self.opened += 1;
        self.opened
    }

    pub(crate) fn phase(&self, index: u32) -> Phase {
        self.members[index as usize].phase
    }

    pub(crate) fn failures(&mut self, index: u32) -> &mut u32 {
        &mut self.members[index as usize].failures
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.members.len()).expect("a set has at most 4096 members")
    }

    pub(crate) fn addresses(&self) -> &Rc<[Address]> {
        &self.addresses
    }

    pub(crate) fn info(&self, key: MemberKey, now: Duration) -> MemberInfo<'_> {
        let index = key.index as usize;
        let Member { phase, failures, .. } = self.members[index];
        let (address, state) = (&self.addresses[index], phase.state(now));
        MemberInfo { set: SetId(key.set), index, address, state, failures }
    }

    pub(crate) fn master(&self) -> Option<Handle> {
        self.open.first_key_value().map(|(_, (_, handle))| *handle)
    }

    pub(crate) fn pick(&mut self) -> Option<Handle> {
        let later = (Bound::Excluded(self.picked), Bound::Unbounded);
        let next = self.open.range(later).next().or_else(|| self.open.first_key_value());
        let (order, (_, handle)) = next?;
        self.picked = *order;
        Some(*handle)
    }

    /// Each member draws a number from the key and itself, and the greatest one wins. So a member
    /// that is lost changes nothing among the others.
    pub(crate) fn pick_by(&self, key: u64) -> Option<Handle> {
        let key = mix(key);
        let number = |index: u32| mix(key ^ self.members[index as usize].salt);
        let best = self.open.values().max_by_key(|(index, _)| number(*index));
        best.map(|(_, handle)| *handle)
    }

    pub(crate) fn handles(&mut self) -> Rc<[Handle]> {
        let open = &self.open;
        let list = || open.values().map(|(_, handle)| *handle).collect();
        Rc::clone(self.handles.get_or_insert_with(list))
    }
}

/// Spreads the bits of a number over all of 64, and loses none.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}

/// A hash that is the same in every process, now and later: FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}

/// Members of one set.
pub(crate) const MEMBERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(ports: &[u16]) -> Roster {
        let address = |port: &u16| Address::Ip(([127, 0, 0, 1], *port).into());
        Roster::new(ports.iter().map(address).collect(), Duration::ZERO)
    }

    /// Opens a member with a handle whose generation tells it.
    fn open(roster: &mut Roster, index: u32) -> Handle {
        let order = roster.next_order();
        let handle = Handle::new(index, u32::try_from(order).unwrap());
        roster.enter(index, Phase::Open { handle, since: Duration::ZERO, order });
        handle
    }

    fn lose(roster: &mut Roster, index: u32) {
        roster.enter(index, Phase::Connecting { handle: Handle::NONE });
    }

    /// The master is the oldest open member; one that comes back is the youngest.
    #[test]
    fn the_oldest_open_member_is_master() {
        let mut roster = roster(&[1, 2, 3]);
        assert_eq!(roster.master(), None);
        let [second, first, third] = [1, 0, 2].map(|index| open(&mut roster, index));
        assert_eq!(roster.master(), Some(second));
        lose(&mut roster, 1);
        assert_eq!(roster.master(), Some(first));
        let back = open(&mut roster, 1);
        assert_eq!(*roster.handles(), [first, third, back]);
        lose(&mut roster, 0);
        lose(&mut roster, 2);
        assert_eq!((roster.master(), &*roster.handles()), (Some(back), &[back][..]));
    }

    /// Picking goes round all open members evenly, also while some come and go.
    #[test]
    fn picks_go_round() {
        let mut roster = roster(&[1, 2, 3, 4]);
        assert_eq!(roster.pick(), None);
        let handles = [0, 1, 2].map(|index| open(&mut roster, index));
        let picked = [0; 6].map(|_| roster.pick().unwrap());
        assert_eq!(picked, [handles, handles].concat()[..]);
        roster.pick().unwrap();
        lose(&mut roster, 0);
        let late = open(&mut roster, 3);
        let picked = [0; 4].map(|_| roster.pick().unwrap());
        assert_eq!(picked, [handles[1], handles[2], late, handles[1]], "none is left out");
    }

    /// A key keeps its member while that is open. When one is lost only its keys move, evenly, and
    /// they move back when it is back.
    #[test]
    fn a_key_keeps_its_member() {
        const KEYS: u64 = 4000;
        let mut roster = roster(&[1, 2, 3, 4]);
        assert_eq!(roster.pick_by(1), None);
        for index in 0..4 {
            open(&mut roster, index);
        }
        let places = |roster: &Roster| -> Vec<u32> {
            (0..KEYS).map(|key| roster.pick_by(key).unwrap().index()).collect()
        };
        let before = places(&roster);
        let count = |places: &[u32], index| places.iter().filter(|one| **one == index).count();
        for index in 0..4 {
            assert!((900..1100).contains(&count(&before, index)), "{:?}", count(&before, index));
        }
        lose(&mut roster, 2);
        let between = places(&roster);
        for (was, is) in before.iter().zip(&between) {
            assert!(was == is || *was == 2, "from {was} to {is}");
        }
        for index in [0, 1, 3] {
            assert!((1200..1470).contains(&count(&between, index)));
        }
        open(&mut roster, 2);
        assert_eq!(places(&roster), before);
    }

    /// The same key goes to the same address whatever the order of the list, and several members
    /// with one address share its keys.
    #[test]
    fn keys_follow_addresses() {
        let (mut one, mut other) = (roster(&[1, 2, 3, 3]), roster(&[3, 1, 3, 2]));
        for index in 0..4 {
            open(&mut one, index);
            open(&mut other, index);
        }
        let address = |roster: &Roster, key| {
            let index = roster.pick_by(key).unwrap().index();
            roster.addresses()[index as usize].clone()
        };
        let mut shared = [0; 4];
        for key in 0..1000 {
            assert_eq!(address(&one, key), address(&other, key), "key {key}");
            shared[one.pick_by(key).unwrap().index() as usize] += 1;
        }
        assert!(shared.iter().all(|count| *count > 200), "{shared:?}");
    }
}
