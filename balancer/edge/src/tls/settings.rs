//! What a listener's `tls` table says.

use std::path::PathBuf;

use super::staple;
use crate::config::Table;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsSettings {
    /// Combined PEM files, or directories whose `.pem` files (in name order) are taken.
    pub certificates: Vec<PathBuf>,
    /// Whether clients may show certificates, too.
    pub clients: Option<ClientCertificates>,
    pub least: LeastVersion,
    /// Whether key exchanges that no quantum computer breaks are offered.
    pub post_quantum: PostQuantum,
    /// A file with the keys of session tickets; `None`: random ones, known to this process alone.
    pub ticket_keys: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificates {
    /// PEM files with the authorities whose clients are taken.
    pub authorities: Vec<PathBuf>,
    /// PEM files with lists of what they have revoked. Empty: nothing is looked up.
    pub revoked: Vec<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LeastVersion {
    #[default]
    Tls12,
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PostQuantum {
    #[default]
    On,
    Off,
}

impl TlsSettings {
    /// Certificates, and the defaults for all else.
    pub fn of(certificates: &[PathBuf]) -> Self {
        Self { certificates: certificates.to_vec(), ..Self::default() }
    }

    /// Every file and directory that is read: what must be watched.
    pub fn paths(&self) -> Vec<PathBuf> {
        let of_clients =
            self.clients.iter().flat_map(|clients| clients.authorities.iter().chain(&clients.revoked));
        let staples = self.certificates.iter().map(|path| staple::path_of(path));
        let files = self.certificates.iter().chain(of_clients).chain(&self.ticket_keys).cloned();
        files.chain(staples).collect()
    }

    /// Reads a `tls` table; the caller may read more keys of it, and finishes it.
    pub fn read(table: &mut Table<'_, '_>) -> Self {
        let certificates = paths(table, "certificates");
        if certificates.is_empty() {
            table.problem("certificates", "must name at least one combined PEM file");
        }
        let versions = [("1.2", LeastVersion::Tls12), ("1.3", LeastVersion::Tls13)];
        let post_quantum = match table.boolean("post_quantum") {
            Some(false) => PostQuantum::Off,
            _ => PostQuantum::On,
        };
        let clients = ClientCertificates::read(table);
        let ticket_keys = table.string("ticket_keys").map(PathBuf::from);
        if ticket_keys.is_some() && clients.is_some() {
            table.problem(
                "ticket_keys",
                "cannot be together with `client_ca`: a resumed session is not verified anew, and its client may be revoked",
            );
        }
        Self {
            certificates,
            clients,
            ticket_keys,
            least: table.choice("min_version", &versions).unwrap_or_default(),
            post_quantum,
        }
    }
}

impl ClientCertificates {
    fn read(table: &mut Table<'_, '_>) -> Option<Self> {
        let authorities = paths(table, "client_ca");
        let required = table.choice("client_certificate", &[("required", true), ("optional", false)]);
        let revoked = paths(table, "client_crl");
        if authorities.is_empty() {
            if table.has("client_ca") {
                table.problem("client_ca", "must name at least one PEM file");
            }
            // Without it nobody would be asked for a certificate: not what is meant.
            for key in ["client_certificate", "client_crl"].into_iter().filter(|key| table.has(key)) {
                table.problem(key, "needs `client_ca`, the authorities whose clients are taken");
            }
            return None;
        }
        Some(Self { authorities, revoked, required: required.unwrap_or(true) })
    }
}

fn paths(table: &mut Table<'_, '_>, key: &'static str) -> Vec<PathBuf> {
    table.strings(key).into_iter().map(PathBuf::from).collect()
}
