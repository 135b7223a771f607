//! The server's own certificates: combined PEM files → which key answers to which name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{TlsError, TlsProblem};

/// A PEM file larger than this is something else, or a list of revoked certificates that belongs into a database.
const MAX_PEM: u64 = 16 * 1024 * 1024;

/// All certificates of one moment.
#[derive(Debug)]
pub(super) struct CertificateSet {
    /// Lower-case names, `*.` wildcards as written; each with its keys, ECDSA first. Never an empty list.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that name nobody we know: the first file, and its twins of another key type.
    pub(super) default: Vec<Arc<CertifiedKey>>,
}

impl CertificateSet {
    pub(super) fn load(paths: &[PathBuf], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        let mut default: Option<(Vec<String>, Vec<Arc<CertifiedKey>>)> = None;
        for path in pem_files(paths)? {
            let (names, key) =
                load_file(&path, provider).map_err(|problem| TlsError { path: path.clone(), problem })?;
            let key = Arc::new(key);
            for name in &names {
                by_name.entry(name.clone()).or_default().push(Arc::clone(&key));
            }
            let (first, twins) = default.get_or_insert_with(|| (names.clone(), Vec::new()));
            if *first == names {
                twins.push(key);
            }
        }
        let Some((_names, mut default)) = default else {
            return Err(TlsError { path: first(paths), problem: TlsProblem::NothingConfigured });
        };
        by_name.values_mut().chain([&mut default]).for_each(|keys| keys.sort_by_key(|key| is_rsa(key)));
        Ok(Self { by_name, default })
    }

    /// The names all of them are valid for, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.by_name.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Each certificate once, as its owner knows it.
    pub(super) fn all(&self) -> Vec<OwnCertificate> {
        let mut keys: Vec<_> = self.by_name.values().chain([&self.default]).flatten().collect();
        keys.sort_unstable_by_key(|key| Arc::as_ptr(key).addr());
        keys.dedup_by_key(|key| Arc::as_ptr(key).addr());
        let leaves = keys.into_iter().filter_map(|key| key.cert.first());
        let mut all: Vec<_> = leaves.map(OwnCertificate::of).collect();
        all.sort_unstable_by(|one, other| one.names.cmp(&other.names));
        all
    }

    fn for_name(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name else { return &self.default };
        let name = name.to_ascii_lowercase();
        let wildcard = || {
            let (_first_label, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.default)
    }
}

/// One certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    pub names: Vec<String>,
    /// Seconds since 1970; `None` for one whose dates cannot be read.
    pub ends: Option<i64>,
}

impl OwnCertificate {
    fn of(leaf: &CertificateDer<'_>) -> Self {
        let parsed = x509_parser::parse_x509_certificate(leaf).ok();
        Self {
            names: names_of(leaf),
            ends: parsed.map(|(_, parsed)| parsed.validity().not_after.timestamp()),
        }
    }
}

/// What rustls asks during each handshake.
impl ResolvesServerCert for CertificateSet {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.for_name(hello.server_name());
        let takes = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(takes).map(Arc::clone)
    }
}

/// Directories become their `.pem` files. Other files in them are left alone: a key beside its combined file is common.
fn pem_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, TlsError> {
    let mut files = Vec::new();
    for path in paths {
        let fail = |problem| TlsError { path: path.clone(), problem };
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|error| fail(error.into()))? {
            let file = entry.map_err(|error| fail(error.into()))?.path();
            if file.extension().is_some_and(|extension| extension == "pem") && file.is_file() {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(fail(TlsProblem::EmptyDirectory));
        }
        found.sort_unstable();
        files.append(&mut found);
    }
    Ok(files)
}

/// What is wrong with each of the files.
pub(super) fn problems(paths: &[PathBuf], provider: &CryptoProvider) -> Vec<TlsError> {
    let mut found = Vec::new();
    for path in paths {
        match pem_files(std::slice::from_ref(path)) {
            Ok(files) => found.extend(files.into_iter().filter_map(|path| {
                let problem = load_file(&path, provider).err()?;
                Some(TlsError { path, problem })
            })),
            Err(error) => found.push(error),
        }
    }
    found
}

/// One combined PEM file → the names it serves and its key with the chain, the key's own certificate first.
pub(super) fn load_file(
    path: &Path,
    provider: &CryptoProvider,
) -> Result<(Vec<String>, CertifiedKey), TlsProblem> {
    let (mut chain, mut keys) = read_pem(path)?;
    let key = match (chain.is_empty(), keys.len()) {
        (true, _) => return Err(TlsProblem::NoCertificate),
        (_, 0) => return Err(TlsProblem::NoKey),
        (_, 1) => keys.swap_remove(0),
        (_, many) => return Err(TlsProblem::ManyKeys(many)),
    };
    let key = provider.key_provider.load_private_key(key).map_err(TlsProblem::Key)?;
    let public = key.public_key();
    let mut leaf = None;
    for (at, certificate) in chain.iter().enumerate() {
        let owns = match webpki::EndEntityCert::try_from(certificate) {
            Ok(parsed) => public
                .as_ref()
                .is_none_or(|public| parsed.subject_public_key_info().as_ref() == public.as_ref()),
            // `openssl x509 -req -signkey` writes version 1; clients take it, so only webpki's checks are lost.
            Err(webpki::Error::UnsupportedCertVersion) => chain.len() == 1,
            Err(error) => return Err(TlsProblem::Certificate(error.to_string())),
        };
        if owns {
            leaf = Some(at);
            break;
        }
    }
    chain.swap(0, leaf.ok_or(TlsProblem::KeyMismatch)?);
    let names = names_of(&chain[0]);
    Ok((names, CertifiedKey::new(chain, key)))
}

/// What a PEM file holds: its certificates and its private keys.
pub(super) type Pem = (Vec<CertificateDer<'static>>, Vec<PrivateKeyDer<'static>>);

pub(super) fn read_pem(path: &Path) -> Result<Pem, TlsProblem> {
    let text = read_text(path)?;
    let broken = |error: rustls_pki_types::pem::Error| TlsProblem::Pem(error.to_string());
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(broken)?;
    let keys = PrivateKeyDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(broken)?;
    Ok((certificates, keys))
}

pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, TlsProblem> {
    if std::fs::metadata(path)?.len() > MAX_PEM {
        return Err(TlsProblem::TooLarge(MAX_PEM));
    }
    Ok(std::fs::read(path)?)
}

fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

pub(super) fn is_rsa(key: &CertifiedKey) -> bool {
    key.key.algorithm() == SignatureAlgorithm::RSA
}

pub(super) fn first(paths: &[PathBuf]) -> PathBuf {
    paths.first().cloned().unwrap_or_default()
}
