//! The report: medians over the rounds, and ratios of CPU time.
//!
//! A shared machine's speed drifts by more than the servers differ, so a ratio is taken within
//! each round, where the servers follow one another closely, and the median is of the ratios.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

use super::generator::Sample;
use super::median;
use super::plan::{Cell, IN_FLIGHT_BYTES_MAX};
use super::process::Server;

/// What one cell gave: for each server, a sample per round. Nothing if it was left out.
pub(crate) struct CellResult {
    pub(crate) cell: Cell,
    /// In the order of the rounds, for every server alike.
    pub(crate) samples: Vec<(Server, Vec<Sample>)>,
}

/// What bursts of both sizes gave, for each server a value per round, in ns per PDU.
pub(crate) struct BurstResult {
    pub(crate) counts: (usize, usize),
    pub(crate) times: Vec<(Server, Vec<BurstTimes>)>,
}

/// Time per PDU in ns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BurstTimes {
    pub(crate) small: f64,
    pub(crate) large: f64,
}

/// The whole report of the closed loops, as text.
pub(crate) fn cells(results: &[CellResult]) -> String {
    let mut text = String::new();
    write_cells(&mut text, results).expect("a string takes what is written");
    text
}

/// The report of the bursts, as text.
pub(crate) fn bursts(result: &BurstResult) -> String {
    let mut text = String::new();
    write_bursts(&mut text, result).expect("a string takes what is written");
    text
}

fn write_cells(text: &mut String, results: &[CellResult]) -> fmt::Result {
    writeln!(
        text,
        "{:11}{:>12}{:>10}{:>10}{:>10}{:>12}  {:>9}  (of rounds)",
        "", "messages/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/msg", "CPU ratio"
    )?;
    for result in results {
        write!(text, "{}", result.cell)?;
        if result.cell.is_too_large() {
            let limit = IN_FLIGHT_BYTES_MAX >> 20;
            writeln!(text, ": left out, for it has more than {limit} MiB in flight")?;
            continue;
        }
        writeln!(text)?;
        let plain = result.of(Server::Plain);
        for (server, samples) in &result.samples {
            let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
            write!(
                text,
                "  {server:9}{:>12.0}{:>10.1}{:>10.1}{:>10.1}{:>12.3}",
                of(|sample| sample.answers_per_second),
                of(|sample| sample.latency.p50),
                of(|sample| sample.latency.p99),
                of(|sample| sample.latency.p999),
                of(|sample| sample.server_cpu_us_per_answer),
            )?;
            match plain {
                Some(plain) if *server != Server::Plain => write_ratio(text, samples, plain)?,
                _ => {}
            }
            writeln!(text)?;
        }
        if let (Some(uring), Some(epoll)) = (result.of(Server::Uring), result.of(Server::Epoll)) {
            write!(text, "  {:63}", "uring / epoll")?;
            write_ratio(text, uring, epoll)?;
            writeln!(text)?;
        }
    }
    Ok(())
}

/// The median of the rounds' ratios, and between what they lie.
fn write_ratio(text: &mut String, samples: &[Sample], base: &[Sample]) -> fmt::Result {
    let cpu = |sample: &Sample| sample.server_cpu_us_per_answer;
    let pairs = samples.iter().zip(base);
    let ratios: Vec<f64> = pairs.map(|(sample, base)| cpu(sample) / cpu(base)).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    write!(text, "  {:>9.2}  ({least:.2} to {most:.2})", median(ratios))
}

impl CellResult {
    fn of(&self, server: Server) -> Option<&[Sample]> {
        let mut samples = self.samples.iter();
        samples.find(|(one, _)| *one == server).map(|(_, samples)| &samples[..])
    }
}

fn write_bursts(text: &mut String, result: &BurstResult) -> fmt::Result {
    let (small, large) = result.counts;
    writeln!(
        text,
        "One connection, 64 B, all PDUs written at once: ns per PDU until all are answered.\n\
         The ratio should not exceed 1.2; it is far less where a wake-up costs more than 100 PDUs."
    )?;
    writeln!(
        text,
        "{:11}{:>14}{:>14}{:>14}",
        "",
        format!("{small} PDUs"),
        format!("{large} PDUs"),
        "ratio"
    )?;
    for (server, times) in &result.times {
        let of = |value: fn(&BurstTimes) -> f64| median(times.iter().map(value));
        let (small, large) = (of(|times| times.small), of(|times| times.large));
        let ratio = of(|times| times.large / times.small);
        writeln!(text, "  {server:9}{small:>14.0}{large:>14.0}{ratio:>14.2}")?;
    }
    Ok(())
}
