//! The programs as their users run them: as processes, talked to by plain sockets and by each
//! other.

mod client;
mod login_server;
mod msg_server;
mod msg_server_limits;
#[path = "../../../../tests/support/program.rs"]
#[allow(dead_code, unreachable_pub, reason = "the library's tests use more of it")]
mod program;
mod support;
mod together;
