//! Peers that overstay their welcome, and the deadline or the limit that ends each of them.
//!
//! ```text
//! $ cargo run --release --example idle_kick
//! backend=uring …
//!    0.00 s  seven guests arrive
//!    0.00 s  liar       is out: bad PDU: length 5 is below the least of 16
//!    1.00 s  stranger   is out: expired: not ready in time
//! …
//! ```
//!
//! One process plays both sides: a server whose deadlines are a second or two instead of minutes,
//! and seven guests, each of which does something else wrong, or nothing. It ends by itself after
//! five seconds. The guests are objects of one type, the server's side of them of another: see
//! `Guest` and `Host`.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use uring_netlib::conn::{Connection, Context};
use uring_netlib::pdu::{FrameSpec, Header, Pdu};
use uring_netlib::{
    Address, Backend, CloseReason, Delivery, Limits, Liveness, Netlib, OptionError, Options, Rate,
    Repeat, TimerId,
};

const HELP: &str = "\
Shows which deadline or limit ends which kind of bad guest; takes five seconds.

usage: cargo run --release --example idle_kick -- [--backend auto|uring|epoll]
";

/// When the last guest must be out.
const PARTY_MAX: Duration = Duration::from_secs(10);

/// What this example's PDUs say.
const LOGIN: Header = Header::new(1, 1);
const CHAT: Header = Header::new(1, 2);
const SEND_ME_A_LOT: Header = Header::new(1, 3);

/// How a guest behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Logs in, and sends heartbeats.
    Regular,
    /// Logs in, and says nothing more.
    Silent,
    /// Talks, but never logs in.
    Stranger,
    /// Sends a PDU byte by byte.
    Dripper,
    /// Asks for a lot, and reads nothing of it.
    Deaf,
    /// Sends more than anybody could read.
    Chatterbox,
    /// Sends a PDU of a length that cannot be.
    Liar,
}

const MANNERS: [Manner; 7] = [
    Manner::Regular,
    Manner::Silent,
    Manner::Stranger,
    Manner::Dripper,
    Manner::Deaf,
    Manner::Chatterbox,
    Manner::Liar,
];

struct Party {
    start: Instant,
    /// Who has which port.
    guests: HashMap<u16, Manner>,
    served: usize,
    inside: usize,
}

impl Party {
    fn tell(&self, text: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        // Whoever stops reading these lines does not stop the party.
        writeln!(io::stdout(), "{seconds:>7.2} s  {text}").ok();
    }
}

/// The server's side of a connection.
struct Host;

impl Connection<Party> for Host {
    fn on_connect(&mut self, party: &mut Party, _: &mut Context<'_, Party>) {
        party.served += 1;
        party.inside += 1;
    }

    fn on_pdu(&mut self, _: &mut Party, context: &mut Context<'_, Party>, pdu: Pdu<'_>) {
        match pdu.header() {
            Some(LOGIN) => context.mark_ready(),
            // What it does not take stays pending, and is not moved by anything.
            Some(SEND_ME_A_LOT) => {
                let a_lot = vec![0_u8; 60_000];
                // As much as it may; whether it is taken is another question.
                while context.send_pdu(CHAT, &a_lot).is_ok() {}
            }
            _ => {}
        }
    }

    fn on_close(
        &mut self,
        party: &mut Party,
        context: &mut Context<'_, Party>,
        reason: CloseReason,
    ) {
        let handle = context.handle();
        let address = context.net().option(handle).map(|option| option.remote_address());
        let guest = address.ok().and_then(port).and_then(|port| party.guests.get(&port));
        let name = guest.map_or_else(|| "somebody".to_owned(), |guest| format!("{guest:?}"));
        party.tell(&format!("{:<10} is out: {reason}", name.to_lowercase()));
        party.inside -= 1;
    }
}

/// The other side.
struct Guest {
    manner: Manner,
}

impl Connection<Party> for Guest {
    fn on_confirm(&mut self, party: &mut Party, context: &mut Context<'_, Party>) {
        let handle = context.handle();
        let address = context.net().option(handle).map(|option| option.local_address());
        if let Some(port) = address.ok().and_then(port) {
            party.guests.insert(port, self.manner);
        }
        if self.manner != Manner::Stranger {
            context.send_pdu(LOGIN, &()).ok();
        }
        match self.manner {
            Manner::Regular => {
                let liveness = Liveness::new().heartbeat(Duration::from_millis(500));
                if let Ok(mut option) = context.net().option(handle) {
                    option.set_liveness(liveness);
                }
            }
            Manner::Deaf => {
                context.pause_receive();
                context.set_timer(Duration::from_millis(100), Repeat::Forever);
            }
            Manner::Liar => {
                context.send(&5_u32.to_be_bytes()).ok();
            }
            Manner::Dripper => {
                context.send(&4096_u32.to_be_bytes()).ok();
                context.set_timer(Duration::from_millis(200), Repeat::Forever);
            }
            Manner::Stranger | Manner::Chatterbox => {
                context.set_timer(Duration::from_millis(100), Repeat::Forever);
            }
            Manner::Silent => {}
        }
    }

    fn on_timer(&mut self, _: &mut Party, context: &mut Context<'_, Party>, _: TimerId) {
        match self.manner {
            Manner::Dripper => drop(context.send(&[0])),
            Manner::Chatterbox => {
                for _ in 0..100 {
                    context.send_pdu(CHAT, &()).ok();
                }
            }
            Manner::Deaf => drop(context.send_pdu(SEND_ME_A_LOT, &())),
            _ => drop(context.send_pdu(CHAT, &())),
        }
    }
}

fn port(address: Result<Address, OptionError>) -> Option<u16> {
    match address {
        Ok(Address::Ip(address)) => Some(address.port()),
        _ => None,
    }
}

fn main() -> ExitCode {
    let backend = match backend() {
        Ok(Some(backend)) => backend,
        Ok(None) => {
            io::stdout().write_all(HELP.as_bytes()).ok();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("idle_kick: {error}; --help lists what it takes");
            return ExitCode::from(2);
        }
    };
    match run(backend) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle_kick: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn backend() -> Result<Option<Backend>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut backend = Backend::Auto;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("backend") => backend = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(backend))
}

fn run(backend: Backend) -> Result<(), Box<dyn Error>> {
    let spec = FrameSpec::teamtalk().with_max(65536);
    let options = Options::new().backend(backend).delivery(Delivery::Pdu(spec));
    let mut net: Netlib<Party> = options.build()?;
    writeln!(io::stdout(), "{}", net.backend()).ok();
    let listener = net.listen_objects("127.0.0.1:0", |_, _| Box::new(Host))?;
    let mut option = net.option(listener)?;
    option.set_liveness(
        Liveness::new()
            .handshake(Duration::from_secs(1))
            .frame(Duration::from_millis(1500))
            .read_idle(Duration::from_secs(2))
            .write_stall(Duration::from_secs(2))
            .lifetime(Duration::from_secs(5)),
    );
    option.set_limits(
        Limits::new().pdus(Rate::per_second(200)).patience(Duration::from_millis(1500)),
    );
    let address = option.local_address()?;

    let mut party = Party { start: Instant::now(), guests: HashMap::new(), served: 0, inside: 0 };
    for manner in MANNERS {
        net.connect_object(&address, Box::new(Guest { manner }))?;
    }
    party.tell("seven guests arrive");
    let end = party.start + PARTY_MAX;
    while (party.served < MANNERS.len() || party.inside > 0) && Instant::now() < end {
        net.turn(&mut party, Duration::from_millis(100))?;
    }
    if party.served < MANNERS.len() || party.inside > 0 {
        return Err(
            "not all guests were served; raise the limit of descriptors: ulimit -n 64".into()
        );
    }
    party.tell("nobody is left");

    let stats = net.stats();
    let rows = [
        ("not ready in time", stats.closes.handshake),
        ("a PDU not whole", stats.closes.frame),
        ("silent", stats.closes.read_idle),
        ("took nothing", stats.closes.write_stall),
        ("too fast", stats.closes.rate),
        ("bad length", stats.closes.bad_frame),
        ("lifetime over", stats.closes.lifetime),
        ("pauses for speed", stats.rate_pauses),
        ("alarms", stats.timers_fired),
    ];
    for (name, count) in rows {
        writeln!(io::stdout(), "{name:<18} {count:>6}").ok();
    }
    Ok(())
}
