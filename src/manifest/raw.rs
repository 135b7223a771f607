//! The shape of `system.toml`, one struct a table. The doc comments are the reference page (`docs/system.md`) and the
//! schema (`docs/system.schema.json`); the schema is what [`super::shape`] checks files against.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::Runtime;
use crate::system::{Bundled, Restart, Ulimit};

/// One file declares a system. It is data, parsed and never executed; an unknown key is an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "System")]
pub(super) struct File {
    /// Name of the system: letters, digits, `-` and `_`, at most 40 characters.
    pub(super) name: String,
    /// Whose it is; free text, left out: the name.
    pub(super) namespace: Option<String>,
    /// A UUID that tells this system from all others, made by `nsd sys create`. Never change it: containers carry it.
    pub(super) id: String,
    /// Defaults for reaching every machine by SSH.
    #[serde(default)]
    pub(super) ssh: Ssh,
    /// Secrets by name. In strings and templates `{{ secret.NAME }}` stands for the value.
    #[serde(default)]
    pub(super) secrets: BTreeMap<String, SecretKeys>,
    /// What can run, by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Process>")]
    pub(super) process: BTreeMap<String, Value>,
    /// Where it runs: any number of topologies with any names. `nsd sys compile NAME` chooses one.
    #[serde(default)]
    pub(super) topology: BTreeMap<String, TopologyKeys>,
}

/// How machines are reached by SSH. What is left out, `~/.ssh/config` and the agent decide.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ssh {
    /// User to log in as.
    pub(super) user: Option<String>,
    /// Port of the SSH server.
    pub(super) port: Option<u16>,
    /// Private key file, relative to the folder of `system.toml`.
    pub(super) identity: Option<String>,
}

/// Where a secret comes from: exactly one of these keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Secret")]
pub(super) struct SecretKeys {
    /// Make it once, from so many random bytes (16 to 1024), and keep it in `.nsd/secrets/`.
    pub(super) generate: Option<u64>,
    /// Read it from this file, relative to the folder of `system.toml`.
    pub(super) file: Option<String>,
    /// Read it from this environment variable of `nsd`.
    pub(super) env: Option<String>,
    /// Run this command and take what it prints: any password manager.
    pub(super) command: Option<Vec<String>>,
    /// Make a self-signed certificate and its key for these names and addresses, in one PEM.
    pub(super) self_signed: Option<Vec<String>>,
}

/// One process: what runs in a container. Its source is exactly one of `image`, `repository`, `bundled`, or only a
/// `program`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    /// An image of a registry, such as `redis:7`; the machine pulls it.
    pub(super) image: Option<String>,
    /// A git repository with a Dockerfile: `git@host:path.git#branch`, or a table.
    pub(super) repository: Option<RepositoryKeys>,
    /// A server that comes with `nsd`: `broker` or `balancer`.
    pub(super) bundled: Option<Bundled>,
    /// Command line of the process where it runs as a plain process (`runtime = "process"`).
    pub(super) program: Option<Vec<String>>,
    /// Processes that must be up before this one starts.
    #[serde(default)]
    pub(super) needs: Vec<String>,
    /// Published ports, as in Docker: `HOST:CONTAINER`, `IP:HOST:CONTAINER`, each with `/udp` if need be. `CONTAINER` alone:
    /// `nsd` chooses the machine's port, and keeps it.
    #[serde(default)]
    pub(super) ports: Vec<PortKeys>,
    /// Environment variables.
    #[serde(default)]
    pub(super) env: BTreeMap<String, Scalar>,
    /// `SOURCE:TARGET` or `SOURCE:TARGET:ro`. The source is a folder of the machine (`/certs`) or the name of a volume.
    #[serde(default)]
    pub(super) volumes: Vec<String>,
    /// Files rendered by `nsd` and put into the container before it starts.
    #[serde(default)]
    pub(super) files: Vec<FileKeys>,
    /// What the container runs, instead of the image's command.
    pub(super) command: Option<Vec<String>>,
    /// Instead of the image's entrypoint.
    pub(super) entrypoint: Option<Vec<String>>,
    /// User (and group) in the container, such as `10001` or `redis:redis`.
    pub(super) user: Option<String>,
    /// `bridge` (the default), `host` (the machine's own network), or the name of a network of the machine's engine.
    pub(super) network: Option<String>,
    /// When it ends by itself: `no`, `on-failure`, `always`, `unless-stopped` (the default).
    pub(super) restart: Option<Restart>,
    /// Limits, such as `nofile = 100000` or `nofile = { soft = 1024, hard = 100000 }`.
    #[serde(default)]
    pub(super) ulimits: BTreeMap<String, UlimitKeys>,
    /// Most memory it may use: `512MiB`, `2GB`, or a number of bytes.
    pub(super) memory: Option<Scalar>,
    /// Most processors it may use: `0.5`, `2`.
    pub(super) cpus: Option<f64>,
    /// Linux capabilities beside the engine's defaults.
    #[serde(default)]
    pub(super) capabilities: CapabilityKeys,
    /// More labels for the container. Those that start with `nsd.` are `nsd`'s own.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, Scalar>,
    /// When it counts as up. Left out: when it runs (the bundled servers have their own).
    pub(super) health: Option<HealthKeys>,
    /// How a new revision replaces its instances.
    #[serde(default)]
    pub(super) rollout: RolloutKeys,
    /// Time between SIGTERM and SIGKILL, such as `10s` (the default).
    pub(super) stop_grace: Option<String>,
    /// Free values for templates: `{{ vars.NAME }}`.
    #[serde(default)]
    pub(super) vars: BTreeMap<String, Scalar>,
    /// Arguments as for `docker run`, such as `-e "A=b" -p 1883:1883 -v /certs:/certs -d`: turned into the keys above.
    pub(super) args: Option<String>,
    /// Balancer: the process whose instances share the connections. Implies `needs`.
    pub(super) balances: Option<String>,
    /// Balancer: `leastconn` (the default) or `roundrobin`.
    pub(super) balance: Option<BalanceKey>,
    /// Balancer: addresses to listen on without TLS. Left out: `0.0.0.0:1883`; as a plain process `127.0.0.1:1883`.
    pub(super) listen: Option<Vec<String>>,
    /// Balancer: where to listen with TLS, and with which certificates.
    pub(super) tls: Option<TlsKeys>,
    /// Broker: the process that is its Redis. Left out: everything is kept in memory. Implies `needs`; a secret with the
    /// name of that process is its password.
    pub(super) store: Option<String>,
    /// Broker: let clients in without a name and password. Left out: `false`.
    pub(super) allow_anonymous: Option<bool>,
    /// Broker: which topics a device may use: `second-level-is-device` (the default) or `open`.
    pub(super) topic_rule: Option<TopicRuleKey>,
}

/// A repository as one string `URL#BRANCH`, or as a table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "RepositoryOrUrl")]
pub(super) enum RepositoryKeys {
    Short(String),
    Long(LongRepository),
}

/// A git repository to build from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Repository")]
pub(super) struct LongRepository {
    /// `git@host:path.git`, `ssh://…`, `https://…`, or a folder of this machine.
    pub(super) url: String,
    /// Branch to build; at most one of `branch`, `tag`, `commit`. Left out: the remote's HEAD.
    pub(super) branch: Option<String>,
    /// Tag to build.
    pub(super) tag: Option<String>,
    /// Commit to build: 40 hex digits.
    pub(super) commit: Option<String>,
    /// Folder of the build context inside the repository. Left out: its top.
    pub(super) folder: Option<String>,
    /// Name of the Dockerfile in that folder. Left out: `Dockerfile`.
    pub(super) dockerfile: Option<String>,
    /// Build arguments.
    #[serde(default)]
    pub(super) args: BTreeMap<String, Scalar>,
    /// Script in the repository, run by `sh` in the exported sources before the build.
    pub(super) build_script: Option<String>,
}

/// A port as a string (see `ports`) or as a number.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Port")]
pub(super) enum PortKeys {
    Number(u16),
    Text(String),
}

/// A string, a number, or `true` and `false`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Scalar {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// A file in the container: `to`, and exactly one of `template` and `content`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "File")]
pub(super) struct FileKeys {
    /// Name of a template: a file of the folder `templates` beside `system.toml`, or one that comes with `nsd`.
    pub(super) template: Option<String>,
    /// The text itself; tera too.
    pub(super) content: Option<String>,
    /// Absolute path in the container.
    pub(super) to: String,
    /// Permission bits as octal text. Left out: `0600`. The owner is the container's user.
    pub(super) mode: Option<String>,
    /// The program takes a changed file over while it runs: a change never replaces the container.
    #[serde(default)]
    pub(super) live: bool,
}

/// A limit: one number, or a soft and a hard one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "UlimitOrNumber")]
pub(super) enum UlimitKeys {
    Both(i64),
    Each(Ulimit),
}

/// Linux capabilities.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Capabilities")]
pub(super) struct CapabilityKeys {
    /// To give, such as `NET_ADMIN`.
    #[serde(default)]
    pub(super) add: Vec<String>,
    /// To take away; `ALL` for all.
    #[serde(default)]
    pub(super) drop: Vec<String>,
}

/// When an instance counts as up: exactly one of `tcp` and `mqtt`, a port of the container.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Health")]
pub(super) struct HealthKeys {
    /// This port takes connections.
    pub(super) tcp: Option<u16>,
    /// This port answers an MQTT CONNECT.
    pub(super) mqtt: Option<u16>,
    /// Time between two tries. Left out: `250ms`.
    pub(super) interval: Option<String>,
    /// Time for one try. Left out: `1s`.
    pub(super) timeout: Option<String>,
    /// Time for the whole wait; after it the deploy fails and is undone. Left out: `60s`.
    pub(super) deadline: Option<String>,
}

/// How instances are replaced.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rollout")]
pub(super) struct RolloutKeys {
    /// At most so many at once. Left out: 1.
    pub(super) max_parallel: Option<u16>,
}

/// TLS of the bundled balancer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tls")]
pub(super) struct TlsKeys {
    /// Addresses to listen on. Left out: `0.0.0.0:8883`; as a plain process `127.0.0.1:8883`.
    pub(super) listen: Option<Vec<String>>,
    /// `self-signed` (made by `nsd`), or file(s) or folder(s) in the container with certificate and key in one PEM.
    pub(super) certificates: OneOrMany,
}

/// One string or a list of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// How the balancer chooses.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Balance")]
pub(super) enum BalanceKey {
    /// The server with the fewest connections.
    Leastconn,
    /// One after another.
    Roundrobin,
}

/// Which topics a device may use.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "TopicRule")]
pub(super) enum TopicRuleKey {
    /// The second level of the topic is the device's id: `devices/ID/…`.
    SecondLevelIsDevice,
    /// Any topic.
    Open,
}

/// Machines and what stands on them. Either `contains` (this machine) or `machines` (by SSH).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Topology")]
pub(super) struct TopologyKeys {
    /// Processes on this machine; twice the same name: two instances.
    pub(super) contains: Option<Vec<String>>,
    /// With `contains`: `auto` (Docker where it answers, else plain processes; the default), `docker`, `process`.
    pub(super) runtime: Option<Runtime>,
    /// Machines by name, each reached by SSH.
    #[serde(default)]
    pub(super) machines: BTreeMap<String, MachineKeys>,
    /// The machine whose Docker engine builds repositories. Left out: this machine's.
    pub(super) build_on: Option<String>,
    /// Keys of processes that differ in this topology. `env`, `labels`, `vars` and `ulimits` are merged by key.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Process>")]
    pub(super) process: BTreeMap<String, Value>,
}

/// A machine with SSH and Docker.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Machine")]
pub(super) struct MachineKeys {
    /// Address or host name by which `nsd` reaches it.
    pub(super) ip: String,
    /// Address by which the other machines reach it, such as a private one. Left out: `ip`.
    pub(super) address: Option<String>,
    /// Processes on it; twice the same name: two instances.
    #[serde(default)]
    pub(super) contains: Vec<String>,
    /// User to log in as, instead of that of `[ssh]`.
    pub(super) user: Option<String>,
    /// Port of its SSH server, instead of that of `[ssh]`.
    pub(super) port: Option<u16>,
    /// Private key file, instead of that of `[ssh]`.
    pub(super) identity: Option<String>,
}
