//! The dispatch table: typed handlers by ids, and a budget for what a peer gets wrong.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use prost::Message;
use support::{Address, DEADLINE, Lane, Netlib, on_every_backend};
use uring_netlib::conn::{Connection, Context, DispatchError, Dispatcher};
use uring_netlib::pdu::{Header, Pdu, encode, encode_bytes};

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

struct App {
    table: Rc<Dispatcher<Player, Self>>,
    log: Vec<String>,
}

struct Player;

impl Connection<App> for Player {
    fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
        Rc::clone(&app.table).dispatch(self, app, context, &pdu);
    }
}

impl Player {
    fn on_text(
        &mut self,
        app: &mut App,
        context: &mut Context<'_, App>,
        pdu: &Pdu<'_>,
        text: Text,
    ) {
        app.log.push(text.text.clone());
        context.reply(pdu, 2, &text).unwrap();
    }

    fn on_number(&mut self, app: &mut App, _: &mut Context<'_, App>, _: &Pdu<'_>, number: u32) {
        app.log.push(number.to_string());
    }

    fn on_error(
        &mut self,
        app: &mut App,
        _: &mut Context<'_, App>,
        error: &DispatchError,
        is_over: bool,
    ) {
        app.log.push(format!("{error}{}", if is_over { ", closed" } else { "" }));
    }
}

fn serve(lane: &Lane, table: Dispatcher<Player, App>) -> (Netlib<App>, App, TcpStream) {
    let mut net = lane.options().build::<App>().unwrap();
    let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Player)).unwrap();
    let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
        panic!("a numeric address");
    };
    let peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    (net, App { table: Rc::new(table), log: Vec::new() }, peer)
}

fn table() -> Dispatcher<Player, App> {
    Dispatcher::new()
        .on(3, 7, Player::on_number)
        .on(3, 1, Player::on_text)
        .on(1, 1, Player::on_number)
        .on_error(Player::on_error)
}

fn run_until(net: &mut Netlib<App>, app: &mut App, is_true: impl Fn(&Netlib<App>, &App) -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_true(net, app) {
        assert!(Instant::now() < end, "{:?}", app.log);
        net.turn(app, Duration::from_millis(1)).unwrap();
    }
}

/// A PDU reaches the handler of its ids, decoded; the answer keeps the sequence number.
#[test]
fn a_pdu_reaches_the_handler_of_its_ids() {
    on_every_backend(|lane| {
        let (mut net, mut app, mut peer) = serve(lane, table());
        let (mut sent, text) = (Vec::new(), Text { text: "hello".to_owned() });
        encode(&Header::new(3, 7), &5u32, 100, &mut sent).unwrap();
        encode(&Header::new(3, 1).with_seq(99), &text, 100, &mut sent).unwrap();
        encode(&Header::new(1, 1), &6u32, 100, &mut sent).unwrap();
        peer.write_all(&sent).unwrap();
        run_until(&mut net, &mut app, |_, app| app.log.len() == 3);
        net.turn(&mut app, Duration::ZERO).unwrap();
        assert_eq!(app.log, ["5", "hello", "6"]);
        let mut answer = vec![0; 16 + text.encoded_len()];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(Header::parse(&answer), Some(Header::new(3, 2).with_seq(99)));
        assert_eq!(Text::decode(&answer[16..]).unwrap(), text);
    });
}

/// Unknown ids and bodies that do not decode are told; the third closes the connection, and what
/// follows it in the same segment is not looked at.
#[test]
fn a_connection_has_a_budget_of_errors() {
    on_every_backend(|lane| {
        let (mut net, mut app, mut peer) = serve(lane, table());
        let mut sent = Vec::new();
        encode_bytes(&Header::new(9, 9), b"", 100, &mut sent).unwrap();
        encode_bytes(&Header::new(3, 1), &[0xFF; 9], 100, &mut sent).unwrap();
        encode(&Header::new(3, 7), &5u32, 100, &mut sent).unwrap();
        encode_bytes(&Header::new(3, 0x0102), b"", 100, &mut sent).unwrap();
        encode(&Header::new(3, 7), &6u32, 100, &mut sent).unwrap();
        peer.write_all(&sent).unwrap();
        assert_eq!(peer.shutdown(std::net::Shutdown::Write).map_err(|error| error.kind()), Ok(()));
        run_until(&mut net, &mut app, |net, app| app.log.len() == 4 && net.stats().sockets == 1);
        let told = [
            "no handler for 9/0x0009",
            "3/0x0001 has a bad body",
            "5",
            "no handler for 3/0x0102, closed",
        ];
        assert_eq!(app.log, told);
        assert_eq!(net.stats().dispatch_errors, 3);
    });
}

/// The later handler of two for the same ids takes the place of the earlier.
#[test]
fn a_later_handler_replaces_an_earlier() {
    on_every_backend(|lane| {
        let table = table().on(3, 7, |_: &mut Player, app: &mut App, _, _, number: u32| {
            app.log.push(format!("new {number}"));
        });
        let (mut net, mut app, mut peer) = serve(lane, table);
        let mut sent = Vec::new();
        encode(&Header::new(3, 7), &5u32, 100, &mut sent).unwrap();
        peer.write_all(&sent).unwrap();
        run_until(&mut net, &mut app, |_, app| app.log == ["new 5"]);
    });
}
