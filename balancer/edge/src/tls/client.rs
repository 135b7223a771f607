//! The client's side of TLS: whom it trusts, and what it shows. Changed files make another one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

use super::certificates::{authorities, load_file};
use super::{TlsError, TlsProblem};

/// The client's end of a TLS connection.
pub type TlsToServer = client::TlsStream<TcpStream>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClientSettings {
    /// PEM files: exactly the authorities in them are trusted.
    pub authorities: Vec<PathBuf>,
    /// A combined PEM file, shown to servers that ask for it.
    pub certificate: Option<PathBuf>,
}

/// The client's side of TLS.
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Trusts exactly the certificates in `authorities`, a PEM file.
    pub fn trusting(authorities: &Path) -> Result<Self, TlsError> {
        Self::with(&TlsClientSettings { authorities: vec![authorities.to_owned()], certificate: None })
    }

    pub fn with(settings: &TlsClientSettings) -> Result<Self, TlsError> {
        Ok(Self { config: Arc::new(settings.load()?) })
    }

    /// The handshake: an error of kind `InvalidData` where the server is not whom it should be, or speaks no TLS.
    pub async fn handshake(&self, name: ServerName<'static>, socket: TcpStream) -> io::Result<TlsToServer> {
        TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await
    }
}

impl TlsClientSettings {
    /// Every file that is read.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.authorities.iter().chain(&self.certificate).cloned().collect()
    }

    fn load(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = self.roots()?;
        let identity = self.identity(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.fail(TlsProblem::Setup(error)))?
            .with_root_certificates(roots);
        Ok(match identity {
            Some(identity) => builder.with_client_cert_resolver(identity),
            None => builder.with_no_client_auth(),
        })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let roots = authorities(&self.authorities)?;
        if roots.is_empty() { Err(self.fail(TlsProblem::NoAuthority)) } else { Ok(roots) }
    }

    fn identity(&self, provider: &CryptoProvider) -> Result<Option<Arc<dyn ResolvesClientCert>>, TlsError> {
        let Some(path) = &self.certificate else { return Ok(None) };
        let key = load_file(path, provider).map_err(|problem| TlsError { path: path.clone(), problem })?;
        Ok(Some(Arc::new(SingleCertAndKey::from(key))))
    }

    fn fail(&self, problem: TlsProblem) -> TlsError {
        TlsError { path: super::first(&self.authorities), problem }
    }
}

/// Keys stay out of it.
impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}
