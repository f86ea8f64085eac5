//! Deadlines and heartbeats, in virtual time: never early, on the tick, and only where they are
//! deserved.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use support::*;

/// A world whose time passes only when the test says so.
struct Timed {
    world: World,
    clock: ManualClock,
}

impl Timed {
    fn new(lane: &Lane, liveness: Liveness) -> Self {
        let clock = ManualClock::new();
        let options = lane.options().clock(&clock).liveness(liveness);
        Self { world: World::with(options), clock }
    }

    /// Lets time pass, and the loop look at it.
    fn pass(&mut self, span: Duration) {
        self.clock.advance(span);
        self.world.turn();
    }

    /// Has the deadline run out after the next `span`, at its very end.
    fn expect_expiry(&mut self, handle: Handle, span: Duration, deadline: Deadline) {
        self.pass(span - ms(1));
        assert!(self.world.net.state(handle).is_ok(), "{deadline:?} early");
        self.pass(ms(1));
        let reason = CloseReason::Expired(deadline);
        assert_eq!(self.world.app.log_of(handle).last(), Some(&Entry::Close(reason)));
    }

    fn write(&mut self, peer: &mut TcpStream, handle: Handle, bytes: &[u8]) {
        let before = self.world.net.stats().bytes_in;
        self.world.write(peer, bytes);
        self.world.turn_until("the bytes are in", |world| {
            world.net.stats().bytes_in == before + bytes.len() as u64
        });
        assert!(self.world.net.state(handle).is_ok());
    }
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A connection that is not marked as ready in time is closed, whatever it sends; a ready one is
/// not.
#[test]
fn who_is_not_ready_in_time_has_to_go() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::client());
        let (_, address) = timed.world.listen();
        let (mut peer, handle) = timed.world.accepted_peer(address);
        let (_ready_peer, ready) = timed.world.accepted_peer(address);
        timed.world.net.mark_ready(ready).unwrap();
        timed.pass(secs(10));
        timed.write(&mut peer, handle, &frame(64, 1));
        timed.expect_expiry(handle, secs(5), Deadline::Handshake);
        assert!(timed.world.net.option(ready).unwrap().is_ready());
        assert_eq!(timed.world.net.stats().closes.handshake, 1);
        assert_eq!(timed.world.net.mark_ready(handle), Err(Stale));
    });
}

/// A PDU that has started must become whole; drips do not help, and its successor has its own time.
#[test]
fn a_drip_does_not_keep_a_pdu_open() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().frame(secs(30)));
        let (mut peer, handle) = timed.world.served_peer();
        let bytes = frame(64, 1);
        timed.pass(secs(1000));
        // The whole of one PDU and half a header, and then the rest, byte by byte.
        timed.write(&mut peer, handle, &[&bytes, &bytes[..8]].concat());
        for byte in &bytes[8..13] {
            timed.pass(secs(5));
            timed.write(&mut peer, handle, &[*byte]);
        }
        timed.expect_expiry(handle, secs(5), Deadline::Frame);

        let (mut peer, handle) = timed.world.served_peer();
        for _ in 0..10 {
            // Each ends one PDU and begins the next.
            timed.write(&mut peer, handle, &bytes[..32]);
            timed.pass(secs(20));
            timed.write(&mut peer, handle, &bytes[32..]);
        }
        timed.write(&mut peer, handle, &bytes[..1]);
        timed.expect_expiry(handle, secs(30), Deadline::Frame);

        // Whoever was let in meanwhile has no more time than others.
        let (mut peer, handle) = timed.world.served_peer();
        timed.write(&mut peer, handle, &bytes);
        timed.world.net.mark_ready(handle).unwrap();
        timed.write(&mut peer, handle, &bytes[..20]);
        timed.expect_expiry(handle, secs(30), Deadline::Frame);
    });
}

/// A silent peer is closed; any byte is a sign of life.
#[test]
fn a_silent_peer_has_to_go() {
    on_every_backend(|lane| {
        let liveness = Liveness::new().read_idle(secs(120)).frame(Duration::MAX);
        let mut timed = Timed::new(lane, liveness);
        let (mut peer, handle) = timed.world.served_peer();
        timed.pass(secs(119));
        timed.write(&mut peer, handle, &[0]);
        timed.pass(secs(119));
        timed.write(&mut peer, handle, &[0]);
        timed.expect_expiry(handle, secs(120), Deadline::ReadIdle);
        assert_eq!(timed.world.net.stats().closes.read_idle, 1);
    });
}

/// A heartbeat is sent when nothing else was sent for the interval, and only then.
#[test]
fn a_heartbeat_fills_silence() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::server_to_server().read_idle(Duration::MAX));
        let (mut peer, handle) = timed.world.served_peer();
        let heartbeat = *b"\0\0\0\x10\0\x01\0\0\0\x07\x07\x01\0\0\0\0";
        timed.pass(secs(5));
        assert_eq!(timed.world.read(&mut peer, 16), heartbeat);
        timed.pass(secs(4));
        timed.world.net.send(handle, b"something else").unwrap();
        assert_eq!(timed.world.read(&mut peer, 14), b"something else");
        timed.pass(secs(4));
        timed.world.settle();
        assert_eq!(timed.world.net.stats().heartbeats, 1, "four seconds after the other");
        timed.pass(secs(1));
        assert_eq!(timed.world.read(&mut peer, 16), heartbeat, "five seconds after the other");
        assert_eq!(timed.world.net.stats().heartbeats, 2);
    });
}

/// Two servers keep each other's connection open by heartbeats, for an hour and with nothing else.
#[test]
fn heartbeats_keep_a_connection_for_an_hour() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::server_to_server());
        let (_, address) = timed.world.listen();
        let client = timed.world.connect(address);
        timed.world.turn_until("both ends", |world| world.net.stats().connected == 2);
        for _ in 0..720 {
            let before = timed.world.net.stats().pdus_in;
            timed.pass(secs(5));
            let what = "a heartbeat each way";
            timed.world.turn_until(what, |world| world.net.stats().pdus_in == before + 2);
        }
        assert!(timed.world.net.state(client).is_ok());
        assert_eq!(timed.world.net.stats().heartbeats, 1440);
    });
}

/// A peer that takes nothing of what is being sent is cut off; one that is slow is not.
#[test]
fn who_takes_nothing_is_cut_and_who_is_slow_is_not() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().write_stall(secs(10)));
        let (_, address) = timed.world.listen();
        let (_stalled_peer, stalled) = timed.world.accepted_peer(address);
        let (mut slow_peer, slow) = timed.world.accepted_peer(address);
        for handle in [stalled, slow] {
            fill(&mut timed.world, handle);
        }
        // Progress is looked at every eighth of the span. The kernel of the stalled peer may take a
        // little more now and then, which is progress.
        let mut looks = 0;
        while timed.world.net.state(stalled).is_ok() {
            looks += 1;
            assert!(looks <= 25, "it takes nothing any more");
            // More than the kernel waits for before it tells the sender of room.
            timed.world.read(&mut slow_peer, 512 * 1024);
            timed.world.settle();
            timed.pass(ms(1250));
        }
        assert!(looks >= 9, "{looks} looks are less than the span");
        let reason = CloseReason::Expired(Deadline::WriteStall);
        assert_eq!(timed.world.app.log_of(stalled).last(), Some(&Entry::Close(reason)));
        assert!(timed.world.net.state(slow).is_ok());
        assert_eq!(timed.world.net.stats().closes.write_stall, 1);
    });
}

/// Queues 16 MiB and lets the kernel take what it will.
fn fill(world: &mut World, handle: Handle) {
    let limits = BacklogLimits { low: 0, high: 16 << 20, max: 16 << 20 };
    world.net.option(handle).unwrap().set_backlog_limits(limits).unwrap();
    world.net.send(handle, &vec![0; 16 << 20]).unwrap();
    world.settle();
}

/// A connection that has lasted as long as it may is closed, however busy it is, after what was
/// sent.
#[test]
fn a_lifetime_ends() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().lifetime(secs(60)));
        let (mut peer, handle) = timed.world.served_peer();
        for _ in 0..5 {
            timed.pass(secs(10));
            timed.write(&mut peer, handle, &frame(64, 1));
        }
        timed.world.net.send(handle, b"last words").unwrap();
        timed.expect_expiry(handle, secs(10), Deadline::Lifetime);
        assert_eq!(timed.world.read_to_end(&mut peer).0, b"last words");
    });
}

/// While nobody listens to it a peer is not blamed for its silence; afterwards it has its time.
#[test]
fn a_paused_peer_is_not_blamed() {
    on_every_backend(|lane| {
        let liveness = Liveness::new().read_idle(secs(60)).frame(secs(30));
        let mut timed = Timed::new(lane, liveness);
        let (mut peer, handle) = timed.world.served_peer();
        timed.write(&mut peer, handle, &frame(64, 1)[..20]);
        timed.world.net.pause_receive(handle).unwrap();
        timed.pass(secs(3600));
        timed.world.settle();
        timed.world.net.resume_receive(handle).unwrap();
        timed.world.turn();
        timed.expect_expiry(handle, secs(30), Deadline::Frame);
    });
}

/// A connection that waits for a receive buffer when its alarm goes off is watched on after it.
#[test]
fn a_starved_connection_is_watched_on() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let options = lane.options().clock(&clock).liveness(Liveness::new().read_idle(secs(100)));
        let options = options.pool(1, 64).delivery(Delivery::Push);
        let mut timed = Timed { world: World::with(options), clock };
        let (_, address) = timed.world.listen();
        let mut peers: Vec<_> = (0..3).map(|_| timed.world.accepted_peer(address)).collect();
        for (peer, _) in &mut peers {
            peer.write_all(&[0; 20_000]).unwrap();
        }
        // Each turn serves one of them, and the others wait.
        for step in [60, 40] {
            for _ in 0..6 {
                timed.world.turn();
            }
            timed.pass(secs(step));
        }
        assert!(timed.world.net.stats().bytes_in < 60_000, "they still wait");
        timed.world.turn_until("all bytes", |world| world.net.stats().bytes_in == 60_000);
        timed.world.settle();
        timed.pass(secs(100));
        assert_eq!(timed.world.net.stats().closes.read_idle, 3);
    });
}

/// A loop that was kept away, by a callback or otherwise, does not blame a peer whose bytes wait
/// in the kernel.
#[test]
fn an_absent_loop_listens_first() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().read_idle(secs(60)));
        let (_, address) = timed.world.listen();
        let (mut busy, _) = timed.world.accepted_peer(address);
        let (mut patient_peer, patient) = timed.world.accepted_peer(address);
        let (_silent_peer, silent) = timed.world.accepted_peer(address);
        let clock = timed.clock.clone();
        timed.world.script(move |_, net, _, event| {
            if let Event::Pdu(_) = event {
                clock.advance(secs(100));
                // What came meanwhile is still with the kernel.
                assert_eq!(net.stats().closes.read_idle, 0);
                patient_peer.write_all(&[0]).unwrap();
                let_it_arrive();
            }
        });
        let before = timed.world.net.stats().bytes_in;
        timed.world.write(&mut busy, &frame(64, 1));
        timed.world.turn_until("the patient peer is heard", |world| {
            world.net.stats().bytes_in == before + 65
        });
        let reason = CloseReason::Expired(Deadline::ReadIdle);
        assert_eq!(timed.world.app.log_of(silent).last(), Some(&Entry::Close(reason)));
        assert!(timed.world.net.state(patient).is_ok());
    });
}

/// Nor does one that was stopped for minutes, with more peers than one wait tells of.
#[test]
fn a_stopped_process_keeps_its_peers() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().read_idle(secs(120)));
        let (_, address) = timed.world.listen();
        let mut peers: Vec<_> = (0..200).map(|_| timed.world.accepted_peer(address)).collect();
        let silent = peers.pop().unwrap().1;
        for (peer, _) in &mut peers {
            peer.write_all(&frame(16, 0)).unwrap();
        }
        let_it_arrive();
        timed.clock.advance(secs(300));
        timed.world.turn_until("all heartbeats", |world| world.net.stats().pdus_in == 199);
        assert_eq!(timed.world.net.stats().connected, 199);
        assert!(timed.world.net.state(silent).is_err());
    });
}

/// Waits until the kernel has carried what was written on the loopback before: what is written now
/// comes behind it.
fn let_it_arrive() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut source = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut target, _) = listener.accept().unwrap();
    source.write_all(b"last").unwrap();
    target.read_exact(&mut [0; 4]).unwrap();
}

/// A deadline for stalled writes holds for what is in flight already.
#[test]
fn a_stall_deadline_reaches_what_is_in_flight() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().write_stall(Duration::MAX));
        let (_peer, handle) = timed.world.served_peer();
        fill(&mut timed.world, handle);
        timed.pass(secs(3600));
        let liveness = Liveness::new().write_stall(secs(8));
        timed.world.net.option(handle).unwrap().set_liveness(liveness);
        let mut looks = 0;
        while timed.world.net.state(handle).is_ok() {
            looks += 1;
            assert!(looks < 50, "it takes nothing any more");
            timed.world.settle();
            timed.pass(secs(1));
        }
    });
}

/// The beginning of a PDU that turns out to be none has no deadline.
#[test]
fn bytes_that_are_no_pdu_have_no_deadline() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().frame(secs(30)));
        let (mut peer, handle) = timed.world.served_peer();
        timed.write(&mut peer, handle, &frame(64, 1)[..20]);
        timed.world.net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
        timed.world.turn_until("its bytes", |world| world.app.received(handle).len() == 20);
        timed.pass(secs(100));
        assert!(timed.world.net.state(handle).is_ok());
    });
}

/// What waits behind a PDU that has changed how the rest is read has none either.
#[test]
fn bytes_behind_a_change_of_delivery_have_no_deadline() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let options = lane.options().clock(&clock).liveness(Liveness::new().frame(secs(30)));
        let mut timed = Timed { world: World::with(options.delivery(Delivery::Pull)), clock };
        timed.world.script(|_, net, handle, event| {
            if let Event::Pdu(_) = event {
                net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
            }
        });
        let (mut peer, handle) = timed.world.served_peer();
        let bytes = [frame(20, 1), frame(20, 2)].concat();
        timed.write(&mut peer, handle, &bytes);
        timed.world.net.option(handle).unwrap().set_delivery(Delivery::default()).unwrap();
        timed.world.turn_until("all bytes", |world| world.app.received(handle) == bytes);
        timed.pass(secs(100));
        assert!(timed.world.net.state(handle).is_ok());
    });
}

/// A heartbeat that would have to wait is not sent, and its refusal is nobody's business.
#[test]
fn no_heartbeat_goes_behind_pending_bytes() {
    on_every_backend(|lane| {
        let liveness = Liveness::new().heartbeat(secs(5)).write_stall(Duration::MAX);
        let mut timed = Timed::new(lane, liveness);
        let (mut peer, handle) = timed.world.served_peer();
        fill(&mut timed.world, handle);
        timed.pass(secs(60));
        timed.world.read(&mut peer, 16 << 20);
        timed.world.turn_until("all has left", |world| world.net.stats().buffered_bytes == 0);
        let stats = timed.world.net.stats();
        assert_eq!((stats.heartbeats, stats.sends_refused), (0, 0));
        assert!(!timed.world.app.log_of(handle).contains(&Entry::Write), "nobody asked for it");
        timed.pass(secs(5));
        assert_eq!(timed.world.read(&mut peer, 16).len(), 16);
    });
}

/// Who is marked as ready before the connection is open stays so.
#[test]
fn ready_before_it_is_open_is_ready() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new().handshake(secs(15)));
        let (_, address) = timed.world.listen();
        let client = timed.world.connect(address);
        timed.world.net.mark_ready(client).unwrap();
        timed.world.turn_until("it is open", |world| world.net.stats().connected == 2);
        timed.pass(secs(100));
        assert!(timed.world.net.state(client).is_ok());
    });
}

/// What a listener has is inherited; a connection can have its own, which counts from what was.
#[test]
fn liveness_is_inherited_and_changed() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::new());
        let (listener, address) = timed.world.listen();
        timed.world.net.option(listener).unwrap().set_liveness(Liveness::mobile());
        let (_peer, handle) = timed.world.accepted_peer(address);
        assert_eq!(timed.world.net.option(handle).unwrap().liveness(), Liveness::mobile());
        timed.world.net.mark_ready(handle).unwrap();
        timed.pass(secs(100));
        let sooner = Liveness::client().read_idle(secs(101));
        timed.world.net.option(handle).unwrap().set_liveness(sooner);
        timed.expect_expiry(handle, secs(1), Deadline::ReadIdle);
    });
}

/// Deadlines leave no alarm behind, neither those that ran out nor those of connections that went
/// before.
#[test]
fn deadlines_leave_no_alarm_behind() {
    on_every_backend(|lane| {
        let mut timed = Timed::new(lane, Liveness::client().heartbeat(secs(7)));
        let (_, address) = timed.world.listen();
        let mut peers = Vec::new();
        for round in 0..50 {
            let (mut peer, handle) = timed.world.accepted_peer(address);
            timed.write(&mut peer, handle, &frame(64, 1)[..17]);
            if round % 2 == 0 {
                peers.push(peer);
            }
            timed.pass(secs(1));
        }
        timed.pass(secs(100));
        drop(peers);
        timed.world.turn_until("only the listener", |world| world.net.stats().sockets == 1);
        assert_eq!(timed.world.net.stats().timers, 0);
    });
}

/// A peer that was not heard while its bytes waited to be pulled is heard again from the moment on
/// in which they are delivered another way.
#[test]
fn a_peer_that_waited_to_be_pulled_is_not_blamed() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let options = lane.options().clock(&clock).liveness(Liveness::new().read_idle(secs(60)));
        let options = options.delivery(Delivery::Pull).pull_bytes_max(100);
        let mut timed = Timed { world: World::with(options), clock };
        let (mut peer, handle) = timed.world.served_peer();
        timed.write(&mut peer, handle, &[1; 200]);
        timed.pass(secs(3600));
        timed.world.net.option(handle).unwrap().set_delivery(Delivery::Push).unwrap();
        timed.world.turn_until("its bytes", |world| world.app.received(handle).len() == 200);
        timed.expect_expiry(handle, secs(60), Deadline::ReadIdle);
    });
}
