//! Running a server as a process, and peers that are plain sockets.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

use im_example::messages::Command;
use uring_netlib::pdu::{HEADER_LEN, Header, encode};

/// How long any one answer or line may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server that ends with the test, however that ends.
pub(crate) struct Program {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// What a server left behind.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    /// Starts the program at `path`.
    pub(crate) fn start(path: &str, arguments: &[&str]) -> Self {
        let mut child = Process::new(path)
            .args(arguments)
            .env_remove("NETLIB_BACKEND")
            .env_remove("NETLIB_URING_MASK")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub(crate) fn line(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!("no line: {error}; {:?}", self.stderr.try_iter().collect::<Vec<_>>())
        })
    }

    /// The rest of the next line, which has to start so.
    #[track_caller]
    pub(crate) fn line_after(&self, start: &str) -> String {
        let line = self.line();
        line.strip_prefix(start).unwrap_or_else(|| panic!("{start:?}, not {line:?}")).to_owned()
    }

    /// Waits for a line that starts so, whatever comes before it.
    pub(crate) fn wait_for(&self, start: &str) {
        while !self.line().starts_with(start) {}
    }

    /// The standard library sends no signals but SIGKILL; every shell does.
    pub(crate) fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Process::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    /// Waits for the end, which closes both pipes.
    pub(crate) fn finish(mut self) -> Ending {
        let (stdout, stderr) = (rest(&self.stdout), rest(&self.stderr));
        Ending { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, read by a thread so that waiting for one can have a limit.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn rest(lines: &Receiver<String>) -> String {
    let (mut text, start) = (String::new(), Instant::now());
    loop {
        match lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            Ok(line) => text = text + &line + "\n",
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => panic!("the program does not end; so far: {text}"),
        }
    }
}

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
