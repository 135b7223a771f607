//! The second reading of one `[process.NAME]`, with the keys of a topology laid over it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::document::{Places, join};
use super::raw::{self, RepositoryKeys, Scalar, UlimitKeys};
use super::{
    Content, DEADLINE, INTERVAL, Problem, Process, Repository, Source, TIMEOUT, WantedFile, WantedHealth,
    WantedPort, WantedProbe, args, fields,
};
use crate::system::{Bundled, Network, ProcessName, Restart, Ulimit};

const STOP_GRACE: Duration = Duration::from_secs(10);
/// MQTT's own port: what a broker listens on when nothing is said.
const MQTT: u16 = 1883;

/// Lays a topology's keys over a process: tables of free keys are merged, everything else is taken as a whole, and a
/// source takes the place of another.
pub(super) fn merged(base: &Value, over: Option<&Value>) -> Value {
    let mut result = base.as_object().cloned().unwrap_or_default();
    let Some(over) = over.and_then(Value::as_object) else { return Value::Object(result) };
    const SOURCES: [&str; 3] = ["image", "repository", "bundled"];
    if SOURCES.iter().any(|source| over.contains_key(*source)) {
        result.retain(|key, _| !SOURCES.contains(&key.as_str()));
    }
    for (key, value) in over {
        match (result.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
            (Some(under), Some(over)) if ["env", "labels", "vars", "ulimits"].contains(&key.as_str()) => {
                under.extend(over.clone());
            }
            _ => {
                result.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(result)
}

/// Reads one process. `bases` are the tables its keys may stand in, the topology's first.
pub(super) struct Reader<'r> {
    pub(super) places: &'r Places,
    pub(super) bases: Vec<String>,
    pub(super) name: &'r ProcessName,
    pub(super) problems: &'r mut Vec<Problem>,
    pub(super) warnings: &'r mut Vec<Problem>,
}

impl Reader<'_> {
    /// Always gives a process: what is wrong is told and replaced by a default.
    pub(super) fn read(mut self, merged: Value) -> Process {
        let mut keys: raw::Process = match serde_json::from_value(merged) {
            Ok(keys) => keys,
            Err(error) => {
                self.problem("", error.to_string(), None);
                raw::Process::default()
            }
        };
        let mut ports = self.ports(&keys);
        if let Some(text) = keys.args.take() {
            ports.extend(self.args(&text, &mut keys));
        }
        let source = self.source(&keys);
        self.fitting_keys(&keys, &source);
        if source == Source::Bundled(Bundled::Broker) && ports.is_empty() {
            ports.push(WantedPort {
                ip: None,
                host: None,
                container: MQTT,
                protocol: crate::system::Protocol::Tcp,
            });
        }
        let network =
            self.field("network", keys.network.as_deref(), fields::network).unwrap_or(Network::Bridge);
        let health = keys.health.as_ref().and_then(|health| self.health(health, &ports, &network));
        self.exposed(&keys, &source, &ports, &network);
        Process {
            needs: self.needs(&keys),
            env: self.map("env", &keys.env, fields::variable),
            volumes: self.volumes(&keys.volumes),
            files: self.files(&keys.files),
            restart: keys.restart.unwrap_or(Restart::UnlessStopped),
            ulimits: self.ulimits(&keys.ulimits),
            memory: self.field("memory", keys.memory.as_ref(), |memory| fields::size(&memory.to_string())),
            millicpus: self.field("cpus", keys.cpus, fields::millicpus),
            labels: self.map("labels", &keys.labels, own_label),
            max_parallel: self.max_parallel(keys.rollout.max_parallel),
            stop_grace: self
                .field("stop_grace", keys.stop_grace.as_deref(), fields::duration)
                .unwrap_or(STOP_GRACE),
            vars: self.map("vars", &keys.vars, |_| Ok(())),
            balances: self.field("balances", keys.balances.as_deref(), process_name),
            balancer: self.balancer(&keys),
            broker: self.broker(&keys),
            program: self.words("program", keys.program),
            command: keys.command,
            entrypoint: keys.entrypoint,
            user: keys.user,
            cap_add: keys.capabilities.add,
            cap_drop: keys.capabilities.drop,
            source,
            ports,
            network,
            health,
        }
    }

    /// Where a key stands: in the topology's table if it is there, else in the process's own.
    pub(super) fn at(&self, key: &str) -> String {
        let full = |base: &String| if key.is_empty() { base.clone() } else { format!("{base}.{key}") };
        let top = |at: &str| at.split('[').next().unwrap_or(at).to_owned();
        let written = self.bases.iter().map(full).find(|at| self.places.has(&top(at)));
        written.unwrap_or_else(|| full(&self.bases[self.bases.len() - 1]))
    }

    pub(super) fn problem(&mut self, key: &str, what: impl Into<String>, hint: Option<&str>) {
        let at = self.at(key);
        self.problems.push(self.places.problem(&at, what, hint.map(str::to_owned)));
    }

    pub(super) fn warning(&mut self, key: &str, what: impl Into<String>, hint: &str) {
        let at = self.at(key);
        self.warnings.push(self.places.problem(&at, what, Some(hint.to_owned())));
    }

    /// Reads a value; what is wrong with it is told.
    pub(super) fn field<T, V>(
        &mut self,
        key: &str,
        value: Option<T>,
        read: impl Fn(T) -> Result<V, String>,
    ) -> Option<V> {
        match read(value?) {
            Ok(value) => Some(value),
            Err(what) => {
                self.problem(key, what, None);
                None
            }
        }
    }

    fn source(&mut self, keys: &raw::Process) -> Source {
        let given = [
            ("image", keys.image.is_some()),
            ("repository", keys.repository.is_some()),
            ("bundled", keys.bundled.is_some()),
        ];
        let given: Vec<&str> = given.iter().filter(|(_, given)| *given).map(|&(key, _)| key).collect();
        match *given.as_slice() {
            [] if keys.program.is_none() => {
                let what = format!("`{}` has no source", self.name);
                self.problem("", what, Some("give one of `image`, `repository`, `bundled`, `program`"));
            }
            [_, second, ..] => {
                let what = format!("`{}` has more than one source: {}", self.name, given.join(", "));
                self.problem(second, what, Some("keep one of them"));
            }
            _ => {}
        }
        if let Some(bundled) = keys.bundled {
            Source::Bundled(bundled)
        } else if let Some(repository) = &keys.repository {
            self.repository(repository).map_or(Source::Program, Source::Repository)
        } else if let Some(image) = &keys.image {
            self.field("image", Some(image.as_str()), fields::image).map_or(Source::Program, Source::Image)
        } else {
            Source::Program
        }
    }

    fn repository(&mut self, keys: &RepositoryKeys) -> Option<Repository> {
        let long = match keys {
            RepositoryKeys::Short(text) => {
                let (url, reference) = self.field("repository", Some(text.as_str()), fields::repository)?;
                return Some(Repository { url, reference, ..Repository::default() });
            }
            RepositoryKeys::Long(long) => long,
        };
        let wanted: Vec<&String> = [&long.branch, &long.tag, &long.commit].into_iter().flatten().collect();
        if wanted.len() > 1 {
            self.problem(
                "repository",
                "`branch`, `tag` and `commit` exclude each other",
                Some("keep one of them"),
            );
        }
        let reference = wanted.first().map(|text| text.as_str());
        let reference = self.field("repository", reference, fields::git_reference);
        let (url, fragment) = self.field("repository.url", Some(long.url.as_str()), fields::repository)?;
        if fragment.is_some() && reference.is_some() {
            self.problem(
                "repository.url",
                "the branch stands twice: after `#` and in a key of its own",
                None,
            );
        }
        let dockerfile = self.field("repository.dockerfile", long.dockerfile.as_deref(), fields::inside);
        Some(Repository {
            url,
            reference: reference.or(fragment),
            folder: self
                .field("repository.folder", long.folder.as_deref(), fields::inside)
                .unwrap_or_default(),
            dockerfile: dockerfile.unwrap_or_else(|| "Dockerfile".to_owned()),
            args: self.map("repository.args", &long.args, fields::variable),
            build_script: self.field("repository.build_script", long.build_script.as_deref(), fields::inside),
        })
    }

    fn ports(&mut self, keys: &raw::Process) -> Vec<WantedPort> {
        let mut ports = Vec::new();
        for (n, port) in keys.ports.iter().enumerate() {
            let text = match port {
                raw::PortKeys::Number(number) => number.to_string(),
                raw::PortKeys::Text(text) => text.clone(),
            };
            ports.extend(self.field(&format!("ports[{n}]"), Some(text.as_str()), fields::port));
        }
        ports
    }

    fn args(&mut self, text: &str, keys: &mut raw::Process) -> Vec<WantedPort> {
        let parsed = args::parse(text);
        for (what, hint) in &parsed.problems {
            self.problem("args", what.as_str(), hint.as_deref());
        }
        args::merge(keys, parsed.keys);
        let ports = parsed.ports.iter();
        ports.filter_map(|port| self.field("args", Some(port.as_str()), fields::port)).collect()
    }

    fn map(
        &mut self,
        key: &str,
        values: &BTreeMap<String, Scalar>,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> BTreeMap<String, String> {
        for name in values.keys() {
            self.field(&join(key, name), Some(name.as_str()), &check);
        }
        values.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
    }

    fn volumes(&mut self, texts: &[String]) -> Vec<crate::system::Volume> {
        let mut volumes: Vec<crate::system::Volume> = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            let key = format!("volumes[{n}]");
            let Some(volume) = self.field(&key, Some(text.as_str()), fields::volume) else { continue };
            if volumes.iter().any(|other| other.target == volume.target) {
                self.problem(&key, format!("`{}` is mounted twice", volume.target), None);
            }
            volumes.push(volume);
        }
        volumes
    }

    fn files(&mut self, list: &[raw::FileKeys]) -> Vec<WantedFile> {
        let mut files: Vec<WantedFile> = Vec::new();
        for (n, keys) in list.iter().enumerate() {
            let key = format!("files[{n}]");
            let content = match (&keys.template, &keys.content) {
                (Some(template), None) => Content::Template(template.clone()),
                (None, Some(content)) => Content::Inline(content.clone()),
                _ => {
                    self.problem(&key, "a file has either `template` or `content`", None);
                    continue;
                }
            };
            if !keys.to.starts_with('/')
                || keys.to.ends_with('/')
                || keys.to.split('/').any(|part| part == "..")
            {
                self.problem(
                    &format!("{key}.to"),
                    format!("`{}` is not an absolute path of a file", keys.to),
                    None,
                );
            }
            if files.iter().any(|other| other.to == keys.to) {
                self.problem(&format!("{key}.to"), format!("`{}` is written twice", keys.to), None);
            }
            let mode = self.field(&format!("{key}.mode"), keys.mode.as_deref(), fields::mode);
            files.push(WantedFile {
                content,
                to: keys.to.clone(),
                mode: mode.unwrap_or(0o600),
                live: keys.live,
            });
        }
        files
    }

    fn ulimits(&mut self, keys: &BTreeMap<String, UlimitKeys>) -> BTreeMap<String, Ulimit> {
        let mut limits = BTreeMap::new();
        for (name, value) in keys {
            let limit = match *value {
                UlimitKeys::Both(both) => Ulimit { soft: both, hard: both },
                UlimitKeys::Each(each) => each,
            };
            if limit.soft > limit.hard && limit.hard != -1 {
                let what = format!("soft limit {} is above hard limit {}", limit.soft, limit.hard);
                self.problem(&join("ulimits", name), what, None);
            }
            limits.insert(name.clone(), limit);
        }
        limits
    }

    fn health(
        &mut self,
        keys: &raw::HealthKeys,
        ports: &[WantedPort],
        network: &Network,
    ) -> Option<WantedHealth> {
        let probe = match (keys.tcp, keys.mqtt) {
            (Some(port), None) => WantedProbe::Tcp(port),
            (None, Some(port)) => WantedProbe::Mqtt(port),
            _ => {
                self.problem("health", "`health` asks one port: either `tcp` or `mqtt`", None);
                return None;
            }
        };
        let (WantedProbe::Tcp(port) | WantedProbe::Mqtt(port)) = probe;
        if port == 0 {
            self.problem("health", "0 is not a port: 1 to 65535", None);
        } else if *network != Network::Host && !ports.iter().any(|published| published.container == port) {
            let what = format!("port {port} is not published, so nobody can ask it");
            self.problem("health", what, Some("add it to `ports`"));
        }
        let mut time = |key: &str, text: &Option<String>, default| {
            self.field(&format!("health.{key}"), text.as_deref(), fields::duration).unwrap_or(default)
        };
        Some(WantedHealth {
            probe,
            interval: time("interval", &keys.interval, INTERVAL),
            timeout: time("timeout", &keys.timeout, TIMEOUT),
            deadline: time("deadline", &keys.deadline, DEADLINE),
        })
    }

    fn max_parallel(&mut self, wanted: Option<u16>) -> u16 {
        if wanted == Some(0) {
            self.problem("rollout.max_parallel", "0 at once would never end", None);
        }
        wanted.unwrap_or(1).max(1)
    }

    /// The key's own needs, then what `balances` and `store` imply. Names that cannot be are told here; whether they are
    /// defined, one layer up.
    fn needs(&mut self, keys: &raw::Process) -> Vec<ProcessName> {
        let mut needs = Vec::new();
        let listed = keys.needs.iter().enumerate().map(|(n, text)| (format!("needs[{n}]"), text));
        let implied = [("balances", &keys.balances), ("store", &keys.store)];
        let implied = implied.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.as_ref()?)));
        for (key, text) in listed.chain(implied) {
            let Some(name) = self.field(&key, Some(text.as_str()), process_name) else { continue };
            if !self.places.has(&join("process", name.as_str())) {
                self.problem(&key, format!("there is no process `{name}`"), None);
            } else if !needs.contains(&name) {
                needs.push(name);
            }
        }
        needs
    }

    fn words(&mut self, key: &str, words: Option<Vec<String>>) -> Option<Vec<String>> {
        if words.as_ref().is_some_and(Vec::is_empty) {
            self.problem(key, format!("`{key}` is empty"), None);
        }
        words
    }
}

fn process_name(text: &str) -> Result<ProcessName, String> {
    text.parse().map_err(|error: crate::system::NameError| error.to_string())
}

fn own_label(name: &str) -> Result<(), String> {
    if name.starts_with("nsd.") {
        Err(format!("`{name}`: labels that start with `nsd.` are nsd's own"))
    } else {
        Ok(())
    }
}

impl Default for Repository {
    fn default() -> Self {
        Self {
            url: String::new(),
            reference: None,
            folder: String::new(),
            dockerfile: "Dockerfile".to_owned(),
            args: BTreeMap::new(),
            build_script: None,
        }
    }
}
