//! What is known of a client: for the rules of its frontend, and for its server.

use std::net::SocketAddr;
use std::sync::Arc;

use nsd_edge::proxy_header::{Extras, ProxyHeader};
use nsd_wire::Connect;

use super::Client;
use crate::backend::Backend;
use crate::entry::Told;
use crate::origin::Origin;
use crate::rules::{Asked, Facts};

impl Client {
    /// The backend that the rules of the frontend choose; `None`: the client is refused. What it said counts where it was
    /// heard. Facts are only gathered where there are rules.
    pub(super) fn backend(
        &self,
        stream: &impl Origin,
        connect: Option<&Connect<'_>>,
    ) -> Option<&Arc<Backend>> {
        if self.frontend.rules.in_order.is_empty() {
            return self.frontend.backend(&self.frontend.rules.otherwise);
        }
        let port = stream.socket().local_addr().map_or(0, |ours| ours.port());
        self.choose(&self.extras(stream), port, connect, None)
    }

    pub(super) fn choose(
        &self,
        extras: &Extras,
        port: u16,
        connect: Option<&Connect<'_>>,
        request: Option<Asked<'_>>,
    ) -> Option<&Arc<Backend>> {
        let facts = Facts {
            port,
            source: self.peer.ip(),
            over_tls: extras.tls.as_ref().is_some_and(|tls| tls.over_tls),
            server_name: extras.authority.as_deref(),
            certified: extras.identity(),
            connect,
            request,
        };
        self.frontend.backend(self.frontend.rules.choose(&facts))
    }

    /// The header for a server; without an address of our own it is nobody's.
    pub(super) fn header(&self, stream: &impl Origin) -> ProxyHeader {
        let ours = || {
            let ours = stream.socket().local_addr().ok()?;
            Some(SocketAddr::new(ours.ip().to_canonical(), ours.port()))
        };
        match self.told().map(|told| told.destination).or_else(ours) {
            Some(destination) => {
                ProxyHeader::Proxied { source: self.peer, destination, extras: Box::new(self.extras(stream)) }
            }
            None => ProxyHeader::Local,
        }
    }

    /// Where a proxy has ended the client's TLS, what we see of TLS is the proxy's own.
    pub(super) fn extras(&self, stream: &impl Origin) -> Extras {
        let told = self.told().map(|told| &*told.extras);
        let ended_there = told.filter(|extras| extras.tls.as_ref().is_some_and(|tls| tls.over_tls));
        ended_there.cloned().unwrap_or_else(|| stream.extras())
    }

    fn told(&self) -> Option<&Told> {
        self.pass.as_ref()?.told.as_ref()
    }
}
