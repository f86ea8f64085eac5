//! What the contract says of sends, D5 first of all.

#![forbid(unsafe_code)]

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use super::{LIMIT, Rig, on_every_driver};
use crate::driver::{Driver, Family, Op, Outcome};
use crate::event::Handle;
use crate::options::Options;

/// D5: a send completes once, for all of its bytes, however slowly the peer reads.
#[test]
fn a_send_completes_once_for_all_bytes() {
    on_every_driver(Options::new(), |rig| {
        let (handle, mut peer) = rig.tcp_pair();
        let bytes: Vec<u8> = (0..8u32 << 20).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let reader = thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            peer.read_exact(&mut received).unwrap();
            assert!(received == expected, "D5: bytes differ");
            peer
        });
        rig.driver.send(handle, bytes);
        let Outcome::Sent(bytes) = rig.last_of(handle, Op::Send) else { panic!() };
        assert_eq!(bytes.len(), 8 << 20);
        drop(reader.join().unwrap());
    });
}

/// Progress is told when bytes leave a socket, and only then.
#[test]
fn progress_grows_as_bytes_leave() {
    const LEN: u64 = 16 << 20;
    on_every_driver(Options::new(), |rig| {
        let (near, far) = UnixStream::pair().unwrap();
        let (tcp, peer) = rig.tcp_pair();
        let unix = rig.adopt_as(near, Family::Unix);
        for (handle, peer) in [(tcp, Socket::from(peer)), (unix, Socket::from(far))] {
            peer.set_nonblocking(true).unwrap();
            let told = |rig: &Rig| rig.driver.progress(handle).expect("it is known");
            let start = told(rig);
            rig.driver.send(handle, vec![7; 16 << 20]);
            let (mut before, mut quiet) = (start, 0);
            while quiet < 5 {
                rig.wait(Duration::from_millis(20));
                quiet = if told(rig) == before { quiet + 1 } else { 0 };
                before = told(rig);
            }
            assert!(start < before && before < start + LEN, "{before}: the buffers are full");
            for target in [before + 1, start + LEN] {
                let clock = Instant::now();
                while told(rig) < target {
                    assert!(clock.elapsed() < LIMIT, "{} instead of {target}", told(rig));
                    let _ = (&peer).read(&mut [0; 64 << 10]);
                    rig.wait(Duration::ZERO);
                }
            }
            assert!(matches!(rig.last_of(handle, Op::Send), Outcome::Sent(_)));
        }
        assert_eq!(rig.driver.progress(Handle::new(99, 1)), None);
    });
}

/// D5: a send to a peer that is gone fails, without SIGPIPE, and its bytes come back.
#[test]
fn a_failed_send_gives_the_bytes_back() {
    on_every_driver(Options::new(), |rig| {
        let (handle, peer) = rig.tcp_pair();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        for _ in 0..3 {
            rig.driver.send(handle, vec![1; 100]);
            let Outcome::SendFailed(errno, bytes) = rig.last_of(handle, Op::Send) else {
                panic!("a reset connection takes no bytes")
            };
            assert!(matches!(errno.0, libc::EPIPE | libc::ECONNRESET), "{errno}");
            assert_eq!(bytes.len(), 100);
            rig.ended.clear();
        }
    });
}
