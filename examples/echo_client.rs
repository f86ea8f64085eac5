//! A client for the `echo` example: sends PDUs, checks every answer, and prints how long they took.
//!
//! ```text
//! $ cargo run --release --example echo_client -- --depth 16 --connections 4
//! backend  connections  depth   bytes     PDUs   p50 µs   p99 µs p99.9 µs   max µs   PDUs/s
//! uring              4     16      64    10000     …
//! ```
//!
//! It shows a client on this library: connect, wait for Confirm, send, take whole PDUs, notice when
//! the peer goes away or falls silent, and close.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, Write};
use std::iter;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use uring_netlib::pdu::{FrameSpec, HEADER_LEN, Header};
use uring_netlib::{
    Address, AddressError, Backend, BacklogLimits, BuildError, CloseReason, Delivery, Event,
    Feature, Handle, Netlib, Options, Repeat, SendError,
};

const HELP: &str = "\
Measures the round trips of PDUs to the echo example, and checks every answer.

usage: cargo run --release --example echo_client -- [--connect ADDR] [--count N] [--size BYTES]
                         [--depth D] [--connections C] [--backend auto|uring|epoll]

  --connect ADDR     where the server listens                    [127.0.0.1:7000]
  --count N          PDUs in all                                 [10000]
  --size BYTES       length of a PDU, its 16 bytes header incl.  [64]
  --depth D          PDUs under way at a time, per connection    [1]
  --connections C    connections                                 [1]
  --backend BACKEND  auto, uring or epoll                        [auto]
";

/// What the arguments say.
struct Settings {
    address: Address,
    count: u64,
    size: u32,
    depth: u32,
    connections: u32,
    backend: Backend,
}

/// The state of this application; the library lends it to each callback.
struct Client {
    settings: Settings,
    /// Where a PDU is written before it is sent, and again to be compared with its answer.
    scratch: Vec<u8>,
    connections: Vec<Connection>,
    confirmed: u32,
    /// PDUs sent so far, which is also the number of the next one.
    sent: u64,
    answered: u64,
    /// `answered` when the timer looked last.
    answered_before: u64,
    started: Instant,
    took: Duration,
    /// In nanoseconds.
    round_trips: Histogram<u64>,
    failure: Option<String>,
}

/// One connection; its index is the user data of its socket.
struct Connection {
    handle: Handle,
    /// Numbers of the PDUs under way, oldest first, and when they were sent.
    under_way: VecDeque<(u64, Instant)>,
}

fn main() -> ExitCode {
    let settings = match arguments() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            io::stdout().write_all(HELP.as_bytes()).ok();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("echo_client: {error}; --help lists what it takes");
            return ExitCode::from(2);
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_client: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut settings = Settings {
        address: default_address(),
        count: 10_000,
        size: 64,
        depth: 1,
        connections: 1,
        backend: Backend::Auto,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("connect") => settings.address = address(&mut parser)?,
            Long("count") => settings.count = parser.value()?.parse()?,
            Long("size") => settings.size = parser.value()?.parse()?,
            Long("depth") => settings.depth = parser.value()?.parse()?,
            Long("connections") => settings.connections = parser.value()?.parse()?,
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if settings.count == 0 || settings.depth == 0 || settings.connections == 0 {
        return Err("--count, --depth and --connections must be above 0".into());
    }
    let size_min = HEADER_LEN as u64;
    let (size, depth) = (u64::from(settings.size), u64::from(settings.depth));
    if size < size_min || size * depth > UNDER_WAY_BYTES_MAX {
        return Err("--size must be at least 16 bytes, and --size x --depth at most 1 GiB".into());
    }
    Ok(Some(settings))
}

fn address(parser: &mut lexopt::Parser) -> Result<Address, lexopt::Error> {
    let text = parser.value()?.into_string()?;
    let why = match text.parse() {
        Ok(Address::Ip(address)) if address.port() == 0 => "nobody can listen on port 0".to_owned(),
        Ok(Address::Host { port: 0, .. }) => "nobody can listen on port 0".to_owned(),
        Ok(address) => return Ok(address),
        Err(error) => AddressError::to_string(&error),
    };
    let forms = "127.0.0.1:7000, [::1]:7000, host:7000 or unix:/path";
    Err(format!("--connect {text:?}: {why}; e.g. {forms}").into())
}

fn default_address() -> Address {
    Address::Ip(([127, 0, 0, 1], 7000).into())
}

fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let marks = BacklogLimits::default();
    // The depth limits what is pending: once what is in flight to the kernel, and once what took
    // the place of those of its PDUs that are answered already. So no send is ever refused.
    let max = marks.max.max(2 * settings.size * settings.depth);
    let spec = FrameSpec::teamtalk();
    let spec = spec.with_max(spec.max().max(settings.size));
    let mut net = Options::new()
        .backend(settings.backend)
        .delivery(Delivery::Pdu(spec))
        .backlog(BacklogLimits { max, ..marks })
        .build()?;

    let connections = (0..settings.connections)
        .map(|index| net.connect(&settings.address, on_event, index.into()))
        .map(|handle| handle.map(|handle| Connection { handle, under_way: VecDeque::new() }))
        .collect::<Result<_, _>>()?;
    let mut client = Client::new(settings, connections)?;
    net.register_timer(PATIENCE, Repeat::Forever, on_timer, 0);
    net.eventloop(&mut client, Duration::MAX)?;
    if let Some(failure) = client.failure {
        return Err(failure.into());
    }
    for connection in &client.connections {
        net.close(connection.handle)?;
    }
    // The peer closes as well, or is cut after a while: this ends.
    while net.stats().sockets > 0 {
        net.turn(&mut client, PATIENCE)?;
    }
    let table = client.table(net.backend().backend);
    let written = io::stdout().write_all(table.as_bytes());
    written.map_err(|error| {
        format!("standard output cannot be written: {error}; so it goes here:\n{table}").into()
    })
}

/// All that happens to a connection.
fn on_event(client: &mut Client, net: &mut Netlib<Client>, handle: Handle, event: Event<'_>) {
    let Ok(option) = net.option(handle) else { return };
    let index = usize::try_from(option.user_data()).expect("it was made from an index");
    match event {
        Event::Confirm => client.on_confirm(net),
        Event::Pdu(pdu) => client.on_answer(net, index, pdu.frame()),
        Event::Close(reason) => {
            let failure = client.explain(reason);
            client.fail(net, failure);
        }
        _ => {}
    }
}

/// Ends a test in which nothing comes back.
fn on_timer(client: &mut Client, net: &mut Netlib<Client>, _: Handle, _: Event<'_>) {
    if client.answered == client.answered_before {
        client.fail(net, format!("no answer for {} s", PATIENCE.as_secs()));
    }
    client.answered_before = client.answered;
}

impl Client {
    fn new(settings: Settings, connections: Vec<Connection>) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            settings,
            scratch: Vec::new(),
            connections,
            confirmed: 0,
            sent: 0,
            answered: 0,
            answered_before: 0,
            started: Instant::now(),
            took: Duration::ZERO,
            round_trips: Histogram::new_with_max(ROUND_TRIP_MAX_NS, 3)?,
            failure: None,
        })
    }

    /// Starts once all connections are open, so that opening them is not measured.
    fn on_confirm(&mut self, net: &mut Netlib<Self>) {
        self.confirmed += 1;
        if self.confirmed == self.settings.connections {
            self.started = Instant::now();
            for index in 0..self.connections.len() {
                self.fill(net, index);
            }
        }
    }

    fn on_answer(&mut self, net: &mut Netlib<Self>, index: usize, answer: &[u8]) {
        let now = Instant::now();
        let Some((number, sent)) = self.connections[index].under_way.pop_front() else {
            return self.fail(net, "an answer came to no question".to_owned());
        };
        write_pdu(&mut self.scratch, self.settings.size, number);
        if answer != self.scratch {
            return self.fail(net, format!("the answer to PDU {number} differs from it"));
        }
        let round_trip = now.duration_since(sent);
        let nanoseconds = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
        self.round_trips.saturating_record(nanoseconds);
        self.answered += 1;
        if self.answered == self.settings.count {
            self.took = now.duration_since(self.started);
            return net.stop_event();
        }
        self.fill(net, index);
    }

    /// Sends until the connection has as many PDUs under way as it may have.
    fn fill(&mut self, net: &mut Netlib<Self>, index: usize) {
        let Connection { handle, under_way } = &mut self.connections[index];
        while under_way.len() < self.settings.depth as usize && self.sent < self.settings.count {
            write_pdu(&mut self.scratch, self.settings.size, self.sent);
            let now = Instant::now();
            match net.send(*handle, &self.scratch) {
                Ok(_) => under_way.push_back((self.sent, now)),
                // The server is gone, and Close will say why.
                Err(SendError::NotConnected) => return,
                Err(error) => return self.fail(net, format!("a send was refused: {error}")),
            }
            self.sent += 1;
        }
    }

    fn fail(&mut self, net: &mut Netlib<Self>, failure: String) {
        // The first one says most; the others follow from it.
        self.failure.get_or_insert(failure);
        net.stop_event();
    }

    /// Says what to do about a connection that ended too early.
    fn explain(&self, reason: CloseReason) -> String {
        let address = &self.settings.address;
        match reason {
            CloseReason::Refused if *address == default_address() => format!(
                "nobody listens at {address}; start it with: cargo run --release --example echo"
            ),
            CloseReason::Refused => format!(
                "nobody listens at {address}; start it with: \
                 cargo run --release --example echo -- --listen {address}"
            ),
            CloseReason::PeerClosed | CloseReason::Reset if self.settings.size > 1 << 20 => {
                format!(
                    "{address} ended the connection ({reason}); it takes PDUs as long as these if \
                 started with --max-pdu {}",
                    self.settings.size
                )
            }
            CloseReason::Failed(errno) => {
                let error = io::Error::from_raw_os_error(errno.0);
                format!("the connection to {address} ended: {}", told(&error))
            }
            _ => format!("the connection to {address} ended: {reason}"),
        }
    }

    fn table(&self, backend: Backend) -> String {
        let Settings { connections, depth, size, count, .. } = self.settings;
        let quantile = |quantile| self.round_trips.value_at_quantile(quantile) as f64 / 1000.0;
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(quantile);
        let rate = count as f64 / self.took.as_secs_f64();
        format!(
            "backend  connections  depth   bytes     PDUs   p50 µs   p99 µs p99.9 µs   max µs   \
             PDUs/s\n\
             {backend:<8} {connections:>11} {depth:>6} {size:>7} {count:>8} \
             {p50:>8.1} {p99:>8.1} {p999:>8.1} {max:>8.1} {rate:>8.0}\n",
            // Its `Display` knows no width.
            backend = backend.to_string(),
        )
    }
}

/// Writes the PDU of a number, which differs from those of its neighbours in header and body.
fn write_pdu(pdu: &mut Vec<u8>, size: u32, number: u64) {
    let [.., before_last, last] = number.to_be_bytes();
    let seq = u16::from_be_bytes([before_last, last]);
    let mut header = [0; HEADER_LEN];
    Header::new(SERVICE_ID, COMMAND_ID).with_seq(seq).write(size, &mut header);
    pdu.clear();
    pdu.extend_from_slice(&header);
    pdu.extend(iter::repeat_n(last, size as usize - HEADER_LEN));
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
    is_short.then(|| {
        "raise the limit of descriptors: ulimit -n 65536, or ask for fewer --connections".to_owned()
    })
}

/// A heartbeat by its header: whatever an echo server is asked, the answer is the same.
const SERVICE_ID: u16 = 7;
const COMMAND_ID: u16 = 0x0701;

/// A minute; what takes longer counts as that.
const ROUND_TRIP_MAX_NS: u64 = 60_000_000_000;

/// What one connection may have under way, at most.
const UNDER_WAY_BYTES_MAX: u64 = 1 << 30;

/// How long a silence is no failure yet; a test that goes on answers much faster.
const PATIENCE: Duration = Duration::from_secs(15);
