//! What time it is: the one place that reads the clock, and a clock for tests that stands still.
//!
//! Everything below is handed times in milliseconds (I7).

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::options::Options;
use crate::sys;

/// A clock that stands still until it is told to go on: for tests of timers, deadlines and
/// heartbeats, which then take no time.
///
/// A [`Netlib`](crate::Netlib) that was built with it, see
/// [`Options::clock`](crate::Options::clock), takes its time for timers and deadlines from here. A
/// turn still waits for the kernel in real time, as long as it is told to and nothing is due. All
/// clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use uring_netlib::{Event, Handle, ManualClock, Netlib, Options, Repeat};
///
/// fn count(hours: &mut u32, _: &mut Netlib<u32>, _: Handle, _: Event<'_>) {
///     *hours += 1;
/// }
///
/// let clock = ManualClock::new();
/// let (mut net, mut hours) = (Options::new().clock(&clock).build()?, 0);
/// net.register_timer(Duration::from_secs(3600), Repeat::Forever, count, 0);
/// for _ in 0..24 {
///     clock.advance(Duration::from_secs(3600));
///     net.turn(&mut hours, Duration::ZERO)?;
/// }
/// assert_eq!(hours, 24);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets that much time pass. It never passes the 584 years that 64 bits of nanoseconds hold.
    pub fn advance(&self, span: Duration) {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let add = |nanos: u64| Some(nanos.saturating_add(span));
        // The closure always has a value, so this cannot fail.
        let _ = self.nanos.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }

    /// How much time has passed since the clock was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Acquire))
    }
}

/// The clock of one `Netlib`. Monotonic, and zero at some time before its first timer.
#[derive(Debug)]
pub(crate) enum Clock {
    /// Counts from what the system's clock said, in ns.
    Real(u64),
    Manual(ManualClock),
    /// Time that goes on while it is waited for.
    #[cfg(feature = "sim")]
    Simulated(HostClock),
}

impl Clock {
    pub(crate) fn start(options: &Options) -> Self {
        #[cfg(feature = "sim")]
        if let Some(host) = &options.sim {
            return Self::Simulated(host.clock());
        }
        match &options.clock {
            Some(clock) => Self::Manual(clock.clone()),
            None => Self::Real(sys::monotonic_nanos()),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::Real(start) => Duration::from_nanos(sys::monotonic_nanos() - start),
            Self::Manual(clock) => clock.elapsed(),
            #[cfg(feature = "sim")]
            Self::Simulated(clock) => clock.elapsed(),
        }
    }

    /// How long the kernel may be waited for before this time has come. Time that stands still
    /// does not come by waiting.
    pub(crate) fn until(&self, due: Duration) -> Duration {
        match (self, due.saturating_sub(self.elapsed())) {
            (_, Duration::ZERO) => Duration::ZERO,
            (Self::Real(_), left) => left,
            (Self::Manual(_), _) => Duration::MAX,
            #[cfg(feature = "sim")]
            (Self::Simulated(clock), left) => clock.lasts(left),
        }
    }
}

/// The clock of one host of a simulated network, which may go on faster or slower than its time.
#[cfg(feature = "sim")]
#[derive(Clone, Debug)]
pub(crate) struct HostClock {
    clock: ManualClock,
    rate: u32,
}

#[cfg(feature = "sim")]
impl HostClock {
    /// A clock that goes on by so many millionths, above 0, of what the other one does.
    pub(crate) const fn new(clock: ManualClock, rate: u32) -> Self {
        Self { clock, rate }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match self.rate {
            TRUE_RATE => self.clock.elapsed(),
            rate => scale(self.clock.elapsed(), |nanos| nanos * u128::from(rate) / MILLION),
        }
    }

    /// How much time has to pass for so much to pass here, rounded up.
    fn lasts(&self, span: Duration) -> Duration {
        match self.rate {
            TRUE_RATE => span,
            rate => scale(span, |nanos| (nanos * MILLION).div_ceil(u128::from(rate))),
        }
    }
}

#[cfg(feature = "sim")]
fn scale(span: Duration, change: impl FnOnce(u128) -> u128) -> Duration {
    Duration::from_nanos(u64::try_from(change(span.as_nanos())).unwrap_or(u64::MAX))
}

/// The rate of a clock that is as fast as the time.
#[cfg(feature = "sim")]
pub(crate) const TRUE_RATE: u32 = 1_000_000;

#[cfg(feature = "sim")]
const MILLION: u128 = TRUE_RATE as u128;
