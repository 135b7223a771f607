//! `[[listen]]` and `[[frontend]]`: where clients come in, and which backend they go to.

use std::collections::HashSet;
use std::net::SocketAddr;

use nsd_edge::config::{Table, closest};

use super::backend::read_backend;
use super::{BackendSettings, Seen, TlsBind, gate, read_name, tls};
use crate::gate::GateRules;

/// Where clients come in, and which backend they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendSettings {
    pub name: String,
    pub bind: Vec<SocketAddr>,
    pub tls: Option<TlsBind>,
    pub backend: String,
    /// How CONNECTs are judged; `None`: bytes are not looked at.
    pub gate: Option<GateRules>,
}

/// A `listen` section is a frontend and its backend in one, both of its name.
pub(super) fn read_listen(
    table: &mut Table<'_, '_>,
    seen: &mut Seen,
) -> (Option<FrontendSettings>, Option<BackendSettings>) {
    let backend = read_backend(table, seen);
    let (bind, tls) = read_binds(table, &mut seen.bound);
    let Some(name) = backend.as_ref().map(|backend| backend.name.clone()) else { return (None, None) };
    if !seen.frontends.insert(name.clone()) {
        table.problem("name", format!("`{name}` is the name of another listen or frontend section"));
    }
    let gate = gate::read(table, seen.backends.get(&name).copied());
    (Some(FrontendSettings { backend: name.clone(), name, bind, tls, gate }), backend)
}

pub(super) fn read_frontend(table: &mut Table<'_, '_>, seen: &mut Seen) -> Option<FrontendSettings> {
    let name = read_name(table);
    let backend = table.required("backend");
    let (bind, tls) = read_binds(table, &mut seen.bound);
    let check = backend.as_ref().and_then(|backend| seen.backends.get(backend)).copied();
    let gate = gate::read(table, check);
    let (name, backend) = (name?, backend?);
    if !seen.frontends.insert(name.clone()) {
        table.problem("name", format!("`{name}` is the name of another listen or frontend section"));
    }
    if check.is_none() {
        let backends: Vec<&str> = seen.backends.keys().map(String::as_str).collect();
        let meant =
            closest(&backend, &backends).map_or_else(String::new, |word| format!(": did you mean `{word}`?"));
        table.problem("backend", format!("there is no backend `{backend}`{meant}"));
    }
    Some(FrontendSettings { name, bind, tls, backend, gate })
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
