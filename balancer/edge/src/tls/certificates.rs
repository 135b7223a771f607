//! The server's own certificates: combined PEM files → which key answers to which name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroizing;

use super::staple::{self, Staple};
use super::{TlsError, TlsProblem};
use crate::secret_file::{self, Readers};

/// A PEM file larger than this is something else, or a list of revoked certificates that belongs into a database.
const MAX_PEM: u64 = 16 * 1024 * 1024;

/// All certificates of one moment.
#[derive(Debug)]
pub(super) struct CertificateSet {
    /// Lower-case names, `*.` wildcards as written; each with its keys, ECDSA first. Never an empty list.
    by_name: HashMap<String, Vec<Arc<Own>>>,
    /// For clients that name nobody we know: the first file, and its twins of another key type.
    pub(super) default: Vec<Arc<Own>>,
}

/// One file's certificate and key.
#[derive(Debug)]
pub(super) struct Own {
    about: OwnCertificate,
    key: Arc<CertifiedKey>,
    /// The same with an OCSP response, and until when, in seconds since 1970, that is good for something.
    stapled: Option<(Arc<CertifiedKey>, i64)>,
}

impl CertificateSet {
    pub(super) fn load(paths: &[PathBuf], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut by_name: HashMap<String, Vec<Arc<Own>>> = HashMap::new();
        let mut default: Vec<Arc<Own>> = Vec::new();
        for path in pem_files(paths)? {
            let key =
                load_file(&path, provider).map_err(|problem| TlsError { path: path.clone(), problem })?;
            let own = Arc::new(Own::of(path, key));
            for name in &own.about.names {
                by_name.entry(name.clone()).or_default().push(Arc::clone(&own));
            }
            if default.first().is_none_or(|first| first.about.names == own.about.names) {
                default.push(own);
            }
        }
        if default.is_empty() {
            return Err(TlsError { path: first(paths), problem: TlsProblem::NothingConfigured });
        }
        by_name.values_mut().chain([&mut default]).for_each(|all| all.sort_by_key(|own| own.is_rsa()));
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
        let own = self.by_name.values().chain([&self.default]).flatten();
        let mut all: Vec<_> = own.map(|own| own.about.clone()).collect();
        all.sort_unstable_by(|one, other| (&one.names, &one.file).cmp(&(&other.names, &other.file)));
        all.dedup_by(|one, other| one.file == other.file);
        all
    }

    fn for_name(&self, name: Option<&str>) -> &[Arc<Own>] {
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
    pub file: PathBuf,
    pub names: Vec<String>,
    /// Seconds since 1970; `None` for one whose dates cannot be read.
    pub ends: Option<i64>,
    /// Whether there is an OCSP response beside it.
    pub ocsp: Ocsp,
}

/// The OCSP response of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ocsp {
    /// There is no file.
    None,
    /// Shown to clients that ask for it until then (seconds since 1970; `None`: for ever).
    Until(Option<i64>),
    /// There is one, and it is of no use.
    Unusable(String),
}

impl Own {
    fn of(file: PathBuf, key: CertifiedKey) -> Self {
        let leaf = key.cert.first();
        let parsed = leaf.and_then(|leaf| x509_parser::parse_x509_certificate(leaf).ok());
        let beside = staple::path_of(&file);
        let staple = leaf.map_or(Ok(None), |leaf| staple::read(&beside, leaf, now()));
        let mut about = OwnCertificate {
            names: leaf.map(names_of).unwrap_or_default(),
            ends: parsed.map(|(_, parsed)| parsed.validity().not_after.timestamp()),
            ocsp: Ocsp::None,
            file,
        };
        let stapled = match staple {
            Ok(staple) => staple.map(|Staple { response, until }| {
                about.ocsp = Ocsp::Until((until < i64::MAX).then_some(until));
                (Arc::new(CertifiedKey { ocsp: Some(response), ..key.clone() }), until)
            }),
            Err(problem) => {
                about.ocsp = Ocsp::Unusable(format!("{}: {problem}", beside.display()));
                None
            }
        };
        Self { about, key: Arc::new(key), stapled }
    }

    /// What a client is shown.
    fn shown(&self) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, until)) if *until > now() => Arc::clone(stapled),
            _ => Arc::clone(&self.key),
        }
    }

    pub(super) fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

/// What rustls asks during each handshake.
impl ResolvesServerCert for CertificateSet {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.for_name(hello.server_name());
        let takes = |own: &&Arc<Own>| own.key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(takes).map(|own| own.shown())
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

/// One combined PEM file → its key with the chain, the key's own certificate first.
pub(super) fn load_file(path: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsProblem> {
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
    Ok(CertifiedKey::new(chain, key))
}

/// Those that are believed in: every certificate of the files, at least one of each.
pub(super) fn authorities(files: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in files {
        let fail = |problem| TlsError { path: path.clone(), problem };
        let (certificates, _keys) = read_pem(path).map_err(fail)?;
        if certificates.is_empty() {
            return Err(fail(TlsProblem::NoAuthority));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| fail(TlsProblem::Certificate(error.to_string())))?;
        }
    }
    Ok(roots)
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

/// Private keys may be in it. Who else may read it, the operator's own tools decide.
pub(super) fn read_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsProblem> {
    Ok(secret_file::read(path, MAX_PEM, Readers::Any)?)
}

fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

pub(super) fn first(paths: &[PathBuf]) -> PathBuf {
    paths.first().cloned().unwrap_or_default()
}
