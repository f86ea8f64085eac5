//! What peers may ask for: rates, connections, memory. Whoever asks for more is held back, and who
//! goes on has to go; nobody else notices.

mod support;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::*;

/// A world whose time passes only when the test says so.
fn world_with(options: Options) -> (World, ManualClock) {
    let clock = ManualClock::new();
    (World::with(options.clock(&clock)), clock)
}

fn pdus_in(world: &World) -> u64 {
    world.net.stats().pdus_in
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A peer that sends more PDUs than it may is held back and goes on at its rate; nothing is lost.
#[test]
fn a_fast_peer_is_slowed_down_to_its_rate() {
    on_every_backend(|lane| {
        let limits = Limits::new().pdus(Rate::per_second(10).burst(4));
        let (mut world, clock) = world_with(lane.options().limits(limits));
        let (mut peer, handle) = world.served_peer();
        let bytes: Vec<u8> = (0..20).flat_map(|number| frame(32, number)).collect();
        world.write(&mut peer, &bytes);
        world.turn_until("a burst and the one too many", |world| pdus_in(world) == 5);
        world.settle();
        assert_eq!(pdus_in(&world), 5);
        // One of debt and half of the burst are three tenths of a second; two are there then, and
        // the third is one too many again.
        for delivered in [8, 11, 14, 17, 20] {
            clock.advance(ms(299));
            world.settle();
            assert_eq!(pdus_in(&world), delivered - 3, "too early");
            clock.advance(ms(1));
            world.turn_until("the next ones", |world| pdus_in(world) == delivered);
            world.settle();
            assert_eq!(pdus_in(&world), delivered);
        }
        assert_eq!(world.app.received(handle), bytes);
        assert_eq!(world.net.stats().rate_pauses, 6);
    });
}

/// A peer that is too fast for too long is closed; one that is quiet in between is not.
#[test]
fn a_peer_that_is_too_fast_for_too_long_is_closed() {
    on_every_backend(|lane| {
        let limits = Limits::new().pdus(Rate::per_second(10).burst(4)).patience(ms(500));
        let (mut world, clock) = world_with(lane.options().limits(limits));
        let (_, address) = world.listen();
        let (mut polite_peer, polite) = world.accepted_peer(address);
        for round in 1..=5 {
            world.write(&mut polite_peer, &frame(32, 1).repeat(5));
            world.turn_until("its burst", |world| pdus_in(world) == 5 * round);
            clock.advance(ms(300));
            world.settle();
            clock.advance(ms(1000));
            world.settle();
        }
        assert!(world.net.state(polite).is_ok());
        let (mut greedy_peer, greedy) = world.accepted_peer(address);
        world.write(&mut greedy_peer, &frame(32, 1).repeat(100));
        for _ in 0..2 {
            world.settle();
            assert!(world.net.state(greedy).is_ok());
            clock.advance(ms(300));
        }
        let reason = CloseReason::Exceeded(Limit::Rate);
        world.turn_until("its end", |world| {
            world.app.log_of(greedy).last() == Some(&Entry::Close(reason))
        });
        assert_eq!(world.app.received(greedy).len(), 32 * 11, "five, and three after each pause");
        assert_eq!(world.net.stats().closes.rate, 1);
    });
}

/// A rate holds as well where the callback does nothing with the library.
#[test]
fn a_fast_peer_of_a_quiet_callback_is_slowed_down() {
    on_every_backend(|lane| {
        let limits = Limits::new().pdus(Rate::per_second(10).burst(4));
        let (mut world, _clock) = world_with(lane.options().limits(limits));
        let (mut peer, handle) = world.served_peer();
        world.net.option(handle).unwrap().set_callback(|_, _, _, _| {});
        world.write(&mut peer, &frame(32, 1).repeat(20));
        world.settle();
        assert_eq!(pdus_in(&world), 5);
    });
}

/// A rate of bytes holds for bytes without PDUs; taking it away lets the peer go on at once.
#[test]
fn bytes_are_metered_without_pdus() {
    on_every_backend(|lane| {
        let limits = Limits::new().bytes(Rate::per_second(1000));
        let options = lane.options().limits(limits.clone()).delivery(Delivery::Push);
        let (mut world, clock) = world_with(options);
        let (mut peer, handle) = world.served_peer();
        let bytes = pattern(4000);
        world.write(&mut peer, &bytes[..2000]);
        world.turn_until("all of it", |world| world.app.received(handle).len() == 2000);
        world.write(&mut peer, &bytes[2000..]);
        clock.advance(ms(1499));
        world.settle();
        assert_eq!(world.app.received(handle).len(), 2000, "a thousand of debt and five hundred");
        clock.advance(ms(1));
        world.turn_until("the rest", |world| world.app.received(handle).len() == 4000);
        world.write(&mut peer, &bytes);
        world.settle();
        assert_eq!(world.app.received(handle).len(), 4000);
        assert_eq!(world.net.option(handle).unwrap().limits(), limits);
        world.net.option(handle).unwrap().set_limits(Limits::new());
        world.turn_until("no limit", |world| world.app.received(handle).len() == 8000);
    });
}

/// A peer that is held back and finishes has everything delivered, and then its end.
#[test]
fn what_a_held_back_peer_sent_comes_before_its_end() {
    on_every_backend(|lane| {
        let limits = Limits::new().pdus(Rate::per_second(1000).burst(1));
        let (mut world, clock) = world_with(lane.options().limits(limits));
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &frame(32, 1).repeat(9));
        drop(peer);
        for _ in 0..9 {
            world.settle();
            clock.advance(ms(2));
        }
        let closed = Entry::Close(CloseReason::PeerClosed);
        world.turn_until("the end", |world| world.app.log_of(handle).last() == Some(&closed));
        assert_eq!(world.app.received(handle).len(), 32 * 9);
    });
}

/// Before it is ready a connection gets no memory for a long PDU; from then on it does, be it in
/// the same segment.
#[test]
fn who_is_not_ready_sends_short_pdus() {
    on_every_backend(|lane| {
        let limits = Limits::new().unready_bytes_max(64);
        let mut world = World::with(lane.options().limits(limits));
        world.script(|_, net, handle, event| {
            if matches!(event, Event::Pdu(pdu) if pdu.frame().len() == 64) {
                net.mark_ready(handle).unwrap();
            }
        });
        let (_, address) = world.listen();
        let (mut peer, handle) = world.accepted_peer(address);
        world.write(&mut peer, &[frame(64, 1), frame(65, 2), frame(60_000, 3)].concat());
        let all = [Entry::Connect, Entry::Pdu(64), Entry::Pdu(65), Entry::Pdu(60_000)];
        world.turn_until("all of them", |world| world.app.log_of(handle) == all);
        let (mut peer, handle) = world.accepted_peer(address);
        world.write(&mut peer, &frame(65, 1));
        world.turn_until("its end", |world| world.net.state(handle).is_err());
        let log = world.app.log_of(handle);
        assert!(matches!(log[..], [Entry::Connect, Entry::Close(CloseReason::BadFrame(_))]));
    });
}

/// A listener lets in as many as it may, and the next one when one of them has gone.
#[test]
fn a_listener_has_room_for_so_many() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let options = ListenOptions::new().connections_max(2);
        let listener = world.net.listen_with("127.0.0.1:0", options, on_event, SERVER).unwrap();
        world.app.own(listener);
        let address = world.port_of(listener);
        let (first, _) = world.accepted_peer(address);
        let (_second, _) = world.accepted_peer(address);
        expect_rejection(&mut world, address);
        drop(first);
        world.turn_until("the first has gone", |world| world.net.stats().connected == 1);
        world.turn_until("all of it", |world| world.net.stats().sockets == 2);
        let _third = world.accepted_peer(address);
        assert_eq!(world.net.stats().rejected, 1);
    });
}

/// One address gets so many connections, and another one its own.
#[test]
fn an_address_has_room_for_so_many() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let options = ListenOptions::new().connections_per_address_max(1);
        let listener = world.net.listen_with("0.0.0.0:0", options, on_event, SERVER).unwrap();
        world.app.own(listener);
        let port = world.port_of(listener).port();
        let (first, _) = world.accepted_peer(([127, 0, 0, 1], port).into());
        expect_rejection(&mut world, ([127, 0, 0, 1], port).into());
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        other.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        other.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        world.turn_until("the other address", |world| world.net.stats().connected == 2);
        drop(first);
        world.turn_until("the first has gone", |world| world.net.stats().sockets == 2);
        let _again = world.accepted_peer(([127, 0, 0, 1], port).into());
    });
}

/// The next client sees its connection end without having been served.
fn expect_rejection(world: &mut World, address: SocketAddr) {
    let before = world.app.handles_by(SERVER).len();
    let mut peer = world.peer(address);
    world.turn_while_not("the client is turned away", |_| is_over(&mut peer));
    assert_eq!(world.app.handles_by(SERVER).len(), before);
}

fn is_over(peer: &mut TcpStream) -> bool {
    match peer.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Clients that come too fast wait in the kernel's queue, and all of them are served in time.
#[test]
fn clients_are_accepted_at_their_rate() {
    on_every_backend(|lane| {
        let (mut world, clock) = world_with(lane.options());
        let options = ListenOptions::new().accept_rate(Rate::per_second(10).burst(4));
        let listener = world.net.listen_with("127.0.0.1:0", options, on_event, SERVER).unwrap();
        world.app.own(listener);
        let address = world.port_of(listener);
        // The fifth is one too many, and the listener rests.
        let mut peers: Vec<_> = (0..5).map(|_| world.accepted_peer(address).0).collect();
        world.settle();
        peers.push(world.peer(address));
        clock.advance(ms(299));
        world.settle();
        assert_eq!(world.net.stats().accepted, 5);
        clock.advance(ms(1));
        world.turn_until("the sixth", |world| world.net.stats().accepted == 6);
        assert!(world.net.stats().accept_pauses >= 1);
    });
}

/// Where all sockets together keep as much as they may, a send is refused, and told when there is
/// room again, although its own socket has had room all along.
#[test]
fn the_sum_of_pending_bytes_is_limited() {
    on_every_backend(|lane| {
        let options = lane.options().buffered_bytes_max(8 << 20);
        let limits = BacklogLimits { low: 0, high: 64 << 20, max: 64 << 20 };
        let mut world = World::with(options.backlog(limits));
        let (_, address) = world.listen();
        let (mut reader, full) = world.accepted_peer(address);
        let (_idle, starved) = world.accepted_peer(address);
        world.net.send(full, &vec![0; 7 << 20]).unwrap();
        let refused = world.net.send(starved, b"hello");
        assert_eq!(refused, Err(SendError::Exhausted { buffered: 7 << 20 }));
        assert_eq!(world.net.stats().buffered_bytes, 7 << 20);
        world.read(&mut reader, 7 << 20);
        world.turn_until("room is told", |world| world.app.log_of(starved).contains(&Entry::Write));
        world.net.send(starved, b"hello").unwrap();
        assert_eq!(world.app.count(|entry| *entry == Entry::Write), 1, "nobody else was refused");
        assert_eq!(world.net.stats().sends_refused, 1);
    });
}

/// What was promised while there was room is queued although what is kept has grown since, and
/// only the socket's own limit refuses it.
#[test]
fn a_promise_is_kept_whatever_is_kept_by_then() {
    on_every_backend(|lane| {
        let options = lane.options().buffered_bytes_max(8 << 20);
        let limits = BacklogLimits { low: 0, high: 7 << 20, max: 7 << 20 };
        let mut world = World::with(options.backlog(limits));
        let (_, address) = world.listen();
        let (_idle, full) = world.accepted_peer(address);
        let (mut peer, promised) = world.accepted_peer(address);
        assert_eq!(world.net.sendable_bytes(), 7 << 20);
        world.net.send(full, &vec![0; 7 << 20]).unwrap();
        assert_eq!(world.net.sendable_bytes(), 0);
        world.net.send(promised, b"x").unwrap_err();
        world.net.send_promised(promised, b"hello").unwrap();
        assert_eq!(world.net.stats().buffered_bytes, (7 << 20) + 5);
        let refused = world.net.send_promised(full, b"x");
        assert_eq!(refused, Err(SendError::Full { queued: 7 << 20, len: 1, limit: 7 << 20 }));
        assert_eq!(world.read(&mut peer, 5), b"hello");
    });
}

/// Beginnings of PDUs are kept up to the sum; when it is full, whoever keeps the most has to go,
/// and not who comes last.
#[test]
fn the_sum_of_unfinished_pdus_is_limited() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().buffered_bytes_max(100_000));
        let (_, address) = world.listen();
        let kept = |world: &World| world.net.stats().buffered_bytes;
        let (mut hog_peer, hog) = world.accepted_peer(address);
        world.write(&mut hog_peer, &frame(90_000, 1)[..60_000]);
        // Of a large one there is room kept for what is still to come.
        world.turn_until("the most of it", |world| kept(world) >= 60_000);
        let bytes = frame(30_000, 1);
        let mut peers: Vec<_> = (0..3).map(|_| world.accepted_peer(address)).collect();
        for (peer, _) in &mut peers {
            world.write(peer, &bytes[..15_000]);
        }
        world.turn_until("room", |world| kept(world) == 45_000);
        let reason = CloseReason::Exceeded(Limit::Buffered);
        assert_eq!(world.app.log_of(hog).last(), Some(&Entry::Close(reason)));
        for (peer, handle) in &mut peers {
            world.write(peer, &bytes[15_000..]);
            let whole = Some(&Entry::Pdu(30_000));
            world.turn_until("a whole PDU", |world| world.app.log_of(*handle).last() == whole);
        }
        assert_eq!((kept(&world), world.net.stats().closes.buffered), (0, 1));
    });
}

/// What can never have room is too long, and not to be tried again; who is refused again and again
/// does not hold up the loop.
#[test]
fn who_never_has_room_is_told_so() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 0, high: 64 << 20, max: 64 << 20 };
        let options = lane.options().buffered_bytes_max(1 << 20).backlog(limits);
        let mut world = World::with(options);
        let (_, address) = world.listen();
        let (_deaf, full) = world.accepted_peer(address);
        let (_peer, handle) = world.accepted_peer(address);
        let max = (1 << 20) / 8 * 7;
        let refused = world.net.send(handle, &vec![0; max + 1]);
        assert_eq!(refused, Err(SendError::TooLong { len: max + 1, max }));
        // So much that the other fits only when all of it has left, but little enough to be told.
        world.net.send(full, &vec![0; 700_000]).unwrap();
        world.net.send(handle, &vec![0; 500_000]).unwrap_err();
        world.script(move |_, net, handle, event| {
            if let Event::Write = event {
                net.send(handle, &vec![0; 500_000]).ok();
            }
        });
        world.net.pause_receive(handle).unwrap();
        world.turn();
        assert!(world.app.count(|entry| *entry == Entry::Write) <= 1, "once a turn");
    });
}

/// Limits that a callback sets hold from the very next PDU on, and the peer goes on at its rate.
#[test]
fn limits_set_by_a_callback_hold_at_once() {
    on_every_backend(|lane| {
        let (mut world, clock) = world_with(lane.options());
        let (mut peer, _) = world.served_peer();
        let mut is_first = true;
        world.script(move |_, net, handle, event| {
            if let (Event::Pdu(_), true) = (event, std::mem::take(&mut is_first)) {
                let limits = Limits::new().pdus(Rate::per_second(10).burst(2));
                net.option(handle).unwrap().set_limits(limits);
            }
        });
        world.write(&mut peer, &frame(32, 1).repeat(8));
        world.settle();
        assert!(pdus_in(&world) < 8);
        for _ in 0..10 {
            clock.advance(ms(1000));
            world.settle();
        }
        assert_eq!(pdus_in(&world), 8);
    });
}

/// Before it is ready a connection that is paused has no more kept for it than it may.
#[test]
fn who_is_not_ready_and_paused_cannot_pile_up_bytes() {
    on_every_backend(|lane| {
        let limits = Limits::new().unready_bytes_max(4096);
        let mut world = World::with(lane.options().limits(limits));
        world.script(|_, net, handle, event| {
            if let Event::Pdu(_) = event {
                net.pause_receive(handle).unwrap();
            }
        });
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &frame(64, 1).repeat(2000));
        let reason = Entry::Close(CloseReason::Exceeded(Limit::Buffered));
        world.turn_until("its end", |world| world.app.log_of(handle).last() == Some(&reason));
        world.turn_until("nothing is kept", |world| world.net.stats().buffered_bytes == 0);
    });
}

/// C2: who closes a connection at the PDU that was one too many is told nothing more of it.
#[test]
fn who_closes_a_peer_that_is_too_fast_hears_no_more_of_it() {
    on_every_backend(|lane| {
        let limits = Limits::new().pdus(Rate::per_second(10).burst(4)).patience(ms(100));
        let (mut world, clock) = world_with(lane.options().limits(limits));
        let (mut peer, handle) = world.served_peer();
        let mut pdus = 0;
        world.script(move |_, net, handle, event| {
            pdus += u32::from(matches!(event, Event::Pdu(_)));
            if pdus == 8 {
                net.close(handle).unwrap();
            }
        });
        world.write(&mut peer, &frame(32, 1).repeat(20));
        world.turn_until("a burst and the one too many", |world| pdus_in(world) == 5);
        // The next one too many is the eighth, and more than the peer's patience.
        clock.advance(ms(300));
        world.settle();
        assert_eq!(pdus_in(&world), 8);
        assert_eq!(world.app.log_of(handle).last(), Some(&Entry::Pdu(32)));
    });
}

/// C2: who closes a connection that is not ready, as it has sent too much, hears no more of it.
#[test]
fn who_closes_a_peer_that_is_not_ready_hears_no_more_of_it() {
    on_every_backend(|lane| {
        let limits = Limits::new().unready_bytes_max(64);
        let mut world = World::with(lane.options().limits(limits).delivery(Delivery::Pull));
        world.script(|_, net, handle, event| {
            if let Event::Read(_) = event {
                net.close(handle).unwrap();
            }
        });
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &pattern(100));
        world.settle();
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Read(0)]);
    });
}

/// C2: who was refused for want of room, and has closed meanwhile, is not told that there is room.
#[test]
fn room_is_not_told_after_a_close() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 0, high: 64 << 20, max: 64 << 20 };
        let options = lane.options().buffered_bytes_max(8 << 20).backlog(limits);
        // Its time stands still, so that the closed one stays until its peer has gone.
        let (mut world, _clock) = world_with(options);
        let (_, address) = world.listen();
        let (mut reader, full) = world.accepted_peer(address);
        let (idle, starved) = world.accepted_peer(address);
        world.net.send(full, &vec![0; 7 << 20]).unwrap();
        world.net.send(starved, b"hello").unwrap_err();
        world.net.close(starved).unwrap();
        world.read(&mut reader, 7 << 20);
        world.turn_until("room", |world| world.net.stats().buffered_bytes == 0);
        world.settle();
        assert_eq!(world.app.log_of(starved), [Entry::Connect]);
        drop(idle);
    });
}
