//! What "the kernel" does when it gets to the operations of a simulated driver.
//!
//! Everything here is decided by the generator of the world and by what the operations wait for;
//! nothing depends on where anything lies in memory.

#![forbid(unsafe_code)]

use std::io::Read;

use super::socket::{Role, Stream};
use super::trace::Note;
use super::world::{Id, World};
use super::{
    Completion, Endpoint, Flight, Form, Loose, Net, Op, Ops, Outcome, Pool, Rest, Sim, Slot, Stock,
};
use crate::driver::Chunk;
use crate::error::Errno;
use crate::planted::{self, Bug};

impl Sim {
    /// Lets operations go on that may, each once, and in an order of its own.
    pub(super) fn go_on(&mut self, batch: &mut Vec<Completion>) {
        let net = self.net.clone();
        let mut guard = net.lock();
        let world = &mut *guard;
        world.calm(self.node);
        if world.is_lost(self.node) {
            return;
        }
        self.enter(world);
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        for handle in self.slots.handles() {
            let Some(slot) = self.slots.find(handle) else { continue };
            let can = |op| slot.is_ending(world, op) || world.can(slot.id, op);
            ready.extend(slot.entered.iter().filter(|op| can(*op)).map(|op| (handle, op)));
        }
        world.decisions.shuffle(&mut ready);
        let batch_max = batch.len() + batch_len(world, ready.len());
        for (handle, op) in ready.drain(..) {
            let is_put_off = world.chance(world.faults.put_off);
            let is_full = batch.len() >= batch_max && !planted::has(Bug::OverflowLost);
            if is_put_off || is_full {
                world.counts.put_off += u64::from(is_put_off);
                if op == Op::Send && planted::has(Bug::FreedInFlight) {
                    planted::give_away(&mut self.slots.expect_mut(handle).flight);
                }
                world.stir(Some(self.node));
                continue;
            }
            let slot = self.slots.expect_mut(handle);
            let step = match op {
                _ if slot.denied.has(op) => slot.fail(world, op),
                Op::Accept => slot.accept(world, &self.net),
                Op::Connect => slot.connect(world),
                Op::Receive => slot.receive(world, &self.pool, &self.stock),
                Op::Send => {
                    self.counters.sends += 1;
                    slot.send(world)
                }
                Op::Cancel | Op::Wake => None,
            };
            if let Some((outcome, last)) = step {
                let is_lost = slot.cancelled.has(op) && !outcome.is_cancelled();
                world.counts.lost_cancels += u64::from(is_lost);
                if last {
                    slot.remove(op);
                    world.finish(self.node, 1);
                }
                batch.push(Completion { handle, last, outcome });
            }
            // There may be more, which the next pass sees.
            world.stir(Some(self.node));
        }
        if planted::has(Bug::OverflowLost) {
            batch.truncate(batch_max);
        }
        if planted::has(Bug::OverflowLeft) && batch.len() >= batch_max {
            world.calm(self.node);
        }
        self.ready = ready;
    }
}

/// How many completions a pass yields at most, where so many operations may go on.
fn batch_len(world: &mut World, ready: usize) -> usize {
    if ready < 2 || !world.chance(world.faults.trickle) {
        return BATCH_MAX;
    }
    let len = 1 + world.decisions.index(3);
    world.counts.trickled += u64::from(len < ready);
    len
}

/// An outcome, and whether it is the last of its operation; `None` where it goes on.
type Step = Option<(Outcome, bool)>;

impl Slot {
    pub(super) fn new(id: Id) -> Self {
        let (outstanding, entered, flight) = (Ops::NONE, Ops::NONE, Flight::default());
        let (denied, cancelled, cancel_time) = (Ops::NONE, Ops::NONE, 0);
        let form = Form::Many;
        Self { id, outstanding, entered, denied, cancelled, cancel_time, form, flight }
    }

    /// Whether an operation ends although nothing has come of it.
    fn is_ending(&self, world: &World, op: Op) -> bool {
        self.denied.has(op) || self.is_cancelled(world, op)
    }

    fn is_cancelled(&self, world: &World, op: Op) -> bool {
        self.cancelled.has(op) && self.cancel_time <= world.now()
    }

    /// The kernel has got to an operation.
    pub(super) fn enter(&mut self, op: Op, is_denied: bool) {
        self.entered.insert(op);
        if is_denied {
            self.denied.insert(op);
        }
    }

    fn remove(&mut self, op: Op) {
        for ops in [&mut self.outstanding, &mut self.entered, &mut self.denied, &mut self.cancelled]
        {
            ops.remove(op);
        }
    }

    /// The kernel denies an operation.
    fn fail(&mut self, world: &mut World, op: Op) -> Step {
        let errno = Errno(world.decisions.choose(&DENIALS));
        world.note(self.id, Note::Denied(errno));
        world.counts.denied += 1;
        let outcome = match op {
            Op::Accept => Outcome::AcceptFailed(errno),
            Op::Connect => Outcome::ConnectFailed(errno),
            Op::Receive => match self.form.take_rest() {
                Some(rest) => {
                    self.form = Form::Ended(errno);
                    Outcome::Filled(rest)
                }
                None => Outcome::ReceiveFailed(errno),
            },
            Op::Send => Outcome::SendFailed(errno, self.flight.land()),
            Op::Cancel | Op::Wake => return None,
        };
        Some((outcome, true))
    }

    fn accept(&self, world: &mut World, net: &Net) -> Step {
        if !world.can(self.id, Op::Accept) || self.loses(world, Op::Accept) {
            world.note(self.id, Note::Cancelled);
            return Some((Outcome::AcceptFailed(Errno::CANCELLED), true));
        }
        if world.chance(world.faults.accept_error) {
            world.counts.accept_errors += 1;
            let errno = Errno(world.decisions.choose(&ACCEPT_ERRORS));
            world.note(self.id, Note::AcceptFailed(errno));
            return Some((Outcome::AcceptFailed(errno), true));
        }
        let Some(client) = world.pop_client(self.id) else {
            return Some((Outcome::AcceptFailed(Errno(libc::EINVAL)), true));
        };
        world.note(client, Note::Accepted);
        let last = world.disarms();
        let client = Endpoint::Sim(Loose::new(net.clone(), client));
        Some((Outcome::Accepted(client), last))
    }

    fn connect(&self, world: &mut World) -> Step {
        if !world.can(self.id, Op::Connect) || self.loses(world, Op::Connect) {
            world.note(self.id, Note::Cancelled);
            return Some((Outcome::ConnectFailed(Errno::CANCELLED), true));
        }
        let errno = match world.sockets.get_mut(&self.id).map(|socket| &mut socket.role) {
            Some(Role::Connecting { answer: Some(errno), .. }) => *errno,
            Some(Role::Stream(Stream { is_dead: true, error, .. })) => {
                error.take().unwrap_or(Errno(libc::ECONNRESET))
            }
            _ => return Some((Outcome::Connected, true)),
        };
        world.note(self.id, Note::ConnectFailed(errno));
        Some((Outcome::ConnectFailed(errno), true))
    }

    /// Receives of a rest what chance lets it. Of an end or a failure the next receive tells.
    fn receive_rest(&mut self, world: &mut World) -> Step {
        let is_going_on = world.can(self.id, Op::Receive) && !self.loses(world, Op::Receive);
        let Form::Rest(rest) = &mut self.form else { return None };
        let len = world.stream(self.id).map_or(0, |stream| stream.inbox.len());
        let len = if is_going_on { len.min(rest.missing()) } else { 0 };
        let mut is_over = len == 0;
        if len > 0 {
            let len = world.part(len);
            let bytes = world.stream_mut(self.id)?.inbox.drain(..len);
            rest.buffer_mut().extend(bytes);
            is_over = rest.missing() == 0 || world.disarms();
            world.note(self.id, Note::Received(len));
            world.made_room(self.id);
        } else if !is_going_on {
            world.note(self.id, Note::Cancelled);
        }
        let rest = if is_over { self.form.take_rest() } else { None };
        rest.map(|rest| (Outcome::Filled(rest), true))
    }

    fn receive(&mut self, world: &mut World, pool: &Pool, stock: &Stock) -> Step {
        if let Form::Rest(_) = self.form {
            return self.receive_rest(world);
        }
        if !world.can(self.id, Op::Receive) || self.loses(world, Op::Receive) {
            world.note(self.id, Note::Cancelled);
            return Some((Outcome::ReceiveFailed(Errno::CANCELLED), true));
        }
        let stream = world.stream_mut(self.id)?;
        let len = stream.inbox.len();
        if len == 0 {
            let error = stream.error.take();
            let note = error.map_or(Note::EndOfStream, Note::ReceiveFailed);
            world.note(self.id, note);
            return Some((error.map_or(Outcome::EndOfStream, Outcome::ReceiveFailed), true));
        }
        if let Form::Whole(len_max) = self.form {
            let len = world.part(len.min(len_max));
            let mut rest = Rest::new(stock.take(len_max), len_max);
            rest.buffer_mut().extend(world.stream_mut(self.id)?.inbox.drain(..len));
            world.note(self.id, Note::Received(len));
            world.made_room(self.id);
            return Some((Outcome::Filled(rest), true));
        }
        let Some(mut chunk) = take_buffer(world, pool) else {
            world.note(self.id, Note::NoBuffers);
            return Some((Outcome::NoBuffers, true));
        };
        let len = world.part(len.min(pool.buffer_len()));
        let stream = world.stream_mut(self.id)?;
        let copied = stream.inbox.read_exact(&mut chunk.space()[..len]);
        copied.expect("no more is received than has arrived");
        chunk.set_len(len);
        world.note(self.id, Note::Received(len));
        world.made_room(self.id);
        let last = world.disarms();
        Some((Outcome::Received(chunk), last))
    }

    fn send(&mut self, world: &mut World) -> Step {
        if !world.can(self.id, Op::Send) || self.loses(world, Op::Send) {
            world.note(self.id, Note::Cancelled);
            return Some((Outcome::SendFailed(Errno::CANCELLED, self.flight.land()), true));
        }
        let stream = world.stream_mut(self.id)?;
        if stream.is_dead || stream.is_shut {
            let errno = stream.error.take().unwrap_or(Errno(libc::EPIPE));
            world.note(self.id, Note::SendFailed(errno));
            return Some((Outcome::SendFailed(errno, self.flight.land()), true));
        }
        let room = world.room(self.id);
        let rest = self.flight.rest().map(<[u8]>::len).sum::<usize>();
        let len = world.part(room.min(rest));
        let mut bytes = Vec::with_capacity(len);
        for piece in self.flight.rest() {
            let left = piece.len().min(len - bytes.len());
            bytes.extend_from_slice(&piece[..left]);
        }
        self.flight.advance(len);
        world.push(self.id, bytes.into());
        if !self.flight.is_over() {
            return None;
        }
        world.note(self.id, Note::SendEnded);
        Some((Outcome::Sent(self.flight.land()), true))
    }

    /// Whether a cancel comes before what the operation could do as well.
    fn loses(&self, world: &mut World, op: Op) -> bool {
        self.is_cancelled(world, op) && world.decisions.coin()
    }
}

impl World {
    /// Whether an operation of a socket may go on.
    pub(super) fn can(&self, id: Id, op: Op) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return false };
        match (op, &socket.role) {
            (Op::Accept, Role::Listener { queue, is_open, .. }) => !queue.is_empty() || !is_open,
            (Op::Connect, Role::Connecting { answer, .. }) => answer.is_some(),
            (Op::Connect, Role::Stream(stream)) => stream.is_answered,
            (Op::Receive, Role::Stream(stream)) => stream.is_readable(),
            (Op::Send, Role::Stream(stream)) => {
                stream.is_dead || stream.is_shut || self.room(id) > 0
            }
            _ => false,
        }
    }

    /// So many bytes, or fewer, but at least one.
    pub(super) fn part(&mut self, len: usize) -> usize {
        if len < 2 || !self.chance(self.faults.partial) {
            return len;
        }
        let part = 1 + self.decisions.index(len);
        self.counts.partial += u64::from(part < len);
        part
    }

    /// Whether what could stay armed ends.
    fn disarms(&mut self) -> bool {
        let ends = self.chance(self.faults.disarm);
        self.counts.disarmed += u64::from(ends);
        ends
    }
}

/// A buffer to receive into, unless there is none or shall be none.
fn take_buffer(world: &mut World, pool: &Pool) -> Option<Chunk> {
    let count = pool.free_count();
    if count > 0 && world.chance(world.faults.no_buffers) {
        world.counts.no_buffers += 1;
        return None;
    }
    if count < 2 || !world.chance(world.faults.odd_buffer) {
        return pool.take();
    }
    let at = world.decisions.index(count);
    world.counts.odd_buffers += u64::from(at < count - 1);
    pool.take_any(at)
}

/// With what the kernel denies an operation.
const DENIALS: [i32; 4] = [libc::EPERM, libc::EACCES, libc::ENOMEM, libc::EINVAL];

/// With how an accept fails that may be tried again.
const ACCEPT_ERRORS: [i32; 3] = [libc::EMFILE, libc::ENFILE, libc::ECONNABORTED];

/// Completions of one pass.
const BATCH_MAX: usize = 256;
