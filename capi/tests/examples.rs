//! The examples in C and C++ as their users run them, under a load whose contents are checked.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use support::{Built, Language, PATIENCE, Program, backends, build, free_port};

const CONNECTIONS: u32 = 20;
const PDUS: u32 = 400;

/// A PDU whose length and bytes follow from its numbers.
fn pdu(connection: u32, number: u32) -> Vec<u8> {
    let len = 16 + (connection * 131 + number * 977) % 5000;
    let fill = (connection * 7 + number * 13) % 251;
    let mut pdu: Vec<u8> = (0..len).map(|at| ((fill + at) % 256).to_le_bytes()[0]).collect();
    pdu[..4].copy_from_slice(&len.to_be_bytes());
    pdu
}

/// Sends everything on many connections at once and expects it all back, then the end.
fn load(address: &str) {
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let sending = thread::spawn(move || {
                    for number in 0..PDUS {
                        writer.write_all(&pdu(connection, number)).unwrap();
                    }
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                for number in 0..PDUS {
                    let expected = pdu(connection, number);
                    let mut answer = vec![0; expected.len()];
                    stream.read_exact(&mut answer).unwrap();
                    assert!(answer == expected, "answer {number} of {connection}");
                }
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing follows");
                sending.join().unwrap();
            });
        }
    });
}

fn start(built: &Built, backend: &str, port: u16) -> (Program, String) {
    let variables = [("NETLIB_BACKEND", backend)];
    let program = Program::start_at_with(built.path(), &[&port.to_string()], &variables);
    let address = program.line_after("listening on ");
    (program, address)
}

/// The C example gives every byte back, on both backends, and leaves nothing behind.
#[test]
fn the_c_example_echoes_a_load() {
    let Some(built) = build(Language::C, "examples/echo.c") else { return };
    for backend in backends() {
        let (program, address) = start(&built, backend, 0);
        load(&address);
        // One that is open is closed with the server.
        let mut open = TcpStream::connect(&address).unwrap();
        open.write_all(b"x").unwrap();
        open.read_exact(&mut [0]).unwrap();
        program.signal("TERM");
        let ending = program.finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
        assert!(ending.stdout.starts_with(&format!("backend={backend}")), "{ending:?}");
        let accepted = format!("\naccepted={}\n", CONNECTIONS + 1);
        assert!(ending.stdout.contains(&accepted), "{ending:?}");
        assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
    }
}

/// The C++ example gives every PDU back, on both backends, and leaves nothing behind.
#[test]
fn the_cxx_example_echoes_pdus() {
    let Some(built) = build(Language::Cxx, "examples/pdu_echo.cpp") else { return };
    for backend in backends() {
        let (program, address) = start(&built, backend, free_port());
        load(&address);
        assert!(program.line().starts_with("first client 127.0.0.1:"));
        // What is no PDU ends its connection.
        let mut bad = TcpStream::connect(&address).unwrap();
        bad.set_read_timeout(Some(PATIENCE)).unwrap();
        bad.write_all(&[0; 16]).unwrap();
        assert_eq!(bad.read(&mut [0]).unwrap(), 0);
        program.signal("TERM");
        let ending = program.finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
    }
}
