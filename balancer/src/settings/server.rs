//! `[[listen.server]]`: one server of a backend.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use nsd_edge::config::Table;
use rustls_pki_types::DnsName;

use super::read_name;

/// Weights are ratios; HAProxy's range, so that a file can be carried over.
const MAX_WEIGHT: u64 = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub name: String,
    pub address: Address,
    /// Its share; 0: no new sessions.
    pub weight: u32,
    /// Sessions at once; those over it go to other servers.
    pub max_sessions: u32,
    /// Only used where no other server can take a client.
    pub backup: bool,
}

/// Where a server is, as the settings say it: that is what tells one server from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Fixed(SocketAddr),
    /// Looked up again and again: see [`crate::names`].
    Named {
        host: String,
        port: u16,
    },
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Fixed(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        // All digits and dots, and no address: a slip, not a name.
        let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
        if numeric || DnsName::try_from(host).is_err() {
            return Err(());
        }
        Ok(Self::Named { host: host.to_ascii_lowercase(), port: port.parse().map_err(|_| ())? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Address {
    fn is_a_place(&self) -> bool {
        match self {
            Self::Fixed(address) => address.port() != 0 && !address.ip().is_unspecified(),
            Self::Named { port, .. } => *port != 0,
        }
    }
}

pub(super) fn read_server(table: &mut Table<'_, '_>) -> Option<ServerSettings> {
    let name = read_name(table);
    table.require("address");
    let address = table.parsed::<Address>("address", "10.0.0.3:1883` or `mqtt-1.internal:1883");
    let mut number = |key, least, most| table.number(key, least, most).and_then(|n| u32::try_from(n).ok());
    let weight = number("weight", 0, MAX_WEIGHT);
    let max_sessions = number("max_sessions", 1, u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let backup = table.boolean("backup").unwrap_or(false);
    let address = address?;
    if !address.is_a_place() {
        table.problem("address", format!("`{address}` is no place to connect to"));
    }
    Some(ServerSettings { name: name?, address, weight: weight.unwrap_or(1), max_sessions, backup })
}
