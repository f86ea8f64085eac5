//! A driver under test, and its peers: threads with sockets of the kernel, or ends of simulated
//! connections.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{io, iter};

use socket2::{Domain, Socket, Type};

use crate::address::Address;
pub(super) use crate::driver::sim::peer::LIMIT;
use crate::driver::{Auto, Completion, Driver, Endpoint, Family, Op, Outcome, Rest, sim};
use crate::error::BuildError;
use crate::event::Handle;
use crate::options::{Backend, ListenOptions, Options};
use crate::sim::{SimFaults, SimNet};

/// What the ring driver is run without, each once: the paths of older kernels.
const MASKS: [&str; 6] = [
    "",
    "receive_multi",
    "accept_multi,receive_multi",
    "defer_taskrun",
    "single_issuer,coop_taskrun,submit_all,no_sqarray,no_iowait",
    "accept_multi,receive_multi,single_issuer,coop_taskrun,submit_all,no_sqarray,no_iowait",
];

/// Runs a rule's check on a new driver of each kind. Where io_uring is forbidden, its drivers are
/// skipped, unless `NETLIB_BACKEND` asks for them.
pub(super) fn on_every_driver(options: Options, check: impl Fn(&mut Rig)) {
    let uring =
        MASKS.map(|mask| options.clone().backend(Backend::Uring).mask(mask.parse().unwrap()));
    let is_asked_for = std::env::var("NETLIB_BACKEND").is_ok_and(|word| word == "uring");
    let epoll = [options.clone().backend(Backend::Epoll)];
    for options in uring.into_iter().chain(epoll).chain(simulated(&options)) {
        let driver = match Auto::start(&options) {
            Ok((driver, _)) => driver,
            Err(BuildError::Uring(reason)) if !is_asked_for => {
                println!("SKIPPED a ring without {}: {reason}", options.mask);
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        println!("on {driver:?}");
        let mut rig = Rig {
            driver,
            seen: Vec::new(),
            made: 0,
            start: Instant::now(),
            options,
            ended: Vec::new(),
        };
        check(&mut rig);
        rig.expect_conservation();
    }
}

/// The same options for simulated drivers: one that does everything at once and whole, and others
/// that do it in pieces and out of order. Their peers are in threads that do not wait for long, so
/// there are no delays and no small buffers.
fn simulated(options: &Options) -> Vec<Options> {
    let whole = (0, SimFaults::none());
    let benign = SimFaults::none().partial(3000).put_off(3000).trickle(2000).disarm(1000);
    let benign = benign.no_buffers(500).odd_buffer(5000).full_queue(3000).late_cancel(2000);
    let seeds = (1..4).map(|seed| (seed, benign.clone()));
    let worlds = iter::once(whole).chain(seeds).map(|(seed, faults)| {
        let net = SimNet::new(seed);
        net.set_faults(faults);
        options.clone().sim(&net.host([10, 0, 0, 1]))
    });
    worlds.collect()
}

/// A driver under test, with what it has yielded so far.
pub(super) struct Rig {
    pub(super) driver: Auto,
    pub(super) seen: Vec<Completion>,
    made: u32,
    start: Instant,
    options: Options,
    /// Operations whose last completion came.
    pub(super) ended: Vec<(Handle, Op)>,
}

impl Rig {
    pub(super) fn adopt(&mut self, socket: Endpoint, family: Family) -> Handle {
        let handle = Handle::new(self.made, 1);
        self.made += 1;
        self.driver.adopt(socket, family, handle).unwrap();
        handle
    }

    /// A connected pair: one end for the driver, one for the test.
    pub(super) fn tcp_pair(&mut self) -> (Handle, Peer) {
        let (near, far) = match &self.driver {
            Auto::Sim(driver) => {
                let (near, far) = driver.pair();
                (near, Peer::Sim(far))
            }
            Auto::Uring(_) | Auto::Epoll(_) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                far.set_read_timeout(Some(LIMIT)).unwrap();
                (OwnedFd::from(listener.accept().unwrap().0).into(), Peer::System(far.into()))
            }
        };
        (self.adopt(near, Family::Inet), far)
    }

    /// A connected pair of Unix-domain sockets, or of whatever there is instead.
    pub(super) fn unix_pair(&mut self) -> (Handle, Peer) {
        if let Auto::Sim(_) = self.driver {
            return self.tcp_pair();
        }
        let (near, far) = UnixStream::pair().unwrap();
        far.set_read_timeout(Some(LIMIT)).unwrap();
        let near = self.adopt(OwnedFd::from(near).into(), Family::Unix);
        (near, Peer::System(OwnedFd::from(far).into()))
    }

    pub(super) fn listener(&mut self) -> (Handle, SocketAddr) {
        let ip = match self.driver {
            Auto::Sim(_) => Ipv4Addr::UNSPECIFIED,
            Auto::Uring(_) | Auto::Epoll(_) => Ipv4Addr::LOCALHOST,
        };
        let socket = self.listen((ip, 0).into()).unwrap();
        let handle = self.adopt(socket, Family::Inet);
        let address = self.driver.socket(handle).unwrap().local_address().unwrap();
        (handle, address.as_socket().unwrap())
    }

    /// A listening socket at that address.
    pub(super) fn listen(&mut self, address: SocketAddr) -> io::Result<Endpoint> {
        self.driver.listener(&Address::Ip(address), &address.into(), ListenOptions::new())
    }

    /// A client of one of the driver's listeners.
    pub(super) fn dial(&self, address: SocketAddr) -> Peer {
        match &self.driver {
            Auto::Sim(driver) => Peer::Sim(driver.dial(address)),
            Auto::Uring(_) | Auto::Epoll(_) => {
                Peer::System(TcpStream::connect(address).unwrap().into())
            }
        }
    }

    /// A socket of the driver that is being connected.
    pub(super) fn connecting(&mut self, address: SocketAddr) -> Handle {
        let socket = self.driver.connector(&address.into()).unwrap();
        let handle = self.adopt(socket, Family::Inet);
        self.driver.connect(handle, address.into());
        handle
    }

    /// The address of a listener that somebody else has.
    pub(super) fn served(&self) -> (SocketAddr, Peer) {
        match &self.driver {
            Auto::Sim(driver) => {
                let (address, listener) = driver.target(true);
                (address, Peer::Sim(listener))
            }
            Auto::Uring(_) | Auto::Epoll(_) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                (listener.local_addr().unwrap(), Peer::System(listener.into()))
            }
        }
    }

    /// An address from which nobody will answer, for as long as the peers live.
    pub(super) fn silent(&self) -> (SocketAddr, Vec<Peer>) {
        if let Auto::Sim(driver) = &self.driver {
            let (address, listener) = driver.target(false);
            return (address, vec![Peer::Sim(listener)]);
        }
        // The listener's queue is full.
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let fill = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        };
        let sockets = (0..4).map(fill).chain([listener]).map(Peer::System).collect();
        (address.as_socket().unwrap(), sockets)
    }

    /// Another driver of the same kind, to take the place of one that is dropped.
    pub(super) fn another(&self) -> Auto {
        Auto::start(&self.options).unwrap().0
    }

    /// Whether a rest may come back short for no reason.
    pub(super) const fn is_simulated(&self) -> bool {
        matches!(self.driver, Auto::Sim(_))
    }

    /// More bytes than both ends of a connection have room for. A simulated network has less, and
    /// takes longer for each byte.
    pub(super) fn plenty(&self) -> usize {
        match &self.driver {
            Auto::Sim(_) => 512 << 10,
            Auto::Uring(_) | Auto::Epoll(_) => 16 << 20,
        }
    }

    /// How much time has passed, in the driver's own time.
    pub(super) fn elapsed(&self) -> Duration {
        match &self.driver {
            Auto::Sim(driver) => driver.elapsed(),
            Auto::Uring(_) | Auto::Epoll(_) => self.start.elapsed(),
        }
    }

    /// One wait, with its completions checked for what no driver may do.
    pub(super) fn wait(&mut self, timeout: Duration) {
        let mut batch = Vec::new();
        self.driver.wait(Some(timeout), &mut batch).unwrap();
        if let Auto::Sim(driver) = &self.driver {
            driver.idle();
        }
        for completion in batch {
            let key = (completion.handle, completion.outcome.op());
            assert!(!self.ended.contains(&key), "D1: {completion:?} after the last");
            if completion.last {
                self.ended.push(key);
            }
            self.seen.push(completion);
        }
    }

    /// Says that an operation which had ended was submitted again.
    pub(super) fn resubmit(&mut self, handle: Handle, op: Op) {
        self.ended.retain(|key| *key != (handle, op));
        match op {
            Op::Accept => self.driver.accept(handle),
            Op::Receive => self.driver.receive(handle),
            _ => unreachable!("only those are armed"),
        }
    }

    pub(super) fn receive_whole(&mut self, handle: Handle, len: usize) {
        self.ended.retain(|key| *key != (handle, Op::Receive));
        self.driver.receive_whole(handle, len);
    }

    pub(super) fn receive_rest(&mut self, handle: Handle, rest: Rest) {
        self.ended.retain(|key| *key != (handle, Op::Receive));
        self.driver.receive_rest(handle, rest);
    }

    /// Waits until `find` takes something out of what was seen.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut find: impl FnMut(&mut Vec<Completion>) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = find(&mut self.seen) {
                return found;
            }
            assert!(start.elapsed() < LIMIT, "no {what}; seen {:?}", self.seen);
            self.wait(Duration::from_millis(50));
        }
    }

    /// Waits for the last completion of an operation.
    pub(super) fn last_of(&mut self, handle: Handle, op: Op) -> Outcome {
        self.until("last completion", |seen| {
            let is_it =
                |one: &Completion| one.last && one.handle == handle && one.outcome.op() == op;
            seen.iter().position(is_it).map(|position| seen.remove(position).outcome)
        })
    }

    /// Receives until `len` bytes are there or the stream has ended, armed again where it ended
    /// early, and says whether it has ended.
    pub(super) fn receive(&mut self, handle: Handle, bytes: &mut Vec<u8>, len: usize) -> bool {
        loop {
            let (outcome, last) = self.until("received bytes", |seen| {
                let is_it =
                    |one: &Completion| one.handle == handle && one.outcome.op() == Op::Receive;
                let position = seen.iter().position(is_it)?;
                let one = seen.remove(position);
                Some((one.outcome, one.last))
            });
            let is_end = matches!(outcome, Outcome::EndOfStream);
            match outcome {
                Outcome::Received(chunk) => bytes.extend_from_slice(&chunk),
                Outcome::EndOfStream | Outcome::NoBuffers => assert!(last),
                other => panic!("D6: {other:?} instead of bytes"),
            }
            if is_end || bytes.len() >= len {
                return is_end;
            }
            if last && self.ended.contains(&(handle, Op::Receive)) {
                self.resubmit(handle, Op::Receive);
            }
        }
    }

    pub(super) fn accepted(&mut self, listener: Handle) -> Endpoint {
        let (socket, last) = self.until("client", |seen| {
            let position =
                seen.iter().position(|one| matches!(one.outcome, Outcome::Accepted(_)))?;
            let one = seen.remove(position);
            assert_eq!(one.handle, listener);
            let Outcome::Accepted(socket) = one.outcome else { unreachable!() };
            Some((socket, one.last))
        });
        if last {
            self.resubmit(listener, Op::Accept);
        }
        socket
    }

    /// Every buffer is free, with the kernel, or lent to a completion that was seen.
    fn expect_conservation(&mut self) {
        self.seen.clear();
        let counters = self.driver.counters();
        assert_eq!(counters.buffers_lent, 0, "a buffer is neither free nor the kernel's");
    }
}

/// The other end of a driver's connection, which blocks unless it is told not to.
pub(super) enum Peer {
    System(Socket),
    Sim(sim::peer::Peer),
}

impl Peer {
    pub(super) fn set_blocking(&mut self, is_blocking: bool) {
        match self {
            Self::System(socket) => socket.set_nonblocking(!is_blocking).unwrap(),
            Self::Sim(peer) => peer.set_blocking(is_blocking),
        }
    }

    /// Leaves it little room for what it does not read.
    pub(super) fn shrink(&mut self) {
        if let Self::System(socket) = self {
            socket.set_recv_buffer_size(1 << 15).unwrap();
        }
    }

    /// Closes it by a reset.
    pub(super) fn reset(self) {
        match self {
            Self::System(socket) => socket.set_linger(Some(Duration::ZERO)).unwrap(),
            Self::Sim(peer) => peer.reset(),
        }
    }
}

impl Read for Peer {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.read(space),
            Self::Sim(peer) => peer.read(space),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::System(socket) => socket.write(bytes),
            Self::Sim(peer) => peer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
