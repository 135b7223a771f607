//! `system.toml`: text → [`Manifest`], read twice. First its shape ([`shape`], against the schema that the raw structs in
//! [`raw`] generate), then its meaning ([`meaning`]). All problems are found at once, each with its line. Nothing after this
//! layer checks again.

mod args;
mod document;
mod fields;
mod meaning;
pub(crate) mod order;
mod problem;
mod process;
mod raw;
mod reference;
mod schema;
mod servers;
mod shape;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

pub(crate) use document::Places;
pub use problem::Problem;
pub use schema::schema;

use crate::system::{
    Bundled, MachineName, Network, ProcessName, Protocol, Restart, SecretName, SystemName, TopologyName,
    Ulimit, Volume,
};

/// Time between two probes of an instance, unless the file says otherwise.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);
/// For one probe.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// For an instance to become healthy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A checked `system.toml`: every name in it is defined, every value possible. Strings still hold their templates.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub name: SystemName,
    pub namespace: String,
    pub id: Uuid,
    pub secrets: BTreeMap<SecretName, SecretSource>,
    topologies: BTreeMap<TopologyName, Topology>,
    warnings: Vec<Problem>,
    places: Places,
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

impl Machine {
    /// Addresses by which it is known.
    fn names(&self) -> Vec<String> {
        match &self.place {
            Place::Here => vec![self.address.clone()],
            Place::Ssh { host, .. } => vec![self.address.clone(), host.clone()],
        }
    }
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

/// Reads `system.toml`. Gives the manifest, or everything that is wrong with it, by line.
pub fn read(text: &str) -> Result<Manifest, Vec<Problem>> {
    let (table, places) = document::parse(text)?;
    let (value, shape) = shape::check(&table, &places);
    let mut meaning = meaning::Meaning { places: &places, problems: Vec::new(), warnings: Vec::new() };
    let manifest = match meaning::raw(value) {
        Ok(file) => meaning.file(file),
        // Only after problems of shape: what is left of the file may be unreadable.
        Err(error) => {
            if shape.is_empty() {
                meaning.problems.push(places.problem("", error, None));
            }
            None
        }
    };
    let mut problems = without_consequences(meaning.problems, &shape);
    problems.extend(shape);
    problems.sort();
    problems.dedup();
    let mut warnings = meaning.warnings;
    warnings.sort();
    warnings.dedup();
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(Manifest { warnings, ..manifest }),
        _ => Err(problems),
    }
}

/// A misspelt key makes its table incomplete: what is said about the table itself is then no news.
fn without_consequences(problems: Vec<Problem>, shape: &[Problem]) -> Vec<Problem> {
    let around = |at: &str| at.rfind(['.', '[']).map_or("", |end| &at[..end]).to_owned();
    let known: BTreeSet<String> =
        shape.iter().flat_map(|problem| [problem.at.clone(), around(&problem.at)]).collect();
    problems.into_iter().filter(|problem| !known.contains(&problem.at)).collect()
}

/// The reference page of `system.toml`, in Markdown.
pub fn reference() -> String {
    reference::reference()
}

impl Manifest {
    pub fn topologies(&self) -> &BTreeMap<TopologyName, Topology> {
        &self.topologies
    }

    /// What is allowed and yet worth a look.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Names of the template files that its processes want, in any topology.
    pub fn templates(&self) -> BTreeSet<String> {
        let processes = self.topologies.values().flat_map(|topology| &topology.processes);
        processes.flat_map(|(_, process)| process.templates()).collect()
    }

    /// What must be pinned to a commit: process, URL, reference.
    pub fn repositories(&self, topology: &TopologyName) -> Vec<(ProcessName, String, Option<String>)> {
        let processes = self.topologies.get(topology).into_iter().flat_map(|topology| &topology.processes);
        processes
            .filter_map(|(name, process)| match &process.source {
                Source::Repository(repository) => {
                    Some((name.clone(), repository.url.clone(), repository.reference.clone()))
                }
                _ => None,
            })
            .collect()
    }
}

impl Process {
    /// The template of a bundled server's settings, unless the process brings its own file for them.
    pub(crate) fn settings_template(&self) -> Option<(Bundled, &'static str)> {
        let Source::Bundled(bundled) = self.source else { return None };
        let own = self.files.iter().any(|file| file.to == bundled.config());
        let template = match bundled {
            Bundled::Broker => "broker.toml.tera",
            Bundled::Balancer => "balancer.toml.tera",
        };
        (!own).then_some((bundled, template))
    }

    fn templates(&self) -> impl Iterator<Item = String> {
        let files = self.files.iter().filter_map(|file| match &file.content {
            Content::Template(name) => Some(name.clone()),
            Content::Inline(_) => None,
        });
        files.chain(self.settings_template().map(|(_, name)| name.to_owned()))
    }
}

impl Topology {
    pub fn process(&self, name: &ProcessName) -> Option<&Process> {
        self.processes.iter().find(|(other, _)| other == name).map(|(_, process)| process)
    }
}
