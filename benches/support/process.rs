//! A server in a process of its own: this program once more, with other arguments.
//!
//! A process of its own, because its CPU time is what the bench measures. It never outlives the
//! bench: it ends with the pipe to its parent, with its parent, and when its owner is dropped.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fmt, fs};

use super::sys::{self, CpuClock};
use super::{ours, plain_epoll};

/// The servers that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// This library on io_uring.
    Uring,
    /// This library on epoll.
    Epoll,
    /// The yardstick, without this library.
    Plain,
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::Uring, Self::Epoll, Self::Plain];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Plain => "plain",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|server| server.name() == name)
    }

    /// Is the server, in the process that was started for it.
    pub(crate) fn serve(self, core: usize) -> io::Result<()> {
        become_server(core)?;
        match self {
            Self::Uring | Self::Epoll => ours::serve_ours(self.name(), tell_port),
            Self::Plain => plain_epoll::serve(tell_port),
        }
    }
}

/// Ties this process to its parent and to a core.
pub(crate) fn become_server(core: usize) -> io::Result<()> {
    sys::end_with_parent(&io::stdin())?;
    sys::pin_to(core)?;
    sys::raise_descriptor_limit().map(drop)
}

/// Tells the parent that the server is ready. One that does not hear of it gives up by itself.
pub(crate) fn tell_port(port: u16) {
    let _ = writeln!(io::stdout(), "{port}");
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A running server. Dropping it ends the process and collects it.
pub(crate) struct ServerProcess {
    child: Reaped,
    pub(crate) cpu: CpuClock,
    pub(crate) port: u16,
}

impl ServerProcess {
    /// Starts this program once more, as a server.
    pub(crate) fn start(server: &str, core: usize) -> io::Result<Self> {
        Self::start_of(&std::env::current_exe()?, server, core)
    }

    /// Starts a server of some program. Returns when it is ready for clients, or at last after
    /// [`START_MAX`].
    pub(crate) fn start_of(program: &Path, server: &str, core: usize) -> io::Result<Self> {
        let child = Command::new(program)
            .args(["--server", server, "--core", &core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut child = Reaped(child);
        let output = child.0.stdout.as_mut().expect("stdout is piped");
        let mut line = String::new();
        if sys::is_readable_within(output, START_MAX)? {
            BufReader::new(output).read_line(&mut line)?;
        }
        let port = line.trim_end().parse();
        let port = port.map_err(|_| io::Error::other("the server does not start"))?;
        Ok(Self { cpu: CpuClock::of_process(child.0.id())?, child, port })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// Memory of the server that is in use.
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        resident_bytes_of(self.id())
    }
}

/// Memory of a process that is in use.
pub(crate) fn resident_bytes_of(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// A child that is ended and collected whatever happens to its owner.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Neither can fail for a child that was not waited for, and nothing could be done then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const START_MAX: Duration = Duration::from_secs(10);
