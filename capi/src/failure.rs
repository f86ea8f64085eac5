//! Why something failed, as the numbers that C programs know.

#![forbid(unsafe_code)]

use std::io;

use uring_netlib::{CloseReason, OptionError};

use crate::foreign::Failure;

pub(crate) fn errno_of(error: &io::Error) -> Failure {
    error.raw_os_error().unwrap_or(libc::EIO)
}

pub(crate) fn errno_of_option(error: &OptionError) -> Failure {
    match error {
        OptionError::System(error) => errno_of(error),
        _ => libc::ENOTCONN,
    }
}

pub(crate) fn errno_of_close(reason: CloseReason) -> Failure {
    match reason {
        CloseReason::PeerClosed | CloseReason::Truncated { .. } => 0,
        CloseReason::Reset => libc::ECONNRESET,
        CloseReason::Refused => libc::ECONNREFUSED,
        CloseReason::Unreachable => libc::EHOSTUNREACH,
        CloseReason::TimedOut | CloseReason::Expired(_) => libc::ETIMEDOUT,
        CloseReason::ResolveFailed => libc::EADDRNOTAVAIL,
        CloseReason::Exceeded(_) => libc::ENOBUFS,
        CloseReason::Failed(errno) => errno.0,
        _ => libc::EIO,
    }
}
