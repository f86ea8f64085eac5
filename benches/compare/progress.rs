//! What is being measured, how far it is, and how long it takes still.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// One line on a terminal, or a line per cell where there is none.
pub(crate) struct Progress {
    start: Instant,
    /// Of each cell, as estimated.
    seconds: Vec<f64>,
    /// How many have begun.
    begun: usize,
    cell: String,
    /// When the cell began, for people.
    left: String,
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new(seconds: Vec<f64>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let (start, cell, left) = (Instant::now(), String::new(), String::new());
        let progress = Self { start, seconds, begun: 0, cell, left, is_terminal };
        let cells = progress.seconds.len();
        eprintln!("{cells} cells, about {}", people_time(progress.seconds_left()));
        progress
    }

    pub(crate) fn begin(&mut self, cell: &str) {
        cell.clone_into(&mut self.cell);
        self.left = people_time(self.seconds_left());
        self.begun += 1;
        let (begun, all) = (self.begun, self.seconds.len());
        self.show(&format!("{begun}/{all} {cell}, {} left", self.left), true);
    }

    /// Within a cell.
    pub(crate) fn step(&self, what: &str) {
        let (begun, all) = (self.begun, self.seconds.len());
        let Self { cell, left, .. } = self;
        self.show(&format!("{begun}/{all} {cell}, {left} left: {what}"), false);
    }

    pub(crate) fn end(&self) {
        if self.is_terminal {
            eprint!("{CLEAR_LINE}");
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The estimate for what has not begun, corrected by what the others have really taken.
    fn seconds_left(&self) -> f64 {
        let (done, open) = self.seconds.split_at(self.begun);
        let (done, open): (f64, f64) = (done.iter().sum(), open.iter().sum());
        let factor = if done > 0.0 { self.start.elapsed().as_secs_f64() / done } else { 1.0 };
        open * factor
    }

    fn show(&self, line: &str, is_kept: bool) {
        if self.is_terminal {
            eprint!("{CLEAR_LINE}{line}");
            let _ = io::stderr().flush();
        } else if is_kept {
            eprintln!("{line}");
        }
    }
}

fn people_time(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

const CLEAR_LINE: &str = "\r\x1b[K";
