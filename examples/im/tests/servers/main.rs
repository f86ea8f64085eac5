//! The servers as their users run them: as processes, talked to by plain sockets.

mod login_server;
mod msg_server;
mod support;
