//! Starting a ring: set-up flags by trying, features by using them, never by kernel version.
//!
//! The newest set-up flags are tried first and dropped one by one; then the driver is exercised,
//! see `exercise.rs`. What is required and what degrades is said at [`Feature`].

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::thread;

use io_uring::IoUring;

use super::super::buf_ring::BufRing;
use super::super::pool::Pool;
use super::super::slots::Slots;
use super::super::{DriverCounters, Stock, Waker};
use super::gather::SpareGathers;
use super::{Uring, exercise};
use crate::error::{Errno, UringError};
use crate::options::{Feature, Features, Options};

/// Set-up flags in the order in which they are given up.
const LADDER: [Feature; 5] = [
    Feature::NoSqArray,
    Feature::DeferTaskrun,
    Feature::SingleIssuer,
    Feature::CoopTaskrun,
    Feature::SubmitAll,
];

impl Uring {
    /// A ring that was set up, exercised, and found to do what the driver needs.
    pub(crate) fn new(options: &Options) -> Result<Self, UringError> {
        let (ring, mut features) = set_up(options)?;
        let setup = |error: io::Error| UringError::Setup(Errno::from_io(&error));
        let waker = Waker::new(true).map_err(setup)?;
        let pool = Pool::new(options.pool_buffers, options.pool_buffer_len).map_err(setup)?;
        let buffers = match BufRing::register(&ring, pool) {
            Ok(buffers) => buffers,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Err(UringError::Missing(Feature::BufferRing));
            }
            Err(error) => {
                let errno = Errno::from_io(&error);
                return Err(UringError::SelfTest { step: "register receive buffers", errno });
            }
        };
        for feature in [Feature::BufferRing, Feature::AcceptMulti, Feature::ReceiveMulti] {
            if !options.mask.has(feature) {
                features = features.with(feature);
            }
        }
        let mut driver = Self {
            ring: ManuallyDrop::new(ring),
            buffers: ManuallyDrop::new(buffers),
            slots: ManuallyDrop::new(Slots::new()),
            wake_count: ManuallyDrop::new(Box::new(0)),
            waker,
            features,
            unsubmitted: VecDeque::new(),
            maker: None,
            gathers: SpareGathers::new(),
            stock: Stock::default(),
            readable: VecDeque::new(),
            large_bytes: 0,
            settled: Vec::new(),
            others: Vec::new(),
            closes: 0,
            in_flight: 0,
            is_draining: false,
            counters: DriverCounters::default(),
        };
        driver.submit_wake();
        exercise::run(&mut driver)?;
        // Nothing is asked of the kernel from here until the first wait, which may be another
        // thread's.
        if !driver.drain() {
            let errno = Errno(libc::ETIMEDOUT);
            return Err(UringError::SelfTest { step: "end what was tried", errno });
        }
        driver.is_draining = false;
        driver.maker = Some(thread::current().id());
        driver.submit_wake();
        driver.counters = DriverCounters::default();
        Ok(driver)
    }

    /// The ring belongs to the thread that waits first. Where another one has made it, it is made
    /// anew, in the way that was found to work: the kernel knows who made a ring, and of this one
    /// it knows no more.
    pub(super) fn make_mine(&mut self) -> io::Result<()> {
        let Some(maker) = self.maker else { return Ok(()) };
        if maker != thread::current().id() {
            let ring = build(self.features, self.ring.params().sq_entries())?;
            let pool = self.buffers.pool();
            let len = u32::try_from(pool.buffer_len()).expect("at most 1 MiB");
            let buffers = BufRing::register(&ring, Pool::new(pool.count(), len)?)?;
            // In this order, as the former ring knows the former buffers (D9).
            *self.ring = ring;
            *self.buffers = buffers;
        }
        self.maker = None;
        Ok(())
    }
}

/// A ring with as many of the wanted set-up flags as the kernel takes, and which those are.
fn set_up(options: &Options) -> Result<(IoUring, Features), UringError> {
    let wanted = LADDER.into_iter().filter(|feature| !options.mask.has(*feature));
    let mut features = wanted.fold(Features::NONE, Features::with);
    let mut entries = options.ring_entries;
    let mut rungs = LADDER.into_iter();
    let ring = loop {
        // Deferring needs the promise of a single issuer.
        if !features.has(Feature::SingleIssuer) {
            features = features.without(Feature::DeferTaskrun);
        }
        let error = match build(features, entries) {
            Ok(ring) => break ring,
            Err(error) => Errno::from_io(&error),
        };
        match error.0 {
            libc::EINVAL => match rungs.find(|rung| features.has(*rung)) {
                Some(rung) => features = features.without(rung),
                None => return Err(UringError::Setup(error)),
            },
            // Old kernels count rings against the locked-memory limit.
            libc::ENOMEM if entries > ENTRIES_MIN => entries /= 2,
            _ => return Err(UringError::Setup(error)),
        }
    };
    let params = ring.params();
    let reported = [
        (Feature::NoDrop, params.is_feature_nodrop()),
        (Feature::FastPoll, params.is_feature_fast_poll()),
        (Feature::ExtArg, params.is_feature_ext_arg()),
        (Feature::NoIowait, params.is_feature_no_iowait()),
    ];
    for (feature, is_there) in reported {
        if is_there && !options.mask.has(feature) {
            features = features.with(feature);
        }
    }
    // Whether the buffer ring works is found out by registering one.
    let missing = Feature::ALL.into_iter().find(|feature| {
        let is_known = *feature != Feature::BufferRing || options.mask.has(*feature);
        feature.is_required() && is_known && !features.has(*feature)
    });
    missing.map_or(Ok((ring, features)), |feature| Err(UringError::Missing(feature)))
}

fn build(features: Features, entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // A child of fork must not share the queues.
    builder.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_ENTRY));
    if features.has(Feature::SubmitAll) {
        builder.setup_submit_all();
    }
    if features.has(Feature::SingleIssuer) {
        builder.setup_single_issuer();
    }
    if features.has(Feature::DeferTaskrun) {
        builder.setup_defer_taskrun();
    } else if features.has(Feature::CoopTaskrun) {
        builder.setup_coop_taskrun();
    }
    if features.has(Feature::NoSqArray) {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

/// Armed requests complete many times, so there are more completions than requests.
const COMPLETIONS_PER_ENTRY: u32 = 4;

/// The smallest queue that is tried when memory is short.
const ENTRIES_MIN: u32 = 8;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::super::{Driver, Family};
    use super::*;
    use crate::event::Handle;

    /// A socket that is closed before the first wait is closed, whether there is one or not; and so
    /// is one that is closed after it, in the next.
    #[test]
    fn a_closed_socket_is_closed_for_its_peer() {
        for waits in [0, 1] {
            let Ok(mut driver) = Uring::new(&Options::new()) else {
                return println!("SKIPPED: there is no io_uring");
            };
            let (near, mut far) = UnixStream::pair().unwrap();
            far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let handle = Handle::new(0, 1);
            driver.adopt(OwnedFd::from(near).into(), Family::Unix, handle).unwrap();
            for _ in 0..waits {
                driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
            }
            driver.close(handle);
            for _ in 0..waits {
                driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
            }
            assert_eq!(far.read(&mut [0]).unwrap(), 0, "after {waits} waits");
        }
    }

    /// All requests are waited for when the ring goes, also where their ends come a few at a time.
    #[test]
    fn many_requests_end_before_the_ring_goes() {
        let Ok(mut driver) = Uring::new(&Options::new()) else {
            return println!("SKIPPED: there is no io_uring");
        };
        let (near, _far) = UnixStream::pair().unwrap();
        // The kernel hands out the ends of deferred requests by twenty.
        for index in 0..2500 {
            let Ok(near) = near.try_clone() else {
                return println!("SKIPPED: too few descriptors");
            };
            let handle = Handle::new(index, 1);
            driver.adopt(OwnedFd::from(near).into(), Family::Unix, handle).unwrap();
            driver.receive(handle);
        }
        driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        assert!(driver.drain(), "{driver:?}");
    }
}
