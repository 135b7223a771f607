//! The nouns: a system compiled for one topology. This is what a revision stores as `system.json`; everything in it is
//! resolved but secrets, which stay references ([`Text`]).

mod names;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use names::{
    InstanceName, MAX_NAME, MachineName, NameError, ProcessName, SecretName, SystemName, TopologyName,
};
pub use text::{STATE, Text};

/// A system compiled for one topology.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    pub name: SystemName,
    pub namespace: String,
    pub id: Uuid,
    pub topology: TopologyName,
    pub machines: BTreeMap<MachineName, Machine>,
    /// By `needs` order, then by name: the order in which a first deploy starts them.
    pub instances: Vec<Instance>,
    /// What must be built before the instances can run, by process.
    pub builds: BTreeMap<ProcessName, Build>,
    /// Where the bundled brokers keep their devices, if they share a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

/// The Redis that the bundled brokers of a system share; device records are written there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub instance: InstanceName,
    /// Port on its machine; reached from that machine's own loopback or address.
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretName>,
    /// Of every key: `nsd:`.
    pub prefix: String,
}

impl System {
    /// Names of all secrets that its containers need.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        self.instances.iter().flat_map(|instance| instance.container.secrets()).collect()
    }
}

/// A machine and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub reach: Reach,
    /// Address by which the other machines reach it.
    pub address: String,
}

/// How `nsd` reaches a machine, and what runs instances there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reach {
    /// This machine; instances are supervised plain processes.
    Process,
    /// This machine's Docker engine.
    Docker,
    /// SSH, and the machine's Docker socket forwarded over it.
    Ssh {
        host: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// Relative to the folder of `system.toml`; left out, the agent and `~/.ssh/config` decide.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<PathBuf>,
    },
}

/// One placed copy of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub name: InstanceName,
    pub container: Container,
    /// When it counts as up; without one, running is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Processes that must be up before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<ProcessName>,
    /// Time between SIGTERM and SIGKILL.
    #[serde(with = "seconds")]
    pub stop_grace: Duration,
    /// At most so many instances of its process are replaced at once.
    pub max_parallel: u16,
}

/// Everything that matters to the container of an instance: its hash ([`crate::plan::Spec`]) decides whether a running
/// one is kept or replaced. Live files are left out of it: they are changed in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    pub image: Image,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Text>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
    /// Docker's `Cmd`; as a plain process, the whole command line (of a bundled program only its arguments). Plain
    /// processes run in their state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<Text>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<Text>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub network: Network,
    pub restart: Restart,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millicpus: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Container {
    /// Without the contents of live files: what the label `nsd.container` keeps and what the spec is made of.
    #[must_use]
    pub fn without_live_contents(&self) -> Self {
        let mut container = self.clone();
        for file in container.files.iter_mut().filter(|file| file.live) {
            file.content = Text::default();
        }
        container
    }

    /// Names of the secrets that stand in its environment and files.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        let files = self.files.iter().map(|file| &file.content);
        self.env.values().chain(files).flat_map(Text::secrets).collect()
    }
}

/// Where the image comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Image {
    /// A registry's, such as `redis:7`; pulled by the machine.
    Registry { reference: String },
    /// Assembled by `nsd` from one of its own servers. `digest` is the hash of the program's bytes, set when compiled.
    Bundled { program: Bundled, digest: String },
    /// Built from a repository; `tag` is decided by what goes in ([`Build::tag`]).
    Built { process: ProcessName, tag: String },
    /// No image: a plain process of this machine.
    None,
}

impl Image {
    /// The reference under which an engine knows the image; `None` for a plain process.
    pub fn reference(&self) -> Option<String> {
        match self {
            Self::Registry { reference } => Some(reference.clone()),
            Self::Bundled { program, digest } => Some(format!("nsd/{}:{digest}", program.name())),
            Self::Built { tag, .. } => Some(tag.clone()),
            Self::None => None,
        }
    }
}

/// The servers that come with `nsd`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Bundled {
    Broker,
    Balancer,
}

impl Bundled {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Balancer => "balancer",
        }
    }

    /// File name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Broker => "nsd-broker",
            Self::Balancer => "nsd-balancer",
        }
    }

    /// Where its rendered settings stand in the container.
    pub const fn config(self) -> &'static str {
        match self {
            Self::Broker => "/etc/nsd/broker.toml",
            Self::Balancer => "/etc/nsd/balancer.toml",
        }
    }
}

/// A source to build: pinned, so the same build gives the same tag anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub repository: String,
    /// What the manifest asked for: a branch, a tag or a commit; left out, the remote's HEAD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The commit it was pinned to.
    pub commit: String,
    /// Folder of the build context inside the repository; empty for its top.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    pub dockerfile: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Run in the exported sources before the build, by `sh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_script: Option<String>,
    /// Machine whose engine builds; left out, this machine's engine, else the first machine that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<MachineName>,
    /// `nsd/<system>-<process>:<hash over all of the above but on>`.
    pub tag: String,
}

/// A published port. With the machine's own network, and for plain processes, nothing is published: `host` is then the
/// port that the program itself listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Address on the machine to bind; left out, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Port on the machine: as asked for, or chosen when compiled.
    pub host: u16,
    pub container: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A folder of the machine, or a named volume of its engine, in the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// An absolute path, or a volume's name.
    pub source: String,
    pub target: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A rendered file, put into the container before it starts. A plain process finds it at `${state}/files` + `to`, and its
/// volumes at `${state}/volumes` + `target`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path in the container.
    pub to: String,
    pub content: Text,
    /// Permission bits; 0o600 unless asked otherwise, owned by the container's user.
    pub mode: u32,
    /// The program takes a changed file over while it runs, so a change never replaces the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The engine's default bridge.
    Bridge,
    /// The machine's own.
    Host,
    /// A network of the engine by this name.
    Named(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    No,
    OnFailure,
    Always,
    UnlessStopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

/// When an instance counts as up. The probe reaches the port from its own machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub probe: Probe,
    /// Time between two tries.
    #[serde(with = "seconds")]
    pub interval: Duration,
    /// For one try.
    #[serde(with = "seconds")]
    pub timeout: Duration,
    /// For the whole wait after a start; passed, the instance has failed.
    #[serde(with = "seconds")]
    pub deadline: Duration,
}

/// What is asked. Ports are ports of the machine, already translated from the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A connection is accepted.
    Tcp { port: u16 },
    /// A CONNECT is answered by a CONNACK, whatever its code: the broker is alive and speaks.
    Mqtt { port: u16 },
}

/// Durations as seconds with a fraction, as everywhere in our JSON.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
