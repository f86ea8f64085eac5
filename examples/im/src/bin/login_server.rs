//! TeamTalk's directory: it tells clients which message server has room for them.
//!
//! ```text
//! $ cargo run --release -p im-example --bin login_server
//! listening for clients on 127.0.0.1:8008
//! listening for HTTP on 127.0.0.1:8080
//! listening for message servers on 127.0.0.1:8100
//! $ curl http://127.0.0.1:8080/msg_server
//! ```
//!
//! Ctrl-C or SIGTERM ends it: it stops accepting, and flushes what it owes.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use im_example::http::Links;
use im_example::login::{self, Settings};
use im_example::program::{self, Door, count, listen_addresses, local};
use uring_netlib::Backend;

const HELP: &str = "\
Names to each client the message server that has the fewest users.

usage: cargo run --release -p im-example --bin login_server -- [OPTION VALUE]…

  --client-listen ADDRS    where clients ask by PDU        [127.0.0.1:8008]
  --http-listen ADDRS      where clients ask by HTTP       [127.0.0.1:8080]
  --msg-listen ADDRS       where message servers register  [127.0.0.1:8100]
  --connections-max COUNT  how many at each of those       [100000]
  --per-address-max COUNT  of them from one address        [1000]
  --msfs URL               where pictures are stored       [http://127.0.0.1:8700/]
  --discovery URL          where interesting things are    [http://127.0.0.1/api/discovery]
  --backend BACKEND        auto, uring or epoll            [auto]

ADDRS are one or several addresses with ; between them; port 0 takes a free one.
";

fn main() -> ExitCode {
    program::run("login_server", HELP, arguments, login::serve)
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut settings = Settings {
        client_listen: vec![local(8008)],
        http_listen: vec![local(8080)],
        msg_listen: vec![local(8100)],
        links: Links {
            msfs: "http://127.0.0.1:8700/".to_owned(),
            discovery: "http://127.0.0.1/api/discovery".to_owned(),
        },
        door: Door { connections_max: 100_000, per_address_max: 1000 },
        backend: Backend::Auto,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("client-listen") => {
                settings.client_listen = listen_addresses(&mut parser, "--client-listen")?;
            }
            Long("http-listen") => {
                settings.http_listen = listen_addresses(&mut parser, "--http-listen")?;
            }
            Long("msg-listen") => {
                settings.msg_listen = listen_addresses(&mut parser, "--msg-listen")?;
            }
            Long("msfs") => settings.links.msfs = parser.value()?.string()?,
            Long("discovery") => settings.links.discovery = parser.value()?.string()?,
            Long("connections-max") => {
                settings.door.connections_max = count(&mut parser, "--connections-max")?;
            }
            Long("per-address-max") => {
                settings.door.per_address_max = count(&mut parser, "--per-address-max")?;
            }
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(settings))
}
