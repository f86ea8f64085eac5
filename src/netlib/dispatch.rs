//! What a completion means to a socket, and what its user is told of it.
//!
//! After every [`tell`](Netlib::tell) the socket is looked up again: the callback may have closed,
//! paused or changed it, or given its place away. But for PDUs that come in a row: there it is
//! looked up again if the callback has changed any socket in another way than by sending
//! ([`Table::changes`](crate::reactor::Table::changes)), see `Netlib::tell_next`.

#![forbid(unsafe_code)]

use std::mem;
use std::ops::ControlFlow::{self, Break, Continue};

use super::Netlib;
use super::tell::{Hosted, Notice, Owner};
use crate::driver::{
    Chunk, Completion, Driver, End, Endpoint, Lender, Lending, Op, Outcome, Outgoing,
};
use crate::error::Errno;
use crate::event::{Callback, CloseReason, Event, Handle};
use crate::options::Delivery;
use crate::pdu::{FrameSpec, Pdu, Reader, cut};
use crate::planted::{self, Bug};
use crate::reactor::{Block, Gate, Hold, Origin, Release, Socket, Spare, State};

impl<A> Netlib<A> {
    #[inline]
    pub(super) fn dispatch(&mut self, app: &mut A, completion: Completion) {
        let Completion { handle, last, outcome } = completion;
        // A handle without a socket: an extra completion, which is dropped with what it carries.
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let is_connected = socket.state() == State::Connected;
        match outcome {
            // What nearly all completions of a busy loop are.
            Outcome::Received(chunk) if is_connected && !last => {
                self.on_received(app, handle, &chunk);
            }
            Outcome::Sent(outgoing) if is_connected && last => {
                socket.finish(Op::Send);
                self.on_sent(app, handle, outgoing);
            }
            outcome => self.dispatch_other(app, handle, last, outcome),
        }
        self.reactor.reconcile(&mut self.driver, handle);
        if self.reactor.is_overfull() {
            self.judge_sizes(app);
        }
    }

    // Apart from what comes for each PDU, which would pay for its frame.
    #[inline(never)]
    fn dispatch_other(&mut self, app: &mut A, handle: Handle, last: bool, outcome: Outcome) {
        let op = outcome.op();
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let was_cancelled = socket.cancelled.has(op);
        if last {
            socket.finish(op);
        }
        match (socket.state(), outcome) {
            (State::Listening, Outcome::Accepted(client)) => self.on_accepted(app, handle, client),
            (State::Listening, Outcome::AcceptFailed(errno)) => {
                if !(was_cancelled && errno.is_cancellation()) {
                    self.on_accept_failed(app, handle, errno);
                }
            }
            (State::Connecting, Outcome::Connected) => self.on_connected(app, handle),
            (State::Connecting, Outcome::ConnectFailed(errno)) => {
                self.on_connect_failed(app, handle, errno);
            }
            (State::Connected, Outcome::Received(chunk)) => self.on_received(app, handle, &chunk),
            (_, Outcome::Filled(rest)) => self.on_filled(app, handle, rest),
            (State::Connected, Outcome::EndOfStream) => self.on_end_of_stream(app, handle),
            (State::Connected | State::Flushing | State::Lingering, Outcome::NoBuffers) => {
                self.reactor.starve(handle);
            }
            (State::Connected, Outcome::ReceiveFailed(errno)) => {
                if !(was_cancelled && errno.is_cancellation()) {
                    self.on_end(app, handle, CloseReason::from_errno(errno));
                }
            }
            (State::Connected | State::Flushing | State::Cancelling, Outcome::Sent(outgoing)) => {
                self.on_sent(app, handle, outgoing);
            }
            (
                State::Connected | State::Flushing | State::Cancelling,
                Outcome::SendFailed(errno, outgoing),
            ) => {
                self.on_send_failed(handle, errno, outgoing);
            }
            // Nobody wants what still comes, but its end matters.
            (State::Flushing | State::Lingering, Outcome::EndOfStream) => {
                self.on_peer_finished(handle, false);
            }
            (State::Flushing | State::Lingering, Outcome::ReceiveFailed(errno)) => {
                if !(was_cancelled && errno.is_cancellation()) {
                    self.on_peer_finished(handle, true);
                }
            }
            (State::Flushing | State::Lingering, Outcome::Received(chunk)) => {
                socket.closing().discarded += chunk.len();
            }
            (State::Cancelling, outcome) if planted::has(Bug::ResultLeaked) => mem::forget(outcome),
            (State::Cancelling, _) => {}
            (state, outcome) => unreachable!("{state:?} cannot see {outcome:?}"),
        }
    }

    #[inline]
    fn on_received(&mut self, app: &mut A, handle: Handle, chunk: &Chunk) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        self.reactor.stats.bytes_in += chunk.len() as u64;
        socket.pulse.note_received(self.reactor.now_ms);
        socket.fill_meter(self.reactor.now_ms);
        socket.note_chunk(chunk.len() == self.reactor.buffer_len);
        self.deliver_lent(app, handle, Lender::of_chunk(chunk), chunk);
        // Whether it is metered may have been decided by what was delivered.
        self.judge_speed(app, handle, chunk.len());
        self.judge_unready(app, handle);
    }

    /// Tells what was held back, once it may be told.
    pub(super) fn on_deferred(&mut self, app: &mut A, handle: Handle) {
        self.deliver(app, handle, &[]);
        self.judge_speed(app, handle, 0);
        self.tell_end(app, handle);
        self.reactor.reconcile(&mut self.driver, handle);
        self.reactor.watch(handle);
    }

    fn on_accepted(&mut self, app: &mut A, listener: Handle, client: Endpoint) {
        let Some(socket) = self.reactor.sockets.find_mut(listener) else { return };
        if let Some(gate) = &mut socket.gate {
            gate.pause_ms = 0;
            gate.failures = 0;
        }
        let (user_data, family) = (socket.user_data, socket.family);
        let settings = socket.settings();
        let Ok(block) = self.admit(listener, &client) else {
            self.reactor.stats.rejected += 1;
            return;
        };
        let nobody = (Owner::Object(Hosted::default()), user_data);
        let mut socket = Socket::new(State::Connected, family, nobody, settings);
        socket.open(self.reactor.now_ms);
        let Some(handle) = self.reactor.insert(socket) else {
            self.reactor.stats.rejected += 1;
            return;
        };
        if self.adopt(handle, client, family).is_err() {
            self.reactor.stats.rejected += 1;
            return;
        }
        self.reactor.enter(handle, Origin { listener, block });
        self.reactor.stats.accepted += 1;
        if planted::has(Bug::GoneClientKept) && !self.driver.has_peer(handle) {
            return;
        }
        let owner = self.inherit(app, listener, handle);
        match (owner, self.reactor.owned(handle)) {
            (Some(owner), Some(socket)) => socket.owner = owner,
            // Making its object panicked, so there is nobody to serve it.
            _ => {
                self.reactor.stats.closes.count(CloseReason::Panicked);
                return self.release(handle, Release::Reset);
            }
        }
        self.reactor.watch(handle);
        self.tell(app, handle, Event::Connect { listener });
        // Not before: only a wait yields what is received (D3), so the callback comes first (C5).
        self.reactor.reconcile(&mut self.driver, handle);
    }

    /// Whether a listener lets a client in, and for whom it is counted.
    fn admit(&mut self, listener: Handle, client: &Endpoint) -> Result<Option<Block>, TooMany> {
        let now_ms = self.reactor.now_ms;
        let Some(socket) = self.reactor.sockets.find_mut(listener) else { return Ok(None) };
        let Some(Gate { admission, .. }) = socket.gate.as_deref_mut() else { return Ok(None) };
        let block = admission.asks_for_addresses().then(|| block_of(client)).flatten();
        let has_room = admission.has_room(block);
        if let Some(rested_ms) = admission.knock(now_ms) {
            self.reactor.rest_until(listener, rested_ms);
        }
        if has_room { Ok(block) } else { Err(TooMany) }
    }

    fn on_accept_failed(&mut self, app: &mut A, handle: Handle, errno: Errno) {
        if errno.is_exhaustion() {
            let now_ms = self.now_ms();
            self.reactor.rest(handle, now_ms);
        } else if !errno.is_of_the_client() || planted::has(Bug::ListenerEnded) {
            self.fail(app, handle, CloseReason::from_errno(errno));
        } else if let Some(socket) = self.reactor.sockets.find_mut(handle)
            && let Some(gate) = &mut socket.gate
        {
            // One client's failure says nothing of the next; but many in a row are a firewall's.
            gate.failures = gate.failures.saturating_add(1);
            if gate.failures > ACCEPT_FAILURES_MAX {
                let now_ms = self.now_ms();
                self.reactor.rest(handle, now_ms);
            }
        }
    }

    fn on_connected(&mut self, app: &mut A, handle: Handle) {
        if self.is_self_connected(handle) {
            return self.on_connect_failed(app, handle, Errno(libc::ECONNREFUSED));
        }
        self.reactor.disarm(handle);
        self.reactor.stats.confirmed += 1;
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.enter(State::Connected, &mut self.reactor.census);
        socket.open(self.reactor.now_ms);
        socket.attempt = None;
        self.reactor.watch(handle);
        self.open_member(handle);
        self.tell(app, handle, Event::Confirm);
    }

    fn on_connect_failed(&mut self, app: &mut A, handle: Handle, errno: Errno) {
        if let Err(later) = self.try_next_candidate(handle) {
            self.fail(app, handle, CloseReason::from_errno(later.unwrap_or(errno)));
        }
    }

    fn on_end_of_stream(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        // A reset is reported once, to whichever direction asks first; the other sees a plain end.
        // If the sending one was first, its failure may still be on its way.
        let may_be_reset = socket.outstanding.has(Op::Send) && !self.driver.has_peer(handle);
        let reason = if may_be_reset { CloseReason::Reset } else { CloseReason::PeerClosed };
        self.on_end(app, handle, reason);
    }

    /// Nothing more will arrive. The user is told after all that has (C6).
    fn on_end(&mut self, app: &mut A, handle: Handle, reason: CloseReason) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let reason = socket.broken().unwrap_or(reason);
        socket.peer_finished = true;
        socket.closing().end = Some(reason);
        if reason != CloseReason::PeerClosed {
            return self.on_broken(handle, reason);
        }
        let waits_for_pull = socket.delivery() == Delivery::Pull && !socket.reader.is_empty();
        if waits_for_pull && !socket.hold.keeps_back() && !socket.is_deferred {
            self.tell(app, handle, Event::Read(&[]));
        }
        self.tell_end(app, handle);
    }

    /// Tells a connection's end, unless something is to be delivered before it.
    fn tell_end(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find(handle) else { return };
        let (State::Connected, Some(end)) = (socket.state(), socket.end()) else { return };
        let is_cut_off = matches!(socket.delivery(), Delivery::Pdu(_));
        let has_unread = !socket.reader.is_empty() && !is_cut_off;
        let is_behind = socket.hold.keeps_back() || socket.is_deferred || has_unread;
        if is_behind && !planted::has(Bug::EndBeforeBytes) {
            return;
        }
        match (end, socket.reader.len()) {
            (CloseReason::PeerClosed, 0) => self.finish(app, handle, end, Release::Flush),
            (CloseReason::PeerClosed, received) => {
                let reason = CloseReason::Truncated { received };
                self.finish(app, handle, reason, Release::Flush);
            }
            (end, _) => self.fail(app, handle, end),
        }
    }

    fn on_sent(&mut self, app: &mut A, handle: Handle, outgoing: Outgoing) {
        self.reactor.stats.bytes_out += outgoing.len() as u64;
        self.reactor.recycle(outgoing);
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.backlog.land();
        socket.pulse.note_landing();
        if socket.backlog.has_pending() {
            self.reactor.mark_dirty(handle);
        } else if socket.state() == State::Connected && matches!(socket.owner, Owner::Object(_)) {
            self.tell_object(app, handle, Notice::WriteComplete);
        }
        // Whoever was told that all has left may have closed, or sent more than the low mark.
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if socket.state() == State::Connected && socket.backlog.take_event() {
            self.tell(app, handle, Event::Write);
        }
    }

    /// Nothing can be sent any more. What has arrived is delivered first, and the connection's end
    /// comes from the receiving side, so that it is told once and last.
    fn on_send_failed(&mut self, handle: Handle, errno: Errno, outgoing: Outgoing) {
        self.reactor.recycle(outgoing);
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.backlog.land();
        socket.pulse.note_landing();
        let (pending, state) = (socket.backlog.clear(), socket.state());
        self.reactor.recycle(pending);
        match state {
            State::Connected => self.on_broken(handle, CloseReason::from_errno(errno)),
            State::Flushing => self.reactor.cut(&mut self.driver, handle),
            _ => {}
        }
    }

    fn on_broken(&mut self, handle: Handle, reason: CloseReason) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.closing().broken = Some(reason);
        // Whoever paused may wait for `Event::Write`, which will not come any more. So the pause
        // ends, and what is left is told.
        socket.hold = Hold::default();
        socket.meter = None;
        if socket.peer_finished {
            socket.closing().end = Some(reason);
        } else {
            self.driver.end(handle, End::Both);
        }
        self.reactor.defer(handle);
    }

    /// A closing connection has seen the peer's end.
    fn on_peer_finished(&mut self, handle: Handle, is_broken: bool) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.peer_finished = true;
        if is_broken || socket.state() == State::Lingering {
            socket.enter(State::Cancelling, &mut self.reactor.census);
        }
    }

    /// Delivers what is held and then `input`, from which a send may be lent bytes meanwhile.
    #[inline]
    pub(super) fn deliver_lent(
        &mut self,
        app: &mut A,
        handle: Handle,
        lender: Option<Lender>,
        input: &[u8],
    ) {
        self.reactor.lending = lender.map(Lending::new);
        self.deliver(app, handle, input);
        self.reactor.lending = None;
    }

    /// Delivers what is held and then `input`, in whichever way the socket asks for at that byte.
    /// What may not be delivered now is held.
    pub(super) fn deliver(&mut self, app: &mut A, handle: Handle, mut input: &[u8]) {
        loop {
            let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
            // It may have been closed by what was delivered last (C2).
            if socket.state() != State::Connected && !planted::has(Bug::ToldAfterClose) {
                return;
            }
            if socket.hold.keeps_back() || (input.is_empty() && socket.reader.is_empty()) {
                return self.hold(handle, input);
            }
            match socket.delivery() {
                Delivery::Push if socket.reader.is_empty() => {
                    self.tell(app, handle, Event::Read(mem::take(&mut input)));
                }
                Delivery::Push => self.push_held(app, handle),
                Delivery::Pull => return self.offer(app, handle, input),
                Delivery::Pdu(_) => {
                    if self.cut_pdus(app, handle, &mut input) {
                        return;
                    }
                }
            }
        }
    }

    /// Keeps bytes that cannot be delivered now.
    fn hold(&mut self, handle: Handle, bytes: &[u8]) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        if !bytes.is_empty() {
            make_room(&mut socket.reader, &mut self.reactor.spare, bytes.len());
            socket.reader.hold(bytes);
        }
    }

    /// Lends bytes that were held, to a socket that takes them as they come.
    fn push_held(&mut self, app: &mut A, handle: Handle) {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        let reader = mem::take(&mut socket.reader);
        self.tell(app, handle, Event::Read(reader.unread()));
        self.reactor.spare.give(reader.into_buffer());
    }

    /// Puts bytes where `recv` finds them, and says so.
    fn offer(&mut self, app: &mut A, handle: Handle, input: &[u8]) {
        self.hold(handle, input);
        let bytes_max = self.options.pull_bytes_max as usize;
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return };
        socket.hold.by_pull = socket.reader.len() >= bytes_max;
        self.tell(app, handle, Event::Read(&[]));
    }

    /// Delivers whole PDUs for as long as nothing changes; whether all of the input is done with.
    fn cut_pdus(&mut self, app: &mut A, handle: Handle, input: &mut &[u8]) -> bool {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return true };
        let Some(spec) = socket.framing() else { return false };
        socket.is_changed = false;
        let course = Course::of(socket);
        if socket.reader.is_empty() {
            debug_assert!(!socket.pulse.has_frame(), "only held bytes have a deadline");
            // What is whole in the input, as nearly all is, needs no reader.
            while let Ok(Some(frame)) = cut(&spec, input) {
                let pdu = Pdu::new(frame, spec.header_len());
                if let Break(is_done) = self.tell_next(app, handle, pdu, &course) {
                    return is_done;
                }
            }
            if input.is_empty() {
                return true;
            }
        }
        self.cut_begun(app, handle, input, &spec, &course)
    }

    /// The same where a PDU has begun, or does not go on as it should.
    #[inline(never)]
    fn cut_begun(
        &mut self,
        app: &mut A,
        handle: Handle,
        input: &mut &[u8],
        spec: &FrameSpec,
        course: &Course<A>,
    ) -> bool {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return true };
        // Lent from outside of the table, so that a PDU borrows nothing of it (C3).
        let mut reader = mem::take(&mut socket.reader);
        if !reader.is_empty() {
            make_room(&mut reader, &mut self.reactor.spare, input.len());
        }
        let mut is_new = false;
        let (is_done, error) = loop {
            match reader.next(spec, input) {
                Ok(Some(pdu)) => {
                    is_new = true;
                    if let Break(is_done) = self.tell_next(app, handle, pdu, course) {
                        break (is_done, None);
                    }
                    if reader.is_empty() {
                        break (false, None);
                    }
                }
                Ok(None) => break (true, None),
                Err(error) => break (true, Some(error)),
            }
        };
        match self.reactor.sockets.find_mut(handle) {
            Some(socket) if socket.state() == State::Connected => {
                if is_done && error.is_none() && !input.is_empty() {
                    make_room(&mut reader, &mut self.reactor.spare, input.len());
                    reader.hold(mem::take(input));
                } else if reader.is_empty() && reader.has_buffer() {
                    self.reactor.spare.give(reader.take_buffer());
                }
                // What is left may be read in another way from here on, and be no PDU's beginning.
                // If it is one all the same, the next round notes it.
                let has_started = !reader.is_empty() && !socket.is_changed;
                socket.pulse.note_frame(has_started, is_new, self.reactor.now_ms);
                socket.reader = reader;
                if has_started {
                    let len = spec.frame_len(socket.reader.unread());
                    if matches!(len, Ok(Some(len)) if len > self.reactor.large_len) {
                        socket.bulk.start();
                    }
                    self.reactor.watch(handle);
                }
            }
            _ => self.reactor.spare.give(reader.into_buffer()),
        }
        if let Some(error) = error {
            self.finish(app, handle, CloseReason::BadFrame(error), Release::Flush);
        }
        is_done
    }

    /// Tells of a PDU. Breaks where the next one does not follow as a matter of course, with
    /// whether that is because the connection is gone.
    #[inline(always)]
    fn tell_next(
        &mut self,
        app: &mut A,
        handle: Handle,
        pdu: Pdu<'_>,
        course: &Course<A>,
    ) -> ControlFlow<bool> {
        self.reactor.stats.pdus_in += 1;
        let (len, changes) = (pdu.frame().len(), self.reactor.sockets.changes());
        match course.callback {
            // Called right here: each copy of an event costs as much as cutting a PDU.
            Some(callback) => self.call_back(app, handle, callback, Event::Pdu(pdu)),
            None => self.tell(app, handle, Event::Pdu(pdu)),
        }
        if !course.is_noted && self.reactor.sockets.changes() == changes {
            debug_assert!(self.is_on_course(handle, course), "what changes it is counted");
            return Continue(());
        }
        self.go_on(handle, len, course)
    }

    /// Whether the next PDU is told as the last one was (C2), as is taken for granted where nothing
    /// has changed.
    fn is_on_course(&self, handle: Handle, course: &Course<A>) -> bool {
        let Some(socket) = self.reactor.sockets.find(handle) else { return false };
        let is_same_owner = match (&socket.owner, course.callback) {
            (Owner::Callback(callback), Some(former)) => std::ptr::fn_addr_eq(*callback, former),
            (Owner::Object(_) | Owner::Factory(_), None) => true,
            _ => false,
        };
        let is_noted = socket.bulk.is_on() || socket.meter.is_some();
        let is_held = socket.hold.is_on() || socket.is_changed;
        socket.state() == State::Connected && is_same_owner && !is_noted && !is_held
    }

    /// Whether the next PDU follows, after one that may have changed that.
    fn go_on(&mut self, handle: Handle, len: usize, course: &Course<A>) -> ControlFlow<bool> {
        let Some(socket) = self.reactor.sockets.find_mut(handle) else { return Break(true) };
        socket.meter_pdu();
        if course.is_bulky {
            socket.bulk.note_pdu(len, self.reactor.large_len);
        }
        let is_held = socket.hold.is_on() || socket.is_changed;
        if socket.state() != State::Connected || is_held { Break(false) } else { Continue(()) }
    }
}

/// How one PDU after the other is told, for as long as the socket stays as it is.
struct Course<A> {
    /// Who is told, if it is a callback.
    callback: Option<Callback<A>>,
    /// Large PDUs are expected.
    is_bulky: bool,
    /// Each PDU is noted, be it because of that or for a rate.
    is_noted: bool,
}

impl<A> Course<A> {
    fn of(socket: &Socket<Owner<A>>) -> Self {
        let is_bulky = socket.bulk.is_on();
        Self {
            callback: match socket.owner {
                Owner::Callback(callback) => Some(callback),
                Owner::Object(_) | Owner::Factory(_) => None,
            },
            is_bulky,
            is_noted: is_bulky || socket.meter.is_some(),
        }
    }
}

/// Lets the carry grow by way of a spare buffer, if there is one, rather than by allocating.
fn make_room(reader: &mut Reader, spare: &mut Spare, len: usize) {
    let needed = reader.len() + len;
    if reader.capacity() >= needed {
        return;
    }
    let buffer = spare.take(needed);
    if buffer.capacity() > reader.capacity() {
        spare.give(reader.move_to(buffer));
    } else {
        spare.give(buffer);
    }
}

/// A listener has let in as many as it may.
struct TooMany;

/// Whose connection it is; `None` for one that is gone already, or has no address.
fn block_of(client: &Endpoint) -> Option<Block> {
    let address = client.peer_address().ok()?.as_socket()?;
    Some(Block::of(address.ip()))
}

/// Clients that may fail in a row before their listener rests.
const ACCEPT_FAILURES_MAX: u8 = 16;
