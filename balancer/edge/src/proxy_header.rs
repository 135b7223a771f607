//! PROXY protocol, version 1 (a text line) and 2 (binary): the first bytes of a connection that tell the real client's
//! address. Parsing and writing are pure; [`read`] takes exactly the header from a socket and not one byte more, so that
//! a TLS handshake may follow. Follows `doc/proxy-protocol.txt` of HAProxy.

mod extras;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use extras::{ClientTls, Extras, LONGEST_CERTIFICATE, LONGEST_UNIQUE_ID, LONGEST_VALUE};

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest version 1 line the specification allows, with its CR LF.
const V1_MAX: usize = 107;
/// Version 2 allows 64 KiB of extensions; ours and those of the known clouds stay far below this.
const V2_MAX_BODY: usize = 4096;
/// A balancer sends the header at once; waiting longer only serves who connects to us directly.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Whom a connection is really from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy's own connection, a check for instance, or a family we cannot name: use the socket's addresses.
    Local,
    Proxied {
        source: SocketAddr,
        destination: SocketAddr,
        /// Version 2 only.
        extras: Box<Extras>,
    },
}

impl ProxyHeader {
    /// Addresses, and nothing else.
    pub fn proxied(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::Proxied { source, destination, extras: Box::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProxyHeaderError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("no complete PROXY header within {}s", TIMEOUT.as_secs())]
    TimedOut,
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The header at the front of `bytes` and its length. `Ok(None)`: all of `bytes` belongs to a header that is not complete.
pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    if begins_like(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins_like(bytes, b"PROXY ") {
        parse_v1(bytes)
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

/// Whether `bytes` and `prefix` agree as far as both go.
fn begins_like(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, wanted)| byte == wanted)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    use ProxyHeaderError::Malformed;
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        return if window.len() < V1_MAX { Ok(None) } else { Err(Malformed("a line longer than 107 bytes")) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(Malformed("a line that does not end in CR LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some((ProxyHeader::Local, end + 1)));
    }
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) =
        (address().ok_or(Malformed("source address"))?, address().ok_or(Malformed("destination address"))?);
    let mut port = || words.next().filter(|word| is_plain_number(word)).and_then(|word| word.parse().ok());
    let (from, to) = (port().ok_or(Malformed("source port"))?, port().ok_or(Malformed("destination port"))?);
    if words.next().is_some() {
        return Err(Malformed("more words than expected"));
    }
    let header = ProxyHeader::proxied(SocketAddr::new(source, from), SocketAddr::new(destination, to));
    Ok(Some((header, end + 1)))
}

/// Rust's number parser takes a leading `+`; the specification does not.
fn is_plain_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    use ProxyHeaderError::Malformed;
    let Some((head, rest)) = bytes.split_at_checked(16) else { return Ok(None) };
    let body = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if body > V2_MAX_BODY {
        return Err(Malformed("longer than 4096 bytes"));
    }
    let local = match head[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("version or command")),
    };
    let Some(body) = rest.get(..body) else { return Ok(None) };
    let used = 16 + body.len();
    if local {
        return Ok(Some((ProxyHeader::Local, used)));
    }
    let (source, destination, length) = match head[13] {
        0x11 => {
            let [a, b, c, d, e, f, g, h, ports @ ..] =
                body.first_chunk::<12>().ok_or(Malformed("too short for IPv4 addresses"))?;
            let (from, to) = ports_of(*ports);
            let (source, destination) = (Ipv4Addr::new(*a, *b, *c, *d), Ipv4Addr::new(*e, *f, *g, *h));
            (SocketAddr::new(source.into(), from), SocketAddr::new(destination.into(), to), 12)
        }
        0x21 => {
            let body = body.first_chunk::<36>().ok_or(Malformed("too short for IPv6 addresses"))?;
            let address = |at: usize| {
                let octets: [u8; 16] = std::array::from_fn(|byte| body[at + byte]);
                IpAddr::from(octets)
            };
            let (from, to) = ports_of([body[32], body[33], body[34], body[35]]);
            (SocketAddr::new(address(0), from), SocketAddr::new(address(16), to), 36)
        }
        // Unspecified, datagram or unix: the specification lets a receiver use the socket's own addresses.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => return Ok(Some((ProxyHeader::Local, used))),
        _ => return Err(Malformed("address family")),
    };
    let extras = Box::new(Extras::parse(&bytes[..used], 16 + length)?);
    Ok(Some((ProxyHeader::Proxied { source, destination, extras }, used)))
}

fn ports_of([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Appends a version 1 header.
pub fn write_v1(header: &ProxyHeader, out: &mut Vec<u8>) {
    let line = match same_family(header) {
        Some((source, destination)) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!(
                "PROXY {family} {} {} {} {}\r\n",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            )
        }
        None => "PROXY UNKNOWN\r\n".to_owned(),
    };
    out.extend_from_slice(line.as_bytes());
}

/// Appends a version 2 header: with extras, they are followed by a checksum of the whole.
pub fn write_v2(header: &ProxyHeader, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(V2_SIGNATURE);
    let Some((source, destination)) = same_family(header) else {
        out.extend_from_slice(&[0x20, 0x00, 0, 0]);
        return;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        _ => unreachable!("same_family returns two addresses of one family"),
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    if let ProxyHeader::Proxied { extras, .. } = header {
        let mut values = Vec::new();
        extras.write(&mut out[start..], &mut values);
        out.append(&mut values);
    }
}

/// Both addresses in one family: where they differ, IPv4 is written as IPv6.
fn same_family(header: &ProxyHeader) -> Option<(SocketAddr, SocketAddr)> {
    let &ProxyHeader::Proxied { source, destination, .. } = header else { return None };
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if source.is_ipv4() == destination.is_ipv4() {
        Some((source, destination))
    } else {
        Some((mapped(source), mapped(destination)))
    }
}

/// Reads exactly one header, looking before taking.
pub async fn read(socket: &mut TcpStream) -> Result<ProxyHeader, ReadError> {
    timeout(TIMEOUT, read_header(socket)).await.unwrap_or(Err(ReadError::TimedOut))
}

async fn read_header(socket: &mut TcpStream) -> Result<ProxyHeader, ReadError> {
    let mut bytes = Vec::with_capacity(128);
    let mut peeked = [0; 512];
    loop {
        let available = socket.peek(&mut peeked).await?;
        if available == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let before = bytes.len();
        bytes.extend_from_slice(&peeked[..available]);
        // Incomplete means that all of it is header, so taking it is right.
        let parsed = parse(&bytes)?;
        let take = parsed.as_ref().map_or(available, |(_, length)| length - before);
        socket.read_exact(&mut peeked[..take]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests;
