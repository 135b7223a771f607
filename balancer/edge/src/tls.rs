//! TLS: certificates from combined PEM files → handshakes. Each file holds one private key and its chain in any order
//! (`cat x.crt x.key > x.pem`). The client's SNI chooses among them, ECDSA before RSA where it takes both; who asks for
//! no known name gets the first file's. A change is loaded and validated as a whole, then swapped; a bad file keeps the
//! old set. Established connections keep what they have.
//!
//! rustls speaks TLS 1.2 (AEAD with ECDHE only) and 1.3: devices with older stacks cannot connect.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tracing::{info, warn};

use crate::drain::Watch;
use crate::watch::FileWatch;

/// A handshake that takes longer is given up: the client is silent, or slow on purpose.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Encrypted bytes that rustls may hold for a slow reader; beyond it, writes wait.
const SEND_BUFFER: usize = 32 * 1024;
/// A PEM file larger than this is something else.
const MAX_PEM: u64 = 1024 * 1024;

#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsError {
    pub path: PathBuf,
    pub problem: TlsProblem,
}

#[derive(Debug, Error)]
pub enum TlsProblem {
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
    #[error("the directory holds no .pem file")]
    EmptyDirectory,
    #[error("not a PEM file: {0}")]
    Pem(String),
    #[error("holds no certificate (a combined PEM is made with `cat x.crt x.key > x.pem`)")]
    NoCertificate,
    #[error("holds no private key (a combined PEM is made with `cat x.crt x.key > x.pem`)")]
    NoKey,
    #[error("holds {0} private keys; put each key and its certificate in a file of its own")]
    ManyKeys(usize),
    #[error("the private key is not usable: {0}")]
    Key(rustls::Error),
    #[error("the private key belongs to none of the file's certificates")]
    KeyMismatch,
    #[error("a certificate cannot be parsed: {0}")]
    Certificate(String),
    #[error("larger than {MAX_PEM} bytes")]
    TooLarge,
    #[error("no certificate file is configured")]
    NothingConfigured,
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("no handshake within the deadline")]
    TimedOut,
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// The server's side of TLS. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct TlsServer {
    paths: Vec<PathBuf>,
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
    problem: Mutex<Option<String>>,
}

impl TlsServer {
    /// `paths` are combined PEM files, or directories whose `.pem` files (in name order) are taken.
    pub fn load(paths: &[PathBuf]) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let set = CertificateSet::load(paths, &provider)?;
        let certificates = Arc::new(Certificates { provider, current: ArcSwap::from_pointee(set) });
        let config = server_config(&certificates)
            .map_err(|error| TlsError { path: first(paths), problem: TlsProblem::Setup(error) })?;
        Ok(Self { paths: paths.to_vec(), certificates, config, problem: Mutex::default() })
    }

    /// Loads the files again. On an error the certificates in use stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = CertificateSet::load(&self.paths, &self.certificates.provider);
        *self.problem.lock() = loaded.as_ref().err().map(ToString::to_string);
        self.certificates.current.store(Arc::new(loaded?));
        Ok(())
    }

    /// Why the last reload changed nothing.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Takes over the certificates of `other`, which were loaded from the same files; ticket keys stay.
    pub fn adopt(&self, other: &Self) {
        self.certificates.current.store(other.certificates.current.load_full());
        *self.problem.lock() = None;
    }

    /// Reloads whenever the files change, until the drain begins. Both outcomes are logged.
    pub async fn follow(self: Arc<Self>, mut end: Watch) {
        let mut files = FileWatch::new(&self.paths);
        // What changed between loading and watching would be missed.
        self.reload_and_log("certificates loaded");
        loop {
            tokio::select! {
                () = files.changed() => self.reload_and_log("certificates changed"),
                () = end.draining() => return,
            }
        }
    }

    fn reload_and_log(&self, done: &str) {
        match self.reload() {
            Ok(()) => info!(names = ?self.names(), "{done}"),
            Err(error) => warn!(%error, "certificates not changed, the old ones stay in use"),
        }
    }

    /// The names all current certificates are valid for, sorted.
    pub fn names(&self) -> Vec<String> {
        let current = self.certificates.current.load();
        let mut names: Vec<String> = current.by_name.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The handshake, in a future that is large: run it in a state of its own and keep only its result.
    pub async fn handshake(
        &self,
        socket: TcpStream,
        deadline: Duration,
    ) -> Result<server::TlsStream<TcpStream>, HandshakeError> {
        let bounded =
            |connection: &mut rustls::ServerConnection| connection.set_buffer_limit(Some(SEND_BUFFER));
        let handshake = TlsAcceptor::from(Arc::clone(&self.config)).accept_with(socket, bounded);
        match tokio::time::timeout(deadline, handshake).await {
            Ok(done) => Ok(done?),
            Err(_elapsed) => Err(HandshakeError::TimedOut),
        }
    }
}

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

fn server_config(certificates: &Arc<Certificates>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&certificates.provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
    // Tickets carry the session, so that resumption costs this side no memory; one ticket is enough for a device.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// What rustls asks during each handshake.
#[derive(Debug)]
struct Certificates {
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertificateSet>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.current.load();
        let candidates = set.for_name(hello.server_name());
        let takes = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(takes).map(Arc::clone)
    }
}

/// All certificates of one moment.
#[derive(Debug)]
struct CertificateSet {
    /// Lower-case names, `*.` wildcards as written; each with its keys, ECDSA first. Never an empty list.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For clients that name nobody we know: the first file, and its twins of another key type.
    default: Vec<Arc<CertifiedKey>>,
}

impl CertificateSet {
    fn load(paths: &[PathBuf], provider: &CryptoProvider) -> Result<Self, TlsError> {
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

/// One combined PEM file → the names it serves and its key with the chain, the key's own certificate first.
fn load_file(path: &Path, provider: &CryptoProvider) -> Result<(Vec<String>, CertifiedKey), TlsProblem> {
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

fn read_pem(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Vec<PrivateKeyDer<'static>>), TlsProblem> {
    if std::fs::metadata(path)?.len() > MAX_PEM {
        return Err(TlsProblem::TooLarge);
    }
    let text = std::fs::read(path)?;
    let broken = |error: rustls_pki_types::pem::Error| TlsProblem::Pem(error.to_string());
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(broken)?;
    let keys = PrivateKeyDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(broken)?;
    Ok((certificates, keys))
}

fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

fn is_rsa(key: &CertifiedKey) -> bool {
    key.key.algorithm() == SignatureAlgorithm::RSA
}

fn first(paths: &[PathBuf]) -> PathBuf {
    paths.first().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests;
