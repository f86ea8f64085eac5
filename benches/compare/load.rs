//! The load of one server in one cell, in a process of its own.
//!
//! Own, because ten thousand connections to each of several servers are more descriptors than a
//! process may have, and because a load that hangs can then be ended from outside. It connects,
//! verifies the server, says `ready`, and then makes a turn for each line that it is sent.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::cell::{BURST_PDUS, Cell, FANOUT_LEN};
use crate::command::LoadOrder;
use crate::report::Sample;
use crate::support::fanout::Receivers;
use crate::support::generator::{Generator, Window};
use crate::support::process::resident_bytes_of;
use crate::support::sys::{self, CpuClock};
use crate::support::system_calls::SystemCalls;
use crate::support::{HEADER_LEN, header};

/// What a turn is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    pub(crate) window: Duration,
    /// Of an open loop; without it the loop is closed.
    pub(crate) per_second: Option<f64>,
    pub(crate) counts_system_calls: bool,
}

impl Turn {
    /// One line without its end.
    pub(crate) fn to_line(self) -> String {
        let rate = self.per_second.unwrap_or(0.0);
        format!("{} {rate} {}", self.window.as_secs_f64(), self.counts_system_calls)
    }

    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let window = Duration::try_from_secs_f64(words.next()?.parse().ok()?).ok()?;
        let per_second: f64 = words.next()?.parse().ok()?;
        let counts_system_calls = words.next()?.parse().ok()?;
        let per_second = (per_second > 0.0).then_some(per_second);
        Some(Self { window, per_second, counts_system_calls })
    }
}

/// Is the load, until the bench has no more turns for it.
pub(crate) fn run(order: &LoadOrder) -> io::Result<()> {
    sys::end_with_parent_process()?;
    sys::pin_to(order.core)?;
    sys::raise_descriptor_limit()?;
    let mut load = match Load::prepare(order) {
        Ok(load) => load,
        Err(error) => return tell(&format!("error {error}")),
    };
    tell("ready")?;
    for line in io::stdin().lines() {
        let turn = Turn::from_line(&line?).ok_or_else(|| io::Error::other("not a turn"))?;
        match load.turn(turn) {
            Ok(sample) => tell(&format!("sample {}", sample.to_line()))?,
            Err(error) => return tell(&format!("error {error}")),
        }
    }
    Ok(())
}

fn tell(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}", line.replace('\n', " "))
}

struct Load {
    cell: Cell,
    port: u16,
    server_id: u32,
    server_cpu: CpuClock,
    kind: Kind,
}

enum Kind {
    Echo(Box<Generator>),
    Broadcast(Receivers),
    /// Connections come and go with each turn.
    Visits,
    /// Connections that stay.
    Crowd(Vec<TcpStream>),
}

/// How much work was done, and what it cost.
struct Work {
    units: usize,
    elapsed: Duration,
    server_cpu: Duration,
}

impl Load {
    /// Connects, and looks whether the server does what it should.
    fn prepare(order: &LoadOrder) -> io::Result<Self> {
        let LoadOrder { cell, port, server_id, .. } = *order;
        let kind = match cell {
            Cell::Closed { .. } | Cell::Half { .. } | Cell::Mix | Cell::Burst => {
                let mut generator = Generator::connect(port, cell.connections(), cell.sizes())?;
                generator.verify(if cell == Cell::Mix { MIX_VERIFIED } else { cell.depth() })?;
                Kind::Echo(Box::new(generator))
            }
            Cell::Fanout => {
                let mut receivers = Receivers::connect(port, cell.connections())?;
                receivers.verify(FANOUT_LEN, 0)?;
                Kind::Broadcast(receivers)
            }
            Cell::Churn => {
                visit_at_once(port, 1)?;
                Kind::Visits
            }
            // Whatever is allocated once is allocated for the first.
            Cell::Idle => {
                visit_at_once(port, 1)?;
                Kind::Crowd(Vec::new())
            }
        };
        let server_cpu = CpuClock::of_process(server_id)?;
        Ok(Self { cell, port, server_id, server_cpu, kind })
    }

    fn turn(&mut self, turn: Turn) -> io::Result<Sample> {
        let answers_before = self.answers_in_all();
        let counter = turn.counts_system_calls.then(|| SystemCalls::of_process(self.server_id));
        let (mut sample, units) = self.uncounted_turn(turn)?;
        if let Some(counter) = counter {
            // What warms up and what comes late is counted, so it is divided among as many.
            let units =
                self.answers_in_all().map_or(units, |all| all - answers_before.unwrap_or(0));
            sample.system_calls = Some(counter?.count()? as f64 / units as f64);
        }
        Ok(sample)
    }

    const fn answers_in_all(&self) -> Option<usize> {
        match &self.kind {
            Kind::Echo(generator) => Some(generator.answers_in_all()),
            _ => None,
        }
    }

    fn uncounted_turn(&mut self, turn: Turn) -> io::Result<(Sample, usize)> {
        let Self { cell, port, server_id, server_cpu, kind } = self;
        let warm_up = turn.window.min(WARM_UP_MAX) / 5;
        let work = match kind {
            Kind::Echo(generator) if *cell == Cell::Burst => {
                let cpu = server_cpu.now()?;
                let elapsed = generator.burst(BURST_PDUS)?;
                Work { units: BURST_PDUS, elapsed, server_cpu: server_cpu.now()? - cpu }
            }
            Kind::Echo(generator) => {
                let window = match turn.per_second {
                    Some(rate) => generator.open_loop(rate, warm_up, turn.window, server_cpu)?,
                    None => {
                        generator.closed_loop(cell.depth(), warm_up, turn.window, server_cpu)?
                    }
                };
                return Ok(sample_of(window));
            }
            Kind::Broadcast(receivers) => repeat(turn.window, server_cpu, || {
                receivers.broadcast(FANOUT_LEN, 0).map(|()| cell.connections())
            })?,
            Kind::Visits => repeat(turn.window, server_cpu, || {
                visit_at_once(*port, cell.connections()).map(|()| cell.connections())
            })?,
            Kind::Crowd(crowd) => {
                let bytes = gather(crowd, *port, cell.connections(), *server_id)?;
                let cost = bytes as f64 / cell.connections() as f64;
                return Ok((Sample { cost, ..Sample::default() }, cell.connections()));
            }
        };
        let Work { units, elapsed, server_cpu } = work;
        let window =
            Window { answers: units, due: units, elapsed, server_cpu, latency_us: Vec::new() };
        Ok(sample_of(window))
    }
}

fn sample_of(window: Window) -> (Sample, usize) {
    let Window { answers, due, elapsed, server_cpu, latency_us } = window;
    let cost = server_cpu.as_secs_f64() * 1e6 / answers as f64;
    let per_second = answers as f64 / elapsed.as_secs_f64();
    let part = answers as f64 / due.max(1) as f64;
    (Sample { cost, per_second, part, latency_us, system_calls: None }, answers)
}

/// Does it until the time has passed, and sums what it says it did.
fn repeat(
    span: Duration,
    server_cpu: &CpuClock,
    mut work: impl FnMut() -> io::Result<usize>,
) -> io::Result<Work> {
    let (start, cpu) = (Instant::now(), server_cpu.now()?);
    let mut units = 0;
    while start.elapsed() < span {
        units += work()?;
    }
    Ok(Work { units, elapsed: start.elapsed(), server_cpu: server_cpu.now()? - cpu })
}

/// So many clients connect, send one PDU each, get it back, and leave; returns when the server has
/// closed its side of each as well.
fn visit_at_once(port: u16, count: usize) -> io::Result<()> {
    let mut clients =
        (0..count).map(|_| connect_and_ask(port)).collect::<io::Result<Vec<TcpStream>>>()?;
    for client in &mut clients {
        expect_answer(client)?;
        client.shutdown(Shutdown::Write)?;
    }
    for client in &mut clients {
        if client.read(&mut [0]).map_err(patience_lost)? != 0 {
            return Err(io::Error::other("bytes after the answer"));
        }
    }
    Ok(())
}

/// Connects as many as there are to be, and returns how much more memory the server has then.
fn gather(crowd: &mut Vec<TcpStream>, port: u16, count: usize, server_id: u32) -> io::Result<u64> {
    let before = resident_bytes_of(server_id)?;
    while crowd.len() < count {
        let mut client = connect_and_ask(port)?;
        // It is accepted when it is answered.
        expect_answer(&mut client)?;
        crowd.push(client);
    }
    Ok(resident_bytes_of(server_id)?.saturating_sub(before))
}

fn connect_and_ask(port: u16) -> io::Result<TcpStream> {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(READ_MAX))?;
    client.write_all(&small_pdu())?;
    Ok(client)
}

fn expect_answer(client: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; SMALL_PDU_LEN];
    client.read_exact(&mut answer).map_err(patience_lost)?;
    if answer == small_pdu() { Ok(()) } else { Err(io::Error::other("another PDU came back")) }
}

/// What a read that timed out says of itself is that it would block.
fn patience_lost(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => io::Error::other(format!("no answer for {READ_MAX:?}")),
        _ => error,
    }
}

fn small_pdu() -> [u8; SMALL_PDU_LEN] {
    let mut pdu = [0x5A; SMALL_PDU_LEN];
    pdu[..HEADER_LEN].copy_from_slice(&header(SMALL_PDU_LEN - HEADER_LEN, 1));
    pdu
}

const SMALL_PDU_LEN: usize = HEADER_LEN + 64;
const WARM_UP_MAX: Duration = Duration::from_secs(1);
/// PDUs of each connection that are verified where they differ in length.
const MIX_VERIFIED: usize = 20;
const READ_MAX: Duration = Duration::from_secs(10);
