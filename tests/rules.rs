//! The rules of the surface, C1 to C7, as `Netlib` promises them.

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::*;

/// C1: nothing that an application calls tells it anything; the loop does.
#[test]
fn no_call_invokes_a_callback() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (listener, address) = world.listen();
        let (mut peer, handle) = world.accepted_peer(address);
        let (_other, other) = world.accepted_peer(address);
        world.net.pause_receive(handle).unwrap();
        world.settle();
        world.write(&mut peer, &frame(20, 1));
        world.settle();
        let before = world.app.log();

        world.listen();
        world.connect(address);
        world.connect("127.0.0.1:1");
        world.connect("unix:/nonexistent/socket");
        world.net.send(handle, b"bytes").unwrap();
        world.net.register_timer(Duration::ZERO, Repeat::Once, on_event, 3);
        world.net.add_loop(on_event, 4);
        world.net.resume_receive(handle).unwrap();
        world.net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
        world.net.close(listener).unwrap();
        world.net.abort(other).unwrap();
        world.net.close(handle).unwrap();
        assert_eq!(world.app.log(), before);

        world.turn();
        assert_ne!(world.app.log(), before, "the loop told nothing either");
    });
}

/// C2: the first of two PDUs in one segment closes the connection: the second is not delivered.
#[test]
fn no_event_follows_the_applications_own_close() {
    for closes in [Netlib::close, Netlib::abort] {
        on_every_backend(|lane| {
            let mut world = World::new(lane);
            world.script(move |_, net, handle, event| {
                if let Event::Pdu(_) = event {
                    closes(net, handle).unwrap();
                    assert_eq!(net.close(handle), Err(Stale));
                }
            });
            let (mut peer, handle) = world.served_peer();
            world.write(&mut peer, &[frame(20, 1), frame(30, 2)].concat());
            drop(peer);
            world.turn_while_not("the first has come", |world| {
                world.app.log_of(handle).contains(&Entry::Pdu(20))
            });
            world.settle();
            assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Pdu(20)]);
        });
    }
}

/// C2: in whichever callback a connection is closed, it is the last one that it sees.
#[test]
fn a_close_is_final_inside_every_callback() {
    let is_kind: [fn(&Event<'_>) -> bool; 8] = [
        |event| matches!(event, Event::Connect { .. }),
        |event| matches!(event, Event::Confirm),
        |event| matches!(event, Event::Read(_)),
        |event| matches!(event, Event::Pdu(_)),
        |event| matches!(event, Event::Write),
        |event| matches!(event, Event::Close(_)),
        |event| matches!(event, Event::Timer { .. }),
        |event| matches!(event, Event::Loop { .. }),
    ];
    for closes in [Netlib::close, Netlib::abort] {
        for is_kind in is_kind {
            on_every_backend(|lane| close_at(lane, is_kind, closes));
        }
    }
}

type Close = fn(&mut Netlib<App>, Handle) -> Result<(), Stale>;

/// Two connections of one world to itself, which see events of all kinds; both ends are closed by
/// the first event that is of the kind, and no event comes after it.
fn close_at(lane: &Lane, is_kind: fn(&Event<'_>) -> bool, closes: Close) {
    let limits = BacklogLimits { low: 0, high: 1, max: 4096 };
    let mut world = World::with(lane.options().backlog(limits));
    world.script(move |app, net, handle, event| {
        if is_kind(event) {
            if handle != Handle::NONE {
                // In Close it is still there.
                closes(net, handle).unwrap();
            }
            for other in app.known() {
                closes(net, other).ok();
            }
            app.note(net, Handle::NONE, "closed");
            // The closed ones are forgotten: nothing may come of them.
            app.set_script(|_, _, handle, event| {
                assert_eq!(handle, Handle::NONE, "{event:?} after the close");
            });
            return;
        }
        match event {
            // The client reads as it comes, the server whole PDUs; each sees the other's event.
            Event::Confirm => {
                net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
                net.send(handle, &frame(20, 1)).unwrap();
            }
            Event::Pdu(pdu) => drop(net.send(handle, pdu.frame()).unwrap()),
            Event::Read(_) => {
                net.register_timer(Duration::ZERO, Repeat::Once, on_event, 3);
                net.add_loop(on_event, 4);
            }
            Event::Timer { .. } => net.close(app.handles_by(CLIENT)[0]).unwrap(),
            _ => {}
        }
    });
    let (_, address) = world.listen();
    world.connect(address);
    world.turn_until("all is closed", |world| {
        world.app.count(|entry| *entry == Entry::Note("closed")) == 1
    });
    world.turn_until("all is gone", |world| world.net.stats().sockets == 0);
    world.settle();
}

/// C2: a callback closes another connection whose bytes came in the same batch.
#[test]
fn closing_another_connection_takes_its_events_out_of_the_batch() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let mut peers: Vec<_> = (0..4).map(|_| world.accepted_peer(address).0).collect();
        world.settle();
        world.script(|app, net, handle, event| {
            if let Event::Pdu(_) = event {
                let others = app.handles_by(SERVER).into_iter().filter(|other| *other != handle);
                others.for_each(|other| net.close(other).unwrap());
            }
        });
        for peer in &mut peers {
            std::io::Write::write_all(peer, &frame(20, 1)).unwrap();
        }
        world.settle();
        assert_eq!(world.app.count(|entry| *entry == Entry::Pdu(20)), 1);
        assert_eq!(world.app.count(|entry| matches!(entry, Entry::Close(_))), 0);
    });
}

/// C2: an end of the stream that waits behind bytes is not told to who reads them and closes.
#[test]
fn an_end_that_has_waited_is_not_told_after_a_close() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 0, high: 64 << 20, max: 64 << 20 };
        let mut world = World::with(lane.options().delivery(Delivery::Pull).backlog(limits));
        let (mut peer, handle) = world.served_peer();
        world.write(&mut peer, b"bytes");
        peer.shutdown(Shutdown::Write).unwrap();
        world.settle();
        // More than leaves at once, so that the socket is still there in the next turn.
        world.net.send(handle, &vec![0; 32 << 20]).unwrap();
        assert_eq!(world.net.recv(handle, &mut [0; 10]).unwrap(), 5);
        world.net.close(handle).unwrap();
        world.settle();
        assert!(world.app.count(|entry| matches!(entry, Entry::Close(_))) == 0);
        drop(peer);
    });
}

/// C3: inside each kind of callback every call of the surface works.
#[test]
fn every_call_is_allowed_inside_every_callback() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 0, high: 1, max: 4096 };
        let mut world = World::with(lane.options().backlog(limits));
        let mut kinds = BTreeSet::new();
        world.script(move |app, net, handle, event| {
            if !kinds.insert(kind_of(event)) {
                return;
            }
            call_everything(app, net);
            match event {
                Event::Connect { .. } => {
                    net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
                }
                Event::Confirm => drop(net.send(handle, b"read").unwrap()),
                Event::Read(_) => drop(net.send(handle, &frame(20, 1)).unwrap()),
                Event::Pdu(_) => {
                    net.register_timer(Duration::ZERO, Repeat::Once, on_event, 0);
                    net.add_loop(on_event, 0);
                }
                Event::Timer { .. } => net.close(app.handles_by(CLIENT)[0]).unwrap(),
                _ => {}
            }
            if kinds.len() == 8 {
                app.note(net, Handle::NONE, "all kinds");
                app.set_script(|_, _, _, _| {});
            }
        });
        let (_, address) = world.listen();
        world.connect(address);
        world.turn_until("all kinds of events", |world| {
            world.app.count(|entry| *entry == Entry::Note("all kinds")) == 1
        });
    });
}

/// Calls everything that changes something; none of it is part of the scenario that goes on.
fn call_everything(app: &mut App, net: &mut Netlib<App>) {
    let listener = net.listen("127.0.0.1:0", on_event, OTHER).unwrap();
    let address = net.option(listener).unwrap().local_address().unwrap();
    let client = net.connect(address, on_event, OTHER).unwrap();
    let timer = net.register_timer(Duration::MAX, Repeat::Forever, on_event, OTHER);
    let added = net.add_loop(on_event, OTHER);
    net.remote().wake();
    for handle in app.known() {
        let Ok(state) = net.state(handle) else { continue };
        if state == SocketState::Connected {
            // The limits are tiny, so a refusal is as good.
            net.send(handle, &[]).ok();
            net.pause_receive(handle).unwrap();
            net.resume_receive(handle).unwrap();
        }
        let mut option = net.option(handle).unwrap();
        let (user_data, delivery) = (option.user_data(), option.delivery());
        let limits = option.backlog_limits();
        option.set_user_data(user_data);
        option.set_callback(on_event);
        option.set_delivery(delivery).unwrap();
        option.set_backlog_limits(limits).unwrap();
    }
    net.delete_timer(timer).unwrap();
    net.remove_loop(added).unwrap();
    net.abort(client).unwrap();
    net.close(listener).unwrap();
}

fn kind_of(event: &Event<'_>) -> &'static str {
    match event {
        Event::Connect { .. } => "connect",
        Event::Confirm => "confirm",
        Event::Read(_) => "read",
        Event::Pdu(_) => "pdu",
        Event::Write => "write",
        Event::Close(_) => "close",
        Event::Timer { .. } => "timer",
        _ => "loop",
    }
}

/// User data of what is part of no scenario.
const OTHER: u64 = 99;

/// C4: the loop inside a callback is refused, and the loop outside goes on.
#[test]
fn the_loop_inside_a_callback_is_an_error() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|app, net, handle, event| {
            let mut nested = App::default();
            let turned = net.turn(&mut nested, Duration::ZERO);
            assert!(matches!(turned, Err(RunError::Nested)), "{event:?}");
            let looped = net.eventloop(&mut nested, Duration::ZERO);
            assert!(matches!(looped, Err(RunError::Nested)), "{event:?}");
            assert!(nested.log().is_empty());
            app.note(net, handle, "refused");
        });
        let (mut peer, handle) = world.served_peer();
        world.net.register_timer(Duration::ZERO, Repeat::Once, on_event, 3);
        let added = world.net.add_loop(on_event, 4);
        world.write(&mut peer, &frame(20, 1));
        world.turn_until("a PDU and the timer", |world| {
            world.app.received(handle).len() == 20 && world.app.handles_by(3) == [Handle::NONE]
        });
        world.net.remove_loop(added).unwrap();
        drop(peer);
        let refused = Entry::Note("refused");
        world.turn_until("a close", |world| world.app.log_of(handle).len() == 6);
        let events = [Entry::Connect, Entry::Pdu(20), Entry::Close(CloseReason::PeerClosed)];
        let expected = events.into_iter().flat_map(|event| [event, refused.clone()]);
        assert_eq!(world.app.log_of(handle), expected.collect::<Vec<_>>());
    });
}

/// C5: what was set at the listener holds for what it accepts.
#[test]
fn an_accepted_socket_inherits_from_its_listener() {
    fn inherited(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
        if let Event::Connect { listener } = event {
            assert_ne!(handle, listener);
            let (mine, theirs) = (settings(net, handle), settings(net, listener));
            assert_eq!(mine, theirs);
            assert_eq!(mine.0, 77);
            app.own(handle);
            app.note(net, handle, "inherited");
        }
    }
    fn settings(net: &mut Netlib<App>, handle: Handle) -> (u64, Delivery, BacklogLimits) {
        let option = net.option(handle).unwrap();
        assert!(std::ptr::fn_addr_eq(option.callback().unwrap(), inherited as Callback));
        (option.user_data(), option.delivery(), option.backlog_limits())
    }
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (listener, address) = world.listen();
        let mut option = world.net.option(listener).unwrap();
        option.set_callback(inherited);
        option.set_user_data(77);
        let spec = FrameSpec::teamtalk().with_max(1234);
        option.set_delivery(Delivery::Pdu(spec)).unwrap();
        option.set_backlog_limits(BacklogLimits { low: 1, high: 2, max: 3 }).unwrap();
        let _peer = world.peer(address);
        world.turn_until("a client", |world| world.app.logs_by(77).len() == 1);
    });
}

type Callback = uring_netlib::Callback<App>;

/// C5: data that came before the accept waits for the Connect callback, and goes to the callback
/// that it has put in place.
#[test]
fn a_callback_set_in_connect_gets_the_very_first_data() {
    fn replaced(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
        match event {
            Event::Read(bytes) => app.receive(handle, bytes),
            Event::Close(_) => app.note(net, handle, "close"),
            other => panic!("{other:?}"),
        }
    }
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        world.script(|_, net, handle, event| {
            assert!(matches!(event, Event::Connect { .. }), "{event:?}");
            let mut option = net.option(handle).unwrap();
            assert_eq!(option.undelivered_bytes(), 0, "it has not begun to receive");
            option.set_callback(replaced);
            option.set_delivery(Delivery::Push).unwrap();
        });
        let mut peer = world.peer(address);
        world.write(&mut peer, b"early");
        drop(peer);
        world.turn_until("the end", |world| {
            world.app.logs_by(SERVER) == [[Entry::Connect, Entry::Note("close")]]
        });
        let handle = world.app.handles_by(SERVER)[0];
        assert_eq!(world.app.received(handle), b"early");
    });
}

/// A callback that is replaced hears nothing more, also of PDUs that came along with the last one
/// it was told of.
#[test]
fn a_callback_set_in_mid_chunk_gets_the_very_next_pdu() {
    fn first(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
        if let Event::Pdu(_) = event {
            app.note(net, handle, "first");
            net.option(handle).unwrap().set_callback(second);
        }
    }
    fn second(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
        if let Event::Pdu(_) = event {
            app.note(net, handle, "second");
            net.option(handle).unwrap().set_callback(first);
        }
    }
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = world.served_peer();
        let before = world.app.log_of(handle).len();
        world.net.option(handle).unwrap().set_callback(first);
        let bytes: Vec<u8> = (1..=4).flat_map(|fill| frame(20, fill)).collect();
        world.write(&mut peer, &bytes);
        world.turn_until("all PDUs", |world| world.app.log_of(handle).len() == before + 4);
        let told = ["first", "second", "first", "second"].map(Entry::Note);
        assert_eq!(world.app.log_of(handle)[before..], told);
    });
}

/// C6: data and the end of the stream arrive together: first all of the data, then one Close.
#[test]
fn data_that_arrives_with_the_end_is_delivered_before_close() {
    for delivery in [Delivery::default(), Delivery::Push, Delivery::Pull] {
        on_every_backend(|lane| {
            let mut world = World::with(lane.options().delivery(delivery));
            world.script(pull_all);
            let (_, address) = world.listen();
            let mut peer = world.peer(address);
            let bytes: Vec<u8> = (1..=50).flat_map(|fill| frame(200, fill)).collect();
            std::io::Write::write_all(&mut peer, &bytes).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            world.turn_until("a close", closed);
            let handle = world.app.handles_by(SERVER)[0];
            assert_eq!(world.app.received(handle), bytes);
            world.settle();
            let log = world.app.log_of(handle);
            assert_eq!(log.last(), Some(&Entry::Close(CloseReason::PeerClosed)));
            assert_eq!(log.iter().filter(|entry| matches!(entry, Entry::Close(_))).count(), 1);
        });
    }
}

/// Pulls whatever is there, where it has to be pulled.
fn pull_all(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: &Event<'_>) {
    if let Event::Read([]) = event {
        let mut space = [0; 4096];
        while let Ok(len) = net.recv(handle, &mut space) {
            app.receive(handle, &space[..len]);
        }
    }
}

fn closed(world: &mut World) -> bool {
    world.app.count(|entry| matches!(entry, Entry::Close(_))) > 0
}

/// C6: a peer that has finished its side still gets every answer, and then the end.
#[test]
fn a_half_closed_peer_gets_all_answers() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.echo();
        let (mut peer, _) = world.served_peer();
        let bytes: Vec<u8> = (0..100).flat_map(|fill| frame(1000, fill)).collect();
        world.write(&mut peer, &bytes);
        peer.shutdown(Shutdown::Write).unwrap();
        let (answers, ended) = world.read_to_end(&mut peer);
        assert_eq!(answers, bytes);
        ended.unwrap();
    });
}

/// C6: much data, and then the end.
#[test]
fn a_mebibyte_before_the_end_is_delivered_whole() {
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().delivery(Delivery::Push));
        let (mut peer, handle) = world.served_peer();
        let bytes = pattern(1 << 20);
        world.write(&mut peer, &bytes);
        drop(peer);
        world.turn_until("a close", closed);
        assert!(world.app.received(handle) == bytes, "bytes differ");
        let close = Entry::Close(CloseReason::PeerClosed);
        assert_eq!(world.app.log_of(handle), [Entry::Connect, Entry::Read(1 << 20), close]);
    });
}

/// C7: what was sent before `close` reaches a slow peer, although bytes of the peer lie unread.
#[test]
fn close_flushes_what_was_sent() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (peer, handle) = world.served_peer();
        world.net.pause_receive(handle).unwrap();
        world.settle();
        flush_to_a_slow_peer(&mut world, peer, handle);
    });
}

/// C7: the same, where receiving was paused in the very turn of the close.
#[test]
fn close_flushes_also_right_after_a_pause() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (peer, handle) = world.served_peer();
        world.settle();
        world.net.pause_receive(handle).unwrap();
        flush_to_a_slow_peer(&mut world, peer, handle);
    });
}

fn flush_to_a_slow_peer(world: &mut World, mut peer: TcpStream, handle: Handle) {
    SockRef::from(&peer).set_recv_buffer_size(1 << 16).unwrap();
    world.net.option(handle).unwrap().set_send_buffer_size(1 << 16).unwrap();
    std::io::Write::write_all(&mut peer, &pattern(10_000)).unwrap();
    let bytes = pattern(1 << 20);
    world.net.send(handle, &bytes).unwrap();
    world.net.close(handle).unwrap();
    for piece in bytes.chunks(1 << 16) {
        assert!(world.read(&mut peer, piece.len()) == piece, "bytes differ");
        world.write(&mut peer, b"more that nobody reads");
    }
    let (rest, ended) = world.read_to_end(&mut peer);
    assert_eq!(rest, []);
    ended.unwrap();
    drop(peer);
    world.turn_until("it is gone", |world| world.net.stats().sockets == 1);
    assert_eq!(world.app.log_of(handle), [Entry::Connect]);
}

/// C7: `abort` flushes nothing, and the peer knows.
#[test]
fn abort_resets_the_connection() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (mut peer, handle) = world.served_peer();
        world.net.send(handle, b"never sent").unwrap();
        world.net.abort(handle).unwrap();
        let (bytes, ended) = world.read_to_end(&mut peer);
        assert_eq!(bytes, []);
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

/// C7: a peer that never reads cannot hold a closed connection for longer than `close_timeout`.
#[test]
fn a_peer_that_never_reads_is_cut_after_the_timeout() {
    let timeout = Duration::from_millis(30);
    on_every_backend(|lane| {
        let mut world = World::with(lane.options().close_timeout(timeout));
        let (mut peer, handle) = world.served_peer();
        SockRef::from(&peer).set_recv_buffer_size(4096).unwrap();
        world.net.option(handle).unwrap().set_send_buffer_size(4096).unwrap();
        world.net.send(handle, &pattern(1 << 20)).unwrap();
        let start = Instant::now();
        world.net.close(handle).unwrap();
        world.turn_until("it is cut", |world| world.net.stats().sockets == 1);
        let passed = start.elapsed();
        assert!(passed >= timeout && passed < timeout * 20, "cut after {passed:?}");
        let (bytes, ended) = world.read_to_end(&mut peer);
        assert!(bytes.len() < 1 << 20);
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}
