//! What is to be measured, as the command line says it.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use super::HEADER_LEN;
use super::process::Server;

/// What this process was started for.
pub(crate) enum Task {
    /// Run by `cargo test`, which builds and starts benches as well: nothing is measured.
    Nothing,
    Measure(Plan),
    /// Be a server, on that core.
    Serve(Server, usize),
}

pub(crate) struct Plan {
    pub(crate) cells: Vec<Cell>,
    /// Every server has its turn in each.
    pub(crate) rounds: usize,
    /// What is measured of a turn, at least.
    pub(crate) window: Duration,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) connections: usize,
    pub(crate) payload_len: usize,
    /// PDUs in flight per connection.
    pub(crate) depth: usize,
}

/// The command line, for people.
pub(crate) const USAGE: &str = "\
usage: cargo bench --bench backends -- [--quick] [--cells CELL,...] [--rounds N] [--secs S]
  --quick    a quarter of the time: fewer cells, and fewer rounds
  --cells    connections x payload bytes x depth each, such as 1000x64x1,50x4096x16
  --rounds   turns of each server per cell, of which the medians are reported
  --secs     least length of a turn in seconds, at most 60";

impl Task {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Plan { cells: all_cells(), rounds: 7, window: Duration::from_millis(80) };
        let (mut is_bench, mut server, mut core, mut unknown) = (false, None, 0, None);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // Cargo adds it to what the user gave.
                "--bench" => is_bench = true,
                "--quick" => (plan.cells, plan.rounds) = (QUICK_CELLS.to_vec(), 5),
                "--cells" => {
                    plan.cells = value()?.split(',').map(Cell::parse).collect::<Result<_, _>>()?;
                }
                "--rounds" => plan.rounds = number(&value()?)?,
                "--secs" => plan.window = seconds(&value()?)?,
                "--server" => {
                    let name = value()?;
                    let known = Server::from_name(&name);
                    server = Some(known.ok_or(format!("there is no server `{name}`"))?);
                }
                "--core" => core = value()?.parse().map_err(|_| "a core is a number".to_owned())?,
                // Names of benches and tests; cargo passes them on to all that it starts.
                filter if !filter.starts_with('-') => {}
                _ => unknown = Some(format!("unknown argument `{argument}`")),
            }
        }
        match (server, is_bench, unknown) {
            (Some(server), _, None) => Ok(Self::Serve(server, core)),
            (None, true, None) => Ok(Self::Measure(plan)),
            // What a test harness is told is not for this program.
            (None, false, _) => Ok(Self::Nothing),
            (_, _, Some(message)) => Err(message),
        }
    }
}

impl Cell {
    const fn new(connections: usize, payload_len: usize, depth: usize) -> Self {
        Self { connections, payload_len, depth }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let parts: Result<Vec<_>, _> = text.split('x').map(number).collect();
        match parts?[..] {
            [connections, payload_len, depth] if payload_len <= PAYLOAD_LEN_MAX => {
                Ok(Self { connections, payload_len, depth })
            }
            _ => Err(format!("`{text}` is not CONNECTIONSxBYTESxDEPTH, as 1000x64x1 is")),
        }
    }

    /// PDUs in flight on all connections together.
    pub(crate) const fn pdus_in_flight(self) -> usize {
        self.connections * self.depth
    }

    /// Whether it has so much in flight that it measured how the machine does without memory.
    pub(crate) const fn is_too_large(self) -> bool {
        self.pdus_in_flight() * (HEADER_LEN + self.payload_len) > IN_FLIGHT_BYTES_MAX
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, payload_len, depth } = self;
        let connections_word = if *connections == 1 { "connection" } else { "connections" };
        write!(formatter, "{connections} {connections_word}, ")?;
        if payload_len % 1024 == 0 {
            write!(formatter, "{} KiB, depth {depth}", payload_len / 1024)
        } else {
            write!(formatter, "{payload_len} B, depth {depth}")
        }
    }
}

fn all_cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for connections in [1, 50, 1000] {
        for payload_len in [64, 4 << 10, 64 << 10] {
            for depth in [1, 16] {
                cells.push(Cell { connections, payload_len, depth });
            }
        }
    }
    cells
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=NUMBER_MAX) => Ok(number),
        _ => Err(format!("`{text}` is not a number from 1 to {NUMBER_MAX}")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (0.01..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{seconds} s is not between 0.01 and 60"))
    }
}

/// The cells that tell most.
const QUICK_CELLS: [Cell; 6] = [
    Cell::new(1, 64, 1),
    Cell::new(50, 64, 1),
    Cell::new(1000, 64, 1),
    Cell::new(1000, 64, 16),
    Cell::new(1000, 4 << 10, 1),
    Cell::new(50, 64 << 10, 1),
];
/// With its header, a payload of that length is the longest PDU that the servers take.
const PAYLOAD_LEN_MAX: usize = (1 << 20) - HEADER_LEN;
/// Keeps products of a cell's numbers within 64 bits.
const NUMBER_MAX: usize = 1 << 20;
/// What a cell may have in flight.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 128 << 20;
