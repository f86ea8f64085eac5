//! Simulated networks, to test a server in virtual time: the feature `sim`.
//!
//! A [`SimNet`] is nothing but memory, a clock and a seed. Its [hosts](SimNet::host) run programs,
//! each with a [`Netlib`] of its own that was built with [`Options::sim`](crate::Options::sim), all
//! of them in one thread. The seed decides everything that a kernel or a network may decide: in
//! which order things complete, into how many pieces bytes are cut, when and how connections fail.
//! The same seed does the same again, and an hour in which nothing happens but heartbeats takes
//! milliseconds.
//!
//! What it is not: a model of throughput, of congestion, or of time spent in callbacks. There is
//! TCP and no Unix-domain socket, and no host names.
//!
//! # Testing a server
//!
//! ```
//! use std::time::Duration;
//! use uring_netlib::sim::{SimFaults, SimNet, SimNode};
//! use uring_netlib::{Delivery, Event, Handle, Netlib, Options};
//!
//! // The server under test sends back what it gets.
//! fn serve(_: &mut (), net: &mut Netlib<()>, handle: Handle, event: Event<'_>) {
//!     if let Event::Read(bytes) = event {
//!         net.send(handle, bytes).expect("little is on its way");
//!     }
//! }
//!
//! // The client of the test sends a line, and keeps what comes back.
//! fn ask(got: &mut Vec<u8>, net: &mut Netlib<Vec<u8>>, handle: Handle, event: Event<'_>) {
//!     match event {
//!         Event::Confirm => drop(net.send(handle, b"hello, is anybody there?")),
//!         Event::Read(bytes) => got.extend_from_slice(bytes),
//!         _ => {}
//!     }
//! }
//!
//! for seed in 0..20 {
//!     let sim = SimNet::new(seed);
//!     sim.set_faults(SimFaults::benign());
//!     let (near, far) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2]));
//!     let options = Options::new().delivery(Delivery::Push);
//!     let mut server = SimNode::new(options.clone().sim(&near).build()?, ());
//!     let mut client = SimNode::new(options.sim(&far).build()?, Vec::new());
//!     server.net.listen("10.0.0.1:8000", serve, 0)?;
//!     client.net.connect("10.0.0.1:8000", ask, 0)?;
//!     while client.app.len() < 24 {
//!         assert!(sim.step(&mut [&mut server, &mut client])?, "seed {seed} gets stuck");
//!     }
//!     assert_eq!(client.app, b"hello, is anybody there?", "seed {seed}");
//!     assert!(sim.elapsed() < Duration::from_secs(10), "seed {seed} takes too long");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::HostClock;
use crate::driver::sim::{Decisions, Net, World};
pub use crate::driver::sim::{SimCounts, SimFaults};
use crate::error::RunError;
use crate::netlib::Netlib;

/// A simulated network, and the time in it. All clones are the same network.
#[derive(Clone, Debug)]
pub struct SimNet {
    net: Net,
}

impl SimNet {
    /// A network without hosts and without [faults](Self::set_faults), at the time zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { net: Net::new(Decisions::from_seed(seed)) }
    }

    /// The same, where the bytes decide instead of a seed: each decision takes the next few of
    /// them, and a byte of zero lets happen whatever has a chance at all. Once they are used up
    /// it goes on as by a seed, always the same one. For fuzzers, whose inputs are then schedules.
    ///
    /// ```
    /// use uring_netlib::sim::SimNet;
    ///
    /// let net = SimNet::from_decisions(&[3, 1, 7]);
    /// assert_eq!([net.random(5), net.random(200), net.random(256)], [3, 1, 7]);
    /// ```
    #[must_use]
    pub fn from_decisions(bytes: &[u8]) -> Self {
        Self { net: Net::new(Decisions::from_bytes(bytes)) }
    }

    /// Changes how it misbehaves, from now on; what is on its way keeps its time. Sockets keep the
    /// buffers that they were made with.
    pub fn set_faults(&self, faults: SimFaults) {
        self.net.lock().set_faults(faults);
    }

    /// How it misbehaves.
    pub fn faults(&self) -> SimFaults {
        self.net.lock().faults().clone()
    }

    /// The host with that address, made when it is asked for first.
    pub fn host(&self, address: impl Into<IpAddr>) -> SimHost {
        let index = self.net.lock().host(address.into());
        SimHost { net: self.net.clone(), index }
    }

    /// How much time has passed in it.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.net.lock().clock().elapsed()
    }

    /// Lets nothing pass from one host to another for so long; it arrives afterwards.
    /// `Duration::MAX` is until [`heal`](Self::heal).
    pub fn clog(&self, from: &SimHost, to: &SimHost, span: Duration) {
        let mut world = self.net.lock();
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let until = world.now().saturating_add(span);
        world.shut(from.index, to.index, until);
    }

    /// Lets nothing pass between two hosts until [`heal`](Self::heal).
    pub fn partition(&self, one: &SimHost, other: &SimHost) {
        self.clog(one, other, Duration::MAX);
        self.clog(other, one, Duration::MAX);
    }

    /// Ends every [clog](Self::clog) and every [partition](Self::partition).
    pub fn heal(&self) {
        self.net.lock().heal();
    }

    /// Sockets that are not gone yet: those of programs, those that wait to be accepted, and those
    /// that were closed and still have to see their peer's end.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.net.lock().socket_count()
    }

    /// Operations that programs have asked their kernels for, and that are not over: as many as
    /// there are listeners where nothing is connected, and none where no program is left.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.net.lock().operation_count()
    }

    /// What it has done to its programs so far.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.net.lock().counts()
    }

    /// A number below `end` from the generator that decides everything else, for a test's own
    /// decisions.
    ///
    /// # Panics
    /// When `end` is 0.
    #[must_use]
    pub fn random(&self, end: u64) -> u64 {
        self.net.lock().decisions().below(end)
    }

    /// Whether a timeline is kept from now on, for [`take_timeline`](Self::take_timeline).
    pub fn keep_timeline(&self, keep: bool) {
        self.net.lock().keep_trace(keep);
    }

    /// The timeline since it was taken last: a line for each thing that happened, with the seconds
    /// since the start, the own address of the socket, and its number.
    #[must_use]
    pub fn take_timeline(&self) -> Vec<String> {
        self.net.lock().take_trace()
    }

    /// Writes a line of a test's own into the timeline, and into its hash.
    pub fn note(&self, text: &str) {
        self.net.lock().write(text);
    }

    /// A number made of everything that has happened, kept in a timeline or not: the same for the
    /// same seed and the same programs.
    #[must_use]
    pub fn timeline_hash(&self) -> u64 {
        self.net.lock().trace_hash()
    }

    /// Goes on by one step: one of the programs that have something to do makes a turn, or else
    /// time jumps to when the next one has. `false` when nothing is ever going to happen.
    ///
    /// A program that is not among those given stands still, as if its host were paused.
    ///
    /// # Errors
    /// What the turn has failed with.
    pub fn step(&self, programs: &mut [&mut dyn SimProgram]) -> Result<bool, RunError> {
        self.step_until(programs, u64::MAX)
    }

    /// Goes on until that much time has passed.
    ///
    /// # Errors
    /// What a turn has failed with.
    pub fn run_for(
        &self,
        programs: &mut [&mut dyn SimProgram],
        span: Duration,
    ) -> Result<(), RunError> {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let end = self.net.lock().now().saturating_add(span);
        while self.net.lock().now() < end {
            self.step_until(programs, end)?;
        }
        Ok(())
    }

    fn step_until(&self, programs: &mut [&mut dyn SimProgram], end: u64) -> Result<bool, RunError> {
        let (mut ready, mut due) = (Vec::new(), None);
        for (at, program) in programs.iter().enumerate() {
            match program.due() {
                Some(Duration::ZERO) => ready.push(at),
                Some(span) => due = Some(due.map_or(span, |least: Duration| least.min(span))),
                None => {}
            }
        }
        if ready.is_empty() {
            return Ok(self.jump(due, end));
        }
        let chosen = self.net.lock().decisions().choose(&ready);
        programs[chosen].turn()?;
        // A turn takes time, so that programs that are always busy do not stop it.
        let mut world = self.net.lock();
        let took = world.decisions().between(TURN_MIN, TURN_MAX);
        let time = world.now() + took;
        world.advance(time);
        Ok(true)
    }

    /// Lets time pass until a program has something to do, or the end has come.
    fn jump(&self, due: Option<Duration>, end: u64) -> bool {
        let mut world = self.net.lock();
        let now = world.now();
        let due = due.map(|due| now.saturating_add(nanos(due)));
        let due = due.unwrap_or(u64::MAX).min(end);
        let mut has_passed = false;
        loop {
            let target = world.next_time().unwrap_or(u64::MAX).min(due);
            if target == u64::MAX {
                return has_passed;
            }
            world.advance(target);
            has_passed = true;
            if target == due || world.has_stirred() {
                return true;
            }
        }
    }
}

/// A host of a [`SimNet`]. All clones are the same host.
#[derive(Clone, Debug)]
pub struct SimHost {
    net: Net,
    index: usize,
}

impl SimHost {
    pub(crate) const fn net(&self) -> &Net {
        &self.net
    }

    pub(crate) const fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn clock(&self) -> HostClock {
        self.net.lock().clock_of(self.index)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.net.lock().address(self.index)
    }

    /// How much time has passed by its own clock, see [`SimFaults::drift`].
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock().elapsed()
    }

    /// Stops its programs, as `SIGSTOP` does: its kernel still takes what arrives, for as long as
    /// there is room.
    pub fn pause(&self) {
        self.with(|world, index| world.pause(index, true));
    }

    /// Lets its programs go on.
    pub fn resume(&self) {
        self.with(|world, index| world.pause(index, false));
    }

    /// Takes the power away: its programs never go on, its connections are lost, and its peers are
    /// told nothing. What its programs are made of is to be dropped.
    pub fn crash(&self) {
        self.with(World::crash);
    }

    /// Lets it start again, with nothing: new programs may be built, and what still comes for
    /// connections of old is answered with resets.
    pub fn restart(&self) {
        self.with(World::restart);
    }

    fn with(&self, call: impl FnOnce(&mut World, usize)) {
        call(&mut self.net.lock(), self.index);
    }
}

/// A program that a [`SimNet`] lets run: a [`SimNode`], or something with a [`Netlib`] inside.
pub trait SimProgram {
    /// Makes one turn that waits for nothing.
    ///
    /// # Errors
    /// What [`Netlib::turn`] has failed with.
    fn turn(&mut self) -> Result<(), RunError>;

    /// In how long the next turn has something to do, see [`Netlib::due`].
    fn due(&self) -> Option<Duration>;
}

/// A program of a test: a [`Netlib`], and the state that it lends to its callbacks.
#[derive(Debug)]
pub struct SimNode<A> {
    /// The `Netlib`, built with [`Options::sim`](crate::Options::sim).
    pub net: Netlib<A>,
    /// The application's state.
    pub app: A,
}

impl<A> SimNode<A> {
    /// A program of both.
    pub const fn new(net: Netlib<A>, app: A) -> Self {
        Self { net, app }
    }
}

impl<A> SimProgram for SimNode<A> {
    fn turn(&mut self) -> Result<(), RunError> {
        self.net.turn(&mut self.app, Duration::ZERO)
    }

    fn due(&self) -> Option<Duration> {
        self.net.due()
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// How long a turn takes, in ns.
const TURN_MIN: u64 = 1000;
const TURN_MAX: u64 = 20_000;
