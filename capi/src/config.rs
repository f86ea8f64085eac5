//! What can be chosen before the runtime starts, and how it is built.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uring_netlib::{
    Backend, BacklogLimits, BuildError, Delivery, Liveness, Netlib, Options, UringError,
};

use crate::failure;
use crate::foreign::Failure;
use crate::layer::{self, Layer};
use crate::outbox::OUTBOX_LEN;

struct Config {
    backend: Backend,
    /// By the numbers of `NETLIB_EX_*`, which are one more than the places.
    limits: [u64; 7],
}

static CONFIG: Mutex<Config> = Mutex::new(Config {
    backend: Backend::Auto,
    limits: [1 << 20, 1 << 20, 64 << 10, 1 << 30, 10_000, 10_000, 10_000],
});

/// Chooses the backend.
pub(crate) fn set_backend(name: &str) -> Result<(), Failure> {
    let backend = name.parse().map_err(|_| libc::EINVAL)?;
    CONFIG.lock().unwrap_or_else(PoisonError::into_inner).backend = backend;
    Ok(())
}

/// Sets a limit; `index` is one of `NETLIB_EX_*`.
pub(crate) fn set_limit(index: i32, value: u64) -> Result<(), Failure> {
    let bounds = match index {
        SOCKETS_MAX => 1..=1 << 20,
        SEND_BYTES_MAX | RECV_BYTES_MAX => 1024..=1 << 30,
        BUFFERED_BYTES_MAX => BUFFERED_BYTES_LEAST..=1 << 40,
        CONNECT_TIMEOUT_MS | CLOSE_TIMEOUT_MS => 1..=1 << 40,
        WRITE_STALL_MS => 0..=1 << 40,
        _ => return Err(libc::EINVAL),
    };
    if !bounds.contains(&value) {
        return Err(libc::EINVAL);
    }
    CONFIG.lock().unwrap_or_else(PoisonError::into_inner).set(index, value);
    Ok(())
}

/// The runtime as it was chosen. Why it cannot be had is told on standard error.
pub(crate) fn build() -> Result<(Netlib<Layer>, Layer), Failure> {
    let config = CONFIG.lock().unwrap_or_else(PoisonError::into_inner);
    let small = |index| u32::try_from(config.limit(index)).expect("its bounds were checked");
    let time = |index| Duration::from_millis(config.limit(index));
    let stall = match time(WRITE_STALL_MS) {
        Duration::ZERO => Duration::MAX,
        limit => limit,
    };
    let send_bytes_max = small(SEND_BYTES_MAX);
    let backlog = BacklogLimits {
        low: send_bytes_max / 2,
        // A backlog that is filled up is above it, so that `Write` follows.
        high: send_bytes_max - 1,
        max: send_bytes_max,
    };
    let options = Options::new()
        .backend(config.backend)
        .delivery(Delivery::Pull)
        .backlog(backlog)
        .sockets_max(small(SOCKETS_MAX))
        .pull_bytes_max(small(RECV_BYTES_MAX))
        .buffered_bytes_max(usize::try_from(config.limit(BUFFERED_BYTES_MAX)).unwrap_or(usize::MAX))
        .connect_timeout(time(CONNECT_TIMEOUT_MS))
        .close_timeout(time(CLOSE_TIMEOUT_MS))
        .liveness(Liveness::new().write_stall(stall));
    match options.build() {
        Ok(mut net) => {
            net.add_loop(layer::on_loop, 0);
            let layer = Layer::new(&net, send_bytes_max as usize);
            Ok((net, layer))
        }
        Err(error) => {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            // A standard error that is closed is no reason to fail otherwise.
            let _ = writeln!(io::stderr(), "netlib: {error}{source}");
            Err(errno_of(&error))
        }
    }
}

impl Config {
    fn limit(&self, index: i32) -> u64 {
        self.limits[usize::try_from(index - 1).expect("one of the numbers below")]
    }

    fn set(&mut self, index: i32, value: u64) {
        self.limits[usize::try_from(index - 1).expect("one of the numbers below")] = value;
    }
}

fn errno_of(error: &BuildError) -> Failure {
    match error {
        BuildError::Uring(UringError::Setup(errno) | UringError::SelfTest { errno, .. }) => errno.0,
        BuildError::Uring(_) => libc::ENOSYS,
        BuildError::System(error) => failure::errno_of(error),
        _ => libc::EINVAL,
    }
}

/// The runtime keeps an eighth for what it receives, and cannot refuse. No room is promised twice,
/// but what is in the outbox may turn out to need that eighth, as what was received since has taken
/// its room. Not so what is in the tray, which is emptied before more is received.
const BUFFERED_BYTES_LEAST: u64 = 8 * OUTBOX_LEN as u64;

// The header has these numbers as `NETLIB_EX_*`.
const SOCKETS_MAX: i32 = 1;
const SEND_BYTES_MAX: i32 = 2;
const RECV_BYTES_MAX: i32 = 3;
const BUFFERED_BYTES_MAX: i32 = 4;
const CONNECT_TIMEOUT_MS: i32 = 5;
const CLOSE_TIMEOUT_MS: i32 = 6;
const WRITE_STALL_MS: i32 = 7;
