//! Bytes that are sent on from where they were received: the same bytes in the same order, however
//! long they wait, and never so many buffers that others go short.

mod support;

use std::net::TcpStream;

use socket2::SockRef;
use support::*;

const BUFFER: usize = 16 * 1024;

/// A world with so many receive buffers, in which all that the source sends goes to the sink, and
/// the sink does not read. Others are answered.
struct Relay {
    world: World,
    source: TcpStream,
    sink: TcpStream,
    to: Handle,
    /// What the sink is to read.
    expected: Vec<u8>,
}

impl Relay {
    fn new(lane: &Lane, buffers: u16) -> Self {
        let limits = BacklogLimits { low: 1 << 20, high: 8 << 20, max: 16 << 20 };
        let mut world = World::with(lane.options().backlog(limits).pool(buffers, 16 * 1024));
        let (sink, to) = world.served_peer();
        world.net.option(to).unwrap().set_send_buffer_size(1 << 14).unwrap();
        // Not less: with a window below a segment of the loopback, bytes move by probes.
        SockRef::from(&sink).set_recv_buffer_size(1 << 16).unwrap();
        let (source, from) = world.served_peer();
        world.script(move |_, net, handle, event| {
            if let Event::Pdu(pdu) = event {
                let to = if handle == from { to } else { handle };
                net.forward(to, *pdu).unwrap();
            }
        });
        let mut relay = Self { world, source, sink, to, expected: Vec::new() };
        // The kernel's buffers are full before anything is lent for long.
        let filling = frame(512 << 10, 0x33);
        relay.world.net.send(to, &filling).unwrap();
        relay.expected.extend_from_slice(&filling);
        relay.world.settle();
        relay
    }

    /// Sends one PDU from the source, in one piece if it is short enough, to the sink.
    fn send(&mut self, body: &[u8]) {
        let mut bytes = frame(16 + body.len(), 0);
        bytes[16..].copy_from_slice(body);
        self.write(&bytes, 1);
    }

    fn write(&mut self, bytes: &[u8], pdus: u64) {
        let before = self.world.net.stats().pdus_in;
        self.world.write(&mut self.source, bytes);
        self.world.turn_until("PDUs", |world| world.net.stats().pdus_in == before + pdus);
        self.expected.extend_from_slice(bytes);
    }

    fn lent(&self) -> u64 {
        self.world.net.stats().buffers_lent
    }

    /// Lets the sink read all, which is what was sent to it; and nothing is lent any more.
    fn finish(mut self) {
        let read = self.world.read(&mut self.sink, self.expected.len());
        assert!(read == self.expected, "bytes differ");
        self.world.settle();
        let stats = self.world.net.stats();
        assert_eq!((stats.buffers_lent, stats.buffered_bytes), (0, 0));
    }
}

/// What waits where it was received stays what it was, while others receive.
#[test]
fn what_is_lent_stays_what_it_was() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 64);
        let (mut other, _) = relay.world.served_peer();
        for round in 0..20_u8 {
            relay.send(&vec![round; 5000 + usize::from(round) * 300]);
            let bytes = frame(3000 + usize::from(round), 0xFF);
            relay.world.write(&mut other, &bytes);
            assert!(relay.world.read(&mut other, bytes.len()) == bytes);
        }
        assert_eq!(relay.lent(), 20, "each of the twenty keeps its buffer");
        relay.finish();
    });
}

/// Own bytes, shared bodies and lent bytes of one socket leave in the order in which they came.
#[test]
fn lent_bytes_keep_their_place_among_others() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 64);
        let shared = uring_netlib::Shared::from(frame(2000, 7));
        for round in 0..10 {
            relay.send(&vec![round; 4000]);
            relay.world.net.send(relay.to, &frame(20, round)).unwrap();
            relay.expected.extend_from_slice(&frame(20, round));
            relay.world.net.send_shared(relay.to, &shared).unwrap();
            relay.expected.extend_from_slice(shared.bytes());
            // Three in one buffer, of which the first two are lent as one piece.
            let three = [frame(1500, 1), frame(1500, 2), frame(300, 3)].concat();
            relay.write(&three, 3);
        }
        assert!(relay.lent() > 0);
        relay.finish();
    });
}

/// Peers who do not read keep at most half of the buffers; beyond that their bytes are copied, and
/// others are served as before.
#[test]
fn slow_peers_keep_at_most_half_of_the_buffers() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 8);
        for round in 0..12 {
            relay.send(&vec![round; 12_000]);
            assert_eq!(relay.lent(), u64::from(round + 1).min(4));
        }
        let (mut other, _) = relay.world.served_peer();
        let bytes = [frame(BUFFER - 100, 8), frame(2 * BUFFER, 9)].concat();
        for _ in 0..10 {
            relay.world.write(&mut other, &bytes);
            assert!(relay.world.read(&mut other, bytes.len()) == bytes);
        }
        relay.finish();
    });
}

/// Few bytes are copied, so that they keep no whole buffer.
#[test]
fn few_bytes_keep_no_buffer() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 8);
        for round in 0..50 {
            relay.send(&[round; 1500]);
        }
        assert_eq!(relay.lent(), 0);
        // Nor do few of many bytes.
        let (few, many) = (frame(200, 1), frame(4000, 2));
        let to = relay.to;
        relay.world.script(move |_, net, _, event| {
            if let Event::Pdu(pdu) = event
                && pdu.frame().len() == 200
            {
                net.forward(to, *pdu).unwrap();
            }
        });
        let before = relay.expected.len();
        relay.write(&[few.clone(), many].concat(), 2);
        relay.expected.truncate(before);
        relay.expected.extend_from_slice(&few);
        relay.world.turn();
        assert_eq!(relay.lent(), 0);
        relay.finish();
    });
}

/// A connection that is aborted gives back what was lent to it, also while it is on its way.
#[test]
fn an_aborted_connection_gives_back_what_was_lent() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 8);
        for _ in 0..6 {
            relay.send(&[5; 12_000]);
        }
        assert_eq!(relay.lent(), 4);
        relay.world.net.abort(relay.to).unwrap();
        relay.world.turn_until("it is gone", |world| world.net.stats().buffers_lent == 0);
        assert_eq!(relay.world.net.stats().buffered_bytes, 0);
    });
}

/// A flood of small PDUs comes back whole, also to who reads late, while others are answered; and
/// so does what comes in small pieces after it.
#[test]
fn a_flood_is_answered_whole() {
    on_every_backend(|lane| {
        let limits = BacklogLimits { low: 1 << 20, high: 8 << 20, max: 16 << 20 };
        let mut world = World::with(lane.options().backlog(limits));
        world.script(|_, net, handle, event| {
            if let Event::Pdu(pdu) = event {
                net.forward(handle, *pdu).unwrap();
            }
        });
        let (flood, pdus) = flood(3 << 20);
        let ((mut peer, _), (mut other, _)) = (world.served_peer(), world.served_peer());
        let small = frame(100, 1);
        for _ in 0..2 {
            world.write(&mut peer, &flood);
            for _ in 0..12 {
                world.write(&mut other, &small);
                assert!(world.read(&mut other, 100) == small);
            }
            assert!(world.read(&mut peer, flood.len()) == flood, "bytes differ");
            for byte in small.repeat(12).chunks(50) {
                world.write(&mut peer, byte);
                world.turn();
            }
            assert!(world.read(&mut peer, 1200) == small.repeat(12));
        }
        world.settle();
        let stats = world.net.stats();
        assert_eq!((stats.buffers_lent, stats.buffered_bytes), (0, 0));
        assert_eq!(stats.pdus_in, 2 * (pdus + 24));
    });
}

/// Lent bytes count with the place that they take, and not as what is kept for their socket.
#[test]
fn lent_bytes_count_with_their_place() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 64);
        let before = relay.world.net.stats().buffered_bytes;
        for round in 0..20 {
            relay.send(&[round; 12_000]);
        }
        relay.world.turn();
        assert_eq!(relay.world.net.stats().buffered_bytes - before, 20 * 96);
        relay.finish();
    });
}

/// Small PDUs in a row, with no two alike beside one another.
fn flood(bytes: usize) -> (Vec<u8>, u64) {
    let lens = [64, 700, 16, 4100, 90].into_iter().cycle().zip((0..=250).cycle());
    let (mut flood, mut pdus) = (Vec::new(), 0);
    for (len, fill) in lens {
        if flood.len() >= bytes {
            break;
        }
        flood.extend_from_slice(&frame(len, fill));
        pdus += 1;
    }
    (flood, pdus)
}

/// What floods a server waits in buffers of its own, so that it needs few of the pool; and once
/// little comes, it comes into the pool again.
#[test]
fn a_flood_waits_in_lots() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 8);
        let arms = |relay: &mut Relay| {
            let before = relay.world.net.stats().armed;
            for _ in 0..5 {
                relay.send(&[1; 20]);
            }
            relay.world.settle();
            relay.world.net.stats().armed - before
        };
        let usual = arms(&mut relay);
        let before = relay.world.net.stats().buffered_bytes;
        let (bytes, pdus) = flood(1 << 20);
        relay.write(&bytes, pdus);
        let kept = relay.world.net.stats().buffered_bytes - before;
        assert!(kept < 300 << 10, "{kept} bytes are copies");
        // No more than 2 MiB of lots are kept; what comes then is copied, and counts.
        let (bytes, pdus) = flood(3 << 20);
        relay.write(&bytes, pdus);
        let kept = relay.world.net.stats().buffered_bytes - before;
        assert!((3 << 19..3 << 20).contains(&kept), "{kept} bytes are kept");
        arms(&mut relay);
        assert_eq!(arms(&mut relay), usual, "the flood is over");
        relay.finish();
    });
}

/// Of many who flood a server at once, some of whom pause, change or go, all others get their
/// answers.
#[test]
fn floods_of_many_take_turns() {
    on_every_backend(|lane| {
        let backlog = BacklogLimits { low: 1 << 20, high: 8 << 20, max: 16 << 20 };
        let mut world = World::with(lane.options().backlog(backlog));
        world.echo();
        let (bytes, _) = flood(300_000);
        let mut peers: Vec<_> = (0..12).map(|_| world.served_peer()).collect();
        for _ in 0..3 {
            for (peer, _) in &mut peers {
                world.write(peer, &bytes);
            }
            for (index, (_, handle)) in peers.iter().enumerate() {
                match index % 4 {
                    0 => world.net.pause_receive(*handle).unwrap(),
                    1 => {
                        let mut option = world.net.option(*handle).unwrap();
                        option.set_delivery(Delivery::Push).unwrap();
                    }
                    _ => {}
                }
            }
            world.settle();
            for (_, handle) in &peers {
                world.net.resume_receive(*handle).unwrap();
            }
            for (peer, _) in &mut peers {
                assert!(world.read(peer, bytes.len()) == bytes, "bytes differ");
            }
            // Those that were changed go, and others take their places.
            for index in (0..12).filter(|index| index % 4 == 1) {
                let (mut peer, handle) = std::mem::replace(&mut peers[index], world.served_peer());
                world.write(&mut peer, &bytes);
                world.net.abort(handle).unwrap();
            }
        }
    });
}

/// A close after bytes were lent flushes them: the peer reads all, and then the end (C7).
#[test]
fn a_close_flushes_what_was_lent() {
    on_every_backend(|lane| {
        let mut relay = Relay::new(lane, 64);
        for round in 0..10 {
            relay.send(&[round; 9000]);
        }
        assert_eq!(relay.lent(), 10);
        relay.world.net.close(relay.to).unwrap();
        let (read, end) = relay.world.read_to_end(&mut relay.sink);
        assert!(read == relay.expected && end.is_ok(), "{} bytes, {end:?}", read.len());
        drop(relay.sink);
        relay.world.turn_until("it is gone", |world| world.net.stats().buffers_lent == 0);
    });
}
