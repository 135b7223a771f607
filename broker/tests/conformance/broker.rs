//! The brokers under test: ours, and Mosquitto, which checks the suite.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ports::port;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Mosquitto,
}

/// A process on a port of its own; killed when dropped.
pub(crate) struct Broker {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// Where it speaks MQTT over WebSocket, if that was asked for.
    pub(crate) websocket: Option<SocketAddr>,
    directory: tempfile::TempDir,
    process: Mutex<Child>,
}

/// What a test needs to be set differently, in the words of each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    /// A section of TOML.
    pub(crate) ours: &'static str,
    pub(crate) mosquitto: &'static str,
    /// Listen for WebSocket, too.
    pub(crate) websocket: bool,
}

fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], port()).into()
}

impl Broker {
    /// The one that most tests share. It lives as long as one of them runs, so that none is left behind.
    pub(crate) fn shared(kind: Kind) -> Arc<Self> {
        static OURS: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
        static MOSQUITTO: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
        let mut shared = if kind == Kind::Ours { &OURS } else { &MOSQUITTO }.lock();
        if let Some(broker) = shared.upgrade() {
            return broker;
        }
        let broker = Arc::new(Self::start(kind, Settings::default()));
        *shared = Arc::downgrade(&broker);
        broker
    }

    pub(crate) fn start(kind: Kind, settings: Settings) -> Self {
        let address = free_address();
        let websocket = settings.websocket.then(free_address);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("settings");
        let text = match kind {
            Kind::Ours => ours(directory.path(), address, websocket, settings.ours),
            Kind::Mosquitto => mosquitto(address, websocket, settings.mosquitto),
        };
        std::fs::write(&file, text).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = match kind {
            Kind::Ours => Command::new(env!("CARGO_BIN_EXE_nsd-broker")),
            Kind::Mosquitto => Command::new("mosquitto"),
        };
        command.arg(if kind == Kind::Ours { "--config" } else { "-c" }).arg(&file);
        command.env("PATH", "/usr/sbin:/usr/bin:/bin").env("RUST_LOG", "debug");
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| panic!("{kind:?} cannot be started: {error}"));
        let broker = Self { kind, address, websocket, directory, process: Mutex::new(process) };
        broker.await_listening();
        broker
    }

    fn await_listening(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        let all = [Some(self.address), self.websocket];
        while all.iter().flatten().any(|address| TcpStream::connect(address).is_err()) {
            self.assert_alive();
            assert!(Instant::now() < until, "{:?} does not listen", self.kind);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn assert_alive(&self) {
        if let Some(status) = self.process.lock().try_wait().unwrap() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            panic!("{:?} has ended with {status}:\n{log}", self.kind);
        }
    }
}

/// In memory, on disk with `NSD_CONFORMANCE_STORE=disk`, or in a Redis whose URL that is: what a client sees must be the same.
fn ours(directory: &Path, address: SocketAddr, websocket: Option<SocketAddr>, more: &str) -> String {
    let store = match std::env::var("NSD_CONFORMANCE_STORE").as_deref() {
        Ok(url) if url.starts_with("redis:") => {
            format!("kind = \"redis\"\nurl = \"{url}\"\nprefix = \"{}:\"", address.port())
        }
        Ok("disk") => format!("kind = \"disk\"\ndirectory = \"{}\"", directory.join("store").display()),
        _ => "kind = \"memory\"".to_owned(),
    };
    let socket = directory.join("broker.sock");
    let listen = |address: SocketAddr, more: &str| format!("[[listen]]\naddress = \"{address}\"\n{more}\n");
    let sections = [
        "allow_anonymous = true".to_owned(),
        format!("[store]\n{store}\n[admin]\nsocket = \"{}\"\n{more}", socket.display()),
        listen(address, ""),
        websocket.map_or_else(String::new, |address| listen(address, "websocket = true")),
    ];
    sections.join("\n")
}

fn mosquitto(address: SocketAddr, websocket: Option<SocketAddr>, more: &str) -> String {
    let listen = |address: SocketAddr, more: &str| format!("listener {} 127.0.0.1\n{more}\n", address.port());
    let sections = [
        "allow_anonymous true\nlog_type all\nuser root".to_owned(),
        listen(address, more),
        websocket
            .map_or_else(String::new, |address| listen(address, "protocol websockets\nsocket_domain ipv4")),
    ];
    sections.join("\n")
}

impl Drop for Broker {
    fn drop(&mut self) {
        let process = self.process.get_mut();
        let _ = process.kill();
        let _ = process.wait();
    }
}
