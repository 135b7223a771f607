//! Every name in Redis, in one place. All begin with the prefix of the settings.

/// Names of keys and channels.
///
/// | name | type | content |
/// | --- | --- | --- |
/// | `device:ID` | hash | `secret`, `created`, `disabled`: written by `nsd` |
/// | `nodes` | set | nodes that have registered and were not reaped |
/// | `n:NODE` | string, expires | lease: the node's name |
/// | `on:NODE` | set | client ids the node owns |
/// | `client:ID` | hash | `node`, `epoch`: who owns a client id |
/// | `epoch` | string | the last epoch given |
/// | `wills:NODE` | hash | epoch → will of a connected client |
/// | `routes:NODE` | set | filters the node wants |
/// | `routes:log`, `routes:version` | stream, string | what changed, in order |
/// | `retained`, `retained:log`, `retained:version` | hash, stream, string | topic → message, and what changed |
/// | `in:NODE` | channel | messages and kicks for a node |
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

    pub fn client(&self, id: &str) -> String {
        format!("{}{id}", self.client_prefix())
    }

    pub fn client_prefix(&self) -> String {
        self.named("client:")
    }

    pub fn nodes(&self) -> String {
        self.named("nodes")
    }

    pub fn epoch(&self) -> String {
        self.named("epoch")
    }

    pub fn lease(&self, node: u64) -> String {
        self.of_node("n", node)
    }

    pub fn clients_on(&self, node: u64) -> String {
        self.of_node("on", node)
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
        format!("{}{}", self.inbox_prefix(), node_name(node))
    }

    pub fn inbox_prefix(&self) -> String {
        self.named("in:")
    }
}

/// A node as it is written in Redis.
pub fn node_name(node: u64) -> String {
    format!("{node:016x}")
}

pub fn node_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok()
}
