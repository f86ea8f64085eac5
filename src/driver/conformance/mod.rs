//! The contract D1 to D10, checked on every driver: the ring, the ring without one feature or
//! another, epoll, and simulated ones. What it says of sends stands in `sends.rs`, and what of
//! buffers that PDUs have for themselves in `rests.rs`. D10 needs a
//! process short of descriptors: see `tests/limits.rs`.

#![forbid(unsafe_code)]

mod rests;
mod rig;
mod sends;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{Auto, Driver, End, Family, Op, Ops, Outcome};
use crate::error::Errno;
use crate::event::Handle;
use crate::options::{Backend, Options};
use rig::{LIMIT, Peer, on_every_driver};

/// D1, D4: an accept and a receive stay armed for many, and have one last completion.
#[test]
fn armed_operations_yield_many_and_end_once() {
    on_every_driver(Options::new(), |rig| {
        let (listener, address) = rig.listener();
        rig.driver.accept(listener);
        let clients: Vec<Peer> = (0..20).map(|_| rig.dial(address)).collect();
        for _ in &clients {
            drop(rig.accepted(listener));
        }
        let (handle, mut peer) = rig.tcp_pair();
        rig.driver.receive(handle);
        for round in 0..20u8 {
            peer.write_all(&[round; 100]).unwrap();
            let mut bytes = Vec::new();
            assert!(!rig.receive(handle, &mut bytes, 100));
            assert_eq!(bytes, [round; 100]);
            if rig.ended.contains(&(handle, Op::Receive)) {
                rig.resubmit(handle, Op::Receive);
            }
        }
        rig.driver.cancel(listener, Ops::ALL);
        rig.driver.cancel(handle, Ops::ALL);
        assert!(matches!(rig.last_of(listener, Op::Accept), Outcome::AcceptFailed(_)));
        assert!(matches!(rig.last_of(handle, Op::Receive), Outcome::ReceiveFailed(_)));
        rig.driver.close(listener);
        rig.driver.close(handle);
        for _ in 0..3 {
            rig.wait(Duration::ZERO);
        }
        assert!(rig.seen.is_empty(), "D1: {:?}", rig.seen);
    });
}

/// D2: a cancelled operation still has its last completion, whatever kind it is.
#[test]
fn cancelling_is_followed_by_a_last_completion() {
    on_every_driver(Options::new(), |rig| {
        let (listener, _) = rig.listener();
        rig.driver.accept(listener);
        let (handle, _peer) = rig.tcp_pair();
        rig.driver.receive(handle);
        rig.driver.send(handle, vec![7; 64 << 20].into());
        let (silent, _full) = rig.silent();
        let connecting = rig.connecting(silent);
        rig.wait(Duration::from_millis(10));
        for target in [listener, handle, connecting] {
            rig.driver.cancel(target, Ops::ALL);
        }
        let cancelled = Errno::CANCELLED;
        let Outcome::AcceptFailed(errno) = rig.last_of(listener, Op::Accept) else { panic!() };
        assert_eq!(errno, cancelled);
        let Outcome::ReceiveFailed(errno) = rig.last_of(handle, Op::Receive) else { panic!() };
        assert_eq!(errno, cancelled);
        let Outcome::SendFailed(errno, bytes) = rig.last_of(handle, Op::Send) else { panic!() };
        assert_eq!((errno, bytes.len()), (cancelled, 64 << 20), "D5: the bytes come back");
        let Outcome::ConnectFailed(errno) = rig.last_of(connecting, Op::Connect) else { panic!() };
        assert_eq!(errno, cancelled);
        rig.driver.cancel(handle, Ops::ALL);
        rig.wait(Duration::ZERO);
        assert!(rig.seen.is_empty(), "nothing was outstanding: {:?}", rig.seen);
    });
}

/// D3: nothing is yielded but by `wait`, even for what could complete at once.
#[test]
fn nothing_completes_inside_a_submitting_call() {
    // More requests than the queue has places, so that submitting must empty it in between.
    on_every_driver(Options::new().ring_entries(8), |rig| {
        let mut pairs: Vec<_> = (0..40).map(|_| rig.tcp_pair()).collect();
        for (handle, peer) in &mut pairs {
            peer.write_all(b"early").unwrap();
            rig.driver.receive(*handle);
            rig.driver.send(*handle, b"bytes".to_vec().into());
        }
        assert!(rig.seen.is_empty());
        for (handle, _) in &pairs {
            let mut bytes = Vec::new();
            rig.receive(*handle, &mut bytes, 5);
            assert_eq!(bytes, b"early");
            assert!(matches!(rig.last_of(*handle, Op::Send), Outcome::Sent(_)));
        }
    });
}

/// D4: a second operation of one kind on one handle is our bug, and is told so.
#[test]
#[should_panic(expected = "D4: one Receive per handle")]
fn a_second_receive_is_a_bug() {
    let (mut driver, _) = Auto::start(&Options::new().backend(Backend::Epoll)).unwrap();
    let handle = Handle::new(0, 1);
    driver
        .adopt(OwnedFd::from(UnixStream::pair().unwrap().0).into(), Family::Unix, handle)
        .unwrap();
    driver.receive(handle);
    driver.receive(handle);
}

/// D6: bytes arrive in order and the end of the stream after all of them, also when data and FIN
/// come together, on TCP and on Unix-domain sockets.
#[test]
fn the_end_comes_after_all_bytes() {
    on_every_driver(Options::new().pool(4, 512), |rig| {
        let expected: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let (tcp, mut peer) = rig.tcp_pair();
        let (unix, mut far) = rig.unix_pair();
        let sent = expected.clone();
        let writer = thread::spawn(move || {
            peer.write_all(&sent).unwrap();
            far.write_all(&sent).unwrap();
        });
        for handle in [tcp, unix] {
            rig.driver.receive(handle);
            let mut bytes = Vec::new();
            assert!(rig.receive(handle, &mut bytes, usize::MAX), "D6: the end comes");
            assert!(bytes == expected, "D6: {} bytes of {}", bytes.len(), expected.len());
        }
        writer.join().unwrap();
        let (handle, mut peer) = rig.tcp_pair();
        peer.write_all(b"last words").unwrap();
        drop(peer);
        rig.driver.receive(handle);
        let mut bytes = Vec::new();
        assert!(rig.receive(handle, &mut bytes, usize::MAX));
        assert_eq!(bytes, b"last words");
    });
}

/// D6: with the sending side ended, what arrived before is still received, and then the end.
#[test]
fn ending_both_sides_delivers_what_arrived() {
    on_every_driver(Options::new(), |rig| {
        let (handle, mut peer) = rig.tcp_pair();
        peer.write_all(b"before").unwrap();
        rig.driver.end(handle, End::Both);
        rig.driver.receive(handle);
        let mut bytes = Vec::new();
        assert!(rig.receive(handle, &mut bytes, usize::MAX));
        assert_eq!(bytes, b"before");
    });
}

/// D6: a connection that was reset before its receive was submitted has an end as well, however
/// much had arrived before.
#[test]
fn a_reset_behind_many_buffers_is_an_end() {
    on_every_driver(Options::new().pool(256, 64), |rig| {
        for len in [64, 31 * 64, 64 * 64, 100 * 64 + 1, 150 * 64] {
            let (handle, mut peer) = rig.tcp_pair();
            peer.write_all(&vec![7; len]).unwrap();
            peer.reset();
            rig.driver.receive(handle);
            let mut received = 0;
            loop {
                let one = rig.until("outcome", |seen| (!seen.is_empty()).then(|| seen.remove(0)));
                match one.outcome {
                    Outcome::Received(chunk) => received += chunk.len(),
                    Outcome::NoBuffers => {}
                    Outcome::ReceiveFailed(_) | Outcome::EndOfStream => break,
                    other => panic!("{other:?} instead of bytes"),
                }
                if one.last {
                    rig.resubmit(handle, Op::Receive);
                }
            }
            assert_eq!(received, len);
        }
    });
}

/// D7: without a free buffer a receive ends with that, loses nothing, and goes on later.
#[test]
fn without_buffers_nothing_is_lost() {
    on_every_driver(Options::new().pool(2, 64), |rig| {
        let (handle, mut peer) = rig.tcp_pair();
        let expected: Vec<u8> = (0..1000u32).map(|n| (n % 251) as u8).collect();
        peer.write_all(&expected).unwrap();
        rig.driver.receive(handle);
        // What was seen keeps its chunks, so the third piece finds no buffer.
        let start = Instant::now();
        while !rig.seen.iter().any(|one| matches!(one.outcome, Outcome::NoBuffers)) {
            assert!(start.elapsed() < LIMIT, "D7: no end; seen {:?}", rig.seen);
            if rig.ended.contains(&(handle, Op::Receive)) {
                rig.resubmit(handle, Op::Receive);
            }
            rig.wait(Duration::from_millis(50));
        }
        let mut bytes = Vec::new();
        rig.receive(handle, &mut bytes, expected.len());
        assert!(bytes == expected, "D7: {} bytes of {}", bytes.len(), expected.len());
    });
}

/// D8: a wait of zero does not block, and a waker ends a wait from another thread.
#[test]
fn a_waker_ends_a_wait() {
    on_every_driver(Options::new(), |rig| {
        let start = Instant::now();
        rig.wait(Duration::ZERO);
        assert!(start.elapsed() < Duration::from_secs(1));
        for _ in 0..3 {
            let waker = rig.driver.waker();
            let thread = thread::spawn(move || waker.wake());
            rig.driver.wait(None, &mut Vec::new()).unwrap();
            thread.join().unwrap();
        }
        // One that was fired before counts as well, and many count once.
        let before = rig.driver.counters().wakeups;
        rig.driver.waker().wake();
        rig.driver.waker().wake();
        rig.driver.wait(None, &mut Vec::new()).unwrap();
        assert_eq!(rig.driver.counters().wakeups, before + 1);
    });
}

/// A wait lasts for its time. A signal, or the end of another ring, may cut one short, but waiting
/// for the rest must not become spinning.
#[test]
fn a_wait_lasts_for_its_time() {
    on_every_driver(Options::new(), |rig| {
        rig.wait(Duration::ZERO);
        let (start, mut waits) = (rig.elapsed(), 0);
        while let Some(rest) = Duration::from_millis(30).checked_sub(rig.elapsed() - start) {
            rig.wait(rest);
            waits += 1;
        }
        assert!(waits <= 4, "{waits} waits in 30 ms");
    });
}

/// D9: a driver can be dropped with everything in flight; its ports and peers are free after it.
#[test]
fn a_driver_is_dropped_with_everything_in_flight() {
    on_every_driver(Options::new(), |rig| {
        let (listener, address) = rig.listener();
        rig.driver.accept(listener);
        let (handle, mut peer) = rig.tcp_pair();
        rig.driver.receive(handle);
        rig.driver.send(handle, vec![7; 64 << 20].into());
        let (silent, _full) = rig.silent();
        rig.connecting(silent);
        rig.wait(Duration::from_millis(10));
        let next = rig.another();
        drop(std::mem::replace(&mut rig.driver, next));
        // Where what was in flight has been freed, this may come to lie.
        let other = vec![8; 64 << 20];
        rig.listen(address).expect("D9: the listener is gone");
        let mut rest = Vec::new();
        let ended = peer.read_to_end(&mut rest);
        assert!(
            ended.is_ok()
                || ended.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET))
        );
        assert!(rest.iter().all(|byte| *byte == 7), "D9: bytes of a later owner");
        drop(other);
        rig.seen.clear();
    });
}

/// A refused connect says so; a served one connects.
#[test]
fn a_connect_tells_how_it_went() {
    on_every_driver(Options::new(), |rig| {
        let (address, listener) = rig.served();
        let handle = rig.connecting(address);
        assert!(matches!(rig.last_of(handle, Op::Connect), Outcome::Connected));
        drop(listener);
        let handle = rig.connecting(address);
        let Outcome::ConnectFailed(errno) = rig.last_of(handle, Op::Connect) else { panic!() };
        assert_eq!(errno, Errno(libc::ECONNREFUSED));
    });
}

/// Many sockets with data at once each get their turn.
#[test]
fn no_socket_starves_another() {
    on_every_driver(Options::new().pool(8, 256), |rig| {
        let mut pairs: Vec<_> = (0..20).map(|_| rig.tcp_pair()).collect();
        for (_, peer) in &mut pairs {
            peer.write_all(&[0x5A; 4096]).unwrap();
        }
        for (handle, _) in &pairs {
            rig.driver.receive(*handle);
        }
        let mut received = vec![0; pairs.len()];
        let start = Instant::now();
        while received.iter().any(|count| *count < 4096) {
            assert!(start.elapsed() < LIMIT, "{received:?}");
            rig.wait(Duration::from_millis(50));
            for one in std::mem::take(&mut rig.seen) {
                if let Outcome::Received(chunk) = &one.outcome {
                    received[one.handle.index() as usize] += chunk.len();
                }
                let (handle, last) = (one.handle, one.last);
                drop(one);
                if last {
                    rig.resubmit(handle, Op::Receive);
                }
            }
        }
    });
}
