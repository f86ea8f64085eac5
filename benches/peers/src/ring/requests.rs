//! All that the ring server asks of the kernel: requests go in here, completions come out.
//!
//! Knows what memory a request uses and nothing of why it is made. The memory of a request stays
//! where it is, untouched, until its completion: a connection is removed only when the kernel has
//! nothing of it, and until then neither its `flying` nor its `carry` changes under a request.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::{fmt, io, mem};

use io_uring::types::Fd;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::buffers::Buffers;
use super::connection::{BULK_LEN, Connection, Flying, Group, Receiving, SMALL_LEN};

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Accept,
    Receive,
    Send,
    /// A cancel or a close, whose outcome changes nothing.
    Other,
}

impl Op {
    pub(super) fn of(user_data: u64) -> (Self, usize) {
        let slot = usize::try_from(user_data >> 2).expect("slots went in as usize");
        let ops = [Self::Accept, Self::Receive, Self::Send, Self::Other];
        let op = ops.into_iter().find(|op| *op as u64 == user_data & 3);
        (op.expect("two bits tell four"), slot)
    }

    const fn user_data(self, slot: usize) -> u64 {
        (slot as u64) << 2 | self as u64
    }
}

pub(super) struct Requests {
    ring: IoUring,
    listener: TcpListener,
    small: Buffers,
    bulk: Buffers,
    wait_flags: EnterFlags,
}

/// Where the two parts of a message are. It has its place on the heap, as the kernel reads it.
pub(super) struct Gather {
    message: libc::msghdr,
    parts: [libc::iovec; 2],
}

impl Gather {
    fn set(self: &mut Box<Self>, parts: [&[u8]; 2]) -> *const libc::msghdr {
        self.parts = parts.map(|part| libc::iovec {
            // It is only read.
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        });
        self.message.msg_iov = self.parts.as_mut_ptr();
        self.message.msg_iovlen = self.parts.len();
        &raw const self.message
    }
}

impl Default for Gather {
    fn default() -> Self {
        // SAFETY: all of it is integers and pointers, for which zero is a value.
        unsafe { mem::zeroed() }
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gather")
    }
}

impl Requests {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETIONS_MAX)
            .build(REQUESTS_MAX)?;
        let small = Buffers::register(&ring, group_id(Group::Small), SMALL_COUNTS, SMALL_LEN)?;
        let bulk = Buffers::register(&ring, group_id(Group::Bulk), BULK_COUNTS, BULK_LEN)?;
        // A wait for clients is not one for a disk, and need not be accounted as such.
        let mut wait_flags = EnterFlags::GETEVENTS;
        wait_flags.set(EnterFlags::NO_IOWAIT, ring.params().is_feature_no_iowait());
        Ok(Self { ring, listener, small, bulk, wait_flags })
    }

    /// Submits all that was asked for, waits for completions, and appends them.
    pub(super) fn wait(&mut self, completions: &mut Vec<cqueue::Entry>) -> io::Result<()> {
        self.small.provide();
        self.bulk.provide();
        let queued = u32::try_from(self.ring.submission().len()).expect("the queue is short");
        let flags = self.wait_flags.bits();
        // SAFETY: there are `queued` requests, and no argument that the flags would promise.
        let entered = unsafe { self.ring.submitter().enter::<()>(queued, 1, flags, None) };
        completions.extend(self.ring.completion());
        match entered {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if !completions.is_empty() && is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn buffers_mut(&mut self, group: Group) -> &mut Buffers {
        match group {
            Group::Small => &mut self.small,
            Group::Bulk => &mut self.bulk,
        }
    }

    pub(super) fn accept(&mut self) -> io::Result<()> {
        let fd = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push(Op::Accept, 0, entry)
    }

    pub(super) fn receive_multishot(
        &mut self,
        slot: usize,
        connection: &Connection,
    ) -> io::Result<()> {
        let fd = Fd(connection.fd.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, group_id(Group::Small)).build();
        self.push(Op::Receive, slot, entry)
    }

    /// Completes once, when there is something to receive.
    pub(super) fn poll(&mut self, slot: usize, connection: &Connection) -> io::Result<()> {
        let fd = Fd(connection.fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, READABLE).build();
        self.push(Op::Receive, slot, entry)
    }

    pub(super) fn receive_bulk(&mut self, slot: usize, connection: &Connection) -> io::Result<()> {
        let fd = Fd(connection.fd.as_raw_fd());
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
            .buf_group(group_id(Group::Bulk))
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Op::Receive, slot, entry)
    }

    /// Receives the rest of a PDU of that length into `carry`, which has room for it.
    pub(super) fn receive_exact(
        &mut self,
        slot: usize,
        connection: &mut Connection,
        pdu_len: usize,
    ) -> io::Result<()> {
        let missing = pdu_len - connection.carry.len();
        let room = connection.carry.spare_capacity_mut();
        assert!(missing <= room.len(), "room was made");
        let target = room.as_mut_ptr().cast();
        self.receive_whole(slot, connection, target, missing)
    }

    /// Receives the rest of a PDU behind its beginning in a bulk buffer.
    pub(super) fn receive_in_place(
        &mut self,
        slot: usize,
        connection: &Connection,
    ) -> io::Result<()> {
        let Receiving::InPlace { id, filled, len } = connection.receiving else {
            unreachable!("it was said where");
        };
        assert!(filled <= len && len <= BULK_LEN, "it fits");
        // SAFETY: the buffer is `BULK_LEN` long, and `filled` is not beyond it.
        let target = unsafe { self.bulk.address(id).add(filled) };
        self.receive_whole(slot, connection, target, len - filled)
    }

    /// The target has room for that many bytes, and is nobody else's until the completion.
    fn receive_whole(
        &mut self,
        slot: usize,
        connection: &Connection,
        target: *mut u8,
        len: usize,
    ) -> io::Result<()> {
        let fd = Fd(connection.fd.as_raw_fd());
        let entry = opcode::Recv::new(fd, target, short(len)).flags(libc::MSG_WAITALL).build();
        self.push(Op::Receive, slot, entry)
    }

    pub(super) fn cancel_receive(&mut self, slot: usize) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(Op::Receive.user_data(slot)).build();
        self.push(Op::Other, slot, entry)
    }

    /// Sends what flies. A buffer of the kernel's is sent as far as the socket takes it at once,
    /// as others wait for it; memory of the connection's own is sent to the end.
    pub(super) fn send(&mut self, slot: usize, connection: &mut Connection) -> io::Result<()> {
        let (bytes, flags) = match &connection.flying {
            Flying::Both { .. } => return self.send_both(slot, connection),
            Flying::Buffer { group, id, len } => {
                (self.buffers_mut(*group).bytes(*id, *len), libc::MSG_DONTWAIT)
            }
            Flying::Own { bytes, sent } => (&bytes[*sent..], libc::MSG_WAITALL),
            Flying::Nothing => unreachable!("something flies"),
        };
        let fd = Fd(connection.fd.as_raw_fd());
        let entry = opcode::Send::new(fd, bytes.as_ptr(), short(bytes.len()))
            .flags(flags | libc::MSG_NOSIGNAL)
            .build();
        self.push(Op::Send, slot, entry)
    }

    fn send_both(&mut self, slot: usize, connection: &mut Connection) -> io::Result<()> {
        let Flying::Both { carried, group, id, range } = &connection.flying else {
            unreachable!("both fly");
        };
        let rest = &self.buffers_mut(*group).bytes(*id, range.end)[range.start..];
        let gather = connection.gather.get_or_insert_default();
        let message = gather.set([carried, rest]);
        let entry = opcode::SendMsg::new(Fd(connection.fd.as_raw_fd()), message)
            .flags(SEND_AT_ONCE)
            .build();
        self.push(Op::Send, slot, entry)
    }

    pub(super) fn close(&mut self, fd: OwnedFd) -> io::Result<()> {
        let entry = opcode::Close::new(Fd(fd.into_raw_fd())).build();
        self.push(Op::Other, 0, entry)
    }

    fn push(&mut self, op: Op, slot: usize, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data(op.user_data(slot));
        loop {
            // SAFETY: the memory that the request points at stays until its completion, as the
            // module says: buffers for ever, `flying` and `carry` on the heap, where they are when
            // their connection moves.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}

/// The descriptor of a client, from the completion of an accept.
pub(super) fn accepted(result: i32) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the kernel has just made it for this completion, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Adds to `carry` what an exact receive has brought, if that is the whole PDU.
pub(super) fn take_exact(connection: &mut Connection, result: i32) -> bool {
    let pdu_len = crate::pdu::pdu_len(&connection.carry).ok().flatten();
    let pdu_len = pdu_len.expect("only of a PDU with a right length more is received");
    if !usize::try_from(result).is_ok_and(|len| connection.carry.len() + len == pdu_len) {
        return false;
    }
    // SAFETY: `receive_exact` saw to it that there is room, and the kernel has filled it.
    unsafe { connection.carry.set_len(pdu_len) };
    true
}

/// Whether the kernel asks to take completions first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN))
}

const fn group_id(group: Group) -> u16 {
    match group {
        Group::Small => 0,
        Group::Bulk => 1,
    }
}

fn short(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

const SEND_AT_ONCE: u32 = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned();
const READABLE: u32 = libc::POLLIN.cast_unsigned() as u32;
const REQUESTS_MAX: u32 = 512;
const COMPLETIONS_MAX: u32 = 4096;
/// Buffers that the kernel has at first, some more than it fills in a turn, and all there are.
const SMALL_COUNTS: (u16, u16) = (32, 256);
const BULK_COUNTS: (u16, u16) = (8, 64);
