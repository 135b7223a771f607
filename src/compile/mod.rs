//! Manifest → [`System`], pure: places instances, chooses ports, renders strings and files. What must be looked up outside
//! (templates, commits, digests) comes in as [`Inputs`], so the same inputs give the same system.

mod container;
mod context;
mod placed;
mod ports;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::manifest::{Manifest, Problem, Process, Repository, Source, Topology, WantedProbe};
use crate::render::{self, Templates};
use crate::system::{
    Build, Bundled, Health, Instance, Machine, Probe, ProcessName, Store, System, TopologyName,
};

use container::Containers;
use context::Contexts;
use placed::{Placed, Placer, of};

/// What the edge looked up.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// File name → text: from `templates/` beside `system.toml`, else [`crate::render::embedded`].
    pub templates: BTreeMap<String, String>,
    /// Process → commit of its repository.
    pub pins: BTreeMap<ProcessName, String>,
    /// Digest of each bundled program's bytes: 16 hex digits.
    pub bundled: BTreeMap<Bundled, String>,
    /// Whether this machine's Docker engine answers, for `runtime = "auto"`.
    pub local_docker: bool,
}

/// Compiles one topology, or tells everything that stands against it.
pub fn compile(
    manifest: &Manifest,
    topology: &TopologyName,
    inputs: &Inputs,
) -> Result<System, Vec<Problem>> {
    let Some(wanted) = manifest.topologies().get(topology) else {
        let known: Vec<&str> = manifest.topologies().keys().map(TopologyName::as_str).collect();
        let hint = (!known.is_empty()).then(|| format!("there are: {}", known.join(", ")));
        return Err(vec![manifest.places().problem(
            "topology",
            format!("there is no topology `{topology}`"),
            hint,
        )]);
    };
    let mut placer = Placer {
        manifest,
        topology: wanted,
        name: topology,
        local_docker: inputs.local_docker,
        problems: Vec::new(),
    };
    let placed = placer.place();
    let machines = machines(&placer);
    let mut problems = placer.problems;
    let store = store(manifest, topology, wanted, &placed, &mut problems);
    let builds = builds(manifest, topology, wanted, inputs, &mut problems);
    let instances = instances(manifest, topology, inputs, &placed, &builds, &mut problems);
    if problems.is_empty() {
        Ok(System {
            name: manifest.name.clone(),
            namespace: manifest.namespace.clone(),
            id: manifest.id,
            topology: topology.clone(),
            machines,
            instances,
            builds,
            store,
        })
    } else {
        problems.sort();
        problems.dedup();
        Err(problems)
    }
}

/// Where a key of a process stands in the file: with the topology's own keys if it is there.
fn at(manifest: &Manifest, topology: &TopologyName, process: &ProcessName, key: &str) -> String {
    let first = key.split(['.', '[']).next().unwrap_or(key);
    let over = format!("topology.{topology}.process.{process}");
    let base =
        if manifest.places().has(&format!("{over}.{first}")) { over } else { format!("process.{process}") };
    if key.is_empty() { base } else { format!("{base}.{key}") }
}

fn machines(placer: &Placer<'_>) -> BTreeMap<crate::system::MachineName, Machine> {
    let machines = placer.topology.machines.iter();
    machines
        .map(|(name, machine)| {
            (name.clone(), Machine { reach: placer.reach(machine), address: placer.address(machine) })
        })
        .collect()
}

/// The Redis of the bundled brokers: one for all of them.
fn store(
    manifest: &Manifest,
    topology: &TopologyName,
    wanted: &Topology,
    placed: &[Placed<'_>],
    problems: &mut Vec<Problem>,
) -> Option<Store> {
    let mut found: Option<Store> = None;
    for (name, process) in &wanted.processes {
        let Some(store) = &process.broker.store else { continue };
        let mut problem = |what: String| {
            let at = at(manifest, topology, name, "store");
            problems.push(manifest.places().problem(&at, what, None));
        };
        let instances = of(placed, store);
        let [instance] = instances.as_slice() else {
            problem(format!(
                "the store `{store}` must be one instance; this topology has {}",
                instances.len()
            ));
            continue;
        };
        let Some(port) = instance.port() else {
            problem(format!("the store `{store}` publishes no port"));
            continue;
        };
        let store = Store {
            instance: instance.name.clone(),
            port,
            password: context::password(manifest, store),
            prefix: context::PREFIX.to_owned(),
        };
        if found.as_ref().is_some_and(|other| *other != store) {
            problem("all brokers of a system share one store".to_owned());
        }
        found = Some(store);
    }
    found
}

fn builds(
    manifest: &Manifest,
    topology: &TopologyName,
    wanted: &Topology,
    inputs: &Inputs,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ProcessName, Build> {
    let mut builds = BTreeMap::new();
    for (name, process) in &wanted.processes {
        let Source::Repository(repository) = &process.source else { continue };
        let Some(commit) = inputs.pins.get(name) else {
            let at = at(manifest, topology, name, "repository");
            problems.push(manifest.places().problem(&at, "the repository has not been looked up", None));
            continue;
        };
        builds.insert(name.clone(), build(manifest, wanted, name, repository, commit));
    }
    builds
}

fn build(
    manifest: &Manifest,
    wanted: &Topology,
    name: &ProcessName,
    repository: &Repository,
    commit: &str,
) -> Build {
    let mut build = Build {
        repository: repository.url.clone(),
        reference: repository.reference.clone(),
        commit: commit.to_owned(),
        folder: repository.folder.clone(),
        dockerfile: repository.dockerfile.clone(),
        args: repository.args.clone(),
        build_script: repository.build_script.clone(),
        on: None,
        tag: String::new(),
    };
    let text = serde_json::to_vec(&build).expect("a build has only strings in it");
    let hash = hex::encode(Sha256::digest(&text));
    // Image names are lower case.
    build.tag = format!("nsd/{}-{}:{}", manifest.name, name, &hash[..16]).to_lowercase();
    build.on = wanted.build_on.clone();
    build
}

fn instances(
    manifest: &Manifest,
    topology: &TopologyName,
    inputs: &Inputs,
    placed: &[Placed<'_>],
    builds: &BTreeMap<ProcessName, Build>,
    problems: &mut Vec<Problem>,
) -> Vec<Instance> {
    // What the system brings stands before what nsd brings, and one may include the other.
    let embedded = render::embedded_names()
        .filter_map(|name| Some((name.to_owned(), render::embedded(name)?.to_owned())));
    let mut files: BTreeMap<String, String> = embedded.collect();
    files.extend(inputs.templates.clone());
    let (templates, errors) = Templates::new(&files);
    if !errors.is_empty() {
        problems.extend(errors.into_iter().map(render::RenderError::problem));
        return Vec::new();
    }
    let contexts = Contexts { manifest, topology, placed, id: manifest.id.to_string() };
    let mut instances = Vec::with_capacity(placed.len());
    for instance in placed {
        let at = |key: &str| at(manifest, topology, &instance.name.process, key);
        let context = match contexts.of(instance) {
            Ok(context) => context,
            Err(error) => {
                problems.push(manifest.places().problem(&at(""), error.to_string(), None));
                continue;
            }
        };
        let mut containers = Containers {
            manifest,
            inputs,
            builds,
            templates: &templates,
            context: &context,
            instance,
            at: &at,
            problems: &mut *problems,
        };
        let container = containers.container();
        let process = instance.process;
        instances.push(Instance {
            name: instance.name.clone(),
            container,
            health: health(instance, process),
            needs: process.needs.clone(),
            stop_grace: process.stop_grace,
            max_parallel: process.max_parallel,
        });
    }
    instances
}

/// As asked for; the bundled servers have a health of their own.
fn health(instance: &Placed<'_>, process: &Process) -> Option<Health> {
    if let Some(wanted) = &process.health {
        let probe = match wanted.probe {
            WantedProbe::Tcp(port) => Probe::Tcp { port: instance.on_machine(port)? },
            WantedProbe::Mqtt(port) => Probe::Mqtt { port: instance.on_machine(port)? },
        };
        let (interval, timeout, deadline) = (wanted.interval, wanted.timeout, wanted.deadline);
        return Some(Health { probe, interval, timeout, deadline });
    }
    let probe = match process.source {
        Source::Bundled(Bundled::Broker) => Probe::Mqtt { port: instance.port()? },
        Source::Bundled(Bundled::Balancer) => {
            let listen = instance.listen.first().and_then(|address| placed::port_of(address))?;
            Probe::Tcp { port: instance.on_machine(listen)? }
        }
        _ => return None,
    };
    Some(Health {
        probe,
        interval: crate::manifest::INTERVAL,
        timeout: crate::manifest::TIMEOUT,
        deadline: crate::manifest::DEADLINE,
    })
}
