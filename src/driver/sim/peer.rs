//! The other end of a simulated connection without a driver, for the conformance suite: it blocks,
//! and lets time pass meanwhile, as a thread with a socket of the kernel does.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::world::{Id, World};
use super::{Endpoint, Loose, Net, Sim};

pub(crate) struct Peer {
    net: Net,
    id: Id,
    is_blocking: bool,
}

impl Sim {
    /// A connected pair: a socket for this driver, and its peer on another host.
    pub(crate) fn pair(&self) -> (Endpoint, Peer) {
        let mut world = self.net.lock();
        let socket = world.open(self.node);
        let near = world.insert(socket);
        let (listener, address) = listener(&mut world, ELSEWHERE);
        world.connect(near, address);
        pass(&mut world);
        let far = world.pop_client(listener).expect("there is room in the queue");
        world.close(listener);
        drop(world);
        (Endpoint::Sim(Loose::new(self.net.clone(), near)), self.peer(far))
    }

    /// A peer that connects to a listener of this driver.
    pub(crate) fn dial(&self, address: SocketAddr) -> Peer {
        let mut world = self.net.lock();
        let host = world.host(ELSEWHERE.into());
        let node = world.add_node(host);
        let socket = world.open(node);
        let id = world.insert(socket);
        world.connect(id, address);
        pass(&mut world);
        assert!(world.stream(id).is_some(), "nobody listens at {address}");
        drop(world);
        self.peer(id)
    }

    /// An address at which somebody listens, or at which nobody ever answers.
    pub(crate) fn target(&self, answers: bool) -> (SocketAddr, Peer) {
        let mut world = self.net.lock();
        let (id, address) = listener(&mut world, if answers { ELSEWHERE } else { SILENT });
        if !answers {
            let host = world.host(SILENT.into());
            world.crash(host);
        }
        drop(world);
        (address, self.peer(id))
    }

    /// How much time has passed in the world.
    pub(crate) fn elapsed(&self) -> Duration {
        self.net.lock().clock().elapsed()
    }

    /// Lets as much time pass as a system call may take.
    pub(crate) fn idle(&self) {
        let mut world = self.net.lock();
        pass(&mut world);
    }

    fn peer(&self, id: Id) -> Peer {
        Peer { net: self.net.clone(), id, is_blocking: true }
    }
}

impl Peer {
    pub(crate) fn set_blocking(&mut self, is_blocking: bool) {
        self.is_blocking = is_blocking;
    }

    /// Closes it by a reset, which has arrived when this returns.
    pub(crate) fn reset(self) {
        let mut world = self.net.lock();
        if let Some(stream) = world.stream_mut(self.id) {
            stream.resets_on_close = true;
        }
        world.close(self.id);
        pass(&mut world);
    }

    /// Tries until something comes about, unless it must not block.
    fn until<T>(&self, mut attempt: impl FnMut(&mut World) -> Option<T>) -> io::Result<T> {
        let start = Instant::now();
        loop {
            let mut world = self.net.lock();
            let outcome = attempt(&mut world);
            pass(&mut world);
            match outcome {
                Some(outcome) => return Ok(outcome),
                None if self.is_blocking && start.elapsed() < LIMIT => thread::yield_now(),
                None => return Err(ErrorKind::WouldBlock.into()),
            }
        }
    }
}

impl Read for Peer {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let outcome = self.until(|world| {
            let stream = world.stream_mut(self.id)?;
            if stream.inbox.is_empty() {
                let error = stream.error.take();
                return error.map(Err).or_else(|| stream.is_readable().then_some(Ok(0)));
            }
            let len = space.len().min(stream.inbox.len());
            for (place, byte) in space.iter_mut().zip(stream.inbox.drain(..len)) {
                *place = byte;
            }
            world.made_room(self.id);
            Some(Ok(len))
        })?;
        outcome.map_err(|errno| io::Error::from_raw_os_error(errno.0))
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until(|world| {
            let len = world.room(self.id).min(bytes.len());
            if len > 0 {
                world.push(self.id, bytes[..len].iter().copied().collect());
            }
            (len > 0).then_some(len)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut world = self.net.lock();
        // It may be closed, by a reset.
        world.close(self.id);
    }
}

/// A listener on a host, and its address.
fn listener(world: &mut World, host: [u8; 4]) -> (Id, SocketAddr) {
    let index = world.host(host.into());
    let node = world.add_node(index);
    let address = SocketAddr::from((host, 0));
    let id = world.listen(node, address, 16).expect("a free port");
    (id, world.sockets[&id].local)
}

fn pass(world: &mut World) {
    let time = world.now() + STEP;
    world.advance(time);
}

/// The host on which peers are.
const ELSEWHERE: [u8; 4] = [10, 9, 9, 9];

/// A host without power.
const SILENT: [u8; 4] = [10, 8, 8, 8];

/// How much time passes at a time: more than anything is on its way.
const STEP: u64 = 1_000_000;

/// How long a peer blocks in real time, and anything takes before a test gives up. A slow machine,
/// or a build with a sanitizer, is told of when the tests are built.
pub(crate) const LIMIT: Duration =
    Duration::from_secs(if option_env!("NETLIB_TEST_SLOW").is_some() { 60 } else { 5 });
