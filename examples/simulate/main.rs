//! Replays seeds of a simulated workload: a server and its clients, on a network that fails in
//! every way that a seed decides, with oracles that are asked after every step.
//!
//! `cargo run --release --features sim --example simulate -- --seed 7 --trace` tells one seed as a
//! timeline; `-- --seeds 0..100000` runs a range, and stops at the first breach.

mod oracle;
mod programs;
mod workload;

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use lexopt::prelude::*;
use workload::{Breach, Outcome, World};

struct Settings {
    seeds: Range<u64>,
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
    if settings.seeds.end - settings.seeds.start == 1 { one(&settings) } else { many(&settings) }
}

/// Runs one seed, told as a timeline if that is wanted.
fn one(settings: &Settings) -> ExitCode {
    let seed = settings.seeds.start;
    let world = World::new(seed);
    let sim = world.sim.clone();
    sim.keep_timeline(settings.trace);
    let result = workload::run_world(world);
    for line in sim.take_timeline() {
        println!("{line}");
    }
    match result {
        Ok(Outcome { hash, steps, pdus, closes, connections, incidents, elapsed }) => {
            println!(
                "seed {seed}: no breach; {connections} connections, {pdus} PDUs, {closes} ends, \
                 {incidents} incidents, {steps} steps in {elapsed:?} of its time; hash {hash:016x}"
            );
            ExitCode::SUCCESS
        }
        Err(breach) => tell(seed, &breach),
    }
}

/// Runs a range of seeds until the first breach.
fn many(settings: &Settings) -> ExitCode {
    let (start, mut told) = (Instant::now(), Instant::now());
    let (mut pdus, mut steps, mut virtual_seconds) = (0, 0, 0);
    let report = |done: u64, pdus: u64, steps: u64, virtual_seconds: u64| {
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{done} seeds, {pdus} PDUs, {steps} steps, {virtual_seconds} s of their time in \
             {seconds:.1} s: {:.0} seeds/s",
            done as f64 / seconds
        );
    };
    for seed in settings.seeds.clone() {
        match workload::run(seed) {
            Ok(outcome) => {
                pdus += outcome.pdus;
                steps += outcome.steps;
                virtual_seconds += outcome.elapsed.as_secs();
            }
            Err(breach) => return tell(seed, &breach),
        }
        if told.elapsed().as_secs() >= PROGRESS_SECONDS {
            told = Instant::now();
            report(seed + 1 - settings.seeds.start, pdus, steps, virtual_seconds);
        }
    }
    report(settings.seeds.end - settings.seeds.start, pdus, steps, virtual_seconds);
    println!("no breach");
    ExitCode::SUCCESS
}

fn tell(seed: u64, breach: &Breach) -> ExitCode {
    println!("seed {seed}: BREACH after {:?}: {}", breach.at, breach.text);
    println!(
        "replay: cargo run --release --features sim --example simulate -- --seed {seed} --trace"
    );
    ExitCode::FAILURE
}

fn settings() -> Result<Settings, lexopt::Error> {
    let mut settings = Settings { seeds: 0..1000, trace: false };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("seed") => {
                let seed: u64 = arguments.value()?.parse()?;
                settings.seeds = seed..seed + 1;
            }
            Long("seeds") => settings.seeds = arguments.value()?.parse_with(range)?,
            Long("trace") => settings.trace = true,
            Long("help") => return Err("this is what it takes:".into()),
            _ => return Err(argument.unexpected()),
        }
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

const USAGE: &str = "usage: simulate [--seed N [--trace]] [--seeds A..B]";

/// How often a range tells how far it is.
const PROGRESS_SECONDS: u64 = 5;
