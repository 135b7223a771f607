//! The gate of one frontend at run time: its rules, and how often each source and each client came. Shared by all
//! threads; the rates' locks are held for a look at one set of buckets.

use std::hash::Hash;
use std::net::IpAddr;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::gate::rates::{Rates, household};
use crate::gate::{GateRules, Refusal};

#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) rules: GateRules,
    sources: Option<Mutex<Rates>>,
    clients: Option<Mutex<Rates>>,
    since: Instant,
}

impl Guard {
    pub(crate) fn new(rules: GateRules) -> Self {
        let rates = |rate: Option<_>| rate.map(|rate| Mutex::new(Rates::new(rate)));
        let (sources, clients) = (rates(rules.source_rate), rates(rules.client_rate));
        Self { rules, sources, clients, since: Instant::now() }
    }

    /// Whether the source, and then the client, may come again so soon. Clients without an identifier share none.
    pub(crate) fn count(&self, source: IpAddr, client_id: &str) -> Result<(), Refusal> {
        if !self.admits(self.sources.as_ref(), household(source)) {
            return Err(Refusal::SourceRate);
        }
        if !client_id.is_empty() && !self.admits(self.clients.as_ref(), client_id) {
            return Err(Refusal::ClientRate);
        }
        Ok(())
    }

    fn admits(&self, rates: Option<&Mutex<Rates>>, key: impl Hash) -> bool {
        rates.is_none_or(|rates| rates.lock().admit(key, self.since.elapsed()))
    }
}
