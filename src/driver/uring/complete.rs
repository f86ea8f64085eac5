//! What a completion of the ring means: from `user_data`, `res` and `flags` to an outcome.
//!
//! Trusts no completion to be expected. One whose request is not outstanding is dropped, after
//! whatever it carries (a buffer, an accepted descriptor) was taken care of.

use std::os::fd::AsFd;

use io_uring::cqueue;
use socket2::SockRef;

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
    chunk: Option<Chunk>,
}

impl Uring {
    pub(super) fn complete(&mut self, entry: &cqueue::Entry, batch: &mut Vec<Completion>) {
        let (token, flags) = (Token::from_bits(entry.user_data()), entry.flags());
        let len = u32::try_from(entry.result()).unwrap_or(0);
        // A buffer is ours again even when the completion brings no bytes.
        let chunk = cqueue::buffer_select(flags).map(|id| self.buffers.claim(id, len));
        match (token.op(), chunk) {
            (Some(Op::Receive), Some(chunk)) if len > 0 && cqueue::more(flags) => {
                let has_more = cqueue::sock_nonempty(flags);
                self.complete_chunk(token.handle(), chunk, has_more, batch);
            }
            (Some(Op::Send), _) => self.complete_send(entry, token.handle(), batch),
            (op, chunk) => {
                let (handle, result) = (token.handle(), entry.result());
                let answer = Answer { handle, result, is_last: !cqueue::more(flags), chunk };
                self.complete_other(op, answer, batch);
            }
        }
    }

    /// One buffer of many: what nearly every completion of a receive brings.
    #[inline]
    fn complete_chunk(
        &mut self,
        handle: Handle,
        chunk: Chunk,
        has_more: bool,
        batch: &mut Vec<Completion>,
    ) {
        let slot = self.slots.find_mut(handle).filter(|slot| slot.outstanding.has(Op::Receive));
        let Some(slot) = slot else { return };
        if slot.run.note(has_more) && !slot.is_single {
            self.look_for_reset(handle);
        }
        batch.push(Completion { handle, last: false, outcome: Outcome::Received(chunk) });
    }

    // Apart from what comes for each PDU, which would pay for its frame.
    #[inline(never)]
    fn complete_other(&mut self, op: Option<Op>, answer: Answer, batch: &mut Vec<Completion>) {
        let (handle, is_last) = (answer.handle, answer.is_last);
        let outcome = match op {
            Some(Op::Accept) => self.complete_accept(&answer),
            Some(Op::Connect) => self.complete_connect(&answer),
            Some(Op::Receive) => return self.complete_receive(answer, batch),
            Some(Op::Wake) => return self.complete_wake(),
            Some(Op::Cancel) => {
                self.in_flight -= 1;
                return;
            }
            // A send has had its own way; of anything else nobody knows.
            Some(Op::Send) | None => return,
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

    /// Whether a receive ended because [`look_for_reset`](Self::look_for_reset) asked it to.
    fn is_probed(&self, handle: Handle, errno: Errno) -> bool {
        let is_single = self.slots.find(handle).is_some_and(|slot| slot.is_single);
        is_single && errno.is_cancellation()
    }

    /// Looks after a multishot receive that may have missed a reset, see [`Run`](super::Run). The
    /// kernel is asked, once an arming and not per buffer.
    #[cold]
    fn look_for_reset(&mut self, handle: Handle) {
        let slot = self.slots.expect_mut(handle);
        if sys::is_hung_up(slot.socket.as_fd()) {
            slot.is_single = true;
            self.submit_cancel(Token::new(Op::Receive, handle));
        }
    }

    #[inline]
    fn complete_send(
        &mut self,
        entry: &cqueue::Entry,
        handle: Handle,
        batch: &mut Vec<Completion>,
    ) {
        let (result, is_last) = (entry.result(), !cqueue::more(entry.flags()));
        let Some((slot, was_cancelled)) = self.settle(Op::Send, handle, is_last) else { return };
        let errno = Errno(-result);
        let sent = usize::try_from(result).unwrap_or(0);
        slot.flight.advance(sent);
        slot.sent_in_all += sent as u64;
        let is_whole = slot.flight.is_over();
        let is_going_on = sent > 0 || errno.is_transient();
        if !is_whole && is_going_on && !was_cancelled {
            slot.start(Op::Send);
            return self.submit_send(handle);
        }
        let outgoing = slot.flight.land();
        if let Some(gather) = slot.gather.take() {
            self.gathers.give(gather);
        }
        let outcome = match result {
            1.. if is_whole => Outcome::Sent(outgoing),
            0.. => Outcome::SendFailed(Errno::CANCELLED, outgoing),
            _ => Outcome::SendFailed(errno, outgoing),
        };
        batch.push(Completion { handle, last: is_last, outcome });
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
