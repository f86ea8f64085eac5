//! An echo server: every PDU goes back to whoever sent it.
//!
//! ```text
//! $ cargo run --release --example echo
//! kernel=6.18.44 backend=uring features=no_drop,fast_poll,ext_arg,buffer_ring,…
//! listening on 127.0.0.1:7000
//! ```
//!
//! Ctrl-C or SIGTERM ends it: it stops accepting, flushes what it owes, and prints what it counted.
//!
//! It shows how to answer no faster than the peer reads. A peer that sends and does not read would
//! fill our memory; so above the high mark we stop receiving from that peer, and go on once its
//! pending answers have left. Try it with the `echo_client` example.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::error::Error;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, iter, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uring_netlib::pdu::FrameSpec;
use uring_netlib::{
    Address, AddressError, Backend, BacklogLimits, BuildError, CloseReason, Delivery, Event,
    Feature, Handle, ListenError, Netlib, Options, Remote, SendError, SendStatus,
};

const HELP: &str = "\
Echoes every PDU to its sender.

usage: cargo run --release --example echo -- [--listen ADDR] [--backend auto|uring|epoll]
                                             [--max-pdu BYTES]

  --listen ADDR      where to listen; port 0 takes a free one   [127.0.0.1:7000]
  --backend BACKEND  auto, uring or epoll                       [auto]
  --max-pdu BYTES    the longest PDU taken, 16 to 1073741824    [1048576]
";

/// What the arguments say.
struct Settings {
    address: Address,
    backend: Backend,
    pdu_bytes_max: u32,
}

/// The state of this application; the library lends it to each callback.
#[derive(Default)]
struct Echo {
    /// The open connections, so that all of them can be closed at the end.
    clients: HashSet<Handle>,
    /// Times a peer was not received from, because it did not read its answers.
    pauses: u64,
    /// Connections cut because an answer was refused.
    aborted: u64,
    /// Why the listener ended by itself.
    failure: Option<CloseReason>,
}

fn main() -> ExitCode {
    let settings = match arguments() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            io::stdout().write_all(HELP.as_bytes()).ok();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("echo: {error}; --help lists what it takes");
            return ExitCode::from(2);
        }
    };
    match serve(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut settings = Settings {
        address: Address::Ip(([127, 0, 0, 1], 7000).into()),
        backend: Backend::Auto,
        pdu_bytes_max: 1 << 20,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => settings.address = address(&mut parser)?,
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Long("max-pdu") => settings.pdu_bytes_max = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if !(16..=1 << 30).contains(&settings.pdu_bytes_max) {
        return Err("--max-pdu must be 16 to 1073741824 bytes".into());
    }
    Ok(Some(settings))
}

fn address(parser: &mut lexopt::Parser) -> Result<Address, lexopt::Error> {
    let text = parser.value()?.into_string()?;
    let why = match text.parse() {
        Ok(Address::Host { .. }) => "a listener needs a numeric address".to_owned(),
        Ok(address) => return Ok(address),
        Err(error) => AddressError::to_string(&error),
    };
    let forms = "127.0.0.1:7000, [::1]:7000 or unix:/path";
    Err(format!("--listen {text:?}: {why}; e.g. {forms}").into())
}

fn serve(settings: &Settings) -> Result<(), Box<dyn Error>> {
    // Read first: later there may be no descriptor left for it.
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
    let kernel = kernel.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    let marks = BacklogLimits::default();
    // An answer is only queued while at most `high` bytes are pending, because above that the peer
    // is not received from. So with this limit any PDU fits, and none is ever refused.
    let max = marks.max.max(marks.high + settings.pdu_bytes_max);
    let spec = FrameSpec::teamtalk().with_max(settings.pdu_bytes_max);
    let mut net = Options::new()
        .backend(settings.backend)
        .delivery(Delivery::Pdu(spec))
        .backlog(BacklogLimits { max, ..marks })
        .close_timeout(FLUSH_TIMEOUT)
        .build()?;
    let listener = net
        .listen(&settings.address, on_event, 0)
        .map_err(|error| explain(&error, &settings.address))?;
    stop_on_signal(net.remote())
        .map_err(|error| format!("no pipe for signals can be opened: {}", told(&error)))?;

    let address = net.option(listener)?.local_address()?;
    print(&format!("kernel={kernel} {}\nlistening on {address}\n", net.backend()));

    let mut echo = Echo::default();
    net.eventloop(&mut echo, Duration::MAX)?;
    close_all(&mut net, &mut echo, listener)?;
    print(&summary(&net, &echo));
    match echo.failure {
        Some(reason) => Err(format!("the listener ended: {reason}").into()),
        None => Ok(()),
    }
}

/// All that happens to the listener and to its connections.
fn on_event(echo: &mut Echo, net: &mut Netlib<Echo>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } => {
            echo.clients.insert(handle);
        }
        Event::Pdu(pdu) => match net.send(handle, pdu.frame()) {
            Ok(SendStatus::Queued) => {}
            Ok(SendStatus::AboveHighMark) => {
                echo.pauses += 1;
                net.pause_receive(handle).ok();
            }
            // The peer is gone, and Close will say so.
            Err(SendError::NotConnected) => {}
            // A stream with an answer left out is wrong from there on; better it ends here.
            Err(_) => {
                echo.aborted += 1;
                echo.clients.remove(&handle);
                net.abort(handle).ok();
            }
        },
        // The pending answers have left: the next PDU may come.
        Event::Write => {
            net.resume_receive(handle).ok();
        }
        Event::Close(reason) => {
            let is_client = echo.clients.remove(&handle);
            // Else it is the listener, and without that there is nothing to wait for.
            if !is_client {
                echo.failure = Some(reason);
                net.stop_event();
            }
        }
        _ => {}
    }
}

/// Lets the first signal end the loop, and a second one the process.
fn stop_on_signal(remote: Remote) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        remote.stop();
        signals.next();
        std::process::exit(1);
    });
    Ok(())
}

/// Closes the listener and the connections; those get `FLUSH_TIMEOUT` to take what they are owed.
fn close_all(
    net: &mut Netlib<Echo>,
    echo: &mut Echo,
    listener: Handle,
) -> Result<(), Box<dyn Error>> {
    // The listener may have ended by itself: a stale handle is an error, and here no problem.
    net.close(listener).ok();
    for client in echo.clients.drain() {
        net.close(client)?;
    }
    // The library cuts each of them after the timeout, so this ends.
    while net.stats().sockets > 0 {
        net.turn(echo, FLUSH_TIMEOUT)?;
    }
    Ok(())
}

/// What was counted, as a table.
fn summary(net: &Netlib<Echo>, echo: &Echo) -> String {
    let stats = net.stats();
    let ratio = |count: u64, per: u64| match per {
        0 => "-".to_owned(),
        _ => format!("{:.2}", count as f64 / per as f64),
    };
    let rows = [
        ("accepted", stats.accepted.to_string()),
        ("rejected", stats.rejected.to_string()),
        ("sockets closed", stats.closed.to_string()),
        ("PDUs", stats.pdus_in.to_string()),
        ("bad PDUs", stats.closes.bad_frame.to_string()),
        ("bytes in", stats.bytes_in.to_string()),
        ("bytes out", stats.bytes_out.to_string()),
        ("PDUs per send", ratio(stats.pdus_in, stats.sends)),
        ("waits per PDU", ratio(stats.waits, stats.pdus_in)),
        ("pauses of a peer", echo.pauses.to_string()),
        ("pauses of accept", stats.accept_pauses.to_string()),
        ("refused sends", stats.sends_refused.to_string()),
        ("aborted", echo.aborted.to_string()),
        ("out of buffers", stats.no_buffers.to_string()),
        ("overflows", stats.overflows.to_string()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<16} {value:>12}\n")).collect()
}

/// Prints to standard output, or where nobody takes that, to standard error: clients are served on
/// although the reader of these lines has left.
fn print(text: &str) {
    let mut stdout = io::stdout();
    // Whoever started us through a pipe waits for the lines.
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        let note = format!("echo: standard output cannot be written: {error}; so it goes here:");
        // If this one is gone as well, nobody is left to tell.
        writeln!(io::stderr(), "{note}\n{}", text.trim_end()).ok();
    }
}

/// Says what to do about a listener that could not be had.
fn explain(error: &ListenError, address: &Address) -> Box<dyn Error> {
    let ListenError::System(cause) = error else {
        return format!("cannot listen on {address}: {}", told(error)).into();
    };
    let remedy = match (cause.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Path(path)) => {
            let is_socket = fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
            match is_socket {
                true => "is served by another process; give another with --listen",
                false => "is taken by a file that is no socket; remove it or give another path",
            }
        }
        (io::ErrorKind::AddrInUse, Address::Abstract(_)) => {
            "is served by another process; give another with --listen"
        }
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, Address::Path(_)) => {
            "cannot be made there; give a path in a directory that exists"
        }
        (io::ErrorKind::PermissionDenied, Address::Path(_)) => {
            "is in a directory or a file of others; give a path that you may write"
        }
        (io::ErrorKind::AddrInUse, _) => {
            "is taken; give another with --listen, port 0 for a free one"
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            "is not of this machine; give another with --listen"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "needs privileges; give a port above 1023 to --listen"
        }
        _ => return format!("cannot listen on {address}: {}", told(cause)).into(),
    };
    format!("{address} {remedy}").into()
}

/// An error, all that caused it, and what to do about it, in one line.
fn told(error: &(dyn Error + 'static)) -> String {
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

/// How long connections may take to flush at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
