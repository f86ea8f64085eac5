//! When the PDUs of an open loop are due, and how long those of a mix are.
//!
//! Both are pure functions of numbers, so that every server bears the very same load. Nothing here
//! knows of sockets or reads a clock: times are what the caller says they are.

#![forbid(unsafe_code)]

/// Arrivals at a steady mean rate, each independent of the others, as many users together make
/// them: the gaps are exponential, the connections drawn.
///
/// A PDU is due when the schedule says so, however late the load or the server is. Counting its
/// latency from then on is what makes a stall visible in all the PDUs that it held up.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    state: u64,
    gap_ns_mean: f64,
    connections: usize,
    next_ns: f64,
}

/// A PDU that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at_ns: u64,
    pub(crate) connection: usize,
}

impl Schedule {
    /// Begins at `start_ns`, with a mean of `per_second` PDUs on so many connections together.
    pub(crate) fn new(per_second: f64, connections: usize, start_ns: u64) -> Self {
        assert!(per_second > 0.0 && connections > 0, "a schedule has a rate and connections");
        let gap_ns_mean = 1e9 / per_second;
        let mut schedule = Self { state: SEED, gap_ns_mean, connections, next_ns: start_ns as f64 };
        schedule.next_ns += schedule.gap_ns();
        schedule
    }

    /// The next PDU that is due at `now_ns`, if one is.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<Due> {
        if self.next_ns > now_ns as f64 {
            return None;
        }
        let at_ns = whole(self.next_ns);
        self.next_ns += self.gap_ns();
        let connection = whole(self.draw() * self.connections as f64);
        // A draw is below 1, but the product may be rounded up.
        let last = self.connections - 1;
        let connection = usize::try_from(connection).map_or(last, |drawn| drawn.min(last));
        Some(Due { at_ns, connection })
    }

    fn gap_ns(&mut self) -> f64 {
        -(1.0 - self.draw()).ln() * self.gap_ns_mean
    }

    /// From 0 up to, and not including, 1.
    fn draw(&mut self) -> f64 {
        self.state = self.state.wrapping_add(1);
        (mixed(self.state) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long the payloads of a load are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// All of one length.
    Fixed(usize),
    /// What a messenger's gateway sees: of a hundred PDUs thirty are heartbeats without a payload,
    /// one is a picture or a history of 32 KiB, and the others are short messages.
    Mix,
}

impl Sizes {
    /// Of the PDU with that number on that connection.
    pub(crate) fn payload_len(self, connection: usize, sequence: u16) -> usize {
        let Self::Fixed(len) = self else {
            let drawn = mixed(SEED ^ ((connection as u64) << 16 | u64::from(sequence)));
            let message_len = MESSAGE_LEN_MIN + (drawn >> 32) % MESSAGE_LEN_SPAN;
            return match drawn % 100 {
                0..HEARTBEATS => 0,
                HEARTBEATS => LARGE_LEN,
                _ => usize::try_from(message_len).expect("less than a KiB"),
            };
        };
        len
    }

    pub(crate) const fn longest(self) -> usize {
        match self {
            Self::Fixed(len) => len,
            Self::Mix => LARGE_LEN,
        }
    }
}

/// Spreads the bits of a number over the whole of another, the same each time.
const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
const fn whole(number: f64) -> u64 {
    number as u64
}

const SEED: u64 = 0x5eed_0000_0000;
/// Of a hundred PDUs of a mix.
const HEARTBEATS: u64 = 30;
const MESSAGE_LEN_MIN: u64 = 32;
const MESSAGE_LEN_SPAN: u64 = 480;
const LARGE_LEN: usize = 32 << 10;
