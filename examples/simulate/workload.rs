//! One seed of the simulated workload: programs, a network, faults, and what has to be true.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use uring_netlib::sim::{SimCounts, SimFaults, SimHost, SimNet, SimNode, SimProgram};
use uring_netlib::{Delivery, Handle, RunError};

use crate::oracle::{Kind, Oracle, Side};
use crate::programs::{Bounds, Program, start};

/// What became of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The hash of everything that happened.
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    pub(crate) pdus: u64,
    pub(crate) closes: u64,
    pub(crate) connections: u32,
    /// What the network and the programs' hosts went through.
    pub(crate) faults: SimCounts,
    pub(crate) elapsed: Duration,
}

/// A rule that did not hold.
#[derive(Debug)]
pub(crate) struct Breach {
    pub(crate) text: String,
    pub(crate) at: Duration,
}

/// A program, and whether it did anything since it was looked at.
struct Runner {
    node: SimNode<Program>,
    has_moved: bool,
}

impl SimProgram for Runner {
    fn turn(&mut self) -> Result<(), RunError> {
        self.has_moved = true;
        self.node.turn()
    }

    fn due(&self) -> Option<Duration> {
        self.node.due()
    }
}

/// A seed's world in progress.
pub(crate) struct World {
    pub(crate) sim: SimNet,
    oracle: Rc<RefCell<Oracle>>,
    bounds: Bounds,
    hosts: Vec<SimHost>,
    runners: Vec<Runner>,
    body_max: u64,
    connections: u32,
    /// Things that are done before the faults are over.
    actions: u64,
    steps: u64,
    /// How many programs there were: each has a number of its own.
    programs: usize,
    kind: Kind,
    /// Whether a host has crashed, which leaves connections without a peer in the network.
    has_crashed: bool,
}

/// Runs a seed to its end, or to the first breach.
pub(crate) fn run(seed: u64) -> Result<Outcome, Breach> {
    run_world(World::new(seed))
}

/// The same, in a world that was made before. A rule that the library asserts by itself is one
/// like the others.
pub(crate) fn run_world(world: World) -> Result<Outcome, Breach> {
    let sim = world.sim.clone();
    let caught = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    caught.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or(cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Breach { text: text.unwrap_or_else(|| "a panic".to_owned()), at: sim.elapsed() })
    })
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        // Some seeds are held to more, and a few to less.
        let kind = match seed % 16 {
            0 | 4 | 8 | 12 => Kind::Calm,
            15 => Kind::Corrupt,
            _ => Kind::Wild,
        };
        let sim = SimNet::new(seed);
        let actions = 100 + sim.random(200);
        Self::build(sim, (kind, seed), actions, [0, 20, 200, 3000])
    }

    /// A shorter workload that bytes decide, a fuzzer's.
    pub(crate) fn from_decisions(bytes: &[u8]) -> Self {
        let sim = SimNet::from_decisions(bytes);
        let kind = [Kind::Calm, Kind::Wild, Kind::Wild, Kind::Corrupt][draw(&sim, 4)];
        let (swarm, actions) = (sim.random(1 << 16), 5 + sim.random(25));
        Self::build(sim, (kind, swarm), actions, [0, 20, 100, 300])
    }

    /// A world of so many actions, and bodies of one of those lengths at most.
    fn build(sim: SimNet, (kind, swarm): (Kind, u64), actions: u64, bodies: [u64; 4]) -> Self {
        let calm_delay = Duration::from_micros(10)..Duration::from_millis(1);
        sim.set_faults(match kind {
            Kind::Calm => SimFaults::benign().delay(calm_delay).buffers(512..=64 << 10),
            Kind::Wild => SimFaults::swarm(swarm),
            Kind::Corrupt => SimFaults::swarm(swarm).corrupt(1 + (SPOILT >> (swarm / 16 % 8))),
        });
        let of = |choices: &[u64]| choices[draw(&sim, choices.len())];
        let bounds = Bounds {
            buffers: u16::try_from(of(&[1, 2, 8, 64])).unwrap_or(1),
            buffer_len: u32::try_from(of(&[64, 100, 1024, 4096])).unwrap_or(64),
            backlog_max: u32::try_from(of(&[1000, 4000, 64_000])).unwrap_or(1000),
            buffered_max: match (kind, draw(&sim, 4)) {
                (Kind::Calm, _) | (_, 1..) => 1 << 30,
                (Kind::Wild | Kind::Corrupt, 0) => 8000,
            },
            delivery: match draw(&sim, 4) {
                0 => Delivery::Push,
                1 => Delivery::Pull,
                _ => Delivery::default(),
            },
        };
        let body_max = of(&bodies);
        let hosts: Vec<SimHost> = (1..=2 + sim.random(3))
            .map(|last| sim.host([10, 0, 0, u8::try_from(last).unwrap_or(9)]))
            .collect();
        let oracle = Oracle::new(kind);
        let mut world = Self {
            sim,
            oracle: Rc::new(RefCell::new(oracle)),
            bounds,
            hosts,
            runners: Vec::new(),
            body_max,
            connections: 0,
            actions,
            steps: 0,
            programs: 0,
            kind,
            has_crashed: false,
        };
        for index in 0..world.hosts.len() {
            let runner = world.program(index);
            world.runners.push(runner);
        }
        world
    }

    /// A new program for a host.
    fn program(&mut self, host: usize) -> Runner {
        self.programs += 1;
        let program = Program {
            number: self.programs,
            side: if host == 0 { Side::Server } else { Side::Client },
            sim: self.sim.clone(),
            host: self.hosts[host].clone(),
            oracle: Rc::clone(&self.oracle),
            body_max: self.body_max,
            kind: self.kind,
            is_quiet: false,
            listener: None,
            begun: BTreeMap::new(),
        };
        Runner { node: start(program, self.bounds), has_moved: true }
    }

    /// Goes through all phases of the workload.
    fn run(mut self) -> Result<Outcome, Breach> {
        for _ in 0..self.actions {
            self.act();
            for _ in 0..=self.sim.random(6) {
                self.step()?;
            }
        }
        self.heal();
        let start = self.sim.elapsed();
        while !self.oracle.borrow().is_complete() {
            let is_stuck = !self.step()? || self.sim.elapsed() > start + BOUND;
            if is_stuck && !self.oracle.borrow().is_complete() {
                let waiting = self.oracle.borrow().waiting();
                return Err(self.breach(format!("stuck: {waiting:?}")));
            }
        }
        self.run_until(self.sim.elapsed() + BOUND)?;
        self.expect_settled()?;
        self.close_all();
        self.run_until(self.sim.elapsed() + BOUND)?;
        self.expect_nothing_left()?;
        let oracle = self.oracle.borrow();
        Ok(Outcome {
            hash: self.sim.timeline_hash(),
            steps: self.steps,
            pdus: oracle.pdus,
            closes: oracle.closes,
            connections: self.connections,
            faults: self.sim.counts(),
            elapsed: self.sim.elapsed(),
        })
    }

    /// Goes on until then, or until nothing is ever going to happen.
    fn run_until(&mut self, end: Duration) -> Result<(), Breach> {
        while self.sim.elapsed() < end && self.step()? {}
        Ok(())
    }

    /// One step of the network, and what must hold after it.
    fn step(&mut self) -> Result<bool, Breach> {
        self.steps += 1;
        let mut programs: Vec<&mut dyn SimProgram> =
            self.runners.iter_mut().map(|runner| runner as &mut dyn SimProgram).collect();
        let stepped = self.sim.step(&mut programs);
        for Runner { node: SimNode { net, app }, has_moved } in &mut self.runners {
            if std::mem::take(has_moved) {
                app.check(net, self.bounds);
                app.serve(net);
            }
        }
        let broken = self.oracle.borrow_mut().breach.take();
        if let Some(text) = broken {
            return Err(self.breach(text));
        }
        if self.steps > STEPS_MAX {
            return Err(self.breach("spin: too many steps".to_owned()));
        }
        stepped.map_err(|error| self.breach(format!("a turn has failed: {error}")))
    }

    fn breach(&self, text: String) -> Breach {
        self.sim.note(&format!("BREACH {text}"));
        Breach { text, at: self.sim.elapsed() }
    }

    /// Something that a program does, or that is done to the network.
    fn act(&mut self) {
        let index = draw(&self.sim, self.runners.len());
        let Runner { node: SimNode { net, app }, has_moved } = &mut self.runners[index];
        *has_moved = true;
        match self.sim.random(if self.kind == Kind::Calm { 90 } else { 100 }) {
            0..=14 if app.side == Side::Client => {
                app.connect(net, self.connections);
                self.connections += 1;
            }
            0..=89 => app.act(net),
            _ => self.disturb(index),
        }
    }

    fn disturb(&mut self, index: usize) {
        let other = draw(&self.sim, self.hosts.len());
        let span = Duration::from_millis(self.sim.random(20_000));
        let (one, other) = (&self.hosts[index], &self.hosts[other]);
        match self.sim.random(12) {
            0..=2 => self.sim.clog(one, other, span),
            3 => self.sim.partition(one, other),
            4..=5 => self.sim.heal(),
            6..=7 => one.pause(),
            8..=9 => self.hosts.iter().for_each(SimHost::resume),
            10 => self.kill(index),
            _ => self.crash(index),
        }
    }

    /// A host loses power, and starts again with a new program.
    fn crash(&mut self, index: usize) {
        self.has_crashed = true;
        self.hosts[index].crash();
        self.oracle.borrow_mut().on_crash(self.runners[index].node.app.number);
        self.hosts[index].restart();
        self.runners[index] = self.program(index);
    }

    /// A program ends in the middle of what it does, and another one takes its place.
    fn kill(&mut self, index: usize) {
        self.sim.note("a program is killed");
        self.oracle.borrow_mut().on_crash(self.runners[index].node.app.number);
        drop(self.runners.remove(index));
        let next = self.program(index);
        self.runners.insert(index, next);
    }

    /// Ends all faults, and all that would keep anything back.
    fn heal(&mut self) {
        self.sim.note("the faults are over");
        self.sim.set_faults(SimFaults::none());
        self.sim.heal();
        self.hosts.iter().for_each(SimHost::resume);
        for Runner { node: SimNode { net, app }, .. } in &mut self.runners {
            app.quieten(net);
        }
    }

    fn close_all(&mut self) {
        self.sim.note("everything is closed");
        for Runner { node: SimNode { net, app }, .. } in &mut self.runners {
            let open: Vec<Handle> = self.oracle.borrow().open(app.number).collect();
            for handle in open {
                app.close(net, handle);
            }
        }
    }

    /// What was asked for or closed has come to its end by itself, and not by a peer's.
    fn expect_settled(&self) -> Result<(), Breach> {
        for Runner { node: SimNode { net, .. }, .. } in &self.runners {
            let stats = net.stats();
            if stats.sockets != stats.listening + stats.connected {
                return Err(self.breach(format!("unsettled: {stats:?}")));
            }
        }
        Ok(())
    }

    /// Nothing is open any more but the server's listener.
    fn expect_nothing_left(&self) -> Result<(), Breach> {
        self.oracle.borrow_mut().expect_all_over();
        for Runner { node: SimNode { net, app }, .. } in &self.runners {
            let stats = net.stats();
            let expected = u64::from(app.side == Side::Server);
            if stats.sockets != expected || stats.buffered_bytes != 0 {
                return Err(self.breach(format!("left: {stats:?}")));
            }
        }
        if self.sim.operations() != 1 {
            let count = self.sim.operations();
            return Err(self.breach(format!("operations: {count} are not over")));
        }
        if !self.has_crashed && self.sim.sockets() != 1 {
            return Err(self.breach(format!("leaked: {} sockets", self.sim.sockets() - 1)));
        }
        let breach = self.oracle.borrow_mut().breach.take();
        breach.map_or(Ok(()), |text| Err(self.breach(text)))
    }
}

/// An index below `len`.
fn draw(sim: &SimNet, len: usize) -> usize {
    usize::try_from(sim.random(len as u64)).unwrap_or(0)
}

/// In how many of ten thousand pieces a bit is turned over, at most.
const SPOILT: u32 = 4000;

/// Within how much time all accepted work is done once the faults are over, and every deadline has
/// come that was running: the longest takes 40 s, by a clock that may be a fifth too slow.
const BOUND: Duration = Duration::from_secs(60);

/// Steps beyond which something goes round in circles.
const STEPS_MAX: u64 = 200_000;
