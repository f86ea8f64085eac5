//! Statistics agree with what happened, and with each other.

mod support;

use std::time::Duration;

use support::*;
use uring_netlib::Stats;

/// How many sockets are in which state: resolving, listening, connecting, connected, closing.
fn states(stats: &Stats) -> [u64; 5] {
    [stats.resolving, stats.listening, stats.connecting, stats.connected, stats.closing]
}

/// Sockets are counted in the state in which they are, also inside of callbacks, and all states
/// together are all sockets.
#[test]
fn sockets_are_counted_by_state() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|_, net, _, event| {
            let stats = net.stats();
            assert_eq!(states(&stats).iter().sum::<u64>(), stats.sockets);
            match event {
                Event::Confirm => assert_eq!(stats.connecting, 0, "it is connected"),
                Event::Close(_) => assert_eq!(stats.closing, 1, "it is closing"),
                _ => {}
            }
        });
        assert_eq!(states(&world.net.stats()), [0, 0, 0, 0, 0]);
        let (listener, address) = world.listen();
        assert_eq!(states(&world.net.stats()), [0, 1, 0, 0, 0]);
        let client = world.connect(address);
        assert_eq!(states(&world.net.stats()), [0, 1, 1, 0, 0]);
        world.turn_until("both ends", |world| states(&world.net.stats()) == [0, 1, 0, 2, 0]);
        let host = world.connect("localhost:1");
        assert_eq!(states(&world.net.stats()), [1, 1, 0, 2, 0]);
        world.net.abort(host).unwrap();
        world.net.close(client).unwrap();
        assert_eq!(world.net.stats().connected, 1);
        assert!(world.net.stats().closing >= 1);
        world
            .turn_until("only the listener", |world| states(&world.net.stats()) == [0, 1, 0, 0, 0]);
        world.net.close(listener).unwrap();
        world.turn_until("nothing", |world| world.net.stats().sockets == 0);
        let stats = world.net.stats();
        assert_eq!((stats.accepted, stats.confirmed, stats.closed), (1, 1, 4));
        assert_eq!((stats.closes.by_application, stats.closes.peer_closed), (3, 1));
    });
}

/// Each way to end is counted under its own reason.
#[test]
fn ends_are_counted_by_reason() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        drop(world.accepted_peer(address));
        world.turn_until("a plain end", |world| world.net.stats().closes.peer_closed == 1);
        let (mut peer, _) = world.accepted_peer(address);
        world.write(&mut peer, &frame(64, 1)[..9]);
        drop(peer);
        world.turn_until("a cut PDU", |world| world.net.stats().closes.truncated == 1);
        let (mut peer, _) = world.accepted_peer(address);
        world.write(&mut peer, &[0; 16]);
        world.turn_until("a bad length", |world| world.net.stats().closes.bad_frame == 1);
        reset(world.accepted_peer(address).0);
        world.turn_until("a reset", |world| world.net.stats().closes.reset == 1);
        let (_silent, refusing) = silent_socket();
        world.connect(refusing);
        world.turn_until("a refusal", |world| world.net.stats().closes.refused == 1);
        world.script(|_, _, _, event| assert!(!matches!(event, Event::Pdu(_)), "as it should"));
        let (mut panicking, _) = world.accepted_peer(address);
        world.write(&mut panicking, &frame(64, 1));
        world.turn_until("a panic", |world| world.net.stats().closes.panicked == 1);
        assert_eq!(world.net.stats().panics, 1);
    });
}

/// Bytes and messages each way, batches and turns, are counted once.
#[test]
fn traffic_is_counted_once() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.echo();
        let (mut peer, _) = world.served_peer();
        for _ in 0..10 {
            world.write(&mut peer, &frame(100, 1));
            world.read(&mut peer, 100);
        }
        world.settle();
        let stats = world.net.stats();
        assert_eq!((stats.bytes_in, stats.bytes_out), (1000, 1000));
        assert_eq!((stats.pdus_in, stats.messages_out, stats.sends), (10, 10, 10));
        assert_eq!(stats.batches.iter().sum::<u64>(), stats.turns);
        assert!(stats.completions >= 20 && stats.waits >= 10, "{stats:?}");
        assert_eq!((stats.buffered_bytes, stats.buffers_lent), (0, 0));
    });
}

/// Armed timers are counted, and how late those were that went off.
#[test]
fn timers_are_counted_with_their_lateness() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let mut world = World::with(lane.options().clock(&clock));
        world.net.register_timer(Duration::from_millis(10), Repeat::Once, on_event, 3);
        let other = world.net.register_timer(Duration::from_millis(20), Repeat::Once, on_event, 3);
        assert_eq!(world.net.stats().timers, 2);
        clock.advance(Duration::from_millis(17));
        world.turn();
        let stats = world.net.stats();
        assert_eq!((stats.timers, stats.timers_fired), (1, 1));
        assert_eq!((stats.timer_late_ms, stats.timer_late_ms_max), (7, 7));
        world.net.delete_timer(other).unwrap();
        assert_eq!(world.net.stats().timers, 0);
    });
}
