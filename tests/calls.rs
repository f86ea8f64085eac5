//! Calls: each one that was accepted is answered once, by its reply or by the reason for none.

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use support::{
    BacklogLimits, CloseReason, DEADLINE, Delivery, Event, FrameSpec, Handle, Lane, Netlib,
    Options, SendError, on_every_backend, reset,
};
use uring_netlib::ManualClock;
use uring_netlib::conn::{Answer, Call, CallRefused, Connection, Context};
use uring_netlib::pdu::{HEADER_LEN, Header, Pdu};

const SERVICE: u16 = 3;
const REQUEST: u16 = 0x0301;
const REPLY: u16 = 0x0302;
const CALL: Call = Call::new(Header::new(SERVICE, REQUEST), REPLY);
const LIMIT: Duration = Duration::from_secs(5);

/// The application: what was told, in order.
#[derive(Default)]
struct App {
    log: Vec<String>,
}

/// The object that calls; its name shows who is told.
struct Client {
    name: &'static str,
}

impl Connection<App> for Client {
    fn on_confirm(&mut self, app: &mut App, context: &mut Context<'_, App>) {
        app.log.push("confirm".to_owned());
        if self.name == "eager" {
            context.call(CALL, &(), LIMIT, tell("eager")).unwrap();
        }
    }

    fn on_pdu(&mut self, app: &mut App, _: &mut Context<'_, App>, pdu: Pdu<'_>) {
        let header = pdu.header().unwrap();
        app.log.push(format!("{} pdu {}", self.name, header.seq));
    }

    fn on_close(&mut self, app: &mut App, context: &mut Context<'_, App>, reason: CloseReason) {
        app.log.push(format!("{} close {reason:?}", self.name));
        let late = context.call(CALL, &(), LIMIT, tell("late"));
        assert_eq!(late, Err(CallRefused::Send(SendError::NotConnected)));
    }
}

struct Stranger;

impl Connection<App> for Stranger {
    fn on_pdu(&mut self, app: &mut App, _: &mut Context<'_, App>, _: Pdu<'_>) {
        app.log.push("stranger pdu".to_owned());
    }
}

/// A handler that writes down who was told what.
fn tell(
    call: &'static str,
) -> impl FnOnce(&mut Client, &mut App, &mut Context<'_, App>, Answer<'_>) + 'static {
    move |client, app, _, answer| app.log.push(line(client, call, answer))
}

fn line(client: &Client, call: &str, answer: Answer<'_>) -> String {
    match answer {
        Ok(pdu) => format!("{} {call} reply {}", client.name, pdu.body()[0]),
        Err(error) => format!("{} {call} {error:?}", client.name),
    }
}

/// A `Netlib` whose time stands still, with one connected client and the peer that it calls.
struct Pair {
    net: Netlib<App>,
    app: App,
    clock: ManualClock,
    client: Handle,
    peer: TcpStream,
}

impl Pair {
    fn new(lane: &Lane) -> Self {
        Self::with(lane.options(), "client")
    }

    fn with(options: Options, name: &'static str) -> Self {
        let clock = ManualClock::new();
        let mut net = options.clock(&clock).build().unwrap();
        let mut app = App::default();
        let (client, peer) = connect(&mut net, &mut app, name);
        Self { net, app, clock, client, peer }
    }

    fn ask(
        &mut self,
        handler: impl FnOnce(&mut Client, &mut App, &mut Context<'_, App>, Answer<'_>) + 'static,
    ) {
        self.net.call(self.client, CALL, &(), LIMIT, handler).unwrap();
    }

    fn call(&mut self, name: &'static str) -> Result<(), CallRefused> {
        self.net.call(self.client, CALL, &(), LIMIT, tell(name)).map(drop)
    }

    fn until(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_true(self) {
            assert!(Instant::now() < end, "no {what}: {:?}", self.app.log);
            self.net.turn(&mut self.app, Duration::from_millis(1)).unwrap();
        }
    }

    fn until_told(&mut self, lines: usize) {
        self.until("answer", |pair| pair.app.log.len() >= lines);
    }

    /// Turns for long enough that whatever is to come has come.
    fn settle(&mut self) {
        for _ in 0..10 {
            self.net.turn(&mut self.app, Duration::from_millis(1)).unwrap();
        }
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.settle();
    }

    /// The headers of the next requests that the peer reads.
    fn requests(&mut self, count: usize) -> Vec<Header> {
        let mut bytes = vec![0; count * HEADER_LEN];
        let mut filled = 0;
        self.until("request", |pair| {
            match pair.peer.read(&mut bytes[filled..]) {
                Ok(len) => filled += len,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            filled == bytes.len()
        });
        bytes.chunks(HEADER_LEN).map(|chunk| Header::parse(chunk).unwrap()).collect()
    }

    /// Lets the peer send PDUs with a body of one byte, all in one piece.
    fn send(&mut self, pdus: &[(Header, u8)]) {
        let mut bytes = Vec::new();
        for (header, body) in pdus {
            uring_netlib::pdu::encode_bytes(header, &[*body], 1024, &mut bytes).unwrap();
        }
        self.peer.write_all(&bytes).unwrap();
    }

    fn reply(&mut self, seqs: &[u16]) {
        let replies: Vec<_> = seqs.iter().map(|seq| (reply_to(*seq), 0)).collect();
        self.send(&replies);
    }
}

/// A client that is connected, and the peer that it calls.
fn connect(net: &mut Netlib<App>, app: &mut App, name: &'static str) -> (Handle, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let client = net.connect_object(address, Box::new(Client { name })).unwrap();
    let end = Instant::now() + DEADLINE;
    while app.log != ["confirm"] {
        assert!(Instant::now() < end, "no connection: {:?}", app.log);
        net.turn(app, Duration::from_millis(1)).unwrap();
    }
    app.log.clear();
    let (peer, _) = server.accept().unwrap();
    peer.set_nonblocking(true).unwrap();
    (client, peer)
}

fn reply_to(seq: u16) -> Header {
    Header::new(SERVICE, REPLY).with_seq(seq)
}

/// Replies reach the calls that they answer, in any order, and `on_pdu` sees none of them.
#[test]
fn replies_find_their_calls_in_any_order() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        for name in ["a", "b", "c"] {
            pair.call(name).unwrap();
        }
        let requests = pair.requests(3);
        let expected = [1, 2, 3].map(|seq| Header::new(SERVICE, REQUEST).with_seq(seq));
        assert_eq!(requests, expected);
        pair.send(&[(reply_to(3), 30), (reply_to(1), 10), (reply_to(2), 20)]);
        pair.until_told(3);
        pair.pass(LIMIT * 2);
        assert_eq!(pair.app.log, ["client c reply 30", "client a reply 10", "client b reply 20"]);
    });
}

/// A PDU with the call's number is its reply only if the ids are the reply's.
#[test]
fn a_request_with_the_same_number_is_no_reply() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.call("a").unwrap();
        pair.requests(1);
        let other_command = Header::new(SERVICE, REQUEST).with_seq(1);
        let other_service = Header::new(SERVICE + 1, REPLY).with_seq(1);
        pair.send(&[(other_command, 0), (other_service, 0), (reply_to(2), 0), (reply_to(1), 7)]);
        pair.until_told(4);
        let told = ["client pdu 1", "client pdu 1", "client pdu 2", "client a reply 7"];
        assert_eq!(pair.app.log, told);
    });
}

/// A call times out once, and not before its time.
#[test]
fn a_call_times_out_once_and_never_early() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.call("a").unwrap();
        pair.pass(LIMIT - Duration::from_millis(1));
        assert!(pair.app.log.is_empty(), "{:?}", pair.app.log);
        pair.pass(Duration::from_millis(1));
        pair.pass(LIMIT * 2);
        assert_eq!(pair.app.log, ["client a TimedOut"]);
    });
}

/// A reply that comes after the time-out is a PDU like any other, also when further calls wait.
#[test]
fn a_late_reply_is_a_pdu() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.call("a").unwrap();
        pair.requests(1);
        pair.pass(LIMIT);
        pair.call("b").unwrap();
        pair.reply(&[1]);
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client a TimedOut", "client pdu 1"]);
    });
}

/// While receiving is paused time goes on; the reply that was held is late then.
#[test]
fn a_pause_does_not_stop_the_time() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.call("a").unwrap();
        pair.requests(1);
        pair.net.pause_receive(pair.client).unwrap();
        pair.reply(&[1]);
        pair.pass(LIMIT);
        pair.net.resume_receive(pair.client).unwrap();
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client a TimedOut", "client pdu 1"]);
    });
}

/// C1: a handler is called from the loop, also when there is no time at all to wait.
#[test]
fn no_handler_is_called_inside_the_call() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.net.call(pair.client, CALL, &(), Duration::ZERO, tell("a")).unwrap();
        pair.settle();
        assert!(pair.app.log.is_empty(), "{:?}", pair.app.log);
        pair.pass(Duration::from_millis(1));
        assert_eq!(pair.app.log, ["client a TimedOut"]);
    });
}

/// When the connection ends, each call is told so, the oldest first, and then the object.
#[test]
fn the_end_answers_all_calls_before_on_close() {
    on_every_backend(|lane| {
        for (end, reason) in [(drop as fn(TcpStream), "PeerClosed"), (reset, "Reset")] {
            let mut pair = Pair::new(lane);
            for name in ["a", "b", "c"] {
                pair.call(name).unwrap();
            }
            pair.requests(3);
            pair.reply(&[2]);
            pair.until_told(1);
            end(std::mem::replace(&mut pair.peer, unused()));
            pair.until_told(4);
            pair.pass(LIMIT * 2);
            let end =
                ["a Closed(?)", "c Closed(?)", "close ?"].map(|line| line.replace('?', reason));
            assert_eq!(pair.app.log[0], "client b reply 0");
            assert_eq!(pair.app.log[1..], end.map(|line| format!("client {line}")));
        }
    });
}

/// A handler that closes a connection that has ended changes nothing: all others are told.
#[test]
fn closing_at_the_end_changes_nothing() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.ask(|_, _, context, _| context.close());
        pair.call("b").unwrap();
        pair.requests(2);
        pair.peer = unused();
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client b Closed(PeerClosed)", "client close PeerClosed"]);
    });
}

/// What arrived before the end is delivered before it, so a reply in front of it counts.
#[test]
fn a_reply_before_the_end_counts() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.call("a").unwrap();
        pair.requests(1);
        pair.reply(&[1]);
        pair.peer = unused();
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client a reply 0", "client close PeerClosed"]);
    });
}

/// C2: after the application's own close or abort no handler is called; all are dropped at once.
#[test]
fn an_own_close_drops_the_handlers() {
    on_every_backend(|lane| {
        for abort in [false, true] {
            let mut pair = Pair::new(lane);
            let captured = Rc::new(());
            for _ in 0..3 {
                let captured = Rc::clone(&captured);
                pair.ask(move |_, app, _, _| app.log.push(format!("told {captured:?}")));
            }
            pair.requests(3);
            assert_eq!(Rc::strong_count(&captured), 4);
            pair.reply(&[1]);
            let end = if abort { Netlib::abort } else { Netlib::close };
            end(&mut pair.net, pair.client).unwrap();
            assert_eq!(Rc::strong_count(&captured), 1, "abort: {abort}");
            pair.pass(LIMIT * 2);
            assert!(pair.app.log.is_empty(), "{:?}", pair.app.log);
        }
    });
}

/// C2: a handler that closes is the last one that is told, also of the replies in one segment.
#[test]
fn a_handler_that_closes_is_told_last() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.ask(|client, app, context, answer| {
            app.log.push(line(client, "a", answer));
            context.close();
        });
        pair.call("b").unwrap();
        pair.requests(2);
        pair.reply(&[1, 2]);
        pair.until_told(1);
        pair.pass(LIMIT * 2);
        assert_eq!(pair.app.log, ["client a reply 0"]);
    });
}

/// A handler may call, and its call is answered like the first.
#[test]
fn a_handler_calls_on() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.ask(|client, app, context, answer| {
            app.log.push(line(client, "a", answer));
            context.call(CALL, &(), LIMIT, tell("b")).unwrap();
        });
        pair.requests(1);
        pair.reply(&[1]);
        assert_eq!(pair.requests(1)[0].seq, 2);
        pair.reply(&[2]);
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client a reply 0", "client b reply 0"]);
    });
}

/// A handler may call on another connection, whose object is then told.
#[test]
fn a_handler_calls_on_another_connection() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        let (other, other_peer) = connect(&mut pair.net, &mut pair.app, "other");
        pair.ask(move |_, _, context, _| {
            context.net().call(other, CALL, &(), LIMIT, tell("b")).unwrap();
        });
        pair.requests(1);
        pair.reply(&[1]);
        let _first_peer = std::mem::replace(&mut pair.peer, other_peer);
        assert_eq!(pair.requests(1)[0].seq, 1, "each connection has numbers of its own");
        pair.reply(&[1]);
        pair.until_told(1);
        assert_eq!(pair.app.log[0], "other b reply 0");
    });
}

/// A call can be the first thing that a new connection does.
#[test]
fn a_call_can_be_made_when_the_connection_opens() {
    on_every_backend(|lane| {
        let mut pair = Pair::with(lane.options(), "eager");
        assert_eq!(pair.requests(1)[0].seq, 1);
        pair.reply(&[1]);
        pair.until_told(1);
        assert_eq!(pair.app.log, ["eager eager reply 0"]);
    });
}

/// A handler that panics costs its connection; the other calls are told, and then the object.
#[test]
fn a_panicking_handler_costs_its_connection() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        for _ in 0..2 {
            pair.ask(|_, _, _, _| panic!("as handlers may"));
        }
        pair.call("c").unwrap();
        pair.requests(3);
        pair.reply(&[1]);
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client c Closed(Panicked)", "client close Panicked"]);
        assert_eq!(pair.net.stats().panics, 2);
    });
}

/// A call outlives its object if another one of the same type takes the place.
#[test]
fn a_call_outlives_a_replacement_of_its_type() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.ask(|client, app, context, answer| {
            app.log.push(line(client, "a", answer));
            context.replace(Box::new(Client { name: "next" }));
        });
        pair.call("b").unwrap();
        pair.requests(2);
        pair.reply(&[1, 2]);
        pair.until_told(2);
        assert_eq!(pair.app.log, ["client a reply 0", "next b reply 0"]);
    });
}

/// An object of another type is not told of calls; their replies are PDUs to it.
#[test]
fn a_stranger_gets_the_reply_as_a_pdu() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.ask(|client, app, context, answer| {
            app.log.push(line(client, "a", answer));
            context.replace(Box::new(Stranger));
        });
        pair.call("b").unwrap();
        pair.call("c").unwrap();
        pair.requests(3);
        pair.reply(&[1, 2]);
        pair.until_told(2);
        pair.pass(LIMIT);
        assert_eq!(pair.app.log, ["client a reply 0", "stranger pdu"]);
    });
}

/// A callback in the object's place gets the replies as PDUs; the handlers are dropped.
#[test]
fn a_callback_gets_the_reply_as_a_pdu() {
    fn on_event(app: &mut App, _: &mut Netlib<App>, _: Handle, event: Event<'_>) {
        if let Event::Pdu(_) = event {
            app.log.push("callback pdu".to_owned());
        }
    }
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        pair.call("a").unwrap();
        pair.requests(1);
        pair.net.option(pair.client).unwrap().set_callback(on_event);
        pair.reply(&[1]);
        pair.until_told(1);
        pair.pass(LIMIT);
        assert_eq!(pair.app.log, ["callback pdu"]);
    });
}

/// No more calls than the limit wait at the same time; an answer makes room.
#[test]
fn calls_that_wait_are_limited() {
    on_every_backend(|lane| {
        let mut pair = Pair::with(lane.options().calls_max(2), "client");
        pair.call("a").unwrap();
        pair.call("b").unwrap();
        assert_eq!(pair.call("c"), Err(CallRefused::TooMany { limit: 2 }));
        pair.requests(2);
        pair.reply(&[1]);
        pair.until_told(1);
        pair.call("d").unwrap();
        assert_eq!(pair.requests(1)[0].seq, 3, "a refused call uses no number up");
        pair.pass(LIMIT);
        assert_eq!(pair.app.log, ["client a reply 0", "client b TimedOut", "client d TimedOut"]);
    });
}

/// A call that cannot be sent is refused: no number is used up, and its handler is not called.
#[test]
fn a_call_that_cannot_be_sent_is_refused() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 10, high: 20, max: 40 };
        let mut pair = Pair::with(lane.options().backlog(limits), "client");
        pair.call("a").unwrap();
        pair.call("b").unwrap();
        let full = SendError::Full { queued: 32, len: 16, limit: 40 };
        assert_eq!(pair.call("c"), Err(CallRefused::Send(full)));
        pair.requests(2);
        pair.settle();
        pair.call("d").unwrap();
        assert_eq!(pair.requests(1)[0].seq, 3);
        pair.net.close(pair.client).unwrap();
        assert_eq!(pair.call("e"), Err(CallRefused::Send(SendError::Stale)));
        pair.pass(LIMIT);
        assert!(pair.app.log.is_empty(), "{:?}", pair.app.log);
    });
}

/// A call is refused where no reply could be known, and where its handler could not be told.
#[test]
fn a_call_that_cannot_be_answered_is_refused() {
    fn on_event(_: &mut App, _: &mut Netlib<App>, _: Handle, _: Event<'_>) {}
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        let client = pair.client;
        for delivery in [Delivery::Push, Delivery::Pull, Delivery::Pdu(FrameSpec::u32_be())] {
            pair.net.option(client).unwrap().set_delivery(delivery).unwrap();
            assert_eq!(pair.call("a"), Err(CallRefused::NoHeader), "{delivery:?}");
        }
        pair.net.option(client).unwrap().set_delivery(Delivery::default()).unwrap();
        let refused = pair.net.call(client, CALL, &(), LIMIT, |_: &mut Stranger, _, _, _| {});
        assert_eq!(refused, Err(CallRefused::NoObject));
        pair.net.option(client).unwrap().set_callback(on_event);
        assert_eq!(pair.call("a"), Err(CallRefused::NoObject));
        assert_eq!(pair.net.stats().sends, 0, "nothing was sent");
    });
}

/// All calls of one turn leave in one send.
#[test]
fn the_calls_of_a_turn_leave_in_one_send() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        for _ in 0..500 {
            pair.call("a").unwrap();
        }
        let requests = pair.requests(500);
        assert!((1..=500).eq(requests.iter().map(|request| request.seq)));
        assert_eq!(pair.net.stats().sends, 1);
    });
}

/// Numbers go round from 65535 to 1, leave 0 out, and pass over the one that is in use.
#[test]
fn numbers_go_round_and_pass_over_those_in_use() {
    on_every_backend(|lane| {
        let mut pair = Pair::new(lane);
        let answered = Rc::new(Cell::new(0));
        pair.call("first").unwrap();
        let mut seqs = vec![pair.requests(1)[0].seq];
        while seqs.len() < 1 + 65_600 {
            let before = answered.get();
            for _ in 0..800 {
                let answered = Rc::clone(&answered);
                pair.ask(move |_, _, _, answer| {
                    answer.unwrap();
                    answered.set(answered.get() + 1);
                });
            }
            let requests: Vec<u16> = pair.requests(800).iter().map(|one| one.seq).collect();
            pair.reply(&requests);
            pair.until("replies", |_| answered.get() == before + 800);
            seqs.extend(requests);
        }
        assert_eq!(seqs[0], 1);
        assert_eq!(seqs.iter().filter(|seq| **seq == 1).count(), 1, "it is in use all the time");
        assert!(!seqs.contains(&0));
        let round = seqs.windows(2).position(|pair| pair[0] > pair[1]).unwrap();
        assert!(seqs[round] > 65_500 && seqs[round + 1] < 10, "{:?}", &seqs[round..round + 2]);
        pair.reply(&[1]);
        pair.until_told(1);
        assert_eq!(pair.app.log, ["client first reply 0"]);
    });
}

/// A peer that nobody talks to, in the place of one that is gone.
fn unused() -> TcpStream {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    TcpStream::connect(server.local_addr().unwrap()).unwrap()
}
