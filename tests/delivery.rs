//! How received bytes reach the application: as they come, pulled, or as whole PDUs; and how they
//! wait while it does not want them.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};

use socket2::SockRef;
use support::*;

/// A length out of bounds ends the connection as soon as its four bytes are there: nothing of that
/// PDU is delivered, and what was answered before still arrives.
#[test]
fn a_bad_length_ends_the_connection_at_once() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.echo();
        let (_, address) = world.listen();
        let max = FrameSpec::teamtalk().max();
        for (count, len) in (1..).zip((0..16).chain([max + 1, u32::MAX])) {
            let (mut peer, handle) = world.accepted_peer(address);
            world.write(&mut peer, &[&frame(20, 1)[..], &len.to_be_bytes()].concat());
            let (answer, ended) = world.read_to_end(&mut peer);
            assert_eq!(answer, frame(20, 1));
            ended.unwrap();
            let log = world.app.log_of(handle);
            assert_eq!(log[..2], [Entry::Connect, Entry::Pdu(20)]);
            let [Entry::Close(CloseReason::BadFrame(_))] = log[2..] else { panic!("{log:?}") };
            assert_eq!(world.net.stats().closes.bad_frame, count);
        }
    });
}

/// The shortest and the longest PDU that the limit allows are delivered.
#[test]
fn the_bounds_of_a_length_are_within() {
    on_every_backend(|lane| {
        let spec = FrameSpec::teamtalk().with_max(5000);
        let mut world = World::with(lane.options().delivery(Delivery::Pdu(spec)));
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &[frame(16, 1), frame(5000, 2), frame(16, 3)].concat());
        world.turn_until("three PDUs", |world| world.app.log_of(handle).len() == 4);
        let expected = [Entry::Connect, Entry::Pdu(16), Entry::Pdu(5000), Entry::Pdu(16)];
        assert_eq!(world.app.log_of(handle), expected);
    });
}

/// PDUs are the same however the stream is cut: at each of its bytes, and one byte per segment.
#[test]
fn pdus_do_not_depend_on_segments() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let stream = [frame(20, 1), frame(16, 2), frame(33, 3)].concat();
        let expected = [Entry::Connect, Entry::Pdu(20), Entry::Pdu(16), Entry::Pdu(33)];
        let cuts = (1..stream.len()).map(|cut| vec![&stream[..cut], &stream[cut..]]);
        for pieces in cuts.chain([stream.chunks(1).collect()]) {
            let (mut peer, handle) = world.accepted_peer(address);
            for piece in pieces {
                let goal = world.net.stats().bytes_in + piece.len() as u64;
                peer.write_all(piece).unwrap();
                world.turn_until("a segment", |world| world.net.stats().bytes_in == goal);
            }
            assert_eq!(world.app.log_of(handle), expected);
            assert_eq!(world.app.received(handle), stream);
            world.net.abort(handle).unwrap();
        }
    });
}

/// PDUs far longer than a receive buffer, and many in one buffer, are delivered whole and in order.
#[test]
fn pdus_do_not_depend_on_receive_buffers() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().pool(8, 256));
        let (mut peer, handle) = world.served_peer();
        let lens = (0..200).map(|step| 16 + step * step % 3001).chain([100_000, 16]);
        let frames: Vec<Vec<u8>> = lens.zip(0..).map(|(len, fill)| frame(len, fill)).collect();
        world.write(&mut peer, &frames.concat());
        drop(peer);
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        let mut expected: Vec<_> = frames.iter().map(|frame| Entry::Pdu(frame.len())).collect();
        expected.insert(0, Entry::Connect);
        expected.push(Entry::Close(CloseReason::PeerClosed));
        assert_eq!(world.app.log_of(handle), expected);
        assert!(world.app.received(handle) == frames.concat(), "bytes differ");
    });
}

/// Pull: bytes stay until they are pulled, in pieces of any length, and the end is told after the
/// last of them.
#[test]
fn pulled_bytes_come_in_pieces_and_the_end_after_the_last() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().delivery(Delivery::Pull));
        let (mut peer, handle) = world.served_peer();
        let mut space = [0; 7];
        assert_eq!(world.net.recv(handle, &mut space), Err(RecvError::Empty));
        world.write(&mut peer, b"0123456789");
        drop(peer);
        world.turn_until("bytes", |world| {
            world.net.option(handle).unwrap().undelivered_bytes() == 10
        });
        world.settle();
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Read(0)]);
        assert_eq!(world.net.recv(handle, &mut []), Ok(0));
        assert_eq!(world.net.recv(handle, &mut space), Ok(7));
        assert_eq!(&space, b"0123456");
        world.settle();
        assert_eq!(world.net.state(handle), Ok(SocketState::Connected), "bytes are left");
        assert_eq!(world.net.recv(handle, &mut space), Ok(3));
        assert_eq!(&space[..3], b"789");
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        let close = Entry::Close(CloseReason::PeerClosed);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Read(0), close]);
    });
}

/// Pull: that nothing more will arrive is known while bytes are left, before the end is told.
#[test]
fn the_end_is_known_before_the_last_byte_is_pulled() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().delivery(Delivery::Pull));
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, b"last");
        world.turn_until("bytes", |world| {
            world.net.option(handle).unwrap().undelivered_bytes() == 4
        });
        assert!(!world.net.option(handle).unwrap().has_ended());
        drop(peer);
        world.turn_until("the end", |world| world.net.option(handle).unwrap().has_ended());
        assert_eq!(world.net.state(handle), Ok(SocketState::Connected), "it is not told");
    });
}

/// Pull: a socket whose bytes nobody pulls stops receiving, and loses nothing when it goes on.
#[test]
fn unpulled_bytes_are_bounded() {
    on_every_backend(|lane| {
        let (bytes_max, pool_bytes) = (8192, 4 * 1024);
        let options = lane.options().delivery(Delivery::Pull).pull_bytes_max(bytes_max);
        let mut world = World::with(options.pool(4, 1024));
        let (mut peer, handle) = narrow_peer(&mut world);
        let bytes = pattern(2 << 20);
        let written = write_until_blocked(&mut world, &mut peer, &bytes);
        let undelivered = world.net.option(handle).unwrap().undelivered_bytes();
        // What is on its way when the limit is reached still arrives: a pool's worth at most.
        let bound = bytes_max as usize + 2 * pool_bytes;
        assert!((bytes_max as usize..=bound).contains(&undelivered), "{undelivered}");

        peer.shutdown(Shutdown::Write).unwrap();
        world.script(pull_all);
        pull_all(&mut world.app, &mut world.net, handle, &Event::Read(&[]));
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        assert!(world.app.received(handle) == &bytes[..written], "bytes differ");
    });
}

fn pull_all(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: &Event<'_>) {
    if let Event::Read([]) = event {
        let mut space = [0; 1000];
        while let Ok(len) = net.recv(handle, &mut space) {
            app.receive(handle, &space[..len]);
        }
    }
}

/// A peer and its handle with small buffers of the kernel between them.
fn narrow_peer(world: &mut World) -> (TcpStream, Handle) {
    let (listener, address) = world.listen();
    world.net.option(listener).unwrap().set_receive_buffer_size(1 << 16).unwrap();
    let (peer, handle) = world.accepted_peer(address);
    SockRef::from(&peer).set_send_buffer_size(1 << 16).unwrap();
    (peer, handle)
}

/// Writes for as long as the kernel takes bytes; how many it took.
fn write_until_blocked(world: &mut World, peer: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    loop {
        match peer.write(&bytes[written..]) {
            Ok(len) => written += len,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                world.settle();
                // Room that opened meanwhile is filled as well.
                match peer.write(&bytes[written..]) {
                    Ok(len) => written += len,
                    Err(_) => break,
                }
            }
        }
    }
    assert!(written < bytes.len(), "receiving did not stop");
    written
}

/// `recv` is for sockets that are pulled.
#[test]
fn recv_needs_pull() {
    on_every_backend(|lane| {
        for delivery in [Delivery::Push, Delivery::default()] {
            let mut world = World::with(lane.options().delivery(delivery));
            let (_peer, handle) = world.served_peer();
            assert_eq!(world.net.recv(handle, &mut [0; 8]), Err(RecvError::NotPull));
        }
    });
}

/// The delivery can change at any byte: what follows in the same segment comes the new way.
#[test]
fn delivery_changes_in_the_middle_of_a_segment() {
    on_every_backend(|lane| {
        for next in [Delivery::Push, Delivery::Pull] {
            let mut world = World::new(lane);
            world.script(move |app, net, handle, event| match event {
                // The first PDU says how the rest is to be read.
                Event::Pdu(_) => net.option(handle).unwrap().set_delivery(next).unwrap(),
                _ => pull_all(app, net, handle, event),
            });
            let (mut peer, handle) = world.served_peer();
            let bytes = [frame(20, 1), b"raw bytes that are no PDU".to_vec()].concat();
            world.write(&mut peer, &bytes);
            drop(peer);
            world.turn_until("a close", |world| world.net.stats().sockets == 1);
            assert_eq!(world.app.received(handle), bytes, "{next:?}");
            let rest = if next == Delivery::Push { bytes.len() - 20 } else { 0 };
            let close = Entry::Close(CloseReason::PeerClosed);
            let expected = [Entry::Connect, Entry::Pdu(20), Entry::Read(rest), close];
            assert_eq!(world.app.log_of(handle), expected, "{next:?}");
        }
    });
}

/// Bytes that were waiting to be pulled, or are the beginning of a PDU, are not lost by a change of
/// the delivery outside of callbacks.
#[test]
fn a_change_of_delivery_keeps_what_waits() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().delivery(Delivery::Pull));
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &[frame(20, 1), frame(20, 2)[..7].to_vec()].concat());
        world.turn_until("bytes", |world| {
            world.net.option(handle).unwrap().undelivered_bytes() == 27
        });
        world.net.option(handle).unwrap().set_delivery(Delivery::default()).unwrap();
        world.turn_until("a PDU", |world| world.app.received(handle).len() == 20);
        assert_eq!(world.net.option(handle).unwrap().undelivered_bytes(), 7);
        world.net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
        world.turn_until("the rest", |world| world.app.received(handle).len() == 27);
        assert_eq!(world.net.option(handle).unwrap().undelivered_bytes(), 0);
        let expected = [Entry::Connect, Entry::Read(0), Entry::Pdu(20), Entry::Read(7)];
        assert_eq!(world.app.log_of(handle), expected);
    });
}

/// A pause takes effect between two PDUs of one segment; the rest, and then the end of the stream,
/// are told after the resume. Pausing is a switch and no counter.
#[test]
fn a_pause_holds_the_rest_of_a_segment_and_its_end() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|_, net, handle, event| {
            if let Event::Pdu(_) = event {
                net.pause_receive(handle).unwrap();
                net.pause_receive(handle).unwrap();
            }
        });
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &[frame(20, 1), frame(30, 2), frame(40, 3)].concat());
        drop(peer);
        let mut expected = vec![Entry::Connect];
        for len in [20, 30, 40] {
            world.settle();
            expected.push(Entry::Pdu(len));
            assert_eq!(world.app.log_of(handle), expected);
            world.net.resume_receive(handle).unwrap();
        }
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        expected.push(Entry::Close(CloseReason::PeerClosed));
        assert_eq!(world.app.log_of(handle), expected);
    });
}

/// A pause inside a callback for raw bytes holds what follows, and resuming delivers it in order.
#[test]
fn a_pause_keeps_raw_bytes_in_order() {
    on_every_backend(|lane| {
        let options = lane.options().delivery(Delivery::Push).pool(16, 64);
        let mut world = World::with(options);
        world.script(|_, net, handle, event| {
            if let Event::Read(_) = event {
                net.pause_receive(handle).unwrap();
            }
        });
        let (mut peer, handle) = world.served_peer();
        let bytes = pattern(10_000);
        world.write(&mut peer, &bytes);
        drop(peer);
        world.turn_until("a close", |world| {
            // A resume of what is not paused has no effect.
            if world.net.resume_receive(handle).is_ok() {
                world.net.resume_receive(handle).unwrap();
            }
            world.net.stats().sockets == 1
        });
        assert!(world.app.received(handle) == bytes, "bytes differ");
        let close = Entry::Close(CloseReason::PeerClosed);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Read(10_000), close]);
    });
}

/// A paused socket receives no more than was on its way; its peer is slowed down.
#[test]
fn a_pause_slows_the_peer_down() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().delivery(Delivery::Push));
        let (mut peer, handle) = narrow_peer(&mut world);
        world.net.pause_receive(handle).unwrap();
        world.settle();
        let bytes = pattern(2 << 20);
        let written = write_until_blocked(&mut world, &mut peer, &bytes);
        assert_eq!(world.net.stats().bytes_in, 0);
        assert_eq!(world.app.log_of(handle), [Entry::Connect]);
        peer.shutdown(Shutdown::Write).unwrap();
        world.net.resume_receive(handle).unwrap();
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        assert!(world.app.received(handle) == &bytes[..written], "bytes differ");
    });
}

/// C6: bytes that had been received before a reset, and are held, are delivered before Close.
#[test]
fn held_bytes_are_delivered_before_a_reset() {
    on_every_backend(|lane| {
        for pending in [0, 1 << 20] {
            let mut world = World::new(lane);
            world.script(|_, net, handle, event| {
                if let Event::Pdu(_) = event {
                    net.pause_receive(handle).unwrap();
                }
            });
            let (mut peer, handle) = narrow_peer(&mut world);
            SockRef::from(&peer).set_recv_buffer_size(1 << 14).unwrap();
            world.net.option(handle).unwrap().set_send_buffer_size(1 << 14).unwrap();
            world.write(&mut peer, &[frame(20, 1), frame(30, 2), frame(40, 3)].concat());
            world.turn_until("a PDU", |world| world.app.received(handle).len() == 20);
            world.script(|_, _, _, _| {});
            world.net.send(handle, &pattern(pending)).unwrap();
            world.settle();
            let left = world.net.option(handle).unwrap().pending_bytes();
            assert_eq!(left > 0, pending > 0, "the peer does not read");
            reset(peer);
            world.settle();
            world.net.resume_receive(handle).ok();
            world.turn_until("a close", |world| world.net.stats().sockets == 1);
            let close = Entry::Close(CloseReason::Reset);
            let expected = [Entry::Connect, Entry::Pdu(20), Entry::Pdu(30), Entry::Pdu(40), close];
            assert_eq!(world.app.log_of(handle), expected, "with {pending} bytes to send");
        }
    });
}

/// C6: the same for bytes that wait to be pulled.
#[test]
fn unpulled_bytes_outlive_a_reset() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().delivery(Delivery::Pull));
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, b"0123456789");
        world.turn_until("bytes", |world| {
            world.net.option(handle).unwrap().undelivered_bytes() == 10
        });
        reset(peer);
        world.settle();
        assert_eq!(world.net.recv(handle, &mut [0; 16]), Ok(10));
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        let log = world.app.log_of(handle);
        assert_eq!(log.last(), Some(&Entry::Close(CloseReason::Reset)));
    });
}

/// A reset of a paused connection is told once, and after what the kernel had received before it.
#[test]
fn a_reset_of_a_paused_connection_is_told_after_its_data() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = world.served_peer();
        world.net.pause_receive(handle).unwrap();
        world.settle();
        world.write(&mut peer, &frame(20, 1));
        reset(peer);
        world.settle();
        world.net.resume_receive(handle).ok();
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        world.settle();
        let close = Entry::Close(CloseReason::Reset);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Pdu(20), close]);
    });
}
