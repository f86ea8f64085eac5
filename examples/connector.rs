//! A reconnect set: servers are killed and restarted, and you watch it come back.
//!
//! ```text
//! $ cargo run --release --example connector
//!     time  member                  state        next in  why
//!    0.000  127.0.0.1:42175         connecting
//!    0.000  127.0.0.1:42175         open
//!    0.000  127.0.0.1:42175         is master
//! …
//!    1.002  127.0.0.1:42175         killed
//!    1.006  127.0.0.1:42175         waiting       0.41 s  reset by the peer after 1.01 s
//!    1.006  127.0.0.1:42491         is master
//!    1.417  127.0.0.1:42175         connecting
//!    1.417  127.0.0.1:42175         waiting       0.97 s  connection refused
//!    2.007  127.0.0.1:42175         restarted
//!    2.385  127.0.0.1:42175         connecting
//!    2.385  127.0.0.1:42175         open
//! ```
//!
//! It starts two small servers as processes of their own, kills and restarts one after the other,
//! and ends by itself with a summary. Nobody tells the set what is done to the servers.
//! `--addresses` watches servers of yours instead, until Ctrl-C; they get a heartbeat of TeamTalk's
//! five times a second.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, iter, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uring_netlib::conn::{
    Backoff, Connection, Context, MemberEnd, MemberInfo, MemberState, SetChange, SetId,
};
use uring_netlib::pdu::{Header, Pdu};
use uring_netlib::{
    Address, Backend, Event, Handle, Netlib, Options, Remote, Repeat, SendError, TimerId,
};

const HELP: &str = "\
Keeps connections to servers that come and go, and tells what it sees.

usage: cargo run --release --example connector -- [--rounds COUNT] [--backoff KIND]
                                                  [--backend BACKEND] [--addresses LIST]

  --rounds COUNT     how often a server of its own is killed, 1 to 100   [3]
  --backoff KIND     short (0.5 to 30 s, jitter) or teamtalk (4 to 64 s) [short]
  --backend BACKEND  auto, uring or epoll                                [auto]
  --addresses LIST   servers of yours instead, e.g. 127.0.0.1:7000,[::1]:7000; Ctrl-C ends
";

/// What the arguments say.
struct Settings {
    rounds: usize,
    backoff: Backoff,
    backend: Backend,
    addresses: Vec<Address>,
    /// This process is one of the servers.
    serve: Option<Address>,
}

/// The state of this application; the library lends it to each callback.
struct App {
    start: Instant,
    set: Option<SetId>,
    master: Option<Handle>,
    rows: Vec<Row>,
    /// Empty when the servers are not ours.
    servers: Vec<Server>,
    kills: usize,
    rounds: usize,
    is_down: bool,
    /// Why it ended before its time.
    failure: Option<String>,
}

/// What the summary says of a member.
#[derive(Default)]
struct Row {
    opened: u32,
    failed: u32,
    echoes: u32,
    open: Duration,
}

/// A server of our own, in a process of its own.
struct Server {
    address: Address,
    child: Child,
}

fn main() -> ExitCode {
    let settings = match arguments() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            io::stdout().write_all(HELP.as_bytes()).ok();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("connector: {error}; --help lists what it takes");
            return ExitCode::from(2);
        }
    };
    let result = match &settings.serve {
        Some(address) => serve(&settings, address),
        None => connect(settings),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("connector: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn arguments() -> Result<Option<Settings>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut settings = Settings {
        rounds: 3,
        backoff: Backoff::new(),
        backend: Backend::Auto,
        addresses: Vec::new(),
        serve: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rounds") => settings.rounds = parser.value()?.parse()?,
            Long("backoff") => {
                settings.backoff = match parser.value()?.to_str() {
                    Some("short") => Backoff::new(),
                    Some("teamtalk") => Backoff::teamtalk(),
                    _ => return Err("--backoff takes short or teamtalk".into()),
                }
            }
            Long("backend") => settings.backend = parser.value()?.parse()?,
            Long("addresses") => settings.addresses = addresses(&parser.value()?.string()?)?,
            Long("serve") => settings.serve = Some(parser.value()?.parse()?),
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if !(1..=100).contains(&settings.rounds) {
        return Err("--rounds must be 1 to 100".into());
    }
    Ok(Some(settings))
}

fn addresses(list: &str) -> Result<Vec<Address>, lexopt::Error> {
    let parse = |text: &str| {
        let forms = "127.0.0.1:7000, [::1]:7000, localhost:7000 or unix:/path";
        text.parse().map_err(|error| format!("--addresses: {text:?}: {error}; e.g. {forms}").into())
    };
    list.split(',').map(parse).collect()
}

fn connect(settings: Settings) -> Result<(), Box<dyn Error>> {
    let mut net = Options::new().backend(settings.backend).build()?;
    let mut app = App {
        start: Instant::now(),
        set: None,
        master: None,
        rows: Vec::new(),
        servers: Vec::new(),
        kills: 0,
        rounds: settings.rounds,
        is_down: false,
        failure: None,
    };
    let mut addresses = settings.addresses;
    if addresses.is_empty() {
        for _ in 0..SERVERS {
            app.servers.push(Server::start()?);
        }
        addresses = app.servers.iter().map(|server| server.address.clone()).collect();
        let rounds = u32::try_from(settings.rounds)?;
        net.register_timer(PATIENCE * (rounds + 1), Repeat::Once, give_up, 0);
    }
    app.rows.resize_with(addresses.len(), Row::default);
    let member = |_: &mut App, info: MemberInfo<'_>| -> Box<dyn Connection<App>> {
        Box::new(Peer { index: info.index })
    };
    let set = net.connect_set(&addresses, settings.backoff, member)?;
    net.watch_set(set, on_change)?;
    app.set = Some(set);
    stop_on_signal(net.remote())?;
    let head = ["member", "state", "next in", "why"];
    let [member, state, next, why] = head;
    print(&mut net, &format!("{:>8}  {member:<22}  {state:<10}  {next:>8}  {why}", "time"));
    app.start = Instant::now();
    net.eventloop(&mut app, Duration::MAX)?;

    // What is open now is open until here.
    for member in net.set(set)?.members() {
        if let MemberState::Open { age, .. } = member.state {
            app.rows[member.index].open += age;
        }
    }
    net.close_set(set)?;
    while net.stats().sockets > 0 {
        net.turn(&mut app, Duration::from_secs(1))?;
    }
    print(&mut net, &summary(&app, &addresses));
    app.failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// One connection of the set: it says something now and then, and counts what comes back.
struct Peer {
    index: usize,
}

impl Peer {
    fn say(context: &mut Context<'_, App>) {
        match context.send_pdu(Header::new(7, 0x0701), &()) {
            // The peer is gone, and its end will be told.
            Ok(_) | Err(SendError::NotConnected) => {}
            // It reads nothing; a new connection may do better.
            Err(_) => context.abort(),
        }
    }
}

impl Connection<App> for Peer {
    fn on_confirm(&mut self, _: &mut App, context: &mut Context<'_, App>) {
        Self::say(context);
        context.set_timer(Duration::from_millis(200), Repeat::Forever);
    }

    fn on_pdu(&mut self, app: &mut App, _: &mut Context<'_, App>, _: Pdu<'_>) {
        app.rows[self.index].echoes += 1;
    }

    fn on_timer(&mut self, _: &mut App, context: &mut Context<'_, App>, _: TimerId) {
        Self::say(context);
    }
}

/// A member has changed its state.
fn on_change(app: &mut App, net: &mut Netlib<App>, change: &SetChange) {
    let row = &mut app.rows[change.index];
    let mut why = change.end.as_ref().map_or(String::new(), MemberEnd::to_string);
    if let MemberState::Open { age, .. } = change.before {
        row.open += age;
        why = format!("{why} after {:.2} s", age.as_secs_f64());
    } else if change.end.is_some() {
        row.failed += 1;
    }
    let (state, next) = match change.after {
        MemberState::Waiting { left } => ("waiting", format!("{:.2} s", left.as_secs_f64())),
        MemberState::Connecting => ("connecting", String::new()),
        MemberState::Open { .. } => {
            row.opened += 1;
            ("open", String::new())
        }
        _ => ("?", String::new()),
    };
    let address = change.address().to_string();
    tell(app, net, &address, &format!("{state:<10}  {next:>8}  {why}"));
    tell_master(app, net, change.set);
    schedule(app, net, change.set);
}

/// Says who is master now, if that has changed.
fn tell_master(app: &mut App, net: &mut Netlib<App>, set: SetId) {
    let Ok(set) = net.set(set) else { return };
    let master = set.master();
    if std::mem::replace(&mut app.master, master) == master {
        return;
    }
    let is_master =
        |state| matches!(state, MemberState::Open { handle, .. } if Some(handle) == master);
    let member = set.members().find(|member| is_master(member.state));
    let text = member.map_or_else(|| "nobody".to_owned(), |member| member.address.to_string());
    tell(app, net, &text, "is master");
}

/// Once all is well, the next server is killed after a while.
fn schedule(app: &mut App, net: &mut Netlib<App>, set: SetId) {
    let Ok(mut set) = net.set(set) else { return };
    if app.servers.is_empty() || app.is_down || set.open().len() < app.servers.len() {
        return;
    }
    app.is_down = true;
    net.register_timer(Duration::from_secs(1), Repeat::Once, kill, 0);
}

fn kill(app: &mut App, net: &mut Netlib<App>, _: Handle, _: Event<'_>) {
    if app.kills == app.rounds {
        return net.stop_event();
    }
    let count = app.servers.len();
    let server = &mut app.servers[app.kills % count];
    let address = server.address.to_string();
    server.kill();
    tell(app, net, &address, "killed");
    net.register_timer(Duration::from_secs(1), Repeat::Once, restart, 0);
}

fn restart(app: &mut App, net: &mut Netlib<App>, _: Handle, _: Event<'_>) {
    let count = app.servers.len();
    let server = &mut app.servers[app.kills % count];
    let address = server.address.to_string();
    match spawn(&address) {
        Ok(child) => server.child = child,
        Err(error) => {
            app.failure = Some(format!("a server cannot be restarted: {error}"));
            return net.stop_event();
        }
    }
    app.kills += 1;
    app.is_down = false;
    tell(app, net, &address, "restarted");
}

/// Servers of our own that do not come back would keep us here.
fn give_up(app: &mut App, net: &mut Netlib<App>, _: Handle, _: Event<'_>) {
    app.failure = Some("the servers did not come back".to_owned());
    net.stop_event();
}

fn tell(app: &App, net: &mut Netlib<App>, member: &str, text: &str) {
    let time = app.start.elapsed().as_secs_f64();
    print(net, format!("{time:>8.3}  {member:<22}  {text}").trim_end());
}

/// Prints a line; without a reader there is nothing more to be shown.
fn print(net: &mut Netlib<App>, text: &str) {
    let mut stdout = io::stdout();
    if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
        net.stop_event();
    }
}

fn summary(app: &App, addresses: &[Address]) -> String {
    let head = ["opened", "failed", "echoes", "open s"].map(|name| format!("{name:>8}")).concat();
    let total = app.start.elapsed().as_secs_f64();
    let row = |(address, row): (&Address, &Row)| {
        let counts = [row.opened, row.failed, row.echoes].map(|count| format!("{count:>8}"));
        format!("{:<24}{}{:>8.2}", address.to_string(), counts.concat(), row.open.as_secs_f64())
    };
    let rows = addresses.iter().zip(&app.rows).map(row);
    let lines = iter::once(format!("\n{:<24}{head}", "member")).chain(rows);
    lines.collect::<Vec<_>>().join("\n") + &format!("\n{total:.1} s in all")
}

impl Server {
    /// Starts a server at a free port.
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut child = spawn("127.0.0.1:0")?;
        let mut line = String::new();
        if let Some(pipe) = child.stdout.take() {
            BufReader::new(pipe).read_line(&mut line)?;
        }
        let address = line.strip_prefix("listening on ").map(|text| text.trim().parse());
        match address {
            Some(Ok(address)) => Ok(Self { address, child }),
            _ => Err("a server cannot be started; it said why above".into()),
        }
    }

    fn kill(&mut self) {
        // What has ended by itself needs no killing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs this program once more, as a server. It ends with us: its standard input is our pipe.
fn spawn(address: &str) -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(["--serve", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// What a server does: every PDU goes back to whoever sent it.
fn serve(settings: &Settings, address: &Address) -> Result<(), Box<dyn Error>> {
    let mut net = Options::new().backend(settings.backend).build()?;
    let listener = net.listen(address, echo, 0)?;
    let address = net.option(listener)?.local_address()?;
    writeln!(io::stdout(), "listening on {address}")?;
    let remote = net.remote();
    thread::spawn(move || {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        remote.stop();
    });
    Ok(net.eventloop(&mut (), Duration::MAX)?)
}

fn echo(_: &mut (), net: &mut Netlib<()>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = event
        && net.send(handle, pdu.frame()).is_err()
    {
        net.abort(handle).ok();
    }
}

/// Lets the first signal end the loop, and a second one the process.
fn stop_on_signal(remote: Remote) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        remote.stop();
        signals.next();
        std::process::exit(1);
    });
    Ok(())
}

/// An error and all that caused it, in one line.
fn told(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Servers of our own.
const SERVERS: usize = 2;

/// How long a round may take, with the longest of back-offs.
const PATIENCE: Duration = Duration::from_secs(100);
