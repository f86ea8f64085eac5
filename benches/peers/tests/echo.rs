//! Every peer is a correct echo server: whatever is sent comes back, whole and in order.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

#[path = "../../support/sys.rs"]
#[expect(dead_code, reason = "shared with the benches, which need all of it")]
mod sys;

/// A server in a process of its own, which ends with its owner.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start(name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_peers"))
            .args(["--server", name, "--core", "0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let port = line.trim_end().parse().unwrap();
        Self { input: child.stdin.take(), child, output, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names() -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_peers")).arg("--list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let names: Vec<String> =
        list.lines().map(|line| line.split_once(": ").unwrap().0.to_owned()).collect();
    assert!(names.len() >= 8, "{list}");
    names
}

/// Runs a test against every server; what it printed last names the one that failed.
fn on_every_server(test: impl Fn(&Server)) {
    for name in names() {
        println!("on {name}");
        test(&Server::start(&name));
    }
}

/// A PDU of that whole length whose bytes tell which one it is.
fn pdu(len: usize, number: usize) -> Vec<u8> {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state.to_be_bytes()[0]
        })
        .collect();
    bytes[..4].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
    bytes
}

/// Reads as many bytes as were sent, and compares.
fn expect(stream: &mut TcpStream, sent: &[u8]) {
    let mut received = vec![0; sent.len()];
    stream.read_exact(&mut received).unwrap();
    // Not `assert_eq`, which would print megabytes.
    let wrong = received.iter().zip(sent).position(|(received, sent)| received != sent);
    assert!(wrong.is_none(), "wrong from byte {wrong:?} of {}", sent.len());
}

/// Sends while it receives, as a server that answers may stop reading until it is read.
fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    let mut sender = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || sender.write_all(bytes).unwrap());
        expect(stream, bytes);
    });
}

/// A PDU may come a byte at a time.
#[test]
fn a_pdu_may_come_a_byte_at_a_time() {
    on_every_server(|server| {
        let mut stream = server.connect();
        for bytes in [pdu(16, 1), pdu(45, 2)] {
            for byte in &bytes {
                stream.write_all(&[*byte]).unwrap();
            }
            expect(&mut stream, &bytes);
        }
    });
}

/// Several PDUs may come at once, and the last of them in part.
#[test]
fn pdus_that_come_at_once_come_back_in_order() {
    on_every_server(|server| {
        let mut stream = server.connect();
        let bytes = [pdu(16, 1), pdu(300, 2), pdu(64, 3)].concat();
        stream.write_all(&bytes).unwrap();
        expect(&mut stream, &bytes);
        let last = pdu(5000, 4);
        stream.write_all(&[&bytes[..], &last[..1000]].concat()).unwrap();
        expect(&mut stream, &bytes);
        stream.write_all(&last[1000..]).unwrap();
        expect(&mut stream, &last);
    });
}

/// The longest PDUs come back whole: one alone, several at once, and among small ones.
#[test]
fn long_pdus_come_back_whole() {
    on_every_server(|server| {
        let mut stream = server.connect();
        exchange(&mut stream, &pdu(1 << 20, 1));
        for round in 0..4 {
            exchange(&mut stream, &pdu(64 << 10, round));
            exchange(&mut stream, &pdu(LEN_MAX, round));
        }
        let burst: Vec<u8> = (0..16).flat_map(|number| pdu(LEN_MAX, number)).collect();
        exchange(&mut stream, &burst);
        let mixed = [16, 1 << 20, 100, 64 << 10, 20_000, 16, 300_000, 4112, 16, 16];
        for round in 0..3 {
            let mixed = mixed.iter().enumerate();
            let bytes: Vec<u8> = mixed.flat_map(|(at, len)| pdu(*len, at + round)).collect();
            exchange(&mut stream, &bytes);
            // Small ones for long enough that a server might change its ways.
            for number in 0..40 {
                exchange(&mut stream, &pdu(16 + number, number));
            }
        }
    });
}

/// Fifty connections with sixteen PDUs of mixed sizes in flight each get their own ones back.
#[test]
fn connections_do_not_mix() {
    on_every_server(|server| {
        thread::scope(|scope| {
            for connection in 0..50 {
                scope.spawn(move || {
                    let mut stream = server.connect();
                    for round in 0..20 {
                        let number = |at| (connection * 100 + round) * 16 + at;
                        let len = |at| SIZES[(number(at) * 7 + connection) % SIZES.len()];
                        let bytes: Vec<u8> =
                            (0..16).flat_map(|at| pdu(len(at), number(at))).collect();
                        exchange(&mut stream, &bytes);
                    }
                });
            }
        });
    });
}

/// A client that closes, at whatever moment, leaves no descriptor behind.
#[test]
fn a_client_that_closes_leaves_nothing() {
    on_every_server(|server| {
        let mut witness = server.connect();
        exchange(&mut witness, &pdu(100, 0));
        let before = server.descriptors();
        for number in 0..100 {
            let mut stream = server.connect();
            match number % 4 {
                0 => exchange(&mut stream, &pdu(100, number)),
                1 => stream.write_all(&pdu(100, number)).unwrap(),
                2 => stream.write_all(&pdu(30_000, number)[..20_000]).unwrap(),
                _ => {}
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while server.descriptors() > before {
            assert!(Instant::now() < deadline, "{} descriptors", server.descriptors());
            exchange(&mut witness, &pdu(100, 0));
        }
    });
}

/// A length that no PDU has ends its connection, and no other.
#[test]
fn a_length_out_of_bounds_ends_the_connection() {
    on_every_server(|server| {
        let mut witness = server.connect();
        for len in [0, 15, u32::try_from(LEN_MAX).unwrap() + 1, u32::MAX] {
            let mut stream = server.connect();
            let good = pdu(100, 1);
            exchange(&mut stream, &good);
            stream.write_all(&[&len.to_be_bytes()[..], &[0; 12]].concat()).unwrap();
            match stream.read(&mut [0; 16]) {
                Ok(len) => assert_eq!(len, 0, "an answer to no PDU"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            exchange(&mut witness, &good);
        }
    });
}

/// A client that takes no answers keeps no other from its own, and gets them all in the end.
#[test]
fn a_client_that_takes_no_answers_stops_only_itself() {
    on_every_server(|server| {
        let mut lazy: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
        let burst: Vec<u8> = (0..16).flat_map(|number| pdu(1 << 20, number)).collect();
        let mut sent = Vec::new();
        for stream in &mut lazy {
            stream.set_nonblocking(true).unwrap();
            let mut len = 0;
            while len < burst.len()
                && let Ok(more) = stream.write(&burst[len..])
            {
                len += more;
            }
            stream.set_nonblocking(false).unwrap();
            sent.push(len);
        }
        // One that waits until its client takes something is no use to the others, as said there.
        if !is_waiting_for_clients(server) {
            let mut other = server.connect();
            for number in 0..100 {
                exchange(&mut other, &pdu(SIZES[number % SIZES.len()], number));
            }
        }
        thread::scope(|scope| {
            for (stream, len) in lazy.iter_mut().zip(sent) {
                let burst = &burst;
                scope.spawn(move || {
                    let mut sender = stream.try_clone().unwrap();
                    thread::scope(|scope| {
                        scope.spawn(move || sender.write_all(&burst[len..]).unwrap());
                        expect(stream, burst);
                    });
                });
            }
        });
    });
}

fn is_waiting_for_clients(server: &Server) -> bool {
    let command = fs::read_to_string(format!("/proc/{}/cmdline", server.child.id())).unwrap();
    command.split('\0').any(|word| word == "message-io")
}

/// Ten thousand clients are served.
#[test]
fn ten_thousand_clients_are_served() {
    sys::raise_descriptor_limit().unwrap();
    on_every_server(|server| {
        let mut streams: Vec<TcpStream> = (0..10_000).map(|_| server.connect()).collect();
        let pdus: Vec<Vec<u8>> = (0..streams.len()).map(|number| pdu(80, number)).collect();
        for (stream, pdu) in streams.iter_mut().zip(&pdus) {
            stream.write_all(pdu).unwrap();
        }
        for (stream, pdu) in streams.iter_mut().zip(&pdus) {
            expect(stream, pdu);
        }
    });
}

/// A server ends when the pipe from its parent is closed.
#[test]
fn a_server_ends_with_its_parent() {
    for name in names() {
        println!("on {name}");
        let mut server = Server::start(&name);
        drop(server.input.take());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| tell.send(server.output.read_to_end(&mut Vec::new())).unwrap());
            let ended = told.recv_timeout(PATIENCE);
            // The thread would wait as long as a server that does not end.
            server.child.kill().unwrap();
            ended.expect("the server goes on without its parent").unwrap();
        });
        assert!(!server.child.wait().unwrap().success());
    }
}

/// Whole lengths; they meet every way that a server may have of receiving.
const SIZES: [usize; 10] = [16, 80, 80, 200, 1000, 4112, 8192, 20_000, 65_552, 150_000];
const LEN_MAX: usize = (1 << 20) + 16;
const PATIENCE: Duration = Duration::from_secs(20);
