//! The servers that are not this program: where their program is, and what it says of them.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::process::Reaped;
use crate::support::sys;

/// A program of servers.
pub(crate) struct Peers {
    pub(crate) program: PathBuf,
    /// Name, and a sentence about how it is written.
    pub(crate) servers: Vec<(String, String)>,
}

impl Peers {
    /// Builds the package `benches/peers` and asks it for its names.
    pub(crate) fn build() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = root.join("benches/peers/Cargo.toml");
        if !manifest.exists() {
            return Err(io::Error::other("there is no benches/peers here"));
        }
        let target = root.join("target/peers");
        eprintln!("building benches/peers; the first time takes some minutes");
        let start = Instant::now();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--release", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target)
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(io::Error::other("benches/peers does not build"));
        }
        eprintln!("built benches/peers in {:.1} s", start.elapsed().as_secs_f64());
        Self::of(target.join("release/peers"))
    }

    /// Asks the program for its names.
    pub(crate) fn of(program: PathBuf) -> io::Result<Self> {
        let child = Command::new(&program)
            .arg("--list")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("the peers: {error}")))?;
        let mut child = Reaped(child);
        let output = child.0.stdout.take().expect("stdout is piped");
        if !sys::is_readable_within(&output, LIST_MAX)? {
            return Err(io::Error::other("the peers do not tell their names"));
        }
        let lines: io::Result<Vec<String>> = BufReader::new(output).lines().collect();
        let servers = lines?.iter().filter_map(|line| named(line)).collect();
        Ok(Self { program, servers })
    }
}

/// A name, and what is said of it after a colon or a space.
fn named(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let (name, sentence) = line.split_once([':', ' ', '\t']).unwrap_or((line, ""));
    let sentence = sentence.trim_start_matches([':', '-', ' ', '\t']);
    (!name.is_empty()).then(|| (name.to_owned(), sentence.to_owned()))
}

const LIST_MAX: Duration = Duration::from_secs(10);
