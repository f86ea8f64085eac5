//! The backends to be tested, and peers that are plain sockets.

use std::env;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;

use im_example::messages::Command;
use uring_netlib::pdu::{HEADER_LEN, Header, encode};

use crate::program::PATIENCE;

/// The backends that `NETLIB_BACKEND` leaves to be tested.
pub(crate) fn backends() -> Vec<&'static str> {
    match env::var("NETLIB_BACKEND").as_deref() {
        Ok("uring") => vec!["uring"],
        Ok("epoll") => vec!["epoll"],
        _ => vec!["uring", "epoll"],
    }
}

/// Somebody who speaks PDUs.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
}

impl Peer {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub(crate) fn send<M: Command>(&mut self, seq: u16, message: &M) {
        self.send_all(&pdu(seq, message));
    }

    pub(crate) fn send_all(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next PDU, its header and its body.
    pub(crate) fn next(&mut self) -> (Header, Vec<u8>) {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).unwrap();
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let mut body = vec![0; len as usize - HEADER_LEN];
        self.stream.read_exact(&mut body).unwrap();
        (Header::parse(&head).unwrap(), body)
    }

    /// Whether a PDU comes, and not the end.
    pub(crate) fn is_answered(&mut self) -> bool {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).is_ok()
    }

    /// The next PDU, which has to be such a message with such a number.
    #[track_caller]
    pub(crate) fn expect<M: Command + PartialEq + Debug>(&mut self, seq: u16, message: &M) {
        let (header, body) = self.next();
        assert_eq!(header, M::header().with_seq(seq));
        assert_eq!(M::decode(&body[..]).as_ref(), Ok(message));
    }

    /// Nothing more comes, and the server has closed.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }
}

/// A PDU with such a number.
pub(crate) fn pdu<M: Command>(seq: u16, message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&M::header().with_seq(seq), message, 1 << 20, &mut bytes).unwrap();
    bytes
}

/// All that an HTTP server answers to these pieces, until it closes.
pub(crate) fn http(address: &str, pieces: &[&[u8]]) -> String {
    let mut peer = Peer::connect(address);
    for piece in pieces {
        peer.send_all(piece);
    }
    let mut response = String::new();
    peer.stream.read_to_string(&mut response).unwrap();
    response
}
