//! The result as data: CSV with a row for each turn, and JSON with what was made of them.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::results::{CellResult, Report, Sample, ServerResult};
use super::statistics::Spread;
use crate::support::generator::QUANTILES;

/// A row for each turn of each server.
pub(crate) fn csv(report: &Report) -> String {
    let mut text = "cell,server,round,cost_kind,cost,per_second".to_owned();
    for quantile in QUANTILES {
        write!(text, ",latency_us_{quantile}").expect("a string takes what is written");
    }
    text.push('\n');
    for result in &report.cells {
        for server in &result.servers {
            for (round, sample) in server.samples.iter().enumerate() {
                text.push_str(&csv_row(result, server, round, sample));
            }
        }
    }
    text
}

/// One object: `facts`, `notes`, and `cells` with the servers of each.
pub(crate) fn json(report: &Report) -> String {
    let facts = report.facts.rows().into_iter();
    let facts = facts.map(|(name, value)| format!("{}: {}", quoted(name), quoted(&value)));
    let notes = report.notes.iter().map(|note| quoted(note));
    let cells = report.cells.iter().map(json_cell);
    format!(
        "{{\n\"facts\": {{{}}},\n\"notes\": [{}],\n\"quantiles\": [{}],\n\"cells\": [\n{}\n]\n}}\n",
        join(facts, ", "),
        join(notes, ", "),
        join(QUANTILES.iter().map(ToString::to_string), ", "),
        join(cells, ",\n"),
    )
}

fn csv_row(result: &CellResult, server: &ServerResult, round: usize, sample: &Sample) -> String {
    let Sample { cost, per_second, latency_us, .. } = sample;
    let (cell, name, kind) = (result.cell, &server.name, cost_kind(result));
    let latencies = QUANTILES.iter().enumerate();
    let latencies = latencies.map(|(place, _)| latency_us.get(place).map_or(String::new(), number));
    let latencies = join(latencies, ",");
    format!("{cell},{name},{},{kind},{cost},{per_second},{latencies}\n", round + 1)
}

fn json_cell(result: &CellResult) -> String {
    let servers = result.servers.iter().map(|server| json_server(result, server));
    format!(
        "{{\"cell\": {}, \"title\": {}, \"unit\": {}, \"cost\": {}, \"rate\": {}, \
         \"servers\": [\n{}\n]}}",
        quoted(&result.cell.to_string()),
        quoted(&result.cell.title()),
        quoted(result.cell.unit()),
        quoted(cost_kind(result)),
        or_null(result.rate),
        join(servers, ",\n"),
    )
}

fn json_server(result: &CellResult, server: &ServerResult) -> String {
    let latencies = (0..QUANTILES.len()).map_while(|place| server.latency_us(place));
    format!(
        "  {{\"server\": {}, \"rounds\": {}, \"cost\": {}, \"ratio\": {}, \"uring_ratio\": {}, \
         \"per_second\": {}, \
         \"latency_us\": [{}], \"system_calls\": {}, \"failure\": {}}}",
        quoted(&server.name),
        server.samples.len(),
        spread(server.cost()),
        spread(result.ratio(server)),
        spread(result.subject_ratio(server)),
        spread(server.per_second()),
        join(latencies.map(|value| number(&value)), ", "),
        or_null(server.system_calls),
        server.failure.as_ref().map_or("null".to_owned(), |why| quoted(why)),
    )
}

const fn cost_kind(result: &CellResult) -> &'static str {
    if result.cell.is_memory() { "bytes" } else { "server_cpu_us" }
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or("null".to_owned(), |Spread { low, middle, high }| {
        format!("{{\"low\": {low}, \"median\": {middle}, \"high\": {high}}}")
    })
}

fn or_null(value: Option<f64>) -> String {
    value.map_or("null".to_owned(), |value| number(&value))
}

fn number(value: &f64) -> String {
    value.to_string()
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            _ if letter.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(letter)).expect("a string takes it");
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
