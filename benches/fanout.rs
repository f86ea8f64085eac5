//! One PDU to a thousand receivers: what it costs the server per receiver, beside a plain loop of
//! sends.
//!
//! `cargo bench --bench fanout` takes about 20 s; `-- --quick` a quarter of that. Each server runs
//! in a process of its own on one core and has all receivers connected; the load, on another core,
//! asks for a broadcast and reads it from all of them before it asks for the next. In every round
//! each server has one turn, and the figure to trust is its CPU time as a ratio to the plain loop's
//! in the same round.
//!
//! `uring` and `epoll` are this library with `Netlib::broadcast`; `copied` says that the same bytes
//! are sent to each receiver by `Netlib::send`, which copies them. `plain` has no event loop to
//! speak of: it calls `send` for one socket after the other, or `writev` where there are bytes of
//! the receiver's own, and takes a short write for an error.

mod support;

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::process::{ServerProcess, become_server, tell_port};
use support::sys::{self, EDGE, Epoll, READABLE};
use support::{HEADER_LEN, header, median};
use uring_netlib::{Address, Event, Handle, Netlib, Options, Shared};

const USAGE: &str = "\
usage: cargo bench --bench fanout -- [--quick] [--len BYTES] [--receivers N] [--rounds N]
  --quick      a quarter of the time: fewer rounds
  --len        bytes of the PDU, header included; 1024 by default
  --receivers  connections of each server; 1000 by default
  --rounds     turns of each server, of which the medians are reported";

struct Plan {
    len: usize,
    receivers: usize,
    rounds: usize,
}

enum Task {
    /// Run by `cargo test`, which builds and starts benches as well: nothing is measured.
    Nothing,
    Measure(Plan),
    Serve(Server, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Uring,
    UringCopied,
    Epoll,
    EpollCopied,
    Plain,
}

fn main() -> ExitCode {
    let outcome = match parse(std::env::args().skip(1)) {
        Ok(Task::Nothing) => {
            println!("fanout: nothing to test; `cargo bench --bench fanout` measures");
            return ExitCode::SUCCESS;
        }
        Ok(Task::Serve(server, core)) => become_server(core).and_then(|()| server.serve()),
        Ok(Task::Measure(plan)) => measure(&plan),
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Task, String> {
    let mut plan = Plan { len: 1024, receivers: 1000, rounds: 30 };
    let (mut is_bench, mut server, mut core, mut unknown) = (false, None, 0, None);
    while let Some(argument) = arguments.next() {
        let mut number = |range: std::ops::RangeInclusive<usize>| {
            let value = arguments.next().and_then(|value| value.parse().ok());
            let value = value.filter(|value| range.contains(value));
            value.ok_or(format!("{argument} needs a number in {range:?}"))
        };
        match argument.as_str() {
            // Cargo adds it to what the user gave.
            "--bench" => is_bench = true,
            "--quick" => plan.rounds = 8,
            "--len" => plan.len = number(HEADER_LEN..=64 << 10)?,
            "--receivers" => plan.receivers = number(1..=10_000)?,
            "--rounds" => plan.rounds = number(1..=1000)?,
            "--core" => core = number(0..=1 << 16)?,
            "--server" => {
                let name = arguments.next().unwrap_or_default();
                server = Server::ALL.into_iter().find(|server| server.name() == name);
            }
            // Names of benches and tests; cargo passes them on to all that it starts.
            filter if !filter.starts_with('-') => {}
            _ => unknown = Some(format!("unknown argument `{argument}`")),
        }
    }
    match (server, is_bench, unknown) {
        (Some(server), _, None) => Ok(Task::Serve(server, core)),
        (None, true, None) => Ok(Task::Measure(plan)),
        // What a test harness is told is not for this program.
        (None, false, _) => Ok(Task::Nothing),
        (_, _, Some(message)) => Err(message),
    }
}

fn measure(plan: &Plan) -> io::Result<()> {
    let cores = sys::allowed_cores()?;
    match cores.get(1) {
        Some(&core) => sys::pin_to(core)?,
        None => eprintln!("only one core: the load takes its share of what the servers get"),
    }
    sys::raise_descriptor_limit()?;
    let mut targets = Vec::new();
    for server in Server::ALL {
        match Target::start(server, cores[0], plan) {
            Ok(target) => targets.push(target),
            Err(error) if server == Server::Plain => return Err(error),
            Err(error) => eprintln!("{server} is left out: {error}"),
        }
    }
    println!("CPU per receiver of a PDU of {} B to {} receivers", plan.len, plan.receivers);
    for own_len in [0, OWN_LEN] {
        for target in &mut targets {
            target.samples.clear();
            // Warm-up.
            target.cpu_us_per_receiver(plan, own_len)?;
        }
        let start = Instant::now();
        // On a busy machine there are fewer rounds, but not none.
        for round in (0..plan.rounds).take_while(|_| start.elapsed() < PART_MAX) {
            for place in 0..targets.len() {
                // Who begins changes from round to round.
                let at = (round + place) % targets.len();
                let sample = targets[at].cpu_us_per_receiver(plan, own_len)?;
                targets[at].samples.push(sample);
            }
        }
        report(&targets, own_len);
    }
    Ok(())
}

fn report(targets: &[Target], own_len: usize) {
    match own_len {
        0 => println!("\nby itself{:>14}{:>10}  (of rounds)", "µs", "ratio"),
        _ => println!("\nbehind {own_len} own bytes{:>5}{:>10}  (of rounds)", "µs", "ratio"),
    }
    let plain = targets.iter().find(|target| target.server == Server::Plain);
    for target in targets {
        print!("  {:13}{:>8.3}", target.server.name(), median(target.samples.iter().copied()));
        if let Some(plain) = plain.filter(|plain| plain.server != target.server) {
            let pairs = target.samples.iter().zip(&plain.samples);
            let ratios: Vec<f64> = pairs.map(|(sample, plain)| sample / plain).collect();
            let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            print!("{:>10.2}  ({least:.2} to {most:.2})", median(ratios));
        }
        println!();
    }
}

/// A running server and its receivers, which go first when they are dropped.
struct Target {
    receivers: Vec<TcpStream>,
    process: ServerProcess,
    server: Server,
    samples: Vec<f64>,
}

impl Target {
    fn start(server: Server, core: usize, plan: &Plan) -> io::Result<Self> {
        let process = ServerProcess::start(server.name(), core)?;
        let connect = |_| {
            let receiver = TcpStream::connect((Ipv4Addr::LOCALHOST, process.port))?;
            receiver.set_nodelay(true)?;
            receiver.set_read_timeout(Some(READ_MAX))?;
            Ok(receiver)
        };
        let receivers: io::Result<Vec<_>> = (0..plan.receivers).map(connect).collect();
        let mut target = Self { receivers: receivers?, process, server, samples: Vec::new() };
        // Whoever connected last may not be accepted yet: asks until all are served.
        for receiver in &mut target.receivers {
            receiver.write_all(&order(HELLO, 0))?;
            receiver.read_exact(&mut [0; HEADER_LEN])?;
        }
        Ok(target)
    }

    fn cpu_us_per_receiver(&mut self, plan: &Plan, own_len: usize) -> io::Result<f64> {
        let start = self.process.cpu.now()?;
        let mut space = vec![0; own_len + plan.len];
        for _ in 0..BROADCASTS {
            self.receivers[0].write_all(&order(plan.len, own_len))?;
            for receiver in &mut self.receivers {
                receiver.read_exact(&mut space)?;
            }
        }
        let cpu = self.process.cpu.now()? - start;
        Ok(cpu.as_secs_f64() * 1e6 / (BROADCASTS * plan.receivers) as f64)
    }
}

/// A request for a broadcast of `len` bytes behind so many of each receiver's own.
fn order(len: usize, own_len: usize) -> [u8; ORDER_LEN] {
    let mut order = [0; ORDER_LEN];
    order[..HEADER_LEN].copy_from_slice(&header(8, 0));
    for (place, number) in order[HEADER_LEN..].chunks_mut(4).zip([len, own_len]) {
        place.copy_from_slice(&u32::try_from(number).expect("a few KiB").to_be_bytes());
    }
    order
}

/// What an order asks for: the PDU, and how many own bytes.
fn parse_order(order: &[u8]) -> (Vec<u8>, usize) {
    let number = |at: usize| {
        let bytes = order[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(bytes) as usize
    };
    let (len, own_len) = (number(HEADER_LEN), number(HEADER_LEN + 4));
    let mut pdu = vec![0x5A; len];
    pdu[..HEADER_LEN].copy_from_slice(&header(len - HEADER_LEN, 0));
    (pdu, own_len)
}

impl Server {
    const ALL: [Self; 5] =
        [Self::Uring, Self::UringCopied, Self::Epoll, Self::EpollCopied, Self::Plain];

    const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::UringCopied => "uring-copied",
            Self::Epoll => "epoll",
            Self::EpollCopied => "epoll-copied",
            Self::Plain => "plain",
        }
    }

    fn serve(self) -> io::Result<()> {
        match self {
            Self::Uring => serve_ours("uring", false),
            Self::UringCopied => serve_ours("uring", true),
            Self::Epoll => serve_ours("epoll", false),
            Self::EpollCopied => serve_ours("epoll", true),
            Self::Plain => serve_plain(),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

struct Room {
    guests: Vec<Handle>,
    is_copying: bool,
}

fn serve_ours(backend: &str, is_copying: bool) -> io::Result<()> {
    let backend = backend.parse().map_err(io::Error::other)?;
    let mut net = Options::new().backend(backend).build().map_err(io::Error::other)?;
    let listener = net.listen("127.0.0.1:0", on_event, 0).map_err(io::Error::other)?;
    let option = net.option(listener).map_err(io::Error::other)?;
    let Address::Ip(address) = option.local_address().map_err(io::Error::other)? else {
        return Err(io::Error::other("an IPv4 listener has an IPv4 address"));
    };
    tell_port(address.port());
    let mut room = Room { guests: Vec::new(), is_copying };
    net.eventloop(&mut room, Duration::MAX).map_err(io::Error::other)
}

fn on_event(room: &mut Room, net: &mut Netlib<Room>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } => room.guests.push(handle),
        Event::Close(_) => room.guests.retain(|guest| *guest != handle),
        Event::Pdu(order) => {
            let (pdu, own_len) = parse_order(order.frame());
            // The load notices what is missing.
            if pdu.len() == HELLO {
                let _ = net.send(handle, &pdu);
            } else if room.is_copying {
                for guest in &room.guests {
                    let _ = net.send(*guest, &OWN[..own_len]);
                    let _ = net.send(*guest, &pdu);
                }
            } else {
                for guest in room.guests.iter().filter(|_| own_len > 0) {
                    let _ = net.send(*guest, &OWN[..own_len]);
                }
                let _ = net.broadcast(room.guests.iter().copied(), &Shared::from(pdu));
            }
        }
        _ => {}
    }
}

fn serve_plain() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    sys::raise_accept_queue(&listener)?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, usize::MAX, READABLE)?;
    tell_port(listener.local_addr()?.port());
    let mut guests: Vec<TcpStream> = Vec::new();
    loop {
        for index in 0..epoll.wait(None)? {
            match epoll.event(index).0 {
                usize::MAX => accept_all(&listener, &epoll, &mut guests)?,
                guest => serve_order(&mut guests, guest)?,
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    guests: &mut Vec<TcpStream>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((guest, _)) => {
                guest.set_nonblocking(true)?;
                guest.set_nodelay(true)?;
                epoll.add(&guest, guests.len(), READABLE | EDGE)?;
                guests.push(guest);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn serve_order(guests: &mut [TcpStream], from: usize) -> io::Result<()> {
    let mut order = [0; ORDER_LEN];
    match guests[from].read(&mut order) {
        Ok(ORDER_LEN) => {}
        Ok(_) => return Err(io::Error::other("the load is gone")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    }
    let (pdu, own_len) = parse_order(&order);
    let receivers = if pdu.len() == HELLO { &mut guests[from..=from] } else { guests };
    for receiver in receivers {
        let sent = if own_len == 0 {
            receiver.write(&pdu)?
        } else {
            receiver.write_vectored(&[IoSlice::new(&OWN[..own_len]), IoSlice::new(&pdu)])?
        };
        if sent != own_len + pdu.len() {
            return Err(io::Error::other(format!("{} took {sent} bytes", receiver.as_raw_fd())));
        }
    }
    Ok(())
}

const ORDER_LEN: usize = HEADER_LEN + 8;
/// An order of a bare header is for who asks alone.
const HELLO: usize = HEADER_LEN;
/// Own bytes of each receiver, in the second part.
const OWN_LEN: usize = 64;
const OWN: [u8; OWN_LEN] = [0xA5; OWN_LEN];
/// Broadcasts of a turn.
const BROADCASTS: usize = 12;
/// When no further round of a part begins.
const PART_MAX: Duration = Duration::from_secs(10);
const READ_MAX: Duration = Duration::from_secs(10);
