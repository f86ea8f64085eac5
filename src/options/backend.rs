//! Which driver serves, and which features of io_uring it may use.

#![forbid(unsafe_code)]

use std::fmt;

use super::MASK_VARIABLE;
use crate::error::BuildError;

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
    /// A simulated network, see [`Options::sim`](crate::Options::sim), by which it is chosen.
    #[cfg(feature = "sim")]
    Sim,
}

impl Backend {
    pub(super) fn parse(word: &str) -> Option<Self> {
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
            #[cfg(feature = "sim")]
            Self::Sim => "sim",
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

    /// What is in either of two sets.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
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
}
