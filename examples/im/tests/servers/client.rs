//! The client against a message server that is played by the test.

use std::net::TcpListener;
use std::time::Instant;
use std::{io, thread};

use im_example::messages::{
    AllUserReq, AllUserRsp, Command, LoginReq, LoginRes, LogoutReq, LogoutRsp, MsgData, MsgDataAck,
    MsgServInfo, MsgServReq, MsgType, ResultType, SessionType, UserInfo,
};
use prost::Message;

use crate::program::{PATIENCE, Program};
use crate::support::{Peer, backends};
use crate::together::{Directory, client, expect_end};

/// A directory, and the message server that it names.
struct World {
    directory: Directory,
    listener: TcpListener,
    /// The server's registration, which lasts as long as that.
    _registered: Peer,
}

impl World {
    fn new(backend: &str) -> Self {
        let directory = Directory::start(backend, ["127.0.0.1:0"; 3]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut registered = Peer::connect(&directory.servers);
        let port = listener.local_addr().unwrap().port().into();
        registered.send(
            0,
            &MsgServInfo {
                // Nobody listens there, so that it takes the next one.
                ip1: "127.0.0.2".into(),
                ip2: "127.0.0.1".into(),
                port,
                max_conn_cnt: 10,
                cur_conn_cnt: 0,
                host_name: "vm".into(),
            },
        );
        directory.program.wait_for("registered ");
        Self { directory, listener, _registered: registered }
    }

    /// The next connection of a client, which logs in as the user 1, and by the call of number 1.
    fn accept(&self) -> Peer {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < end, "no client connects");
            thread::yield_now();
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Peer { stream };
        let (header, body) = client.next();
        assert_eq!(header, LoginReq::header().with_seq(1));
        let login = LoginReq::decode(&body[..]).unwrap();
        client.send(
            1,
            &LoginRes {
                result_code: ResultType::None.into(),
                user_info: Some(user(1, &login.user_name)),
                ..LoginRes::default()
            },
        );
        client
    }
}

fn user(user_id: u32, name: &str) -> UserInfo {
    UserInfo { user_id, user_domain: name.into(), ..UserInfo::default() }
}

/// Answers the question who is there: nobody but the user 2, bob.
fn answer_users(client: &mut Peer, seq: u16) {
    let request = AllUserReq { user_id: 1, latest_update_time: 0, attach_data: None };
    client.expect(seq, &request);
    let user_list = vec![user(2, "bob")];
    client.send(seq, &AllUserRsp { user_id: 1, user_list, ..AllUserRsp::default() });
}

fn text(from: u32, to: u32, msg_id: u32, text: &str) -> MsgData {
    MsgData {
        from_user_id: from,
        to_session_id: to,
        msg_id,
        msg_type: MsgType::SingleText.into(),
        msg_data: text.into(),
        ..MsgData::default()
    }
}

fn ack(user_id: u32, session_id: u32, msg_id: u32) -> MsgDataAck {
    MsgDataAck { user_id, session_id, msg_id, session_type: SessionType::Single.into() }
}

/// All is said and heard, and the client knows it; both close.
fn log_out(mut client: Peer, seq: u16) {
    client.expect(seq, &LogoutReq {});
    client.send(seq, &LogoutRsp { result_code: 0 });
    client.expect_end();
}

/// The second address is tried when the first cannot be reached.
#[test]
fn the_second_address_is_tried_after_the_first() {
    for backend in backends() {
        let world = World::new(backend);
        let bob = client(backend, "bob", &world.directory.http, &["--hear", "1"]);
        let port = world.listener.local_addr().unwrap().port();
        bob.wait_for(&format!(
            "cannot reach message server 127.0.0.2:{port}: connection refused; \
             trying 127.0.0.1:{port}"
        ));
        world.accept();
        bob.line_after("logged in as \"bob\", user 1");
    }
}

/// A message is acknowledged as the original's clients do, and told with the name of its sender;
/// what the client does not know it lets pass.
#[test]
fn what_is_heard_is_acknowledged() {
    for backend in backends() {
        let world = World::new(backend);
        let ann = client(backend, "ann", &world.directory.http, &["--hear", "2"]);
        let mut peer = world.accept();
        for _ in 0..5 {
            peer.send(0, &MsgServReq {});
        }
        peer.send(0, &text(2, 1, 77, "hey\n"));
        peer.expect(0, &ack(1, 2, 77));
        answer_users(&mut peer, 2);
        ann.wait_for("heard from \"bob\": \"hey\\n\"");
        // From a name that is known now.
        peer.send(0, &text(2, 1, 78, "you"));
        peer.expect(0, &ack(1, 2, 78));
        log_out(peer, 3);
        expect_end(ann, "0 said, 2 heard");
    }
}

/// What was not acknowledged when the connection was lost is said again on the next one, to
/// whoever has the name there.
#[test]
fn what_was_lost_is_said_again() {
    for backend in backends() {
        let world = World::new(backend);
        let script = ["--to", "bob", "--say", "hey"];
        let ann = client(backend, "ann", &world.directory.http, &script);
        for is_lost in [true, false] {
            let mut peer = world.accept();
            answer_users(&mut peer, 2);
            peer.expect(3, &text(1, 2, 0, "hey"));
            if !is_lost {
                peer.send(3, &ack(1, 2, 79));
                ann.wait_for("said to \"bob\": message 79 in ");
                log_out(peer, 4);
            }
        }
        expect_end(ann, "1 said, 0 heard");
    }
}

/// A reply is told from whatever else comes by its number and its ids.
#[test]
fn a_reply_is_known_by_its_number() {
    for backend in backends() {
        let world = World::new(backend);
        let script = ["--to", "bob", "--say", "hey"];
        let ann: Program = client(backend, "ann", &world.directory.http, &script);
        let mut peer = world.accept();
        answer_users(&mut peer, 2);
        peer.expect(3, &text(1, 2, 0, "hey"));
        peer.send(4, &ack(1, 2, 80));
        peer.send(3, &MsgServReq {});
        peer.send(3, &ack(1, 2, 81));
        ann.wait_for("said to \"bob\": message 81 in ");
        log_out(peer, 4);
        expect_end(ann, "1 said, 0 heard");
    }
}
