//! One `Netlib` with its application, and the peers that talk to it from the same thread.
//!
//! Peers never block: whoever reads or writes them turns the loop meanwhile. At its end a world
//! cuts all of its sockets, and fails the test if one of them or a buffer does not come back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::{Address, App, Entry, Event, Handle, Lane, Netlib, Options, on_event};

/// User data of listeners, and so of what they accept.
pub const SERVER: u64 = 1;

/// User data of connections that the world itself asks for.
pub const CLIENT: u64 = 2;

/// How long anything may take. Never reached unless something is broken; a slow machine, such as an
/// emulator, is told of when the tests are built.
pub const DEADLINE: Duration =
    Duration::from_secs(if option_env!("NETLIB_TEST_SLOW").is_some() { 60 } else { 5 });

/// How long a turn waits for what a peer does, of which the loop knows nothing.
const GLANCE: Duration = Duration::from_millis(1);

pub struct World {
    pub net: Netlib<App>,
    pub app: App,
    /// Receive buffers of the pool.
    buffers: u64,
}

impl World {
    pub fn new(lane: &Lane) -> Self {
        Self::with(lane.options())
    }

    pub fn with(options: Options) -> Self {
        let net: Netlib<App> = options.build().expect("the backend works");
        let stats = net.stats();
        let buffers = stats.buffers_free + stats.buffers_kernel;
        Self { net, app: App::default(), buffers }
    }

    /// Runs `script` after every event from now on.
    pub fn script(
        &mut self,
        script: impl FnMut(&mut App, &mut Netlib<App>, Handle, &Event<'_>) + 'static,
    ) {
        self.app.set_script(script);
    }

    /// Answers every PDU and every read with itself.
    pub fn echo(&mut self) {
        self.script(|_, net, handle, event| {
            let bytes = match event {
                Event::Pdu(pdu) => pdu.frame(),
                Event::Read(bytes) => bytes,
                _ => return,
            };
            net.send(handle, bytes).expect("an echo has room");
        });
    }

    /// Listens on a free port of the loopback.
    pub fn listen(&mut self) -> (Handle, SocketAddr) {
        let listener = self.net.listen("127.0.0.1:0", on_event, SERVER).expect("a free port");
        self.app.own(listener);
        (listener, self.port_of(listener))
    }

    /// The numeric address of a listener.
    pub fn port_of(&mut self, listener: Handle) -> SocketAddr {
        let option = self.net.option(listener).expect("it listens");
        match option.local_address().expect("a listener has an address") {
            Address::Ip(address) => address,
            other => panic!("{other} is not numeric"),
        }
    }

    /// Connects from inside of this world.
    pub fn connect<T: TryInto<Address>>(&mut self, address: T) -> Handle
    where
        uring_netlib::ConnectError: From<T::Error>,
    {
        let handle = self.net.connect(address, on_event, CLIENT).expect("an attempt can start");
        self.app.own(handle)
    }

    /// A peer that is connected by the kernel; the world accepts it when it turns.
    pub fn peer(&self, address: SocketAddr) -> TcpStream {
        let peer = TcpStream::connect(address).expect("the kernel completes connections");
        peer.set_nodelay(true).expect("an open socket");
        peer.set_nonblocking(true).expect("an open socket");
        // A network that loses packets may lose a reset, which nobody repeats; but who asks after a
        // connection that is gone gets another.
        let second = Duration::from_secs(1);
        let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
        SockRef::from(&peer).set_tcp_keepalive(&keepalive).expect("an open socket");
        peer
    }

    /// As [`peer`](Self::peer), accepted: with its handle.
    pub fn accepted_peer(&mut self, address: SocketAddr) -> (TcpStream, Handle) {
        let before = self.app.handles_by(SERVER).len();
        let peer = self.peer(address);
        self.turn_until("a peer is accepted", |world| world.app.handles_by(SERVER).len() > before);
        (peer, self.app.handles_by(SERVER)[before])
    }

    /// A listener and one accepted peer of it.
    pub fn served_peer(&mut self) -> (TcpStream, Handle) {
        let (_, address) = self.listen();
        self.accepted_peer(address)
    }

    /// One turn that does not wait.
    pub fn turn(&mut self) {
        self.turn_for(Duration::ZERO);
    }

    /// One turn that waits no longer than that.
    pub fn turn_for(&mut self, timeout: Duration) {
        self.net.turn(&mut self.app, timeout).expect("the backend waits");
    }

    /// Turns until the events that came fulfil the condition. Each turn waits for as long as it
    /// takes: a wake-up that is lost is a failure, not a delay.
    pub fn turn_until(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_true(self) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within {DEADLINE:?}: {what}; {}", self.describe());
            self.turn_for(left);
        }
    }

    /// Turns until something outside of the loop is so. For conditions on peers.
    pub fn turn_while_not(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_true(self) {
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}; {}", self.describe());
            self.turn_for(GLANCE);
        }
    }

    /// Turns until nothing completes any more, for tests of what must not happen.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        self.turn_while_not("nothing happens any more", |world| {
            let before = world.happenings();
            world.turn_for(GLANCE);
            quiet = if world.happenings() == before { quiet + 1 } else { 0 };
            quiet == QUIET_TURNS
        });
    }

    /// Writes to a peer all of it, while the loop turns.
    pub fn write(&mut self, peer: &mut impl Write, bytes: &[u8]) {
        let mut written = 0;
        self.turn_while_not("a peer has written", |_| {
            match peer.write(&bytes[written..]) {
                Ok(len) => written += len,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            written == bytes.len()
        });
    }

    /// Reads so many bytes from a peer, while the loop turns.
    pub fn read(&mut self, peer: &mut impl Read, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        self.turn_while_not("a peer has read", |_| {
            match peer.read(&mut bytes[filled..]) {
                Ok(0) => panic!("the stream ended after {filled} of {len} bytes"),
                Ok(more) => filled += more,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            filled == len
        });
        bytes
    }

    /// Reads from a peer until its stream ends, while the loop turns: what came, and how it ended.
    pub fn read_to_end(&mut self, peer: &mut impl Read) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let mut ended = None;
        let mut space = vec![0; 64 * 1024];
        self.turn_while_not("a peer sees the end of its stream", |_| {
            ended = match peer.read(&mut space) {
                Ok(0) => Some(Ok(())),
                Ok(len) => {
                    bytes.extend_from_slice(&space[..len]);
                    None
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => Some(Err(error)),
            };
            ended.is_some()
        });
        (bytes, ended.expect("the loop ended by it"))
    }

    fn happenings(&self) -> (u64, usize) {
        (self.net.stats().completions, self.app.count(|entry| *entry != Entry::Loop))
    }

    /// How a test's failure describes the world.
    pub fn describe(&self) -> String {
        let mut story = format!("{:?}", self.app.story());
        let whole = story.len();
        story.truncate(STORY_LEN_MAX);
        format!("{story} ({whole} bytes); {:?}", self.net.stats())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        for handle in self.app.known() {
            // Most of them are closed already.
            self.net.abort(handle).ok();
        }
        self.turn_until("all sockets are gone", |world| world.net.stats().sockets == 0);
        let stats = self.net.stats();
        assert_eq!(stats.buffers_lent, 0, "a buffer was not given back: {stats:?}");
        let buffers = stats.buffers_free + stats.buffers_kernel;
        assert_eq!(buffers, self.buffers, "a buffer is lost: {stats:?}");
    }
}

/// Lets a peer's close be a reset.
pub fn reset(peer: TcpStream) {
    let linger = SockRef::from(&peer).set_linger(Some(Duration::ZERO));
    linger.expect("an open socket");
}

/// A socket that is bound and does not listen: clients are refused there, and nobody else can take
/// the port meanwhile.
pub fn silent_socket() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    (socket, address.as_socket().expect("it is numeric"))
}

/// A Unix-domain peer.
pub fn unix_peer(path: &std::path::Path) -> UnixStream {
    let peer = UnixStream::connect(path).expect("the kernel completes connections");
    peer.set_nonblocking(true).expect("an open socket");
    peer
}

/// More than that tells less.
const STORY_LEN_MAX: usize = 2000;

/// Turns without any completion after which the rest is silence.
const QUIET_TURNS: u32 = 5;
