//! `[[backend]]`, and the backend in a `[[listen]]`: a set of servers and how they are used.

use std::time::Duration;

use nsd_edge::config::Table;

use super::server::read_server;
use super::{
    Arrivals, Check, Names, Seen, ServerSettings, ServerTls, arrivals, check, names, read_name,
    read_user_timeout, server_tls,
};
use crate::limits;
use crate::pace::Pace;

/// A set of servers and how they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSettings {
    pub name: String,
    pub policy: Policy,
    pub servers: Vec<ServerSettings>,
}

/// What holds for all servers of a backend, and may change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub balance: Balance,
    pub affinity: Affinity,
    pub check: Check,
    pub connect_timeout: Duration,
    /// A server from whose machine nothing comes for so long, while a session is there, has vanished.
    pub user_timeout: Duration,
    pub on_down: OnDown,
    /// Servers are told where a client comes from; `None`: they see the balancer.
    pub send_proxy: Option<ProxyVersion>,
    /// How servers are spoken to over TLS; `None`: in the clear.
    pub server_tls: Option<ServerTls>,
    pub names: Names,
    pub arrivals: Arrivals,
    /// How fast the sessions of a server that is down are closed.
    pub close_rate: Pace,
    pub duplicates: Duplicates,
    /// Whether and how sessions are moved by themselves to a server that joined or returned.
    pub rebalance: Option<RebalanceRules>,
}

/// When sessions are moved without being asked, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebalanceRules {
    pub pace: Pace,
    /// No more of the backend's sessions a minute.
    pub percent_per_minute: Option<u32>,
    /// A share that is larger than the fair one by more than so many per cent is too large.
    pub threshold: u32,
    /// A server must have been well for so long.
    pub after: Duration,
}

/// Forms of the PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    /// With what is known of the client's TLS.
    V2,
    /// And with its certificate.
    V2Certificate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    LeastConnections,
    RoundRobin,
    /// The better of two by chance.
    Random,
    /// The same server for the same address.
    Source,
    /// The same server for the same client identifier, as long as that server is not over its share.
    ClientId,
}

impl Policy {
    /// Whether the identifier of such a client says where it belongs.
    pub(crate) fn is_affine(&self, clean: bool) -> bool {
        self.balance == Balance::ClientId && !(clean && self.affinity == Affinity::Persistent)
    }
}

impl Balance {
    const CHOICES: [(&str, Self); 5] = [
        ("leastconn", Self::LeastConnections),
        ("roundrobin", Self::RoundRobin),
        ("random", Self::Random),
        ("source", Self::Source),
        ("client_id", Self::ClientId),
    ];
}

/// Whose identifiers count with [`Balance::ClientId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Every client's.
    All,
    /// Of those whose session outlives the connection, or goes on with one of before: the others lose nothing elsewhere.
    Persistent,
}

/// What happens to the sessions of a server that is marked down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDown {
    /// They are closed, so that their clients come back and get another server.
    Close,
    /// They stay until one side ends them.
    Keep,
}

/// What happens to a client's older session when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// It is closed, if its server has not done that itself.
    Close,
    Keep,
}

pub(super) fn read_backend(table: &mut Table<'_, '_>, seen: &mut Seen) -> Option<BackendSettings> {
    let name = read_name(table);
    let mut servers: Vec<ServerSettings> = Vec::new();
    for mut table in table.tables("server") {
        let server = read_server(&mut table);
        table.finish();
        let Some(server) = server else { continue };
        if servers.iter().any(|other| other.name == server.name) {
            table.problem("name", format!("`{}` is the name of another server of this backend", server.name));
        }
        servers.push(server);
    }
    let policy = read_policy(table, servers.len());
    let name = name?;
    if seen.backends.insert(name.clone(), policy.check.kind()).is_some() {
        table.problem("name", format!("`{name}` is the name of another listen or backend section"));
    }
    Some(BackendSettings { name, policy, servers })
}

fn read_policy(table: &mut Table<'_, '_>, servers: usize) -> Policy {
    let balance = table.choice("balance", &Balance::CHOICES).unwrap_or(Balance::LeastConnections);
    let affinity = table.choice("affinity", &[("all", Affinity::All), ("persistent", Affinity::Persistent)]);
    if affinity.is_some() && balance != Balance::ClientId {
        table.problem("affinity", "only `balance = \"client_id\"` has any");
    }
    let on_down = table.choice("on_down", &[("close", OnDown::Close), ("keep", OnDown::Keep)]);
    let send_proxy = table.choice(
        "send_proxy",
        &[
            ("v1", ProxyVersion::V1),
            ("v2", ProxyVersion::V2),
            ("v2-certificate", ProxyVersion::V2Certificate),
        ],
    );
    let connect_timeout =
        table.duration("connect_timeout", &limits::DURATIONS).unwrap_or(limits::CONNECT_TIMEOUT);
    let server_tls = server_tls::read(table);
    let check = check::read(table, server_tls.is_some());
    let close_rate = table.parsed("close_rate", "1000/s").unwrap_or(limits::CLOSE_RATE);
    let duplicates = table.choice("duplicates", &[("close", Duplicates::Close), ("keep", Duplicates::Keep)]);
    Policy {
        balance,
        affinity: affinity.unwrap_or(Affinity::All),
        check,
        connect_timeout,
        user_timeout: read_user_timeout(table),
        on_down: on_down.unwrap_or(OnDown::Close),
        send_proxy,
        server_tls,
        names: names::read(table),
        arrivals: arrivals::read(table, servers),
        close_rate,
        duplicates: duplicates.unwrap_or(Duplicates::Close),
        rebalance: read_rebalance(table),
    }
}

fn read_rebalance(table: &mut Table<'_, '_>) -> Option<RebalanceRules> {
    let mut table = table.table("rebalance")?;
    table.require("rate");
    let pace = table.parsed("rate", "10/s");
    let percent_per_minute =
        table.number("percent_per_minute", 1, 100).and_then(|percent| u32::try_from(percent).ok());
    let threshold = table.number("threshold", 0, 1000).and_then(|percent| u32::try_from(percent).ok());
    let after = table.duration("after", &limits::DURATIONS);
    table.finish();
    Some(RebalanceRules {
        pace: pace?,
        percent_per_minute,
        threshold: threshold.unwrap_or(limits::REBALANCE_THRESHOLD),
        after: after.unwrap_or(limits::REBALANCE_AFTER),
    })
}
