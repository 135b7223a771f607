//! One frontend at run time: where its clients go, and how they are judged before.

use std::net::SocketAddr;
use std::sync::Arc;

use nsd_wire::Connect;

use crate::guard::Guard;
use crate::origin::Origin;
use crate::rules::{Facts, Rules, Then};
use crate::running::Backend;

#[derive(Debug)]
pub(crate) struct Frontend {
    pub(crate) name: String,
    pub(crate) rules: Rules,
    /// Those that the rules name, each once.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// `None`: any bytes are passed on, to whoever is chosen when the client connects.
    pub(crate) guard: Option<Arc<Guard>>,
}

impl Frontend {
    /// The backend of a client; `None`: it is refused. What the client said counts where it was heard.
    pub(crate) fn backend(
        &self,
        stream: &impl Origin,
        peer: SocketAddr,
        connect: Option<&Connect<'_>>,
    ) -> Option<&Arc<Backend>> {
        let then = if self.rules.in_order.is_empty() {
            &self.rules.otherwise
        } else {
            let extras = stream.extras();
            self.rules.choose(&Facts {
                port: stream.socket().local_addr().map_or(0, |ours| ours.port()),
                source: peer.ip(),
                over_tls: extras.tls.as_ref().is_some_and(|tls| tls.over_tls),
                server_name: extras.authority.as_deref(),
                certified: extras.identity(),
                connect,
            })
        };
        match then {
            Then::Backend(name) => self.backends.iter().find(|backend| backend.name == *name),
            Then::Refuse => None,
        }
    }

    /// Whether a client whom no rule singles out can be served; without a place for such clients, whether any can.
    pub(crate) fn is_usable(&self) -> bool {
        let usable =
            |name: &str| self.backends.iter().any(|backend| backend.name == name && backend.is_usable());
        match &self.rules.otherwise {
            Then::Backend(name) => usable(name),
            Then::Refuse => self.rules.backends().any(usable),
        }
    }
}
