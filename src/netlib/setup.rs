//! How listeners and connections begin: the driver is asked for sockets, and given them to keep.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use socket2::SockAddr;

use super::Netlib;
use super::tell::{Hosted, Owner};
use crate::address::{Address, AddressError};
use crate::conn::Connection;
use crate::driver::{Driver, Endpoint, Family, Op};
use crate::error::{ConnectError, Errno, ListenError};
use crate::event::{CloseReason, Handle};
use crate::options::ListenOptions;
use crate::reactor::{Admission, Alarm, Attempt, Gate, Socket, State};
use crate::resolver::Answer;

impl<A> Netlib<A> {
    /// Listens, with an object for each connection: `factory` makes it, and is told its handle.
    ///
    /// ```no_run
    /// # use uring_netlib::{Netlib, Options, conn::Connection};
    /// # struct Player;
    /// # impl Connection<u32> for Player {}
    /// let mut net: Netlib<u32> = Options::new().build()?;
    /// net.listen_objects("127.0.0.1:7000", |players, _handle| {
    ///     *players += 1;
    ///     Box::new(Player)
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_objects<T: TryInto<Address>>(
        &mut self,
        address: T,
        factory: impl Fn(&mut A, Handle) -> Box<dyn Connection<A>> + 'static,
    ) -> Result<Handle, ListenError>
    where
        ListenError: From<T::Error>,
    {
        self.listen_objects_with(address, ListenOptions::new(), factory)
    }

    /// Listens, with options and with an object for each connection.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_objects_with<T: TryInto<Address>>(
        &mut self,
        address: T,
        options: ListenOptions,
        factory: impl Fn(&mut A, Handle) -> Box<dyn Connection<A>> + 'static,
    ) -> Result<Handle, ListenError>
    where
        ListenError: From<T::Error>,
    {
        let owner = (Owner::Factory(Rc::new(factory)), 0);
        self.start_listener(&address.try_into()?, options, owner)
    }

    /// Connects, with an object for the connection.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_object<T: TryInto<Address>>(
        &mut self,
        address: T,
        object: Box<dyn Connection<A>>,
    ) -> Result<Handle, ConnectError>
    where
        ConnectError: From<T::Error>,
    {
        self.start_connection(address.try_into()?, (Owner::Object(Hosted::new(object)), 0))
    }

    pub(super) fn start_listener(
        &mut self,
        address: &Address,
        options: ListenOptions,
        owner: (Owner<A>, u64),
    ) -> Result<Handle, ListenError> {
        let kernel = address.to_kernel().map_err(ListenError::System)?;
        let kernel = kernel.ok_or(ListenError::Address(AddressError::NotNumeric))?;
        let socket = self.driver.listener(address, &kernel, options);
        let socket = socket.map_err(ListenError::System)?;
        let family = Family::of(&kernel);
        let handle = self.insert(State::Listening, family, owner).ok_or(ListenError::TooMany)?;
        self.adopt(handle, socket, family).map_err(ListenError::System)?;
        let admission = Admission::new(&options, self.now_ms());
        if let Some(socket) = self.reactor.sockets.find_mut(handle) {
            socket.gate = Some(Box::new(Gate { admission, failures: 0, pause_ms: 0 }));
        }
        self.reactor.reconcile(&mut self.driver, handle);
        Ok(handle)
    }

    pub(super) fn start_connection(
        &mut self,
        address: Address,
        owner: (Owner<A>, u64),
    ) -> Result<Handle, ConnectError> {
        let kernel = address.to_kernel().map_err(ConnectError::System)?;
        let handle = match (kernel, address) {
            (Some(kernel), _) => {
                let family = Family::of(&kernel);
                let state = State::Connecting;
                let handle = self.insert(state, family, owner).ok_or(ConnectError::TooMany)?;
                if let Err(error) = self.try_connect(handle, kernel) {
                    self.reactor.remove(handle);
                    return Err(ConnectError::System(error));
                }
                handle
            }
            (None, Address::Host { .. }) if !self.driver.knows_names() => {
                return Err(ConnectError::Address(AddressError::NotNumeric));
            }
            (None, Address::Host { name, port }) => {
                let inserted = self.insert(State::Idle, Family::Inet, owner);
                let handle = inserted.ok_or(ConnectError::TooMany)?;
                let limit = self.options.connect_timeout;
                if !self.resolver.ask(handle, (name, port), limit) {
                    self.reactor.remove(handle);
                    return Err(ConnectError::ResolverBusy);
                }
                handle
            }
            (None, _) => return Err(ConnectError::Address(AddressError::BadPath)),
        };
        let deadline_ms = self.deadline(self.options.connect_timeout);
        if let Some(socket) = self.reactor.sockets.find_mut(handle)
            && socket.state() == State::Idle
        {
            socket.attempt = Some(Box::new(Attempt { deadline_ms, candidates: VecDeque::new() }));
        }
        self.reactor.arm(handle, deadline_ms, Alarm::Connect(handle));
        Ok(handle)
    }

    fn insert(&mut self, state: State, family: Family, owner: (Owner<A>, u64)) -> Option<Handle> {
        self.reactor.insert(Socket::new(state, family, owner, self.settings.clone()))
    }

    /// Hands a socket to the driver; a handle whose socket it does not take is gone.
    pub(super) fn adopt(
        &mut self,
        handle: Handle,
        socket: Endpoint,
        family: Family,
    ) -> io::Result<()> {
        let adopted = self.driver.adopt(socket, family, handle);
        if adopted.is_err() {
            self.reactor.remove(handle);
        }
        adopted
    }

    /// Makes a socket for a connecting handle that has none, and connects it.
    fn try_connect(&mut self, handle: Handle, peer: SockAddr) -> io::Result<()> {
        let family = Family::of(&peer);
        let socket = self.driver.connector(&peer)?;
        self.driver.adopt(socket, family, handle)?;
        if let Some(socket) = self.reactor.sockets.find_mut(handle) {
            socket.family = family;
            socket.outstanding.insert(Op::Connect);
        }
        self.driver.connect(handle, peer);
        Ok(())
    }

    /// Connects to the next address of the handle's host, which gets its share of the time that is
    /// left; the reason when there is no further address.
    pub(super) fn try_next_candidate(&mut self, handle: Handle) -> Result<(), Option<Errno>> {
        let mut failure = None;
        loop {
            let Some(socket) = self.reactor.sockets.find_mut(handle) else { return Err(failure) };
            let attempt = socket.attempt.as_mut();
            let address = attempt.and_then(|attempt| attempt.candidates.pop_front());
            let address = address.ok_or(failure)?;
            if self.driver.socket(handle).is_some() {
                self.driver.close(handle);
            }
            match self.try_connect(handle, address.into()) {
                Ok(()) => {
                    self.arm_attempt(handle);
                    return Ok(());
                }
                Err(error) => failure = Some(Errno::from_io(&error)),
            }
        }
    }

    fn arm_attempt(&mut self, handle: Handle) {
        let now_ms = self.now_ms();
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        let Some(attempt) = &socket.attempt else { return };
        let attempts = attempt.candidates.len() as u64 + 1;
        let share_ms = attempt.deadline_ms.saturating_sub(now_ms).div_ceil(attempts);
        self.reactor.arm(handle, now_ms + share_ms, Alarm::Connect(handle));
    }

    /// Goes on connecting with what a name resolved to.
    pub(super) fn on_resolved(&mut self, app: &mut A, answer: Answer) {
        let Answer { handle, addresses } = answer;
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if socket.state() != State::Idle {
            return;
        }
        socket.enter(State::Connecting, &mut self.reactor.census);
        if let Some(attempt) = &mut socket.attempt {
            attempt.candidates = addresses.into_iter().take(CANDIDATES_MAX).collect();
        }
        if let Err(failure) = self.try_next_candidate(handle) {
            let reason = failure.map_or(CloseReason::ResolveFailed, CloseReason::from_errno);
            self.fail(app, handle, reason);
        }
    }

    /// Whether the kernel connected a socket to itself: it does when the port asked for is free
    /// and happens to be the one it picks for this end.
    pub(super) fn is_self_connected(&self, handle: Handle) -> bool {
        let Some(socket) = self.driver.socket(handle) else { return false };
        match (socket.local_address(), socket.peer_address()) {
            (Ok(local), Ok(peer)) => local.as_socket().is_some() && local == peer,
            _ => false,
        }
    }
}

/// Addresses of one host that are tried.
const CANDIDATES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use socket2::{Domain, Socket as System, Type};

    use super::*;
    use crate::event::Event;
    use crate::options::{Backend, Options};

    fn log(log: &mut Vec<String>, _: &mut Netlib<Vec<String>>, _: Handle, event: Event<'_>) {
        log.push(format!("{event:?}"));
    }

    /// A host's address that does not answer leaves time for the next one.
    #[test]
    fn a_silent_address_does_not_use_up_the_time_of_the_next() {
        let silent = System::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap();
        let _fill: Vec<System> = (0..4)
            .map(|_| {
                let socket = System::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address);
                socket
            })
            .collect();
        let served = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![address.as_socket().unwrap(), served.local_addr().unwrap()];
        for backend in [Backend::Auto, Backend::Epoll] {
            let timeout = Duration::from_millis(400);
            let options = Options::new().backend(backend).connect_timeout(timeout);
            let mut net = options.build::<Vec<String>>().unwrap();
            let mut events = Vec::new();
            // Stands in for the resolver's answer; the real one comes late, and is ignored.
            let handle = net.connect("localhost:1", log, 0).unwrap();
            net.on_resolved(&mut events, Answer { handle, addresses: addresses.clone() });
            while events.is_empty() {
                net.turn(&mut events, Duration::from_secs(5)).unwrap();
            }
            assert_eq!(events, ["Confirm"], "on {backend}");
        }
    }
}
