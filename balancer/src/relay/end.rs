//! Why a session ended, and why one is told to.

use std::io::ErrorKind;

use nsd_wire::ReasonCode;

use crate::gate::Refusal;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client ended it.
    Client,
    /// So it did, and said DISCONNECT before.
    ClientGoodbye,
    /// The server ended it.
    Server,
    /// So it did, and said DISCONNECT before (v5).
    ServerGoodbye,
    /// The client's connection broke.
    ClientBroke,
    /// The server's connection broke.
    ServerBroke,
    /// Nothing came from the client's machine any more, not even to what TCP asks of it.
    ClientVanished,
    /// Nor from the server's.
    ServerVanished,
    /// One side had ended, the other neither sent nor ended for too long.
    HalfClosed,
    /// The client sent nothing for longer than its keep alive allows.
    Silent,
    /// It was told to.
    Told(Order),
    /// No server took the client.
    NoServer,
    /// All servers are full or have had their clients for now, and no room to wait was left, or too little time.
    ServersBusy,
    /// This process or machine ran out of files, ports or memory.
    OurLimit,
    /// The TLS handshake failed.
    Handshake,
    /// The TLS handshake took too long.
    HandshakeTimeout,
    /// The frontend has as many connections as it may.
    ListenerFull,
    /// The client's source has as many connections as it may.
    SourceFull,
    /// It has as many that came to no server yet as it may.
    SourcePending,
    /// The source may not come.
    SourceDenied,
    /// PROXY headers are not taken from there.
    UnknownProxy,
    /// The connection did not begin with a PROXY header.
    NoHeader,
    /// The CONNECT gate did not let the client in.
    Refused(Refusal),
}

/// Why a session is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    /// The server was marked down.
    ServerDown = 1,
    /// The server is emptied.
    Drain,
    /// The server has more than its share.
    Rebalance,
    /// The same client came again.
    Duplicate,
    /// The balancer stops.
    Stop,
    /// Another process of the balancer has taken over, and this one cannot give the session away.
    Restart,
}

impl Order {
    const ALL: [Self; 6] =
        [Self::ServerDown, Self::Drain, Self::Rebalance, Self::Duplicate, Self::Stop, Self::Restart];

    pub(crate) fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|order| *order as u8 == number)
    }

    /// What a v5 client is told; `None`: there is nothing to be said any more, to nobody.
    pub(crate) fn goodbye(self) -> Option<ReasonCode> {
        match self {
            Self::ServerDown => None,
            Self::Drain | Self::Rebalance => Some(ReasonCode::AdministrativeAction),
            Self::Duplicate => Some(ReasonCode::SessionTakenOver),
            Self::Stop | Self::Restart => Some(ReasonCode::ServerShuttingDown),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::ServerDown => "server-down",
            Self::Drain => "drained",
            Self::Rebalance => "rebalanced",
            Self::Duplicate => "duplicate",
            Self::Stop => "stopping",
            Self::Restart => "restarted",
        }
    }
}

impl End {
    pub(crate) fn client_broke(how: ErrorKind) -> Self {
        if is_gone(how) { Self::ClientVanished } else { Self::ClientBroke }
    }

    pub(crate) fn server_broke(how: ErrorKind) -> Self {
        if is_gone(how) { Self::ServerVanished } else { Self::ServerBroke }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ClientGoodbye => "client-disconnect",
            Self::Server => "server",
            Self::ServerGoodbye => "server-disconnect",
            Self::ClientBroke => "client-broke",
            Self::ServerBroke => "server-broke",
            Self::ClientVanished => "client-vanished",
            Self::ServerVanished => "server-vanished",
            Self::HalfClosed => "half-closed",
            Self::Silent => "client-silent",
            Self::Told(order) => order.as_str(),
            Self::NoServer => "no-server",
            Self::ServersBusy => "servers-busy",
            Self::OurLimit => "our-limit",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::ListenerFull => "listener-full",
            Self::SourceFull => "source-full",
            Self::SourcePending => "source-pending",
            Self::SourceDenied => "source-denied",
            Self::UnknownProxy => "unknown-proxy",
            Self::NoHeader => "no-proxy-header",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

/// TCP has waited for it in vain; and perhaps a machine on the way has said why.
fn is_gone(how: ErrorKind) -> bool {
    matches!(how, ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Both ways: what is logged is told, and what is told is logged.
    #[test]
    fn the_page_about_sessions_tells_every_reason() {
        let said = |text: &'static str| {
            let arms =
                text.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => \""));
            arms.filter_map(|(_, reason)| reason.strip_suffix("\",")).collect::<Vec<_>>()
        };
        let logged: BTreeSet<&str> =
            [include_str!("end.rs"), include_str!("../gate.rs")].into_iter().flat_map(said).collect();
        let page = include_str!("../../../docs/balancer-sessions.md");
        let (_, table) = page.split_once("| `end` | |\n").unwrap();
        let rows = table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.split_once(" | "));
        let told: Vec<&str> = rows.flat_map(|(reasons, _)| reasons.split('`').skip(1).step_by(2)).collect();
        assert_eq!(told.len(), logged.len(), "a reason stands twice, or one is missing");
        assert_eq!(BTreeSet::from_iter(told), logged);
    }
}
