//! The connection to a directory: this server registers on it.
//!
//! When it ends, `mod.rs` makes another one.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::rc::Rc;

use uring_netlib::CloseReason;
use uring_netlib::conn::{Connection, Context, Dispatcher};
use uring_netlib::pdu::Pdu;

use super::{Messenger, Peer, on_error};
use crate::messages::{Command, HeartBeat, MsgServInfo, on};
use crate::program::print;

/// The connection to one directory.
pub(super) struct Directory {
    index: usize,
}

impl Directory {
    pub(super) fn new(index: usize) -> Self {
        Self { index }
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
        Rc::clone(&messenger.uplink_table).dispatch(self, messenger, context, &pdu);
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
