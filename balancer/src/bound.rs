//! An address that is listened on: who comes there begins a session. And one that nothing is to listen on any more.

use std::sync::Arc;

use arc_swap::ArcSwap;
use nsd_edge::listen::{self, Listener};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::frontend::Frontend;
use crate::session::{self, Handshakes};
use crate::shared::Shared;

/// Where the clients of one bound address go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) tls: Option<Arc<Handshakes>>,
}

/// A bound address. Its socket lives as long as the address is in the settings; only its route changes.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) route: Arc<ArcSwap<Route>>,
    /// `None`: it could not be copied, for want of files.
    socket: Option<std::net::TcpListener>,
    acceptor: AbortOnDropHandle<()>,
    /// Which worker accepts.
    number: usize,
}

impl Bound {
    /// Accepts on one of the workers, from `ready` on.
    pub(crate) fn start(
        socket: std::net::TcpListener,
        route: Route,
        shared: &Arc<Shared>,
        number: usize,
        ready: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        let route = Arc::new(ArcSwap::from_pointee(route));
        let copy = socket.try_clone().ok();
        let acceptor = accept(socket, Arc::clone(&route), Arc::clone(shared), ready);
        let acceptor = AbortOnDropHandle::new(shared.workers.nth(number).handle.spawn(acceptor));
        Self { route, socket: copy, acceptor, number }
    }

    /// The same socket, for another process.
    pub(crate) fn copy(&self) -> Option<std::net::TcpListener> {
        self.socket.as_ref()?.try_clone().ok()
    }

    /// Whoever comes waits in the kernel's queue, unless another process has the socket too.
    pub(crate) fn pause(&self) {
        self.acceptor.abort();
    }

    /// Who accepts here. Nothing listens any more once that has ended, unless another process has the socket.
    pub(crate) fn into_acceptor(self) -> AbortOnDropHandle<()> {
        self.acceptor
    }

    pub(crate) fn resume(&mut self, shared: &Arc<Shared>, ready: tokio::sync::watch::Receiver<bool>) {
        let Some(socket) = self.copy() else { return error!("cannot accept on a bound address again") };
        let acceptor = accept(socket, Arc::clone(&self.route), Arc::clone(shared), ready);
        self.acceptor = AbortOnDropHandle::new(shared.workers.nth(self.number).handle.spawn(acceptor));
    }
}

/// What listened where nothing is to listen any more. Only when that has ended may it be said so.
#[derive(Debug, Default)]
pub(crate) struct Closing(Vec<AbortOnDropHandle<()>>);

impl Closing {
    pub(crate) fn add(&mut self, acceptor: AbortOnDropHandle<()>) {
        acceptor.abort();
        self.0.push(acceptor);
    }

    pub(crate) async fn done(self) {
        for acceptor in self.0 {
            listen::ended(acceptor).await;
        }
    }
}

async fn accept(
    socket: std::net::TcpListener,
    route: Arc<ArcSwap<Route>>,
    shared: Arc<Shared>,
    mut ready: tokio::sync::watch::Receiver<bool>,
) {
    // A dropped sender means that nobody will say more: then accept.
    let _ = ready.wait_for(|ready| *ready).await;
    let listener = match Listener::new(socket, Arc::clone(&shared.sessions)) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "cannot accept on a bound address"),
    };
    loop {
        let accepted = listener.accept().await;
        let Route { frontend, tls } = &**route.load();
        let (worker, place) = shared.workers.least_loaded();
        let begun = session::begin(accepted, tls.clone(), Arc::clone(frontend), Arc::clone(&shared), place);
        worker.handle.spawn(begun);
    }
}
