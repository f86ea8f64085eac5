//! What relinking gains: the C++ example `pdu_echo`, linked with this library and with a stand-in
//! for the original of netlib, under the same load; and what the C surface costs on top of Rust's.
//!
//! The example parses linearly. The original's programs move all that follows each PDU; the same
//! program that does so is compared as well, on either library.
//!
//! `cargo bench -p uring-netlib-capi` takes two and a half minutes; `-- surface` does the second
//! part alone. Each server is a process on one core and the load on another. The load keeps a
//! number of PDUs in flight on each of 1000 connections and checks every answer. The servers take
//! turns; medians are told. The server's time per PDU is the figure to trust: PDUs per second
//! depend on the load and on who else uses the machine.
//!
//! What the C surface costs is a small difference of two large times. With one PDU in flight most
//! of them is the kernel's, which varies by more than that difference from turn to turn, and from
//! process to process. So the server in Rust is there twice, all are started several times, and
//! that load comes in waves as well, all connections being written to before any is read from. Each
//! round gives two differences: of the C surface from the middle of both in Rust, and of one of
//! them from the other, which is nothing but noise. Of both the median and the quartiles are told.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
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
const ROUNDS: usize = 7;
const TURN: Duration = Duration::from_millis(500);

/// Of the second part: how often all processes are started anew, as where their memory comes to
/// lie matters, and how many turns each has then.
const STARTS: usize = 6;
const TURNS_EACH: usize = 5;
const SURFACE_TURN: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [mode, port] if mode == "--rust" => serve_rust(port),
        [mode, port] if mode == "--c" => serve_c(port),
        _ if arguments.iter().any(|argument| argument == "surface") => measure_surface(),
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
    mode: Option<&'static str>,
    backend: &'static str,
}

fn measure() -> io::Result<()> {
    have_a_core();
    let (ours, original) = (archive()?, root().join("benches/epoll_netlib.cpp"));
    let contender = |name, program: &Path, backend| Contender {
        name,
        program: program.to_owned(),
        mode: None,
        backend,
    };
    println!("{CONNECTIONS} connections, PDUs of {PDU_LEN} B, medians of {ROUNDS} turns\n");
    for (parsing, source) in [("linear", example()?), ("moving", example_that_moves()?)] {
        let original = build(&format!("original-{parsing}"), &source, &original)?;
        let ours = build(&format!("relinked-{parsing}"), &source, &ours)?;
        let contenders = [
            contender("original's shape", &original, "epoll"),
            contender("relinked, uring", &ours, "uring"),
            contender("relinked, epoll", &ours, "epoll"),
        ];
        for depth in DEPTHS {
            println!("a program whose parsing is {parsing}");
            tell(depth, &contenders, &compare(&contenders, depth)?);
        }
    }
    measure_surface()
}

/// One program in Rust, on either surface, and once more on Rust's.
fn measure_surface() -> io::Result<()> {
    have_a_core();
    let program = env::current_exe()?;
    let contender = |name, mode| {
        let (program, mode) = (program.clone(), Some(mode));
        Contender { name, program, mode, backend: "uring" }
    };
    let contenders = [
        contender("Rust surface", "--rust"),
        contender("C surface", "--c"),
        contender("Rust surface again", "--rust"),
    ];
    println!("{STARTS} starts of {TURNS_EACH} turns each, on io_uring\n");
    for (depth, manner) in [(16, Manner::Waves), (1, Manner::Waves), (1, Manner::Sweeps)] {
        let mut results: [Vec<Sample>; 3] = [const { Vec::new() }; 3];
        for start in 0..STARTS {
            let mut order = [0, 1, 2];
            order.rotate_left(start % 3);
            let mut targets: [Option<Target>; 3] = [const { None }; 3];
            for at in order {
                targets[at] = Some(Target::start(&contenders[at])?);
            }
            for turn in 0..TURNS_EACH {
                // Nobody is always the first, nor always behind the same one.
                order.rotate_left(1);
                if turn % 2 == 1 {
                    order.reverse();
                }
                for at in order {
                    let target = targets[at].as_mut().expect("started above");
                    results[at].push(target.turn(depth, manner, SURFACE_TURN)?);
                }
            }
        }
        println!("in {manner:?}");
        tell(depth, &contenders, &results);
        let [rust, c, again] = results;
        let both =
            rust.iter().zip(&again).map(|(one, other)| f64::midpoint(one.cpu_ns, other.cpu_ns));
        let layer = c.iter().zip(both).map(|(c, both)| c.cpu_ns - both);
        println!("the C surface's own cost  {}", told(layer.collect()));
        let noise = rust.iter().zip(&again).map(|(one, other)| other.cpu_ns - one.cpu_ns);
        println!("Rust's, measured again    {}\n", told(noise.collect()));
    }
    Ok(())
}

/// Differences of the server's times.
fn told(mut differences: Vec<f64>) -> String {
    differences.sort_by(f64::total_cmp);
    let part = |quarters: usize| differences[differences.len() * quarters / 4];
    let (middle, low, high) = (part(2), part(1), part(3));
    format!("{middle:>4.0} ns per PDU, quartiles {low:.0} and {high:.0}")
}

/// The load has the second core for itself; where there is no taskset, chance decides.
fn have_a_core() {
    let _ = Command::new("taskset").args(["-c", "-p", "1", &process::id().to_string()]).output();
}

/// Gives each contender its turn in each round.
fn compare(contenders: &[Contender], depth: usize) -> io::Result<Vec<Vec<Sample>>> {
    let mut results: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut targets = contenders.iter().map(Target::start).collect::<io::Result<Vec<_>>>()?;
    for _ in 0..ROUNDS {
        for (target, samples) in targets.iter_mut().zip(&mut results) {
            samples.push(target.turn(depth, Manner::Sweeps, TURN)?);
        }
    }
    Ok(results)
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
    println!();
}

#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    /// The server's time on a core, per PDU.
    cpu_ns: f64,
}

/// How the load goes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Each connection is written to once it was read from, so that the server always has work.
    Sweeps,
    /// All are read from, and then all are written to.
    Waves,
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

    /// Keeps up to `depth` PDUs in flight on each connection: a lot of them is read, and the next
    /// one written.
    fn turn(&mut self, depth: usize, manner: Manner, span: Duration) -> io::Result<Sample> {
        for stream in &mut self.streams {
            stream.write_all(&lot_of(depth, 0))?;
        }
        self.sweep(depth, Some(manner))?;
        let (start, cpu_start) = (Instant::now(), self.server.cpu_ns()?);
        let mut pdus = 0;
        while start.elapsed() < span {
            self.sweep(depth, Some(manner))?;
            pdus += depth * self.streams.len();
        }
        let (elapsed, cpu_ns) = (start.elapsed(), self.server.cpu_ns()? - cpu_start);
        self.sweep(depth, None)?;
        self.round = 0;
        let rate = pdus as f64 / elapsed.as_secs_f64();
        Ok(Sample { rate, cpu_ns: cpu_ns as f64 / pdus as f64 })
    }

    /// Reads a lot from each, and writes the next one unless there is to be none.
    fn sweep(&mut self, depth: usize, goes_on: Option<Manner>) -> io::Result<()> {
        let expected = lot_of(depth, self.round);
        self.round = self.round.wrapping_add(1);
        let next = lot_of(depth, self.round);
        self.bytes.resize(expected.len(), 0);
        for stream in &mut self.streams {
            stream.read_exact(&mut self.bytes)?;
            if self.bytes != expected {
                return Err(io::Error::other("an answer differs from its question"));
            }
            if goes_on == Some(Manner::Sweeps) {
                stream.write_all(&next)?;
            }
        }
        if goes_on == Some(Manner::Waves) {
            self.streams.iter_mut().try_for_each(|stream| stream.write_all(&next))?;
        }
        Ok(())
    }
}

/// PDUs of one round in a row.
fn lot_of(depth: usize, round: u8) -> Vec<u8> {
    let mut pdu = [0; PDU_LEN];
    pdu[3] = u8::try_from(PDU_LEN).expect("it is short");
    pdu[16..].fill(round);
    pdu.repeat(depth)
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
            .args(contender.mode)
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example() -> io::Result<String> {
    fs::read_to_string(root().join("examples/pdu_echo.cpp"))
}

/// The example, but for what the original's programs do with each PDU that they have looked at.
fn example_that_moves() -> io::Result<String> {
    let linear = "void consume(std::size_t length) { start_ += length; }";
    let moving = "void consume(std::size_t length)
    {
        end_ -= length;
        std::memmove(bytes_.data(), bytes_.data() + length, end_);
    }";
    let source = example()?;
    match source.matches(linear).count() {
        1 => Ok(source.replace(linear, moving)),
        _ => Err(io::Error::other("the example has no line to be changed any more")),
    }
}

/// Compiles a program, with a netlib.
fn build(name: &str, source: &str, netlib: &Path) -> io::Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("relink-{name}.out"));
    let file = path.with_extension("cpp");
    fs::write(&file, source)?;
    let status = Command::new("c++")
        .args(["-std=c++11", "-O2", "-I"])
        .arg(root().join("include"))
        .arg(file)
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

/// The same server in Rust, on the library's own surface.
fn serve_rust(port: &str) -> io::Result<()> {
    let options = Options::new().delivery(Delivery::Pull);
    let mut net = options.build::<Buffers<Handle>>().map_err(io::Error::other)?;
    let address = format!("127.0.0.1:{port}");
    net.listen(address.as_str(), on_event, 0).map_err(io::Error::other)?;
    println!("listening on {address}");
    let timeout = Duration::from_millis(100);
    net.eventloop(&mut Buffers::new(), timeout).map_err(io::Error::other)
}

fn on_event(
    buffers: &mut Buffers<Handle>,
    net: &mut Netlib<Buffers<Handle>>,
    handle: Handle,
    event: Event<'_>,
) {
    match event {
        Event::Read(_) => {
            let incoming = buffers.entry(handle).or_default();
            while let Ok(len) = net.recv(handle, incoming.room()) {
                incoming.end += len;
                incoming.cut_pdus(|pdu| net.send(handle, pdu).is_ok());
            }
        }
        Event::Close(_) => drop(buffers.remove(&handle)),
        _ => {}
    }
}

/// The same server in Rust, on the C surface.
fn serve_c(port: &str) -> io::Result<()> {
    let number = port.parse().map_err(io::Error::other)?;
    let buffers: *mut Buffers<u32> = Box::leak(Box::default());
    // SAFETY: the text ends with a zero byte, and the buffers are never freed.
    let listening = unsafe {
        netlib::netlib_listen(c"127.0.0.1".as_ptr(), number, Some(on_message), buffers.cast())
    };
    if listening != 0 {
        return Err(io::Error::last_os_error());
    }
    println!("listening on 127.0.0.1:{port}");
    netlib::netlib_eventloop(100);
    Ok(())
}

/// # Safety
/// - `data` leads to the buffers, which nobody else uses meanwhile.
unsafe extern "C-unwind" fn on_message(data: *mut c_void, msg: u8, handle: u32, _: *mut c_void) {
    // SAFETY: as the caller promises.
    let buffers = unsafe { &mut *data.cast::<Buffers<u32>>() };
    let number = handle.cast_signed();
    match msg {
        READ => {
            let incoming = buffers.entry(handle).or_default();
            loop {
                let room = incoming.room().as_mut_ptr().cast();
                // SAFETY: there is room for as many bytes.
                let len = unsafe { netlib::netlib_recv(number, room, RECEIVE_LEN_INT) };
                let Some(len) = usize::try_from(len).ok().filter(|len| *len > 0) else { return };
                incoming.end += len;
                incoming.cut_pdus(|pdu| {
                    let len = c_int::try_from(pdu.len()).expect("a PDU is short");
                    // SAFETY: the bytes are readable.
                    unsafe { netlib::netlib_send(number, pdu.as_ptr().cast(), len) == len }
                });
            }
        }
        CLOSE => drop(buffers.remove(&handle)),
        _ => {}
    }
}

/// What has come in on each connection and is no whole PDU yet.
type Buffers<H> = HashMap<H, Incoming>;

#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.len() < self.end + RECEIVE_LEN {
            self.bytes.resize((self.end + RECEIVE_LEN) * 5 / 4, 0);
        }
        &mut self.bytes[self.end..][..RECEIVE_LEN]
    }

    /// Gives whole PDUs to `send`, which takes them all: their number is limited by the load.
    fn cut_pdus(&mut self, mut send: impl FnMut(&[u8]) -> bool) {
        loop {
            let bytes = &self.bytes[self.start..self.end];
            let Some(field) = bytes.first_chunk::<4>().filter(|_| bytes.len() >= 16) else {
                return;
            };
            let len = u32::from_be_bytes(*field) as usize;
            if bytes.len() < len {
                return;
            }
            assert!(send(&bytes[..len]), "there is room for what the load has in flight");
            self.start += len;
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const RECEIVE_LEN: usize = 2048;
const RECEIVE_LEN_INT: c_int = 2048;

// As the header has them.
const READ: u8 = 3;
const CLOSE: u8 = 5;
