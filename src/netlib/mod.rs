//! The surface: what applications call. Each call changes state and returns; events come only
//! from the event loop, which is in `turn.rs` (C1).
//!
//! Options of one socket are in `option.rs`, timers and loop callbacks in `timers.rs`, sends to
//! many in `fanout.rs`, reconnect sets in `sets.rs`. Rules C1 to C7 are listed at [`Netlib`].

#![forbid(unsafe_code)]

mod bulk;
mod calls;
mod dispatch;
mod fanout;
mod option;
mod sets;
mod setup;
#[cfg(feature = "sim")]
mod simulated;
mod spin;
mod tell;
mod timers;
mod turn;
mod watch;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

pub use fanout::Broadcast;
pub use option::SocketOptions;
pub use sets::ReconnectSet;
use sets::Sets;
use spin::Spin;
use tell::{Hosted, Owner};
pub use timers::Repeat;
use timers::{Loop, TIMERS_MAX, Timer};

use crate::address::Address;
use crate::clock::Clock;
use crate::conn::MemberEnd;
use crate::driver::{Auto, Completion, Driver};
use crate::error::{
    BuildError, ConnectError, ListenError, RecvError, SendError, Stale, UringError,
};
use crate::event::{Callback, Handle, SocketState};
use crate::options::{Backend, Features, ListenOptions, Options};
use crate::pdu::{self, Header};
use crate::reactor::{Parting, Reactor, Release, SendStatus, Settings, State, Table, millis};
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
/// - **C7** [`close`](Self::close) after [`send`](Self::send) flushes what was accepted: the
///   connection is kept until the peer's kernel has acknowledged all of it or the peer has ended
///   its own stream, within [`Options::close_timeout`]. `abort` flushes nothing.
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
    reactor: Reactor<Owner<A>>,
    timers: Table<Timer<A>>,
    loops: Vec<Loop<A>>,
    sets: Sets<A>,
    loops_added: u64,
    resolver: Resolver,
    remote: Remote,
    options: Options,
    /// What new sockets start with.
    settings: Settings,
    fallback: Option<UringError>,
    /// The clock of the alarms.
    clock: Clock,
    spin: Spin,
    /// Completions of the turn; kept for its memory.
    batch: Vec<Completion>,
    is_running: bool,
    is_in_turn: bool,
}

impl<A> Netlib<A> {
    pub(crate) fn with_options(options: Options) -> Result<Self, BuildError> {
        let (driver, fallback) = Auto::start(&options)?;
        let remote = Remote::new(driver.waker());
        Ok(Self {
            reactor: Reactor::new(&options, driver.stock().clone()),
            timers: Table::new(TIMERS_MAX),
            loops: Vec::new(),
            sets: Sets::new(),
            loops_added: 0,
            resolver: Resolver::new(driver.waker()),
            driver,
            remote,
            spin: Spin::new(options.spin_span()),
            clock: Clock::start(&options),
            settings: Settings {
                delivery: options.delivery,
                backlog: options.backlog,
                liveness: Rc::new(options.liveness.clone()),
                limits: Rc::new(options.limits.clone()),
            },
            options,
            fallback,
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
        let owner = (Owner::Callback(callback), user_data);
        self.start_listener(&address.try_into()?, options, owner)
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
        self.start_connection(address.try_into()?, (Owner::Callback(callback), user_data))
    }

    /// Queues bytes; all that one turn queues on a socket leaves in one send.
    ///
    /// Of what the event in hand has brought, or some of it, nothing is copied where many bytes
    /// came together: they wait in the receive buffer, as long as no more than half of the buffers
    /// are lent like that.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send(&mut self, handle: Handle, bytes: &[u8]) -> Result<SendStatus, SendError> {
        self.reactor.queue_bytes(handle, bytes)
    }

    /// How many bytes more may be sent on all sockets together, before `send` answers
    /// [`SendError::Exhausted`]. A socket's own limit may allow less.
    pub fn sendable_bytes(&self) -> usize {
        self.reactor.room()
    }

    /// Queues bytes of which somebody was told already that they will be sent, such as a thread
    /// that has left them in a queue for this loop. Only the socket's own limit refuses them; that
    /// of all sockets together is the business of whoever made the promise, and asked
    /// [`sendable_bytes`](Self::sendable_bytes) before.
    ///
    /// ```
    /// use uring_netlib::{Handle, Netlib, SendError};
    ///
    /// /// Sends what a thread may count on because it was given `promised` bytes to fill.
    /// fn keep(net: &mut Netlib<()>, to: Handle, promised: &[u8]) -> Result<(), SendError> {
    ///     net.send_promised(to, promised).map(|_| ())
    /// }
    /// # let _ = keep;
    /// ```
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued. Never `Exhausted`.
    pub fn send_promised(&mut self, handle: Handle, bytes: &[u8]) -> Result<SendStatus, SendError> {
        self.reactor.queue_promised(handle, bytes)
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
        let max = match self.reactor.sendable(handle)?.delivery() {
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
        if socket.delivery() != crate::Delivery::Pull {
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
            let now_ms = self.now_ms();
            self.hear_again(handle, now_ms);
        }
        self.recycle(handle);
        self.reactor.recount(handle);
        // Once the last byte is out, the end that waited behind it can be told.
        let socket = self.reactor.owned(handle).ok_or(RecvError::Stale)?;
        if socket.reader.is_empty() && socket.end().is_some() {
            self.reactor.defer(handle);
        }
        Ok(len)
    }

    /// Closes gracefully: what `send` accepted is flushed, until the peer's kernel has
    /// acknowledged it, and the peer's end of stream is awaited, all within
    /// [`Options::close_timeout`] (C7). That end is awaited for no longer than 2 s from when the
    /// peer was seen to have everything; whoever has ended already is left to the kernel at once.
    /// What the peer still sends is dropped, up to 1 MiB. The handle is stale at once (C2). A
    /// listener or an attempt to connect ends at once. Inside the Close event this changes
    /// nothing.
    ///
    /// # Errors
    /// [`Stale`]: it was closed before.
    pub fn close(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        let release = match (socket.state(), socket.broken()) {
            // It is on its way already, and gracefully.
            (State::Ending, _) => return Ok(()),
            (State::Connected, None) => Release::Flush,
            _ => Release::Drop,
        };
        self.reactor.stats.closes.by_application += 1;
        self.release(handle, release);
        Ok(())
    }

    /// Closes at once, by a reset where there is a connection. Nothing is flushed.
    ///
    /// # Errors
    /// [`Stale`]: it was closed before.
    pub fn abort(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        let release = match socket.state() {
            State::Ending => {
                socket.is_aborted = true;
                return Ok(());
            }
            State::Connected => Release::Reset,
            _ => Release::Drop,
        };
        self.reactor.stats.closes.by_application += 1;
        self.release(handle, release);
        Ok(())
    }

    /// The options of one socket, to be read and set.
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn option(&mut self, handle: Handle) -> Result<SocketOptions<'_, A>, Stale> {
        let socket = self.reactor.sockets.find(handle).filter(|socket| socket.is_owned());
        socket.ok_or(Stale)?;
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
        socket.hold.by_user = socket.broken().is_none();
        self.reactor.reconcile(&mut self.driver, handle);
        Ok(())
    }

    /// Undoes [`pause_receive`](Self::pause_receive). What was kept is delivered by the next turn.
    ///
    /// # Errors
    /// [`Stale`]: the handle was closed.
    pub fn resume_receive(&mut self, handle: Handle) -> Result<(), Stale> {
        let socket = self.reactor.owned(handle).ok_or(Stale)?;
        if std::mem::take(&mut socket.hold.by_user) {
            let now_ms = self.now_ms();
            self.resume(handle, now_ms);
        }
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
        self.reactor.sockets.find(handle).and_then(|socket| socket.state().public()).ok_or(Stale)
    }

    /// Which backend serves this `Netlib`, with what, and why.
    pub fn backend(&self) -> BackendInfo {
        let (backend, features) = match &self.driver {
            Auto::Uring(driver) => (Backend::Uring, driver.features()),
            Auto::Epoll(_) => (Backend::Epoll, Features::NONE),
            #[cfg(feature = "sim")]
            Auto::Sim(_) => (Backend::Sim, Features::NONE),
        };
        BackendInfo { backend, features, fallback: self.fallback.clone() }
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        let driver = self.driver.counters();
        let count = |state| self.reactor.census.count(Some(state));
        Stats {
            sockets: self.reactor.sockets.len() as u64,
            resolving: count(SocketState::Idle),
            listening: count(SocketState::Listening),
            connecting: count(SocketState::Connecting),
            connected: count(SocketState::Connected),
            closing: count(SocketState::Closing) + self.reactor.census.count(None),
            timers: self.reactor.alarms.len() as u64,
            buffered_bytes: self.reactor.buffered() as u64,
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
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let has_pending = socket.backlog.queued() > 0;
        let is_object = matches!(socket.owner, Owner::Object(_));
        self.delete_timers_of(handle);
        // The object goes with its user's interest in it, not with the descriptor.
        let nobody = Owner::Object(Hosted::default());
        let owner = is_object.then(|| self.change_owner(handle, nobody));
        let now_ms = self.deadline(Duration::ZERO);
        let parting = Parting::new(now_ms, self.options.close_timeout, has_pending);
        // Before the socket goes, which it does at once when nothing is outstanding.
        self.leave_set(handle, MemberEnd::ByApplication);
        self.reactor.release(&mut self.driver, handle, release, parting);
        // What user code does when it is dropped is user code.
        self.panics(|_| drop(owner));
    }

    /// Gives a reader's memory to others while it holds nothing, so that idle sockets cost none.
    fn recycle(&mut self, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if socket.reader.is_empty() && socket.reader.has_buffer() {
            self.reactor.spare.give(socket.reader.take_buffer());
        }
    }

    /// The time of the alarms, in whole milliseconds.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).expect("584 million years")
    }

    /// The first whole millisecond that is not before `after` from now.
    fn deadline(&self, after: Duration) -> u64 {
        millis(self.clock.elapsed().saturating_add(after))
    }
}

impl<A> fmt::Debug for Netlib<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlib")
            .field("driver", &self.driver)
            .field("sockets", &self.reactor.sockets.len())
            .field("timers", &self.timers.len())
            .field("sets", &self.sets)
            .field("is_running", &self.is_running)
            .finish_non_exhaustive()
    }
}

/// Which backend serves a `Netlib`. `Display` is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// The one that serves; never `Auto`.
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
