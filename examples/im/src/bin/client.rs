//! A client: it asks a directory for a message server, logs in there, and talks.
//!
//! ```text
//! $ cargo run --release -p im-example --bin client -- --name bob
//! asking directory 127.0.0.1:8080 by HTTP
//! sent to message server 127.0.0.1:8000
//! logged in as "bob", user 1
//! heard from "ann": "hello"
//! ```
//!
//! It reads lines, each a name and a text, until the input ends. Ctrl-C or SIGTERM ends it.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use im_example::client::{self, Script, Settings, Way};
use im_example::program::{self, addresses, count, local};
use uring_netlib::Backend;

const HELP: &str = "\
Logs in at the message server that a directory names, and talks.

usage: cargo run --release -p im-example --bin client -- [OPTION VALUE]…

  --name NAME        who logs in                          [the name of the login]
  --directory ADDRS  who is asked for a message server    [127.0.0.1:8080]
  --pdu              ask by PDU, not by HTTP; at          [127.0.0.1:8008]
  --to NAME          say all lines to that user; without it a line is NAME TEXT
  --say TEXT         say that instead of lines, and end; needs --to
  --count COUNT      so often                             [1]
  --every MS         with so many milliseconds between    [100]
  --hear COUNT       end when so many messages were heard; reads no lines
  --backend BACKEND  auto, uring or epoll                 [auto]

ADDRS are one or several addresses with ; between them.
";

fn main() -> ExitCode {
    program::run("client", HELP, arguments, client::run)
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut settings = Settings {
        name: env::var("USER").unwrap_or_else(|_| "somebody".to_owned()),
        directories: Vec::new(),
        way: Way::Http,
        to: None,
        script: None,
        backend: Backend::Auto,
    };
    let mut script = Script { say: None, count: 1, every: Duration::from_millis(100), hear: 0 };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("name") => settings.name = parser.value()?.string()?,
            Long("directory") => settings.directories = addresses(&mut parser, "--directory")?,
            Long("pdu") => settings.way = Way::Pdu,
            Long("to") => settings.to = Some(parser.value()?.string()?),
            Long("say") => script.say = Some(parser.value()?.string()?),
            Long("count") => script.count = count(&mut parser, "--count")?,
            Long("every") => script.every = Duration::from_millis(parser.value()?.parse()?),
            Long("hear") => script.hear = count(&mut parser, "--hear")?.into(),
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if script.say.is_some() && settings.to.is_none() {
        return Err("--say needs --to, the user whom it is said to".into());
    }
    if settings.directories.is_empty() {
        let port = if settings.way == Way::Http { 8080 } else { 8008 };
        settings.directories = vec![local(port)];
    }
    if script.say.is_some() || script.hear > 0 {
        settings.script = Some(script);
    }
    Ok(Some(settings))
}
