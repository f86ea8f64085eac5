//! Signs of life of one connection, and which of its deadlines comes next.
//!
//! Notes of times, and questions about them: nothing here is armed or cancelled. A connection has
//! one alarm, for the earliest of its deadlines as they stood when it was armed. Whatever happens
//! meanwhile is only noted, and when the alarm goes off, it is looked at what is due now.

#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::event::Deadline;
use crate::options::{Liveness, NEVER};

#[derive(Debug)]
pub(crate) struct Pulse {
    rules: Rc<Liveness>,
    /// The application has marked the connection as ready.
    pub(crate) is_ready: bool,
    opened_ms: u64,
    received_ms: u64,
    sent_ms: u64,
    /// When the PDU began that is not whole yet; `NEVER` when there is none.
    frame_since_ms: u64,
    flight: Flight,
}

/// What is known of the send in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    /// When to look for progress; `NEVER` while nothing flies.
    look_ms: u64,
    /// When there was progress the last time, as far as was looked; `NEVER` while nothing flies.
    moved_ms: u64,
    /// What the driver said of the progress the last time; `NEVER` where it has not said.
    progress: u64,
}

/// What to do about a connection when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing was sent for long.
    Heartbeat,
    /// Look whether the send in flight has made progress.
    Look,
    /// The peer was too fast, and may go on.
    Resume,
    Expired(Deadline),
}

impl Pulse {
    pub(crate) fn new(rules: Rc<Liveness>, now_ms: u64) -> Self {
        Self {
            rules,
            is_ready: false,
            opened_ms: now_ms,
            received_ms: now_ms,
            sent_ms: now_ms,
            frame_since_ms: NEVER,
            flight: Flight::NONE,
        }
    }

    pub(crate) fn rules(&self) -> &Rc<Liveness> {
        &self.rules
    }

    pub(crate) fn set_rules(&mut self, rules: Rc<Liveness>) {
        self.rules = rules;
        if self.flight.moved_ms != NEVER {
            let look_ms = self.flight.moved_ms.saturating_add(self.look_interval_ms());
            self.flight.look_ms = look_ms;
        }
    }

    /// The connection is open from now on.
    pub(crate) fn open(&mut self, now_ms: u64) {
        // Who was marked as ready before knows what he does.
        *self = Self { is_ready: self.is_ready, ..Self::new(Rc::clone(&self.rules), now_ms) };
    }

    /// The peer is heard again after a time in which nobody listened to it.
    pub(crate) fn hear(&mut self, now_ms: u64) {
        self.received_ms = now_ms;
        if self.has_frame() {
            self.frame_since_ms = now_ms;
        }
    }

    pub(crate) fn note_received(&mut self, now_ms: u64) {
        self.received_ms = now_ms;
    }

    /// What is left in the carry: nothing, or the beginning of a PDU, which `is_new` or was there
    /// before.
    pub(crate) fn note_frame(&mut self, is_started: bool, is_new: bool, now_ms: u64) {
        if !is_started {
            self.frame_since_ms = NEVER;
        } else if is_new || !self.has_frame() {
            self.frame_since_ms = now_ms;
        }
    }

    /// Whether there is a PDU that has begun.
    pub(crate) const fn has_frame(&self) -> bool {
        self.frame_since_ms != NEVER
    }

    pub(crate) fn note_sent(&mut self, now_ms: u64) {
        self.sent_ms = now_ms;
    }

    /// Bytes are in flight from now on.
    pub(crate) fn note_flight(&mut self, now_ms: u64) {
        let look_ms = now_ms.saturating_add(self.look_interval_ms());
        self.flight = Flight { look_ms, moved_ms: now_ms, progress: NEVER };
    }

    /// When progress is to be looked at; `NEVER` while nothing flies.
    pub(crate) const fn look_ms(&self) -> u64 {
        self.flight.look_ms
    }

    /// They have left, or never will.
    pub(crate) fn note_landing(&mut self) {
        self.flight = Flight::NONE;
    }

    /// Looks at the progress of the send in flight; whether there was none for too long. A driver
    /// that cannot tell is believed that there was some.
    pub(crate) fn is_stalled(&mut self, progress: Option<u64>, now_ms: u64) -> bool {
        // What was first seen may have been reached long ago, or just now.
        if progress.is_none_or(|progress| progress != self.flight.progress) {
            self.flight.moved_ms = now_ms;
        }
        self.flight.progress = progress.unwrap_or(NEVER);
        self.flight.look_ms = now_ms.saturating_add(self.look_interval_ms());
        now_ms.saturating_sub(self.flight.moved_ms) >= self.rules.write_stall_ms
    }

    /// What is due next, and when. A peer that is not heard is not blamed for its silence.
    pub(crate) fn next(&self, is_heard: bool) -> (u64, Due) {
        let rules = &*self.rules;
        let after = |since_ms: u64, limit_ms: u64| since_ms.saturating_add(limit_ms);
        let unless = |is_excused: bool, due_ms: u64| if is_excused { NEVER } else { due_ms };
        let frame_ms = after(self.frame_since_ms, rules.frame_ms);
        let idle_ms = after(self.received_ms, rules.read_idle_ms);
        let handshake_ms = after(self.opened_ms, rules.handshake_ms);
        let deadlines = [
            (unless(!is_heard, frame_ms), Due::Expired(Deadline::Frame)),
            (unless(!is_heard, idle_ms), Due::Expired(Deadline::ReadIdle)),
            (unless(self.is_ready, handshake_ms), Due::Expired(Deadline::Handshake)),
            (after(self.opened_ms, rules.lifetime_ms), Due::Expired(Deadline::Lifetime)),
            (after(self.sent_ms, rules.heartbeat_ms), Due::Heartbeat),
            (self.flight.look_ms, Due::Look),
        ];
        deadlines.into_iter().min_by_key(|(due_ms, _)| *due_ms).expect("there are six")
    }

    fn look_interval_ms(&self) -> u64 {
        match self.rules.write_stall_ms {
            NEVER => NEVER,
            limit_ms => limit_ms.div_ceil(LOOKS),
        }
    }
}

impl Flight {
    const NONE: Self = Self { look_ms: NEVER, moved_ms: NEVER, progress: NEVER };
}

/// How often progress is looked at in the span of a stall.
const LOOKS: u64 = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn pulse(rules: Liveness) -> Pulse {
        Pulse::new(Rc::new(rules), 1000)
    }

    /// The earliest deadline is the next one, whichever it is, and notes move it.
    #[test]
    fn the_earliest_deadline_comes_next() {
        let rules = Liveness::new().handshake(ms(50)).read_idle(ms(100)).heartbeat(ms(150));
        let mut pulse = pulse(rules.lifetime(ms(1000)).frame(ms(60)));
        assert_eq!(pulse.next(true), (1050, Due::Expired(Deadline::Handshake)));
        pulse.is_ready = true;
        assert_eq!(pulse.next(true), (1100, Due::Expired(Deadline::ReadIdle)));
        pulse.note_received(1090);
        assert_eq!(pulse.next(true), (1150, Due::Heartbeat));
        pulse.note_sent(1140);
        assert_eq!(pulse.next(true), (1190, Due::Expired(Deadline::ReadIdle)));
        pulse.note_frame(true, true, 1100);
        assert_eq!(pulse.next(true), (1160, Due::Expired(Deadline::Frame)));
        assert_eq!(pulse.next(false), (1290, Due::Heartbeat), "a peer that is not heard");
        pulse.note_sent(1950);
        assert_eq!(pulse.next(false), (2000, Due::Expired(Deadline::Lifetime)));
    }

    /// Bytes that come in drips do not move the deadline of their PDU; the next PDU has its own.
    #[test]
    fn a_drip_does_not_extend_a_frame() {
        let mut pulse = pulse(Liveness::new().frame(ms(30)));
        assert_eq!(pulse.next(true).0, NEVER);
        pulse.note_frame(true, true, 1000);
        pulse.note_frame(true, false, 1020);
        assert_eq!(pulse.next(true).0, 1030);
        pulse.note_frame(true, true, 1025);
        assert_eq!(pulse.next(true).0, 1055);
        pulse.hear(1050);
        assert_eq!(pulse.next(true).0, 1080, "nobody listened in between");
        pulse.note_frame(false, true, 1060);
        assert_eq!(pulse.next(true).0, NEVER);
    }

    /// A send stalls when nothing moved for the whole span, and not when it crawls.
    #[test]
    fn a_stall_is_a_span_without_progress() {
        let mut pulse = pulse(Liveness::new().write_stall(ms(80)));
        assert_eq!(pulse.next(true).0, NEVER);
        pulse.note_flight(1000);
        let mut stalled_at = |moves_until: u64| loop {
            let (now_ms, due) = pulse.next(true);
            assert_eq!(due, Due::Look);
            if pulse.is_stalled(Some(now_ms.min(moves_until)), now_ms) {
                return now_ms;
            }
        };
        assert_eq!(stalled_at(1005), 1010 + 80, "what was there at the first look may be new");
        assert_eq!(stalled_at(5000), 5000 + 80);
        pulse.note_landing();
        assert_eq!(pulse.next(true).0, NEVER);
        pulse.note_flight(6000);
        assert!((1..100).all(|look| !pulse.is_stalled(None, 6000 + look * 10)), "who cannot tell");
    }
}
