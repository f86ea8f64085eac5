//! A connection that takes any bytes: PDUs reach the handlers that their ids and bodies name,
//! errors are counted up to the budget and close, and nothing of a connection is left behind.
//!
//! Through the whole library, on epoll and on io_uring where it works. The bytes are a choice of
//! both and of the budget, the size of the pieces, and what the peer sends.

#![no_main]

use std::cell::RefCell;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use libfuzzer_sys::fuzz_target;
use prost::Message;
use socket2::SockRef;
use uring_netlib::conn::{Connection, Context, DispatchError, Dispatcher};
use uring_netlib::pdu::{FrameSpec, Header, Pdu};
use uring_netlib::{Address, Backend, CloseReason, Delivery, Netlib, Options};

thread_local! {
    /// Made once: what one input leaves behind, the next one stumbles over.
    static WORLDS: RefCell<Vec<World>> = RefCell::new(worlds());
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, size, stream @ ..] = bytes else { return };
    WORLDS.with_borrow_mut(|worlds| {
        let world = usize::from(*choice) % worlds.len();
        worlds[world].run(u32::from(*choice >> 1) % 8, usize::from(*size).max(1), stream);
    });
});

/// What a connection did; all that handlers write down.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Tree(Header, Tree),
    Number(Header, u64),
    Unknown(Header, bool),
    Undecodable(Header, bool),
    Close(Ending),
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Peer,
    Truncated(usize),
    BadFrame,
    Other,
}

/// A message that contains itself, and others of every kind.
#[derive(Clone, PartialEq, Eq, Message)]
struct Tree {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    branches: Vec<Tree>,
    #[prost(sint64, repeated, tag = "3")]
    numbers: Vec<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    leaf: Option<Vec<u8>>,
    #[prost(map = "uint32, string", tag = "5")]
    names: std::collections::HashMap<u32, String>,
}

struct App {
    tables: Vec<Rc<Dispatcher<Player, Self>>>,
    table: usize,
    log: Vec<Entry>,
}

struct Player;

impl Connection<App> for Player {
    fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
        Rc::clone(&app.tables[app.table]).dispatch(self, app, context, &pdu);
    }

    fn on_close(&mut self, app: &mut App, _: &mut Context<'_, App>, reason: CloseReason) {
        app.log.push(Entry::Close(match reason {
            CloseReason::PeerClosed => Ending::Peer,
            CloseReason::Truncated { received } => Ending::Truncated(received),
            CloseReason::BadFrame(_) => Ending::BadFrame,
            _ => Ending::Other,
        }));
    }
}

impl Player {
    fn on_tree(
        &mut self,
        app: &mut App,
        context: &mut Context<'_, App>,
        pdu: &Pdu<'_>,
        tree: Tree,
    ) {
        context.reply(pdu, 2, &0_u32).expect("an answer is no longer than its question");
        app.log.push(Entry::Tree(pdu.header().expect("it was found by it"), tree));
    }

    fn on_number(&mut self, app: &mut App, _: &mut Context<'_, App>, pdu: &Pdu<'_>, number: u64) {
        app.log.push(Entry::Number(pdu.header().expect("it was found by it"), number));
    }

    fn on_error(
        &mut self,
        app: &mut App,
        _: &mut Context<'_, App>,
        error: &DispatchError,
        is_over: bool,
    ) {
        app.log.push(match error {
            DispatchError::Unknown(header) => Entry::Unknown(*header, is_over),
            DispatchError::Undecodable(header, _) => Entry::Undecodable(*header, is_over),
            _ => unreachable!("the framing has a header: {error}"),
        });
    }
}

struct World {
    net: Netlib<App>,
    app: App,
    path: PathBuf,
}

fn worlds() -> Vec<World> {
    let worlds = [Backend::Epoll, Backend::Uring].into_iter().filter_map(World::new);
    let worlds: Vec<_> = worlds.collect();
    assert!(!worlds.is_empty(), "epoll works everywhere");
    worlds
}

impl World {
    fn new(backend: Backend) -> Option<Self> {
        let spec = FrameSpec::teamtalk().with_max(LONGEST);
        let options = Options::new().backend(backend).delivery(Delivery::Pdu(spec)).pool(8, 4096);
        let mut net = options.build().ok()?;
        let path = env::temp_dir().join(format!("netlib-fuzz-{}-{backend}", process::id()));
        fs::remove_file(&path).ok();
        let address = Address::Path(path.clone());
        net.listen_objects(&address, |_, _| Box::new(Player)).expect("a new path");
        let table = |errors| {
            let table = Dispatcher::new().on(TREE.0, TREE.1, Player::on_tree);
            let table = table.on(NUMBER.0, NUMBER.1, Player::on_number);
            Rc::new(table.on_error(Player::on_error).errors_max(errors))
        };
        let app = App { tables: (0..8).map(table).collect(), table: 0, log: Vec::new() };
        Some(Self { net, app, path })
    }

    fn run(&mut self, errors_max: u32, piece_len: usize, stream: &[u8]) {
        self.app.table = errors_max as usize;
        self.app.log.clear();
        let before = self.net.stats();
        let mut peer = UnixStream::connect(&self.path).expect("the listener is there");
        peer.set_nonblocking(true).expect("a socket");
        // A cut connection refuses the rest, which is then not sent.
        for piece in stream.chunks(piece_len.max(stream.len() / PIECES_MAX)) {
            SockRef::from(&peer).send_with_flags(piece, libc::MSG_NOSIGNAL).ok();
            self.net.turn(&mut self.app, Duration::ZERO).expect("a turn");
        }
        peer.shutdown(Shutdown::Write).ok();
        let end = Instant::now() + PATIENCE;
        while self.net.stats().accepted == before.accepted || self.net.stats().sockets > 1 {
            assert!(Instant::now() < end, "a connection ends: {:?}", self.app.log);
            self.net.turn(&mut self.app, Duration::from_millis(1)).expect("a turn");
        }
        let (expected, replies) = expected(stream, errors_max);
        assert_eq!(self.app.log, expected);
        let errors = expected.iter().filter(|entry| is_error(entry)).count();
        assert_eq!(self.net.stats().dispatch_errors - before.dispatch_errors, errors as u64);
        let answered = answers(&mut peer);
        let is_cut = matches!(expected.last(), Some(Entry::Close(Ending::BadFrame)));
        assert!(answered == replies || is_cut && answered <= replies, "{answered} of {replies}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

fn is_error(entry: &Entry) -> bool {
    matches!(entry, Entry::Unknown(..) | Entry::Undecodable(..))
}

/// How many answers there are in what has come back; a half of one is none.
fn answers(peer: &mut UnixStream) -> usize {
    let mut received = Vec::new();
    if let Err(error) = peer.read_to_end(&mut received) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "all is there");
    }
    received.len() / 16
}

/// What a plain reading of the whole stream comes to, and how many of its PDUs are answered.
fn expected(stream: &[u8], errors_max: u32) -> (Vec<Entry>, usize) {
    let (mut log, mut replies, mut errors, mut rest) = (Vec::new(), 0, 0, stream);
    while let Some((len, _)) = rest.split_first_chunk() {
        let len = u32::from_be_bytes(*len);
        if !(16..=LONGEST).contains(&len) {
            log.push(Entry::Close(Ending::BadFrame));
            return (log, replies);
        }
        let Some((frame, behind)) = rest.split_at_checked(len as usize) else { break };
        rest = behind;
        let header = Header::parse(frame).expect("it is whole");
        let entry = match (header.service_id, header.command_id) {
            TREE => Tree::decode(&frame[16..]).map(|tree| Entry::Tree(header, tree)).ok(),
            NUMBER => u64::decode(&frame[16..]).map(|number| Entry::Number(header, number)).ok(),
            _ => None,
        };
        let is_known = [TREE, NUMBER].contains(&(header.service_id, header.command_id));
        errors += u32::from(entry.is_none());
        let is_over = entry.is_none() && errors >= errors_max;
        replies += usize::from(matches!(entry, Some(Entry::Tree(..))));
        log.push(match entry {
            Some(entry) => entry,
            None if is_known => Entry::Undecodable(header, is_over),
            None => Entry::Unknown(header, is_over),
        });
        if is_over {
            // The application's own close, after which it is told nothing.
            return (log, replies);
        }
    }
    let ending = match rest.len() {
        0 => Ending::Peer,
        left => Ending::Truncated(left),
    };
    log.push(Entry::Close(ending));
    (log, replies)
}

const TREE: (u16, u16) = (1, 1);
const NUMBER: (u16, u16) = (1, 3);

const LONGEST: u32 = 2048;

/// Turns that one input may take; more would be slow and would not be more.
const PIECES_MAX: usize = 64;

const PATIENCE: Duration = Duration::from_secs(10);
