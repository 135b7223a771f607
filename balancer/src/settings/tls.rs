//! `[listen.tls]`: addresses where clients speak TLS, what they are shown, and how handshakes are bounded.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use nsd_edge::config::Table;
use nsd_edge::tls::{HANDSHAKE_TIMEOUT, TlsSettings};

use super::frontend::addresses;
use crate::limits;

/// Where clients of a frontend speak TLS, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsBind {
    pub bind: Vec<SocketAddr>,
    pub tls: TlsSettings,
    /// For a whole handshake, from the connection on.
    pub handshake_deadline: Duration,
    /// Handshakes under way at once.
    pub handshakes: usize,
}

pub(super) fn read(table: &mut Table<'_, '_>, bound: &mut HashSet<SocketAddr>) -> Option<TlsBind> {
    let mut table = table.table("tls")?;
    table.require("bind");
    let handshakes = table.number("handshakes", 1, limits::MOST_HANDSHAKES);
    let settings = TlsBind {
        bind: addresses(&mut table, "bind", bound),
        tls: TlsSettings::read(&mut table),
        handshake_deadline: table
            .duration("handshake_deadline", &limits::HANDSHAKE_DEADLINES)
            .unwrap_or(HANDSHAKE_TIMEOUT),
        handshakes: handshakes.and_then(|most| usize::try_from(most).ok()).unwrap_or(limits::HANDSHAKES),
    };
    table.finish();
    Some(settings)
}
