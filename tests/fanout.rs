//! One body to many: its order among a socket's own bytes, its place in each socket's limits, and
//! its memory.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use support::*;
use uring_netlib::conn::{Connection, Context};
use uring_netlib::pdu::{EncodeError, Header, Pdu};
use uring_netlib::{Broadcast, Shared};

/// A body that tells by its count of references who still holds it.
fn body(bytes: &[u8]) -> (Arc<[u8]>, Shared) {
    let source: Arc<[u8]> = bytes.into();
    let shared = Shared::from(Bytes::from_owner(Arc::clone(&source)));
    (source, shared)
}

fn peers(world: &mut World, count: usize) -> (Vec<TcpStream>, Vec<Handle>) {
    let (_, address) = world.listen();
    (0..count).map(|_| world.accepted_peer(address)).unzip()
}

/// Lets the kernel hold little for a connection.
fn narrow(world: &mut World, peer: &TcpStream, handle: Handle) {
    world.net.option(handle).unwrap().set_send_buffer_size(1 << 14).unwrap();
    SockRef::from(peer).set_recv_buffer_size(1 << 14).unwrap();
}

fn pending(world: &mut World, handle: Handle) -> usize {
    world.net.option(handle).unwrap().pending_bytes()
}

fn all_queued(queued: usize) -> Broadcast {
    Broadcast { queued, ..Broadcast::default() }
}

/// Own and shared bytes of one turn leave in one send, in the order in which they were queued,
/// whether a body is short or long.
#[test]
fn own_and_shared_bytes_keep_their_order() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peers, handles) = peers(&mut world, 3);
        let bodies = [pattern(1024), pattern(10), pattern(511), pattern(512), pattern(40_000)];
        let bodies = bodies.map(Shared::from);
        let mut expected = vec![Vec::new(); peers.len()];
        for (receiver, handle) in (0u8..).zip(&handles) {
            for (turn, shared) in (0u8..).zip(bodies.iter().chain(&bodies)) {
                let mut send = |own: &[u8]| {
                    assert!(world.net.send(*handle, own).is_ok());
                    expected[usize::from(receiver)].extend_from_slice(own);
                };
                send(&vec![receiver; usize::from(turn) * 10]);
                send(&[turn]);
                assert!(world.net.send_shared(*handle, shared).is_ok());
                expected[usize::from(receiver)].extend_from_slice(shared.bytes());
            }
        }
        for (peer, expected) in peers.iter_mut().zip(&expected) {
            assert!(world.read(peer, expected.len()) == *expected, "bytes differ");
        }
        world.turn_until("all have left", |world| {
            handles.iter().all(|handle| pending(world, *handle) == 0)
        });
        let stats = world.net.stats();
        assert_eq!(stats.bytes_out, expected.iter().map(Vec::len).sum::<usize>() as u64);
        if lane.backend == Backend::Uring {
            assert_eq!(stats.sends, 3, "one each");
        }
    });
}

/// Every receiver gets every broadcast of a body that is used again and again.
#[test]
fn a_body_is_sent_as_often_as_is_asked() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peers, handles) = peers(&mut world, 20);
        let (source, shared) = body(&pattern(1024));
        for _ in 0..50 {
            let told = world.net.broadcast(handles.iter().copied(), &shared);
            assert_eq!(told, all_queued(20));
            for peer in &mut peers {
                assert!(world.read(peer, 1024)[..] == source[..], "bytes differ");
            }
        }
        world.turn_until("all have left", |world| world.net.stats().buffered_bytes == 0);
        assert_eq!(Arc::strong_count(&source), 2, "the shared one's, and this test's");
        drop(shared);
        assert_eq!(Arc::strong_count(&source), 1);
    });
}

/// Receivers that never read fill their own backlogs and are refused; the others get everything,
/// and a slow one hears of room once it reads.
#[test]
fn a_slow_receiver_hits_its_own_limits_alone() {
    const LIMITS: BacklogLimits = BacklogLimits { low: 4000, high: 16_000, max: 64_000 };
    on_every_backend(|lane| {
        // However long it takes to fill them, the slow ones are not to be cut for it.
        let liveness = Liveness::new().write_stall(Duration::MAX);
        let mut world = World::with(lane.options().backlog(LIMITS).liveness(liveness));
        let (mut peers, handles) = peers(&mut world, 6);
        let (source, shared) = body(&pattern(1024));
        for (peer, handle) in peers.iter().zip(&handles).take(2) {
            narrow(&mut world, peer, *handle);
        }
        let (mut rounds, mut accepted) = (0, [0; 2]);
        while accepted.iter().any(|accepted| rounds < 2 * accepted + 100) {
            let told = world.net.broadcast(handles[2..].iter().copied(), &shared);
            assert_eq!(told, all_queued(4), "nobody waits for the slow ones");
            for (handle, accepted) in handles.iter().zip(&mut accepted) {
                match world.net.send_shared(*handle, &shared) {
                    Ok(_) => *accepted += 1,
                    Err(SendError::Full { queued, len: 1024, limit: 64_000 }) => {
                        assert!(queued + 1024 > 64_000, "shared bodies count in full");
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            for peer in &mut peers[2..] {
                assert!(world.read(peer, 1024)[..] == source[..], "bytes differ");
            }
            rounds += 1;
            assert!(rounds < 5000, "{accepted:?}");
        }
        let told = world.net.broadcast(handles.iter().copied(), &shared);
        assert_eq!(told, Broadcast { queued: 4, above_high_mark: 0, refused: 2 });
        assert!(world.net.stats().sends_refused > 0);
        // On the way there a kernel that was slow to fill its buffers may have made room.
        let told = |world: &World, at: usize| {
            let log = world.app.log_of(handles[at]);
            log.iter().filter(|entry| **entry == Entry::Write).count()
        };
        assert!((2..6).all(|at| told(&world, at) == 0), "the others were never short of room");
        let before = [0, 1].map(|at| told(&world, at));

        let bytes = world.read(&mut peers[0], accepted[0] * 1024);
        assert!(bytes == source.repeat(accepted[0]), "bytes differ");
        world.turn_until("room", |world| told(world, 0) > before[0]);
        assert_eq!(told(&world, 1), before[1], "the other slow one has none");
        world.net.abort(handles[1]).unwrap();
        world.turn_until("the end of it", |world| world.net.stats().buffered_bytes == 0);
        assert_eq!(Arc::strong_count(&source), 2, "nobody holds it any more");
    });
}

/// A refusal of one stops no other: closed receivers, and handles that cannot send, are counted.
#[test]
fn a_broadcast_goes_on_behind_a_refusal() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (listener, address) = world.listen();
        let (_first, stale) = world.accepted_peer(address);
        let (mut second, open) = world.accepted_peer(address);
        world.net.close(stale).unwrap();
        let shared = Shared::from(pattern(2000));
        let told = world.net.broadcast([stale, listener, open, stale], &shared);
        assert_eq!(told, Broadcast { queued: 1, above_high_mark: 0, refused: 3 });
        assert!(world.read(&mut second, 2000) == pattern(2000));
        assert_eq!(world.net.send_shared(stale, &shared), Err(SendError::Stale));
        assert_eq!(world.net.send_shared(listener, &shared), Err(SendError::NotConnected));
        let nobody = world.net.broadcast([], &shared);
        assert_eq!(nobody, Broadcast::default());
    });
}

/// The marks tell of shared bytes as of others.
#[test]
fn shared_bytes_pass_the_marks_as_others_do() {
    let limits = BacklogLimits { low: 1000, high: 2000, max: 4000 };
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().backlog(limits));
        let (mut peers, handles) = peers(&mut world, 2);
        let shared = Shared::from(pattern(1500));
        world.net.send(handles[0], &[7; 600]).unwrap();
        let told = world.net.broadcast(handles.iter().copied(), &shared);
        assert_eq!(told, Broadcast { queued: 1, above_high_mark: 1, refused: 0 });
        assert_eq!(
            (pending(&mut world, handles[0]), pending(&mut world, handles[1])),
            (2100, 1500)
        );
        let too_long = SendError::TooLong { len: 4001, max: 4000 };
        let long = Shared::from(pattern(4001));
        assert_eq!(world.net.send_shared(handles[1], &long), Err(too_long));
        world.turn_until("a Write event", |world| {
            world.app.log_of(handles[0]).contains(&Entry::Write)
        });
        world.read(&mut peers[0], 2100);
        world.read(&mut peers[1], 1500);
        assert_eq!(world.app.log_of(handles[1]), [Entry::Connect]);
    });
}

/// C7: what was broadcast before a close arrives, and then the end.
#[test]
fn a_close_flushes_what_was_broadcast() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peers, handles) = peers(&mut world, 5);
        let (source, shared) = body(&pattern(100_000));
        for handle in &handles {
            world.net.send(*handle, b"first").unwrap();
        }
        assert_eq!(world.net.broadcast(handles.iter().copied(), &shared).refused, 0);
        drop(shared);
        for handle in &handles {
            world.net.close(*handle).unwrap();
        }
        for peer in &mut peers {
            let (bytes, end) = world.read_to_end(peer);
            end.unwrap();
            assert!(bytes == [b"first", &source[..]].concat(), "{} bytes", bytes.len());
        }
        assert_eq!(Arc::strong_count(&source), 1, "nobody holds it any more");
    });
}

/// However a connection ends, it lets go of what it had queued, in flight and behind it.
#[test]
fn bodies_are_freed_with_their_connections() {
    let ends: [fn(&mut World, Handle, TcpStream); 4] = [
        |_, _, peer| reset(peer),
        |world, handle, _peer| world.net.abort(handle).unwrap(),
        |world, handle, _peer| world.net.close(handle).unwrap(),
        |_, _, peer| drop(peer),
    ];
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        for (end, rounds) in ends.into_iter().flat_map(|end| [(end, 1), (end, 3)]) {
            let (mut peer, handle) = world.accepted_peer(address);
            narrow(&mut world, &peer, handle);
            let (source, shared) = body(&pattern(300_000));
            for _ in 0..rounds {
                world.net.send(handle, b"own").unwrap();
                assert_eq!(world.net.broadcast([handle], &shared).refused, 0);
                world.turn();
            }
            drop(shared);
            world.write(&mut peer, &frame(20, 1));
            world.turn_until("a PDU", |world| world.app.log_of(handle).len() == 2);
            assert_eq!(Arc::strong_count(&source), 2, "it waits for it");
            assert_eq!(world.net.stats().buffered_bytes, 300_000 + rounds * (3 + PLACE));
            end(&mut world, handle, peer);
            world.turn_until("it is gone", |world| world.net.stats().sockets == 1);
            assert_eq!(Arc::strong_count(&source), 1);
            assert_eq!(world.net.stats().buffered_bytes, 0);
        }
        // And what the driver was never given.
        let (_peer, handle) = world.accepted_peer(address);
        let (source, shared) = body(&pattern(1024));
        world.net.send(handle, b"own").unwrap();
        world.net.send_shared(handle, &shared).unwrap();
        drop(shared);
        world.net.abort(handle).unwrap();
        world.turn_until("it is gone", |world| world.net.stats().sockets == 1);
        assert_eq!((Arc::strong_count(&source), world.net.stats().buffered_bytes), (1, 0));
    });
}

/// What each place costs at which a body waits.
const PLACE: u64 = 96;

/// A body of 1 KiB is held once for all who wait for it, and a short one is copied.
#[test]
fn waiting_bodies_are_charged_once() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peers, handles) = peers(&mut world, 10);
        let shared = Shared::from(pattern(1024));
        let queued = |world: &World| world.net.stats().buffered_bytes;
        for round in 1..=3 {
            let _ = world.net.broadcast(handles.iter().copied(), &shared);
            assert_eq!(queued(&world), 1024 + round * 10 * PLACE);
        }
        world.net.send(handles[0], &[1; 5]).unwrap();
        let _ = world.net.broadcast(handles.iter().copied(), &Shared::from(pattern(100)));
        let all = 1024 + 30 * PLACE + 5 + 10 * 100;
        assert_eq!(queued(&world), all);
        // Another runtime of this thread, which has the body as well, counts for itself.
        let mut other = World::new(lane);
        let (mut peer, handle) = other.served_peer();
        other.net.send_shared(handle, &shared).unwrap();
        assert_eq!((queued(&world), queued(&other)), (all, 1024 + PLACE));
        for (at, peer) in peers.iter_mut().enumerate() {
            world.read(peer, 3 * 1024 + 100 + if at == 0 { 5 } else { 0 });
        }
        other.read(&mut peer, 1024);
        for world in [&mut world, &mut other] {
            world.turn_until("all have left", |world| queued(world) == 0);
        }
    });
}

/// The limit of what is kept for all sockets together counts a body once: who waits for one that
/// others wait for as well takes no more room.
#[test]
fn a_body_that_waits_already_takes_no_more_room() {
    on_every_backend(|lane| {
        // An eighth is kept for what is received.
        let mut world = World::with(lane.options().buffered_bytes_max(80_000));
        let (mut peers, handles) = peers(&mut world, 5);
        let shared = Shared::from(pattern(60_000));
        let told = world.net.broadcast(handles.iter().copied(), &shared);
        assert_eq!((told.queued, told.refused), (5, 0));
        let other = Shared::from(pattern(20_000));
        let told = world.net.broadcast(handles.iter().copied(), &other);
        assert_eq!((told.queued, told.refused), (0, 5));
        let buffered = usize::try_from(60_000 + 5 * PLACE).unwrap();
        let exhausted = SendError::Exhausted { buffered };
        assert_eq!(world.net.send_shared(handles[0], &other), Err(exhausted));
        for peer in &mut peers {
            assert!(world.read(peer, 60_000) == pattern(60_000), "bytes differ");
        }
        world.turn_until("room", |world| {
            handles.iter().all(|handle| world.app.log_of(*handle).contains(&Entry::Write))
        });
        assert_eq!(world.net.stats().buffered_bytes, 0);
        assert_eq!(world.net.broadcast(handles.iter().copied(), &other), all_queued(5));
        for peer in &mut peers {
            world.read(peer, 20_000);
        }
    });
}

/// Says to everybody in the room what it hears from one.
struct Guest;

impl Connection<Vec<Handle>> for Guest {
    fn on_connect(&mut self, room: &mut Vec<Handle>, context: &mut Context<'_, Vec<Handle>>) {
        room.push(context.handle());
        let welcome = Shared::pdu(Header::new(3, 1), &"w".repeat(600), 1000).unwrap();
        context.send_shared(&welcome).unwrap();
    }

    fn on_pdu(
        &mut self,
        room: &mut Vec<Handle>,
        context: &mut Context<'_, Vec<Handle>>,
        pdu: Pdu<'_>,
    ) {
        let told = context.net().broadcast(room.iter().copied(), &Shared::from(pdu.to_bytes()));
        assert_eq!(told, all_queued(room.len()));
    }
}

/// Objects send shared bodies as well, to themselves and to others, from inside their methods.
#[test]
fn objects_share_bodies() {
    on_every_backend(|lane| {
        let (mut net, mut room) = (lane.options().build().unwrap(), Vec::new());
        let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Guest)).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("an IPv4 address")
        };
        let connect = |_| TcpStream::connect(address).unwrap();
        let mut peers: Vec<TcpStream> = (0..3).map(connect).collect();
        let end = Instant::now() + DEADLINE;
        while room.len() < peers.len() {
            assert!(Instant::now() < end, "they are not accepted");
            net.turn(&mut room, Duration::from_millis(1)).unwrap();
        }
        let said = frame(700, 9);
        peers[0].write_all(&said).unwrap();
        for peer in &mut peers {
            peer.set_nonblocking(true).unwrap();
            let (mut heard, mut space) = (Vec::new(), [0; 2000]);
            while heard.len() < 619 + said.len() {
                assert!(Instant::now() < end, "{} bytes", heard.len());
                net.turn(&mut room, Duration::from_millis(1)).unwrap();
                let len = peer.read(&mut space).unwrap_or(0);
                heard.extend_from_slice(&space[..len]);
            }
            assert!(heard.starts_with(&619u32.to_be_bytes()) && heard.ends_with(&said));
        }
    });
}

/// A shared PDU keeps to the limit that it is given.
#[test]
fn a_shared_pdu_keeps_to_its_limit() {
    let header = Header::new(3, 0x0301);
    let shared = Shared::pdu(header, &7u32, 18).unwrap();
    assert_eq!(shared.bytes()[..4], [0, 0, 0, 18]);
    assert!(shared.len() == 18 && !shared.is_empty());
    let error = EncodeError::TooLong { len: 18, max: 17 };
    assert_eq!(Shared::pdu(header, &7u32, 17).unwrap_err(), error);
}
