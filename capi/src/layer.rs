//! Between the runtime and the C program: which callback is told what of which handle.
//!
//! Nothing here is borrowed while a callback runs but what `lend` lends back, so after each one
//! handles are looked up again. What is sent, and who is told that there is room, is in
//! `layer/sending.rs`.

#![forbid(unsafe_code)]

mod sending;

use std::collections::VecDeque;
use std::ffi::c_void;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use uring_netlib::{
    Address, ConnectError, Event, Handle, ListenError, Netlib, RecvError, Repeat, Stale,
};

use crate::board::Standing;
use crate::failure::{errno_of, errno_of_close, errno_of_option};
use crate::foreign::Failure;
use crate::lend::{self, BOARD, Callback, OUTBOX};
use crate::numbers::Numbers;
use crate::timers::{Beat, Key, Timers};
use crate::tray::Tray;
use crate::waiting::Waiting;

/// What the C surface keeps beside the runtime.
pub(crate) struct Layer {
    sockets: Numbers<Socket>,
    timers: Timers,
    loops: Vec<Target>,
    /// Handles whose end no event of the runtime will tell.
    ended: VecDeque<i32>,
    /// Those that were refused, and are told when there is room.
    refused: Waiting,
    send_bytes_max: usize,
    /// Sockets are told, but neither timers nor loop callbacks are.
    pub(crate) is_winding_down: bool,
    /// All sockets are closed, and neither timers nor loop callbacks are told any more.
    pub(crate) is_mute: bool,
    /// What was sent is waited for no longer.
    pub(crate) has_given_up: bool,
    /// What the owner has sent in the callback in hand, or since the loop has stopped.
    tray: Tray,
    scratch: Vec<u8>,
}

/// Who is told.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) callback: Callback,
    pub(crate) data: *mut c_void,
}

struct Socket {
    /// `NONE` for an attempt that failed before it began.
    handle: Handle,
    state: State,
    target: Target,
    /// `None` for listeners. Apart, as it is rarely asked for.
    remote: Option<Box<Remote>>,
    /// It is among the refused.
    is_waiting: bool,
}

/// The other end.
enum Remote {
    /// As it was given to `connect`.
    Named(String, u16),
    Peer(SocketAddr),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Listening,
    Connecting,
    Connected,
    /// Over, with the error number that `recv` gives; 0 for the end of the stream.
    Ended(Failure),
}

impl Layer {
    pub(crate) fn new(net: &Netlib<Self>, send_bytes_max: usize) -> Self {
        OUTBOX.set_room(net.sendable_bytes());
        Self {
            sockets: Numbers::new(),
            timers: Timers::default(),
            loops: Vec::new(),
            ended: VecDeque::new(),
            refused: Waiting::default(),
            send_bytes_max,
            is_winding_down: false,
            is_mute: false,
            has_given_up: false,
            tray: Tray::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn listen(
        &mut self,
        net: &mut Netlib<Self>,
        (host, port): (&str, u16),
        target: Target,
    ) -> Result<i32, Failure> {
        let address = resolve(host, port)?;
        let number = self.insert(State::Listening, target, None)?;
        match net.listen(address, on_event, user_data(number)) {
            Ok(handle) => {
                self.attach(number, handle);
                Ok(number)
            }
            Err(error) => {
                self.remove(number);
                Err(match error {
                    ListenError::System(error) => errno_of(&error),
                    ListenError::TooMany => libc::EMFILE,
                    _ => libc::EINVAL,
                })
            }
        }
    }

    /// Connects. An attempt that fails at once has a handle all the same, and its end is told.
    pub(crate) fn connect(
        &mut self,
        net: &mut Netlib<Self>,
        (host, port): (&str, u16),
        target: Target,
    ) -> Result<i32, Failure> {
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => Some(Address::Ip(SocketAddr::new(ip, port))),
            Err(_) => format!("{host}:{port}").parse().ok(),
        };
        let remote = Remote::Named(host.to_owned(), port);
        let number = self.insert(State::Connecting, target, Some(remote))?;
        let Some(address @ (Address::Ip(_) | Address::Host { .. })) = address else {
            self.fail(net, number, libc::EADDRNOTAVAIL);
            return Ok(number);
        };
        match net.connect(address, on_event, user_data(number)) {
            Ok(handle) => self.attach(number, handle),
            Err(ConnectError::TooMany) => {
                self.remove(number);
                return Err(libc::EMFILE);
            }
            Err(ConnectError::System(error)) => self.fail(net, number, errno_of(&error)),
            Err(ConnectError::ResolverBusy) => self.fail(net, number, libc::EAGAIN),
            Err(_) => self.fail(net, number, libc::EADDRNOTAVAIL),
        }
        Ok(number)
    }

    /// Copies out what has arrived; 0 at the end of the stream.
    #[inline]
    pub(crate) fn recv(
        &mut self,
        net: &mut Netlib<Self>,
        number: i32,
        space: &mut [u8],
    ) -> Result<usize, Failure> {
        let socket = self.sockets.find_mut(number).ok_or(libc::EBADF)?;
        match socket.state {
            State::Connected => {}
            State::Ended(0) => return Ok(0),
            State::Ended(failure) => return Err(failure),
            State::Listening | State::Connecting => return Err(libc::ENOTCONN),
        }
        match net.recv(socket.handle, space) {
            Ok(len) => Ok(len),
            Err(RecvError::Empty) => match net.option(socket.handle) {
                Ok(options) if options.has_ended() => Ok(0),
                _ => Err(libc::EAGAIN),
            },
            Err(_) => Err(libc::EBADF),
        }
    }

    /// Closes; what was sent before is flushed.
    pub(crate) fn close(&mut self, net: &mut Netlib<Self>, number: i32) -> Result<(), Failure> {
        self.sockets.find_mut(number).ok_or(libc::EBADF)?;
        // Nobody takes room for it any more. Who has taken some puts its bytes in or gives it
        // back, and waits for nobody: not even for the outbox, which is emptied meanwhile.
        BOARD.close(number);
        loop {
            self.apply(net);
            if !BOARD.has_boxed(number) {
                break;
            }
            thread::yield_now();
        }
        BOARD.clear(number);
        let socket = self.take_out(number).ok_or(libc::EBADF)?;
        // Stale are attempts that failed before they began.
        let _ = net.close(socket.handle);
        Ok(())
    }

    /// Changes who is told of the handle's events from now on.
    pub(crate) fn change_target(
        &mut self,
        number: i32,
        change: impl FnOnce(&mut Target),
    ) -> Result<(), Failure> {
        self.sockets.find_mut(number).map(|socket| change(&mut socket.target)).ok_or(libc::EBADF)
    }

    /// The peer's address as text, and its port: as it was given to `connect`, or has come.
    pub(crate) fn remote(&mut self, number: i32) -> Result<(String, u16), Failure> {
        let socket = self.sockets.find_mut(number).ok_or(libc::EBADF)?;
        match socket.remote.as_deref() {
            Some(Remote::Named(name, port)) => Ok((name.clone(), *port)),
            Some(Remote::Peer(peer)) => Ok((peer.ip().to_string(), peer.port())),
            None => Err(libc::ENOTCONN),
        }
    }

    pub(crate) fn local(
        &mut self,
        net: &mut Netlib<Self>,
        number: i32,
    ) -> Result<(String, u16), Failure> {
        let handle = self.handle(number)?;
        let options = net.option(handle).map_err(|Stale| libc::ENOTCONN)?;
        match options.local_address() {
            Ok(Address::Ip(own)) => Ok((own.ip().to_string(), own.port())),
            Ok(_) => Err(libc::EAFNOSUPPORT),
            Err(error) => Err(errno_of_option(&error)),
        }
    }

    /// Sets the size of one of the kernel's buffers.
    pub(crate) fn set_buffer_size(
        &mut self,
        net: &mut Netlib<Self>,
        number: i32,
        (is_send, bytes): (bool, u32),
    ) -> Result<(), Failure> {
        let handle = self.handle(number)?;
        let mut options = net.option(handle).map_err(|Stale| libc::ENOTCONN)?;
        let set = match is_send {
            true => options.set_send_buffer_size(bytes as usize),
            false => options.set_receive_buffer_size(bytes as usize),
        };
        set.map_err(|error| errno_of_option(&error))
    }

    /// Registers a timer, or gives the one of that key another interval.
    pub(crate) fn register_timer(&mut self, net: &mut Netlib<Self>, key: Key, interval_ms: u64) {
        self.apply(net);
        self.set_timer(net, key, interval_ms);
    }

    pub(crate) fn delete_timer(&mut self, net: &mut Netlib<Self>, key: Key) {
        self.apply(net);
        self.drop_timer(net, key);
    }

    pub(crate) fn add_loop(&mut self, target: Target) {
        self.loops.push(target);
    }

    /// Closes all sockets, flushing what was sent, and tells nobody.
    pub(crate) fn close_all(&mut self, net: &mut Netlib<Self>) {
        self.is_mute = true;
        let numbers: Vec<i32> = self.sockets.iter().map(|(number, _)| number).collect();
        for number in numbers {
            // They were there a line above.
            let _ = self.close(net, number);
        }
    }

    fn set_timer(&mut self, net: &mut Netlib<Self>, key: Key, interval_ms: u64) {
        let (place, former) = self.timers.place_of(key);
        if let Some(Beat::Timer(timer)) = former {
            let _ = net.delete_timer(timer);
        }
        let beat = match interval_ms {
            0 => self.timers.next_turn(),
            _ => {
                let interval = Duration::from_millis(interval_ms.min(INTERVAL_MAX_MS));
                Beat::Timer(net.register_timer(interval, Repeat::Forever, on_timer, place as u64))
            }
        };
        self.timers.set(place, key, beat);
    }

    fn drop_timer(&mut self, net: &mut Netlib<Self>, key: Key) {
        if let Some(Beat::Timer(timer)) = self.timers.remove(key) {
            // It fires for ever, so it is there.
            let _ = net.delete_timer(timer);
        }
    }

    fn insert(
        &mut self,
        state: State,
        target: Target,
        remote: Option<Remote>,
    ) -> Result<i32, Failure> {
        let (handle, remote) = (Handle::NONE, remote.map(Box::new));
        let socket = Socket { handle, state, target, remote, is_waiting: false };
        let number = self.sockets.insert(socket).ok_or(libc::EMFILE)?;
        BOARD.open(number, standing_of(state), self.send_bytes_max);
        Ok(number)
    }

    fn remove(&mut self, number: i32) {
        BOARD.clear(number);
        self.take_out(number);
    }

    /// Gives a number up; whose it was.
    fn take_out(&mut self, number: i32) -> Option<Socket> {
        let socket = self.sockets.remove(number)?;
        if socket.is_waiting {
            let sockets = &mut self.sockets;
            self.refused.leave(|other| sockets.find_mut(other).is_some_and(|one| one.is_waiting));
        }
        Some(socket)
    }

    /// What was not so before is so from now on, also for those who may not look.
    fn enter(&mut self, number: i32, state: State) {
        let Some(socket) = self.sockets.find_mut(number) else { return };
        socket.state = state;
        BOARD.set_standing(number, standing_of(state));
    }

    fn attach(&mut self, number: i32, handle: Handle) {
        if let Some(socket) = self.sockets.find_mut(number) {
            socket.handle = handle;
        }
    }

    fn handle(&mut self, number: i32) -> Result<Handle, Failure> {
        self.sockets.find_mut(number).map(|socket| socket.handle).ok_or(libc::EBADF)
    }

    /// Ends a handle for a reason of this layer's. The loop tells of it.
    fn fail(&mut self, net: &mut Netlib<Self>, number: i32, failure: Failure) {
        let Some(socket) = self.sockets.find_mut(number) else { return };
        let _ = net.abort(std::mem::replace(&mut socket.handle, Handle::NONE));
        self.enter(number, State::Ended(failure));
        self.ended.push_back(number);
        lend::wake();
    }

    fn tell(&mut self, net: &mut Netlib<Self>, number: i32, message: u8) {
        let Some(socket) = self.sockets.find_mut(number) else { return };
        let target = socket.target;
        lend::tell(self, net, target, message, number);
    }

    fn tell_close(&mut self, net: &mut Netlib<Self>, number: i32) {
        self.tell(net, number, CLOSE);
        self.remove(number);
    }

    fn on_connect(&mut self, net: &mut Netlib<Self>, handle: Handle, listener: Handle) {
        let Some(listener) = number_of(net, listener) else { return };
        let Some(target) = self.sockets.find_mut(listener).map(|one| one.target) else { return };
        let peer = net.option(handle).ok().and_then(|options| options.remote_address().ok());
        let remote = peer.and_then(|peer| match peer {
            Address::Ip(peer) => Some(Remote::Peer(peer)),
            _ => None,
        });
        let number = self.insert(State::Connected, target, remote);
        let (Ok(number), Ok(mut options)) = (number, net.option(handle)) else {
            let _ = net.abort(handle);
            return;
        };
        options.set_user_data(user_data(number));
        self.attach(number, handle);
        self.tell(net, number, CONNECT);
    }

    fn tell_turn(&mut self, net: &mut Netlib<Self>) {
        let (mut last, newest) = (0, self.timers.newest_turn());
        while self.timers.has_turns()
            && let Some((number, key)) = self.timers.next_of_turn(last, newest)
        {
            last = number;
            lend::tell(self, net, lend::target_of(key), TIMER, 0);
        }
        // Those that are added meanwhile wait for the next turn.
        for index in 0..self.loops.len() {
            let target = self.loops[index];
            lend::tell(self, net, target, LOOP, 0);
        }
    }
}

fn on_event(layer: &mut Layer, net: &mut Netlib<Layer>, handle: Handle, event: Event<'_>) {
    // What has arrived takes room as well.
    layer.publish_room(net);
    if let Event::Connect { listener } = event {
        layer.on_connect(net, handle, listener);
        return layer.apply(net);
    }
    let Some(number) = number_of(net, handle) else { return };
    match event {
        Event::Confirm => {
            layer.enter(number, State::Connected);
            layer.tell(net, number, CONFIRM);
        }
        Event::Read(_) => layer.tell(net, number, READ),
        Event::Write => layer.tell_room(net, number),
        Event::Close(reason) => {
            layer.enter(number, State::Ended(errno_of_close(reason)));
            layer.tell_close(net, number);
        }
        _ => {}
    }
    layer.apply(net);
}

fn on_timer(layer: &mut Layer, net: &mut Netlib<Layer>, _: Handle, event: Event<'_>) {
    let Event::Timer { user_data, .. } = event else { return };
    let Some(key) = layer.timers.key_at(user_data) else { return };
    if !layer.is_winding_down && !layer.is_mute {
        lend::tell(layer, net, lend::target_of(key), TIMER, 0);
    }
    layer.apply(net);
}

/// The end of a turn.
pub(crate) fn on_loop(layer: &mut Layer, net: &mut Netlib<Layer>, _: Handle, _: Event<'_>) {
    layer.publish_room(net);
    layer.apply(net);
    for _ in 0..layer.ended.len() {
        if let Some(number) = layer.ended.pop_front() {
            layer.tell_close(net, number);
        }
    }
    layer.tell_refused(net);
    if !layer.is_winding_down && !layer.is_mute {
        layer.tell_turn(net);
    }
    layer.apply(net);
    layer.look_again(net);
}

/// Where to listen. A name is resolved here and now, as netlib does.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let addresses = (host, port).to_socket_addrs().map_err(|_| libc::EADDRNOTAVAIL)?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.copied().ok_or(libc::EADDRNOTAVAIL)
}

fn number_of(net: &mut Netlib<Layer>, handle: Handle) -> Option<i32> {
    i32::try_from(net.option(handle).ok()?.user_data()).ok()
}

fn standing_of(state: State) -> Standing {
    match state {
        State::Listening | State::Connecting => Standing::Unconnected,
        State::Connected => Standing::Open,
        State::Ended(_) => Standing::Ended,
    }
}

fn user_data(number: i32) -> u64 {
    number.cast_unsigned().into()
}

/// Thirty-four years.
const INTERVAL_MAX_MS: u64 = 1 << 40;

// The header has these numbers as `NETLIB_MSG_*`.
const CONNECT: u8 = 1;
const CONFIRM: u8 = 2;
const READ: u8 = 3;
const WRITE: u8 = 4;
const CLOSE: u8 = 5;
const TIMER: u8 = 6;
const LOOP: u8 = 7;
