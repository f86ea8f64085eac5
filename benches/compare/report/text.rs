//! The result as text: for the terminal, and as Markdown for BENCHMARKS.md.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

use super::results::{CellResult, Report, ServerResult, names};
use super::statistics::Spread;
use crate::command::SUBJECT;

/// For a terminal of 100 columns.
pub(crate) fn terminal(report: &Report) -> String {
    let mut text = String::new();
    write_terminal(&mut text, report).expect("a string takes what is written");
    text
}

/// A table of ratios, one of costs, and what a reader must know.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    write_markdown(&mut text, report).expect("a string takes what is written");
    text
}

/// A document with the text between its markers in place of what was there, or the text alone where
/// there is no document, or none with markers.
pub(crate) fn placed(document: &str, text: &str) -> String {
    let parts = document
        .split_once(BEGIN)
        .and_then(|(before, rest)| rest.split_once(END).map(|(_, after)| (before, after)));
    match parts {
        Some((before, after)) => format!("{before}{BEGIN}\n{text}{END}{after}"),
        None => text.to_owned(),
    }
}

/// A line for each cell in which this library on io_uring is not the cheapest.
pub(crate) fn not_won(report: &Report) -> Vec<String> {
    let line = |result: &CellResult| {
        let others = result.not_beaten();
        let others: Vec<String> = others
            .iter()
            .map(|(name, ratio)| {
                let doubt = if ratio.low < 1.0 { ", within the spread" } else { "" };
                format!("{:.2} of {name} ({}{doubt})", ratio.middle, range(ratio))
            })
            .collect();
        let title = result.cell.title();
        (!others.is_empty()).then(|| format!("{title} (`{}`): {}", result.cell, others.join("; ")))
    };
    report.cells.iter().filter_map(line).collect()
}

/// Enough digits to compare, and no more.
pub(crate) fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.2} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.1} k", value / 1e3),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A time in the unit that suits it.
pub(crate) fn micros(us: f64) -> String {
    match us {
        _ if us >= 1e6 => format!("{} s", short_unit(us / 1e6)),
        _ if us >= 1e3 => format!("{} ms", short_unit(us / 1e3)),
        _ => format!("{} µs", short_unit(us)),
    }
}

/// Whole where it is whole, as ticks are.
pub(crate) fn short_unit(value: f64) -> String {
    if (value - value.round()).abs() < 1e-6 { format!("{value:.0}") } else { short(value) }
}

pub(crate) fn or_none(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), short)
}

pub(crate) fn time_or_none(us: Option<f64>) -> String {
    us.map_or("–".to_owned(), micros)
}

pub(crate) fn range(spread: &Spread) -> String {
    format!("{:.2}–{:.2}", spread.low, spread.high)
}

fn write_terminal(text: &mut String, report: &Report) -> fmt::Result {
    for (name, value) in report.facts.rows() {
        writeln!(text, "{name:10} {value}")?;
    }
    for result in &report.cells {
        write!(text, "\n{} ({})", result.cell.title(), result.cell)?;
        if let Some(rate) = result.rate {
            write!(text, ", {}/s", short(rate))?;
        }
        let cost = if result.cell.is_memory() { "bytes" } else { "CPU µs" };
        writeln!(
            text,
            "\n  {:12}{:>10}{:>8}  {:13}{:>9}{:>12}{:>10}{:>10}{:>9}",
            "", cost, "ratio", "(quartiles)", "uring/it", "per second", "p50", "p99", "calls"
        )?;
        for server in &result.servers {
            write_terminal_row(text, result, server)?;
        }
    }
    write_list(text, "\nWhere uring is not the cheapest, what it costs", &not_won(report))?;
    write_list(text, "\nTo know", &report.cautions())
}

fn write_terminal_row(text: &mut String, cell: &CellResult, server: &ServerResult) -> fmt::Result {
    if let Some(failure) = &server.failure {
        return writeln!(text, "  {:12}failed: {failure}", server.name);
    }
    let ratio = cell.ratio(server);
    writeln!(
        text,
        "  {:12}{:>10}{:>8}  {:13}{:>9}{:>12}{:>10}{:>10}{:>9}",
        server.name,
        or_none(server.cost().map(|cost| cost.middle)),
        ratio.map_or(String::new(), |ratio| format!("{:.2}", ratio.middle)),
        ratio.map_or(String::new(), |ratio| format!("({})", range(&ratio))),
        cell.subject_ratio(server).map_or(String::new(), |ratio| format!("{:.2}", ratio.middle)),
        or_none(server.per_second().map(|rate| rate.middle)),
        time_or_none(server.latency_us_at(0.5)),
        time_or_none(server.latency_us_at(0.99)),
        or_none(server.system_calls),
    )
}

fn write_list(text: &mut String, title: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text, "{title}:\n")?;
    lines.iter().try_for_each(|line| writeln!(text, "- {line}"))
}

fn write_markdown(text: &mut String, report: &Report) -> fmt::Result {
    for (name, value) in report.facts.rows() {
        writeln!(text, "- {name}: {value}")?;
    }
    let names = names(report);
    writeln!(text, "\nCost as a ratio to `plain` of the same round, with quartiles:\n")?;
    write_head(text, &names)?;
    let cells = report.cells.iter().filter(|result| !result.cell.is_memory());
    for result in cells {
        let row = names.iter().map(|name| {
            let Some(server) = result.of(name) else { return String::new() };
            match (result.ratio(server), &server.failure) {
                (_, Some(_)) => "failed".to_owned(),
                (Some(ratio), _) if *name == SUBJECT => {
                    format!("**{:.2}** ({})", ratio.middle, range(&ratio))
                }
                (Some(ratio), _) => format!("{:.2} ({})", ratio.middle, range(&ratio)),
                (None, _) => server.cost().map_or(String::new(), |_| "1".to_owned()),
            }
        });
        write_row(text, result, row)?;
    }
    writeln!(text, "\nCPU µs (bytes where idle) of one unit / p50 / p99 / system calls:\n")?;
    write_head(text, &names)?;
    for result in &report.cells {
        let row = names.iter().map(|name| result.of(name).map_or(String::new(), absolute));
        write_row(text, result, row)?;
    }
    write_list(text, "\nWhere uring is not the cheapest, what it costs", &not_won(report))?;
    write_list(text, "\nTo know", &report.cautions())
}

fn absolute(server: &ServerResult) -> String {
    let texts = [
        or_none(server.cost().map(|cost| cost.middle)),
        time_or_none(server.latency_us_at(0.5)),
        time_or_none(server.latency_us_at(0.99)),
        or_none(server.system_calls),
    ];
    match texts.iter().rposition(|text| text != "–") {
        Some(last) => texts[..=last].join(" / "),
        None => String::new(),
    }
}

fn write_head(text: &mut String, names: &[&str]) -> fmt::Result {
    writeln!(text, "| cell | {} |", names.join(" | "))?;
    writeln!(text, "| --- |{}", " --- |".repeat(names.len()))
}

fn write_row(
    text: &mut String,
    result: &CellResult,
    values: impl Iterator<Item = String>,
) -> fmt::Result {
    let values: Vec<String> = values.collect();
    writeln!(text, "| {} | {} |", result.cell.title(), values.join(" | "))
}

/// Between these a document has the figures.
const BEGIN: &str = "<!-- figures of cargo bench --bench compare -->";
const END: &str = "<!-- end of figures -->";
