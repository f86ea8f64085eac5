//! Echo servers side by side: this library on io_uring and on epoll, a plain epoll loop as the
//! yardstick, a hand-tuned ring as the floor, and the frameworks one would take otherwise.
//!
//! `cargo bench --bench compare` takes about five minutes; `-- --quick` half a minute, and
//! `-- --help` tells the rest. BENCHMARKS.md says how to read what it prints. The figure to trust
//! is the server's CPU time per PDU as a ratio to the yardstick's in the same round.
//!
//! Each server runs in a process of its own on one core, and so does its load on another. The
//! servers of a cell are started together and stay connected; in every round each has one turn,
//! alone. Start with `run.rs` for the measuring, `load.rs` for what a server has to bear,
//! `report/mod.rs` for what is made of it, and `cell.rs` for what can be asked for.

mod cell;
mod command;
mod load;
mod machine;
mod peers;
mod progress;
mod report;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod target;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cell::Cell;
use command::{OWN_SERVERS, Plan, SERVERS, Task, USAGE};
use peers::Peers;
use progress::Progress;
use report::Report;
use run::Bench;
use support::process::{Server, become_server};
use support::system_calls::SystemCalls;
use support::{fanout, sys};
use target::Cores;

fn main() -> ExitCode {
    let outcome = match Task::parse(std::env::args().skip(1)) {
        Ok(Task::Nothing) => {
            println!("compare: nothing to test; `cargo bench --bench compare` measures");
            Ok(())
        }
        Ok(Task::Help) => {
            println!("{USAGE}");
            Ok(())
        }
        Ok(Task::List) => list(),
        Ok(Task::Serve { server, core }) => serve(&server, core),
        Ok(Task::Load(order)) => load::run(&order),
        Ok(Task::Measure(plan)) => measure(&plan),
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "servers")?;
    for (name, sentence) in SERVERS {
        writeln!(output, "  {name:12} {sentence}")?;
    }
    writeln!(output, "cells; q: in --quick, u: in the usual run, others in --full only")?;
    let (quick, usual) = (Cell::quick(), Cell::usual());
    let mut cells = Cell::all();
    let further: Vec<Cell> = usual.iter().filter(|cell| !cells.contains(cell)).copied().collect();
    cells.extend(further);
    for cell in cells {
        let quick = if quick.contains(&cell) { 'q' } else { ' ' };
        let usual = if usual.contains(&cell) { 'u' } else { ' ' };
        writeln!(output, "{quick}{usual} {cell:20} {}", cell.title())?;
    }
    Ok(())
}

fn serve(name: &str, core: usize) -> io::Result<()> {
    let unknown = || io::Error::other(format!("there is no server `{name}`"));
    let Some(name) = name.strip_prefix("fanout-") else {
        return Server::from_name(name).ok_or_else(unknown)?.serve(core);
    };
    become_server(core)?;
    match Server::from_name(name).ok_or_else(unknown)? {
        Server::Plain => fanout::serve_plain(),
        own => fanout::serve_ours(own.name(), false),
    }
}

fn measure(plan: &Plan) -> io::Result<()> {
    let mut report = Report::default();
    let allowed = sys::allowed_cores()?;
    let cores = Cores { server: allowed[0], load: *allowed.get(1).unwrap_or(&allowed[0]) };
    if cores.load == cores.server {
        let note = "one core only: the load takes its share of what the servers get";
        report.notes.push(note.to_owned());
    }
    // What little this process does is not to be done on the server's core.
    sys::pin_to(cores.load)?;
    let counts_system_calls = match SystemCalls::of_process(std::process::id()) {
        Ok(_) => true,
        Err(error) => {
            report.notes.push(format!("system calls SKIPPED: {error}"));
            false
        }
    };
    let servers = programs(plan, &mut report)?;
    if plan.cells.contains(&Cell::Fanout) {
        let note = "fan-out: the peers echo only, so the plain loop of sends stands for them";
        report.notes.push(note.to_owned());
    }
    let (rounds, window) = (plan.rounds, plan.window);
    let bench = Bench { servers, cores, rounds, window, counts_system_calls };
    let seconds = plan.cells.iter().map(|cell| bench.estimate(*cell)).collect();
    let mut progress = Progress::new(seconds);
    for &cell in &plan.cells {
        progress.begin(&cell.to_string());
        report.cells.push(bench.measure(cell, &progress));
        // One who ends a long run early keeps what was measured.
        report.facts = machine::facts(progress.elapsed(), allowed.len());
        write_files(&report)?;
    }
    progress.end();
    print!("{}", report::text::terminal(&report));
    println!("\ncharts: target/report/index.html");
    if let Some(path) = &plan.markdown {
        let document = std::fs::read_to_string(path).unwrap_or_default();
        let text = report::text::placed(&document, &report::text::markdown(&report));
        std::fs::write(path, text)?;
    }
    Ok(())
}
/// Where each server that was asked for comes from. What cannot be had is left out with a note.
fn programs(plan: &Plan, report: &mut Report) -> io::Result<Vec<(String, PathBuf)>> {
    let this = std::env::current_exe()?;
    let is_own = |name: &&str| OWN_SERVERS.contains(name);
    let mut peers = None;
    if !plan.servers.iter().all(is_own) {
        let found = plan.peers.clone().map_or_else(Peers::build, Peers::of);
        match found {
            Ok(found) => peers = Some(found),
            Err(error) => {
                eprintln!("the peers are left out: {error}");
                report.notes.push(format!("the peers are left out: {error}"));
            }
        }
    }
    let mut programs = Vec::new();
    for name in &plan.servers {
        let known = SERVERS.iter().find(|(known, _)| known == name);
        let mut sentence = known.map_or(String::new(), |(_, sentence)| (*sentence).to_owned());
        let program = if is_own(name) {
            Some(&this)
        } else if let Some(peers) = &peers {
            let found = peers.servers.iter().find(|(known, _)| known == name);
            if let Some((_, told)) = found.filter(|(_, told)| !told.is_empty()) {
                sentence.clone_from(told);
            } else if found.is_none() {
                report.notes.push(format!("{name} is left out: the peers do not have it"));
            }
            found.map(|_| &peers.program)
        } else {
            None
        };
        if let Some(program) = program {
            programs.push(((*name).to_owned(), program.clone()));
            report.servers.push(((*name).to_owned(), sentence));
        }
    }
    Ok(programs)
}

fn write_files(report: &Report) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("compare.csv"), report::files::csv(report))?;
    std::fs::write(folder.join("compare.json"), report::files::json(report))?;
    std::fs::write(folder.join("index.html"), report::page::html(report))
}
