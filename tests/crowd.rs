//! Ten thousand peers at once: what each of them costs, and that they go without a trace.
//!
//! The server is a child, since a process has no descriptors for both ends of so many.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{env, fs, thread};

use support::{
    Address, Backend, CHILD, Event, Guard, Handle, Limits, Liveness, ManualClock, Netlib, Options,
    backends, frame, marked,
};

/// Peers of one kind.
const PEERS: usize = 5_000;

/// What a peer may cost above the baseline, in bytes of the server's memory.
const BYTES_PER_PEER_MAX: u64 = 4096;

/// Ten thousand peers that stop in the middle of a header, or of a PDU that claims to be long, cost
/// less than 4 KiB each, and are gone at their deadline; ten thousand that send bad lengths are
/// gone at once.
#[test]
fn ten_thousand_hostile_peers_cost_little() {
    if let Ok(backend) = env::var(CHILD) {
        return serve(backend.parse().unwrap());
    }
    for backend in backends() {
        let test = "ten_thousand_hostile_peers_cost_little";
        let (child, mut stdin, mut lines) = Guard::start(test, &backend);
        let address = marked(&mut lines, "listening on ");
        let bytes = frame(4096, 1);
        let mut peers = Vec::new();
        for number in 0..2 * PEERS {
            let mut peer = TcpStream::connect(&address).unwrap();
            // Half a header, or a header and some: of a PDU that would be allowed.
            peer.write_all(if number % 2 == 0 { &bytes[..8] } else { &bytes[..100] }).unwrap();
            peers.push(peer);
            let bad_length = [0, 1, 15, 5000, u32::MAX][number % 5];
            let mut bad = TcpStream::connect(&address).unwrap();
            bad.write_all(&u32::to_be_bytes(bad_length)).unwrap();
            assert_eq!(bad.read(&mut [0; 16]).unwrap(), 0, "it is cut off");
        }
        writeln!(stdin, "they are there").unwrap();
        let bytes: u64 = marked(&mut lines, "bytes per peer: ").parse().unwrap();
        println!("{backend}: {bytes} bytes per peer");
        assert!(bytes < BYTES_PER_PEER_MAX, "{bytes} bytes per peer on {backend}");
        marked(&mut lines, "nothing is left");
        for peer in &mut peers {
            assert_eq!(peer.read(&mut [0; 16]).unwrap(), 0, "it is cut off at the deadline");
        }
        drop(peers);
        drop(stdin);
        child.expect_success();
    }
}

fn serve(backend: Backend) {
    let clock = ManualClock::new();
    let limits = Limits::new().unready_bytes_max(4096);
    let options = Options::new().backend(backend).clock(&clock).limits(limits);
    let mut net: Netlib<u64> = options.liveness(Liveness::client()).build().unwrap();
    let listener = net.listen("127.0.0.1:0", on_event, 0).unwrap();
    let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
        panic!("a numeric address");
    };
    let mut pdus = 0;
    warm_up(&mut net, &mut pdus, address.port());
    let before = resident_bytes();
    println!("\nlistening on {address}");
    let remote = net.remote();
    let thread = thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        remote.stop();
    });
    net.eventloop(&mut pdus, Duration::from_secs(60)).unwrap();
    thread.join().unwrap();
    let all = 2 * PEERS as u64;
    while net.stats().connected < all || net.stats().closes.bad_frame < all {
        net.turn(&mut pdus, Duration::from_secs(10)).unwrap();
    }
    let bytes = resident_bytes().saturating_sub(before) / all;
    println!("\nbytes per peer: {bytes}");
    clock.advance(Duration::from_secs(15));
    while net.stats().connected > 0 {
        net.turn(&mut pdus, Duration::ZERO).unwrap();
    }
    assert_eq!(net.stats().closes.handshake, all);
    // They do not answer the end of their stream, so that one has a deadline as well.
    println!("\nnothing is left");
    while net.stats().sockets > 1 {
        net.turn(&mut pdus, Duration::from_millis(10)).unwrap();
    }
    assert_eq!((net.stats().buffered_bytes, pdus), (0, 2));
}

fn on_event(pdus: &mut u64, _: &mut Netlib<u64>, _: Handle, event: Event<'_>) {
    *pdus += u64::from(matches!(event, Event::Pdu(_)));
}

/// Has everything allocated that is allocated once.
fn warm_up(net: &mut Netlib<u64>, pdus: &mut u64, port: u16) {
    for _ in 0..2 {
        let mut peer = TcpStream::connect(("127.0.0.1", port)).unwrap();
        peer.write_all(&frame(4000, 1)).unwrap();
        let before = *pdus;
        while *pdus == before {
            net.turn(pdus, Duration::from_secs(10)).unwrap();
        }
    }
    while net.stats().sockets > 1 {
        net.turn(pdus, Duration::from_secs(10)).unwrap();
    }
}

/// Memory of this process that is in use.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}
