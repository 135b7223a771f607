//! The second reading: names are defined, values possible, nothing contradicts. It goes on after a problem, so that all are
//! found at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::document::{Places, join};
use super::process::{Reader, merged};
use super::raw::{File, MachineKeys, SecretKeys, TopologyKeys};
use super::{
    Certificates, Machine, Manifest, Place, Problem, Process, SecretSource, Topology, WantedPort, fields,
    order,
};
use crate::system::{MachineName, NameError, ProcessName, SecretName, TopologyName};

/// What the second reading found: problems, and what is only worth a look.
pub(super) struct Meaning<'m> {
    pub(super) places: &'m Places,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// The name of this machine in a topology with `contains`.
pub(super) const HERE: &str = "local";

impl Meaning<'_> {
    /// `None` only if the name or id of the system is unusable; a problem then says so.
    pub(super) fn file(&mut self, file: File) -> Option<Manifest> {
        let name = self.name("name", &file.name);
        let id = uuid::Uuid::parse_str(&file.id);
        if id.is_err() {
            let what = format!("`{}` is not a UUID", file.id);
            self.problem("id", what, Some("make one: `uuidgen`, or `nsd sys create`"));
        }
        let secrets = self.secrets(&file.secrets);
        let own = self.own_processes(&file);
        self.circles("process", &own, |_| true);
        let mut topologies = BTreeMap::new();
        for (text, keys) in &file.topology {
            let at = join("topology", text);
            let Some(name) = self.name::<TopologyName>(&at, text) else { continue };
            topologies.insert(name, self.topology(&at, keys, &file, &own));
        }
        let mut manifest = Manifest {
            namespace: file.namespace.unwrap_or_else(|| file.name.clone()),
            name: name?,
            id: id.ok()?,
            secrets,
            topologies,
            warnings: Vec::new(),
            places: self.places.clone(),
        };
        self.certificates(&mut manifest);
        Some(manifest)
    }

    fn problem(&mut self, at: &str, what: impl Into<String>, hint: Option<&str>) {
        self.problems.push(self.places.problem(at, what, hint.map(str::to_owned)));
    }

    fn name<N: std::str::FromStr<Err = NameError>>(&mut self, at: &str, text: &str) -> Option<N> {
        self.checked(at, text, |text| text.parse::<N>().map_err(|error| error.to_string()))
    }

    fn checked<V>(&mut self, at: &str, text: &str, read: impl Fn(&str) -> Result<V, String>) -> Option<V> {
        match read(text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.problem(at, what, None);
                None
            }
        }
    }

    fn secrets(&mut self, raw: &BTreeMap<String, SecretKeys>) -> BTreeMap<SecretName, SecretSource> {
        let mut secrets = BTreeMap::new();
        for (text, keys) in raw {
            let at = join("secrets", text);
            let name = self.name::<SecretName>(&at, text);
            let source = self.secret(&at, keys);
            secrets.extend(name.zip(source));
        }
        secrets
    }

    fn secret(&mut self, at: &str, keys: &SecretKeys) -> Option<SecretSource> {
        let generate = keys.generate.map(|bytes| SecretSource::Generate { bytes: bytes.min(1024) as usize });
        let sources = [
            generate,
            keys.file.as_ref().map(|file| SecretSource::File(file.into())),
            keys.env.clone().map(SecretSource::Env),
            keys.command.clone().map(SecretSource::Command),
            keys.self_signed.clone().map(|names| SecretSource::SelfSigned { names }),
        ];
        let mut sources = sources.into_iter().flatten();
        let (Some(source), None) = (sources.next(), sources.next()) else {
            let what =
                "a secret comes from exactly one of `generate`, `file`, `env`, `command`, `self_signed`";
            self.problem(at, what, None);
            return None;
        };
        let wrong = match &source {
            SecretSource::Generate { .. } if !(16..=1024).contains(&keys.generate.unwrap_or(0)) => {
                Some("a generated secret has 16 to 1024 bytes")
            }
            SecretSource::Command(words) if words.is_empty() => Some("the command is empty"),
            SecretSource::SelfSigned { names } if names.is_empty() => {
                Some("a certificate needs at least one name")
            }
            SecretSource::Env(name) if fields::variable(name).is_err() => {
                Some("this is not the name of an environment variable")
            }
            SecretSource::File(path) if path.as_os_str().is_empty() => Some("the path is empty"),
            _ => None,
        };
        if let Some(what) = wrong {
            self.problem(at, what, None);
        }
        Some(source)
    }

    /// Every process as it stands by itself, used or not.
    fn own_processes(&mut self, file: &File) -> BTreeMap<ProcessName, Process> {
        let mut processes = BTreeMap::new();
        for (text, value) in &file.process {
            let at = join("process", text);
            let Some(name) = self.name::<ProcessName>(&at, text) else { continue };
            let process = self.process(&name, vec![at], merged(value, None));
            processes.insert(name, process);
        }
        processes
    }

    fn process(&mut self, name: &ProcessName, bases: Vec<String>, keys: Value) -> Process {
        let (problems, warnings) = (&mut self.problems, &mut self.warnings);
        Reader { places: self.places, bases, name, problems, warnings }.read(keys)
    }

    fn topology(
        &mut self,
        at: &str,
        keys: &TopologyKeys,
        file: &File,
        own: &BTreeMap<ProcessName, Process>,
    ) -> Topology {
        let processes = self.overridden(at, keys, file, own);
        let machines = self.machines(at, keys, file);
        let contained: BTreeSet<&ProcessName> =
            machines.values().flat_map(|machine| &machine.contains).collect();
        for name in &contained {
            let needs = processes.get(*name).into_iter().flat_map(|process| &process.needs);
            for need in needs.filter(|need| !contained.contains(need)) {
                let what = format!("`{name}` needs `{need}`, which no machine of this topology contains");
                self.problem(at, what, Some("add it to a `contains`"));
            }
        }
        let build_on = keys.build_on.as_ref().and_then(|text| {
            let at = format!("{at}.build_on");
            let name = self.name::<MachineName>(&at, text)?;
            if !machines.contains_key(&name) {
                self.problem(&at, format!("there is no machine `{name}` in this topology"), None);
            }
            Some(name)
        });
        let used = processes.iter().filter(|(name, _)| contained.contains(name));
        let used: BTreeMap<ProcessName, Process> =
            used.map(|(name, process)| (name.clone(), process.clone())).collect();
        if keys.process.values().any(|over| over.get("needs").is_some()) {
            self.circles(&format!("{at}.process"), &used, |name| keys.process.contains_key(name.as_str()));
        }
        self.port_clashes(&machines, &used);
        let ordered = order::by_needs(used.iter().map(|(name, process)| (name, process.needs.as_slice())));
        let mut used = used;
        let processes = ordered.into_iter().filter_map(|name| used.remove_entry(&name)).collect();
        Topology { runtime: keys.runtime.unwrap_or_default(), build_on, machines, processes }
    }

    /// The processes with the topology's keys laid over them.
    fn overridden(
        &mut self,
        at: &str,
        keys: &TopologyKeys,
        file: &File,
        own: &BTreeMap<ProcessName, Process>,
    ) -> BTreeMap<ProcessName, Process> {
        let mut processes = own.clone();
        for (text, over) in &keys.process {
            let over_at = join(&format!("{at}.process"), text);
            let Some(base) = file.process.get(text) else {
                if !self.places.has(&join("process", text)) {
                    let known = file.process.keys().map(String::as_str);
                    let hint = super::shape::did_you_mean(text, known);
                    self.problem(&over_at, format!("there is no process `{text}`"), hint.as_deref());
                }
                continue;
            };
            let Ok(name) = text.parse::<ProcessName>() else { continue };
            let bases = vec![over_at, join("process", text)];
            let process = self.process(&name, bases, merged(base, Some(over)));
            processes.insert(name, process);
        }
        processes
    }

    fn machines(&mut self, at: &str, keys: &TopologyKeys, file: &File) -> BTreeMap<MachineName, Machine> {
        let mut machines = BTreeMap::new();
        if let Some(contains) = &keys.contains {
            if !keys.machines.is_empty() {
                let what = "a topology has either `contains` (this machine) or `machines` (by SSH)";
                self.problem(at, what, Some("make two topologies"));
            }
            let contains = self.contains(&format!("{at}.contains"), contains, file);
            if let Ok(name) = HERE.parse() {
                let address = "127.0.0.1".to_owned();
                machines.insert(name, Machine { place: Place::Here, address, contains });
            }
        } else if keys.runtime.is_some() {
            let what = "`runtime` belongs to a topology of this machine, with `contains`";
            self.problem(&format!("{at}.runtime"), what, Some("machines reached by SSH always run Docker"));
        }
        let mut seen: BTreeMap<(&str, Option<u16>), &str> = BTreeMap::new();
        for (text, machine) in &keys.machines {
            let at = join(&format!("{at}.machines"), text);
            let port = machine.port.or(file.ssh.port);
            if let Some(other) = seen.insert((&machine.ip, port), text).filter(|_| !machine.ip.is_empty()) {
                self.problem(&format!("{at}.ip"), format!("machine `{other}` has this address too"), None);
            }
            let read = self.machine(&at, machine, file);
            let name = self.name::<MachineName>(&at, text);
            machines.extend(name.map(|name| (name, read)));
        }
        machines
    }

    fn machine(&mut self, at: &str, keys: &MachineKeys, file: &File) -> Machine {
        let host = self.checked(&format!("{at}.ip"), &keys.ip, fields::host).unwrap_or_default();
        let address =
            keys.address.as_ref().and_then(|text| self.checked(&format!("{at}.address"), text, fields::host));
        if keys.port == Some(0) {
            self.problem(&format!("{at}.port"), "0 is not a port: 1 to 65535", None);
        }
        let place = Place::Ssh {
            host: host.clone(),
            port: keys.port.or(file.ssh.port),
            user: keys.user.clone().or_else(|| file.ssh.user.clone()),
            identity: keys.identity.as_ref().or(file.ssh.identity.as_ref()).map(Into::into),
        };
        let contains = self.contains(&format!("{at}.contains"), &keys.contains, file);
        Machine { place, address: address.unwrap_or(host), contains }
    }

    fn contains(&mut self, at: &str, list: &[String], file: &File) -> Vec<ProcessName> {
        let mut contains = Vec::new();
        for (n, text) in list.iter().enumerate() {
            let at = format!("{at}[{n}]");
            if !self.places.has(&join("process", text)) {
                let hint = super::shape::did_you_mean(text, file.process.keys().map(String::as_str));
                let define = format!("define it: `[process.{text}]`");
                self.problem(&at, format!("there is no process `{text}`"), Some(&hint.unwrap_or(define)));
                continue;
            }
            contains.extend(text.parse().ok());
        }
        contains
    }

    /// Circles in `needs`, told once each, at the first of its members that `wanted` takes.
    fn circles(
        &mut self,
        base: &str,
        processes: &BTreeMap<ProcessName, Process>,
        wanted: impl Fn(&ProcessName) -> bool,
    ) {
        let graph = processes.iter().map(|(name, process)| (name, process.needs.as_slice()));
        for circle in order::circles(graph) {
            let Some(first) = circle.iter().find(|name| wanted(name)) else { continue };
            let at = format!("{}.needs", join(base, first.as_str()));
            let way: Vec<&str> = circle.iter().chain(circle.first()).map(ProcessName::as_str).collect();
            self.problem(&at, format!("needs go in a circle: {}", way.join(" → ")), None);
        }
    }

    /// Two instances on one machine that ask for the same port of it.
    fn port_clashes(
        &mut self,
        machines: &BTreeMap<MachineName, Machine>,
        processes: &BTreeMap<ProcessName, Process>,
    ) {
        for (machine, keys) in machines {
            let mut taken: Vec<(&ProcessName, &WantedPort)> = Vec::new();
            let here = keys.contains.iter().filter_map(|name| Some((name, processes.get(name)?)));
            let ports = here.flat_map(|(name, process)| process.ports.iter().map(move |port| (name, port)));
            for (name, port) in ports.filter(|(_, port)| port.host.is_some()) {
                if let Some((other, _)) = taken.iter().find(|(_, other)| clashes(port, other)) {
                    self.port_clash(machine, name, other, port);
                }
                taken.push((name, port));
            }
        }
    }

    fn port_clash(
        &mut self,
        machine: &MachineName,
        name: &ProcessName,
        other: &ProcessName,
        port: &WantedPort,
    ) {
        let number = port.host.unwrap_or_default();
        let what = format!("on machine `{machine}` `{name}` and `{other}` both want port {number}");
        let hint = format!("write `\"{}\"` alone: nsd then chooses a free port", port.container);
        let at = format!("{}.ports", join("process", name.as_str()));
        self.problem(&at, what, Some(&hint));
    }

    /// `certificates = "self-signed"` is a secret that `nsd` makes, valid wherever the balancer answers.
    fn certificates(&mut self, manifest: &mut Manifest) {
        let mut wanted: BTreeMap<SecretName, BTreeSet<String>> = BTreeMap::new();
        for topology in manifest.topologies.values() {
            for (process, keys) in &topology.processes {
                let tls = keys.balancer.tls.as_ref().map(|tls| &tls.certificates);
                let Some(Certificates::SelfSigned(secret)) = tls else { continue };
                let names = wanted.entry(secret.clone()).or_default();
                names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
                let here = topology.machines.values().filter(|machine| machine.contains.contains(process));
                names.extend(here.flat_map(Machine::names));
            }
        }
        for (secret, names) in wanted {
            let names = names.into_iter().collect();
            manifest.secrets.entry(secret).or_insert(SecretSource::SelfSigned { names });
        }
    }
}

fn clashes(one: &WantedPort, other: &WantedPort) -> bool {
    let same_address = one.ip.is_none() || other.ip.is_none() || one.ip == other.ip;
    one.host == other.host && one.protocol == other.protocol && same_address
}

/// The raw file, for the first look after the shape check.
pub(super) fn raw(value: Value) -> Result<File, String> {
    serde_json::from_value::<File>(value).map_err(|error| error.to_string())
}
