//! The applications that a netlib was made for, on TeamTalk's wire formats.
//!
//! `login_server` is a directory: message servers register with it, and clients ask it for the one
//! with the fewest users. `msg_server` is such a message server, and `client` such a client. The
//! programs only read their arguments; what they do is in here, with the parts that need no socket
//! apart from those that do.

#![forbid(unsafe_code)]

pub mod client;
pub mod directory;
pub mod http;
pub mod login;
pub mod messages;
pub mod msg;
pub mod program;
pub mod users;
