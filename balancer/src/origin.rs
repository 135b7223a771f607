//! Where a client comes from, as its server is told in a PROXY header.

use std::io;

use nsd_edge::proxy_header::{ClientTls, Extras, ProxyHeader, write_v1, write_v2};
use nsd_edge::tls::{TlsStream, identity};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::settings::ProxyVersion;

/// A client's stream, which knows how the client came.
pub(crate) trait Origin {
    fn socket(&self) -> &TcpStream;

    fn is_tls(&self) -> bool;

    /// What there is to tell besides addresses.
    fn extras(&self) -> Extras;

    /// What its handshake has agreed on, if there was one.
    fn agreed(&self) -> Option<Box<Agreed>>;
}

/// What client and balancer have agreed on in a TLS handshake, for the access log.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) version: &'static str,
    pub(crate) cipher: Option<String>,
    pub(crate) group: Option<&'static str>,
    /// That the client asked for.
    pub(crate) server_name: Option<String>,
    pub(crate) resumed: bool,
}

impl Origin for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn is_tls(&self) -> bool {
        false
    }

    /// Says that there is no TLS: a server must not take silence for the balancer's word.
    fn extras(&self) -> Extras {
        Extras { tls: Some(ClientTls::default()), ..Extras::default() }
    }

    fn agreed(&self) -> Option<Box<Agreed>> {
        None
    }
}

impl Origin for TlsStream {
    fn socket(&self) -> &TcpStream {
        self.socket()
    }

    fn is_tls(&self) -> bool {
        true
    }

    fn extras(&self) -> Extras {
        let common_name = identity(self).map(String::from);
        let certified = common_name.is_some();
        let tls = ClientTls {
            over_tls: true,
            certificate_now: certified && !self.is_resumed(),
            certificate_before: certified && self.is_resumed(),
            verified: certified,
            version: Some(format!("TLSv{}", self.version())),
            common_name,
            certificate: self.certificate().filter(|_| certified).map(|certificate| certificate.to_vec()),
        };
        Extras { authority: self.server_name().map(str::to_owned), tls: Some(tls), ..Extras::default() }
    }

    fn agreed(&self) -> Option<Box<Agreed>> {
        Some(Box::new(Agreed {
            version: self.version(),
            cipher: self.cipher_suite(),
            group: self.group(),
            server_name: self.server_name().map(str::to_owned),
            resumed: self.is_resumed(),
        }))
    }
}

/// Says to a server whose connection this is.
pub(crate) async fn tell(
    server: &mut TcpStream,
    version: ProxyVersion,
    mut header: ProxyHeader,
) -> io::Result<()> {
    if version == ProxyVersion::V2
        && let ProxyHeader::Proxied { extras, .. } = &mut header
    {
        // Ten times as long with it, and few servers look at more than the name.
        extras.tls.iter_mut().for_each(|tls| tls.certificate = None);
    }
    let mut bytes = Vec::new();
    match version {
        ProxyVersion::V1 => write_v1(&header, &mut bytes),
        ProxyVersion::V2 | ProxyVersion::V2Certificate => write_v2(&header, &mut bytes),
    }
    server.write_all(&bytes).await
}
