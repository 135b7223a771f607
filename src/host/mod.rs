//! The machines of a system and what can be done to them: SSH, Docker engines, plain processes.
//!
//! [`Hosts::connect`] reaches all machines at once, one connection each; a machine that cannot be reached stays in the
//! set with the reason, for "cannot ask the machine" is never "nothing runs there".

mod chunks;
mod docker;
mod engine;
mod files;
mod images;
mod known_hosts;
#[cfg(test)]
#[cfg(feature = "lab")]
mod lab;
mod probe;
mod process;
#[cfg(test)]
pub(crate) mod scripted;
mod ssh;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{Mutex, OnceCell, Semaphore, mpsc};

use crate::bundled::{self, BundledImage};
use crate::failure::{Failure, Kind};
use crate::plan::ContainerName;
use crate::report::{Event, Reporter};
use crate::system::{Bundled, Machine, MachineName, Reach, System};

pub(crate) use chunks::{Chunks, produced};
pub(crate) use docker::{Docker, words};
pub(crate) use engine::{Engine, Order, PutFile, label};
pub use engine::{ExecIo, LogLine, LogOptions, Stream};
pub(crate) use files::sha256;
pub(crate) use images::ship;
pub use known_hosts::{HostKey, fingerprint};
pub(crate) use known_hosts::{Verdict, judge};
pub(crate) use probe::await_healthy;
pub(crate) use ssh::{RemoteLock, Settings};
pub use ssh::{install_key, known, remember, trust};

/// Handshakes at once: more than sshd's `MaxStartups 10` allows a bastion would be refused.
const HANDSHAKES: usize = 8;

/// Every machine of a system, reached or not.
pub struct Hosts {
    by_name: BTreeMap<MachineName, Result<Arc<Host>, Unreachable>>,
    here: OnceCell<Option<Arc<Docker>>>,
    dir: PathBuf,
    /// Assembled once, sent to many.
    assembled: Mutex<BTreeMap<(Bundled, String), BundledImage>>,
}

/// A machine that answers.
pub struct Host {
    pub name: MachineName,
    pub machine: Machine,
    pub(crate) engine: Engine,
    pub(crate) ssh: Option<Arc<ssh::Link>>,
}

/// Why a machine cannot be asked, with what to do about it.
#[derive(Debug, Clone)]
pub struct Unreachable {
    pub message: String,
    pub causes: Vec<String>,
    pub hints: Vec<String>,
}

impl Unreachable {
    pub fn failure(&self) -> Failure {
        let mut failure = Failure::new(Kind::Unreachable, self.message.clone());
        failure.causes.clone_from(&self.causes);
        failure.hints.clone_from(&self.hints);
        failure
    }
}

impl From<Failure> for Unreachable {
    fn from(failure: Failure) -> Self {
        Self { message: failure.message, causes: failure.causes, hints: failure.hints }
    }
}

impl Hosts {
    /// Connects to all of `machines`, at most [`HANDSHAKES`] at once. `dir` is the folder of `system.toml` (identities
    /// and `known_hosts` stand there).
    pub async fn connect(
        dir: &Path,
        machines: &BTreeMap<MachineName, Machine>,
        system: &System,
        reporter: &Reporter,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(HANDSHAKES));
        let attempts = machines.iter().map(|(name, machine)| {
            let permits = Arc::clone(&permits);
            async move {
                let _permit = permits.acquire().await;
                let started = std::time::Instant::now();
                let reached = Host::connect(dir, name, machine, system).await;
                reporter.send(match &reached {
                    Ok(_) => {
                        Event::Done { who: name.to_string(), what: "connect".into(), took: started.elapsed() }
                    }
                    Err(failure) => Event::Failed {
                        who: name.to_string(),
                        what: "connect".into(),
                        why: failure.message.clone(),
                    },
                });
                (name.clone(), reached.map(Arc::new).map_err(Unreachable::from))
            }
        });
        let by_name = futures_util::future::join_all(attempts).await.into_iter().collect();
        Self { by_name, here: OnceCell::new(), dir: dir.to_owned(), assembled: Mutex::default() }
    }

    /// A set without connections, for tests.
    #[cfg(test)]
    pub(crate) fn of(hosts: Vec<Host>) -> Self {
        let by_name = hosts.into_iter().map(|host| (host.name.clone(), Ok(Arc::new(host)))).collect();
        Self { by_name, here: OnceCell::new(), dir: PathBuf::new(), assembled: Mutex::default() }
    }

    /// The machine, or why it cannot be asked.
    pub fn get(&self, name: &MachineName) -> Result<&Arc<Host>, Failure> {
        match self.by_name.get(name) {
            Some(Ok(host)) => Ok(host),
            Some(Err(unreachable)) => Err(unreachable.failure()),
            None => Err(Failure::error(format!("{name} is not a machine of this system"))),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&MachineName, Result<&Arc<Host>, &Unreachable>)> {
        self.by_name.iter().map(|(name, host)| (name, host.as_ref()))
    }

    pub fn reached(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.by_name.values().filter_map(|host| host.as_ref().ok())
    }

    pub fn unreachable(&self) -> impl Iterator<Item = (&MachineName, &Unreachable)> {
        self.by_name.iter().filter_map(|(name, host)| host.as_ref().err().map(|why| (name, why)))
    }

    /// The folder of `system.toml`.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image of one of our servers for machines of `architecture`.
    pub(crate) async fn bundled(
        &self,
        program: Bundled,
        architecture: &str,
    ) -> Result<BundledImage, Failure> {
        // Held while assembling: the second that asks gets what the first has made.
        let mut assembled = self.assembled.lock().await;
        let key = (program, architecture.to_owned());
        if let Some(image) = assembled.get(&key) {
            return Ok(image.clone());
        }
        let wanted = architecture.to_owned();
        let image = tokio::task::spawn_blocking(move || bundled::image(program, &wanted))
            .await
            .map_err(|error| Failure::error("cannot assemble the image").because(&error))??;
        assembled.insert(key, image.clone());
        Ok(image)
    }

    /// This machine's own Docker engine, where one answers.
    pub(crate) async fn here(&self) -> Option<&Arc<Docker>> {
        self.here.get_or_init(|| async { Docker::here().await.ok().map(Arc::new) }).await.as_ref()
    }
}

impl Host {
    async fn connect(
        dir: &Path,
        name: &MachineName,
        machine: &Machine,
        system: &System,
    ) -> Result<Self, Failure> {
        let (engine, ssh) = match &machine.reach {
            Reach::Process => (Engine::Processes(process::Processes::open(system, name)?), None),
            Reach::Docker => (Engine::Docker(Arc::new(Docker::here().await?)), None),
            Reach::Ssh { .. } => {
                let link = ssh::Link::connect(dir, name, &machine.reach).await?;
                let docker = Docker::over(&link).await?;
                (Engine::Docker(Arc::new(docker)), Some(Arc::new(link)))
            }
        };
        Ok(Self { name: name.clone(), machine: machine.clone(), engine, ssh })
    }
}

/// Whether this machine's own Docker engine answers (for `runtime = "auto"`).
pub async fn local_docker() -> bool {
    Docker::here().await.is_ok()
}

impl Host {
    /// Sends the container's log lines; ends when the log ends, or the receiver is gone.
    pub async fn logs(
        &self,
        container: &ContainerName,
        options: &LogOptions,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), Failure> {
        self.engine.logs(container, options, lines).await
    }

    /// Runs a command in the container; returns its exit code.
    pub async fn exec(
        &self,
        container: &ContainerName,
        command: &[String],
        io: ExecIo,
    ) -> Result<i64, Failure> {
        self.engine.exec(container, command, io).await
    }

    /// A stream to a port of the machine, from the machine itself. Where SSH stands between, a port that nothing
    /// listens on shows as an early end of the stream.
    pub async fn forward(&self, port: u16) -> Result<Stream, Failure> {
        self.forward_to("127.0.0.1", port).await
    }

    pub(crate) async fn forward_to(&self, address: &str, port: u16) -> Result<Stream, Failure> {
        match &self.ssh {
            Some(link) => Ok(Box::pin(link.stream(address, port).await?)),
            None => {
                let stream = TcpStream::connect((address, port)).await.map_err(|error| {
                    Failure::error(format!("{}: nothing answers at {address}:{port}", self.name))
                        .because(&error)
                })?;
                Ok(Box::pin(stream))
            }
        }
    }
}
