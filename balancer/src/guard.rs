//! The gate of one frontend at run time: its rules, and how often each source and each client came. Shared by all
//! threads; the rates' locks are held for a look at one set of buckets.

use std::hash::Hash;
use std::net::IpAddr;

use nsd_edge::listen::household;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::gate::rates::{Rate, Rates};
use crate::gate::{GateRules, Refusal};

#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) rules: GateRules,
    sources: Option<Meter>,
    clients: Option<Meter>,
}

/// Rates, and the time that they are measured against.
#[derive(Debug)]
pub(crate) struct Meter {
    rates: Mutex<Rates>,
    since: Instant,
}

impl Guard {
    pub(crate) fn new(rules: GateRules) -> Self {
        let (sources, clients) = (rules.source_rate.map(Meter::new), rules.client_rate.map(Meter::new));
        Self { rules, sources, clients }
    }

    /// Whether the source, and then the client, may come again so soon. Clients without an identifier share none.
    pub(crate) fn count(&self, source: IpAddr, client_id: &str) -> Result<(), Refusal> {
        if self.sources.as_ref().is_some_and(|sources| !sources.admits(household(source))) {
            return Err(Refusal::SourceRate);
        }
        if !client_id.is_empty() && self.clients.as_ref().is_some_and(|clients| !clients.admits(client_id)) {
            return Err(Refusal::ClientRate);
        }
        Ok(())
    }
}

impl Meter {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rates: Mutex::new(Rates::new(rate)), since: Instant::now() }
    }

    /// Whether `key` may come now; counted if so.
    pub(crate) fn admits(&self, key: impl Hash) -> bool {
        self.rates.lock().admit(key, self.since.elapsed())
    }
}
