//! Options of a `Netlib` and of a listener: every limit with its default and unit.
//!
//! Values only; [`Options::build`] checks them once. Options of one socket, read and set while it
//! is open, are in `netlib/option.rs`.

#![forbid(unsafe_code)]

mod backend;
mod limits;
mod liveness;
mod socket;

use std::env;
use std::time::Duration;

pub use backend::{Backend, Feature, Features};
pub use limits::{Limits, Rate};
pub use liveness::Liveness;
pub(crate) use liveness::NEVER;
pub use socket::{BacklogLimits, Delivery, ListenOptions};

use crate::clock::ManualClock;
use crate::conn::call::CALLS_MAX;
use crate::error::BuildError;
use crate::netlib::Netlib;
#[cfg(feature = "sim")]
use crate::sim::SimHost;

/// Options of a [`Netlib`]: a consuming builder.
///
/// ```
/// use uring_netlib::{Backend, Netlib, Options};
///
/// let net: Netlib<()> = Options::new().backend(Backend::Auto).pool(256, 4096).build()?;
/// println!("{}", net.backend());
/// # Ok::<(), uring_netlib::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    pub(crate) backend: Backend,
    pub(crate) mask: Features,
    pub(crate) ring_entries: u32,
    pub(crate) pool_buffers: u16,
    pub(crate) pool_buffer_len: u32,
    pub(crate) sockets_max: u32,
    pub(crate) delivery: Delivery,
    pub(crate) backlog: BacklogLimits,
    pub(crate) pull_bytes_max: u32,
    pub(crate) liveness: Liveness,
    pub(crate) limits: Limits,
    pub(crate) buffered_bytes_max: usize,
    pub(crate) calls_max: u16,
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) accept_pause_min: Duration,
    pub(crate) accept_pause_max: Duration,
    pub(crate) abort_on_panic: bool,
    pub(crate) spin: Duration,
    pub(crate) clock: Option<ManualClock>,
    #[cfg(feature = "sim")]
    pub(crate) sim: Option<SimHost>,
}

impl Options {
    /// The defaults that each setter names.
    pub fn new() -> Self {
        Self {
            backend: Backend::Auto,
            mask: Features::NONE,
            ring_entries: 1024,
            pool_buffers: 256,
            pool_buffer_len: 16 * 1024,
            sockets_max: 1 << 20,
            delivery: Delivery::default(),
            backlog: BacklogLimits::default(),
            pull_bytes_max: 64 * 1024,
            liveness: Liveness::new(),
            limits: Limits::new(),
            buffered_bytes_max: 1 << 30,
            calls_max: 1024,
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            accept_pause_min: Duration::from_millis(10),
            accept_pause_max: Duration::from_secs(1),
            abort_on_panic: false,
            spin: Duration::from_micros(50),
            clock: None,
            #[cfg(feature = "sim")]
            sim: None,
        }
    }

    /// The driver. Default [`Backend::Auto`]. The environment variable `NETLIB_BACKEND` (`auto`,
    /// `uring`, `epoll`) overrules `Auto`, and nothing else.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Features of io_uring to do without, so that an older kernel's paths run on a newer one.
    /// Default none. The environment variable `NETLIB_URING_MASK` (names separated by commas)
    /// adds to it. Without a required feature epoll takes over, or `Backend::Uring` fails.
    pub fn mask(mut self, features: Features) -> Self {
        self.mask = features;
        self
    }

    /// Entries of the submission queue, 8 to 32768. Default 1024. A fuller turn costs a further
    /// system call and nothing else; an entry costs 64 bytes, and 64 bytes of completion queue.
    pub fn ring_entries(mut self, entries: u32) -> Self {
        self.ring_entries = entries;
        self
    }

    /// Receive buffers of the whole `Netlib`: how many (1 to 32768) and how long (64 bytes to
    /// 1 MiB). Default 256 of 16 KiB. With none free, sockets wait in turn and lose nothing. A PDU
    /// that is longer than a buffer is copied once more. Half of the buffers may be lent to sends,
    /// see [`Netlib::send`](crate::Netlib::send).
    pub fn pool(mut self, buffers: u16, buffer_len: u32) -> Self {
        self.pool_buffers = buffers;
        self.pool_buffer_len = buffer_len;
        self
    }

    /// Sockets open at the same time, closing ones included. Default 2²⁰. A client beyond it is
    /// accepted and closed at once, and counted.
    pub fn sockets_max(mut self, sockets: u32) -> Self {
        self.sockets_max = sockets;
        self
    }

    /// How new sockets deliver what arrives. Default whole TeamTalk PDUs of up to 1 MiB.
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// Pending bytes of a new socket. Default 32 KiB low, 64 KiB high, 1 MiB at most.
    pub fn backlog(mut self, limits: BacklogLimits) -> Self {
        self.backlog = limits;
        self
    }

    /// Bytes that may wait for [`Netlib::recv`] on one socket before it stops receiving; what is
    /// on its way then still arrives, at most the pool. Default 64 KiB.
    pub fn pull_bytes_max(mut self, bytes: u32) -> Self {
        self.pull_bytes_max = bytes;
        self
    }

    /// Deadlines and heartbeat of a new socket. Default [`Liveness::new`]: a PDU that has started
    /// must be whole within 30 s, and what is sent must be taken within 10 s.
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// What the peer of a new socket may ask for. Default anything.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bytes that may be kept for all sockets together: beginnings of PDUs, what is held back, and
    /// what is pending. Default 1 GiB. From seven eighths of it on `send` refuses, as
    /// [`SendError::Exhausted`](crate::SendError::Exhausted), and from three quarters on it is told
    /// by [`Event::Write`](crate::Event::Write); beyond all of it the connection that keeps the
    /// most is closed, as [`CloseReason::Exceeded`](crate::CloseReason::Exceeded). Buffers grow in
    /// steps, so up to twice as much memory may be in use. Bytes that wait in the buffer that they
    /// were received in are not among them; these buffers are half of the pool, and 2 MiB, at most.
    pub fn buffered_bytes_max(mut self, bytes: usize) -> Self {
        self.buffered_bytes_max = bytes;
        self
    }

    /// Calls of one connection that may wait for their replies, 1 to 32768. Default 1024; see
    /// [`Context::call`](crate::conn::Context::call). One costs up to 200 bytes, and what its
    /// handler has captured.
    pub fn calls_max(mut self, calls: u16) -> Self {
        self.calls_max = calls;
        self
    }

    /// How long an attempt to connect may take, resolving the host name included. Default 10 s;
    /// `Duration::MAX` leaves it to the kernel.
    /// Each address of a host gets an equal share of what is left.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a closed connection may take until its peer has acknowledged everything and has
    /// ended its own stream, before it is cut. Default 10 s. One whose peer has taken nothing of
    /// what the kernel had for it, since a second after the close, is then reset, and so is one for
    /// which bytes still wait here; for another that takes it slowly the rest is left to the
    /// kernel, unless it has sent what is not received any more. Each is counted in
    /// [`Stats::closes_cut`](crate::Stats::closes_cut).
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// How long a listener rests when no descriptor is left: the first pause, doubled until the
    /// last. Default 10 ms to 1 s. A socket that closes ends the pause.
    pub fn accept_pause(mut self, first: Duration, last: Duration) -> Self {
        self.accept_pause_min = first;
        self.accept_pause_max = last;
        self
    }

    /// Whether a panic of user code aborts the process. Default no: it closes the connection that
    /// was being served, as `CloseReason::Panicked`, is counted, and the loop goes on. A panic in
    /// a timer or a loop callback is counted only.
    pub fn abort_on_panic(mut self, abort: bool) -> Self {
        self.abort_on_panic = abort;
        self
    }

    /// How long a loop with nothing to do may look for completions before it sleeps, where it has
    /// found that this costs less CPU time than sleeping and being woken: it tries one and the
    /// other, and keeps to what was cheaper. It saves the latency of a wake-up as well. Default
    /// 50 µs; zero never looks, and leaves the core to others at once.
    pub fn spin(mut self, span: Duration) -> Self {
        self.spin = span;
        self
    }

    /// A clock for tests, which stands still until it is told to go on. Default the kernel's
    /// monotonic one.
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.clock = Some(clock.clone());
        self
    }

    /// Lets the `Netlib` run on a host of a simulated network, with the time of that network and
    /// without any of the kernel's sockets; see [`sim`](crate::sim). Takes the place of the backend
    /// and of the clock. Addresses are numeric, and a listener's is the host's own or unspecified.
    #[cfg(feature = "sim")]
    pub fn sim(mut self, host: &SimHost) -> Self {
        self.backend = Backend::Sim;
        self.sim = Some(host.clone());
        self
    }

    /// Makes the `Netlib`, on this thread and for this thread.
    ///
    /// # Errors
    /// [`BuildError`]: an option out of bounds, a variable that is not understood, or a backend
    /// that cannot be had.
    pub fn build<A>(mut self) -> Result<Netlib<A>, BuildError> {
        self.read_environment()?;
        self.check()?;
        Netlib::with_options(self)
    }

    fn read_environment(&mut self) -> Result<(), BuildError> {
        if let Some(word) = variable(BACKEND_VARIABLE)
            && self.backend == Backend::Auto
        {
            self.backend = Backend::parse(&word)
                .ok_or(BuildError::Environment { name: BACKEND_VARIABLE, word })?;
        }
        if let Some(text) = variable(MASK_VARIABLE) {
            self.mask = self.mask.or(text.parse()?);
        }
        Ok(())
    }

    /// How long to look for completions. Time that stands still, or jumps, never ends a look.
    pub(crate) fn spin_span(&self) -> Duration {
        #[cfg(feature = "sim")]
        if self.sim.is_some() {
            return Duration::ZERO;
        }
        if self.clock.is_some() { Duration::ZERO } else { self.spin }
    }

    fn check(&self) -> Result<(), BuildError> {
        let rules = [
            ((8..=32768).contains(&self.ring_entries), "ring_entries must be 8 to 32768"),
            ((1..=32768).contains(&self.pool_buffers), "pool buffers must be 1 to 32768"),
            (
                (64..=1 << 20).contains(&self.pool_buffer_len),
                "a pool buffer must be 64 bytes to 1 MiB long",
            ),
            (self.sockets_max > 0, "sockets_max must be above 0"),
            (
                self.backlog.are_ordered(),
                "backlog limits must be low <= high <= max, and max above 0",
            ),
            (self.pull_bytes_max > 0, "pull_bytes_max must be above 0"),
            (self.buffered_bytes_max > 0, "buffered_bytes_max must be above 0"),
            ((1..=CALLS_MAX).contains(&self.calls_max), "calls_max must be 1 to 32768"),
            (
                self.accept_pause_min <= self.accept_pause_max,
                "the first accept pause must not be longer than the last",
            ),
        ];
        #[cfg(feature = "sim")]
        if (self.backend == Backend::Sim) != self.sim.is_some() {
            return Err(BuildError::Option("Backend::Sim is chosen by Options::sim"));
        }
        if let Some((_, text)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(BuildError::Option(text));
        }
        match self.delivery {
            Delivery::Pdu(spec) => spec.validate().map_err(BuildError::Frame),
            Delivery::Push | Delivery::Pull => Ok(()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// A variable's value; what is not text becomes a word that is not known.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

const BACKEND_VARIABLE: &str = "NETLIB_BACKEND";
const MASK_VARIABLE: &str = "NETLIB_URING_MASK";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::FrameSpec;

    /// Every option out of its bounds is refused by name.
    #[test]
    fn options_out_of_bounds_are_refused() {
        let refused = [
            Options::new().ring_entries(0),
            Options::new().pool(0, 4096),
            Options::new().pool(16, 63),
            Options::new().sockets_max(0),
            Options::new().backlog(BacklogLimits { low: 2, high: 1, max: 9 }),
            Options::new().pull_bytes_max(0),
            Options::new().buffered_bytes_max(0),
            Options::new().calls_max(0),
            Options::new().calls_max(CALLS_MAX + 1),
            Options::new().accept_pause(Duration::from_secs(2), Duration::from_secs(1)),
        ];
        for options in refused {
            assert!(matches!(options.check(), Err(BuildError::Option(_))), "{options:?}");
        }
        let spec = FrameSpec::teamtalk().with_max(3);
        let options = Options::new().delivery(Delivery::Pdu(spec));
        assert!(matches!(options.check(), Err(BuildError::Frame(_))));
        assert!(Options::new().check().is_ok());
    }
}
