//! Ten thousand idle connections: what they cost the server in memory, and in CPU time when each of
//! them gets a heartbeat every 30 s.
//!
//! `cargo bench --bench idle` takes a little over a minute: 30 s for each backend, in which every
//! connection is due for one heartbeat, 30 s after it was opened. In a shorter time none comes.
//! The server runs in a process of its own on one core; nothing else happens on it.

mod support;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use support::process::{ServerProcess, become_server, tell_port};
use support::{HEADER_LEN, header, sys};
use uring_netlib::{Address, Event, Handle, Liveness, Netlib, Options};

const USAGE: &str = "\
usage: cargo bench --bench idle -- [--connections N] [--seconds S]
  --connections  connections of each server, up to 18000; 10000 by default
  --seconds      how long each server is watched, up to 600; 30 by default";

struct Plan {
    connections: usize,
    seconds: u64,
}

enum Task {
    /// Run by `cargo test`, which builds and starts benches as well: nothing is measured.
    Nothing,
    Measure(Plan),
    Serve(String, usize),
}

fn main() -> ExitCode {
    let outcome = match parse(std::env::args().skip(1)) {
        Ok(Task::Nothing) => {
            println!("idle: nothing to test; `cargo bench --bench idle` measures");
            return ExitCode::SUCCESS;
        }
        Ok(Task::Serve(backend, core)) => become_server(core).and_then(|()| serve(&backend)),
        Ok(Task::Measure(plan)) => measure(&plan),
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Task, String> {
    let mut plan = Plan { connections: 10_000, seconds: 30 };
    let (mut is_bench, mut server, mut core) = (false, None, 0);
    while let Some(argument) = arguments.next() {
        let mut number = |max: usize| {
            let value = arguments.next().and_then(|value| value.parse().ok());
            let value = value.filter(|value| (0..=max).contains(value));
            value.ok_or(format!("{argument} needs a number up to {max}"))
        };
        match argument.as_str() {
            // Cargo adds it to what the user gave.
            "--bench" => is_bench = true,
            "--connections" => plan.connections = number(18_000)?.max(1),
            "--seconds" => plan.seconds = number(600)?.max(1) as u64,
            "--core" => core = number(1 << 16)?,
            "--server" => server = arguments.next(),
            // Names of benches and tests; cargo passes them on to all that it starts.
            filter if !filter.starts_with('-') => {}
            // What a test harness is told is not for this program.
            _ if !is_bench => return Ok(Task::Nothing),
            _ => return Err(format!("unknown argument `{argument}`")),
        }
    }
    Ok(match (server, is_bench) {
        (Some(server), _) => Task::Serve(server, core),
        (None, true) => Task::Measure(plan),
        (None, false) => Task::Nothing,
    })
}

fn measure(plan: &Plan) -> io::Result<()> {
    let cores = sys::allowed_cores()?;
    match cores.get(1) {
        Some(&core) => sys::pin_to(core)?,
        None => eprintln!("only one core: the load takes its share of what the servers get"),
    }
    sys::raise_descriptor_limit()?;
    println!(
        "{:<8} {:>11} {:>12} {:>10} {:>12} {:>14}",
        "backend", "connections", "bytes each", "heartbeats", "CPU %", "µs a heartbeat"
    );
    for backend in ["uring", "epoll"] {
        eprintln!("{backend}: {} s", plan.seconds);
        match measure_one(backend, cores[0], plan) {
            Ok(row) => println!("{row}"),
            Err(error) => eprintln!("{backend} is left out: {error}"),
        }
    }
    Ok(())
}

fn measure_one(backend: &str, core: usize, plan: &Plan) -> io::Result<String> {
    let process = ServerProcess::start(backend, core)?;
    let connect = || -> io::Result<TcpStream> {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, process.port))?;
        client.set_read_timeout(Some(READ_MAX))?;
        // It is accepted when it is answered.
        client.write_all(&header(0, 0))?;
        client.read_exact(&mut [0; HEADER_LEN])?;
        Ok(client)
    };
    // Whatever is allocated once is allocated for the first.
    drop(connect()?);
    let before = process.resident_bytes()?;
    let clients: io::Result<Vec<TcpStream>> = (0..plan.connections).map(|_| connect()).collect();
    let clients = clients?;
    let bytes = process.resident_bytes()?.saturating_sub(before) / plan.connections as u64;
    let (cpu, start) = (process.cpu.now()?, Instant::now());
    thread::sleep(Duration::from_secs(plan.seconds));
    let (cpu, span) = (process.cpu.now()? - cpu, start.elapsed());
    let heartbeats = clients.iter().map(count_heartbeats).sum::<io::Result<usize>>()?;
    let per_heartbeat = cpu.as_secs_f64() * 1e6 / heartbeats.max(1) as f64;
    Ok(format!(
        "{backend:<8} {:>11} {bytes:>12} {heartbeats:>10} {:>12.3} {per_heartbeat:>14.1}",
        plan.connections,
        100.0 * cpu.as_secs_f64() / span.as_secs_f64(),
    ))
}

fn count_heartbeats(mut client: &TcpStream) -> io::Result<usize> {
    client.set_nonblocking(true)?;
    let mut space = [0; 64 * HEADER_LEN];
    match client.read(&mut space) {
        Ok(0) => Err(io::Error::other("the server closed a connection")),
        Ok(len) => Ok(len / HEADER_LEN),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}

fn serve(backend: &str) -> io::Result<()> {
    let backend = backend.parse().map_err(io::Error::other)?;
    let liveness = Liveness::client().handshake(Duration::MAX).heartbeat(HEARTBEAT);
    let options = Options::new().backend(backend).liveness(liveness);
    let mut net = options.build().map_err(io::Error::other)?;
    let listener = net.listen("127.0.0.1:0", on_event, 0).map_err(io::Error::other)?;
    let option = net.option(listener).map_err(io::Error::other)?;
    let Address::Ip(address) = option.local_address().map_err(io::Error::other)? else {
        return Err(io::Error::other("an IPv4 listener has an IPv4 address"));
    };
    tell_port(address.port());
    net.eventloop(&mut (), Duration::MAX).map_err(io::Error::other)
}

fn on_event(_: &mut (), net: &mut Netlib<()>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = event {
        // The load notices what is missing.
        let _ = net.send(handle, pdu.frame());
    }
}

const HEARTBEAT: Duration = Duration::from_secs(30);
const READ_MAX: Duration = Duration::from_secs(10);
