//! What the programs have around their business: arguments, lines that are printed, listeners,
//! signals, and errors that say what to do.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;
use std::time::Duration;
use std::{iter, process, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uring_netlib::conn::Connection;
use uring_netlib::{
    Address, BuildError, Delivery, Feature, Handle, Limits, ListenError, ListenOptions, Liveness,
    Netlib, Options, Remote,
};

/// Runs a program: `arguments` reads what it is to do, or `None` where help is asked for, and
/// `serve` does it. The exit code is 2 for arguments that are not understood, 1 for other errors.
pub fn run<S>(
    name: &str,
    help: &str,
    arguments: impl FnOnce() -> Result<Option<S>, lexopt::Error>,
    serve: impl FnOnce(&S) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let settings = match arguments() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print(help.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{name}: {error}; --help lists what it takes");
            return ExitCode::from(2);
        }
    };
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Reads the value of an option that takes addresses to listen on, with `;` between them.
///
/// # Errors
/// One that is none, or a host name, which nobody can listen on.
pub fn listen_addresses(
    parser: &mut lexopt::Parser,
    option: &str,
) -> Result<Vec<Address>, lexopt::Error> {
    let addresses = addresses(parser, option)?;
    let host = addresses.iter().find(|address| matches!(address, Address::Host { .. }));
    match host {
        Some(host) => Err(bad_address(option, &host.to_string(), "a listener needs numbers")),
        None => Ok(addresses),
    }
}

/// Reads the value of an option that takes addresses, with `;` between them.
///
/// # Errors
/// One that is none.
pub fn addresses(parser: &mut lexopt::Parser, option: &str) -> Result<Vec<Address>, lexopt::Error> {
    let text = lexopt::ValueExt::string(parser.value()?)?;
    let words = text.split(';').map(str::trim);
    let read = |word: &str| -> Result<Address, lexopt::Error> {
        word.parse().map_err(|error: uring_netlib::AddressError| {
            bad_address(option, word, &error.to_string())
        })
    };
    words.map(read).collect()
}

fn bad_address(option: &str, word: &str, why: &str) -> lexopt::Error {
    let forms = "127.0.0.1:8000, [::1]:8000 or unix:/path, and ; between two";
    format!("{option} {word:?}: {why}; e.g. {forms}").into()
}

/// An IPv4 address of this machine only, as the defaults are.
#[must_use]
pub fn local(port: u16) -> Address {
    Address::Ip(([127, 0, 0, 1], port).into())
}

/// Prints a line to standard output, or where nobody takes that, to standard error: clients are
/// served on although the reader of these lines has left.
pub fn print(line: &str) {
    let mut stdout = io::stdout();
    // Whoever started us through a pipe waits for the lines.
    if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
        // If this one is gone as well, nobody is left to tell.
        writeln!(io::stderr(), "{line}").ok();
    }
}

/// For whom a program listens, and what they may do.
#[derive(Clone, Debug)]
pub struct Role<'r> {
    /// Who connects, as it is printed.
    pub who: &'r str,
    /// The option that names the addresses.
    pub option: &'r str,
    /// How what they send arrives.
    pub delivery: Delivery,
    /// Their deadlines.
    pub liveness: Liveness,
    /// What each of them may ask for.
    pub limits: Limits,
    /// How many of them are let in, at each address.
    pub door: Door,
}

/// How many connections one listener has at most.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// In all.
    pub connections_max: u32,
    /// From one address.
    pub per_address_max: u32,
}

/// Listens on each address, with objects from `factory`, and prints where.
///
/// # Errors
/// An address that cannot be had, with what to do about it.
pub fn listen<A>(
    net: &mut Netlib<A>,
    role: &Role<'_>,
    addresses: &[Address],
    factory: impl Fn(&mut A, Handle) -> Box<dyn Connection<A>> + Copy + 'static,
) -> Result<Vec<Handle>, Box<dyn Error>> {
    let options = ListenOptions::new()
        .connections_max(role.door.connections_max)
        .connections_per_address_max(role.door.per_address_max);
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = net
            .listen_objects_with(address, options, factory)
            .map_err(|error| explain(&error, address, role.option))?;
        let mut settings = net.option(listener)?;
        settings.set_delivery(role.delivery)?;
        settings.set_liveness(role.liveness.clone());
        settings.set_limits(role.limits.clone());
        print(&format!("listening for {} on {}", role.who, settings.local_address()?));
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Reads the value of an option that is a number of at least one.
///
/// # Errors
/// What is none.
pub fn count(parser: &mut lexopt::Parser, option: &str) -> Result<u32, lexopt::Error> {
    let count: u32 = lexopt::ValueExt::parse(&parser.value()?)?;
    if count == 0 { Err(format!("{option} must be at least 1").into()) } else { Ok(count) }
}

/// Lets the first signal end the loop, and a second one the process.
///
/// # Errors
/// The pipe that signals need cannot be had.
pub fn stop_on_signal(remote: Remote) -> Result<(), Box<dyn Error>> {
    let signals = Signals::new([SIGINT, SIGTERM]);
    let mut signals =
        signals.map_err(|error| format!("no pipe for signals can be opened: {}", told(&error)))?;
    thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        remote.stop();
        signals.next();
        process::exit(1);
    });
    Ok(())
}

/// Closes sockets gracefully, and serves on until the last of them is gone. The library cuts each
/// after [`CLOSE_TIMEOUT`], so this ends.
///
/// # Errors
/// The loop itself failed.
pub fn close_all<A>(
    net: &mut Netlib<A>,
    app: &mut A,
    sockets: impl IntoIterator<Item = Handle>,
) -> Result<(), Box<dyn Error>> {
    for socket in sockets {
        // One that has ended by itself is what was wanted.
        net.close(socket).ok();
    }
    while net.stats().sockets > 0 {
        net.turn(app, CLOSE_TIMEOUT)?;
    }
    Ok(())
}

/// An error, all that caused it, and what to do about it, in one line.
#[must_use]
pub fn told(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<_> = iter::successors(Some(error), |&error| error.source()).collect();
    let text = causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    match causes.into_iter().find_map(remedy) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// What to do about an error that means the same wherever it comes from.
fn remedy(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(BuildError::Environment { name: "NETLIB_BACKEND", .. }) => {
            return Some("it takes auto, uring or epoll".to_owned());
        }
        Some(BuildError::Environment { .. }) => {
            let names = Feature::ALL.map(Feature::name).join(",");
            return Some(format!("it takes any of {names}"));
        }
        _ => {}
    }
    let number = error.downcast_ref::<io::Error>()?.raw_os_error()?;
    let is_short = matches!(number, libc::EMFILE | libc::ENFILE);
    is_short.then(|| "raise the limit of descriptors: ulimit -n 4096".to_owned())
}

/// Says what to do about a listener that could not be had.
fn explain(error: &ListenError, address: &Address, option: &str) -> String {
    let ListenError::System(cause) = error else {
        return format!("cannot listen on {address}: {}", told(error));
    };
    let remedy = match (cause.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Path(path))
            if !fs::metadata(path).is_ok_and(|file| file.file_type().is_socket()) =>
        {
            "is a file that is no socket; remove it or give another path"
        }
        (io::ErrorKind::AddrInUse, _) => "is served by another process; give another",
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => {
            "cannot be made there; give a path in a directory that exists"
        }
        (io::ErrorKind::AddrNotAvailable, _) => "is not of this machine; give another",
        (io::ErrorKind::PermissionDenied, Address::Path(_)) => {
            "is in a directory or a file of others; give a path that you may write"
        }
        (io::ErrorKind::PermissionDenied, _) => "needs privileges; give a port above 1023",
        _ => return format!("cannot listen on {address}: {}", told(cause)),
    };
    format!("{address} {remedy}, with {option}")
}

/// The open connections of a program, so that all of them can be closed at the end.
pub type Open = HashSet<Handle>;

/// How long connections may take to flush at the end.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The options that all programs begin with.
pub fn options(backend: uring_netlib::Backend) -> Options {
    Options::new().backend(backend).close_timeout(CLOSE_TIMEOUT)
}
