//! Who may touch the library when: one runtime per process, for one thread, and one call at a time.
//!
//! The runtime is *entered* by a call of the C surface, and by the event loop; it is *lent* back
//! while a callback of the program runs, so that inside of it every call is allowed. Whoever
//! comes while it is entered has interrupted it: a signal handler. So has whoever comes while its
//! thread *asks*: puts something into the outbox, or wakes the loop. Other threads never get in.
//!
//! It belongs to the thread that started it, until a thread runs the loop: from then on it is
//! *settled* there. Nothing in it is a thread's own, and until then the kernel has not been asked
//! for anything either, so it may be handed over; that each call then holds the ownership while it
//! is inside keeps two threads from having it at once.

#![expect(unsafe_code, reason = "parts of the runtime that are lent to callbacks")]

use std::cell::Cell;
use std::ffi::c_void;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};
use std::time::Duration;
use std::{process, ptr, thread};

use uring_netlib::{Netlib, Remote};

use crate::board::Board;
use crate::config;
use crate::foreign::{Failure, blocked_signals};
use crate::layer::{Layer, Target};
use crate::outbox::Outbox;
use crate::timers::Key;

/// A callback of the program. An exception that leaves it ends the process.
pub type Callback = unsafe extern "C-unwind" fn(*mut c_void, u8, u32, *mut c_void);

/// Why a call did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing was started yet.
    Absent,
    /// Another thread owns the library.
    Foreign,
    /// The call has interrupted the library, so it comes from a signal handler.
    Entered,
}

impl Refusal {
    pub(crate) fn errno(self) -> Failure {
        match self {
            Self::Absent => libc::EBADF,
            Self::Foreign => libc::EPERM,
            Self::Entered => libc::EBUSY,
        }
    }
}

struct Runtime {
    net: Netlib<Layer>,
    layer: Layer,
}

/// What the owner and others ask for, to be done later.
pub(crate) static OUTBOX: Outbox = Outbox::new();

/// What everybody may know of sockets.
pub(crate) static BOARD: Board = Board::new();

/// The owner's number, with `HELD` or `SETTLED`; 0 for nobody.
static OWNER: AtomicU64 = AtomicU64::new(0);
static RUNTIME: AtomicPtr<Runtime> = AtomicPtr::new(ptr::null_mut());
/// Both parts of the runtime, for whoever enters next.
static LENT_NET: AtomicPtr<Netlib<Layer>> = AtomicPtr::new(ptr::null_mut());
static LENT_LAYER: AtomicPtr<Layer> = AtomicPtr::new(ptr::null_mut());
/// Only the owner's thread and what interrupts it look at this.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);
static IS_TELLING: AtomicBool = AtomicBool::new(false);
/// The signals that the owner's thread blocked before anything interrupted it.
static BLOCKED: AtomicU64 = AtomicU64::new(0);
static REMOTE: AtomicPtr<Remote> = AtomicPtr::new(ptr::null_mut());
/// Those who are about to wake the loop, by the side on which they came in.
static VISITORS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
/// On which side the next one comes in.
static SIDE: AtomicUsize = AtomicUsize::new(0);

/// Starts the runtime, if nobody has, and makes this thread its owner.
pub(crate) fn start() -> Result<(), Failure> {
    let me = me();
    match OWNER.compare_exchange(0, me | HELD, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(owner) if owner & !FLAGS == me => {
            let is_started = !LENT_NET.load(Ordering::Relaxed).is_null();
            return if is_started { Ok(()) } else { Err(libc::EBUSY) };
        }
        Err(_) => return Err(libc::EPERM),
    }
    let mut attempt = Attempt(Some(Inside::enter()));
    note_signals();
    let (net, layer) = config::build()?;
    let inside = attempt.0.take();
    let remote = Box::new(net.remote());
    REMOTE.store(Box::into_raw(remote), Ordering::SeqCst);
    let runtime = Box::into_raw(Box::new(Runtime { net, layer }));
    RUNTIME.store(runtime, Ordering::Relaxed);
    // SAFETY: the box was made above, and nobody else knows of it.
    let Runtime { net, layer } = unsafe { &mut *runtime };
    LENT_NET.store(net, Ordering::Relaxed);
    LENT_LAYER.store(layer, Ordering::Relaxed);
    drop(inside);
    OWNER.store(me, Ordering::Release);
    Ok(())
}

/// Makes this thread the one that runs the loop. Starts the runtime if nobody has; takes it over
/// where it has never run.
pub(crate) fn settle() -> Result<(), Failure> {
    let me = me();
    loop {
        let owner = OWNER.load(Ordering::Acquire);
        match owner & FLAGS {
            _ if owner == me | SETTLED => return Ok(()),
            _ if owner == 0 => match start() {
                // Another thread has been first.
                Err(libc::EPERM) if OWNER.load(Ordering::Acquire) != 0 => {}
                started => started?,
            },
            SETTLED => return Err(libc::EPERM),
            HELD if owner & !FLAGS == me => return Err(libc::EBUSY),
            // A call of its owner's, which comes out soon.
            HELD => thread::yield_now(),
            _ => {
                let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                if OWNER.compare_exchange(owner, me | SETTLED, order, failed).is_ok() {
                    note_signals();
                    PARTING.with(|_| ());
                    return Ok(());
                }
            }
        }
    }
}

/// Gives the ownership back, also where making the runtime panics.
struct Attempt(Option<Inside>);

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(inside) = self.0.take() {
            drop(inside);
            OWNER.store(0, Ordering::Release);
        }
    }
}

/// Ends the runtime, after this has been done with it. The owner calls it, outside of every
/// callback.
pub(crate) fn end(finish: impl FnOnce(&mut Layer, &mut Netlib<Layer>)) -> Result<(), Refusal> {
    let held = Held::take()?;
    // Held over both, so that nobody takes over what is finished.
    enter_held(&held, finish)?;
    let inside = Inside::enter();
    LENT_NET.store(ptr::null_mut(), Ordering::Relaxed);
    LENT_LAYER.store(ptr::null_mut(), Ordering::Relaxed);
    let remote = REMOTE.swap(ptr::null_mut(), Ordering::SeqCst);
    // Whoever took the address before wakes the loop for the last time.
    await_visitors();
    // Bytes of sockets that are gone, and timers of this life.
    OUTBOX.drain(&mut Vec::new(), |_| ());
    if !remote.is_null() {
        // SAFETY: `start` made the box; nobody has the address any more.
        drop(unsafe { Box::from_raw(remote) });
    }
    let runtime = RUNTIME.swap(ptr::null_mut(), Ordering::Relaxed);
    if !runtime.is_null() {
        // SAFETY: `start` made the box, and nobody is lent a part of it outside of callbacks.
        drop(unsafe { Box::from_raw(runtime) });
    }
    // Before another thread can become the owner, who has an inside of its own.
    drop(inside);
    held.release();
    Ok(())
}

/// Does something with the runtime, for its owner.
#[inline]
pub(crate) fn enter<T>(
    call: impl FnOnce(&mut Layer, &mut Netlib<Layer>) -> T,
) -> Result<T, Refusal> {
    match may_enter() {
        // Nobody takes it over any more.
        Ok(()) => enter_alone(call),
        Err(Refusal::Entered) => Err(Refusal::Entered),
        Err(Refusal::Absent | Refusal::Foreign) => enter_held(&Held::take()?, call),
    }
}

/// The same, for who has the runtime for good. Who may still lose it to another is told that it
/// is foreign, as it may be by then.
#[inline]
pub(crate) fn enter_settled<T>(
    call: impl FnOnce(&mut Layer, &mut Netlib<Layer>) -> T,
) -> Result<T, Refusal> {
    may_enter()?;
    enter_alone(call)
}

fn enter_held<T>(
    _held: &Held,
    call: impl FnOnce(&mut Layer, &mut Netlib<Layer>) -> T,
) -> Result<T, Refusal> {
    if OWN.with(Own::is_interrupted) {
        return Err(Refusal::Entered);
    }
    enter_alone(call)
}

/// For who holds the runtime and has interrupted nobody.
#[inline]
fn enter_alone<T>(call: impl FnOnce(&mut Layer, &mut Netlib<Layer>) -> T) -> Result<T, Refusal> {
    let _inside = Inside::enter();
    let (net, layer) = (LENT_NET.load(Ordering::Relaxed), LENT_LAYER.load(Ordering::Relaxed));
    if net.is_null() || layer.is_null() {
        return Err(Refusal::Absent);
    }
    // SAFETY: it leads into the runtime, which `end` alone takes away. This thread holds it and
    // `IS_ENTERED` was not set, so whoever had this reference is waiting for a callback.
    let layer = unsafe { &mut *layer };
    // SAFETY: as above; the two are different parts of the runtime.
    let net = unsafe { &mut *net };
    Ok(call(layer, net))
}

/// Calls a callback of the program, and lends it the runtime meanwhile.
///
/// An exception that leaves the callback ends the process: there are frames of this library
/// between it and any `catch` of the program, and a loop that has half dispatched something.
pub(crate) fn tell(
    layer: &mut Layer,
    net: &mut Netlib<Layer>,
    target: Target,
    message: u8,
    handle: i32,
) {
    let _lent = Lent::to_program(layer, net);
    let fuse = Fuse;
    // SAFETY: the program registered this function for these arguments.
    unsafe { (target.callback)(target.data, message, handle.cast_unsigned(), ptr::null_mut()) };
    std::mem::forget(fuse);
}

/// The name of a callback and its data.
pub(crate) fn key_of(target: Target) -> Key {
    (target.callback as usize, target.data.expose_provenance())
}

/// What a name stands for.
pub(crate) fn target_of((callback, data): Key) -> Target {
    // SAFETY: names are made by `key_of` alone, from such a function.
    let callback = unsafe { std::mem::transmute::<usize, Callback>(callback) };
    Target { callback, data: ptr::with_exposed_provenance_mut(data) }
}

/// Whether a callback of the program is running.
pub(crate) fn is_telling() -> bool {
    IS_TELLING.load(Ordering::Relaxed)
}

/// Whether this thread owns the runtime.
pub(crate) fn is_owner() -> bool {
    OWNER.load(Ordering::Acquire) & !FLAGS == me()
}

/// Whether this thread has the runtime for good and may enter it now. Who may still lose it to
/// another is told that it is foreign, as it may be by the time that it enters.
#[inline]
pub(crate) fn may_enter() -> Result<(), Refusal> {
    OWN.with(|own| match OWNER.load(Ordering::Acquire) {
        owner if owner == own.number() | SETTLED => match own.is_interrupted() {
            true => Err(Refusal::Entered),
            false => Ok(()),
        },
        0 => Err(Refusal::Absent),
        _ => Err(Refusal::Foreign),
    })
}

/// Remembers which signals are blocked when none is being handled.
pub(crate) fn note_signals() {
    BLOCKED.store(blocked_signals(), Ordering::Relaxed);
}

/// Whether a signal handler may be running: it has its own signal blocked. For the owner, inside
/// or settled. What has been unblocked since is remembered as well: a handler blocks what is
/// blocked where it interrupts, so whoever calls this does not unblock more than the program has.
pub(crate) fn may_be_in_signal_handler() -> bool {
    let blocked = blocked_signals();
    blocked & !BLOCKED.fetch_and(blocked, Ordering::Relaxed) != 0
}

/// Ends the loop's wait. Any thread may, and any signal handler.
pub(crate) fn wake() {
    let _asking = Asking::begin();
    let _visit = Visit::begin();
    let remote = REMOTE.load(Ordering::SeqCst);
    if !remote.is_null() {
        // SAFETY: `end` frees it only once nobody is visiting who may have seen the address.
        unsafe { &*remote }.wake();
    }
}

/// Waits until those who have begun a visit have ended it. They wait for nobody, and who comes
/// meanwhile comes in on the other side, so that each side is empty once.
fn await_visitors() {
    for _ in 0..VISITORS.len() {
        let former = SIDE.fetch_xor(1, Ordering::SeqCst);
        while VISITORS[former].load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
    }
}

/// What is a thread's own.
struct Own {
    /// A number that no other thread has or will have, above `FLAGS`; 0 before it is asked for.
    number: Cell<u64>,
    is_asking: AtomicBool,
}

thread_local! {
    static OWN: Own = const { Own { number: Cell::new(0), is_asking: AtomicBool::new(false) } };
}

impl Own {
    #[inline]
    fn number(&self) -> u64 {
        match self.number.get() {
            0 => self.first_number(),
            number => number,
        }
    }

    #[cold]
    fn first_number(&self) -> u64 {
        static GIVEN: AtomicU64 = AtomicU64::new(0);
        self.number.set((GIVEN.fetch_add(1, Ordering::Relaxed) + 1) * (FLAGS + 1));
        self.number.get()
    }

    /// Whether this call of the owner's has interrupted another one.
    #[inline]
    fn is_interrupted(&self) -> bool {
        IS_ENTERED.load(Ordering::Relaxed) || self.is_asking.load(Ordering::Relaxed)
    }
}

fn me() -> u64 {
    OWN.with(Own::number)
}

/// What this thread asks for is only half there: whoever interrupts it now may ask as well, but
/// not enter, as it would wait for the other half.
pub(crate) struct Asking {
    /// Whether this has interrupted another one.
    was_asking: bool,
}

impl Asking {
    pub(crate) fn begin() -> Self {
        OWN.with(|own| {
            let was_asking = own.is_asking.load(Ordering::Relaxed);
            own.is_asking.store(true, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            Self { was_asking }
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        OWN.with(|own| own.is_asking.store(self.was_asking, Ordering::Relaxed));
    }
}

/// Whoever looks at `REMOTE` meanwhile is waited for by [`await_visitors`].
struct Visit {
    side: usize,
}

impl Visit {
    fn begin() -> Self {
        let side = SIDE.load(Ordering::SeqCst);
        VISITORS[side].fetch_add(1, Ordering::SeqCst);
        Self { side }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        VISITORS[self.side].fetch_sub(1, Ordering::SeqCst);
    }
}

/// The owner keeps the runtime from being taken over.
struct Held {
    /// What the ownership was before, and is again after.
    owner: u64,
}

impl Held {
    fn take() -> Result<Self, Refusal> {
        let me = me();
        let owner = OWNER.load(Ordering::Acquire);
        if owner == me | SETTLED {
            // Nobody takes it over any more.
            return Ok(Self { owner });
        }
        match OWNER.compare_exchange(me, me | HELD, Ordering::AcqRel, Ordering::Acquire) {
            Ok(owner) => Ok(Self { owner }),
            Err(0) => Err(Refusal::Absent),
            Err(owner) if owner & !FLAGS == me => Err(Refusal::Entered),
            Err(_) => Err(Refusal::Foreign),
        }
    }

    /// Gives the ownership up.
    fn release(self) {
        OWNER.store(0, Ordering::Release);
        std::mem::forget(self);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.owner & SETTLED == 0 {
            OWNER.store(self.owner, Ordering::Release);
        }
    }
}

/// The thread that runs the loop ends, and the library with it: nobody else may have it. Where a
/// callback ends the whole process there is nothing more to be done.
struct Parting;

thread_local! {
    static PARTING: Parting = const { Parting };
}

impl Drop for Parting {
    fn drop(&mut self) {
        if may_enter().is_ok() && !is_telling() {
            // Nobody is there to be told of a failure.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                end(|layer, net| {
                    layer.close_all(net);
                    let _ = net.turn(layer, Duration::ZERO);
                })
            }));
        }
    }
}

/// A call is inside of the library, which may not be handed over.
const HELD: u64 = 1;
/// The library stays with its owner.
const SETTLED: u64 = 2;
const FLAGS: u64 = HELD | SETTLED;

/// The owner is inside of the library.
struct Inside;

impl Inside {
    fn enter() -> Self {
        IS_ENTERED.store(true, Ordering::Relaxed);
        // Who interrupts this thread sees the flag before anything that follows.
        compiler_fence(Ordering::SeqCst);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        IS_ENTERED.store(false, Ordering::Relaxed);
    }
}

/// The program has the runtime, for as long as its callback runs.
struct Lent {
    net: *mut Netlib<Layer>,
    layer: *mut Layer,
}

impl Lent {
    fn to_program(layer: &mut Layer, net: &mut Netlib<Layer>) -> Self {
        let former = Self {
            net: LENT_NET.load(Ordering::Relaxed),
            layer: LENT_LAYER.load(Ordering::Relaxed),
        };
        LENT_NET.store(net, Ordering::Relaxed);
        LENT_LAYER.store(layer, Ordering::Relaxed);
        IS_TELLING.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        IS_ENTERED.store(false, Ordering::Relaxed);
        former
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        IS_ENTERED.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        IS_TELLING.store(false, Ordering::Relaxed);
        LENT_NET.store(self.net, Ordering::Relaxed);
        LENT_LAYER.store(self.layer, Ordering::Relaxed);
    }
}

/// Goes off where an exception passes.
struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = writeln!(io::stderr(), "netlib: an exception left a callback; the process ends");
        process::abort();
    }
}
