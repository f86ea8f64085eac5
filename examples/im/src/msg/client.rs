//! The connection of a client: a user logs in on it, and talks.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use uring_netlib::conn::{Connection, Context, DispatchError, Dispatcher};
use uring_netlib::pdu::Pdu;
use uring_netlib::{CloseReason, Handle, Liveness, Netlib, SendError, SendStatus};

use super::{Messenger, PDU_BYTES_MAX, shared};
use crate::messages::{
    AllUserReq, AllUserRsp, ClientTimeReq, ClientTimeRsp, Command, HeartBeat, LoginReq, LoginRes,
    LogoutReq, LogoutRsp, MsgData, MsgDataAck, ResultType, SessionType, UserAction, UserInfo,
    UserStatType, on,
};
use crate::program::print;
use crate::users::is_mobile;

/// A client: a user, once logged in.
#[derive(Default)]
pub(super) struct Client {
    /// A second, and how many messages it has sent in that.
    sent: (u32, u32),
}

impl Client {
    pub(super) fn table() -> Dispatcher<Self, Messenger> {
        let table = Dispatcher::new().on_error(on_error);
        let table = on(on(table, on_login), on_logout);
        let table = on(on(table, on_heartbeat), on_time);
        let table = on(table, on_all_users);
        on(on(table, on_message), on_ack)
    }

    /// Forgets a connection that is over.
    fn forget(
        &self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        why: &dyn Display,
    ) {
        let handle = context.handle();
        messenger.forget(context.net(), handle, why);
    }

    /// Closes a connection, and forgets it.
    fn end(
        &self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        why: &dyn Display,
    ) {
        context.close();
        self.forget(messenger, context, why);
    }

    /// Whether it may send one more message in this second.
    fn may_send(&mut self, second: u32) -> bool {
        if self.sent.0 != second {
            self.sent = (second, 0);
        }
        self.sent.1 += 1;
        self.sent.1 <= MESSAGES_PER_SECOND_MAX
    }

    /// Ends the connection if an answer could not be sent, as the stream is wrong from there on.
    fn expect_sent(
        &self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        sent: Result<SendStatus, SendError>,
    ) {
        if let Err(error) = sent {
            context.abort();
            self.forget(messenger, context, &error);
        }
    }

    /// The user of this connection. Without one it is closed: only who has logged in may ask.
    fn user(&self, messenger: &mut Messenger, context: &mut Context<'_, Messenger>) -> Option<u32> {
        let user = messenger.users.on(context.handle());
        if user.is_none() {
            print("closed a client that asks and has not logged in");
            self.end(messenger, context, &"has not logged in");
        }
        user
    }
}

impl Connection<Messenger> for Client {
    fn on_pdu(
        &mut self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        pdu: Pdu<'_>,
    ) {
        Rc::clone(&messenger.client_table).dispatch(self, messenger, context, &pdu);
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

fn on_error(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    error: &DispatchError,
    is_over: bool,
) {
    print(&format!("bad PDU from a client: {error}"));
    // The dispatcher closes it behind this call.
    if is_over {
        client.forget(messenger, context, error);
    }
}

fn on_login(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    pdu: &Pdu<'_>,
    login: LoginReq,
) {
    let handle = context.handle();
    // As in the original, a second login on a connection is not answered.
    if messenger.users.on(handle).is_some() {
        return;
    }
    match admit(messenger, context.net(), handle, &login) {
        Ok(id) => {
            context.mark_ready();
            let sent = context.reply(pdu, LoginRes::COMMAND_ID, &accepted(id, &login.user_name));
            client.expect_sent(messenger, context, sent);
        }
        Err((result, why)) => {
            print(&format!("refused {:?}: {why}", login.user_name));
            let sent = context.reply(pdu, LoginRes::COMMAND_ID, &refused(result, why));
            client.expect_sent(messenger, context, sent);
            client.end(messenger, context, &why);
        }
    }
}

/// Lets a user in, and returns the user's id; or says why not.
fn admit(
    messenger: &mut Messenger,
    net: &mut Netlib<Messenger>,
    handle: Handle,
    login: &LoginReq,
) -> Result<u32, (ResultType, &'static str)> {
    let (name, client_type) = (&login.user_name, login.client_type);
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err((ResultType::DbValidateFailed, "a name has 1 to 64 bytes"));
    }
    if let Some(rival) = messenger.users.rival(name, client_type) {
        messenger.kick(net, rival);
    }
    let id = messenger.users.login(handle, name, client_type);
    let id = id.ok_or((ResultType::MsgServerFull, "the server is full"))?;
    if is_mobile(client_type)
        && let Ok(mut option) = net.option(handle)
    {
        option.set_liveness(Liveness::mobile());
    }
    print(&format!("user {id} {name:?} in, {} users", messenger.users.len()));
    messenger.tell(net, UserAction::Inc, id);
    Ok(id)
}

fn on_logout(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    pdu: &Pdu<'_>,
    _: LogoutReq,
) {
    let sent = context.reply(pdu, LogoutRsp::COMMAND_ID, &LogoutRsp { result_code: 0 });
    client.expect_sent(messenger, context, sent);
    client.end(messenger, context, &"logged out");
}

/// A heartbeat goes back as it came; this side never begins.
fn on_heartbeat(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    pdu: &Pdu<'_>,
    _: HeartBeat,
) {
    let sent = context.send(pdu.frame());
    client.expect_sent(messenger, context, sent);
}

fn on_time(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    pdu: &Pdu<'_>,
    _: ClientTimeReq,
) {
    if client.user(messenger, context).is_some() {
        let time = ClientTimeRsp { server_time: now() };
        let sent = context.reply(pdu, ClientTimeRsp::COMMAND_ID, &time);
        client.expect_sent(messenger, context, sent);
    }
}

/// A message goes to all clients of its receiver, and to the other clients of its sender.
fn on_message(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    pdu: &Pdu<'_>,
    mut data: MsgData,
) {
    let Some(from) = client.user(messenger, context) else { return };
    let (to, now) = (data.to_session_id, now());
    let users = &messenger.users;
    // As in the original, what is empty, for oneself or too fast is dropped. Without a database so
    // is what is for nobody. It is not acknowledged, and so the client knows.
    let goes_nowhere = to == from || users.connections(to).next().is_none();
    let is_fit = (1..=CONTENT_BYTES_MAX).contains(&data.msg_data.len());
    if !client.may_send(now) || !is_fit || goes_nowhere {
        print(&format!("dropped a message from user {from} to {to}"));
        return;
    }
    messenger.last_msg_id = messenger.last_msg_id.wrapping_add(1);
    data.from_user_id = from;
    data.create_time = now;
    data.msg_id = messenger.last_msg_id;
    data.attach_data = None;
    let ack = MsgDataAck {
        user_id: from,
        session_id: to,
        msg_id: data.msg_id,
        session_type: SessionType::Single.into(),
    };
    let sender = context.handle();
    let both = users.connections(from).chain(users.connections(to));
    let receivers: Vec<Handle> = both.filter(|receiver| *receiver != sender).collect();
    print(&format!("message {} from user {from} to {to}", data.msg_id));
    let sent = context.reply(pdu, MsgDataAck::COMMAND_ID, &ack);
    client.expect_sent(messenger, context, sent);
    let (net, data) = (context.net(), shared(&data));
    for receiver in receivers {
        if let Err(error) = net.send_shared(receiver, &data) {
            net.abort(receiver).ok();
            messenger.forget(net, receiver, &error);
        }
    }
}

/// A client says that a message has arrived. None is kept here, so there is nothing to forget.
fn on_ack(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    _: &Pdu<'_>,
    _: MsgDataAck,
) {
    client.user(messenger, context);
}

/// A client asks who is there, to learn by which id to name whom.
fn on_all_users(
    client: &mut Client,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    pdu: &Pdu<'_>,
    request: AllUserReq,
) {
    let Some(user_id) = client.user(messenger, context) else { return };
    let mut rest = CONTENT_BYTES_MAX;
    let users = messenger.users.iter().map(|(id, name)| info(id, name));
    let answer = AllUserRsp {
        user_id,
        latest_update_time: now(),
        user_list: users
            .take_while(|info| {
                // With its tag and its length it has a few bytes more.
                let left = rest.checked_sub(info.encoded_len() + 4);
                rest = left.unwrap_or(rest);
                left.is_some()
            })
            .collect(),
        attach_data: request.attach_data,
    };
    let sent = context.reply(pdu, AllUserRsp::COMMAND_ID, &answer);
    client.expect_sent(messenger, context, sent);
}

fn info(user_id: u32, name: &str) -> UserInfo {
    UserInfo {
        user_id,
        user_nick_name: name.to_owned(),
        user_domain: name.to_owned(),
        ..UserInfo::default()
    }
}

fn accepted(user_id: u32, name: &str) -> LoginRes {
    LoginRes {
        server_time: now(),
        result_code: ResultType::None.into(),
        result_string: Some("ok".to_owned()),
        online_status: Some(UserStatType::Online.into()),
        user_info: Some(info(user_id, name)),
    }
}

fn refused(result: ResultType, why: &str) -> LoginRes {
    LoginRes {
        server_time: now(),
        result_code: result.into(),
        result_string: Some(why.to_owned()),
        ..LoginRes::default()
    }
}

/// Seconds since 1970, as far as they fit.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Messages that a client may send in a second, as in the original.
const MESSAGES_PER_SECOND_MAX: u32 = 20;

/// Bytes of the longest message, and of all users in one answer, which tells no more of them. What
/// else is in such a PDU fits into the rest of its limit.
const CONTENT_BYTES_MAX: usize = PDU_BYTES_MAX as usize - 4096;

/// Bytes of the longest name that may log in.
const NAME_LEN_MAX: usize = 64;
