//! The servers of a fan-out, and the load that they bear: one PDU to many receivers.
//!
//! The plain one has no event loop to speak of: it calls `send` for one socket after the other, or
//! `writev` where there are bytes of the receiver's own, and takes a short write for an error.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use uring_netlib::{Address, Event, Handle, Netlib, Options, Shared};

use super::process::tell_port;
use super::sys::{self, EDGE, Epoll, READABLE};
use super::{HEADER_LEN, header};

/// All receivers of one server. The first asks for the broadcasts.
pub(crate) struct Receivers {
    streams: Vec<TcpStream>,
    space: Vec<u8>,
}

impl Receivers {
    pub(crate) fn connect(port: u16, count: usize) -> io::Result<Self> {
        let connect = |_| {
            let receiver = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            receiver.set_nodelay(true)?;
            receiver.set_read_timeout(Some(READ_MAX))?;
            Ok(receiver)
        };
        let streams: io::Result<Vec<_>> = (0..count).map(connect).collect();
        let mut receivers = Self { streams: streams?, space: Vec::new() };
        // Whoever connected last may not be accepted yet: asks until all are served.
        for receiver in &mut receivers.streams {
            receiver.write_all(&order(HELLO, 0))?;
            receiver.read_exact(&mut [0; HEADER_LEN])?;
        }
        Ok(receivers)
    }

    /// Asks for one PDU of `len` bytes behind so many of each receiver's own, and reads it from
    /// all of them.
    pub(crate) fn broadcast(&mut self, len: usize, own_len: usize) -> io::Result<()> {
        self.space.resize(own_len + len, 0);
        self.streams[0].write_all(&order(len, own_len))?;
        for receiver in &mut self.streams {
            receiver.read_exact(&mut self.space)?;
        }
        Ok(())
    }

    /// The same, with every byte compared.
    pub(crate) fn verify(&mut self, len: usize, own_len: usize) -> io::Result<()> {
        let expected = [&OWN[..own_len], &pdu(len)].concat();
        self.space.resize(own_len + len, 0);
        self.streams[0].write_all(&order(len, own_len))?;
        for receiver in &mut self.streams {
            receiver.read_exact(&mut self.space)?;
            if self.space != expected {
                return Err(io::Error::other("a receiver got other bytes"));
            }
        }
        Ok(())
    }
}

/// A request for a broadcast of `len` bytes behind so many of each receiver's own.
fn order(len: usize, own_len: usize) -> [u8; ORDER_LEN] {
    let mut order = [0; ORDER_LEN];
    order[..HEADER_LEN].copy_from_slice(&header(8, 0));
    for (place, number) in order[HEADER_LEN..].chunks_mut(4).zip([len, own_len]) {
        place.copy_from_slice(&u32::try_from(number).expect("a few KiB").to_be_bytes());
    }
    order
}

/// What an order asks for: the PDU, and how many own bytes.
fn parse_order(order: &[u8]) -> (Vec<u8>, usize) {
    let number = |at: usize| {
        let bytes = order[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(bytes) as usize
    };
    (pdu(number(HEADER_LEN)), number(HEADER_LEN + 4))
}

fn pdu(len: usize) -> Vec<u8> {
    let mut pdu = vec![0x5A; len];
    pdu[..HEADER_LEN].copy_from_slice(&header(len - HEADER_LEN, 0));
    pdu
}

struct Room {
    guests: Vec<Handle>,
    is_copying: bool,
}

/// This library with `Netlib::broadcast`, or `is_copying` with a `Netlib::send` for each receiver.
pub(crate) fn serve_ours(backend: &str, is_copying: bool) -> io::Result<()> {
    let backend = backend.parse().map_err(io::Error::other)?;
    let mut net = Options::new().backend(backend).build().map_err(io::Error::other)?;
    let listener = net.listen("127.0.0.1:0", on_event, 0).map_err(io::Error::other)?;
    let option = net.option(listener).map_err(io::Error::other)?;
    let Address::Ip(address) = option.local_address().map_err(io::Error::other)? else {
        return Err(io::Error::other("an IPv4 listener has an IPv4 address"));
    };
    tell_port(address.port());
    let mut room = Room { guests: Vec::new(), is_copying };
    net.eventloop(&mut room, Duration::MAX).map_err(io::Error::other)
}

fn on_event(room: &mut Room, net: &mut Netlib<Room>, handle: Handle, event: Event<'_>) {
    match event {
        Event::Connect { .. } => room.guests.push(handle),
        Event::Close(_) => room.guests.retain(|guest| *guest != handle),
        Event::Pdu(order) => {
            let (pdu, own_len) = parse_order(order.frame());
            // The load notices what is missing.
            if pdu.len() == HELLO {
                let _ = net.send(handle, &pdu);
            } else if room.is_copying {
                for guest in &room.guests {
                    let _ = net.send(*guest, &OWN[..own_len]);
                    let _ = net.send(*guest, &pdu);
                }
            } else {
                for guest in room.guests.iter().filter(|_| own_len > 0) {
                    let _ = net.send(*guest, &OWN[..own_len]);
                }
                let _ = net.broadcast(room.guests.iter().copied(), &Shared::from(pdu));
            }
        }
        _ => {}
    }
}

/// A plain loop of sends.
pub(crate) fn serve_plain() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    sys::raise_accept_queue(&listener)?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, usize::MAX, READABLE)?;
    tell_port(listener.local_addr()?.port());
    let mut guests: Vec<TcpStream> = Vec::new();
    loop {
        for index in 0..epoll.wait(None)? {
            match epoll.event(index).0 {
                usize::MAX => accept_all(&listener, &epoll, &mut guests)?,
                guest => serve_order(&mut guests, guest)?,
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    guests: &mut Vec<TcpStream>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((guest, _)) => {
                guest.set_nonblocking(true)?;
                guest.set_nodelay(true)?;
                epoll.add(&guest, guests.len(), READABLE | EDGE)?;
                guests.push(guest);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn serve_order(guests: &mut [TcpStream], from: usize) -> io::Result<()> {
    let mut order = [0; ORDER_LEN];
    match guests[from].read(&mut order) {
        Ok(ORDER_LEN) => {}
        Ok(_) => return Err(io::Error::other("the load is gone")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    }
    let (pdu, own_len) = parse_order(&order);
    let receivers = if pdu.len() == HELLO { &mut guests[from..=from] } else { guests };
    for receiver in receivers {
        let sent = if own_len == 0 {
            receiver.write(&pdu)?
        } else {
            receiver.write_vectored(&[IoSlice::new(&OWN[..own_len]), IoSlice::new(&pdu)])?
        };
        if sent != own_len + pdu.len() {
            return Err(io::Error::other(format!("{} took {sent} bytes", receiver.as_raw_fd())));
        }
    }
    Ok(())
}

const ORDER_LEN: usize = HEADER_LEN + 8;
/// An order of a bare header is for who asks alone.
const HELLO: usize = HEADER_LEN;
/// Own bytes of each receiver, where some are asked for.
pub(crate) const OWN_LEN: usize = 64;
const OWN: [u8; OWN_LEN] = [0xA5; OWN_LEN];
const READ_MAX: Duration = Duration::from_secs(10);
