//! What a directory answers: where to connect to, or why nowhere; by HTTP and by PDU.
//!
//! Knows nothing of sockets. The other side of it is in `http.rs` and `login.rs`.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::{error, fmt};

use httparse::{EMPTY_HEADER, Response, Status};
use serde::Deserialize;
use uring_netlib::Address;

use crate::messages::{MsgServRsp, ResultType};

/// The message server that a client is to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address to try first.
    pub prior: Address,
    /// The address to try next.
    pub backup: Address,
}

impl Target {
    fn new(prior: &str, backup: &str, port: u16) -> Result<Self, AskError> {
        Ok(Self { prior: address(prior, port)?, backup: address(backup, port)? })
    }
}

/// An address as a number or as a name.
fn address(host: &str, port: u16) -> Result<Address, AskError> {
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(Address::Ip(SocketAddr::new(ip, port))),
        Err(_) => format!("{host}:{port}").parse().map_err(|_| AskError::Unreadable),
    }
}

/// Reads the answer by PDU.
///
/// # Errors
/// [`AskError`]: no message server is named.
pub fn from_pdu(answer: &MsgServRsp) -> Result<Target, AskError> {
    match answer.result_code() {
        ResultType::None => {}
        ResultType::NoMsgServer => return Err(AskError::NoServer),
        ResultType::MsgServerFull => return Err(AskError::Full),
        _ => return Err(AskError::Unreadable),
    }
    let port = answer.port.and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or(AskError::Unreadable)?;
    Target::new(answer.prior_ip(), answer.backup_ip(), port)
}

/// Reads the response by HTTP, as far as it has arrived. `None` while more is to come.
///
/// ```
/// use im_example::client::answer::{AskError, from_http};
/// use im_example::directory::Choice;
/// use im_example::http::{Links, answer};
///
/// let links = Links { msfs: String::new(), discovery: String::new() };
/// let response = answer(Choice::Full, &links);
/// assert_eq!(from_http(&response[..50]), None);
/// assert_eq!(from_http(&response), Some(Err(AskError::Full)));
/// ```
///
/// # Errors
/// [`AskError`]: no message server is named.
pub fn from_http(bytes: &[u8]) -> Option<Result<Target, AskError>> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    let head_len = match response.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() < RESPONSE_LEN_MAX => return None,
        Ok(Status::Partial) | Err(_) => return Some(Err(AskError::Unreadable)),
    };
    match response.code {
        Some(200) => {}
        Some(code) => return Some(Err(AskError::Status(code))),
        None => return Some(Err(AskError::Unreadable)),
    }
    let length = response.headers.iter().find(|one| one.name.eq_ignore_ascii_case(LENGTH));
    let length = length.and_then(|one| str::from_utf8(one.value).ok()?.trim().parse().ok());
    let Some(length) = length.filter(|length: &usize| *length <= RESPONSE_LEN_MAX) else {
        return Some(Err(AskError::Unreadable));
    };
    let body = bytes[head_len..].get(..length)?;
    Some(serde_json::from_slice(body).map_err(|_| AskError::Unreadable).and_then(Body::target))
}

/// The body of a response, without what a client like this one has no use for.
#[derive(Deserialize)]
struct Body {
    code: u32,
    #[serde(rename = "priorIP")]
    prior_ip: Option<String>,
    #[serde(rename = "backupIP")]
    backup_ip: Option<String>,
    port: Option<String>,
}

impl Body {
    fn target(self) -> Result<Target, AskError> {
        match self.code {
            0 => {}
            1 => return Err(AskError::NoServer),
            2 => return Err(AskError::Full),
            _ => return Err(AskError::Unreadable),
        }
        let port = self.port.and_then(|port| port.parse().ok()).ok_or(AskError::Unreadable)?;
        let [prior, backup] = [self.prior_ip, self.backup_ip].map(Option::unwrap_or_default);
        Target::new(&prior, &backup, port)
    }
}

/// Why a directory named no message server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AskError {
    /// None is registered.
    NoServer,
    /// All have as many users as they take.
    Full,
    /// The status of HTTP was this and not 200.
    Status(u16),
    /// The answer is none, or has more than [`RESPONSE_LEN_MAX`] bytes.
    Unreadable,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => f.write_str("it knows of no message server"),
            Self::Full => f.write_str("all message servers are full"),
            Self::Status(code) => write!(f, "it answered with status {code}"),
            Self::Unreadable => f.write_str("it answered what cannot be read"),
        }
    }
}

impl error::Error for AskError {}

/// Bytes that the head of a response, or its body, may have.
pub const RESPONSE_LEN_MAX: usize = 8 * 1024;

const HEADERS_MAX: usize = 64;

const LENGTH: &str = "Content-Length";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Choice;
    use crate::http::{Links, Refusal, answer};
    use crate::messages::MsgServInfo;

    fn response(choice: Choice<'_>) -> Vec<u8> {
        let links = Links { msfs: "http://[::1]/".into(), discovery: String::new() };
        answer(choice, &links)
    }

    fn http(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// What the directory of this package answers is understood once it is whole, and not before.
    #[test]
    fn what_a_directory_answers_is_understood() {
        let info = |ip1: &str, ip2: &str| MsgServInfo {
            ip1: ip1.into(),
            ip2: ip2.into(),
            port: 18000,
            ..MsgServInfo::default()
        };
        for (ip1, ip2, prior, backup) in [
            ("10.0.0.1", "10.0.0.2", "10.0.0.1:18000", "10.0.0.2:18000"),
            ("::1", "im.example", "[::1]:18000", "im.example:18000"),
        ] {
            let expected =
                Target { prior: prior.parse().unwrap(), backup: backup.parse().unwrap() };
            let response = response(Choice::Server(&info(ip1, ip2)));
            for len in 0..response.len() {
                assert_eq!(from_http(&response[..len]), None, "{len} bytes");
            }
            assert_eq!(from_http(&response), Some(Ok(expected.clone())));
            let pdu = MsgServRsp {
                result_code: ResultType::None.into(),
                prior_ip: Some(ip1.into()),
                backup_ip: Some(ip2.into()),
                port: Some(18000),
            };
            assert_eq!(from_pdu(&pdu), Ok(expected));
        }
    }

    /// Why no server is named is understood as well.
    #[test]
    fn refusals_are_understood() {
        for (choice, result, error) in [
            (Choice::NoServer, ResultType::NoMsgServer, AskError::NoServer),
            (Choice::Full, ResultType::MsgServerFull, AskError::Full),
        ] {
            assert_eq!(from_http(&response(choice)), Some(Err(error)));
            let pdu = MsgServRsp { result_code: result.into(), ..MsgServRsp::default() };
            assert_eq!(from_pdu(&pdu), Err(error));
        }
        let refused = Refusal::NotFound.response();
        assert_eq!(from_http(&refused), Some(Err(AskError::Status(404))));
    }

    /// What is no answer is an error and no panic, and nothing is waited for without a limit.
    #[test]
    fn what_is_no_answer_is_an_error() {
        let named = "{\"code\":0,\"priorIP\":\"10.0.0.1\",\"backupIP\":\"10.0.0.1\",\"port\":";
        for bytes in [
            b"nonsense\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\n\r\n{}".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length:-1\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length:8193\r\n\r\n".to_vec(),
            [&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; RESPONSE_LEN_MAX]].concat(),
            http("{"),
            http("{\"code\":3}"),
            http("{\"code\":0}"),
            http(&format!("{named}1}}")),
            http(&format!("{named}\"65536\"}}")),
            http("{\"code\":0,\"priorIP\":\"a b\",\"backupIP\":\"\",\"port\":\"1\"}"),
        ] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(from_http(&bytes), Some(Err(AskError::Unreadable)), "{text}");
        }
        let pdu = MsgServRsp { port: Some(65536), ..MsgServRsp::default() };
        assert_eq!(from_pdu(&pdu), Err(AskError::Unreadable));
    }
}
