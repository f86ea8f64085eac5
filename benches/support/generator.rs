//! The load: one thread that keeps a number of PDUs in flight on each of its connections, and
//! checks every answer.
//!
//! It must not be dearer than the server that it measures, so the bytes of a PDU are a pure
//! function of its connection and number: nothing is kept of what was sent, no answer is
//! assembled, and one read and one write serve a ready connection. It never blocks on a write
//! while there is something to read, so a server may do so.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::schedule::{Schedule, Sizes};
use super::sys::{CpuClock, EDGE, ENDED, Epoll, READABLE, WRITABLE};
use super::{HEADER_LEN, header};

/// What one window of time saw, ramp-up left out.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) answers: usize,
    /// PDUs of an open loop that were to be sent; of a closed one those that were answered.
    pub(crate) due: usize,
    pub(crate) elapsed: Duration,
    pub(crate) server_cpu: Duration,
    /// In µs from the time a PDU was to be sent until its answer was read, at [`QUANTILES`].
    pub(crate) latency_us: Vec<f64>,
}

/// Where the distribution of latencies is told.
pub(crate) const QUANTILES: [f64; 14] =
    [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999];

/// Connections to one server, which lie idle between two loads.
pub(crate) struct Generator {
    epoll: Epoll,
    connections: Vec<Connection>,
    kit: Kit,
    outstanding: usize,
}

impl Generator {
    pub(crate) fn connect(port: u16, connections: usize, sizes: Sizes) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connect = |number| {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, number, READABLE | WRITABLE | ENDED | EDGE)?;
            Ok(Connection::new(stream, number))
        };
        let connections = (0..connections).map(connect).collect::<io::Result<_>>()?;
        Ok(Self { epoll, connections, kit: Kit::new(sizes)?, outstanding: 0 })
    }

    /// Sends that many PDUs on every connection, and compares every byte of their answers.
    pub(crate) fn verify(&mut self, count: usize) -> io::Result<()> {
        self.kit.compares_all = true;
        self.burst(count)?;
        self.kit.compares_all = false;
        Ok(())
    }

    /// Keeps `depth` PDUs in flight on every connection: each answer is followed by a new one.
    /// Warms up for a while, measures for `window` or until each has been answered a few times,
    /// then waits for the last answers.
    pub(crate) fn closed_loop(
        &mut self,
        depth: usize,
        warm_up: Duration,
        window: Duration,
        server_cpu: &CpuClock,
    ) -> io::Result<Window> {
        self.kit.refills = true;
        let fill = self.connections.len() * depth;
        let start = self.kit.restart();
        self.begin(depth)?;
        // Not before the first fill is answered is the load the one that was asked for.
        self.turn_until(|load| start.elapsed() >= warm_up && load.kit.answers >= fill)?;
        let start = self.kit.restart();
        let cpu_start = server_cpu.now()?;
        while start.elapsed() < window {
            self.turn()?;
        }
        self.turn_until(|load| load.kit.answers >= fill * FILLS_MIN)?;
        let server_cpu = server_cpu.now()? - cpu_start;
        let (elapsed, answers) = (start.elapsed(), self.kit.answers);
        let latency_us = self.kit.latency_us();
        self.kit.refills = false;
        self.turn_until(|load| load.outstanding == 0)?;
        Ok(Window { answers, due: answers, elapsed, server_cpu, latency_us })
    }

    /// Sends a mean of `per_second` PDUs when they are due, whatever has been answered by then.
    /// The latencies are those of the window's PDUs, the ones included that are answered later.
    pub(crate) fn open_loop(
        &mut self,
        per_second: f64,
        warm_up: Duration,
        window: Duration,
        server_cpu: &CpuClock,
    ) -> io::Result<Window> {
        self.kit.refills = false;
        let mut schedule = Schedule::new(per_second, self.connections.len(), self.kit.now_ns());
        self.follow(&mut schedule, warm_up)?;
        let start = self.kit.restart();
        let cpu_start = server_cpu.now()?;
        let due = self.follow(&mut schedule, window)?;
        let server_cpu = server_cpu.now()? - cpu_start;
        let (elapsed, answers) = (start.elapsed(), self.kit.answers);
        self.turn_until(|load| load.outstanding == 0)?;
        Ok(Window { answers, due, elapsed, server_cpu, latency_us: self.kit.latency_us() })
    }

    /// Sends that many PDUs on every connection as fast as it takes them, and returns the time
    /// until all are answered.
    pub(crate) fn burst(&mut self, count: usize) -> io::Result<Duration> {
        self.kit.refills = false;
        let start = self.kit.restart();
        self.begin(count)?;
        self.turn_until(|load| load.outstanding == 0)?;
        Ok(start.elapsed())
    }

    /// Answers since the generator was made.
    pub(crate) const fn answers_in_all(&self) -> usize {
        self.kit.answers_in_all
    }

    /// Returns how many PDUs were due, the ones included that there was no time to send. It never
    /// sleeps: a wake-up would come later than most PDUs are due.
    fn follow(&mut self, schedule: &mut Schedule, span: Duration) -> io::Result<usize> {
        let start = Instant::now();
        let mut all = 0;
        while start.elapsed() < span {
            let now_ns = self.kit.now_ns();
            // Answers are read between, so that the load makes none late by itself.
            for _ in 0..SENT_AT_ONCE_MAX {
                let Some(due) = schedule.due(now_ns) else { break };
                let connection = &mut self.connections[due.connection];
                connection.demand(1, due.at_ns);
                connection.send(&mut self.kit)?;
                self.outstanding += 1;
                all += 1;
            }
            self.poll(Duration::ZERO)?;
        }
        let now_ns = self.kit.now_ns();
        let mut unsent = schedule.clone();
        Ok(all + std::iter::from_fn(|| unsent.due(now_ns)).count())
    }

    fn begin(&mut self, count: usize) -> io::Result<()> {
        let now_ns = self.kit.now_ns();
        for connection in &mut self.connections {
            connection.demand(count, now_ns);
            connection.send(&mut self.kit)?;
        }
        self.outstanding += self.connections.len() * count;
        Ok(())
    }

    /// Goes on until a state is reached that is never far.
    fn turn_until(&mut self, is_reached: impl Fn(&Self) -> bool) -> io::Result<()> {
        let start = Instant::now();
        while !is_reached(self) {
            self.turn()?;
            if start.elapsed() > PATIENCE {
                let message = format!("the load does not settle within {PATIENCE:?}");
                return Err(io::Error::new(ErrorKind::TimedOut, message));
            }
        }
        Ok(())
    }

    /// Waits for events and handles them.
    fn turn(&mut self) -> io::Result<()> {
        if self.poll(PATIENCE)? == 0 {
            let message = format!("no answer for {PATIENCE:?}, {} are owed", self.outstanding);
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        Ok(())
    }

    /// Handles the events that come within the time, and returns how many did.
    fn poll(&mut self, timeout: Duration) -> io::Result<usize> {
        let ready = self.epoll.wait(Some(timeout))?;
        for index in 0..ready {
            let (number, events) = self.epoll.event(index);
            let connection = &mut self.connections[number];
            if events & WRITABLE != 0 && connection.is_blocked {
                connection.is_blocked = false;
                connection.send(&mut self.kit)?;
            }
            if events & (READABLE | ENDED) != 0 {
                let answers = connection.receive(&mut self.kit)?;
                if !self.kit.refills {
                    self.outstanding -= answers;
                }
            }
        }
        Ok(ready)
    }
}

/// What all connections share.
struct Kit {
    sizes: Sizes,
    /// Noise; each payload is a piece of it.
    noise: Vec<u8>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    latency_ns: Histogram<u64>,
    epoch: Instant,
    /// Since the latest restart.
    answers: usize,
    answers_in_all: usize,
    refills: bool,
    /// Or, of long payloads, samples only.
    compares_all: bool,
}

impl Kit {
    fn new(sizes: Sizes) -> io::Result<Self> {
        let payload_len = sizes.longest();
        let longest = PATIENCE.as_secs() * 1_000_000_000;
        let latency_ns = Histogram::new_with_bounds(1, longest, 2).map_err(io::Error::other)?;
        let outgoing = Vec::with_capacity(OUTGOING_LEN + HEADER_LEN + payload_len);
        Ok(Self {
            sizes,
            noise: noise(payload_len + NOISE_STARTS),
            outgoing,
            incoming: vec![0; INCOMING_LEN],
            latency_ns,
            epoch: Instant::now(),
            answers: 0,
            answers_in_all: 0,
            refills: false,
            compares_all: false,
        })
    }

    fn restart(&mut self) -> Instant {
        self.answers = 0;
        self.latency_ns.reset();
        Instant::now()
    }

    fn now_ns(&self) -> u64 {
        let elapsed = self.epoch.elapsed();
        elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
    }

    fn latency_us(&self) -> Vec<f64> {
        let at = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        QUANTILES.map(at).to_vec()
    }

    /// The payload of the PDU with that number. Neighbours differ, in time and in connection.
    fn payload(&self, connection: usize, sequence: u16) -> &[u8] {
        let start = (connection * 1031 + usize::from(sequence) * 61) % NOISE_STARTS;
        &self.noise[start..start + self.sizes.payload_len(connection, sequence)]
    }
}

struct Connection {
    stream: TcpStream,
    number: usize,
    /// PDUs to be sent, the one included that is sent in part.
    demand: usize,
    sequence_out: u16,
    sent_of_pdu: usize,
    is_blocked: bool,
    sequence_in: u16,
    received_of_pdu: usize,
    header_in: [u8; HEADER_LEN],
    /// When the PDUs whose answers are owed were to be sent.
    due_ns: VecDeque<u64>,
}

impl Connection {
    const fn new(stream: TcpStream, number: usize) -> Self {
        Self {
            stream,
            number,
            demand: 0,
            sequence_out: 0,
            sent_of_pdu: 0,
            is_blocked: false,
            sequence_in: 0,
            received_of_pdu: 0,
            header_in: [0; HEADER_LEN],
            due_ns: VecDeque::new(),
        }
    }

    fn demand(&mut self, count: usize, now_ns: u64) {
        self.demand += count;
        self.due_ns.extend(std::iter::repeat_n(now_ns, count));
    }

    /// Sends what is demanded until the socket takes no more.
    fn send(&mut self, kit: &mut Kit) -> io::Result<()> {
        while self.demand > 0 && !self.is_blocked {
            self.encode(kit);
            let sent = match self.stream.write(&kit.outgoing) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(self.fault(&format!("cannot send: {error}"))),
            };
            self.is_blocked = sent < kit.outgoing.len();
            self.sent_of_pdu += sent;
            while self.demand > 0 {
                let payload_len = kit.sizes.payload_len(self.number, self.sequence_out);
                let Some(of_next) = self.sent_of_pdu.checked_sub(HEADER_LEN + payload_len) else {
                    break;
                };
                self.sent_of_pdu = of_next;
                self.demand -= 1;
                self.sequence_out = self.sequence_out.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// Fills the buffer with the next bytes of this connection.
    fn encode(&self, kit: &mut Kit) {
        let mut outgoing = std::mem::take(&mut kit.outgoing);
        outgoing.clear();
        let mut sent = self.sent_of_pdu;
        for ahead in 0..self.demand {
            let sequence = later(self.sequence_out, ahead);
            let payload = kit.payload(self.number, sequence);
            let header = header(payload.len(), sequence);
            outgoing.extend_from_slice(&header[sent.min(HEADER_LEN)..]);
            outgoing.extend_from_slice(&payload[sent.saturating_sub(HEADER_LEN)..]);
            sent = 0;
            if outgoing.len() >= OUTGOING_LEN {
                break;
            }
        }
        kit.outgoing = outgoing;
    }

    /// Reads and checks all that has come, and returns the number of answers.
    fn receive(&mut self, kit: &mut Kit) -> io::Result<usize> {
        let mut answers = 0;
        loop {
            let mut incoming = std::mem::take(&mut kit.incoming);
            let outcome = self.stream.read(&mut incoming);
            kit.incoming = incoming;
            let len = match outcome {
                Ok(0) => return Err(self.fault("closed by the server")),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answers),
                Err(error) => return Err(self.fault(&format!("cannot receive: {error}"))),
            };
            let now_ns = kit.now_ns();
            let new = self.check(kit, len, now_ns)?;
            answers += new;
            if kit.refills && new > 0 {
                self.demand(new, now_ns);
                self.send(kit)?;
            }
            // What comes after a short read comes with an edge of its own.
            if len < kit.incoming.len() {
                return Ok(answers);
            }
        }
    }

    /// Checks the first `len` incoming bytes and returns how many PDUs end in them.
    fn check(&mut self, kit: &mut Kit, len: usize, now_ns: u64) -> io::Result<usize> {
        let mut answers = 0;
        let mut at = 0;
        while at < len {
            let bytes = &kit.incoming[at..len];
            let payload = kit.payload(self.number, self.sequence_in);
            at += if self.received_of_pdu < HEADER_LEN {
                self.check_header(payload.len(), bytes)?
            } else {
                self.check_payload(payload, kit.compares_all, bytes)?
            };
            if self.received_of_pdu == HEADER_LEN + payload.len() {
                self.received_of_pdu = 0;
                self.sequence_in = self.sequence_in.wrapping_add(1);
                answers += 1;
                let Some(due_ns) = self.due_ns.pop_front() else {
                    return Err(self.fault("an answer to nothing"));
                };
                kit.latency_ns.saturating_record(now_ns - due_ns);
            }
        }
        kit.answers += answers;
        kit.answers_in_all += answers;
        Ok(answers)
    }

    fn check_header(&mut self, payload_len: usize, bytes: &[u8]) -> io::Result<usize> {
        let missing = &mut self.header_in[self.received_of_pdu..];
        let len = missing.len().min(bytes.len());
        missing[..len].copy_from_slice(&bytes[..len]);
        self.received_of_pdu += len;
        let expected = header(payload_len, self.sequence_in);
        if self.received_of_pdu == HEADER_LEN && self.header_in != expected {
            let header_in = self.header_in;
            return Err(self.fault(&format!("header {header_in:?} instead of {expected:?}")));
        }
        Ok(len)
    }

    fn check_payload(
        &mut self,
        payload: &[u8],
        compares_all: bool,
        bytes: &[u8],
    ) -> io::Result<usize> {
        let from = self.received_of_pdu - HEADER_LEN;
        let expected = &payload[from..];
        let len = expected.len().min(bytes.len());
        let is_right = if compares_all || payload.len() <= CHECKED_WHOLE_MAX {
            bytes[..len] == expected[..len]
        } else {
            is_alike(&bytes[..len], &expected[..len])
        };
        if !is_right {
            return Err(self.fault(&format!("wrong payload in bytes {from} to {}", from + len)));
        }
        self.received_of_pdu += len;
        Ok(len)
    }

    fn fault(&self, what: &str) -> io::Error {
        let (number, sequence) = (self.number, self.sequence_in);
        io::Error::other(format!("connection {number}, at the answer to PDU {sequence}: {what}"))
    }
}

/// Compares samples at regular distances, and both ends: where a server splits and joins is where
/// it goes wrong.
fn is_alike(left: &[u8], right: &[u8]) -> bool {
    let len = left.len();
    let is_same = |start: usize| {
        let end = len.min(start + SAMPLE_LEN);
        left[start..end] == right[start..end]
    };
    (0..len).step_by(SAMPLE_DISTANCE).all(is_same) && is_same(len.saturating_sub(SAMPLE_LEN))
}

/// The sequence number that follows after so many.
fn later(sequence: u16, count: usize) -> u16 {
    let count = u16::try_from(count % (1 << 16)).expect("less than 2^16");
    sequence.wrapping_add(count)
}

/// Bytes without a pattern, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A server that lets so much time pass without any answer has failed, and so has one that needs
/// as much to answer what is in flight.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers come in waves as long as what is in flight; a window must see several of them.
const FILLS_MIN: usize = 4;
/// PDUs that an open loop sends before it looks for answers.
const SENT_AT_ONCE_MAX: usize = 64;
/// Bytes that one write is given if so many are demanded.
const OUTGOING_LEN: usize = 64 << 10;
const INCOMING_LEN: usize = 64 << 10;
/// Number of different payloads.
const NOISE_STARTS: usize = 4096;
/// Up to that length every byte of a payload is compared. Of longer ones samples are, for the
/// generator shares the machine's memory bandwidth with the server.
const CHECKED_WHOLE_MAX: usize = 4096;
const SAMPLE_LEN: usize = 64;
const SAMPLE_DISTANCE: usize = 1024;
