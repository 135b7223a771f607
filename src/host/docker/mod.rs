//! A Docker engine, this machine's or one behind SSH, by its API: few round trips, no shell.

mod create;
mod reference;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, CreateImageInfo, ExecConfig};
use bollard::query_parameters as ask;
use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OnceCell, mpsc};

use super::engine::{self, ExecIo, LogLine, LogOptions, PutFile, Status, label};
use super::files;
use super::ssh::Link;
use crate::failure::{Failure, Kind};
use crate::plan::{ContainerName, RunState, Running, Surveyed};
use crate::report::{Event, Reporter};
use crate::system::{Port, Protocol, System};

use reference::Reference;

/// For one call; those that wait or send much have their own.
const CALL_TIMEOUT: u64 = 60;
const SOCKET: &str = "/var/run/docker.sock";

pub(crate) struct Docker {
    pub(crate) client: bollard::Docker,
    /// Whose engine it is, for messages.
    pub(crate) place: String,
    /// What the machine runs containers with by default; asked once.
    log_driver: OnceCell<String>,
}

impl Docker {
    /// This machine's engine: where `DOCKER_HOST` says, else the usual socket.
    pub(crate) async fn here() -> Result<Self, Failure> {
        let connect = async {
            let client =
                bollard::Docker::connect_with_defaults()?.with_timeout(Duration::from_secs(CALL_TIMEOUT));
            client.negotiate_version().await
        };
        let client = connect.await.map_err(|error| {
            Failure::new(Kind::Unreachable, "no Docker engine answers on this machine")
                .because(&error)
                .hint("install and start it: `apt-get install docker.io`")
                .hint("or run the topology as plain processes: `runtime = \"process\"` in system.toml")
        })?;
        Ok(Self { client, place: "this machine".into(), log_driver: OnceCell::new() })
    }

    /// The engine of a machine behind SSH.
    pub(super) async fn over(link: &Link) -> Result<Self, Failure> {
        let socket = link.forward_socket(SOCKET).await?;
        let connect = async {
            let version = bollard::API_DEFAULT_VERSION;
            bollard::Docker::connect_with_unix(&socket.to_string_lossy(), CALL_TIMEOUT, version)?
                .negotiate_version()
                .await
        };
        match connect.await {
            Ok(client) => Ok(Self { client, place: link.name().to_string(), log_driver: OnceCell::new() }),
            Err(error) => Err(link.why_no_docker().await.because(&error)),
        }
    }

    pub(crate) fn failed(&self, what: &str, error: &Error) -> Failure {
        let failure = Failure::error(format!("{}: cannot {what}: {}", self.place, words(error)));
        match hint(error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    fn patient(&self, timeout: Duration) -> bollard::Docker {
        self.client.clone().with_timeout(timeout)
    }

    pub(crate) fn state_of(&self, _container: &ContainerName) -> String {
        String::new()
    }

    pub(crate) async fn survey(&self, system: &System) -> Result<Surveyed, Failure> {
        let filters = HashMap::from([(
            "label".to_owned(),
            vec![format!("{}={}", label::ID, system.id), format!("{}={}", label::SYSTEM, system.name)],
        )]);
        let options = ask::ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = async {
            let list = self.client.list_containers(Some(options)).await?;
            let ids = list.into_iter().filter_map(|container| container.id);
            let inspected =
                join_all(ids.map(|id| async move { self.client.inspect_container(&id, None).await })).await;
            // One that is removed between the two questions is not there.
            inspected
                .into_iter()
                .filter(|answer| !matches!(answer, Err(error) if is_status(error, 404)))
                .collect::<Result<Vec<_>, Error>>()
        };
        let (containers, version, images) =
            tokio::try_join!(list, self.client.version(), self.present(system))
                .map_err(|e| self.failed("ask it", &e))?;
        let mut instances = try_join_all(containers.iter().map(|container| self.running(container))).await?;
        instances.sort_by(|a, b| a.container.cmp(&b.container));
        Ok(Surveyed {
            engine: format!("Docker {}", version.version.unwrap_or_default()),
            architecture: version.arch.unwrap_or_default(),
            instances,
            images,
            disk_free: None,
        })
    }

    /// Which of the images that the system wants are here.
    async fn present(&self, system: &System) -> Result<BTreeSet<String>, Error> {
        let wanted: BTreeSet<String> =
            system.instances.iter().filter_map(|instance| instance.container.image.reference()).collect();
        let answers = wanted.into_iter().map(|reference| async move {
            Ok::<_, Error>(self.has_image(&reference).await?.then_some(reference))
        });
        Ok(try_join_all(answers).await?.into_iter().flatten().collect())
    }

    pub(crate) async fn has_image(&self, reference: &str) -> Result<bool, Error> {
        match self.client.inspect_image(reference).await {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, 404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn running(&self, container: &ContainerInspectResponse) -> Result<Running, Failure> {
        let name = container.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
        let mut running = engine::from_labels(ContainerName(name), &labels(container), run_state(container))?;
        let live = running.made_from.iter().flat_map(|made| &made.files).filter(|file| file.live);
        let contents = live.map(|file| async {
            let content = self.read_file(&running.container, &file.to).await?;
            Ok::<_, Failure>(content.map(|(bytes, _)| (file.to.clone(), files::sha256(&bytes))))
        });
        running.live_files = try_join_all(contents).await?.into_iter().flatten().collect();
        Ok(running)
    }

    pub(crate) async fn pull(&self, reference: &str, who: &str, reporter: &Reporter) -> Result<(), Failure> {
        let parsed = Reference::parse(reference);
        let options =
            ask::CreateImageOptionsBuilder::default().from_image(parsed.name).tag(parsed.tag).build();
        let mut progress = self.client.create_image(Some(options), None, None);
        let mut layers = PullProgress::default();
        while let Some(info) = progress.next().await {
            let failed = |error: &Error| {
                Failure::error(format!(
                    "{}: cannot pull {reference} from {}: {}",
                    self.place,
                    parsed.registry(),
                    words(error)
                ))
                .hint(format!(
                    "does the image exist, and can {} reach {}?",
                    self.place,
                    parsed.registry()
                ))
            };
            let info = info.map_err(|error| failed(&error))?;
            if let Some(detail) = &info.error_detail {
                let error = detail.message.clone().unwrap_or_default();
                return Err(failed(&Error::DockerStreamError { error }));
            }
            if let Some((done, total)) = layers.take(&info) {
                reporter.send(Event::Progress {
                    who: who.into(),
                    what: format!("pull {reference}"),
                    done,
                    total,
                });
            }
        }
        Ok(())
    }

    pub(crate) async fn start(&self, container: &ContainerName) -> Result<(), Failure> {
        match self.client.start_container(&container.0, None).await {
            Ok(()) => Ok(()),
            Err(error) if is_status(&error, 304) => Ok(()),
            Err(error) => Err(self.failed(&format!("start {container}"), &error)),
        }
    }

    pub(crate) async fn stop(&self, container: &ContainerName, grace: Duration) -> Result<(), Failure> {
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = ask::StopContainerOptionsBuilder::default().t(seconds).build();
        let client = self.patient(grace + Duration::from_secs(CALL_TIMEOUT));
        match client.stop_container(&container.0, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_status(&error, 304) || is_status(&error, 404) => Ok(()),
            Err(error) => Err(self.failed(&format!("stop {container}"), &error)),
        }
    }

    pub(crate) async fn remove(&self, container: &ContainerName) -> Result<(), Failure> {
        // Anonymous volumes belong to it alone and go with it; named ones stay.
        let options = ask::RemoveContainerOptionsBuilder::default().v(true).build();
        match self.client.remove_container(&container.0, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_status(&error, 404) => Ok(()),
            Err(error) => Err(self.failed(&format!("remove {container}"), &error)),
        }
    }

    pub(crate) async fn read_files(
        &self,
        container: &ContainerName,
        paths: &[String],
    ) -> Result<Vec<PutFile>, Failure> {
        let reads = paths.iter().map(|path| async move {
            let Some((bytes, mode)) = self.read_file(container, path).await? else { return Ok(None) };
            let file = files::as_put_file(path, bytes, mode);
            file.map(Some)
                .map_err(|error| Failure::error(format!("{path} in {container} is no text")).because(&error))
        });
        Ok(try_join_all(reads).await?.into_iter().flatten().collect())
    }

    async fn read_file(
        &self,
        container: &ContainerName,
        path: &str,
    ) -> Result<Option<(Vec<u8>, u32)>, Failure> {
        let options = ask::DownloadFromContainerOptionsBuilder::default().path(path).build();
        let stream = self.client.download_from_container(&container.0, Some(options));
        let bytes: Result<Vec<u8>, Error> = stream
            .try_fold(Vec::new(), |mut all, chunk| async move {
                all.extend_from_slice(&chunk);
                Ok(all)
            })
            .await;
        match bytes {
            Ok(bytes) => files::unpack_one(&bytes).map_err(|error| {
                Failure::error(format!("cannot read {path} of {container}")).because(&error)
            }),
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.failed(&format!("read {path} of {container}"), &error)),
        }
    }

    pub(crate) async fn status(&self, container: &ContainerName) -> Result<Status, Failure> {
        let inspected = self.client.inspect_container(&container.0, None).await;
        let inspected = inspected.map_err(|error| self.failed(&format!("ask about {container}"), &error))?;
        let health = labels(&inspected).get(label::HEALTH).and_then(|text| serde_json::from_str(text).ok());
        let state = inspected.state.as_ref();
        Ok(Status {
            state: run_state(&inspected),
            restarts: inspected.restart_count.and_then(|count| count.try_into().ok()).unwrap_or(0),
            health,
            ports: published(&inspected),
            out_of_memory: state.and_then(|state| state.oom_killed).unwrap_or(false),
        })
    }

    pub(crate) async fn logs(
        &self,
        container: &ContainerName,
        options: &LogOptions,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), Failure> {
        let mut ask = ask::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(options.follow);
        let tail = options.tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string());
        ask = ask.tail(&tail);
        if let Some(since) = options.since.and_then(|since| since.try_into().ok()) {
            ask = ask.since(since);
        }
        let mut output = self.client.logs(&container.0, Some(ask.build()));
        loop {
            let piece = tokio::select! {
                piece = output.next() => piece,
                () = lines.closed() => return Ok(()),
            };
            let Some(piece) = piece else { return Ok(()) };
            let piece =
                piece.map_err(|error| self.failed(&format!("read the log of {container}"), &error))?;
            if lines.send(log_line(&piece)).await.is_err() {
                return Ok(());
            }
        }
    }

    pub(crate) async fn exec(
        &self,
        container: &ContainerName,
        command: &[String],
        io: ExecIo,
    ) -> Result<i64, Failure> {
        let failed = |error: &Error| self.failed(&format!("run a command in {container}"), error);
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(io.terminal.is_some()),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let id = self.client.create_exec(&container.0, config).await.map_err(|error| failed(&error))?.id;
        let options = StartExecOptions { detach: false, tty: io.terminal.is_some(), output_capacity: None };
        let started = self.client.start_exec(&id, Some(options)).await.map_err(|error| failed(&error))?;
        if let Some((columns, rows)) = io.terminal {
            let size = ask::ResizeExecOptionsBuilder::default().w(columns.into()).h(rows.into()).build();
            // A wrong size is a nuisance, no failure.
            let _ = self.client.resize_exec(&id, size).await;
        }
        let StartExecResults::Attached { mut output, input } = started else {
            return Err(Failure::error("the engine did not attach to the command"));
        };
        let (mut from, mut to, mut out, mut errors) = (io.input, input, io.output, io.errors);
        let feed = async {
            // A command that does not read to the end is no error.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
            std::future::pending::<()>().await;
        };
        let copy = async {
            while let Some(piece) = output.next().await {
                let piece = piece.map_err(|error| failed(&error))?;
                let sink = if matches!(piece, LogOutput::StdErr { .. }) { &mut errors } else { &mut out };
                let written = async {
                    sink.write_all(piece.as_ref()).await?;
                    sink.flush().await
                };
                written
                    .await
                    .map_err(|error| Failure::error("cannot write what the command says").because(&error))?;
            }
            Ok::<_, Failure>(())
        };
        tokio::select! {
            copied = copy => copied?,
            () = feed => {}
        }
        let ended = self.client.inspect_exec(&id).await.map_err(|error| failed(&error))?;
        Ok(ended.exit_code.unwrap_or(0))
    }
}

fn labels(container: &ContainerInspectResponse) -> BTreeMap<String, String> {
    let labels = container.config.as_ref().and_then(|config| config.labels.clone());
    labels.unwrap_or_default().into_iter().collect()
}

fn run_state(container: &ContainerInspectResponse) -> RunState {
    use ContainerStateStatusEnum as S;
    let Some(state) = &container.state else { return RunState::Created };
    match state.status {
        Some(S::RUNNING | S::STOPPING) => {
            RunState::Running { since: state.started_at.clone().unwrap_or_default() }
        }
        Some(S::PAUSED) => RunState::Paused,
        Some(S::RESTARTING) => RunState::Restarting,
        Some(S::CREATED | S::EMPTY) | None => RunState::Created,
        Some(S::EXITED | S::DEAD | S::REMOVING) => {
            RunState::Exited { code: state.exit_code.unwrap_or_default() }
        }
    }
}

fn published(container: &ContainerInspectResponse) -> Vec<Port> {
    let bindings = container.host_config.as_ref().and_then(|config| config.port_bindings.as_ref());
    let mut ports = Vec::new();
    for (inside, outside) in bindings.into_iter().flatten() {
        let (number, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        for binding in outside.iter().flatten() {
            let host = binding.host_port.as_deref().and_then(|port| port.parse().ok());
            if let (Ok(container), Some(host)) = (number.parse(), host) {
                ports.push(Port {
                    ip: binding.host_ip.clone().filter(|ip| !ip.is_empty()),
                    host,
                    container,
                    protocol,
                });
            }
        }
    }
    ports
}

/// `TIME TEXT`, as asked for with timestamps.
fn log_line(piece: &LogOutput) -> LogLine {
    let text = String::from_utf8_lossy(piece.as_ref());
    let text = text.trim_end_matches(['\n', '\r']);
    let (at, text) = text.split_once(' ').unwrap_or((text, ""));
    LogLine { at: at.to_owned(), stderr: matches!(piece, LogOutput::StdErr { .. }), text: text.to_owned() }
}

/// Bytes over all layers of a pull.
#[derive(Default)]
struct PullProgress {
    layers: BTreeMap<String, (u64, u64)>,
}

impl PullProgress {
    fn take(&mut self, info: &CreateImageInfo) -> Option<(u64, u64)> {
        let detail = info.progress_detail.as_ref()?;
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        // Unpacking counts again from nothing; what was downloaded stays downloaded.
        if info.status.as_deref() != Some("Downloading") {
            return None;
        }
        self.layers.insert(info.id.clone()?, (number(detail.current)?, number(detail.total)?));
        Some(self.layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1)))
    }
}

pub(crate) fn is_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// The engine's own words, without the wrapping.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        Error::RequestTimeoutError => "the engine does not answer in time".to_owned(),
        // The transport says it in five layers; the innermost is the one that tells.
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
            let mut inner: &dyn std::error::Error = error;
            while let Some(source) = inner.source() {
                inner = source;
            }
            format!("{LOST} ({inner})")
        }
        other => other.to_string(),
    }
}

const LOST: &str = "the connection to its engine is lost";

fn hint(error: &Error) -> Option<&'static str> {
    let text = words(error);
    let signs = [
        (LOST, "when the machine answers again, give the same command: what stands there is found and used"),
        (
            "port is already allocated",
            "another program or container has this port; stop it or publish another one",
        ),
        (
            "address already in use",
            "another program of that machine has this port; stop it or publish another one",
        ),
        (
            "no space left on device",
            "the machine's disk is full; make room there, such as by `docker system prune`",
        ),
        ("No such image", "the image is not on that machine; build it first: `nsd cont buildall`"),
    ];
    signs.iter().find(|(sign, _)| text.contains(sign)).map(|(_, hint)| *hint)
}
