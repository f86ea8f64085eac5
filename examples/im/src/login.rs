//! The directory as a server: message servers register on one kind of port, clients ask on the
//! other two, by HTTP or by PDU.
//!
//! Which server is named is for `directory.rs` to say, what HTTP looks like for `http.rs`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use uring_netlib::conn::{Connection, Context, DispatchError, Dispatcher};
use uring_netlib::pdu::{FrameSpec, Pdu};
use uring_netlib::{
    Address, Backend, CloseReason, Delivery, Handle, Limits, Liveness, Netlib, Rate, Repeat,
    SendError, SendStatus, TimerId,
};

use crate::directory::{Choice, Directory};
use crate::http::{self, Links, Refusal, RequestHead};
use crate::messages::{
    Command, HeartBeat, MsgServInfo, MsgServReq, MsgServRsp, ResultType, UserAction, UserCntUpdate,
    on,
};
use crate::program::{self, Door, Open, Role, print};

/// What the directory is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients ask by PDU.
    pub client_listen: Vec<Address>,
    /// Where clients ask by HTTP.
    pub http_listen: Vec<Address>,
    /// Where message servers register; clients may ask here by PDU as well.
    pub msg_listen: Vec<Address>,
    /// What HTTP answers tell besides.
    pub links: Links,
    /// How many are let in at each of those addresses.
    pub door: Door,
    /// What moves the bytes.
    pub backend: Backend,
}

/// Serves until a signal comes, and prints a line for whatever happens.
///
/// # Errors
/// No backend, no signals, or an address that cannot be listened on.
pub fn serve(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let mut net = program::options(settings.backend).build()?;
    let clients = Role {
        who: "clients",
        option: "--client-listen",
        delivery: pdus(REQUEST_BYTES_MAX),
        // Clients do not log in here, so they are never ready.
        liveness: Liveness::client().handshake(Duration::MAX),
        limits: Limits::new().pdus(REQUESTS),
        door: settings.door,
    };
    let servers = Role {
        who: "message servers",
        option: "--msg-listen",
        delivery: pdus(PDU_BYTES_MAX),
        liveness: Liveness::server_to_server().handshake(REGISTRATION_TIMEOUT),
        limits: SERVERS.pdus(REQUESTS),
        ..clients.clone()
    };
    let http = Role {
        who: "HTTP",
        option: "--http-listen",
        delivery: Delivery::Push,
        liveness: Liveness::new(),
        limits: Limits::new(),
        door: settings.door,
    };
    let clients = program::listen(
        &mut net,
        &clients,
        &settings.client_listen,
        |login: &mut Login, handle| {
            login.open.insert(handle);
            Box::new(Client)
        },
    )?;
    let http = program::listen(&mut net, &http, &settings.http_listen, |login, handle| {
        login.open.insert(handle);
        Box::new(HttpClient::default())
    })?;
    let servers = program::listen(&mut net, &servers, &settings.msg_listen, |login, handle| {
        login.open.insert(handle);
        Box::new(MsgServer)
    })?;
    program::stop_on_signal(net.remote())?;
    let mut login = Login::new(settings.links.clone());
    net.eventloop(&mut login, Duration::MAX)?;
    let open = std::mem::take(&mut login.open);
    let listeners = [clients, http, servers].concat();
    program::close_all(&mut net, &mut login, listeners.into_iter().chain(open))
}

fn pdus(bytes_max: u32) -> Delivery {
    Delivery::Pdu(FrameSpec::teamtalk().with_max(bytes_max))
}

/// The state of the application.
struct Login {
    directory: Directory,
    links: Links,
    open: Open,
    client_table: Rc<Dispatcher<Client, Self>>,
    server_table: Rc<Dispatcher<MsgServer, Self>>,
}

impl Login {
    fn new(links: Links) -> Self {
        let client_table = on(Dispatcher::new().on_error(on_error), on_request);
        let client_table = on::<HeartBeat, _, _>(client_table, |_, _, _, _, _| {});
        let server_table = on(Dispatcher::new().on_error(on_error), on_request);
        let server_table = on::<HeartBeat, _, _>(server_table, |_, _, _, _, _| {});
        let server_table = on(server_table, on_registration);
        let server_table = on(server_table, on_count);
        Self {
            directory: Directory::default(),
            links,
            open: Open::new(),
            client_table: Rc::new(client_table),
            server_table: Rc::new(server_table),
        }
    }

    /// Forgets a connection that is over; a message server is not named any more.
    fn forget(&mut self, handle: Handle, why: &dyn Display) {
        self.open.remove(&handle);
        if let Some(info) = self.directory.remove(handle) {
            print(&format!("lost {} with {} users: {why}", name(&info), info.cur_conn_cnt));
        }
    }
}

/// Closes a connection once what was sent has left.
fn end(login: &mut Login, context: &mut Context<'_, Login>, why: &dyn Display) {
    context.close();
    login.forget(context.handle(), why);
}

/// Ends a connection behind its answer.
fn end_answered(
    login: &mut Login,
    context: &mut Context<'_, Login>,
    sent: Result<SendStatus, SendError>,
) {
    match sent {
        Ok(_) => end(login, context, &"it was answered"),
        Err(error) => {
            context.abort();
            login.forget(context.handle(), &error);
        }
    }
}

/// A client or a message server asks for a message server by PDU.
fn on_request<C>(
    _: &mut C,
    login: &mut Login,
    context: &mut Context<'_, Login>,
    pdu: &Pdu<'_>,
    _: MsgServReq,
) {
    let choice = login.directory.choose();
    print(&format!("told {} by PDU: {choice}", peer(context)));
    let sent = context.reply(pdu, MsgServRsp::COMMAND_ID, &response(choice));
    end_answered(login, context, sent);
}

fn on_registration(
    _: &mut MsgServer,
    login: &mut Login,
    context: &mut Context<'_, Login>,
    _: &Pdu<'_>,
    info: MsgServInfo,
) {
    let line =
        format!("registered {}, {} of {} users", name(&info), info.cur_conn_cnt, info.max_conn_cnt);
    let handle = context.handle();
    match login.directory.register(handle, info) {
        Ok(()) => {
            print(&line);
            context.mark_ready();
            // Its counts come as fast as its users do.
            if let Ok(mut option) = context.net().option(handle) {
                option.set_limits(SERVERS);
            }
        }
        Err(error) => {
            print(&format!("closed {}: {error}", peer(context)));
            end(login, context, &error);
        }
    }
}

fn on_count(
    _: &mut MsgServer,
    login: &mut Login,
    context: &mut Context<'_, Login>,
    _: &Pdu<'_>,
    update: UserCntUpdate,
) {
    match login.directory.count(context.handle(), update) {
        Ok(info) => {
            let way = if update.user_action == UserAction::Inc as u32 { "in" } else { "out" };
            let (users, max) = (info.cur_conn_cnt, info.max_conn_cnt);
            print(&format!(
                "user {} {way} at {}, {users} of {max} users",
                update.user_id,
                name(info)
            ));
        }
        Err(error) => {
            print(&format!("closed {}: {error}", peer(context)));
            end(login, context, &error);
        }
    }
}

fn on_error<C>(
    _: &mut C,
    login: &mut Login,
    context: &mut Context<'_, Login>,
    error: &DispatchError,
    is_over: bool,
) {
    let what = if is_over { "closed" } else { "bad PDU from" };
    print(&format!("{what} {}: {error}", peer(context)));
    // The dispatcher closes it behind this call.
    if is_over {
        login.forget(context.handle(), error);
    }
}

/// A client on its own port: it may ask, once.
struct Client;

impl Connection<Login> for Client {
    fn on_pdu(&mut self, login: &mut Login, context: &mut Context<'_, Login>, pdu: Pdu<'_>) {
        Rc::clone(&login.client_table).dispatch(self, login, context, &pdu);
    }

    fn on_close(&mut self, login: &mut Login, context: &mut Context<'_, Login>, why: CloseReason) {
        login.forget(context.handle(), &why);
    }
}

/// A client that asks by HTTP, once.
#[derive(Default)]
struct HttpClient {
    head: RequestHead,
}

impl HttpClient {
    fn refuse(login: &mut Login, context: &mut Context<'_, Login>, refusal: Refusal) {
        print(&format!("refused {} by HTTP: {}", peer(context), refusal.status()));
        let sent = context.send(&refusal.response());
        end_answered(login, context, sent);
    }
}

impl Connection<Login> for HttpClient {
    fn on_connect(&mut self, _: &mut Login, context: &mut Context<'_, Login>) {
        context.set_timer(HTTP_TIMEOUT, Repeat::Once);
    }

    fn on_read(&mut self, login: &mut Login, context: &mut Context<'_, Login>, bytes: &[u8]) {
        match self.head.push(bytes) {
            None => {}
            Some(Ok(())) => {
                let choice = login.directory.choose();
                print(&format!("told {} by HTTP: {choice}", peer(context)));
                let sent = context.send(&http::answer(choice, &login.links));
                end_answered(login, context, sent);
            }
            Some(Err(refusal)) => Self::refuse(login, context, refusal),
        }
    }

    fn on_timer(&mut self, login: &mut Login, context: &mut Context<'_, Login>, _: TimerId) {
        Self::refuse(login, context, Refusal::Timeout);
    }

    fn on_close(&mut self, login: &mut Login, context: &mut Context<'_, Login>, why: CloseReason) {
        login.forget(context.handle(), &why);
    }
}

/// A message server, registered or about to.
struct MsgServer;

impl Connection<Login> for MsgServer {
    fn on_pdu(&mut self, login: &mut Login, context: &mut Context<'_, Login>, pdu: Pdu<'_>) {
        Rc::clone(&login.server_table).dispatch(self, login, context, &pdu);
    }

    fn on_close(&mut self, login: &mut Login, context: &mut Context<'_, Login>, why: CloseReason) {
        login.forget(context.handle(), &why);
    }
}

/// A choice as an answer by PDU.
fn response(choice: Choice<'_>) -> MsgServRsp {
    match choice {
        Choice::Server(info) => MsgServRsp {
            result_code: ResultType::None.into(),
            prior_ip: Some(info.ip1.clone()),
            backup_ip: Some(info.ip2.clone()),
            port: Some(info.port),
        },
        Choice::NoServer => refused(ResultType::NoMsgServer),
        Choice::Full => refused(ResultType::MsgServerFull),
    }
}

fn refused(result: ResultType) -> MsgServRsp {
    MsgServRsp { result_code: result.into(), ..MsgServRsp::default() }
}

/// A message server in the lines that are printed; what it says of itself cannot break them.
fn name(info: &MsgServInfo) -> String {
    format!("{:?} at {}:{}", info.host_name, info.ip1.escape_debug(), info.port)
}

/// The peer of a connection in the lines that are printed.
fn peer(context: &mut Context<'_, Login>) -> String {
    let handle = context.handle();
    let net: &mut Netlib<Login> = context.net();
    let address = net.option(handle).ok().and_then(|option| option.remote_address().ok());
    address.map_or_else(|| "somebody who is gone".to_owned(), |address| address.to_string())
}

/// Bytes of the longest PDU taken from whoever is registered.
const PDU_BYTES_MAX: u32 = 16 * 1024;

/// Bytes of the longest PDU taken from anybody: to ask and to register is short.
const REQUEST_BYTES_MAX: u32 = 1024;

/// What a message server may ask for, with more once it is registered.
const SERVERS: Limits = Limits::new().unready_bytes_max(REQUEST_BYTES_MAX);

/// How fast anybody may ask; one answer is all that there is to be had.
const REQUESTS: Rate = Rate::per_second(20);

/// How long who connects as a message server may take to register, or to ask.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a client may take to ask by HTTP.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);
