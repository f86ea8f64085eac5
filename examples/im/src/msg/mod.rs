//! A message server: it registers with every directory, and users log in to it and talk.
//!
//! It has no database: whoever gives a name is let in, and a message to somebody who is not there
//! is lost. Who is there is for `users.rs` to say, what clients may do for `client.rs`, and what
//! becomes of directories that come and go for `uplink.rs`.

#![forbid(unsafe_code)]

mod client;
mod uplink;

use std::error::Error;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use uring_netlib::conn::{Backoff, Dispatcher, SetId};
use uring_netlib::pdu::FrameSpec;
use uring_netlib::{Address, Backend, Delivery, Handle, Limits, Liveness, Netlib, Rate, Shared};

use crate::messages::{Command, KickReasonType, KickUser, MsgServInfo, UserAction, UserCntUpdate};
use crate::program::{self, Door, Open, Role, print};
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
    /// Connections from one address, at each address to listen on.
    pub per_address_max: u32,
    /// What moves the bytes.
    pub backend: Backend,
}

/// Serves until a signal comes, and prints a line for whatever happens.
///
/// # Errors
/// No backend, no signals, or an address that cannot be listened on.
pub fn serve(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let mut net = program::options(settings.backend).build()?;
    let role = Role {
        who: "clients",
        option: "--listen",
        delivery: Delivery::Pdu(FrameSpec::teamtalk().with_max(PDU_BYTES_MAX)),
        liveness: Liveness::client(),
        limits: Limits::new().pdus(PDUS).patience(PATIENCE).unready_bytes_max(LOGIN_BYTES_MAX),
        door: Door {
            // Users, and those who are about to log in.
            connections_max: settings.info.max_conn_cnt.saturating_add(UNREADY_MAX),
            per_address_max: settings.per_address_max,
        },
    };
    let listeners = program::listen(&mut net, &role, &settings.listen, |messenger, handle| {
        let messenger: &mut Messenger = messenger;
        messenger.open.insert(handle);
        Box::new(Client::default())
    })?;
    program::stop_on_signal(net.remote())?;
    let mut info = settings.info.clone();
    if info.port == 0 {
        info.port = port(&mut net, &listeners)?.into();
    }
    let directories = net.connect_set(&settings.login, Backoff::teamtalk(), Directory::made)?;
    net.watch_set(directories, uplink::on_change)?;
    let mut messenger = Messenger::new(info, directories);
    net.eventloop(&mut messenger, Duration::MAX)?;
    net.close_set(directories)?;
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
    directories: SetId,
    users: Users,
    /// The connections of clients.
    open: Open,
    last_msg_id: u32,
    client_table: Rc<Dispatcher<Client, Self>>,
    directory_table: Rc<Dispatcher<Directory, Self>>,
}

impl Messenger {
    fn new(info: MsgServInfo, directories: SetId) -> Self {
        Self {
            users: Users::new(info.max_conn_cnt as usize),
            info,
            directories,
            open: Open::new(),
            last_msg_id: 0,
            client_table: Rc::new(Client::table()),
            directory_table: Rc::new(Directory::table()),
        }
    }

    /// Tells every directory that a user came or went.
    fn tell(&self, net: &mut Netlib<Self>, action: UserAction, user_id: u32) {
        // At the end the set is closed before the users are.
        let Ok(mut set) = net.set(self.directories) else { return };
        let open = set.open();
        let update = shared(&UserCntUpdate { user_action: action as u32, user_id });
        for &directory in &*open {
            if let Err(error) = net.send_shared(directory, &update) {
                // Without it that one would count wrongly for good; it is told anew.
                print(&format!("a directory cannot be told: {error}"));
                net.abort(directory).ok();
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

/// A message that nobody asked for, to be sent to several.
fn shared<M: Command>(message: &M) -> Shared {
    Shared::pdu(M::header(), message, PDU_BYTES_MAX).expect("what is told to several is short")
}

/// Bytes of the longest PDU taken, and sent.
const PDU_BYTES_MAX: u32 = 64 * 1024;

/// Bytes of the longest PDU taken from who has not logged in.
const LOGIN_BYTES_MAX: u32 = 1024;

/// How fast a client may send PDUs of any kind: its messages, of which there is a limit of their
/// own, and one acknowledgement of each that it gets.
const PDUS: Rate = Rate::per_second(200).burst(400);

/// How long it may be too fast before it is closed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that may be open beside those of as many users as there may be.
const UNREADY_MAX: u32 = 1000;
