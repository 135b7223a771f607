//! The broker's settings: text → table → checked value. All problems are reported at once, each with its line and a
//! guess at what was meant; nothing after this module checks a setting again.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nsd_edge::config::{self, Problem, Table};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use zeroize::Zeroizing;

use crate::access::{Policy, TopicRule};

/// Where the admin socket is unless the file says otherwise.
pub const ADMIN_SOCKET: &str = "/run/nsd/broker.sock";

#[derive(Debug, Clone)]
pub struct Settings {
    /// The name in logs; a random one where none is given.
    pub node: String,
    pub listen: Vec<Listen>,
    pub store: StoreSettings,
    pub policy: Policy,
    /// `None`: no admin socket (quick flags without one).
    pub admin_socket: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Combined PEM files; empty: no TLS.
    pub certificates: Vec<PathBuf>,
    /// Each connection begins with a PROXY protocol header that tells the client's address.
    pub proxy_protocol: bool,
}

#[derive(Debug, Clone)]
pub enum StoreSettings {
    Memory,
    Redis(RedisSettings),
}

#[derive(Clone)]
pub struct RedisSettings {
    pub info: ConnectionInfo,
    pub prefix: String,
}

/// Where a Redis is, without its password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place())
    }
}

impl RedisSettings {
    /// For logs and errors: address and database, never credentials.
    pub fn place(&self) -> String {
        format!("redis {} db {}", self.info.addr(), self.info.redis_settings().db())
    }

    /// `redis://[:PASSWORD@]HOST:PORT[/DB]`; a password given apart wins over the URL's.
    pub fn parse(url: &str, password: Option<&str>, prefix: &str) -> Result<Self, String> {
        // The error of the client library may repeat the URL, and with it a password.
        let info = url
            .into_connection_info()
            .map_err(|_| "is no `redis://[:PASSWORD@]HOST:PORT[/DB]`".to_owned())?;
        if !matches!(info.addr(), ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_)) {
            return Err("only redis:// and unix:// are understood so far".to_owned());
        }
        let mut redis = info.redis_settings().clone();
        if let Some(password) = password {
            redis = redis.set_password(password);
        }
        Ok(Self { info: info.set_redis_settings(redis), prefix: prefix.to_owned() })
    }
}

/// Why there are no settings; `Display` has one line per problem.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}", list(path, problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}:{problem}", path.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Reads, parses and checks the file. A `password_file` is read here too, so that `--check` notices a missing one.
pub fn load(path: &Path) -> Result<Settings, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    parse(&text).map_err(|problems| SettingsError::Wrong { path: path.to_owned(), problems })
}

pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    config::parse(text, read)
}

fn read(root: &mut Table<'_, '_>) -> Option<Settings> {
    let node = root.string("node").unwrap_or_else(random_name);
    let allow_anonymous = root.boolean("allow_anonymous").unwrap_or(false);
    let listen: Vec<Listen> = root.tables("listen").into_iter().filter_map(read_listen).collect();
    if listen.is_empty() && root.is_fine() {
        root.problem("listen", "nothing to listen on: add `[[listen]]` with `address = \"0.0.0.0:1883\"`");
    }
    let store = root.table("store").map_or(Some(StoreSettings::Memory), read_store);
    let policy = read_access(root.table("access"), allow_anonymous);
    let admin_socket = root.table("admin").and_then(|mut table| {
        let socket = table.string("socket");
        table.finish();
        socket
    });
    let admin_socket = Some(admin_socket.map_or_else(|| PathBuf::from(ADMIN_SOCKET), PathBuf::from));
    Some(Settings { node, listen, store: store?, policy, admin_socket })
}

/// A name for a node that was given none.
pub fn random_name() -> String {
    format!("node-{:08x}", fastrand::u32(..))
}

fn read_listen(mut table: Table<'_, '_>) -> Option<Listen> {
    table.require("address");
    let address = table.parsed("address", "0.0.0.0:1883");
    let certificates = table.table("tls").map_or_else(Vec::new, |mut tls| {
        let certificates = tls.strings("certificates");
        if certificates.is_empty() {
            tls.problem("certificates", "must name at least one combined PEM file");
        }
        tls.finish();
        certificates.into_iter().map(PathBuf::from).collect()
    });
    let proxy_protocol = table.boolean("proxy_protocol").unwrap_or(false);
    table.finish();
    Some(Listen { address: address?, certificates, proxy_protocol })
}

fn read_store(mut table: Table<'_, '_>) -> Option<StoreSettings> {
    let is_redis = table.required_choice("kind", &[("memory", false), ("redis", true)]);
    let url = table.string("url").map(Zeroizing::new);
    let password = table.string("password").map(Zeroizing::new);
    let file = table.string("password_file");
    let prefix = table.string("prefix").unwrap_or_else(|| "nsd:".to_owned());
    table.finish();
    if !is_redis? {
        return Some(StoreSettings::Memory);
    }
    if password.is_some() && file.is_some() {
        table.problem("password_file", "excludes `password`");
    }
    let password = match file {
        None => password,
        Some(path) => match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                table.problem("password_file", format!("cannot read `{path}`: {error}"));
                None
            }
        },
    };
    let Some(url) = url else {
        if !table.has("url") {
            table.problem("url", "is missing, for example `redis://10.0.0.2:6379/12`");
        }
        return None;
    };
    match RedisSettings::parse(&url, password.as_ref().map(|text| text.as_str()), &prefix) {
        Ok(redis) => Some(StoreSettings::Redis(redis)),
        Err(what) => {
            table.problem("url", what);
            None
        }
    }
}

fn read_access(table: Option<Table<'_, '_>>, allow_anonymous: bool) -> Policy {
    let (mut devices, mut rule) = (None, None);
    if let Some(mut table) = table {
        devices = table.boolean("devices");
        let rules = [("second-level-is-device", TopicRule::SecondLevelIsDevice), ("open", TopicRule::Open)];
        rule = table.choice("topic_rule", &rules);
        table.finish();
    }
    policy(allow_anonymous, devices, rule)
}

/// The defaults are the safe ones: devices only, each in its own topics, unless anonymous clients were asked for.
pub fn policy(allow_anonymous: bool, devices: Option<bool>, rule: Option<TopicRule>) -> Policy {
    let devices = devices.unwrap_or(!allow_anonymous);
    let default = if devices { TopicRule::SecondLevelIsDevice } else { TopicRule::Open };
    Policy { allow_anonymous, devices, topic_rule: rule.unwrap_or(default) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        parse(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_whole_file() {
        let settings = parse(
            r#"
            node = "mqtt-1.mqtt.1"
            [[listen]]
            address = "0.0.0.0:1883"
            [[listen]]
            address = "[::1]:8883"
            tls = { certificates = ["/certs/x.pem"] }
            proxy_protocol = true
            [store]
            kind = "redis"
            url = "redis://10.0.0.2:6379/12"
            password = "hush"
            prefix = "p:"
            [access]
            devices = true
            topic_rule = "second-level-is-device"
            [admin]
            socket = "/tmp/b.sock"
            "#,
        )
        .unwrap();
        assert_eq!(settings.node, "mqtt-1.mqtt.1");
        assert_eq!(settings.listen.len(), 2);
        assert!(settings.listen[1].proxy_protocol && !settings.listen[1].certificates.is_empty());
        let StoreSettings::Redis(redis) = &settings.store else { panic!("redis was asked for") };
        assert_eq!(redis.place(), "redis 10.0.0.2:6379 db 12");
        assert_eq!(redis.info.redis_settings().password(), Some("hush"));
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(!settings.policy.allow_anonymous);
    }

    #[test]
    fn all_problems_at_once_with_lines() {
        let found = problems(
            "nod = \"x\"\nallow_anonymous = 1\n[[listen]]\naddress = \"here\"\nproxy = true\n[store]\nkind = \"disk\"\n\
             [access]\ntopic_rule = \"opne\"\n",
        );
        assert_eq!(
            found,
            [
                "1: nod: unknown key: did you mean `node`?",
                "2: allow_anonymous: expected a boolean, found: integer",
                "4: listen.address: `here` is not understood; write it like `0.0.0.0:1883`",
                "5: listen.proxy: unknown key: known here are address, tls, proxy_protocol",
                "7: store.kind: `disk` is none of memory, redis",
                "9: access.topic_rule: `opne` is none of second-level-is-device, open: did you mean `open`?",
            ]
        );
    }

    #[test]
    fn a_broken_file_is_told_by_line_and_a_password_never() {
        assert!(problems("a = \n")[0].starts_with("1: "));
        let listen = "[[listen]]\naddress = \"0.0.0.0:1\"\n";
        assert_eq!(
            problems(&format!("{listen}[store]\nkind = \"redis\"")),
            ["3: store.url: is missing, for example `redis://10.0.0.2:6379/12`"]
        );
        assert_eq!(
            problems(&format!("{listen}[store]\n")),
            ["3: store.kind: is missing: one of memory, redis"]
        );
        assert_eq!(
            problems(&format!("{listen}tls = {{}}\n")),
            ["3: listen.tls.certificates: must name at least one combined PEM file"]
        );
        let found = problems(
            "[[listen]]\naddress=\"0.0.0.0:1\"\n[store]\nkind=\"redis\"\nurl=\"redis://:hush@h:99999\"",
        );
        assert!(!found[0].contains("hush"), "{found:?}");
    }

    #[test]
    fn nothing_to_listen_on() {
        assert!(problems("")[0].contains("nothing to listen on"));
    }
}
