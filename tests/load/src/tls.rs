//! How the load's TLS clients greet: which authority they trust, which key exchange they offer, never a resumption.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error as ThisError;

use crate::target::Tls;

#[derive(Debug, ThisError)]
pub enum TlsError {
    #[error("{}: {cause}", path.display())]
    Authority { path: PathBuf, cause: rustls_pki_types::pem::Error },
    #[error("{}: no certificate inside", path.display())]
    Empty { path: PathBuf },
    #[error("{0} is not a server name")]
    Name(String),
    #[error("TLS cannot be set up: {0}")]
    Config(#[from] Error),
}

/// Whom to trust.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// The certificates of a PEM file.
    Authority(&'a Path),
    /// Anybody; for servers of this machine's own benchmarks.
    Anybody,
}

/// The client side of TLS toward the server `name`; `x25519_only` leaves out the post-quantum groups, which peers may lack.
pub fn client(name: &str, trust: Trust<'_>, x25519_only: bool) -> Result<Tls, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    if x25519_only {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    }
    let provider = Arc::new(provider);
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = match trust {
        Trust::Authority(path) => builder.with_root_certificates(authorities(path)?).with_no_client_auth(),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_no_client_auth(),
    };
    // Every handshake is a full one, as each is to cost the same.
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
    Ok(Tls { config: Arc::new(config), name })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let refused = |cause| TlsError::Authority { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(refused)? {
        roots.add(certificate.map_err(refused)?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(roots)
}

/// Takes any certificate, yet checks signatures: the handshake costs the server what a checked one does.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
