//! Bounded memory: peers that do not read, applications that send too much, and receive buffers
//! that are too few.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::*;

const LIMITS: BacklogLimits = BacklogLimits { low: 1000, high: 2000, max: 4000 };

/// A send is taken, taken with a warning above the high mark, refused at the cap as a whole, and
/// refused for ever where it could never fit; and one Write event tells when there is room.
#[test]
fn sends_are_warned_and_refused_by_the_marks() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().backlog(LIMITS));
        let (mut peer, handle) = world.served_peer();
        let net = &mut world.net;
        assert_eq!(net.send(handle, &[1; 2000]), Ok(SendStatus::Queued));
        assert_eq!(net.send(handle, &[2; 1]), Ok(SendStatus::AboveHighMark));
        assert_eq!(net.send(handle, &[3; 1999]), Ok(SendStatus::AboveHighMark));
        let full = SendError::Full { queued: 4000, len: 1, limit: 4000 };
        assert_eq!(net.send(handle, &[4; 1]), Err(full));
        let too_long = SendError::TooLong { len: 4001, max: 4000 };
        assert_eq!(net.send(handle, &[5; 4001]), Err(too_long));
        assert_eq!(net.option(handle).unwrap().pending_bytes(), 4000);

        world.turn_until("a Write event", |world| world.app.log().len() == 2);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Write]);
        assert_eq!(world.net.option(handle).unwrap().pending_bytes(), 0);
        let expected = [vec![1; 2000], vec![2; 1], vec![3; 1999]].concat();
        assert_eq!(world.read(&mut peer, 4000), expected);
        world.settle();
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Write], "once");
        let stats = world.net.stats();
        assert_eq!((stats.bytes_out, stats.sends_refused), (4000, 1));
    });
}

/// Without a warning or a refusal there is no Write event, and an empty send is nothing.
#[test]
fn a_send_below_the_high_mark_needs_no_event() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().backlog(LIMITS));
        let (mut peer, handle) = world.served_peer();
        for _ in 0..10 {
            assert_eq!(world.net.send(handle, &[7; 2000]), Ok(SendStatus::Queued));
            assert_eq!(world.net.send(handle, &[]), Ok(SendStatus::Queued));
            assert_eq!(world.read(&mut peer, 2000), [7; 2000]);
            world.turn_until("it has left", |world| {
                world.net.option(handle).unwrap().pending_bytes() == 0
            });
        }
        let sends = world.net.stats().sends;
        world.net.send(handle, &[]).unwrap();
        world.settle();
        assert_eq!(world.net.stats().sends, sends, "there is nothing to send");
        assert_eq!(world.app.log_of(handle), [Entry::Connect]);
    });
}

/// A peer that never reads costs as much as the cap and no more, however often is tried.
#[test]
fn a_peer_that_never_reads_is_bounded_by_the_cap() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().backlog(LIMITS));
        let (peer, handle) = narrow_peer(&mut world);
        let (mut refusals, mut in_a_row) = (0, 0);
        let mut try_once = |world: &mut World| {
            match world.net.send(handle, &[1; 700]) {
                Ok(_) => in_a_row = 0,
                Err(SendError::Full { queued, len: 700, limit: 4000 }) => {
                    assert!(queued <= 4000);
                    (refusals, in_a_row) = (refusals + 1, in_a_row + 1);
                }
                Err(other) => panic!("{other:?}"),
            }
            assert!(world.net.option(handle).unwrap().pending_bytes() <= 4000);
            assert_eq!(world.net.stats().sends_refused, refusals);
            in_a_row
        };
        // The kernels' buffers fill up first, in their own time.
        world.turn_while_not("the kernels take no more", |world| try_once(world) == 100);
        let told = world.app.log_of(handle).len();
        for tries in 101..1000 {
            assert_eq!(try_once(&mut world), tries, "there is no room");
            world.turn();
        }
        assert_eq!(world.app.log_of(handle).len(), told, "there is no room yet");
        drop(peer);
    });
}

/// A peer with small buffers of the kernel between it and this side.
fn narrow_peer(world: &mut World) -> (TcpStream, Handle) {
    let (peer, handle) = world.served_peer();
    world.net.option(handle).unwrap().set_send_buffer_size(1 << 14).unwrap();
    SockRef::from(&peer).set_recv_buffer_size(1 << 14).unwrap();
    (peer, handle)
}

/// An application that sends until it is warned, and goes on at each Write event, moves any amount
/// in order through a small backlog.
#[test]
fn write_events_pace_a_long_stream() {
    on_every_backend(|lane| {
        let bytes = pattern(1 << 20);
        let limits = BacklogLimits { low: 16 << 10, high: 64 << 10, max: 96 << 10 };
        let mut world = World::with(lane.options().backlog(limits));
        let (source, mut sent) = (bytes.clone(), 0);
        world.script(move |_, net, handle, event| {
            if !matches!(event, Event::Connect { .. } | Event::Write) {
                return;
            }
            while sent < source.len() {
                let end = source.len().min(sent + 5000);
                let status = net.send(handle, &source[sent..end]).expect("warned in time");
                sent = end;
                if status == SendStatus::AboveHighMark {
                    return;
                }
            }
        });
        let (mut peer, handle) = narrow_peer(&mut world);
        assert!(world.read(&mut peer, bytes.len()) == bytes, "bytes differ");
        let writes = world.app.log_of(handle).len() - 1;
        assert!((5..30).contains(&writes), "{writes} Write events");
    });
}

/// Limits that are changed hold for the next send; limits out of order are refused.
#[test]
fn limits_can_be_changed_while_bytes_are_pending() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().backlog(LIMITS));
        let (mut peer, handle) = world.served_peer();
        world.net.send(handle, &[1; 4000]).unwrap();
        let mut option = world.net.option(handle).unwrap();
        let unordered = BacklogLimits { low: 3, high: 2, max: 4 };
        assert!(matches!(option.set_backlog_limits(unordered), Err(OptionError::Marks)));
        assert_eq!(option.backlog_limits(), LIMITS);
        option.set_backlog_limits(BacklogLimits { low: 10, high: 20, max: 30 }).unwrap();
        let full = SendError::Full { queued: 4000, len: 30, limit: 30 };
        assert_eq!(world.net.send(handle, &[2; 30]), Err(full));
        world.net.option(handle).unwrap().set_backlog_limits(LIMITS).unwrap();
        assert_eq!(world.read(&mut peer, 4000), [1; 4000]);
        assert_eq!(world.app.count(|entry| *entry == Entry::Write), 1);
    });
}

/// All that one turn queues on a socket leaves in one send.
#[test]
fn the_sends_of_one_turn_leave_together() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = world.served_peer();
        for fill in 0..100 {
            world.net.send(handle, &[fill; 10]).unwrap();
        }
        let expected: Vec<u8> = (0..100).flat_map(|fill| [fill; 10]).collect();
        assert_eq!(world.read(&mut peer, 1000), expected);
        assert_eq!(world.net.stats().sends, 1);
    });
}

/// Two receive buffers of 64 bytes for fifty connections of 64 KiB each: sockets wait in turn,
/// nothing is lost or reordered, and waiting does not spin.
#[test]
fn a_tiny_pool_loses_nothing() {
    const CONNECTIONS: usize = 50;
    const EACH: usize = 64 << 10;
    on_every_backend(|lane| {
        let options = lane.options().pool(2, 64).delivery(Delivery::Push);
        let mut world = World::with(options);
        let (_, address) = world.listen();
        let bytes = pattern(EACH + CONNECTIONS);
        let mut peers: Vec<TcpStream> = (0..CONNECTIONS).map(|_| world.peer(address)).collect();
        for (shift, peer) in peers.iter_mut().enumerate() {
            world.write(peer, &bytes[shift..shift + EACH]);
        }
        let turns = world.net.stats().turns;
        drop(peers);
        world.turn_until("all are closed", |world| {
            world.net.stats().accepted == CONNECTIONS as u64 && world.net.stats().sockets == 1
        });
        for (shift, handle) in world.app.handles_by(SERVER).into_iter().enumerate() {
            assert!(world.app.received(handle) == &bytes[shift..shift + EACH], "{handle} differs");
            let close = Entry::Close(CloseReason::PeerClosed);
            assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Read(EACH), close]);
        }
        let stats = world.net.stats();
        // Each buffer is filled at least once every few turns.
        let chunks = (CONNECTIONS * EACH / 64) as u64;
        assert!(stats.turns - turns < 2 * chunks, "{chunks} chunks, {stats:?}");
        // The ring hands out buffers ahead of the data; epoll takes one when there is data.
        assert!(stats.no_buffers > 0 || lane.backend == Backend::Epoll, "{stats:?}");
        world.settle();
        assert_eq!(world.net.stats().no_buffers, stats.no_buffers, "idle, it still asks for some");
    });
}

/// A socket without a buffer gets one as soon as there are some, although others go on sending.
#[test]
fn no_socket_starves_beside_a_busy_one() {
    on_every_backend(|lane| {
        let options = lane.options().pool(1, 64).delivery(Delivery::Push);
        let mut world = World::with(options);
        let (_, address) = world.listen();
        let (mut busy, _) = world.accepted_peer(address);
        let (mut quiet, handle) = world.accepted_peer(address);
        let stream = pattern(256 << 10);
        let mut written = 0;
        world.write(&mut quiet, b"short");
        let before = world.net.stats().bytes_in;
        world.turn_while_not("the quiet one is heard", |world| {
            if let Err(error) = fill(&mut busy, &stream, &mut written) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            }
            world.app.received(handle) == b"short"
        });
        let overtaken = world.net.stats().bytes_in - before;
        assert!(overtaken < 128 * 64, "{overtaken} bytes of the other went first");
    });
}

fn fill(peer: &mut TcpStream, bytes: &[u8], written: &mut usize) -> std::io::Result<()> {
    while *written < bytes.len() {
        *written += std::io::Write::write(peer, &bytes[*written..])?;
    }
    Ok(())
}

/// A peer that is slow but reads gets everything, while fast ones are not held up by it.
#[test]
fn a_slow_peer_delays_nobody_else() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.echo();
        let (slow, handle) = narrow_peer(&mut world);
        world.net.send(handle, &pattern(1 << 20)).unwrap();
        let (_, address) = world.listen();
        let (mut fast, _) = world.accepted_peer(address);
        for fill in 0..50 {
            world.write(&mut fast, &frame(100, fill));
            assert_eq!(world.read(&mut fast, 100), frame(100, fill));
        }
        assert!(world.net.option(handle).unwrap().pending_bytes() > 0);
        let mut slow = slow;
        let mut space = [0; 1000];
        assert!(slow.read(&mut space).unwrap() > 0, "its bytes are there");
    });
}

/// Sockets that wait for a buffer get their turn although those before them receive nothing.
#[test]
fn idle_sockets_do_not_hold_up_those_behind_them() {
    on_every_backend(|lane| {
        let options = lane.options().pool(1, 64).delivery(Delivery::Push);
        let mut world = World::with(options);
        let (_, address) = world.listen();
        let mut peers: Vec<_> = (0..6).map(|_| world.accepted_peer(address)).collect();
        for round in 1..=20 {
            for (peer, _) in &mut peers {
                world.write(peer, b"x");
            }
            // Waits for as long as it takes: a socket that nobody looks at any more is a failure.
            for (_, handle) in &peers {
                world.turn_until("a byte", |world| world.app.received(*handle).len() >= round);
            }
        }
    });
}

/// Sockets that waited for a buffer and are gone take nobody's turn: a loop without connections is
/// idle at once.
#[test]
fn sockets_that_are_gone_do_not_wait_for_buffers() {
    on_every_backend(|lane| {
        let options = lane.options().pool(1, 64).delivery(Delivery::Push);
        let mut world = World::with(options);
        let (_, address) = world.listen();
        let mut peers: Vec<_> = (0..100).map(|_| world.accepted_peer(address)).collect();
        for (peer, _) in &mut peers {
            peer.write_all(&[0; 10_000]).unwrap();
        }
        for _ in 0..200 {
            world.turn();
        }
        for (_, handle) in &peers {
            world.net.abort(*handle).unwrap();
        }
        world.turn_until("all are gone", |world| world.net.stats().sockets == 1);
        let before = world.net.stats().turns;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            world.turn_for(Duration::from_millis(20));
        }
        let turns = world.net.stats().turns - before;
        assert!(turns < 10, "{turns} turns with nothing to do");
    });
}
