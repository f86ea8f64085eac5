//! How a simulated network misbehaves: chances and ranges, and nothing that decides.

#![forbid(unsafe_code)]

use std::time::Duration;

use fastrand::Rng;

/// What a [`SimNet`](crate::sim::SimNet) may do to its programs, beyond carrying
/// their bytes.
///
/// A chance is given in ten-thousandths: 0 is never, 10 000 always. Those that are called benign
/// change the order and the size of things only, as any kernel may; nothing may come of them but
/// the same bytes later. The others end connections, or attempts.
///
/// ```
/// use std::time::Duration;
/// use uring_netlib::sim::{SimFaults, SimNet};
///
/// let net = SimNet::new(7);
/// let slow = Duration::from_millis(40)..Duration::from_millis(250);
/// net.set_faults(SimFaults::benign().delay(slow).reset(20));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct SimFaults {
    pub(super) partial: u32,
    pub(super) put_off: u32,
    pub(super) trickle: u32,
    pub(super) disarm: u32,
    pub(super) no_buffers: u32,
    pub(super) accept_error: u32,
    pub(super) refuse: u32,
    pub(super) late_connect: u32,
    pub(super) reset: u32,
    pub(super) odd_buffer: u32,
    pub(super) full_queue: u32,
    pub(super) late_cancel: u32,
    pub(super) deny: u32,
    pub(super) corrupt: u32,
    /// In millionths.
    pub(super) drift: u32,
    // In ns.
    pub(super) delay_min: u64,
    pub(super) delay_max: u64,
    pub(super) buffer_min: usize,
    pub(super) buffer_max: usize,
}

impl SimFaults {
    /// A network that does everything at once and whole: a delay of 50 µs, and sockets with
    /// buffers of 64 KiB.
    pub const fn none() -> Self {
        Self {
            partial: 0,
            put_off: 0,
            trickle: 0,
            disarm: 0,
            no_buffers: 0,
            accept_error: 0,
            refuse: 0,
            late_connect: 0,
            reset: 0,
            odd_buffer: 0,
            full_queue: 0,
            late_cancel: 0,
            deny: 0,
            corrupt: 0,
            drift: 0,
            delay_min: 50_000,
            delay_max: 50_000,
            buffer_min: 64 << 10,
            buffer_max: 64 << 10,
        }
    }

    /// Everything that is benign: partial sends and receives, completions put off and trickled,
    /// armed operations that end, receives that find no buffer or an odd one, full submission
    /// queues, late cancels, buffers of all sizes, and delays from 10 µs to 20 ms. Clocks run true.
    pub const fn benign() -> Self {
        Self {
            partial: 5000,
            put_off: 3000,
            trickle: 2000,
            disarm: 1000,
            no_buffers: 300,
            odd_buffer: 5000,
            full_queue: 2000,
            late_cancel: 1000,
            delay_min: 10_000,
            delay_max: 20_000_000,
            buffer_min: 1,
            buffer_max: 16 << 10,
            ..Self::none()
        }
    }

    /// A network of its own for each seed: some faults are common, others rare, many absent, so
    /// that over many seeds each of them is met alone and in company. Bits are never turned over:
    /// no program can promise its bytes then, see [`corrupt`](Self::corrupt).
    pub fn swarm(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed ^ SWARM);
        let mut chance = |max: u32| if random.bool() { random.u32(0..=max) } else { 0 };
        let mut faults = Self {
            partial: chance(10_000),
            put_off: chance(7000),
            trickle: chance(10_000),
            disarm: chance(5000),
            no_buffers: chance(2000),
            accept_error: chance(2000),
            refuse: chance(2000),
            late_connect: chance(2000),
            reset: chance(100),
            ..Self::none()
        };
        let delays = [(0, 0), (10_000, 1_000_000), (1_000_000, 300_000_000), (0, 20_000_000)];
        (faults.delay_min, faults.delay_max) = delays[random.usize(0..delays.len())];
        let buffers = [(1, 64), (512, 4096), (1, 64 << 10), (64 << 10, 64 << 10)];
        (faults.buffer_min, faults.buffer_max) = buffers[random.usize(0..buffers.len())];
        let mut chance = |max: u32| if random.bool() { random.u32(0..=max) } else { 0 };
        faults.odd_buffer = chance(10_000);
        faults.full_queue = chance(10_000);
        faults.late_cancel = chance(5000);
        faults.deny = chance(150);
        faults.drift = chance(200_000);
        faults
    }

    /// Benign: a send or a receive takes only part of what it could, down to one byte.
    pub const fn partial(mut self, chance: u32) -> Self {
        self.partial = chance;
        self
    }

    /// Benign: an operation that could go on does so in a later wait, when others have overtaken
    /// it. At most 9000, so that it does at last.
    pub const fn put_off(mut self, chance: u32) -> Self {
        self.put_off = if chance < 9000 { chance } else { 9000 };
        self
    }

    /// Benign: a wait yields one to three completions, however many there are.
    pub const fn trickle(mut self, chance: u32) -> Self {
        self.trickle = chance;
        self
    }

    /// Benign: an accept or a receive that could stay armed ends with a completion.
    pub const fn disarm(mut self, chance: u32) -> Self {
        self.disarm = chance;
        self
    }

    /// Benign: a receive ends for want of a buffer, although there is one.
    pub const fn no_buffers(mut self, chance: u32) -> Self {
        self.no_buffers = chance;
        self
    }

    /// Benign: an accept fails, for want of a descriptor or because of one client, and the client
    /// stays in the queue.
    pub const fn accept_error(mut self, chance: u32) -> Self {
        self.accept_error = chance;
        self
    }

    /// An attempt to connect is refused, although somebody listens.
    pub const fn refuse(mut self, chance: u32) -> Self {
        self.refuse = chance;
        self
    }

    /// Benign: an attempt to connect is answered up to 10 s late.
    pub const fn late_connect(mut self, chance: u32) -> Self {
        self.late_connect = chance;
        self
    }

    /// A piece of data on its way finds its connection reset, for both ends and at any byte.
    pub const fn reset(mut self, chance: u32) -> Self {
        self.reset = chance;
        self
    }

    /// Benign: a receive gets any of the free buffers, not the one that came back last.
    pub const fn odd_buffer(mut self, chance: u32) -> Self {
        self.odd_buffer = chance;
        self
    }

    /// Benign: a wait takes only one to three of the operations and cancels that were asked for,
    /// in their order, as a submission queue without room does. The rest waits in line.
    pub const fn full_queue(mut self, chance: u32) -> Self {
        self.full_queue = chance;
        self
    }

    /// Benign: a cancel takes effect up to 50 ms late. Until then its operation goes on.
    pub const fn late_cancel(mut self, chance: u32) -> Self {
        self.late_cancel = chance;
        self
    }

    /// An accept, a connect, a receive or a send is denied by the program's own kernel, which
    /// forbids it (`EPERM`, `EACCES`), does not know it (`EINVAL`) or is poor (`ENOMEM`). A
    /// listener goes on after `EPERM`, rests after `ENOMEM`, and ends with the others; a
    /// connection ends.
    pub const fn deny(mut self, chance: u32) -> Self {
        self.deny = chance;
        self
    }

    /// A piece of data arrives with one bit turned over. Checksums make that rare in earnest;
    /// here it is a peer that sends anything, and a program may be held to no more than that it
    /// survives.
    pub const fn corrupt(mut self, chance: u32) -> Self {
        self.corrupt = chance;
        self
    }

    /// Benign, but that times are not those of the network: the clocks of hosts that are made from
    /// now on run up to so many millionths too fast or too slow, at most by half. What they tell
    /// is [`SimHost::elapsed`](crate::sim::SimHost::elapsed).
    pub const fn drift(mut self, millionths: u32) -> Self {
        self.drift = if millionths < 500_000 { millionths } else { 500_000 };
        self
    }

    /// How long a piece of data is on its way.
    pub fn delay(mut self, range: std::ops::Range<Duration>) -> Self {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 4);
        self.delay_min = nanos(range.start);
        self.delay_max = nanos(range.end).max(self.delay_min);
        self
    }

    /// How many bytes each of a socket's two buffers takes, at least 1.
    pub fn buffers(mut self, range: std::ops::RangeInclusive<usize>) -> Self {
        self.buffer_min = (*range.start()).max(1);
        self.buffer_max = (*range.end()).max(self.buffer_min);
        self
    }

    /// The same delays and buffers without the faults that are not benign.
    pub const fn healed(mut self) -> Self {
        self.refuse = 0;
        self.reset = 0;
        self.deny = 0;
        self.corrupt = 0;
        self
    }
}

/// Lets the weights of a seed differ from the choices of the same seed.
const SWARM: u64 = 0x5741_524D_5741_524D;
