//! A message server: it registers with every directory, and users log in to it and talk.
//!
//! It has no database: whoever gives a name is let in, and a message to somebody who is not there
//! is lost. Who is there is for `users.rs` to say, what clients may do for `client.rs`.

#![forbid(unsafe_code)]

mod client;
mod uplink;

use std::error::Error;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use uring_netlib::conn::{Connection, Context, DispatchError, Dispatcher};
use uring_netlib::pdu::FrameSpec;
use uring_netlib::{Address, Backend, Delivery, Event, Handle, Liveness, Netlib, Repeat, TimerId};

use crate::messages::{Command, KickReasonType, KickUser, MsgServInfo, UserAction, UserCntUpdate};
use crate::program::{self, Open, print};
use crate::users::Users;
use client::Client;
use uplink::Directory;

/// What a message server is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where users connect to.
    pub listen: Vec<Address>,
    /// The directories to register with.
    pub login: Vec<Address>,
    /// What it tells the directories: the addresses and the port for users, how many of those it
    /// takes, its name. Port 0 stands for that of the first address it listens on.
    pub info: MsgServInfo,
    /// What moves the bytes.
    pub backend: Backend,
}

/// Serves until a signal comes, and prints a line for whatever happens.
///
/// # Errors
/// No backend, no signals, or an address that cannot be listened on.
pub fn serve(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let mut net = program::options(settings.backend).build()?;
    let pdus = Delivery::Pdu(FrameSpec::teamtalk().with_max(PDU_BYTES_MAX));
    let clients = ("clients", "--listen");
    let factory = |messenger: &mut Messenger, handle| -> Box<dyn Connection<Messenger>> {
        messenger.open.insert(handle);
        Box::new(Client)
    };
    let listeners =
        program::listen(&mut net, clients, &settings.listen, pdus, &Liveness::client(), factory)?;
    program::stop_on_signal(net.remote())?;
    let mut info = settings.info.clone();
    if info.port == 0 {
        info.port = port(&mut net, &listeners)?.into();
    }
    let mut messenger = Messenger::new(info, &settings.login);
    for index in 0..messenger.uplinks.len() {
        messenger.connect(&mut net, index);
    }
    net.eventloop(&mut messenger, Duration::MAX)?;
    for retry in messenger.uplinks.iter().filter_map(|uplink| uplink.retry) {
        net.delete_timer(retry)?;
    }
    let open = std::mem::take(&mut messenger.open);
    program::close_all(&mut net, &mut messenger, listeners.into_iter().chain(open))
}

/// The port of the first listener that has one.
fn port(net: &mut Netlib<Messenger>, listeners: &[Handle]) -> Result<u16, Box<dyn Error>> {
    for &listener in listeners {
        if let Address::Ip(address) = net.option(listener)?.local_address()? {
            return Ok(address.port());
        }
    }
    Err("no address to listen on has a port to tell clients of; give one with --port".into())
}

/// The state of the application.
struct Messenger {
    info: MsgServInfo,
    uplinks: Vec<Uplink>,
    users: Users,
    open: Open,
    last_msg_id: u32,
    client_table: Rc<Dispatcher<Client, Self>>,
    uplink_table: Rc<Dispatcher<Directory, Self>>,
}

/// One directory to register with.
struct Uplink {
    address: Address,
    /// The connection on which this server is registered.
    registered: Option<Handle>,
    /// The next attempt.
    retry: Option<TimerId>,
}

impl Messenger {
    fn new(info: MsgServInfo, login: &[Address]) -> Self {
        let uplink =
            |address: &Address| Uplink { address: address.clone(), registered: None, retry: None };
        Self {
            users: Users::new(info.max_conn_cnt as usize),
            info,
            uplinks: login.iter().map(uplink).collect(),
            open: Open::new(),
            last_msg_id: 0,
            client_table: Rc::new(Client::table()),
            uplink_table: Rc::new(Directory::table()),
        }
    }

    fn connect(&mut self, net: &mut Netlib<Self>, index: usize) {
        match net.connect_object(&self.uplinks[index].address, Box::new(Directory::new(index))) {
            Ok(handle) => {
                self.open.insert(handle);
                if let Ok(mut option) = net.option(handle) {
                    option.set_liveness(Liveness::server_to_server());
                }
            }
            Err(error) => self.retry(net, index, &error),
        }
    }

    /// Tries a directory again, after a while.
    fn retry(&mut self, net: &mut Netlib<Self>, index: usize, why: &dyn Display) {
        let uplink = &mut self.uplinks[index];
        let verb = if uplink.registered.take().is_some() { "lost" } else { "cannot reach" };
        let seconds = RETRY.as_secs();
        print(&format!("{verb} directory {}: {why}; next try in {seconds} s", uplink.address));
        let user_data = index as u64;
        uplink.retry = Some(net.register_timer(RETRY, Repeat::Once, on_retry, user_data));
    }

    /// Tells every directory that a user came or went.
    fn tell(&mut self, net: &mut Netlib<Self>, action: UserAction, user_id: u32) {
        let update = UserCntUpdate { user_action: action as u32, user_id };
        for index in 0..self.uplinks.len() {
            let Some(handle) = self.uplinks[index].registered else { continue };
            // One that misses an update would count wrongly for good; better it is told anew.
            if let Err(error) = net.send_pdu(handle, UserCntUpdate::header(), &update) {
                net.abort(handle).ok();
                self.open.remove(&handle);
                self.retry(net, index, &error);
            }
        }
    }

    /// Forgets a client's connection that is over.
    fn forget(&mut self, net: &mut Netlib<Self>, handle: Handle, why: &dyn Display) {
        self.open.remove(&handle);
        if let Some((id, name)) = self.users.logout(handle) {
            print(&format!("user {id} {name:?} out, {} users: {why}", self.users.len()));
            self.tell(net, UserAction::Dec, id);
        }
    }

    /// Logs out the client that has to go before the same user logs in with another.
    fn kick(&mut self, net: &mut Netlib<Self>, rival: Handle) {
        let kick = KickUser {
            user_id: self.users.on(rival).unwrap_or_default(),
            kick_reason: KickReasonType::DuplicateUser.into(),
        };
        // If it does not get that, it sees the end.
        net.send_pdu(rival, KickUser::header(), &kick).ok();
        net.close(rival).ok();
        self.forget(net, rival, &"logged in elsewhere");
    }
}

fn on_retry(messenger: &mut Messenger, net: &mut Netlib<Messenger>, _: Handle, event: Event<'_>) {
    let Event::Timer { user_data, .. } = event else { return };
    let index = usize::try_from(user_data).expect("it was an index");
    messenger.uplinks[index].retry = None;
    messenger.connect(net, index);
}

/// What the objects of both kinds of connection have in common.
trait Peer {
    /// Forgets a connection that is over.
    fn forget(
        &self,
        messenger: &mut Messenger,
        context: &mut Context<'_, Messenger>,
        why: &dyn Display,
    );

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
}

fn on_error<C: Peer>(
    object: &mut C,
    messenger: &mut Messenger,
    context: &mut Context<'_, Messenger>,
    error: &DispatchError,
    is_over: bool,
) {
    print(&format!("bad PDU: {error}"));
    // The dispatcher closes it behind this call.
    if is_over {
        object.forget(messenger, context, error);
    }
}

/// Bytes of the longest PDU taken.
const PDU_BYTES_MAX: u32 = 64 * 1024;

/// How long a directory that is gone is left alone.
const RETRY: Duration = Duration::from_secs(4);
