//! Where instances stand: which runtime, which ports, which address.

use std::collections::BTreeMap;

use super::ports::Taken;
use crate::manifest::{Machine, Manifest, Place, Problem, Process, Runtime, Source, Topology};
use crate::system::{
    Bundled, InstanceName, MachineName, Network, Port, ProcessName, Protocol, Reach, TopologyName,
};

/// The host as containers of this machine's own engine see it: the address of the engine's default bridge.
const BRIDGE: &str = "172.17.0.1";
const MQTT: u16 = 1883;
const MQTT_TLS: u16 = 8883;

/// How an instance meets the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// In a container of its own network; ports are published.
    Inside,
    /// On the machine's own network.
    Host,
    /// A plain process of this machine.
    Process,
}

/// One instance with its ports.
#[derive(Debug, Clone)]
pub(super) struct Placed<'m> {
    pub(super) name: InstanceName,
    pub(super) process: &'m Process,
    pub(super) stand: Stand,
    /// By which other machines reach it.
    pub(super) host: String,
    pub(super) ports: Vec<Port>,
    /// Of a balancer: where it listens, plain and with TLS.
    pub(super) listen: Vec<String>,
    pub(super) tls_listen: Vec<String>,
}

impl Placed<'_> {
    /// The port by which others reach it.
    pub(super) fn port(&self) -> Option<u16> {
        self.ports.first().map(|port| port.host)
    }

    /// The port that the program itself listens on.
    pub(super) fn own_port(&self) -> Option<u16> {
        self.ports.first().map(|port| if self.stand == Stand::Inside { port.container } else { port.host })
    }

    /// A port of the container as its machine sees it.
    pub(super) fn on_machine(&self, container: u16) -> Option<u16> {
        let published = self.ports.iter().find(|port| port.container == container).map(|port| port.host);
        published.or((self.stand != Stand::Inside).then_some(container))
    }

    /// The address that the program binds.
    pub(super) fn bind(&self) -> &'static str {
        if self.stand == Stand::Process { "127.0.0.1" } else { "0.0.0.0" }
    }
}

/// Places a topology; one placed instance a name in `contains`.
pub(super) struct Placer<'m> {
    pub(super) manifest: &'m Manifest,
    pub(super) topology: &'m Topology,
    pub(super) name: &'m TopologyName,
    pub(super) local_docker: bool,
    pub(super) problems: Vec<Problem>,
}

impl<'m> Placer<'m> {
    pub(super) fn reach(&self, machine: &Machine) -> Reach {
        match &machine.place {
            Place::Ssh { host, port, user, identity } => {
                Reach::Ssh { host: host.clone(), port: *port, user: user.clone(), identity: identity.clone() }
            }
            Place::Here => match self.topology.runtime {
                Runtime::Docker => Reach::Docker,
                Runtime::Auto if self.local_docker => Reach::Docker,
                Runtime::Auto | Runtime::Process => Reach::Process,
            },
        }
    }

    pub(super) fn address(&self, machine: &Machine) -> String {
        match self.reach(machine) {
            Reach::Docker => BRIDGE.to_owned(),
            Reach::Process | Reach::Ssh { .. } => machine.address.clone(),
        }
    }

    pub(super) fn place(&mut self) -> Vec<Placed<'m>> {
        let mut taken: BTreeMap<&MachineName, Taken> = BTreeMap::new();
        let mut placed = self.without_ports();
        for instance in &mut placed {
            let taken = taken.entry(machine_name(self.topology, &instance.name.machine)).or_default();
            self.fixed_ports(instance, taken);
        }
        for instance in &mut placed {
            let taken = taken.entry(machine_name(self.topology, &instance.name.machine)).or_default();
            self.chosen_ports(instance, taken);
        }
        placed
    }

    fn without_ports(&self) -> Vec<Placed<'m>> {
        let mut placed = Vec::new();
        for (process_name, process) in &self.topology.processes {
            for (machine_name, machine) in &self.topology.machines {
                let copies = machine.contains.iter().filter(|name| *name == process_name).count();
                for number in 1..=u16::try_from(copies).unwrap_or(u16::MAX) {
                    let name =
                        InstanceName { machine: machine_name.clone(), process: process_name.clone(), number };
                    placed.push(self.instance(name, process, machine));
                }
            }
        }
        placed
    }

    fn instance(&self, name: InstanceName, process: &'m Process, machine: &Machine) -> Placed<'m> {
        let stand = match (self.reach(machine), &process.network) {
            (Reach::Process, _) => Stand::Process,
            (_, Network::Host) => Stand::Host,
            _ => Stand::Inside,
        };
        let mut placed = Placed {
            name,
            process,
            stand,
            host: self.address(machine),
            ports: Vec::new(),
            listen: process.balancer.listen.clone(),
            tls_listen: Vec::new(),
        };
        if process.source == Source::Bundled(Bundled::Balancer) {
            let bind = placed.bind();
            if placed.listen.is_empty() {
                placed.listen = vec![format!("{bind}:{MQTT}")];
            }
            if let Some(tls) = &process.balancer.tls {
                let default = || vec![format!("{bind}:{MQTT_TLS}")];
                placed.tls_listen = if tls.listen.is_empty() { default() } else { tls.listen.clone() };
            }
        }
        placed
    }

    fn problem(&mut self, instance: &InstanceName, key: &str, what: String, hint: Option<String>) {
        let at = super::at(self.manifest, self.name, &instance.process, key);
        let problem = self.manifest.places().problem(&at, what, hint);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Ports that the file names; without a network of its own, a balancer's addresses are ports of the machine too.
    fn fixed_ports(&mut self, instance: &mut Placed<'m>, taken: &mut Taken) {
        let stand = instance.stand;
        for wanted in &instance.process.ports {
            let host = match (stand, wanted.host) {
                (Stand::Host, Some(host)) if host != wanted.container => {
                    let what =
                        format!("with `network = \"host\"` port {} cannot become {host}", wanted.container);
                    let hint = format!("write `\"{}\"`", wanted.container);
                    self.problem(&instance.name, "ports", what, Some(hint));
                    continue;
                }
                (Stand::Host, _) => wanted.container,
                (_, Some(host)) => host,
                (_, None) => continue,
            };
            let ip = if stand == Stand::Process { Some("127.0.0.1".to_owned()) } else { wanted.ip.clone() };
            let port = Port { ip, host, container: wanted.container, protocol: wanted.protocol };
            // Two published ports of the same number on different addresses were checked with the manifest.
            if stand != Stand::Inside {
                self.claim(&instance.name, host, wanted.protocol, taken);
            }
            taken.reserve(host, wanted.protocol);
            instance.ports.push(port);
        }
        if stand == Stand::Inside {
            return;
        }
        for address in instance.listen.iter().chain(&instance.tls_listen) {
            let Some(port) = port_of(address) else { continue };
            if instance.ports.iter().any(|known| known.host == port) {
                continue;
            }
            self.claim(&instance.name, port, Protocol::Tcp, taken);
            taken.reserve(port, Protocol::Tcp);
            let ip = (stand == Stand::Process).then(|| "127.0.0.1".to_owned());
            instance.ports.push(Port { ip, host: port, container: port, protocol: Protocol::Tcp });
        }
    }

    fn claim(&mut self, instance: &InstanceName, port: u16, protocol: Protocol, taken: &Taken) {
        if taken.has(port, protocol) {
            let what = format!("on machine `{}` port {port} is wanted twice", instance.machine);
            self.problem(instance, "ports", what, Some("give one of them another port".to_owned()));
        }
    }

    fn chosen_ports(&mut self, instance: &mut Placed<'m>, taken: &mut Taken) {
        for (n, wanted) in instance.process.ports.iter().enumerate() {
            if wanted.host.is_some() || instance.stand == Stand::Host {
                continue;
            }
            let Some(host) = taken.choose(self.manifest.id, &instance.name, wanted) else {
                let what = format!("no port is left on machine `{}`", instance.name.machine);
                self.problem(&instance.name, "ports", what, None);
                continue;
            };
            let ip = match instance.stand {
                Stand::Process => Some("127.0.0.1".to_owned()),
                _ => wanted.ip.clone(),
            };
            let port = Port { ip, host, container: wanted.container, protocol: wanted.protocol };
            // In the order of the file: the first port is the one by which others reach the instance.
            instance.ports.insert(n.min(instance.ports.len()), port);
        }
    }
}

fn machine_name<'m>(topology: &'m Topology, name: &MachineName) -> &'m MachineName {
    let known = topology.machines.get_key_value(name);
    known.map(|(name, _)| name).expect("instances are placed on machines of their topology")
}

pub(super) fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// The instances of a process.
pub(super) fn of<'p, 'm>(placed: &'p [Placed<'m>], process: &ProcessName) -> Vec<&'p Placed<'m>> {
    placed.iter().filter(|instance| instance.name.process == *process).collect()
}
