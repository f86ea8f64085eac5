//! What the contract says of sends, D5 first of all.

#![forbid(unsafe_code)]

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::rig::{LIMIT, Peer, Rig, on_every_driver};
use crate::driver::{Auto, Driver, End, Family, Op, Outcome, Outgoing};
use crate::error::Errno;
use crate::event::Handle;
use crate::options::Options;
use crate::shared::{Ledger, Queued, Shared};

/// D5: a send completes once, for all of its bytes, however slowly the peer reads.
#[test]
fn a_send_completes_once_for_all_bytes() {
    on_every_driver(Options::new(), |rig| {
        let (handle, mut peer) = rig.tcp_pair();
        let len = rig.plenty();
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let expected = bytes.clone();
        let reader = thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            peer.read_exact(&mut received).unwrap();
            assert!(received == expected, "D5: bytes differ");
            peer
        });
        rig.driver.send(handle, bytes.into());
        let Outcome::Sent(bytes) = rig.last_of(handle, Op::Send) else { panic!() };
        assert_eq!(bytes.len(), len);
        drop(reader.join().unwrap());
    });
}

/// Progress is told when bytes leave a socket, and only then.
#[test]
fn progress_grows_as_bytes_leave() {
    on_every_driver(Options::new(), |rig| {
        let len = rig.plenty();
        for (handle, mut peer) in [rig.tcp_pair(), rig.unix_pair()] {
            peer.set_blocking(false);
            let told = |rig: &Rig| rig.driver.progress(handle).expect("it is known");
            let start = told(rig);
            rig.driver.send(handle, vec![7; len].into());
            let end = start + len as u64;
            let (mut before, mut quiet) = (start, 0);
            while quiet < 5 {
                rig.wait(Duration::from_millis(20));
                quiet = if told(rig) == before { quiet + 1 } else { 0 };
                before = told(rig);
            }
            assert!(start < before && before < end, "{before}: the buffers are full");
            for target in [before + 1, end] {
                let clock = Instant::now();
                while told(rig) < target {
                    assert!(clock.elapsed() < LIMIT, "{} instead of {target}", told(rig));
                    let _ = peer.read(&mut [0; 64 << 10]);
                    rig.wait(Duration::ZERO);
                }
            }
            assert!(matches!(rig.last_of(handle, Op::Send), Outcome::Sent(_)));
        }
        assert_eq!(rig.driver.progress(Handle::new(99, 1)), None);
    });
}

/// What the peer has not acknowledged is told once the writing side was ended, and is nothing when
/// the peer has read it.
#[test]
fn what_the_peer_lacks_is_told() {
    const LEN: usize = 1 << 20;
    on_every_driver(Options::new(), |rig| {
        let (handle, mut peer) = rig.tcp_pair();
        peer.set_blocking(false);
        // So that the end of the send waits in the own kernel, whatever the peer has read.
        peer.shrink();
        rig.driver.socket(handle).unwrap().set_send_buffer_size(LEN).unwrap();
        let mut received = 0;
        let mut read = |rig: &mut Rig| {
            received += peer.read(&mut [0; 64 << 10]).unwrap_or(0);
            rig.wait(Duration::ZERO);
            received
        };
        rig.driver.send(handle, vec![7; LEN].into());
        let start = Instant::now();
        while !rig.ended.contains(&(handle, Op::Send)) {
            assert!(start.elapsed() < LIMIT, "the peer reads, so a send ends");
            read(rig);
        }
        rig.driver.end(handle, End::Write);
        let first = rig.driver.unacknowledged(handle);
        let is_possible = 0 < first && first <= LEN - read(rig) + (64 << 10);
        assert!(is_possible, "{first} bytes are not acknowledged");
        while rig.driver.unacknowledged(handle) > 0 {
            assert!(start.elapsed() < LIMIT, "{}", rig.driver.unacknowledged(handle));
            read(rig);
        }
        assert_eq!(rig.driver.unacknowledged(Handle::new(99, 1)), 0);
    });
}

/// D5: a send to a peer that is gone fails, without SIGPIPE, and its bytes come back.
#[test]
fn a_failed_send_gives_the_bytes_back() {
    on_every_driver(Options::new(), |rig| {
        let (handle, peer) = rig.tcp_pair();
        peer.reset();
        for _ in 0..3 {
            rig.driver.send(handle, vec![1; 100].into());
            let Outcome::SendFailed(errno, bytes) = rig.last_of(handle, Op::Send) else {
                panic!("a reset connection takes no bytes")
            };
            assert!(matches!(errno.0, libc::EPIPE | libc::ECONNRESET), "{errno}");
            assert_eq!(bytes.len(), 100);
            rig.ended.clear();
        }
    });
}

/// Own and shared bytes of all lengths by turns, `pieces` of them, with what must arrive. All
/// bodies are cut from `source`, and hold a reference to it.
fn woven(source: &Arc<[u8]>, pieces: usize, seed: usize) -> (Outgoing, Vec<u8>) {
    let ledger = Ledger::new();
    let (mut outgoing, mut expected) = (Outgoing::new(), Vec::new());
    for piece in 0..pieces {
        let start = (piece * 31 + seed * 7) % 1000;
        let bytes = Bytes::from_owner(Arc::clone(source)).slice(start..=start + piece * 17 % 700);
        expected.extend_from_slice(&bytes);
        // Two bodies in a row now and then, and one of them first.
        if piece % 3 == 1 {
            outgoing.own_mut(Box::default).extend_from_slice(&bytes);
        } else {
            outgoing.push(Queued::new(&Shared::from(bytes), ledger), Box::default);
        }
    }
    assert_eq!(outgoing.len(), expected.len());
    (outgoing, expected)
}

fn source() -> Arc<[u8]> {
    (0..2000u32).map(|n| (n % 251) as u8).collect()
}

/// A connected pair of either family whose near end has little room to send.
fn narrow_pair(rig: &mut Rig, family: Family) -> (Handle, Peer) {
    let (handle, mut peer) = match family {
        Family::Inet => rig.tcp_pair(),
        Family::Unix => rig.unix_pair(),
    };
    let near = rig.driver.socket(handle).unwrap();
    near.set_send_buffer_size(4096).unwrap();
    peer.set_blocking(false);
    (handle, peer)
}

/// On epoll, a call that has filled a socket is not followed by one that finds it full. The ring
/// has to follow it with a request, which waits in the kernel.
#[test]
fn a_full_socket_is_not_tried_again() {
    on_every_driver(Options::new(), |rig| {
        let Auto::Epoll(_) = rig.driver else { return };
        let (handle, _peer) = rig.unix_pair();
        let before = rig.driver.counters().sends;
        rig.driver.send(handle, vec![7; rig.plenty()].into());
        for _ in 0..3 {
            rig.wait(Duration::from_millis(1));
        }
        assert_eq!(rig.driver.counters().sends - before, 1);
    });
}

/// D5: a send of many pieces, more than one request takes, arrives whole and in order, wherever
/// full buffers cut it; and sends of several sockets do not get into each other's.
#[test]
fn pieces_arrive_whole_and_in_order() {
    on_every_driver(Options::new(), |rig| {
        let source = source();
        for pieces in [1, 2, 7, 1100] {
            let mut flights = Vec::new();
            for (seed, family) in [(0, Family::Inet), (1, Family::Unix), (2, Family::Inet)] {
                let (handle, peer) = narrow_pair(rig, family);
                let (outgoing, expected) = woven(&source, pieces, seed);
                rig.driver.send(handle, outgoing);
                flights.push((handle, peer, expected, Vec::new()));
            }
            let clock = Instant::now();
            while flights.iter().any(|(.., expected, received)| received.len() < expected.len()) {
                assert!(clock.elapsed() < LIMIT, "D5: bytes are missing");
                for (_, peer, _, received) in &mut flights {
                    let mut space = [0; 1531];
                    if let Ok(len) = peer.read(&mut space) {
                        received.extend_from_slice(&space[..len]);
                    }
                }
                rig.wait(Duration::ZERO);
            }
            for (handle, _, expected, received) in flights {
                assert!(received == expected, "D5: bytes differ, {pieces} pieces");
                let Outcome::Sent(outgoing) = rig.last_of(handle, Op::Send) else { panic!() };
                assert_eq!(outgoing.len(), expected.len());
            }
        }
        assert_eq!(Arc::strong_count(&source), 1, "bodies are held after they were sent");
    });
}

/// D2, D5: a send of many pieces that is cancelled in its middle gives all of them back, and what
/// has arrived is their beginning.
#[test]
fn a_cancelled_send_gives_its_pieces_back() {
    on_every_driver(Options::new(), |rig| {
        let source = source();
        for family in [Family::Inet, Family::Unix] {
            let (handle, mut peer) = narrow_pair(rig, family);
            let (outgoing, expected) = woven(&source, 3000, 1);
            rig.driver.send(handle, outgoing);
            let mut received = vec![0; 50_000];
            let (mut filled, clock) = (0, Instant::now());
            while filled < received.len() {
                assert!(clock.elapsed() < LIMIT, "{filled} bytes");
                rig.wait(Duration::ZERO);
                filled += peer.read(&mut received[filled..]).unwrap_or(0);
            }
            assert!(received == expected[..filled], "bytes differ");
            rig.driver.cancel(handle, super::Ops::ALL);
            let Outcome::SendFailed(errno, outgoing) = rig.last_of(handle, Op::Send) else {
                panic!("it can not have been sent")
            };
            assert_eq!((errno, outgoing.len()), (Errno::CANCELLED, expected.len()));
            assert!(Arc::strong_count(&source) > 1, "they were let go of too early");
            drop(outgoing);
            assert_eq!(Arc::strong_count(&source), 1);
        }
    });
}

/// D9: a driver can be dropped with pieces in flight, and lets go of them.
#[test]
fn a_dropped_driver_lets_go_of_pieces() {
    on_every_driver(Options::new(), |rig| {
        let source = source();
        let mut peers = Vec::new();
        for family in [Family::Inet, Family::Unix] {
            let (handle, peer) = narrow_pair(rig, family);
            rig.driver.send(handle, woven(&source, 3000, 1).0);
            peers.push(peer);
        }
        rig.wait(Duration::from_millis(10));
        assert!(Arc::strong_count(&source) > 1);
        let next = rig.another();
        drop(std::mem::replace(&mut rig.driver, next));
        assert_eq!(Arc::strong_count(&source), 1, "D9: bodies are leaked");
    });
}
