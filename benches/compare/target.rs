//! A server of one cell with its load: two processes that are started, told what to do, and ended.
//!
//! Whatever either does wrong, and however long it takes, is an error of a bounded wait.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::cell::Cell;
use crate::load::Turn;
use crate::report::Sample;
use crate::support::process::{Reaped, ServerProcess};
use crate::support::sys;

/// A server and its load, which goes first when they are dropped.
pub(crate) struct Target {
    load: LoadProcess,
    _server: ServerProcess,
}

impl Target {
    /// Returns when the load has connected and verified the server.
    pub(crate) fn start(
        program: &Path,
        server: &str,
        cell: Cell,
        cores: Cores,
    ) -> io::Result<Self> {
        let name =
            if cell == Cell::Fanout { format!("fanout-{server}") } else { server.to_owned() };
        let server = ServerProcess::start_of(program, &name, cores.server)?;
        let load = LoadProcess::start(cell, &server, cores.load)?;
        Ok(Self { load, _server: server })
    }

    pub(crate) fn turn(&mut self, turn: Turn) -> io::Result<Sample> {
        writeln!(self.load.input, "{}", turn.to_line())?;
        let line = self.load.line(turn.window + TURN_MAX)?;
        let sample = line.strip_prefix("sample ").and_then(Sample::from_line);
        sample.ok_or_else(|| io::Error::other(format!("the load says `{line}`")))
    }
}

/// Where the two processes run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

struct LoadProcess {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _child: Reaped,
}

impl LoadProcess {
    fn start(cell: Cell, server: &ServerProcess, core: usize) -> io::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--load", &cell.to_string(), "--port", &server.port.to_string()])
            .args(["--server-id", &server.id().to_string(), "--core", &core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut child = Reaped(child);
        let input = child.0.stdin.take().expect("stdin is piped");
        let output = BufReader::new(child.0.stdout.take().expect("stdout is piped"));
        let mut load = Self { input, output, _child: child };
        match &*load.line(CONNECT_MAX)? {
            "ready" => Ok(load),
            other => Err(io::Error::other(format!("the load says `{other}`"))),
        }
    }

    /// The next line, of which the load writes one at a time. What it says of an error is one.
    fn line(&mut self, patience: Duration) -> io::Result<String> {
        if !sys::is_readable_within(self.output.get_ref(), patience)? {
            let message = format!("nothing for {patience:?}");
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the load has ended"));
        }
        let line = line.trim_end();
        match line.strip_prefix("error ") {
            Some(message) => Err(io::Error::other(message)),
            None => Ok(line.to_owned()),
        }
    }
}

/// For ten thousand connections, and a server that answers none of them.
const CONNECT_MAX: Duration = Duration::from_secs(40);
/// What a turn may take beyond its window: the load itself gives up after ten seconds of silence.
const TURN_MAX: Duration = Duration::from_secs(30);
