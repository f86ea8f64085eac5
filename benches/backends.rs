//! Echo servers side by side: this library on io_uring, this library on epoll, and a plain epoll
//! loop as the yardstick of both.
//!
//! `cargo bench --bench backends` takes about a minute; `-- --quick` a quarter of that, and
//! `-- --help` tells the rest. The figure to trust is the server's CPU time per message as a ratio
//! to the yardstick's in the same round: messages per second and latencies depend on the generator
//! and on who else uses the machine, and everything is worth less on a machine with one core.
//!
//! Each server runs in a process of its own on one core, the load on another. The servers of a
//! cell are started together and stay connected; in every round each has one turn, alone. See
//! `support/mod.rs` for the parts.

mod support;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use support::generator::Generator;
use support::median;
use support::plan::{Cell, Plan, Task, USAGE};
use support::process::{Server, ServerProcess};
use support::sys;
use support::table::{self, BurstResult, BurstTimes, CellResult};

fn main() -> ExitCode {
    let outcome = match Task::parse(std::env::args().skip(1)) {
        Ok(Task::Nothing) => {
            println!("backends: nothing to test; `cargo bench --bench backends` measures");
            return ExitCode::SUCCESS;
        }
        Ok(Task::Serve(server, core)) => server.serve(core).map_err(|error| (server.name(), error)),
        Ok(Task::Measure(plan)) => measure(&plan).map_err(|error| ("failed", error)),
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((what, error)) => {
            eprintln!("backends: {what}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plan: &Plan) -> io::Result<()> {
    let cores = sys::allowed_cores()?;
    let server_core = cores[0];
    match cores.get(1) {
        Some(&core) => sys::pin_to(core)?,
        None => eprintln!("only one core: the load takes its share of what the servers get"),
    }
    sys::raise_descriptor_limit()?;
    let bench = Bench { servers: working_servers(server_core)?, server_core };
    let mut progress = Progress::new(plan.cells.len() + 1);
    let mut results = Vec::new();
    for &cell in &plan.cells {
        progress.step(&cell.to_string());
        results.push(bench.measure_cell(cell, plan)?);
    }
    progress.step("bursts");
    let bursts = bench.measure_bursts(plan.rounds)?;
    progress.end();
    println!("{}\n{}", table::cells(&results), table::bursts(&bursts));
    Ok(())
}

/// Those that start here: a kernel may lack io_uring, or forbid it.
fn working_servers(core: usize) -> io::Result<Vec<Server>> {
    let mut working = Vec::new();
    for server in Server::ALL {
        match ServerProcess::start(server.name(), core) {
            Ok(_) => working.push(server),
            Err(error) if server == Server::Plain => return Err(error),
            Err(error) => eprintln!("{server} is left out: {error}"),
        }
    }
    Ok(working)
}

struct Bench {
    servers: Vec<Server>,
    server_core: usize,
}

impl Bench {
    fn measure_cell(&self, cell: Cell, plan: &Plan) -> io::Result<CellResult> {
        if cell.is_too_large() {
            return Ok(CellResult { cell, samples: Vec::new() });
        }
        let mut targets = self.start(cell.connections, cell.payload_len)?;
        self.in_rounds(plan.rounds, |index| {
            let target = &mut targets[index];
            let (warm_up, cpu) = (plan.window.min(WARM_UP_MAX) / 5, &target.process.cpu);
            target.load.closed_loop(cell.depth, warm_up, plan.window, cpu)
        })
        .map(|samples| CellResult { cell, samples })
        .map_err(|error| io::Error::new(error.kind(), format!("{cell}: {error}")))
    }

    fn measure_bursts(&self, rounds: usize) -> io::Result<BurstResult> {
        let mut targets = self.start(1, BURST_PAYLOAD_LEN)?;
        self.in_rounds(rounds, |index| {
            let load = &mut targets[index].load;
            let small = time_per_pdu(load, BURST_SMALL, BURST_SMALL_REPEATS)?;
            Ok(BurstTimes { small, large: time_per_pdu(load, BURST_LARGE, BURST_LARGE_REPEATS)? })
        })
        .map(|times| BurstResult { counts: (BURST_SMALL, BURST_LARGE), times })
        .map_err(|error| io::Error::new(error.kind(), format!("bursts: {error}")))
    }

    /// Starts all servers and connects to them.
    fn start(&self, connections: usize, payload_len: usize) -> io::Result<Vec<Target>> {
        let start = |server: &Server| {
            let process = ServerProcess::start(server.name(), self.server_core)?;
            let load = Generator::connect(process.port, connections, payload_len)?;
            Ok(Target { load, process })
        };
        self.servers.iter().map(start).collect()
    }

    /// Gives every server its turn in each round. Who begins changes from round to round, so that
    /// none has the better place.
    fn in_rounds<T>(
        &self,
        rounds: usize,
        mut turn: impl FnMut(usize) -> io::Result<T>,
    ) -> io::Result<Vec<(Server, Vec<T>)>> {
        let mut results: Vec<_> = self.servers.iter().map(|server| (*server, Vec::new())).collect();
        for round in 0..rounds {
            for place in 0..results.len() {
                let index = (round + place) % results.len();
                let (server, values) = &mut results[index];
                let value = turn(index);
                values.push(
                    value.map_err(|error| {
                        io::Error::new(error.kind(), format!("{server}: {error}"))
                    })?,
                );
            }
        }
        Ok(results)
    }
}

/// A running server and its clients, which go first when they are dropped.
struct Target {
    load: Generator,
    process: ServerProcess,
}

/// The median of several bursts, in ns.
fn time_per_pdu(load: &mut Generator, count: usize, repeats: usize) -> io::Result<f64> {
    let times: io::Result<Vec<Duration>> = (0..repeats).map(|_| load.burst(count)).collect();
    Ok(median(times?.iter().map(Duration::as_secs_f64)) * 1e9 / count as f64)
}

/// One line on a terminal, or a line per step where there is none.
struct Progress {
    step: usize,
    steps: usize,
    is_terminal: bool,
}

impl Progress {
    fn new(steps: usize) -> Self {
        Self { step: 0, steps, is_terminal: io::stderr().is_terminal() }
    }

    fn step(&mut self, what: &str) {
        self.step += 1;
        let line = format!("{}/{} {what}", self.step, self.steps);
        if self.is_terminal {
            eprint!("{CLEAR_LINE}{line}");
            let _ = io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.is_terminal {
            eprint!("{CLEAR_LINE}");
        }
    }
}

const CLEAR_LINE: &str = "\r\x1b[K";
const WARM_UP_MAX: Duration = Duration::from_secs(1);
const BURST_PAYLOAD_LEN: usize = 64;
const BURST_SMALL: usize = 100;
const BURST_LARGE: usize = 100_000;
const BURST_SMALL_REPEATS: usize = 300;
const BURST_LARGE_REPEATS: usize = 3;
