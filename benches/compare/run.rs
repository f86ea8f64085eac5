//! The measuring: the rounds of every cell, in which each server has one turn.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::command::{BASE, OWN_SERVERS};
use crate::load::Turn;
use crate::progress::Progress;
use crate::report::statistics::Spread;
use crate::report::{CellResult, ServerResult};
use crate::target::{Cores, Target};

/// How everything is measured.
pub(crate) struct Bench {
    /// Name and program of each server.
    pub(crate) servers: Vec<(String, PathBuf)>,
    pub(crate) cores: Cores,
    pub(crate) rounds: usize,
    pub(crate) window: Duration,
    pub(crate) counts_system_calls: bool,
}

/// A server in a cell: what it gave so far, and its processes for as long as all goes well.
struct Entrant {
    result: ServerResult,
    target: Option<Target>,
}

impl Bench {
    /// How long a cell takes, roughly, in seconds.
    pub(crate) fn estimate(&self, cell: Cell) -> f64 {
        let (servers, connections) = (self.servers_of(cell).count() as f64, cell.connections());
        let start = 0.05 + connections as f64 * 100e-6;
        let len = cell.sizes().longest() as f64;
        let filling = (connections * cell.depth()) as f64 * (5e-6 + len * 0.5e-9);
        let turn = self.window.as_secs_f64() * 1.25 + filling * 2.0;
        servers * (start + turn * self.turns(cell) as f64)
    }

    /// A server that fails is told of in the result and takes no further part.
    pub(crate) fn measure(&self, cell: Cell, progress: &Progress) -> CellResult {
        let mut entrants: Vec<Entrant> = self
            .servers_of(cell)
            .map(|(name, program)| {
                progress.step(&format!("{name} starts and is verified"));
                let result = ServerResult { name: name.clone(), ..ServerResult::default() };
                let mut entrant = Entrant { result, target: None };
                match Target::start(program, name, cell, self.cores) {
                    Ok(target) => entrant.target = Some(target),
                    Err(error) => entrant.fail(&error.to_string()),
                }
                entrant
            })
            .collect();
        let mut turn = Turn { window: self.window, per_second: None, counts_system_calls: false };
        if cell.is_open_loop() {
            turn.per_second = self.half_rate(&mut entrants, progress);
            if turn.per_second.is_none() {
                let why = format!("no rate is known, for {BASE} failed");
                entrants.iter_mut().for_each(|entrant| entrant.fail(&why));
            }
        }
        self.make_rounds(cell, turn, &mut entrants, progress);
        if self.counts_system_calls && !cell.is_memory() {
            for entrant in &mut entrants {
                progress.step(&format!("system calls of {}", entrant.result.name));
                let counted = entrant.turn(Turn { counts_system_calls: true, ..turn });
                entrant.result.system_calls = counted.and_then(|sample| sample.system_calls);
            }
        }
        let servers = entrants.into_iter().map(|entrant| entrant.result).collect();
        CellResult { cell, servers, rate: turn.per_second }
    }

    /// Gives every server its turn in each round. Who begins changes from round to round, so that
    /// none has the better place.
    fn make_rounds(&self, cell: Cell, turn: Turn, entrants: &mut [Entrant], progress: &Progress) {
        let start = Instant::now();
        let rounds = self.turns(cell);
        // On a busy machine there are fewer rounds, but not none.
        for round in (0..rounds).take_while(|round| *round == 0 || start.elapsed() < CELL_MAX) {
            for place in 0..entrants.len() {
                let at = (round + place) % entrants.len();
                let entrant = &mut entrants[at];
                progress.step(&format!("round {}/{rounds}, {}", round + 1, entrant.result.name));
                let sample = entrant.turn(turn);
                entrant.result.samples.extend(sample);
            }
        }
    }

    /// Half of what the plain server answers in the closed loop.
    fn half_rate(&self, entrants: &mut [Entrant], progress: &Progress) -> Option<f64> {
        progress.step("what half load is");
        let base = entrants.iter_mut().find(|entrant| entrant.result.name == BASE)?;
        let turn = Turn { window: self.window, per_second: None, counts_system_calls: false };
        let rates = (0..RATE_TURNS).map_while(|_| Some(base.turn(turn)?.per_second));
        Spread::of(rates).map(|rate| rate.middle / 2.0)
    }

    fn servers_of(&self, cell: Cell) -> impl Iterator<Item = &(String, PathBuf)> {
        let servers = self.servers.iter();
        servers.filter(move |(name, _)| !cell.is_own_only() || OWN_SERVERS.contains(&&**name))
    }

    /// Memory is what it is: one turn tells it, and a second would find it allocated.
    const fn turns(&self, cell: Cell) -> usize {
        if cell.is_memory() { 1 } else { self.rounds }
    }
}

impl Entrant {
    fn turn(&mut self, turn: Turn) -> Option<crate::report::Sample> {
        match self.target.as_mut()?.turn(turn) {
            Ok(sample) => Some(sample),
            Err(error) => {
                self.fail(&error.to_string());
                None
            }
        }
    }

    fn fail(&mut self, why: &str) {
        self.target = None;
        self.result.failure.get_or_insert_with(|| why.to_owned());
    }
}

/// When no further round of a cell begins.
const CELL_MAX: Duration = Duration::from_secs(90);
/// Turns of the plain server that tell the rate of an open loop.
const RATE_TURNS: usize = 3;
