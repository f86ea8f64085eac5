//! What the C surface sends: room is taken, bytes wait until the callback in hand is over, and go
//! to the runtime; and whoever was refused is told when there is room.

#![forbid(unsafe_code)]

use uring_netlib::{Handle, Netlib, SendError};

use super::{Layer, Socket, WRITE};
use crate::board::Way;
use crate::foreign::Failure;
use crate::lend::{self, BOARD, OUTBOX};
use crate::numbers::Numbers;
use crate::outbox::Request;
use crate::tray::Tray;

impl Layer {
    /// Takes a short send of the owner's, all of it or none; whether it did. Allocates nothing, as
    /// the owner may be in a signal handler.
    #[inline]
    pub(crate) fn take_short(
        &mut self,
        net: &Netlib<Self>,
        number: i32,
        bytes: &[u8],
    ) -> Result<bool, Failure> {
        let total = net.sendable_bytes().saturating_sub(self.tray.len());
        if bytes.len() > total || !self.tray.has_room(bytes.len()) {
            return Ok(false);
        }
        // What is in the outbox comes first, so what follows goes there as well. Nobody is promised
        // this room any more from the moment that it was empty.
        if !OUTBOX.set_room_if_empty(total.saturating_sub(Tray::len_of(bytes.len()))) {
            return Ok(false);
        }
        let taken = BOARD.take_whole(number, bytes.len());
        if taken == Ok(true) && !bytes.is_empty() {
            self.tray.push(number, bytes);
        } else {
            self.publish_room(net);
        }
        taken
    }

    /// Takes as many bytes as there is room for, past the outbox and behind what is in it.
    pub(crate) fn send(
        &mut self,
        net: &mut Netlib<Self>,
        number: i32,
        bytes: &[u8],
    ) -> Result<usize, Failure> {
        self.apply(net);
        self.renew(net, number);
        // Others may put in more meanwhile, so they are told at the same time that this is gone.
        let len = OUTBOX.set_aside(net.sendable_bytes(), bytes.len());
        let taken = self.send_aside(net, number, &bytes[..len]);
        self.publish_room(net);
        if taken? < bytes.len() {
            BOARD.refuse(number);
        }
        taken
    }

    /// Finds out how many bytes there is room for, for this handle and for all.
    pub(crate) fn renew(&mut self, net: &mut Netlib<Self>, number: i32) {
        if let Some(socket) = self.sockets.find_mut(number)
            && let Ok(options) = net.option(socket.handle)
        {
            BOARD.renew(number, self.send_bytes_max.saturating_sub(options.pending_bytes()));
        }
        self.publish_room(net);
    }

    /// Does what was asked for: by the owner, and then by way of the outbox.
    #[inline]
    pub(crate) fn apply(&mut self, net: &mut Netlib<Self>) {
        if !self.tray.is_empty() {
            self.empty_tray(net);
        }
        if !OUTBOX.is_empty() {
            self.empty_outbox(net);
        }
    }

    /// Whether there is somebody to be told, whom only a further turn would tell.
    pub(crate) fn look_again(&mut self, net: &Netlib<Self>) {
        let has_room = net.sendable_bytes() >= ROOM_EACH;
        if BOARD.has_listed() || has_room && !self.refused.is_empty() {
            lend::wake();
        }
    }

    /// Takes as many bytes as this handle has room for.
    fn send_aside(
        &mut self,
        net: &mut Netlib<Self>,
        number: i32,
        bytes: &[u8],
    ) -> Result<usize, Failure> {
        let taken = BOARD.take(number, bytes.len(), Way::Direct)?;
        if taken > 0 {
            let socket = self.sockets.find_mut(number).ok_or(libc::EBADF)?;
            match net.send_promised(socket.handle, &bytes[..taken]) {
                Ok(_) => {}
                Err(SendError::Stale | SendError::NotConnected) => return Err(libc::EPIPE),
                Err(error) => unreachable!("room was taken for it: {error}"),
            }
        }
        Ok(taken)
    }

    fn empty_tray(&mut self, net: &mut Netlib<Self>) {
        while let Some((number, bytes)) = self.tray.pop() {
            let room = hand_over(&mut self.sockets, net, number, bytes);
            self.renew_if_low(net, number, room);
        }
        // What others were told when these bytes went into the tray is no more than there is.
    }

    fn empty_outbox(&mut self, net: &mut Netlib<Self>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        OUTBOX.drain(&mut scratch, |request| match request {
            Request::Send { number, bytes } => self.send_boxed(net, number, bytes),
            Request::SetTimer { callback, data, interval_ms } => {
                self.set_timer(net, (callback, data), interval_ms);
            }
            Request::DeleteTimer { callback, data } => self.drop_timer(net, (callback, data)),
        });
        self.scratch = scratch;
    }

    fn send_boxed(&mut self, net: &mut Netlib<Self>, number: i32, bytes: &[u8]) {
        let room = hand_over(&mut self.sockets, net, number, bytes);
        // While these bytes are still counted in the outbox: rather too little than too much.
        self.publish_room(net);
        self.renew_if_low(net, number, room);
    }

    #[inline]
    fn renew_if_low(&mut self, net: &mut Netlib<Self>, number: i32, room: usize) {
        if room < self.send_bytes_max / 2 {
            self.renew(net, number);
        }
    }

    /// Tells others how much room there is in all.
    pub(super) fn publish_room(&self, net: &Netlib<Self>) {
        OUTBOX.set_room(net.sendable_bytes().saturating_sub(self.tray.len()));
    }

    /// Tells a connection that it may send, if it was refused.
    pub(super) fn tell_room(&mut self, net: &mut Netlib<Self>, number: i32) {
        if BOARD.forgive(number) {
            self.renew(net, number);
            self.tell(net, number, WRITE);
        }
    }

    /// Tells those that were refused and for which there is room by now, first come first.
    pub(super) fn tell_refused(&mut self, net: &mut Netlib<Self>) {
        if BOARD.has_listed() {
            let sockets = &mut self.sockets;
            self.refused.push_reversed(|push| {
                BOARD.take_listed(|number| {
                    if let Some(socket) = sockets.find_mut(number)
                        && !std::mem::replace(&mut socket.is_waiting, true)
                    {
                        push(number);
                    }
                });
            });
        }
        if self.refused.is_empty() {
            return;
        }
        let mut shares = net.sendable_bytes() / ROOM_EACH;
        while shares > 0 {
            let (sockets, mut handle) = (&mut self.sockets, Handle::NONE);
            let next = self.refused.pop(|number| {
                let Some(socket) = sockets.find_mut(number) else { return false };
                handle = socket.handle;
                std::mem::take(&mut socket.is_waiting)
            });
            let Some(number) = next else { return };
            let pending = net.option(handle).map_or(0, |options| options.pending_bytes());
            // Where its own limit is reached, the runtime says when there is room again.
            if pending < self.send_bytes_max {
                shares -= 1;
                self.tell_room(net, number);
            }
        }
    }
}

/// Gives the runtime bytes for which room was taken. The room that is left on the board.
fn hand_over(
    sockets: &mut Numbers<Socket>,
    net: &mut Netlib<Layer>,
    number: i32,
    bytes: &[u8],
) -> usize {
    // Before anything that may panic: a close waits until it is done.
    let room = BOARD.land(number, bytes.len());
    if let Some(socket) = sockets.find_mut(number) {
        match net.send_promised(socket.handle, bytes) {
            // Where it is not connected, its end is on its way.
            Ok(_) | Err(SendError::Stale | SendError::NotConnected) => {}
            Err(error) => unreachable!("room was taken for it: {error}"),
        }
    }
    room
}

/// Who was refused for want of room for all is told when there is so much of it for each, so that
/// a little room is not shared out in crumbs.
const ROOM_EACH: usize = 16 << 10;
