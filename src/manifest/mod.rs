//! `system.toml`: text → [`Manifest`], read twice. First its shape ([`shape`], against the schema that the raw structs in
//! [`raw`] generate), then its meaning ([`meaning`]). All problems are found at once, each with its line. Nothing after this
//! layer checks again.

mod problem;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

pub use problem::Problem;

use crate::system::{
    Bundled, MachineName, Network, ProcessName, Protocol, Restart, SecretName, SystemName, TopologyName,
    Ulimit, Volume,
};

/// A checked `system.toml`: every name in it is defined, every value possible. Strings still hold their templates.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub name: SystemName,
    pub namespace: String,
    pub id: Uuid,
    pub secrets: BTreeMap<SecretName, SecretSource>,
    topologies: BTreeMap<TopologyName, Topology>,
}

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Made once from so many random bytes, then kept in `.nsd/secrets/`.
    Generate {
        bytes: usize,
    },
    /// Relative to the folder of `system.toml`.
    File(PathBuf),
    Env(String),
    /// What the command prints, its last line end cut off.
    Command(Vec<String>),
    /// A combined PEM (certificate and key) that `nsd` makes itself and keeps in `.nsd/certs/`, valid for these names
    /// and addresses.
    SelfSigned {
        names: Vec<String>,
    },
}

/// Machines and what stands on them; processes with this topology's overrides.
#[derive(Debug, Clone)]
pub struct Topology {
    pub runtime: Runtime,
    /// Machine whose engine builds; left out, this machine's.
    pub build_on: Option<MachineName>,
    pub machines: BTreeMap<MachineName, Machine>,
    /// Those that a machine contains, in the order in which they start: `needs` first, then by name.
    pub processes: Vec<(ProcessName, Process)>,
}

/// What runs the instances of this machine.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// Docker where an engine answers, else plain processes.
    #[default]
    Auto,
    Docker,
    /// Plain processes, each under a small supervisor.
    Process,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub place: Place,
    /// Address by which the others reach it.
    pub address: String,
    pub contains: Vec<ProcessName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This machine.
    Here,
    Ssh {
        host: String,
        port: Option<u16>,
        user: Option<String>,
        identity: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub source: Source,
    /// Command line of it as a plain process.
    pub program: Option<Vec<String>>,
    /// With what `balances` and `store` imply.
    pub needs: Vec<ProcessName>,
    pub ports: Vec<WantedPort>,
    pub env: BTreeMap<String, String>,
    pub volumes: Vec<Volume>,
    pub files: Vec<WantedFile>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub user: Option<String>,
    pub network: Network,
    pub restart: Restart,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub memory: Option<u64>,
    pub millicpus: Option<u64>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub health: Option<WantedHealth>,
    pub max_parallel: u16,
    pub stop_grace: Duration,
    pub vars: BTreeMap<String, String>,
    pub balances: Option<ProcessName>,
    pub balancer: BalancerKeys,
    pub broker: BrokerKeys,
}

/// What a process is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Image(String),
    Repository(Repository),
    Bundled(Bundled),
    /// Only a `program`: it can run as a plain process and no other way.
    Program,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    pub url: String,
    /// Branch, tag or commit; left out, the remote's HEAD.
    pub reference: Option<String>,
    pub folder: String,
    pub dockerfile: String,
    pub args: BTreeMap<String, String>,
    pub build_script: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPort {
    pub ip: Option<String>,
    /// Left out, `nsd` chooses one.
    pub host: Option<u16>,
    pub container: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    pub content: Content,
    pub to: String,
    pub mode: u32,
    pub live: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of `templates/`.
    Template(String),
    /// Given in place; tera too.
    Inline(String),
}

/// Ports are the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedHealth {
    pub probe: WantedProbe,
    pub interval: Duration,
    pub timeout: Duration,
    pub deadline: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedProbe {
    Tcp(u16),
    Mqtt(u16),
}

/// Keys of a process with `bundled = "balancer"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BalancerKeys {
    /// `ADDRESS:PORT`; empty: 1883 of every address (as a plain process: of the loopback).
    pub listen: Vec<String>,
    pub tls: Option<BalancerTls>,
    pub balance: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerTls {
    pub listen: Vec<String>,
    pub certificates: Certificates,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// Files or folders in the container, of combined PEM.
    Paths(Vec<String>),
    /// Made by `nsd`: the secret of this name.
    SelfSigned(SecretName),
}

/// Keys of a process with `bundled = "broker"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerKeys {
    /// The process that is its Redis; left out, it keeps everything in memory.
    pub store: Option<ProcessName>,
    pub allow_anonymous: bool,
    /// `second-level-is-device` or `open`.
    pub topic_rule: String,
}

/// Reads `system.toml`. Gives the manifest, or everything that is wrong with it.
pub fn read(text: &str) -> Result<Manifest, Vec<Problem>> {
    let _ = text;
    Err(Vec::new())
}

impl Manifest {
    pub fn topologies(&self) -> &BTreeMap<TopologyName, Topology> {
        &self.topologies
    }

    /// Names of the template files that its processes want, in any topology.
    pub fn templates(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// What must be pinned to a commit: process, URL, reference.
    pub fn repositories(&self, topology: &TopologyName) -> Vec<(ProcessName, String, Option<String>)> {
        let _ = topology;
        Vec::new()
    }
}
