//! A client: it asks a directory for a message server, logs in there, and talks.
//!
//! Two threads, so that whoever types never waits for the network. The main thread takes lines and
//! hands each over as an order, through a queue with a limit; it knows nothing of connections. The
//! IO thread has the `Netlib` and all the rest. How orders reach it is in [`run`], what it does
//! with them in `on_loop`, and what is said on the wire in `directory.rs` and `session.rs`.

#![forbid(unsafe_code)]

pub mod answer;
mod directory;
mod session;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::BuildHasher;
use std::io::{self, BufRead};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::time::Duration;
use std::{fmt, panic, process, thread};

use prost::Message;
use uring_netlib::conn::{Answer, CallError, Context, Dispatcher};
use uring_netlib::{Address, Backend, Event, Handle, Netlib, Remote, Repeat, SendStatus};

use crate::messages::{AllUserRsp, MsgData};
use crate::program::{self, print, told};
use session::Session;

/// What a client is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The user who logs in.
    pub name: String,
    /// The directories, which are asked in turn.
    pub directories: Vec<Address>,
    /// How they are asked.
    pub way: Way,
    /// To whom all is said; without one, each line begins with the name.
    pub to: Option<String>,
    /// What to do instead of reading lines.
    pub script: Option<Script>,
    /// What moves the bytes.
    pub backend: Backend,
}

/// How a directory is asked for a message server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `GET /msg_server`.
    Http,
    /// The PDU 0101.
    Pdu,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Pdu => "PDU",
        })
    }
}

/// What a client does by itself; it ends when all is done.
#[derive(Clone, Debug)]
pub struct Script {
    /// What to say, to whom [`Settings::to`] says.
    pub say: Option<String>,
    /// How often to say it.
    pub count: u32,
    /// At what interval.
    pub every: Duration,
    /// Messages to wait for.
    pub hear: u64,
}

/// One thing to be said.
#[derive(Debug)]
struct Say {
    to: String,
    text: String,
    /// How often it was looked for `to` in vain.
    tries: u32,
}

/// Talks until all is said and heard, or a signal comes, and prints a line for whatever happens.
///
/// # Errors
/// No backend, a login that is refused, a login of the same user elsewhere, or something that could
/// not be said.
pub fn run(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let (orders, queue) = mpsc::sync_channel(ORDERS_MAX);
    let (sender, remote) = mpsc::channel();
    let own = settings.clone();
    let io = thread::spawn(move || {
        let reads_lines = own.script.is_none();
        let result = talk(own, queue, &sender).map_err(|error| told(&*error));
        if reads_lines {
            // The main thread may wait for a line, and nothing can be said to it any more.
            if let Err(why) = &result {
                eprintln!("client: {why}");
            }
            process::exit(result.is_err().into());
        }
        result
    });
    // Without one the other thread has ended, and says why.
    if let Ok(remote) = remote.recv() {
        give_orders(settings, &orders, &remote);
        drop(orders);
        remote.wake();
    }
    let result = io.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
    Ok(result?)
}

/// Gives orders until there are no more, or nobody takes them. Waits while the queue is full.
fn give_orders(settings: &Settings, orders: &SyncSender<Say>, remote: &Remote) {
    let give = |to: &str, text: &str| {
        let order = Say { to: to.to_owned(), text: text.to_owned(), tries: 0 };
        let is_given = orders.send(order).is_ok();
        remote.wake();
        is_given
    };
    let to = settings.to.as_deref();
    if let Some(script) = &settings.script {
        let (Some(text), Some(to)) = (&script.say, to) else { return };
        for index in 0..script.count {
            if index > 0 {
                thread::sleep(script.every);
            }
            if !give(to, text) {
                return;
            }
        }
        return;
    }
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let line = line.trim();
        let said = match to {
            Some(to) => Some((to, line)),
            None => line.split_once(' ').map(|(name, text)| (name, text.trim_start())),
        };
        match said {
            _ if line.is_empty() => {}
            Some((to, text)) => {
                if !give(to, text) {
                    return;
                }
            }
            None => print("a line is a name and a text, as in: ann how are you"),
        }
    }
}

/// The IO thread: all that goes over connections.
fn talk(
    settings: Settings,
    queue: Receiver<Say>,
    sender: &Sender<Remote>,
) -> Result<(), Box<dyn Error>> {
    let mut net = program::options(settings.backend).build()?;
    let mut app = App {
        hear: settings.script.as_ref().map_or(0, |script| script.hear),
        settings,
        queue,
        has_all: false,
        current: None,
        is_busy: false,
        is_leaving: false,
        names: HashMap::new(),
        user_id: 0,
        link: None,
        session: None,
        asked: 0,
        wait: WAIT_MIN,
        said: 0,
        unsaid: 0,
        heard: 0,
        failure: None,
        table: Rc::new(Session::table()),
    };
    program::stop_on_signal(net.remote())?;
    net.add_loop(on_loop, 0);
    directory::ask(&mut app, &mut net);
    // Whoever waits for that has not gone away.
    sender.send(net.remote())?;
    net.eventloop(&mut app, Duration::MAX)?;
    let link = app.link;
    // Whoever is asked by now would be asked in vain.
    app.is_leaving = true;
    program::close_all(&mut net, &mut app, link)?;
    print(&format!("{} said, {} heard", app.said, app.heard));
    match (app.failure, app.unsaid) {
        (Some(failure), _) => Err(failure.into()),
        (None, 0) => Ok(()),
        (None, unsaid) => Err(format!("{unsaid} could not be said").into()),
    }
}

/// The end of each turn: the next order is taken once the one before is done.
fn on_loop(app: &mut App, net: &mut Netlib<App>, _: Handle, _: Event<'_>) {
    let Some(session) = app.session else { return };
    if app.is_busy {
        return;
    }
    if app.current.is_none() && !app.has_all {
        match app.queue.try_recv() {
            Ok(say) => app.current = Some(say),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => app.has_all = true,
        }
    }
    if app.current.is_some() {
        session::say(app, net, session);
    } else if app.has_all && app.heard >= app.hear {
        session::log_out(app, net, session);
    }
}

/// The state of the IO thread.
struct App {
    settings: Settings,
    queue: Receiver<Say>,
    /// The main thread has no more orders.
    has_all: bool,
    /// What is being said.
    current: Option<Say>,
    /// Something is waited for, before which nothing more is said.
    is_busy: bool,
    /// All is done, or a signal came: nothing new is begun.
    is_leaving: bool,
    /// The ids of users, as this message server has them.
    names: HashMap<String, u32>,
    user_id: u32,
    /// The connection of now, to a directory or to a message server.
    link: Option<Handle>,
    /// The connection to a message server, once logged in.
    session: Option<Handle>,
    /// How often a directory was asked.
    asked: usize,
    /// How long to wait before it is asked again.
    wait: Duration,
    said: u64,
    unsaid: u64,
    heard: u64,
    /// Messages to hear.
    hear: u64,
    failure: Option<String>,
    table: Rc<Dispatcher<Session, Self>>,
}

impl App {
    /// The user is logged in.
    fn enter(&mut self, session: Handle, user_id: u32) {
        self.session = Some(session);
        self.user_id = user_id;
        self.wait = WAIT_MIN;
    }

    /// There is no connection any more, or none was to be had. A directory is asked anew, instead
    /// of the same server: that may be gone for good, and the directory knows which ones live, and
    /// which of them has room. So no set of the library's has a place here.
    fn lose(&mut self, net: &mut Netlib<Self>, why: &str) {
        (self.link, self.session, self.is_busy) = (None, None, false);
        self.names.clear();
        if self.is_leaving {
            return self.leave(net);
        }
        // Others have lost the same server at the same moment.
        let wait = self.wait.mul_f64(0.5 + 0.5 * random());
        self.wait = (self.wait * 2).min(WAIT_MAX);
        print(&format!("{why}; asking a directory anew in {:.1} s", wait.as_secs_f64()));
        net.register_timer(wait, Repeat::Once, |app, net, _, _| directory::ask(app, net), 0);
    }

    /// Gives a connection up whose first request cannot be sent.
    fn expect_sent<E: fmt::Display>(
        &mut self,
        context: &mut Context<'_, Self>,
        sent: Result<SendStatus, E>,
    ) {
        if let Err(error) = sent {
            context.abort();
            self.lose(context.net(), &format!("cannot ask: {error}"));
        }
    }

    /// There is no use in going on.
    fn fail(&mut self, net: &mut Netlib<Self>, why: String) {
        self.failure = Some(why);
        self.leave(net);
    }

    /// Ends the loop.
    fn leave(&mut self, net: &mut Netlib<Self>) {
        self.session = None;
        net.stop_event();
    }

    /// What was to be said is said.
    fn has_said(&mut self, how: &str) {
        if let Some(say) = self.current.take() {
            self.said += 1;
            print(&format!("said to {:?}: {how}", say.to));
        }
    }

    /// What was to be said cannot be said.
    fn give_up(&mut self, why: &str) {
        if let Some(say) = self.current.take() {
            self.unsaid += 1;
            print(&format!("not said to {:?}: {why}", say.to));
        }
    }

    fn hear(&mut self, data: &MsgData) {
        self.heard += 1;
        let from = self.name_of(data.from_user_id);
        // Who has left by now has no name any more.
        let id = || format!("user {}", data.from_user_id);
        let from = from.map_or_else(id, |name| format!("{name:?}"));
        // Whatever is in it, it is one line.
        print(&format!("heard from {from}: {:?}", String::from_utf8_lossy(&data.msg_data)));
    }

    /// Who has which id by now.
    fn learn(&mut self, users: AllUserRsp) {
        let pairs = users.user_list.into_iter().map(|user| (user.user_domain, user.user_id));
        self.names = pairs.collect();
    }

    fn name_of(&self, id: u32) -> Option<&str> {
        self.names.iter().find(|(_, one)| **one == id).map(|(name, _)| name.as_str())
    }
}

/// The message in a reply, or why there is none.
fn decoded<M: Message + Default>(answer: Answer<'_>) -> Result<M, NoReply> {
    match answer {
        Ok(pdu) => pdu.decode().map_err(|_| NoReply::Unreadable),
        Err(CallError::TimedOut) => Err(NoReply::TimedOut),
        Err(_) => Err(NoReply::Closed),
    }
}

/// Why there is no message in a reply.
enum NoReply {
    /// The connection ended first, which is told to its object next.
    Closed,
    TimedOut,
    Unreadable,
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection ended",
            Self::TimedOut => "no reply in time",
            Self::Unreadable => "the reply cannot be read",
        })
    }
}

/// From 0 to 1, another one each time.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}

/// Orders that wait for the IO thread; the main thread waits for room.
const ORDERS_MAX: usize = 64;

/// The first and the longest wait before a directory is asked anew.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);
