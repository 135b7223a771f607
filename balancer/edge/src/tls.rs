//! TLS: certificates from combined PEM files → handshakes. Each file holds one private key and its chain in any order
//! (`cat x.crt x.key > x.pem`). The client's SNI chooses among them, ECDSA before RSA where it takes both; who asks for
//! no known name gets the first file's. Clients may have to show certificates, too. A change of any file is loaded and
//! validated as a whole, then swapped; a bad file keeps what was. Established connections keep what they have.
//!
//! rustls speaks TLS 1.2 (AEAD with ECDHE only) and 1.3: devices with older stacks cannot connect.

mod certificates;
mod client;
mod clients;
mod settings;
mod staple;
mod stream;
mod tickets;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::UnixTime;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::drain::Watch;
use crate::secret_file::SecretFileError;
use crate::watch::FileWatch;
use certificates::{CertificateSet, first, now};
use tickets::SharedTickets;

pub use certificates::{Ocsp, OwnCertificate};
pub use client::{TlsClient, TlsClientSettings, TlsToServer};
pub use settings::{ClientCertificates, LeastVersion, PostQuantum, TlsSettings};
pub use stream::TlsStream;

/// A certificate that ends within this is warned about: usual clients renew a month before, and have failed for two weeks
/// by then.
const ENDS_SOON: i64 = 14 * DAY;
const DAY: i64 = 24 * 60 * 60;
/// How often certificates are looked at that do not change.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// A handshake that takes longer is given up: the client is silent, or slow on purpose.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[error("holds no certificate of an authority")]
    NoAuthority,
    #[error("holds no list of revoked certificates (`BEGIN X509 CRL`)")]
    NoRevocationList,
    #[error("client certificates cannot be checked: {0}")]
    Authorities(String),
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("line {0} is no key: one line each, 32 to 80 bytes in base64 (`openssl rand -base64 32`)")]
    TicketKey(usize),
    #[error("holds no key for tickets (make one with `openssl rand -base64 32`)")]
    NoTicketKeys,
    #[error("holds {0} keys for tickets; {1} is the most")]
    ManyTicketKeys(usize, usize),
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

/// All that is wrong with the files that the settings name.
pub fn problems(settings: &TlsSettings) -> Vec<TlsError> {
    let provider = Arc::new(provider(settings.post_quantum));
    let mut found = certificates::problems(&settings.certificates, &provider);
    found.extend(settings.clients.as_ref().and_then(|clients| clients::verifier(clients, &provider).err()));
    found.extend(settings.ticket_keys.as_deref().and_then(|path| shared_tickets(path).err()));
    if found.is_empty() {
        // What no single file is to blame for.
        found.extend(Current::load(settings, &provider, None).err());
    }
    found
}

/// The server's side of TLS. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct TlsServer {
    settings: TlsSettings,
    paths: Vec<PathBuf>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Current>,
    problem: Mutex<Option<String>>,
}

/// What handshakes of one moment use.
#[derive(Debug)]
struct Current {
    certificates: Arc<CertificateSet>,
    config: Arc<ServerConfig>,
}

impl TlsServer {
    /// `paths` are combined PEM files, or directories whose `.pem` files (in name order) are taken.
    pub fn load(paths: &[PathBuf]) -> Result<Self, TlsError> {
        Self::with(TlsSettings::of(paths))
    }

    pub fn with(settings: TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(settings.post_quantum));
        let current = Current::load(&settings, &provider, None)?;
        Ok(Self {
            paths: settings.paths(),
            settings,
            provider,
            current: ArcSwap::from_pointee(current),
            problem: Mutex::default(),
        })
    }

    /// Loads the files again. On an error what is in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let tickets = self.tickets();
        let loaded = Current::load(&self.settings, &self.provider, tickets);
        *self.problem.lock() = loaded.as_ref().err().map(ToString::to_string);
        self.current.store(Arc::new(loaded?));
        Ok(())
    }

    /// The ticket keys that outlive a change: sessions made under them may be resumed. Where clients show certificates
    /// none do, since a resumed session is not verified anew and its client may be revoked by now; those from a file are
    /// read anew.
    fn tickets(&self) -> Option<Arc<dyn ProducesTickets>> {
        let keep = self.settings.clients.is_none() && self.settings.ticket_keys.is_none();
        keep.then(|| Arc::clone(&self.current.load().config.ticketer))
    }

    /// Why the last reload changed nothing.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Takes over what `other` loaded from the same files; ticket keys stay.
    pub fn adopt(&self, other: &Self) {
        let theirs = other.current.load();
        let mut config = ServerConfig::clone(&theirs.config);
        if let Some(tickets) = self.tickets() {
            config.ticketer = tickets;
        }
        let certificates = Arc::clone(&theirs.certificates);
        self.current.store(Arc::new(Current { certificates, config: Arc::new(config) }));
        *self.problem.lock() = None;
        self.warn();
    }

    /// Reloads whenever the files change, until the drain begins. Both outcomes are logged.
    pub async fn follow(self: Arc<Self>, mut end: Watch) {
        let mut files = FileWatch::new(&self.paths);
        // What changed between loading and watching would be missed.
        self.reload_and_log("certificates loaded");
        let mut daily = tokio::time::interval(LOOK_AGAIN);
        daily.tick().await;
        loop {
            tokio::select! {
                () = files.changed() => self.reload_and_log("certificates changed"),
                _ = daily.tick() => self.warn(),
                () = end.draining() => return,
            }
        }
    }

    fn reload_and_log(&self, done: &str) {
        match self.reload() {
            Ok(()) => {
                info!(names = ?self.names(), "{done}");
                self.warn();
            }
            Err(error) => warn!(%error, "certificates not changed, the old ones stay in use"),
        }
    }

    /// Says what will soon be wrong with the certificates in use.
    fn warn(&self) {
        let now = now();
        for OwnCertificate { file, names, ends, ocsp } in self.certificates() {
            let file = file.display();
            match ends.map(|ends| ends.saturating_sub(now)) {
                Some(..=0) => warn!(%file, ?names, "the certificate has expired"),
                Some(left @ ..=ENDS_SOON) => {
                    warn!(%file, ?names, days = left / DAY, "the certificate expires soon");
                }
                _ => {}
            }
            match ocsp {
                Ocsp::Unusable(problem) => warn!("OCSP response not shown: {problem}"),
                Ocsp::Until(Some(until)) if until <= now => {
                    warn!(%file, "the OCSP response has expired, and is not shown any more");
                }
                _ => {}
            }
        }
    }

    /// The certificates in use now.
    pub fn certificates(&self) -> Vec<OwnCertificate> {
        self.current.load().certificates.all()
    }

    /// The names all current certificates are valid for, sorted.
    pub fn names(&self) -> Vec<String> {
        self.current.load().certificates.names()
    }

    /// Every file and directory that is read.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The handshake. What only it needs is gone when it is over.
    pub async fn handshake(
        &self,
        socket: TcpStream,
        deadline: Duration,
    ) -> Result<TlsStream, HandshakeError> {
        self.handshake_in_turn(socket, deadline, &Semaphore::new(1)).await
    }

    /// The same in a storm: each step is computed with a turn of `turns`, and what else is ready on this thread comes first
    /// after it. A client that is slow holds no turn.
    pub async fn handshake_in_turn(
        &self,
        socket: TcpStream,
        deadline: Duration,
        turns: &Semaphore,
    ) -> Result<TlsStream, HandshakeError> {
        let config = Arc::clone(&self.current.load().config);
        let handshake = TlsStream::accept(socket, &config, turns);
        let Ok(done) = tokio::time::timeout(deadline, handshake).await else {
            return Err(HandshakeError::TimedOut);
        };
        let stream = done?;
        if let Some(certificate) = stream.certificate()
            && clients::identity(certificate, UnixTime::now()).is_err()
        {
            return Err(io::Error::other("the client's certificate has expired").into());
        }
        Ok(stream)
    }
}

/// Whom the client's certificate names, which the handshake has verified: the subject's first common name, else the first
/// DNS name, URI or e-mail address.
pub fn identity(stream: &TlsStream) -> Option<Box<str>> {
    clients::identity(stream.certificate()?, UnixTime::now()).ok().flatten()
}

impl Current {
    /// `tickets`: those of before; `None`: new ones.
    fn load(
        settings: &TlsSettings,
        provider: &Arc<CryptoProvider>,
        tickets: Option<Arc<dyn ProducesTickets>>,
    ) -> Result<Self, TlsError> {
        let certificates = Arc::new(CertificateSet::load(&settings.certificates, provider)?);
        let clients =
            settings.clients.as_ref().map(|clients| clients::verifier(clients, provider)).transpose()?;
        let setup =
            |error| TlsError { path: first(&settings.certificates), problem: TlsProblem::Setup(error) };
        let versions: &[&SupportedProtocolVersion] = match settings.least {
            LeastVersion::Tls12 => &[&TLS13, &TLS12],
            LeastVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
        let builder = builder.with_protocol_versions(versions).map_err(setup)?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        // Tickets carry the session, so that resumption costs this side no memory; one ticket is enough for a device.
        config.ticketer = match (&settings.ticket_keys, tickets) {
            (Some(path), _) => Arc::new(shared_tickets(path)?),
            (None, Some(tickets)) => tickets,
            // Random keys, another one every six hours.
            (None, None) => aws_lc_rs::Ticketer::new().map_err(setup)?,
        };
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Self { certificates, config: Arc::new(config) })
    }
}

fn shared_tickets(path: &Path) -> Result<SharedTickets, TlsError> {
    SharedTickets::load(path).map_err(|problem| TlsError { path: path.to_owned(), problem })
}

fn provider(post_quantum: PostQuantum) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if post_quantum == PostQuantum::Off {
        let quantum = [NamedGroup::X25519MLKEM768, NamedGroup::secp256r1MLKEM768, NamedGroup::MLKEM768];
        provider.kx_groups.retain(|group| !quantum.contains(&group.name()));
    }
    provider
}

#[cfg(test)]
mod tests;
