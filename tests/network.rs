//! An echo load over a network that misbehaves. `ci/network` makes such a network, in a namespace
//! of its own as root; without one these tests would prove little, so they run only when asked for.
//!
//! Every pair of backends: a server, and clients that connect again whenever their connection ends.

mod support;

use std::collections::VecDeque;
use std::env;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::{
    Address, Backend, CloseReason, Delivery, Event, FrameSpec, Handle, Netlib, Options, Repeat,
    frame, pattern,
};

/// A number that the lane sets, or else this one.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Connections that must have been reset in a run with resets.
const RESETS: u64 = 20;
const CLIENTS: usize = 32;
const DEPTH: u64 = 8;

/// Both sides' state; a server has no connections in `clients`.
struct App {
    server: Option<SocketAddr>,
    clients: Vec<Client>,
    /// What PDUs are made of.
    pattern: Vec<u8>,
    answered: u64,
    accepted: u64,
    closed: u64,
    /// Ends that were not this side's wish.
    resets: u64,
    is_over: bool,
}

/// One of the clients; its index is the user data of its socket.
struct Client {
    handle: Option<Handle>,
    sent: u64,
    /// PDUs under way, oldest first.
    under_way: VecDeque<u64>,
}

impl App {
    fn new(server: Option<SocketAddr>, clients: usize) -> Self {
        let client = |_| Client { handle: None, sent: 0, under_way: VecDeque::new() };
        Self {
            server,
            clients: (0..clients).map(client).collect(),
            pattern: pattern(8192),
            answered: 0,
            accepted: 0,
            closed: 0,
            resets: 0,
            is_over: false,
        }
    }

    /// The PDU of a number: of many lengths, and no two neighbours alike.
    fn pdu(&self, index: usize, number: u64) -> Vec<u8> {
        let choice = usize::try_from(number).unwrap() * 31 + index * 7;
        let mut pdu = frame(16 + choice % 3000, 0);
        let body = &self.pattern[choice % 5000..];
        let len = pdu.len() - 16;
        pdu[16..].copy_from_slice(&body[..len]);
        pdu
    }

    fn connect(&mut self, net: &mut Netlib<Self>, index: usize) {
        let address = Address::Ip(self.server.expect("a client has a server"));
        let handle = net.connect(&address, on_client, index as u64).expect("an attempt");
        self.clients[index] = Client { handle: Some(handle), sent: 0, under_way: VecDeque::new() };
    }

    fn fill(&mut self, net: &mut Netlib<Self>, index: usize) {
        while !self.is_over && (self.clients[index].under_way.len() as u64) < DEPTH {
            let number = self.clients[index].sent;
            let pdu = self.pdu(index, number);
            let handle = self.clients[index].handle.expect("it is open");
            if net.send(handle, &pdu).is_err() {
                // The connection has ended, and Close will say so.
                return;
            }
            let client = &mut self.clients[index];
            client.sent += 1;
            client.under_way.push_back(number);
        }
    }
}

fn on_server(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } => app.accepted += 1,
        Event::Pdu(pdu) => {
            // A refusal means that the connection has ended.
            net.send(handle, pdu.frame()).ok();
        }
        Event::Close(reason) => {
            assert!(!matches!(reason, CloseReason::BadFrame(_)), "bytes stay in order: {reason}");
            app.closed += 1;
        }
        _ => {}
    }
}

fn on_client(app: &mut App, net: &mut Netlib<App>, handle: Handle, event: Event<'_>) {
    let index = usize::try_from(net.option(handle).unwrap().user_data()).unwrap();
    match event {
        Event::Confirm => {
            app.accepted += 1;
            app.fill(net, index);
        }
        Event::Pdu(pdu) => {
            let number = app.clients[index].under_way.pop_front().expect("it was asked for");
            let expected = app.pdu(index, number);
            assert!(pdu.frame() == expected, "client {index}: the answer to {number} differs");
            app.answered += 1;
            app.fill(net, index);
        }
        Event::Close(reason) => {
            assert!(!matches!(reason, CloseReason::BadFrame(_)), "bytes stay in order: {reason}");
            assert_eq!(app.clients[index].handle, Some(handle), "one Close for a connection");
            app.clients[index].handle = None;
            app.resets += 1;
            // Not from within: a server that cannot be reached would be asked without end.
            net.register_timer(Duration::from_millis(2), Repeat::Once, on_retry, index as u64);
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

/// Runs the load between every two backends until enough was answered and `is_enough`; tells what
/// it came to.
fn on_every_pair(is_enough: impl Fn(&App) -> bool) {
    let answers = setting("NETLIB_LANE_ANSWERS", 20_000);
    let limit = Duration::from_secs(setting("NETLIB_LANE_SECONDS", 60));
    let backends = [Backend::Uring, Backend::Epoll];
    for (server, client) in backends.iter().flat_map(|a| backends.iter().map(move |b| (*a, *b))) {
        let options = |backend| {
            let spec = FrameSpec::teamtalk();
            Options::new().backend(backend).delivery(Delivery::Pdu(spec)).pool(16, 4096).build()
        };
        let (Ok(mut server_net), Ok(mut client_net)) = (options(server), options(client)) else {
            println!("SKIPPED {client} to {server}: one of them does not work here");
            continue;
        };
        let listener = server_net.listen("127.0.0.1:0", on_server, 0).unwrap();
        let local = server_net.option(listener).unwrap().local_address().unwrap();
        let Address::Ip(address) = local else { panic!("a numeric address") };
        let (mut server_app, mut app) = (App::new(None, 0), App::new(Some(address), CLIENTS));
        (0..CLIENTS).for_each(|index| app.connect(&mut client_net, index));

        let end = Instant::now() + limit;
        while app.answered < answers || !is_enough(&app) {
            let (answered, resets) = (app.answered, app.resets);
            assert!(Instant::now() < end, "{answered} answers, {resets} resets, and no more");
            server_net.turn(&mut server_app, Duration::ZERO).unwrap();
            client_net.turn(&mut app, Duration::from_millis(1)).unwrap();
        }
        app.is_over = true;
        for handle in app.clients.iter().filter_map(|client| client.handle) {
            client_net.close(handle).unwrap();
        }
        while client_net.stats().sockets > 0 || server_net.stats().sockets > 1 {
            assert!(Instant::now() < end, "every connection ends on both sides");
            server_net.turn(&mut server_app, Duration::ZERO).unwrap();
            client_net.turn(&mut app, Duration::from_millis(1)).unwrap();
        }
        // The library contains what a callback asserts.
        let panics = client_net.stats().panics + server_net.stats().panics;
        assert_eq!(panics, 0, "what is wrong stands above");
        assert_eq!(server_app.accepted, server_app.closed, "one Close for a connection");
        let App { answered, resets, accepted, .. } = app;
        println!(
            "{client} to {server}: answered={answered} connections={accepted} resets={resets}"
        );
    }
}

/// Connections that are reset at any byte end with one Close on both sides; answers that came are
/// those that were asked for, in order, on each.
#[test]
#[ignore = "needs a network that resets connections: ci/network"]
fn resets_end_connections_and_alter_nothing() {
    on_every_pair(|app| app.resets >= RESETS);
}

/// A network that loses packets slows the load, and that is all.
#[test]
#[ignore = "needs a network that loses packets: ci/network"]
fn loss_only_costs_time() {
    on_every_pair(|app| {
        assert_eq!(app.resets, 0, "nobody gave up");
        true
    });
}
