//! What the message server does not take: from strangers, from whoever is too fast, from a crowd.

use std::io::{self, Write};
use std::thread;

use im_example::messages::{ClientType, Command, HeartBeat, LogoutReq, LogoutRsp};
use prost::Message;
use uring_netlib::pdu::encode_bytes;

use crate::msg_server::{MsgServer, message};
use crate::support::{Peer, backends, pdu};

/// Whoever has not logged in gets no memory for anything long, and who has gets it.
#[test]
fn a_long_pdu_needs_a_login() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let mut beat = Vec::new();
        let long = message(0, 2, &"x".repeat(2000)).encode_to_vec();
        encode_bytes(&HeartBeat::header().with_seq(5), &long, 4096, &mut beat).unwrap();
        let mut stranger = Peer::connect(&server.clients);
        stranger.send_all(&beat);
        stranger.expect_end();
        let (mut user, _) = server.login("ann", ClientType::Windows);
        user.send_all(&beat);
        assert_eq!(user.next(), (HeartBeat::header().with_seq(5), long));
        server.stop([stranger, user]);
    }
}

/// Of more than twenty messages in a second the rest is dropped, and nothing else is.
#[test]
fn messages_that_come_too_fast_are_dropped() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let (mut sender, from) = server.login("ann", ClientType::Windows);
        let (receiver, to) = server.login("bob", ClientType::Windows);
        // More than four seconds would allow, as the machine may be slow.
        let flood: Vec<u8> =
            (1..=100).flat_map(|seq| pdu(seq, &message(from, to, "hey"))).collect();
        sender.send_all(&flood);
        sender.send(101, &HeartBeat {});
        let answers = std::iter::repeat_with(|| sender.next().0);
        let acked = answers.take_while(|header| *header != HeartBeat::header().with_seq(101));
        let seqs: Vec<u16> = acked.map(|header| header.seq).collect();
        assert!(seqs.len() < 100 && seqs.iter().take(20).copied().eq(1..=20), "{seqs:?}");
        server.stop([sender, receiver]);
    }
}

/// A flood of anything else is taken slowly, and then not any more; others do not feel it.
#[test]
fn a_flood_ends_its_connection() {
    // All of them at once, as it takes six seconds.
    let servers: Vec<MsgServer> =
        backends().iter().map(|backend| MsgServer::registered(backend, &[])).collect();
    let mut others = Vec::new();
    for server in &servers {
        let (mut flooder, _) = server.login("ann", ClientType::Windows);
        others.push(server.login("bob", ClientType::Windows).0);
        let mut reader = flooder.stream.try_clone().unwrap();
        thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        // Until it is closed, which a write that fails tells.
        let flood = pdu(1, &HeartBeat {}).repeat(1000);
        thread::spawn(move || while flooder.stream.write_all(&flood).is_ok() {});
    }
    for (server, mut other) in servers.iter().zip(others) {
        server.program.wait_for("user 1 \"ann\" out, 1 users: exceeded: ");
        other.send(5, &HeartBeat {});
        other.expect(5, &HeartBeat {});
    }
}

/// One address has so many connections and no more, and gets new ones for old ones.
#[test]
fn an_address_has_its_share_of_connections() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &["--per-address-max", "1"]);
        let (mut user, _) = server.login("ann", ClientType::Windows);
        Peer::connect(&server.clients).expect_end();
        user.send(11, &LogoutReq {});
        user.expect(11, &LogoutRsp { result_code: 0 });
        user.expect_end();
        drop(user);
        server.program.wait_for("user 1 \"ann\" out");
        // The server is done with the connection once it has seen our end of it.
        let mut next = Peer::connect(&server.clients);
        while next.stream.write_all(&pdu(5, &HeartBeat {})).is_err() || !next.is_answered() {
            next = Peer::connect(&server.clients);
        }
        server.stop([next]);
    }
}
