//! What this machine and this source are, for the report.

#![forbid(unsafe_code)]

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::report::Facts;
use crate::report::facts::utc;

/// All that is known now; `took` is how long it was measured, on so many cores.
pub(crate) fn facts(took: Duration, cores: usize) -> Facts {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let command = format!("cargo bench --bench compare -- {}", arguments.join(" "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Facts {
        date: utc(now.as_secs()),
        processor: processor().unwrap_or_else(|| "unknown".to_owned()),
        cores,
        kernel: format!("Linux {}", kernel.trim()),
        commit: commit(),
        rust: output("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
        command: command.trim_end_matches(" -- ").to_owned(),
        seconds: took.as_secs(),
    }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn commit() -> String {
    let Some(commit) = output("git", &["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match output("git", &["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{commit}, with changes"),
        _ => commit,
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
