//! What relinking gains: the C++ example `pdu_echo`, linked with this library and with a stand-in
//! for the original of netlib, under the same load; and what the C surface costs on top of Rust's.
//!
//! `cargo bench -p uring-netlib-capi` takes about half a minute. Each server is a process on one
//! core and the load on another. The load writes a number of PDUs to each of 1000 connections, and
//! then reads all answers and checks them, over and over. The servers take turns; medians are told.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use uring_netlib::{Delivery, Event, Handle, Netlib, Options};

const CONNECTIONS: usize = 1000;
const PDU_LEN: usize = 64;
const DEPTHS: [usize; 2] = [16, 1];
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_millis(700);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [mode, port] if mode == "--serve" => serve_rust(port),
        _ if arguments.iter().any(|argument| argument == "--bench") => measure(),
        _ => {
            println!("relink: nothing to test; `cargo bench -p uring-netlib-capi` measures");
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relink: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is compared.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    backend: &'static str,
}

fn measure() -> io::Result<()> {
    // The load has the second core for itself; where there is no taskset, chance decides.
    let _ = Command::new("taskset").args(["-c", "-p", "1", &process::id().to_string()]).output();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = build("relinked", &archive()?)?;
    let original = build("original", &root.join("benches/epoll_netlib.cpp"))?;
    let rust = env::current_exe()?;
    let contender = |name, program: &Path, backend| Contender {
        name,
        program: program.to_owned(),
        arguments: Vec::new(),
        backend,
    };
    let mut rust_surface = contender("Rust surface, uring", &rust, "uring");
    rust_surface.arguments.push("--serve".to_owned());
    let contenders = [
        contender("original's shape", &original, "epoll"),
        contender("C surface, uring", &ours, "uring"),
        contender("C surface, epoll", &ours, "epoll"),
        rust_surface,
    ];
    println!("{CONNECTIONS} connections, PDUs of {PDU_LEN} B, medians of {ROUNDS} turns\n");
    for depth in DEPTHS {
        let mut results: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        let mut targets = contenders.iter().map(Target::start).collect::<io::Result<Vec<_>>>()?;
        for _ in 0..ROUNDS {
            for (target, samples) in targets.iter_mut().zip(&mut results) {
                samples.push(target.turn(depth)?);
            }
        }
        tell(depth, &contenders, &results);
    }
    Ok(())
}

fn tell(depth: usize, contenders: &[Contender], results: &[Vec<Sample>]) {
    let rates: Vec<f64> =
        results.iter().map(|samples| median(samples.iter().map(|sample| sample.rate))).collect();
    let costs: Vec<f64> =
        results.iter().map(|samples| median(samples.iter().map(|sample| sample.cpu_ns))).collect();
    println!("depth {depth:<17}   PDUs/s   ratio   server ns/PDU   ratio");
    for (at, contender) in contenders.iter().enumerate() {
        let (rate, cost) = (rates[at] / rates[0], costs[0] / costs[at]);
        println!(
            "{:<21} {:>10.0} {rate:>7.2} {:>15.0} {cost:>7.2}",
            contender.name, rates[at], costs[at]
        );
    }
    let layer = results[1].iter().zip(&results[3]).map(|(c, rust)| c.cpu_ns - rust.cpu_ns);
    println!("the C surface costs {:.0} ns per PDU more than Rust's\n", median(layer));
}

#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    /// The server's time on a core, per PDU.
    cpu_ns: f64,
}

/// A server and connections to it.
struct Target {
    server: Server,
    streams: Vec<TcpStream>,
    bytes: Vec<u8>,
    round: u8,
}

impl Target {
    fn start(contender: &Contender) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = Server::start(contender, port)?;
        let connect = |_| {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(stream)
        };
        let streams = (0..CONNECTIONS).map(connect).collect::<io::Result<_>>()?;
        Ok(Self { server, streams, bytes: Vec::new(), round: 0 })
    }

    fn turn(&mut self, depth: usize) -> io::Result<Sample> {
        self.exchange(depth)?;
        let (start, cpu_start) = (Instant::now(), self.server.cpu_ns()?);
        let mut pdus = 0;
        while start.elapsed() < TURN {
            pdus += self.exchange(depth)?;
        }
        let (elapsed, cpu_ns) = (start.elapsed(), self.server.cpu_ns()? - cpu_start);
        let rate = pdus as f64 / elapsed.as_secs_f64();
        Ok(Sample { rate, cpu_ns: cpu_ns as f64 / pdus as f64 })
    }

    /// One lot of PDUs to each connection, and back; how many.
    fn exchange(&mut self, depth: usize) -> io::Result<usize> {
        let mut pdu = [0; PDU_LEN];
        self.round = self.round.wrapping_add(1);
        pdu[3] = u8::try_from(PDU_LEN).expect("it is short");
        pdu[16..].fill(self.round);
        let lot = pdu.repeat(depth);
        self.bytes.resize(lot.len(), 0);
        for stream in &mut self.streams {
            stream.write_all(&lot)?;
        }
        for stream in &mut self.streams {
            stream.read_exact(&mut self.bytes)?;
            if self.bytes != lot {
                return Err(io::Error::other("an answer differs from its question"));
            }
        }
        Ok(depth * self.streams.len())
    }
}

struct Server(Child);

impl Server {
    fn start(contender: &Contender, port: u16) -> io::Result<Self> {
        let has_taskset = Command::new("taskset").arg("--version").output().is_ok();
        let mut command = if has_taskset {
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(&contender.program);
            command
        } else {
            Command::new(&contender.program)
        };
        let child = command
            .args(&contender.arguments)
            .arg(port.to_string())
            .env("NETLIB_BACKEND", contender.backend)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut server = Self(child);
        let output = server.0.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if !line.starts_with("listening") {
            return Err(io::Error::other(format!("{} does not start", contender.name)));
        }
        Ok(server)
    }

    fn cpu_ns(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.0.id()))?;
        let field = text.split_whitespace().next().and_then(|field| field.parse().ok());
        field.ok_or_else(|| io::Error::other("no time in schedstat"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither can fail for a child that was not waited for, and nothing could be done then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Compiles the example, with a netlib.
fn build(name: &str, netlib: &Path) -> io::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("relink-{name}.out"));
    let status = Command::new("c++")
        .args(["-std=c++11", "-O2", "-I"])
        .arg(root.join("include"))
        .arg(root.join("examples/pdu_echo.cpp"))
        .arg(netlib)
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&path)
        .status()?;
    if status.success() { Ok(path) } else { Err(io::Error::other("c++ fails")) }
}

/// Cargo puts it beside this program, for which it was built.
fn archive() -> io::Result<PathBuf> {
    let path = env::current_exe()?.with_file_name("libnetlib.a");
    if path.exists() { Ok(path) } else { Err(io::Error::other("libnetlib.a is missing")) }
}

/// The same server on the Rust surface: a buffer for what comes in, a send for each PDU.
fn serve_rust(port: &str) -> io::Result<()> {
    let options = Options::new().delivery(Delivery::Pull);
    let mut net = options.build::<Buffers>().map_err(io::Error::other)?;
    let address = format!("127.0.0.1:{port}");
    net.listen(address.as_str(), on_event, 0).map_err(io::Error::other)?;
    println!("listening on {address}");
    let timeout = Duration::from_millis(100);
    net.eventloop(&mut Buffers::new(), timeout).map_err(io::Error::other)
}

/// What has come in on each connection and is no whole PDU yet.
type Buffers = std::collections::HashMap<Handle, Incoming>;

#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

fn on_event(buffers: &mut Buffers, net: &mut Netlib<Buffers>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Read(_) => {
            let incoming = buffers.entry(handle).or_default();
            loop {
                if incoming.start == incoming.end {
                    (incoming.start, incoming.end) = (0, 0);
                }
                if incoming.bytes.len() < incoming.end + RECEIVE_LEN {
                    incoming.bytes.resize((incoming.end + RECEIVE_LEN) * 5 / 4, 0);
                }
                let room = &mut incoming.bytes[incoming.end..][..RECEIVE_LEN];
                let Ok(len) = net.recv(handle, room) else { return };
                incoming.end += len;
                if cut_pdus(incoming, net, handle).is_none() {
                    net.abort(handle).ok();
                    return;
                }
            }
        }
        Event::Close(_) => drop(buffers.remove(&handle)),
        _ => {}
    }
}

fn cut_pdus(incoming: &mut Incoming, net: &mut Netlib<Buffers>, handle: Handle) -> Option<()> {
    loop {
        let bytes = &incoming.bytes[incoming.start..incoming.end];
        let Some(field) = bytes.first_chunk::<4>().filter(|_| bytes.len() >= 16) else {
            return Some(());
        };
        let len = u32::from_be_bytes(*field) as usize;
        if bytes.len() < len {
            return Some(());
        }
        net.send(handle, &bytes[..len]).ok()?;
        incoming.start += len;
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const RECEIVE_LEN: usize = 2048;
