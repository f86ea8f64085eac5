//! Addresses as users write them: numeric, host names, and Unix-domain paths.
//!
//! Parses and prints; never asks the network. Names are looked up in `resolver.rs`.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::{error, fmt, io};

use socket2::SockAddr;

/// Where to listen or to connect to, and who the two ends of a connection are.
///
/// ```
/// use uring_netlib::Address;
///
/// assert!(matches!("127.0.0.1:7000".parse()?, Address::Ip(_)));
/// assert!(matches!("[::1]:7000".parse()?, Address::Ip(_)));
/// assert!(matches!("chat.example:7000".parse()?, Address::Host { .. }));
/// assert!(matches!("unix:/run/chat.socket".parse()?, Address::Path(_)));
/// assert!(matches!("unix:@chat".parse()?, Address::Abstract(_)));
/// # Ok::<(), uring_netlib::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// IPv4 or IPv6, numeric.
    Ip(SocketAddr),
    /// A host name, for `connect`: it is resolved off the loop's thread.
    Host {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
    /// A Unix-domain socket with a path, written `unix:/path`.
    Path(PathBuf),
    /// A Unix-domain socket in the abstract name space, written `unix:@name`.
    Abstract(Vec<u8>),
    /// The unnamed end of a Unix-domain connection.
    Unnamed,
}

impl Address {
    /// The address as the kernel takes it; `None` for host names and the unnamed.
    pub(crate) fn to_kernel(&self) -> io::Result<Option<SockAddr>> {
        match self {
            Self::Ip(address) => Ok(Some((*address).into())),
            Self::Path(path) => SockAddr::unix(path).map(Some),
            Self::Abstract(name) => {
                use std::os::unix::ffi::OsStrExt;
                let zeroed = [&[0], name.as_slice()].concat();
                SockAddr::unix(std::ffi::OsStr::from_bytes(&zeroed)).map(Some)
            }
            Self::Host { .. } | Self::Unnamed => Ok(None),
        }
    }

    pub(crate) fn from_kernel(address: &SockAddr) -> Self {
        if let Some(address) = address.as_socket() {
            return Self::Ip(address);
        }
        match (address.as_pathname(), address.as_abstract_namespace()) {
            (Some(path), _) => Self::Path(path.to_owned()),
            (None, Some(name)) => Self::Abstract(name.to_vec()),
            (None, None) => Self::Unnamed,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(name) = text.strip_prefix("unix:@") {
            return bounded(name).map(|name| Self::Abstract(name.as_bytes().to_vec()));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return bounded(path).map(|path| Self::Path(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (name, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        let port = port.parse().map_err(|_| AddressError::BadPort)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_name) {
            return Err(AddressError::BadName);
        }
        Ok(Self::Host { name: name.to_owned(), port })
    }
}

fn bounded(name: &str) -> Result<&str, AddressError> {
    match name.len() {
        0 | UNIX_LEN_MAX.. => Err(AddressError::BadPath),
        _ => Ok(name),
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<(Ipv4Addr, u16)> for Address {
    fn from(address: (Ipv4Addr, u16)) -> Self {
        Self::Ip(address.into())
    }
}

impl From<(Ipv6Addr, u16)> for Address {
    fn from(address: (Ipv6Addr, u16)) -> Self {
        Self::Ip(address.into())
    }
}

impl From<&Self> for Address {
    fn from(address: &Self) -> Self {
        address.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
            Self::Unnamed => f.write_str("unix:"),
        }
    }
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no `:port`.
    NoPort,
    /// The port is no number from 0 to 65535.
    BadPort,
    /// The host is empty, over 253 bytes, or has a character that host names have not. An IPv6
    /// address stands in brackets.
    BadName,
    /// The Unix-domain name is empty or over 107 bytes.
    BadPath,
    /// A listener, or a simulated network, needs a numeric address, not a host name.
    NotNumeric,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPort => "the address has no port; write host:port",
            Self::BadPort => "the port is no number from 0 to 65535",
            Self::BadName => "the host is no name; write IPv6 addresses as [::1]:7000",
            Self::BadPath => "a Unix-domain name has 1 to 107 bytes",
            Self::NotNumeric => "a numeric address is needed here",
        })
    }
}

impl error::Error for AddressError {}

impl From<std::convert::Infallible> for AddressError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

const NAME_LEN_MAX: usize = 253;
/// The first length that does not fit into `sun_path` with its terminator.
const UNIX_LEN_MAX: usize = 108;

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed is parsed to the same address.
    #[test]
    fn an_address_reads_what_it_prints() {
        for text in ["127.0.0.1:0", "[::1]:65535", "a-b.example:80", "unix:/tmp/x", "unix:@x y"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    /// Text that is no address is refused with the reason.
    #[test]
    fn text_that_is_no_address_is_refused() {
        let refused = [
            ("", AddressError::NoPort),
            ("localhost", AddressError::NoPort),
            ("localhost:", AddressError::BadPort),
            ("localhost:65536", AddressError::BadPort),
            (":80", AddressError::BadName),
            ("a b:80", AddressError::BadName),
            ("::1:80", AddressError::BadName),
            ("unix:", AddressError::BadPath),
            ("unix:@", AddressError::BadPath),
        ];
        for (text, error) in refused {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
        let long = format!("unix:{}", "x".repeat(108));
        assert_eq!(long.parse::<Address>(), Err(AddressError::BadPath));
        let longest = format!("unix:/{}", "x".repeat(106));
        let address: Address = longest.parse().unwrap();
        assert!(address.to_kernel().unwrap().is_some(), "107 bytes fit");
    }
}
