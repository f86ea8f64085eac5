//! Counts the system calls of another process, as `perf stat -e raw_syscalls:sys_enter` does.
//!
//! The kernel counts, so nothing is lost and the process is not stopped at each. It needs tracefs
//! and the right to use its events; where these lack, [`SystemCalls::of_process`] says so.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::FromRawFd;

/// Counts from when it was made. It slows every system call of the machine a little.
pub(crate) struct SystemCalls {
    /// One for each thread: those that start later belong to the counter of the one that starts
    /// them.
    counters: Vec<File>,
}

impl SystemCalls {
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        let event = fs::read_to_string(EVENT_PATH)
            .map_err(|error| io::Error::new(error.kind(), format!("{EVENT_PATH}: {error}")))?;
        let event = event.trim().parse().map_err(io::Error::other)?;
        let mut counters = Vec::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.file_name().to_str().and_then(|name| name.parse().ok());
            counters.push(open(event, thread.ok_or_else(|| io::Error::other("not a thread"))?)?);
        }
        Ok(Self { counters })
    }

    pub(crate) fn count(&mut self) -> io::Result<u64> {
        let mut sum = 0;
        for counter in &mut self.counters {
            let mut value = [0; 8];
            counter.read_exact(&mut value)?;
            sum += u64::from_ne_bytes(value);
        }
        Ok(sum)
    }
}

fn open(event: u64, thread: libc::pid_t) -> io::Result<File> {
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: u32::try_from(size_of::<Attributes>()).expect("64"),
        config: event,
        sampling: [0; 3],
        flags: INHERIT,
        unused: [0; 2],
    };
    let (any_cpu, no_group, no_flags) = (-1, -1, 0);
    // SAFETY: `attributes` is as long as its `size` says and outlives the call; the others are
    // integers, as the call takes them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_cpu,
            no_group,
            no_flags,
        )
    };
    match libc::c_int::try_from(fd) {
        // SAFETY: the descriptor was just made and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first version of the kernel's `perf_event_attr`, which every kernel takes.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sampling: [u64; 3],
    flags: u64,
    unused: [u64; 2],
}

const _: () = assert!(size_of::<Attributes>() == 64);
const TRACEPOINT: u32 = 2;
/// Threads that are started later count as well.
const INHERIT: u64 = 1 << 1;
const EVENT_PATH: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";
