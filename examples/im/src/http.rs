//! The one HTTP request that the directory takes, and the bytes of its answers.
//!
//! Knows nothing of sockets: received bytes go in with [`RequestHead::push`], and what comes out is
//! a whole response. The answer that names a message server is TeamTalk's to the byte, so that its
//! clients find what they look for; refusals, which TeamTalk did not have, follow the standard.

#![forbid(unsafe_code)]

use std::io;

use httparse::{EMPTY_HEADER, Request, Status};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use crate::directory::Choice;

/// A request's head, as far as it has arrived; the limit is [`HEAD_LEN_MAX`].
#[derive(Debug, Default)]
pub struct RequestHead {
    bytes: Vec<u8>,
}

impl RequestHead {
    /// Takes the next bytes of the connection. `None` while more are to come; after anything else
    /// this request is over, and what follows it on the connection is not looked at.
    ///
    /// A request that is good asks for a message server: `GET /msg_server`, alone or with a query
    /// or a further path behind it, which are ignored. Likewise its headers are.
    ///
    /// ```
    /// use im_example::http::{Refusal, RequestHead};
    ///
    /// let mut head = RequestHead::default();
    /// assert_eq!(head.push(b"GET /msg_server HTTP/1.1\r\nHost: "), None);
    /// assert_eq!(head.push(b"im.example\r\n\r\n"), Some(Ok(())));
    /// let other = RequestHead::default().push(b"GET / HTTP/1.1\r\n\r\n");
    /// assert_eq!(other, Some(Err(Refusal::NotFound)));
    /// ```
    ///
    /// # Errors
    /// [`Refusal`]: what to answer instead.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Result<(), Refusal>> {
        let room = HEAD_LEN_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        match request.parse(&self.bytes) {
            Ok(Status::Complete(_)) => Some(judge(&request)),
            Ok(Status::Partial) if self.bytes.len() < HEAD_LEN_MAX => None,
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                Some(Err(Refusal::TooLong))
            }
            Err(_) => Some(Err(Refusal::BadRequest)),
        }
    }
}

fn judge(request: &Request<'_, '_>) -> Result<(), Refusal> {
    if request.method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    let rest = request.path.and_then(|path| path.strip_prefix(PATH)).ok_or(Refusal::NotFound)?;
    let is_whole = rest.is_empty() || rest.starts_with(['?', '/']);
    is_whole.then_some(()).ok_or(Refusal::NotFound)
}

/// Addresses of other services that the answer tells beside the message server.
#[derive(Clone, Debug)]
pub struct Links {
    /// Where pictures are stored.
    pub msfs: String,
    /// Where the page of interesting things is.
    pub discovery: String,
}

/// The response that tells a client of its message server, or why there is none.
///
/// ```
/// use im_example::directory::Choice;
/// use im_example::http::{Links, answer};
///
/// let links = Links { msfs: String::new(), discovery: String::new() };
/// let response = String::from_utf8(answer(Choice::Full, &links))?;
/// assert!(response.ends_with("\r\n\r\n{\n   \"code\" : 2,\n   \"msg\" : \"负载过高\"\n}\n"));
/// # Ok::<(), std::string::FromUtf8Error>(())
/// ```
#[must_use]
pub fn answer(choice: Choice<'_>, links: &Links) -> Vec<u8> {
    let body = match choice {
        Choice::Server(info) => styled(&Found {
            backup_ip: &info.ip2,
            code: 0,
            discovery: &links.discovery,
            msfs_backup: &links.msfs,
            msfs_prior: &links.msfs,
            msg: "",
            port: &info.port.to_string(),
            prior_ip: &info.ip1,
        }),
        Choice::NoServer => styled(&Missing { code: 1, msg: "没有msg_server" }),
        Choice::Full => styled(&Missing { code: 2, msg: "负载过高" }),
    };
    response("200 OK", "Content-Type:text/html;charset=utf-8", &body)
}

/// Why a request is not answered; the connection is closed behind the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 400: it is no HTTP.
    BadRequest,
    /// 404: there is only `/msg_server`.
    NotFound,
    /// 405: there is only `GET`.
    MethodNotAllowed,
    /// 408: the head was not whole in time.
    Timeout,
    /// 431: the head is longer than [`HEAD_LEN_MAX`], or has more than 64 headers.
    TooLong,
}

impl Refusal {
    /// The number and the words of the status line.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Timeout => "408 Request Timeout",
            Self::TooLong => "431 Request Header Fields Too Large",
        }
    }

    /// The whole response.
    #[must_use]
    pub fn response(self) -> Vec<u8> {
        let (header, body) = match self {
            Self::BadRequest => (TEXT, "This is no HTTP request.\n"),
            Self::NotFound => (TEXT, "Ask for /msg_server.\n"),
            // The method may be HEAD, whose response must not have a body.
            Self::MethodNotAllowed => ("Allow:GET", ""),
            Self::Timeout => (TEXT, "The request did not arrive in time.\n"),
            Self::TooLong => (TEXT, "A request may have 1024 bytes and 64 headers.\n"),
        };
        response(self.status(), header, body.as_bytes())
    }
}

fn response(status: &str, header: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nConnection:close\r\nContent-Length:{length}\r\n{header}\r\n");
    [head.as_bytes(), b"\r\n", body].concat()
}

// The keys are in the order in which they are printed, which is that of the alphabet.

#[derive(Serialize)]
struct Found<'a> {
    #[serde(rename = "backupIP")]
    backup_ip: &'a str,
    code: u8,
    discovery: &'a str,
    #[serde(rename = "msfsBackup")]
    msfs_backup: &'a str,
    #[serde(rename = "msfsPrior")]
    msfs_prior: &'a str,
    msg: &'a str,
    port: &'a str,
    #[serde(rename = "priorIP")]
    prior_ip: &'a str,
}

#[derive(Serialize)]
struct Missing<'a> {
    code: u8,
    msg: &'a str,
}

/// JSON laid out as jsoncpp's styled writer does.
fn styled(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::new();
    let formatter = Styled(PrettyFormatter::with_indent(b"   "));
    let written = value.serialize(&mut Serializer::with_formatter(&mut text, formatter));
    written.expect("strings and numbers can be written to a vector");
    text.push(b'\n');
    text
}

/// One key a line, with a space on either side of the colon. Arrays, which no answer has, would not
/// be laid out.
struct Styled(PrettyFormatter<'static>);

impl Formatter for Styled {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b" : ")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// Bytes that a request's head may have.
pub const HEAD_LEN_MAX: usize = 1024;

const HEADERS_MAX: usize = 64;

const PATH: &str = "/msg_server";

const TEXT: &str = "Content-Type:text/plain;charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    use crate::messages::MsgServInfo;

    fn links() -> Links {
        Links {
            msfs: "http://127.0.0.1:8700/".into(),
            discovery: "http://127.0.0.1/api/discovery".into(),
        }
    }

    fn text(response: Vec<u8>) -> String {
        String::from_utf8(response).unwrap()
    }

    /// What a head comes to, and how many of its bytes it took to know, in pieces of one length.
    fn judged(head: &[u8], piece_len: usize) -> (Option<Result<(), Refusal>>, usize) {
        let (mut request, mut taken) = (RequestHead::default(), 0);
        for piece in head.chunks(piece_len) {
            taken += piece.len();
            let judgement = request.push(piece);
            if judgement.is_some() {
                return (judgement, taken);
            }
        }
        (None, taken)
    }

    /// A head of so many bytes that is otherwise good.
    fn head_of(len: usize) -> Vec<u8> {
        let (start, end) = ("GET /msg_server HTTP/1.1\r\nX: ", "\r\n\r\n");
        let filler = "x".repeat(len - start.len() - end.len());
        [start, &filler, end].concat().into_bytes()
    }

    /// The answer that names a server is the original's, byte for byte.
    #[test]
    fn the_answer_with_a_server_is_exact() {
        let info = MsgServInfo {
            ip1: "10.0.0.1".into(),
            ip2: "10.0.0.2".into(),
            port: 18000,
            ..MsgServInfo::default()
        };
        let expected = "HTTP/1.1 200 OK\r\n\
            Connection:close\r\n\
            Content-Length:247\r\n\
            Content-Type:text/html;charset=utf-8\r\n\
            \r\n\
            {\n   \"backupIP\" : \"10.0.0.2\",\n   \"code\" : 0,\n   \
            \"discovery\" : \"http://127.0.0.1/api/discovery\",\n   \
            \"msfsBackup\" : \"http://127.0.0.1:8700/\",\n   \
            \"msfsPrior\" : \"http://127.0.0.1:8700/\",\n   \"msg\" : \"\",\n   \
            \"port\" : \"18000\",\n   \"priorIP\" : \"10.0.0.1\"\n}\n";
        assert_eq!(text(answer(Choice::Server(&info), &links())), expected);
    }

    /// Without a server the text is UTF-8 as it is, and its length is counted in bytes.
    #[test]
    fn the_answers_without_a_server_are_exact() {
        let start = "HTTP/1.1 200 OK\r\nConnection:close\r\nContent-Length:";
        let kind = "\r\nContent-Type:text/html;charset=utf-8\r\n\r\n";
        for (choice, length, body) in [
            (
                Choice::NoServer,
                49,
                "{\n   \"code\" : 1,\n   \"msg\" : \"\u{6ca1}\u{6709}msg_server\"\n}\n",
            ),
            (
                Choice::Full,
                45,
                "{\n   \"code\" : 2,\n   \"msg\" : \"\u{8d1f}\u{8f7d}\u{8fc7}\u{9ad8}\"\n}\n",
            ),
        ] {
            let response = text(answer(choice, &links()));
            assert_eq!(response, format!("{start}{length}{kind}{body}"));
        }
    }

    /// A server cannot break out of its string, whatever it calls itself.
    #[test]
    fn what_a_server_says_of_itself_is_escaped() {
        let info = MsgServInfo { ip1: "\",\n\"x".into(), ..MsgServInfo::default() };
        let response = text(answer(Choice::Server(&info), &links()));
        assert!(response.ends_with("\"priorIP\" : \"\\\",\\n\\\"x\"\n}\n"), "{response}");
    }

    /// Each refusal has its status, and a body of the length that it says.
    #[test]
    fn refusals_are_exact() {
        assert_eq!(
            text(Refusal::MethodNotAllowed.response()),
            "HTTP/1.1 405 Method Not Allowed\r\nConnection:close\r\nContent-Length:0\r\n\
             Allow:GET\r\n\r\n"
        );
        assert_eq!(
            text(Refusal::NotFound.response()),
            "HTTP/1.1 404 Not Found\r\nConnection:close\r\nContent-Length:21\r\n\
             Content-Type:text/plain;charset=utf-8\r\n\r\nAsk for /msg_server.\n"
        );
        for (refusal, status) in [
            (Refusal::BadRequest, "400 Bad Request"),
            (Refusal::Timeout, "408 Request Timeout"),
            (Refusal::TooLong, "431 Request Header Fields Too Large"),
        ] {
            let response = text(refusal.response());
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\nConnection:close\r\n")));
            assert!(head.contains(&format!("\r\nContent-Length:{}\r\n", body.len())), "{head}");
        }
    }

    /// However the network cuts a request, it comes to the same, and not a byte too early or late.
    #[test]
    fn a_request_may_be_split_anywhere() {
        for (head, judgement) in [
            ("GET /msg_server HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n", Ok(())),
            ("GET /msg_server HTTP/1.0\n\n", Ok(())),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Refusal::NotFound)),
            ("POST /msg_server HTTP/1.1\r\n\r\n", Err(Refusal::MethodNotAllowed)),
        ] {
            let head = head.as_bytes();
            for piece_len in 1..=head.len() {
                assert_eq!(judged(head, piece_len), (Some(judgement), head.len()), "{head:?}");
            }
            for at in 1..head.len() {
                let mut request = RequestHead::default();
                assert_eq!(request.push(&head[..at]), None, "{head:?} at {at}");
                let rest = [&head[at..], b"more"].concat();
                assert_eq!(request.push(&rest), Some(judgement), "{head:?} at {at}");
            }
        }
    }

    /// Behind the path may stand nothing, a query or a further path.
    #[test]
    fn only_the_path_itself_and_what_is_below_it_are_served() {
        for (path, judgement) in [
            ("/msg_server", Ok(())),
            ("/msg_server?user=1", Ok(())),
            ("/msg_server/", Ok(())),
            ("/msg_server/1", Ok(())),
            ("/msg_servers", Err(Refusal::NotFound)),
            ("/msg_serve", Err(Refusal::NotFound)),
            ("/MSG_SERVER", Err(Refusal::NotFound)),
            ("//msg_server", Err(Refusal::NotFound)),
            ("*", Err(Refusal::NotFound)),
        ] {
            let head = format!("GET {path} HTTP/1.1\r\n\r\n");
            assert_eq!(RequestHead::default().push(head.as_bytes()), Some(judgement), "{path}");
        }
    }

    /// Any method but GET is refused as such, whatever it asks for.
    #[test]
    fn only_get_is_taken() {
        for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"] {
            for path in ["/msg_server", "/"] {
                let head = format!("{method} {path} HTTP/1.1\r\n\r\n");
                let judgement = RequestHead::default().push(head.as_bytes());
                assert_eq!(judgement, Some(Err(Refusal::MethodNotAllowed)), "{method} {path}");
            }
        }
    }

    /// A head of 1024 bytes is taken, and one that has not ended by then is refused.
    #[test]
    fn a_head_may_have_1024_bytes() {
        for piece_len in [1, 7, 1023, 1024, 1025, 4096] {
            assert_eq!(judged(&head_of(1024), piece_len), (Some(Ok(())), 1024));
            let (judgement, taken) = judged(&head_of(1025), piece_len);
            assert_eq!(judgement, Some(Err(Refusal::TooLong)), "in pieces of {piece_len}");
            assert!(taken <= 1024 + piece_len);
        }
        assert_eq!(judged(&[b'\n'; 4000], 1), (Some(Err(Refusal::TooLong)), 1024));
    }

    /// The limit is the head's; a body may come with it in one piece, and is left unread.
    #[test]
    fn a_body_does_not_count() {
        let mut bytes = head_of(1000);
        bytes.extend_from_slice(&[b'x'; 5000]);
        assert_eq!(RequestHead::default().push(&bytes), Some(Ok(())));
    }

    /// Headers have a number that is refused like a length.
    #[test]
    fn a_head_may_have_64_headers() {
        let head =
            |count: usize| format!("GET /msg_server HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(count));
        assert_eq!(RequestHead::default().push(head(64).as_bytes()), Some(Ok(())));
        let refused = RequestHead::default().push(head(65).as_bytes());
        assert_eq!(refused, Some(Err(Refusal::TooLong)));
    }

    /// What is no HTTP is refused as soon as that is known.
    #[test]
    fn what_is_no_http_is_refused() {
        for head in [
            &b"\0\0\0\x10\0\x01\0\0\0\x01\x01\x01\0\0\0\0"[..],
            b"GET /msg_server HTTP/2.0\r\n\r\n",
            b"GET /msg_server\r\n\r\n",
            b"GET /msg_server HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET /msg_server HTTP/1.1\r\na: \x01\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        ] {
            for piece_len in 1..=head.len() {
                let judgement = judged(head, piece_len).0;
                assert_eq!(judgement, Some(Err(Refusal::BadRequest)), "{head:?} by {piece_len}");
            }
        }
    }
}
