//! The `connector` example as its users run it: it kills its servers and sees them come back.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use support::{DEADLINE, Program, backends, silent_socket};

/// The first line with that in it. A connector goes on telling, or ends.
fn line_with(connector: &Program, text: &str) -> String {
    loop {
        let line = connector.line();
        if line.contains(text) {
            return line;
        }
    }
}

/// A server that is killed is seen to go, to refuse and to come back; the other one is master
/// meanwhile; and the summary counts it.
#[test]
fn a_killed_server_is_seen_to_come_back() {
    for backend in &backends() {
        let arguments = ["--rounds", "1", "--backend", backend];
        let ending = Program::start("connector", &arguments).finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
        let text = ending.stdout;
        let first = text.lines().find(|line| line.ends_with("is master")).unwrap();
        let killed = text.lines().find(|line| line.ends_with("killed")).unwrap();
        let member = killed.split_whitespace().nth(1).unwrap();
        // The story of that member, each step after the one before.
        let mut lines = text.lines().filter(|line| line.contains(member));
        for step in [" open", " killed", " waiting ", " refused", " restarted", " open"] {
            let is_told = lines.any(|line| line.contains(step));
            assert!(is_told, "no {step:?} of {member} on {backend}: {text}");
        }
        let masters = text.lines().filter(|line| line.ends_with("is master")).count();
        assert_eq!(masters, 1 + usize::from(first.contains(member)), "on {backend}: {text}");
        let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        let [_, opened, failed, echoes, _] = row[..] else { panic!("{row:?}") };
        assert_eq!(opened, "2", "on {backend}: {text}");
        assert!(failed != "0" && echoes != "0", "on {backend}: {text}");
    }
}

/// Servers of the user's own are watched until a signal, whether they are there or not.
#[test]
fn servers_of_the_users_own_are_watched_until_a_signal() {
    let (_silent, refusing) = silent_socket();
    let served = TcpListener::bind("127.0.0.1:0").unwrap();
    let list = format!("{refusing},{}", served.local_addr().unwrap());
    for backend in &backends() {
        let arguments = ["--addresses", &list, "--backend", backend, "--backoff", "teamtalk"];
        let connector = Program::start("connector", &arguments);
        let refused = line_with(&connector, "connection refused");
        assert!(refused.contains(&refusing.to_string()), "{refused}");
        assert!(refused.contains(" 4.00 s"), "{refused}");
        let (mut client, _) = served.accept().unwrap();
        let mut heartbeat = [0; 16];
        client.read_exact(&mut heartbeat).unwrap();
        client.write_all(&heartbeat).unwrap();
        connector.signal("INT");
        let ending = connector.finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
        assert!(ending.stdout.contains(" s in all"), "{ending:?}");
    }
}

/// Its servers end with it, also when it has no chance to end them.
#[test]
fn its_servers_end_with_it() {
    let connector = Program::start("connector", &[]);
    let line = line_with(&connector, "is master");
    let server: SocketAddr = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    TcpStream::connect(server).unwrap();
    // By a signal that cannot be caught.
    drop(connector);
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect(server).is_ok() {
        assert!(Instant::now() < end, "the server is still there");
        thread::yield_now();
    }
}
