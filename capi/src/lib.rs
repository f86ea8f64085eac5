//! netlib's functions with C linkage, on uring-netlib: a program written against `netlib.h` moves
//! to io_uring by relinking.
//!
//! C and C++ programs include `include/netlib.h`, which says what each function does; README.md
//! says how an existing program moves, and what differs. The functions themselves are in
//! `calls.rs` and `extra.rs`; who may touch the runtime when is decided in `lend.rs`; what happens
//! between it and the program's callbacks is `layer.rs`.

#![deny(unsafe_code)]

mod board;
mod calls;
mod config;
mod extra;
mod failure;
mod foreign;
mod layer;
mod lend;
mod numbers;
mod outbox;
mod timers;
mod tray;
mod waiting;

pub use calls::{
    netlib_add_loop, netlib_close, netlib_connect, netlib_delete_timer, netlib_destroy,
    netlib_eventloop, netlib_init, netlib_is_running, netlib_listen, netlib_option, netlib_recv,
    netlib_register_timer, netlib_send, netlib_stop_event,
};
pub use extra::{
    netlib_ex_backend, netlib_ex_limit, netlib_ex_listen, netlib_ex_local_ip, netlib_ex_remote_ip,
    netlib_ex_stats, netlib_ex_wake,
};
pub use lend::Callback;
