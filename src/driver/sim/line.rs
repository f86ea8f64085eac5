//! What a program has asked for and its kernel has not got to: the submission queue of a simulated
//! driver.
//!
//! Requests enter when the program waits, in the order in which they were made, all of them or as
//! many as there is room for; at least one, so that each does at last. A cancel stands behind what
//! it is to end, so it finds that with the kernel, over, or not at all.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::world::{Happening, World};
use super::{Op, Ops, Sim};
use crate::event::Handle;

pub(super) type Line = VecDeque<Request>;

#[derive(Debug)]
pub(super) enum Request {
    Operation(Handle, Op),
    Connect(Handle, SocketAddr),
    Cancel(Handle, Ops),
}

impl Sim {
    /// Lets requests enter.
    pub(super) fn enter(&mut self, world: &mut World) {
        let mut room = self.line.len();
        if room > 1 && world.chance(world.faults.full_queue) {
            room = 1 + world.decisions.index(ROOM_MAX.min(room - 1));
            world.counts.full_queues += 1;
            world.stir(Some(self.node));
        }
        for request in self.line.drain(..room) {
            match request {
                Request::Operation(handle, op) => {
                    let is_denied = world.chance(world.faults.deny);
                    self.slots.expect_mut(handle).enter(op, is_denied);
                }
                Request::Connect(handle, peer) => {
                    let is_denied = world.chance(world.faults.deny);
                    let slot = self.slots.expect_mut(handle);
                    slot.enter(Op::Connect, is_denied);
                    if !is_denied {
                        world.connect(slot.id, peer);
                    }
                }
                // Its socket may be gone, as what it was to end is over.
                Request::Cancel(handle, ops) => {
                    let Some(slot) = self.slots.find_mut(handle) else { continue };
                    slot.cancelled = slot.cancelled.or(slot.entered.and(ops));
                    slot.cancel_time = world.now();
                    if !slot.cancelled.is_empty() && world.chance(world.faults.late_cancel) {
                        world.counts.late_cancels += 1;
                        let delay = world.decisions.between(1, LATE_MAX);
                        slot.cancel_time += delay;
                        world.plan(delay, Happening::Stir(self.node));
                    }
                }
            }
        }
    }
}

/// How many requests enter in one wait where there is no room, at most.
const ROOM_MAX: usize = 3;

/// How late a cancel may take effect, in ns: 50 ms.
const LATE_MAX: u64 = 50_000_000;
