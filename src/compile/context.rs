//! What templates and strings can name. Documented on the reference page; secrets appear as references only.

use std::collections::BTreeMap;

use serde::Serialize;

use super::placed::{Placed, Stand, of};
use crate::manifest::{Certificates, Manifest, Source};
use crate::system::{Bundled, ProcessName, STATE, SecretName, Text, TopologyName};

/// Where the password of the store stands in a broker's container.
pub(super) const PASSWORD_FILE: &str = "/etc/nsd/redis-password";
/// Where a self-signed certificate stands in a balancer's container.
pub(super) const CERTIFICATE_FILE: &str = "/etc/nsd/certificate.pem";
/// Prefix of every key of the brokers.
pub(super) const PREFIX: &str = "nsd:";

#[derive(Serialize)]
pub(super) struct Context<'c> {
    system: SystemView<'c>,
    topology: &'c str,
    machine: MachineView<'c>,
    process: Named<'c>,
    instance: InstanceView<'c>,
    instances: BTreeMap<&'c str, Vec<InstanceView<'c>>>,
    secret: BTreeMap<&'c str, String>,
    files: BTreeMap<String, String>,
    volumes: BTreeMap<String, String>,
    balances: Vec<InstanceView<'c>>,
    vars: &'c BTreeMap<String, String>,
    broker: Option<BrokerView<'c>>,
    balancer: Option<BalancerView<'c>>,
}

#[derive(Serialize)]
struct SystemView<'c> {
    name: &'c str,
    namespace: &'c str,
    id: String,
}

#[derive(Serialize)]
struct MachineView<'c> {
    name: &'c str,
    ip: String,
    address: &'c str,
}

#[derive(Serialize)]
struct Named<'c> {
    name: &'c str,
}

#[derive(Serialize)]
struct InstanceView<'c> {
    name: String,
    number: u16,
    machine: &'c str,
    host: &'c str,
    port: Option<u16>,
    /// `HOST:PORT` by which others reach it.
    address: String,
    /// Address and port that the program itself listens on.
    bind: &'static str,
    listen: Option<u16>,
    admin_socket: Option<String>,
}

#[derive(Serialize)]
struct BrokerView<'c> {
    allow_anonymous: bool,
    topic_rule: &'c str,
    store: Option<InstanceView<'c>>,
    password_file: Option<String>,
    prefix: &'static str,
}

#[derive(Serialize)]
struct BalancerView<'c> {
    name: &'c str,
    listen: &'c [String],
    tls: Option<TlsView<'c>>,
    balance: &'c str,
    /// How servers are checked: brokers answer MQTT, anything else takes connections.
    check: &'static str,
}

#[derive(Serialize)]
struct TlsView<'c> {
    listen: &'c [String],
    certificates: Vec<String>,
}

/// The path of a container's file as the program sees it.
pub(super) fn file_path(stand: Stand, to: &str) -> String {
    if stand == Stand::Process { format!("{STATE}/files{to}") } else { to.to_owned() }
}

fn volume_path(stand: Stand, target: &str) -> String {
    if stand == Stand::Process { format!("{STATE}/volumes{target}") } else { target.to_owned() }
}

/// The secret with the name of the store is its password.
pub(super) fn password(manifest: &Manifest, store: &ProcessName) -> Option<SecretName> {
    let name: SecretName = store.as_str().parse().ok()?;
    manifest.secrets.contains_key(&name).then_some(name)
}

pub(super) struct Contexts<'c> {
    pub(super) manifest: &'c Manifest,
    pub(super) topology: &'c TopologyName,
    pub(super) placed: &'c [Placed<'c>],
    pub(super) id: String,
}

impl<'c> Contexts<'c> {
    pub(super) fn of(&'c self, instance: &'c Placed<'c>) -> Result<tera::Context, tera::Error> {
        let process = instance.process;
        let mut instances: BTreeMap<&str, Vec<InstanceView<'_>>> = BTreeMap::new();
        for other in self.placed {
            instances.entry(other.name.process.as_str()).or_default().push(view(other));
        }
        let balanced = process.balances.as_ref().map(|name| of(self.placed, name)).unwrap_or_default();
        let secrets = self.manifest.secrets.keys();
        tera::Context::from_serialize(&Context {
            system: SystemView {
                name: self.manifest.name.as_str(),
                namespace: &self.manifest.namespace,
                id: self.id.clone(),
            },
            topology: self.topology.as_str(),
            machine: MachineView {
                name: instance.name.machine.as_str(),
                ip: self.ip(instance),
                address: &instance.host,
            },
            process: Named { name: instance.name.process.as_str() },
            instance: view(instance),
            instances,
            secret: secrets.map(|name| (name.as_str(), Text::secret_reference(name))).collect(),
            files: files(instance),
            volumes: process
                .volumes
                .iter()
                .map(|volume| (volume.target.clone(), volume_path(instance.stand, &volume.target)))
                .collect(),
            balances: balanced.into_iter().map(view).collect(),
            vars: &process.vars,
            broker: (process.source == Source::Bundled(Bundled::Broker)).then(|| self.broker(instance)),
            balancer: (process.source == Source::Bundled(Bundled::Balancer)).then(|| self.balancer(instance)),
        })
    }

    fn ip(&self, instance: &Placed<'_>) -> String {
        let topology = self.manifest.topologies().get(self.topology);
        match topology.and_then(|topology| topology.machines.get(&instance.name.machine)).map(|m| &m.place) {
            Some(crate::manifest::Place::Ssh { host, .. }) => host.clone(),
            _ => instance.host.clone(),
        }
    }

    fn broker(&self, instance: &'c Placed<'c>) -> BrokerView<'c> {
        let keys = &instance.process.broker;
        let store = keys.store.as_ref().and_then(|name| of(self.placed, name).first().copied());
        let password = keys.store.as_ref().and_then(|name| password(self.manifest, name));
        BrokerView {
            allow_anonymous: keys.allow_anonymous,
            topic_rule: &keys.topic_rule,
            store: store.map(view),
            password_file: password.map(|_| file_path(instance.stand, PASSWORD_FILE)),
            prefix: PREFIX,
        }
    }

    fn balancer(&self, instance: &'c Placed<'c>) -> BalancerView<'c> {
        let keys = &instance.process.balancer;
        let balanced = instance.process.balances.as_ref();
        let servers = balanced.map(|name| of(self.placed, name)).unwrap_or_default();
        let brokers = servers.iter().any(|server| server.process.source == Source::Bundled(Bundled::Broker));
        let tls = keys.tls.as_ref().map(|tls| TlsView {
            listen: &instance.tls_listen,
            certificates: match &tls.certificates {
                Certificates::Paths(paths) => {
                    paths.iter().map(|path| certificate_path(instance, path)).collect()
                }
                Certificates::SelfSigned(_) => vec![file_path(instance.stand, CERTIFICATE_FILE)],
            },
        });
        BalancerView {
            name: balanced.map_or(instance.name.process.as_str(), ProcessName::as_str),
            listen: &instance.listen,
            tls,
            balance: keys.balance.as_deref().unwrap_or("leastconn"),
            check: if brokers { "mqtt" } else { "tcp" },
        }
    }
}

/// A path of the container that lies in a volume or is a file of it stands elsewhere for a plain process.
fn certificate_path(instance: &Placed<'_>, path: &str) -> String {
    let in_volume = |target: &str| path == target || path.starts_with(&format!("{target}/"));
    if instance.process.files.iter().any(|file| file.to == path) {
        return file_path(instance.stand, path);
    }
    match instance.process.volumes.iter().any(|volume| in_volume(&volume.target)) {
        true => volume_path(instance.stand, path),
        false => path.to_owned(),
    }
}

/// By path and by file name.
fn files(instance: &Placed<'_>) -> BTreeMap<String, String> {
    let named = |to: &str| {
        let path = file_path(instance.stand, to);
        let name = to.rsplit('/').next().unwrap_or(to).to_owned();
        [(name, path.clone()), (to.to_owned(), path)]
    };
    instance.process.files.iter().flat_map(|file| named(&file.to)).collect()
}

fn view<'c>(placed: &'c Placed<'c>) -> InstanceView<'c> {
    let socket = match placed.process.source {
        Source::Bundled(bundled) if placed.stand == Stand::Process => {
            Some(format!("{}.sock", bundled.name()))
        }
        Source::Bundled(bundled) => Some(format!("/run/nsd/{}.sock", bundled.name())),
        _ => None,
    };
    InstanceView {
        name: placed.name.to_string(),
        number: placed.name.number,
        machine: placed.name.machine.as_str(),
        host: &placed.host,
        port: placed.port(),
        address: placed.port().map_or(placed.host.clone(), |port| join(&placed.host, port)),
        bind: placed.bind(),
        listen: placed.own_port(),
        admin_socket: socket,
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
