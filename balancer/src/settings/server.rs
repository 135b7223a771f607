//! `[[listen.server]]`: one server of a backend.

use std::net::SocketAddr;

use nsd_edge::config::Table;

use super::read_name;

/// Weights are ratios; HAProxy's range, so that a file can be carried over.
const MAX_WEIGHT: u64 = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub name: String,
    pub address: SocketAddr,
    /// Its share; 0: no new sessions.
    pub weight: u32,
    /// Sessions at once; those over it go to other servers.
    pub max_sessions: u32,
    /// Only used where no other server can take a client.
    pub backup: bool,
}

pub(super) fn read_server(table: &mut Table<'_, '_>) -> Option<ServerSettings> {
    let name = read_name(table);
    table.require("address");
    let address = table.parsed::<SocketAddr>("address", "10.0.0.3:1883");
    let mut number = |key, least, most| table.number(key, least, most).and_then(|n| u32::try_from(n).ok());
    let weight = number("weight", 0, MAX_WEIGHT);
    let max_sessions = number("max_sessions", 1, u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let backup = table.boolean("backup").unwrap_or(false);
    let address = address?;
    if address.port() == 0 || address.ip().is_unspecified() {
        table.problem("address", format!("`{address}` is no place to connect to"));
    }
    Some(ServerSettings { name: name?, address, weight: weight.unwrap_or(1), max_sessions, backup })
}
