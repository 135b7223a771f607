//! `server_tls = { … }` of a backend: its servers are spoken to over TLS, and have to show who they are.

use std::path::PathBuf;

use nsd_edge::config::Table;
use nsd_edge::tls::TlsClientSettings;
use rustls_pki_types::ServerName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    pub client: TlsClientSettings,
    /// Whom all servers have to be; `None`: each whom its address names.
    pub server_name: Option<ServerName<'static>>,
}

pub(super) fn read(table: &mut Table<'_, '_>) -> Option<ServerTls> {
    let mut tls = table.table("server_tls")?;
    let authorities: Vec<PathBuf> = tls.strings("ca").into_iter().map(PathBuf::from).collect();
    if authorities.is_empty() {
        tls.problem(
            "ca",
            "must name at least one PEM file: the authorities that servers' certificates are from",
        );
    }
    let certificate = tls.string("certificate").map(PathBuf::from);
    let server_name = tls.string("server_name").and_then(|name| {
        let parsed = ServerName::try_from(name.as_str()).map(|name| name.to_owned()).ok();
        if parsed.is_none() {
            tls.problem("server_name", format!("`{name}` is neither a DNS name nor an address"));
        }
        parsed
    });
    tls.finish();
    Some(ServerTls { client: TlsClientSettings { authorities, certificate }, server_name })
}
