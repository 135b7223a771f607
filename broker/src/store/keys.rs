//! Every name in Redis, in one place. All begin with the prefix of the settings.

use super::change::SessionId;

/// Hash tags of client ids and sessions: part of the names of keys, so never another number.
pub const SHARDS: u64 = 1024;

/// Names of keys and channels.
///
/// | name | type | content |
/// | --- | --- | --- |
/// | `device:ID` | hash | `secret`, `created`, `disabled`: written by `nsd` |
/// | `nodes`, `dying` | set | nodes that have registered; nodes that are being reaped |
/// | `n:NODE` | string, expires | lease: the node's name |
/// | `on:NODE` | set | shard `:` client id, of the clients connected to the node |
/// | `epoch`, `session` | string | the last epoch given; the last number of a session |
/// | `batch:NODE`, `steps:NODE` | string, expires | the node's last batch of messages for sessions, and of other changes |
/// | `hints:NODE` | string, expires | how many hints were sent to the node |
/// | `wills:NODE` | hash | epoch → will that the node is to publish |
/// | `sessions` | set | numbers of all sessions that outlive their connections |
/// | `agenda` | sorted set | session → when it ends or its will is due, while nobody is connected |
/// | `subs:log`, `subs:version` | stream, string | which session wants which filter how: what changed, in order |
/// | `routes:NODE` | set | filters the node wants |
/// | `routes:log`, `routes:version` | stream, string | what changed, in order |
/// | `retained`, `retained:log`, `retained:version` | hash, stream, string | topic → message, and what changed |
/// | `in:NODE` | channel | messages, hints and kicks for a node |
///
/// A client id and its session share a hash tag, `{sN}`: N is the client id's hash and the session's number, modulo 1024.
///
/// | name | type | content |
/// | --- | --- | --- |
/// | `{sN}:client:ID` | hash | `node`, `epoch`: who owns a client id; `session`: its number; `will` |
/// | `{sN}:s:SESSION` | hash | `client`, `epoch`, `node` while connected, `expiry`, `parted`; of its queue `next` and `head`, the next place and the first that may be taken, and `bytes`; `sent` while nobody is connected: places below were sent, and `oldest`: places below hold nothing that can give way |
/// | `{sN}:f:SESSION` | hash | filter → how it is wanted |
/// | `{sN}:q:SESSION` | hash | place → message |
/// | `{sN}:r:SESSION` | set | places of messages that the client has, and whose PUBREL is next |
/// | `{sN}:i:SESSION` | set | identifiers of the client's own messages that wait for their PUBREL |
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn of_node(&self, name: &str, node: u64) -> String {
        format!("{}{name}:{}", self.prefix, node_name(node))
    }

    pub fn device(&self, id: &str) -> String {
        format!("{}device:{id}", self.prefix)
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn client(&self, id: &str) -> String {
        format!("{}{{s{}}}:client:{id}", self.prefix, shard(id))
    }

    /// A key of a session.
    pub fn of(&self, session: SessionId, kind: &str) -> String {
        format!("{}{{s{}}}:{kind}:{session}", self.prefix, session % SHARDS)
    }

    pub fn sessions(&self) -> String {
        self.named("sessions")
    }

    pub fn last_session(&self) -> String {
        self.named("session")
    }

    pub fn subscription_log(&self) -> String {
        self.named("subs:log")
    }

    pub fn subscription_version(&self) -> String {
        self.named("subs:version")
    }

    pub fn clients_on(&self, node: u64) -> String {
        self.of_node("on", node)
    }

    /// How many hints were sent to a node.
    pub fn hints(&self, node: u64) -> String {
        self.of_node("hints", node)
    }

    pub fn dying(&self) -> String {
        self.named("dying")
    }

    pub fn nodes(&self) -> String {
        self.named("nodes")
    }

    pub fn lease(&self, node: u64) -> String {
        self.of_node("n", node)
    }

    pub fn wills(&self, node: u64) -> String {
        self.of_node("wills", node)
    }

    pub fn routes(&self, node: u64) -> String {
        self.of_node("routes", node)
    }

    pub fn route_log(&self) -> String {
        self.named("routes:log")
    }

    pub fn route_version(&self) -> String {
        self.named("routes:version")
    }

    pub fn retained(&self) -> String {
        self.named("retained")
    }

    pub fn retained_log(&self) -> String {
        self.named("retained:log")
    }

    pub fn retained_version(&self) -> String {
        self.named("retained:version")
    }

    pub fn inbox(&self, node: u64) -> String {
        self.of_node("in", node)
    }
}

/// The hash tag of a client id: FNV-1a, the same for ever and everywhere.
pub fn shard(client_id: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    client_id.bytes().fold(0xcbf2_9ce4_8422_2325, step) % SHARDS
}

/// A node as it is written in Redis.
pub fn node_name(node: u64) -> String {
    format!("{node:016x}")
}

pub fn node_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok()
}
