//! What a PDU and an idle connection cost, counted and not timed: allocations, sends, buffers.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use prost::Message;
use support::{
    Address, Event, Handle, Lane, Limits, ListenOptions, Liveness, ManualClock, Netlib, Rate,
    Repeat, SocketState, frame, on_every_backend,
};
use uring_netlib::Shared;
use uring_netlib::conn::{Call, Connection, Context, Dispatcher};
use uring_netlib::pdu::{self, HEADER_LEN, Header, Pdu};

/// Counts the allocations of each thread, and the bytes that it has allocated and not freed.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
}

fn note_held(freed: usize, allocated: usize) {
    HELD_BYTES.with(|held| held.set(held.get().wrapping_sub(freed).wrapping_add(allocated)));
}

// SAFETY: hands every call on to the system's allocator, as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        note_held(0, layout.size());
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note_held(layout.size(), 0);
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        note_held(layout.size(), len);
        // SAFETY: the caller's duties are the same.
        unsafe { System.realloc(memory, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Echo {
    pdus: u64,
    answers: u64,
}

fn echo(app: &mut Echo, net: &mut Netlib<Echo>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = event {
        app.pdus += 1;
        net.send(handle, pdu.frame()).unwrap();
    }
}

fn on_every_server(check: impl Fn(&Lane, Netlib<Echo>, SocketAddr)) {
    on_every_backend(|lane| {
        let mut net = lane.options().build().unwrap();
        let listener = net.listen("127.0.0.1:0", echo, 0).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("an IPv4 address");
        };
        check(lane, net, address);
    });
}

/// Once warm, a PDU costs no allocation: small ones, ones that span receive buffers, and many in
/// one segment.
#[test]
fn a_pdu_costs_no_allocation() {
    on_every_server(|lane, mut net, address| {
        const ROUNDS: u64 = 2000;
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let batch = [
                frame(64, 0x5A),
                frame(5000, 0x5A),
                frame(16, 0x5A),
                frame(20_000, 0x5A),
                frame(64, 0x5A),
            ]
            .concat();
            let mut answer = vec![0; batch.len()];
            for _ in 0..ROUNDS {
                stream.write_all(&batch).unwrap();
                stream.read_exact(&mut answer).unwrap();
                assert!(answer == batch);
            }
        });
        let mut app = Echo::default();
        let mut run_to = |net: &mut Netlib<Echo>, pdus| {
            let before = ALLOCATIONS.get();
            while app.pdus < pdus {
                net.turn(&mut app, Duration::from_secs(5)).unwrap();
            }
            ALLOCATIONS.get() - before
        };
        let cold = run_to(&mut net, ROUNDS * 5 / 2);
        let warm = run_to(&mut net, ROUNDS * 5);
        assert!(cold > 0, "the counter counts");
        assert_eq!(warm, 0, "allocations for {} PDUs on {lane}", ROUNDS * 5 / 2);
        // The last answers leave with the next turn.
        net.turn(&mut app, Duration::ZERO).unwrap();
        client.join().unwrap();
    });
}

/// Once warm, a PDU costs no allocation however long it is and however it is cut: of 1 MiB, and
/// byte by byte. How many chunks come together is a matter of time, and so is when the last buffer
/// has grown to what it has to hold; an allocation per PDU would show in every phase.
#[test]
fn a_pdu_in_many_pieces_costs_no_allocation() {
    const PHASES: u64 = 6;
    for (len, piece_len, rounds) in [(1 << 20, 1 << 20, 8), (200, 1, 4)] {
        on_every_server(|lane, mut net, address| {
            let client = thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                let (asked, mut answer) = (frame(len, 0x5A), vec![0; len]);
                for _ in 0..PHASES * rounds {
                    for piece in asked.chunks(piece_len) {
                        stream.write_all(piece).unwrap();
                    }
                    stream.read_exact(&mut answer).unwrap();
                    assert!(answer == asked);
                }
                stream
            });
            let mut app = Echo::default();
            let phases: Vec<u64> =
                (1..=PHASES).map(|phase| count_until(&mut net, &mut app, phase * rounds)).collect();
            assert!(phases[0] > 0, "the counter counts");
            assert!(phases.contains(&0), "{phases:?} for PDUs of {len} bytes on {lane}");
            flush(&mut net, &mut app);
            drop(client.join().unwrap());
        });
    }
}

/// Turns until so many PDUs have come, and counts the allocations.
fn count_until(net: &mut Netlib<Echo>, app: &mut Echo, pdus: u64) -> u64 {
    let before = ALLOCATIONS.get();
    while app.pdus < pdus {
        net.turn(app, Duration::from_secs(5)).unwrap();
    }
    ALLOCATIONS.get() - before
}

/// Turns until everything was sent.
fn flush(net: &mut Netlib<Echo>, app: &mut Echo) {
    while net.stats().buffered_bytes > 0 {
        net.turn(app, Duration::from_secs(5)).unwrap();
    }
}

/// Once warm, neither a timer that is armed again and again costs an allocation, nor one that is
/// cancelled, nor one that goes off and is followed by another.
#[test]
fn a_timer_costs_no_allocation() {
    fn on_timer(app: &mut Echo, _: &mut Netlib<Echo>, _: Handle, _: Event<'_>) {
        app.answers += 1;
    }
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let mut net = lane.options().clock(&clock).build().unwrap();
        let (mut app, second) = (Echo::default(), Duration::from_secs(1));
        let cold = ALLOCATIONS.get();
        for _ in 0..10 {
            net.register_timer(second, Repeat::Forever, on_timer, 0);
        }
        let mut run = |net: &mut Netlib<Echo>| {
            let before = ALLOCATIONS.get();
            for round in 0..1000_u32 {
                let span = Duration::from_millis(1 + u64::from(round * 97));
                let cancelled = net.register_timer(span, Repeat::Once, on_timer, 0);
                net.register_timer(second, Repeat::Once, on_timer, 0);
                net.delete_timer(cancelled).unwrap();
                clock.advance(second);
                net.turn(&mut app, Duration::ZERO).unwrap();
            }
            ALLOCATIONS.get() - before
        };
        run(&mut net);
        assert!(ALLOCATIONS.get() > cold, "the counter counts");
        assert_eq!(run(&mut net), 0, "allocations for 3000 timers on {lane}");
        assert_eq!(app.answers, 22_000);
    });
}

/// Once warm, a heartbeat costs no allocation, nor does a deadline that moves on.
#[test]
fn a_heartbeat_costs_no_allocation() {
    on_every_backend(|lane| {
        const CLIENTS: u64 = 20;
        const BEATS: u64 = 50;
        let clock = ManualClock::new();
        let liveness = Liveness::server_to_server();
        let mut net = lane.options().clock(&clock).liveness(liveness).build().unwrap();
        let listener = net.listen("127.0.0.1:0", |_, _, _, _| {}, 0).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("an IPv4 address");
        };
        let mut app = Echo::default();
        let mut clients: Vec<TcpStream> =
            (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        while net.stats().accepted < CLIENTS {
            net.turn(&mut app, Duration::from_secs(5)).unwrap();
        }
        // Each beat is answered, so that no peer is silent for too long.
        let mut beat = [0; HEADER_LEN];
        let mut run_to = |net: &mut Netlib<Echo>, beats| {
            let mut allocations = 0;
            while net.stats().heartbeats < beats {
                let before = ALLOCATIONS.get();
                clock.advance(Duration::from_secs(5));
                net.turn(&mut app, Duration::ZERO).unwrap();
                flush(net, &mut app);
                allocations += ALLOCATIONS.get() - before;
                for client in &mut clients {
                    client.read_exact(&mut beat).unwrap();
                    client.write_all(&beat).unwrap();
                }
            }
            allocations
        };
        assert!(run_to(&mut net, CLIENTS * BEATS) > 0, "the counter counts");
        let warm = run_to(&mut net, 2 * CLIENTS * BEATS);
        assert_eq!(warm, 0, "allocations for {} heartbeats on {lane}", CLIENTS * BEATS);
        assert_eq!(net.stats().connected, CLIENTS, "nobody was taken for silent");
    });
}

fn gather(guests: &mut Vec<Handle>, _: &mut Netlib<Vec<Handle>>, handle: Handle, _: Event<'_>) {
    guests.push(handle);
}

/// Once warm, a broadcast costs no allocation, with and without own bytes beside the shared ones.
#[test]
fn a_broadcast_costs_no_allocation() {
    on_every_backend(|lane| {
        const GUESTS: usize = 50;
        const ROUNDS: usize = 200;
        let mut net = lane.options().build().unwrap();
        let listener = net.listen("127.0.0.1:0", gather, 0).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("an IPv4 address");
        };
        let client = thread::spawn(move || {
            let connect = |_| TcpStream::connect(address).unwrap();
            let mut streams: Vec<_> = (0..GUESTS).map(connect).collect();
            let mut heard = vec![0; ROUNDS * (2 * 1024 + 6)];
            for stream in &mut streams {
                stream.read_exact(&mut heard).unwrap();
            }
            streams
        });
        let mut guests = Vec::new();
        while guests.len() < GUESTS {
            net.turn(&mut guests, Duration::from_secs(5)).unwrap();
        }
        let shared = Shared::from(vec![0x5A; 1024]);
        let mut run = |net: &mut Netlib<Vec<Handle>>| {
            let before = ALLOCATIONS.get();
            for round in 0..ROUNDS {
                if round % 2 == 0 {
                    for guest in &guests {
                        net.send(*guest, b"before").unwrap();
                    }
                }
                assert_eq!(net.broadcast(guests.iter().copied(), &shared).refused, 0);
                while net.stats().buffered_bytes > 0 {
                    net.turn(&mut guests, Duration::from_secs(5)).unwrap();
                }
            }
            ALLOCATIONS.get() - before
        };
        let cold = run(&mut net);
        assert!(cold > 0, "the counter counts");
        assert_eq!(run(&mut net), 0, "allocations for {ROUNDS} broadcasts on {lane}");
        drop(client.join().unwrap());
    });
}

/// Once warm, a call costs no allocation but that of what its handler has captured.
#[test]
fn a_call_costs_no_allocation() {
    const LIMIT: Duration = Duration::from_secs(5);
    struct Caller;
    impl Connection<Echo> for Caller {}
    on_every_server(|lane, mut net, address| {
        let mut app = Echo::default();
        let client = net.connect_object(address, Box::new(Caller)).unwrap();
        while net.state(client) != Ok(SocketState::Connected) {
            net.turn(&mut app, Duration::from_secs(5)).unwrap();
        }
        // An echo answers a request with the command that asked.
        let call = Call::new(Header::new(3, 1), 1);
        let mut allocations = 0;
        for round in 1..=200 {
            let before = ALLOCATIONS.get();
            for _ in 0..10 {
                net.call(client, call, &(), LIMIT, |_: &mut Caller, app, _, answer| {
                    app.answers += u64::from(answer.is_ok());
                })
                .unwrap();
            }
            while app.answers < round * 10 {
                net.turn(&mut app, Duration::from_secs(5)).unwrap();
            }
            let count = ALLOCATIONS.get() - before;
            allocations += if round > 100 { count } else { 0 };
        }
        assert_eq!(allocations, 0, "allocations for 1000 calls on {lane}");
    });
}

/// A connection's object that hands its PDUs to a table, and has deadlines and rates.
struct Worker {
    table: Rc<Dispatcher<Self, Echo>>,
}

impl Connection<Echo> for Worker {
    fn on_pdu(&mut self, app: &mut Echo, context: &mut Context<'_, Echo>, pdu: Pdu<'_>) {
        Rc::clone(&self.table).dispatch(self, app, context, &pdu);
    }
}

/// Once warm, a PDU costs no allocation on its way through an object, a table, and a reply, with
/// every deadline and rate watched.
#[test]
fn a_pdu_for_an_object_costs_no_allocation() {
    const ROUNDS: u64 = 2000;
    on_every_backend(|lane| {
        let limits =
            Limits::new().pdus(Rate::per_second(u32::MAX)).bytes(Rate::per_second(1 << 30));
        let liveness = Liveness::client().heartbeat(Duration::from_secs(5));
        let mut net = lane.options().limits(limits).liveness(liveness).build().unwrap();
        let table =
            Dispatcher::new().on(7, 0, |_: &mut Worker, app: &mut Echo, context, pdu, n: u64| {
                app.pdus += 1;
                context.mark_ready();
                context.reply(pdu, 1, &(n + 1)).unwrap();
            });
        let table = Rc::new(table);
        let factory = move |_: &mut Echo, _| -> Box<dyn Connection<Echo>> {
            Box::new(Worker { table: Rc::clone(&table) })
        };
        let listener = net.listen_objects("127.0.0.1:0", factory).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("an IPv4 address");
        };
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut asked = Vec::new();
            let header = Header::new(7, 0);
            for number in 0..5_u64 {
                pdu::encode(&header, &(1_000_000 + number), 1024, &mut asked).unwrap();
            }
            let mut answer = vec![0; asked.len()];
            for _ in 0..ROUNDS {
                stream.write_all(&asked).unwrap();
                stream.read_exact(&mut answer).unwrap();
            }
            // Of the fifth: the number that was asked, and one.
            let last = &answer[answer.len() / 5 * 4 + HEADER_LEN..];
            assert_eq!(u64::decode(last), Ok(1_000_005));
        });
        let mut app = Echo::default();
        let mut run_to = |net: &mut Netlib<Echo>, pdus| {
            let before = ALLOCATIONS.get();
            while app.pdus < pdus {
                net.turn(&mut app, Duration::from_secs(5)).unwrap();
            }
            ALLOCATIONS.get() - before
        };
        run_to(&mut net, ROUNDS * 5 / 2);
        let warm = run_to(&mut net, ROUNDS * 5);
        assert_eq!(warm, 0, "allocations for {} PDUs on {lane}", ROUNDS * 5 / 2);
        net.turn(&mut app, Duration::ZERO).unwrap();
        client.join().unwrap();
    });
}

/// All replies of one turn to one connection leave in one send.
#[test]
fn the_replies_of_a_turn_leave_in_one_send() {
    on_every_server(|lane, mut net, address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let batch = frame(64, 0x5A).repeat(50);
        let mut answer = vec![0; batch.len()];
        let mut app = Echo::default();
        for round in 1..=20 {
            stream.write_all(&batch).unwrap();
            while app.pdus < round * 50 {
                net.turn(&mut app, Duration::from_secs(5)).unwrap();
            }
            net.turn(&mut app, Duration::from_millis(1)).unwrap();
            stream.read_exact(&mut answer).unwrap();
        }
        assert_eq!(net.stats().sends, 20, "sends for 20 batches of 50 PDUs on {lane}");
    });
}

/// Idle connections hold no receive buffer, also after they have received.
#[test]
fn an_idle_connection_holds_no_buffer() {
    on_every_server(|lane, mut net, address| {
        let mut app = Echo::default();
        let mut clients = Vec::new();
        for number in 1..=200 {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&frame(64, 0x5A)).unwrap();
            clients.push(stream);
            while app.pdus < number {
                net.turn(&mut app, Duration::from_secs(5)).unwrap();
            }
        }
        net.turn(&mut app, Duration::ZERO).unwrap();
        let stats = net.stats();
        assert_eq!(stats.sockets, 201);
        assert_eq!(stats.buffers_free + stats.buffers_kernel, 256, "on {lane}");
        drop(clients);
        while net.stats().sockets > 1 {
            net.turn(&mut app, Duration::from_secs(5)).unwrap();
        }
    });
}

/// An idle connection costs at most 512 bytes of memory, also after it has received and sent, and
/// with deadlines and a limit by address. Counted between two numbers of sockets at which no table
/// has a vacant place, so that nothing but connections differs.
#[test]
fn an_idle_connection_costs_few_bytes() {
    const BYTES_MAX: usize = 512;
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let options = || lane.options().clock(&clock).pool(16, 16 * 1024);
        let watched = options().liveness(Liveness::server_to_server());
        let counting = ListenOptions::new().connections_per_address_max(1000);
        let plain = (options(), ListenOptions::new(), "plain");
        for (options, of_listener, kind) in [plain, (watched, counting, "watched")] {
            let mut net = options.build().unwrap();
            let listener = net.listen_with("127.0.0.1:0", of_listener, echo, 0).unwrap();
            let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap()
            else {
                panic!("an IPv4 address");
            };
            let (mut app, mut clients) = (Echo::default(), Vec::with_capacity(128));
            let (request, mut answer) = (frame(64, 0x5A), [0; 64]);
            let mut held_with = |sockets: u64| {
                while net.stats().sockets < sockets {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.write_all(&request).unwrap();
                    let answered = net.stats().sends + 1;
                    while net.stats().sends < answered || net.stats().buffered_bytes > 0 {
                        net.turn(&mut app, Duration::from_secs(5)).unwrap();
                    }
                    client.read_exact(&mut answer).unwrap();
                    clients.push(client);
                }
                HELD_BYTES.get()
            };
            let (few, many) = (held_with(64), held_with(128));
            let each = (many - few) / 64;
            assert!(each <= BYTES_MAX, "{each} bytes for each {kind} connection on {lane}");
        }
    });
}
