//! Clients on slow radio links, and what cuts packets on the way: all that is read before a server is chosen comes byte by
//! byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nsd_edge::proxy_header::{ProxyHeader, write_v1, write_v2};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::tls::{NAME, Place};
use crate::support::{Broker, CHECK, Client};

/// Sends a byte, lets others work, sends the next.
struct ByteByByte {
    stream: TcpStream,
    paused: bool,
}

impl ByteByByte {
    async fn connect(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, paused: false }
    }
}

impl AsyncRead for ByteByByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.paused = !self.paused;
        if self.paused {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, &from[..from.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[tokio::test]
async fn headers_handshakes_and_connects_that_come_byte_by_byte_are_understood() {
    let header =
        ProxyHeader::proxied("192.0.2.7:4711".parse().unwrap(), "198.51.100.1:8883".parse().unwrap());
    let (mut one, mut two) = (Vec::new(), Vec::new());
    write_v1(&header, &mut one);
    write_v2(&header, &mut two);
    let behind = "proxy_protocol = true\nproxy_from = [\"127.0.0.1\"]";
    for (options, headers) in [("", vec![Vec::new()]), (behind, vec![one, two])] {
        let b1 = Broker::start("b1").await;
        let secure = Place::new().start(&format!("mode = \"mqtt\"\n{options}\n{CHECK}"), "", &[&b1]).await;
        for header in &headers {
            let mut stream = ByteByByte::connect(secure.balancer.address).await;
            stream.write_all(header).await.unwrap();
            let mut client = Client::over_as(stream, "plain").await.expect("in the clear");
            client.echo(b"and what follows").await.unwrap();

            let mut stream = ByteByByte::connect(secure.tls).await;
            stream.write_all(header).await.unwrap();
            let connector = TlsConnector::from(Arc::clone(&secure.authority.client_config(None)));
            let name = ServerName::try_from(NAME).unwrap();
            let stream = connector.connect(name, stream).await.expect("a handshake");
            let mut client = Client::over_as(stream, "secret").await.expect("over TLS");
            client.echo(b"and what follows").await.unwrap();
        }
        drop(headers);
        let source = if options.is_empty() { "client=127.0.0.1:" } else { "client=192.0.2.7:4711" };
        for id in ["plain", "secret"] {
            secure.balancer.wait_for_log(&format!("id=\"{id}\"")).await;
        }
        let log = secure.balancer.log();
        let mut sessions = log.lines().filter(|line| line.contains("id=\""));
        assert!(sessions.all(|line| line.contains(source)), "{log}");
    }
}
