//! The connection to a message server: a user logs in on it, says things, and hears what others
//! say.
//!
//! Whatever is asked for is a call, whose reply has the request's number; whatever comes unasked is
//! found by service id and command id in one table.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::{Duration, Instant};

use uring_netlib::conn::{
    Answer, Call, CallRefused, Connection, Context, DispatchError, Dispatcher,
};
use uring_netlib::pdu::Pdu;
use uring_netlib::{
    Address, CloseReason, Handle, Liveness, Netlib, Repeat, SendError, SendStatus, TimerId,
};

use super::{App, NoReply, Say, decoded};
use crate::messages::{
    AllUserReq, AllUserRsp, ClientType, Command, HeartBeat, KickUser, LoginReq, LoginRes,
    LogoutReq, LogoutRsp, MsgData, MsgDataAck, MsgType, ResultType, SessionType, UserStatType, on,
};
use crate::program::print;

/// A connection to a message server.
pub(super) struct Session {
    address: Address,
    /// Where to try next if this one cannot be reached.
    backup: Option<Address>,
    is_confirmed: bool,
}

impl Session {
    /// Connects, and logs in.
    pub(super) fn start(
        app: &mut App,
        net: &mut Netlib<App>,
        address: Address,
        backup: Option<Address>,
    ) {
        let session = Self { address: address.clone(), backup, is_confirmed: false };
        match net.connect_object(address, Box::new(session)) {
            Ok(handle) => app.link = Some(handle),
            Err(error) => app.lose(net, &format!("cannot connect: {error}")),
        }
    }

    /// What comes unasked.
    pub(super) fn table() -> Dispatcher<Self, App> {
        // A server may be newer than this client, and say what is not known here.
        let table = Dispatcher::new().errors_max(u32::MAX).on_error(on_error);
        let table = on(on(table, on_message), on_kick);
        // The server's answer to the heartbeat, and what a message was answered with too late.
        let table = on::<HeartBeat, _, _>(table, |_, _, _, _, _| {});
        on::<MsgDataAck, _, _>(table, |_, _, _, _, _| {})
    }
}

impl Connection<App> for Session {
    fn on_confirm(&mut self, app: &mut App, context: &mut Context<'_, App>) {
        self.is_confirmed = true;
        let handle = context.handle();
        if let Ok(mut option) = context.net().option(handle) {
            option.set_liveness(Liveness::new().heartbeat(HEARTBEAT).read_idle(SILENCE_MAX));
        }
        let login = LoginReq {
            user_name: app.settings.name.clone(),
            // This server has no database to compare it with.
            password: String::new(),
            online_status: UserStatType::Online.into(),
            client_type: ClientType::Windows.into(),
            client_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        };
        let request = Call::new(LoginReq::header(), LoginRes::COMMAND_ID);
        let called = context.call(request, &login, REPLY_TIMEOUT, on_login);
        app.expect_sent(context, called);
    }

    fn on_pdu(&mut self, app: &mut App, context: &mut Context<'_, App>, pdu: Pdu<'_>) {
        Rc::clone(&app.table).dispatch(self, app, context, &pdu);
    }

    /// It is time to look again for whom a message is.
    fn on_timer(&mut self, app: &mut App, _: &mut Context<'_, App>, _: TimerId) {
        app.is_busy = false;
    }

    fn on_close(&mut self, app: &mut App, context: &mut Context<'_, App>, why: CloseReason) {
        let (net, address) = (context.net(), &self.address);
        match self.backup.take() {
            Some(backup) if !self.is_confirmed => {
                print(&format!("cannot reach message server {address}: {why}; trying {backup}"));
                Self::start(app, net, backup, None);
            }
            _ if !self.is_confirmed => {
                app.lose(net, &format!("cannot reach message server {address}: {why}"));
            }
            _ => app.lose(net, &format!("lost message server {address}: {why}")),
        }
    }
}

fn on_error(
    _: &mut Session,
    _: &mut App,
    _: &mut Context<'_, App>,
    error: &DispatchError,
    _: bool,
) {
    print(&format!("not understood: {error}"));
}

fn on_login(
    session: &mut Session,
    app: &mut App,
    context: &mut Context<'_, App>,
    answer: Answer<'_>,
) {
    let why = match decoded::<LoginRes>(answer) {
        // The end of the connection is told next.
        Err(NoReply::Closed) => return,
        Err(error) => error.to_string(),
        Ok(LoginRes { user_info: Some(user), result_code, .. })
            if result_code == ResultType::None as i32 =>
        {
            let handle = context.handle();
            print(&format!("logged in as {:?}, user {}", app.settings.name, user.user_id));
            return app.enter(handle, user.user_id);
        }
        Ok(refusal) => {
            let why = refusal.result_string.unwrap_or_default();
            if refusal.result_code == ResultType::DbValidateFailed as i32 {
                // It would be refused by every server, and for ever.
                context.close();
                return app.fail(context.net(), format!("the login was refused: {why}"));
            }
            why
        }
    };
    context.close();
    let address = &session.address;
    app.lose(context.net(), &format!("no login at message server {address}: {why}"));
}

/// Says what is to be said next: a message whose acknowledgement is waited for, or before that, the
/// question who has which id.
pub(super) fn say(app: &mut App, net: &mut Netlib<App>, session: Handle) {
    let Some(say) = &app.current else { return };
    let sent = match app.names.get(&say.to) {
        Some(&to) => {
            let data = MsgData {
                from_user_id: app.user_id,
                to_session_id: to,
                msg_type: MsgType::SingleText.into(),
                msg_data: say.text.clone().into_bytes(),
                ..MsgData::default()
            };
            let (call, start) =
                (Call::new(MsgData::header(), MsgDataAck::COMMAND_ID), Instant::now());
            net.call(session, call, &data, REPLY_TIMEOUT, move |_: &mut Session, app, _, answer| {
                on_ack(app, answer, start);
            })
        }
        None => look_up(app, net, session, on_users_for_current),
    };
    match sent {
        Ok(_) => app.is_busy = true,
        // It is over already, and that will be told.
        Err(CallRefused::Send(SendError::NotConnected | SendError::Stale)) => {}
        Err(error) => app.give_up(&error.to_string()),
    }
}

fn on_ack(app: &mut App, answer: Answer<'_>, start: Instant) {
    app.is_busy = false;
    match decoded::<MsgDataAck>(answer) {
        Ok(ack) => {
            let ms = start.elapsed().as_secs_f64() * 1000.0;
            app.has_said(&format!("message {} in {ms:.1} ms", ack.msg_id));
        }
        // It may have arrived. It is said again to the next server, so that none is lost.
        Err(NoReply::Closed) => {}
        Err(error) => app.give_up(&error.to_string()),
    }
}

/// Asks who is there.
fn look_up(
    app: &App,
    net: &mut Netlib<App>,
    session: Handle,
    handler: impl FnOnce(&mut Session, &mut App, &mut Context<'_, App>, Answer<'_>) + 'static,
) -> Result<SendStatus, CallRefused> {
    let call = Call::new(AllUserReq::header(), AllUserRsp::COMMAND_ID);
    let request = AllUserReq { user_id: app.user_id, latest_update_time: 0, attach_data: None };
    net.call(session, call, &request, REPLY_TIMEOUT, handler)
}

fn on_users_for_current(
    _: &mut Session,
    app: &mut App,
    context: &mut Context<'_, App>,
    answer: Answer<'_>,
) {
    app.is_busy = false;
    match decoded::<AllUserRsp>(answer) {
        Ok(users) => app.learn(users),
        Err(NoReply::Closed) => return,
        Err(error) => return app.give_up(&error.to_string()),
    }
    let Some(Say { to, tries, .. }) = &mut app.current else { return };
    if app.names.contains_key(to) {
        return;
    }
    if *tries == 0 {
        print(&format!("waiting for {to:?} to log in"));
    }
    *tries += 1;
    if *tries > TRIES_MAX {
        return app.give_up("nobody of that name is logged in");
    }
    app.is_busy = true;
    context.set_timer(TRY_AGAIN, Repeat::Once);
}

/// Somebody has said something, to this user or, from another client of this user's, to another.
fn on_message(
    _: &mut Session,
    app: &mut App,
    context: &mut Context<'_, App>,
    _: &Pdu<'_>,
    data: MsgData,
) {
    let ack = MsgDataAck {
        user_id: app.user_id,
        session_id: data.from_user_id,
        msg_id: data.msg_id,
        session_type: SessionType::Single.into(),
    };
    // Without it the server may say it again, and nothing else is wrong.
    context.send_pdu(MsgDataAck::header(), &ack).ok();
    let session = context.handle();
    if app.name_of(data.from_user_id).is_some() {
        return app.hear(&data);
    }
    let net = context.net();
    let told = data.clone();
    let asked = look_up(app, net, session, move |_, app, _, answer| {
        if let Ok(users) = decoded::<AllUserRsp>(answer) {
            app.learn(users);
        }
        app.hear(&told);
    });
    if asked.is_err() {
        app.hear(&data);
    }
}

/// The server logs this client out.
fn on_kick(
    _: &mut Session,
    app: &mut App,
    context: &mut Context<'_, App>,
    _: &Pdu<'_>,
    _: KickUser,
) {
    context.close();
    // To log in again would end the other client, which would do the same in its turn.
    app.fail(context.net(), "the same user has logged in elsewhere".to_owned());
}

/// All is said and heard.
pub(super) fn log_out(app: &mut App, net: &mut Netlib<App>, session: Handle) {
    app.is_leaving = true;
    app.is_busy = true;
    let call = Call::new(LogoutReq::header(), LogoutRsp::COMMAND_ID);
    let called = net.call(
        session,
        call,
        &LogoutReq {},
        REPLY_TIMEOUT,
        |_: &mut Session, app, context, _| {
            context.close();
            app.leave(context.net());
        },
    );
    if called.is_err() {
        app.leave(net);
    }
}

/// How long a message server may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// After how long a silence of this side a heartbeat is sent, as in the original.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// A server that answers no heartbeat for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// How soon it is looked again for somebody who is not there, and how often.
const TRY_AGAIN: Duration = Duration::from_millis(300);
const TRIES_MAX: u32 = 10;
