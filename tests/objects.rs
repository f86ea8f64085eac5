//! Connections as objects: told what a callback is told, and nothing after their end.

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use support::{
    Address, BacklogLimits, CloseReason, DEADLINE, Delivery, Event, FrameSpec, Handle, Lane,
    Netlib, Repeat, TimerId, frame, on_every_backend, reset,
};
use uring_netlib::conn::{Connection, Context};
use uring_netlib::pdu::{Header, Pdu, encode_bytes};

/// The application: what its connections wrote down.
#[derive(Default)]
struct App {
    log: Vec<String>,
    handles: Vec<Handle>,
}

/// Writes down what it is told, and does what the PDU's first body byte says.
struct Player {
    name: &'static str,
    pdus: u32,
    alive: Rc<Cell<i32>>,
}

impl Player {
    fn new(name: &'static str, alive: &Rc<Cell<i32>>) -> Box<Self> {
        alive.set(alive.get() + 1);
        Box::new(Self { name, pdus: 0, alive: Rc::clone(alive) })
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

impl Connection<App> for Player {
    fn on_connect(&mut self, app: &mut App, context: &mut Context<'_, App>) {
        app.log.push(format!("{} connect", self.name));
        app.handles.push(context.handle());
    }

    fn on_confirm(&mut self, app: &mut App, _: &mut Context<'_, App>) {
        app.log.push(format!("{} confirm", self.name));
    }

    fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
        self.pdus += 1;
        app.log.push(format!("{} pdu {}", self.name, self.pdus));
        match pdu.body().first() {
            Some(b'e') => drop(context.send(pdu.frame()).unwrap()),
            Some(b'r') => drop(context.reply(&pdu, 9, &7u32).unwrap()),
            Some(b'c') => context.close(),
            Some(b'a') => context.abort(),
            Some(b'p') => panic!("as it was asked to"),
            Some(b'n') => context.replace(Self::new("next", &self.alive)),
            Some(b't') => {
                context.set_timer(Duration::from_millis(5), Repeat::Forever);
                let deleted = context.set_timer(Duration::from_millis(1), Repeat::Once);
                context.net().delete_timer(deleted).unwrap();
            }
            // Closes the first connection, whichever it is.
            Some(b'x') => drop(context.net().close(app.handles[0])),
            Some(b'o') => {
                let other = context.net().object::<Self>(app.handles[0]);
                app.log.push(format!("first has {:?}", other.map(|other| other.pdus)));
            }
            _ => {}
        }
    }

    fn on_write_complete(&mut self, app: &mut App, _: &mut Context<'_, App>) {
        app.log.push(format!("{} complete", self.name));
    }

    fn on_writable(&mut self, app: &mut App, _: &mut Context<'_, App>) {
        app.log.push(format!("{} writable", self.name));
    }

    fn on_timer(&mut self, app: &mut App, _: &mut Context<'_, App>, _: TimerId) {
        app.log.push(format!("{} timer", self.name));
    }

    fn on_close(&mut self, app: &mut App, _: &mut Context<'_, App>, reason: CloseReason) {
        app.log.push(format!("{} close {reason:?}", self.name));
    }
}

/// A server whose connections are players, with a count of those that live.
struct Game {
    net: Netlib<App>,
    app: App,
    address: SocketAddr,
    alive: Rc<Cell<i32>>,
}

impl Game {
    fn new(lane: &Lane) -> Self {
        let limits = BacklogLimits { low: 10, high: 100, max: 1 << 20 };
        let mut net = lane.options().backlog(limits).build::<App>().unwrap();
        let alive = Rc::new(Cell::new(0));
        let shared = Rc::clone(&alive);
        let factory = move |app: &mut App, _| -> Box<dyn Connection<App>> {
            assert!(app.log.len() < 1000, "the factory panics on demand");
            Player::new("player", &shared)
        };
        let listener = net.listen_objects("127.0.0.1:0", factory).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("a numeric address");
        };
        Self { net, app: App::default(), address, alive }
    }

    fn peer(&mut self) -> TcpStream {
        let before = self.app.handles.len();
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        self.until("a player", |game| game.app.handles.len() > before);
        peer
    }

    fn until(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_true(self) {
            assert!(Instant::now() < end, "no {what}: {:?}", self.app.log);
            self.net.turn(&mut self.app, Duration::from_millis(1)).unwrap();
        }
    }

    fn until_logged(&mut self, entry: &str) {
        self.until(entry, |game| game.app.log.iter().any(|one| one == entry));
    }

    /// Turns for long enough that whatever is to come has come.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.net.turn(&mut self.app, Duration::from_millis(1)).unwrap();
        }
    }
}

/// A PDU whose body says what is to be done.
fn order(what: u8) -> Vec<u8> {
    frame(20, what)
}

/// An object is told of its connection's whole life, keeps its own state, and is dropped with it.
#[test]
fn an_object_lives_as_long_as_its_connection() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let mut peer = game.peer();
        peer.write_all(&[order(b'e'), order(b'e')].concat()).unwrap();
        game.until_logged("player complete");
        peer.read_exact(&mut [0; 40]).unwrap();
        assert_eq!(game.alive.get(), 1);
        drop(peer);
        game.until("no player", |game| game.alive.get() == 0);
        let life = ["connect", "pdu 1", "pdu 2", "complete", "close PeerClosed"];
        assert_eq!(game.app.log, life.map(|entry| format!("player {entry}")));
    });
}

/// A reply has the request's service id and sequence number.
#[test]
fn a_reply_keeps_the_sequence_number() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let mut peer = game.peer();
        let mut request = order(b'r');
        request[8..14].copy_from_slice(&[0, 3, 0, 5, 0x12, 0x34]);
        peer.write_all(&request).unwrap();
        game.until_logged("player complete");
        let mut answer = [0; 18];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(Header::parse(&answer), Some(Header::new(3, 9).with_seq(0x1234)));
    });
}

/// After its own close or abort an object is told nothing, and is dropped at once; so is another
/// connection's that it closes.
#[test]
fn a_closed_object_is_told_nothing_and_dropped() {
    on_every_backend(|lane| {
        for end in [b'c', b'a'] {
            let mut game = Game::new(lane);
            let mut peer = game.peer();
            peer.write_all(&[order(end), order(b'e')].concat()).unwrap();
            game.until("no player", |game| game.alive.get() == 0);
            game.settle();
            assert_eq!(game.app.log, ["player connect", "player pdu 1"]);
        }
        let mut game = Game::new(lane);
        let (_first, mut second) = (game.peer(), game.peer());
        second.write_all(&order(b'x')).unwrap();
        game.until("one player", |game| game.alive.get() == 1);
        game.settle();
        assert!(!game.app.log.iter().any(|entry| entry.contains("close")));
    });
}

/// An object puts another in its place, which gets the very next PDU.
#[test]
fn an_object_replaces_itself() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let mut peer = game.peer();
        peer.write_all(&[order(b'n'), order(b' ')].concat()).unwrap();
        game.until_logged("next pdu 1");
        assert_eq!(game.alive.get(), 1, "the first is dropped");
        reset(peer);
        game.until_logged("next close Reset");
    });
}

/// Objects of other connections are reached by their handles, and by their type.
#[test]
fn objects_reach_each_other() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let (mut first, mut second) = (game.peer(), game.peer());
        first.write_all(&order(b' ')).unwrap();
        game.until_logged("player pdu 1");
        second.write_all(&order(b'o')).unwrap();
        game.until_logged("first has Some(1)");
        // While one of its own methods runs it is not there.
        first.write_all(&order(b'o')).unwrap();
        game.until_logged("first has None");
        assert!(game.net.object::<Stranger>(game.app.handles[0]).is_none(), "another type");
    });
}

struct Stranger;

impl Connection<App> for Stranger {}

/// A panic closes that connection, which is told why; the others and the loop go on.
#[test]
fn a_panic_closes_its_connection_only() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let (mut good, mut bad) = (game.peer(), game.peer());
        bad.write_all(&[order(b'p'), order(b'e')].concat()).unwrap();
        game.until_logged("player close Panicked");
        bad.set_nonblocking(true).unwrap();
        game.until("reset", |_| {
            bad.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        });
        good.write_all(&order(b'e')).unwrap();
        game.until_logged("player complete");
        game.until("one player", |game| game.alive.get() == 1);
        assert_eq!(game.net.stats().panics, 1);
        let closes = game.app.log.iter().filter(|entry| entry.contains("close")).count();
        assert_eq!(closes, 1, "{:?}", game.app.log);
    });
}

/// A factory that panics costs the one client.
#[test]
fn a_panicking_factory_costs_one_client() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        game.app.log = vec![String::new(); 1000];
        let mut unlucky = TcpStream::connect(game.address).unwrap();
        game.until("a panic", |game| game.net.stats().panics == 1);
        assert!(unlucky.read(&mut [0; 1]).is_err());
        game.app.log.clear();
        let mut peer = game.peer();
        peer.write_all(&order(b'e')).unwrap();
        game.until_logged("player complete");
    });
}

/// A callback that panics closes its connection as well, and a timer that does goes on.
#[test]
fn a_panic_in_a_callback_is_contained() {
    fn on_event(app: &mut App, _: &mut Netlib<App>, _: Handle, event: Event<'_>) {
        match event {
            Event::Close(reason) => app.log.push(format!("close {reason:?}")),
            Event::Timer { .. } => {
                app.log.push("timer".to_owned());
                panic!("as timers may");
            }
            Event::Pdu(_) => panic!("as callbacks may"),
            _ => {}
        }
    }
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let listener = game.net.listen("127.0.0.1:0", on_event, 0).unwrap();
        let Address::Ip(address) = game.net.option(listener).unwrap().local_address().unwrap()
        else {
            panic!("a numeric address");
        };
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(&order(b' ')).unwrap();
        game.until_logged("close Panicked");
        game.net.register_timer(Duration::from_millis(1), Repeat::Forever, on_event, 0);
        game.until("three timers", |game| {
            game.app.log.iter().filter(|entry| *entry == "timer").count() == 3
        });
        assert_eq!(game.net.stats().panics, 4);
    });
}

/// A connection's timers are told to it, and go with it.
#[test]
fn timers_go_with_their_connection() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let mut peer = game.peer();
        peer.write_all(&order(b't')).unwrap();
        game.until("two beats", |game| {
            game.app.log.iter().filter(|entry| *entry == "player timer").count() == 2
        });
        reset(peer);
        game.until_logged("player close Reset");
        let told = game.app.log.len();
        let end = Instant::now() + Duration::from_millis(20);
        game.until("time", |_| Instant::now() > end);
        assert_eq!(game.app.log.len(), told, "{:?}", game.app.log);
        assert!(format!("{:?}", game.net).contains("timers: 0"), "{:?}", game.net);
    });
}

/// A connecting object is told how it went, exactly once.
#[test]
fn a_connecting_object_is_told_how_it_went() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let alive = Rc::clone(&game.alive);
        let client = game.net.connect_object(game.address, Player::new("client", &alive)).unwrap();
        game.until_logged("client confirm");
        let header = Header::new(1, 1);
        game.net
            .option(client)
            .unwrap()
            .set_delivery(Delivery::Pdu(FrameSpec::teamtalk()))
            .unwrap();
        game.net.send_pdu(client, header, &0u32).unwrap();
        game.until_logged("player pdu 1");
        game.net.close(client).unwrap();
        game.until("none", |game| game.alive.get() == 0);
        let lost = game.net.connect_object("127.0.0.1:1", Player::new("lost", &alive));
        lost.unwrap();
        game.until_logged("lost close Refused");
        assert_eq!(game.alive.get(), 0);
        assert!(!game.app.log.contains(&"lost confirm".to_owned()));
    });
}

/// Marks are told to objects: writable below the low mark, complete when all has left.
#[test]
fn marks_are_told_to_objects() {
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let mut peer = game.peer();
        peer.write_all(&order(b'e').repeat(50)).unwrap();
        game.until_logged("player writable");
        assert!(game.app.log.contains(&"player complete".to_owned()));
        peer.read_exact(&mut [0; 1000]).unwrap();
    });
}

/// What an object does when it is dropped is user code as well: its panic is contained.
#[test]
fn a_panic_in_a_drop_is_contained() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("as it was made to");
        }
    }
    impl Connection<App> for Bomb {
        fn on_pdu(&mut self, _: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
            match pdu.body() {
                b"close" => context.close(),
                b"replace" => context.replace(Box::new(Self)),
                _ => {}
            }
        }
    }
    on_every_backend(|lane| {
        let mut net = lane.options().build::<App>().unwrap();
        let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Bomb)).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("a numeric address");
        };
        let mut app = App::default();
        for (count, body) in (1..).zip([&b"close"[..], b"replace", b"bye"]) {
            let mut peer = TcpStream::connect(address).unwrap();
            let mut bytes = Vec::new();
            encode_bytes(&Header::new(7, 1), body, 1000, &mut bytes).unwrap();
            peer.write_all(&bytes).unwrap();
            while net.stats().pdus_in < count {
                net.turn(&mut app, DEADLINE).unwrap();
            }
            drop(peer);
            while net.stats().sockets > 1 {
                net.turn(&mut app, DEADLINE).unwrap();
            }
        }
        assert_eq!(net.stats().panics, 4, "one of each connection, and the one that was replaced");
    });
}

/// The object's timers go when a callback takes its place, and nothing is told of a connection
/// that was closed in between.
#[test]
fn a_callback_in_an_objects_place_hears_nothing_late() {
    struct Writer;
    impl Connection<App> for Writer {
        fn on_connect(&mut self, _: &mut App, context: &mut Context<'_, App>) {
            context.set_timer(Duration::from_millis(1), Repeat::Forever);
            context.send(&[0; 70_000]).unwrap();
        }

        fn on_write_complete(&mut self, app: &mut App, context: &mut Context<'_, App>) {
            let handle = context.handle();
            context.net().option(handle).unwrap().set_callback(|app, _, _, event| {
                app.log.push(format!("{event:?}"));
            });
            assert_eq!(context.net().stats().timers, 1, "its deadline, and no timer of its own");
            context.net().close(handle).unwrap();
            app.log.push("closed".to_owned());
        }
    }
    on_every_backend(|lane| {
        let mut net = lane.options().build::<App>().unwrap();
        let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Writer)).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("a numeric address");
        };
        let mut app = App::default();
        let peer = TcpStream::connect(address).unwrap();
        while app.log.is_empty() {
            net.turn(&mut app, DEADLINE).unwrap();
        }
        drop(peer);
        while net.stats().sockets > 1 {
            net.turn(&mut app, DEADLINE).unwrap();
        }
        assert_eq!(app.log, ["closed"]);
        assert_eq!(net.stats().panics, 0);
    });
}

/// A message that does not encode to what it says leaves nothing behind on the connection it was
/// meant for.
#[test]
fn half_a_message_is_not_sent() {
    #[derive(Debug, Default)]
    struct Liar;
    impl prost::Message for Liar {
        fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
            buffer.put_slice(&[1, 2, 3]);
        }
        fn encoded_len(&self) -> usize {
            10
        }
        fn merge_field(
            &mut self,
            _: u32,
            _: prost::encoding::WireType,
            _: &mut impl prost::bytes::Buf,
            _: prost::encoding::DecodeContext,
        ) -> Result<(), prost::DecodeError> {
            Ok(())
        }
        fn clear(&mut self) {}
    }
    on_every_backend(|lane| {
        let mut game = Game::new(lane);
        let mut peer = game.peer();
        let handle = game.app.handles[0];
        let lied = catch_unwind(AssertUnwindSafe(|| {
            let _ = game.net.send_pdu(handle, Header::new(7, 1), &Liar);
        }));
        assert!(lied.is_err());
        game.net.send_pdu(handle, Header::new(7, 2), &()).unwrap();
        game.settle();
        let mut bytes = [0; 16];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(Header::parse(&bytes), Some(Header::new(7, 2)));
    });
}
