//! Real processes on loopback: brokers, Redis, and a small client that speaks through `nsd-wire`.

#[path = "../../../../tests/cable.rs"]
pub(crate) mod cable;
#[path = "../../../../tests/ports.rs"]
mod ports;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsd_wire::{
    Ack, Connect, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe, SubscribeFilter, SubscribeOptions,
    Version,
};

use cable::Machine;
pub(crate) use ports::port;

/// How long anything may take that should happen at once; less than a CONNECT may take (10 s), so that who is closed for
/// another reason is seen to be.
pub(crate) const SOON: Duration = Duration::from_secs(8);
/// How long a process may take to begin or to end.
const START: Duration = Duration::from_secs(30);

/// The broker under test: the one that was built with these tests, or one of a release build, for figures.
fn program() -> String {
    std::env::var("NSD_BROKER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_nsd-broker").into())
}

pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A Redis of our own; killed when dropped.
pub(crate) struct Redis {
    host: Ipv4Addr,
    pub(crate) port: u16,
    directory: tempfile::TempDir,
    process: Child,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let (port, directory) = (port(), tempfile::tempdir().unwrap());
        let process = Self::launch(port, directory.path(), options);
        Self { host: Ipv4Addr::LOCALHOST, port, directory, process }
    }

    /// On a machine of the test's own, at this address of it.
    pub(crate) fn on(machine: &Machine, host: Ipv4Addr) -> Self {
        let (port, directory) = (6379, tempfile::tempdir().unwrap());
        let address = SocketAddrV4::new(host, port);
        let command = machine.command("redis-server");
        let process =
            Self::launch_at(address, directory.path(), &["--protected-mode", "no"], command, || {
                machine.does(|| TcpStream::connect(address).is_ok())
            });
        Self { host, port, directory, process }
    }

    fn launch(port: u16, directory: &Path, options: &[&str]) -> Child {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let listens = || TcpStream::connect(address).is_ok();
        Self::launch_at(address, directory, options, Command::new("redis-server"), listens)
    }

    fn launch_at(
        address: SocketAddrV4,
        directory: &Path,
        options: &[&str],
        mut command: Command,
        listens: impl Fn() -> bool,
    ) -> Child {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let mut process = command
            .args(["--port", &port, "--bind", &host, "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir", &directory.display().to_string()])
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        eventually("redis listens", START, || {
            assert!(process.try_wait().unwrap().is_none(), "redis has ended");
            listens()
        });
        process
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Self::launch(self.port, self.directory.path(), &[]);
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(&self.process, signal);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}:{}/5", self.host, self.port)
    }

    pub(crate) fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send_signal(process: &Child, signal: &str) {
    let done = Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap();
    assert!(done.success());
}

/// A broker process; killed when dropped.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    process: Child,
    directory: tempfile::TempDir,
}

impl Broker {
    pub(crate) fn anonymous() -> Self {
        Self::start("allow_anonymous = true")
    }

    /// An open broker with a store in a folder of its own.
    pub(crate) fn on_disk() -> Self {
        Self::start("allow_anonymous = true\n[store]\nkind = \"disk\"\ndirectory = \"STORE\"\n")
    }

    /// Where the store of a broker [`Self::on_disk`] is.
    pub(crate) fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A node of the cluster around this Redis that lets everybody in.
    pub(crate) fn node(redis: &Redis) -> Self {
        Self::limited_node(redis, "")
    }

    /// The same with limits.
    pub(crate) fn limited_node(redis: &Redis, limits: &str) -> Self {
        Self::start(&Self::of_cluster(redis, limits))
    }

    /// One on a machine of the test's own.
    pub(crate) fn node_on(machine: &Machine, address: SocketAddr, redis: &Redis) -> Self {
        Self::on(machine, address, &Self::of_cluster(redis, ""), "")
    }

    fn of_cluster(redis: &Redis, limits: &str) -> String {
        let url = redis.url();
        format!(
            "allow_anonymous = true\n[store]\nkind = \"redis\"\nurl = \"{url}\"\n[access]\ntopic_rule = \"open\"\ndevices = false\n[limits]\n{limits}"
        )
    }

    /// A broker with these settings; listener and admin socket are added.
    pub(crate) fn start(settings: &str) -> Self {
        Self::launch(settings, "", Command::new(program()))
    }

    /// A broker with these settings, whose listener has more of them.
    pub(crate) fn with(settings: &str, listener: &str) -> Self {
        Self::launch(settings, listener, Command::new(program()))
    }

    /// An open broker whose listener has more settings.
    pub(crate) fn listening(listener: &str) -> Self {
        let command = Command::new(program());
        Self::launch("allow_anonymous = true", listener, command)
    }

    /// An open broker that may have so many files open.
    pub(crate) fn with_files(limit: u32) -> Self {
        Self::with_files_listening(limit, "")
    }

    /// The same, with more settings of its listener.
    pub(crate) fn with_files_listening(limit: u32, listener: &str) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, &program()]);
        Self::launch("allow_anonymous = true", listener, shell)
    }

    /// On a machine of the test's own, at this address of it.
    pub(crate) fn on(machine: &Machine, address: SocketAddr, settings: &str, listener: &str) -> Self {
        let listens = || machine.does(|| TcpStream::connect(address).is_ok());
        Self::launch_at(address, settings, listener, machine.command(&program()), listens)
    }

    fn launch(settings: &str, listener: &str, command: Command) -> Self {
        let address: SocketAddr = ([127, 0, 0, 1], port()).into();
        Self::launch_at(address, settings, listener, command, || TcpStream::connect(address).is_ok())
    }

    fn launch_at(
        address: SocketAddr,
        settings: &str,
        listener: &str,
        mut command: Command,
        listens: impl Fn() -> bool,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("broker.sock");
        let file = directory.path().join("broker.toml");
        let store = if settings.contains("[store]") { "" } else { "[store]\nkind = \"memory\"\n" };
        let own_store = directory.path().join("store").display().to_string();
        let settings = settings.replace("STORE", &own_store);
        let text = format!(
            "{settings}\n{store}[admin]\nsocket = \"{}\"\n[[listen]]\naddress = \"{address}\"\n{listener}\n",
            socket.display()
        );
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        command.args(["--config", &file.display().to_string()]).env("RUST_LOG", "debug").stderr(log);
        let process = command.spawn().unwrap();
        let mut broker = Self { address, socket, process, directory };
        broker.await_listening(listens);
        broker
    }

    fn await_listening(&mut self, listens: impl Fn() -> bool) {
        eventually("the broker listens", START, || {
            assert!(self.is_running(), "the broker has ended");
            listens()
        });
    }

    /// Kills it; [`Self::restart`] starts it with the same settings.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = self.start_again();
        let address = self.address;
        self.await_listening(|| TcpStream::connect(address).is_ok());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Exit code and log of a start that must not succeed.
    pub(crate) fn fails_to_start(&mut self) -> (Option<i32>, String) {
        self.process = self.start_again();
        (self.wait(), self.log())
    }

    fn start_again(&self) -> Child {
        let file = self.directory.path().join("broker.toml");
        let log = std::fs::OpenOptions::new().append(true).open(self.directory.path().join("log")).unwrap();
        Command::new(program())
            .args(["--config", &file.display().to_string()])
            .env("RUST_LOG", "debug")
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(&self.process, signal);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged so far, at every level but the finest.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits for the process's own end.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the broker ends", START, || {
            code = self.process.try_wait().unwrap().map(|status| status.code());
            code.is_some()
        });
        code.flatten()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS")
    }

    /// The most that it has ever held.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM")
    }

    fn memory_kib(&self, kind: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(kind)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The settings file, which may be written again.
    pub(crate) fn settings(&self) -> PathBuf {
        self.directory.path().join("broker.toml")
    }

    /// `nsd-broker admin …` as a person types it: exit code, what it prints, what it complains about.
    pub(crate) fn admin(&self, words: &[&str]) -> (i32, String, String) {
        let socket = self.socket.display().to_string();
        let output =
            Command::new(program()).args(["admin", "--socket", &socket]).args(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// An answer of the admin socket and whether it was a good one.
    pub(crate) fn ask(&self, question: &str) -> (bool, serde_json::Value) {
        self.order(&[question])
    }

    pub(crate) fn order(&self, words: &[&str]) -> (bool, serde_json::Value) {
        let output = Command::new(program())
            .args(["admin", "--socket", &self.socket.display().to_string(), "--json"])
            .args(words)
            .output()
            .unwrap();
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    pub(crate) fn client(&self, version: Version, id: &str) -> Client {
        Client::connect(self.address, &patient(version, id))
    }
}

/// A client that may be silent for as long as its test is busy with others.
fn patient(version: Version, id: &str) -> Connect<'_> {
    Connect { keep_alive: 0, ..Connect::new(version, id) }
}

/// A broker, and what its store needs besides it.
pub(crate) struct Keeping {
    broker: Broker,
    _redis: Option<Redis>,
}

impl Keeping {
    /// One in memory, one with a store in a folder that lives as long, one with a Redis of its own.
    pub(crate) fn each() -> [Self; 3] {
        Self::each_limited("")
    }

    /// All of them side by side, where most of a test is waiting.
    pub(crate) fn each_at_once(test: impl Fn(&Broker) + Sync) {
        std::thread::scope(|scope| {
            for keeping in Self::each() {
                let test = &test;
                scope.spawn(move || test(&keeping));
            }
        });
    }

    /// The same with limits.
    pub(crate) fn each_limited(limits: &str) -> [Self; 3] {
        [Self::memory(limits), Self::disk(limits), Self::redis(limits)]
    }

    /// Those whose store is their own.
    pub(crate) fn own() -> [Self; 2] {
        [Self::memory(""), Self::disk("")]
    }

    /// Those whose store outlives them.
    pub(crate) fn lasting() -> [Self; 2] {
        [Self::disk(""), Self::redis("")]
    }

    fn memory(limits: &str) -> Self {
        let broker = Broker::start(&format!("allow_anonymous = true\n[limits]\n{limits}\n"));
        Self { broker, _redis: None }
    }

    fn disk(limits: &str) -> Self {
        let store = "[store]\nkind = \"disk\"\ndirectory = \"STORE\"\n";
        let broker = Broker::start(&format!("allow_anonymous = true\n{store}[limits]\n{limits}\n"));
        Self { broker, _redis: None }
    }

    fn redis(limits: &str) -> Self {
        let redis = Redis::start();
        Self { broker: Broker::limited_node(&redis, limits), _redis: Some(redis) }
    }
}

impl std::ops::Deref for Keeping {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.broker
    }
}

impl std::ops::DerefMut for Keeping {
    fn deref_mut(&mut self) -> &mut Broker {
        &mut self.broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let warnings: Vec<_> =
                self.log().lines().filter(|line| !line.contains("DEBUG")).map(str::to_owned).collect();
            let _ = std::io::stderr().write_all(format!("{}\n", warnings.join("\n")).as_bytes());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A small file system of its own, in memory; unmounted when dropped.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "a small disk cannot be mounted: run the tests as root");
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// One message, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) ids: Vec<u32>,
}

pub(crate) trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

pub(crate) struct Client {
    /// Of the connection below any TLS.
    pub(crate) socket: TcpStream,
    stream: Box<dyn Duplex>,
    pub(crate) version: Version,
    read: Vec<u8>,
    next_id: u16,
    keep_releases: bool,
}

impl Client {
    pub(crate) fn open(address: SocketAddr, version: Version) -> Self {
        Self::try_open(address, version).expect("the broker listens")
    }

    /// `None`: nobody listens.
    pub(crate) fn try_open(address: SocketAddr, version: Version) -> Option<Self> {
        let socket = TcpStream::connect(address).ok()?;
        let stream = Box::new(socket.try_clone().unwrap());
        Some(Self::over(socket, stream, version))
    }

    /// Each PUBREL is for whoever reads, and not answered by [`Self::next`].
    pub(crate) fn with_releases(self) -> Self {
        Self { keep_releases: true, ..self }
    }

    /// With a receive buffer as small as the kernel lets it be.
    pub(crate) fn narrow(address: SocketAddr, version: Version) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        let socket = TcpStream::from(socket);
        let stream = Box::new(socket.try_clone().unwrap());
        Self::over(socket, stream, version)
    }

    pub(crate) fn over(socket: TcpStream, stream: Box<dyn Duplex>, version: Version) -> Self {
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, stream, version, read: Vec::new(), next_id: 1, keep_releases: false }
    }

    /// Over TLS, trusting one certificate for `localhost`; an error where the broker shows another.
    pub(crate) fn tls(
        address: SocketAddr,
        trusted: &[u8],
        version: Version,
        id: &str,
    ) -> std::io::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.to_vec().into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(SOON))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let stream = rustls::StreamOwned::new(connection, socket.try_clone()?);
        let mut client = Self::over(socket, Box::new(stream), version);
        client.login(&patient(version, id));
        Ok(client)
    }

    /// Sends a CONNECT, which must be accepted; whether its session was there.
    pub(crate) fn login(&mut self, connect: &Connect<'_>) -> bool {
        self.send(&Packet::Connect(*connect));
        let (reason, present) = self.expect(|packet| match packet {
            Packet::ConnAck(ack) => Some((ack.reason, ack.session_present)),
            _ => None,
        });
        assert_eq!(reason, ReasonCode::Success);
        present
    }

    pub(crate) fn connect(address: SocketAddr, connect: &Connect<'_>) -> Self {
        let mut client = Self::open(address, connect.version);
        client.login(connect);
        client
    }

    /// The answer to a CONNECT that should be refused.
    pub(crate) fn refused(address: SocketAddr, connect: &Connect<'_>) -> ReasonCode {
        let mut client = Self::open(address, connect.version);
        client.send(&Packet::Connect(*connect));
        let reason = client.expect(|packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        });
        assert!(client.is_closed(SOON), "a refused client is closed");
        reason
    }

    pub(crate) fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.send_raw(&bytes);
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// `false`: the other side is gone.
    pub(crate) fn try_send(&mut self, packet: &Packet<'_>) -> bool {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.try_send_raw(&bytes)
    }

    /// Writes without minding that the other side may be gone.
    pub(crate) fn try_send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next packet; `None`: closed, or nothing for `limit`.
    pub(crate) fn next<T>(&mut self, limit: Duration, take: impl FnOnce(Packet<'_>) -> T) -> Result<T, Gone> {
        let until = Instant::now() + limit;
        loop {
            let found = nsd_wire::read(self.version, &self.read, usize::MAX)
                .expect("the broker writes proper packets");
            if let Some((_, length)) = found {
                let bytes: Vec<u8> = self.read.drain(..length).collect();
                let (packet, _) = nsd_wire::read(self.version, &bytes, usize::MAX).unwrap().unwrap();
                if let Packet::PubRel(release) = packet
                    && !self.keep_releases
                {
                    // The end of a QoS 2 message, whatever came in between.
                    self.send(&Packet::PubComp(Ack::new(release.packet_id)));
                    continue;
                }
                return Ok(take(packet));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Gone::Silent);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Gone::Closed),
                Ok(read) => self.read.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err(Gone::Silent),
                Err(_) => return Err(Gone::Closed),
            }
        }
    }

    /// The next packet, which must be of the wanted kind.
    pub(crate) fn expect<T>(&mut self, take: impl Fn(Packet<'_>) -> Option<T>) -> T {
        let (found, shown) =
            self.next(SOON, |packet| (take(packet), format!("{packet:?}"))).expect("a packet");
        found.unwrap_or_else(|| panic!("unexpected {shown}"))
    }

    /// Whether the broker closes within `limit`, whatever it says before.
    pub(crate) fn is_closed(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            match self.next(until.saturating_duration_since(Instant::now()), |_| ()) {
                Ok(()) => {}
                Err(gone) => return gone == Gone::Closed,
            }
        }
    }

    /// The reason of the DISCONNECT that comes next.
    pub(crate) fn disconnected(&mut self) -> ReasonCode {
        self.expect(|packet| match packet {
            Packet::Disconnect(disconnect) => Some(disconnect.reason),
            _ => None,
        })
    }

    pub(crate) fn id(&mut self) -> PacketId {
        let id = self.next_id;
        self.next_id = id % u16::MAX + 1;
        PacketId::new(id).unwrap()
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: Qos) -> ReasonCode {
        self.subscribe_with(filter, qos.into(), None)
    }

    pub(crate) fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscribeOptions,
        id: Option<u32>,
    ) -> ReasonCode {
        let packet_id = self.id();
        let filters = [SubscribeFilter { filter, options }];
        let mut subscribe = Subscribe::new(packet_id, &filters);
        subscribe.properties.subscription_id = id.and_then(nsd_wire::SubscriptionId::new);
        self.send(&Packet::Subscribe(subscribe));
        self.expect(|packet| match packet {
            Packet::SubAck(ack) if ack.packet_id == packet_id => ack.codes.iter().next(),
            _ => None,
        })
    }

    /// Publishes, and waits for the answer where there is one: its reason.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], qos: Qos) -> ReasonCode {
        self.publish_as(Publish { qos, ..Publish::new(topic, payload) })
    }

    pub(crate) fn retain(&mut self, topic: &str, payload: &[u8], qos: Qos) -> ReasonCode {
        self.publish_as(Publish { qos, retain: true, ..Publish::new(topic, payload) })
    }

    pub(crate) fn publish_as(&mut self, publish: Publish<'_>) -> ReasonCode {
        self.publish_within(SOON, publish)
    }

    pub(crate) fn publish_within(&mut self, limit: Duration, publish: Publish<'_>) -> ReasonCode {
        let id = (publish.qos != Qos::AtMostOnce).then(|| self.id());
        self.send(&Packet::Publish(Publish { packet_id: id, ..publish }));
        let Some(id) = id else { return ReasonCode::Success };
        let answer = self.next(limit, |packet| match packet {
            Packet::PubAck(ack) | Packet::PubRec(ack) if ack.packet_id == id => Ok(ack.reason),
            other => Err(format!("{other:?}")),
        });
        let answer = answer.expect("an answer").unwrap_or_else(|other| panic!("no answer: {other}"));
        if publish.qos == Qos::ExactlyOnce && !answer.is_failure() {
            self.send(&Packet::PubRel(Ack::new(id)));
            self.expect(|packet| matches!(packet, Packet::PubComp(ack) if ack.packet_id == id).then_some(()));
        }
        answer
    }

    /// The next message, acknowledged as its QoS asks.
    pub(crate) fn message(&mut self) -> Message {
        self.message_within(SOON).expect("a message")
    }

    pub(crate) fn message_within(&mut self, limit: Duration) -> Option<Message> {
        let taken = self.next(limit, |packet| match packet {
            Packet::Publish(publish) => Ok((
                Message {
                    topic: publish.topic.to_owned(),
                    payload: publish.payload.to_vec(),
                    qos: publish.qos,
                    retain: publish.retain,
                    ids: publish
                        .properties
                        .subscription_ids
                        .iter()
                        .map(nsd_wire::SubscriptionId::get)
                        .collect(),
                },
                publish.packet_id,
            )),
            other => Err(format!("{other:?}")),
        });
        let (message, id) = taken.ok()?.unwrap_or_else(|other| panic!("not a message: {other}"));
        if let Some(id) = id {
            let ack = Ack::new(id);
            self.send(&if message.qos == Qos::AtLeastOnce {
                Packet::PubAck(ack)
            } else {
                Packet::PubRec(ack)
            });
        }
        Some(message)
    }

    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
        self.expect(|packet| (packet == Packet::PingResp).then_some(()));
    }

    /// Nothing comes, neither before the answer to a ping nor soon after.
    pub(crate) fn hears_nothing(&mut self) {
        self.ping();
        assert_eq!(self.message_within(Duration::from_millis(500)), None);
    }

    /// A PUBREL, which [`Self::next`] answers by itself, must have come for this identifier.
    pub(crate) fn expect_release(&mut self, id: PacketId) {
        self.keep_releases = true;
        self.expect(|packet| matches!(packet, Packet::PubRel(ack) if ack.packet_id == id).then_some(()));
        self.keep_releases = false;
    }

    /// Leaves, and waits until the broker has noticed.
    pub(crate) fn disconnect(self) {
        self.leave(nsd_wire::Disconnect::new(ReasonCode::Success));
    }

    pub(crate) fn leave(mut self, goodbye: nsd_wire::Disconnect<'_>) {
        self.send(&Packet::Disconnect(goodbye));
        self.is_closed(SOON);
    }

    /// As a cut cable or a crash would: no DISCONNECT.
    pub(crate) fn vanish(self) {
        drop(self);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Closed,
    Silent,
}
