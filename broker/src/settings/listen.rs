//! `[[listen]]`: where clients come in, and how.

use std::net::SocketAddr;
use std::path::PathBuf;

use nsd_edge::config::Table;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Combined PEM files; empty: no TLS.
    pub certificates: Vec<PathBuf>,
    /// Each connection begins with a PROXY protocol header that tells the client's address.
    pub proxy_protocol: bool,
}

pub(super) fn read(mut table: Table<'_, '_>) -> Option<Listen> {
    table.require("address");
    let address = table.parsed("address", "0.0.0.0:1883");
    let certificates = table.table("tls").map_or_else(Vec::new, |mut tls| {
        let certificates = tls.strings("certificates");
        if certificates.is_empty() {
            tls.problem("certificates", "must name at least one combined PEM file");
        }
        tls.finish();
        certificates.into_iter().map(PathBuf::from).collect()
    });
    let proxy_protocol = table.boolean("proxy_protocol").unwrap_or(false);
    table.finish();
    Some(Listen { address: address?, certificates, proxy_protocol })
}
