//! The kinds of load that are compared, and their names on the command line.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use crate::support::HEADER_LEN;
use crate::support::schedule::Sizes;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Each answer is followed by a new PDU, `depth` of them in flight on each connection.
    Closed { connections: usize, payload_len: usize, depth: usize },
    /// PDUs are sent when they are due, half as many as the plain server answered in the closed
    /// loop, and latencies count from when they were due.
    Half { connections: usize, payload_len: usize },
    /// The same with heartbeats, messages and an occasional large one.
    Mix,
    /// Connect, one PDU, close.
    Churn,
    /// A hundred thousand PDUs written to one connection at once.
    Burst,
    /// One PDU to many receivers.
    Fanout,
    /// Memory of connections on which nothing happens.
    Idle,
}

impl Cell {
    /// Those that tell most in a few minutes.
    pub(crate) fn usual() -> Vec<Self> {
        parse_all(USUAL)
    }

    /// Those that tell most in half a minute.
    pub(crate) fn quick() -> Vec<Self> {
        parse_all(QUICK)
    }

    /// All that make sense: none with more in flight than [`IN_FLIGHT_BYTES_MAX`].
    pub(crate) fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for depth in [1, 16] {
            for payload_len in PAYLOAD_LENS {
                for connections in CONNECTIONS {
                    cells.push(Self::Closed { connections, payload_len, depth });
                }
            }
        }
        for payload_len in PAYLOAD_LENS {
            for connections in CONNECTIONS {
                cells.push(Self::Half { connections, payload_len });
            }
        }
        cells.extend([Self::Mix, Self::Churn, Self::Burst, Self::Fanout, Self::Idle]);
        cells.retain(|cell| cell.in_flight_bytes() <= IN_FLIGHT_BYTES_MAX);
        cells
    }

    pub(crate) const fn connections(self) -> usize {
        match self {
            Self::Closed { connections, .. } | Self::Half { connections, .. } => connections,
            Self::Mix => MIX_CONNECTIONS,
            Self::Churn => CHURN_AT_ONCE,
            Self::Burst => 1,
            Self::Fanout => FANOUT_RECEIVERS,
            Self::Idle => IDLE_CONNECTIONS,
        }
    }

    pub(crate) const fn sizes(self) -> Sizes {
        match self {
            Self::Closed { payload_len, .. } | Self::Half { payload_len, .. } => {
                Sizes::Fixed(payload_len)
            }
            Self::Mix => Sizes::Mix,
            Self::Fanout => Sizes::Fixed(FANOUT_LEN - HEADER_LEN),
            Self::Churn | Self::Burst => Sizes::Fixed(SMALL_LEN),
            Self::Idle => Sizes::Fixed(0),
        }
    }

    /// PDUs in flight on a connection of a closed loop; open loops have as many as it takes.
    pub(crate) const fn depth(self) -> usize {
        match self {
            Self::Closed { depth, .. } => depth,
            _ => 1,
        }
    }

    pub(crate) const fn is_open_loop(self) -> bool {
        matches!(self, Self::Half { .. } | Self::Mix)
    }

    /// Whether its cost is memory and not CPU time.
    pub(crate) const fn is_memory(self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether only servers of this program can take part, as echoing is not enough.
    pub(crate) const fn is_own_only(self) -> bool {
        matches!(self, Self::Fanout)
    }

    /// What is counted.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Churn | Self::Idle => "connection",
            Self::Fanout => "receiver",
            _ => "PDU",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> String {
        let many = |connections| match connections {
            1 => "1 connection".to_owned(),
            _ => format!("{} connections", grouped(connections)),
        };
        match self {
            Self::Closed { connections, payload_len, depth: 1 } => {
                format!("{}, {}", many(connections), size(payload_len))
            }
            Self::Closed { connections, payload_len, depth } => {
                format!("{}, {}, depth {depth}", many(connections), size(payload_len))
            }
            Self::Half { connections, payload_len } => {
                format!("Half load, {}, {}", many(connections), size(payload_len))
            }
            Self::Mix => format!("Half load, {}, mixed sizes", many(MIX_CONNECTIONS)),
            Self::Churn => "Connect, one PDU, close".to_owned(),
            Self::Burst => format!("{} PDUs at once", grouped(BURST_PDUS)),
            Self::Fanout => format!("1 KiB to {} receivers", grouped(FANOUT_RECEIVERS)),
            Self::Idle => format!("{}, idle", many(IDLE_CONNECTIONS)),
        }
    }

    const fn in_flight_bytes(self) -> usize {
        match self {
            Self::Closed { connections, payload_len, depth } => {
                connections * depth * (HEADER_LEN + payload_len)
            }
            Self::Half { connections, payload_len } => connections * (HEADER_LEN + payload_len),
            _ => 0,
        }
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let cell = match name {
            "mix" => Self::Mix,
            "churn" => Self::Churn,
            "burst" => Self::Burst,
            "fanout" => Self::Fanout,
            "idle" => Self::Idle,
            _ => {
                let parts = name.strip_prefix("half:").unwrap_or(name).split('x');
                let numbers = parts.map(number).collect::<Option<Vec<_>>>().unwrap_or_default();
                match (name.starts_with("half:"), &numbers[..]) {
                    (true, &[connections, payload_len]) => Self::Half { connections, payload_len },
                    (false, &[connections, payload_len, depth]) => {
                        Self::Closed { connections, payload_len, depth }
                    }
                    _ => return Err(format!("`{name}` is no cell")),
                }
            }
        };
        if cell.sizes().longest() > PAYLOAD_LEN_MAX || cell.connections() > CONNECTIONS_MAX {
            return Err(format!(
                "`{name}`: {PAYLOAD_LEN_MAX} B and {CONNECTIONS_MAX} are the most"
            ));
        }
        if cell.in_flight_bytes() > IN_FLIGHT_BYTES_MAX {
            let limit = IN_FLIGHT_BYTES_MAX >> 20;
            return Err(format!("`{name}` would have more than {limit} MiB in flight"));
        }
        Ok(cell)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::Closed { connections, payload_len, depth } => {
                format!("{connections}x{payload_len}x{depth}")
            }
            Self::Half { connections, payload_len } => format!("half:{connections}x{payload_len}"),
            Self::Mix => "mix".to_owned(),
            Self::Churn => "churn".to_owned(),
            Self::Burst => "burst".to_owned(),
            Self::Fanout => "fanout".to_owned(),
            Self::Idle => "idle".to_owned(),
        };
        formatter.pad(&name)
    }
}

fn parse_all(names: &str) -> Vec<Cell> {
    names.split(' ').map(|name| name.parse().expect("the names here are right")).collect()
}

/// At least 1; `4K` is 4096, and `1M` the payload of the longest PDU, which is 1 MiB with its
/// header.
fn number(text: &str) -> Option<usize> {
    if text == "1M" {
        return Some(PAYLOAD_LEN_MAX);
    }
    let (digits, factor) = text.strip_suffix('K').map_or((text, 1), |digits| (digits, 1024));
    digits
        .parse()
        .ok()
        .filter(|number| (1..=NUMBER_MAX).contains(number))
        .map(|n: usize| n * factor)
}

/// A length in the unit that it is a multiple of.
fn size(len: usize) -> String {
    match len {
        PAYLOAD_LEN_MAX => "1 MiB".to_owned(),
        _ if len.is_multiple_of(1024) => format!("{} KiB", len / 1024),
        _ => format!("{len} B"),
    }
}

/// 10,000 rather than 10000.
fn grouped(number: usize) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", grouped(number / 1000), number % 1000)
}

const USUAL: &str = "1x64x1 50x64x1 1000x64x1 10000x64x1 1000x64x16 1000x4096x1 50x65536x1 1x1Mx1 \
    half:50x64 half:1000x64 mix churn fanout idle";
const QUICK: &str = "1x64x1 50x64x1 1000x64x1 1000x64x16 50x65536x1 half:1000x64 churn";
const CONNECTIONS: [usize; 4] = [1, 50, 1000, 10_000];
const PAYLOAD_LENS: [usize; 4] = [64, 4 << 10, 64 << 10, PAYLOAD_LEN_MAX];
/// With its header it is the longest PDU that the servers take.
const PAYLOAD_LEN_MAX: usize = (1 << 20) - HEADER_LEN;
/// A process has 20,000 descriptors on many machines, and needs some for itself.
const CONNECTIONS_MAX: usize = 18_000;
/// Keeps products of a cell's numbers within 64 bits.
const NUMBER_MAX: usize = 1 << 20;
/// With more it measured how the machine does without memory.
const IN_FLIGHT_BYTES_MAX: usize = 128 << 20;
const MIX_CONNECTIONS: usize = 1000;
const IDLE_CONNECTIONS: usize = 10_000;
/// Connections that are open at the same time while they come and go.
const CHURN_AT_ONCE: usize = 50;
pub(crate) const BURST_PDUS: usize = 100_000;
const FANOUT_RECEIVERS: usize = 1000;
/// Of the PDU, its header included.
pub(crate) const FANOUT_LEN: usize = 1024;
/// Of a payload where its length is not what matters.
const SMALL_LEN: usize = 64;
