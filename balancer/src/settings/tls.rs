//! `[listen.tls]`: addresses where clients speak TLS, and what they are shown.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use nsd_edge::config::Table;

use super::frontend::addresses;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub bind: Vec<SocketAddr>,
    /// Combined PEM files, or directories of them.
    pub certificates: Vec<PathBuf>,
}

pub(super) fn read(table: &mut Table<'_, '_>, bound: &mut HashSet<SocketAddr>) -> Option<TlsSettings> {
    let mut tls = table.table("tls")?;
    tls.require("bind");
    tls.require("certificates");
    let bind = addresses(&mut tls, "bind", bound);
    let certificates: Vec<PathBuf> = tls.strings("certificates").into_iter().map(PathBuf::from).collect();
    if certificates.is_empty() && tls.has("certificates") {
        tls.problem("certificates", "name at least one combined PEM file, or a directory of them");
    }
    tls.finish();
    Some(TlsSettings { bind, certificates })
}
