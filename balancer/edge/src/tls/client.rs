//! The client's side of TLS.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

use super::certificates::read_pem;
use super::{TlsError, TlsProblem};

/// The client's side of TLS, for checks of servers.
#[derive(Clone)]
pub struct TlsClient {
    connector: TlsConnector,
}

impl TlsClient {
    /// Trusts exactly the certificates in `authorities`, a PEM file.
    pub fn trusting(authorities: &Path) -> Result<Self, TlsError> {
        let fail = |problem| TlsError { path: authorities.to_owned(), problem };
        let (certificates, _keys) = read_pem(authorities).map_err(fail)?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| fail(TlsProblem::Certificate(error.to_string())))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(TlsProblem::Setup(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    pub async fn handshake(
        &self,
        name: ServerName<'static>,
        socket: TcpStream,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        self.connector.connect(name, socket).await
    }
}
