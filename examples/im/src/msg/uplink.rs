//! The connection to a directory: this server registers on it, and says now and then that it lives.
//!
//! When it ends, `mod.rs` makes another one.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use uring_netlib::conn::{Connection, Context, Dispatcher};
use uring_netlib::pdu::Pdu;
use uring_netlib::{CloseReason, Repeat, TimerId};

use super::{Messenger, Peer, on_error};
use crate::messages::{Command, HeartBeat, MsgServInfo, on};
use crate::program::print;

/// The connection to one directory.
pub(super) struct Directory {
    index: usize,
    /// Heartbeats that were sent since it was last heard.
    unheard: u32,
}

impl Directory {
    pub(super) fn new(index: usize) -> Self {
        Self { index, unheard: 0 }
    }

    pub(super) fn table() -> Dispatcher<Self, Messenger> {
        let table = Dispatcher::new().on_error(on_error);
        on::<HeartBeat, _, _>(table, |_, _, _, _, _| {})
    }
}

impl Peer for Directory {
    fn forget(
        &self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        why: &dyn Display,
    ) {
        messenger.open.remove(&context.handle());
        messenger.retry(context.net(), self.index, why);
    }
}

impl Connection<Messenger> for Directory {
    fn on_confirm(&mut self, messenger: &mut Messenger, context: &mut Context<'_, Messenger>) {
        let users = u32::try_from(messenger.users.len()).unwrap_or(u32::MAX);
        let info = MsgServInfo { cur_conn_cnt: users, ..messenger.info.clone() };
        if let Err(error) = context.send_pdu(MsgServInfo::header(), &info) {
            self.end(messenger, context, &error);
            return;
        }
        context.set_timer(SERVER_HEARTBEAT, Repeat::Forever);
        let uplink = &mut messenger.uplinks[self.index];
        uplink.registered = Some(context.handle());
        print(&format!("registered with directory {}, {users} users", uplink.address));
    }

    fn on_pdu(
        &mut self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        pdu: Pdu<'_>,
    ) {
        self.unheard = 0;
        Rc::clone(&messenger.uplink_table).dispatch(self, messenger, context, &pdu);
    }

    fn on_timer(
        &mut self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        _: TimerId,
    ) {
        self.unheard += 1;
        if self.unheard >= UNHEARD_MAX {
            self.end(messenger, context, &"it was silent for 30 s");
        } else if let Err(error) = context.send_pdu(HeartBeat::header(), &HeartBeat {}) {
            self.end(messenger, context, &error);
        }
    }

    fn on_close(
        &mut self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        why: CloseReason,
    ) {
        self.forget(messenger, context, &why);
    }
}

/// How often this side says that it lives.
const SERVER_HEARTBEAT: Duration = Duration::from_secs(5);

/// Heartbeats after which a silent directory is taken for dead: 30 s.
const UNHEARD_MAX: u32 = 6;
