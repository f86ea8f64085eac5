//! The system calls that no crate wraps safely, except those of epoll and of the ring.
//!
//! Each function is safe, does one call, and hands the kernel's error on as it came.

#![expect(unsafe_code, reason = "system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// An event descriptor with a count of zero.
pub(crate) fn event_descriptor(is_blocking: bool) -> io::Result<OwnedFd> {
    let flags = libc::EFD_CLOEXEC | if is_blocking { 0 } else { libc::EFD_NONBLOCK };
    // SAFETY: takes plain numbers.
    let fd = check(unsafe { libc::eventfd(0, flags) })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an event descriptor. Safe to call in a signal handler.
pub(crate) fn signal_event(event: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // The count can only overflow after 2⁶⁴ wake-ups, and then the event is signalled anyway.
    let (fd, address) = (event.as_raw_fd(), one.as_ptr());
    // The call itself, as the C library's `write` is a point where a thread may be cancelled.
    // SAFETY: `one` is eight readable bytes for the length of the call.
    unsafe { libc::syscall(libc::SYS_write, fd, address, one.len()) };
}

/// Sets a non-blocking event descriptor back to zero.
pub(crate) fn reset_event(event: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: `count` is eight writable bytes for the length of the call.
    unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// The descriptor that an accept request returned; `None` for an error.
pub(crate) fn accepted_descriptor(result: i32) -> Option<OwnedFd> {
    // SAFETY: the kernel made this descriptor for the one completion that carries it, and the
    // driver takes each completion once.
    (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) })
}

/// Accepts one client without blocking, if the listener does not block.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: null pointers say that the peer's address is not wanted.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), address, len, libc::SOCK_CLOEXEC) };
    let fd = check(fd)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives what is there, without blocking. Zero is the end of the stream.
pub(crate) fn receive(socket: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<usize> {
    let (fd, address) = (socket.as_raw_fd(), space.as_mut_ptr().cast());
    // SAFETY: `space` is writable for its length, for the length of the call.
    length(unsafe { libc::recv(fd, address, space.len(), libc::MSG_DONTWAIT) })
}

/// Receives what is there, at most `len` bytes, behind those that a vector has and into room that
/// it has, without blocking. Zero is the end of the stream.
pub(crate) fn receive_behind(
    socket: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    len: usize,
) -> io::Result<usize> {
    let room = bytes.spare_capacity_mut();
    let (len, address) = (len.min(room.len()), room.as_mut_ptr().cast());
    // SAFETY: the vector has room for `len` bytes at `address`, for the length of the call.
    let received = unsafe { libc::recv(socket.as_raw_fd(), address, len, libc::MSG_DONTWAIT) };
    let received = length(received)?;
    let len = bytes.len() + received;
    // SAFETY: the kernel has written so many bytes behind those that there were.
    unsafe { bytes.set_len(len) };
    Ok(received)
}

/// Sends what fits, without blocking and without SIGPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length, for the length of the call.
    length(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// A message without an address, without bytes, and without anything beside them.
pub(crate) fn empty_message() -> libc::msghdr {
    // SAFETY: a `msghdr` is made of pointers and numbers, of which null and zero say that there is
    // nothing. It has no other constructor: some C libraries have padding of their own in it.
    unsafe { std::mem::zeroed() }
}

/// How many bytes the peer of a TCP connection has acknowledged. `None` for other sockets, and on
/// kernels that do not count them.
pub(crate) fn acknowledged(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut info = [0u8; TCP_INFO_LEN];
    let mut len = libc::socklen_t::try_from(info.len()).expect("a few bytes");
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    let (fd, space) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: `info` is writable for the `len` bytes that the kernel is told of, and both outlive
    // the call.
    let result = unsafe { libc::getsockopt(fd, level, name, space, &raw mut len) };
    let is_there = result == 0 && len as usize == info.len();
    let count = info.last_chunk().expect("the buffer ends with the count");
    is_there.then(|| u64::from_ne_bytes(*count))
}

/// How many bytes the peer of a TCP connection has not acknowledged, once its writing side was
/// ended.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: `count` is one writable number for the length of the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    // The end of the stream is acknowledged like one more byte, behind all others.
    if result == 0 { usize::try_from(count).unwrap_or(0).saturating_sub(1) } else { 0 }
}

/// Whether bytes wait to be received.
pub(crate) fn has_unread(socket: BorrowedFd<'_>) -> bool {
    let mut count: libc::c_int = 0;
    // SAFETY: `count` is one writable number for the length of the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    result == 0 && count > 0
}

/// Whether a connection is over in both directions, as after a reset.
pub(crate) fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `poll` is one valid entry for the length of the call, which does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// CPU time that this thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    Duration::from_nanos(nanos_of(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// What the system's monotonic clock says: as the standard library's `Instant`, for which every
/// turn of a loop would do several times the arithmetic.
pub(crate) fn monotonic_nanos() -> u64 {
    nanos_of(libc::CLOCK_MONOTONIC)
}

fn nanos_of(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the length of the call, which cannot fail for these clocks.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Length of the kernel's `tcp_info` up to the end of `tcpi_bytes_acked`. The C library's own
/// structure ends before it.
const TCP_INFO_LEN: usize = 128;

/// A call's result, or the error that it left.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
