//! What tests of reconnect sets share: a client with sets, whose time the test decides, and servers
//! that can be killed.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use uring_netlib::AddressError;
use uring_netlib::conn::{Backoff, Connection, Context, MemberInfo, MemberState, SetChange, SetId};
use uring_netlib::pdu::Pdu;

use super::{Address, CloseReason, DEADLINE, Handle, Lane, ManualClock, Netlib, Options};

/// The application: what its members and the watcher of its sets wrote down, each with the second.
#[derive(Default)]
pub struct App {
    clock: ManualClock,
    pub log: Vec<String>,
    /// When attempts were made, in milliseconds.
    pub attempts: Vec<u128>,
    /// Where a script is run, and the script.
    pub script: Option<(&'static str, Script)>,
}

pub type Script = fn(&mut App, &mut Netlib<App>, SetId);

impl App {
    pub fn write(&mut self, index: usize, text: &str) {
        let seconds = self.clock.elapsed().as_secs_f32();
        self.log.push(format!("{seconds} {index} {text}"));
    }

    /// Runs the script if this is its place.
    fn run(&mut self, place: &str, net: &mut Netlib<Self>, set: SetId) {
        if let Some((_, script)) = self.script.take_if(|(at, _)| *at == place) {
            script(self, net, set);
        }
    }
}

/// A member's connection. Writes down what it is told.
pub struct Member {
    index: usize,
    pub set: SetId,
    alive: Rc<Cell<usize>>,
}

impl Member {
    pub fn new(info: MemberInfo<'_>, alive: &Rc<Cell<usize>>) -> Box<Self> {
        alive.set(alive.get() + 1);
        Box::new(Self { index: info.index, set: info.set, alive: Rc::clone(alive) })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

impl Connection<App> for Member {
    fn on_confirm(&mut self, app: &mut App, context: &mut Context<'_, App>) {
        app.write(self.index, "confirm");
        app.run("confirm", context.net(), self.set);
    }

    fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, _: Pdu<'_>) {
        app.run("pdu", context.net(), self.set);
    }

    fn on_close(&mut self, app: &mut App, context: &mut Context<'_, App>, reason: CloseReason) {
        app.write(self.index, &format!("close {reason:?}"));
        app.run("close", context.net(), self.set);
    }
}

pub fn watch(app: &mut App, net: &mut Netlib<App>, change: &SetChange) {
    let name = |state: &MemberState| match state {
        MemberState::Waiting { .. } => "waiting".to_owned(),
        MemberState::Connecting => "connecting".to_owned(),
        MemberState::Open { age, .. } => format!("open {}", age.as_secs_f32()),
        other => panic!("a state that the tests do not know: {other:?}"),
    };
    let left = match change.after {
        MemberState::Waiting { left } => format!(" {}", left.as_secs_f32()),
        _ => String::new(),
    };
    let end = change.end.as_ref().map_or(String::new(), |end| format!(" because {end:?}"));
    let (before, after) = (name(&change.before), name(&change.after));
    app.write(change.index, &format!("{before} -> {after}{left}{end}"));
    app.run("watcher", net, change.set);
}

/// A `Netlib` with sets, whose time the test decides.
pub struct Client {
    pub net: Netlib<App>,
    pub app: App,
    pub clock: ManualClock,
    pub alive: Rc<Cell<usize>>,
}

impl Client {
    pub fn new(lane: &Lane) -> Self {
        Self::with(lane.options())
    }

    pub fn with(options: Options) -> Self {
        let clock = ManualClock::new();
        let net = options.clock(&clock).build::<App>().unwrap();
        let app = App { clock: clock.clone(), ..App::default() };
        Self { net, app, clock, alive: Rc::default() }
    }

    /// A watched set.
    pub fn set<T: TryInto<Address>>(&mut self, addresses: Vec<T>, backoff: Backoff) -> SetId
    where
        AddressError: From<T::Error>,
    {
        let alive = Rc::clone(&self.alive);
        let factory = move |app: &mut App, info: MemberInfo<'_>| -> Box<dyn Connection<App>> {
            app.attempts.push(app.clock.elapsed().as_millis());
            assert_eq!(info.state, MemberState::Connecting);
            let is_unlucky = app.script.take_if(|(place, _)| *place == "factory").is_some();
            assert!(!is_unlucky, "the factory panics on demand");
            Member::new(info, &alive)
        };
        let set = self.net.connect_set(addresses, backoff, factory).unwrap();
        self.net.watch_set(set, watch).unwrap();
        set
    }

    pub fn state(&mut self, set: SetId, index: usize) -> MemberState {
        let set = self.net.set(set).unwrap();
        set.members().nth(index).unwrap().state
    }

    pub fn open(&mut self, set: SetId) -> Vec<Handle> {
        self.net.set(set).unwrap().open().to_vec()
    }

    pub fn turn(&mut self) {
        self.net.turn(&mut self.app, Duration::ZERO).unwrap();
    }

    pub fn until(&mut self, what: &str, mut is_true: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_true(self) {
            assert!(Instant::now() < end, "no {what}: {:?}", self.app.log);
            self.net.turn(&mut self.app, Duration::from_millis(1)).unwrap();
        }
    }

    pub fn until_logged(&mut self, entry: &str) {
        self.until(entry, |client| client.app.log.iter().any(|one| one.ends_with(entry)));
    }

    /// Turns until so many members are open.
    pub fn until_open(&mut self, set: SetId, count: usize) {
        self.until("open members", |client| client.open(set).len() == count);
    }

    /// Turns until the member waits; how long it will.
    pub fn until_waiting(&mut self, set: SetId, index: usize) -> Duration {
        let mut wait = Duration::ZERO;
        self.until("waiting member", |client| match client.state(set, index) {
            MemberState::Waiting { left } => {
                wait = left;
                true
            }
            _ => false,
        });
        wait
    }

    /// Lets time pass until just before the end of a wait, when nothing may happen, and then ends
    /// it.
    pub fn wait_out(&mut self, wait: Duration) {
        let attempts = self.app.attempts.len();
        self.clock.advance(wait - Duration::from_millis(1));
        self.turn();
        assert_eq!(self.app.attempts.len(), attempts, "an attempt came early");
        self.clock.advance(Duration::from_millis(1));
        self.turn();
        assert_eq!(self.app.attempts.len(), attempts + 1, "an attempt is late");
    }

    /// Nothing is left of sets that were closed: no socket, no object, no alarm, no news.
    pub fn expect_nothing_left(&mut self) {
        let told = self.app.log.len();
        self.until("end of all sockets", |client| client.net.stats().sockets == 0);
        let net = format!("{:?}", self.net);
        assert!(net.contains("sets: Sets { len: 0, changes: 0"), "{net}");
        assert_eq!(self.net.stats().timers, 0, "{net}");
        assert_eq!(self.alive.get(), 0);
        self.clock.advance(Duration::from_secs(1000));
        self.turn();
        self.turn();
        assert_eq!(self.app.log[told..], [] as [String; 0], "{:?}", self.app.log);
    }
}

/// A server that can be killed and restarted. Nobody else uses its address, so that nobody takes
/// the port meanwhile.
pub struct Server {
    pub address: SocketAddr,
    listener: Option<TcpListener>,
    pub clients: Vec<TcpStream>,
}

impl Server {
    pub fn new() -> Self {
        static USED: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let host = Ipv4Addr::new(127, high | 1, low, USED.fetch_add(1, Ordering::Relaxed));
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, listener: Some(listener), clients: Vec::new() }
    }

    /// The kernel has completed the connection already, so this does not wait.
    pub fn accept(&mut self) -> &mut TcpStream {
        let (client, _) = self.listener.as_ref().unwrap().accept().unwrap();
        self.clients.push(client);
        self.clients.last_mut().unwrap()
    }

    pub fn kill(&mut self) {
        self.listener = None;
        self.clients.clear();
    }

    pub fn restart(&mut self) {
        self.listener = Some(TcpListener::bind(self.address).unwrap());
    }
}

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
