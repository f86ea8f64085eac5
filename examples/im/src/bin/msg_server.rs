//! A message server: it registers with directories, and users log in to it and talk.
//!
//! ```text
//! $ cargo run --release -p im-example --bin msg_server
//! listening for clients on 127.0.0.1:8000
//! registered with directory 127.0.0.1:8100, 0 users
//! ```
//!
//! Ctrl-C or SIGTERM ends it: it stops accepting, and flushes what it owes.

#![forbid(unsafe_code)]

use std::fs;
use std::process::ExitCode;

use im_example::messages::MsgServInfo;
use im_example::msg::{self, Settings};
use im_example::program::{self, addresses, count, listen_addresses, local};
use uring_netlib::Backend;

const HELP: &str = "\
Lets users log in and talk, and tells directories how many there are.

usage: cargo run --release -p im-example --bin msg_server -- [OPTION VALUE]…

  --listen ADDRS     where users connect to                     [127.0.0.1:8000]
  --login ADDRS      the directories to register with           [127.0.0.1:8100]
  --ip1 IP           where directories send users               [127.0.0.1]
  --ip2 IP           where they are sent if that fails          [127.0.0.1]
  --port PORT        the port on both        [that of the first of --listen]
  --max-users COUNT  users taken at most, 1 to 1000000          [1000]
  --per-address-max COUNT  connections from one address         [1000]
  --name NAME        what it calls itself                       [the machine's name]
  --backend BACKEND  auto, uring or epoll                       [auto]

ADDRS are one or several addresses with ; between them; to listen, port 0 takes a free one.
";

fn main() -> ExitCode {
    program::run("msg_server", HELP, arguments, msg::serve)
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut settings = Settings {
        listen: vec![local(8000)],
        login: vec![local(8100)],
        info: MsgServInfo {
            ip1: "127.0.0.1".to_owned(),
            ip2: "127.0.0.1".to_owned(),
            port: 0,
            max_conn_cnt: 1000,
            cur_conn_cnt: 0,
            host_name: name.trim().to_owned(),
        },
        per_address_max: 1000,
        backend: Backend::Auto,
    };
    let info = &mut settings.info;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => settings.listen = listen_addresses(&mut parser, "--listen")?,
            Long("login") => settings.login = addresses(&mut parser, "--login")?,
            Long("ip1") => info.ip1 = parser.value()?.string()?,
            Long("ip2") => info.ip2 = parser.value()?.string()?,
            Long("port") => info.port = parser.value()?.parse::<u16>()?.into(),
            Long("max-users") => info.max_conn_cnt = parser.value()?.parse()?,
            Long("per-address-max") => {
                settings.per_address_max = count(&mut parser, "--per-address-max")?;
            }
            Long("name") => info.host_name = parser.value()?.string()?,
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if !(1..=1_000_000).contains(&info.max_conn_cnt) {
        return Err("--max-users must be 1 to 1000000".into());
    }
    Ok(Some(settings))
}
