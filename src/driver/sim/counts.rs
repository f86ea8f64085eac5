//! What a simulated network has done to its programs, in numbers.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::AddAssign;

/// How often a [`SimNet`](crate::sim::SimNet) did what its
/// [`SimFaults`](crate::sim::SimFaults) allow, or what it was told to do to hosts and links.
///
/// Only what came about is counted: a chance that was not taken is none, and a part that was the
/// whole is none either. Delays and sizes of buffers are not counted.
///
/// ```
/// use uring_netlib::sim::{SimCounts, SimNet};
///
/// let net = SimNet::new(7);
/// assert_eq!(net.counts(), SimCounts::default());
/// net.host([10, 0, 0, 1]).pause();
/// assert_eq!((net.counts().pauses, net.counts().total()), (1, 1));
/// assert_eq!(net.counts().to_string(), "pauses 1");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimCounts {
    /// Sends and receives that took only part of what they could, and data that arrived in pieces.
    pub partial: u64,
    /// Operations that could go on and did so only in a later wait.
    pub put_off: u64,
    /// Waits that yielded fewer completions than there were.
    pub trickled: u64,
    /// Armed operations that ended with a completion.
    pub disarmed: u64,
    /// Receives that found no buffer although there was one.
    pub no_buffers: u64,
    /// Receives into another buffer than that which came back last.
    pub odd_buffers: u64,
    /// Waits after which something asked for was still not with the kernel.
    pub full_queues: u64,
    /// Cancels that took effect late.
    pub late_cancels: u64,
    /// Completions of an operation that was to be cancelled, and did something all the same.
    pub lost_cancels: u64,
    /// Accepts that failed for want of a descriptor, or because of one client.
    pub accept_errors: u64,
    /// Operations that the kernel denied.
    pub denied: u64,
    /// Attempts to connect that were refused although somebody listened.
    pub refused: u64,
    /// Attempts to connect that were answered late.
    pub late_connects: u64,
    /// Connections that were reset on the way.
    pub resets: u64,
    /// Pieces of data with a bit that was turned over.
    pub corrupted: u64,
    /// Links that were shut, each direction by itself.
    pub shut_links: u64,
    /// Hosts that were paused.
    pub pauses: u64,
    /// Hosts that have crashed.
    pub crashes: u64,
}

impl SimCounts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.each().iter().map(|(_, count)| count).sum()
    }

    /// Each of them with a name to print.
    #[must_use]
    pub const fn each(&self) -> [(&'static str, u64); 18] {
        [
            ("partial", self.partial),
            ("put off", self.put_off),
            ("trickled", self.trickled),
            ("disarmed", self.disarmed),
            ("no buffers", self.no_buffers),
            ("odd buffers", self.odd_buffers),
            ("full queues", self.full_queues),
            ("late cancels", self.late_cancels),
            ("lost cancels", self.lost_cancels),
            ("accept errors", self.accept_errors),
            ("denied", self.denied),
            ("refused", self.refused),
            ("late connects", self.late_connects),
            ("resets", self.resets),
            ("corrupted", self.corrupted),
            ("shut links", self.shut_links),
            ("pauses", self.pauses),
            ("crashes", self.crashes),
        ]
    }
}

/// One line of those that are not zero.
impl fmt::Display for SimCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, count) in self.each().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{name} {count}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("no faults") } else { Ok(()) }
    }
}

/// For sums over several networks.
impl AddAssign for SimCounts {
    fn add_assign(&mut self, other: Self) {
        self.partial += other.partial;
        self.put_off += other.put_off;
        self.trickled += other.trickled;
        self.disarmed += other.disarmed;
        self.no_buffers += other.no_buffers;
        self.odd_buffers += other.odd_buffers;
        self.full_queues += other.full_queues;
        self.late_cancels += other.late_cancels;
        self.lost_cancels += other.lost_cancels;
        self.accept_errors += other.accept_errors;
        self.denied += other.denied;
        self.refused += other.refused;
        self.late_connects += other.late_connects;
        self.resets += other.resets;
        self.corrupted += other.corrupted;
        self.shut_links += other.shut_links;
        self.pauses += other.pauses;
        self.crashes += other.crashes;
    }
}
