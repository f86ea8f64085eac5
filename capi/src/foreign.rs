//! What belongs to the C program: its memory, its `errno`, its signal mask and its `std::string`.
//!
//! Each function does one thing with one of them. Who calls with a pointer answers for it, as the
//! C program does for the pointer that it passed.

#![expect(unsafe_code, reason = "the program's memory")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::{ptr, slice};

/// Why a call failed, as an error number.
pub(crate) type Failure = c_int;

/// Tells the program why a call failed.
pub(crate) fn set_errno(number: c_int) {
    // SAFETY: takes nothing; the address is this thread's own and stays its own.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the C library keeps that place for as long as the thread runs.
    unsafe { place.write(number) };
}

/// A text of the program's.
///
/// # Safety
/// - `text` is null, or ends with a zero byte and is not changed while the result is used.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(libc::EINVAL);
    }
    // SAFETY: it is not null; the caller answers for the rest.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| libc::EINVAL)
}

/// Bytes of the program's that are to be read.
///
/// # Safety
/// - `bytes` is null, or `len` bytes there are readable and not changed while the result is used.
pub(crate) unsafe fn bytes<'a>(bytes: *const c_void, len: c_int) -> Result<&'a [u8], Failure> {
    match usize::try_from(len) {
        Err(_) => Err(libc::EINVAL),
        Ok(0) => Ok(&[]),
        Ok(_) if bytes.is_null() => Err(libc::EFAULT),
        // SAFETY: it is not null; the caller answers for the rest.
        Ok(len) => Ok(unsafe { slice::from_raw_parts(bytes.cast(), len) }),
    }
}

/// Memory of the program's that is to be written to.
///
/// # Safety
/// - `space` is null, or `len` bytes there are writable and nobody else uses them meanwhile.
pub(crate) unsafe fn space<'a>(space: *mut c_void, len: c_int) -> Result<&'a mut [u8], Failure> {
    match usize::try_from(len) {
        Err(_) => Err(libc::EINVAL),
        Ok(0) => Ok(&mut []),
        Ok(_) if space.is_null() => Err(libc::EFAULT),
        // SAFETY: it is not null; the caller answers for the rest. What is in it is never read.
        Ok(len) => Ok(unsafe { slice::from_raw_parts_mut(space.cast(), len) }),
    }
}

/// A number that an option's pointer leads to.
///
/// # Safety
/// - `place` is null, or leads to a readable `T`.
pub(crate) unsafe fn value<T: Copy>(place: *const c_void) -> Result<T, Failure> {
    if place.is_null() {
        return Err(libc::EINVAL);
    }
    // SAFETY: it is not null; the caller answers for the rest. It need not be aligned.
    Ok(unsafe { place.cast::<T>().read_unaligned() })
}

/// Answers through an option's pointer.
///
/// # Safety
/// - `place` is null, or leads to a writable `T`.
pub(crate) unsafe fn answer<T: Copy>(place: *mut c_void, value: T) -> Result<(), Failure> {
    if place.is_null() {
        return Err(libc::EINVAL);
    }
    // SAFETY: it is not null; the caller answers for the rest. It need not be aligned.
    unsafe { place.cast::<T>().write_unaligned(value) };
    Ok(())
}

/// Copies a text and a zero byte, as much as there is room for. The length of the whole text.
///
/// # Safety
/// - `space` is null, or `len` bytes there are writable.
pub(crate) unsafe fn copy_text(text: &str, space: *mut c_char, len: usize) -> c_int {
    if !space.is_null() && len > 0 {
        let copied = text.len().min(len - 1);
        // SAFETY: there is room for `len` bytes, as the caller says, which is more.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), space, copied) };
        let end = space.wrapping_add(copied);
        // SAFETY: `copied` is below `len`.
        unsafe { end.write(0) };
    }
    c_int::try_from(text.len()).unwrap_or(c_int::MAX)
}

/// Writes a text into a `std::string` of the program's.
///
/// # Safety
/// - `string` is null, or leads to a `std::string` as libstdc++ has had it since GCC 5.
///
/// # Errors
/// `EOPNOTSUPP` where the program has no libstdc++, so that it can have no such string.
pub(crate) unsafe fn assign_string(string: *mut c_void, text: &str) -> Result<(), Failure> {
    if string.is_null() {
        return Err(libc::EINVAL);
    }
    let assign = string_assign().ok_or(libc::EOPNOTSUPP)?;
    // SAFETY: the function has that name, and therefore these parameters; `string` is one, as the
    // caller says. It throws only where there is no memory, which ends a Rust program as well.
    unsafe { assign(string, text.as_ptr().cast(), text.len()) };
    Ok(())
}

type Assign = unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> *mut c_void;

/// `std::string::assign(const char*, size_t)`, if the program has it: a weak symbol, which keeps
/// C programs from needing the C++ library.
fn string_assign() -> Option<Assign> {
    let address: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the address from the table that the linker filled, and nothing else.
    unsafe {
        std::arch::asm!(
            ".weak _ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6assignEPKcm",
            "mov {}, qword ptr [rip + \
             _ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6assignEPKcm@GOTPCREL]",
            out(reg) address, options(nostack, pure, readonly, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads the address from the table that the linker filled, and nothing else.
    unsafe {
        std::arch::asm!(
            ".weak _ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6assignEPKcm",
            "adrp {0}, :got:_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6assignEPKcm",
            "ldr {0}, [{0}, \
             :got_lo12:_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6assignEPKcm]",
            out(reg) address, options(nostack, pure, readonly, preserves_flags)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        address = 0;
    }
    // SAFETY: the linker put there either zero, which is `None`, or the function's address.
    unsafe { std::mem::transmute::<usize, Option<Assign>>(address) }
}

/// Keeps this thread from being cancelled, which would unwind what cannot be unwound. A request
/// that has come, or comes meanwhile, is heeded after.
pub(crate) struct Uncancelled {
    before: c_int,
}

impl Uncancelled {
    pub(crate) fn begin() -> Self {
        let mut before = 0;
        // SAFETY: `before` is one writable number for the length of the call.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut before) };
        Self { before }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        let mut unused = 0;
        // SAFETY: as above; the state is one that the thread has had.
        unsafe { pthread_setcancelstate(self.before, &raw mut unused) };
    }
}

/// The first 64 signals that this thread blocks, as bits.
pub(crate) fn blocked_signals() -> u64 {
    let mut mask = 0_u64;
    let (how, none) = (libc::SIG_BLOCK, ptr::null::<u64>());
    // SAFETY: the kernel writes the eight bytes that it is told of, and changes nothing.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, none, &raw mut mask, 8) };
    mask
}

// The crate of the C library's functions has this one for other systems only.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old_state: *mut c_int) -> c_int;
}

/// As `pthread.h` has it, of glibc and of musl.
const PTHREAD_CANCEL_DISABLE: c_int = 1;
