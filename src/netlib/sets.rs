//! Reconnect sets: several addresses of one service, kept connected.
//!
//! A member's connection is an ordinary one; its socket remembers the member, and the one place
//! where attempts succeed and the two where sockets end tell this file. Between two attempts a
//! member is an alarm on the wheel. Who is open and who is next is in `conn/set.rs`.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;

use super::Netlib;
use crate::address::{Address, AddressError};
use crate::conn::{
    Backoff, Connection, MEMBERS_MAX, MemberEnd, MemberFactory, MemberInfo, Phase, Roster,
    SetChange, SetError, SetId, Watcher,
};
use crate::error::Stale;
use crate::event::{CloseReason, Handle};
use crate::reactor::{Alarm, MemberKey, Table};

pub(super) struct Sets<A> {
    table: Table<Set<A>>,
    /// Sets whose first attempts the next turn makes.
    fresh: Vec<Handle>,
    /// What their watchers have not been told yet.
    changes: VecDeque<SetChange>,
}

struct Set<A> {
    roster: Roster,
    backoff: Backoff,
    random: Rng,
    factory: Rc<MemberFactory<A>>,
    watcher: Option<Rc<Watcher<A>>>,
}

impl<A> Sets<A> {
    pub(super) const fn new() -> Self {
        Self { table: Table::new(SETS_MAX), fresh: Vec::new(), changes: VecDeque::new() }
    }

    /// Whether there is work that nothing else will announce, so that nothing may be waited for.
    pub(super) fn is_busy(&self) -> bool {
        !self.fresh.is_empty() || !self.changes.is_empty()
    }

    fn find_mut(&mut self, set: Handle) -> Option<&mut Set<A>> {
        self.table.find_mut(set)
    }

    /// Puts a member into another phase, and has that told; what it was doing. `None` where the
    /// set is closed.
    fn enter(
        &mut self,
        key: MemberKey,
        phase: Phase,
        end: Option<MemberEnd>,
        now: Duration,
    ) -> Option<Phase> {
        let set = self.find_mut(key.set)?;
        let before = set.roster.info(key, now).state;
        let phase = set.roster.enter(key.index, phase);
        if set.watcher.is_some() {
            let MemberInfo { index, state: after, .. } = set.roster.info(key, now);
            let addresses = Rc::clone(set.roster.addresses());
            let change = SetChange { set: SetId(key.set), index, before, after, end, addresses };
            self.changes.push_back(change);
        }
        Some(phase)
    }
}

impl<A> fmt::Debug for Sets<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sets")
            .field("len", &self.table.len())
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

impl<A> Netlib<A> {
    /// Keeps a connection to each of the addresses: whatever ends one, another attempt follows,
    /// after the waits that `backoff` says.
    ///
    /// `factory` makes the object of each attempt; that is an ordinary connection, as
    /// [`connect_object`](Self::connect_object) makes it. Its object is told of its end before a
    /// new one is made. An address that stands in the list several times gets as many connections.
    ///
    /// The first attempts are made by the next turn of the loop (C1), one per address. An attempt
    /// that cannot even start, for want of a descriptor or because the factory panics, is a failure
    /// like any other, and so is the application's own close of a member. The set itself ends by
    /// [`close_set`](Self::close_set) or [`abort_set`](Self::abort_set).
    ///
    /// ```
    /// use std::time::Duration;
    /// use uring_netlib::conn::{Backoff, Connection, Context, MemberInfo, SetId};
    /// use uring_netlib::pdu::{Header, Pdu};
    /// use uring_netlib::{Netlib, Options};
    ///
    /// /// What this process is to each of its routers.
    /// struct Router;
    ///
    /// #[derive(Default)]
    /// struct App {
    ///     routers: Option<SetId>,
    ///     answers: u32,
    /// }
    ///
    /// impl Connection<App> for Router {
    ///     fn on_confirm(&mut self, _: &mut App, context: &mut Context<'_, App>) {
    ///         context.send_pdu(Header::new(7, 0x0708), &()).ok();
    ///     }
    ///
    ///     fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, _: Pdu<'_>) {
    ///         // Requests go to the router that has been there for the longest.
    ///         let routers = app.routers.and_then(|set| context.net().set(set).ok());
    ///         let master = routers.and_then(|set| set.master());
    ///         app.answers += u32::from(master == Some(context.handle()));
    ///     }
    /// }
    ///
    /// let (mut net, mut app) = (Options::new().build()?, App::default());
    /// # let echo = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Echo))?;
    /// # struct Echo;
    /// # impl Connection<App> for Echo {
    /// #     fn on_pdu(&mut self, _: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
    /// #         context.send(pdu.frame()).ok();
    /// #     }
    /// # }
    /// # let served = net.option(echo)?.local_address()?;
    /// # let served = served.to_string();
    /// let addresses = [served.as_str(), "127.0.0.1:1"];
    /// let routers = net.connect_set(addresses, Backoff::teamtalk(), |_, _| Box::new(Router))?;
    /// net.watch_set(routers, |_, _, change| {
    ///     println!("{}: {:?}, was {:?}", change.address(), change.after, change.before);
    /// })?;
    /// app.routers = Some(routers);
    /// while app.answers == 0 {
    ///     net.turn(&mut app, Duration::from_secs(1))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SetError`]: the list is empty, or has something in it that can never be connected to.
    pub fn connect_set<T: TryInto<Address>>(
        &mut self,
        addresses: impl IntoIterator<Item = T>,
        backoff: Backoff,
        factory: impl Fn(&mut A, MemberInfo<'_>) -> Box<dyn Connection<A>> + 'static,
    ) -> Result<SetId, SetError>
    where
        AddressError: From<T::Error>,
    {
        let mut list = Vec::new();
        for (index, address) in addresses.into_iter().enumerate() {
            if index == MEMBERS_MAX {
                return Err(SetError::TooManyAddresses);
            }
            match address.try_into().map_err(AddressError::from) {
                Ok(Address::Unnamed) => {
                    return Err(SetError::Address { index, source: AddressError::BadPath });
                }
                Ok(address) => list.push(address),
                Err(source) => return Err(SetError::Address { index, source }),
            }
        }
        if list.is_empty() {
            return Err(SetError::NoAddress);
        }
        let set = Set {
            roster: Roster::new(list, self.clock.elapsed()),
            backoff,
            random: backoff.random(self.driver.seed()),
            factory: Rc::new(factory),
            watcher: None,
        };
        let set = self.sets.table.insert(set).map_err(|_| SetError::TooManySets)?;
        self.sets.fresh.push(set);
        Ok(SetId(set))
    }

    /// Calls `watcher` with each change of a member's state, from the next one on; it takes the
    /// place of the one before.
    ///
    /// It is called by the event loop only, in the order of the changes and late in their turn:
    /// after the connection's object was told. So a change may be past already when it is told,
    /// e.g. when the object closed its connection as soon as that was open. Inside the watcher
    /// every call is allowed, and nothing is told any more of a set that was closed.
    ///
    /// # Errors
    /// [`Stale`]: the set was closed.
    pub fn watch_set(
        &mut self,
        set: SetId,
        watcher: impl Fn(&mut A, &mut Self, &SetChange) + 'static,
    ) -> Result<(), Stale> {
        self.sets.find_mut(set.0).ok_or(Stale)?.watcher = Some(Rc::new(watcher));
        Ok(())
    }

    /// The members of a set, and a choice among those that are open.
    ///
    /// # Errors
    /// [`Stale`]: the set was closed.
    pub fn set(&mut self, set: SetId) -> Result<ReconnectSet<'_, A>, Stale> {
        self.sets.find_mut(set.0).ok_or(Stale)?;
        Ok(ReconnectSet { net: self, set })
    }

    /// Ends a set: no further attempt is made, those on their way are given up, and open
    /// connections are closed as [`close`](Self::close) does it. Nobody is told.
    ///
    /// # Errors
    /// [`Stale`]: it was closed before.
    pub fn close_set(&mut self, set: SetId) -> Result<(), Stale> {
        self.end_set(set, Self::close)
    }

    /// Ends a set as [`close_set`](Self::close_set), its open connections by a reset.
    ///
    /// # Errors
    /// [`Stale`]: it was closed before.
    pub fn abort_set(&mut self, set: SetId) -> Result<(), Stale> {
        self.end_set(set, Self::abort)
    }

    fn end_set(
        &mut self,
        id: SetId,
        end: fn(&mut Self, Handle) -> Result<(), Stale>,
    ) -> Result<(), Stale> {
        let set = self.sets.table.remove(id.0).ok_or(Stale)?;
        for index in 0..set.roster.len() {
            match set.roster.phase(index) {
                Phase::Waiting { alarm, .. } => {
                    alarm.map(|alarm| self.reactor.alarms.cancel(alarm));
                }
                Phase::Connecting { handle } | Phase::Open { handle, .. } => {
                    end(self, handle).expect("a member leaves this state when its socket ends");
                }
            }
        }
        Ok(())
    }

    /// Makes the first attempts of new sets.
    pub(super) fn start_sets(&mut self, app: &mut A) {
        for set in mem::take(&mut self.sets.fresh) {
            let Some(found) = self.sets.find_mut(set) else { continue };
            for index in 0..found.roster.len() {
                self.attempt(app, MemberKey { set, index });
            }
        }
    }

    /// Tells watchers what has changed; what changes meanwhile waits for the next turn.
    pub(super) fn tell_sets(&mut self, app: &mut A) {
        for _ in 0..self.sets.changes.len() {
            let Some(change) = self.sets.changes.pop_front() else { return };
            let set = self.sets.find_mut(change.set.0);
            if let Some(watcher) = set.and_then(|set| set.watcher.clone()) {
                self.panics(|net| watcher(app, net, &change));
            }
        }
    }

    /// A member's wait is over: it connects.
    pub(super) fn attempt(&mut self, app: &mut A, key: MemberKey) {
        let now = self.clock.elapsed();
        let phase = Phase::Connecting { handle: Handle::NONE };
        if self.sets.enter(key, phase, None, now).is_none() {
            return;
        }
        match self.start_attempt(app, key, now) {
            Ok(handle) => {
                let set = self.sets.find_mut(key.set).expect("factories reach no sets");
                set.roster.enter(key.index, Phase::Connecting { handle });
            }
            Err(end) => self.end_member(key, end),
        }
    }

    fn start_attempt(
        &mut self,
        app: &mut A,
        key: MemberKey,
        now: Duration,
    ) -> Result<Handle, MemberEnd> {
        let set = self.sets.find_mut(key.set).expect("the caller found it");
        let (factory, addresses) = (Rc::clone(&set.factory), Rc::clone(set.roster.addresses()));
        let address = &addresses[key.index as usize];
        let info = MemberInfo { address, ..set.roster.info(key, now) };
        let mut made = None;
        self.panics(|_| made = Some(factory(app, info)));
        let object = made.ok_or(MemberEnd::Closed(CloseReason::Panicked))?;
        let started = self.connect_object(address.clone(), object);
        let handle = started.map_err(MemberEnd::NotStarted)?;
        if let Some(socket) = self.reactor.sockets.find_mut(handle) {
            socket.member = Some(Box::new(key));
        }
        Ok(handle)
    }

    /// A member's attempt has succeeded.
    pub(super) fn open_member(&mut self, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        let Some(key) = socket.member.as_deref().copied() else { return };
        let now = self.clock.elapsed();
        let Some(set) = self.sets.find_mut(key.set) else { return };
        let order = set.roster.next_order();
        self.sets.enter(key, Phase::Open { handle, since: now, order }, None, now);
    }

    /// If the socket is a member's it is so no longer, and the member waits for its next attempt.
    pub(super) fn leave_set(&mut self, handle: Handle, end: MemberEnd) {
        let socket = self.reactor.sockets.find_mut(handle);
        if let Some(key) = socket.and_then(|socket| socket.member.take()) {
            self.end_member(*key, end);
        }
    }

    fn end_member(&mut self, key: MemberKey, end: MemberEnd) {
        let now = self.clock.elapsed();
        let Some(set) = self.sets.find_mut(key.set) else { return };
        if let Phase::Open { since, .. } = set.roster.phase(key.index)
            && set.backoff.is_reset_by(now.saturating_sub(since))
        {
            *set.roster.failures(key.index) = 0;
        }
        let failures = set.roster.failures(key.index);
        let wait = set.backoff.wait(*failures, &mut set.random);
        *failures = failures.saturating_add(1);
        let deadline = self.deadline(wait);
        let alarm = Alarm::Reconnect { set: key.set, index: key.index };
        let alarm = Some(self.reactor.alarms.insert(deadline, alarm));
        let until = now.saturating_add(wait);
        self.sets.enter(key, Phase::Waiting { until, alarm }, Some(end), now);
    }
}

/// The members of one set, from [`Netlib::set`].
///
/// A handle that it gives is of a connection that is open. What is sent may be refused all the
/// same: by a backlog that is full, or because a send has failed just now and Close will follow.
///
/// ```
/// use uring_netlib::conn::SetId;
/// use uring_netlib::{Netlib, Shared, Stale};
///
/// /// Gives each user's requests to one and the same database connection.
/// fn ask(net: &mut Netlib<()>, databases: SetId, user: u64, request: &[u8]) -> Result<(), Stale> {
///     if let Some(database) = net.set(databases)?.pick_by(user) {
///         net.send(database, request).ok();
///     }
///     Ok(())
/// }
///
/// /// Lets all routers know.
/// fn tell(net: &mut Netlib<()>, routers: SetId, news: &Shared) -> Result<(), Stale> {
///     let open = net.set(routers)?.open();
///     net.broadcast(open.iter().copied(), news);
///     Ok(())
/// }
/// # let _ = (ask, tell);
/// ```
pub struct ReconnectSet<'n, A> {
    net: &'n mut Netlib<A>,
    set: SetId,
}

impl<A> ReconnectSet<'_, A> {
    /// The member that has been open for the longest.
    #[must_use]
    pub fn master(&self) -> Option<Handle> {
        self.roster().master()
    }

    /// The open members in turn.
    #[must_use]
    pub fn pick(&mut self) -> Option<Handle> {
        self.roster_mut().pick()
    }

    /// The open member of a key: the same for as long as it is open. When a member is lost only
    /// its keys go to others, evenly, and they come back with it. Which member that is depends on
    /// the addresses alone, so that processes with the same list agree. Costs a few multiplications
    /// per open member.
    #[must_use]
    pub fn pick_by(&self, key: u64) -> Option<Handle> {
        self.roster().pick_by(key)
    }

    /// All open members, the oldest first. A list that stays as it is, and is made anew only after
    /// a member has opened or ended.
    #[must_use]
    pub fn open(&mut self) -> Rc<[Handle]> {
        self.roster_mut().handles()
    }

    /// All members in the order of their addresses.
    pub fn members(&self) -> impl ExactSizeIterator<Item = MemberInfo<'_>> {
        let (roster, now) = (self.roster(), self.net.clock.elapsed());
        (0..roster.len()).map(move |index| roster.info(MemberKey { set: self.set.0, index }, now))
    }

    fn roster(&self) -> &Roster {
        &self.net.sets.table.find(self.set.0).expect("found when this was made").roster
    }

    fn roster_mut(&mut self) -> &mut Roster {
        &mut self.net.sets.find_mut(self.set.0).expect("found when this was made").roster
    }
}

impl<A> fmt::Debug for ReconnectSet<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members()).finish()
    }
}

/// Sets of one `Netlib`.
const SETS_MAX: usize = 1 << 16;
