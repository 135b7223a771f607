//! `[[listen]]`: where clients come in, and how.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use nsd_edge::config::Table;
use nsd_edge::listen::{GateRules, Network, USER_TIMEOUT, USER_TIMEOUTS};
use nsd_edge::tls::{HANDSHAKE_TIMEOUT, TlsSettings};
use nsd_edge::websocket::WebSocketSettings;

use super::limits;
use crate::limits::Limits;

/// TLS handshakes of one listener that are computed before everything else is looked at again: in a storm, clients that are
/// in wait for so many, each about a third of a millisecond. More wait in order, their deadline running.
const HANDSHAKES: usize = 4;
/// The path that clients of other brokers use.
const PATH: &str = "/mqtt";
/// The longest WebSocket frame. None is gathered, so this costs nothing; it is there because everything has a limit.
const LONGEST_FRAME: u64 = 16 * 1024 * 1024;
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
const MANY: u64 = 10_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    pub tls: Option<TlsSettings>,
    pub websocket: Option<WebSocketSettings>,
    /// Each connection begins with a PROXY protocol header that tells the client's address.
    pub proxy_protocol: bool,
    /// Proxies whose word counts: PROXY headers are taken from nobody else, `X-Forwarded-For` only from these. Empty:
    /// headers are taken from all, but no identity in them and no `X-Forwarded-For`.
    pub proxy_from: Vec<Network>,
    /// TLS handshakes that are computed at the same time; more wait in order, and who is slow holds no turn.
    pub handshakes: usize,
    /// From accepting a connection to its first byte of MQTT being awaited: PROXY header, TLS, WebSocket in all.
    pub handshake_deadline: Duration,
    /// A client from whose machine nothing comes for so long has vanished.
    pub user_timeout: Duration,
    pub gate: GateRules,
    /// Connections accepted in a second, in the long run; over it they wait in the kernel's queue.
    pub connect_rate: Option<u32>,
    /// Of its clients: its own, and for the rest those of all.
    pub limits: Arc<Limits>,
}

impl Listen {
    /// Plain MQTT, for everybody who reaches the address.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            websocket: None,
            proxy_protocol: false,
            proxy_from: Vec::new(),
            handshakes: HANDSHAKES,
            handshake_deadline: HANDSHAKE_TIMEOUT,
            user_timeout: USER_TIMEOUT,
            gate: GateRules::default(),
            connect_rate: None,
            limits: Arc::default(),
        }
    }

    /// Whether nothing but the limits of its clients differs.
    pub fn is_but_for_limits(&self, other: &Self) -> bool {
        *self == Self { limits: Arc::clone(&self.limits), ..other.clone() }
    }
}

/// `all`: the limits of clients for whom it has no own.
pub(super) fn read(mut table: Table<'_, '_>, all: &Arc<Limits>) -> Option<Listen> {
    table.require("address");
    let address = table.parsed("address", "0.0.0.0:1883");
    let tls = table.table("tls").map(|mut tls| {
        let settings = TlsSettings::read(&mut tls);
        tls.finish();
        settings
    });
    let listen = Listen {
        tls,
        websocket: websocket(&mut table),
        proxy_protocol: table.boolean("proxy_protocol").unwrap_or(false),
        proxy_from: networks(&mut table, "proxy_from"),
        handshakes: number(&mut table, "handshakes").unwrap_or(HANDSHAKES),
        handshake_deadline: table.duration("handshake_deadline", &DEADLINES).unwrap_or(HANDSHAKE_TIMEOUT),
        user_timeout: table.duration("tcp_user_timeout", &USER_TIMEOUTS).unwrap_or(USER_TIMEOUT),
        gate: GateRules {
            connections: number(&mut table, "connections"),
            connections_per_address: number(&mut table, "connections_per_address"),
            allow: networks(&mut table, "allow"),
            deny: networks(&mut table, "deny"),
        },
        connect_rate: number(&mut table, "connect_rate"),
        limits: table
            .table("limits")
            .map_or_else(|| Arc::clone(all), |own| Arc::new(limits::read_own(own, all))),
        ..Listen::plain(([0, 0, 0, 0], 0).into())
    };
    if table.has("proxy_from") && !listen.proxy_protocol && listen.websocket.is_none() {
        table.problem(
            "proxy_from",
            "says whose word counts, but neither `proxy_protocol` nor `websocket` is on",
        );
    }
    table.finish();
    Some(Listen { address: address?, ..listen })
}

/// `true`, or a table where something differs from the defaults.
fn websocket(table: &mut Table<'_, '_>) -> Option<WebSocketSettings> {
    let plain =
        WebSocketSettings { path: PATH.to_owned(), origins: Vec::new(), longest_frame: LONGEST_FRAME };
    if !table.holds_table("websocket") {
        return table.boolean("websocket").unwrap_or(false).then_some(plain);
    }
    let mut table = table.table("websocket")?;
    let path = table.string("path").unwrap_or(plain.path);
    if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
        table.problem("path", format!("`{path}` is no path; write it like `{PATH}`"));
    }
    let origins = table.strings("origins");
    // A page's origin has neither a path nor a slash at its end: such an entry would never fit.
    for origin in origins.iter().filter(|origin| !is_origin(origin)) {
        table.problem("origins", format!("`{origin}` is no origin; write it like `https://example.com`"));
    }
    let longest_frame = table.number("frame_bytes", 1024, 1 << 40).unwrap_or(LONGEST_FRAME);
    table.finish();
    Some(WebSocketSettings { path, origins, longest_frame })
}

fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', ' '])
    })
}

fn networks(table: &mut Table<'_, '_>, key: &'static str) -> Vec<Network> {
    table.all_parsed(key, "10.0.0.0/8")
}

fn number<T: TryFrom<u64>>(table: &mut Table<'_, '_>, key: &'static str) -> Option<T> {
    table.number(key, 1, MANY).and_then(|number| T::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use nsd_edge::config;

    use super::*;

    fn problems(listener: &str) -> Vec<String> {
        let text = format!("[[listen]]\naddress = \"0.0.0.0:1\"\n{listener}\n");
        let all = Arc::default();
        let read =
            |root: &mut Table<'_, '_>| root.tables("listen").into_iter().find_map(|table| read(table, &all));
        match config::parse(&text, read) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn each_mistake_is_told_by_its_line() {
        for (text, problem) in [
            (
                "tls = { certificates = [\"x\"], client_crl = [\"y\"] }",
                "3: listen.tls.client_crl: needs `client_ca`, the authorities whose clients are taken",
            ),
            (
                "tls = { certificates = [\"x\"], client_ca = [] }",
                "3: listen.tls.client_ca: must name at least one PEM file",
            ),
            (
                "tls = { certificates = [\"x\"], min_version = \"1.1\" }",
                "3: listen.tls.min_version: `1.1` is none of 1.2, 1.3",
            ),
            ("websocket = 1", "3: listen.websocket: expected a boolean, found: integer"),
            (
                "websocket = { path = \"mqtt\" }",
                "3: listen.websocket.path: `mqtt` is no path; write it like `/mqtt`",
            ),
            (
                "websocket = { origins = [\"https://a/\"] }",
                "3: listen.websocket.origins: `https://a/` is no origin; write it like `https://example.com`",
            ),
            (
                "proxy_protocol = true\nproxy_from = [\"10.0.0.0/40\"]",
                "4: listen.proxy_from: `10.0.0.0/40` is not understood; write it like `10.0.0.0/8`",
            ),
            (
                "proxy_from = [\"10.0.0.0/8\"]",
                "3: listen.proxy_from: says whose word counts, but neither `proxy_protocol` nor `websocket` is on",
            ),
            ("tcp_user_timeout = \"1s\"", "3: listen.tcp_user_timeout: `1s` is no time between 2s and 1day"),
            ("connections = 0", "3: listen.connections: must be between 1 and 10000000"),
            (
                "limits = { packet_byte = 5000 }",
                "3: listen.limits.packet_byte: unknown key: did you mean `packet_bytes`?",
            ),
            ("[listen.limits]\nsend_window = 0", "4: listen.limits.send_window: must be between 1 and 65535"),
            (
                "[listen.limits]\ntopic_levels = 5\nmemory = 5",
                "5: listen.limits.memory: is a limit of the whole node, not of a listener: write it into `[limits]`",
            ),
            (
                "[listen.limits]\nconnections = 5",
                "4: listen.limits.connections: stands in `[[listen]]` itself, not in its `limits`",
            ),
        ] {
            assert!(
                problems(text).iter().any(|found| found.starts_with(problem)),
                "{text}: {:?}",
                problems(text)
            );
        }
        assert_eq!(problems("websocket = false\nconnect_rate = 50"), [""; 0]);
    }
}
