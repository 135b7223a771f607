//! The port where Prometheus asks, if there is one. It may change while the server runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tracing::info;

use super::CONTENT_TYPE;
use crate::admin::{Method, Reply, Router, port, serve_port};
use crate::drain::Drain;
use crate::listen::{BindError, Listener, bind};

/// No address: no port.
#[derive(Debug, Default)]
pub struct MetricsPort {
    address: Option<SocketAddr>,
    /// For another process.
    socket: Option<TcpListener>,
    waiting: Option<Listener>,
    end: Option<Drain>,
}

impl MetricsPort {
    /// Bound, but answering only after [`Self::serve`].
    pub fn bind(address: Option<SocketAddr>) -> Result<Self, BindError> {
        let Some(address) = address else { return Ok(Self::default()) };
        Self::on(address, bind(address)?)
    }

    /// The same on a socket that is bound.
    pub fn on(address: SocketAddr, socket: TcpListener) -> Result<Self, BindError> {
        let copy = socket.try_clone().ok();
        let waiting = Some(port(address, socket)?);
        Ok(Self { address: Some(address), socket: copy, waiting, end: None })
    }

    /// The same socket, for another process. `None`: there is none, or no file for it.
    pub fn copy(&self) -> Option<(SocketAddr, TcpListener)> {
        Some((self.address?, self.socket.as_ref()?.try_clone().ok()?))
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Answers with what `page` makes; to each who asks, anew.
    pub fn serve(&mut self, page: impl Fn() -> String + Send + Sync + 'static) {
        let Some(listener) = self.waiting.take() else { return };
        info!(address = %listener.address(), "metrics are served");
        let end = Drain::new();
        let reply = move |_: &_| Reply::text(CONTENT_TYPE, page());
        let router = Router::new().at_once(Method::GET, "/metrics", reply);
        tokio::spawn(serve_port(listener, Arc::new(router), end.watch()));
        self.end = Some(end);
    }

    /// Another address from now on; where that cannot be bound, all stays as it is.
    pub fn change(
        &mut self,
        address: Option<SocketAddr>,
        page: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<(), BindError> {
        if address != self.address {
            let mut next = Self::bind(address)?;
            next.serve(page);
            *self = next;
        }
        Ok(())
    }
}

impl Drop for MetricsPort {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.begin();
        }
    }
}
