//! `[[listen]]` and `[[frontend]]`: where clients come in, and which backend they go to.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use nsd_edge::config::Table;

use super::gate::Reading;
use super::rules::{self, Knows};
use super::{EntrySettings, HttpSettings, Seen, TlsBind, entry, gate, read_name, read_user_timeout, tls};
use crate::gate::GateRules;
use crate::rules::Rules;

/// Where clients come in, and which backend they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendSettings {
    pub name: String,
    pub bind: Vec<SocketAddr>,
    pub tls: Option<TlsBind>,
    /// A client from whose machine nothing comes for so long has vanished.
    pub user_timeout: Duration,
    pub entry: EntrySettings,
    pub rules: Rules,
    /// How CONNECTs are judged; `None`: bytes are not looked at.
    pub gate: Option<GateRules>,
    /// How requests are taken; `None`: clients do not speak HTTP.
    pub http: Option<HttpSettings>,
}

/// A `listen` section is a frontend and its backend in one, both of its name.
pub(super) fn read_listen(table: &mut Table<'_, '_>, backend: &str, seen: &mut Seen) -> FrontendSettings {
    read(table, backend.to_owned(), Some(backend), seen)
}

pub(super) fn read_frontend(table: &mut Table<'_, '_>, seen: &mut Seen) -> Option<FrontendSettings> {
    let name = read_name(table);
    // What else is wrong is told, too.
    let frontend = read(table, name.clone().unwrap_or_default(), None, seen);
    name.map(|_| frontend)
}

fn read(table: &mut Table<'_, '_>, name: String, own: Option<&str>, seen: &mut Seen) -> FrontendSettings {
    let (bind, tls) = read_binds(table, &mut seen.bound);
    if !name.is_empty() && !seen.frontends.insert(name.clone()) {
        table.problem("name", format!("`{name}` is the name of another listen or frontend section"));
    }
    let user_timeout = read_user_timeout(table);
    let entry = entry::read(table);
    let rules = rules::read(table, own, seen);
    let Reading { gate, http } = gate::read(table, rules.check(seen));
    let bound = bind.iter().chain(tls.iter().flat_map(|tls| &tls.bind));
    let ports = bound.map(SocketAddr::port).collect();
    let rules = rules.checked(&Knows {
        ports,
        tls: tls.is_some() || !entry.proxy_from.is_empty(),
        connect: gate.is_some(),
        request: http.is_some(),
    });
    FrontendSettings { name, bind, tls, user_timeout, entry, rules, gate, http }
}

fn read_binds(
    table: &mut Table<'_, '_>,
    bound: &mut HashSet<SocketAddr>,
) -> (Vec<SocketAddr>, Option<TlsBind>) {
    let bind = addresses(table, "bind", bound);
    let tls = tls::read(table, bound);
    if !table.has("bind") && tls.is_none() {
        table.require("bind");
    }
    (bind, tls)
}

pub(super) fn addresses(
    table: &mut Table<'_, '_>,
    key: &'static str,
    bound: &mut HashSet<SocketAddr>,
) -> Vec<SocketAddr> {
    let addresses = table.all_parsed::<SocketAddr>(key, "0.0.0.0:1883");
    for address in &addresses {
        if address.port() == 0 {
            table.problem(key, format!("`{address}`: port 0 would be another one at each start"));
        } else if !bound.insert(*address) {
            table.problem(key, format!("`{address}` is bound twice"));
        }
    }
    addresses
}
