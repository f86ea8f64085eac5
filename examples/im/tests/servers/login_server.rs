//! The directory: who registers is named to who asks, and nobody takes it down.

use std::io::Read;
use std::net::TcpListener;

use im_example::messages::{
    HeartBeat, LoginReq, MsgServInfo, MsgServReq, MsgServRsp, ResultType, UserAction, UserCntUpdate,
};
use uring_netlib::pdu::{Header, encode_bytes};

use crate::program::Program;
use crate::support::{Peer, backends, http, pdu};

const PATH: &str = env!("CARGO_BIN_EXE_login_server");

/// A directory, and the address of each of its roles.
struct LoginServer {
    program: Program,
    clients: String,
    http: String,
    servers: String,
}

impl LoginServer {
    fn start(backend: &str) -> Self {
        Self::start_with(backend, &[])
    }

    /// Starts one with such further arguments.
    fn start_with(backend: &str, arguments: &[&str]) -> Self {
        let any = "127.0.0.1:0";
        let listen = ["--client-listen", any, "--http-listen", any, "--msg-listen", any];
        let all = [&listen[..], &["--backend", backend], arguments].concat();
        let program = Program::start_at(PATH, &all);
        let clients = program.line_after("listening for clients on ");
        let http = program.line_after("listening for HTTP on ");
        let servers = program.line_after("listening for message servers on ");
        Self { program, clients, http, servers }
    }

    /// A message server that is registered.
    fn register(&self, info: &MsgServInfo) -> Peer {
        let mut server = Peer::connect(&self.servers);
        server.send(0, info);
        self.program.wait_for("registered ");
        server
    }

    /// Counts a user in or out, and waits until it is counted.
    fn count(&self, server: &mut Peer, action: UserAction) {
        server.send(0, &UserCntUpdate { user_action: action as u32, user_id: 7 });
        self.program.wait_for("user 7 ");
    }

    /// What a client of HTTP is told: the status line, and the body.
    fn ask(&self) -> (String, String) {
        let response = http(&self.http, &[b"GET /msg_server HTTP/1.1\r\nHost: a\r\n\r\n"]);
        let (head, body) = response.split_once("\r\n\r\n").expect(&response);
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// The port of the server that is named.
    fn ask_port(&self) -> String {
        let (_, body) = self.ask();
        let port = body.split_once("\"port\" : \"").expect(&body).1;
        port.split_once('"').unwrap().0.to_owned()
    }

    /// Asks by PDU at either kind of port, and expects the answer, and the end behind it.
    #[track_caller]
    fn expect_told(&self, answer: &MsgServRsp) {
        for (seq, address) in [(9, &self.clients), (0xffff, &self.servers)] {
            let mut client = Peer::connect(address);
            client.send(seq, &MsgServReq {});
            client.expect(seq, answer);
            client.expect_end();
        }
    }

    /// Ends it by a signal, once these have left; it has to have lived until then, and to end well.
    fn stop<const N: usize>(self, peers: [Peer; N]) {
        drop(peers);
        self.program.signal("TERM");
        let ending = self.program.finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
    }
}

fn info(port: u32, users: u32, max: u32) -> MsgServInfo {
    MsgServInfo {
        ip1: "10.0.0.1".into(),
        ip2: "10.0.0.2".into(),
        port,
        max_conn_cnt: max,
        cur_conn_cnt: users,
        host_name: "vm".into(),
    }
}

fn refused(result: ResultType) -> MsgServRsp {
    MsgServRsp { result_code: result.into(), ..MsgServRsp::default() }
}

/// What has registered is named to all who ask, in the form of each way to ask.
#[test]
fn a_registered_server_is_named_by_http_and_by_pdu() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let registered = server.register(&info(18000, 3, 10));
        let expected = "HTTP/1.1 200 OK\r\n\
            Connection:close\r\n\
            Content-Length:247\r\n\
            Content-Type:text/html;charset=utf-8\r\n\
            \r\n\
            {\n   \"backupIP\" : \"10.0.0.2\",\n   \"code\" : 0,\n   \
            \"discovery\" : \"http://127.0.0.1/api/discovery\",\n   \
            \"msfsBackup\" : \"http://127.0.0.1:8700/\",\n   \
            \"msfsPrior\" : \"http://127.0.0.1:8700/\",\n   \"msg\" : \"\",\n   \
            \"port\" : \"18000\",\n   \"priorIP\" : \"10.0.0.1\"\n}\n";
        assert_eq!(http(&server.http, &[b"GET /msg_server HTTP/1.1\r\n\r\n"]), expected);
        server.expect_told(&MsgServRsp {
            result_code: ResultType::None.into(),
            prior_ip: Some("10.0.0.1".into()),
            backup_ip: Some("10.0.0.2".into()),
            port: Some(18000),
        });
        server.stop([registered]);
    }
}

/// Nobody to name and nobody with room are told apart, and nobody is named.
#[test]
fn no_server_and_no_room_are_told() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let none = "{\n   \"code\" : 1,\n   \"msg\" : \"没有msg_server\"\n}\n";
        assert_eq!(server.ask(), ("HTTP/1.1 200 OK".into(), none.into()));
        server.expect_told(&refused(ResultType::NoMsgServer));
        let registered = server.register(&info(18000, 10, 10));
        let full = "{\n   \"code\" : 2,\n   \"msg\" : \"负载过高\"\n}\n";
        assert_eq!(server.ask(), ("HTTP/1.1 200 OK".into(), full.into()));
        server.expect_told(&refused(ResultType::MsgServerFull));
        server.stop([registered]);
    }
}

/// The server with the fewest users is named, as they come and go and servers tell anew.
#[test]
fn the_choice_follows_the_counts() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let mut first = server.register(&info(18001, 1, 10));
        let mut second = server.register(&info(18002, 2, 10));
        assert_eq!(server.ask_port(), "18001");
        server.count(&mut first, UserAction::Inc);
        server.count(&mut first, UserAction::Inc);
        assert_eq!(server.ask_port(), "18002");
        server.count(&mut first, UserAction::Dec);
        assert_eq!(server.ask_port(), "18001");
        second.send(0, &info(18003, 0, 10));
        server.program.wait_for("registered ");
        assert_eq!(server.ask_port(), "18003");
        server.stop([first, second]);
    }
}

/// A server whose connection is over is not named any more, nor are its users counted.
#[test]
fn a_server_that_goes_is_not_named() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let first = server.register(&info(18001, 1, 10));
        let second = server.register(&info(18002, 2, 10));
        assert_eq!(server.ask_port(), "18001");
        drop(first);
        server.program.wait_for("lost \"vm\" at 10.0.0.1:18001 with 1 users: ");
        assert_eq!(server.ask_port(), "18002");
        server.stop([second]);
    }
}

/// A server that asks as a client does is answered and closed like one, and not named any more.
#[test]
fn a_server_that_asks_is_not_named_any_more() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let mut asking = server.register(&info(18001, 0, 10));
        asking.send(4, &MsgServReq {});
        asking.next();
        asking.expect_end();
        server.expect_told(&refused(ResultType::NoMsgServer));
        server.stop([asking]);
    }
}

/// A server that is closed for what it got wrong is not named any more.
#[test]
fn a_server_that_errs_too_often_is_not_named_any_more() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let mut erring = server.register(&info(18001, 0, 10));
        for _ in 0..3 {
            erring.send(0, &LoginReq::default());
        }
        erring.expect_end();
        server.expect_told(&refused(ResultType::NoMsgServer));
        server.stop([erring]);
    }
}

/// One connection has one answer, whatever else is in the same segment.
#[test]
fn what_follows_a_request_is_not_answered() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        for address in [&server.clients, &server.servers] {
            let mut client = Peer::connect(address);
            let again = [pdu(1, &MsgServReq {}), pdu(2, &MsgServReq {}), pdu(3, &info(1, 0, 9))];
            client.send_all(&again.concat());
            client.expect(1, &refused(ResultType::NoMsgServer));
            client.expect_end();
        }
        let request = b"GET /msg_server HTTP/1.1\r\n\r\n";
        let response = http(&server.http, &[&[&request[..], request].concat()]);
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
        server.stop([]);
    }
}

/// A request that comes byte by byte is answered once it is whole.
#[test]
fn a_request_may_come_byte_by_byte() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let request = b"GET /msg_server?a=b HTTP/1.1\r\nHost: a\r\n\r\n";
        let pieces: Vec<&[u8]> = request.chunks(1).collect();
        let response = http(&server.http, &pieces);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        let mut client = Peer::connect(&server.clients);
        for byte in pdu(5, &MsgServReq {}) {
            client.send_all(&[byte]);
        }
        client.expect(5, &refused(ResultType::NoMsgServer));
        server.stop([client]);
    }
}

/// What is no request for a message server gets the status that says so, and is closed.
#[test]
fn a_bad_http_request_gets_its_status() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let long = format!("GET /msg_server HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2000));
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("POST /msg_server HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405 Method Not Allowed"),
            ("nonsense\r\n\r\n", "400 Bad Request"),
            (&long, "431 Request Header Fields Too Large"),
        ] {
            let response = http(&server.http, &[request.as_bytes()]);
            assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{response}");
        }
        server.stop([]);
    }
}

/// What makes no sense closes its connection, and only that.
#[test]
fn nonsense_from_a_server_closes_it() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let good = server.register(&info(18001, 0, 10));
        let early = pdu(0, &UserCntUpdate { user_action: 1, user_id: 1 });
        let port = pdu(0, &info(0, 0, 10));
        let unknown = pdu(0, &LoginReq::default()).repeat(3);
        let mut undecodable = Vec::new();
        encode_bytes(&Header::new(7, 0x0709), b"\xff", 64, &mut undecodable).unwrap();
        let action =
            [pdu(0, &info(1, 0, 10)), pdu(0, &UserCntUpdate { user_action: 3, user_id: 1 })];
        for bytes in [early, port, unknown, undecodable.repeat(3), action.concat()] {
            let mut bad = Peer::connect(&server.servers);
            bad.send_all(&bytes);
            bad.expect_end();
        }
        assert_eq!(server.ask_port(), "18001");
        server.stop([good]);
    }
}

/// Lengths that cannot be close the connection; the original ended by some of them.
#[test]
fn impossible_lengths_close_the_connection_and_not_the_server() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        for length in [0, 1, 8, 15, 16 * 1024 + 1, u32::MAX] {
            for address in [&server.clients, &server.servers] {
                let mut bytes = pdu(0, &MsgServReq {});
                bytes[..4].copy_from_slice(&length.to_be_bytes());
                let mut bad = Peer::connect(address);
                bad.send_all(&bytes);
                bad.expect_end();
            }
        }
        server.expect_told(&refused(ResultType::NoMsgServer));
        server.stop([]);
    }
}

/// A client may not register: its port only answers.
#[test]
fn nobody_registers_at_the_port_of_clients() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let mut client = Peer::connect(&server.clients);
        client.send(0, &info(18001, 0, 10));
        client.send(0, &HeartBeat {});
        client.send(3, &MsgServReq {});
        client.expect(3, &refused(ResultType::NoMsgServer));
        server.stop([client]);
    }
}

/// A message server hears that the directory lives, by the original's heartbeat.
#[test]
fn message_servers_hear_heartbeats() {
    // All of them at once, as it takes five seconds.
    let servers: Vec<LoginServer> = backends().into_iter().map(LoginServer::start).collect();
    let registered = servers.iter().map(|server| server.register(&info(18001, 0, 10)));
    for mut peer in registered.collect::<Vec<_>>() {
        peer.expect(0, &HeartBeat {});
    }
}

/// Who has registered counts as fast as its users come, and may say what is long; others may not.
#[test]
fn a_registered_server_may_say_more() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let long = MsgServInfo { host_name: "x".repeat(2000), ..info(18001, 0, 5000) };
        let mut stranger = Peer::connect(&server.servers);
        stranger.send(0, &long);
        stranger.expect_end();
        let mut registered = server.register(&info(18001, 0, 5000));
        let update = UserCntUpdate { user_action: UserAction::Inc as u32, user_id: 7 };
        // Held back at twenty a second, it would be closed before the last of them.
        registered.send_all(&pdu(0, &update).repeat(2000));
        while server.program.wait_for("user 7 in at ")
            != "\"vm\" at 10.0.0.1:18001, 2000 of 5000 users"
        {}
        registered.send(0, &long);
        server.program.wait_for("registered \"xxx");
        server.stop([stranger, registered]);
    }
}

/// One address has so many connections, at each address that is listened on, and no more.
#[test]
fn an_address_has_its_share_of_connections() {
    for backend in backends() {
        let server = LoginServer::start_with(backend, &["--per-address-max", "1"]);
        for address in [&server.clients, &server.servers, &server.http] {
            let mut first = Peer::connect(address);
            Peer::connect(address).expect_end();
            first.send_all(if address == &server.http { b"x\n\n" } else { &[0; 16] });
            // That is nonsense, and so it was let in.
            first.stream.read_to_end(&mut Vec::new()).unwrap();
        }
        server.stop([]);
    }
}

/// Each role listens on all of its addresses, and they are printed one a line.
#[test]
fn a_role_may_have_several_addresses() {
    for backend in backends() {
        let two = "127.0.0.1:0; 127.0.0.1:0";
        let arguments = ["--client-listen", two, "--http-listen", two, "--msg-listen", two];
        let program = Program::start_at(PATH, &[&arguments[..], &["--backend", backend]].concat());
        let lines: Vec<String> = (0..6).map(|_| program.line()).collect();
        let at = |start: &str| -> Vec<&str> {
            lines.iter().filter_map(|line| line.strip_prefix(start)).collect()
        };
        for address in at("listening for message servers on ") {
            let mut server = Peer::connect(address);
            server.send(0, &info(18001, 0, 10));
            program.wait_for("registered ");
        }
        let clients = at("listening for clients on ");
        for address in &clients {
            let mut client = Peer::connect(address);
            client.send(1, &MsgServReq {});
            client.next();
        }
        let https = at("listening for HTTP on ");
        for address in &https {
            let response = http(address, &[b"GET /msg_server HTTP/1.1\r\n\r\n"]);
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        }
        assert_eq!((clients.len(), https.len()), (2, 2));
    }
}

/// A signal ends the server also while others are connected, and they see it.
#[test]
fn a_signal_ends_it_and_its_connections() {
    for backend in backends() {
        let server = LoginServer::start(backend);
        let mut registered = server.register(&info(18001, 0, 10));
        let mut client = Peer::connect(&server.clients);
        client.send(0, &LoginReq::default());
        // Not before it is known: what waits to be accepted is reset.
        server.program.wait_for("bad PDU from ");
        server.program.signal("INT");
        registered.expect_end();
        client.expect_end();
        drop((registered, client));
        assert_eq!(server.program.finish().code, Some(0));
    }
}

/// What cannot be understood is a usage error with one line, and help is no error.
#[test]
fn a_bad_argument_is_exit_code_two() {
    for arguments in [
        &["--port", "8000"][..],
        &["--http-listen", "8080"],
        &["--http-listen", "127.0.0.1:8080;"],
        &["--msg-listen", "localhost:8100"],
        &["--backend", "iocp"],
        &["--client-listen"],
    ] {
        let ending = Program::start_at(PATH, arguments).finish();
        assert_eq!(ending.code, Some(2), "{arguments:?}: {ending:?}");
        assert_eq!(ending.stderr.lines().count(), 1, "{arguments:?}: {ending:?}");
        assert!(ending.stderr.starts_with("login_server: "), "{ending:?}");
    }
    let ending = Program::start_at(PATH, &["--help"]).finish();
    assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""));
    assert!(ending.stdout.contains("--msg-listen"), "{ending:?}");
}

/// A taken port is one line that says which option to change.
#[test]
fn a_taken_port_is_told_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for backend in backends() {
        let any = "127.0.0.1:0";
        let arguments = ["--client-listen", any, "--http-listen", &address, "--msg-listen", any];
        let program = Program::start_at(PATH, &[&arguments[..], &["--backend", backend]].concat());
        let ending = program.finish();
        assert_eq!(ending.code, Some(1), "{ending:?}");
        let line =
            format!("{address} is served by another process; give another, with --http-listen");
        assert_eq!(ending.stderr, format!("login_server: {line}\n"));
    }
}
