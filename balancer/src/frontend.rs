//! One frontend at run time: who may come, how they are judged, and where they go.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::entry::Entry;
use crate::guard::Guard;
use crate::rules::{Rules, Then};
use crate::settings::HttpSettings;
use crate::tally::Tally;

#[derive(Debug)]
pub(crate) struct Frontend {
    pub(crate) name: String,
    /// After which a client that has vanished is known to have.
    pub(crate) user_timeout: Duration,
    /// `None`: whoever comes.
    pub(crate) entry: Option<Arc<Entry>>,
    /// `None`: any bytes are passed on, to whoever is chosen when the client connects.
    pub(crate) guard: Option<Arc<Guard>>,
    /// `None`: clients do not speak HTTP.
    pub(crate) http: Option<HttpSettings>,
    pub(crate) rules: Rules,
    /// Those that the rules name, each once.
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) tally: Arc<Tally>,
}

impl Frontend {
    /// `None`: its client is refused.
    pub(crate) fn backend(&self, then: &Then) -> Option<&Arc<Backend>> {
        match then {
            Then::Backend(name) => self.backends.iter().find(|backend| backend.name == *name),
            Then::Refuse => None,
        }
    }

    /// Whether a client whom no rule singles out can be served; without a place for such clients, whether any can.
    pub(crate) fn is_usable(&self) -> bool {
        match &self.rules.otherwise {
            Then::Refuse => self.backends.iter().any(|backend| backend.is_usable()),
            then @ Then::Backend(_) => self.backend(then).is_some_and(|backend| backend.is_usable()),
        }
    }
}
