//! Replays seeds of a simulated workload: a server and its clients, on a network that fails in
//! every way that a seed decides, with oracles that are asked after every step.
//!
//! `cargo run --release --features sim --example simulate -- --seed 7 --trace` tells one seed as a
//! timeline; `-- --seeds 0..100000` runs a range, and stops at the first breach; `-- --decisions
//! FILE` replays an input of the fuzz target `schedule`.

mod oracle;
mod programs;
mod workload;

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use lexopt::prelude::*;
use uring_netlib::sim::SimCounts;
use workload::{Breach, Outcome, World};

struct Settings {
    seeds: Range<u64>,
    /// What decides instead of a seed.
    decisions: Option<PathBuf>,
    trace: bool,
}

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("simulate: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let seed = settings.seeds.start;
    match &settings.decisions {
        Some(path) => match fs::read(path) {
            Ok(bytes) => {
                let name = path.display().to_string();
                one(World::from_decisions(&bytes), &name, settings.trace)
            }
            Err(error) => {
                eprintln!("simulate: {}: {error}", path.display());
                ExitCode::from(2)
            }
        },
        None if settings.seeds.end - seed == 1 => {
            one(World::new(seed), &format!("seed {seed}"), settings.trace)
        }
        None => many(&settings.seeds),
    }
}

/// Runs one world, told as a timeline if that is wanted.
fn one(world: World, name: &str, is_told: bool) -> ExitCode {
    let sim = world.sim.clone();
    sim.keep_timeline(is_told);
    let result = workload::run_world(world);
    for line in sim.take_timeline() {
        println!("{line}");
    }
    match result {
        Ok(Outcome { hash, steps, pdus, closes, connections, faults, elapsed }) => {
            println!(
                "{name}: no breach; {connections} connections, {pdus} PDUs, {closes} ends, \
                 {steps} steps in {elapsed:?} of its time; hash {hash:016x}"
            );
            println!("{} faults: {faults}", faults.total());
            ExitCode::SUCCESS
        }
        Err(breach) => tell(name, &breach),
    }
}

/// Runs a range of seeds until the first breach; now and then one of them twice, as a seed has to
/// do the same again.
fn many(seeds: &Range<u64>) -> ExitCode {
    let (start, mut told) = (Instant::now(), Instant::now());
    let (mut pdus, mut steps, mut virtual_seconds) = (0, 0, 0);
    let mut faults = SimCounts::default();
    let report = |done: u64, pdus: u64, steps: u64, virtual_seconds: u64| {
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{done} seeds, {pdus} PDUs, {steps} steps, {virtual_seconds} s of their time in \
             {seconds:.1} s: {:.0} seeds/s",
            done as f64 / seconds
        );
    };
    for seed in seeds.clone() {
        let name = format!("seed {seed}");
        match workload::run(seed) {
            Ok(outcome) => {
                if seed % AGAIN_EVERY == 0 && workload::run(seed).ok().as_ref() != Some(&outcome) {
                    println!("{name}: BREACH: it does something else the second time");
                    return ExitCode::FAILURE;
                }
                faults += outcome.faults;
                pdus += outcome.pdus;
                steps += outcome.steps;
                virtual_seconds += outcome.elapsed.as_secs();
            }
            Err(breach) => return tell(&name, &breach),
        }
        if told.elapsed().as_secs() >= PROGRESS_SECONDS {
            told = Instant::now();
            report(seed + 1 - seeds.start, pdus, steps, virtual_seconds);
        }
    }
    let done = seeds.end - seeds.start;
    report(done, pdus, steps, virtual_seconds);
    let mean = |count: u64| count as f64 / done as f64;
    println!("{:.1} faults a seed:", mean(faults.total()));
    for (name, count) in faults.each() {
        println!("{:>8.2} {name}", mean(count));
    }
    println!("no breach");
    ExitCode::SUCCESS
}

fn tell(name: &str, breach: &Breach) -> ExitCode {
    println!("{name}: BREACH after {:?}: {}", breach.at, breach.text);
    println!("replay it with --trace, and --seed or --decisions");
    ExitCode::FAILURE
}

fn settings() -> Result<Settings, lexopt::Error> {
    let mut settings = Settings { seeds: 0..1000, decisions: None, trace: false };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seed") => {
                let seed: u64 = arguments.value()?.parse()?;
                settings.seeds = seed..seed.checked_add(1).ok_or("a seed is below 2^64 - 1")?;
            }
            Long("seeds") => settings.seeds = arguments.value()?.parse_with(range)?,
            Long("decisions") => settings.decisions = Some(arguments.value()?.into()),
            Long("trace") => settings.trace = true,
            Long("help") => return Err("this is what it takes:".into()),
            _ => return Err(argument.unexpected()),
        }
    }
    let is_one = settings.decisions.is_some() || settings.seeds.end - settings.seeds.start == 1;
    if settings.trace && !is_one {
        return Err("--trace is for one seed".into());
    }
    Ok(settings)
}

/// A range as `A..B`.
fn range(text: &str) -> Result<Range<u64>, String> {
    let (start, end) = text.split_once("..").ok_or("a range is written A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let range = number(start)?..number(end)?;
    if range.is_empty() { Err("the range is empty".to_owned()) } else { Ok(range) }
}

const USAGE: &str =
    "usage: simulate [--seeds A..B] [--seed N [--trace]] [--decisions FILE [--trace]]";

/// Every how many-th seed runs twice.
const AGAIN_EVERY: u64 = 100;

/// How often a range tells how far it is.
const PROGRESS_SECONDS: u64 = 5;
