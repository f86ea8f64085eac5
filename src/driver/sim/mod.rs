//! The simulated driver: nothing but memory, a clock and a seed.
//!
//! Sockets live in a [`World`] that several drivers share, each of them for one program on one of
//! its hosts; the driver keeps the operations, the bytes in flight and the pool. "The kernel" gets
//! to them in [`Driver::wait`] and not before: an operation that may go on then does so, or is put
//! off, in an order that the world's generator decides, and by as much as it decides. So what is
//! in flight is read late, and what was received lies in buffers that are overwritten once they
//! are back. The contract is that of every driver, see `driver/mod.rs`.
//!
//! Read `world.rs` next, then `socket.rs` and `transport.rs`.

#![forbid(unsafe_code)]

mod counts;
mod decisions;
mod faults;
mod line;
mod look;
#[cfg(test)]
pub(crate) mod peer;
mod socket;
mod steps;
mod trace;
mod transport;
mod world;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockAddr;

pub use counts::SimCounts;
pub(crate) use decisions::Decisions;
pub use faults::SimFaults;
use line::{Line, Request};
pub(crate) use look::{Look, Loose};
use world::Id;
pub(crate) use world::World;

use super::outgoing::{Flight, Outgoing};
use super::pool::Pool;
use super::slots::Slots;
use super::{
    Completion, Driver, DriverCounters, End, Endpoint, Family, Form, Op, Ops, Outcome, Rest, Stock,
    View, Waker,
};
use crate::error::Errno;
use crate::event::Handle;
use crate::options::{ListenOptions, Options};
use crate::planted::{self, Bug};

/// A world that programs share.
#[derive(Clone)]
pub(crate) struct Net {
    world: Arc<Mutex<World>>,
}

impl Net {
    pub(crate) fn new(decisions: Decisions) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(decisions))) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        // A panic of one test's thread leaves the world as whole as it was.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

pub(crate) struct Sim {
    net: Net,
    node: usize,
    slots: Slots<Slot>,
    /// What was asked for and is not with the kernel yet.
    line: Line,
    /// Outcomes of what needed no waiting, for the next `wait` (D3).
    settled: Vec<Completion>,
    /// What may go on in the pass in hand; kept for its memory.
    ready: Vec<(Handle, Op)>,
    pool: Pool,
    stock: Stock,
    waker: Waker,
    counters: DriverCounters,
}

/// One adopted socket.
#[derive(Debug)]
struct Slot {
    id: Id,
    outstanding: Ops,
    /// Those of them that the kernel has got to.
    entered: Ops,
    /// Those of these that it denies.
    denied: Ops,
    /// Those of these that are to end, and when it comes to that.
    cancelled: Ops,
    cancel_time: u64,
    form: Form,
    flight: Flight,
}

impl Sim {
    pub(crate) fn new(options: &Options) -> io::Result<Self> {
        let host = options.sim.as_ref().expect("Options: a simulated driver has a host");
        let net = host.net().clone();
        let node = net.lock().add_node(host.index());
        Ok(Self {
            net,
            node,
            slots: Slots::new(),
            line: Line::default(),
            settled: Vec::new(),
            ready: Vec::new(),
            stock: Stock::default(),
            pool: Pool::poisoned(options.pool_buffers, options.pool_buffer_len)?,
            waker: Waker::new(true)?,
            counters: DriverCounters::default(),
        })
    }

    /// A listening socket of this program's host.
    pub(crate) fn listener(
        &self,
        address: &SockAddr,
        options: ListenOptions,
    ) -> io::Result<Endpoint> {
        let address = inet(address)?;
        let listened = self.net.lock().listen(self.node, address, options.backlog.into());
        let id = listened.map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
        Ok(Endpoint::Sim(Loose::new(self.net.clone(), id)))
    }

    /// A socket of this program's host, to be connected.
    pub(crate) fn connector(&self, peer: &SockAddr) -> io::Result<Endpoint> {
        inet(peer)?;
        let mut world = self.net.lock();
        let socket = world.open(self.node);
        let id = world.insert(socket);
        drop(world);
        Ok(Endpoint::Sim(Loose::new(self.net.clone(), id)))
    }

    /// A number that the world's seed decides.
    pub(crate) fn seed(&self) -> u64 {
        self.net.lock().decisions().seed()
    }

    /// In how long the next turn has something to do, of what the loop above knows of and of what
    /// can happen by itself here; `None` for not before something else happens.
    pub(crate) fn due(&self, due: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
        let world = self.net.lock();
        if !world.is_running(self.node) {
            return None;
        }
        let is_ready =
            world.is_stirred(self.node) || !self.settled.is_empty() || self.waker.is_signalled();
        drop(world);
        if is_ready { Some(Duration::ZERO) } else { due() }
    }

    fn start(&mut self, handle: Handle, op: Op, request: Request) {
        let slot = self.slots.expect_mut(handle);
        assert!(!slot.outstanding.has(op), "D4: one {op:?} per handle");
        slot.outstanding.insert(op);
        self.line.push_back(request);
        self.net.lock().begin(self.node);
    }

    fn start_receive(&mut self, handle: Handle, form: Form) {
        let slot = self.slots.expect_mut(handle);
        if let Some(outcome) = slot.form.start(form) {
            return self.settled.push(Completion { handle, last: true, outcome });
        }
        self.start(handle, Op::Receive, Request::Operation(handle, Op::Receive));
    }

    /// Whether other threads have asked for a turn; they are then taken as heard.
    fn take_wake(&mut self) -> bool {
        if !self.waker.is_signalled() {
            return false;
        }
        crate::sys::reset_event(self.waker.descriptor());
        self.waker.take();
        self.counters.wakeups += 1;
        true
    }

    /// Lets time pass for as long as nothing comes about, up to the limit; whether there was
    /// something to wait for at all.
    fn pass_time(&mut self, limit: Option<Duration>, batch: &mut Vec<Completion>) -> bool {
        let before = batch.len();
        let start = self.net.lock().now();
        let end = limit
            .map(|limit| start.saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)));
        loop {
            self.go_on(batch);
            let mut world = self.net.lock();
            if batch.len() > before || self.waker.is_signalled() {
                return true;
            }
            if world.is_stirred(self.node) {
                continue;
            }
            let next = match (world.next_time(), end) {
                (Some(next), Some(end)) => next.min(end),
                (Some(next), None) => next,
                (None, Some(end)) => end,
                (None, None) => return false,
            };
            world.advance(next);
            if Some(next) == end {
                drop(world);
                self.go_on(batch);
                return true;
            }
        }
    }
}

impl Driver for Sim {
    fn adopt(&mut self, socket: Endpoint, _: Family, handle: Handle) -> io::Result<()> {
        let id = socket.into_sim()?.adopt(self.node);
        self.slots.insert(handle, Slot::new(id));
        Ok(())
    }

    fn accept(&mut self, handle: Handle) {
        self.start(handle, Op::Accept, Request::Operation(handle, Op::Accept));
    }

    fn connect(&mut self, handle: Handle, peer: SockAddr) {
        match inet(&peer) {
            Ok(peer) => self.start(handle, Op::Connect, Request::Connect(handle, peer)),
            Err(error) => {
                let outcome = Outcome::ConnectFailed(Errno::from_io(&error));
                self.settled.push(Completion { handle, last: true, outcome });
            }
        }
    }

    fn receive(&mut self, handle: Handle) {
        self.start_receive(handle, Form::Many);
    }

    fn receive_whole(&mut self, handle: Handle, len: usize) {
        self.start_receive(handle, Form::Whole(len));
    }

    fn receive_rest(&mut self, handle: Handle, rest: Rest) {
        self.start_receive(handle, Form::Rest(rest));
    }

    fn send(&mut self, handle: Handle, outgoing: Outgoing) {
        assert!(!outgoing.is_empty(), "D5: a send has bytes");
        self.start(handle, Op::Send, Request::Operation(handle, Op::Send));
        self.slots.expect_mut(handle).flight = Flight::new(outgoing);
    }

    fn end(&mut self, handle: Handle, end: End) {
        let id = self.slots.expect_mut(handle).id;
        self.net.lock().end(id, end);
    }

    fn cancel(&mut self, handle: Handle, ops: Ops) {
        let Some(slot) = self.slots.find_mut(handle) else { return };
        self.line.push_back(Request::Cancel(handle, slot.outstanding.and(ops)));
        self.net.lock().stir(Some(self.node));
    }

    fn close(&mut self, handle: Handle) {
        let slot = self.slots.remove(handle).expect("only an adopted socket is closed");
        assert!(slot.outstanding.is_empty(), "a socket is closed with nothing outstanding (I3)");
        self.net.lock().close(slot.id);
    }

    /// Waits in the time of the world, which goes on meanwhile. Only where nothing at all is to
    /// come does it wait for a waker, in real time.
    fn wait(&mut self, timeout: Option<Duration>, batch: &mut Vec<Completion>) -> io::Result<()> {
        self.counters.waits += 1;
        let before = batch.len();
        batch.append(&mut self.settled);
        let was_woken = self.take_wake();
        if was_woken || batch.len() > before || timeout == Some(Duration::ZERO) {
            self.go_on(batch);
        } else if !self.pass_time(timeout, batch) {
            crate::sys::reset_event(self.waker.descriptor());
            self.waker.take();
            self.counters.wakeups += 1;
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn has_unread(&self, handle: Handle) -> bool {
        let id = self.slots.find(handle).map(|slot| slot.id);
        let world = self.net.lock();
        id.and_then(|id| world.stream(id)).is_some_and(|stream| !stream.inbox.is_empty())
    }

    fn socket(&self, handle: Handle) -> Option<View<'_>> {
        self.slots.find(handle).map(|slot| View::Sim(Look { net: &self.net, id: slot.id }))
    }

    fn progress(&self, handle: Handle) -> Option<u64> {
        let id = self.slots.find(handle)?.id;
        self.net.lock().stream(id).map(|stream| stream.acknowledged)
    }

    fn unacknowledged(&self, handle: Handle) -> usize {
        let id = self.slots.find(handle).map(|slot| slot.id);
        let world = self.net.lock();
        id.and_then(|id| world.stream(id)).map_or(0, |stream| stream.outbox_len)
    }

    fn stock(&self) -> &Stock {
        &self.stock
    }

    fn counters(&self) -> DriverCounters {
        let free = u32::try_from(self.pool.free_count()).expect("at most 32768 buffers");
        DriverCounters {
            buffers_free: free,
            buffers_kernel: 0,
            buffers_lent: u32::from(self.pool.count()) - free,
            ..self.counters
        }
    }
}

/// The program is gone, and the kernel closes what it had.
impl Drop for Sim {
    fn drop(&mut self) {
        let handles: Vec<Handle> = self.slots.handles().collect();
        for handle in handles {
            if let Some(slot) = self.slots.remove(handle)
                && (slot.outstanding.is_empty() || !planted::has(Bug::DroppedInFlight))
            {
                let mut world = self.net.lock();
                world.finish(self.node, slot.outstanding.iter().count());
                world.close(slot.id);
            }
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sim(node {}, {:?})", self.node, self.pool)
    }
}

/// An address of the one family that there is here.
fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}
