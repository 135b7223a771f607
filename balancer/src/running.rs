//! What runs: backends with their pools, frontends, bound addresses, certificates. [`crate::reload`] changes it, the
//! sessions use it. Everything a session looks at is behind a swap, so that a change never waits for a session.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nsd_edge::metrics::MetricsPort;
use nsd_edge::tls::{TlsServer, TlsSettings};
use tokio::task::AbortHandle;

use crate::backend::Backend;
use crate::bound::Bound;
use crate::dashboard::Dashboard;
use crate::frontend::Frontend;

/// Certificates in use, and the task that follows their files.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) server: Arc<TlsServer>,
    pub(crate) follower: AbortHandle,
}

#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) frontends: Vec<Arc<Frontend>>,
    pub(crate) bound: HashMap<SocketAddr, Bound>,
    pub(crate) certificates: HashMap<TlsSettings, Certificates>,
    pub(crate) dashboard: Option<Dashboard>,
    pub(crate) metrics: MetricsPort,
}

impl Drop for Certificates {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
