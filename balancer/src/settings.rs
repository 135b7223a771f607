//! The balancer's settings: text → table → checked value. All problems are reported at once, each with its line and a
//! guess at what was meant; nothing after this module checks a setting again.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nsd_edge::config::{self, Problem, Table, closest};
use nsd_edge::logs::Format;

use crate::gate::GateRules;
use crate::limits;

mod gate;

/// Where the admin socket is unless the file or the command line says otherwise.
pub const ADMIN_SOCKET: &str = "/run/nsd/balancer.sock";
/// Weights are ratios; HAProxy's range, so that a file can be carried over.
const MAX_WEIGHT: u64 = 256;
/// More clients than this are not served sooner for waiting here.
const MAX_QUEUE: u64 = 100_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub admin_socket: PathBuf,
    pub access_log: bool,
    pub log_format: Format,
    /// How long sessions may go on after SIGTERM.
    pub stop_grace: Duration,
    /// Worker threads; `None`: one a core.
    pub threads: Option<usize>,
    pub frontends: Vec<FrontendSettings>,
    pub backends: Vec<BackendSettings>,
}

/// Where clients come in, and which backend they go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendSettings {
    pub name: String,
    pub bind: Vec<SocketAddr>,
    pub tls: Option<TlsSettings>,
    pub backend: String,
    /// How CONNECTs are judged; `None`: bytes are not looked at.
    pub gate: Option<GateRules>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub bind: Vec<SocketAddr>,
    /// Combined PEM files, or directories of them.
    pub certificates: Vec<PathBuf>,
}

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
    pub check: Check,
    pub connect_timeout: Duration,
    pub on_down: OnDown,
    /// Servers are told where a client comes from; `None`: they see the balancer.
    pub send_proxy: Option<ProxyVersion>,
    /// Clients that may wait at once while all servers are full, and how long.
    pub queue: usize,
    pub queue_timeout: Duration,
}

/// Forms of the PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    /// With what is known of the client's TLS.
    V2,
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

impl Balance {
    const CHOICES: [(&str, Self); 5] = [
        ("leastconn", Self::LeastConnections),
        ("roundrobin", Self::RoundRobin),
        ("random", Self::Random),
        ("source", Self::Source),
        ("client_id", Self::ClientId),
    ];
}

/// What happens to the sessions of a server that is marked down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDown {
    /// They are closed, so that their clients come back and get another server.
    Close,
    /// They stay until one side ends them.
    Keep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring a server back.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// No checks; only failed connections take a server out, and a TCP connection brings it back.
    None,
    /// The port takes connections.
    Tcp,
    /// The broker answers a CONNECT.
    Mqtt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub name: String,
    pub address: SocketAddr,
    /// Its share; 0: no new sessions.
    pub weight: u32,
    /// Sessions at once; those over it go to other servers.
    pub max_sessions: u32,
    /// Only used where no other server can take a client.
    pub backup: bool,
}

/// Why there are no settings; `Display` has one line per problem.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}", Listed(path, problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

struct Listed<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listed(path, problems) = self;
        for (at, problem) in problems.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{problem}", path.display())?;
        }
        Ok(())
    }
}

/// Reads, parses and checks the file.
pub fn load(path: &Path) -> Result<Settings, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > limits::SETTINGS_FILE {
        return Err(unreadable(std::io::Error::other(format!("{length} bytes are too many for settings"))));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text).map_err(|problems| SettingsError::Wrong { path: path.to_owned(), problems })
}

pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    config::parse(text, read)
}

fn read(root: &mut Table<'_, '_>) -> Option<Settings> {
    let admin_socket = root.table("admin").and_then(|mut table| {
        let socket = table.string("socket");
        table.finish();
        socket
    });
    let (access_log, log_format) = root.table("log").map_or((true, Format::Text), |mut table| {
        let access = table.boolean("access").unwrap_or(true);
        let format = table.choice("format", &[("text", Format::Text), ("json", Format::Json)]);
        table.finish();
        (access, format.unwrap_or_default())
    });
    let stop_grace = root.duration("stop_grace", &limits::DURATIONS).unwrap_or(limits::STOP_GRACE);
    let threads = root.number("threads", 1, 256).and_then(|threads| usize::try_from(threads).ok());
    let mut seen = Seen::default();
    let mut frontends = Vec::new();
    let mut backends = Vec::new();
    for mut table in root.tables("listen") {
        let (frontend, backend) = read_listen(&mut table, &mut seen);
        frontends.extend(frontend);
        backends.extend(backend);
        table.finish();
    }
    for mut table in root.tables("backend") {
        backends.extend(read_backend(&mut table, &mut seen));
        table.finish();
    }
    for mut table in root.tables("frontend") {
        frontends.extend(read_frontend(&mut table, &mut seen));
        table.finish();
    }
    if !(root.has("listen") || root.has("frontend")) {
        root.problem(
            "listen",
            "nothing to listen on: add `[[listen]]` with `name` and `bind = [\"0.0.0.0:1883\"]`",
        );
    }
    Some(Settings {
        admin_socket: admin_socket.map_or_else(|| PathBuf::from(ADMIN_SOCKET), PathBuf::from),
        access_log,
        log_format,
        stop_grace,
        threads,
        frontends,
        backends,
    })
}

/// Names and addresses so far: each may be used once.
#[derive(Default)]
struct Seen {
    frontends: HashSet<String>,
    backends: HashMap<String, CheckKind>,
    bound: HashSet<SocketAddr>,
}

/// A `listen` section is a frontend and its backend in one, both of its name.
fn read_listen(
    table: &mut Table<'_, '_>,
    seen: &mut Seen,
) -> (Option<FrontendSettings>, Option<BackendSettings>) {
    let backend = read_backend(table, seen);
    let (bind, tls) = read_binds(table, &mut seen.bound);
    let Some(name) = backend.as_ref().map(|backend| backend.name.clone()) else { return (None, None) };
    if !seen.frontends.insert(name.clone()) {
        table.problem("name", format!("`{name}` is the name of another listen or frontend section"));
    }
    let gate = gate::read(table, seen.backends.get(&name).copied());
    (Some(FrontendSettings { backend: name.clone(), name, bind, tls, gate }), backend)
}

fn read_frontend(table: &mut Table<'_, '_>, seen: &mut Seen) -> Option<FrontendSettings> {
    let name = read_name(table);
    let backend = table.required("backend");
    let (bind, tls) = read_binds(table, &mut seen.bound);
    let check = backend.as_ref().and_then(|backend| seen.backends.get(backend)).copied();
    let gate = gate::read(table, check);
    let (name, backend) = (name?, backend?);
    if !seen.frontends.insert(name.clone()) {
        table.problem("name", format!("`{name}` is the name of another listen or frontend section"));
    }
    if check.is_none() {
        let backends: Vec<&str> = seen.backends.keys().map(String::as_str).collect();
        let meant =
            closest(&backend, &backends).map_or_else(String::new, |word| format!(": did you mean `{word}`?"));
        table.problem("backend", format!("there is no backend `{backend}`{meant}"));
    }
    Some(FrontendSettings { name, bind, tls, backend, gate })
}

fn read_binds(
    table: &mut Table<'_, '_>,
    bound: &mut HashSet<SocketAddr>,
) -> (Vec<SocketAddr>, Option<TlsSettings>) {
    let bind = addresses(table, "bind", bound);
    let tls = table.table("tls").map(|mut tls| {
        tls.require("bind");
        tls.require("certificates");
        let bind = addresses(&mut tls, "bind", bound);
        let certificates: Vec<PathBuf> = tls.strings("certificates").into_iter().map(PathBuf::from).collect();
        if certificates.is_empty() && tls.has("certificates") {
            tls.problem("certificates", "name at least one combined PEM file, or a directory of them");
        }
        tls.finish();
        TlsSettings { bind, certificates }
    });
    if !table.has("bind") && tls.is_none() {
        table.require("bind");
    }
    (bind, tls)
}

fn addresses(
    table: &mut Table<'_, '_>,
    key: &'static str,
    bound: &mut HashSet<SocketAddr>,
) -> Vec<SocketAddr> {
    let addresses = table.all_parsed::<SocketAddr>(key, "0.0.0.0:1883");
    for address in &addresses {
        if address.port() == 0 {
            table.problem(key, format!("`{address}`: port 0 would be another one at each start"));
        } else if !bound.insert(*address) {
            table.problem(key, format!("`{address}` is bound twice"));
        }
    }
    addresses
}

fn read_backend(table: &mut Table<'_, '_>, seen: &mut Seen) -> Option<BackendSettings> {
    let name = read_name(table);
    let policy = read_policy(table);
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
    let name = name?;
    if seen.backends.insert(name.clone(), policy.check.kind).is_some() {
        table.problem("name", format!("`{name}` is the name of another listen or backend section"));
    }
    Some(BackendSettings { name, policy, servers })
}

fn read_policy(table: &mut Table<'_, '_>) -> Policy {
    let balance = table.choice("balance", &Balance::CHOICES).unwrap_or(Balance::LeastConnections);
    let on_down = table.choice("on_down", &[("close", OnDown::Close), ("keep", OnDown::Keep)]);
    let send_proxy = table.choice("send_proxy", &[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)]);
    let queue = table.number("queue", 0, MAX_QUEUE).and_then(|most| usize::try_from(most).ok());
    let queue_timeout = table.duration("queue_timeout", &limits::DURATIONS).unwrap_or(limits::QUEUE_TIMEOUT);
    let connect_timeout =
        table.duration("connect_timeout", &limits::DURATIONS).unwrap_or(limits::CONNECT_TIMEOUT);
    let check = table.table("check").map_or_else(Check::default, |mut table| {
        let check = read_check(&mut table);
        table.finish();
        check
    });
    let on_down = on_down.unwrap_or(OnDown::Close);
    Policy { balance, check, connect_timeout, on_down, send_proxy, queue: queue.unwrap_or(0), queue_timeout }
}

impl Default for Check {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Self { kind: CheckKind::Tcp, interval, timeout, rise: 2, fall: 2 }
    }
}

fn read_check(table: &mut Table<'_, '_>) -> Check {
    let default = Check::default();
    let kinds = [("none", CheckKind::None), ("tcp", CheckKind::Tcp), ("mqtt", CheckKind::Mqtt)];
    let mut count = |key| table.number(key, 1, 100).and_then(|count| u32::try_from(count).ok());
    let (rise, fall) = (count("rise").unwrap_or(default.rise), count("fall").unwrap_or(default.fall));
    Check {
        kind: table.choice("kind", &kinds).unwrap_or(default.kind),
        interval: table.duration("interval", &limits::DURATIONS).unwrap_or(default.interval),
        timeout: table.duration("timeout", &limits::DURATIONS).unwrap_or(default.timeout),
        rise,
        fall,
    }
}

fn read_server(table: &mut Table<'_, '_>) -> Option<ServerSettings> {
    let name = read_name(table);
    table.require("address");
    let address = table.parsed::<SocketAddr>("address", "10.0.0.3:1883");
    let mut number = |key, least, most| table.number(key, least, most).and_then(|n| u32::try_from(n).ok());
    let weight = number("weight", 0, MAX_WEIGHT);
    let max_sessions = number("max_sessions", 1, u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let backup = table.boolean("backup").unwrap_or(false);
    let address = address?;
    if address.port() == 0 || address.ip().is_unspecified() {
        table.problem("address", format!("`{address}` is no place to connect to"));
    }
    Some(ServerSettings { name: name?, address, weight: weight.unwrap_or(1), max_sessions, backup })
}

/// Names appear in log lines and on the admin socket: no spaces, nothing to quote.
fn read_name(table: &mut Table<'_, '_>) -> Option<String> {
    let name = table.required("name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-$:".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        table.problem("name", format!("`{name}`: a name has 1 to 128 letters, digits, and any of `._-$:`"));
    }
    Some(name)
}

#[cfg(test)]
mod tests;
