//! What the balancer needs of files to meet the servers of one backend: whom it trusts, and what it shows them. The files
//! are followed; one that is bad changes nothing.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use nsd_edge::tls::{TlsClient, TlsClientSettings, TlsToServer};
use nsd_edge::watch::FileWatch;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::settings::{Address, Ask, MqttAsk, Policy, ServerTls};

/// MQTT has no longer ones.
const MAX_PASSWORD: u64 = 65_535;
/// Of a file's mode: what others than its owner and group may do.
const FOR_ALL: u32 = 0o007;

#[derive(Debug, Default)]
pub(crate) struct Credentials {
    /// `None`: servers are spoken to in the clear.
    pub(crate) tls: Option<TlsClient>,
    /// Of checks.
    password: Option<PasswordFile>,
    paths: Vec<PathBuf>,
    follower: OnceLock<AbortHandle>,
}

impl Credentials {
    pub(crate) fn load(policy: &Policy) -> Result<Self, String> {
        let settings = policy.server_tls.as_ref().map(|tls| tls.client.clone());
        let mut paths = settings.as_ref().map(TlsClientSettings::paths).unwrap_or_default();
        let tls = settings.map(TlsClient::with).transpose().map_err(|error| error.to_string())?;
        let password = match &policy.check.ask {
            Ask::Mqtt(MqttAsk { password_file: Some(path), .. }) => Some(PasswordFile::load(path)?),
            _ => None,
        };
        paths.extend(password.iter().map(|password| password.path.clone()));
        Ok(Self { tls, password, paths, follower: OnceLock::new() })
    }

    /// Reads the files again whenever they change, for as long as these credentials are in use.
    pub(crate) fn follow(self: &Arc<Self>, backend: &str) {
        if self.paths.is_empty() {
            return;
        }
        let follow = follow(Arc::downgrade(self), FileWatch::new(&self.paths), backend.to_owned());
        let _ = self.follower.set(tokio::spawn(follow).abort_handle());
    }

    /// The handshake with the server at `address`, which has to be whom the settings or its address name.
    pub(crate) async fn shake_hands(
        &self,
        socket: TcpStream,
        settings: &ServerTls,
        address: &Address,
    ) -> io::Result<TlsToServer> {
        let name = match (&settings.server_name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Fixed(address)) => ServerName::from(address.ip()),
            (None, Address::Named { host, .. }) => {
                ServerName::try_from(host.trim_end_matches('.').to_owned()).map_err(io::Error::other)?
            }
        };
        match &self.tls {
            Some(client) => client.handshake(name, socket).await,
            // Settings and their files are exchanged one after the other.
            None => Err(io::Error::other("the certificates are not loaded yet")),
        }
    }

    fn reload(&self) -> Result<(), String> {
        self.tls.as_ref().map_or(Ok(()), TlsClient::reload).map_err(|error| error.to_string())?;
        self.password.as_ref().map_or(Ok(()), PasswordFile::reload)
    }

    pub(crate) fn password(&self) -> Option<Arc<Zeroizing<String>>> {
        Some(self.password.as_ref()?.current.load_full())
    }
}

/// A file with one line: a password.
struct PasswordFile {
    path: PathBuf,
    current: ArcSwap<Zeroizing<String>>,
}

impl PasswordFile {
    fn load(path: &Path) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(read_password(path)?);
        Ok(Self { path: path.to_owned(), current })
    }

    fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(read_password(&self.path)?));
        Ok(())
    }
}

/// The password stays out of it.
impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The file's text without the end of its line. Refused where every user of the machine could read it.
fn read_password(path: &Path) -> Result<Zeroizing<String>, String> {
    let problem = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| problem(&format!("cannot read: {error}")))?;
    if !metadata.is_file() || metadata.len() > MAX_PASSWORD {
        return Err(problem(&format!("a password file is a file of at most {MAX_PASSWORD} bytes")));
    }
    if metadata.mode() & FOR_ALL != 0 {
        return Err(problem(&"every user of this machine can read this password: chmod o-rwx"));
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| problem(&format!("cannot read: {error}")))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

async fn follow(credentials: Weak<Credentials>, mut files: FileWatch, backend: String) {
    loop {
        files.changed().await;
        let Some(credentials) = credentials.upgrade() else { return };
        match credentials.reload() {
            Ok(()) => info!(backend, "credentials for servers changed"),
            Err(error) => {
                warn!(backend, error, "credentials for servers not changed, the old ones stay in use");
            }
        }
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}
