//! What is to be measured, as the command line says it.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::cell::Cell;

/// What this process was started for.
#[derive(Debug)]
pub(crate) enum Task {
    /// Run by `cargo test`, which may build and start benches as well: nothing is measured.
    Nothing,
    Help,
    /// Print the names of servers and cells.
    List,
    Measure(Plan),
    /// Be a server, on that core.
    Serve {
        server: String,
        core: usize,
    },
    /// Be the load of one server.
    Load(LoadOrder),
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) cells: Vec<Cell>,
    /// By name, in the order of [`SERVERS`]; the plain one is always there.
    pub(crate) servers: Vec<&'static str>,
    /// Every server has its turn in each.
    pub(crate) rounds: usize,
    /// What is measured of a turn, at least.
    pub(crate) window: Duration,
    /// Where the table for people is written to.
    pub(crate) markdown: Option<PathBuf>,
    /// A program that has the peers, rather than the one that is built here.
    pub(crate) peers: Option<PathBuf>,
}

/// What the process that makes the load is told.
#[derive(Debug)]
pub(crate) struct LoadOrder {
    pub(crate) cell: Cell,
    pub(crate) port: u16,
    /// Of the server's process.
    pub(crate) server_id: u32,
    pub(crate) core: usize,
}

/// Every server that can be compared, and what it is.
pub(crate) const SERVERS: [(&str, &str); 11] = [
    ("uring", "this library on io_uring"),
    ("epoll", "this library on epoll"),
    ("plain", "a plain epoll loop straight on libc; what the others are compared to"),
    ("ring", "a hand-tuned ring straight on io_uring, the floor"),
    ("tokio", "tokio, one thread, BytesMut framing"),
    ("tokio-codec", "tokio with tokio-util's codec"),
    ("monoio", "monoio"),
    ("compio", "compio"),
    ("glommio", "glommio"),
    ("tokio-uring", "tokio-uring"),
    ("message-io", "message-io"),
];

/// Those of [`SERVERS`] that this program is itself; the others come from `benches/peers`.
pub(crate) const OWN_SERVERS: [&str; 3] = ["uring", "epoll", BASE];
/// Whose cost the ratios are of.
pub(crate) const BASE: &str = "plain";
/// Whose ratios the comparison is about.
pub(crate) const SUBJECT: &str = "uring";

/// The command line, for people.
pub(crate) const USAGE: &str = "\
usage: cargo bench --bench compare -- [OPTION...]
  --quick          half a minute: few cells and servers
  --full           every cell and every server; eleven minutes
  --cells NAME,... only these; CONNECTIONSxBYTESxDEPTH such as 1000x64x1 or 50x64Kx16 (closed
                   loop), half:1000x64 (open loop at half load), mix, churn, burst, fanout, idle
  --servers NAME,... only these; `plain` is always there, for ratios are to it
  --rounds N       turns of each server in a cell, of which the medians are reported
  --secs S         least length of a turn in seconds, at most 60
  --markdown FILE  writes tables as well; BENCHMARKS.md keeps all but its figures
  --peers PROGRAM  takes the peers from this program; by default benches/peers is built
  --list           prints the names of servers and cells
Results: the terminal, target/report/{compare.csv,compare.json,index.html}";

impl Task {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut given = Given::default();
        let mut arguments = arguments;
        let mut unknown = None;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // Cargo adds it to what the user gave.
                "--bench" => given.is_bench = true,
                "--help" | "-h" => given.wants_help = true,
                "--list" => given.wants_list = true,
                "--quick" => given.extent = Extent::Quick,
                "--full" => given.extent = Extent::Full,
                "--cells" => given.cells = Some(parse_list(&value()?, |name| name.parse())?),
                "--servers" => given.servers = Some(parse_list(&value()?, known_server)?),
                "--rounds" => given.rounds = Some(whole(&value()?, 1..=ROUNDS_MAX)?),
                "--secs" => given.window = Some(seconds(&value()?)?),
                "--markdown" => given.markdown = Some(value()?.into()),
                "--peers" => given.peers = Some(value()?.into()),
                "--server" => given.server = Some(value()?),
                "--core" => given.core = whole(&value()?, 0..=CORE_MAX)?,
                "--load" => given.load = Some(value()?.parse()?),
                "--port" => given.port = whole(&value()?, 0..=u16::MAX)?,
                "--server-id" => given.server_id = whole(&value()?, 0..=u32::MAX)?,
                _ => unknown = Some(format!("unknown argument `{argument}`")),
            }
        }
        match unknown {
            // What a test harness is told is not for this program.
            Some(_) if !given.is_bench => Ok(Self::Nothing),
            Some(message) => Err(message),
            None => Ok(given.into_task()),
        }
    }
}

#[derive(Default)]
struct Given {
    is_bench: bool,
    wants_help: bool,
    wants_list: bool,
    extent: Extent,
    cells: Option<Vec<Cell>>,
    servers: Option<Vec<&'static str>>,
    rounds: Option<usize>,
    window: Option<Duration>,
    markdown: Option<PathBuf>,
    peers: Option<PathBuf>,
    server: Option<String>,
    core: usize,
    load: Option<Cell>,
    port: u16,
    server_id: u32,
}

#[derive(Clone, Copy, Default)]
enum Extent {
    Quick,
    #[default]
    Usual,
    Full,
}

impl Given {
    fn into_task(self) -> Task {
        if let Some(server) = self.server {
            return Task::Serve { server, core: self.core };
        }
        if let Some(cell) = self.load {
            let Self { port, server_id, core, .. } = self;
            return Task::Load(LoadOrder { cell, port, server_id, core });
        }
        match (self.wants_help, self.wants_list, self.is_bench) {
            (true, ..) => Task::Help,
            (false, true, _) => Task::List,
            (false, false, true) => Task::Measure(self.into_plan()),
            (false, false, false) => Task::Nothing,
        }
    }

    fn into_plan(self) -> Plan {
        let (cells, servers, rounds, window_ms) = match self.extent {
            Extent::Quick => (Cell::quick(), QUICK_SERVERS.to_vec(), 5, 60),
            Extent::Usual => (Cell::usual(), USUAL_SERVERS.to_vec(), 9, 120),
            Extent::Full => (Cell::all(), SERVERS.map(|(name, _)| name).to_vec(), 9, 150),
        };
        let mut servers = self.servers.unwrap_or(servers);
        servers.push(BASE);
        let in_order = SERVERS.map(|(name, _)| name);
        Plan {
            cells: self.cells.unwrap_or(cells),
            servers: in_order.into_iter().filter(|name| servers.contains(name)).collect(),
            rounds: self.rounds.unwrap_or(rounds),
            window: self.window.unwrap_or(Duration::from_millis(window_ms)),
            markdown: self.markdown,
            peers: self.peers,
        }
    }
}

fn parse_list<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(parse).collect()
}

fn known_server(name: &str) -> Result<&'static str, String> {
    let known = SERVERS.iter().find(|(known, _)| *known == name);
    known.map(|(known, _)| *known).ok_or(format!("`{name}` is no server"))
}

fn whole<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + fmt::Debug,
{
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or(format!("`{text}` is not a number in {range:?}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (0.01..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{seconds} s is not between 0.01 and 60"))
    }
}

const QUICK_SERVERS: &[&str] = &["uring", "epoll", "plain", "ring", "tokio"];
const USUAL_SERVERS: &[&str] = &["uring", "epoll", "plain", "ring", "tokio", "monoio", "compio"];
const ROUNDS_MAX: usize = 1000;
const CORE_MAX: usize = 1 << 16;
