//! What netlib lacks: functions of this library's own, all named `netlib_ex_`.
//! `include/netlib.h` documents them for those who call them.

#![expect(unsafe_code, reason = "exported names, and pointers of the program")]

use std::ffi::{c_char, c_int, c_void};
use std::fmt::Write;

use uring_netlib::Stats;

use crate::calls::{entered, guard, started, target};
use crate::config;
use crate::foreign::{self, Failure};
use crate::lend::{self, Callback, Refusal};

/// Chooses the backend, `auto`, `uring` or `epoll`, before the runtime starts.
///
/// # Safety
/// - `name` is null or a text that ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_ex_backend(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: as the caller promises.
        let name = unsafe { foreign::text(name) }?;
        not_started()?;
        config::set_backend(name).map(|()| 0)
    })
}

/// Sets a limit, one of `NETLIB_EX_*`, before the runtime starts.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_ex_limit(limit: c_int, value: u64) -> c_int {
    guard(|| {
        not_started()?;
        config::set_limit(limit, value).map(|()| 0)
    })
}

/// Listens, and gives a handle that `netlib_close` closes.
///
/// # Safety
/// - `server_ip` is null or a text that ends with a zero byte.
/// - `callback` is null or such a function, which may be called with `callback_data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_ex_listen(
    server_ip: *const c_char,
    port: u16,
    callback: Option<Callback>,
    callback_data: *mut c_void,
) -> c_int {
    guard(|| {
        let target = target(callback, callback_data)?;
        // SAFETY: as the caller promises.
        let host = unsafe { foreign::text(server_ip) }?;
        started(|layer, net| layer.listen(net, (host, port), target))
    })
}

/// The peer's address as text; the length of the whole text.
///
/// # Safety
/// - `text` is null, or `size` bytes there are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_ex_remote_ip(
    handle: c_int,
    text: *mut c_char,
    size: usize,
) -> c_int {
    guard(|| {
        let (ip, _) = entered(|layer, _| layer.remote(handle))?;
        // SAFETY: as the caller promises.
        Ok(unsafe { foreign::copy_text(&ip, text, size) })
    })
}

/// The own address as text; the length of the whole text.
///
/// # Safety
/// - `text` is null, or `size` bytes there are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_ex_local_ip(
    handle: c_int,
    text: *mut c_char,
    size: usize,
) -> c_int {
    guard(|| {
        let (ip, _) = entered(|layer, net| layer.local(net, handle))?;
        // SAFETY: as the caller promises.
        Ok(unsafe { foreign::copy_text(&ip, text, size) })
    })
}

/// Backend and counters, a line for each; the length of the whole text.
///
/// # Safety
/// - `text` is null, or `size` bytes there are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_ex_stats(text: *mut c_char, size: usize) -> c_int {
    guard(|| {
        let told = started(|_, net| Ok(tell_stats(&net.backend().to_string(), &net.stats())))?;
        // SAFETY: as the caller promises.
        Ok(unsafe { foreign::copy_text(&told, text, size) })
    })
}

/// Ends the loop's wait, so that its loop callbacks are called. Any thread may call it, and any
/// signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_ex_wake() {
    lend::wake();
}

fn not_started() -> Result<(), Failure> {
    match lend::enter(|_, _| ()) {
        Err(Refusal::Absent) => Ok(()),
        Err(Refusal::Foreign) => Err(libc::EPERM),
        Ok(()) | Err(Refusal::Entered) => Err(libc::EBUSY),
    }
}

fn tell_stats(backend: &str, stats: &Stats) -> String {
    let mut text = format!("{backend}\n");
    for (name, number) in [
        ("listening", stats.listening),
        ("connecting", stats.connecting),
        ("connected", stats.connected),
        ("closing", stats.closing),
        ("accepted", stats.accepted),
        ("rejected", stats.rejected),
        ("bytes_in", stats.bytes_in),
        ("bytes_out", stats.bytes_out),
        ("buffered_bytes", stats.buffered_bytes),
        ("timers", stats.timers),
        ("turns", stats.turns),
        ("waits", stats.waits),
        ("sends", stats.sends),
    ] {
        // A string takes everything.
        let _ = writeln!(text, "{name}={number}");
    }
    text
}
