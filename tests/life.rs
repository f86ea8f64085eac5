//! How sockets begin and end: each is announced once, closed once, and leaves nothing behind.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::*;
use uring_netlib::pdu::Header;

/// One whole conversation tells the same on every backend, at both of its ends.
#[test]
fn a_conversation_is_the_same_on_every_backend() {
    same_on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|app, net, handle, event| match event {
            Event::Confirm => drop(net.send(handle, &frame(20, 1)).unwrap()),
            // Each end makes it longer, until the client has enough of it.
            Event::Pdu(pdu) if pdu.frame().len() < 40 => {
                net.send(handle, &frame(pdu.frame().len() + 4, 1)).unwrap();
            }
            Event::Pdu(_) => net.close(app.handles_by(CLIENT)[0]).unwrap(),
            _ => {}
        });
        let (_, address) = world.listen();
        world.connect(address);
        world.turn_until("the server's close", |world| {
            world.app.count(|entry| matches!(entry, Entry::Close(_))) == 1
        });
        world.turn_until("all but the listener is gone", |world| world.net.stats().sockets == 1);
        world.app.story()
    });
}

/// A handle whose socket is closed, was never, or has got a successor, is refused by every call.
#[test]
fn every_call_refuses_a_stale_handle() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let (peer, told) = world.accepted_peer(address);
        drop(peer);
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        assert_stale(&mut world, told);

        // The next one takes the same place, and is another socket.
        let (mut peer, next) = world.accepted_peer(address);
        assert_ne!(next, told);
        assert_stale(&mut world, told);
        assert_eq!(world.net.state(next), Ok(SocketState::Connected));
        world.net.send(next, b"alive").unwrap();
        assert_eq!(world.read(&mut peer, 5), b"alive");

        world.net.close(next).unwrap();
        assert_stale(&mut world, next);
        let (_peer, aborted) = world.accepted_peer(address);
        world.net.abort(aborted).unwrap();
        assert_stale(&mut world, aborted);
        assert_stale(&mut world, Handle::NONE);
        assert_stale(&mut world, Handle::from_bits(u64::MAX));
        assert_stale(&mut world, Handle::from_bits(told.to_bits() ^ 1));
    });
}

fn assert_stale(world: &mut World, handle: Handle) {
    let net = &mut world.net;
    assert_eq!(net.send(handle, b"bytes"), Err(SendError::Stale));
    assert_eq!(net.send_pdu(handle, Header::new(1, 2), &()), Err(SendError::Stale));
    assert_eq!(net.recv(handle, &mut [0; 8]), Err(RecvError::Stale));
    assert_eq!(net.state(handle), Err(Stale));
    assert_eq!(net.option(handle).err(), Some(Stale));
    assert_eq!(net.pause_receive(handle), Err(Stale));
    assert_eq!(net.resume_receive(handle), Err(Stale));
    assert_eq!(net.close(handle), Err(Stale));
    assert_eq!(net.abort(handle), Err(Stale));
}

/// The states that a socket goes through are those that its user sees.
#[test]
fn a_socket_tells_its_state() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|_, net, handle, event| {
            let expected = match event {
                Event::Close(_) => SocketState::Closing,
                _ => SocketState::Connected,
            };
            assert_eq!(net.state(handle), Ok(expected), "{event:?}");
            if expected == SocketState::Closing {
                assert_eq!(net.send(handle, b"late"), Err(SendError::NotConnected));
            }
        });
        let (listener, address) = world.listen();
        assert_eq!(world.net.state(listener), Ok(SocketState::Listening));
        assert_eq!(world.net.send(listener, b"bytes"), Err(SendError::NotConnected));
        let client = world.connect(address);
        assert_eq!(world.net.state(client), Ok(SocketState::Connecting));
        assert_eq!(world.net.send(client, b"early"), Err(SendError::NotConnected));
        world.turn_until("both ends", |world| world.app.log().len() == 2);
        world.net.close(client).unwrap();
        world.turn_until("a close", |world| world.app.log().len() == 3);
    });
}

/// A reset in the middle of a PDU is told once, and as a reset.
#[test]
fn a_reset_is_told_once() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, &frame(20, 1)[..10]);
        world.turn_until("half a PDU", |world| world.net.stats().bytes_in == 10);
        reset(peer);
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        world.settle();
        let close = Entry::Close(CloseReason::Reset);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, close]);
    });
}

/// A reset while bytes are pending, which fails a send as well, is still told once.
#[test]
fn a_reset_under_pending_bytes_is_told_once() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (peer, handle) = world.served_peer();
        world.net.option(handle).unwrap().set_send_buffer_size(1 << 14).unwrap();
        SockRef::from(&peer).set_recv_buffer_size(1 << 14).unwrap();
        world.net.send(handle, &pattern(1 << 20)).unwrap();
        world.settle();
        assert!(world.net.option(handle).unwrap().pending_bytes() > 0, "the peer does not read");
        reset(peer);
        world.turn_until("a close", |world| world.net.stats().sockets == 1);
        world.settle();
        let close = Entry::Close(CloseReason::Reset);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, close]);
    });
}

/// The end of the stream in the middle of a PDU is told apart from one between PDUs.
#[test]
fn an_end_inside_a_pdu_is_truncation() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        for received in [1, 3, 4, 15, 16, 19] {
            let (mut peer, handle) = world.accepted_peer(address);
            let bytes = [frame(20, 1), frame(20, 2)[..received].to_vec()].concat();
            world.write(&mut peer, &bytes);
            drop(peer);
            let close = Entry::Close(CloseReason::Truncated { received });
            let expected = [Entry::Connect, Entry::Pdu(20), close];
            world.turn_until("a close", |world| world.app.log_of(handle).len() == 3);
            assert_eq!(world.app.log_of(handle), expected);
        }
    });
}

/// Where nobody listens there is one Close and no Confirm: TCP, a path without a socket, and a
/// path whose listener is gone.
#[test]
fn a_refused_attempt_is_told_once() {
    let (_silent, address) = silent_socket();
    let folder = Folder::new("refused");
    let path = folder.path("stale");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let missing = Address::Path(folder.path("missing"));
        for address in [Address::from(address), missing, Address::Path(path.clone())] {
            let handle = world.connect(&address);
            world.turn_until("a refusal", |world| world.net.stats().sockets == 0);
            world.settle();
            let log = world.app.log_of(handle);
            assert_eq!(log, [Entry::Close(CloseReason::Refused)], "{address}");
        }
    });
}

/// An attempt that nobody answers ends after `connect_timeout`, not before, and is told once.
#[test]
fn an_attempt_without_an_answer_times_out() {
    // A full queue of waiting clients: further ones get no answer at all.
    let (full, address) = silent_socket();
    full.listen(0).unwrap();
    let _waiting = TcpStream::connect(address).unwrap();
    let timeout = Duration::from_millis(30);
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().connect_timeout(timeout));
        let start = Instant::now();
        let handle = world.connect(address);
        world.turn_until("a timeout", |world| world.net.stats().sockets == 0);
        let passed = start.elapsed();
        assert!(passed >= timeout && passed < timeout * 20, "{passed:?}");
        world.settle();
        assert_eq!(world.app.log_of(handle), [Entry::Close(CloseReason::TimedOut)]);
    });
}

/// An attempt that the application gives up says nothing any more, at whichever point it is.
#[test]
fn an_attempt_that_was_given_up_says_nothing() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        for turns in 0..2 {
            let handles = [world.connect(address), world.connect("localhost:1")];
            let state = world.net.state(handles[1]);
            assert_eq!(state, Ok(SocketState::Idle), "its name is being resolved");
            for _ in 0..turns {
                world.turn();
            }
            for handle in handles {
                let before = world.app.log_of(handle);
                if world.net.close(handle).is_ok() {
                    world.settle();
                    assert_eq!(world.app.log_of(handle), before);
                }
            }
        }
    });
}

/// A listener that is closed refuses; its port can be listened at again at once, and connections
/// that it had accepted live on.
#[test]
fn a_closed_listener_refuses_and_frees_its_port() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.echo();
        let (listener, address) = world.listen();
        let (mut peer, _) = world.accepted_peer(address);
        world.net.close(listener).unwrap();
        world.turn_until("the listener is gone", |world| world.net.stats().sockets == 1);
        assert!(TcpStream::connect(address).is_err(), "nobody listens");

        world.write(&mut peer, &frame(20, 1));
        assert_eq!(world.read(&mut peer, 20), frame(20, 1));

        let again = world.net.listen(address, on_event, SERVER).expect("the port is free");
        world.app.own(again);
        let (mut other, _) = world.accepted_peer(address);
        world.write(&mut other, &frame(20, 2));
        assert_eq!(world.read(&mut other, 20), frame(20, 2));
        assert_eq!(world.app.log_of(listener), []);
    });
}

/// A close and a listen at the same port need no turn between them.
#[test]
fn a_port_can_be_listened_at_in_the_turn_of_its_close() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (listener, address) = world.listen();
        world.settle();
        world.net.close(listener).unwrap();
        let again = world.net.listen(address, on_event, SERVER).expect("the port is free");
        world.app.own(again);
        world.accepted_peer(address);
    });
}

/// Beyond `sockets_max` a client is turned away at once and counted, calls are refused, and a
/// socket that closes makes room.
#[test]
fn clients_beyond_the_limit_are_turned_away() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().sockets_max(3));
        let (_, address) = world.listen();
        let (_first, first) = world.accepted_peer(address);
        let (_second, second) = world.accepted_peer(address);
        let mut third = world.peer(address);
        let (bytes, _) = world.read_to_end(&mut third);
        assert_eq!(bytes, []);
        let listened = world.net.listen("127.0.0.1:0", on_event, SERVER);
        assert!(matches!(listened, Err(ListenError::TooMany)));
        let connected = world.net.connect(address, on_event, CLIENT);
        assert!(matches!(connected, Err(ConnectError::TooMany)));
        let stats = world.net.stats();
        assert_eq!((stats.sockets, stats.accepted, stats.rejected), (3, 2, 1));
        assert_eq!(world.app.handles_by(SERVER), [first, second]);

        world.net.abort(first).unwrap();
        world.turn_until("room", |world| world.net.stats().sockets == 2);
        world.accepted_peer(address);
    });
}

/// Two hundred connections come, talk and go, and the counters come back.
#[test]
fn churn_leaves_nothing_behind() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.echo();
        let (_, address) = world.listen();
        churn(&mut world, address, 200);
        let stats = world.net.stats();
        assert_eq!((stats.sockets, stats.accepted, stats.closed), (1, 200, 200));
        assert_eq!((stats.pdus_in, stats.bytes_in, stats.bytes_out), (200, 4000, 4000));
        assert_eq!(world.app.count(|entry| *entry == Entry::Close(CloseReason::PeerClosed)), 200);
    });
}

/// Fifty at the same time.
fn churn(world: &mut World, address: SocketAddr, connections: usize) {
    for _ in 0..connections / 50 {
        let mut peers: Vec<TcpStream> = (0..50).map(|_| world.peer(address)).collect();
        for peer in &mut peers {
            world.write(peer, &frame(20, 1));
        }
        for peer in &mut peers {
            assert_eq!(world.read(peer, 20), frame(20, 1));
        }
        drop(peers);
        world.turn_until("all of them are gone", |world| world.net.stats().sockets == 1);
    }
}

/// Every descriptor comes back: of connections, refused attempts, listeners, and of the `Netlib`.
#[test]
fn every_descriptor_comes_back() {
    alone("every_descriptor_comes_back", || {
        let (_silent, refusing) = silent_socket();
        let before = descriptors();
        on_every_backend(|lane| {
            let mut world = World::new(lane);
            world.echo();
            let (listener, address) = world.listen();
            let idle = descriptors();
            churn(&mut world, address, 50);
            world.connect(refusing);
            let client = world.connect(address);
            world.turn_until("a refusal and a connection", |world| {
                world.app.count(|entry| matches!(entry, Entry::Close(CloseReason::Refused))) == 1
                    && world.app.log_of(client) == [Entry::Confirm]
            });
            world.net.close(client).unwrap();
            world.turn_until("all are gone", |world| world.net.stats().sockets == 1);
            assert_eq!(descriptors(), idle);
            world.net.abort(listener).unwrap();
            // Sockets that are open when the `Netlib` is dropped go with it.
            let abandoned = World::new(lane);
            drop(abandoned);
        });
        assert_eq!(descriptors(), before);
        on_every_backend(|lane| {
            let mut net: Netlib<App> = lane.options().build().unwrap();
            let listener = net.listen("127.0.0.1:0", on_event, SERVER).unwrap();
            let address = net.option(listener).unwrap().local_address().unwrap();
            net.connect(address, on_event, CLIENT).unwrap();
            let mut app = App::default();
            while app.log().len() < 2 {
                net.turn(&mut app, DEADLINE).unwrap();
            }
            net.send(app.handles_by(CLIENT)[0], &pattern(1 << 20)).unwrap();
        });
        assert_eq!(descriptors(), before);
    });
}

/// Descriptors of this process.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
