//! A callback-style, PDU-aware network runtime for long-lived TCP connections.
//!
//! Completions of io_uring on modern Linux, and the very same surface on epoll where io_uring is
//! missing or forbidden. The surface is netlib's: listen, connect, send, recv, close, option,
//! timers, loop callbacks and an event loop, made safe and bounded. Start at [`Netlib`], which has
//! the rules and a server in twenty lines; [`limits`] has every limit, [`pdu`] the format, and
//! [`Stats`] what is counted.
//!
//! The inside is described in ARCHITECTURE.md.

#![deny(unsafe_code)]

/// The server in README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "uring-netlib needs Linux: it is made of io_uring and epoll, and has no other backend"
);

mod address;
mod clock;
pub mod conn;
mod driver;
mod error;
mod event;
#[path = "../fallback/mod.rs"]
mod fallback;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod netlib;
mod options;
pub mod pdu;
mod planted;
mod reactor;
mod remote;
mod resolver;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;
mod sys;

#[doc = include_str!("limits.md")]
pub mod limits {}

pub use address::{Address, AddressError};
pub use clock::ManualClock;
pub use error::{
    BuildError, ConnectError, Errno, ListenError, OptionError, RecvError, RunError, SendError,
    Stale, UringError,
};
pub use event::{
    Callback, CloseReason, Deadline, Event, Handle, Limit, LoopId, SocketState, TimerId,
};
pub use netlib::{BackendInfo, Broadcast, Netlib, ReconnectSet, Repeat, SocketOptions};
pub use options::{
    Backend, BacklogLimits, Delivery, Feature, Features, Limits, ListenOptions, Liveness, Options,
    Rate,
};
pub use reactor::SendStatus;
pub use remote::Remote;
pub use shared::Shared;
pub use stats::{Closes, Stats};
