//! All three programs together, as processes: a directory, message servers, and clients that talk.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use im_example::messages::{ClientType, Command, LoginReq, LoginRes, UserStatType};
use socket2::{Domain, Socket, Type};

use crate::program::{PATIENCE, Program};
use crate::support::{Peer, backends};

/// A directory, and where each role of it listens.
pub(crate) struct Directory {
    pub(crate) program: Program,
    clients: String,
    pub(crate) http: String,
    pub(crate) servers: String,
}

impl Directory {
    pub(crate) fn start(backend: &str, [clients, http, servers]: [&str; 3]) -> Self {
        let arguments = ["--client-listen", clients, "--http-listen", http];
        let arguments = [&arguments[..], &["--msg-listen", servers, "--backend", backend]].concat();
        let program = Program::start_at(env!("CARGO_BIN_EXE_login_server"), &arguments);
        let clients = program.line_after("listening for clients on ");
        let http = program.line_after("listening for HTTP on ");
        let servers = program.line_after("listening for message servers on ");
        Self { program, clients, http, servers }
    }

    /// One at free ports, with two message servers, of which the second has users.
    fn with_two_servers(backend: &str) -> (Self, [MsgServer; 2], Vec<Peer>) {
        let directory = Self::start(backend, ["127.0.0.1:0"; 3]);
        let servers = [0, 1].map(|_| {
            let server = MsgServer::start(backend, &directory.servers);
            directory.program.wait_for("registered ");
            server
        });
        let users = ["una", "ulf", "udo", "uta"].map(|name| servers[1].login(name)).into();
        directory.program.wait_for("user 4 in ");
        (directory, servers, users)
    }

    /// Kills it so that it can do nothing about it, and starts another in its place.
    fn kill(self, backend: &str) -> Self {
        let Self { program, clients, http, servers } = self;
        program.signal("KILL");
        assert_eq!(program.finish().code, None);
        // The kernel takes a ring down behind its process, and the listeners in it: for a moment
        // their ports are still taken.
        let end = Instant::now() + PATIENCE;
        for address in [&clients, &http, &servers] {
            while TcpListener::bind(address).is_err() {
                assert!(Instant::now() < end, "{address} is still taken");
                thread::yield_now();
            }
        }
        Self::start(backend, [&clients, &http, &servers])
    }
}

struct MsgServer {
    program: Program,
    clients: String,
}

impl MsgServer {
    fn start(backend: &str, directory: &str) -> Self {
        let arguments =
            ["--listen", "127.0.0.1:0", "--login", directory, "--name", "vm", "--backend", backend];
        let program = Program::start_at(env!("CARGO_BIN_EXE_msg_server"), &arguments);
        let clients = program.line_after("listening for clients on ");
        Self { program, clients }
    }

    /// A user who has logged in, and says nothing.
    fn login(&self, name: &str) -> Peer {
        let mut user = Peer::connect(&self.clients);
        user.send(
            1,
            &LoginReq {
                user_name: name.into(),
                password: String::new(),
                online_status: UserStatType::Online.into(),
                client_type: ClientType::Windows.into(),
                client_version: None,
            },
        );
        assert_eq!(user.next().0, LoginRes::header().with_seq(1));
        user
    }
}

/// A client, whose directory is at that address.
pub(crate) fn client(backend: &str, name: &str, directory: &str, arguments: &[&str]) -> Program {
    let fixed = ["--backend", backend, "--name", name, "--directory", directory];
    Program::start_at(env!("CARGO_BIN_EXE_client"), &[&fixed[..], arguments].concat())
}

/// Runs something for all backends at once, because it takes a while.
fn on_every_backend_at_once(scenario: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for backend in backends() {
            let scenario = &scenario;
            scope.spawn(move || scenario(backend));
        }
    });
}

/// The next line says so, and from whom: by number, if that one has left before its name was asked.
#[track_caller]
fn expect_heard(client: &Program, text: &str) {
    let heard = client.line_after("heard from ");
    assert!(heard.ends_with(&format!(": {text:?}")), "{heard}");
}

/// A client that ended well, and what its last line says.
#[track_caller]
pub(crate) fn expect_end(client: Program, last: &str) {
    let ending = client.finish();
    assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
    assert_eq!(ending.stdout.lines().last(), Some(last), "{ending:?}");
}

/// However they ask, clients are sent to the server with the fewest users; there one hears what the
/// others say, and they hear that it has arrived.
#[test]
fn clients_meet_at_the_emptiest_server_and_talk() {
    for backend in backends() {
        let (directory, servers, users) = Directory::with_two_servers(backend);
        let expect_sent_there = |client: &Program| {
            assert_eq!(client.wait_for("sent to message server "), servers[0].clients);
            client.wait_for("logged in as ");
        };
        let bob = client(backend, "bob", &directory.http, &["--hear", "4"]);
        expect_sent_there(&bob);
        for (name, address) in [("ann", &directory.clients), ("cid", &directory.servers)] {
            let script = ["--pdu", "--to", "bob", "--say", "hello", "--count", "2", "--every", "1"];
            let client = client(backend, name, address, &script);
            expect_sent_there(&client);
            for _ in 0..2 {
                assert!(client.line_after("said to \"bob\": message ").ends_with(" ms"));
                expect_heard(&bob, "hello");
            }
            expect_end(client, "2 said, 0 heard");
        }
        expect_end(bob, "0 said, 4 heard");
        drop((users, servers));
    }
}

/// A directory that is killed and is back has the registration again, with the users of by then,
/// after the four seconds that the original waits, and not before.
#[test]
fn a_registration_comes_back_when_the_directory_does() {
    on_every_backend_at_once(|backend| {
        let directory = Directory::start(backend, ["127.0.0.1:0"; 3]);
        let server = MsgServer::start(backend, &directory.servers);
        directory.program.wait_for("registered ");
        let mut users = vec![server.login("ann"), server.login("bob")];
        directory.program.wait_for("user 2 in ");
        let killed = Instant::now();
        let directory = directory.kill(backend);
        users.push(server.login("cid"));
        let port = server.clients.rsplit_once(':').unwrap().1;
        let registered = directory.program.line_after("registered ");
        let wait = killed.elapsed();
        assert_eq!(registered, format!("\"vm\" at 127.0.0.1:{port}, 3 of 1000 users"));
        let expected = Duration::from_secs(4)..Duration::from_secs(10);
        assert!(expected.contains(&wait), "{wait:?} on {backend}");
        users.pop();
        directory.program.wait_for("user 3 out ");
    });
}

/// When a message server is lost its users go to another, and what they say arrives there.
#[test]
fn clients_go_on_at_another_server() {
    on_every_backend_at_once(|backend| {
        let (directory, [first, second], users) = Directory::with_two_servers(backend);
        let bob = client(backend, "bob", &directory.http, &["--hear", "2"]);
        bob.wait_for("logged in as ");
        let mut ann = client(backend, "ann", &directory.http, &["--to", "bob"]);
        ann.type_line("how are you");
        bob.wait_for("heard from \"ann\": \"how are you\"");
        first.program.signal("KILL");
        let lost = ann.wait_for("lost message server ");
        assert!(lost.contains("; asking a directory anew in "), "{lost}");
        ann.type_line("and now?");
        for client in [&ann, &bob] {
            assert_eq!(client.wait_for("sent to message server "), second.clients);
        }
        bob.wait_for("heard from \"ann\": \"and now?\"");
        expect_end(bob, "0 said, 2 heard");
        expect_end(ann, "2 said, 0 heard");
        drop(users);
    });
}

/// Lines say to whom, and the end of them is the end of the client, once all is said.
#[test]
fn lines_name_their_receivers() {
    for backend in backends() {
        let (directory, _servers, _users) = Directory::with_two_servers(backend);
        let listeners = ["bob", "cid"].map(|name| {
            let listener = client(backend, name, &directory.http, &["--hear", "1"]);
            listener.wait_for("logged in as ");
            listener
        });
        let mut ann = client(backend, "ann", &directory.http, &[]);
        for line in ["bob  good morning ", "", "bob", "cid good night"] {
            ann.type_line(line);
        }
        ann.wait_for("a line is a name and a text");
        expect_end(ann, "2 said, 0 heard");
        for (listener, text) in listeners.into_iter().zip(["good morning", "good night"]) {
            expect_heard(&listener, text);
            expect_end(listener, "0 said, 1 heard");
        }
    }
}

/// A user who logs in elsewhere ends the client that was there, which does not come back.
#[test]
fn a_login_elsewhere_ends_the_client() {
    for backend in backends() {
        let (directory, servers, _users) = Directory::with_two_servers(backend);
        let ann = client(backend, "ann", &directory.http, &["--hear", "1"]);
        ann.wait_for("logged in as ");
        let _again = servers[0].login("ann");
        let ending = ann.finish();
        assert_eq!(ending.code, Some(1), "{ending:?}");
        assert_eq!(ending.stderr, "client: the same user has logged in elsewhere\n");
    }
}

/// The same for a client that waits for a line: it does not wait any more.
#[test]
fn a_client_that_waits_for_a_line_ends_as_well() {
    for backend in backends() {
        let (directory, servers, _users) = Directory::with_two_servers(backend);
        let mut ann = client(backend, "ann", &directory.http, &["--to", "bob"]);
        ann.wait_for("logged in as ");
        let _again = servers[0].login("ann");
        assert_eq!(ann.complaint(), "client: the same user has logged in elsewhere");
        assert_eq!(ann.wait(), Some(1));
    }
}

/// What cannot be said is told, and is an error in the end.
#[test]
fn what_cannot_be_said_is_an_error() {
    on_every_backend_at_once(|backend| {
        let (directory, _servers, _users) = Directory::with_two_servers(backend);
        let script = ["--to", "bob", "--say", "hello"];
        let ann = client(backend, "ann", &directory.http, &script);
        ann.wait_for("waiting for \"bob\" to log in");
        ann.line_after("not said to \"bob\": nobody of that name is logged in");
        let ending = ann.finish();
        assert_eq!(
            (ending.code, ending.stderr.as_str()),
            (Some(1), "client: 1 could not be said\n")
        );
    });
}

/// A login that every server would refuse is no reason to ask for another server.
#[test]
fn a_login_that_is_refused_is_an_error() {
    for backend in backends() {
        let (directory, _servers, _users) = Directory::with_two_servers(backend);
        let ending = client(backend, "", &directory.http, &["--hear", "1"]).finish();
        assert_eq!(ending.code, Some(1), "{ending:?}");
        assert!(ending.stderr.starts_with("client: the login was refused: "), "{ending:?}");
    }
}

/// Of several directories the next one is asked when one is away; one without a server is asked
/// again; and a signal ends the client whatever it waits for.
#[test]
fn directories_are_asked_in_turn() {
    // A port that is bound and not listened at refuses, and nobody else can take it meanwhile.
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let away = bound.local_addr().unwrap().as_socket().unwrap().to_string();
    on_every_backend_at_once(|backend| {
        let directory = Directory::start(backend, ["127.0.0.1:0"; 3]);
        let both = format!("{away};{}", directory.http);
        let ann = client(backend, "ann", &both, &["--hear", "1"]);
        let why = "it did not answer: connection refused; asking a directory anew in ";
        ann.wait_for(why);
        ann.line_after(&format!("asking directory {} by HTTP", directory.http));
        ann.line_after("it knows of no message server; asking a directory anew in ");
        ann.signal("TERM");
        expect_end(ann, "0 said, 0 heard");
    });
}

/// What cannot be understood is a usage error with one line, and help is no error.
#[test]
fn a_bad_argument_is_exit_code_two() {
    let path = env!("CARGO_BIN_EXE_client");
    for arguments in
        [&["--say", "hello"][..], &["--directory", "127.0.0.1"], &["--hear", "0"], &["--name"]]
    {
        let ending = Program::start_at(path, arguments).finish();
        assert_eq!(ending.code, Some(2), "{arguments:?}: {ending:?}");
        assert_eq!(ending.stderr.lines().count(), 1, "{arguments:?}: {ending:?}");
        assert!(ending.stderr.starts_with("client: "), "{ending:?}");
    }
    let ending = Program::start_at(path, &["--help"]).finish();
    assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""));
    assert!(ending.stdout.contains("--directory"), "{ending:?}");
}
