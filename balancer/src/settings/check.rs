//! `check = { … }` of a backend: how its servers are asked whether they are well.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use nsd_edge::config::Table;
use nsd_wire::Version;

use crate::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub ask: Ask,
    pub interval: Duration,
    /// Between checks when something has changed or is in doubt; `None`: at once after a failure, else a quarter of the
    /// interval.
    pub fast_interval: Option<Duration>,
    pub timeout: Duration,
    /// An answer that takes longer is slow.
    pub slow_after: Duration,
    /// Successes in a row that bring a server back.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
    /// Another address of the server than the one for clients.
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    /// Whether it speaks TLS, and has the PROXY header, where clients' connections have them. Not at another port or
    /// address, unless asked for.
    pub tls: bool,
    pub send_proxy: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Nothing; only failed connections take a server out, and a TCP connection brings it back.
    None,
    /// Whether the port takes connections.
    Tcp,
    /// Whether the server shakes hands, and is whom it should be.
    Tls,
    /// Whether it answers a request.
    Http(HttpAsk),
    /// Whether the broker answers a CONNECT.
    Mqtt(MqttAsk),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    None,
    Tcp,
    Tls,
    Http,
    Mqtt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAsk {
    /// HEAD instead of GET.
    pub head: bool,
    pub path: PathAndQuery,
    pub host: Option<String>,
    pub expect: Vec<Statuses>,
}

/// `200`, or `200-399`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(RangeInclusive<u16>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttAsk {
    pub version: Version,
    /// `%r` stands for eight random digits, `%s` for the server's name.
    pub client_id: String,
    pub user_name: Option<String>,
    /// Never the password itself: that would be shown with the settings.
    pub password_file: Option<PathBuf>,
    /// A topic whose message has to come back; `%c` stands for the client id.
    pub loop_back: Option<String>,
}

impl Check {
    pub fn kind(&self) -> CheckKind {
        match self.ask {
            Ask::None => CheckKind::None,
            Ask::Tcp => CheckKind::Tcp,
            Ask::Tls => CheckKind::Tls,
            Ask::Http(_) => CheckKind::Http,
            Ask::Mqtt(_) => CheckKind::Mqtt,
        }
    }
}

impl Default for Check {
    fn default() -> Self {
        let timeout = Duration::from_secs(1);
        Self {
            ask: Ask::Tcp,
            interval: Duration::from_secs(2),
            fast_interval: None,
            timeout,
            slow_after: timeout / 2,
            rise: 2,
            fall: 2,
            address: None,
            port: None,
            tls: true,
            send_proxy: true,
        }
    }
}

impl Default for MqttAsk {
    fn default() -> Self {
        Self {
            version: Version::V311,
            client_id: "nsd-check-%r".to_owned(),
            user_name: None,
            password_file: None,
            loop_back: None,
        }
    }
}

impl Statuses {
    pub(crate) fn contain(&self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

impl FromStr for Statuses {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
        let (from, to) = (status(from).ok_or(())?, status(to).ok_or(())?);
        if from <= to { Ok(Self(from..=to)) } else { Err(()) }
    }
}

/// `tls`: whether the backend's servers are spoken to over TLS.
pub(super) fn read(table: &mut Table<'_, '_>, tls: bool) -> Check {
    let Some(mut table) = table.table("check") else { return Check::default() };
    let check = read_keys(&mut table);
    if !tls {
        if check.ask == Ask::Tls {
            table.problem("kind", "`tls` needs `server_tls` beside it: whom to trust");
        } else if table.has("tls") && check.tls {
            table.problem("tls", "needs `server_tls` beside `check`: whom to trust");
        }
    }
    table.finish();
    check
}

fn read_keys(table: &mut Table<'_, '_>) -> Check {
    let default = Check::default();
    let mut count = |key| table.number(key, 1, 100).and_then(|count| u32::try_from(count).ok());
    let (rise, fall) = (count("rise").unwrap_or(default.rise), count("fall").unwrap_or(default.fall));
    let timeout = table.duration("timeout", &limits::DURATIONS).unwrap_or(default.timeout);
    let address = table.parsed::<IpAddr>("address", "10.0.0.9");
    let port = table.number("port", 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    let like_clients = address.is_none() && port.is_none();
    Check {
        ask: read_ask(table),
        interval: table.duration("interval", &limits::DURATIONS).unwrap_or(default.interval),
        fast_interval: table.duration("fast_interval", &limits::DURATIONS),
        timeout,
        slow_after: table.duration("slow_after", &limits::DURATIONS).unwrap_or(timeout / 2),
        rise,
        fall,
        address,
        port,
        tls: table.boolean("tls").unwrap_or(like_clients),
        send_proxy: table.boolean("send_proxy").unwrap_or(like_clients),
    }
}

fn read_ask(table: &mut Table<'_, '_>) -> Ask {
    let kinds = [
        ("none", CheckKind::None),
        ("tcp", CheckKind::Tcp),
        ("tls", CheckKind::Tls),
        ("http", CheckKind::Http),
        ("mqtt", CheckKind::Mqtt),
    ];
    match table.choice("kind", &kinds).unwrap_or(CheckKind::Tcp) {
        CheckKind::None => Ask::None,
        CheckKind::Tcp => Ask::Tcp,
        CheckKind::Tls => Ask::Tls,
        CheckKind::Http => Ask::Http(read_http(table)),
        CheckKind::Mqtt => Ask::Mqtt(read_mqtt(table)),
    }
}

fn read_http(table: &mut Table<'_, '_>) -> HttpAsk {
    let head = table.choice("method", &[("GET", false), ("HEAD", true)]).unwrap_or(false);
    let path = table.parsed::<PathAndQuery>("path", "/health");
    if path.as_ref().is_some_and(|path| !path.path().starts_with('/')) {
        table.problem("path", "a path begins with `/`");
    }
    let host = table.string("host");
    if host.as_ref().is_some_and(|host| hyper::header::HeaderValue::from_str(host).is_err()) {
        table.problem("host", "is no name of a host");
    }
    let mut expect = table.all_parsed::<Statuses>("expect", "200-399");
    if expect.is_empty() {
        expect.push(Statuses(200..=399));
    }
    HttpAsk { head, path: path.unwrap_or_else(|| PathAndQuery::from_static("/")), host, expect }
}

fn read_mqtt(table: &mut Table<'_, '_>) -> MqttAsk {
    let default = MqttAsk::default();
    let versions = [("3.1", Version::V31), ("3.1.1", Version::V311), ("5", Version::V5)];
    let client_id = table.string("client_id").unwrap_or(default.client_id);
    if client_id.is_empty() || client_id.len() > 128 {
        table.problem("client_id", "a check needs a client identifier of 1 to 128 bytes");
    }
    let user_name = table.string("user_name");
    let password_file = table.string("password_file").map(PathBuf::from);
    if password_file.is_some() && user_name.is_none() {
        table.problem("password_file", "needs a `user_name` beside it");
    }
    let loop_back = table.string("loop_back");
    if loop_back.as_ref().is_some_and(|topic| !nsd_wire::topic::valid_name(topic)) {
        table.problem("loop_back", "is no topic to publish to: not empty, and without wildcards");
    }
    MqttAsk {
        version: table.choice("version", &versions).unwrap_or(default.version),
        client_id,
        user_name,
        password_file,
        loop_back,
    }
}
