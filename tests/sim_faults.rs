//! Each fault of a simulated network by itself: that it comes about, that it is counted, and that
//! it is what it says.

use std::time::Duration;

use uring_netlib::sim::{SimCounts, SimFaults, SimHost, SimNet, SimNode};
use uring_netlib::{CloseReason, Delivery, Event, Handle, Netlib, Options, Repeat};

/// What a program's callbacks have seen.
struct Seen {
    host: SimHost,
    open: Vec<Handle>,
    closed: Vec<(Handle, CloseReason)>,
    /// Where the bytes of each connection end up, in the order in which they were announced.
    bytes: Vec<Vec<u8>>,
    /// When a timer went off, by the clock of the host.
    fired: Option<Duration>,
}

fn see(seen: &mut Seen, net: &mut Netlib<Seen>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } | Event::Confirm => {
            seen.open.push(handle);
            seen.bytes.push(Vec::new());
        }
        Event::Read(bytes) => {
            let at = seen.open.iter().position(|open| *open == handle).unwrap();
            seen.bytes[at].extend_from_slice(bytes);
            // A pause and its end are a cancel and another receive.
            net.pause_receive(handle).unwrap();
            net.register_timer(Duration::from_millis(1), Repeat::Once, resume, at as u64);
        }
        Event::Close(reason) => seen.closed.push((handle, reason)),
        Event::Timer { .. } => seen.fired = Some(seen.host.elapsed()),
        _ => {}
    }
}

fn resume(seen: &mut Seen, net: &mut Netlib<Seen>, _: Handle, event: Event<'_>) {
    let Event::Timer { user_data, .. } = event else { return };
    net.resume_receive(seen.open[usize::try_from(user_data).unwrap()]).ok();
}

struct Rig {
    sim: SimNet,
    server: SimNode<Seen>,
    client: SimNode<Seen>,
    listener: Handle,
}

impl Rig {
    fn new(seed: u64, faults: SimFaults) -> Self {
        let sim = SimNet::new(seed);
        sim.set_faults(faults);
        let node = |last| {
            let host = sim.host([10, 0, 0, last]);
            let options = Options::new().delivery(Delivery::Push).pool(4, 256).sim(&host);
            let (open, closed, bytes) = (Vec::new(), Vec::new(), Vec::new());
            let seen = Seen { host, open, closed, bytes, fired: None };
            SimNode::new(options.build().unwrap(), seen)
        };
        let (mut server, client) = (node(1), node(2));
        let listener = server.net.listen(ADDRESS, see, 0).unwrap();
        Self { sim, server, client, listener }
    }

    fn run(&mut self, span: Duration) {
        self.sim.run_for(&mut [&mut self.server, &mut self.client], span).unwrap();
    }

    fn connect(&mut self, count: usize) {
        for _ in 0..count {
            self.client.net.connect(ADDRESS, see, 0).unwrap();
        }
    }

    /// Connections that were opened without a fault.
    fn open(&mut self, count: usize) {
        let faults = self.sim.faults();
        self.sim.set_faults(SimFaults::none());
        self.connect(count);
        self.run(SECOND);
        assert_eq!((self.client.app.open.len(), self.server.app.open.len()), (count, count));
        self.sim.set_faults(faults);
    }
}

/// What is called benign comes about, is counted as itself and nothing else, and changes no byte.
#[test]
fn a_benign_fault_is_counted_and_changes_no_byte() {
    type Count = fn(&SimCounts) -> u64;
    let none = SimFaults::none;
    let cases: [(SimFaults, Count); 10] = [
        (none().partial(5000), |counts| counts.partial),
        (none().put_off(5000), |counts| counts.put_off),
        (none().trickle(10_000), |counts| counts.trickled),
        (none().disarm(5000), |counts| counts.disarmed),
        (none().no_buffers(3000), |counts| counts.no_buffers),
        (none().odd_buffer(10_000), |counts| counts.odd_buffers),
        (none().full_queue(10_000), |counts| counts.full_queues),
        (none().late_cancel(5000), |counts| counts.late_cancels),
        (none().accept_error(5000), |counts| counts.accept_errors),
        (none().late_connect(5000), |counts| counts.late_connects),
    ];
    for (seed, (faults, count)) in (0..20).flat_map(|seed| cases.clone().map(|case| (seed, case))) {
        let mut rig = Rig::new(seed, faults.clone());
        rig.connect(6);
        rig.run(SECOND * 15);
        let (up, down) = ([3; 2000].as_slice(), [5; 2000].as_slice());
        for handle in rig.client.app.open.clone() {
            rig.client.net.send(handle, up).unwrap();
        }
        for handle in rig.server.app.open.clone() {
            rig.server.net.send(handle, down).unwrap();
        }
        rig.run(SECOND * 15);
        assert_eq!(rig.server.app.bytes, [up; 6], "seed {seed}, {faults:?}");
        assert_eq!(rig.client.app.bytes, [down; 6], "seed {seed}, {faults:?}");
        let counts = rig.sim.counts();
        assert!(count(&counts) > 0, "seed {seed}, {faults:?}");
        assert_eq!(counts.total(), count(&counts) + counts.lost_cancels, "seed {seed}: {counts}");
    }
}

/// A corrupted piece differs from what was sent in one bit.
#[test]
fn a_corrupted_piece_has_one_wrong_bit() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed, SimFaults::none().corrupt(5000).partial(9000));
        rig.open(1);
        rig.client.net.send(rig.client.app.open[0], &[0xA5; 2000]).unwrap();
        rig.run(SECOND * 15);
        let bytes = &rig.server.app.bytes[0];
        let wrong: u32 = bytes.iter().map(|byte| (byte ^ 0xA5).count_ones()).sum();
        assert_eq!((bytes.len(), u64::from(wrong)), (2000, rig.sim.counts().corrupted));
        assert!(wrong > 0, "seed {seed}");
    }
}

/// An attempt that is refused or denied ends with the reason, and the other side hears nothing.
#[test]
fn an_attempt_that_is_not_let_ends_with_the_reason() {
    for seed in 0..20 {
        for (faults, is_denied) in
            [(SimFaults::none().refuse(10_000), false), (SimFaults::none().deny(10_000), true)]
        {
            let mut rig = Rig::new(seed, SimFaults::none());
            rig.run(SECOND);
            rig.sim.set_faults(faults);
            rig.connect(1);
            rig.run(SECOND);
            let (_, reason) = rig.client.app.closed[0];
            assert_eq!(is_denial(reason), is_denied, "seed {seed}: {reason}");
            assert!(is_denied || reason == CloseReason::Refused, "seed {seed}: {reason}");
            assert_eq!((rig.client.app.closed.len(), rig.server.app.open.len()), (1, 0));
            let counts = rig.sim.counts();
            assert_eq!((counts.denied, counts.refused), if is_denied { (1, 0) } else { (0, 1) });
        }
    }
}

/// A send or a receive that is denied ends its connection, with the reason here and told to the
/// peer, and what had arrived before is delivered.
#[test]
fn a_denied_operation_ends_its_connection_with_the_reason() {
    for (seed, is_send) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut rig = Rig::new(seed, SimFaults::none());
        rig.open(1);
        let handle = rig.client.app.open[0];
        let server = rig.server.app.open[0];
        rig.client.net.pause_receive(handle).unwrap();
        rig.run(SECOND);
        rig.server.net.send(server, b"before").unwrap();
        rig.run(SECOND);
        if is_send {
            rig.client.net.resume_receive(handle).unwrap();
            rig.run(SECOND);
            assert_eq!(rig.client.app.bytes[0], b"before");
        }
        rig.sim.set_faults(SimFaults::none().deny(10_000));
        match is_send {
            true => drop(rig.client.net.send(handle, b"denied").unwrap()),
            false => rig.client.net.resume_receive(handle).unwrap(),
        }
        rig.client.net.turn(&mut rig.client.app, Duration::ZERO).unwrap();
        rig.sim.set_faults(SimFaults::none());
        rig.run(SECOND * 15);
        let closed = &rig.client.app.closed;
        assert!(matches!(closed[..], [(_, reason)] if is_denial(reason)), "{seed}: {closed:?}");
        assert_eq!(rig.server.app.closed.len(), 1, "seed {seed}: the peer is told");
        assert_eq!(rig.server.app.bytes[0], b"", "seed {seed}");
        assert_eq!((rig.sim.operations(), rig.sim.sockets()), (1, 1), "seed {seed}");
    }
}

/// A listener whose accepts are denied ends with the reason, or serves when that is over.
#[test]
fn a_listener_that_is_denied_ends_or_goes_on_afterwards() {
    let mut ended = 0;
    for seed in 0..40 {
        let mut rig = Rig::new(seed, SimFaults::none().deny(10_000));
        rig.server.net.turn(&mut rig.server.app, Duration::ZERO).unwrap();
        rig.sim.set_faults(SimFaults::none());
        rig.run(SECOND * 2);
        rig.connect(1);
        rig.run(SECOND * 2);
        assert_eq!(rig.sim.counts().denied, 1, "seed {seed}");
        match rig.server.app.closed[..] {
            [] => assert_eq!(rig.server.app.open.len(), 1, "seed {seed}"),
            [(handle, reason)] => {
                assert!(is_denial(reason) && handle == rig.listener, "seed {seed}: {reason}");
                assert_eq!(rig.client.app.closed[0].1, CloseReason::Refused, "seed {seed}");
                ended += 1;
            }
            _ => panic!("seed {seed}: {:?}", rig.server.app.closed),
        }
    }
    assert!((1..40).contains(&ended), "{ended} of 40 have ended");
}

/// A host whose clock is wrong has its timers by that clock, neither early nor late.
#[test]
fn timers_go_by_the_clock_of_their_host() {
    let (mut fast, mut slow) = (0, 0);
    for seed in 0..40 {
        let mut rig = Rig::new(seed, SimFaults::none().drift(500_000));
        let due = rig.client.app.host.elapsed() + SECOND * 100;
        rig.client.net.register_timer(SECOND * 100, Repeat::Once, see, 0);
        rig.run(SECOND * 201);
        let late = rig.client.app.fired.expect("half as fast is slowest").checked_sub(due);
        let late = late.unwrap_or_else(|| panic!("seed {seed}: it is early"));
        assert!(late < Duration::from_millis(3), "seed {seed}: {late:?}");
        match rig.client.app.host.elapsed() > rig.sim.elapsed() {
            true => fast += 1,
            false => slow += 1,
        }
    }
    assert!(fast > 5 && slow > 5, "{fast} are fast, {slow} are slow");
}

/// Healed faults are the benign ones, as they were.
#[test]
fn healing_leaves_what_is_benign() {
    let benign = SimFaults::benign().drift(7);
    let faults = benign.clone().refuse(1).reset(2).deny(3).corrupt(4);
    assert_ne!(faults, benign);
    assert_eq!(faults.healed(), benign);
}

/// Operations are counted from when they are asked for until they are over, or their program is.
#[test]
fn operations_are_counted_until_they_are_over() {
    let mut rig = Rig::new(1, SimFaults::none());
    assert_eq!(rig.sim.operations(), 1, "an accept");
    rig.open(1);
    assert_eq!(rig.sim.operations(), 3, "an accept, and two receives");
    rig.client.net.close(rig.client.app.open[0]).unwrap();
    rig.run(SECOND * 15);
    assert_eq!(rig.sim.operations(), 1, "an accept");
    let Rig { sim, server, .. } = rig;
    drop(server);
    assert_eq!(sim.operations(), 0);
}

/// Whether it is what a kernel says that does not do something.
fn is_denial(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::Failed(errno)
        if [libc::EPERM, libc::EACCES, libc::ENOMEM, libc::EINVAL].contains(&errno.0))
}

const ADDRESS: &str = "10.0.0.1:8000";
const SECOND: Duration = Duration::from_secs(1);
