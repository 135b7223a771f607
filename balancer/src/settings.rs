//! The balancer's settings: text → table → checked value. All problems are reported at once, each with its line and a
//! guess at what was meant; nothing after this module checks a setting again.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nsd_edge::config::{self, Problem, Table};
use nsd_edge::listen;
use nsd_edge::logs::Format;

use crate::limits;

mod arrivals;
mod backend;
mod changes;
mod check;
mod dashboard;
mod entry;
mod frontend;
mod gate;
mod http;
mod names;
mod rules;
mod server;
mod server_tls;
mod take_over;
mod tls;

pub use arrivals::Arrivals;
pub use backend::{
    Affinity, BackendSettings, Balance, Duplicates, OnDown, Policy, ProxyVersion, RebalanceRules,
};
pub(crate) use changes::changes;
pub use check::{Ask, Check, CheckKind, HttpAsk, MqttAsk};
pub use dashboard::DashboardSettings;
pub use entry::EntrySettings;
pub use frontend::FrontendSettings;
pub use http::HttpSettings;
pub use names::{NameServer, Names};
pub use server::{Address, ServerSettings};
pub use server_tls::ServerTls;
pub use take_over::TakeOver;
pub use tls::TlsBind;

/// Where the admin socket is unless the file or the command line says otherwise.
pub const ADMIN_SOCKET: &str = "/run/nsd/balancer.sock";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub admin_socket: PathBuf,
    pub access_log: bool,
    /// Whether the access log and `who` tell user names.
    pub log_user_names: bool,
    pub log_format: Format,
    /// How long sessions may go on after SIGTERM.
    pub stop_grace: Duration,
    pub take_over: TakeOver,
    /// Worker threads; `None`: one a core.
    pub threads: Option<usize>,
    /// `None`: there is no dashboard.
    pub dashboard: Option<DashboardSettings>,
    /// Where Prometheus asks.
    pub metrics: Option<SocketAddr>,
    pub frontends: Vec<FrontendSettings>,
    pub backends: Vec<BackendSettings>,
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
    let text = read(path)?;
    parse(&text).map_err(|problems| SettingsError::Wrong { path: path.to_owned(), problems })
}

/// The text of a file of settings.
pub fn read(path: &Path) -> Result<String, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > limits::SETTINGS_FILE {
        return Err(unreadable(std::io::Error::other(format!("{length} bytes are too many for settings"))));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    config::parse(text, read_all)
}

fn read_all(root: &mut Table<'_, '_>) -> Option<Settings> {
    let admin_socket = root.table("admin").and_then(|mut table| {
        let socket = table.string("socket");
        table.finish();
        socket
    });
    let (access_log, log_user_names, log_format) =
        root.table("log").map_or((true, false, Format::Text), |mut table| {
            let access = table.boolean("access").unwrap_or(true);
            let user_names = table.boolean("user_names").unwrap_or(false);
            let format = table.choice("format", &[("text", Format::Text), ("json", Format::Json)]);
            table.finish();
            (access, user_names, format.unwrap_or_default())
        });
    let stop_grace = root.duration("stop_grace", &limits::DURATIONS).unwrap_or(limits::STOP_GRACE);
    let take_over = take_over::read(root);
    let threads = root.number("threads", 1, 256).and_then(|threads| usize::try_from(threads).ok());
    let mut seen = Seen::default();
    let metrics = read_metrics(root, &mut seen);
    let mut frontends = Vec::new();
    let mut backends = Vec::new();
    // Backends first: a rule may name one that stands further down.
    let mut listens = Vec::new();
    for mut table in root.tables("listen") {
        let backend = backend::read_backend(&mut table, &mut seen);
        listens.push((table, backend.as_ref().map(|backend| backend.name.clone())));
        backends.extend(backend);
    }
    for mut table in root.tables("backend") {
        backends.extend(backend::read_backend(&mut table, &mut seen));
        table.finish();
    }
    for (mut table, backend) in listens {
        frontends.push(frontend::read_listen(&mut table, &backend.unwrap_or_default(), &mut seen));
        table.finish();
    }
    for mut table in root.tables("frontend") {
        frontends.extend(frontend::read_frontend(&mut table, &mut seen));
        table.finish();
    }
    let dashboard = dashboard::read(root, &mut seen.bound);
    if !(root.has("listen") || root.has("frontend")) {
        root.problem(
            "listen",
            "nothing to listen on: add `[[listen]]` with `name` and `bind = [\"0.0.0.0:1883\"]`",
        );
    }
    Some(Settings {
        admin_socket: admin_socket.map_or_else(|| PathBuf::from(ADMIN_SOCKET), PathBuf::from),
        access_log,
        log_user_names,
        log_format,
        stop_grace,
        take_over,
        threads,
        dashboard,
        metrics,
        frontends,
        backends,
    })
}

fn read_metrics(root: &mut Table<'_, '_>, seen: &mut Seen) -> Option<SocketAddr> {
    let mut table = root.table("metrics")?;
    table.require("bind");
    let bind = table.parsed::<SocketAddr>("bind", "127.0.0.1:9404");
    if bind.is_some_and(|bind| bind.port() == 0) {
        table.problem("bind", "port 0 would be another one at each start");
    }
    table.finish();
    seen.bound.extend(bind);
    bind
}

/// Of a section's clients, its servers, or both.
fn read_user_timeout(table: &mut Table<'_, '_>) -> Duration {
    table.duration("tcp_user_timeout", &listen::USER_TIMEOUTS).unwrap_or(listen::USER_TIMEOUT)
}

/// Names and addresses so far: each may be used once.
#[derive(Default)]
struct Seen {
    frontends: HashSet<String>,
    backends: HashMap<String, CheckKind>,
    bound: HashSet<SocketAddr>,
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
