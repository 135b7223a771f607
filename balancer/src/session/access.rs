//! The access log: one line for each ended session.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use nsd_wire::Version;
use tokio::time::Instant;
use tracing::info;

use crate::origin::Agreed;
use crate::registry::Names;
use crate::relay::{End, Moved};
use crate::shared::Shared;

/// What a client says of itself is quoted.
pub(super) struct Line<'a> {
    pub(super) listener: &'a str,
    pub(super) peer: SocketAddr,
    pub(super) since: Instant,
    /// Where it told them.
    pub(super) names: Option<&'a Names>,
    pub(super) version: Option<Version>,
    /// Where it came by TLS, and has shaken hands.
    pub(super) tls: Option<&'a Agreed>,
    pub(super) server: &'a str,
    /// Up and down, where they can be seen.
    pub(super) messages: Option<(u32, u32)>,
    pub(super) moved: Moved,
    pub(super) end: End,
    /// Of a session that was told to leave: whether its server was told DISCONNECT.
    pub(super) clean: Option<bool>,
}

impl Line<'_> {
    pub(super) fn write(&self, shared: &Shared) {
        if !shared.access_log.load(Relaxed) {
            return;
        }
        let server_name = self.tls.and_then(|tls| tls.server_name.as_deref());
        let user = self.names.map(Names::user).filter(|user| !user.is_empty());
        info!(
            target: "access",
            listener = self.listener,
            client = %self.peer,
            id = self.names.map(|names| tracing::field::debug(names.id())),
            server = self.server,
            version = self.version.map(number),
            user = user.map(tracing::field::debug),
            tls = self.tls.map(|tls| tls.version),
            cipher = self.tls.and_then(|tls| tls.cipher.as_deref()),
            group = self.tls.and_then(|tls| tls.group),
            sni = server_name.map(tracing::field::debug),
            resumed = self.tls.map(|tls| tls.resumed),
            ms = self.since.elapsed().as_millis(),
            messages_up = self.messages.map(|(up, _)| up),
            messages_down = self.messages.map(|(_, down)| down),
            up = self.moved.up,
            down = self.moved.down,
            end = self.end.as_str(),
            clean = self.clean,
        );
    }
}

/// As people say it.
pub(crate) fn number(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}
