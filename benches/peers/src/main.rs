//! The frameworks that one would choose instead of this library, as echo servers of PDUs.
//!
//! `peers --list` names them, `peers --server NAME --core N` is one of them: it prints its port
//! when it accepts clients, and ends with its parent. Each is a module, written as users of that
//! framework would write it, on one thread of one core, and says how it batches. `ring` is no
//! framework but the floor: the least that io_uring itself asks for.

mod compio_owned;
mod glommio_slices;
mod listening;
mod message_io_node;
mod monoio_owned;
mod pdu;
mod ring;
#[path = "../../support/sys.rs"]
#[expect(dead_code, reason = "shared with the benches, which need all of it")]
mod sys;
mod tokio_bytes;
mod tokio_codec;
mod tokio_uring_owned;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match Task::parse() {
        Ok(Task::List) => {
            for server in SERVERS {
                println!("{}: {}", server.name, server.manner);
            }
            ExitCode::SUCCESS
        }
        Ok(Task::Serve(server, core)) => match server.serve(core) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("peers: {}: {error}", server.name);
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("peers: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Task {
    List,
    Serve(&'static Server, usize),
}

impl Task {
    fn parse() -> Result<Self, lexopt::Error> {
        let (mut server, mut core, mut is_list) = (None, 0, false);
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("list") => is_list = true,
                lexopt::Arg::Long("server") => server = Some(arguments.value()?),
                lexopt::Arg::Long("core") => {
                    core = lexopt::ValueExt::parse(&arguments.value()?)?;
                }
                argument => return Err(argument.unexpected()),
            }
        }
        if is_list {
            return Ok(Self::List);
        }
        let name = server.ok_or("no server is named")?;
        let server = SERVERS.iter().find(|server| name == server.name);
        Ok(Self::Serve(server.ok_or("no server has that name")?, core))
    }
}

/// One of the peers.
struct Server {
    name: &'static str,
    /// How it is written, in a sentence.
    manner: &'static str,
    run: fn(core: usize) -> io::Result<()>,
}

impl Server {
    /// Is that server, tied to the parent and to the core.
    fn serve(&self, core: usize) -> io::Result<()> {
        sys::end_with_parent(&io::stdin())?;
        sys::pin_to(core)?;
        sys::raise_descriptor_limit()?;
        (self.run)(core)
    }
}

/// Tells the parent that the server is ready. One that does not hear of it gives up by itself.
fn tell_port(port: u16) {
    let _ = writeln!(io::stdout(), "{port}");
}

/// Whether an error of accepting is one client's fault, who has gone before it was accepted.
fn is_of_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}

const SERVERS: [Server; 8] = [
    Server {
        name: "tokio",
        manner: "current_thread runtime, a task per connection, BytesMut framing, one write_all \
                 per read.",
        run: |_| tokio_bytes::serve(tell_port),
    },
    Server {
        name: "tokio-codec",
        manner: "tokio with Framed and LengthDelimitedCodec, all PDUs at hand fed, then flushed \
                 once; send per PDU would cost ten times as much at depth 16.",
        run: |_| tokio_codec::serve(tell_port),
    },
    Server {
        name: "monoio",
        manner: "io_uring driver with its default flags, a task per connection, owned buffers, \
                 one write_all per read.",
        run: |_| monoio_owned::serve(tell_port),
    },
    Server {
        name: "compio",
        manner: "io_uring driver with its default flags, a task per connection, owned buffers, \
                 one write_all per read.",
        run: |_| compio_owned::serve(tell_port),
    },
    Server {
        name: "glommio",
        manner: "executor pinned to the core, a task per connection, reads into and writes from \
                 slices, one write_all per read.",
        run: |core| glommio_slices::serve(core, tell_port),
    },
    Server {
        name: "tokio-uring",
        manner: "its default flags, a task per connection, owned buffers, one write_all per read.",
        run: |_| tokio_uring_owned::serve(tell_port),
    },
    Server {
        name: "message-io",
        manner: "node with a handler on plain TCP, PDUs found by hand, one send per read; it has \
                 a second thread that is nearly idle.",
        run: |_| message_io_node::serve(tell_port),
    },
    Server {
        name: "ring",
        manner: "straight on io_uring, hand-tuned: multishot accept and receive, one send per \
                 connection and turn from the buffer received into, exact receives of large PDUs.",
        run: |_| ring::serve(tell_port),
    },
];

const USAGE: &str = "usage: peers --list | peers --server NAME [--core N]";
