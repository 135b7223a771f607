//! Client certificates: who may come (authorities, lists of the revoked), and whom a certificate names.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificates::{authorities, read_text};
use super::{ClientCertificates, TlsError, TlsProblem};

/// The longest name that is taken: X.509 itself allows 64 for a common name, a URI may be longer.
const LONGEST_NAME: usize = 255;

/// The judge of one moment's files.
pub(super) fn verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = authorities(&clients.authorities)?;
    let mut revoked = Vec::new();
    for path in &clients.revoked {
        revoked.extend(read_revoked(path).map_err(|problem| TlsError { path: path.clone(), problem })?);
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        // With any list, there must be one of each authority in a client's chain: what is not known to be good is bad.
        .with_crls(revoked)
        // The names of all authorities in each handshake would be for browsers that must choose: a device has one.
        .clear_root_hint_subjects();
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    let path = clients.revoked.first().or(clients.authorities.first()).cloned().unwrap_or_default();
    builder.build().map_err(|error| TlsError { path, problem: TlsProblem::Authorities(error.to_string()) })
}

fn read_revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsProblem> {
    let text = read_text(path)?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|error| TlsProblem::Pem(error.to_string()))?;
    if lists.is_empty() { Err(TlsProblem::NoRevocationList) } else { Ok(lists) }
}

/// What is wrong with a certificate that was verified once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired;

/// Whom a verified certificate names: its subject's (first) common name, else its first DNS name, URI or e-mail address,
/// in this order. `None`: nobody that one could write into a log. A resumed session is not verified anew, so the time is
/// looked at here again.
pub(super) fn identity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<Option<Box<str>>, Expired> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Ok(None) };
    if certificate.validity().not_after.timestamp() < i64::try_from(now.as_secs()).unwrap_or(i64::MAX) {
        return Err(Expired);
    }
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = common_name.filter(|name| is_usable(name)).or_else(|| alternative(&certificate));
    Ok(name.map(Box::from))
}

fn alternative<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c str> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let first = |pick: fn(&'c GeneralName<'c>) -> Option<&'c str>| {
        names.iter().filter_map(pick).find(|name| is_usable(name))
    };
    let dns = first(|name| if let GeneralName::DNSName(name) = name { Some(name) } else { None });
    let uri = || first(|name| if let GeneralName::URI(name) = name { Some(name) } else { None });
    let mail = || first(|name| if let GeneralName::RFC822Name(name) = name { Some(name) } else { None });
    dns.or_else(uri).or_else(mail)
}

fn is_usable(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
