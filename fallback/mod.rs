//! The epoll driver: the same completions, emulated, where io_uring is missing or forbidden.
//!
//! Always compiled and always tested. `epoll.rs` is the kernel's interface; `emulator.rs` turns
//! readiness into completions with the steps of `slot.rs`; nothing else knows of readiness.

mod emulator;
mod epoll;
mod slot;

pub(crate) use emulator::Epoll;
