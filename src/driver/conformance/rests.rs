//! What the contract says of receives into large buffers: of what is there, and of rests.

#![forbid(unsafe_code)]

use std::io::Write;
use std::time::Duration;

use super::rig::{Peer, Rig, on_every_driver};
use crate::driver::{Driver, LARGE_BYTES_PER_WAIT, Op, Ops, Outcome, Rest};
use crate::error::Errno;
use crate::event::Handle;
use crate::options::Options;

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// Receives `len` bytes behind those of `buffer`, or as many as there are before an end. On the
/// kernel's sockets that takes one receive.
fn fill(rig: &mut Rig, handle: Handle, mut buffer: Vec<u8>, len: usize) -> Vec<u8> {
    let goal = buffer.len() + len;
    while buffer.len() < goal {
        buffer.reserve_exact(goal - buffer.len());
        let missing = goal - buffer.len();
        rig.receive_rest(handle, Rest::new(buffer, missing));
        let rest = filled(rig, handle);
        let has_ended = rest.received() == 0 || (rest.missing() > 0 && !rig.is_simulated());
        buffer = rest.into_buffer();
        if has_ended {
            break;
        }
    }
    buffer
}

fn filled(rig: &mut Rig, handle: Handle) -> Rest {
    match rig.last_of(handle, Op::Receive) {
        Outcome::Filled(rest) => rest,
        other => panic!("D7: {other:?} instead of a buffer"),
    }
}

fn pairs(rig: &mut Rig) -> [(Handle, Peer); 2] {
    [rig.tcp_pair(), rig.unix_pair()]
}

/// D1, D6: a rest comes behind what its buffer has, in one completion, and takes nothing of what
/// follows it, however the bytes arrive.
#[test]
fn a_rest_fills_its_buffer_and_no_more() {
    on_every_driver(Options::new(), |rig| {
        for (handle, mut peer) in pairs(rig) {
            let expected = pattern(60_000);
            peer.write_all(&expected[5..20_000]).unwrap();
            let mut buffer = Vec::with_capacity(50_000);
            buffer.extend_from_slice(&expected[..5]);
            rig.receive_rest(handle, Rest::new(buffer, 49_995));
            rig.wait(Duration::from_millis(5));
            for piece in expected[20_000..].chunks(11_000) {
                peer.write_all(piece).unwrap();
                rig.wait(Duration::from_millis(1));
            }
            let rest = filled(rig, handle);
            assert!(rest.missing() == 0 || rig.is_simulated(), "{} missing", rest.missing());
            let missing = rest.missing();
            let mut bytes = fill(rig, handle, rest.into_buffer(), missing);
            assert!(bytes == expected[..50_000], "D6: {} bytes of 50000", bytes.len());
            rig.resubmit(handle, Op::Receive);
            rig.receive(handle, &mut bytes, 60_000);
            assert!(bytes == expected, "D6: bytes were lost behind the rest");
        }
    });
}

/// What may be a whole PDU comes in one completion, in a buffer that is taken from the stock when
/// bytes are there, and with no more bytes than were asked for.
#[test]
fn what_is_there_comes_in_one_buffer() {
    on_every_driver(Options::new(), |rig| {
        for (handle, mut peer) in pairs(rig) {
            let expected = pattern(3000);
            let buffer = Vec::with_capacity(1500);
            let place = buffer.as_ptr();
            rig.driver.stock().give(buffer);
            rig.receive_whole(handle, 1000);
            rig.wait(Duration::from_millis(5));
            let idle = rig.driver.stock().take(1000);
            assert_eq!(idle.as_ptr(), place, "an idle receive has no buffer");
            rig.driver.stock().give(idle);
            peer.write_all(&expected).unwrap();
            let rest = filled(rig, handle);
            assert!(rest.is_fresh() && (1..=1000).contains(&rest.received()));
            let mut bytes = rest.into_buffer();
            assert_eq!(bytes.as_ptr(), place);
            let missing = expected.len() - bytes.len();
            bytes = fill(rig, handle, bytes, missing);
            assert!(bytes == expected, "D6: {} bytes of 3000", bytes.len());
        }
    });
}

/// D2, D6: of what is there comes an end, a reset, or nothing once it was cancelled; its buffer is
/// then in the stock again.
#[test]
fn what_is_there_may_be_an_end() {
    on_every_driver(Options::new(), |rig| {
        for (handle, peer) in pairs(rig) {
            drop(peer);
            rig.receive_whole(handle, 1000);
            assert!(matches!(rig.last_of(handle, Op::Receive), Outcome::EndOfStream));
        }
        let (handle, peer) = rig.tcp_pair();
        peer.reset();
        rig.receive_whole(handle, 1000);
        let outcome = rig.last_of(handle, Op::Receive);
        let Outcome::ReceiveFailed(errno) = outcome else { panic!("{outcome:?}") };
        assert_eq!(errno, Errno(libc::ECONNRESET));
        for (handle, _peer) in pairs(rig) {
            rig.receive_whole(handle, 1000);
            rig.wait(Duration::from_millis(5));
            rig.driver.cancel(handle, Ops::ALL);
            let outcome = rig.last_of(handle, Op::Receive);
            let Outcome::ReceiveFailed(errno) = outcome else { panic!("{outcome:?}") };
            assert_eq!(errno, Errno::CANCELLED);
        }
    });
}

/// D2: one that is cancelled while bytes are there comes back with some, or as cancelled.
#[test]
fn a_cancel_that_finds_bytes_is_no_failure() {
    on_every_driver(Options::new(), |rig| {
        for (handle, mut peer) in pairs(rig) {
            peer.write_all(&pattern(1000)).unwrap();
            rig.receive_whole(handle, 1000);
            rig.driver.cancel(handle, Ops::ALL);
            match rig.last_of(handle, Op::Receive) {
                Outcome::Filled(rest) => assert!(rest.received() > 0),
                Outcome::ReceiveFailed(errno) => assert_eq!(errno, Errno::CANCELLED),
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Whoever has bytes for a large buffer gets it, however many others have them all the time.
#[test]
fn large_buffers_go_round() {
    const LEN: usize = LARGE_BYTES_PER_WAIT / 4;
    on_every_driver(Options::new(), |rig| {
        let mut sockets: Vec<_> = (0..12).map(|_| (rig.tcp_pair(), 0)).collect();
        for ((handle, peer), _) in &mut sockets {
            peer.write_all(&[7; 100]).unwrap();
            rig.receive_whole(*handle, LEN);
        }
        for _ in 0..60 {
            rig.wait(Duration::from_millis(5));
            let seen = std::mem::take(&mut rig.seen);
            for one in seen {
                let ours = sockets.iter_mut().find(|((handle, _), _)| *handle == one.handle);
                let ((handle, peer), served) = ours.unwrap();
                assert!(matches!(one.outcome, Outcome::Filled(_)), "{:?}", one.outcome);
                *served += 1;
                peer.write_all(&[7; 100]).unwrap();
                rig.receive_whole(*handle, LEN);
            }
        }
        let least = sockets.iter().map(|(_, served)| *served).min();
        assert!(
            least > Some(2),
            "served: {:?}",
            sockets.iter().map(|one| one.1).collect::<Vec<_>>()
        );
    });
}

/// No more goes into large buffers in a wait than a cache holds; whoever has to wait for the next
/// one has its turn in it, or may be cancelled meanwhile.
#[test]
fn large_buffers_are_filled_by_turns() {
    const LEN: usize = LARGE_BYTES_PER_WAIT / 2;
    on_every_driver(Options::new(), |rig| {
        let mut sockets: Vec<_> = (0..7).map(|_| rig.tcp_pair()).collect();
        for (handle, peer) in &mut sockets {
            peer.write_all(&[7; 100]).unwrap();
            rig.receive_whole(*handle, LEN);
        }
        let (last, _) = &sockets[6];
        let filled_count = |rig: &Rig| {
            rig.seen.iter().filter(|one| matches!(one.outcome, Outcome::Filled(_))).count()
        };
        while rig.seen.len() < 7 {
            let before = filled_count(rig);
            rig.wait(Duration::from_millis(50));
            let at_once = filled_count(rig) - before;
            assert!(at_once <= 2 || rig.is_simulated(), "{at_once} buffers at once");
            if before == 0 {
                rig.driver.cancel(*last, Ops::ALL);
            }
        }
        match rig.last_of(*last, Op::Receive) {
            Outcome::Filled(rest) => assert!((1..=100).contains(&rest.received())),
            Outcome::ReceiveFailed(errno) => assert_eq!(errno, Errno::CANCELLED),
            other => panic!("{other:?}"),
        }
        for (handle, _) in &sockets[..6] {
            assert!((1..=100).contains(&filled(rig, *handle).received()));
        }
    });
}

/// D7: an end in the middle of a rest gives what came before it, and is told by the next receive.
#[test]
fn an_end_in_a_rest_is_told_by_the_next_receive() {
    on_every_driver(Options::new(), |rig| {
        for (handle, mut peer) in pairs(rig) {
            peer.write_all(&pattern(1000)).unwrap();
            drop(peer);
            assert!(fill(rig, handle, Vec::new(), 5000) == pattern(1000));
            rig.resubmit(handle, Op::Receive);
            assert!(rig.receive(handle, &mut Vec::new(), usize::MAX), "D6: the end comes");
        }
    });
}

/// D7: so is a reset, whether or not bytes had come for the rest before it.
#[test]
fn a_reset_in_a_rest_is_told_by_the_next_receive() {
    on_every_driver(Options::new(), |rig| {
        for len in [0, 1000] {
            let (handle, mut peer) = rig.tcp_pair();
            rig.receive_rest(handle, Rest::new(Vec::with_capacity(5000), 5000));
            peer.write_all(&pattern(len)).unwrap();
            rig.wait(Duration::from_millis(5));
            peer.reset();
            let mut bytes = filled(rig, handle).into_buffer();
            while bytes.len() < len {
                bytes = fill(rig, handle, bytes, 5000);
            }
            assert!(bytes == pattern(len));
            // Whoever asks for more of a rest does not take the end away.
            assert_eq!(fill(rig, handle, bytes, 100).len(), len);
            rig.receive_whole(handle, 100);
            let outcome = rig.last_of(handle, Op::Receive);
            let Outcome::ReceiveFailed(errno) = outcome else { panic!("{outcome:?}") };
            assert_eq!(errno, Errno(libc::ECONNRESET), "after {len} bytes");
        }
    });
}

/// D2, D7: a rest that is cancelled comes back with what has come for it.
#[test]
fn a_cancelled_rest_gives_what_it_has() {
    on_every_driver(Options::new(), |rig| {
        for (handle, mut peer) in pairs(rig) {
            let expected = pattern(9000);
            peer.write_all(&expected[..4000]).unwrap();
            rig.receive_rest(handle, Rest::new(Vec::with_capacity(8000), 8000));
            rig.wait(Duration::from_millis(5));
            rig.driver.cancel(handle, Ops::only(Op::Receive));
            let mut bytes = filled(rig, handle).into_buffer();
            assert!(bytes.len() <= 4000 && bytes == expected[..bytes.len()]);
            peer.write_all(&expected[4000..]).unwrap();
            let missing = expected.len() - bytes.len();
            bytes = fill(rig, handle, bytes, missing);
            assert!(bytes == expected, "D7: {} bytes of 9000", bytes.len());
        }
    });
}

/// D7: a reset that a cancelled rest has found is told by the next receive.
#[test]
fn a_reset_behind_a_cancelled_rest_is_told() {
    on_every_driver(Options::new(), |rig| {
        for len in [0, 1000] {
            let (handle, mut peer) = rig.tcp_pair();
            peer.write_all(&pattern(len)).unwrap();
            rig.receive_rest(handle, Rest::new(Vec::with_capacity(5000), 5000));
            rig.wait(Duration::from_millis(5));
            rig.driver.cancel(handle, Ops::only(Op::Receive));
            peer.reset();
            let mut bytes = filled(rig, handle).into_buffer();
            while bytes.len() < len {
                let before = bytes.len();
                bytes = fill(rig, handle, bytes, 5000);
                assert!(rig.is_simulated() || bytes.len() > before, "{before} of {len}");
            }
            rig.receive_whole(handle, 100);
            let outcome = rig.last_of(handle, Op::Receive);
            let Outcome::ReceiveFailed(errno) = outcome else { panic!("{outcome:?}") };
            assert_eq!(errno, Errno(libc::ECONNRESET), "after {len} bytes");
        }
    });
}

/// D9: a driver that is dropped with a rest under way does not write to its memory any more.
#[test]
fn a_dropped_driver_writes_to_no_rest() {
    const LEN: usize = 1 << 20;
    on_every_driver(Options::new(), |rig| {
        let (handle, mut peer) = rig.tcp_pair();
        rig.receive_rest(handle, Rest::new(Vec::with_capacity(LEN), LEN));
        rig.wait(Duration::from_millis(5));
        let next = rig.another();
        drop(std::mem::replace(&mut rig.driver, next));
        // Where the buffer was, this may come to lie.
        let other = vec![0; LEN];
        peer.set_blocking(false);
        let _ = peer.write(&[7; 1000]);
        rig.wait(Duration::from_millis(5));
        assert!(other.iter().all(|byte| *byte == 0), "D9: bytes for an earlier owner");
    });
}
