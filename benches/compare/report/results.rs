//! The numbers of a run, and what follows from them.
//!
//! A shared machine's speed drifts by more than the servers differ, so a ratio is taken within each
//! round, where the servers follow one another closely, and the median is of the ratios.

#![forbid(unsafe_code)]

use super::facts::Facts;
use super::statistics::Spread;
use crate::cell::Cell;
use crate::command::{BASE, SERVERS, SUBJECT};
use crate::support::generator::QUANTILES;

/// All of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) facts: Facts,
    pub(crate) cells: Vec<CellResult>,
    /// Name of each server, and how it is written.
    pub(crate) servers: Vec<(String, String)>,
    /// What a reader must know besides: what was left out, and why.
    pub(crate) notes: Vec<String>,
}

/// What one cell gave.
#[derive(Clone, Debug)]
pub(crate) struct CellResult {
    pub(crate) cell: Cell,
    pub(crate) servers: Vec<ServerResult>,
    /// Of an open loop, in PDUs per second.
    pub(crate) rate: Option<f64>,
}

/// What one server gave in a cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerResult {
    pub(crate) name: String,
    /// By round. One that failed has none of the rounds after that.
    pub(crate) samples: Vec<Sample>,
    /// For each unit, where they could be counted.
    pub(crate) system_calls: Option<f64>,
    pub(crate) failure: Option<String>,
}

/// What one turn gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Of one unit: CPU time of the server in µs, or bytes where memory is measured.
    pub(crate) cost: f64,
    /// 0 where it means nothing.
    pub(crate) per_second: f64,
    /// Of what was due in an open loop, what was answered in the time.
    pub(crate) part: f64,
    /// In µs at [`QUANTILES`]; nothing where it is not measured.
    pub(crate) latency_us: Vec<f64>,
    /// Nothing where they were not counted.
    pub(crate) system_calls: Option<f64>,
}

impl Report {
    /// The notes, and what the figures themselves warn of.
    pub(crate) fn cautions(&self) -> Vec<String> {
        let mut cautions = self.notes.clone();
        for result in &self.cells {
            let cell = result.cell;
            for server in &result.servers {
                if let Some(why) = &server.failure {
                    cautions.push(format!("{} failed in `{cell}`: {why}", server.name));
                }
            }
            let behind = result.servers.iter().filter(|server| result.has_fallen_behind(server));
            let behind: Vec<&str> = behind.map(|server| &*server.name).collect();
            if !behind.is_empty() {
                cautions.push(format!(
                    "in `{cell}` less was answered than was due, for the server or its load was \
                     too slow: {}",
                    behind.join(", ")
                ));
            }
        }
        cautions
    }
}

impl Sample {
    /// One line without its end, as the process that makes the load tells it.
    pub(crate) fn to_line(&self) -> String {
        let calls = self.system_calls.unwrap_or(f64::NAN);
        let numbers = [self.cost, self.per_second, self.part, calls];
        let words: Vec<String> =
            numbers.iter().chain(&self.latency_us).map(|number| format!("{number}")).collect();
        words.join(" ")
    }

    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let numbers: Vec<f64> =
            line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let (&[cost, per_second, part, calls], latency_us) = numbers.split_first_chunk()?;
        let is_whole = latency_us.is_empty() || latency_us.len() == QUANTILES.len();
        is_whole.then(|| Self {
            cost,
            per_second,
            part,
            latency_us: latency_us.to_vec(),
            system_calls: (!calls.is_nan()).then_some(calls),
        })
    }
}

impl CellResult {
    pub(crate) fn of(&self, name: &str) -> Option<&ServerResult> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// What a server costs as a ratio to the plain one; nothing for that one itself, and where a
    /// ratio would say little, as of a few bytes.
    pub(crate) fn ratio(&self, server: &ServerResult) -> Option<Spread> {
        let is_asked = server.name != BASE && !self.cell.is_memory();
        is_asked.then(|| server.ratio_to(self.of(BASE)?)).flatten()
    }

    /// What this library on io_uring costs as a ratio to another server.
    pub(crate) fn subject_ratio(&self, other: &ServerResult) -> Option<Spread> {
        let is_other = other.name != SUBJECT;
        is_other.then(|| self.of(SUBJECT)?.ratio_to(other)).flatten()
    }

    /// Whether a server answered clearly less than an open loop was to send.
    fn has_fallen_behind(&self, server: &ServerResult) -> bool {
        let part = Spread::of(server.samples.iter().map(|sample| sample.part));
        self.cell.is_open_loop() && part.is_some_and(|part| part.middle < ANSWERED_MIN)
    }

    /// The servers that cost no more than this library on io_uring, with what that costs as a ratio
    /// to each, the largest first.
    pub(crate) fn not_beaten(&self) -> Vec<(&str, Spread)> {
        let ratios = self
            .servers
            .iter()
            .filter_map(|other| Some((&*other.name, self.subject_ratio(other)?)));
        let mut left: Vec<_> = ratios.filter(|(_, ratio)| ratio.middle >= 1.0).collect();
        left.sort_by(|(_, one), (_, other)| other.middle.total_cmp(&one.middle));
        left
    }
}

impl ServerResult {
    pub(crate) fn cost(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.cost))
    }

    pub(crate) fn per_second(&self) -> Option<Spread> {
        let values = self.samples.iter().map(|sample| sample.per_second);
        Spread::of(values.filter(|value| *value > 0.0))
    }

    /// The median over the rounds of what lies at that place of [`QUANTILES`].
    pub(crate) fn latency_us(&self, place: usize) -> Option<f64> {
        let values = self.samples.iter().filter_map(|sample| sample.latency_us.get(place).copied());
        Spread::of(values).map(|spread| spread.middle)
    }

    /// The latency at one of [`QUANTILES`].
    pub(crate) fn latency_us_at(&self, quantile: f64) -> Option<f64> {
        self.latency_us(QUANTILES.iter().position(|known| *known == quantile)?)
    }

    fn ratio_to(&self, base: &Self) -> Option<Spread> {
        let pairs = self.samples.iter().zip(&base.samples);
        Spread::of(pairs.map(|(sample, base)| sample.cost / base.cost).filter(|r| r.is_finite()))
    }
}

/// All servers of the run, as some take no part in some cells.
pub(crate) fn names(report: &Report) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for server in report.cells.iter().flat_map(|result| &result.servers) {
        if !names.contains(&&*server.name) {
            names.push(&server.name);
        }
    }
    names.sort_by_key(|name| number_of(name));
    names
}

/// The one place for a server's colour, whichever servers take part.
pub(crate) fn number_of(server: &str) -> usize {
    SERVERS.iter().position(|(name, _)| *name == server).unwrap_or(SERVERS.len())
}

/// Of what was due. The last are answered when the time is over, so it is never quite all.
const ANSWERED_MIN: f64 = 0.9;
