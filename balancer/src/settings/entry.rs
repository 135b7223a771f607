//! Who may come to a frontend: sources, how many and how often, and whose PROXY headers are taken. The keys are those
//! of the broker's listeners.

use nsd_edge::config::Table;
use nsd_edge::listen::{GateRules, Network};

use super::gate::read_rate;
use crate::gate::rates::Rate;

/// As many connections as no machine has.
const MANY: u64 = 10_000_000;

/// By default everybody may come, in any number, and is who its socket says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntrySettings {
    pub gate: GateRules,
    /// Connections of one source that have no server yet.
    pub pending_per_address: Option<u32>,
    pub rate_per_address: Option<Rate>,
    /// Each connection begins with a PROXY header, and comes from one of these. Empty: there is no header.
    pub proxy_from: Vec<Network>,
}

pub(super) fn read(table: &mut Table<'_, '_>) -> EntrySettings {
    let proxy_protocol = table.boolean("proxy_protocol").unwrap_or(false);
    let proxy_from = networks(table, "proxy_from");
    if proxy_protocol && proxy_from.is_empty() {
        // Anybody's word would open what `allow` and rules about sources close.
        table.problem(
            "proxy_from",
            "name whose PROXY headers are taken, like `[\"10.0.0.0/8\"]`; `[\"0.0.0.0/0\", \"::/0\"]`: everybody's",
        );
    }
    if table.has("proxy_from") && !proxy_protocol {
        table.problem("proxy_from", "says whose word counts, but `proxy_protocol` is not on");
    }
    EntrySettings {
        gate: GateRules {
            connections: table.number("connections", 1, MANY).and_then(|most| usize::try_from(most).ok()),
            connections_per_address: count(table, "connections_per_address"),
            allow: networks(table, "allow"),
            deny: networks(table, "deny"),
        },
        pending_per_address: count(table, "pending_per_address"),
        rate_per_address: read_rate(table, "connect_rate_per_address"),
        proxy_from,
    }
}

fn networks(table: &mut Table<'_, '_>, key: &'static str) -> Vec<Network> {
    let networks = table.all_parsed(key, "10.0.0.0/8");
    if table.is_empty_list(key) {
        table.problem(key, "an empty list says nothing; leave it out, or name an address or a range");
    }
    networks
}

fn count(table: &mut Table<'_, '_>, key: &'static str) -> Option<u32> {
    table.number(key, 1, MANY).and_then(|most| u32::try_from(most).ok())
}
