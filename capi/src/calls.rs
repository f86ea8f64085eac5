//! netlib's fourteen functions. `include/netlib.h` documents them for those who call them.
//!
//! Each checks what it was given, enters the runtime, and turns the outcome into a return value
//! and `errno`. None lets a panic out.

#![expect(unsafe_code, reason = "exported names, and pointers of the program")]

use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use uring_netlib::{Event, Handle, Netlib, Repeat, RunError};

use crate::board::Way;
use crate::extra::netlib_ex_listen;
use crate::failure;
use crate::foreign::{self, Failure, Uncancelled};
use crate::layer::{Layer, Target};
use crate::lend::{self, Asking, BOARD, Callback, OUTBOX, Refusal};
use crate::outbox::SEND_MAX;

static MUST_STOP: AtomicBool = AtomicBool::new(false);
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Starts the runtime: the calling thread owns it until `netlib_destroy`.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_init() -> c_int {
    guard(|| lend::start().map(|()| OK))
}

/// Ends the runtime, once the kernel has what was sent, or after two seconds.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_destroy() -> c_int {
    guard(|| {
        if lend::is_telling() && lend::is_owner() {
            return Err(libc::EBUSY);
        }
        let _uncancelled = Uncancelled::begin();
        let ended = lend::end(|layer, net| {
            // What other threads and handlers have asked for goes with this life, not the next.
            layer.apply(net);
            layer.close_all(net);
            net.register_timer(DESTROY_MAX, Repeat::Once, give_up, 0);
            while net.stats().buffered_bytes > 0 && !layer.has_given_up {
                if net.turn(layer, Duration::MAX).is_err() {
                    break;
                }
            }
        });
        match ended {
            Ok(()) | Err(Refusal::Absent) => Ok(OK),
            Err(refusal) => Err(refusal.errno()),
        }
    })
}

/// Listens; 0, or -1 with `errno`.
///
/// # Safety
/// - `server_ip` is null or a text that ends with a zero byte.
/// - `callback` is null or such a function, which may be called with `callback_data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_listen(
    server_ip: *const c_char,
    port: u16,
    callback: Option<Callback>,
    callback_data: *mut c_void,
) -> c_int {
    // SAFETY: as the caller promises.
    let listener = unsafe { netlib_ex_listen(server_ip, port, callback, callback_data) };
    // Its number is not told here.
    listener.min(OK)
}

/// Connects; a handle, or -1 with `errno`.
///
/// # Safety
/// As `netlib_listen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_connect(
    server_ip: *const c_char,
    port: u16,
    callback: Option<Callback>,
    callback_data: *mut c_void,
) -> c_int {
    guard(|| {
        let target = target(callback, callback_data)?;
        // SAFETY: as the caller promises.
        let host = unsafe { foreign::text(server_ip) }?;
        started(|layer, net| layer.connect(net, (host, port), target))
    })
}

/// Sends what there is room for; how much that is, 0 for nothing, or -1 with `errno`.
///
/// # Safety
/// - `buf` is null, or `len` bytes there are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_send(handle: c_int, buf: *const c_void, len: c_int) -> c_int {
    guard(|| {
        // SAFETY: as the caller promises.
        let bytes = unsafe { foreign::bytes(buf, len) }?;
        let is_short = bytes.len() <= SHORT_MAX;
        let taken = lend::enter_settled(|layer, net| {
            if is_short { layer.take_short(net, handle, bytes) } else { Ok(false) }
        });
        let sent = match taken {
            Ok(taken) if taken? => bytes.len(),
            Ok(_) => send(handle, bytes)?,
            Err(Refusal::Absent) => return Err(libc::EBADF),
            Err(Refusal::Foreign | Refusal::Entered) => {
                let sent = box_in(handle, bytes);
                // Also for a part: the loop sends it, and says when there is room for the rest.
                lend::wake();
                sent?
            }
        };
        if sent == 0 && len > 0 {
            foreign::set_errno(libc::EAGAIN);
        }
        Ok(count(sent))
    })
}

/// Receives; how many bytes, 0 at the end of the stream, or -1 with `errno`.
///
/// # Safety
/// - `buf` is null, or `len` bytes there are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_recv(handle: c_int, buf: *mut c_void, len: c_int) -> c_int {
    guard(|| {
        // SAFETY: as the caller promises.
        let space = unsafe { foreign::space(buf, len) }?;
        let received = entered(|layer, net| layer.recv(net, handle, space))?;
        if received == 0 {
            foreign::set_errno(0);
        }
        Ok(count(received))
    })
}

/// Closes; what was sent before is flushed. 0, or -1 with `errno`.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_close(handle: c_int) -> c_int {
    guard(|| entered(|layer, net| layer.close(net, handle)).map(|()| OK))
}

/// Reads or sets an option; 0, or -1 with `errno`.
///
/// # Safety
/// - `optval` is null, or leads to what `opt` asks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netlib_option(handle: c_int, opt: c_int, optval: *mut c_void) -> c_int {
    guard(|| {
        // Before anything else, as an unknown handle is an error whatever is asked of it.
        entered(|layer, _| layer.change_target(handle, |_| ()))?;
        if (GET_REMOTE_IP..=SET_RECV_BUF_SIZE).contains(&opt) && optval.is_null() {
            return Err(libc::EINVAL);
        }
        match opt {
            SET_CALLBACK => {
                if optval.is_null() {
                    return Err(libc::EINVAL);
                }
                // SAFETY: the caller gives a function for this option; it is not null.
                let callback = unsafe { mem::transmute::<*mut c_void, Callback>(optval) };
                entered(|layer, _| layer.change_target(handle, |one| one.callback = callback))?;
            }
            SET_CALLBACK_DATA => {
                entered(|layer, _| layer.change_target(handle, |one| one.data = optval))?;
            }
            GET_REMOTE_IP => {
                let (ip, _) = entered(|layer, _| layer.remote(handle))?;
                // SAFETY: the caller gives a string for this option.
                unsafe { foreign::assign_string(optval, &ip) }?;
            }
            GET_REMOTE_PORT => {
                let (_, port) = entered(|layer, _| layer.remote(handle))?;
                // SAFETY: the caller gives an `uint16_t` for this option.
                unsafe { foreign::answer(optval, port) }?;
            }
            GET_LOCAL_IP => {
                let (ip, _) = entered(|layer, net| layer.local(net, handle))?;
                // SAFETY: the caller gives a string for this option.
                unsafe { foreign::assign_string(optval, &ip) }?;
            }
            GET_LOCAL_PORT => {
                let (_, port) = entered(|layer, net| layer.local(net, handle))?;
                // SAFETY: the caller gives an `uint16_t` for this option.
                unsafe { foreign::answer(optval, port) }?;
            }
            SET_SEND_BUF_SIZE | SET_RECV_BUF_SIZE => {
                // SAFETY: the caller gives an `uint32_t` for these options.
                let bytes = unsafe { foreign::value::<u32>(optval) }?;
                let size = (opt == SET_SEND_BUF_SIZE, bytes);
                entered(|layer, net| layer.set_buffer_size(net, handle, size))?;
            }
            // Netlib ignores what it does not know.
            _ => {}
        }
        Ok(OK)
    })
}

/// Calls back every `interval` milliseconds; again for the same two, it changes the interval.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_register_timer(
    callback: Option<Callback>,
    user_data: *mut c_void,
    interval: u64,
) -> c_int {
    guard(|| {
        let key = lend::key_of(target(callback, user_data)?);
        let is_done = asked(|layer, net| layer.register_timer(net, key, interval));
        later_unless(is_done, || OUTBOX.push_timer(key.0, key.1, interval))
    })
}

/// Deletes a timer; one that is not there is no error.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_delete_timer(callback: Option<Callback>, user_data: *mut c_void) -> c_int {
    guard(|| {
        let key = lend::key_of(target(callback, user_data)?);
        let is_done = asked(|layer, net| layer.delete_timer(net, key));
        later_unless(is_done, || OUTBOX.push_delete(key.0, key.1))
    })
}

/// Calls back at the end of each turn of the loop, from now on and for good.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_add_loop(callback: Option<Callback>, user_data: *mut c_void) -> c_int {
    guard(|| {
        let target = target(callback, user_data)?;
        started(|layer, _| {
            layer.add_loop(target);
            Ok(OK)
        })
    })
}

/// Runs the loop until `netlib_stop_event`. Each turn waits for `wait_timeout` ms at most.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_eventloop(wait_timeout: u32) {
    guard(|| {
        if IS_RUNNING.load(Ordering::Acquire) {
            return Err(if lend::is_owner() { libc::EBUSY } else { libc::EPERM });
        }
        let _uncancelled = Uncancelled::begin();
        // Numbers that are negative for `epoll_wait` wait for ever.
        let timeout = match c_int::try_from(wait_timeout) {
            Ok(_) => Duration::from_millis(wait_timeout.into()),
            Err(_) => Duration::MAX,
        };
        let ran = lend::settle().and_then(|()| started(|layer, net| run(layer, net, timeout)));
        ran.inspect_err(|failure| tell_once(*failure)).map(|()| OK)
    });
}

/// Lets the loop return. Any thread may call it, and any signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_stop_event() {
    MUST_STOP.store(true, Ordering::Release);
    lend::wake();
}

/// Whether the loop is running. Any thread may ask.
#[unsafe(no_mangle)]
pub extern "C" fn netlib_is_running() -> bool {
    IS_RUNNING.load(Ordering::Acquire)
}

fn run(layer: &mut Layer, net: &mut Netlib<Layer>, timeout: Duration) -> Result<(), Failure> {
    /// The loop is over however it ends.
    struct Running;

    impl Drop for Running {
        fn drop(&mut self) {
            IS_RUNNING.store(false, Ordering::Release);
        }
    }

    lend::note_signals();
    MUST_STOP.store(false, Ordering::Release);
    IS_RUNNING.store(true, Ordering::Release);
    let _running = Running;
    layer.look_again(net);
    while !MUST_STOP.load(Ordering::Acquire) {
        layer.apply(net);
        net.turn(layer, timeout).map_err(|error| errno_of(&error))?;
    }
    // A program that ends now has sent all that it was told is sent.
    layer.apply(net);
    if net.stats().buffered_bytes > 0 {
        layer.is_winding_down = true;
        let turned = net.turn(layer, Duration::ZERO);
        layer.is_winding_down = false;
        turned.map_err(|error| errno_of(&error))?;
    }
    Ok(())
}

/// The kernel does not take what was sent.
fn give_up(layer: &mut Layer, _: &mut Netlib<Layer>, _: Handle, _: Event<'_>) {
    layer.has_given_up = true;
}

/// Sends as the owner, who may find new room, and empty a full outbox unless this is a signal
/// handler: it may have interrupted `malloc`.
fn send(handle: c_int, bytes: &[u8]) -> Result<usize, Failure> {
    if bytes.len() <= SHORT_MAX && box_whole(handle, bytes)? {
        return Ok(bytes.len());
    }
    if lend::may_be_in_signal_handler() {
        lend::enter(|layer, net| layer.renew(net, handle)).map_err(Refusal::errno)?;
        return box_in(handle, bytes);
    }
    entered(|layer, net| layer.send(net, handle, bytes))
}

/// Puts bytes into the outbox if there is room for all of them; whether there was.
fn box_whole(handle: c_int, bytes: &[u8]) -> Result<bool, Failure> {
    let _asking = Asking::begin();
    let taken = BOARD.take(handle, bytes.len(), Way::Outbox)?;
    if taken == bytes.len() && (bytes.is_empty() || OUTBOX.push_send(handle, bytes)) {
        return Ok(true);
    }
    BOARD.give_back(handle, taken);
    Ok(false)
}

/// Puts in what there is room for.
fn box_in(handle: c_int, bytes: &[u8]) -> Result<usize, Failure> {
    let _asking = Asking::begin();
    let taken = BOARD.take(handle, bytes.len().min(SEND_MAX), Way::Outbox)?;
    let is_in = taken > 0 && OUTBOX.push_send(handle, &bytes[..taken]);
    if !is_in {
        BOARD.give_back(handle, taken);
    }
    let sent = if is_in { taken } else { 0 };
    if sent < bytes.len() {
        BOARD.refuse(handle);
    }
    Ok(sent)
}

/// Says on standard error, the first time, that there will be no loop here, as the program may not
/// look at `errno`.
fn tell_once(failure: Failure) {
    static TOLD: AtomicI32 = AtomicI32::new(0);
    // Handlers alone are answered `EBUSY`, and may have interrupted somebody who writes.
    if failure == libc::EBUSY || TOLD.swap(failure, Ordering::Relaxed) == failure {
        return;
    }
    let told = match (failure, lend::may_enter()) {
        (libc::EPERM, Err(Refusal::Foreign)) => {
            "netlib_eventloop does nothing here, as another thread has run it".to_owned()
        }
        _ => format!("netlib_eventloop cannot run: {}", io::Error::from_raw_os_error(failure)),
    };
    // A standard error that is closed is no reason to fail otherwise.
    let _ = writeln!(io::stderr(), "netlib: {told}");
}

/// Does something about timers, for the owner, unless this may be a signal handler, where nothing
/// may be allocated; whether it was done. Else it is left to whoever is, or will be, the owner.
fn asked(act: impl FnOnce(&mut Layer, &mut Netlib<Layer>)) -> bool {
    let entered = lend::enter(|layer, net| {
        let may_act = !lend::may_be_in_signal_handler();
        if may_act {
            act(layer, net);
        }
        may_act
    });
    entered.unwrap_or(false)
}

/// Puts into the outbox what could not be done at once.
fn later_unless(is_done: bool, push: impl FnOnce() -> bool) -> Result<c_int, Failure> {
    if !is_done {
        let _asking = Asking::begin();
        if !push() {
            return Err(libc::ENOBUFS);
        }
        lend::wake();
    }
    Ok(OK)
}

/// Enters the runtime, for calls that need a handle and therefore one that was started.
pub(crate) fn entered<T>(
    call: impl FnOnce(&mut Layer, &mut Netlib<Layer>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    lend::enter(call).map_err(Refusal::errno)?
}

/// Enters the runtime, and starts it before if nobody has: netlib works without `netlib_init`.
pub(crate) fn started<T>(
    call: impl FnOnce(&mut Layer, &mut Netlib<Layer>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    lend::start()?;
    entered(|layer, net| {
        // Signals that the program has unblocked since may have handlers that call soon.
        lend::may_be_in_signal_handler();
        call(layer, net)
    })
}

pub(crate) fn target(callback: Option<Callback>, data: *mut c_void) -> Result<Target, Failure> {
    callback.map(|callback| Target { callback, data }).ok_or(libc::EINVAL)
}

/// Runs a call; its failure, or its panic, becomes -1 and `errno`.
pub(crate) fn guard(call: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => value,
        Ok(Err(failure)) => {
            foreign::set_errno(failure);
            ERROR
        }
        Err(_) => {
            foreign::set_errno(libc::ENOTRECOVERABLE);
            ERROR
        }
    }
}

fn count(bytes: usize) -> c_int {
    c_int::try_from(bytes).expect("it is at most the length that was given as an int")
}

fn errno_of(error: &RunError) -> Failure {
    match error {
        RunError::System(error) => failure::errno_of(error),
        _ => libc::EIO,
    }
}

const OK: c_int = 0;
const ERROR: c_int = -1;

/// Longer sends of the owner go to the runtime at once, so that they are copied once less.
const SHORT_MAX: usize = 16 << 10;

/// How long `netlib_destroy` waits for the kernel to take what was sent.
const DESTROY_MAX: Duration = Duration::from_secs(2);

// The header has these numbers as `NETLIB_OPT_*`.
const SET_CALLBACK: c_int = 1;
const SET_CALLBACK_DATA: c_int = 2;
const GET_REMOTE_IP: c_int = 3;
const GET_REMOTE_PORT: c_int = 4;
const GET_LOCAL_IP: c_int = 5;
const GET_LOCAL_PORT: c_int = 6;
const SET_SEND_BUF_SIZE: c_int = 7;
const SET_RECV_BUF_SIZE: c_int = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// A panic inside of a call is a failure of the call, and goes no further.
    #[test]
    fn a_panic_is_a_failure() {
        assert_eq!(guard(|| panic!("on purpose")), ERROR);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOTRECOVERABLE));
        assert_eq!(guard(|| Ok(7)), 7);
    }
}
