//! Who is compared: how each is configured, alike, and started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{Program, Running, installed};
use crate::rows::Door;

/// The balancers run on this processor, load and backends on the other.
const SERVER_PROCESSOR: u8 = 0;
pub(crate) const LOAD_PROCESSOR: u8 = 1;

/// Files, ports and programs of a benchmark.
#[derive(Debug)]
pub(crate) struct Place {
    /// Configurations, logs, sockets, certificate; gone at the end.
    pub(crate) folder: PathBuf,
    /// Where our own programs stand.
    pub(crate) programs: PathBuf,
    pub(crate) first_port: u16,
    /// Brokers are kept on one processor, too.
    pub(crate) pin_brokers: bool,
}

/// A server that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Mosquitto,
    Broker,
    HaProxy,
    Balancer,
    /// Two nodes of ours around a Redis: publishers are at the first, subscribers at the second.
    Cluster,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "Mosquitto",
            Self::Broker => "nsd-broker",
            Self::HaProxy => "HAProxy",
            Self::Balancer => "nsd-balancer",
            Self::Cluster => "nsd-broker, two nodes",
        }
    }

    fn ports(self) -> u16 {
        match self {
            Self::Mosquitto => 0,
            Self::Broker => 10,
            Self::HaProxy => 20,
            Self::Balancer => 30,
            Self::Cluster => NODES[0].1,
        }
    }

    /// Where clients find `door` at this contender.
    pub(crate) fn address(self, place: &Place, door: Door) -> SocketAddr {
        match self {
            Self::Cluster => place.address(self.ports()),
            _ => place.address(self.ports() + door.offset()),
        }
    }

    /// Where subscribers find it, if elsewhere.
    pub(crate) fn far_side(self, place: &Place) -> Option<SocketAddr> {
        (self == Self::Cluster).then(|| place.address(NODES[1].1))
    }

    /// The programs with their configurations written, each with its name and where it listens, in the order of their start.
    /// Brokers are configured for what `door` asks, proxies for all doors.
    pub(crate) fn programs(self, place: &Place, door: Door) -> Result<Vec<Part>> {
        if self == Self::Cluster {
            return cluster(place);
        }
        let doors: &[Door] = match self {
            Self::HaProxy | Self::Balancer => &Door::BEHIND_A_PROXY,
            _ => &[door],
        };
        let addresses = doors.iter().map(|door| self.address(place, *door)).collect();
        Ok(vec![(self.name(), self.program(place, door)?, addresses)])
    }

    fn program(self, place: &Place, door: Door) -> Result<Program> {
        let (path, text) = match self {
            Self::Mosquitto => (installed("mosquitto", "mosquitto")?, mosquitto(place, door)),
            Self::HaProxy => (installed("haproxy", "haproxy")?, haproxy(place)),
            Self::Broker | Self::Cluster => (place.own("nsd-broker")?, broker(place, door)),
            Self::Balancer => (place.own("nsd-balancer")?, balancer(place)),
        };
        let file = place.write(self.name(), &text)?;
        let args = match self {
            Self::Mosquitto => vec!["-c".to_owned(), file],
            Self::HaProxy => vec!["-db".to_owned(), "-f".to_owned(), file],
            Self::Broker | Self::Balancer | Self::Cluster => vec!["--config".to_owned(), file],
        };
        let pinned = place.pin_brokers || matches!(self, Self::HaProxy | Self::Balancer);
        Ok(Program::new(path, args).on(pinned.then_some(SERVER_PROCESSOR)))
    }

    /// Starts it afresh, so that no run leaves memory or files behind for the next.
    pub(crate) async fn start(self, place: &Place, door: Door) -> Result<Vec<Running>> {
        if door == Door::BrokerDisk || self == Self::Cluster {
            let state = place.state(self);
            let _ = std::fs::remove_dir_all(&state);
            std::fs::create_dir(&state).with_context(|| state.display().to_string())?;
        }
        let mut running = Vec::new();
        for (name, program, addresses) in self.programs(place, door)? {
            let log = place.folder.join(format!("{name}.log"));
            running.push(Running::start(&program, &addresses, &log).await?);
        }
        Ok(running)
    }
}

/// One process of a contender: its name, how it is started, and where it listens.
type Part = (&'static str, Program, Vec<SocketAddr>);

const REDIS: (&str, u16) = ("redis", 43);
const NODES: [(&str, u16); 2] = [("node-1", 44), ("node-2", 45)];

impl Door {
    pub(crate) const BEHIND_A_PROXY: [Self; 5] =
        [Self::Echo, Self::EchoTls, Self::Sink, Self::Connack, Self::ConnackTls];

    pub(crate) fn is_behind_a_proxy(self) -> bool {
        Self::BEHIND_A_PROXY.contains(&self)
    }

    fn offset(self) -> u16 {
        match self {
            Self::Broker | Self::Echo => 0,
            Self::BrokerTls | Self::EchoTls => 1,
            Self::BrokerDisk | Self::Sink => 2,
            Self::Connack => 3,
            Self::ConnackTls => 4,
        }
    }
}

/// The servers behind both balancers, and their roles for `nsd-load serve`.
pub(crate) const BACKENDS: [(&str, u16); 3] = [("echo", 40), ("sink", 41), ("connack", 42)];

impl Place {
    pub(crate) fn address(&self, offset: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first_port + offset).into()
    }

    /// One of our own programs.
    pub(crate) fn own(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        let there = path.is_file().then_some(path);
        there.with_context(|| format!("{name} is not in {}: build it first", self.programs.display()))
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// Writes a configuration: its file.
    fn write(&self, name: &str, text: &str) -> Result<String> {
        let file = self.folder.join(format!("{name}.conf"));
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        Ok(file.display().to_string())
    }

    /// Where a broker keeps what must outlive it.
    fn state(&self, contender: Contender) -> PathBuf {
        self.folder.join(format!("{}.state", contender.name()))
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sock"))
    }
}

/// Bounds that would drop messages are off: it would look fast for what it throws away. It keeps its user, as files of
/// ours are not for others.
fn mosquitto(place: &Place, door: Door) -> String {
    let port = Contender::Mosquitto.address(place, door).port();
    let (certificate, state) = (place.certificate(), place.state(Contender::Mosquitto));
    let more = match door {
        Door::BrokerTls => {
            format!("certfile {0}\nkeyfile {0}\npersistence false\n", certificate.display())
        }
        Door::BrokerDisk => format!("persistence true\npersistence_location {}/\n", state.display()),
        _ => "persistence false\n".to_owned(),
    };
    format!(
        "user root\nlistener {port} 127.0.0.1\n{more}allow_anonymous true\nlog_type error\n\
         max_inflight_messages 0\nmax_queued_messages 0\n"
    )
}

/// What waits for a session is bounded by default; here it must not be, as it is not at Mosquitto's.
const UNBOUNDED: &str = "[limits]\nqueue_messages = 10000000\nqueue_bytes = 10000000000\n";

fn broker(place: &Place, door: Door) -> String {
    let address = Contender::Broker.address(place, door);
    let (socket, state) = (place.socket(Contender::Broker.name()), place.state(Contender::Broker));
    let certificate = place.certificate();
    let tls = match door {
        Door::BrokerTls => format!("tls = {{ certificates = [\"{}\"] }}\n", certificate.display()),
        _ => String::new(),
    };
    let store = match door {
        Door::BrokerDisk => format!("kind = \"disk\"\ndirectory = \"{}\"\n{UNBOUNDED}", state.display()),
        _ => "kind = \"memory\"\n".to_owned(),
    };
    open_broker(address, &tls, &store, &socket)
}

fn open_broker(address: SocketAddr, tls: &str, store: &str, socket: &Path) -> String {
    format!(
        "allow_anonymous = true\n[[listen]]\naddress = \"{address}\"\n{tls}[store]\n{store}\
         [access]\ndevices = false\ntopic_rule = \"open\"\n[admin]\nsocket = \"{}\"\n",
        socket.display()
    )
}

/// Redis writes its file as its operators mostly have it: a second may be lost.
fn cluster(place: &Place) -> Result<Vec<Part>> {
    let redis = place.address(REDIS.1);
    let text = format!(
        "port {}\nbind 127.0.0.1\nsave \"\"\nappendonly yes\nappendfsync everysec\ndir \"{}\"\n",
        redis.port(),
        place.state(Contender::Cluster).display()
    );
    let program = installed("redis-server", "redis-server")?;
    let mut parts = vec![(REDIS.0, Program::new(program, [place.write(REDIS.0, &text)?]), vec![redis])];
    for (name, port) in NODES {
        let (address, socket) = (place.address(port), place.socket(name));
        let store = format!("kind = \"redis\"\nurl = \"redis://{redis}/0\"\n{UNBOUNDED}");
        let file = place.write(name, &open_broker(address, "", &store, &socket))?;
        let program = Program::new(place.own("nsd-broker")?, ["--config".to_owned(), file]);
        parts.push((name, program, vec![address]));
    }
    let pinned = place.pin_brokers.then_some(SERVER_PROCESSOR);
    Ok(parts.into_iter().map(|(name, program, at)| (name, program.on(pinned), at)).collect())
}

/// Doors of one proxied service: name, plain door, TLS door, backend's role.
const SERVICES: [(&str, Door, Option<Door>); 3] = [
    ("echo", Door::Echo, Some(Door::EchoTls)),
    ("sink", Door::Sink, None),
    ("connack", Door::Connack, Some(Door::ConnackTls)),
];

fn backend(place: &Place, name: &str) -> SocketAddr {
    let offset = BACKENDS.iter().find(|(role, _)| *role == name).map_or(0, |(_, offset)| *offset);
    place.address(offset)
}

fn haproxy(place: &Place) -> String {
    let mut text = "global\n  nbthread 1\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                    timeout client 30m\n  timeout server 30m\n"
        .to_owned();
    let certificate = place.certificate();
    for (name, plain, tls) in SERVICES {
        let address = |door| Contender::HaProxy.address(place, door);
        text += &format!("listen {name}\n  balance leastconn\n  bind {}\n", address(plain));
        if let Some(tls) = tls {
            text += &format!("  bind {} ssl crt {}\n", address(tls), certificate.display());
        }
        text += &format!("  server {name}-1 {}\n", backend(place, name));
    }
    text
}

fn balancer(place: &Place) -> String {
    let socket = place.socket(Contender::Balancer.name());
    let mut text =
        format!("threads = 1\n[admin]\nsocket = \"{}\"\n[log]\naccess = false\n", socket.display());
    let certificate = place.certificate();
    for (name, plain, tls) in SERVICES {
        let address = |door| Contender::Balancer.address(place, door);
        text += &format!("[[listen]]\nname = \"{name}\"\nbind = [\"{}\"]\n", address(plain));
        if let Some(tls) = tls {
            let file = certificate.display();
            text += &format!("tls = {{ bind = [\"{}\"], certificates = [\"{file}\"] }}\n", address(tls));
        }
        text += "balance = \"leastconn\"\ncheck = { kind = \"none\" }\n";
        let server = backend(place, name);
        text += &format!("[[listen.server]]\nname = \"{name}-1\"\naddress = \"{server}\"\n");
    }
    text
}

/// A P-256 certificate for `localhost` in the combined form that both balancers read.
pub(crate) fn make_certificate(file: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let text = made.cert.pem() + &made.signing_key.serialize_pem();
    std::fs::write(file, text).with_context(|| file.display().to_string())
}
