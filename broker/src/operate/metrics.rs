//! The port where Prometheus asks, if there is one.

use std::net::SocketAddr;
use std::sync::Arc;

use nsd_edge::admin::{Method, Reply, Router, bind_port, serve_port};
use nsd_edge::drain::Drain;
use nsd_edge::listen::{BindError, Listener};
use tracing::info;

use crate::node::Node;
use crate::telemetry::{self, prometheus};

#[derive(Debug, Default)]
pub(super) struct Metrics {
    address: Option<SocketAddr>,
    waiting: Option<Listener>,
    end: Option<Drain>,
}

impl Metrics {
    /// Bound, but answering only after [`Self::serve`].
    pub(super) fn bind(address: Option<SocketAddr>) -> Result<Self, BindError> {
        let waiting = address.map(bind_port).transpose()?;
        Ok(Self { address, waiting, end: None })
    }

    pub(super) fn serve(&mut self, node: &Arc<Node>) {
        let Some(listener) = self.waiting.take() else { return };
        info!(address = %listener.address(), "metrics are served");
        let (end, node) = (Drain::new(), Arc::clone(node));
        let router = Router::new().at_once(Method::GET, "/metrics", move |_request| page(&node));
        tokio::spawn(serve_port(listener, Arc::new(router), end.watch()));
        self.end = Some(end);
    }

    /// Another address from now on; where that cannot be bound, all stays as it is.
    pub(super) fn change(&mut self, address: Option<SocketAddr>, node: &Arc<Node>) -> Result<(), BindError> {
        if address != self.address {
            let mut next = Self::bind(address)?;
            self.close();
            next.serve(node);
            *self = next;
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        if let Some(end) = self.end.take() {
            end.begin();
        }
    }
}

/// Also for the admin socket.
pub(crate) fn page(node: &Node) -> Reply {
    Reply::text(prometheus::CONTENT_TYPE, prometheus::page(&telemetry::take(node)))
}
