//! The result as one page that needs no network: figures, charts and what a reader must know.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

use super::charts::{self, Chart};
use super::results::{CellResult, Report, ServerResult, number_of};
use super::svg::escaped;
use super::text::{not_won, or_none, range, short, time_or_none};

/// The whole page.
pub(crate) fn html(report: &Report) -> String {
    let mut page = String::new();
    write_page(&mut page, report).expect("a string takes what is written");
    page
}

fn write_page(page: &mut String, report: &Report) -> fmt::Result {
    let title = "uring-netlib compared";
    writeln!(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(page, "<title>{title}</title>\n<style>\n{}{STYLE}</style>\n</head>", colours())?;
    writeln!(page, "<body>\n<header>\n<h1>{title}</h1>\n<p>{INTRODUCTION}</p>\n<dl>")?;
    for (name, value) in report.facts.rows() {
        writeln!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value))?;
    }
    writeln!(page, "</dl>\n</header>\n<main>")?;
    write_list(page, "Where io_uring is not the cheapest", NOT_WON, &not_won(report))?;
    write_list(page, "To know", "", &report.cautions())?;
    write_charts(page, report, "CPU by cell", RATIOS, charts::ratios(report))?;
    let connections = charts::against_connections(report);
    write_charts(page, report, "Cost against connections", CONNECTIONS, connections)?;
    write_charts(page, report, "Latency", LATENCIES, charts::latencies(report))?;
    write_charts(page, report, "Memory", MEMORY, charts::memory(report))?;
    write_servers(page, report)?;
    writeln!(page, "<section>\n<h2>All figures</h2>")?;
    report.cells.iter().try_for_each(|result| write_table(page, result))?;
    writeln!(page, "</section>\n</main>\n</body>\n</html>")
}

fn write_list(page: &mut String, title: &str, what: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section>\n<h2>{title}</h2>\n<p>{what}</p>\n<ul>")?;
    for line in lines {
        writeln!(page, "<li>{}</li>", escaped(line).replace('`', ""))?;
    }
    writeln!(page, "</ul>\n</section>")
}

fn write_charts(
    page: &mut String,
    report: &Report,
    title: &str,
    what: &str,
    charts: Vec<Chart>,
) -> fmt::Result {
    if charts.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section>\n<h2>{title}</h2>\n<p>{what}</p>\n<p class=\"legend\">")?;
    for (name, _) in &report.servers {
        writeln!(page, "<span><i class=\"s{}\"></i>{}</span>", number_of(name), escaped(name))?;
    }
    writeln!(page, "</p>\n<div class=\"charts\">")?;
    for Chart { title, image } in charts {
        writeln!(page, "<figure><figcaption>{}</figcaption>{image}</figure>", escaped(&title))?;
    }
    writeln!(page, "</div>\n</section>")
}

fn write_servers(page: &mut String, report: &Report) -> fmt::Result {
    writeln!(page, "<section>\n<h2>Servers</h2>\n<table>")?;
    for (name, sentence) in &report.servers {
        let (name, sentence) = (escaped(name), escaped(sentence));
        writeln!(page, "<tr><th>{name}</th><td class=\"words\">{sentence}</td></tr>")?;
    }
    writeln!(page, "</table>\n</section>")
}

fn write_table(page: &mut String, result: &CellResult) -> fmt::Result {
    let cost = if result.cell.is_memory() { "bytes" } else { "CPU µs" };
    write!(page, "<h3>{} <small>{}", escaped(&result.cell.title()), result.cell)?;
    if let Some(rate) = result.rate {
        write!(page, ", {} a second", short(rate))?;
    }
    let unit = result.cell.unit();
    writeln!(page, "</small></h3>\n<div class=\"wide\"><table>\n<tr><th>server</th>")?;
    let heads = [
        format!("{cost} a {unit}"),
        "of plain".to_owned(),
        "quartiles".to_owned(),
        "uring of it".to_owned(),
        "a second".to_owned(),
        "p50".to_owned(),
        "p99".to_owned(),
        "p99.9".to_owned(),
        format!("system calls a {unit}"),
    ];
    for head in heads {
        write!(page, "<th>{head}</th>")?;
    }
    writeln!(page, "</tr>")?;
    result.servers.iter().try_for_each(|server| write_row(page, result, server))?;
    writeln!(page, "</table></div>")
}

fn write_row(page: &mut String, result: &CellResult, server: &ServerResult) -> fmt::Result {
    write!(page, "<tr><th>{}</th>", escaped(&server.name))?;
    if let Some(failure) = &server.failure {
        return writeln!(
            page,
            "<td class=\"words\" colspan=\"9\">failed: {}</td></tr>",
            escaped(failure)
        );
    }
    let ratio = result.ratio(server);
    let values = [
        or_none(server.cost().map(|cost| cost.middle)),
        or_none(ratio.map(|ratio| ratio.middle)),
        ratio.map_or("–".to_owned(), |ratio| range(&ratio)),
        or_none(result.subject_ratio(server).map(|ratio| ratio.middle)),
        or_none(server.per_second().map(|rate| rate.middle)),
        time_or_none(server.latency_us_at(0.5)),
        time_or_none(server.latency_us_at(0.99)),
        time_or_none(server.latency_us_at(0.999)),
        or_none(server.system_calls),
    ];
    for value in values {
        write!(page, "<td>{value}</td>")?;
    }
    writeln!(page, "</tr>")
}

/// One colour for each server, in the light and in the dark, and one for a server unknown here.
fn colours() -> String {
    let names = |of: fn(&(&'static str, &'static str)) -> &'static str| -> String {
        COLOURS.iter().enumerate().map(|(at, pair)| format!("--s{at}:{};", of(pair))).collect()
    };
    let classes: String =
        (0..COLOURS.len()).map(|at| format!(".s{at}{{color:var(--s{at})}}\n")).collect();
    format!(
        ":root{{{}}}\n@media(prefers-color-scheme:dark){{:root{{{}}}}}\n{classes}",
        names(|(light, _)| light),
        names(|(_, dark)| dark),
    )
}

/// In the order of the servers.
const COLOURS: [(&str, &str); 12] = [
    ("#1f6fd6", "#5aa0f2"),
    ("#0f9b76", "#35c29a"),
    ("#6f6e69", "#a8a69d"),
    ("#5b3fb0", "#a48cf0"),
    ("#e2662b", "#f0864f"),
    ("#b98300", "#e0ae36"),
    ("#d23c3c", "#f07a7a"),
    ("#d1558f", "#ea86b4"),
    ("#3d8a1c", "#7cc455"),
    ("#8a5a2b", "#c6986a"),
    ("#717a00", "#b4bd3c"),
    ("#333333", "#dddddd"),
];

const INTRODUCTION: &str = "Echo servers of framed PDUs, each in a process of its own on one core, \
    the load on another. The figure to trust is the server's CPU time as a ratio to a plain epoll \
    server's in the same round: medians over the rounds, with their quartiles. Absolute figures \
    depend on the machine and on who else uses it.";
const NOT_WON: &str = "What io_uring costs as a ratio to each server that costs no more, with \
    quartiles. Where these lie on both sides of 1, nothing is shown either way.";
const RATIOS: &str = "The server's CPU time for one unit as a ratio to plain epoll's. Left of \
    the line is cheaper. The bar is from the lower to the upper quartile of the rounds.";
const CONNECTIONS: &str = "The server's CPU time for one PDU, in a closed loop: in µs, and as \
    a ratio to plain epoll's.";
const LATENCIES: &str = "Which part of the PDUs was answered within what time; further left and \
    steeper is better. At half load the time counts from when a PDU was due, so a stall shows in \
    every PDU that it held up. Dots mark the median and 99 %.";
const MEMORY: &str = "Resident memory of the server's process for one more idle connection, the \
    kernel's own not included.";

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fbfbf9;--card:#fff;--ink:#161614;--soft:#5d5c57;
--rule:#e4e3dd}
@media(prefers-color-scheme:dark){:root{--page:#141413;--card:#1d1d1b;--ink:#f0efe9;--soft:#a8a69d;
--rule:#33322f}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:1480px;background:var(--page);
color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
h1{font-size:1.7rem;margin:0 0 .5rem}
h2{font-size:1.2rem;margin:2.5rem 0 .25rem}
h3{font-size:1rem;margin:1.5rem 0 .25rem}
small{color:var(--soft);font-weight:400}
p{max-width:75ch;margin:.25rem 0 .75rem;color:var(--soft)}
li{max-width:100ch}
dl{display:flex;flex-wrap:wrap;gap:.5rem 2rem;margin:1rem 0}
dt{color:var(--soft);font-size:.8rem}
dd{margin:0}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;max-width:none;color:var(--ink)}
.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.4rem;border-radius:3px;
background:currentColor;vertical-align:-.08rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:1rem}
figure{margin:0;padding:.8rem 1rem;background:var(--card);border:1px solid var(--rule);
border-radius:8px}
figcaption{font-weight:600;margin-bottom:.25rem}
svg{display:block;width:100%;height:auto;font-size:12px}
svg text{fill:var(--ink)}
svg .tick{fill:var(--soft);font-size:11px}
svg .value{font-variant-numeric:tabular-nums;font-size:11px}
.grid{stroke:var(--rule);stroke-width:1}
.base{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:4 3}
.stem{stroke:currentColor;stroke-width:2}
.spread{stroke:currentColor;stroke-width:7;stroke-opacity:.35;stroke-linecap:round}
.curve{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.curve.dashed{stroke-dasharray:6 4}
rect,circle{fill:currentColor}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid var(--rule);
white-space:nowrap}
th:first-child,td.words{text-align:left}
td.words{white-space:normal}
";
