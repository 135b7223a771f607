//! The broker's settings: text → table → checked value. All problems are reported at once, each with its line and a
//! guess at what was meant; nothing after this module checks a setting again.

mod access;
mod limits;
mod listen;
mod store;
mod telemetry;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsd_edge::config::{self, Problem, Table};
use zeroize::Zeroizing;

use crate::limits::Limits;

pub use access::{Access, Tokens, policy};
pub use listen::Listen;
pub use store::{RedisSettings, StoreSettings, default_directory};
pub use telemetry::Telemetry;

/// Where the admin socket is unless the file says otherwise.
pub const ADMIN_SOCKET: &str = "/run/nsd/broker.sock";

#[derive(Debug, Clone)]
pub struct Settings {
    /// The name in logs; a random one where none is given.
    pub node: String,
    pub listen: Vec<Listen>,
    pub store: StoreSettings,
    pub access: Access,
    /// Of the node, and of clients whose listener has no own.
    pub limits: Arc<Limits>,
    /// `None`: no admin socket (quick flags without one).
    pub admin_socket: Option<PathBuf>,
    pub telemetry: Telemetry,
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
pub fn read_file(path: &Path) -> Result<(Settings, Zeroizing<String>), SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    let settings =
        parse(&text).map_err(|problems| SettingsError::Wrong { path: path.to_owned(), problems })?;
    Ok((settings, text))
}

pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    config::parse(text, read)
}

fn read(root: &mut Table<'_, '_>) -> Option<Settings> {
    let node = root.string("node").unwrap_or_else(random_name);
    let allow_anonymous = root.boolean("allow_anonymous").unwrap_or(false);
    let limits = Arc::new(root.table("limits").map_or_else(Limits::default, limits::read));
    let listen = root.tables("listen").into_iter().filter_map(|table| listen::read(table, &limits));
    let listen: Vec<Listen> = listen.collect();
    if listen.is_empty() && root.is_fine() {
        root.problem("listen", "nothing to listen on: add `[[listen]]` with `address = \"0.0.0.0:1883\"`");
    }
    let store = match root.table("store") {
        Some(table) => store::read(table),
        None => {
            let directory = default_directory();
            if directory.is_none() {
                root.problem(
                    "store",
                    "is missing, and there is no home to keep state in: name one of disk, memory, redis",
                );
            }
            directory.map(StoreSettings::Disk)
        }
    };
    let access = access::read(root.table("access"), allow_anonymous);
    let admin_socket = root.table("admin").and_then(|mut table| {
        let socket = table.string("socket");
        table.finish();
        socket
    });
    let admin_socket = Some(admin_socket.map_or_else(|| PathBuf::from(ADMIN_SOCKET), PathBuf::from));
    let telemetry = telemetry::read(root);
    Some(Settings { node, listen, store: store?, access, limits, admin_socket, telemetry })
}

/// A name for a node that was given none.
pub fn random_name() -> String {
    format!("node-{:08x}", fastrand::u32(..))
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
        assert!(settings.listen[1].proxy_protocol && settings.listen[1].tls.is_some());
        let StoreSettings::Redis(redis) = &settings.store else { panic!("redis was asked for") };
        assert_eq!(redis.place(), "redis 10.0.0.2:6379 db 12");
        assert_eq!(redis.info.redis_settings().password(), Some("hush"));
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(!settings.access.policy.allow_anonymous);
    }

    #[test]
    fn all_problems_at_once_with_lines() {
        let found = problems(
            "nod = \"x\"\nallow_anonymous = 1\n[[listen]]\naddress = \"here\"\nproxy = true\n[store]\nkind = \"dusk\"\n\
             [access]\ntopic_rule = \"opne\"\n",
        );
        assert_eq!(
            found,
            [
                "1: nod: unknown key: did you mean `node`?",
                "2: allow_anonymous: expected a boolean, found: integer",
                "4: listen.address: `here` is not understood; write it like `0.0.0.0:1883`",
                "5: listen.proxy: unknown key: known here are address, tls, websocket, proxy_protocol, proxy_from, handshakes, \
                 handshake_deadline, tcp_user_timeout, connections, connections_per_address, allow, deny, connect_rate, limits",
                "7: store.kind: `dusk` is none of disk, memory, redis: did you mean `disk`?",
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
            ["3: store.kind: is missing: one of disk, memory, redis"]
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
