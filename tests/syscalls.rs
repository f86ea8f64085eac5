//! How many system calls an echo costs: exactly so many, by the library's counters and by the
//! kernel's own count.
//!
//! One thread is the server and all of its clients, in turns, so that everything that is asked is
//! there before the server looks. Now and then the kernel hands something over later; what is exact
//! is therefore the cost of most rounds, and the cost of a turn in all of them.

#[path = "support/kernel.rs"]
mod kernel;
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{env, iter};

use kernel::{Calls, Tracee};
use support::{
    Address, Backend, CHILD, Event, Guard, Handle, Netlib, Options, backends, frame, marked,
    on_every_backend,
};

/// So many PDUs on each of so many connections, before their answers are read.
#[derive(Clone, Copy, Debug)]
struct Load {
    connections: u64,
    depth: u64,
}

const LOADS: [Load; 3] = [
    Load { connections: 1, depth: 1 },
    Load { connections: 50, depth: 1 },
    Load { connections: 1, depth: 16 },
];

const ROUNDS: usize = 40;

/// What one round has cost, as the library counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    turns: u64,
    waits: u64,
    sends: u64,
}

impl Cost {
    /// One turn for the questions, another for the answers. With the ring each is one call, which
    /// submits and waits. With epoll the second has completions at once, and does not wait.
    fn is_expected(self, backend: Backend, load: Load) -> bool {
        let Self { turns, waits, sends } = self;
        let is_two = match backend {
            Backend::Epoll => (turns, waits) == (2, 1),
            _ if load.connections > DEFERRED => (2..=3).contains(&turns) && waits == turns,
            _ => (turns, waits) == (2, 2),
        };
        is_two && sends == load.connections
    }
}

/// A server, and its clients.
struct Rig {
    net: Netlib<Echo>,
    app: Echo,
    clients: Vec<TcpStream>,
    load: Load,
}

#[derive(Default)]
struct Echo {
    clients: u64,
    pdus: u64,
}

fn echo(app: &mut Echo, net: &mut Netlib<Echo>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } => app.clients += 1,
        Event::Pdu(pdu) => {
            app.pdus += 1;
            net.send(handle, pdu.frame()).unwrap();
        }
        _ => {}
    }
}

impl Rig {
    /// All clients connected, and warm.
    fn new(options: Options, load: Load) -> Self {
        let mut net = options.build().unwrap();
        let listener = net.listen("127.0.0.1:0", echo, 0).unwrap();
        let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
            panic!("an IPv4 address");
        };
        let connect = || TcpStream::connect(address).unwrap();
        let count = usize::try_from(load.connections).unwrap();
        let clients = iter::repeat_with(connect).take(count).collect();
        let mut rig = Self { net, app: Echo::default(), clients, load };
        while rig.app.clients < load.connections {
            rig.net.turn(&mut rig.app, LIMIT).unwrap();
        }
        for _ in 0..3 {
            rig.round(|| {});
        }
        rig
    }

    /// Every client asks, the server answers, and every client reads. `mark` is called before and
    /// after what the server does.
    fn round(&mut self, mark: impl Fn()) -> Cost {
        let asked = frame(64, 0x5A).repeat(usize::try_from(self.load.depth).unwrap());
        for client in &mut self.clients {
            client.write_all(&asked).unwrap();
        }
        let before = self.net.stats();
        let pdus = self.app.pdus + self.load.connections * self.load.depth;
        mark();
        while self.app.pdus < pdus || self.net.stats().buffered_bytes > 0 {
            self.net.turn(&mut self.app, LIMIT).unwrap();
        }
        mark();
        let after = self.net.stats();
        let mut answer = vec![0; asked.len()];
        for client in &mut self.clients {
            client.read_exact(&mut answer).unwrap();
            assert!(answer == asked);
        }
        Cost {
            turns: after.turns - before.turns,
            waits: after.waits - before.waits,
            sends: after.sends - before.sends,
        }
    }
}

/// What there is most of.
fn most_common<T: Ord + Clone>(all: &[T]) -> T {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one).or_insert(0) += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.expect("there are some").0.clone()
}

/// Everything that arrived together is answered together: a round costs two turns, however many
/// PDUs it has, with one call each on the ring, and one send for each connection. Of many
/// connections the ring may hand over a few first, which costs a third.
#[test]
fn an_echo_costs_two_turns() {
    on_every_backend(|lane| {
        for load in LOADS {
            let mut rig = Rig::new(lane.options().spin(Duration::ZERO), load);
            let costs: Vec<Cost> = (0..ROUNDS).map(|_| rig.round(|| {})).collect();
            let cost = most_common(&costs);
            assert!(cost.is_expected(lane.backend, load), "{load:?} has {cost:?}");
        }
    });
}

/// A turn makes exactly the calls that are counted, and no others: `io_uring_enter` once, or
/// `epoll_wait` with a `recv` and a `send` for each socket.
#[test]
fn the_kernel_counts_the_same_calls() {
    if let Ok(role) = env::var(CHILD) {
        return be_traced(&role);
    }
    for backend in backends() {
        for load in LOADS {
            let role = format!("{backend} {} {}", load.connections, load.depth);
            let (child, mut stdin, mut lines) = Guard::start(TRACED, &role);
            let thread = marked(&mut lines, "thread=").parse().unwrap();
            let tracee = match Tracee::attach(thread) {
                Ok(tracee) => tracee,
                Err(error) => return println!("SKIPPED: no thread can be traced here: {error}"),
            };
            stdin.write_all(b"go\n").unwrap();
            let windows = tracee.windows(ROUNDS).unwrap();
            let costs: Vec<Cost> = (0..ROUNDS)
                .map(|_| {
                    let line = marked(&mut lines, "cost=");
                    let mut numbers = line.split(' ').map(|word| word.parse().unwrap());
                    let mut next = || numbers.next().unwrap();
                    Cost { turns: next(), waits: next(), sends: next() }
                })
                .collect();
            child.expect_success();
            let backend = backend.parse().unwrap();
            for (calls, cost) in windows.iter().zip(&costs) {
                check_window(backend, calls, *cost);
            }
            let cost = most_common(&costs);
            assert!(cost.is_expected(backend, load), "{role} has {cost:?}");
            assert_eq!(most_common(&windows), expected_calls(backend, cost, load), "{role}");
        }
    }
}

/// What holds in every round, also where something came late.
fn check_window(backend: Backend, calls: &Calls, cost: Cost) {
    let count = |call| calls.get(&call).copied().unwrap_or(0);
    match backend {
        Backend::Epoll => {
            let waits = WAITS.iter().map(|call| count(*call)).sum::<u64>();
            assert_eq!((waits, count(libc::SYS_sendto)), (cost.waits, cost.sends), "{calls:?}");
            assert!(waits <= cost.turns, "a turn waits once at most: {calls:?} {cost:?}");
        }
        _ => assert_eq!(*calls, Calls::from([(libc::SYS_io_uring_enter, cost.turns)]), "{cost:?}"),
    }
}

fn expected_calls(backend: Backend, cost: Cost, load: Load) -> Calls {
    match backend {
        Backend::Epoll => Calls::from([
            (WAITS[0], cost.waits),
            (libc::SYS_recvfrom, load.connections),
            (libc::SYS_sendto, cost.sends),
        ]),
        _ => Calls::from([(libc::SYS_io_uring_enter, cost.waits)]),
    }
}

/// The child: runs the load, with marks around what the server does, and tells what it counted.
fn be_traced(role: &str) {
    let mut words = role.split(' ');
    let mut next = || words.next().unwrap();
    let backend = next().parse().unwrap();
    let options = Options::new().backend(backend).spin(Duration::ZERO);
    let load = Load { connections: next().parse().unwrap(), depth: next().parse().unwrap() };
    let mut rig = Rig::new(options, load);
    println!("thread={}", kernel::thread_id());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let costs: Vec<Cost> = (0..ROUNDS).map(|_| rig.round(kernel::mark)).collect();
    for Cost { turns, waits, sends } in costs {
        println!("cost={turns} {waits} {sends}");
    }
}

/// As much deferred work does the kernel hand over in one call, since it has a limit for that.
const DEFERRED: u64 = 20;

const TRACED: &str = "the_kernel_counts_the_same_calls";

/// A turn that waits that long is stuck.
const LIMIT: Duration = Duration::from_secs(5);

/// What a C library makes of `epoll_wait`; the first is what the build's own does.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
const WAITS: [libc::c_long; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
const WAITS: [libc::c_long; 1] = [libc::SYS_epoll_pwait];
