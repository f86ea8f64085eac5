//! A chat with rooms: what one member says is encoded once and sent to all, and a member that reads
//! nothing does not hold up the others.
//!
//! ```text
//! $ cargo run --release --example chat
//! backend=uring …
//! room    members  deaf     said  delivered  refused   p50 µs …
//! red         100     0      495      49005        0      376 …
//! green       100     1      495      48510      162      375 …
//! blue        100    10      495      44055     1620      347 …
//! 11 deaf members were cut, as they took nothing for 2s
//! ```
//!
//! The server runs on one thread, the members on another, each with a `Netlib` of its own. In each
//! room somebody says something of 4 KiB a hundred times a second, and everybody else hears it,
//! except for the deaf: those never read. Their pending bytes grow to the limit, then they are
//! refused, and when they have taken nothing for two seconds they are cut. The table tells, room by
//! room, how long it took until the others heard: the rooms with deaf members are as fast as the
//! one without.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use prost::Message;
use uring_netlib::conn::{Connection, Context};
use uring_netlib::pdu::{Header, Pdu};
use uring_netlib::{
    Address, Backend, BacklogLimits, CloseReason, Handle, Liveness, Options, Remote, Repeat,
    Shared, TimerId,
};

const HELP: &str = "\
Rooms with fan-out; members who read nothing do not hold up the others.

usage: cargo run --release --example chat -- [--members N] [--seconds S]
                                             [--backend auto|uring|epoll]

  --members N        members of each room, 20 to 2000      [100]
  --seconds S        how long they talk, 3 to 600          [5]
  --backend BACKEND  auto, uring or epoll                  [auto]
";

/// A room's name, and how many of its members never read.
const ROOMS: [(&str, usize); 3] = [("red", 0), ("green", 1), ("blue", 10)];

const JOIN: Header = Header::new(3, 1);
const SAY: Header = Header::new(3, 2);

#[derive(Clone, PartialEq, Message)]
struct Join {
    #[prost(uint32, tag = "1")]
    room: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Say {
    /// When it was said, in ns since the program started.
    #[prost(fixed64, tag = "1")]
    at_ns: u64,
    #[prost(bytes = "vec", tag = "2")]
    text: Vec<u8>,
}

struct Settings {
    members: usize,
    seconds: u64,
    backend: Backend,
}

/// The server's state: who is in which room.
#[derive(Default)]
struct Chat {
    rooms: [Vec<Handle>; ROOMS.len()],
    counts: [Counts; ROOMS.len()],
}

#[derive(Clone, Copy, Default)]
struct Counts {
    said: u64,
    refused: u64,
    cut: u64,
}

/// The server's side of a member.
struct Seat {
    room: Option<usize>,
}

impl Connection<Chat> for Seat {
    fn on_pdu(&mut self, chat: &mut Chat, context: &mut Context<'_, Chat>, pdu: Pdu<'_>) {
        match (pdu.header(), self.room) {
            (Some(JOIN), None) => {
                let room =
                    pdu.decode::<Join>().ok().and_then(|join| usize::try_from(join.room).ok());
                let Some(room) = room.filter(|room| *room < ROOMS.len()) else {
                    return context.close();
                };
                self.room = Some(room);
                chat.rooms[room].push(context.handle());
            }
            (Some(SAY), Some(room)) => {
                // The PDU goes on as it came, so there is nothing to be decoded or encoded.
                let shared = Shared::from(pdu.to_bytes());
                let speaker = context.handle();
                let others = chat.rooms[room].iter().copied().filter(|other| *other != speaker);
                let told = context.net().broadcast(others, &shared);
                chat.counts[room].said += 1;
                chat.counts[room].refused += told.refused as u64;
            }
            _ => context.close(),
        }
    }

    fn on_close(&mut self, chat: &mut Chat, context: &mut Context<'_, Chat>, reason: CloseReason) {
        let Some(room) = self.room else { return };
        let handle = context.handle();
        chat.rooms[room].retain(|member| *member != handle);
        if matches!(reason, CloseReason::Expired(_)) {
            chat.counts[room].cut += 1;
        }
    }
}

/// The members' state: how long everything took, by room.
struct Members {
    start: Instant,
    delays: Vec<Histogram<u64>>,
    joined: usize,
    failed: Option<CloseReason>,
}

/// One member.
struct Member {
    room: usize,
    part: Part,
    is_speaking: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Speaker,
    Listener,
    Deaf,
}

impl Connection<Members> for Member {
    fn on_confirm(&mut self, members: &mut Members, context: &mut Context<'_, Members>) {
        let room = u32::try_from(self.room).unwrap_or(0);
        context.send_pdu(JOIN, &Join { room }).ok();
        members.joined += 1;
        match self.part {
            Part::Speaker => {
                // The rooms talk one after the other, so that none is heard behind another.
                let turn = SAYING_INTERVAL.mul_f64(self.room as f64 / ROOMS.len() as f64);
                context.set_timer(turn, Repeat::Once);
            }
            Part::Listener => {}
            Part::Deaf => {
                context.pause_receive();
                let handle = context.handle();
                if let Ok(mut option) = context.net().option(handle) {
                    // Else the kernel would listen for it for a minute.
                    option.set_receive_buffer_size(4096).ok();
                }
            }
        }
    }

    fn on_timer(&mut self, members: &mut Members, context: &mut Context<'_, Members>, _: TimerId) {
        if !self.is_speaking {
            self.is_speaking = true;
            context.set_timer(SAYING_INTERVAL, Repeat::Forever);
        }
        let at_ns = u64::try_from(members.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        context.send_pdu(SAY, &Say { at_ns, text: vec![b'.'; 4096] }).ok();
    }

    fn on_pdu(&mut self, members: &mut Members, _: &mut Context<'_, Members>, pdu: Pdu<'_>) {
        let Ok(said) = pdu.decode::<Say>() else { return };
        let now_ns = u64::try_from(members.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        members.delays[self.room].saturating_record(now_ns.saturating_sub(said.at_ns) / 1000);
    }

    fn on_close(
        &mut self,
        members: &mut Members,
        context: &mut Context<'_, Members>,
        reason: CloseReason,
    ) {
        // The deaf are cut by the server, which is the point.
        if self.part != Part::Deaf {
            members.failed = Some(reason);
            context.net().stop_event();
        }
    }
}

fn main() -> ExitCode {
    let settings = match arguments() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            io::stdout().write_all(HELP.as_bytes()).ok();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("chat: {error}; --help lists what it takes");
            return ExitCode::from(2);
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut settings = Settings { members: 100, seconds: 5, backend: Backend::Auto };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("members") => settings.members = parser.value()?.parse()?,
            Long("seconds") => settings.seconds = parser.value()?.parse()?,
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    match settings {
        Settings { members: 20..=2000, seconds: 3..=600, .. } => Ok(Some(settings)),
        _ => Err("--members must be 20 to 2000, and --seconds 3 to 600".into()),
    }
}

fn run(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = mpsc::channel();
    let backend = settings.backend;
    let server = thread::spawn(move || serve(backend, &sender).map_err(|error| error.to_string()));
    let talked = talk(settings, &receiver);
    let counts = server.join().map_err(|_| "the server panicked")??;
    let members = talked?;
    print_table(settings, counts, &members);
    match members.failed {
        Some(reason) => Err(format!("a member lost its connection: {reason}").into()),
        None => Ok(()),
    }
}

/// Whoever does not read the table loses nothing but the table.
fn print_table(settings: &Settings, counts: [Counts; ROOMS.len()], members: &Members) {
    let mut out = io::stdout();
    let titles = ["said", "delivered", "refused", "p50 µs", "p99 µs", "max µs"];
    let [said, delivered, refused, p50, p99, max] = titles;
    writeln!(
        out,
        "{:<7} {:>7} {:>5} {said:>8} {delivered:>10} {refused:>8} {p50:>8} {p99:>8} {max:>8}",
        "room", "members", "deaf",
    )
    .ok();
    for (((name, deaf), counts), delays) in ROOMS.iter().zip(counts).zip(&members.delays) {
        writeln!(
            out,
            "{name:<7} {:>7} {deaf:>5} {:>8} {:>10} {:>8} {:>8} {:>8} {:>8}",
            settings.members,
            counts.said,
            delays.len(),
            counts.refused,
            delays.value_at_quantile(0.5),
            delays.value_at_quantile(0.99),
            delays.max(),
        )
        .ok();
    }
    let cut: u64 = counts.iter().map(|counts| counts.cut).sum();
    writeln!(out, "{cut} deaf members were cut, as they took nothing for {STALL:?}").ok();
}

/// The server's thread, until it is stopped.
fn serve(
    backend: Backend,
    ready: &Sender<(Address, Remote)>,
) -> Result<[Counts; ROOMS.len()], Box<dyn Error>> {
    let limits = BacklogLimits { low: 32 << 10, high: 64 << 10, max: 256 << 10 };
    let options = Options::new().backend(backend).backlog(limits);
    let mut net = options.liveness(Liveness::new().write_stall(STALL)).build()?;
    writeln!(io::stdout(), "{}", net.backend()).ok();
    let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Seat { room: None }))?;
    let mut option = net.option(listener)?;
    // What is inherited: so that the library's limits are seen, and not the kernel's.
    option.set_send_buffer_size(32 << 10)?;
    ready.send((option.local_address()?, net.remote()))?;
    let mut chat = Chat::default();
    net.eventloop(&mut chat, Duration::MAX)?;
    Ok(chat.counts)
}

/// The members' thread: all join, talk for as long as they shall, and stop the server.
fn talk(
    settings: &Settings,
    ready: &Receiver<(Address, Remote)>,
) -> Result<Members, Box<dyn Error>> {
    let (address, server) = ready.recv().map_err(|_| "the server did not start")?;
    let stop = StopAtEnd(server);
    let mut net = Options::new().backend(settings.backend).build()?;
    let mut members =
        Members { start: Instant::now(), delays: Vec::new(), joined: 0, failed: None };
    for (room, (_, deaf)) in ROOMS.iter().enumerate() {
        members.delays.push(Histogram::new_with_bounds(1, 60_000_000, 3)?);
        for number in 0..settings.members {
            let part = match number {
                0 => Part::Speaker,
                number if number <= *deaf => Part::Deaf,
                _ => Part::Listener,
            };
            net.connect_object(&address, Box::new(Member { room, part, is_speaking: false }))?;
        }
    }
    let end = Instant::now() + Duration::from_secs(settings.seconds);
    while Instant::now() < end && members.failed.is_none() {
        let left = end.saturating_duration_since(Instant::now());
        net.turn(&mut members, left)?;
    }
    drop(stop);
    Ok(members)
}

/// Stops the server, however the members fare.
struct StopAtEnd(Remote);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

const SAYING_INTERVAL: Duration = Duration::from_millis(10);

/// After how long the deaf are cut.
const STALL: Duration = Duration::from_secs(2);
