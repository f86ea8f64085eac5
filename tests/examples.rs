//! The examples as their users run them: as processes, by their arguments, output and exit codes.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::{PATIENCE, Program, backends};
use uring_netlib::Feature;

/// Starts the server, and returns its first line and its address.
fn serve(arguments: &[&str]) -> (Program, String, String) {
    let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
    let program = Program::start("echo", &arguments);
    let first = program.line();
    let second = program.line();
    let address = second.strip_prefix("listening on ").expect(&second);
    (program, first, address.to_owned())
}

/// The number in a row of the server's summary.
fn counted(summary: &str, name: &str) -> u64 {
    let name = format!("{name:<16} ");
    let row = summary.lines().find_map(|line| line.strip_prefix(&name));
    row.unwrap_or_else(|| panic!("no {name:?} in {summary}")).trim().parse().unwrap()
}

/// A server and its clients agree on every PDU, whatever their length and depth, and the summary
/// counts each of them.
#[test]
fn the_client_gets_every_pdu_back_and_the_summary_counts_them() {
    // Length, depth, connections, count; the longest ones pass the default limits.
    let runs = [(16, 1, 1, 100), (64, 16, 4, 2000), (70_000, 8, 2, 100), (2 << 20, 4, 1, 12)];
    for backend in &backends() {
        let max = (4 << 20).to_string();
        let (server, first, address) = serve(&["--backend", backend, "--max-pdu", &max]);
        assert!(first.starts_with("kernel="), "{first}");
        assert!(first.contains(&format!("backend={backend}")), "{first}");
        for (size, depth, connections, count) in runs {
            let [size, depth, connections, count] =
                [size, depth, connections, count].map(|number: u64| number.to_string());
            let client = Program::start(
                "echo_client",
                &[
                    &["--connect", &address, "--backend", backend, "--size", &size][..],
                    &["--depth", &depth, "--connections", &connections, "--count", &count],
                ]
                .concat(),
            );
            let ending = client.finish();
            assert_eq!(ending.code, Some(0), "{ending:?}");
            let table: Vec<&str> = ending.stdout.lines().collect();
            assert!(table.len() == 2 && table[0].contains("p99.9 µs"), "{ending:?}");
            let row: Vec<&str> = table[1].split_whitespace().collect();
            assert_eq!(row[..5], [backend, &connections, &depth, &size, &count]);
            assert!(row[5..].iter().all(|cell| cell.parse::<f64>().unwrap() > 0.0), "{row:?}");
        }
        server.signal("TERM");
        let ending = server.finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
        let bytes: u64 = runs.iter().map(|(size, .., count)| size * count).sum();
        for (name, number) in [
            ("accepted", runs.iter().map(|(.., connections, _)| connections).sum()),
            ("PDUs", runs.iter().map(|(.., count)| count).sum()),
            ("bytes in", bytes),
            ("bytes out", bytes),
            ("refused sends", 0),
            ("aborted", 0),
        ] {
            assert_eq!(counted(&ending.stdout, name), number, "{name}: {}", ending.stdout);
        }
    }
}

/// A peer that sends and does not read is not received from, and gets every answer once it reads.
#[test]
fn a_peer_that_reads_late_loses_nothing() {
    // More than the buffers of two sockets hold.
    const COUNT: u32 = 600;
    for backend in &backends() {
        let (server, _, address) = serve(&["--backend", backend]);
        let mut reading = TcpStream::connect(address).unwrap();
        reading.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writing = reading.try_clone().unwrap();
        let (sender, progress) = mpsc::channel();
        let writer = thread::spawn(move || {
            for number in 0..COUNT {
                writing.write_all(&long_pdu(number)).unwrap();
                sender.send(number).unwrap();
            }
        });
        // The writer stalls somewhere, because nobody reads the answers.
        while progress.recv_timeout(Duration::from_millis(300)).is_ok() {}
        assert!(!writer.is_finished(), "on {backend} the server took all of it");
        let mut answer = long_pdu(0);
        for number in 0..COUNT {
            reading.read_exact(&mut answer).unwrap();
            assert!(answer == long_pdu(number), "answer {number} on {backend}");
        }
        writer.join().unwrap();
        drop(reading);
        server.signal("INT");
        let ending = server.finish();
        assert_eq!(ending.code, Some(0), "{ending:?}");
        assert!(counted(&ending.stdout, "pauses of a peer") > 0, "{ending:?}");
        assert_eq!(counted(&ending.stdout, "refused sends"), 0, "{ending:?}");
    }
}

fn long_pdu(number: u32) -> Vec<u8> {
    let mut pdu = vec![number.to_le_bytes()[0]; 100_000];
    pdu[..4].copy_from_slice(&100_000u32.to_be_bytes());
    pdu[4..8].copy_from_slice(&number.to_be_bytes());
    pdu
}

/// A signal ends the server in bounded time, also with a client that stays.
#[test]
fn a_signal_ends_the_server_while_clients_are_connected() {
    for backend in &backends() {
        let (server, _, address) = serve(&["--backend", backend]);
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heartbeat = [0, 0, 0, 16, 0, 1, 0, 0, 0, 7, 7, 1, 0, 0, 0, 0];
        client.write_all(&heartbeat).unwrap();
        client.read_exact(&mut heartbeat).unwrap();
        server.signal("TERM");
        assert_eq!(client.read(&mut heartbeat).unwrap(), 0, "on {backend}");
        let ending = server.finish();
        assert_eq!(ending.code, Some(0), "{ending:?}");
        assert_eq!(counted(&ending.stdout, "PDUs"), 1, "{ending:?}");
    }
}

/// What cannot be understood is a usage error with one line, and help is no error.
#[test]
fn a_bad_argument_is_exit_code_two() {
    let refused: &[(&str, &[&str])] = &[
        ("echo", &["--port", "7000"]),
        ("echo", &["--listen", "localhost"]),
        ("echo", &["--listen", "localhost:7000"]),
        ("echo", &["--backend", "iocp"]),
        ("echo", &["--max-pdu", "15"]),
        ("echo_client", &["--depth", "0"]),
        ("echo_client", &["--size", "15"]),
        ("echo_client", &["--count"]),
        ("connector", &["--rounds", "0"]),
        ("connector", &["--backoff", "long"]),
        ("connector", &["--addresses", "localhost"]),
        ("doctor", &["--verbose"]),
    ];
    for (name, arguments) in refused {
        let ending = Program::start(name, arguments).finish();
        assert_eq!(ending.code, Some(2), "{name} {arguments:?}: {ending:?}");
        assert_eq!(ending.stderr.lines().count(), 1, "{name} {arguments:?}: {ending:?}");
        assert!(ending.stderr.starts_with(&format!("{name}: ")), "{ending:?}");
    }
    for name in ["echo", "echo_client", "connector", "doctor"] {
        let ending = Program::start(name, &["--help"]).finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{name}");
        assert!(!ending.stdout.is_empty());
    }
}

/// What is no address, or none to connect to, is answered with the forms that are.
#[test]
fn a_bad_address_is_answered_with_good_ones() {
    let bad = ["127.0.0.1", "tcp://127.0.0.1:7000", ":7900", "a b:1", "[::1", "127.0.0.1:0", "h:0"];
    for address in bad {
        let ending = Program::start("echo_client", &["--connect", address]).finish();
        assert_eq!(ending.code, Some(2), "{address}: {ending:?}");
        assert!(ending.stderr.contains("e.g. 127.0.0.1:7000, [::1]:7000"), "{ending:?}");
    }
    let ending = Program::start("echo", &["--listen", "localhost:7000"]).finish();
    assert!(ending.stderr.contains("e.g. 127.0.0.1:7000, [::1]:7000"), "{ending:?}");
}

/// A path that cannot be listened at is named, with what stands in the way.
#[test]
fn a_path_that_cannot_be_had_is_told_without_ports() {
    for (address, text) in [
        ("unix:/nowhere/at/all", "cannot be made there; give a path in a directory that exists"),
        (
            "unix:/proc/version",
            "is taken by a file that is no socket; remove it or give another path",
        ),
    ] {
        let ending = Program::start("echo", &["--listen", address]).finish();
        assert_eq!(ending.code, Some(1), "{ending:?}");
        assert_eq!(ending.stderr, format!("echo: {address} {text}\n"));
    }
}

/// Closes what a shell may have had opened by whoever runs the tests, and would hand down.
const ALONE: &str = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";

/// Where descriptors are short, each program names the limit to raise.
#[test]
fn short_descriptors_are_answered_with_the_limit_to_raise() {
    for (name, arguments, text) in [
        ("echo", &["--listen", "127.0.0.1:0", "--backend", "epoll"][..], "ulimit -n 4096"),
        ("echo_client", &["--backend", "epoll"], "ulimit -n 65536"),
        ("doctor", &[], "  ulimit -n 65536   # as root"),
    ] {
        let ending =
            Program::start_behind(&format!("{ALONE}; ulimit -n 4"), name, arguments).finish();
        assert!((ending.stdout.clone() + &ending.stderr).contains(text), "{ending:?}");
    }
}

/// A server whose standard output takes nothing serves on, and prints its summary elsewhere.
#[test]
fn a_summary_that_standard_output_refuses_goes_to_standard_error() {
    let server = Program::start_behind("exec >/dev/full", "echo", &["--listen", "127.0.0.1:0"]);
    let mut stderr = String::new();
    while !stderr.contains("listening on ") {
        stderr = stderr + &server.complaint() + "\n";
    }
    assert!(stderr.contains("echo: standard output cannot be written"), "{stderr}");
    server.signal("TERM");
    let ending = server.finish();
    assert_eq!(ending.code, Some(0), "{ending:?}");
    assert_eq!(counted(&ending.stderr, "accepted"), 0, "{ending:?}");
}

/// A taken port is one line that says what to do.
#[test]
fn a_taken_port_is_told_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for backend in &backends() {
        let ending = Program::start("echo", &["--listen", &address, "--backend", backend]).finish();
        assert_eq!((ending.code, ending.stdout.as_str()), (Some(1), ""), "{ending:?}");
        let line = format!("echo: {address} is taken; give another with --listen");
        assert!(ending.stderr.starts_with(&line), "{ending:?}");
        assert_eq!(ending.stderr.lines().count(), 1, "{ending:?}");
    }
}

/// A client without a server says how to start one.
#[test]
fn a_client_without_a_server_says_how_to_start_it() {
    // A port that is bound and not listened at refuses, and nobody else can take it meanwhile.
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = bound.local_addr().unwrap().as_socket().unwrap().to_string();
    for backend in &backends() {
        let ending =
            Program::start("echo_client", &["--connect", &address, "--backend", backend]).finish();
        assert_eq!((ending.code, ending.stdout.as_str()), (Some(1), ""), "{ending:?}");
        assert!(ending.stderr.contains("nobody listens at"), "{ending:?}");
        assert!(
            ending.stderr.contains("start it with: cargo run --release --example echo"),
            "{ending:?}"
        );
    }
}

/// A PDU that the server does not take ends the client with a hint, not with a hang.
#[test]
fn a_pdu_that_is_too_long_is_explained() {
    for backend in &backends() {
        let (_server, _, address) = serve(&["--backend", backend]);
        let arguments = ["--connect", &address, "--backend", backend, "--size", "2000000"];
        let ending = Program::start("echo_client", &arguments).finish();
        assert_eq!(ending.code, Some(1), "{ending:?}");
        assert!(ending.stderr.contains("--max-pdu 2000000"), "{ending:?}");
    }
}

/// The doctor names every feature and limit, and epoll alone is health enough.
#[test]
fn the_doctor_names_every_feature() {
    let none: Vec<&str> = Feature::ALL.iter().map(|feature| feature.name()).collect();
    for mask in ["", "accept_multi,no_iowait", &none.join(",")] {
        let variables = [("NETLIB_URING_MASK", mask)];
        let ending = Program::start_with("doctor", &[], &variables).finish();
        assert_eq!(ending.code, Some(0), "{ending:?}");
        for feature in Feature::ALL {
            let is_named = |line: &str| line.split_whitespace().nth(1) == Some(feature.name());
            let row = ending.stdout.lines().find(|line| is_named(line));
            let row = row.unwrap_or_else(|| panic!("{feature} is not in {}", ending.stdout));
            let is_masked = mask.split(',').any(|name| name == feature.name());
            assert_eq!(row.contains("masked"), is_masked, "{row}");
        }
        for name in ["nofile", "memlock", "somaxconn", "ip_local_port_range", "seccomp", "auto"] {
            assert!(ending.stdout.contains(name), "{name} is not in {}", ending.stdout);
        }
        let must_mend = ending.stdout.contains("  unset NETLIB_URING_MASK\n");
        assert_eq!(must_mend, !mask.is_empty(), "{}", ending.stdout);
    }
}

/// Variables that decide behind the user's back are told, and words that mean nothing as well.
#[test]
fn the_doctor_tells_of_variables() {
    for (variable, word, code, text) in [
        ("NETLIB_BACKEND", "epoll", 0, "epoll, and so auto takes that"),
        ("NETLIB_BACKEND", "iocp", 0, "FAIL  NETLIB_BACKEND"),
        ("NETLIB_URING_MASK", "nonsense", 1, "unset NETLIB_URING_MASK"),
    ] {
        let ending = Program::start_with("doctor", &[], &[(variable, word)]).finish();
        assert_eq!(ending.code, Some(code), "{ending:?}");
        assert!((ending.stdout + &ending.stderr).contains(text), "{variable}={word}");
    }
}

/// Each bad guest is shown out by the deadline or limit that is meant for it, in time, and the good
/// one stays for as long as it may.
#[test]
fn bad_guests_are_shown_out() {
    for backend in &backends() {
        let ending = Program::start("idle_kick", &["--backend", backend]).finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
        let mut guests: Vec<(&str, &str)> = ending
            .stdout
            .lines()
            .filter_map(|line| line.split_once(" s  ")?.1.split_once(" is out: "))
            .map(|(guest, reason)| (guest.trim(), reason))
            .collect();
        guests.sort_unstable();
        let mut expected = [
            ("liar", "bad PDU: length 5 is below the least of 16"),
            ("stranger", "expired: not ready in time"),
            ("dripper", "expired: a PDU was not whole in time"),
            ("chatterbox", "exceeded: it sent too fast for too long"),
            ("silent", "expired: nothing was received for too long"),
            ("deaf", "expired: the peer took nothing for too long"),
            ("regular", "expired: its lifetime is over"),
        ];
        expected.sort_unstable();
        assert_eq!(guests, expected, "on {backend}");
    }
}

/// Members who read nothing are refused and then cut; the others hear everything, in every room.
#[test]
fn the_deaf_do_not_hold_up_a_chat() {
    for backend in &backends() {
        let arguments = ["--backend", backend, "--members", "20", "--seconds", "4"];
        let ending = Program::start("chat", &arguments).finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
        for (room, deaf) in [("red", 0), ("green", 1), ("blue", 10)] {
            let row = ending.stdout.lines().find(|line| line.starts_with(room)).unwrap();
            let cells: Vec<u64> =
                row.split_whitespace().skip(1).map(|cell| cell.parse().unwrap()).collect();
            let [members, deaf_members, said, delivered, refused, ..] = cells[..] else {
                panic!("{row}");
            };
            assert_eq!((members, deaf_members), (20, deaf));
            // The last words may be on their way.
            let heard = said * (19 - deaf);
            assert!(said > 50 && delivered <= heard && delivered + 60 > heard, "{row}");
            assert!((refused > 0) == (deaf > 0), "{row}");
        }
        assert!(ending.stdout.contains("\n11 deaf members were cut"), "{}", ending.stdout);
    }
}
