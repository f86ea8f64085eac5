//! The classes of bugs that runtimes on io_uring have had, each as a schedule of the simulated
//! network that would bring it out here. What is numbered is what such a runtime must do. `ci/bugs`
//! puts each bug back, see `src/planted.rs`, and expects its test to fail.

use std::time::Duration;

use uring_netlib::pdu::FrameSpec;
use uring_netlib::sim::{SimFaults, SimNet, SimNode};
use uring_netlib::{CloseReason, Delivery, Event, Handle, Netlib, Options};

/// What a program's callbacks have seen.
#[derive(Default)]
struct Seen {
    open: Vec<Handle>,
    closed: Vec<CloseReason>,
    bytes: Vec<u8>,
    /// Whether every connection is ended as soon as it is announced, every second one by a reset.
    is_curt: bool,
    /// Whether a connection is paused at each read.
    is_fitful: bool,
    /// Those that a callback has closed.
    given_up: Vec<Handle>,
    /// Events of those.
    late: u32,
}

fn see(seen: &mut Seen, net: &mut Netlib<Seen>, handle: Handle, event: Event<'_>) {
    seen.late += u32::from(seen.given_up.contains(&handle));
    match event {
        Event::Connect { .. } | Event::Confirm if seen.is_curt => give_up(seen, net, handle),
        Event::Connect { .. } | Event::Confirm => seen.open.push(handle),
        Event::Read(bytes) => {
            seen.bytes.extend_from_slice(bytes);
            if seen.is_fitful {
                net.pause_receive(handle).unwrap();
            }
        }
        Event::Pdu(_) => give_up(seen, net, handle),
        Event::Close(reason) => seen.closed.push(reason),
        _ => {}
    }
}

fn give_up(seen: &mut Seen, net: &mut Netlib<Seen>, handle: Handle) {
    seen.given_up.push(handle);
    let is_curt = seen.is_curt && seen.given_up.len().is_multiple_of(2);
    if is_curt { net.abort(handle).unwrap() } else { net.close(handle).unwrap() }
}

struct Rig {
    sim: SimNet,
    server: SimNode<Seen>,
    client: SimNode<Seen>,
    listener: Handle,
}

/// Runs a check on many seeds of a network with those faults.
fn on_seeds(faults: &SimFaults, check: impl Fn(&mut Rig)) {
    for seed in 0..SEEDS {
        let sim = SimNet::new(seed);
        sim.set_faults(faults.clone());
        let options = Options::new().delivery(Delivery::Push).pool(BUFFERS, 256);
        let node = |last| {
            let host = sim.host([10, 0, 0, last]);
            SimNode::new(options.clone().sim(&host).build().unwrap(), Seen::default())
        };
        let (mut server, client) = (node(1), node(2));
        let listener = server.net.listen(ADDRESS, see, 0).unwrap();
        let mut rig = Rig { sim, server, client, listener };
        check(&mut rig);
        for node in [&rig.server, &rig.client] {
            assert_eq!(node.net.stats().buffers_free, u64::from(BUFFERS), "seed {seed}");
            assert_eq!(node.app.late, 0, "C2: an event after a close, seed {seed}");
        }
    }
}

impl Rig {
    fn connect(&mut self, count: usize) {
        for _ in 0..count {
            self.client.net.connect(ADDRESS, see, 0).unwrap();
        }
    }

    /// Connects, and waits until both ends have been announced.
    fn open(&mut self, count: usize) {
        self.connect(count);
        self.until("open", |rig| {
            rig.server.app.open.len() == count && rig.client.app.open.len() == count
        });
    }

    fn step(&mut self) -> bool {
        self.sim.step(&mut [&mut self.server, &mut self.client]).unwrap()
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if is_so(self) {
                return;
            }
            assert!(self.step(), "nothing happens any more, and it is not {what}");
        }
        panic!("it does not become {what}");
    }

    fn run(&mut self, seconds: u64) {
        let span = Duration::from_secs(seconds);
        self.sim.run_for(&mut [&mut self.server, &mut self.client], span).unwrap();
    }

    /// The programs have nothing to do any more.
    fn expect_rest(&mut self) {
        let is_at_rest = (0..100).any(|_| !self.step());
        assert!(is_at_rest, "it goes round in circles");
    }

    /// Nothing is left but the server's listener, here and in the network.
    fn expect_quiet(&mut self) {
        self.until("quiet", |rig| {
            let sockets = rig.server.net.stats().sockets + rig.client.net.stats().sockets;
            sockets == 1 && rig.sim.sockets() == 1
        });
    }
}

/// 1: what a request needs is kept until its completion, also when its socket is aborted before
/// the kernel has got to it.
#[test]
fn what_is_in_flight_outlives_its_socket() {
    on_seeds(&SimFaults::benign(), |rig| {
        rig.open(4);
        for handle in rig.client.app.open.clone() {
            rig.client.net.send(handle, &[7; 5000]).unwrap();
            rig.step();
            rig.client.net.abort(handle).unwrap();
        }
        rig.until("over", |rig| rig.server.app.closed.len() == 4);
        assert!(rig.server.app.bytes.iter().all(|byte| *byte == 7), "bytes of another owner");
        rig.expect_quiet();
    });
}

/// 2: an operation that succeeds although it was cancelled gives back what it brought: a buffer,
/// or an accepted client.
#[test]
fn what_a_cancelled_operation_brings_is_given_back() {
    on_seeds(&SimFaults::benign(), |rig| {
        rig.open(2);
        for handle in rig.client.app.open.clone() {
            rig.client.net.send(handle, &[1; 600]).unwrap();
        }
        for _ in 0..20 {
            for handle in rig.server.app.open.clone() {
                rig.server.net.pause_receive(handle).unwrap();
                rig.step();
                rig.server.net.resume_receive(handle).unwrap();
            }
            rig.step();
        }
        rig.until("delivered", |rig| rig.server.app.bytes.len() == 1200);
        for handle in rig.client.app.open.clone() {
            rig.client.net.send(handle, &[1; 600]).unwrap();
        }
        for _ in 0..rig.sim.random(40) {
            rig.step();
        }
        for handle in rig.server.app.open.drain(..) {
            rig.server.net.abort(handle).unwrap();
        }
        rig.connect(5);
        for _ in 0..rig.sim.random(20) {
            rig.step();
        }
        // The accept may win against this.
        rig.server.net.close(rig.listener).unwrap();
        for handle in rig.client.app.open.clone() {
            rig.client.net.close(handle).ok();
        }
        rig.run(60);
        for handle in rig.client.app.open.drain(..).collect::<Vec<_>>() {
            rig.client.net.close(handle).ok();
        }
        rig.run(60);
        let sockets = (rig.server.net.stats().sockets, rig.client.net.stats().sockets);
        assert_eq!((sockets, rig.sim.sockets()), ((0, 0), 0), "a client is left");
    });
}

/// 3: a program may be dropped with everything in flight: its peers see the end, and nothing is
/// left of it.
#[test]
fn a_program_is_dropped_with_everything_in_flight() {
    on_seeds(&SimFaults::benign(), |rig| {
        rig.open(3);
        for (node, byte) in [(&mut rig.client, 1), (&mut rig.server, 2)] {
            for handle in node.app.open.clone() {
                node.net.send(handle, &[byte; 5000]).unwrap();
            }
        }
        for _ in 0..rig.sim.random(30) {
            rig.step();
        }
        let host = rig.sim.host([10, 0, 0, 2]);
        let next = Options::new().pool(BUFFERS, 256).sim(&host).build().unwrap();
        drop(std::mem::replace(&mut rig.client.net, next));
        rig.until("told", |rig| rig.server.app.closed.len() == 3);
        rig.expect_quiet();
    });
}

/// 4: completions that the kernel hands over a few at a time, however many there are, are all
/// seen, and none waits for ever behind others.
#[test]
fn completions_that_trickle_are_all_seen() {
    on_seeds(&SimFaults::none().trickle(10_000), |rig| {
        rig.open(40);
        // A send whose completion is lost is the last one of its connection.
        for round in 1..=3 {
            for node in [&mut rig.client, &mut rig.server] {
                for handle in node.app.open.clone() {
                    node.net.send(handle, &[3; 100]).unwrap();
                }
            }
            let is_told = |node: &SimNode<Seen>| node.app.bytes.len() == round * 4000;
            rig.until("delivered", |rig| is_told(&rig.server) && is_told(&rig.client));
        }
        assert!(rig.sim.elapsed() < Duration::from_secs(1), "something had to wait for a timer");
        for handle in rig.client.app.open.clone() {
            rig.client.net.close(handle).unwrap();
        }
        rig.expect_quiet();
    });
}

/// 5: receives that end for want of a buffer, with and without need, lose nothing; and each is
/// armed again for the data that is there, and not in between.
#[test]
fn a_want_of_buffers_loses_nothing_and_does_not_spin() {
    on_seeds(&SimFaults::none().no_buffers(9000), |rig| {
        rig.open(4);
        for handle in rig.client.app.open.clone() {
            rig.client.net.send(handle, &[4; 1000]).unwrap();
        }
        rig.until("delivered", |rig| rig.server.app.bytes.len() == 4000);
        rig.expect_rest();
    });
}

/// 6: a client that is gone before it is accepted is announced and ends, or is not announced; the
/// listener goes on with the next one.
#[test]
fn a_client_that_is_gone_when_it_is_accepted_does_no_harm() {
    on_seeds(&SimFaults::benign().accept_error(3000), |rig| {
        rig.client.app.is_curt = true;
        rig.sim.host([10, 0, 0, 1]).pause();
        rig.connect(10);
        rig.run(30);
        rig.sim.host([10, 0, 0, 1]).resume();
        rig.until("over", |rig| rig.server.app.closed.len() == rig.server.app.open.len());
        rig.run(30);
        assert_eq!(rig.server.app.closed.len(), rig.server.app.open.len());
        rig.expect_quiet();
        rig.client.app.is_curt = false;
        rig.connect(1);
        rig.until("served", |rig| rig.client.app.open.len() == 1);
    });
}

/// 7: an end of the stream right behind the last bytes, in whatever pieces, comes after all of
/// them, and once; also where they are held back, because their reader pauses.
#[test]
fn the_end_behind_the_last_bytes_comes_once() {
    for disarm in [0, 9000] {
        on_seeds(&SimFaults::benign().disarm(disarm), |rig| {
            rig.server.app.is_fitful = true;
            rig.open(1);
            let handle = rig.client.app.open[0];
            rig.client.net.send(handle, &[5; 999]).unwrap();
            rig.client.net.close(handle).unwrap();
            let reader = rig.server.app.open[0];
            while rig.server.app.closed.is_empty() {
                for _ in 0..rig.sim.random(10) {
                    rig.step();
                }
                rig.server.net.resume_receive(reader).ok();
                assert!(rig.sim.elapsed() < Duration::from_secs(60), "the end does not come");
            }
            rig.expect_quiet();
            assert_eq!(rig.server.app.bytes, [5; 999]);
            assert_eq!(rig.server.app.closed, [CloseReason::PeerClosed]);
        });
    }
}

/// 8: a socket is freed when the last of its operations is over, and not when its cancels are:
/// places are given away many times while completions of old are still to come.
#[test]
fn a_place_is_given_away_after_the_last_completion() {
    on_seeds(&SimFaults::benign().put_off(9000), |rig| {
        for round in 1..=5 {
            rig.connect(3);
            for _ in 0..rig.sim.random(40) {
                rig.step();
            }
            for handle in std::mem::take(&mut rig.client.app.open) {
                rig.client.net.send(handle, &[round; 50]).ok();
                rig.client.net.pause_receive(handle).ok();
                for _ in 0..rig.sim.random(4) {
                    rig.step();
                }
                // Its send is on its way or is not, its receive is cancelled and not over.
                rig.client.net.abort(handle).ok();
            }
        }
        rig.run(20);
        for handle in rig.client.app.open.drain(..) {
            rig.client.net.close(handle).ok();
        }
        rig.expect_quiet();
        assert_eq!(rig.server.app.closed.len(), rig.server.app.open.len());
    });
}

/// C2: of PDUs that arrive in one piece, those behind the one at which the connection is closed
/// are not told.
#[test]
fn what_has_arrived_is_not_told_after_a_close() {
    on_seeds(&SimFaults::benign(), |rig| {
        let mut option = rig.server.net.option(rig.listener).unwrap();
        option.set_delivery(Delivery::Pdu(FrameSpec::u32_be())).unwrap();
        rig.open(3);
        for handle in rig.client.app.open.clone() {
            rig.client.net.send(handle, &[0, 0, 0, 1, 7].repeat(40)).unwrap();
        }
        rig.until("over", |rig| rig.client.app.closed.len() == 3);
        assert_eq!(rig.server.app.given_up.len(), 3, "each is closed at its first PDU");
        rig.expect_quiet();
    });
}

const ADDRESS: &str = "10.0.0.1:8000";
const BUFFERS: u16 = 4;
const SEEDS: u64 = 40;
const STEPS_MAX: u32 = 100_000;
