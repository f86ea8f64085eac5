//! Options of a `Netlib` and of a listener: every limit with its default and unit, in one place.
//!
//! Values only; [`Options::build`] checks them once. Options of one socket, read and set while it
//! is open, are in `netlib/option.rs`.

#![forbid(unsafe_code)]

use std::time::Duration;
use std::{env, fmt};

use crate::clock::ManualClock;
use crate::error::BuildError;
use crate::netlib::Netlib;
use crate::pdu::FrameSpec;

/// Which driver moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where it works, else epoll, with one line on standard error that says why.
    #[default]
    Auto,
    /// io_uring, or [`BuildError::Uring`].
    Uring,
    /// epoll.
    Epoll,
}

impl Backend {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "uring" => Some(Self::Uring),
            "epoll" => Some(Self::Epoll),
            _ => None,
        }
    }
}

impl std::str::FromStr for Backend {
    type Err = BuildError;

    /// Takes `auto`, `uring` and `epoll`.
    fn from_str(word: &str) -> Result<Self, BuildError> {
        Self::parse(word).ok_or(BuildError::Option("a backend is auto, uring or epoll"))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        })
    }
}

/// One feature of io_uring that the ring driver uses, with the kernel that brought it.
///
/// Without a *required* one the ring driver does not start; the others degrade as said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Required. Completions are never dropped (5.5).
    NoDrop,
    /// Required. Waiting on sockets without worker threads (5.7).
    FastPoll,
    /// Required. A time limit in the call that submits and waits (5.11).
    ExtArg,
    /// Required. Receive buffers picked by the kernel when data is there, so that an idle
    /// connection holds none (5.19).
    BufferRing,
    /// One accept request for all clients (5.19); else one request per client.
    AcceptMulti,
    /// One receive request for all data (6.0); else one request per arrival.
    ReceiveMulti,
    /// Only one thread submits (6.0); else the kernel takes a lock.
    SingleIssuer,
    /// Completions are worked off when this thread asks (6.1); else `CoopTaskrun`.
    DeferTaskrun,
    /// This thread is not interrupted for completions (5.19); else it is.
    CoopTaskrun,
    /// One refused request does not hold up those behind it (5.18); else they go a call later.
    SubmitAll,
    /// No index array between the queue and its entries (6.6); else one.
    NoSqArray,
    /// Idle waiting is not accounted as waiting for disks (6.15); else it is.
    NoIowait,
}

impl Feature {
    /// All of them, in the order of this page.
    pub const ALL: [Self; 12] = [
        Self::NoDrop,
        Self::FastPoll,
        Self::ExtArg,
        Self::BufferRing,
        Self::AcceptMulti,
        Self::ReceiveMulti,
        Self::SingleIssuer,
        Self::DeferTaskrun,
        Self::CoopTaskrun,
        Self::SubmitAll,
        Self::NoSqArray,
        Self::NoIowait,
    ];

    /// Its word in `NETLIB_URING_MASK` and in printed lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoDrop => "no_drop",
            Self::FastPoll => "fast_poll",
            Self::ExtArg => "ext_arg",
            Self::BufferRing => "buffer_ring",
            Self::AcceptMulti => "accept_multi",
            Self::ReceiveMulti => "receive_multi",
            Self::SingleIssuer => "single_issuer",
            Self::DeferTaskrun => "defer_taskrun",
            Self::CoopTaskrun => "coop_taskrun",
            Self::SubmitAll => "submit_all",
            Self::NoSqArray => "no_sqarray",
            Self::NoIowait => "no_iowait",
        }
    }

    /// Whether the ring driver cannot do without it.
    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::NoDrop | Self::FastPoll | Self::ExtArg | Self::BufferRing)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of [`Feature`]s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(u16);

impl Features {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// The set with one more.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u16)
    }

    /// The set with one less.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !(1 << feature as u16))
    }

    /// Whether it holds the feature.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u16 != 0
    }

    /// Its features, in the order of [`Feature::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }
}

impl std::str::FromStr for Features {
    type Err = BuildError;

    /// Takes names separated by commas, e.g. `accept_multi,receive_multi`. Empty is none.
    fn from_str(text: &str) -> Result<Self, BuildError> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.into_iter().try_fold(Self::NONE, |set, word| {
            let feature = Feature::ALL.into_iter().find(|feature| feature.name() == word);
            feature.map(|feature| set.with(feature)).ok_or_else(|| BuildError::Environment {
                name: MASK_VARIABLE,
                word: word.to_owned(),
            })
        })
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, feature) in self.iter().enumerate() {
            write!(f, "{}{feature}", if position == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({self})")
    }
}

/// How received bytes reach the callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// As they arrive, lent in [`Event::Read`](crate::Event::Read).
    Push,
    /// As whole PDUs in [`Event::Pdu`](crate::Event::Pdu), cut as the framing says.
    Pdu(FrameSpec),
    /// `Event::Read` tells that bytes are there, [`Netlib::recv`] copies them out. While
    /// [`Options::pull_bytes_max`] bytes wait, the socket does not receive.
    Pull,
}

impl Default for Delivery {
    fn default() -> Self {
        Self::Pdu(FrameSpec::teamtalk())
    }
}

/// How many pending bytes a socket may have.
///
/// Pending are the bytes that `send` took and the kernel has not: those that wait, and those in
/// flight, which count in full until the last of them has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLimits {
    /// At or below this many bytes `Event::Write` comes, if it is due. Default 32 KiB.
    pub low: u32,
    /// Above this many bytes `send` answers `AboveHighMark`. Default 64 KiB.
    pub high: u32,
    /// No send may pass this many bytes. Default 1 MiB. An empty backlog takes any single PDU
    /// that is not longer than this.
    pub max: u32,
}

impl BacklogLimits {
    pub(crate) const fn are_ordered(self) -> bool {
        self.low <= self.high && self.high <= self.max && self.max > 0
    }
}

impl Default for BacklogLimits {
    fn default() -> Self {
        Self { low: 32 * 1024, high: 64 * 1024, max: 1024 * 1024 }
    }
}

/// Options of one listener.
///
/// ```
/// let options = uring_netlib::ListenOptions::new().dual_stack(true).backlog(1024);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    pub(crate) dual_stack: bool,
    pub(crate) reuse_port: bool,
    pub(crate) backlog: u16,
}

impl ListenOptions {
    /// What [`Netlib::listen`] uses.
    #[must_use]
    pub const fn new() -> Self {
        Self { dual_stack: false, reuse_port: false, backlog: 4096 }
    }

    /// Whether an IPv6 listener takes IPv4 clients as well. Default no, whatever the system's
    /// own default is. Nothing else than IPv6 is changed by it.
    #[must_use]
    pub const fn dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Whether other listeners, of other threads, may share the port (`SO_REUSEPORT`). Default no.
    #[must_use]
    pub const fn reuse_port(mut self, reuse_port: bool) -> Self {
        self.reuse_port = reuse_port;
        self
    }

    /// Clients that may wait to be accepted. Default 4096; the kernel caps it at
    /// `net.core.somaxconn`.
    #[must_use]
    pub const fn backlog(mut self, clients: u16) -> Self {
        self.backlog = clients;
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}

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
    pub(crate) connect_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) accept_pause_min: Duration,
    pub(crate) accept_pause_max: Duration,
    pub(crate) abort_on_panic: bool,
    pub(crate) clock: Option<ManualClock>,
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
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            accept_pause_min: Duration::from_millis(10),
            accept_pause_max: Duration::from_secs(1),
            abort_on_panic: false,
            clock: None,
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
    /// that is longer than a buffer is copied once more.
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

    /// How long an attempt to connect may take, resolving the host name included. Default 10 s;
    /// `Duration::MAX` leaves it to the kernel.
    /// Each address of a host gets an equal share of what is left.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a closed connection may take to flush its pending bytes and to see the peer's
    /// end of stream, before it is cut. Default 10 s.
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

    /// A clock for tests, which stands still until it is told to go on. Default the kernel's
    /// monotonic one.
    pub fn clock(mut self, clock: &ManualClock) -> Self {
        self.clock = Some(clock.clone());
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
            self.mask = Features(self.mask.0 | text.parse::<Features>()?.0);
        }
        Ok(())
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
            (
                self.accept_pause_min <= self.accept_pause_max,
                "the first accept pause must not be longer than the last",
            ),
        ];
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

    /// A mask is read from its names, and printed as them.
    #[test]
    fn a_mask_reads_what_it_prints() {
        let mask: Features = " accept_multi, defer_taskrun ,".parse().unwrap();
        assert!(mask.has(Feature::AcceptMulti) && mask.has(Feature::DeferTaskrun));
        assert_eq!(mask.iter().count(), 2);
        assert_eq!(mask.to_string().parse::<Features>().unwrap(), mask);
        assert!(matches!("nonsense".parse::<Features>(), Err(BuildError::Environment { .. })));
    }

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
