//! User code that fails or closes whatever it likes, servers that go away, and peers that flood:
//! the loop goes on, everybody is told once, and nobody else notices.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::*;
use uring_netlib::conn::{Connection, Context};
use uring_netlib::pdu::Pdu;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What the connections of a test share.
struct Crowd {
    dice: Dice,
    mischief: Mischief,
    /// Who was told what: connects, PDUs and closes of each.
    told: BTreeMap<Handle, Told>,
    handles: Vec<Handle>,
    closed_by_us: usize,
}

#[derive(Default)]
struct Told {
    connects: u32,
    pdus: u32,
    closes: Vec<CloseReason>,
    is_closed_by_us: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Mischief {
    Panic,
    CloseOthers,
}

struct Member;

impl Connection<Crowd> for Member {
    fn on_connect(&mut self, crowd: &mut Crowd, context: &mut Context<'_, Crowd>) {
        crowd.handles.push(context.handle());
        crowd.told.entry(context.handle()).or_default().connects += 1;
        crowd.meddle(context);
    }

    fn on_pdu(&mut self, crowd: &mut Crowd, context: &mut Context<'_, Crowd>, pdu: Pdu<'_>) {
        let told = crowd.told.get_mut(&context.handle()).unwrap();
        assert!(!told.is_closed_by_us && told.closes.is_empty(), "told after its end");
        told.pdus += 1;
        // A peer that has gone takes no answer.
        context.send(pdu.frame()).ok();
        crowd.meddle(context);
    }

    fn on_write_complete(&mut self, crowd: &mut Crowd, context: &mut Context<'_, Crowd>) {
        crowd.meddle(context);
    }

    fn on_close(
        &mut self,
        crowd: &mut Crowd,
        context: &mut Context<'_, Crowd>,
        reason: CloseReason,
    ) {
        let told = crowd.told.get_mut(&context.handle()).unwrap();
        assert!(!told.is_closed_by_us, "told after its end");
        told.closes.push(reason);
        crowd.meddle(context);
    }
}

impl Crowd {
    fn new(mischief: Mischief) -> Self {
        let (told, handles) = (BTreeMap::new(), Vec::new());
        Self { dice: Dice(7), mischief, told, handles, closed_by_us: 0 }
    }

    /// Now and then a callback does what it should not.
    fn meddle(&mut self, context: &mut Context<'_, Self>) {
        if self.dice.roll(10) > 0 {
            return;
        }
        if self.mischief == Mischief::Panic {
            panic!("at random");
        }
        let index = self.dice.roll(self.handles.len() as u64);
        let victim = self.handles[usize::try_from(index).unwrap()];
        // A connection whose end is being told is closed already.
        let is_open = context.net().state(victim) == Ok(SocketState::Connected);
        let closed = match self.dice.roll(2) {
            0 => context.net().close(victim),
            _ => context.net().abort(victim),
        };
        if is_open {
            assert_eq!(closed, Ok(()));
            self.told.get_mut(&victim).unwrap().is_closed_by_us = true;
            self.closed_by_us += 1;
        }
    }
}

/// Serves clients that come, talk and go, until 300 have come and all have gone.
fn serve_a_crowd(lane: &Lane, mischief: Mischief) -> (Netlib<Crowd>, Crowd) {
    let mut net = lane.options().build::<Crowd>().unwrap();
    let mut crowd = Crowd::new(mischief);
    let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Member)).unwrap();
    let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
        panic!("a numeric address");
    };
    let mut dice = Dice(11);
    let mut peers: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        peers.push(TcpStream::connect(address).unwrap());
        for peer in &mut peers {
            // Who was cut off notices at its second write at the latest.
            let _ = peer.write_all(&frame(32, 1).repeat(usize::try_from(dice.roll(4)).unwrap()));
        }
        if peers.len() > 20 {
            let index = usize::try_from(dice.roll(peers.len() as u64)).unwrap();
            peers.swap_remove(index);
        }
        net.turn(&mut crowd, Duration::from_millis(1)).unwrap();
    }
    drop(peers);
    while net.stats().sockets > 1 {
        net.turn(&mut crowd, DEADLINE).unwrap();
    }
    (net, crowd)
}

/// Handlers that panic at random end their own connections, with that reason, and nothing else.
#[test]
fn random_panics_end_their_own_connections() {
    on_every_backend(|lane| {
        let (net, crowd) = serve_a_crowd(lane, Mischief::Panic);
        let stats = net.stats();
        assert!(stats.panics > 100, "{stats:?}");
        assert_eq!((stats.accepted, stats.closed), (300, 300));
        assert_eq!(stats.buffers_free + stats.buffers_kernel, 256);
        let mut panicked = 0;
        for told in crowd.told.values() {
            assert_eq!((told.connects, told.closes.len()), (1, 1), "{:?}", told.closes);
            panicked += u64::from(told.closes == [CloseReason::Panicked]);
        }
        assert_eq!(panicked, stats.closes.panicked);
        // A panic in `on_close` comes on top.
        assert!(panicked > 100 && panicked <= stats.panics, "{panicked} of {}", stats.panics);
    });
}

/// Handlers that close and abort random connections, their own and those that are gone included:
/// each connection has exactly one end, told or asked for, and no event after it.
#[test]
fn random_closes_end_each_connection_once() {
    on_every_backend(|lane| {
        let (net, crowd) = serve_a_crowd(lane, Mischief::CloseOthers);
        let stats = net.stats();
        assert_eq!((stats.accepted, stats.closed, stats.panics), (300, 300, 0));
        assert_eq!(stats.buffers_free + stats.buffers_kernel, 256);
        assert!(crowd.closed_by_us > 50, "{} were closed", crowd.closed_by_us);
        assert_eq!(stats.closes.by_application, crowd.closed_by_us as u64);
        for told in crowd.told.values() {
            let ends = told.closes.len() + usize::from(told.is_closed_by_us);
            assert_eq!((told.connects, ends), (1, 1));
        }
    });
}

/// A server that goes away before the handshake is over is told as one end, whichever way it goes,
/// and one that only keeps silent is given up at the deadline.
#[test]
fn a_server_that_goes_away_during_the_handshake_is_told_once() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let limit = Duration::from_secs(15);
        let liveness = Liveness::new().handshake(limit);
        let mut world = World::with(lane.options().clock(&clock).liveness(liveness));
        let end_of = |world: &mut World, client: Handle| {
            world.turn_until("the end", |world| world.net.state(client).is_err());
            world.app.log_of(client)
        };
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        // It accepts and finishes; it accepts and resets.
        let client = world.connect(address);
        world.turn_until("it is open", |world| world.app.log_of(client) == [Entry::Confirm]);
        drop(server.accept().unwrap());
        let finished = Entry::Close(CloseReason::PeerClosed);
        assert_eq!(end_of(&mut world, client), [Entry::Confirm, finished]);
        let client = world.connect(address);
        world.turn_until("it is open", |world| world.app.log_of(client) == [Entry::Confirm]);
        reset(server.accept().unwrap().0);
        assert_eq!(end_of(&mut world, client).last(), Some(&Entry::Close(CloseReason::Reset)));
        // It never accepts.
        let client = world.connect(address);
        world.turn_until("it is open", |world| world.app.log_of(client) == [Entry::Confirm]);
        clock.advance(limit);
        let expired = Entry::Close(CloseReason::Expired(Deadline::Handshake));
        assert_eq!(end_of(&mut world, client), [Entry::Confirm, expired]);
        // It dies with the connection in its queue.
        let client = world.connect(address);
        world.turn_until("it is open", |world| world.app.log_of(client) == [Entry::Confirm]);
        drop(server);
        let log = end_of(&mut world, client);
        let is_over =
            matches!(log[1..], [Entry::Close(CloseReason::Reset | CloseReason::PeerClosed)]);
        assert!(is_over, "{log:?}");
        let client = world.connect(address);
        assert_eq!(end_of(&mut world, client), [Entry::Close(CloseReason::Refused)]);
    });
}

/// How many PDUs of the flood, and how many others.
#[derive(Default)]
struct Counts {
    flood: u64,
    questions: usize,
}

fn count(counts: &mut Counts, _: &mut Netlib<Counts>, _: Handle, event: Event<'_>) {
    match event {
        Event::Pdu(pdu) if pdu.frame().len() == 16 => counts.flood += 1,
        Event::Pdu(_) => counts.questions += 1,
        _ => {}
    }
}

/// A peer that floods with tiny PDUs does not keep another one waiting: in between come no more of
/// them than three pools of receive buffers hold. How long that takes is printed, and is the
/// machine's affair.
#[test]
fn a_flood_does_not_keep_others_waiting() {
    on_every_backend(|lane| {
        let (mut net, mut counts) = (lane.options().build().unwrap(), Counts::default());
        let listener = net.listen("127.0.0.1:0", count, 0).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("a numeric address");
        };
        let mut peer = TcpStream::connect(address).unwrap();
        let flood = Flood::start(address);
        while counts.flood < 10_000 {
            net.turn(&mut counts, DEADLINE).unwrap();
        }
        let mut waits: Vec<(Duration, u64)> = (1..=100)
            .map(|number| {
                let (before, start) = (counts.flood, Instant::now());
                peer.write_all(&frame(64, 1)).unwrap();
                while counts.questions < number {
                    net.turn(&mut counts, DEADLINE).unwrap();
                }
                (start.elapsed(), counts.flood - before)
            })
            .collect();
        flood.stop();
        drop(peer);
        while net.stats().sockets > 1 {
            net.turn(&mut counts, DEADLINE).unwrap();
        }
        let mut pdus: Vec<u64> = waits.iter().map(|(_, pdus)| *pdus).collect();
        pdus.sort_unstable();
        assert!(pdus[98] <= 3 * 256 * 16 * 1024 / 16, "{} PDUs before the 99th", pdus[98]);
        waits.sort_unstable();
        println!("{lane}: p99 {:?} beside a flood", waits[98].0);
    });
}

/// A peer that sends tiny PDUs as fast as it can.
struct Flood {
    must_stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Flood {
    fn start(address: SocketAddr) -> Self {
        let must_stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&must_stop);
        let thread = thread::spawn(move || {
            let mut peer = TcpStream::connect(address).unwrap();
            let bytes = frame(16, 0).repeat(4096);
            while !is_over.load(Ordering::Relaxed) {
                peer.write_all(&bytes).unwrap();
            }
        });
        Self { must_stop, thread }
    }

    fn stop(self) {
        self.must_stop.store(true, Ordering::Relaxed);
        // It ends with its next write, for which the loop makes room.
        drop(self.thread);
    }
}
