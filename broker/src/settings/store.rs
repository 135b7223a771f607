//! `[store]`: where sessions, retained messages and devices are kept.

use std::fmt;
use std::path::PathBuf;

use nsd_edge::config::Table;
use nsd_edge::secret_file::{self, Readers};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use zeroize::Zeroizing;

#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// Gone with the process.
    Memory,
    /// One node, in this folder.
    Disk(PathBuf),
    Redis(RedisSettings),
}

/// A larger file is something else.
const MAX_PASSWORD: u64 = 64 * 1024;

#[derive(Clone, Copy)]
enum Kind {
    Memory,
    Disk,
    Redis,
}

/// Where a broker keeps its state that was not told where: systemd's folder for it, the system's for root, the user's
/// for anybody else.
pub fn default_directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(directory) = variable("STATE_DIRECTORY") {
        return Some(directory);
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/nsd-broker"));
    }
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
    Some(state.join("nsd-broker"))
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

pub(super) fn read(mut table: Table<'_, '_>) -> Option<StoreSettings> {
    let kinds = [("disk", Kind::Disk), ("memory", Kind::Memory), ("redis", Kind::Redis)];
    let kind = table.required_choice("kind", &kinds);
    let directory = table.string("directory");
    let url = table.string("url").map(Zeroizing::new);
    let password = table.string("password").map(Zeroizing::new);
    let file = table.string("password_file");
    let prefix = table.string("prefix").unwrap_or_else(|| "nsd:".to_owned());
    table.finish();
    match kind? {
        Kind::Memory => return Some(StoreSettings::Memory),
        Kind::Disk => {
            let Some(directory) = directory.map(PathBuf::from).or_else(default_directory) else {
                table.problem("directory", "is missing: a folder for the broker alone");
                return None;
            };
            return Some(StoreSettings::Disk(directory));
        }
        Kind::Redis => {}
    }
    if password.is_some() && file.is_some() {
        table.problem("password_file", "excludes `password`");
    }
    let password = match file {
        None => password,
        Some(path) => match secret_file::read_text(path.as_ref(), MAX_PASSWORD, Readers::Any) {
            Ok(text) => Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                table.problem("password_file", format!("`{path}`: {error}"));
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
