//! What runs containers on a machine, whichever it is: one set of operations over Docker and plain processes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::docker::Docker;
use super::process::Processes;
use crate::failure::Failure;
use crate::plan::{ContainerName, RunState, Running, Spec, Surveyed};
use crate::report::Reporter;
use crate::secret::Secret;
use crate::system::{Container, Health, InstanceName, Port, System};

/// A two-way stream of bytes to a port of a machine.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub type Stream = Pin<Box<dyn Duplex>>;

/// Which lines of a container's log are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Go on with new lines until the receiver goes away.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Seconds since 1970.
    pub since: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339, as the engine wrote it.
    pub at: String,
    pub stderr: bool,
    pub text: String,
}

/// Where the input of `exec` comes from and its output goes.
pub struct ExecIo {
    pub input: Box<dyn AsyncRead + Send + Unpin>,
    pub output: Box<dyn AsyncWrite + Send + Unpin>,
    pub errors: Box<dyn AsyncWrite + Send + Unpin>,
    /// Columns and rows: a terminal is wanted; `errors` then stays empty.
    pub terminal: Option<(u16, u16)>,
}

/// Labels and values of one container to be made; secrets are bound, so it lives only until the engine has it.
pub(crate) struct Order<'a> {
    pub(crate) name: &'a ContainerName,
    pub(crate) instance: &'a InstanceName,
    pub(crate) container: &'a Container,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) env: Vec<(String, Secret)>,
    pub(crate) command: Option<Vec<Secret>>,
    pub(crate) entrypoint: Option<Vec<Secret>>,
    pub(crate) files: Vec<PutFile>,
    pub(crate) stop_grace: Duration,
}

/// A file with its contents, to be put where the container's program sees it as `to`.
#[derive(Clone)]
pub(crate) struct PutFile {
    pub(crate) to: String,
    pub(crate) content: Secret,
    pub(crate) mode: u32,
}

/// One container as the engine sees it now.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: RunState,
    /// Times that the engine has started it again.
    pub(crate) restarts: u64,
    /// The health it was made with.
    pub(crate) health: Option<Health>,
    /// Its published ports; empty for a plain process.
    pub(crate) ports: Vec<Port>,
    pub(crate) out_of_memory: bool,
}

/// Labels: what a container carries, so that the machines hold the truth about what runs.
pub(crate) mod label {
    pub(crate) const SYSTEM: &str = "nsd.system";
    pub(crate) const ID: &str = "nsd.id";
    pub(crate) const PROCESS: &str = "nsd.process";
    pub(crate) const INSTANCE: &str = "nsd.instance";
    pub(crate) const REVISION: &str = "nsd.revision";
    pub(crate) const SPEC: &str = "nsd.spec";
    pub(crate) const CONTAINER: &str = "nsd.container";
    /// So that an old container that is started again is judged by its own health, not by its successor's.
    pub(crate) const HEALTH: &str = "nsd.health";
}

/// What the labels of a container tell about it.
pub(crate) fn from_labels(
    container: ContainerName,
    labels: &BTreeMap<String, String>,
    state: RunState,
) -> Result<Running, Failure> {
    let text = |key: &str| labels.get(key).map(String::as_str).unwrap_or_default();
    let instance = InstanceName::try_from(text(label::INSTANCE).to_owned()).map_err(|why| {
        Failure::error(format!("the container {container} carries a broken label: {why}"))
            .hint("it was not made by this version of nsd; remove it by hand if nobody needs it")
    })?;
    Ok(Running {
        instance,
        revision: text(label::REVISION).to_owned(),
        spec: Spec(text(label::SPEC).to_owned()),
        made_from: serde_json::from_str(text(label::CONTAINER)).ok(),
        container,
        state,
        state_dir: String::new(),
        live_files: BTreeMap::new(),
    })
}

pub(crate) enum Engine {
    Docker(Arc<Docker>),
    Processes(Processes),
    #[cfg(test)]
    Scripted(Arc<super::scripted::Scripted>),
}

/// Calls the same method of whichever engine it is.
macro_rules! each {
    ($engine:expr, $inner:ident => $call:expr) => {
        match $engine {
            Engine::Docker($inner) => $call,
            Engine::Processes($inner) => $call,
            #[cfg(test)]
            Engine::Scripted($inner) => $call,
        }
    };
}

impl Engine {
    /// Every container of the system, and which of its images are there.
    pub(crate) async fn survey(&self, system: &System) -> Result<Surveyed, Failure> {
        each!(self, engine => engine.survey(system).await)
    }

    /// What `${state}` stands for in the texts of this container.
    pub(crate) fn state_of(&self, container: &ContainerName) -> String {
        each!(self, engine => engine.state_of(container))
    }

    pub(crate) async fn pull(&self, reference: &str, who: &str, reporter: &Reporter) -> Result<(), Failure> {
        each!(self, engine => engine.pull(reference, who, reporter).await)
    }

    /// Makes the container and puts its files in; on failure nothing of it stays.
    pub(crate) async fn create(&self, order: &Order<'_>) -> Result<(), Failure> {
        each!(self, engine => engine.create(order).await)
    }

    pub(crate) async fn start(&self, container: &ContainerName) -> Result<(), Failure> {
        each!(self, engine => engine.start(container).await)
    }

    /// SIGTERM, grace, SIGKILL. A container that is stopped already, or gone, is stopped.
    pub(crate) async fn stop(&self, container: &ContainerName, grace: Duration) -> Result<(), Failure> {
        each!(self, engine => engine.stop(container, grace).await)
    }

    /// A container that is gone is removed.
    pub(crate) async fn remove(&self, container: &ContainerName) -> Result<(), Failure> {
        each!(self, engine => engine.remove(container).await)
    }

    pub(crate) async fn put_files(
        &self,
        container: &ContainerName,
        files: &[PutFile],
    ) -> Result<(), Failure> {
        each!(self, engine => engine.put_files(container, files).await)
    }

    /// The files as they stand in the container now; one that is not there is left out.
    pub(crate) async fn read_files(
        &self,
        container: &ContainerName,
        paths: &[String],
    ) -> Result<Vec<PutFile>, Failure> {
        each!(self, engine => engine.read_files(container, paths).await)
    }

    pub(crate) async fn status(&self, container: &ContainerName) -> Result<Status, Failure> {
        each!(self, engine => engine.status(container).await)
    }

    /// Sends lines until the log ends, or for ever with `follow`; ends when the receiver is gone.
    pub(crate) async fn logs(
        &self,
        container: &ContainerName,
        options: &LogOptions,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), Failure> {
        each!(self, engine => engine.logs(container, options, lines).await)
    }

    /// Runs a command in the container (a plain process: in its directory with its environment); returns its exit code.
    pub(crate) async fn exec(
        &self,
        container: &ContainerName,
        command: &[String],
        io: ExecIo,
    ) -> Result<i64, Failure> {
        each!(self, engine => engine.exec(container, command, io).await)
    }
}
