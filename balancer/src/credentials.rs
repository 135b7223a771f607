//! What the balancer needs of files to meet the servers of one backend: whom it trusts, and what it shows them. The files
//! are followed; one that is bad changes nothing.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use nsd_edge::secret_file::{self, Readers};
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

#[derive(Debug, Default)]
pub(crate) struct Credentials {
    files: Files,
    current: ArcSwap<Current>,
    follower: OnceLock<AbortHandle>,
}

/// What the settings name.
#[derive(Debug, Default)]
struct Files {
    tls: Option<TlsClientSettings>,
    /// With one line: the password of checks.
    password: Option<PathBuf>,
}

/// What the files hold: exchanged as a whole.
#[derive(Default)]
struct Current {
    /// `None`: servers are spoken to in the clear.
    tls: Option<TlsClient>,
    password: Option<Arc<Zeroizing<String>>>,
}

impl Files {
    fn of(policy: &Policy) -> Self {
        let password = match &policy.check.ask {
            Ask::Mqtt(MqttAsk { password_file, .. }) => password_file.clone(),
            _ => None,
        };
        Self { tls: policy.server_tls.as_ref().map(|tls| tls.client.clone()), password }
    }

    fn paths(&self) -> Vec<PathBuf> {
        let of_tls = self.tls.iter().flat_map(TlsClientSettings::paths);
        of_tls.chain(self.password.clone()).collect()
    }

    fn load(&self) -> Result<Current, String> {
        let tls = self.tls.as_ref().map(TlsClient::with).transpose().map_err(|error| error.to_string())?;
        let password = self.password.as_deref().map(read_password).transpose()?.map(Arc::new);
        Ok(Current { tls, password })
    }
}

/// The password stays out of it.
impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(crate) fn load(policy: &Policy) -> Result<Self, String> {
        let files = Files::of(policy);
        let current = ArcSwap::from_pointee(files.load()?);
        Ok(Self { files, current, follower: OnceLock::new() })
    }

    /// Reads the files again whenever they change, for as long as these credentials are in use.
    pub(crate) fn follow(self: &Arc<Self>, backend: &str) {
        let paths = self.files.paths();
        if paths.is_empty() {
            return;
        }
        let follow = follow(Arc::downgrade(self), FileWatch::new(&paths), backend.to_owned());
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
        match &self.current.load_full().tls {
            Some(client) => client.handshake(name, socket).await,
            // Settings and their files are exchanged one after the other.
            None => Err(io::Error::other("the certificates are not loaded yet")),
        }
    }

    /// On an error all that is in use stays.
    fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(self.files.load()?));
        Ok(())
    }

    pub(crate) fn password(&self) -> Option<Arc<Zeroizing<String>>> {
        self.current.load().password.clone()
    }
}

/// The file's text without the end of its line. Refused where every user of the machine could read it.
fn read_password(path: &Path) -> Result<Zeroizing<String>, String> {
    let text = secret_file::read_text(path, MAX_PASSWORD, Readers::Group);
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
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
