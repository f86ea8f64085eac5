//! The programs of the simulated workload: a server, and clients that talk to it in PDUs.
//!
//! What they do is decided by the generator of the network, so a seed says all of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use uring_netlib::pdu::Header;
use uring_netlib::sim::{SimHost, SimNet, SimNode};
use uring_netlib::{BacklogLimits, Delivery, Event, Handle, Netlib, Options, Repeat};

use crate::oracle::{Kind, Oracle, Origin, Sent, Side, body};

/// What a program's callbacks are lent.
pub(crate) struct Program {
    pub(crate) number: usize,
    pub(crate) side: Side,
    pub(crate) sim: SimNet,
    pub(crate) host: SimHost,
    pub(crate) oracle: Rc<RefCell<Oracle>>,
    pub(crate) body_max: u64,
    pub(crate) kind: Kind,
    /// Whether it does nothing of its own any more.
    pub(crate) is_quiet: bool,
    /// What a server has as long as its kernel lets it listen.
    pub(crate) listener: Option<Handle>,
    /// Beginnings of PDUs, where bytes are delivered as they come or are asked for.
    pub(crate) begun: BTreeMap<Handle, Vec<u8>>,
}

/// Limits of one program, so that they are reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) buffers: u16,
    pub(crate) buffer_len: u32,
    pub(crate) backlog_max: u32,
    pub(crate) buffered_max: usize,
    pub(crate) delivery: Delivery,
}

/// Longer than all pauses of a peer together.
const CALM_CLOSE: Duration = Duration::from_secs(3600);

pub(crate) const SERVER: &str = "10.0.0.1:8000";

/// Builds a program, and lets a server listen.
pub(crate) fn start(program: Program, bounds: Bounds) -> SimNode<Program> {
    let max = bounds.backlog_max;
    let options = Options::new()
        .sim(&program.host)
        .pool(bounds.buffers, bounds.buffer_len)
        .delivery(bounds.delivery)
        .pull_bytes_max(PULL_MAX)
        .buffered_bytes_max(bounds.buffered_max)
        .backlog(BacklogLimits { low: max / 4, high: max / 2, max });
    let options = if program.is_calm() { options.close_timeout(CALM_CLOSE) } else { options };
    let net = options.build().expect("the bounds are within those of the options");
    let mut node = SimNode::new(net, program);
    node.app.serve(&mut node.net);
    node
}

fn on_event(app: &mut Program, net: &mut Netlib<Program>, handle: Handle, event: Event<'_>) {
    let oracle = Rc::clone(&app.oracle);
    match event {
        Event::Connect { .. } | Event::Confirm => {
            oracle.borrow_mut().on_open(app.number, handle);
            app.talk(net, handle);
        }
        Event::Pdu(pdu) => app.take(net, handle, pdu.body()),
        Event::Read([]) => {
            let mut space = [0; 300];
            while let Ok(len) = net.recv(handle, &mut space)
                && len > 0
            {
                app.cut(net, handle, &space[..len]);
            }
        }
        Event::Read(bytes) => app.cut(net, handle, bytes),
        Event::Close(reason) if app.listener == Some(handle) => {
            oracle.borrow_mut().on_listener_end(reason);
            app.listener = None;
        }
        Event::Close(reason) => {
            oracle.borrow_mut().on_close(app.number, handle, app.side, reason);
        }
        Event::Timer { user_data, .. } => {
            let due = Duration::from_nanos(user_data);
            oracle.borrow_mut().on_timer(due, app.host.elapsed());
            if app.kind == Kind::Calm {
                app.resume_all(net);
            }
        }
        _ => {}
    }
}

impl Program {
    /// Whether it promises to go on after each pause, and waits for whoever makes one.
    fn is_calm(&self) -> bool {
        self.kind == Kind::Calm
    }

    fn chance(&self, of: u64) -> bool {
        self.sim.random(of) == 0
    }

    /// Lets a server listen that does not, as its kernel may have ended that.
    pub(crate) fn serve(&mut self, net: &mut Netlib<Self>) {
        if self.side == Side::Server && self.listener.is_none() {
            self.listener = Some(net.listen(SERVER, on_event, 0).expect("the port is free"));
        }
    }

    /// A PDU is delivered.
    fn take(&self, net: &mut Netlib<Self>, handle: Handle, body: &[u8]) {
        let origin = self.oracle.borrow_mut().on_pdu(self.number, handle, self.side, body);
        if let Some(origin) = origin
            && !self.is_quiet
            && self.chance(4)
        {
            let to = if self.chance(2) { self.pick().unwrap_or(handle) } else { handle };
            self.pass_on(net, to, &body[8..], origin);
        }
        self.answer(net, handle);
    }

    /// Sends on what has come, behind numbers of its own. Half of a PDU is worse than none.
    fn pass_on(&self, net: &mut Netlib<Self>, to: Handle, bytes: &[u8], origin: Origin) {
        let next = self.oracle.borrow().next_number(self.number, to, self.side);
        let Some((connection, number)) = next else { return };
        let numbers = body(connection, number, 0);
        let sent = Sent { len: numbers.len() + bytes.len(), origin };
        let mut frame = [0; 16];
        Header::new(1, 3).write(u32::try_from(16 + sent.len).unwrap_or(u32::MAX), &mut frame);
        if net.send(to, &[frame.as_slice(), &numbers].concat()).is_err() {
            return;
        }
        if net.send(to, bytes).is_ok() {
            self.oracle.borrow_mut().on_sent(connection, self.side, sent);
        } else if net.abort(to).is_ok() {
            self.oracle.borrow_mut().on_own_close(self.number, to, self.side, true);
        }
    }

    /// Bytes are delivered, which may end within a PDU.
    fn cut(&mut self, net: &mut Netlib<Self>, handle: Handle, bytes: &[u8]) {
        let mut begun = self.begun.remove(&handle).unwrap_or_default();
        begun.extend_from_slice(bytes);
        let mut rest = begun.as_slice();
        while let Some(length) = rest.first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if !(16..=LENGTH_MAX).contains(&length) {
                return self.take(net, handle, rest);
            }
            let Some((frame, behind)) = rest.split_at_checked(length) else { break };
            self.take(net, handle, &frame[16..]);
            rest = behind;
            if !self.oracle.borrow().is_open(self.number, handle) {
                return;
            }
        }
        self.begun.insert(handle, rest.to_vec());
    }

    /// Sends a PDU, if there is room for it.
    pub(crate) fn send(&self, net: &mut Netlib<Self>, handle: Handle) {
        let next = self.oracle.borrow().next_number(self.number, handle, self.side);
        let Some((connection, number)) = next else { return };
        let len = usize::try_from(self.sim.random(self.body_max + 1)).unwrap_or(0);
        let body = body(connection, number, len);
        let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        let mut frame = [0; 16];
        Header::new(1, 2).write(length, &mut frame);
        if net.send(handle, &[frame.as_slice(), &body].concat()).is_ok() {
            let sent = Sent { len: body.len(), origin: (connection, number) };
            self.oracle.borrow_mut().on_sent(connection, self.side, sent);
        }
    }

    /// What a new connection begins with: the server learns from it which one it is.
    fn talk(&self, net: &mut Netlib<Self>, handle: Handle) {
        if self.side == Side::Client {
            for _ in 0..=self.sim.random(3) {
                self.send(net, handle);
            }
        }
    }

    /// What follows a PDU: mostly another one, or nothing.
    fn answer(&self, net: &mut Netlib<Self>, handle: Handle) {
        if self.is_quiet {
            return;
        }
        if self.sim.random(10) < 4 {
            self.send(net, handle);
        }
        if self.chance(60) {
            self.close(net, handle);
        }
        // A calm program's pauses are long, and its peers may close meanwhile.
        if self.chance(if self.is_calm() { 8 } else { 30 }) && net.pause_receive(handle).is_ok() {
            self.set_timer(net);
        }
    }

    pub(crate) fn close(&self, net: &mut Netlib<Self>, handle: Handle) {
        let is_abort = self.chance(3);
        let closed = if is_abort { net.abort(handle) } else { net.close(handle) };
        if closed.is_ok() {
            let mut oracle = self.oracle.borrow_mut();
            oracle.on_own_close(self.number, handle, self.side, is_abort);
        }
    }

    pub(crate) fn set_timer(&self, net: &mut Netlib<Self>) {
        let longest = if self.is_calm() { 6000 } else { 500 };
        let span = Duration::from_millis(1 + self.sim.random(longest));
        let due = u64::try_from((self.host.elapsed() + span).as_nanos()).unwrap_or(0);
        net.register_timer(span, Repeat::Once, on_event, due);
    }

    pub(crate) fn connect(&self, net: &mut Netlib<Self>, connection: u32) {
        if let Ok(handle) = net.connect(SERVER, on_event, connection.into()) {
            self.oracle.borrow_mut().on_connect(self.number, handle, connection);
        }
    }

    /// One of its open connections.
    fn pick(&self) -> Option<Handle> {
        let open: Vec<Handle> = self.oracle.borrow().open(self.number).collect();
        let at = usize::try_from(self.sim.random(open.len().max(1) as u64)).unwrap_or(0);
        open.get(at).copied()
    }

    /// Something that a program may do at any time.
    pub(crate) fn act(&self, net: &mut Netlib<Self>) {
        let Some(handle) = self.pick() else { return };
        match self.sim.random(20) {
            0 => self.close(net, handle),
            1 => {
                net.pause_receive(handle).ok();
                self.set_timer(net);
            }
            2..=4 if !self.is_calm() => _ = net.resume_receive(handle),
            5 if !self.is_calm() => self.set_timer(net),
            _ => self.send(net, handle),
        }
    }

    fn resume_all(&self, net: &mut Netlib<Self>) {
        for handle in self.oracle.borrow().open(self.number) {
            net.resume_receive(handle).ok();
        }
    }

    /// Lets everything that was begun come to its end.
    pub(crate) fn quieten(&mut self, net: &mut Netlib<Self>) {
        self.is_quiet = true;
        self.resume_all(net);
        for handle in self.oracle.borrow().open(self.number) {
            if let Ok(mut option) = net.option(handle) {
                drop(option.set_send_buffer_size(64 << 10));
                drop(option.set_receive_buffer_size(64 << 10));
            }
        }
    }

    /// What must hold after every turn of a program.
    pub(crate) fn check(&self, net: &mut Netlib<Self>, bounds: Bounds) {
        let stats = net.stats();
        let mut oracle = self.oracle.borrow_mut();
        let buffers = u64::from(bounds.buffers);
        let is_idle = self.is_quiet && stats.buffered_bytes == 0 && stats.closing == 0;
        let lent_max = if is_idle { 0 } else { buffers / 2 };
        if stats.buffers_lent > lent_max || stats.buffers_free + stats.buffers_lent != buffers {
            oracle.break_rule(|| format!("pool: {stats:?}"));
        }
        if stats.buffered_bytes > bounds.buffered_max as u64 {
            oracle.break_rule(|| format!("buffered: {stats:?}"));
        }
        if stats.panics != 0 {
            oracle.break_rule(|| "a callback has panicked".to_owned());
        }
        let pending = |handle| net.option(handle).map_or(0, |option| option.pending_bytes());
        let most = oracle.open(self.number).map(pending).max().unwrap_or(0);
        if most > bounds.backlog_max as usize {
            oracle.break_rule(|| format!("backlog: {most} bytes wait"));
        }
    }
}

/// Longer than any PDU of the workload.
const LENGTH_MAX: usize = 4096;

/// How much waits to be asked for before no more is received.
const PULL_MAX: u32 = 500;
