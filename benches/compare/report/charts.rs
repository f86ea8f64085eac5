//! The charts of a report, each an SVG element of the page.

#![forbid(unsafe_code)]

use super::results::{CellResult, Report, ServerResult, names, number_of};
use super::svg::{Scale, Svg};
use super::text::{micros, range, short_unit};
use crate::cell::Cell;
use crate::command::BASE;
use crate::support::generator::QUANTILES;

/// A chart and what stands above it.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) image: String,
}

/// For each cell what the servers cost as a ratio to the plain one, all on the same scale.
pub(crate) fn ratios(report: &Report) -> Vec<Chart> {
    let ratios = report.cells.iter().flat_map(|cell| {
        cell.servers.iter().filter_map(|server| cell.ratio(server).map(|ratio| ratio.middle))
    });
    let (least, most) = ratios
        .fold((0.7, 1.3), |(least, most): (f64, f64), ratio| (least.min(ratio), most.max(ratio)));
    let ends = ((least * 10.0).floor() / 10.0 - 0.1, (most * 10.0).ceil() / 10.0);
    let ends = (ends.0.max(0.0), ends.1.min(RATIO_SHOWN_MAX));
    report.cells.iter().filter_map(|cell| ratios_of(cell, ends)).collect()
}

/// For each cell which part of the PDUs was answered within what time.
pub(crate) fn latencies(report: &Report) -> Vec<Chart> {
    report.cells.iter().filter_map(latencies_of).collect()
}

/// Memory of an idle connection.
pub(crate) fn memory(report: &Report) -> Vec<Chart> {
    let cells = report.cells.iter().filter(|result| result.cell.is_memory());
    cells.filter_map(memory_of).collect()
}

/// What a PDU costs with few and with many connections, in µs and as a ratio to the plain server,
/// for each length and depth that was measured with several numbers of them.
pub(crate) fn against_connections(report: &Report) -> Vec<Chart> {
    let mut kinds: Vec<(usize, usize)> = Vec::new();
    for result in &report.cells {
        if let Cell::Closed { payload_len, depth, .. } = result.cell
            && !kinds.contains(&(payload_len, depth))
        {
            kinds.push((payload_len, depth));
        }
    }
    let charts = kinds.iter().flat_map(|kind| {
        let cost = against_connections_of(report, *kind, &Measure::cost());
        [cost, against_connections_of(report, *kind, &Measure::ratio())]
    });
    charts.flatten().collect()
}

/// What is drawn of a server in a cell.
struct Measure {
    name: &'static str,
    unit: &'static str,
    value: fn(&CellResult, &ServerResult) -> Option<f64>,
    /// From the least and the greatest value to where they lie.
    scale: fn(f64, f64) -> Scale,
}

impl Measure {
    fn cost() -> Self {
        let value = |_: &CellResult, server: &ServerResult| Some(server.cost()?.middle);
        let scale = |least, most| Scale::log((least * 0.8, most * 1.1), (HEIGHT - BOTTOM, TOP));
        Self { name: "cost", unit: "µs", value, scale }
    }

    fn ratio() -> Self {
        let value = |result: &CellResult, server: &ServerResult| match result.ratio(server) {
            Some(ratio) => Some(ratio.middle),
            None => (server.name == BASE && server.cost().is_some()).then_some(1.0),
        };
        let scale = |least: f64, most: f64| {
            let ends = (least.min(0.9) - 0.05, most.max(1.1) + 0.05);
            Scale::linear(ends, (HEIGHT - BOTTOM, TOP))
        };
        Self { name: "ratio", unit: "of plain", value, scale }
    }
}

fn ratios_of(result: &CellResult, ends: (f64, f64)) -> Option<Chart> {
    let rows: Vec<_> =
        result.servers.iter().filter_map(|server| Some((server, result.ratio(server)?))).collect();
    if rows.is_empty() {
        return None;
    }
    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 32.0);
    let scale = Scale::linear(ends, (NAMES, WIDTH - VALUES));
    for tick in scale.ticks() {
        let x = scale.at(tick);
        svg.line("grid", (x, TOP), (x, bottom));
        svg.text("tick", (x, bottom + 13.0), "middle", &format!("{tick:.1}"));
    }
    let base = scale.at(1.0);
    svg.line("base", (base, TOP), (base, bottom));
    svg.text("tick", (base, bottom + 27.0), "middle", "1 = plain epoll, less is cheaper");
    for (at, (server, ratio)) in rows.iter().enumerate() {
        let y = TOP + ROW * (at as f64 + 0.5);
        let class = class_of(&server.name);
        let told = format!("{:.2} ({})", ratio.middle, range(ratio));
        let title = format!("{}: {told} of plain", server.name);
        svg.text("name", (NAMES - 8.0, y + 4.0), "end", &server.name);
        svg.line(&format!("{class} stem"), (base, y), (scale.at(ratio.middle), y));
        svg.line(&format!("{class} spread"), (scale.at(ratio.low), y), (scale.at(ratio.high), y));
        let beyond = if ratio.middle > ends.1 { " ›" } else { "" };
        svg.dot(&class, (scale.at(ratio.middle), y), 5.0, &title);
        svg.text("value", (WIDTH, y + 4.0), "end", &format!("{beyond}{told}"));
    }
    let title = result.cell.title();
    Some(Chart { image: svg.finish(&format!("{title}: cost as a ratio to plain epoll")), title })
}

fn latencies_of(result: &CellResult) -> Option<Chart> {
    let curve = |server: &ServerResult| -> Vec<(f64, f64)> {
        let places = QUANTILES.iter().enumerate();
        places.filter_map(|(at, part)| Some((server.latency_us(at)?, *part))).collect()
    };
    let curves: Vec<_> = result
        .servers
        .iter()
        .map(|server| (server, curve(server)))
        .filter(|(_, curve)| !curve.is_empty())
        .collect();
    let values = || curves.iter().flat_map(|(_, curve)| curve.iter().map(|(us, _)| us.max(1.0)));
    let (least, most) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let x = Scale::log((least * 0.9, most * 1.1), (LEFT, WIDTH - RIGHT));
    let y = Scale::nines((0.0, 0.9999), (HEIGHT - BOTTOM, TOP));
    let mut svg = Svg::new(WIDTH, HEIGHT);
    axes(&mut svg, &x, &y, micros, |part| format!("{}%", part * 100.0));
    svg.text("tick", (WIDTH - RIGHT, HEIGHT - 4.0), "end", "latency, answered within");
    for (server, curve) in &curves {
        let class = class_of(&server.name);
        let points: Vec<_> = curve.iter().map(|(us, part)| (x.at(*us), y.at(*part))).collect();
        svg.path(&format!("{class} curve"), &points, &server.name);
        for part in [0.5, 0.99] {
            let Some(us) = server.latency_us_at(part) else { continue };
            let title = format!("{}: {}% within {}", server.name, part * 100.0, micros(us));
            svg.dot(&class, (x.at(us), y.at(part)), 3.5, &title);
        }
    }
    let title = result.cell.title();
    Some(Chart { image: svg.finish(&format!("{title}: distribution of latencies")), title })
}

fn memory_of(result: &CellResult) -> Option<Chart> {
    let rows: Vec<_> =
        result.servers.iter().filter_map(|server| Some((server, server.cost()?.middle))).collect();
    let most = rows.iter().map(|(_, bytes)| *bytes).reduce(f64::max)?;
    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 32.0);
    let scale = Scale::linear((0.0, most.max(1.0)), (NAMES, WIDTH - VALUES / 2.0));
    for tick in scale.ticks() {
        let x = scale.at(tick);
        svg.line("grid", (x, TOP), (x, bottom));
        svg.text("tick", (x, bottom + 13.0), "middle", &short_unit(tick));
    }
    svg.text("tick", (NAMES, bottom + 27.0), "start", "bytes of user memory a connection");
    for (at, (server, bytes)) in rows.iter().enumerate() {
        let y = TOP + ROW * at as f64;
        let title = format!("{}: {bytes:.0} bytes a connection", server.name);
        svg.text("name", (NAMES - 8.0, y + 15.0), "end", &server.name);
        let width = scale.at(*bytes) - NAMES;
        svg.bar(&class_of(&server.name), (NAMES, y + 4.0), (width.max(1.0), ROW - 8.0), &title);
        svg.text("value", (NAMES + width + 6.0, y + 15.0), "start", &format!("{bytes:.0} B"));
    }
    let title = result.cell.title();
    Some(Chart { image: svg.finish(&format!("{title}: memory of a connection")), title })
}

fn against_connections_of(
    report: &Report,
    kind: (usize, usize),
    measure: &Measure,
) -> Option<Chart> {
    let is_of_kind = |result: &&CellResult| match result.cell {
        Cell::Closed { payload_len, depth, .. } => (payload_len, depth) == kind,
        _ => false,
    };
    let mut cells: Vec<_> = report.cells.iter().filter(is_of_kind).collect();
    cells.sort_by_key(|result| result.cell.connections());
    let (first, last) = (cells.first()?.cell.connections(), cells.last()?.cell.connections());
    if first == last {
        return None;
    }
    let curves: Vec<_> = names(report)
        .into_iter()
        .map(|name| {
            let points = cells.iter().filter_map(|result| {
                let value = (measure.value)(result, result.of(name)?)?;
                Some((result.cell.connections() as f64, value))
            });
            (name, points.collect::<Vec<(f64, f64)>>())
        })
        .collect();
    let values = || curves.iter().flat_map(|(_, points)| points.iter().map(|(_, value)| *value));
    let (least, most) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let x = Scale::log((first as f64, last as f64), (LEFT, WIDTH - RIGHT));
    let y = (measure.scale)(least, most);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    axes(&mut svg, &x, &y, tick_text, tick_text);
    svg.text("tick", (WIDTH - RIGHT, HEIGHT - 4.0), "end", "connections");
    svg.text("tick", (0.0, TOP - 5.0), "start", measure.unit);
    for (name, points) in curves {
        let class = class_of(name);
        let places: Vec<_> =
            points.iter().map(|(count, cost)| (x.at(*count), y.at(*cost))).collect();
        svg.path(&format!("{class} curve"), &places, name);
        for ((count, value), place) in points.iter().zip(places) {
            let title = format!("{name}: {value:.2} {} with {count} connections", measure.unit);
            svg.dot(&class, place, 3.5, &title);
        }
    }
    let (payload_len, depth) = kind;
    let title = Cell::Closed { connections: 1, payload_len, depth }.title();
    let title = format!("{}, {}", title.trim_start_matches("1 connection, "), measure.name);
    Some(Chart { image: svg.finish(&format!("{title} against connections")), title })
}

/// Without digits that only say how the value was computed.
fn tick_text(value: f64) -> String {
    ((value * 1000.0).round() / 1000.0).to_string()
}

fn axes(
    svg: &mut Svg,
    x: &Scale,
    y: &Scale,
    x_text: impl Fn(f64) -> String,
    y_text: impl Fn(f64) -> String,
) {
    for tick in y.ticks() {
        let at = y.at(tick);
        svg.line("grid", (LEFT, at), (WIDTH - RIGHT, at));
        svg.text("tick", (LEFT - 6.0, at + 4.0), "end", &y_text(tick));
    }
    for tick in x.ticks() {
        let at = x.at(tick);
        svg.line("grid", (at, TOP), (at, HEIGHT - BOTTOM));
        svg.text("tick", (at, HEIGHT - BOTTOM + 14.0), "middle", &x_text(tick));
    }
}

/// The colour of a server, the same in every chart.
pub(crate) fn class_of(server: &str) -> String {
    let dashed = if server == BASE { " dashed" } else { "" };
    format!("s{}{dashed}", number_of(server))
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 34.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 24.0;
const ROW: f64 = 22.0;
/// Room for names before the rows, and for figures behind them.
const NAMES: f64 = 96.0;
const VALUES: f64 = 124.0;
/// Ratios beyond are drawn at the edge, with their figure beside them.
const RATIO_SHOWN_MAX: f64 = 2.0;
