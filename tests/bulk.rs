//! PDUs that are much longer than a receive buffer: received into buffers of their own, kept and
//! sent on without a copy, and never on a peer's word alone.

mod support;

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use support::*;
use uring_netlib::Shared;

/// Large, with the default of 16 KiB for a receive buffer.
const LARGE: usize = 100_000;

const MEGABYTE: usize = 1 << 20;

/// A peer whose PDUs have been large, so that the next one is received into its own buffer.
fn bulky_peer(world: &mut World) -> (TcpStream, Handle) {
    let (mut peer, handle) = world.served_peer();
    for _ in 0..3 {
        let before = world.net.stats().pdus_in;
        world.write(&mut peer, &frame(LARGE, 1));
        world.turn_until("a PDU", |world| world.net.stats().pdus_in > before);
    }
    (peer, handle)
}

/// As that, in the middle of one more PDU: half of it has been sent, and the loop has settled.
fn halfway(world: &mut World) -> (TcpStream, Handle, Vec<u8>) {
    let (mut peer, handle) = bulky_peer(world);
    let bytes = frame(LARGE, 2);
    world.write(&mut peer, &bytes[..LARGE / 2]);
    world.settle();
    let buffered = world.net.stats().buffered_bytes;
    assert!(buffered >= LARGE as u64, "room for all of it is counted: {buffered}");
    (peer, handle, bytes)
}

/// PDUs of all lengths, from an empty body to the longest there may be, arrive whole and in order,
/// and are sent on as they came.
#[test]
fn large_and_small_pdus_are_sent_on_in_order() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 1 << 20, high: 4 << 20, max: 64 << 20 };
        let mut world = World::with(lane.options().backlog(limits));
        world.script(|_, net, handle, event| {
            if let Event::Pdu(pdu) = event {
                net.forward(handle, *pdu).unwrap();
            }
        });
        let (mut peer, _) = world.served_peer();
        let large = [LARGE, 32 * 1024, 32 * 1024 + 1, MEGABYTE, 65_536, LARGE, 200_000];
        let small = [16, 300, 5000, 16_384];
        let lens = (0..60).map(|n| if n % 3 == 0 { large[n / 3 % 7] } else { small[n % 4] });
        let quiet = std::iter::repeat_n(64, 50);
        let lens: Vec<usize> = lens.chain(quiet).chain(large).collect();
        let frames: Vec<_> =
            lens.iter().zip((0..=250).cycle()).map(|(len, fill)| frame(*len, fill)).collect();
        for some in frames.chunks(5) {
            let bytes = some.concat();
            world.write(&mut peer, &bytes);
            assert!(world.read(&mut peer, bytes.len()) == bytes, "bytes differ");
        }
        assert_eq!(world.net.stats().pdus_in, lens.len() as u64);
        world.settle();
        assert_eq!(world.net.stats().buffered_bytes, 0);
    });
}

/// A large PDU that is kept, or sent to many, is a share of its buffer and no copy.
#[test]
fn a_large_pdu_is_shared_and_not_copied() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = bulky_peer(&mut world);
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keeper = Rc::clone(&kept);
        world.script(move |_, net, handle, event| {
            if let Event::Pdu(pdu) = event {
                let bytes = pdu.to_bytes();
                assert_eq!(bytes.as_ptr(), pdu.frame().as_ptr(), "a copy");
                net.send_shared(handle, &Shared::from(bytes.clone())).unwrap();
                keeper.borrow_mut().push(bytes);
            }
        });
        let frames: Vec<_> = (1..6).map(|fill| frame(LARGE, fill)).collect();
        for bytes in &frames {
            world.write(&mut peer, bytes);
            assert!(world.read(&mut peer, LARGE) == *bytes);
        }
        assert!(*kept.borrow() == frames, "what is kept stays as it was");
        world.net.abort(handle).unwrap();
    });
}

/// So is one that fills little more than half of its buffer, which is used again after it.
#[test]
fn a_roomy_buffer_is_shared_and_used_again() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, _) = bulky_peer(&mut world);
        let places = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&places);
        world.script(move |_, net, handle, event| {
            if let Event::Pdu(pdu) = event {
                let bytes = pdu.to_bytes();
                assert_eq!(bytes.as_ptr(), pdu.frame().as_ptr(), "a copy");
                noted.borrow_mut().push(bytes.as_ptr().addr());
                net.forward(handle, *pdu).unwrap();
            }
        });
        for len in [200_000, 110_000, 110_000, 110_000, 110_000] {
            let bytes = frame(len, 2);
            world.write(&mut peer, &bytes);
            assert!(world.read(&mut peer, len) == bytes, "bytes differ");
            world.settle();
        }
        assert!(places.borrow()[1..].iter().all(|place| *place == places.borrow()[1]));
    });
}

/// So are large PDUs that come as fast as they are read, but for few: those of which all but a
/// little has come. (Before the first ones are known to be large, what comes fills pool buffers;
/// where the kernel need not wait for a turn, all of them.)
#[test]
fn large_pdus_in_a_row_are_shared_and_not_copied() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, _) = bulky_peer(&mut world);
        peer.set_nonblocking(false).unwrap();
        let counts = Rc::new(Cell::new((0, 0)));
        let counter = Rc::clone(&counts);
        world.script(move |_, _, _, event| {
            if let Event::Pdu(pdu) = event {
                let is_shared = pdu.to_bytes().as_ptr() == pdu.frame().as_ptr();
                let (told, shared) = counter.get();
                counter.set((told + 1, shared + u32::from(is_shared)));
            }
        });
        let writer = thread::spawn(move || {
            let bytes = frame(LARGE, 1);
            (0..200).for_each(|_| peer.write_all(&bytes).unwrap());
            peer
        });
        world.turn_until("all PDUs", |_| counts.get().0 == 200);
        assert!(counts.get().1 >= 180, "{} of 200 are no copies", counts.get().1);
        writer.join().unwrap();
    });
}

/// After some small PDUs in a row nothing is expected of a peer any more, also where the callback
/// does nothing with the library.
#[test]
fn what_was_earned_is_forgotten_after_small_pdus() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = bulky_peer(&mut world);
        world.net.option(handle).unwrap().set_callback(|_, _, _, _| {});
        world.write(&mut peer, &frame(32, 1).repeat(20));
        world.write(&mut peer, &frame(LARGE, 2)[..200]);
        world.settle();
        let buffered = world.net.stats().buffered_bytes;
        assert!((200..10_000).contains(&buffered), "{buffered} bytes are kept of 200");
    });
}

/// Room is given for what has come: twice as much of a first PDU, and of a later one what the one
/// before it had. A promise alone gets none.
#[test]
fn room_follows_what_has_come() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let bytes = frame(MEGABYTE, 1);
        let (mut peer, handle) = world.served_peer();
        for (sent, kept_max) in [(16, 16), (200, 200), (60_000, 120_000), (300_000, 600_000)] {
            let before = usize::try_from(world.net.stats().bytes_in).unwrap();
            world.write(&mut peer, &bytes[before.min(sent)..sent]);
            world.settle();
            let buffered = world.net.stats().buffered_bytes;
            assert!(buffered <= kept_max, "{buffered} bytes are kept of {sent}");
            // What the driver has is not told of before it is back.
            world.net.pause_receive(handle).unwrap();
            world.settle();
            assert_eq!(world.net.stats().bytes_in, sent as u64);
            world.net.resume_receive(handle).unwrap();
        }
        world.net.abort(handle).unwrap();

        let (mut peer, handle) = bulky_peer(&mut world);
        world.write(&mut peer, &bytes[..16]);
        world.settle();
        assert!(world.net.stats().buffered_bytes <= 2 * LARGE as u64);
        world.net.abort(handle).unwrap();
    });
}

/// A pause in the middle of a large PDU is one, and nothing of it is lost.
#[test]
fn a_large_pdu_can_be_paused() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle, bytes) = halfway(&mut world);
        world.net.pause_receive(handle).unwrap();
        world.write(&mut peer, &bytes[LARGE / 2..]);
        world.settle();
        assert_eq!(world.net.stats().pdus_in, 3);
        world.net.resume_receive(handle).unwrap();
        world.turn_until("the PDU", |world| world.net.stats().pdus_in == 4);
        assert!(world.app.received(handle)[3 * LARGE..] == bytes);
        // Resumed before it was heard of, a pause is none.
        world.write(&mut peer, &bytes[..LARGE / 2]);
        world.settle();
        world.net.pause_receive(handle).unwrap();
        world.net.resume_receive(handle).unwrap();
        world.write(&mut peer, &bytes[LARGE / 2..]);
        world.turn_until("the PDU", |world| world.net.stats().pdus_in == 5);
        assert!(world.app.received(handle)[4 * LARGE..] == bytes);
    });
}

/// Who asks for bytes as they come in the middle of a large PDU gets those that have come at once.
#[test]
fn the_delivery_changes_in_a_large_pdu() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle, bytes) = halfway(&mut world);
        world.net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
        world.turn_until("half of it", |world| {
            world.app.received(handle).len() == 3 * LARGE + LARGE / 2
        });
        world.write(&mut peer, &bytes[LARGE / 2..]);
        world.turn_until("all of it", |world| world.app.received(handle).len() == 4 * LARGE);
        assert!(world.app.received(handle)[3 * LARGE..] == bytes);
        assert_eq!(world.net.stats().pdus_in, 3);
        assert_eq!(world.net.stats().buffered_bytes, 0);
    });
}

/// A limit that the PDU under way does not keep any more ends the connection at once.
#[test]
fn a_limit_reaches_a_large_pdu() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_peer, handle, _) = halfway(&mut world);
        let limits = Limits::new().unready_bytes_max(5000);
        world.net.option(handle).unwrap().set_limits(limits);
        world.turn_until("a close", |world| {
            let log = world.app.log_of(handle);
            matches!(log.last(), Some(Entry::Close(CloseReason::BadFrame(_))))
        });
    });
}

/// A connection can be closed or aborted in the middle of a large PDU, and leaves nothing.
#[test]
fn a_large_pdu_does_not_keep_its_connection() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        for is_abort in [false, true] {
            let (mut peer, handle, bytes) = halfway(&mut world);
            if is_abort {
                world.net.abort(handle).unwrap();
            } else {
                world.net.close(handle).unwrap();
                world.settle();
                assert_eq!(world.net.stats().buffered_bytes, 0, "its buffer is called back");
                // What it still sends is dropped, so that its close is no reset.
                world.write(&mut peer, &bytes[LARGE / 2..]);
                world.settle();
                peer.shutdown(Shutdown::Write).unwrap();
            }
            let (_, ended) = world.read_to_end(&mut peer);
            assert_eq!(ended.is_ok(), !is_abort);
            world.turn_until("it is gone", |world| world.net.stats().closing == 0);
            assert_eq!(world.net.stats().buffered_bytes, 0);
        }
    });
}

/// An end or a reset in the middle of a large PDU is told as what it is, after what had come.
#[test]
fn an_end_in_a_large_pdu_is_told() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (peer, handle, _) = halfway(&mut world);
        drop(peer);
        world.turn_until("a close", |world| world.net.state(handle).is_err());
        let end = Entry::Close(CloseReason::Truncated { received: LARGE / 2 });
        assert_eq!(world.app.log_of(handle).last(), Some(&end));

        let (peer, handle, _) = halfway(&mut world);
        reset(peer);
        world.turn_until("a close", |world| world.net.state(handle).is_err());
        let end = Entry::Close(CloseReason::Reset);
        assert_eq!(world.app.log_of(handle).last(), Some(&end));
    });
}

/// A peer that drips into a large PDU is not silent, and one that is silent in it has to go.
#[test]
fn a_drip_into_a_large_pdu_is_no_silence() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let idle = Duration::from_secs(10);
        let liveness = Liveness::new().read_idle(idle).frame(Duration::MAX);
        let mut world = World::with(lane.options().clock(&clock).liveness(liveness));
        let (mut peer, handle, bytes) = halfway(&mut world);
        let start = LARGE / 2;
        for drip in bytes[start..start + 20].chunks(1) {
            world.write(&mut peer, drip);
            world.settle();
            clock.advance(idle / 2 + Duration::from_secs(1));
            world.settle();
            assert!(world.net.state(handle).is_ok(), "a byte came");
        }
        // The last byte may be found no earlier than its deadline, and counts from then on.
        for _ in 0..2 {
            clock.advance(idle);
            world.settle();
        }
        assert!(world.net.state(handle).is_err(), "it is silent");
        let (mut peer, handle) = bulky_peer(&mut world);
        world.write(&mut peer, &bytes[..2000]);
        world.settle();
        assert!(world.net.stats().buffered_bytes >= LARGE as u64, "a buffer waits for the rest");
        clock.advance(idle);
        world.settle();
        assert!(world.net.state(handle).is_err(), "nothing came, so it is judged at once");
        let end = Entry::Close(CloseReason::Expired(Deadline::ReadIdle));
        assert_eq!(world.app.log_of(handle).last(), Some(&end));
    });
}

/// A large PDU has to be whole in its time, however it drips.
#[test]
fn a_large_pdu_has_its_deadline() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let liveness = Liveness::new().frame(Duration::from_secs(10));
        let mut world = World::with(lane.options().clock(&clock).liveness(liveness));
        let (mut peer, handle, bytes) = halfway(&mut world);
        for drip in bytes[LARGE / 2..LARGE / 2 + 9].chunks(1) {
            clock.advance(Duration::from_secs(1));
            world.write(&mut peer, drip);
            world.settle();
        }
        assert!(world.net.state(handle).is_ok(), "early");
        clock.advance(Duration::from_secs(1));
        world.turn_until("a close", |world| world.net.state(handle).is_err());
        let end = Entry::Close(CloseReason::Expired(Deadline::Frame));
        assert_eq!(world.app.log_of(handle).last(), Some(&end));
    });
}

/// A peer with a rate is held back in the middle of a large PDU, as soon as it has had its burst.
#[test]
fn a_rate_holds_a_large_pdu_back() {
    const BURST: u32 = 300_000;
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let limits = Limits::new().bytes(Rate::per_second(BURST).burst(BURST));
        let mut world = World::with(lane.options().clock(&clock));
        let (mut peer, handle) = bulky_peer(&mut world);
        world.net.option(handle).unwrap().set_limits(limits);
        let bytes = frame(MEGABYTE, 2);
        let before = world.net.stats().bytes_in;
        world.write(&mut peer, &bytes[..2 * LARGE]);
        world.settle();
        world.write(&mut peer, &bytes[2 * LARGE..6 * LARGE]);
        world.settle();
        let came = world.net.stats().bytes_in - before;
        assert!(came <= u64::from(BURST) + 1024, "{came} bytes of a burst of {BURST}");
        let mut written = 6 * LARGE;
        world.turn_while_not("the PDU", |world| {
            clock.advance(Duration::from_millis(20));
            let rest = &bytes[written..];
            written += std::io::Write::write(&mut peer, rest).unwrap_or(0);
            world.net.stats().pdus_in == 4
        });
        assert!(world.app.received(handle)[3 * LARGE..] == bytes);
    });
}

/// Room for large PDUs counts among the bytes that are kept for all connections, so it is given
/// for as long as there is enough. A PDU that gets none has to do with what its bytes need, and
/// nobody has to go before there are too many of those.
#[test]
fn room_for_large_pdus_is_limited_for_all() {
    const MAX: usize = 4 * LARGE;
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().buffered_bytes_max(MAX));
        let mut peers: Vec<_> = (0..6).map(|_| bulky_peer(&mut world)).collect();
        let bytes = frame(LARGE, 3);
        for (peer, _) in &mut peers {
            world.write(peer, &bytes[..1000]);
            world.settle();
        }
        let buffered = world.net.stats().buffered_bytes;
        assert!((LARGE as u64..=MAX as u64).contains(&buffered), "{buffered}");
        assert_eq!(world.net.stats().closes.buffered, 0);
        for (peer, _) in &mut peers {
            world.write(peer, &bytes[1000..LARGE - 1]);
            world.settle();
            assert!(world.net.stats().buffered_bytes <= MAX as u64);
        }
        let gone = world.net.stats().closes.buffered;
        assert!((1..6).contains(&gone), "{gone} had to go");
        let before = world.net.stats().pdus_in;
        for (peer, handle) in &mut peers {
            if world.net.state(*handle).is_ok() {
                world.write(peer, &bytes[LARGE - 1..]);
            }
        }
        world.turn_until("the others", |world| world.net.stats().pdus_in == before + 6 - gone);
    });
}
