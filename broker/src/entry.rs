//! How connections of one listener begin: everything before the first byte of MQTT.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use nsd_edge::proxy_header::{self, ProxyHeader};
use nsd_edge::stream::Stream;
use nsd_edge::tls::{HANDSHAKE_TIMEOUT, TlsError, TlsServer};
use tracing::{debug, info};

use crate::connection::Peer;
use crate::settings::Listen;

/// What a listener asks of a connection.
pub struct Entry {
    pub tls: Option<Arc<TlsServer>>,
    proxy_protocol: bool,
}

impl Entry {
    pub fn new(listen: &Listen) -> Result<Self, TlsError> {
        let tls = match listen.certificates.is_empty() {
            true => None,
            false => Some(Arc::new(TlsServer::load(&listen.certificates)?)),
        };
        Ok(Self { tls, proxy_protocol: listen.proxy_protocol })
    }

    /// `None`: what it asks for did not come, and the connection is closed.
    pub async fn open(&self, socket: TcpStream, address: SocketAddr) -> Option<(Stream, Peer)> {
        let mut socket = tokio::net::TcpStream::from_std(socket).ok()?;
        let mut peer = Peer { address, certified: None };
        if self.proxy_protocol {
            match proxy_header::read(&mut socket).await {
                Ok(ProxyHeader::Proxied { source, .. }) => peer.address = source,
                Ok(ProxyHeader::Local) => {}
                Err(error) => {
                    info!(peer = %address, %error, "no PROXY header, closed");
                    return None;
                }
            }
        }
        let Some(tls) = &self.tls else { return Some((Stream::from(socket), peer)) };
        // Boxed: the handshake's future is large and soon over.
        match Box::pin(tls.handshake(socket, HANDSHAKE_TIMEOUT)).await {
            Ok(stream) => Some((Stream::Tls(Box::new(stream)), peer)),
            Err(error) => {
                debug!(peer = %peer.address, %error, "no TLS handshake, closed");
                None
            }
        }
    }
}
