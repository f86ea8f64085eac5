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
//! are sent to each receiver by `Netlib::send`, which copies them. `plain` is that loop; see
//! `support/fanout.rs` for the servers and the load.

mod support;

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::fanout::{OWN_LEN, Receivers, serve_ours, serve_plain};
use support::process::{ServerProcess, become_server};
use support::{HEADER_LEN, median, sys};

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
            target.receivers.verify(plan.len, own_len)?;
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
    receivers: Receivers,
    process: ServerProcess,
    server: Server,
    samples: Vec<f64>,
}

impl Target {
    fn start(server: Server, core: usize, plan: &Plan) -> io::Result<Self> {
        let process = ServerProcess::start(server.name(), core)?;
        let receivers = Receivers::connect(process.port, plan.receivers)?;
        Ok(Self { receivers, process, server, samples: Vec::new() })
    }

    fn cpu_us_per_receiver(&mut self, plan: &Plan, own_len: usize) -> io::Result<f64> {
        let start = self.process.cpu.now()?;
        for _ in 0..BROADCASTS {
            self.receivers.broadcast(plan.len, own_len)?;
        }
        let cpu = self.process.cpu.now()? - start;
        Ok(cpu.as_secs_f64() * 1e6 / (BROADCASTS * plan.receivers) as f64)
    }
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

/// Broadcasts of a turn.
const BROADCASTS: usize = 12;
/// When no further round of a part begins.
const PART_MAX: Duration = Duration::from_secs(10);
