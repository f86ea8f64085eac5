//! The simulated network: what it promises to tests, and what seeds of the example's workload find
//! in the library.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use uring_netlib::pdu::Header;
use uring_netlib::sim::{SimFaults, SimHost, SimNet, SimNode};
use uring_netlib::{
    AddressError, Backend, BuildError, CloseReason, ConnectError, Deadline, Delivery, Event,
    Handle, Liveness, Netlib, Options, Repeat,
};

#[path = "../examples/simulate/oracle.rs"]
mod oracle;
#[path = "../examples/simulate/programs.rs"]
mod programs;
#[path = "../examples/simulate/workload.rs"]
mod workload;

/// What was told, and when.
struct Log {
    sim: SimNet,
    told: Vec<(Duration, &'static str)>,
    closed: Vec<CloseReason>,
    bytes: usize,
    open: Option<Handle>,
}

fn write_down(log: &mut Log, _: &mut Netlib<Log>, handle: Handle, event: Event<'_>) {
    let what = match event {
        Event::Connect { .. } | Event::Confirm => {
            log.open = Some(handle);
            "open"
        }
        Event::Close(reason) => {
            log.closed.push(reason);
            "close"
        }
        Event::Read(bytes) => {
            log.bytes += bytes.len();
            "read"
        }
        Event::Timer { .. } => "timer",
        _ => "other",
    };
    log.told.push((log.sim.elapsed(), what));
}

fn node(sim: &SimNet, host: &SimHost, options: &Options) -> SimNode<Log> {
    let net = options.clone().sim(host).build().unwrap();
    let (told, closed) = (Vec::new(), Vec::new());
    SimNode::new(net, Log { sim: sim.clone(), told, closed, bytes: 0, open: None })
}

/// Two programs on two hosts, connected.
fn pair(sim: &SimNet, options: &Options) -> (SimNode<Log>, SimNode<Log>) {
    let mut server = node(sim, &sim.host([10, 0, 0, 1]), options);
    let mut client = node(sim, &sim.host([10, 0, 0, 2]), options);
    server.net.listen("10.0.0.1:8000", write_down, 0).unwrap();
    client.net.connect("10.0.0.1:8000", write_down, 0).unwrap();
    while server.app.open.is_none() || client.app.open.is_none() {
        assert!(sim.step(&mut [&mut server, &mut client]).unwrap(), "they get connected");
    }
    (server, client)
}

fn push() -> Options {
    Options::new().delivery(Delivery::Push)
}

/// Every seed of the workload keeps every rule of its oracles: the first ones, and others on each
/// run, for as long as the time allows.
#[test]
fn seeds_keep_every_rule() {
    let start = Instant::now();
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut seeds = 0;
    for seed in (0..SEEDS_ALWAYS).chain(today * 1000..) {
        if seed >= SEEDS_ALWAYS && start.elapsed() > SEEDS_TIME {
            break;
        }
        seeds += 1;
        if let Err(breach) = workload::run(seed) {
            panic!("seed {seed} after {:?}: {}", breach.at, breach.text);
        }
    }
    println!("{seeds} seeds, the last of them from {} on", today * 1000);
}

/// A seed does the same again, and another one does something else.
#[test]
fn a_seed_does_the_same_again() {
    for seed in 0..10 {
        let first = workload::run(seed).unwrap();
        assert_eq!(first, workload::run(seed).unwrap(), "seed {seed}");
        assert_ne!(first.hash, workload::run(seed + 1000).unwrap().hash, "seed {seed}");
    }
}

/// C7: whoever pauses while its peer closes, and sends before it reads, gets everything, at any
/// size of its buffers.
#[test]
fn a_long_pause_before_a_close_loses_nothing() {
    for (seed, room) in (0..).zip([1, 64, 999]) {
        let sim = SimNet::new(seed);
        sim.set_faults(SimFaults::none().buffers(1000..=1000));
        let (mut server, mut client) = pair(&sim, &push());
        let (served, asking) = (server.app.open.unwrap(), client.app.open.unwrap());
        client.net.option(asking).unwrap().set_receive_buffer_size(room).unwrap();
        client.net.pause_receive(asking).unwrap();
        sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
        server.net.send(served, &[7; 1000]).unwrap();
        sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
        assert_eq!(server.net.option(served).unwrap().pending_bytes(), 0, "the kernel has all");
        server.net.close(served).unwrap();
        sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(5)).unwrap();
        client.net.send(asking, b"more").unwrap();
        sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
        client.net.resume_receive(asking).unwrap();
        sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
        assert_eq!((client.app.bytes, &*client.app.closed), (1000, &[CloseReason::PeerClosed][..]));
        assert_eq!(server.net.stats().closes_cut, 0);
    }
}

/// Bytes decide as a seed does: every rule is kept, the same bytes do the same again, and others do
/// something else.
#[test]
fn bytes_decide_as_a_seed_does() {
    let run = |bytes: &[u8]| {
        let world = workload::World::from_decisions(bytes);
        workload::run_world(world).unwrap_or_else(|breach| panic!("{bytes:?}: {}", breach.text))
    };
    let all = SimNet::new(9);
    let mut hashes = BTreeSet::new();
    for len in 1..=60 {
        let bytes: Vec<u8> =
            (0..len * 20).map(|_| u8::try_from(all.random(256)).unwrap()).collect();
        let outcome = run(&bytes);
        assert_eq!(outcome, run(&bytes), "{bytes:?}");
        hashes.insert(outcome.hash);
    }
    assert!(hashes.len() > 40, "{} of 60 are different", hashes.len());
}

/// Time in which nothing happens but heartbeats passes by steps, not by waiting.
#[test]
fn an_hour_of_heartbeats_is_a_few_steps() {
    let sim = SimNet::new(1);
    let liveness = Liveness::server_to_server();
    let (mut server, mut client) = pair(&sim, &Options::new().liveness(liveness));
    let mut turns = server.net.stats().turns;
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(3600)).unwrap();
    turns = server.net.stats().turns - turns;
    let beats = server.net.stats().heartbeats;
    assert!((715..=725).contains(&beats), "{beats} in an hour, one each 5 s");
    assert!(turns < 10 * beats, "{turns} turns");
    assert!(server.app.closed.is_empty() && client.app.closed.is_empty());
}

/// A partition is told by the silence, to both, when the deadline has come and not before; and a
/// connection made after it is healed works.
#[test]
fn a_partition_is_told_when_the_deadline_has_come() {
    let sim = SimNet::new(2);
    let liveness = Liveness::server_to_server();
    let (mut server, mut client) = pair(&sim, &Options::new().liveness(liveness));
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(100)).unwrap();
    sim.partition(&sim.host([10, 0, 0, 1]), &sim.host([10, 0, 0, 2]));
    let cut = sim.elapsed();
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(40)).unwrap();
    for app in [&server.app, &client.app] {
        let expired = matches!(
            app.closed[..],
            [CloseReason::Expired(Deadline::ReadIdle | Deadline::WriteStall)]
        );
        assert!(expired, "{:?}", app.closed);
        let after = app.told.iter().find(|(_, what)| *what == "close").unwrap().0 - cut;
        let limits = Duration::from_secs(5)..=Duration::from_secs(31);
        assert!(limits.contains(&after), "{after:?}");
    }
    sim.heal();
    client.app.open = None;
    client.net.connect("10.0.0.1:8000", write_down, 0).unwrap();
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
    assert!(client.app.open.is_some());
}

/// A paused program is late and not wrong: what arrived meanwhile is delivered when it goes on.
#[test]
fn a_paused_program_goes_on_where_it_was() {
    let sim = SimNet::new(3);
    let (mut server, mut client) = pair(&sim, &push());
    let host = sim.host([10, 0, 0, 1]);
    host.pause();
    client.net.send(client.app.open.unwrap(), b"are you there?").unwrap();
    server.net.register_timer(Duration::from_secs(1), Repeat::Once, write_down, 0);
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(5)).unwrap();
    assert_eq!(server.app.bytes, 0);
    host.resume();
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
    assert_eq!(server.app.bytes, 14);
    let timer = server.app.told.iter().find(|(_, what)| *what == "timer").unwrap().0;
    assert!(timer >= Duration::from_secs(5), "{timer:?}");
}

/// The peer of a host that has crashed is told nothing, until it sends something after the host
/// has started again: then it is reset.
#[test]
fn a_crash_is_told_to_who_sends_after_the_restart() {
    let sim = SimNet::new(4);
    let (mut server, mut client) = pair(&sim, &push());
    let host = sim.host([10, 0, 0, 1]);
    host.crash();
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(60)).unwrap();
    assert!(client.app.closed.is_empty(), "{:?}", client.app.closed);
    host.restart();
    let mut server = node(&sim, &host, &push());
    server.net.listen("10.0.0.1:8000", write_down, 0).unwrap();
    client.net.send(client.app.open.unwrap(), b"hello?").unwrap();
    sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
    assert_eq!(client.app.closed, [CloseReason::Reset]);
    assert_eq!((server.app.bytes, server.app.open), (0, None));
}

/// Attempts end as they do in the kernel: refused where nobody listens, unreachable where there is
/// no host, late where nothing is answered.
#[test]
fn attempts_end_as_they_do_in_the_kernel() {
    let sim = SimNet::new(5);
    let silent = sim.host([10, 0, 0, 3]);
    silent.crash();
    let mut client = node(&sim, &sim.host([10, 0, 0, 2]), &Options::new());
    for (address, reason) in [
        ("10.0.0.2:1", CloseReason::Refused),
        ("10.9.9.9:1", CloseReason::Unreachable),
        ("10.0.0.3:1", CloseReason::TimedOut),
    ] {
        client.net.connect(address, write_down, 0).unwrap();
        sim.run_for(&mut [&mut client], Duration::from_secs(11)).unwrap();
        assert_eq!(client.app.closed.pop(), Some(reason), "{address}");
    }
}

/// What a simulated network has not is refused when it is asked for.
#[test]
fn what_is_not_simulated_is_refused() {
    let sim = SimNet::new(6);
    let mut client = node(&sim, &sim.host([10, 0, 0, 2]), &Options::new());
    let named = client.net.connect("localhost:1", write_down, 0);
    assert!(matches!(named, Err(ConnectError::Address(AddressError::NotNumeric))), "{named:?}");
    assert!(client.net.listen("unix:@simulated", write_down, 0).is_err());
    assert!(client.net.listen("10.0.0.1:8000", write_down, 0).is_err(), "another host's address");
    client.net.listen("0.0.0.0:8000", write_down, 0).unwrap();
    assert!(client.net.listen("10.0.0.2:8000", write_down, 0).is_err(), "the port is taken");
    let unhosted = Options::new().backend(Backend::Sim).build::<()>();
    assert!(matches!(unhosted, Err(BuildError::Option(_))));
    assert_eq!(client.net.backend().backend, Backend::Sim);
}

/// A program that is served by itself needs no stepping: a turn lets time pass until something
/// happens, or for as long as it may wait.
#[test]
fn a_turn_waits_in_simulated_time() {
    let sim = SimNet::new(7);
    let mut node = node(&sim, &sim.host([10, 0, 0, 1]), &push());
    node.net.listen("10.0.0.1:8000", write_down, 0).unwrap();
    node.net.connect("10.0.0.1:8000", write_down, 0).unwrap();
    node.net.register_timer(Duration::from_secs(90), Repeat::Once, write_down, 0);
    while !node.app.told.iter().any(|(_, what)| *what == "timer") {
        node.net.turn(&mut node.app, Duration::from_secs(3600)).unwrap();
    }
    assert!(node.app.open.is_some());
    assert!((90..92).contains(&sim.elapsed().as_secs()), "{:?}", sim.elapsed());
    let before = sim.elapsed();
    node.net.turn(&mut node.app, Duration::from_secs(3600)).unwrap();
    assert_eq!((sim.elapsed() - before).as_secs(), 3600);
}

/// A timeline tells what happened in the order in which it did, and only when it is asked for.
#[test]
fn a_timeline_is_kept_when_it_is_asked_for() {
    let hash = |keep| {
        let sim = SimNet::new(8);
        sim.set_faults(SimFaults::benign());
        sim.keep_timeline(keep);
        let (mut server, mut client) = pair(&sim, &Options::new());
        let mut frame = [0; 16];
        Header::new(1, 2).write(16, &mut frame);
        client.net.send(client.app.open.unwrap(), &frame).unwrap();
        sim.run_for(&mut [&mut server, &mut client], Duration::from_secs(1)).unwrap();
        (sim.timeline_hash(), sim.take_timeline())
    };
    let (hash_kept, lines) = hash(true);
    assert_eq!(hash(false), (hash_kept, Vec::new()));
    let at = |text| lines.iter().position(|line| line.contains(text)).expect(text);
    assert!(at("connects to port 8000") < at("is accepted"));
    assert!(at("is accepted") < at("sends") && at("sends") < at("receives"));
}

/// Seeds that every run tries.
const SEEDS_ALWAYS: u64 = 50;

/// How long others are tried.
const SEEDS_TIME: Duration = Duration::from_secs(5);
