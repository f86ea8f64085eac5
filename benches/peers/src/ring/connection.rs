//! What the ring server knows of one connection: what is received, what is sent, what waits.

#![forbid(unsafe_code)]

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::OwnedFd;

use crate::pdu::{self, HEADER_LEN, Whole};

use super::requests::Gather;

/// The two sizes of buffers that bytes come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// For most PDUs, by a multishot receive.
    Small,
    /// For long or many ones, by one receive at a time.
    Bulk,
}

/// The receive that the kernel has.
#[derive(Debug)]
pub(super) enum Receiving {
    Nothing,
    /// Goes on by itself, until it ends or was cancelled.
    Multishot {
        is_cancelled: bool,
    },
    /// Tells when bytes have come, for a bulk receive.
    Poll,
    /// Bytes have come, and others have their turn first. The kernel has nothing.
    Queued,
    /// One receive into a buffer that the kernel chooses.
    Bulk,
    /// The rest of the PDU in `carry`, to its place there.
    Exact,
    /// The rest of a PDU, behind its beginning in a bulk buffer.
    InPlace {
        id: u16,
        filled: usize,
        len: usize,
    },
}

/// The send that the kernel has.
#[derive(Debug)]
pub(super) enum Flying {
    Nothing,
    /// The first bytes of a buffer that was received into.
    Buffer {
        group: Group,
        id: u16,
        len: usize,
    },
    /// A PDU that was carried, and those behind it in a buffer.
    Both {
        carried: Vec<u8>,
        group: Group,
        id: u16,
        range: Range<usize>,
    },
    /// Memory of the connection's own.
    Own {
        bytes: Vec<u8>,
        sent: usize,
    },
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) fd: OwnedFd,
    pub(super) receiving: Receiving,
    pub(super) flying: Flying,
    /// For [`Flying::Both`], from its first on.
    pub(super) gather: Option<Box<Gather>>,
    /// The first bytes of a PDU whose last have not come, and then those behind them.
    pub(super) carry: Vec<u8>,
    /// Answers that wait for the one that flies.
    pub(super) pending: Vec<u8>,
    /// Receives into bulk buffers, one at a time.
    pub(super) is_bulk: bool,
    /// Receives in sequence for which bulk buffers are too large.
    calm: u8,
    /// The client sends no more, or nothing is owed to it any more.
    pub(super) has_ended: bool,
    pub(super) is_broken: bool,
}

impl Connection {
    pub(super) const fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            receiving: Receiving::Nothing,
            flying: Flying::Nothing,
            gather: None,
            carry: Vec::new(),
            pending: Vec::new(),
            is_bulk: false,
            calm: 0,
            has_ended: false,
            is_broken: false,
        }
    }

    /// Whether answers can go straight from the buffer they came in.
    pub(super) const fn is_idle(&self) -> bool {
        self.pending.is_empty() && matches!(self.flying, Flying::Nothing)
    }

    /// Adds to the PDU that is carried what it lacks, and returns how many bytes that took and
    /// whether it is whole now.
    pub(super) fn complete_carried(&mut self, bytes: &[u8]) -> io::Result<(usize, bool)> {
        let mut used = 0;
        // The header first, for it tells the rest.
        for _ in 0..2 {
            let target = pdu::pdu_len(&self.carry)?.unwrap_or(HEADER_LEN);
            let lacking = &bytes[used..];
            let lacking = &lacking[..lacking.len().min(target - self.carry.len())];
            self.carry.extend_from_slice(lacking);
            used += lacking.len();
        }
        Ok((used, pdu::pdu_len(&self.carry)? == Some(self.carry.len())))
    }

    /// Moves the whole PDUs of `carry` to what waits to be sent.
    pub(super) fn queue_carried(&mut self, whole: Whole) {
        if self.pending.is_empty() && whole.len == self.carry.len() {
            mem::swap(&mut self.pending, &mut self.carry);
        } else {
            self.pending.extend_from_slice(&self.carry[..whole.len]);
            self.carry.drain(..whole.len);
        }
    }

    /// Learns from a receive whether the next should be into bulk buffers.
    pub(super) fn learn(&mut self, group: Group, len: usize, next_len: usize) {
        match group {
            Group::Small => {
                let is_flood = len == SMALL_LEN || self.pending.len() > PENDING_LEN_MAX;
                self.is_bulk |= is_flood || next_len > SMALL_LEN;
            }
            Group::Bulk if len <= SMALL_LEN / 2 && next_len == HEADER_LEN => {
                self.calm += 1;
                self.is_bulk = self.calm < CALM_MAX;
            }
            Group::Bulk => self.calm = 0,
        }
        if !self.is_bulk {
            self.calm = 0;
        }
    }

    /// Whether nothing is left to be done but to close.
    pub(super) const fn is_done(&self) -> bool {
        let is_quiet =
            matches!(self.receiving, Receiving::Nothing) && matches!(self.flying, Flying::Nothing);
        is_quiet && (self.is_broken || self.has_ended && self.pending.is_empty())
    }
}

/// Length of a small buffer: a PDU of 4 KiB fits in, and most have room for many.
pub(super) const SMALL_LEN: usize = 8 << 10;
/// Length of a bulk buffer: a PDU of 64 KiB fits in.
pub(super) const BULK_LEN: usize = 68 << 10;
/// Beyond that many waiting bytes no more are received before they are sent.
const PENDING_LEN_MAX: usize = 64 << 10;
/// Receives in sequence after which a connection goes back to small buffers.
const CALM_MAX: u8 = 8;
