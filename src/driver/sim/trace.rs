//! What has happened in a simulated network, as one number and, if wanted, as a timeline to read.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::error::Errno;

/// One thing that happened to one socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    Listens(u16),
    Connects(u16),
    Refused,
    Retries(u32),
    Connected,
    Queued,
    Accepted,
    AcceptFailed(Errno),
    ConnectFailed(Errno),
    Sent(usize),
    SendEnded,
    SendFailed(Errno),
    Arrived(usize),
    Received(usize),
    EndArrived,
    EndOfStream,
    ReceiveFailed(Errno),
    NoBuffers,
    Cancelled,
    Denied(Errno),
    Shut,
    Reset,
    WasReset,
    Closed,
    Lost,
}

impl Note {
    /// The kind and the number of it, for the hash.
    fn code(self) -> (u8, u64) {
        let errno = |errno: Errno| u64::from(errno.0.unsigned_abs());
        match self {
            Self::Listens(port) => (1, port.into()),
            Self::Connects(port) => (2, port.into()),
            Self::Refused => (3, 0),
            Self::Retries(times) => (4, times.into()),
            Self::Connected => (5, 0),
            Self::Queued => (6, 0),
            Self::Accepted => (7, 0),
            Self::AcceptFailed(number) => (8, errno(number)),
            Self::ConnectFailed(number) => (9, errno(number)),
            Self::Sent(len) => (10, len as u64),
            Self::SendEnded => (11, 0),
            Self::SendFailed(number) => (12, errno(number)),
            Self::Arrived(len) => (13, len as u64),
            Self::Received(len) => (14, len as u64),
            Self::EndArrived => (15, 0),
            Self::EndOfStream => (16, 0),
            Self::ReceiveFailed(number) => (17, errno(number)),
            Self::NoBuffers => (18, 0),
            Self::Cancelled => (19, 0),
            Self::Shut => (20, 0),
            Self::Reset => (21, 0),
            Self::WasReset => (22, 0),
            Self::Closed => (23, 0),
            Self::Lost => (24, 0),
            Self::Denied(number) => (25, errno(number)),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listens(port) => write!(f, "listens on port {port}"),
            Self::Connects(port) => write!(f, "connects to port {port}"),
            Self::Refused => f.write_str("is refused"),
            Self::Retries(times) => write!(f, "has no answer yet, and asks again ({times})"),
            Self::Connected => f.write_str("is connected"),
            Self::Queued => f.write_str("waits to be accepted"),
            Self::Accepted => f.write_str("is accepted"),
            Self::AcceptFailed(errno) => write!(f, "cannot accept: {errno}"),
            Self::ConnectFailed(errno) => write!(f, "cannot connect: {errno}"),
            Self::Sent(len) => write!(f, "sends {len} bytes"),
            Self::SendEnded => f.write_str("has sent all of it"),
            Self::SendFailed(errno) => write!(f, "cannot send: {errno}"),
            Self::Arrived(len) => write!(f, "has {len} bytes arrived"),
            Self::Received(len) => write!(f, "receives {len} bytes"),
            Self::EndArrived => f.write_str("has the peer's end arrived"),
            Self::EndOfStream => f.write_str("receives the end of the stream"),
            Self::ReceiveFailed(errno) => write!(f, "cannot receive: {errno}"),
            Self::NoBuffers => f.write_str("has no buffer to receive into"),
            Self::Cancelled => f.write_str("has an operation cancelled"),
            Self::Denied(errno) => write!(f, "has an operation denied: {errno}"),
            Self::Shut => f.write_str("ends its stream"),
            Self::Reset => f.write_str("resets"),
            Self::WasReset => f.write_str("was reset"),
            Self::Closed => f.write_str("is closed"),
            Self::Lost => f.write_str("is lost with its host"),
        }
    }
}

/// The hash of everything, and the lines of it when they are kept.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) const fn new() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, lines: None }
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn keep(&mut self, keep: bool) {
        self.lines = keep.then(Vec::new);
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn note(&mut self, now: u64, socket: (u64, &dyn fmt::Display), note: Note) {
        let (kind, number) = note.code();
        for word in [now, socket.0, u64::from(kind), number] {
            self.mix(word);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{} {} #{} {note}", Stamp(now), socket.1, socket.0));
        }
    }

    pub(super) fn text(&mut self, now: u64, text: &str) {
        text.bytes().for_each(|byte| self.mix(byte.into()));
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{} {text}", Stamp(now)));
        }
    }

    /// One step of FNV-1a, over words.
    const fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }
}

/// A time as seconds and microseconds.
struct Stamp(u64);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14.6}", Duration::from_nanos(self.0).as_secs_f64())
    }
}
