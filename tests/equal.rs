//! The same scenario has the same event log on every backend, whatever its peer does.

mod support;

use std::net::Shutdown;
use std::time::Duration;

use support::*;

/// Runs a scenario with one accepted peer until its connection is over, and compares the logs. The
/// application answers nothing: a peer that leaves answers unread resets the connection, and when
/// it does is a matter of time and not of the backend.
fn same_end(act: impl Fn(&mut World, std::net::TcpStream)) {
    same_on_every_backend(|lane| {
        let options = lane.options().close_timeout(Duration::from_millis(50));
        let mut world = World::with(options);
        let (peer, handle) = world.served_peer();
        act(&mut world, peer);
        world.turn_until("the end", |world| world.net.stats().sockets == 1);
        world.app.log_of(handle)
    });
}

/// The peer goes without a word, after a PDU, in the middle of one, and behind several.
#[test]
fn a_peer_that_finishes_is_told_alike() {
    let whole = [frame(20, 1), frame(16, 2), frame(300, 3)].concat();
    for len in [0, 3, 20, 25, 36, 100, whole.len()] {
        same_end(|world, mut peer| {
            world.write(&mut peer, &whole[..len]);
            drop(peer);
        });
    }
}

/// The peer finishes its side only, and reads its answers to their end.
#[test]
fn a_half_closed_peer_is_told_alike() {
    same_end(|world, mut peer| {
        world.echo();
        world.write(&mut peer, &frame(1000, 1).repeat(20));
        peer.shutdown(Shutdown::Write).unwrap();
        let (answers, ended) = world.read_to_end(&mut peer);
        assert_eq!(answers.len(), 20_000);
        ended.unwrap();
    });
}

/// The peer resets, before and in the middle of a PDU that is answered by nothing.
#[test]
fn a_reset_is_told_alike() {
    for len in [0, 3, 17] {
        same_end(|world, mut peer| {
            world.write(&mut peer, &frame(20, 1)[..len]);
            reset(peer);
        });
    }
}

/// Bad lengths, alone and behind good PDUs.
#[test]
fn bad_lengths_are_told_alike() {
    for length in [0, 15, (1 << 20) + 1, u32::MAX] {
        same_end(|world, mut peer| {
            let sent = [&frame(20, 1)[..], &length.to_be_bytes(), &frame(20, 2)].concat();
            world.write(&mut peer, &sent);
        });
    }
}

/// Attempts to connect that fail: nobody listens, nobody answers, no such path, no such name.
#[test]
fn failed_attempts_are_told_alike() {
    let (_silent, refused) = silent_socket();
    let addresses = [
        refused.to_string(),
        "unix:/nonexistent/path".to_owned(),
        "no-such-host.invalid:1".to_owned(),
    ];
    for address in addresses {
        same_on_every_backend(|lane| {
            let mut world = World::new(lane);
            let handle = world.connect(address.as_str());
            world.turn_until("a refusal", |world| world.app.log_of(handle).len() == 1);
            world.settle();
            world.app.log_of(handle)
        });
    }
}
