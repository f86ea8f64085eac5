//! What the tests of the surface share: the backends, a world of one `Netlib`, and peers.
//!
//! A test gives its scenario to [`on_every_backend`], which runs it on io_uring, on io_uring with
//! features masked as on older kernels, and on epoll. The scenario makes a [`World`], whose
//! application writes down every event and runs a script, and turns its loop until a condition
//! holds: nothing here sleeps, and every wait has a bound.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every binary has it, none uses all of it"
)]

mod app;
mod child;
mod program;
pub mod sets;
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{self, Command};
use std::{env, fmt, fs};

pub use app::{App, Entry, on_event};
pub use child::{CHILD, Guard, backends, marked};
pub use program::{Ending, PATIENCE, Program};
pub use uring_netlib::pdu::FrameSpec;
pub use uring_netlib::{
    Address, Backend, BacklogLimits, CloseReason, ConnectError, Deadline, Delivery, Event, Handle,
    Limit, Limits, ListenError, ListenOptions, Liveness, ManualClock, Netlib, OptionError, Options,
    Rate, RecvError, Repeat, RunError, SendError, SendStatus, SocketState, Stale, TimerId,
};
pub use world::{CLIENT, DEADLINE, SERVER, World, reset, silent_socket, unix_peer};

/// A backend and what it has to do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    pub backend: Backend,
    pub mask: &'static str,
}

impl Lane {
    /// Default options for this lane.
    pub fn options(&self) -> Options {
        let mask = self.mask.parse().expect("masks are made of features");
        Options::new().backend(self.backend).mask(mask)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.backend)?;
        if !self.mask.is_empty() {
            write!(f, " without {}", self.mask)?;
        }
        Ok(())
    }
}

/// Runs a scenario on every backend, or on those that `NETLIB_BACKEND` names. A failure names the
/// backend.
pub fn on_every_backend(scenario: impl Fn(&Lane)) {
    for lane in lanes() {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| scenario(&lane))) {
            panic!("on {lane}: {}", text_of(&*payload));
        }
    }
}

/// Runs a scenario on every backend; what it tells, e.g. an event log, must be the same on all.
pub fn same_on_every_backend<T: PartialEq + fmt::Debug>(scenario: impl Fn(&Lane) -> T) {
    let mut first = None;
    for lane in lanes() {
        let told = match catch_unwind(AssertUnwindSafe(|| scenario(&lane))) {
            Ok(told) => told,
            Err(payload) => panic!("on {lane}: {}", text_of(&*payload)),
        };
        match &first {
            None => first = Some((lane, told)),
            Some((other, expected)) => {
                assert_eq!(&told, expected, "{lane} (left) and {other} (right) differ");
            }
        }
    }
}

/// Runs `body` in a process of its own, for what other tests of this process would disturb, such
/// as counting descriptors. `name` is the name of the calling test.
pub fn alone(name: &str, body: impl FnOnce()) {
    if env::var_os(ALONE_VARIABLE).is_some() {
        return body();
    }
    let program = env::current_exe().expect("a test binary has a path");
    let mut command = Command::new(program);
    command.args(["--exact", name, "--test-threads=1"]).env(ALONE_VARIABLE, "1");
    let output = command.output().expect("a test binary can be run again");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("1 passed"), "{name} is no test: {told}");
}

/// A PDU of `len` bytes, header included, whose body is `fill`.
pub fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; len];
    frame[..4].copy_from_slice(&u32::try_from(len).expect("a PDU's length").to_be_bytes());
    frame[4..16].copy_from_slice(&[0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
    frame
}

/// Bytes of which no two neighbourhoods look the same, so that loss and disorder show.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(next).collect()
}

/// A folder of this process, removed at the end of the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("netlib-{}-{name}", process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Every backend that is to be tested here.
pub fn lanes() -> Vec<Lane> {
    let named = env::var("NETLIB_BACKEND").unwrap_or_default();
    let uring = MASKS.iter().map(|mask| Lane { backend: Backend::Uring, mask });
    let epoll = Lane { backend: Backend::Epoll, mask: "" };
    match named.as_str() {
        "uring" => uring.collect(),
        "epoll" => vec![epoll],
        "" | "auto" if has_uring() => uring.chain([epoll]).collect(),
        "" | "auto" => vec![epoll],
        word => panic!("NETLIB_BACKEND is {word:?}, and not auto, uring or epoll"),
    }
}

/// Whether io_uring works here. Where it is forbidden, its lanes run only by request, and fail.
fn has_uring() -> bool {
    match Options::new().backend(Backend::Uring).build::<()>() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("only epoll is tested: {error}: {:?}", std::error::Error::source(&error));
            false
        }
    }
}

pub fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

/// What kernels between 5.19 and the newest lack, by and by; the last lacks all that is optional.
const MASKS: [&str; 5] = [
    "",
    "receive_multi",
    "accept_multi,receive_multi",
    "single_issuer,defer_taskrun",
    "accept_multi,receive_multi,single_issuer,defer_taskrun,coop_taskrun,submit_all,no_sqarray,\
     no_iowait",
];

const ALONE_VARIABLE: &str = "NETLIB_TEST_ALONE";
