//! The epoll driver: the same completions, emulated, where io_uring is missing or forbidden.
//!
//! Always compiled and always tested. `epoll.rs` is the kernel's interface; `emulator.rs` turns
//! readiness into completions, and is the only place that knows of readiness.

mod emulator;
mod epoll;

pub(crate) use emulator::Epoll;
