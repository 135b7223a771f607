//! The server under load: which addresses are allowed, how a connection to it is made, plain or with TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection that is not up by then has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum TargetError {
    #[error("{host} cannot be resolved: {cause}")]
    Unresolved { host: String, cause: io::Error },
    #[error("{host} resolves to no address")]
    NoAddress { host: String },
    #[error(
        "{0} is neither loopback nor a private address; add --allow-remote if that server is yours to load"
    )]
    Remote(SocketAddr),
    #[error("several source addresses (--sources {0}) are to be had only toward 127.0.0.0/8")]
    Sources(u8),
}

/// Where to connect to, from where, and how.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    sources: Vec<IpAddr>,
    next_source: AtomicUsize,
    tls: Option<Tls>,
    send_buffer: Option<usize>,
}

/// What is needed for a TLS connection.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Target {
    /// The server at `host` (`name:port`). `sources` is the number of loopback addresses to connect from: each has about
    /// 28,000 ports.
    pub fn new(host: &str, sources: u8, allow_remote: bool, tls: Option<Tls>) -> Result<Self, TargetError> {
        let address = resolve(host)?;
        if !allow_remote && !is_near(address.ip()) {
            return Err(TargetError::Remote(address));
        }
        let sources = match (sources, address.ip()) {
            (0 | 1, _) => Vec::new(),
            (count, IpAddr::V4(ip)) if ip.is_loopback() => {
                (1..=count).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))).collect()
            }
            (count, _) => return Err(TargetError::Sources(count)),
        };
        Ok(Self { address, sources, next_source: AtomicUsize::new(0), tls, send_buffer: None })
    }

    /// Lets the kernel hold so much of what a connection has written; otherwise it is some megabytes, and a run ends long
    /// after its last message was written.
    #[must_use]
    pub fn with_send_buffer(self, bytes: usize) -> Self {
        Self { send_buffer: Some(bytes), ..self }
    }

    /// For the first line of a report.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}{}", self.address, if self.tls.is_some() { ", TLS" } else { "" })
    }

    /// A new connection, its TLS handshake done.
    pub async fn connect(&self) -> io::Result<Stream> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} did not answer in {} s", self.address, CONNECT_TIMEOUT.as_secs()),
            )),
        }
    }

    async fn open(&self) -> io::Result<Stream> {
        let tcp = self.open_tcp().await?;
        tcp.set_nodelay(true)?;
        if let Some(bytes) = self.send_buffer {
            socket2::SockRef::from(&tcp).set_send_buffer_size(bytes)?;
        }
        match &self.tls {
            None => Ok(Stream::Plain(tcp)),
            Some(tls) => {
                let connector = TlsConnector::from(Arc::clone(&tls.config));
                Ok(Stream::Tls(Box::new(connector.connect(tls.name.clone(), tcp).await?)))
            }
        }
    }

    /// Goes through the source addresses in turn, and on to the next one where the ports have run out.
    async fn open_tcp(&self) -> io::Result<TcpStream> {
        if self.sources.is_empty() {
            return TcpStream::connect(self.address).await.map_err(explain);
        }
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for _ in 0..self.sources.len() {
            let turn = self.next_source.fetch_add(1, Ordering::Relaxed) % self.sources.len();
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            let opened = match socket.bind(SocketAddr::new(self.sources[turn], 0)) {
                Ok(()) => socket.connect(self.address).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(stream) => return Ok(stream),
                Err(error) if is_out_of_ports(&error) => last = error,
                Err(error) => return Err(explain(error)),
            }
        }
        Err(explain(last))
    }
}

/// Pure: loopback and private networks, where a load test harms nobody by mistake.
fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn resolve(host: &str) -> Result<SocketAddr, TargetError> {
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(host)
        .map_err(|cause| TargetError::Unresolved { host: host.to_owned(), cause })?;
    addresses
        .min_by_key(|address| !address.is_ipv4())
        .ok_or_else(|| TargetError::NoAddress { host: host.to_owned() })
}

fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

/// Adds what to do to the errors that a load test meets by its own doing.
fn explain(error: io::Error) -> io::Error {
    if is_out_of_ports(&error) {
        return io::Error::new(error.kind(), "source ports have run out: use more --sources");
    }
    error
}

/// A connection as the patterns see it.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_addresses_without_being_asked() {
        let refused = |host| matches!(Target::new(host, 1, false, None), Err(TargetError::Remote(_)));
        assert!(refused("8.8.8.8:1883"));
        assert!(refused("[2001:db8::1]:1883"));
        for host in ["127.0.0.1:1883", "10.77.0.2:1883", "192.168.1.1:1", "[::1]:1883"] {
            assert!(!refused(host), "{host}");
        }
        assert!(Target::new("8.8.8.8:1883", 1, true, None).is_ok());
    }

    #[test]
    fn source_addresses_are_loopback_only() {
        assert!(matches!(Target::new("10.0.0.1:1", 4, false, None), Err(TargetError::Sources(4))));
        assert_eq!(Target::new("127.0.0.1:1", 3, false, None).unwrap().sources.len(), 3);
    }
}
