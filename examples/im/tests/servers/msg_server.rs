//! The message server: it registers with directories, lets users in and out, and tells of it.

use std::net::{SocketAddr, TcpListener};

use im_example::messages::{
    AllUserReq, AllUserRsp, ClientTimeReq, ClientTimeRsp, ClientType, Command, HeartBeat,
    KickReasonType, KickUser, LoginReq, LoginRes, LogoutReq, LogoutRsp, MsgData, MsgDataAck,
    MsgServInfo, MsgServReq, MsgType, ResultType, SessionType, UserAction, UserCntUpdate,
    UserStatType,
};
use prost::Message;
use socket2::{Domain, Socket, Type};

use crate::program::{PATIENCE, Program};
use crate::support::{Peer, backends, http, pdu};

const PATH: &str = env!("CARGO_BIN_EXE_msg_server");
const LOGIN_PATH: &str = env!("CARGO_BIN_EXE_login_server");

/// A message server, and the directories that it registered with, which are played by the test.
pub(crate) struct MsgServer {
    pub(crate) program: Program,
    pub(crate) clients: String,
    directories: Vec<Peer>,
    listeners: Vec<TcpListener>,
}

impl MsgServer {
    /// Starts one with so many directories, and such further arguments.
    fn start(backend: &str, directories: usize, arguments: &[&str]) -> Self {
        let listeners: Vec<TcpListener> =
            (0..directories).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let login = addresses.join(";");
        let fixed = ["--listen", "127.0.0.1:0", "--login", &login, "--name", "vm"];
        let all = [&fixed[..], &["--backend", backend], arguments].concat();
        let program = Program::start_at(PATH, &all);
        let clients = program.line_after("listening for clients on ");
        let mut server = Self { program, clients, directories: Vec::new(), listeners };
        for _ in 0..directories {
            server.program.wait_for("registered with directory ");
        }
        server.directories = (0..directories).map(|index| server.accept(index)).collect();
        server
    }

    /// What the server, which is connected already, has with one of the directories.
    fn accept(&self, index: usize) -> Peer {
        let (stream, _) = self.listeners[index].accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer { stream }
    }

    /// A server with one directory that has seen the registration.
    pub(crate) fn registered(backend: &str, arguments: &[&str]) -> Self {
        let mut server = Self::start(backend, 1, arguments);
        server.directories[0].next();
        server
    }

    /// A client that has logged in, and the user's id.
    pub(crate) fn login(&self, name: &str, client_type: ClientType) -> (Peer, u32) {
        let mut client = Peer::connect(&self.clients);
        client.send(101, &login(name, client_type));
        let (header, body) = client.next();
        assert_eq!(header, LoginRes::header().with_seq(101));
        let answer = LoginRes::decode(&body[..]).unwrap();
        assert_eq!(answer.result_code(), ResultType::None);
        let user = answer.user_info.unwrap();
        assert_eq!((user.user_nick_name.as_str(), user.user_domain.as_str()), (name, name));
        (client, user.user_id)
    }

    /// Every directory is told of a user, and of nobody else before.
    #[track_caller]
    fn expect_told(&mut self, action: UserAction, user_id: u32) {
        let update = UserCntUpdate { user_action: action as u32, user_id };
        for directory in &mut self.directories {
            // On a slow machine the server's heartbeat may come first.
            let mut pdus = std::iter::repeat_with(|| directory.next());
            let told = pdus.find(|(header, _)| *header != HeartBeat::header());
            let (header, body) = told.unwrap();
            assert_eq!(header, UserCntUpdate::header());
            assert_eq!(UserCntUpdate::decode(&body[..]), Ok(update));
        }
    }

    /// Ends it by a signal, once these have left; it has to have lived until then, and to end well.
    pub(crate) fn stop<const N: usize>(self, peers: [Peer; N]) {
        drop((peers, self.directories));
        self.program.signal("TERM");
        let ending = self.program.finish();
        assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
    }
}

fn login(name: &str, client_type: ClientType) -> LoginReq {
    LoginReq {
        user_name: name.into(),
        password: "pw".into(),
        online_status: UserStatType::Online.into(),
        client_type: client_type.into(),
        client_version: None,
    }
}

pub(crate) fn message(from: u32, to: u32, text: &str) -> MsgData {
    MsgData {
        from_user_id: from,
        to_session_id: to,
        msg_type: MsgType::SingleText.into(),
        msg_data: text.into(),
        ..MsgData::default()
    }
}

/// The result of a refused login, behind which the connection ends.
#[track_caller]
fn expect_refused(client: &mut Peer, result: ResultType) {
    let (header, body) = client.next();
    assert_eq!(header, LoginRes::header().with_seq(101));
    assert_eq!(LoginRes::decode(&body[..]).unwrap().result_code(), result);
    client.expect_end();
}

/// The registration is the original's, byte for byte, and nothing comes before it.
#[test]
fn a_server_registers_with_every_directory() {
    for backend in backends() {
        let arguments = ["--ip1", "10.0.0.1", "--ip2", "10.0.0.2", "--port", "19000"];
        let mut server = MsgServer::start(backend, 2, &arguments);
        let info = MsgServInfo {
            ip1: "10.0.0.1".into(),
            ip2: "10.0.0.2".into(),
            port: 19000,
            max_conn_cnt: 1000,
            cur_conn_cnt: 0,
            host_name: "vm".into(),
        };
        for directory in &mut server.directories {
            directory.expect(0, &info);
        }
        server.stop([]);
    }
}

/// Without an option it is the port that is listened on which is told.
#[test]
fn the_port_is_that_of_the_listener() {
    for backend in backends() {
        let mut server = MsgServer::start(backend, 1, &[]);
        let (_, body) = server.directories[0].next();
        let port = server.clients.rsplit_once(':').unwrap().1;
        assert_eq!(MsgServInfo::decode(&body[..]).unwrap().port.to_string(), port);
        server.stop([]);
    }
}

/// A user's coming and going is told to every directory, however the user goes.
#[test]
fn users_are_counted_in_and_out_at_every_directory() {
    for backend in backends() {
        let mut server = MsgServer::start(backend, 2, &[]);
        for directory in &mut server.directories {
            directory.next();
        }
        let (mut leaving, first) = server.login("ann", ClientType::Windows);
        server.expect_told(UserAction::Inc, first);
        let (dropped, second) = server.login("bob", ClientType::Windows);
        server.expect_told(UserAction::Inc, second);
        assert_ne!(first, second);
        leaving.send(11, &LogoutReq {});
        server.expect_told(UserAction::Dec, first);
        drop(dropped);
        server.expect_told(UserAction::Dec, second);
        server.stop([leaving]);
    }
}

/// Answers have the request's number; a logout ends the connection behind its own.
#[test]
fn a_user_gets_answers_until_the_logout() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let (mut client, _) = server.login("ann", ClientType::Windows);
        client.send(9, &ClientTimeReq {});
        let (header, body) = client.next();
        assert_eq!(header, ClientTimeRsp::header().with_seq(9));
        assert!(ClientTimeRsp::decode(&body[..]).unwrap().server_time > 1_700_000_000);
        client.send(11, &LogoutReq {});
        client.expect(11, &LogoutRsp { result_code: 0 });
        client.expect_end();
        server.stop([client]);
    }
}

/// A client's heartbeat comes back as it was, in fields that mean nothing as well.
#[test]
fn a_heartbeat_comes_back_as_it_was() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let (mut client, _) = server.login("ann", ClientType::Windows);
        let mut header = HeartBeat::header().with_seq(5);
        (header.version, header.flag, header.reserved) = (2, 3, 4);
        let mut beat = [0; 16];
        header.write(16, &mut beat);
        client.send_all(&beat);
        assert_eq!(client.next(), (header, Vec::new()));
        server.stop([client]);
    }
}

/// What follows a logout in its segment is dropped with the connection.
#[test]
fn a_logout_is_the_last_that_is_served() {
    for backend in backends() {
        let mut server = MsgServer::registered(backend, &[]);
        let (mut client, id) = server.login("ann", ClientType::Windows);
        let again = [pdu(1, &LogoutReq {}), pdu(2, &LogoutReq {}), pdu(3, &ClientTimeReq {})];
        client.send_all(&again.concat());
        client.expect(1, &LogoutRsp { result_code: 0 });
        client.expect_end();
        server.expect_told(UserAction::Inc, id);
        server.expect_told(UserAction::Dec, id);
        let (next, _) = server.login("bob", ClientType::Windows);
        server.stop([client, next]);
    }
}

/// Who has not logged in gets nothing but a heartbeat back.
#[test]
fn nobody_is_served_before_the_login() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let ack = MsgDataAck { session_type: 1, ..MsgDataAck::default() };
        for request in [
            pdu(1, &ClientTimeReq {}),
            pdu(1, &message(1, 2, "hey")),
            pdu(1, &ack),
            pdu(1, &MsgServReq {}).repeat(3),
        ] {
            let mut client = Peer::connect(&server.clients);
            client.send(5, &HeartBeat {});
            client.expect(5, &HeartBeat {});
            client.send_all(&request);
            client.expect_end();
        }
        server.stop([]);
    }
}

/// A second login on a connection changes nothing, and is not answered.
#[test]
fn a_connection_logs_in_once() {
    for backend in backends() {
        let mut server = MsgServer::registered(backend, &[]);
        let (mut client, id) = server.login("ann", ClientType::Windows);
        client.send(102, &login("bob", ClientType::Windows));
        client.send(5, &HeartBeat {});
        client.expect(5, &HeartBeat {});
        client.send(6, &LogoutReq {});
        server.expect_told(UserAction::Inc, id);
        server.expect_told(UserAction::Dec, id);
        server.stop([client]);
    }
}

/// A full server says so, and takes a user again once there is a place.
#[test]
fn a_full_server_refuses_until_a_user_leaves() {
    for backend in backends() {
        let mut server = MsgServer::registered(backend, &["--max-users", "1"]);
        let (first, id) = server.login("ann", ClientType::Windows);
        let mut second = Peer::connect(&server.clients);
        second.send(101, &login("bob", ClientType::Windows));
        expect_refused(&mut second, ResultType::MsgServerFull);
        drop(first);
        server.expect_told(UserAction::Inc, id);
        server.expect_told(UserAction::Dec, id);
        let (third, _) = server.login("bob", ClientType::Windows);
        server.stop([second, third]);
    }
}

/// A name has to be one, of a length that can be kept.
#[test]
fn a_name_that_is_none_is_refused() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        for name in [String::new(), "x".repeat(65)] {
            let mut client = Peer::connect(&server.clients);
            client.send(101, &login(&name, ClientType::Windows));
            expect_refused(&mut client, ResultType::DbValidateFailed);
        }
        let (longest, _) = server.login(&"x".repeat(64), ClientType::Windows);
        server.stop([longest]);
    }
}

/// A user who logs in with a second client of a class is logged out on the first.
#[test]
fn a_second_client_of_a_class_ends_the_first() {
    for backend in backends() {
        let mut server = MsgServer::registered(backend, &[]);
        let (mut first, id) = server.login("ann", ClientType::Windows);
        let (mut mobile, _) = server.login("ann", ClientType::Ios);
        let (second, same) = server.login("ann", ClientType::Mac);
        let duplicate = KickReasonType::DuplicateUser.into();
        first.expect(0, &KickUser { user_id: id, kick_reason: duplicate });
        first.expect_end();
        mobile.send(5, &HeartBeat {});
        mobile.expect(5, &HeartBeat {});
        assert_eq!(same, id);
        for action in [UserAction::Inc, UserAction::Inc, UserAction::Dec, UserAction::Inc] {
            server.expect_told(action, id);
        }
        server.stop([first, mobile, second]);
    }
}

/// A message is acknowledged to its sender, and delivered to every other client of both users,
/// stamped by the server whatever the sender wrote.
#[test]
fn a_message_reaches_all_other_clients_of_both() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let (mut sender, from) = server.login("ann", ClientType::Windows);
        let (mut sender_mobile, _) = server.login("ann", ClientType::Ios);
        let (mut receiver, to) = server.login("bob", ClientType::Windows);
        let (mut receiver_mobile, _) = server.login("bob", ClientType::Android);
        let forged = MsgData { attach_data: Some(vec![1]), ..message(77, to, "hey") };
        sender.send(6, &forged);
        let session_type = SessionType::Single.into();
        let ack = MsgDataAck { user_id: from, session_id: to, msg_id: 1, session_type };
        sender.expect(6, &ack);
        for peer in [&mut sender_mobile, &mut receiver, &mut receiver_mobile] {
            let (header, body) = peer.next();
            assert_eq!(header, MsgData::header());
            let data = MsgData::decode(&body[..]).unwrap();
            assert!(data.create_time > 1_700_000_000);
            let expected = MsgData { msg_id: 1, create_time: 0, ..message(from, to, "hey") };
            assert_eq!(MsgData { create_time: 0, ..data }, expected);
        }
        receiver.send(0, &MsgDataAck { user_id: to, session_id: from, ..ack });
        receiver.send(5, &HeartBeat {});
        receiver.expect(5, &HeartBeat {});
        sender.send(7, &HeartBeat {});
        sender.expect(7, &HeartBeat {});
        server.stop([sender, sender_mobile, receiver, receiver_mobile]);
    }
}

/// What is empty, for oneself or for nobody is not acknowledged.
#[test]
fn a_message_that_goes_nowhere_is_not_acknowledged() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let (mut sender, from) = server.login("ann", ClientType::Windows);
        let (receiver, to) = server.login("bob", ClientType::Windows);
        for (to, text) in [(to, ""), (from, "hey"), (99, "hey")] {
            sender.send(6, &message(from, to, text));
        }
        sender.send(7, &HeartBeat {});
        sender.expect(7, &HeartBeat {});
        server.stop([sender, receiver]);
    }
}

/// A user learns who is there, and by which ids to name them.
#[test]
fn a_user_learns_who_is_there() {
    for backend in backends() {
        let server = MsgServer::registered(backend, &[]);
        let (mut asking, asker) = server.login("ann", ClientType::Windows);
        let (other, id) = server.login("bob", ClientType::Windows);
        let request = AllUserReq { user_id: asker, latest_update_time: 0, attach_data: None };
        asking.send(8, &request);
        let (header, body) = asking.next();
        assert_eq!(header, AllUserRsp::header().with_seq(8));
        let answer = AllUserRsp::decode(&body[..]).unwrap();
        let mut users: Vec<(u32, String)> =
            answer.user_list.into_iter().map(|user| (user.user_id, user.user_domain)).collect();
        users.sort_unstable();
        assert_eq!(users, [(asker, "ann".into()), (id, "bob".into())]);
        server.stop([asking, other]);
    }
}

/// What becomes of a directory is told: each attempt, its end, and when the next one follows.
#[test]
fn what_becomes_of_a_directory_is_told() {
    for backend in backends() {
        let mut server = MsgServer::registered(backend, &[]);
        let address = server.listeners[0].local_addr().unwrap();
        server.listeners.clear();
        server.directories.clear();
        let lost = server.program.wait_for(&format!("lost directory {address} after "));
        assert!(lost.ends_with("; next try in 4 s"), "{lost}");
    }
}

/// A directory hears that the server lives, by the original's heartbeat.
#[test]
fn directories_hear_heartbeats() {
    // All of them at once, as it takes five seconds.
    let servers: Vec<MsgServer> =
        backends().iter().map(|backend| MsgServer::registered(backend, &[])).collect();
    for mut server in servers {
        server.directories[0].expect(0, &HeartBeat {});
    }
}

/// Who does not log in is closed in a while, and who has logged in is not.
#[test]
fn a_client_has_to_log_in() {
    // All of them at once, as it takes fifteen seconds.
    let servers: Vec<MsgServer> =
        backends().iter().map(|backend| MsgServer::registered(backend, &[])).collect();
    let connect = |server: &MsgServer| {
        let mobile = server.login("ann", ClientType::Ios).0;
        let user = server.login("ann", ClientType::Windows).0;
        (vec![mobile, user], Peer::connect(&server.clients))
    };
    for (users, mut silent) in servers.iter().map(connect).collect::<Vec<_>>() {
        silent.expect_end();
        for mut user in users {
            user.send(5, &HeartBeat {});
            user.expect(5, &HeartBeat {});
        }
    }
}

/// Both programs together: a user is sent to the server that has registered, and counted there.
#[test]
fn the_directory_sends_users_to_the_server() {
    for backend in backends() {
        let any = "127.0.0.1:0";
        let listen = ["--client-listen", any, "--http-listen", any, "--msg-listen", any];
        let directory =
            Program::start_at(LOGIN_PATH, &[&listen, &["--backend", backend][..]].concat());
        directory.line();
        let http_address = directory.line_after("listening for HTTP on ");
        let servers = directory.line_after("listening for message servers on ");
        let arguments = ["--listen", any, "--login", &servers, "--max-users", "1"];
        let server = Program::start_at(PATH, &[&arguments[..], &["--backend", backend]].concat());
        let clients = server.line_after("listening for clients on ");
        directory.wait_for("registered ");
        let port = clients.rsplit_once(':').unwrap().1;
        let ask = || http(&http_address, &[b"GET /msg_server HTTP/1.1\r\n\r\n"]);
        assert!(ask().contains(&format!("\"port\" : \"{port}\"")), "{}", ask());
        let mut user = Peer::connect(&clients);
        user.send(101, &login("ann", ClientType::Windows));
        user.next();
        directory.wait_for("user 1 in ");
        assert!(ask().contains("\"code\" : 2,"), "{}", ask());
        drop(user);
        directory.wait_for("user 1 out ");
        assert!(ask().contains("\"code\" : 0,"), "{}", ask());
    }
}

/// A signal ends the server also while users and directories are connected, and they see it.
#[test]
fn a_signal_ends_it_and_its_connections() {
    for backend in backends() {
        let mut server = MsgServer::registered(backend, &[]);
        let (mut user, id) = server.login("ann", ClientType::Windows);
        server.expect_told(UserAction::Inc, id);
        server.program.signal("INT");
        user.expect_end();
        server.directories[0].expect_end();
        drop((user, server.directories));
        assert_eq!(server.program.finish().code, Some(0));
    }
}

/// A directory that cannot be reached is no reason to let nobody in, and none to stay at the end.
#[test]
fn users_are_served_without_a_directory() {
    // A port that is bound and not listened at refuses, and nobody else can take it meanwhile.
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let directory = bound.local_addr().unwrap().as_socket().unwrap().to_string();
    for backend in backends() {
        let arguments = ["--listen", "127.0.0.1:0", "--login", &directory, "--backend", backend];
        let program = Program::start_at(PATH, &arguments);
        let clients = program.line_after("listening for clients on ");
        program.wait_for(&format!("cannot reach directory {directory}: connection refused"));
        let mut user = Peer::connect(&clients);
        user.send(101, &login("ann", ClientType::Windows));
        assert_eq!(user.next().0, LoginRes::header().with_seq(101));
        drop(user);
        program.wait_for("user 1 \"ann\" out");
        program.signal("TERM");
        assert_eq!(program.finish().code, Some(0));
    }
}

/// What cannot be understood is a usage error with one line, and help is no error.
#[test]
fn a_bad_argument_is_exit_code_two() {
    for arguments in [
        &["--port", "65536"][..],
        &["--listen", "localhost:8000"],
        &["--login", "127.0.0.1"],
        &["--max-users", "0"],
        &["--login"],
    ] {
        let ending = Program::start_at(PATH, arguments).finish();
        assert_eq!(ending.code, Some(2), "{arguments:?}: {ending:?}");
        assert_eq!(ending.stderr.lines().count(), 1, "{arguments:?}: {ending:?}");
        assert!(ending.stderr.starts_with("msg_server: "), "{ending:?}");
    }
    let ending = Program::start_at(PATH, &["--help"]).finish();
    assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""));
    assert!(ending.stdout.contains("--login"), "{ending:?}");
}
