//! Paths whose instructions are counted: each case does one thing over and over.
//!
//! Nothing is timed here. `ci/instructions` runs each case under callgrind, once with so many
//! repetitions and once with twice as many, and divides the difference: what an operation costs,
//! without what is done once, to the instruction. So no case does I/O or depends on a clock, an
//! address or a seed of the process. `cargo bench --bench instructions` by itself runs each case
//! once, to see that it works.
//!
//! Only what is done inside of [`measured`] counts. A case with connections has a server and a
//! client on a simulated network without faults; the server's turns count, but not what the
//! simulated driver does in them, which `ci/instructions` knows by its name.

use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use uring_netlib::conn::{Connection, Context, Dispatcher};
use uring_netlib::pdu::{FrameSpec, HEADER_LEN, Header, Pdu, Reader, encode_bytes};
use uring_netlib::sim::{SimNet, SimNode, SimProgram};
use uring_netlib::{
    Backend, Callback, Delivery, Event, Handle, ManualClock, Netlib, Options, Repeat, RunError,
    Shared,
};

/// One thing that is done over and over.
struct Case {
    name: &'static str,
    /// Operations of one repetition.
    operations: usize,
    /// Repetitions of the shorter run.
    repetitions: usize,
    /// Makes what is needed, and the work of one repetition.
    prepare: fn() -> Work,
}

type Work = Box<dyn FnMut()>;

const CASES: [Case; 13] = [
    case("reassembly_whole", SMALL_COUNT, 200, reassembly_whole),
    case("reassembly_split", SMALL_COUNT, 200, reassembly_split),
    case("reassembly_64k", 1, 200, reassembly_large),
    case("encode", ENCODED, 10, encode),
    case("dispatch", DISPATCHED, 50, dispatch),
    case("timer_arm_cancel", TIMERS, 200, timer_arm_cancel),
    case("timer_fire", TIMERS, 200, timer_fire),
    case("backlog", RECEIVERS, 100, backlog),
    case("fanout_own", RECEIVERS, 100, fanout_own),
    case("fanout_shared", RECEIVERS, 100, fanout_shared),
    case("echo_depth_1", 1, 500, || echo(1)),
    case("echo_depth_16", 16, 200, || echo(16)),
    case("echo_depth_200", 200, 50, || echo(200)),
];

const fn case(
    name: &'static str,
    operations: usize,
    repetitions: usize,
    prepare: fn() -> Work,
) -> Case {
    Case { name, operations, repetitions, prepare }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // The former is how `cargo test` starts benches, the latter how `cargo bench` does.
        [] | ["--bench"] => {
            for case in CASES {
                case.run(1);
                println!("{}: {} operations", case.name, case.operations);
            }
            println!("each case has run once; `ci/instructions` counts");
        }
        ["--list"] => {
            for case in CASES {
                println!("{} {} {}", case.name, case.operations, case.repetitions);
            }
        }
        [name, repetitions] => {
            let case = CASES.into_iter().find(|case| case.name == name);
            let (Some(case), Ok(repetitions)) = (case, repetitions.parse()) else {
                return usage();
            };
            case.run(repetitions);
        }
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions [--list | CASE REPETITIONS]");
    ExitCode::from(2)
}

impl Case {
    fn run(&self, repetitions: usize) {
        let mut work = (self.prepare)();
        for _ in 0..WARM_UP + repetitions {
            work();
        }
    }
}

/// Does what counts. Callgrind collects from its beginning to its end.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

/// Small PDUs that arrive in one chunk, each whole.
fn reassembly_whole() -> Work {
    let (stream, mut reader) = (frame(SMALL_LEN).repeat(SMALL_COUNT), Reader::new());
    Box::new(move || measured(&mut || assert_eq!(feed(&mut reader, &stream), SMALL_COUNT)))
}

/// The same in chunks that cut every second one.
fn reassembly_split() -> Work {
    let (stream, mut reader) = (frame(SMALL_LEN).repeat(SMALL_COUNT), Reader::new());
    Box::new(move || {
        measured(&mut || {
            let chunks = stream.chunks(SMALL_LEN * 3 / 2);
            let count: usize = chunks.map(|chunk| feed(&mut reader, chunk)).sum();
            assert_eq!(count, SMALL_COUNT);
        });
    })
}

/// A PDU of 64 KiB, in chunks as receive buffers are.
fn reassembly_large() -> Work {
    let (stream, mut reader) = (frame(64 << 10), Reader::new());
    Box::new(move || {
        measured(&mut || {
            let count: usize = stream.chunks(16 << 10).map(|chunk| feed(&mut reader, chunk)).sum();
            assert_eq!(count, 1);
        });
    })
}

/// Cuts a chunk as a socket does: PDUs are lent, and the rest is held.
fn feed(reader: &mut Reader, mut chunk: &[u8]) -> usize {
    let mut count = 0;
    while let Some(pdu) = reader.next(&FrameSpec::teamtalk(), &mut chunk).expect("good lengths") {
        black_box(pdu);
        count += 1;
    }
    reader.hold(chunk);
    count
}

/// Small messages encoded into the pending bytes of a connection. What sending all of them at once
/// costs is in it, divided by their number.
fn encode() -> Work {
    let mut world = World::new(1, Delivery::Push, note);
    Box::new(move || {
        let Program { net, app } = &mut world.server;
        measured(&mut || {
            for number in 0..ENCODED {
                let text = Text { from: number as u64, text: String::new() };
                net.send_pdu(app.handles[0], Header::new(3, 1), &text).expect("there is room");
            }
        });
        world.let_arrive();
    })
}

/// A PDU to its handler, through a table of sixteen, with its message decoded.
fn dispatch() -> Work {
    let factory = |_: &mut App, _| -> Box<dyn Connection<App>> {
        let mut table = Dispatcher::new();
        for command_id in 0..16 {
            table = table.on(3, command_id, |_: &mut Table, app: &mut App, _, _, text: Text| {
                app.told += 1;
                black_box(text);
            });
        }
        Box::new(Table(Rc::new(table)))
    };
    let mut world = World::without_listener(Delivery::default());
    world.server.net.listen_objects(ADDRESS, factory).expect("a free port");
    world.connect(1);
    Box::new(move || {
        let asked = Text { from: 7, text: String::new() };
        let expected = world.server.app.told + DISPATCHED;
        let client = &mut world.client;
        let header = Header::new(3, 11);
        client.net.send_pdu(client.app.handles[0], header, &asked).expect("there is room");
        world.step_until(|world| world.server.app.told >= expected);
    })
}

/// Hands each PDU to its table many times, so that its way here weighs little.
struct Table(Rc<Dispatcher<Self, App>>);

impl Connection<App> for Table {
    fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
        for _ in 0..DISPATCHED {
            Rc::clone(&self.0).dispatch(self, app, context, &pdu);
        }
    }
}

/// Timers that are armed and cancelled.
fn timer_arm_cancel() -> Work {
    let (mut net, _) = timers();
    let mut armed = Vec::with_capacity(TIMERS);
    Box::new(move || {
        measured(&mut || {
            for number in 0..TIMERS {
                armed.push(net.register_timer(span(number), Repeat::Once, count, 0));
            }
            for timer in armed.drain(..) {
                net.delete_timer(timer).expect("it is armed");
            }
        });
    })
}

/// Timers that are armed and go off, all of them in one turn.
fn timer_fire() -> Work {
    let (mut net, clock) = timers();
    Box::new(move || {
        measured(&mut || {
            for number in 0..TIMERS {
                net.register_timer(span(number), Repeat::Once, count, 0);
            }
            let mut fired = 0;
            clock.advance(SPAN_MAX);
            net.turn(&mut fired, Duration::ZERO).expect("epoll waits");
            assert_eq!(fired, TIMERS);
        });
    })
}

/// A thousand timers that stay, as deadlines of idle connections do. A turn of epoll without
/// sockets is one system call.
fn timers() -> (Netlib<usize>, ManualClock) {
    let clock = ManualClock::new();
    let options = Options::new().backend(Backend::Epoll).clock(&clock);
    let mut net = options.build::<usize>().expect("epoll is everywhere");
    for number in 0..1000 {
        net.register_timer(FAR + span(number), Repeat::Once, count, 0);
    }
    (net, clock)
}

fn count(fired: &mut usize, _: &mut Netlib<usize>, _: Handle, _: Event<'_>) {
    *fired += 1;
}

/// Spans as those of deadlines, none longer than [`SPAN_MAX`].
const fn span(number: usize) -> Duration {
    Duration::from_millis((number as u64 * 7_919) % 120_000)
}

/// A few bytes for each of many sockets: queued, taken, sent, and their memory recycled.
fn backlog() -> Work {
    let mut world = World::new(RECEIVERS, Delivery::Push, note);
    Box::new(move || world.send_to_all(|net, handle| net.send(handle, b"few bytes").is_ok()))
}

/// The same bytes for each of many sockets, copied.
fn fanout_own() -> Work {
    let mut world = World::new(RECEIVERS, Delivery::Push, note);
    let body = frame(1024);
    Box::new(move || world.send_to_all(|net, handle| net.send(handle, &body).is_ok()))
}

/// The same bytes for each of many sockets, by reference.
fn fanout_shared() -> Work {
    let mut world = World::new(RECEIVERS, Delivery::Push, note);
    let body = Shared::from(frame(1024));
    Box::new(move || world.send_to_all(|net, handle| net.send_shared(handle, &body).is_ok()))
}

/// So many PDUs to the server, and their answers, before the next are sent.
fn echo(depth: usize) -> Work {
    let mut world = World::new(1, Delivery::default(), answer);
    let asked = frame(SMALL_LEN);
    Box::new(move || {
        let client = &mut world.client;
        let expected = client.app.told + depth;
        for _ in 0..depth {
            client.net.send(client.app.handles[0], &asked).expect("little is on its way");
        }
        world.step_until(|world| world.client.app.told >= expected);
    })
}

/// The state of a program.
#[derive(Default)]
struct App {
    /// Its open connections.
    handles: Vec<Handle>,
    /// Times that it was told of something received.
    told: usize,
}

/// Notes what happens.
fn note(app: &mut App, _: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } | Event::Confirm => app.handles.push(handle),
        Event::Read(_) | Event::Pdu(_) => app.told += 1,
        _ => {}
    }
}

/// Sends each PDU back.
fn answer(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = &event {
        net.send(handle, pdu.frame()).expect("little is on its way");
    }
    note(app, net, handle, event);
}

/// A server, a client with connections to it, and the network between them.
struct World {
    sim: SimNet,
    server: Program,
    client: SimNode<App>,
}

/// A program whose turns are measured.
struct Program {
    net: Netlib<App>,
    app: App,
}

impl SimProgram for Program {
    fn turn(&mut self) -> Result<(), RunError> {
        let mut result = Ok(());
        measured(&mut || result = self.net.turn(&mut self.app, Duration::ZERO));
        result
    }

    fn due(&self) -> Option<Duration> {
        self.net.due()
    }
}

impl World {
    fn new(connections: usize, delivery: Delivery, serve: Callback<App>) -> Self {
        let mut world = Self::without_listener(delivery);
        world.server.net.listen(ADDRESS, serve, 0).expect("a free port");
        world.connect(connections);
        world.step_until(|world| world.server.app.handles.len() == connections);
        world
    }

    fn without_listener(delivery: Delivery) -> Self {
        let sim = SimNet::new(1);
        // A simulated driver overwrites what is freed; there is not to be much of it.
        let options = Options::new().delivery(delivery).pool(64, 16 << 10);
        let net = |host| {
            let net = options.clone().sim(&sim.host([10, 0, 0, host])).build();
            net.expect("memory is all it needs")
        };
        let server = Program { net: net(1), app: App::default() };
        let client = SimNode::new(net(2), App::default());
        Self { sim, server, client }
    }

    /// Connects the client so many times.
    fn connect(&mut self, connections: usize) {
        for _ in 0..connections {
            self.client.net.connect(ADDRESS, note, 0).expect("a good address");
        }
        self.step_until(|world| world.client.app.handles.len() == connections);
    }

    fn step_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            let went_on = self.sim.step(&mut [&mut self.server, &mut self.client]);
            assert!(went_on.expect("no kernel can refuse"), "something is on its way");
        }
    }

    /// Queues something for each of the server's connections, and lets all of it arrive.
    fn send_to_all(&mut self, send: impl Fn(&mut Netlib<App>, Handle) -> bool) {
        let Program { net, app } = &mut self.server;
        measured(&mut || {
            for handle in &app.handles {
                assert!(send(net, *handle), "there is room");
            }
        });
        self.let_arrive();
    }

    /// Goes on until the client has what the server has sent.
    fn let_arrive(&mut self) {
        self.step_until(|world| {
            let (server, client) = (world.server.net.stats(), world.client.net.stats());
            server.buffered_bytes == 0 && client.bytes_in == server.bytes_out
        });
    }
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(uint64, tag = "1")]
    from: u64,
    #[prost(string, tag = "2")]
    text: String,
}

/// A PDU of so many bytes, header included.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    let body = vec![0x5A; len - HEADER_LEN];
    encode_bytes(&Header::new(3, 1), &body, u32::MAX, &mut frame).expect("it is not too long");
    frame
}

const ADDRESS: &str = "10.0.0.1:8000";

/// Repetitions before those that were asked for, so that buffers have their sizes.
const WARM_UP: usize = 3;

const SMALL_LEN: usize = 64;
/// Small PDUs that fill a receive buffer.
const SMALL_COUNT: usize = 256;
/// PDUs that are encoded before they are sent.
const ENCODED: usize = 1000;
/// Times that one PDU is dispatched.
const DISPATCHED: usize = 1000;
const TIMERS: usize = 100;
const RECEIVERS: usize = 50;

const SPAN_MAX: Duration = Duration::from_secs(120);
const FAR: Duration = Duration::from_secs(1_000_000);
