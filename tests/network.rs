//! An echo load over a network that misbehaves, for as many PDUs as are asked for. `ci/network`
//! makes such a network, in a namespace of its own as root; without one these tests would prove
//! little, so they run only when asked for.
//!
//! Every pair of backends: a server in a thread of its own, and clients that connect again
//! whenever their connection ends, some of them with next to no receive buffers. Every word of
//! every answer is checked, and follows from the connection, the number of the PDU and the word's
//! place: what is lost, doubled, out of order or altered is seen.

mod support;

use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::{
    Address, CloseReason, Delivery, Event, FrameSpec, Handle, Lane, Netlib, Options, Repeat, frame,
    lanes,
};
use uring_netlib::Remote;

/// A number that the lane sets, or else this one.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Connections that the network must have reset in a run with resets.
const RESETS: u64 = 10;
const CLIENTS: usize = 32;
const DEPTH: u64 = 64;

/// One of so many answers makes a client abort its connection, where that is asked for; and one of
/// so many PDUs the server.
const ABORTS: u64 = 10_000;

/// A number from which nothing about its neighbours can be told.
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// A PDU as it follows from its connection and its number.
#[derive(Clone, Copy)]
struct Content {
    seed: u64,
}

impl Content {
    const fn new(connection: u64, number: u64) -> Self {
        Self { seed: mix((connection << 32) ^ number) }
    }

    /// Mostly short, some of a few receive buffers, and of any length.
    const fn len(self) -> usize {
        let most = if self.seed.is_multiple_of(64) { 8000 } else { 200 };
        ((self.seed >> 8) % most) as usize
    }

    const fn word(self, index: u64) -> u64 {
        self.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Appends the body.
    fn write(self, pdu: &mut Vec<u8>) {
        let len = self.len();
        for index in 0..len.div_ceil(8) as u64 {
            pdu.extend_from_slice(&self.word(index).to_le_bytes());
        }
        pdu.truncate(pdu.len() - len.next_multiple_of(8) + len);
    }

    fn is(self, body: &[u8]) -> bool {
        let (words, rest) = body.as_chunks::<8>();
        let last = self.word(words.len() as u64).to_le_bytes();
        let mut index = 0;
        let are_same = words.iter().all(|word| {
            index += 1;
            u64::from_le_bytes(*word) == self.word(index - 1)
        });
        body.len() == self.len() && are_same && rest == &last[..rest.len()]
    }
}

/// What one side has counted, and what its clients are at; a server has none.
struct App {
    server: Option<SocketAddr>,
    clients: Vec<Client>,
    /// The PDU in hand; kept for its memory.
    pdu: Vec<u8>,
    pdus: u64,
    opened: u64,
    ended: u64,
    /// Resets that were not this side's wish.
    resets: u64,
    aborts: u64,
    /// The server's aborts, as both sides see them.
    served_aborts: Arc<AtomicU64>,
    /// Whether it aborts connections by itself now and then.
    is_rash: bool,
    is_over: bool,
}

/// One of the clients; its index is the user data of its socket.
#[derive(Default)]
struct Client {
    handle: Option<Handle>,
    /// Names its present connection.
    connection: u64,
    sent: u64,
    answered: u64,
}

impl App {
    fn new(server: Option<SocketAddr>, is_rash: bool, served_aborts: &Arc<AtomicU64>) -> Self {
        Self {
            server,
            served_aborts: Arc::clone(served_aborts),
            clients: Vec::new(),
            pdu: Vec::new(),
            pdus: 0,
            opened: 0,
            ended: 0,
            resets: 0,
            aborts: 0,
            is_rash,
            is_over: false,
        }
    }

    /// Resets of a client's connections that the server has not made; or fewer, where one of its
    /// aborts met another end.
    fn resets_of_the_network(&self) -> u64 {
        self.resets.saturating_sub(self.served_aborts.load(Ordering::Relaxed))
    }

    fn connect(&mut self, net: &mut Netlib<Self>, index: usize) {
        let address = Address::Ip(self.server.expect("a client has a server"));
        let handle = net.connect(address, on_client, index as u64).expect("an attempt");
        let connection = self.clients[index].connection + CLIENTS as u64;
        self.clients[index] = Client { handle: Some(handle), connection, ..Client::default() };
    }

    fn fill(&mut self, net: &mut Netlib<Self>, index: usize) {
        let client = &mut self.clients[index];
        let Some(handle) = client.handle else { return };
        while !self.is_over && client.sent - client.answered < DEPTH {
            let content = Content::new(client.connection, client.sent);
            self.pdu.clear();
            self.pdu.extend_from_slice(&frame(16, 0));
            content.write(&mut self.pdu);
            let len = u32::try_from(self.pdu.len()).expect("a PDU's length");
            self.pdu[..4].copy_from_slice(&len.to_be_bytes());
            if net.send(handle, &self.pdu).is_err() {
                // The connection has ended, and Close will say so.
                return;
            }
            client.sent += 1;
        }
    }

    /// A client's connection is gone; another one is made in a moment. Not from within: a server
    /// that cannot be reached would be asked without end.
    fn retry(&mut self, net: &mut Netlib<Self>, index: usize) {
        self.clients[index].handle = None;
        net.register_timer(Duration::from_millis(2), Repeat::Once, on_retry, index as u64);
    }

    /// Whether every client has all its answers, or no connection.
    fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| client.handle.is_none() || client.sent == client.answered)
    }

    fn is_to_abort(&self) -> bool {
        self.is_rash && !self.is_over && mix(self.pdus).is_multiple_of(ABORTS)
    }
}

fn on_server(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } => app.opened += 1,
        Event::Pdu(pdu) => {
            app.pdus += 1;
            // A refusal means that the connection has ended.
            net.send(handle, pdu.frame()).ok();
            if app.is_to_abort() && net.abort(handle).is_ok() {
                app.aborts += 1;
                app.served_aborts.fetch_add(1, Ordering::Relaxed);
                app.ended += 1;
            }
        }
        Event::Close(reason) => {
            assert!(!matches!(reason, CloseReason::BadFrame(_)), "bytes stay in order: {reason}");
            app.ended += 1;
        }
        _ => {}
    }
}

fn on_client(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    let index = usize::try_from(net.option(handle).unwrap().user_data()).unwrap();
    let client = &mut app.clients[index];
    assert_eq!(client.handle, Some(handle), "C2: nothing comes after the end");
    match event {
        Event::Confirm => {
            app.opened += 1;
            app.fill(net, index);
        }
        Event::Pdu(pdu) => {
            let (connection, number) = (client.connection, client.answered);
            assert!(number < client.sent, "an answer that was not asked for");
            let is_right = Content::new(connection, number).is(pdu.body());
            assert!(is_right, "connection {connection}: the answer to {number} differs");
            client.answered += 1;
            app.pdus += 1;
            if app.is_to_abort() && net.abort(handle).is_ok() {
                app.aborts += 1;
                return app.retry(net, index);
            }
            app.fill(net, index);
        }
        Event::Close(reason) => {
            assert!(!matches!(reason, CloseReason::BadFrame(_)), "bytes stay in order: {reason}");
            app.resets += u64::from(reason == CloseReason::Reset);
            app.retry(net, index);
        }
        _ => {}
    }
}

fn on_retry(app: &mut App, net: &mut Netlib<App>, _: Handle, event: Event<'_>) {
    if let Event::Timer { user_data, .. } = event
        && !app.is_over
    {
        app.connect(net, usize::try_from(user_data).unwrap());
    }
}

/// Between which two backends, and how.
#[derive(Clone, Copy)]
struct Pair {
    server: Lane,
    client: Lane,
    /// Receive buffers of each side, and their length.
    pool: (u16, u32),
    is_rash: bool,
}

impl Pair {
    fn build(&self, lane: &Lane) -> Netlib<App> {
        let spec = FrameSpec::teamtalk();
        let (buffers, len) = self.pool;
        let options: Options = lane.options().delivery(Delivery::Pdu(spec)).pool(buffers, len);
        options.build().expect("the backend works, as its lane is there")
    }

    /// A server in a thread of its own, until it is told to stop and has no connection left; what
    /// it has counted.
    fn serve(&self, end: Instant, aborts: Arc<AtomicU64>) -> (JoinHandle<App>, SocketAddr, Remote) {
        let (told, asked) = mpsc::channel();
        let pair = *self;
        let thread = thread::spawn(move || {
            let mut net = pair.build(&pair.server);
            let listener = net.listen("127.0.0.1:0", on_server, 0).unwrap();
            let local = net.option(listener).unwrap().local_address().unwrap();
            let Address::Ip(address) = local else { panic!("a numeric address") };
            told.send((address, net.remote())).expect("it is waited for");
            let mut app = App::new(None, pair.is_rash, &aborts);
            net.eventloop(&mut app, Duration::MAX).unwrap();
            while net.stats().sockets > 1 {
                assert!(Instant::now() < end, "every connection ends at the server");
                net.turn(&mut app, Duration::from_millis(10)).unwrap();
            }
            let stats = net.stats();
            assert_eq!(stats.panics, 0, "what is wrong stands above");
            assert_eq!(app.opened, app.ended, "one Close for a connection");
            assert_eq!(stats.buffers_lent, 0);
            app
        });
        let (address, remote) = asked.recv().expect("the server starts");
        (thread, address, remote)
    }

    /// Runs the load until so many answers came and `is_enough`; tells what it came to.
    fn run(&self, answers: u64, limit: Duration, is_enough: impl Fn(&App) -> bool) -> u64 {
        let start = Instant::now();
        let end = start + limit;
        let served_aborts = Arc::default();
        let (thread, address, remote) = self.serve(end, Arc::clone(&served_aborts));
        let mut net = self.build(&self.client);
        let mut app = App::new(Some(address), self.is_rash, &served_aborts);
        for index in 0..CLIENTS {
            app.clients.push(Client { connection: index as u64, ..Client::default() });
            app.connect(&mut net, index);
        }
        let mut told = start;
        while app.pdus < answers || !is_enough(&app) {
            let (pdus, resets) = (app.pdus, app.resets_of_the_network());
            assert!(
                Instant::now() < end,
                "{pdus} answers, {resets} resets of the network, no more"
            );
            assert_eq!(net.stats().panics, 0, "what is wrong stands above");
            net.turn(&mut app, Duration::from_millis(10)).unwrap();
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                println!("  {pdus} of {answers} answers after {:.0?}", start.elapsed());
            }
        }
        app.is_over = true;
        while !app.is_quiet() {
            assert!(Instant::now() < end, "what was sent is answered, or its connection ends");
            net.turn(&mut app, Duration::from_millis(10)).unwrap();
        }
        for handle in app.clients.iter().filter_map(|client| client.handle) {
            net.close(handle).unwrap();
        }
        while net.stats().sockets > 0 {
            assert!(Instant::now() < end, "every connection ends at the clients");
            net.turn(&mut app, Duration::from_millis(10)).unwrap();
        }
        assert_eq!(net.stats().panics, 0, "what is wrong stands above");
        remote.stop();
        let server = thread.join().expect("what is wrong with the server stands above");
        let passed = start.elapsed();
        self.tell(&app, &server, net.stats().bytes_in, passed);
        app.pdus + server.pdus
    }

    fn tell(&self, client: &App, server: &App, bytes: u64, passed: Duration) {
        let (buffers, len) = self.pool;
        let pdus = client.pdus + server.pdus;
        let rate = pdus as f64 / passed.as_secs_f64();
        println!(
            "{} to {}, {buffers} buffers of {len}: pdus={pdus} answered={} bytes={bytes} \
             connections={} resets={} network_resets={} aborts={}+{} seconds={:.1} \
             pdus/s={rate:.0}",
            name(&self.client),
            name(&self.server),
            client.pdus,
            client.opened,
            client.resets,
            client.resets_of_the_network(),
            client.aborts,
            server.aborts,
            passed.as_secs_f64(),
        );
    }
}

fn name(lane: &Lane) -> String {
    let masked = if lane.mask.is_empty() { "" } else { "masked " };
    format!("{masked}{}", lane.backend)
}

/// Runs the load between every two of a ring, one without what older kernels lack, and epoll, until
/// all together have passed as many PDUs as are asked for, and `is_enough` for each.
fn on_every_pair(is_rash: bool, is_enough: impl Fn(&App) -> bool) {
    let mut lanes = lanes();
    let poorest = lanes.iter().map(|lane| lane.mask.len()).max();
    lanes.retain(|lane| lane.mask.is_empty() || Some(lane.mask.len()) == poorest);
    let pairs = lanes.len() * lanes.len();
    let answers = setting("NETLIB_LANE_PDUS", 200_000).div_ceil(2 * pairs as u64);
    let limit = Duration::from_secs(setting("NETLIB_LANE_SECONDS", 60));
    let (mut pdus, start) = (0, Instant::now());
    let each = lanes.iter().flat_map(|server| lanes.iter().map(move |client| (*server, *client)));
    for ((server, client), pool) in each.zip([(16, 512), (64, 4096)].into_iter().cycle()) {
        pdus += Pair { server, client, pool, is_rash }.run(answers, limit, &is_enough);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("all {pairs} pairs, both ways: pdus={pdus} seconds={seconds:.1}");
}

/// Connections that are reset at any byte, by the network or by either side, end with one Close on
/// the other; answers that came are those that were asked for, in order, on each.
#[test]
#[ignore = "needs a network that resets connections: ci/network"]
fn resets_end_connections_and_alter_nothing() {
    on_every_pair(true, |app| app.resets_of_the_network() >= RESETS);
}

/// A network that loses packets slows the load, and that is all.
#[test]
#[ignore = "needs a network that loses packets: ci/network"]
fn loss_only_costs_time() {
    on_every_pair(false, |app| {
        assert_eq!(app.resets, 0, "nobody gave up");
        true
    });
}
