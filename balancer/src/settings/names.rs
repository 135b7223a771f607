//! How the names of a backend's servers are looked up.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use nsd_edge::config::Table;

use crate::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Between look-ups of a name.
    pub interval: Duration,
    /// DNS servers to ask; empty: what `/etc/resolv.conf` says.
    pub resolvers: Vec<NameServer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl FromStr for NameServer {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
        address.map(Self)
    }
}

pub(super) fn read(table: &mut Table<'_, '_>) -> Names {
    Names {
        interval: table
            .duration("resolve_interval", &limits::DURATIONS)
            .unwrap_or(limits::RESOLVE_INTERVAL)
            .max(limits::LOOKUP_PAUSE),
        resolvers: table.all_parsed("resolvers", "10.0.0.2:53"),
    }
}
