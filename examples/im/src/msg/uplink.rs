//! The connections to directories: this server registers on each, whenever it opens.
//!
//! The library keeps them up, with the waits of the original, and whatever happens to them is told
//! to [`on_change`].

#![forbid(unsafe_code)]

use std::rc::Rc;

use uring_netlib::conn::{
    Connection, Context, DispatchError, Dispatcher, MemberEnd, MemberInfo, MemberState, SetChange,
};
use uring_netlib::pdu::Pdu;
use uring_netlib::{Address, Liveness, Netlib};

use super::Messenger;
use crate::messages::{Command, HeartBeat, MsgServInfo, on};
use crate::program::print;

/// The connection to one directory, or an attempt to have one.
pub(super) struct Directory {
    address: Address,
}

impl Directory {
    /// The object of the next attempt.
    pub(super) fn made(_: &mut Messenger, info: MemberInfo<'_>) -> Box<dyn Connection<Messenger>> {
        Box::new(Self { address: info.address.clone() })
    }

    pub(super) fn table() -> Dispatcher<Self, Messenger> {
        let table = Dispatcher::new().on_error(on_error);
        on::<HeartBeat, _, _>(table, |_, _, _, _, _| {})
    }
}

impl Connection<Messenger> for Directory {
    fn on_confirm(&mut self, messenger: &mut Messenger, context: &mut Context<'_, Messenger>) {
        let handle = context.handle();
        if let Ok(mut option) = context.net().option(handle) {
            option.set_liveness(Liveness::server_to_server());
        }
        let users = u32::try_from(messenger.users.len()).unwrap_or(u32::MAX);
        let info = MsgServInfo { cur_conn_cnt: users, ..messenger.info.clone() };
        match context.send_pdu(MsgServInfo::header(), &info) {
            Ok(_) => print(&format!("registered with directory {}, {users} users", self.address)),
            // The set tells of the end, and tries again.
            Err(_) => context.abort(),
        }
    }

    fn on_pdu(
        &mut self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        pdu: Pdu<'_>,
    ) {
        Rc::clone(&messenger.directory_table).dispatch(self, messenger, context, &pdu);
    }
}

fn on_error(
    directory: &mut Directory,
    _: &mut Messenger,
    _: &mut Context<'_, Messenger>,
    error: &DispatchError,
    _: bool,
) {
    print(&format!("bad PDU from directory {}: {error}", directory.address));
}

/// Prints what became of a directory.
pub(super) fn on_change(_: &mut Messenger, _: &mut Netlib<Messenger>, change: &SetChange) {
    let address = change.address();
    let why = change.end.as_ref().map_or(String::new(), MemberEnd::to_string);
    match (change.before, change.after) {
        (_, MemberState::Connecting) => print(&format!("connecting to directory {address}")),
        (MemberState::Open { age, .. }, MemberState::Waiting { left }) => print(&format!(
            "lost directory {address} after {:.1} s: {why}; next try in {} s",
            age.as_secs_f64(),
            left.as_secs()
        )),
        (_, MemberState::Waiting { left }) => print(&format!(
            "cannot reach directory {address}: {why}; next try in {} s",
            left.as_secs()
        )),
        // The object has told that it registered.
        _ => {}
    }
}
