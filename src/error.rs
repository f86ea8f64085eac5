//! Every error of the public surface, and the one table that gives an errno a name and a remedy.
//!
//! One enum per boundary. What the network or the kernel can cause is an error here; what only a
//! bug of this library can cause is a panic that names the broken rule.

#![forbid(unsafe_code)]

use std::{error, fmt, io};

use crate::address::AddressError;
use crate::options::Feature;
use crate::pdu::FrameSpecError;

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    pub(crate) const CANCELLED: Self = Self(libc::ECANCELED);

    pub(crate) fn from_io(error: &io::Error) -> Self {
        // Errors made by the standard library itself carry no number; EIO stands for those.
        match (error.raw_os_error(), error.kind()) {
            (Some(number), _) => Self(number),
            (None, io::ErrorKind::OutOfMemory) => Self(libc::ENOMEM),
            (None, _) => Self(libc::EIO),
        }
    }

    /// Whether a request that was asked to end says that it did. Kernels before 6.5 have ENOENT for
    /// a receive.
    pub(crate) const fn is_cancellation(self) -> bool {
        matches!(self.0, libc::ECANCELED | libc::ENOENT)
    }

    /// Whether no descriptor or no kernel memory was left: waiting can mend it.
    pub(crate) const fn is_exhaustion(self) -> bool {
        matches!(self.0, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    }

    /// Whether the same operation may simply be tried again.
    pub(crate) const fn is_transient(self) -> bool {
        matches!(self.0, libc::EINTR | libc::EAGAIN)
    }

    /// Whether an accept failed because of that one client only, so that the next may succeed.
    pub(crate) const fn is_of_the_client(self) -> bool {
        matches!(
            self.0,
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EPERM
        ) || self.is_transient()
    }

    fn name(self) -> Option<&'static str> {
        ERRNO_NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

/// The numbers that this library's calls are known to return.
const ERRNO_NAMES: &[(i32, &str)] = &[
    (libc::EACCES, "EACCES"),
    (libc::EADDRINUSE, "EADDRINUSE"),
    (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::ECANCELED, "ECANCELED"),
    (libc::ECONNABORTED, "ECONNABORTED"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::EINTR, "EINTR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENFILE, "ENFILE"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ENOENT, "ENOENT"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EPERM, "EPERM"),
    (libc::EPIPE, "EPIPE"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
];

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why io_uring cannot be used here. `Display` is one line with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UringError {
    /// `io_uring_setup` was refused, even with the plainest flags.
    Setup(Errno),
    /// The ring came up without something that the ring driver cannot do without.
    Missing(Feature),
    /// The ring came up, but exercising it on a socket pair failed.
    SelfTest {
        /// What was being tried.
        step: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
}

impl UringError {
    /// What an administrator can do about it, as half a sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        let number = match self {
            Self::Missing(_) => {
                return "use a kernel of 5.19 or later, and take the feature off the mask";
            }
            Self::Setup(errno) | Self::SelfTest { errno, .. } => errno.0,
        };
        match number {
            libc::EPERM | libc::EACCES => {
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's \
                 seccomp profile, and set `sysctl kernel.io_uring_disabled=0`"
            }
            libc::ENOSYS => {
                "use a kernel of 5.19 or later built with CONFIG_IO_URING, or allow the io_uring \
                 system calls in the sandbox"
            }
            libc::ENOMEM => "raise the locked-memory limit, `ulimit -l unlimited`",
            libc::EMFILE | libc::ENFILE => "raise the descriptor limit, `ulimit -n`",
            _ => "run the `doctor` example, which tries each feature by itself",
        }
    }
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(errno) => write!(f, "io_uring_setup gave {errno}")?,
            Self::Missing(feature) => write!(f, "io_uring lacks {feature}")?,
            Self::SelfTest { step, errno } => write!(f, "io_uring failed to {step}: {errno}")?,
        }
        write!(f, "; to mend it: {}", self.remedy())
    }
}

impl error::Error for UringError {}

/// Why [`Options::build`](crate::Options::build) made no `Netlib`.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// An option is out of its bounds; the text names it and them.
    Option(&'static str),
    /// The framing cannot be.
    Frame(FrameSpecError),
    /// `NETLIB_BACKEND` or `NETLIB_URING_MASK` holds a word that is not known.
    Environment {
        /// The variable.
        name: &'static str,
        /// The word.
        word: String,
    },
    /// `Backend::Uring` was asked for, and cannot be had.
    Uring(UringError),
    /// The kernel refused epoll or an event descriptor.
    System(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(text) => f.write_str(text),
            Self::Frame(_) => f.write_str("the framing cannot be used"),
            Self::Environment { name, word } => write!(f, "{name} holds the unknown word {word:?}"),
            Self::Uring(_) => f.write_str("io_uring was asked for and cannot be used"),
            Self::System(_) => f.write_str("the kernel refused a descriptor"),
        }
    }
}

impl error::Error for BuildError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Frame(source) => Some(source),
            Self::Uring(source) => Some(source),
            Self::System(source) => Some(source),
            Self::Option(_) | Self::Environment { .. } => None,
        }
    }
}

/// The handle names no open socket of this `Netlib`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handle is stale")
    }
}

impl error::Error for Stale {}

/// Why `listen` made no listener. Nothing is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError {
    /// The address cannot be parsed, or is a host name: a listener needs a numeric address.
    Address(AddressError),
    /// As many sockets as [`Options::sockets_max`](crate::Options::sockets_max) are open.
    TooMany,
    /// The kernel refused, e.g. because the port is taken.
    System(io::Error),
}

/// Why `connect` did not even start. Nothing is left behind, and no event will come.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be parsed.
    Address(AddressError),
    /// As many sockets as [`Options::sockets_max`](crate::Options::sockets_max) are open.
    TooMany,
    /// Too many host names are being resolved already.
    ResolverBusy,
    /// The kernel refused a socket.
    System(io::Error),
}

/// Why nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The handle was closed.
    Stale,
    /// The socket does not carry bytes: it listens, still connects, or its peer is gone.
    NotConnected,
    /// Queueing `len` bytes would pass the limit; `Event::Write` will say when to retry.
    Full {
        /// Bytes that wait already, in flight ones included.
        queued: usize,
        /// Bytes that were to be added.
        len: usize,
        /// The socket's hard cap.
        limit: usize,
    },
    /// All sockets together keep as many bytes as they may, see
    /// [`Options::buffered_bytes_max`](crate::Options::buffered_bytes_max); `Event::Write` will say
    /// when to retry.
    Exhausted {
        /// Bytes that are kept.
        buffered: usize,
    },
    /// The message is longer than a PDU of this socket may be, or than may be pending at all.
    TooLong {
        /// Its length as a PDU.
        len: usize,
        /// The greatest length allowed.
        max: usize,
    },
}

/// Why [`recv`](crate::Netlib::recv) copied nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// The handle was closed.
    Stale,
    /// The socket's delivery is not `Delivery::Pull`.
    NotPull,
    /// Nothing has arrived; `Event::Read` will say when something has.
    Empty,
}

/// Why the loop cannot run, or ended by itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// Called from inside a callback (C4).
    Nested,
    /// The kernel refused to wait; the backend is beyond use.
    System(io::Error),
}

/// Why an option was not read or set.
#[derive(Debug)]
#[non_exhaustive]
pub enum OptionError {
    /// The framing cannot be.
    Frame(FrameSpecError),
    /// The marks are not `low <= high <= max`.
    Marks,
    /// The socket has no descriptor yet: its host name is being resolved.
    NotYet,
    /// The kernel refused.
    System(io::Error),
}

macro_rules! describe {
    ($($name:ident { $($pattern:pat => $text:expr),+ $(,)? })+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $($pattern => write!(f, "{}", $text)),+ }
            }
        }
    )+};
}

describe! {
    ListenError {
        Self::Address(_) => "the address to listen at cannot be used",
        Self::TooMany => "the limit of open sockets is reached",
        Self::System(_) => "the kernel refused the listener",
    }
    ConnectError {
        Self::Address(_) => "the address to connect to cannot be used",
        Self::TooMany => "the limit of open sockets is reached",
        Self::ResolverBusy => "too many host names are being resolved",
        Self::System(_) => "the kernel refused the socket",
    }
    SendError {
        Self::Stale => "the handle is stale",
        Self::NotConnected => "the socket is not connected",
        Self::Full { queued, len, limit } =>
            format_args!("{len} bytes on top of {queued} would pass the limit of {limit}"),
        Self::Exhausted { buffered } =>
            format_args!("all sockets together keep {buffered} bytes already"),
        Self::TooLong { len, max } =>
            format_args!("a PDU of {len} bytes is longer than {max}"),
    }
    RecvError {
        Self::Stale => "the handle is stale",
        Self::NotPull => "recv needs Delivery::Pull",
        Self::Empty => "nothing has arrived",
    }
    RunError {
        Self::Nested => "the event loop was called from inside a callback",
        Self::System(_) => "the kernel refused to wait",
    }
    OptionError {
        Self::Frame(_) => "the framing cannot be used",
        Self::Marks => "the marks must be low <= high <= max, and max above 0",
        Self::NotYet => "the socket has no descriptor yet",
        Self::System(_) => "the kernel refused the option",
    }
}

macro_rules! sources {
    ($($name:ident { $($variant:ident),+ })+) => {$(
        impl error::Error for $name {
            fn source(&self) -> Option<&(dyn error::Error + 'static)> {
                match self {
                    $(Self::$variant(source) => Some(source),)+
                    _ => None,
                }
            }
        }
    )+};
}

sources! {
    ListenError { Address, System }
    ConnectError { Address, System }
    RunError { System }
    OptionError { Frame, System }
}

impl error::Error for SendError {}

impl error::Error for RecvError {}

impl From<AddressError> for ListenError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl From<AddressError> for ConnectError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl From<std::convert::Infallible> for ListenError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<std::convert::Infallible> for ConnectError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal of io_uring is told in one line, with the reason and the remedy.
    #[test]
    fn a_refusal_says_reason_and_remedy_in_one_line() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::ENOMEM, libc::EACCES, libc::EINVAL] {
            let text = UringError::Setup(Errno(errno)).to_string();
            assert!(text.contains(Errno(errno).name().expect("in the table")), "{text}");
            assert!(text.contains("to mend it") && !text.contains('\n'), "{text}");
        }
    }
}
