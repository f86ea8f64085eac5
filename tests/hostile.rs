//! Peers that mean harm, or look as if: what they cost is bounded, and nobody waits for them.

mod support;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use support::*;

/// Sends back every PDU, and stops reading from whoever does not read.
fn echo_and_pause(world: &mut World) {
    world.script(|_, net, handle, event| match event {
        Event::Pdu(pdu) if net.send(handle, pdu.frame()) == Ok(SendStatus::AboveHighMark) => {
            net.pause_receive(handle).unwrap();
        }
        Event::Write => net.resume_receive(handle).unwrap(),
        _ => {}
    });
}

/// After a bad length a peer is dropped soon, however much it goes on to send.
#[test]
fn a_flood_behind_a_bad_length_is_cut() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, _) = world.served_peer();
        world.write(&mut peer, &u32::MAX.to_be_bytes());
        let (flood, mut sent) = (pattern(64 << 10), 0);
        world.turn_while_not("it is cut", |world| {
            loop {
                match peer.write(&flood) {
                    Ok(len) => sent += len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                    Err(_) => return world.net.stats().sockets == 1,
                }
                world.turn();
            }
        });
        // What it sent fills at most what is dropped, the pool, and the kernel's buffers.
        assert!(sent < 64 << 20, "{sent} bytes were taken");
    });
}

/// Whoever sends without reading, or reads slowly, is held back by the kernel: an application that
/// pauses at the high mark keeps no more than one pool of undelivered bytes for it.
#[test]
fn a_slow_reader_cannot_pile_up_bytes() {
    on_every_backend(|lane| {
        let options = lane.options().pool(64, 1024);
        let limits = BacklogLimits { low: 2 << 10, high: 8 << 10, max: 1 << 20 };
        let mut world = World::with(options.backlog(limits));
        echo_and_pause(&mut world);
        let (mut peer, handle) = world.served_peer();
        let pdus = frame(100, 1).repeat(1000);
        let (mut sent, mut most) = (0, 0);
        for _ in 0..2000 {
            if let Ok(len) = peer.write(&pdus[sent % 100..]) {
                sent += len;
            }
            world.turn();
            let held = world.net.option(handle).unwrap().undelivered_bytes();
            most = most.max(held);
            let mut space = [0; 3000];
            let _ = std::io::Read::read(&mut peer, &mut space);
        }
        assert!(sent > 1 << 20, "{sent} bytes went through");
        assert!(most <= 64 * 1024 + 100, "{most} bytes were held");
        reset(peer);
    });
}

/// Paused connections that are reset are told as closed without being resumed, and leave nothing.
#[test]
fn paused_connections_that_are_reset_are_closed() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 1 << 10, high: 4 << 10, max: 1 << 20 };
        let mut world = World::with(lane.options().backlog(limits).pool(64, 1024));
        echo_and_pause(&mut world);
        let (_, address) = world.listen();
        let pdus = frame(1000, 1).repeat(300);
        for round in 0..60 {
            let mut peer = world.peer(address);
            let mut written = 0;
            for _ in 0..round % 20 + 1 {
                if let Ok(len) = peer.write(&pdus[written..]) {
                    written += len;
                }
                world.turn();
            }
            reset(peer);
        }
        world.turn_while_not("all are closed", |world| world.net.stats().sockets == 1);
        let announced = world.app.count(|entry| *entry == Entry::Connect);
        let closed = world.app.count(|entry| matches!(entry, Entry::Close(_)));
        assert_eq!(announced, closed);
    });
}

/// An idle loop stays idle: a resume without a pause, a stop without a loop, and a peer with half
/// a PDU do not make it spin.
#[test]
fn an_idle_loop_does_not_spin() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &frame(40, 1)[..30]);
        world.settle();
        world.net.stop_event();
        let (start, turns) = (Instant::now(), world.net.stats().turns);
        while start.elapsed() < Duration::from_millis(50) {
            world.net.resume_receive(handle).unwrap();
            let delivery = world.net.option(handle).unwrap().delivery();
            world.net.option(handle).unwrap().set_delivery(delivery).unwrap();
            world.turn_for(Duration::from_millis(20));
        }
        let turns = world.net.stats().turns - turns;
        assert!(turns <= 10, "{turns} turns in 50 ms");
    });
}

/// A listener that is closed costs the others nothing: the backend keeps its features.
#[test]
fn closing_a_listener_costs_no_feature() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let before = world.net.backend();
        let (first, _) = world.listen();
        let (_, address) = world.listen();
        world.settle();
        world.net.close(first).unwrap();
        world.settle();
        world.accepted_peer(address);
        assert_eq!(world.net.backend(), before);
    });
}

/// A paused listener lets its clients wait, and takes them when it is resumed.
#[test]
fn a_paused_listener_lets_clients_wait() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (listener, address) = world.listen();
        world.net.pause_receive(listener).unwrap();
        world.settle();
        let peers: Vec<TcpStream> = (0..5).map(|_| world.peer(address)).collect();
        world.settle();
        assert_eq!(world.net.stats().accepted, 0);
        world.net.resume_receive(listener).unwrap();
        world.turn_until("all are accepted", |world| world.net.stats().accepted == 5);
        drop(peers);
        world.turn_until("all are closed", |world| world.net.stats().sockets == 1);
    });
}

/// A Unix-domain listener whose queue is full refuses at once, in the same words everywhere.
#[test]
fn a_full_unix_queue_refuses_at_once() {
    same_on_every_backend(|lane| {
        let folder = Folder::new("full");
        let path = folder.path("socket");
        let address = SockAddr::unix(&path).unwrap();
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let first = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        first.connect(&address).unwrap();
        let mut world = World::new(lane);
        let handle = world.connect(Address::Path(path));
        world.turn_until("a refusal", |world| world.app.log_of(handle).len() == 1);
        world.app.log_of(handle)
    });
}

/// A reset is told whenever it comes: beside the first bytes, behind many, in the middle of a PDU.
/// Many of them come near the moments that cannot be scripted.
#[test]
fn resets_at_any_moment_are_told() {
    on_every_backend(|lane| {
        const PEERS: usize = 1000;
        let mut world = World::new(lane);
        echo_and_pause(&mut world);
        let (_, address) = world.listen();
        let pdus: Vec<u8> = (0..40).flat_map(|n| frame(16 + n * 617 % 4984, 1)).collect();
        let peers = thread::spawn(move || {
            for number in 0..PEERS {
                let mut peer = TcpStream::connect(address).unwrap();
                peer.set_nonblocking(true).unwrap();
                let some = number * 7919 % pdus.len();
                peer.write_all(&pdus[..[pdus.len(), 16, some, some][number % 4]]).ok();
                reset(peer);
            }
        });
        world.turn_until("all are closed", |world| {
            let stats = world.net.stats();
            stats.accepted == PEERS as u64 && stats.sockets == 1
        });
        peers.join().unwrap();
    });
}
