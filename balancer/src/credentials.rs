//! What the balancer needs of files to meet the servers of one backend: whom it trusts, and what it shows them. The files
//! are followed; one that is bad changes nothing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use nsd_edge::tls::{TlsClient, TlsClientSettings, TlsToServer};
use nsd_edge::watch::FileWatch;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::settings::{Policy, ServerTls};

#[derive(Debug, Default)]
pub(crate) struct Credentials {
    /// `None`: servers are spoken to in the clear.
    pub(crate) tls: Option<TlsClient>,
    paths: Vec<PathBuf>,
    follower: OnceLock<AbortHandle>,
}

impl Credentials {
    pub(crate) fn load(policy: &Policy) -> Result<Self, String> {
        let settings = policy.server_tls.as_ref().map(|tls| tls.client.clone());
        let paths = settings.as_ref().map(TlsClientSettings::paths).unwrap_or_default();
        let tls = settings.map(TlsClient::with).transpose().map_err(|error| error.to_string())?;
        Ok(Self { tls, paths, follower: OnceLock::new() })
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
        address: SocketAddr,
    ) -> io::Result<TlsToServer> {
        let name = settings.server_name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        match &self.tls {
            Some(client) => client.handshake(name, socket).await,
            // Settings and their files are exchanged one after the other.
            None => Err(io::Error::other("the certificates are not loaded yet")),
        }
    }

    fn reload(&self) -> Result<(), String> {
        self.tls.as_ref().map_or(Ok(()), TlsClient::reload).map_err(|error| error.to_string())
    }
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
