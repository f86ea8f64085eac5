//! A simulated network: hosts, the links between them, the time, and what happens when.
//!
//! All that is decided here is decided by one generator of one seed, and every collection has an
//! order, so that a seed is a history. What sockets do is in `socket.rs` and `transport.rs`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::counts::SimCounts;
use super::decisions::Decisions;
use super::faults::SimFaults;
use super::socket::{Role, Socket};
use super::trace::{Note, Trace};
use crate::clock::{HostClock, ManualClock, TRUE_RATE};

/// Names a socket of the world; never given out twice.
pub(super) type Id = u64;

#[derive(Debug)]
pub(crate) struct World {
    clock: ManualClock,
    pub(super) decisions: Decisions,
    pub(super) counts: SimCounts,
    pub(super) faults: SimFaults,
    hosts: Vec<Host>,
    /// One for each driver.
    nodes: Vec<Node>,
    pub(super) sockets: BTreeMap<Id, Socket>,
    pub(super) listeners: BTreeMap<SocketAddr, Id>,
    /// Until when nothing passes from one host to another.
    shut: BTreeMap<(usize, usize), u64>,
    /// By time, and in the order in which they were planned.
    plan: BTreeMap<(u64, u64), Happening>,
    planned: u64,
    made: Id,
    pub(super) trace: Trace,
}

#[derive(Debug)]
struct Host {
    ip: IpAddr,
    is_down: bool,
    is_paused: bool,
    port: u16,
    /// By how many millionths of the time in the world its clock goes on.
    rate: u32,
}

#[derive(Debug)]
struct Node {
    host: usize,
    /// Whether one of its operations may go on.
    is_stirred: bool,
    /// Whether it went with its host.
    is_lost: bool,
    /// Operations that its driver has been asked for and that are not over.
    operations: usize,
}

/// What comes about by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// The first of what a socket has sent reaches its peer.
    Deliver(Id),
    /// An attempt to connect reaches its host, for the first time or again.
    Knock(Id, u32),
    /// The answer to an attempt reaches who made it.
    Answer(Id),
    /// A node has something to do.
    Stir(usize),
}

impl World {
    pub(crate) fn new(decisions: Decisions) -> Self {
        Self {
            clock: ManualClock::new(),
            decisions,
            counts: SimCounts::default(),
            faults: SimFaults::none(),
            hosts: Vec::new(),
            nodes: Vec::new(),
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            shut: BTreeMap::new(),
            plan: BTreeMap::new(),
            planned: 0,
            made: 0,
            trace: Trace::new(),
        }
    }

    pub(crate) const fn clock(&self) -> &ManualClock {
        &self.clock
    }

    pub(crate) fn now(&self) -> u64 {
        nanos(self.clock.elapsed())
    }

    pub(crate) const fn decisions(&mut self) -> &mut Decisions {
        &mut self.decisions
    }

    pub(crate) const fn counts(&self) -> SimCounts {
        self.counts
    }

    pub(crate) fn set_faults(&mut self, faults: SimFaults) {
        self.faults = faults;
    }

    pub(crate) const fn faults(&self) -> &SimFaults {
        &self.faults
    }

    pub(crate) fn keep_trace(&mut self, keep: bool) {
        self.trace.keep(keep);
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take()
    }

    pub(crate) const fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// Writes a line of a user's own.
    pub(crate) fn write(&mut self, text: &str) {
        let now = self.now();
        self.trace.text(now, text);
    }

    /// Sockets that are not gone, also those that their programs have closed.
    pub(crate) fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    /// The host with that address, which is made when there is none.
    pub(crate) fn host(&mut self, ip: IpAddr) -> usize {
        self.find_host(ip).unwrap_or_else(|| {
            let drift = u64::from(self.faults.drift);
            let millionths = u64::from(TRUE_RATE) - drift + self.decisions.below(2 * drift + 1);
            let rate = u32::try_from(millionths).unwrap_or(TRUE_RATE);
            self.hosts.push(Host { ip, is_down: false, is_paused: false, port: PORT_FIRST, rate });
            self.hosts.len() - 1
        })
    }

    pub(super) fn find_host(&self, ip: IpAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.ip == ip)
    }

    pub(crate) fn address(&self, host: usize) -> IpAddr {
        self.hosts[host].ip
    }

    /// The clock of a host.
    pub(crate) fn clock_of(&self, host: usize) -> HostClock {
        HostClock::new(self.clock.clone(), self.hosts[host].rate)
    }

    pub(super) fn is_down(&self, host: usize) -> bool {
        self.hosts[host].is_down
    }

    pub(super) fn add_node(&mut self, host: usize) -> usize {
        self.nodes.push(Node { host, is_stirred: true, is_lost: false, operations: 0 });
        self.nodes.len() - 1
    }

    pub(super) fn host_of(&self, node: usize) -> usize {
        self.nodes[node].host
    }

    /// Whether a node went with its host.
    pub(super) fn is_lost(&self, node: usize) -> bool {
        self.nodes[node].is_lost
    }

    /// Whether a node has turns at all.
    pub(super) fn is_running(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        !node.is_lost && !self.hosts[node.host].is_paused
    }

    pub(super) fn is_stirred(&self, node: usize) -> bool {
        self.nodes[node].is_stirred
    }

    /// Whether a node has something to do that may do so.
    pub(crate) fn has_stirred(&self) -> bool {
        (0..self.nodes.len()).any(|node| self.is_stirred(node) && self.is_running(node))
    }

    pub(super) fn calm(&mut self, node: usize) {
        self.nodes[node].is_stirred = false;
    }

    pub(super) fn stir(&mut self, node: Option<usize>) {
        if let Some(node) = node {
            self.nodes[node].is_stirred = true;
        }
    }

    /// Says that a node's driver was asked for an operation.
    pub(super) fn begin(&mut self, node: usize) {
        self.nodes[node].operations += 1;
        self.stir(Some(node));
    }

    /// Says that so many operations of a node are over.
    pub(super) fn finish(&mut self, node: usize, count: usize) {
        self.nodes[node].operations -= count;
    }

    /// Operations that are not over, of programs that are there.
    pub(crate) fn operation_count(&self) -> usize {
        self.nodes.iter().map(|node| node.operations).sum()
    }

    pub(crate) fn pause(&mut self, host: usize, is_paused: bool) {
        self.counts.pauses += u64::from(is_paused && !self.hosts[host].is_paused);
        self.hosts[host].is_paused = is_paused;
        let ip = self.hosts[host].ip;
        self.write(&format!("{ip} {}", if is_paused { "is paused" } else { "goes on" }));
    }

    /// The host is gone, with all that it knew. Its peers are told nothing.
    pub(crate) fn crash(&mut self, host: usize) {
        self.hosts[host].is_down = true;
        self.counts.crashes += 1;
        let ip = self.hosts[host].ip;
        self.write(&format!("{ip} crashes"));
        self.listeners.retain(|address, _| address.ip() != ip);
        for node in &mut self.nodes {
            node.is_lost |= node.host == host;
        }
        let lost: Vec<Id> =
            self.sockets.iter().filter(|(_, it)| it.host == host).map(key).collect();
        for id in lost {
            self.lose(id);
        }
    }

    /// The host is there again, and answers what comes for the connections it had with resets.
    pub(crate) fn restart(&mut self, host: usize) {
        if !std::mem::take(&mut self.hosts[host].is_down) {
            return;
        }
        self.hosts[host].is_paused = false;
        let ip = self.hosts[host].ip;
        self.write(&format!("{ip} starts again"));
        self.deliver_all();
    }

    /// Lets nothing pass from one host to another until then.
    pub(crate) fn shut(&mut self, from: usize, to: usize, until: u64) {
        let (source, target) = (self.hosts[from].ip, self.hosts[to].ip);
        self.write(&format!("nothing passes from {source} to {target}"));
        self.counts.shut_links += 1;
        let shut = self.shut.entry((from, to)).or_default();
        *shut = until.max(*shut);
    }

    /// Opens every link.
    pub(crate) fn heal(&mut self) {
        self.write("all links are open");
        self.shut.clear();
        self.deliver_all();
    }

    /// Until when a link is shut, if it is.
    pub(super) fn shut_until(&self, from: usize, to: usize) -> Option<u64> {
        let now = self.now();
        self.shut.get(&(from, to)).copied().filter(|until| *until > now)
    }

    /// Tries again whatever had to wait for a host or a link.
    fn deliver_all(&mut self) {
        let ids: Vec<Id> = self.sockets.keys().copied().collect();
        for id in ids {
            let delay = self.delay();
            self.plan(delay, Happening::Deliver(id));
            self.plan(delay, Happening::Answer(id));
        }
    }

    pub(super) fn insert(&mut self, socket: Socket) -> Id {
        self.made += 1;
        self.sockets.insert(self.made, socket);
        self.made
    }

    /// A port that nobody on the host has been given for a long time.
    pub(super) fn free_port(&mut self, host: usize) -> u16 {
        let place = &mut self.hosts[host];
        let port = place.port;
        place.port = port.checked_add(1).unwrap_or(PORT_FIRST);
        port
    }

    /// Whether something happens that has a chance of so many ten-thousandths.
    pub(super) fn chance(&mut self, chance: u32) -> bool {
        self.decisions.chance(chance)
    }

    /// How long the next piece of data is on its way.
    pub(super) fn delay(&mut self) -> u64 {
        self.decisions.between(self.faults.delay_min, self.faults.delay_max)
    }

    pub(super) fn capacity(&mut self) -> usize {
        let extra = self.faults.buffer_max - self.faults.buffer_min;
        self.faults.buffer_min + self.decisions.index(extra.saturating_add(1))
    }

    pub(super) fn plan(&mut self, delay: u64, happening: Happening) {
        let time = self.now().saturating_add(delay);
        self.planned += 1;
        self.plan.insert((time, self.planned), happening);
    }

    pub(super) fn note(&mut self, id: Id, note: Note) {
        let now = self.now();
        let Some(socket) = self.sockets.get(&id) else { return };
        self.trace.note(now, (id, &socket.local), note);
    }

    /// When something happens next.
    pub(crate) fn next_time(&self) -> Option<u64> {
        self.plan.first_key_value().map(|((time, _), _)| *time)
    }

    /// Lets time go on until then, with all that happens meanwhile.
    pub(crate) fn advance(&mut self, until: u64) {
        while let Some(entry) = self.plan.first_entry()
            && entry.key().0 <= until
        {
            let ((time, _), happening) = entry.remove_entry();
            self.set_time(time);
            match happening {
                Happening::Deliver(id) => self.deliver(id),
                Happening::Knock(id, attempt) => self.knock(id, attempt),
                Happening::Answer(id) => self.answer(id),
                Happening::Stir(node) => self.stir(Some(node)),
            }
        }
        self.set_time(until);
    }

    fn set_time(&self, time: u64) {
        self.clock.advance(Duration::from_nanos(time.saturating_sub(self.now())));
    }

    /// A socket that went with its host.
    fn lose(&mut self, id: Id) {
        self.note(id, Note::Lost);
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.node = None;
        socket.is_closed = true;
        socket.is_lost = true;
        match &mut socket.role {
            Role::Stream(stream) => {
                // Some of what was sent had left already.
                let left = self.decisions.index(stream.outbox.len() + 1);
                stream.keep_first(left);
            }
            Role::Fresh | Role::Listener { .. } | Role::Connecting { .. } => {
                self.sockets.remove(&id);
            }
        }
    }
}

fn key(entry: (&Id, &Socket)) -> Id {
    *entry.0
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The first of the ports that are given out by themselves.
const PORT_FIRST: u16 = 32_768;
