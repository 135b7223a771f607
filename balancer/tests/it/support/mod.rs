//! A balancer process, small brokers in this process, and clients.

pub(crate) mod broker;
pub(crate) mod browser;
#[path = "../../../../tests/cable.rs"]
pub(crate) mod cable;
pub(crate) mod client;
pub(crate) mod device;
#[path = "../../../../tests/ports.rs"]
mod ports;
pub(crate) mod tls;
pub(crate) mod visitor;
pub(crate) mod witness;

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nsd_edge::admin::{Method, StatusCode, call};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use broker::Broker;
pub(crate) use client::Client;

/// Patience with what should happen at once, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running `nsd-balancer`, with a directory of its own; killed when dropped.
pub(crate) struct Balancer {
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    process: Child,
}

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_nsd-balancer");

/// An address nobody listens on, and nobody else will.
pub(crate) fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], ports::port()).into()
}

/// The check of most tests: quick to come, and patient. A server that is gone or refuses is seen at once; one that a busy
/// machine has not got round to is not taken for a frozen one.
pub(crate) const CHECK: &str =
    r#"check = { kind = "mqtt", interval = "200ms", timeout = "20s", rise = 1, fall = 2 }"#;

/// Where a server freezes and that is to be seen.
pub(crate) const IMPATIENT: &str =
    r#"check = { kind = "mqtt", interval = "200ms", timeout = "3s", rise = 1, fall = 2 }"#;

/// No checks: clients alone find out about servers. Also for tests that keep this thread, and so its brokers, busy.
pub(crate) const UNCHECKED: &str = "mode = \"mqtt\"\ncheck = { kind = \"none\" }";

/// A `listen` section named `mqtt`, with servers `(name, address)`.
pub(crate) fn listen(address: SocketAddr, options: &str, servers: &[(&str, SocketAddr)]) -> String {
    let mut text = format!("[[listen]]\nname = \"mqtt\"\nbind = [\"{address}\"]\n{options}\n");
    for (name, address) in servers {
        text += &format!("[[listen.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

pub(crate) fn servers<'n>(names: &[&'n str], brokers: &[&Broker]) -> Vec<(&'n str, SocketAddr)> {
    names.iter().copied().zip(brokers.iter().map(|broker| broker.address)).collect()
}

impl Balancer {
    /// With usual checks, in front of the brokers, called `b1`, `b2`, …
    pub(crate) async fn before(brokers: &[&Broker]) -> Self {
        Self::checking(CHECK, brokers).await
    }

    pub(crate) async fn checking(check: &str, brokers: &[&Broker]) -> Self {
        let address = free_address();
        Self::start(address, &listen(address, check, &servers(&["b1", "b2", "b3"], brokers))).await
    }

    /// With these settings; `address` is where its clients go. Returns once it takes them, and knows its servers.
    pub(crate) async fn start(address: SocketAddr, settings: &str) -> Self {
        Self::start_as(address, settings, Command::new(BINARY)).await
    }

    /// `command` runs the binary, perhaps in a changed environment.
    pub(crate) async fn start_as(address: SocketAddr, settings: &str, command: Command) -> Self {
        Self::start_in(TempDir::new().unwrap(), address, settings, command).await
    }

    pub(crate) async fn start_in(
        directory: TempDir,
        address: SocketAddr,
        settings: &str,
        command: Command,
    ) -> Self {
        let path = directory.path();
        std::fs::write(path.join("balancer.toml"), complete(&directory, settings)).unwrap();
        let process = run(&directory, command);
        let balancer = Self { directory, address, process };
        let started = async || balancer.log().contains("started");
        until("the balancer starts", started).await;
        let looked =
            async || !balancer.ask(Method::GET, "/status", None).await.1.to_string().contains("joining");
        until("each server was looked at", looked).await;
        balancer
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A settings file beside its own.
    pub(crate) fn write(&self, name: &str, settings: &str) {
        std::fs::write(self.path(name), complete(&self.directory, settings)).unwrap();
    }

    /// Writes the settings anew, as a rename over the old file.
    pub(crate) fn rewrite(&self, settings: &str) {
        self.write("fresh", settings);
        std::fs::rename(self.path("fresh"), self.path("balancer.toml")).unwrap();
    }

    pub(crate) async fn wait_for_log(&self, text: &str) {
        until(&format!("the log says `{text}`"), async || self.log().contains(text)).await;
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        call(&self.path("admin.sock"), method, path, body.as_ref()).await.unwrap()
    }

    pub(crate) async fn tell(&self, path: &str, server: &str) -> (StatusCode, Value) {
        self.ask(Method::POST, path, Some(json!({ "server": server }))).await
    }

    /// A server's part of the status.
    pub(crate) async fn server(&self, name: &str) -> Value {
        let (_, status) = self.ask(Method::GET, "/status", None).await;
        let servers = status["backends"][0]["servers"].as_array().unwrap();
        servers.iter().find(|server| server["name"] == name).cloned().unwrap_or(Value::Null)
    }

    pub(crate) async fn wait_for_state(&self, server: &str, state: &str) {
        until(&format!("{server} is {state}"), async || self.server(server).await["state"] == state).await;
    }

    /// At once, and waits for its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Killed as the kernel kills, and started again with the files that are there.
    pub(crate) async fn crash(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = run(&self.directory, Command::new(BINARY));
        until("the balancer starts again", async || self.log().contains("started")).await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the balancer does not exit\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn run(directory: &TempDir, mut command: Command) -> Child {
    let log = File::create(directory.path().join("log")).unwrap();
    command.arg("--config").arg(directory.path().join("balancer.toml")).env("RUST_LOG", "info");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn complete(directory: &TempDir, settings: &str) -> String {
    let socket = directory.path().join("admin.sock");
    format!("threads = 2\nstop_grace = \"500ms\"\n[admin]\nsocket = \"{}\"\n{settings}", socket.display())
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the balancer's log\n{}", self.log());
        }
    }
}

/// A page of `docs/`.
pub(crate) fn page(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the page is there")
}

/// The fenced blocks of a kind (`toml`, `sh`) on a page.
pub(crate) fn blocks(page: &str, kind: &str) -> Vec<String> {
    let opening = format!("```{kind}\n");
    page.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Types a line of a page that begins with `nsd-balancer admin`.
pub(crate) fn typed(line: &str, balancer: &Balancer) {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..2], ["nsd-balancer", "admin"], "{line}");
    let mut command = Command::new(BINARY);
    command.args(["admin", "--socket"]).arg(balancer.path("admin.sock")).args(&words[2..]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Waits until `done`, or fails saying what did not happen.
pub(crate) async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process of a test's own, killed when dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
