//! This machine without Docker: each container is a plain process under a supervisor of its own.
//!
//! State lives under `$XDG_STATE_HOME/nsd/<system id>/`: one directory a container (see [`crate::supervise`]), and
//! `data/<instance>/<volume>`, which outlives containers as Docker's volumes do. In a container's directory, `files/` and
//! `volumes/` hold what a container would see under the same absolute paths.

mod log;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc;

use super::engine::{ExecIo, LogLine, LogOptions, Order, PutFile, Status, label};
use crate::failure::Failure;
use crate::plan::{ContainerName, RunState, Running, Surveyed};
use crate::report::Reporter;
use crate::secret::Secret;
use crate::supervise::{self, Program, State, name};
use crate::system::{Container, Image, MachineName, Protocol, System, Volume};

/// A supervisor is up, or has told why not, within this.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// What a stop takes beyond the program's grace.
const STOP_SLACK: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

pub(crate) struct Processes {
    /// `$XDG_STATE_HOME/nsd/<system id>`.
    base: PathBuf,
    /// How a supervisor is started; the instance's directory follows.
    supervisor: Vec<OsString>,
}

impl Processes {
    pub(super) fn open(system: &System, _name: &MachineName) -> Result<Self, Failure> {
        let states =
            match std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
                Some(path) => path,
                None => std::env::home_dir()
                    .ok_or_else(|| {
                        Failure::error("there is no place for the state of processes: HOME is not set")
                    })?
                    .join(".local/state"),
            };
        let program = std::env::current_exe()
            .map_err(|error| Failure::error("cannot find our own executable").because(&error))?;
        let base = states.join("nsd").join(system.id.to_string());
        Ok(Self { base, supervisor: vec![program.into(), "supervise".into()] })
    }

    fn dir(&self, container: &ContainerName) -> PathBuf {
        self.base.join(&container.0)
    }

    pub(crate) fn state_of(&self, container: &ContainerName) -> String {
        self.dir(container).display().to_string()
    }

    pub(crate) async fn survey(&self, system: &System) -> Result<Surveyed, Failure> {
        let cannot = |error: &std::io::Error| {
            Failure::error(format!("cannot read {}", self.base.display())).because(error)
        };
        let mut instances = Vec::new();
        let entries = match std::fs::read_dir(&self.base) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|error| cannot(&error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(cannot(&error)),
        };
        for entry in entries {
            let dir = entry.path();
            if dir.join(name::INSTANCE).exists() {
                instances.push(running(&dir)?);
            }
        }
        instances.sort_by(|a, b| a.container.cmp(&b.container));
        let here = |reach: &crate::system::Reach| *reach == crate::system::Reach::Process;
        let needed = system.instances.iter().filter(|instance| {
            system.machines.get(&instance.name.machine).is_some_and(|machine| here(&machine.reach))
        });
        Ok(Surveyed {
            engine: "processes".into(),
            architecture: docker_architecture().into(),
            instances,
            // A process needs no image, so none is missing.
            images: needed.filter_map(|instance| instance.container.image.reference()).collect(),
            disk_free: disk_free(&self.base),
        })
    }

    pub(crate) async fn pull(
        &self,
        _reference: &str,
        _who: &str,
        _reporter: &Reporter,
    ) -> Result<(), Failure> {
        Ok(())
    }

    pub(crate) async fn create(&self, order: &Order<'_>) -> Result<(), Failure> {
        let dir = self.dir(order.name);
        private_dir(&self.base).map_err(|error| cannot_make(&self.base, &error))?;
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| cannot_make(&dir, &error))?;
        let made = self.furnish(&dir, order);
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        made
    }

    fn furnish(&self, dir: &Path, order: &Order<'_>) -> Result<(), Failure> {
        let program = program(dir, order)?;
        write_files(dir, &order.files)?;
        for volume in &order.container.volumes {
            self.link_volume(dir, order, volume)
                .map_err(|error| cannot_make(&dir.join("volumes"), &error))?;
        }
        let text = serde_json::to_vec_pretty(&program)
            .map_err(|error| Failure::error("cannot write the instance as JSON").because(&error))?;
        // Last, for it is what makes the directory an instance.
        supervise::replace_file(&dir.join(name::INSTANCE), &text).map_err(|error| cannot_make(dir, &error))
    }

    fn link_volume(&self, dir: &Path, order: &Order<'_>, volume: &Volume) -> std::io::Result<()> {
        let source = if volume.source.starts_with('/') {
            PathBuf::from(&volume.source)
        } else {
            self.base.join("data").join(order.instance.to_string()).join(&volume.source)
        };
        private_dir(&source)?;
        let link = inside(&dir.join("volumes"), &volume.target);
        if let Some(parent) = link.parent() {
            private_dir(parent)?;
        }
        std::os::unix::fs::symlink(source, link)
    }

    pub(crate) async fn start(&self, container: &ContainerName) -> Result<(), Failure> {
        let dir = self.dir(container);
        if lives(&dir).map_err(|error| cannot_ask(container, &error))? {
            return Ok(());
        }
        end_orphan(&dir).await;
        ports_are_free(&dir, container)?;
        let cannot =
            |why: &dyn std::error::Error| Failure::error(format!("cannot start {container}")).because(why);
        for stale in [name::STATUS, name::GRACE] {
            match std::fs::remove_file(dir.join(stale)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(&error)),
                _ => {}
            }
        }
        let output = std::fs::File::options()
            .append(true)
            .create(true)
            .open(dir.join(name::LOG))
            .map_err(|e| cannot(&e))?;
        let (program, arguments) =
            self.supervisor.split_first().ok_or_else(|| Failure::error("no supervisor"))?;
        let mut supervisor = tokio::process::Command::new(program)
            .args(arguments)
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .current_dir("/")
            .spawn()
            .map_err(|error| cannot(&error))?;
        let deadline = Instant::now() + START_DEADLINE;
        while read_status(&dir).is_none() {
            if let Ok(Some(_)) = supervisor.try_wait() {
                return Err(Failure::error(format!("{container}: its supervisor ended at once"))
                    .hint(log::last_lines(&dir, 5).join("\n")));
            }
            if Instant::now() > deadline {
                return Err(Failure::error(format!("{container}: its supervisor does not start")));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn stop(&self, container: &ContainerName, grace: Duration) -> Result<(), Failure> {
        let dir = self.dir(container);
        let cannot =
            |error: &std::io::Error| Failure::error(format!("cannot stop {container}")).because(error);
        if !dir.exists() {
            return Ok(());
        }
        if !lives(&dir).map_err(|error| cannot(&error))? {
            end_orphan(&dir).await;
            return Ok(());
        }
        supervise::replace_file(&dir.join(name::GRACE), grace.as_secs_f64().to_string().as_bytes())
            .map_err(|error| cannot(&error))?;
        signal(&dir, Signal::TERM);
        let deadline = Instant::now() + grace + STOP_SLACK;
        while lives(&dir).map_err(|error| cannot(&error))? {
            if Instant::now() > deadline {
                // It does not even end itself; its program dies with it.
                signal(&dir, Signal::KILL);
                end_orphan(&dir).await;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn remove(&self, container: &ContainerName) -> Result<(), Failure> {
        let dir = self.dir(container);
        if !dir.exists() {
            return Ok(());
        }
        self.stop(container, Duration::from_secs(1)).await?;
        let instance = supervise::read_program(&dir)
            .ok()
            .and_then(|program| program.labels.get(label::INSTANCE).cloned());
        std::fs::remove_dir_all(&dir)
            .map_err(|error| Failure::error(format!("cannot remove {}", dir.display())).because(&error))?;
        // Folders that hold nothing are not left behind; those that do refuse.
        let data = self.base.join("data");
        if let Some(instance) = instance {
            let volumes = data.join(instance);
            for volume in std::fs::read_dir(&volumes).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(volume.path());
            }
            let _ = std::fs::remove_dir(volumes);
        }
        let _ = std::fs::remove_dir(data);
        let _ = std::fs::remove_dir(&self.base);
        Ok(())
    }

    pub(crate) async fn put_files(
        &self,
        container: &ContainerName,
        files: &[PutFile],
    ) -> Result<(), Failure> {
        write_files(&self.dir(container), files)
    }

    pub(crate) async fn read_files(
        &self,
        container: &ContainerName,
        paths: &[String],
    ) -> Result<Vec<PutFile>, Failure> {
        let dir = self.dir(container);
        let mut files = Vec::new();
        for to in paths {
            let path = file_path(&dir, to);
            let content = match std::fs::read_to_string(&path) {
                Ok(content) => content,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(Failure::error(format!("cannot read {}", path.display())).because(&error));
                }
            };
            let mode = path.metadata().map_or(0o600, |meta| meta.permissions().mode() & 0o7777);
            files.push(PutFile { to: to.clone(), content: Secret::new(content), mode });
        }
        Ok(files)
    }

    pub(crate) async fn status(&self, container: &ContainerName) -> Result<Status, Failure> {
        let dir = self.dir(container);
        let program = supervise::read_program(&dir).map_err(|error| cannot_ask(container, &error))?;
        let health = program.labels.get(label::HEALTH).and_then(|text| serde_json::from_str(text).ok());
        let state = run_state(&dir).map_err(|error| cannot_ask(container, &error))?;
        let restarts = read_status(&dir).map_or(0, |status| status.restarts);
        Ok(Status { state, restarts, health, ports: Vec::new(), out_of_memory: false })
    }

    pub(crate) async fn logs(
        &self,
        container: &ContainerName,
        options: &LogOptions,
        lines: mpsc::Sender<LogLine>,
    ) -> Result<(), Failure> {
        log::send(&self.dir(container), options, lines)
            .await
            .map_err(|error| Failure::error(format!("cannot read the log of {container}")).because(&error))
    }

    pub(crate) async fn exec(
        &self,
        container: &ContainerName,
        command: &[String],
        mut io: ExecIo,
    ) -> Result<i64, Failure> {
        let dir = self.dir(container);
        let program = supervise::read_program(&dir).map_err(|error| cannot_ask(container, &error))?;
        let cannot = |error: &std::io::Error| {
            Failure::error(format!("cannot run it beside {container}")).because(error)
        };
        let Some((first, rest)) = command.split_first() else {
            return Err(Failure::error("no command to run"));
        };
        let mut child = tokio::process::Command::new(first)
            .args(rest)
            .env_clear()
            .envs(&program.env)
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| cannot(&error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            return Err(Failure::error("the command has no input or output"));
        };
        let feed = async {
            // A command that does not read to the end is no error.
            let _ = tokio::io::copy(&mut io.input, &mut stdin).await;
            drop(stdin);
            std::future::pending::<()>().await;
        };
        let outputs = async {
            tokio::try_join!(
                tokio::io::copy(&mut stdout, &mut io.output),
                tokio::io::copy(&mut stderr, &mut io.errors)
            )
        };
        tokio::select! {
            copied = outputs => { copied.map_err(|error| cannot(&error))?; }
            () = feed => {}
        }
        let status = child.wait().await.map_err(|error| cannot(&error))?;
        Ok(supervise::exit_code(status))
    }
}

/// What the supervisor shall run.
fn program(dir: &Path, order: &Order<'_>) -> Result<Program, Failure> {
    let texts = |texts: &Option<Vec<Secret>>| -> Vec<String> {
        texts.iter().flatten().map(|text| text.reveal().to_owned()).collect()
    };
    let mut argv = texts(&order.entrypoint);
    if argv.is_empty()
        && let Image::Bundled { program, .. } = &order.container.image
    {
        argv.push(crate::bundled::find(*program)?.display().to_string());
    }
    argv.extend(texts(&order.command));
    let mut env: BTreeMap<String, String> = ["PATH", "LANG", "TZ"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), std::env::var(key).ok()?)))
        .collect();
    env.insert("HOME".into(), dir.display().to_string());
    env.extend(order.env.iter().map(|(key, value)| (key.clone(), value.reveal().to_owned())));
    let Some(first) = argv.first() else {
        return Err(Failure::error(format!("{} names no program to run", order.instance))
            .hint("give its process `program = [\"…\"]`, or run it with Docker"));
    };
    if !is_runnable(first, env.get("PATH").map_or("", String::as_str)) {
        return Err(Failure::error(format!(
            "{}: the program `{first}` is not installed here",
            order.instance
        ))
        .hint(format!("install it, such as by `apt-get install {first}`, or run the system with Docker")));
    }
    Ok(Program {
        labels: order.labels.clone(),
        argv,
        env,
        restart: order.container.restart,
        ulimits: order.container.ulimits.clone(),
        stop_grace: order.stop_grace,
    })
}

/// A stranger on one of its ports would answer in its place and be taken for it.
fn ports_are_free(dir: &Path, container: &ContainerName) -> Result<(), Failure> {
    let program = supervise::read_program(dir).map_err(|error| cannot_ask(container, &error))?;
    let made_from: Option<Container> =
        program.labels.get(label::CONTAINER).and_then(|text| serde_json::from_str(text).ok());
    let ports = made_from.into_iter().flat_map(|container| container.ports);
    for port in ports.filter(|port| port.protocol == Protocol::Tcp) {
        let address = (port.ip.as_deref().unwrap_or("0.0.0.0"), port.host);
        // Other troubles, such as a port that only root may use, are the program's own to tell.
        if let Err(error) = std::net::TcpListener::bind(address)
            && error.kind() == std::io::ErrorKind::AddrInUse
        {
            let what = format!("cannot start {container}: port {} of this machine is taken", port.host);
            return Err(Failure::error(what).because(&error).hint(format!(
                "see who has it: `ss -ltnp sport = :{}`; stop that, or give the process another port in `ports`",
                port.host
            )));
        }
    }
    Ok(())
}

fn is_runnable(program: &str, path: &str) -> bool {
    let executable =
        |path: &Path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file();
    if program.contains('/') {
        return executable(Path::new(program));
    }
    std::env::split_paths(path).any(|folder| executable(&folder.join(program)))
}

fn running(dir: &Path) -> Result<Running, Failure> {
    let container = ContainerName(dir.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let program = supervise::read_program(dir).map_err(|error| cannot_ask(&container, &error))?;
    let state = run_state(dir).map_err(|error| cannot_ask(&container, &error))?;
    let mut running = super::engine::from_labels(container, &program.labels, state)?;
    running.state_dir = dir.display().to_string();
    let live = running.made_from.iter().flat_map(|made| &made.files).filter(|file| file.live);
    running.live_files = live
        .filter_map(|file| {
            let content = std::fs::read(file_path(dir, &file.to)).ok()?;
            Some((file.to.clone(), super::files::sha256(&content)))
        })
        .collect();
    Ok(running)
}

fn run_state(dir: &Path) -> std::io::Result<RunState> {
    let Some(status) = read_status(dir) else { return Ok(RunState::Created) };
    Ok(match (lives(dir)?, status.state) {
        (true, State::Running) => RunState::Running { since: status.since },
        (true, State::Pausing) => RunState::Restarting,
        // Without its supervisor a program is being ended, whatever was written last.
        (_, State::Ended) | (false, _) => RunState::Exited { code: status.code.unwrap_or(137) },
    })
}

fn read_status(dir: &Path) -> Option<supervise::Status> {
    serde_json::from_slice(&std::fs::read(dir.join(name::STATUS)).ok()?).ok()
}

/// Whether the supervisor lives: it holds its lock for as long as it does.
fn lives(dir: &Path) -> std::io::Result<bool> {
    let file = match std::fs::File::open(dir.join(name::LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends a signal to the supervisor. Called while it lives, so the number is its own.
fn signal(dir: &Path, signal: Signal) {
    let pid = std::fs::read_to_string(dir.join(name::PID)).ok().and_then(|text| text.trim().parse().ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // That it has ended meanwhile is what was wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A program whose supervisor was killed has been told to end. Makes sure of it, for it may hold a port.
async fn end_orphan(dir: &Path) {
    let Some((pid, ticks)) = read_status(dir).and_then(|status| Some((status.pid?, status.ticks?))) else {
        return;
    };
    let deadline = Instant::now() + STOP_SLACK;
    while supervise::still_runs(pid, ticks) {
        if Instant::now() > deadline
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn write_files(dir: &Path, files: &[PutFile]) -> Result<(), Failure> {
    for file in files {
        let path = file_path(dir, &file.to);
        let write = || {
            if let Some(parent) = path.parent() {
                private_dir(parent)?;
            }
            let folder = path.parent().unwrap_or(dir);
            let mut new = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut new, file.content.reveal().as_bytes())?;
            new.as_file().set_permissions(std::fs::Permissions::from_mode(file.mode))?;
            new.persist(&path).map_err(|error| error.error)
        };
        write().map_err(|error| cannot_make(&path, &error))?;
    }
    Ok(())
}

/// Where a file of the container's `to` lies.
fn file_path(dir: &Path, to: &str) -> PathBuf {
    inside(&dir.join("files"), to)
}

/// The path below `root`; `..` leads nowhere else.
fn inside(root: &Path, path: &str) -> PathBuf {
    let normal = Path::new(path).components().filter(|part| matches!(part, std::path::Component::Normal(_)));
    normal.fold(root.to_owned(), |path, part| path.join(part))
}

fn private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn cannot_make(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(format!("cannot make {}", path.display())).because(error)
}

fn cannot_ask(container: &ContainerName, error: &std::io::Error) -> Failure {
    Failure::error(format!("cannot read the state of {container}")).because(error)
}

/// The architecture of this machine in Docker's words.
pub(super) fn docker_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn disk_free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
