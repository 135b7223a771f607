//! This node's picture of what all nodes share: who wants which filter, and what is retained. It follows the change
//! logs; where a log no longer reaches back far enough, everything is read anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use foldhash::{HashMap, HashSet};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tracing::{debug, warn};

use super::Bus;
use crate::hub::{Hub, Retained};
use crate::message::Message;
use crate::store::change::SessionId;
use crate::store::keys::{Keys, node_of};
use crate::store::redis::codec;
use crate::topic::Tree;

/// Entries of a log read at once.
const SLICE: usize = 5000;

/// Sessions whose filters are read at once.
const SESSIONS: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Mirror {
    versions: Versions,
    filters: HashMap<u64, HashSet<Box<str>>>,
}

/// How far the change logs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Versions {
    pub(super) routes: u64,
    pub(super) retained: u64,
    pub(super) sessions: u64,
}

type LogEntries = Vec<(String, HashMap<String, Vec<u8>>)>;

impl Mirror {
    /// Whether these versions of Redis are another state than the mirrored one.
    pub(super) fn is_behind(&self, versions: Versions) -> bool {
        self.versions != versions
    }

    /// Whether a node wants something, as far as we know.
    pub(super) fn knows(&self, node: u64) -> bool {
        self.filters.contains_key(&node)
    }

    /// Reads everything anew.
    pub(super) async fn load(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        hub: &Hub,
        bus: &Bus,
    ) -> Result<(), RedisError> {
        self.load_routes(connection, keys, bus).await?;
        self.load_retained(connection, keys, hub).await?;
        self.load_sessions(connection, keys, bus).await?;
        hub.routes_changed();
        Ok(())
    }

    /// Follows the logs up to these versions.
    pub(super) async fn follow(
        &mut self,
        versions: Versions,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        hub: &Hub,
        bus: &Bus,
    ) -> Result<(), RedisError> {
        let known = self.versions;
        while self.versions.routes < versions.routes {
            let entries = read_log(connection, &keys.route_log(), self.versions.routes).await?;
            if !follows(&entries, self.versions.routes) {
                self.load_routes(connection, keys, bus).await?;
                break;
            }
            for (id, fields) in entries {
                self.apply_route(&fields, bus);
                self.versions.routes = number(&id);
            }
        }
        while self.versions.retained < versions.retained {
            let entries = read_log(connection, &keys.retained_log(), self.versions.retained).await?;
            if !follows(&entries, self.versions.retained) {
                self.load_retained(connection, keys, hub).await?;
                break;
            }
            for (id, fields) in entries {
                apply_retained(&fields, hub);
                self.versions.retained = number(&id);
            }
        }
        while self.versions.sessions < versions.sessions {
            let entries = read_log(connection, &keys.subscription_log(), self.versions.sessions).await?;
            if !follows(&entries, self.versions.sessions) {
                self.load_sessions(connection, keys, bus).await?;
                break;
            }
            for (id, fields) in entries {
                apply_subscription(&fields, bus);
                self.versions.sessions = number(&id);
            }
        }
        let Versions { routes, retained, sessions } = versions;
        if known.routes > routes || known.retained > retained || known.sessions > sessions {
            // Behind us: Redis lost what it had. What is there now counts.
            debug!("the store is older than the mirror");
            self.load(connection, keys, hub, bus).await?;
        }
        hub.routes_changed();
        Ok(())
    }

    /// The version is read first: what changes meanwhile is applied twice rather than not at all.
    async fn load_routes(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        bus: &Bus,
    ) -> Result<(), RedisError> {
        let mut ask = redis::pipe();
        ask.cmd("GET").arg(keys.route_version()).cmd("SMEMBERS").arg(keys.nodes());
        let (version, nodes): (Option<u64>, Vec<String>) = ask.query_async(connection).await?;
        let others: Vec<u64> =
            nodes.iter().filter_map(|name| node_of(name)).filter(|node| *node != bus.node).collect();
        let mut ask = redis::pipe();
        others.iter().for_each(|node| {
            ask.cmd("SMEMBERS").arg(keys.routes(*node));
        });
        let wanted: Vec<Vec<String>> =
            if others.is_empty() { Vec::new() } else { ask.query_async(connection).await? };
        let gone: Vec<u64> = self.filters.keys().copied().collect();
        gone.into_iter().for_each(|node| self.forget(node, bus));
        for (node, filters) in others.into_iter().zip(wanted) {
            filters.into_iter().for_each(|filter| self.add(node, filter.into(), bus));
        }
        self.versions.routes = version.unwrap_or(0);
        Ok(())
    }

    async fn load_retained(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        hub: &Hub,
    ) -> Result<(), RedisError> {
        let version: Option<u64> =
            redis::cmd("GET").arg(keys.retained_version()).query_async(connection).await?;
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(keys.retained()).arg(&cursor).arg("COUNT").arg(SLICE);
            let (next, page): (String, Vec<Value>) = scan.query_async(connection).await?;
            found.extend(page.chunks(2).filter_map(|pair| bytes(pair.get(1)?).map(<[u8]>::to_vec)));
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        let mut retained = Retained::new(usize::MAX, usize::MAX);
        for (message, since) in found.iter().filter_map(|stored| codec::read_retained(stored)) {
            retained.set(Arc::new(message), since);
        }
        // The old ones are freed after the lock.
        let _old = std::mem::replace(&mut *hub.retained.write(), retained);
        self.versions.retained = version.unwrap_or(0);
        Ok(())
    }

    /// Which session wants what. In slices, the version first, as above.
    async fn load_sessions(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        bus: &Bus,
    ) -> Result<(), RedisError> {
        let version: Option<u64> =
            redis::cmd("GET").arg(keys.subscription_version()).query_async(connection).await?;
        let (mut tree, mut cursor) = (Tree::default(), "0".to_owned());
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(keys.sessions()).arg(&cursor).arg("COUNT").arg(SESSIONS);
            let (next, sessions): (String, Vec<SessionId>) = scan.query_async(connection).await?;
            let mut ask = redis::pipe();
            sessions.iter().for_each(|session| {
                ask.cmd("HGETALL").arg(keys.of(*session, "f"));
            });
            let wanted: Vec<HashMap<String, Vec<u8>>> =
                if sessions.is_empty() { Vec::new() } else { ask.query_async(connection).await? };
            for (session, filters) in sessions.into_iter().zip(wanted) {
                let read = |(filter, terms): (String, Vec<u8>)| Some((filter, codec::read_terms(&terms)?));
                for (filter, terms) in filters.into_iter().filter_map(read) {
                    tree.insert(&filter, session, terms);
                }
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        // The old ones are freed after the lock.
        let _old = std::mem::replace(&mut *bus.sessions.write(), tree);
        self.versions.sessions = version.unwrap_or(0);
        Ok(())
    }

    fn apply_route(&mut self, fields: &HashMap<String, Vec<u8>>, bus: &Bus) {
        let text = |name: &str| fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let (Some(node), Some(operation), Some(filter)) = (text("n").and_then(node_of), text("o"), text("f"))
        else {
            return warn!("an entry of the route log makes no sense");
        };
        match operation {
            _ if node == bus.node => {}
            "+" => self.add(node, filter.into(), bus),
            "-" => {
                self.filters.entry(node).or_default().remove(filter);
                bus.routes.write().remove(filter, &node);
            }
            _ => self.forget(node, bus),
        }
    }

    fn add(&mut self, node: u64, filter: Box<str>, bus: &Bus) {
        bus.routes.write().insert(&filter, node, ());
        self.filters.entry(node).or_default().insert(filter);
    }

    fn forget(&mut self, node: u64, bus: &Bus) {
        let mut routes = bus.routes.write();
        for filter in self.filters.remove(&node).unwrap_or_default() {
            routes.remove(&filter, &node);
        }
    }
}

async fn read_log(
    connection: &mut MultiplexedConnection,
    key: &str,
    after: u64,
) -> Result<LogEntries, RedisError> {
    let mut ask = redis::cmd("XRANGE");
    ask.arg(key).arg(format!("{}-0", after + 1)).arg("+").arg("COUNT").arg(SLICE);
    ask.query_async(connection).await
}

/// Whether the log goes on right behind `version`; it is cut at its old end.
fn follows(entries: &LogEntries, version: u64) -> bool {
    entries.first().is_some_and(|(id, _)| number(id) == version + 1)
}

fn number(id: &str) -> u64 {
    id.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn apply_subscription(fields: &HashMap<String, Vec<u8>>, bus: &Bus) {
    let text = |name: &str| fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let session = text("s").and_then(|session| session.parse::<SessionId>().ok());
    let (Some(session), Some(filter)) = (session, text("f")) else {
        return warn!("an entry of the log of subscriptions makes no sense");
    };
    let mut sessions = bus.sessions.write();
    match fields.get("t").and_then(|terms| codec::read_terms(terms)) {
        Some(terms) => drop(sessions.insert(filter, session, terms)),
        None => drop(sessions.remove(filter, &session)),
    }
}

fn apply_retained(fields: &HashMap<String, Vec<u8>>, hub: &Hub) {
    let Some(stored) = fields.get("m") else { return };
    if let Some((message, since)) = codec::read_retained(stored) {
        hub.retained.write().set(Arc::new(message), since);
    } else if stored.is_empty()
        && let Some(topic) = fields.get("t").and_then(|topic| std::str::from_utf8(topic).ok())
        && let Some(nothing) = Message::new(&nsd_wire::Publish::new(topic, b""))
    {
        hub.retained.write().set(Arc::new(nothing), SystemTime::UNIX_EPOCH);
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

impl Bus {
    /// What a node says of itself after it was forgotten, or for the first time.
    pub(super) fn set_connected(&self, connected: bool) -> bool {
        self.connected.swap(connected, Ordering::AcqRel) != connected
    }
}
