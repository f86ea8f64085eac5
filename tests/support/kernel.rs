//! The kernel's own count of a thread's system calls: a tracer in the parent process.
//!
//! Whatever counts by itself may forget a call; what the kernel stops at is all of them. The traced
//! thread says where its windows begin and end by a call that nobody else makes, `getppid`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::parent_id;

use libc::c_long;

/// How often each call was made in one window, by its number.
pub(crate) type Calls = BTreeMap<c_long, u64>;

/// Begins or ends a window of the thread that calls it.
pub(crate) fn mark() {
    let _ = parent_id();
}

/// The number by which the kernel knows the calling thread.
pub(crate) fn thread_id() -> i32 {
    let link = std::fs::read_link("/proc/thread-self").expect("there is /proc");
    let id = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    id.expect("it ends with the thread's number")
}

/// A thread of a child of this process, stopped whenever it makes a call.
pub(crate) struct Tracee(i32);

impl Tracee {
    /// Attaches to a thread. Only the thread that does may go on with it.
    ///
    /// # Errors
    /// Where tracing is not allowed here.
    pub(crate) fn attach(thread: i32) -> io::Result<Self> {
        let tracee = Self(thread);
        tracee.request(libc::PTRACE_SEIZE.into(), 0, libc::PTRACE_O_TRACESYSGOOD.into())?;
        tracee.request(libc::PTRACE_INTERRUPT.into(), 0, 0)?;
        tracee.wait()?;
        Ok(tracee)
    }

    /// Lets the thread go on to the end of so many windows, says which calls each of them had, and
    /// lets go of it.
    pub(crate) fn windows(self, count: usize) -> io::Result<Vec<Calls>> {
        let mut windows = Vec::new();
        let mut open: Option<Calls> = None;
        let mut signal = 0;
        while windows.len() < count {
            self.request(libc::PTRACE_SYSCALL.into(), 0, signal)?;
            let stop = self.wait()?;
            signal = if let Stop::Signal(number) = stop { number } else { 0 };
            let call = if let Stop::Call = stop { self.call_to_make()? } else { None };
            match (call, &mut open) {
                (Some(libc::SYS_getppid), Some(calls)) => {
                    windows.push(std::mem::take(calls));
                    open = None;
                }
                (Some(libc::SYS_getppid), None) => open = Some(Calls::new()),
                // Where user space cannot read the clock by itself, as in some emulators.
                (Some(libc::SYS_clock_gettime), Some(_)) => {}
                (Some(call), Some(calls)) => *calls.entry(call).or_default() += 1,
                _ => {}
            }
        }
        self.request(libc::PTRACE_DETACH.into(), 0, 0)?;
        Ok(windows)
    }

    fn wait(&self) -> io::Result<Stop> {
        let mut status = 0;
        // SAFETY: `status` is one writable number for the length of the call.
        let result = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("the thread has ended"));
        }
        Ok(match (libc::WSTOPSIG(status), status >> 16) {
            (CALL, 0) => Stop::Call,
            (number, 0) => Stop::Signal(number.into()),
            _ => Stop::Other,
        })
    }

    /// The call at which the thread has stopped, if it is before it and not behind it.
    fn call_to_make(&self) -> io::Result<Option<c_long>> {
        // `struct ptrace_syscall_info`: what it is about in the first byte, and the number of a
        // call that is to be made in the fourth word.
        let mut info = [0_u64; 11];
        let len = c_long::try_from(size_of_val(&info)).expect("a few words");
        self.request(GET_SYSCALL_INFO, len, info.as_mut_ptr().expose_provenance() as c_long)?;
        let is_entry = info[0].to_ne_bytes()[0] == ENTRY;
        Ok(is_entry.then(|| info[3].cast_signed() as c_long))
    }

    fn request(&self, request: c_long, address: c_long, data: c_long) -> io::Result<()> {
        let thread = c_long::from(self.0);
        // SAFETY: all requests take plain numbers, but for the one that writes: its caller gives
        // the address of a buffer of its own, and its length.
        let result = unsafe { libc::syscall(libc::SYS_ptrace, request, thread, address, data) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Why a thread has stopped.
enum Stop {
    /// Before a call or behind it.
    Call,
    /// A signal, to be delivered.
    Signal(c_long),
    Other,
}

/// The signal of a stop at a call.
const CALL: i32 = libc::SIGTRAP | 0x80;

/// `PTRACE_GET_SYSCALL_INFO` and `PTRACE_SYSCALL_INFO_ENTRY`, which not every C library has.
const GET_SYSCALL_INFO: c_long = 0x420e;
const ENTRY: u8 = 1;
