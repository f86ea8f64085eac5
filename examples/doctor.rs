//! What this kernel and this container allow, and the line to type for each thing to mend.
//!
//! ```text
//! $ cargo run --release --example doctor
//! ok    kernel               6.18.44
//! ok    io_uring             set up and tried
//! ok      no_drop            there     required (5.5)
//! …
//! ok    auto takes           uring
//! ```
//!
//! `ok` needs nothing, `warn` costs something, `FAIL` keeps something from working. The exit code
//! is 0 as long as one backend works, be it epoll; 1 if none does; 2 for a bad argument.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::{env, fmt, fs, iter};

use uring_netlib::{Backend, BuildError, Feature, Features, Netlib, Options, UringError};

/// One line of the table.
struct Finding {
    mark: Mark,
    name: String,
    text: String,
    /// What to type.
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

impl Finding {
    fn new(mark: Mark, name: &str, text: impl Into<String>) -> Self {
        Self { mark, name: name.to_owned(), text: text.into(), remedy: None }
    }

    /// Fine, or else the mark and the remedy.
    fn check(is_fine: bool, mark: Mark, name: &str, text: String, remedy: &str) -> Self {
        if is_fine {
            Self::new(Mark::Ok, name, text)
        } else {
            Self::new(mark, name, text).mend(remedy)
        }
    }

    fn mend(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

fn main() -> ExitCode {
    if let Some(argument) = env::args().nth(1) {
        if argument == "--help" || argument == "-h" {
            let help = b"Tells what this kernel and container allow. It takes no arguments.\n";
            io::stdout().write_all(help).ok();
            return ExitCode::SUCCESS;
        }
        eprintln!("doctor: it takes no arguments, and was given {argument:?}");
        return ExitCode::from(2);
    }
    match examine() {
        Ok((findings, is_usable)) => {
            let written = io::stdout().write_all(table(&findings).as_bytes());
            // A reader that has seen enough, as `head` has, is no failure.
            if let Err(error) = written
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                eprintln!("doctor: standard output cannot be written: {error}");
                return ExitCode::FAILURE;
            }
            if is_usable { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let names = Feature::ALL.map(Feature::name).join(",");
            eprintln!("doctor: {error}; it takes any of {names}; type: unset NETLIB_URING_MASK");
            ExitCode::FAILURE
        }
    }
}

/// All findings, and whether one backend works.
fn examine() -> Result<(Vec<Finding>, bool), BuildError> {
    let masked: Features = env::var("NETLIB_URING_MASK").unwrap_or_default().parse()?;
    let uring = probe(Options::new().backend(Backend::Uring));
    let epoll = probe(Options::new().backend(Backend::Epoll));
    let reason = match &uring {
        Err(BuildError::Uring(reason)) => Some(reason),
        _ => None,
    };

    let mut findings = vec![Finding::new(Mark::Ok, "kernel", read("kernel/osrelease"))];
    findings.push(match &uring {
        Ok(_) => Finding::new(Mark::Ok, "io_uring", "set up and tried"),
        Err(BuildError::Uring(reason)) => Finding::new(Mark::Fail, "io_uring", why(reason)),
        Err(error) => Finding::new(Mark::Fail, "io_uring", with_causes(error)),
    });
    findings.extend(Feature::ALL.map(|feature| feature_finding(feature, masked)));
    findings.push(match &epoll {
        Ok(_) => Finding::new(Mark::Ok, "epoll", "set up"),
        Err(error) => {
            let finding = Finding::new(Mark::Fail, "epoll", with_causes(error));
            // Only a filter refuses epoll for another reason; short descriptors come below.
            if is_short(error) { finding } else { finding.mend(allow(EPOLL_CALLS)) }
        }
    });
    findings.push(match (&uring, &epoll, reason) {
        (Ok(_), ..) => Finding::new(Mark::Ok, "auto takes", "uring"),
        (Err(_), Ok(_), Some(reason)) => {
            Finding::new(Mark::Warn, "auto takes", format!("epoll: {}", why(reason)))
        }
        _ => Finding::new(Mark::Fail, "auto takes", "neither; no backend works"),
    });
    findings.extend(backend_variable());
    findings.push(seccomp(reason));
    findings.push(io_uring_disabled(reason));
    let is_any_short = [&uring, &epoll].iter().any(|tried| tried.as_ref().is_err_and(is_short));
    findings.push(open_files(is_any_short));
    findings.push(locked_memory(reason));
    findings.push(accept_queue());
    findings.push(local_ports());
    Ok((findings, uring.is_ok() || epoll.is_ok()))
}

/// The features in use. What was built is gone again: its descriptors are free for what follows.
fn probe(options: Options) -> Result<Features, BuildError> {
    let net: Netlib<()> = options.build()?;
    Ok(net.backend().features)
}

/// A feature is tried by itself, so that one which is refused does not hide the others.
fn feature_finding(feature: Feature, masked: Features) -> Finding {
    // The kernel takes this one only together with the other.
    let needed = match feature {
        Feature::DeferTaskrun => Some(Feature::SingleIssuer),
        _ => None,
    };
    let mask = Feature::ALL
        .into_iter()
        .filter(|other| !other.is_required() && *other != feature && Some(*other) != needed)
        .fold(Features::NONE, Features::with);
    let tried = probe(Options::new().backend(Backend::Uring).mask(mask).pool(16, 4096));
    let is_masked = masked.has(feature) || needed.is_some_and(|needed| masked.has(needed));
    // A ring without a required one is of no use; without one of the others it is just slower.
    let lacking = if feature.is_required() { Mark::Fail } else { Mark::Warn };
    let (mark, answer) = match tried {
        _ if is_masked => (lacking, "masked"),
        Ok(features) if features.has(feature) => (Mark::Ok, "there"),
        Err(BuildError::Uring(UringError::Missing(missing))) if missing != feature => {
            (Mark::Warn, "unknown")
        }
        Ok(_) | Err(BuildError::Uring(UringError::Missing(_))) => (lacking, "missing"),
        Err(_) => (Mark::Warn, "unknown"),
    };
    let (since, degraded) = describe(feature);
    let text = match feature.is_required() {
        true => format!("{answer:<8} required ({since})"),
        false => format!("{answer:<8} else {degraded} ({since})"),
    };
    let finding = Finding::new(mark, &format!("  {feature}"), text);
    if is_masked { finding.mend("unset NETLIB_URING_MASK") } else { finding }
}

/// The kernel that brought a feature, and what is done without it.
fn describe(feature: Feature) -> (&'static str, &'static str) {
    match feature {
        Feature::NoDrop => ("5.5", "nothing"),
        Feature::FastPoll => ("5.7", "nothing"),
        Feature::ExtArg => ("5.11", "nothing"),
        Feature::BufferRing => ("5.19", "nothing"),
        Feature::AcceptMulti => ("5.19", "one request per client"),
        Feature::ReceiveMulti => ("6.0", "one request per arrival"),
        Feature::SingleIssuer => ("6.0", "the kernel takes a lock"),
        Feature::DeferTaskrun => ("6.1", "coop_taskrun"),
        Feature::CoopTaskrun => ("5.19", "this thread is interrupted for completions"),
        Feature::SubmitAll => ("5.18", "those behind a refused request go a call later"),
        Feature::NoSqArray => ("6.6", "an index array more"),
        Feature::NoIowait => ("6.15", "idle waiting counts as waiting for disks"),
        _ => ("?", "it degrades"),
    }
}

/// The variable that decides in place of `Auto`.
fn backend_variable() -> Option<Finding> {
    let word = env::var("NETLIB_BACKEND").ok()?;
    let (mark, text) = match word.parse::<Backend>() {
        Ok(Backend::Auto) => (Mark::Ok, "auto: the same as without it".to_owned()),
        Ok(backend) => (Mark::Warn, format!("{backend}, and so auto takes that")),
        Err(error) => (Mark::Fail, format!("{word:?}: {error}")),
    };
    let finding = Finding::new(mark, "NETLIB_BACKEND", text);
    Some(if mark == Mark::Ok { finding } else { finding.mend("unset NETLIB_BACKEND") })
}

/// A filter of system calls, as containers have. What it lets pass can only be tried.
fn seccomp(reason: Option<&UringError>) -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    let is_suspect = is_refusal(reason) && mode.is_some_and(|mode| mode != "0");
    let text = match (mode, is_suspect) {
        (None, _) => "unknown",
        (Some("0"), _) => "no filter of system calls",
        (_, false) => "a filter of system calls, which lets io_uring pass",
        (_, true) => "a filter of system calls, which may be what refuses io_uring",
    };
    Finding::check(!is_suspect, Mark::Warn, "seccomp", text.to_owned(), &allow(URING_CALLS))
}

/// The administrator's switch, which kernels have since 6.6.
fn io_uring_disabled(reason: Option<&UringError>) -> Finding {
    let (value, group) = (read("kernel/io_uring_disabled"), read("kernel/io_uring_group"));
    let text = match value.as_str() {
        "0" => "0: everybody may use io_uring".to_owned(),
        "1" => format!("1: only group {group} and administrators may use io_uring"),
        "2" => "2: nobody may use io_uring".to_owned(),
        _ => "this kernel has no such switch".to_owned(),
    };
    let is_fine = !is_refusal(reason) || !matches!(value.as_str(), "1" | "2");
    let remedy = "sysctl -w kernel.io_uring_disabled=0";
    Finding::check(is_fine, Mark::Fail, "kernel.io_uring_disabled", text, remedy)
}

fn open_files(is_short: bool) -> Finding {
    const NAME: &str = "open files (nofile)";
    let (soft, hard) = match limit("Max open files") {
        Ok(limits) => limits,
        Err(error) => {
            let text = format!("unknown: /proc/self/limits cannot be read: {error}");
            return Finding::new(Mark::Warn, NAME, text).mend(RAISE);
        }
    };
    let is_enough =
        soft == "unlimited" || soft.parse().is_ok_and(|count: u64| count >= OPEN_FILES_MIN);
    let can_raise = hard != soft && hard.parse().is_ok_and(|count: u64| count >= OPEN_FILES_MIN);
    let remedy = if can_raise { &format!("ulimit -n {hard}") } else { RAISE };
    let (mark, what) = match is_short {
        true => (Mark::Fail, "too few to try a backend"),
        false => (Mark::Warn, "each connection takes one"),
    };
    let text = format!("{soft}, at most {hard}; {what}");
    Finding::check(is_enough && !is_short, mark, NAME, text, remedy)
}

/// Kernels before 5.12 counted rings against it, and some later ones refuse for want of it.
fn locked_memory(reason: Option<&UringError>) -> Finding {
    let unknown = |_| ("unknown".to_owned(), "unknown".to_owned());
    let (soft, hard) = limit("Max locked memory").unwrap_or_else(unknown);
    let is_short = kind(reason) == Some(io::ErrorKind::OutOfMemory);
    let text = format!("{soft} bytes, at most {hard}");
    Finding::check(!is_short, Mark::Fail, "locked memory (memlock)", text, "ulimit -l unlimited")
}

fn accept_queue() -> Finding {
    let value = read("net/core/somaxconn");
    let is_fine = value.parse().map_or(true, |clients: u64| clients >= ACCEPT_QUEUE_MIN);
    let text = format!("{value} clients may wait to be accepted");
    let remedy = format!("sysctl -w net.core.somaxconn={ACCEPT_QUEUE_MIN}");
    Finding::check(is_fine, Mark::Warn, "net.core.somaxconn", text, &remedy)
}

fn local_ports() -> Finding {
    let value = read("net/ipv4/ip_local_port_range");
    let mut ends = value.split_whitespace().map(str::parse::<u32>);
    let (is_fine, text) = match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => {
            let count = (last + 1).saturating_sub(first);
            let text = format!("{first} to {last}: {count} connections to one address and port");
            (count >= LOCAL_PORTS_MIN, text)
        }
        _ => (true, value),
    };
    let remedy = "sysctl -w net.ipv4.ip_local_port_range='1024 65535'";
    Finding::check(is_fine, Mark::Warn, "net.ipv4.ip_local_port_range", text, remedy)
}

/// Whether somebody forbids io_uring, or pretends that it did not exist.
fn is_refusal(reason: Option<&UringError>) -> bool {
    matches!(kind(reason), Some(io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported))
}

/// What the kernel answered, in portable words: `EPERM`, `ENOSYS` and so on differ in number from
/// one architecture to the other.
fn kind(reason: Option<&UringError>) -> Option<io::ErrorKind> {
    match reason? {
        UringError::Setup(errno) | UringError::SelfTest { errno, .. } => {
            Some(io::Error::from_raw_os_error(errno.0).kind())
        }
        _ => None,
    }
}

/// Whether descriptors ran out, of this process or of the
fn is_short(error: &BuildError) -> bool {
    let number = match error {
        BuildError::Uring(UringError::Setup(errno) | UringError::SelfTest { errno, .. }) => errno.0,
        BuildError::System(error) => error.raw_os_error().unwrap_or_default(),
        _ => return false,
    };
    matches!(number, libc::EMFILE | libc::ENFILE)
}

/// What to type so that a container's filter lets system calls pass.
fn allow(calls: &str) -> String {
    format!(
        "docker run --security-opt seccomp=profile.json …   # with, among its syscalls: \
         {{\"names\": [{calls}], \"action\": \"SCMP_ACT_ALLOW\"}}"
    )
}

/// The reason without its remedy, which the table has in a place of its own.
fn why(reason: &UringError) -> String {
    let text = reason.to_string();
    text.split(';').next().unwrap_or_default().to_owned()
}

/// A file below `/proc/sys`.
fn read(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/{name}"));
    text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// A soft and a hard limit of this process.
fn limit(name: &str) -> io::Result<(String, String)> {
    let text = fs::read_to_string("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut next = || words.next().unwrap_or_else(|| "unknown".to_owned());
    Ok((next(), next()))
}

/// An error and all that caused it, in one line.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The findings, and below them what to type, each line once.
fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { mark, name, text: what, .. } in findings {
        text += &format!("{mark:<5} {name:<28} {what}\n");
    }
    let mut remedies: Vec<&str> = Vec::new();
    for remedy in findings.iter().filter_map(|one| one.remedy.as_deref()) {
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    if !remedies.is_empty() {
        text += "\nto mend it, type:\n";
    }
    for remedy in remedies {
        text += &format!("  {remedy}\n");
    }
    text
}

/// A server of some size has no use for less.
const OPEN_FILES_MIN: u64 = 10_000;
/// What a listener asks for by default.
const ACCEPT_QUEUE_MIN: u64 = 4096;
/// A bit below the usual 28232.
const LOCAL_PORTS_MIN: u32 = 20_000;
/// What the backends cannot do without.
const URING_CALLS: &str = r#""io_uring_setup", "io_uring_enter", "io_uring_register""#;
const EPOLL_CALLS: &str =
    r#""epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2""#;
/// Where nobody knows how far the limit may be raised.
const RAISE: &str = "ulimit -n 65536   # as root; else docker run --ulimit nofile=65536 …, or \
                     LimitNOFILE=65536 in the systemd unit";
