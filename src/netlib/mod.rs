//! The surface: what applications call. Each call changes state and returns; events come only
//! from the event loop, which is in `turn.rs` (C1).
//!
//! Options of one socket are in `option.rs`. Rules C1 to C7 are listed at [`Netlib`].

#![forbid(unsafe_code)]

mod dispatch;
mod option;
mod setup;
mod turn;

use std::fmt;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

pub use option::SocketOptions;

use crate::address::Address;
use crate::driver::{Auto, Completion, Driver};
use crate::error::{
    BuildError, ConnectError, ListenError, RecvError, SendError, Stale, UringError,
};
use crate::event::{Callback, Handle, LoopId, SocketState, TimerId};
use crate::options::{Backend, Features, ListenOptions, Options};
use crate::pdu::{self, Header};
use crate::reactor::{Alarm, Reactor, Release, SendStatus, State, Table, TimerKey, millis};
use crate::remote::Remote;
use crate::resolver::Resolver;
use crate::stats::Stats;

/// A network runtime for one thread: sockets, timers and the loop that serves them.
///
/// `A` is the application's state, lent to every callback as `&mut A`.
///
/// # Rules
///
/// - **C1** No call invokes a callback; events come only from the event loop.
/// - **C2** After [`close`](Self::close) or [`abort`](Self::abort) no event for that handle is
///   delivered, not even from the batch in hand. Each connection that was announced gets exactly
///   one Close event, unless the application closed it itself.
/// - **C3** Events never borrow from the `Netlib`: inside a callback every call is allowed.
/// - **C4** The event loop inside a callback is an error, not a recursion.
/// - **C5** An accepted socket inherits its listener's callback, user data and settings, and
///   starts to receive once its Connect callback has returned.
/// - **C6** Data before the end of the stream: every byte that arrived is delivered before Close.
///   A reset makes the kernel drop what it has not handed over; the rest is delivered.
/// - **C7** [`close`](Self::close) after [`send`](Self::send) flushes what was accepted, within
///   [`Options::close_timeout`]; `abort` does not.
///
/// # A server
///
/// ```no_run
/// use std::time::Duration;
/// use uring_netlib::{Event, Handle, Netlib, Options};
///
/// fn on_event(count: &mut u64, net: &mut Netlib<u64>, handle: Handle, event: Event<'_>) {
///     if let Event::Pdu(pdu) = event {
///         *count += 1;
///         // A refusal says that this peer does not read its answers.
///         if net.send(handle, pdu.frame()).is_err() {
///             net.abort(handle).ok();
///         }
///     }
/// }
///
/// let mut net = Options::new().build()?;
/// net.listen("127.0.0.1:7000", on_event, 0)?;
/// net.eventloop(&mut 0, Duration::from_millis(100))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Netlib<A> {
    driver: Auto,
    reactor: Reactor<Callback<A>>,
    timers: Table<Timer<A>>,
    loops: Vec<Loop<A>>,
    loops_added: u64,
    resolver: Resolver,
    remote: Remote,
    options: Options,
    fallback: Option<UringError>,
    /// When the monotonic clock of the alarms started.
    start: Instant,
    /// Completions of the turn; kept for its memory.
    batch: Vec<Completion>,
    is_running: bool,
    is_in_turn: bool,
}

struct Timer<A> {
    callback: Callback<A>,
    user_data: u64,
    /// `None` for a timer that fires once.
    period_ms: Option<NonZeroU64>,
    key: Option<TimerKey>,
}

struct Loop<A> {
    id: u64,
    callback: Callback<A>,
    user_data: u64,
}

/// How often a timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// One time, and the timer is gone.
    Once,
    /// Every interval, until it is deleted. After a stall the times that were missed are left out,
    /// and the rhythm goes on as before.
    Forever,
}

impl<A> Netlib<A> {
    pub(crate) fn with_options(options: Options) -> Result<Self, BuildError> {
        let (driver, fallback) = Auto::start(&options)?;
        let remote = Remote::new(driver.waker());
        Ok(Self {
            reactor: Reactor::new(&options),
            timers: Table::new(TIMERS_MAX),
            loops: Vec::new(),
            loops_added: 0,
            resolver: Resolver::new(driver.waker()),
            driver,
            remote,
            options,
            fallback,
            start: Instant::now(),
            batch: Vec::new(),
            is_running: false,
            is_in_turn: false,
        })
    }

    /// Listens, with the default [`ListenOptions`]. Port 0 asks for a free one, which
    /// `option(handle)?.local_address()` tells.
    ///
    /// A Unix-domain path that a listener left behind is taken over. Whether somebody still serves
    /// it is found out by connecting to it, which a live listener sees. Of two processes that do
    /// so at the same moment, one may take the path from the other.
    ///
    /// Accepted sockets inherit `callback` and `user_data` (C5). The listener is a handle like any
    /// other, and closes by [`close`](Self::close).
    ///
    /// # Errors
    /// [`ListenError`]: a bad address, a taken port, or the limit of sockets.
    pub fn listen<T: TryInto<Address>>(
        &mut self,
        address: T,
        callback: Callback<A>,
        user_data: u64,
    ) -> Result<Handle, ListenError>
    where
        ListenError: From<T::Error>,
    {
        self.listen_with(address, ListenOptions::new(), callback, user_data)
    }

    /// Listens.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_with<T: TryInto<Address>>(
        &mut self,
        address: T,
        options: ListenOptions,
        callback: Callback<A>,
        user_data: u64,
    ) -> Result<Handle, ListenError>
    where
        ListenError: From<T::Error>,
    {
        self.start_listener(&address.try_into()?, options, (callback, user_data))
    }

    /// Connects. [`Event::Confirm`](crate::Event::Confirm) or
    /// [`Event::Close`](crate::Event::Close) tells how it went; neither comes from this call (C1).
    ///
    /// A host name is resolved on another thread, and its addresses are tried in turn, all within
    /// [`Options::connect_timeout`]. A numeric address never leaves this thread. Options of the
    /// kernel's socket are best set once it is confirmed: each address has a socket of its own.
    ///
    /// ```
    /// use uring_netlib::{CloseReason, Event, Handle, Netlib, Options};
    ///
    /// fn on_event(over: &mut bool, net: &mut Netlib<bool>, handle: Handle, event: Event<'_>) {
    ///     match event {
    ///         Event::Confirm => drop(net.send(handle, b"hello")),
    ///         // Nobody listens at that port, so this is what comes.
    ///         Event::Close(reason) => *over = reason == CloseReason::Refused,
    ///         _ => {}
    ///     }
    /// }
    ///
    /// let (mut net, mut over) = (Options::new().build()?, false);
    /// net.connect("127.0.0.1:1", on_event, 0)?;
    /// while !over {
    ///     net.turn(&mut over, std::time::Duration::from_secs(1))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`]: it did not even start, and no event will come.
    pub fn connect<T: TryInto<Address>>(
        &mut self,
        address: T,
        callback: Callback<A>,
        user_data: u64,
    ) -> Result<Handle, ConnectError>
    where
        ConnectError: From<T::Error>,
    {
        self.start_connection(address.try_into()?, (callback, user_data))
    }

    /// Queues bytes; all that one turn queues on a socket leaves in one send.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send(&mut self, handle: Handle, bytes: &[u8]) -> Result<SendStatus, SendError> {
        self.reactor.queue(handle, bytes.len(), |pending| pending.extend_from_slice(bytes))
    }

    /// Queues a PDU: the 16-byte header, and the message encoded straight into the pending bytes.
    ///
    /// ```
    /// use uring_netlib::pdu::Header;
    /// use uring_netlib::{Event, Handle, Netlib};
    ///
    /// #[derive(Clone, PartialEq, prost::Message)]
    /// struct Time {
    ///     #[prost(uint32, tag = "1")]
    ///     seconds: u32,
    /// }
    ///
    /// fn on_event(now: &mut u32, net: &mut Netlib<u32>, handle: Handle, event: Event<'_>) {
    ///     let Event::Pdu(request) = event else { return };
    ///     let Some(asked) = request.header() else { return };
    ///     let header = Header::new(3, 0x0306).with_seq(asked.seq);
    ///     if net.send_pdu(handle, header, &Time { seconds: *now }).is_err() {
    ///         net.abort(handle).ok();
    ///     }
    /// }
    /// # let _ = on_event;
    /// ```
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued. `TooLong` where the PDU would pass the limit of the
    /// socket's own framing.
    ///
    /// # Panics
    /// When a message that is written by hand encodes to another length than it says.
    pub fn send_pdu(
        &mut self,
        handle: Handle,
        header: Header,
        message: &impl prost::Message,
    ) -> Result<SendStatus, SendError> {
        let max = match self.reactor.sendable(handle)?.delivery {
            crate::Delivery::Pdu(spec) => spec.max(),
            crate::Delivery::Push | crate::Delivery::Pull => u32::MAX,
        };
        let len = pdu::HEADER_LEN + message.encoded_len();
        if len > max as usize {
            return Err(SendError::TooLong { len, max: max as usize });
        }
        self.reactor.queue(handle, len, |pending| {
            pdu::encode(&header, message, max, pending).expect("the length was checked");
        })
    }

    /// Copies received bytes out, from a socket with [`Delivery::Pull`](crate::Delivery::Pull).
    /// Returns how many, 0 for an empty `space` only; the end of the stream is told by Close, after
    /// the last of them.
    ///
    /// ```
    /// use uring_netlib::{Event, Handle, Netlib};
    ///
    /// fn on_event(all: &mut Vec<u8>, net: &mut Netlib<Vec<u8>>, from: Handle, event: Event<'_>) {
    ///     if let Event::Read(_) = event {
    ///         let mut space = [0; 1024];
    ///         while let Ok(len) = net.recv(from, &mut space) {
    ///             all.extend_from_slice(&space[..len]);
    ///         }
    ///     }
    /// }
    /// # let _ = on_event;
    /// ```
    ///
    /// # Errors
    /// [`RecvError`]: nothing was copied.
    pub fn recv(&mut self, handle: Handle, space: &mut [u8]) -> Result<usize, RecvError> {
        let socket = self.reactor.owned(handle).ok_or(RecvError::Stale)?;
        if socket.delivery != crate::Delivery::Pull {
            return Err(RecvError::NotPull);
        }
        let unread = socket.reader.unread();
        let len = unread.len().min(space.len());
        if len == 0 && !space.is_empty() {
            return Err(RecvError::Empty);
        }
        space[..len].copy_from_slice(&unread[..len]);
        socket.reader.consume(len);
        let has_room = socket.reader.len() < self.options.pull_bytes_max as usize;
        if has_room && socket.hold.by_pull {
            socket.hold.by_pull = false;
            self.reactor.reconcile(&mut self.driver, handle);
        }
        self.recycle(handle);
        // Once the last byte is out, the end that waited behind it can be told.
        let socket = self.reactor.owned(handle).ok_or(RecvError::Stale)?;
        if socket.reader.is_empty() && socket.end.is_some() {
            self.reactor.defer(handle);
        }
        Ok(len)
    }

    /// Closes gracefully: what `send` accepted is flushed, the peer's end of stream is awaited,
    /// all within [`Options::close_timeout`] (C7), and no longer than 2 s where nothing is
    /// pending. What the peer still sends is dropped, up to 1 MiB. The handle is stale at once
    /// (C2). A listener or an attempt to connect ends at once. Inside the Close event this
    /// changes nothing.
    ///
    /// # Errors
    /// [`Stale`]: it was closed before.
    pub fn close(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        let release = match (socket.state, socket.broken) {
            // It is on its way already, and gracefully.
            (State::Ending, _) => return Ok(()),
            (State::Connected, None) => Release::Flush,
            _ => Release::Drop,
        };
        self.release(handle, release);
        Ok(())
    }

    /// Closes at once, by a reset where there is a connection. Nothing is flushed.
    ///
    /// # Errors
    /// [`Stale`]: it was closed before.
    pub fn abort(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        match socket.state {
            State::Ending => socket.is_aborted = true,
            State::Connected => self.release(handle, Release::Reset),
            _ => self.release(handle, Release::Drop),
        }
        Ok(())
    }

    /// The options of one socket, to be read and set.
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn option(&mut self, handle: Handle) -> Result<SocketOptions<'_, A>, Stale> {
        self.reactor.owned(handle).ok_or(Stale)?;
        Ok(SocketOptions::new(self, handle))
    }

    /// Stops delivering and receiving from one socket, or accepting with a listener; the peer is
    /// slowed down once the kernel's buffers are full. Bytes that were on their way are kept. A
    /// connection that breaks ends its pause: what has arrived is delivered, and then Close.
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn pause_receive(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        socket.hold.by_user = socket.broken.is_none();
        self.reactor.reconcile(&mut self.driver, handle);
        Ok(())
    }

    /// Undoes [`pause_receive`](Self::pause_receive). What was kept is delivered by the next turn.
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn resume_receive(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        let was_paused = std::mem::take(&mut socket.hold.by_user);
        if was_paused && (!socket.reader.is_empty() || socket.end.is_some()) {
            self.reactor.defer(handle);
        }
        self.reactor.reconcile(&mut self.driver, handle);
        Ok(())
    }

    /// Calls `callback` with [`Event::Timer`](crate::Event::Timer) after `interval`, once or again
    /// and again. Monotonic, in whole milliseconds and at least one, never early.
    ///
    /// ```
    /// use std::time::Duration;
    /// use uring_netlib::{Event, Handle, Netlib, Options, Repeat};
    ///
    /// fn tick(count: &mut u32, net: &mut Netlib<u32>, _: Handle, event: Event<'_>) {
    ///     *count += 1;
    ///     if let (Event::Timer { timer, .. }, 3) = (event, *count) {
    ///         net.delete_timer(timer).ok();
    ///         net.stop_event();
    ///     }
    /// }
    ///
    /// let (mut net, mut count) = (Options::new().build()?, 0);
    /// net.register_timer(Duration::from_millis(5), Repeat::Forever, tick, 0);
    /// net.eventloop(&mut count, Duration::MAX)?;
    /// assert_eq!(count, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// With more than 2²⁴ timers.
    pub fn register_timer(
        &mut self,
        interval: Duration,
        repeat: Repeat,
        callback: Callback<A>,
        user_data: u64,
    ) -> TimerId {
        let interval_ms = NonZeroU64::new(millis(interval)).unwrap_or(NonZeroU64::MIN);
        let period_ms = (repeat == Repeat::Forever).then_some(interval_ms);
        let timer = Timer { callback, user_data, period_ms, key: None };
        let inserted = self.timers.insert(timer);
        let Ok(id) = inserted else { panic!("no more than 2²⁴ timers") };
        let deadline = self.deadline(interval);
        let key = self.reactor.alarms.insert(deadline, Alarm::User(id));
        if let Some(timer) = self.timers.find_mut(id) {
            timer.key = Some(key);
        }
        TimerId(id.to_bits())
    }

    /// Deletes a timer; it does not fire any more, not even in this turn.
    ///
    /// # Errors
    /// [`Stale`]: it fired for the last time, or was deleted before.
    pub fn delete_timer(&mut self, timer: TimerId) -> Result<(), Stale> {
        let timer = self.timers.remove(Handle::from_bits(timer.0)).ok_or(Stale)?;
        if let Some(key) = timer.key {
            self.reactor.alarms.cancel(key);
        }
        Ok(())
    }

    /// Calls `callback` with [`Event::Loop`](crate::Event::Loop) at the end of every turn, from
    /// the next one on if it is added by a loop callback.
    pub fn add_loop(&mut self, callback: Callback<A>, user_data: u64) -> LoopId {
        self.loops_added += 1;
        let id = self.loops_added;
        self.loops.push(Loop { id, callback, user_data });
        LoopId(id)
    }

    /// Removes a loop callback, at once.
    ///
    /// # Errors
    /// [`Stale`]: it was removed before.
    pub fn remove_loop(&mut self, id: LoopId) -> Result<(), Stale> {
        let position = self.loops.iter().position(|one| one.id == id.0).ok_or(Stale)?;
        self.loops.remove(position);
        Ok(())
    }

    /// Lets [`eventloop`](Self::eventloop) return once the turn in hand is over.
    pub fn stop_event(&mut self) {
        self.remote.stop();
    }

    /// Whether [`eventloop`](Self::eventloop) is running.
    pub fn is_running(&self) -> bool {
        self.is_running
    }

    /// The part of this `Netlib` that other threads and signal handlers may use.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The state of a socket.
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn state(&self, handle: Handle) -> Result<SocketState, Stale> {
        self.reactor.sockets.find(handle).and_then(|socket| socket.state.public()).ok_or(Stale)
    }

    /// Which backend serves this `Netlib`, with what, and why.
    pub fn backend(&self) -> BackendInfo {
        let (backend, features) = match &self.driver {
            Auto::Uring(driver) => (Backend::Uring, driver.features()),
            Auto::Epoll(_) => (Backend::Epoll, Features::NONE),
        };
        BackendInfo { backend, features, fallback: self.fallback.clone() }
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        let driver = self.driver.counters();
        Stats {
            sockets: self.reactor.sockets.len() as u64,
            sends: driver.sends,
            waits: driver.waits,
            overflows: driver.overflows,
            wakeups: driver.wakeups,
            buffers_free: driver.buffers_free.into(),
            buffers_kernel: driver.buffers_kernel.into(),
            buffers_lent: driver.buffers_lent.into(),
            ..self.reactor.stats
        }
    }

    fn release(&mut self, handle: Handle, release: Release) {
        let socket = self.reactor.sockets.find(handle);
        let has_pending = socket.is_some_and(|socket| socket.backlog.queued() > 0);
        let limit = self.options.close_timeout;
        let deadline = self.deadline(if has_pending { limit } else { limit.min(LINGER_MAX) });
        self.reactor.release(&mut self.driver, handle, release, deadline);
    }

    /// Gives a reader's memory to others while it holds nothing, so that idle sockets cost none.
    fn recycle(&mut self, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if socket.reader.is_empty() && socket.reader.has_buffer() {
            self.reactor.spare.give(socket.reader.take_buffer());
        }
    }

    /// The clock of the alarms, in whole milliseconds. Nothing below reads a clock (I7).
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).expect("584 million years")
    }

    /// The first whole millisecond that is not before `after` from now.
    fn deadline(&self, after: Duration) -> u64 {
        millis(self.start.elapsed().saturating_add(after))
    }
}

impl<A> fmt::Debug for Netlib<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlib")
            .field("driver", &self.driver)
            .field("sockets", &self.reactor.sockets.len())
            .field("timers", &self.timers.len())
            .field("is_running", &self.is_running)
            .finish_non_exhaustive()
    }
}

/// Which backend serves a `Netlib`. `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// `Uring` or `Epoll`.
    pub backend: Backend,
    /// Features of io_uring in use; none with epoll.
    pub features: Features,
    /// Why [`Backend::Auto`] did not take io_uring.
    pub fallback: Option<UringError>,
}

impl fmt::Display for BackendInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend={}", self.backend)?;
        if self.backend == Backend::Uring {
            write!(f, " features={}", self.features)?;
        }
        if let Some(reason) = &self.fallback {
            write!(f, " because {reason}")?;
        }
        Ok(())
    }
}

const TIMERS_MAX: usize = 1 << 24;

/// How long the end of a peer is waited for that has nothing more to get.
const LINGER_MAX: Duration = Duration::from_secs(2);
