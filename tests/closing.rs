//! A graceful close loses nothing that was accepted (C7), and is not for ever either.
//!
//! Time is a `ManualClock` here: what a peer does meanwhile is done before the clock goes on.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;
use support::*;

/// More than a peer's kernel takes that has no room, and less than that and the own one's.
const LEN: usize = 300_000;

const STEP: Duration = Duration::from_millis(10);

/// A world whose clock stands still.
fn world(lane: &Lane) -> (World, ManualClock) {
    let clock = ManualClock::new();
    (World::with(lane.options().clock(&clock)), clock)
}

/// Closes a connection to a peer with little room, when nothing waits in the library any more and
/// much in the kernel: the peer, and what it is to get.
fn closed_with_bytes_in_the_kernel(world: &mut World) -> (TcpStream, Vec<u8>) {
    let (peer, handle) = world.served_peer();
    SockRef::from(&peer).set_recv_buffer_size(1 << 15).unwrap();
    world.net.option(handle).unwrap().set_send_buffer_size(4 << 20).unwrap();
    let bytes = pattern(LEN);
    world.net.send(handle, &bytes).unwrap();
    world.turn_while_not("the kernel has taken all", |world| {
        world.net.option(handle).unwrap().pending_bytes() == 0
    });
    world.net.close(handle).unwrap();
    wait_until_full(world, &peer);
    (peer, bytes)
}

/// Turns until no more arrives at a peer that does not read. The kernels take real time for that.
fn wait_until_full(world: &mut World, peer: &TcpStream) {
    let mut space = vec![0; LEN];
    let (mut before, mut quiet) = (0, 0);
    world.turn_while_not("a peer is full", |_| {
        let there = peer.peek(&mut space).unwrap_or(0);
        quiet = if there > 0 && there == before { quiet + 1 } else { 0 };
        before = there;
        quiet == 50
    });
}

/// Lets time pass in small steps, with a turn in each.
fn pass(world: &mut World, clock: &ManualClock, span: Duration) {
    for _ in 0..span.as_millis() / STEP.as_millis() {
        clock.advance(STEP);
        world.turn();
    }
    world.settle();
}

/// Lets time pass until nothing closes any more; how much it was. A peer's kernel may take some
/// real time to acknowledge, so each step has a little of that.
fn pass_until_gone(world: &mut World, clock: &ManualClock) -> Duration {
    let start = clock.elapsed();
    world.turn_while_not("it is gone", |world| {
        clock.advance(STEP);
        world.net.stats().closing == 0
    });
    clock.elapsed() - start
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// C7: a peer that pauses for some seconds, and speaks before it reads, gets every byte and then
/// the end.
#[test]
fn a_peer_that_pauses_gets_everything() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (mut peer, bytes) = closed_with_bytes_in_the_kernel(&mut world);
        for _ in 0..4 {
            pass(&mut world, &clock, seconds(2));
            peer.write_all(b"are you there?").unwrap();
            world.settle();
        }
        let (received, ended) = world.read_to_end(&mut peer);
        assert!(received == bytes, "{} of {LEN} bytes, {ended:?}", received.len());
        ended.unwrap();
        assert_eq!(world.net.stats().closes_cut, 0);
    });
}

/// While a closing connection waits, it is looked at a few times a second, and not more.
#[test]
fn a_closing_connection_is_looked_at_rarely() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (_peer, _) = closed_with_bytes_in_the_kernel(&mut world);
        let before = world.net.stats().timers_fired;
        pass(&mut world, &clock, seconds(9));
        let looks = world.net.stats().timers_fired - before;
        assert!((9..=45).contains(&looks), "{looks} looks in 9 s");
    });
}

/// C7: a peer that never reads is kept until `close_timeout` and no longer; it is then reset, and
/// counted.
#[test]
fn a_peer_that_never_reads_is_reset_in_the_end() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (mut peer, _) = closed_with_bytes_in_the_kernel(&mut world);
        pass(&mut world, &clock, Duration::from_millis(9990));
        assert_eq!(world.net.stats().closing, 1, "the time is not over");
        pass(&mut world, &clock, Duration::from_millis(20));
        let stats = world.net.stats();
        assert_eq!((stats.closing, stats.closes_cut), (0, 1));
        let (received, ended) = world.read_to_end(&mut peer);
        assert!(received.len() < LEN);
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// C7: a peer that still takes bytes at `close_timeout` gets the rest from the kernel.
#[test]
fn a_peer_that_is_slow_gets_the_rest_from_the_kernel() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (mut peer, bytes) = closed_with_bytes_in_the_kernel(&mut world);
        let mut received = Vec::new();
        while world.net.stats().closing > 0 {
            received.extend(world.read(&mut peer, LEN / 20));
            pass(&mut world, &clock, seconds(1));
        }
        assert!(received.len() < LEN);
        let stats = world.net.stats();
        assert_eq!((stats.closing, stats.closes_cut), (0, 1));
        let (rest, ended) = world.read_to_end(&mut peer);
        received.extend(rest);
        assert!(received == bytes, "{} of {LEN} bytes, {ended:?}", received.len());
        ended.unwrap();
    });
}

/// C7: a peer that sends more than is waited for still gets everything, once it reads.
#[test]
fn a_peer_that_floods_gets_everything() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (mut peer, bytes) = closed_with_bytes_in_the_kernel(&mut world);
        let flood = pattern(64 << 10);
        let mut is_stuck = false;
        while !is_stuck {
            is_stuck = peer.write(&flood).is_err();
            world.settle();
        }
        pass(&mut world, &clock, seconds(3));
        let received = world.read(&mut peer, LEN);
        assert!(received == bytes, "bytes differ");
        let passed = pass_until_gone(&mut world, &clock);
        assert!(passed < seconds(8), "it has everything, and goes after {passed:?}");
        assert_eq!(world.net.stats().closes_cut, 0);
    });
}

/// A peer that gets at once what was pending, and does not end its stream, is let go two seconds
/// after it was seen to have it.
#[test]
fn a_peer_that_has_what_was_pending_is_let_go() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (mut peer, handle) = world.served_peer();
        world.net.send(handle, b"good bye").unwrap();
        world.net.close(handle).unwrap();
        world.read(&mut peer, 8);
        let passed = pass_until_gone(&mut world, &clock);
        assert!(seconds(2) <= passed && passed < seconds(4), "{passed:?}");
        assert_eq!(world.net.stats().closes_cut, 0);
    });
}

/// What was received of a PDU goes with the close, not with the connection.
#[test]
fn half_a_pdu_is_not_kept_for_nobody() {
    on_every_backend(|lane| {
        let (mut world, _) = world(lane);
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &frame(100_000, 1)[..50_000]);
        world.turn_while_not("it is kept", |world| world.net.stats().buffered_bytes >= 50_000);
        world.net.close(handle).unwrap();
        // The kernel may have to give a buffer back first.
        world.turn_while_not("nothing is kept", |world| world.net.stats().buffered_bytes == 0);
        assert_eq!(world.net.stats().closing, 1);
    });
}

/// A reset of a peer that sends more than is waited for is noticed.
#[test]
fn a_flood_that_ends_by_a_reset_is_over() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (mut peer, _) = closed_with_bytes_in_the_kernel(&mut world);
        let flood = pattern(64 << 10);
        let mut is_stuck = false;
        while !is_stuck {
            is_stuck = peer.write(&flood).is_err();
            world.settle();
        }
        reset(peer);
        let passed = pass_until_gone(&mut world, &clock);
        assert!(passed < seconds(3), "it is gone, and noticed after {passed:?}");
        assert_eq!(world.net.stats().closes_cut, 0);
    });
}

/// A peer that has everything and does not end its stream is let go after two seconds: from the
/// close, or from when it was seen to have it.
#[test]
fn a_peer_that_has_everything_is_let_go() {
    on_every_backend(|lane| {
        let (mut world, clock) = world(lane);
        let (_quick, handle) = world.served_peer();
        world.net.close(handle).unwrap();
        let (mut slow, _) = closed_with_bytes_in_the_kernel(&mut world);
        pass(&mut world, &clock, Duration::from_millis(1990));
        assert_eq!(world.net.stats().closing, 2);
        pass(&mut world, &clock, Duration::from_millis(20));
        assert_eq!(world.net.stats().closing, 1);
        world.read(&mut slow, LEN);
        let passed = pass_until_gone(&mut world, &clock);
        assert!(seconds(2) <= passed && passed < seconds(8), "{passed:?}");
        assert_eq!(world.net.stats().closes_cut, 0);
    });
}
