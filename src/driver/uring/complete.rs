//! What a completion of the ring means: from `user_data`, `res` and `flags` to an outcome.
//!
//! Trusts no completion of a socket's to be expected. One whose request is not outstanding is
//! dropped, after whatever it carries (a buffer, an accepted descriptor) was taken care of.

use std::os::fd::AsFd;

use io_uring::cqueue;
use socket2::SockRef;

use super::super::buf_ring::BufRing;
use super::super::slots::Slots;
use super::super::token::Token;
use super::super::{Chunk, Completion, Form, LARGE_BYTES_PER_WAIT, Op, Outcome, Rest};
use super::Uring;
use super::slot::Slot;
use crate::error::Errno;
use crate::event::Handle;
use crate::options::Feature;
use crate::sys;

/// One completion, taken apart.
struct Answer {
    handle: Handle,
    result: i32,
    /// No F_MORE: the request is over, whatever the result is.
    is_last: bool,
    /// Of a receive: there is more to be received.
    has_more: bool,
    chunk: Option<Chunk>,
}

/// Yields what nearly every completion is: one buffer of many, or the end of a send that has sent
/// all it had. Whether it was that; if not, nothing is changed.
// Of the driver it takes what it needs, as the queue is borrowed meanwhile.
#[inline(always)]
pub(super) fn complete_usual(
    (slots, buffers, in_flight): (&mut Slots<Slot>, &mut BufRing, &mut usize),
    entry: &cqueue::Entry,
    batch: &mut Vec<Completion>,
) -> bool {
    let (token, flags) = (Token::from_bits(entry.user_data()), entry.flags());
    let Ok(len) = u32::try_from(entry.result()) else { return false };
    let (handle, is_last) = (token.handle(), !cqueue::more(flags));
    if len == 0 {
        return false;
    }
    let Some(slot) = slots.find_mut(handle) else { return false };
    match cqueue::buffer_select(flags) {
        Some(id) if token.is(Op::Receive) && slot.outstanding.has(Op::Receive) && !is_last => {
            let has_more = cqueue::sock_nonempty(flags);
            if slot.run.is_suspect(has_more) {
                return false;
            }
            slot.run.note(has_more);
            let outcome = Outcome::Received(buffers.claim(id, len));
            batch.push(Completion { handle, last: false, outcome });
            true
        }
        None if token.is(Op::Send) && is_last => {
            // Without a send that is outstanding nothing flies.
            let Some(outgoing) = slot.flight.land_if_last(len as usize) else { return false };
            slot.end(Op::Send);
            slot.sent_in_all += u64::from(len);
            *in_flight -= 1;
            batch.push(Completion { handle, last: true, outcome: Outcome::Sent(outgoing) });
            true
        }
        _ => false,
    }
}

impl Uring {
    /// Yields a completion of any kind.
    pub(super) fn complete(&mut self, entry: &cqueue::Entry, batch: &mut Vec<Completion>) {
        let parts = (&mut *self.slots, &mut *self.buffers, &mut self.in_flight);
        if complete_usual(parts, entry, batch) {
            return;
        }
        let (token, flags) = (Token::from_bits(entry.user_data()), entry.flags());
        let len = u32::try_from(entry.result()).unwrap_or(0);
        // A buffer is ours again even when the completion brings no bytes.
        let chunk = cqueue::buffer_select(flags).map(|id| self.buffers.claim(id, len));
        let answer = Answer {
            handle: token.handle(),
            result: entry.result(),
            is_last: !cqueue::more(flags),
            has_more: cqueue::sock_nonempty(flags),
            chunk,
        };
        let (handle, is_last) = (answer.handle, answer.is_last);
        let outcome = match token.op() {
            Some(Op::Accept) => self.complete_accept(&answer),
            Some(Op::Connect) => self.complete_connect(&answer),
            Some(Op::Receive) => return self.complete_receive(answer, batch),
            Some(Op::Send) => self.complete_send(&answer),
            Some(Op::Wake) => return self.complete_wake(),
            Some(Op::Cancel) => {
                self.in_flight -= 1;
                return;
            }
            // Nobody knows what it is of.
            None => return,
        };
        if let Some(outcome) = outcome {
            batch.push(Completion { handle, last: is_last, outcome });
        }
    }

    /// The slot whose outstanding request an answer belongs to, and whether that was cancelled;
    /// notes it when it is over. `None` for an answer that nobody asked for.
    #[inline]
    fn settle(&mut self, op: Op, handle: Handle, is_last: bool) -> Option<(&mut Slot, bool)> {
        let slot = self.slots.find_mut(handle).filter(|slot| slot.outstanding.has(op))?;
        let was_cancelled = slot.cancelled.has(op);
        if is_last {
            slot.end(op);
            self.in_flight -= 1;
        }
        Some((slot, was_cancelled))
    }

    fn complete_accept(&mut self, answer: &Answer) -> Option<Outcome> {
        let client = sys::accepted_descriptor(answer.result);
        let (_, was_cancelled) = self.settle(Op::Accept, answer.handle, answer.is_last)?;
        if let Some(client) = client {
            return Some(Outcome::Accepted(client.into()));
        }
        let errno = Errno(-answer.result);
        // A listener that was shut down answers like a kernel without the multishot form.
        if !was_cancelled && self.degrade(Feature::AcceptMulti, errno) {
            self.slots.expect_mut(answer.handle).start(Op::Accept);
            self.submit_accept(answer.handle);
            return None;
        }
        Some(Outcome::AcceptFailed(errno))
    }

    fn complete_connect(&mut self, answer: &Answer) -> Option<Outcome> {
        let (slot, _) = self.settle(Op::Connect, answer.handle, answer.is_last)?;
        slot.peer = None;
        Some(match answer.result {
            0.. => Outcome::Connected,
            errno => Outcome::ConnectFailed(Errno(-errno)),
        })
    }

    fn complete_receive(&mut self, answer: Answer, batch: &mut Vec<Completion>) {
        let (handle, last) = (answer.handle, answer.is_last);
        let Some((_, was_cancelled)) = self.settle(Op::Receive, handle, last) else { return };
        let errno = Errno(-answer.result);
        let received = usize::try_from(answer.result).unwrap_or(0);
        let slot = self.slots.expect_mut(handle);
        let is_taken = matches!(slot.form, Form::Taken(_));
        if matches!(slot.form, Form::Whole(_)) && answer.result >= 0 {
            if was_cancelled {
                let outcome = Outcome::ReceiveFailed(Errno::CANCELLED);
                return batch.push(Completion { handle, last, outcome });
            }
            slot.start(Op::Receive);
            // Nobody overtakes those that wait already.
            if self.large_bytes >= LARGE_BYTES_PER_WAIT || !self.readable.is_empty() {
                return self.readable.push_back(handle);
            }
            return self.take_large(handle);
        }
        if let Some(rest) = self.slots.expect_mut(handle).land_rest(received) {
            let outcome = if is_taken {
                self.complete_taken(&answer, rest, was_cancelled)
            } else {
                self.complete_rest(&answer, rest, was_cancelled)
            };
            return batch.extend(outcome.map(|outcome| Completion { handle, last: true, outcome }));
        }
        let may_retry = last && !was_cancelled && answer.result < 0;
        if may_retry && (self.is_probed(handle, errno) || self.is_retried(errno)) {
            self.slots.expect_mut(handle).start(Op::Receive);
            return self.submit_receive(handle);
        }
        if received > 0 && !last {
            self.note_chunk(handle, answer.has_more);
        }
        let outcome = match (answer.result, answer.chunk) {
            (1.., Some(chunk)) => Outcome::Received(chunk),
            (1.., None) => Outcome::ReceiveFailed(Errno(libc::EIO)),
            (0, _) => Outcome::EndOfStream,
            (NO_BUFFERS, _) => Outcome::NoBuffers,
            (..0, _) => Outcome::ReceiveFailed(errno),
        };
        batch.push(Completion { handle, last, outcome });
    }

    /// What a buffer that was taken for whatever is there has got.
    fn complete_taken(
        &mut self,
        answer: &Answer,
        mut rest: Rest,
        was_cancelled: bool,
    ) -> Option<Outcome> {
        if answer.result > 0 {
            return Some(Outcome::Filled(rest));
        }
        let (len, errno) = (rest.missing(), Errno(-answer.result));
        self.stock.give(std::mem::take(rest.buffer_mut()));
        if answer.result == 0 {
            return Some(Outcome::EndOfStream);
        }
        if !(errno.is_transient() || errno.0 == libc::EAGAIN) {
            return Some(Outcome::ReceiveFailed(errno));
        }
        if was_cancelled {
            return Some(Outcome::ReceiveFailed(Errno::CANCELLED));
        }
        // Whatever made it readable, it was no bytes.
        let slot = self.slots.expect_mut(answer.handle);
        slot.start(Op::Receive);
        slot.form = Form::Whole(len);
        self.submit_receive(answer.handle);
        None
    }

    /// Whether a rest goes on, or has come to what it will. Of an end or a failure that cut it
    /// short, the next receive tells.
    fn complete_rest(
        &mut self,
        answer: &Answer,
        rest: Rest,
        was_cancelled: bool,
    ) -> Option<Outcome> {
        let (handle, errno) = (answer.handle, Errno(-answer.result));
        let waits_for_all = self.waits_for_all(handle);
        let slot = self.slots.expect_mut(handle);
        if rest.missing() == 0 || answer.result < 0 && errno.is_cancellation() {
            return Some(Outcome::Filled(rest));
        }
        let may_go_on = match answer.result {
            // Those that do not wait for all bytes come back with some.
            1.. => !waits_for_all,
            0 => false,
            _ => errno.is_transient(),
        };
        if may_go_on && !was_cancelled {
            slot.start(Op::Receive);
            slot.form = Form::Rest(rest);
            self.submit_receive(handle);
            return None;
        }
        // A request that has bytes to tell of does not tell of the reset behind them, which the
        // kernel then takes for told.
        match answer.result {
            1.. if SockRef::from(&slot.socket).peer_addr().is_err() => {
                slot.form = Form::Ended(RESET);
            }
            0.. => {}
            _ if may_go_on => {}
            _ => slot.form = Form::Ended(errno),
        }
        Some(Outcome::Filled(rest))
    }

    fn is_retried(&mut self, errno: Errno) -> bool {
        errno.is_transient() || self.degrade(Feature::ReceiveMulti, errno)
    }

    /// Whether a receive ended because [`note_chunk`](Self::note_chunk) asked it to.
    fn is_probed(&self, handle: Handle, errno: Errno) -> bool {
        let is_single = self.slots.find(handle).is_some_and(|slot| slot.is_single);
        is_single && errno.is_cancellation()
    }

    /// Notes one buffer of many. If a reset may have been missed, see [`Run`](super::Run), the
    /// kernel is asked: once an arming and not per buffer.
    fn note_chunk(&mut self, handle: Handle, has_more: bool) {
        let slot = self.slots.expect_mut(handle);
        let is_suspect = slot.run.is_suspect(has_more) && !slot.is_single;
        slot.run.note(has_more);
        if is_suspect && sys::is_hung_up(slot.socket.as_fd()) {
            slot.is_single = true;
            self.submit_cancel(Token::new(Op::Receive, handle));
        }
    }

    fn complete_send(&mut self, answer: &Answer) -> Option<Outcome> {
        let (handle, result) = (answer.handle, answer.result);
        let (slot, was_cancelled) = self.settle(Op::Send, handle, answer.is_last)?;
        let errno = Errno(-result);
        let sent = usize::try_from(result).unwrap_or(0);
        slot.flight.advance(sent);
        slot.sent_in_all += sent as u64;
        let is_whole = slot.flight.is_over();
        let is_going_on = sent > 0 || errno.is_transient();
        if !is_whole && is_going_on && !was_cancelled {
            slot.start(Op::Send);
            self.submit_send(handle);
            return None;
        }
        let outgoing = slot.flight.land();
        if let Some(gather) = slot.gather.take() {
            self.gathers.give(gather);
        }
        Some(match result {
            1.. if is_whole => Outcome::Sent(outgoing),
            0.. => Outcome::SendFailed(Errno::CANCELLED, outgoing),
            _ => Outcome::SendFailed(errno, outgoing),
        })
    }

    fn complete_wake(&mut self) {
        self.in_flight -= 1;
        if self.is_draining {
            return;
        }
        self.counters.wakeups += 1;
        self.waker.take();
        self.submit_wake();
    }

    /// Whether an errno says that the kernel lacks the multishot form of a request, which is then
    /// not used again.
    fn degrade(&mut self, feature: Feature, errno: Errno) -> bool {
        let is_lacking = errno.0 == libc::EINVAL && self.features.has(feature);
        if is_lacking {
            self.features = self.features.without(feature);
        }
        is_lacking
    }
}

const RESET: Errno = Errno(libc::ECONNRESET);
const NO_BUFFERS: i32 = -libc::ENOBUFS;

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use io_uring::opcode;
    use io_uring::types::Fd;

    use super::super::super::{Driver, Family};
    use super::*;
    use crate::options::Options;

    const HANDLE: Handle = Handle::new(0, 1);

    /// A ring whose completions are forged: by another one, which puts them into its queue.
    struct Forged {
        driver: Uring,
        forger: Uring,
        _peer: UnixStream,
    }

    impl Forged {
        /// With one socket. `None` where the kernel has no ring, or may be unable to do that.
        fn new() -> Option<Self> {
            let mut driver = Uring::new(&Options::new()).ok()?;
            if !driver.features.has(Feature::NoSqArray) {
                return None;
            }
            let mut forger = Uring::new(&Options::new()).unwrap();
            let (near, far) = UnixStream::pair().unwrap();
            // As if it was TCP, for the multishot form.
            driver.adopt(OwnedFd::from(near).into(), Family::Inet, HANDLE).unwrap();
            for ring in [&mut driver, &mut forger] {
                ring.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
            }
            Some(Self { driver, forger, _peer: far })
        }

        fn forge(&mut self, token: Token, result: i32, flags: u32) {
            let (target, bits) = (Fd(self.driver.ring.as_raw_fd()), token.to_bits());
            let entry = opcode::MsgRingData::new(target, result, bits, Some(flags)).build();
            // Of a cancel's own end nothing is told.
            let end = Token::new(Op::Cancel, HANDLE).to_bits();
            self.forger.push(entry.user_data(end));
            self.forger.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        }

        fn wait(&mut self) -> Vec<Completion> {
            let mut batch = Vec::new();
            self.driver.wait(Some(Duration::from_secs(10)), &mut batch).unwrap();
            batch
        }
    }

    const SKIPPED: &str = "SKIPPED: without io_uring, or before Linux 6.6";

    const BUFFER: u32 = 1;
    const MORE: u32 = 2;
    const NONEMPTY: u32 = 4;

    /// A completion of a request that is not outstanding tells nothing, and the buffer that it
    /// carries is ours again.
    #[test]
    fn what_nobody_asked_for_is_dropped() {
        let Some(mut ring) = Forged::new() else { return println!("{SKIPPED}") };
        let (all, stale) = (ring.driver.counters().buffers_kernel, Handle::new(0, 2));
        for handle in [HANDLE, stale] {
            for (op, result, flags) in [
                (Op::Receive, 4, BUFFER | MORE | NONEMPTY),
                (Op::Receive, 4, BUFFER | MORE),
                (Op::Receive, 4, BUFFER),
                (Op::Receive, 0, 0),
                (Op::Send, 4, 0),
                (Op::Send, -libc::EPIPE, 0),
                (Op::Connect, 0, 0),
                (Op::Accept, -libc::ECONNABORTED, 0),
            ] {
                ring.forge(Token::new(op, handle), result, flags);
                assert!(ring.wait().is_empty(), "{op:?} with {result}");
                // Before it looks, a wait gives the kernel all that are free.
                let (counters, claimed) = (ring.driver.counters(), flags & BUFFER);
                let buffers = (counters.buffers_kernel, counters.buffers_free);
                assert_eq!(buffers, (all - claimed, claimed), "{op:?} with {result}");
                assert_eq!(counters.buffers_lent, 0);
            }
        }
    }

    /// What a socket is told comes in the order in which it completed, be it usual or not.
    #[test]
    fn completions_stay_in_order() {
        let Some(mut ring) = Forged::new() else { return println!("{SKIPPED}") };
        ring.driver.receive(HANDLE);
        ring.driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        // Usual, a first one that finds the socket empty, usual, the last.
        for (result, flags) in [
            (1, BUFFER | MORE | NONEMPTY),
            (2, BUFFER | MORE),
            (3, BUFFER | MORE | NONEMPTY),
            (4, BUFFER | MORE),
            (5, BUFFER),
        ] {
            ring.forge(Token::new(Op::Receive, HANDLE), result, flags);
        }
        let told: Vec<_> = ring
            .wait()
            .into_iter()
            .map(|completion| match completion.outcome {
                Outcome::Received(chunk) => (chunk.len(), completion.last),
                outcome => panic!("{outcome:?}"),
            })
            .collect();
        assert_eq!(told, [(1, false), (2, false), (3, false), (4, false), (5, true)]);
    }
}
