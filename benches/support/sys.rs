//! The system calls that std does not offer, and with them all of the bench's `unsafe`.
//!
//! Knows nothing of servers and loads. Every function returns the kernel's error as it came.

use std::io;
use std::mem;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_uint, clockid_t, cpu_set_t, epoll_event, pid_t, pollfd, rlimit, timespec};

pub(crate) const READABLE: u32 = libc::EPOLLIN as u32;
pub(crate) const WRITABLE: u32 = libc::EPOLLOUT as u32;
/// The peer has ended its stream, or the connection is broken.
pub(crate) const ENDED: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// Report a condition when it begins, not for as long as it lasts.
pub(crate) const EDGE: u32 = 1 << 31;

/// One epoll instance and the events of its latest wait.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll_event>,
    ready: usize,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just created and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![epoll_event { events: 0, u64: 0 }; EVENTS_MAX.into()],
            ready: 0,
        })
    }

    /// Watches `source` until it is closed; its events carry `token`.
    pub(crate) fn add(&self, source: &impl AsRawFd, token: usize, interest: u32) -> io::Result<()> {
        let mut event = epoll_event { events: interest, u64: token as u64 };
        let (epoll, source) = (self.fd.as_raw_fd(), source.as_raw_fd());
        // SAFETY: `event` lives through the call, which copies it.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, source, &raw mut event) })?;
        Ok(())
    }

    /// Waits until something is ready or the timeout has passed (`None`: for ever), and returns
    /// how many events [`event`](Self::event) now holds. A signal ends the wait with none.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout_ms = timeout.map_or(-1, milliseconds);
        let (events, epoll) = (self.events.as_mut_ptr(), self.fd.as_raw_fd());
        // SAFETY: `events` holds `EVENTS_MAX` entries and outlives the call.
        let ready = unsafe { libc::epoll_wait(epoll, events, c_int::from(EVENTS_MAX), timeout_ms) };
        self.ready = match check(ready) {
            Ok(ready) => ready.unsigned_abs() as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.ready)
    }

    /// The token and the conditions of an event of the latest wait.
    pub(crate) fn event(&self, index: usize) -> (usize, u32) {
        let event = self.events[..self.ready][index];
        (usize::try_from(event.u64).expect("tokens went in as usize"), event.events)
    }
}

/// The CPU time that a process has used, all its threads together, in user and kernel mode.
pub(crate) struct CpuClock(clockid_t);

impl CpuClock {
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        let pid = pid_t::try_from(pid).map_err(io::Error::other)?;
        let mut id: clockid_t = 0;
        // SAFETY: `id` outlives the call.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut id) } {
            0 => Ok(Self(id)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    pub(crate) fn now(&self) -> io::Result<Duration> {
        let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` outlives the call.
        check(unsafe { libc::clock_gettime(self.0, &raw mut time) })?;
        Ok(Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_nanos(time.tv_nsec.unsigned_abs()))
    }
}

/// The cores that this process may run on, in ascending order.
pub(crate) fn allowed_cores() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value.
    let mut set: cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is as long as said and outlives the call.
    check(unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut set) })?;
    let is_allowed = |core: &usize| {
        // SAFETY: `core` is below the number of bits of a `cpu_set_t`.
        unsafe { libc::CPU_ISSET(*core, &set) }
    };
    Ok((0..CORES_MAX).filter(is_allowed).collect())
}

/// Keeps the calling thread, and those that it starts, on one core.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    if core >= CORES_MAX {
        return Err(io::Error::other(format!("there is no core {core}")));
    }
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value.
    let mut set: cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` is below the number of bits of a `cpu_set_t`.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: `set` is as long as said and outlives the call.
    check(unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), &raw const set) })?;
    Ok(())
}

/// Lets the kernel end this process when its parent dies, or when `input`, a pipe from the
/// parent, is closed at the other end.
///
/// No thread is needed for it: a second thread would make every system call of this process look
/// its descriptors up the slower way, and so spoil what is measured.
pub(crate) fn end_with_parent(input: &impl AsRawFd) -> io::Result<()> {
    let input = input.as_raw_fd();
    end_with_parent_process()?;
    // SAFETY: takes no pointer; the default action needs no handler.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_DFL) };
    // SAFETY: takes no pointer and cannot fail.
    let pid = unsafe { libc::getpid() };
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(input, libc::F_SETOWN, pid) })?;
    // From here on SIGIO comes when the pipe's other end is closed, and its default is the end.
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(input, libc::F_SETFL, libc::O_ASYNC) })?;
    if is_readable_within(&input, Duration::ZERO)? {
        return Err(io::Error::other("the parent was gone before the server started"));
    }
    Ok(())
}

/// Lets the kernel end this process when its parent dies.
pub(crate) fn end_with_parent_process() -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    Ok(())
}

/// Raises this process's limit of descriptors as far as it may, and returns it.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Makes room for a thousand clients that connect before the first is accepted; std's own limit
/// is lower, and what exceeds it is retried by the clients' kernel only a second later.
pub(crate) fn raise_accept_queue(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    Ok(())
}

/// Whether a read would not block, now or before the timeout has passed.
pub(crate) fn is_readable_within(source: &impl AsRawFd, timeout: Duration) -> io::Result<bool> {
    let mut poll = pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one entry and outlives the call.
    Ok(check(unsafe { libc::poll(&raw mut poll, 1, milliseconds(timeout)) })? > 0)
}

fn milliseconds(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const EVENTS_MAX: u16 = 256;
const CORES_MAX: usize = libc::CPU_SETSIZE as c_uint as usize;
