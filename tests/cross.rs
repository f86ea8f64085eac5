//! Each backend against each other: a server on one, a client on another, and both are told the
//! same in the same order, whichever they are.

mod support;

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use support::*;

/// A server and a client, stepped by turns in one thread.
struct Cross {
    server: World,
    client: World,
    address: SocketAddr,
    listener: Handle,
}

/// What both sides were told: of one connection each.
type Told = (Vec<Entry>, Vec<Entry>);

impl Cross {
    fn new(server: &Lane, client: &Lane) -> Self {
        let (mut server, client) = (World::new(server), World::new(client));
        let (listener, address) = server.listen();
        Self { server, client, address, listener }
    }

    /// Both sides with a connection between them: its handle on each.
    fn connected(server: &Lane, client: &Lane) -> (Self, Handle, Handle) {
        let mut cross = Self::new(server, client);
        let asking = cross.client.connect(Address::Ip(cross.address));
        cross.until("a connection", |cross| {
            cross.client.app.log_of(asking) == [Entry::Confirm] && cross.served().is_some()
        });
        let served = cross.served().expect("it was waited for");
        (cross, served, asking)
    }

    fn served(&self) -> Option<Handle> {
        self.server.app.handles_by(SERVER).first().copied()
    }

    fn until(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_true(self) {
            let (server, client) = (&self.server, &self.client);
            let is_late = Instant::now() >= end;
            assert!(!is_late, "not {what}: {}; {}", server.describe(), client.describe());
            self.server.turn();
            self.client.turn_for(Duration::from_micros(100));
        }
    }

    /// Turns both until nothing is left of their connection, and tells how it went.
    fn finish(mut self, served: Handle, asking: Handle) -> Told {
        self.until("the end of the connection", |cross| {
            cross.server.net.stats().sockets == 1 && cross.client.net.stats().sockets == 0
        });
        (told(&self.server, served), told(&self.client, asking))
    }
}

/// The events of a handle but those that say there is room to send: when that is depends on how
/// the two sides' turns meet.
fn told(world: &World, handle: Handle) -> Vec<Entry> {
    world.app.log_of(handle).into_iter().filter(|entry| *entry != Entry::Write).collect()
}

/// Runs a scenario between every two backends: a ring, one without what older kernels lack, and
/// epoll. What it tells must be the same each time.
fn same_on_every_pair<T: PartialEq + fmt::Debug>(scenario: impl Fn(&Lane, &Lane) -> T) {
    let mut lanes = lanes();
    let poorest = lanes.iter().map(|lane| lane.mask.len()).max();
    lanes.retain(|lane| lane.mask.is_empty() || Some(lane.mask.len()) == poorest);
    let mut first: Option<T> = None;
    for (server, client) in lanes.iter().flat_map(|one| lanes.iter().map(move |two| (one, two))) {
        let run = AssertUnwindSafe(|| scenario(server, client));
        let told = catch_unwind(run).unwrap_or_else(|payload: Box<dyn Any + Send>| {
            panic!("with a client on {client} and a server on {server}: {}", text_of(&*payload))
        });
        match &first {
            None => first = Some(told),
            Some(first) => {
                assert_eq!(&told, first, "with a client on {client} and a server on {server}");
            }
        }
    }
}

/// PDUs of all lengths up to the longest arrive whole and in order, both ways at once.
#[test]
fn pdus_of_all_lengths_pass_both_ways() {
    const LENS: [usize; 9] = [16, 17, 255, 4096, 16_384, 16_385, 100_000, 1 << 19, 1 << 20];
    let fills = || LENS.into_iter().zip(1..);
    same_on_every_pair(|server, client| {
        let (mut cross, served, asking) = Cross::connected(server, client);
        let sent: Vec<Vec<u8>> = fills().map(|(len, fill)| frame(len, fill)).collect();
        let mut received = 0;
        for pdu in &sent {
            cross.server.net.send(served, pdu).expect("there is room for the longest");
            cross.client.net.send(asking, pdu).expect("there is room for the longest");
            received += pdu.len();
            cross.until("a PDU has arrived on both sides", |cross| {
                let at = |world: &World, handle| world.app.received(handle).len();
                at(&cross.server, served) == received && at(&cross.client, asking) == received
            });
        }
        let sent = sent.concat();
        assert!(cross.server.app.received(served) == sent, "the server's bytes differ");
        assert!(cross.client.app.received(asking) == sent, "the client's bytes differ");
        cross.client.net.close(asking).unwrap();
        cross.finish(served, asking)
    });
}

/// Whoever closes behind a PDU of any length, the other side gets it whole, and then the end.
#[test]
fn each_side_may_close_behind_its_last_pdu() {
    for is_server in [true, false] {
        same_on_every_pair(|server, client| {
            let (mut cross, served, asking) = Cross::connected(server, client);
            let last = [frame(16, 1), frame(700_000, 2)].concat();
            let (world, handle) = match is_server {
                true => (&mut cross.server, served),
                false => (&mut cross.client, asking),
            };
            world.net.send(handle, &last).unwrap();
            world.net.close(handle).unwrap();
            let (by_server, by_client) = cross.finish(served, asking);
            let other = if is_server { &by_client } else { &by_server };
            let end = Entry::Close(CloseReason::PeerClosed);
            assert_eq!(other[1..], [Entry::Pdu(16), Entry::Pdu(700_000), end]);
            (by_server, by_client)
        });
    }
}

/// Both sides close at once: neither is told anything more.
#[test]
fn both_sides_may_close_at_once() {
    same_on_every_pair(|server, client| {
        let (mut cross, served, asking) = Cross::connected(server, client);
        cross.server.net.close(served).unwrap();
        cross.client.net.close(asking).unwrap();
        cross.finish(served, asking)
    });
}

/// A reset by either side is told to the other, behind what had arrived before.
#[test]
fn each_side_may_reset() {
    for is_server in [true, false] {
        same_on_every_pair(|server, client| {
            let (mut cross, served, asking) = Cross::connected(server, client);
            cross.server.net.send(served, &frame(100, 1)).unwrap();
            cross.client.net.send(asking, &frame(100, 2)).unwrap();
            cross.until("a PDU on both sides", |cross| {
                told(&cross.server, served).len() == 2 && told(&cross.client, asking).len() == 2
            });
            match is_server {
                true => cross.server.net.abort(served).unwrap(),
                false => cross.client.net.abort(asking).unwrap(),
            }
            let (by_server, by_client) = cross.finish(served, asking);
            let other = if is_server { &by_client } else { &by_server };
            assert_eq!(other[2..], [Entry::Close(CloseReason::Reset)]);
            (by_server, by_client)
        });
    }
}

/// An attempt to connect to a listener that has gone is refused.
#[test]
fn a_connect_to_nobody_is_refused() {
    same_on_every_pair(|server, client| {
        let mut cross = Cross::new(server, client);
        let listener = cross.listener;
        cross.server.net.close(listener).unwrap();
        cross.until("the listener is gone", |cross| cross.server.net.stats().sockets == 0);
        let asking = cross.client.connect(Address::Ip(cross.address));
        cross.until("a refusal", |cross| cross.client.net.stats().sockets == 0);
        assert_eq!(told(&cross.client, asking), [Entry::Close(CloseReason::Refused)]);
    });
}
