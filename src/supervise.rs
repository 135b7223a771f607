//! The supervisor of one plain process: `nsd supervise DIR`, detached, one for each instance.
//!
//! It starts the program of `DIR/instance.json`, starts it again with growing pauses when it ends, writes its output to
//! `DIR/log` and its state to `DIR/status.json`. The lock on `DIR/lock` is its sign of life: the kernel frees it however
//! the supervisor ends. The program dies with its supervisor, so nothing runs that nobody watches.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::system::{Restart, Ulimit};

/// First pause before a program is started again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A program that ran so long was up: its next pause is the first again.
const WAS_UP: Duration = Duration::from_secs(10);
const LOOK_AFTER_DIRECTORY: Duration = Duration::from_secs(2);
/// At this size a log becomes `log.1`, whose predecessor is gone: at most twice this on the disk.
const LOG_LIMIT: u64 = 10 << 20;
/// A longer line is split.
const LINE_LIMIT: u64 = 16 << 10;
/// Set for the second stage, which becomes the program: the supervisor's process id.
const STAGE: &str = "NSD_SUPERVISOR_PID";

/// `instance.json`: what is run and how. Secrets are bound in it, so it is 0600.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) argv: Vec<String>,
    /// All of its environment.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) restart: Restart,
    pub(crate) ulimits: BTreeMap<String, Ulimit>,
    #[serde(with = "crate::system::seconds")]
    pub(crate) stop_grace: Duration,
}

/// `status.json`: replaced at every change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// RFC 3339.
    pub(crate) since: String,
    pub(crate) restarts: u64,
    /// The program's process, and when it started in ticks since boot: together they name one process for ever.
    pub(crate) pid: Option<i32>,
    pub(crate) ticks: Option<u64>,
    /// How it ended last; 128 + N for signal N.
    pub(crate) code: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Running,
    /// Between two starts.
    Pausing,
    Ended,
}

/// Names of the files in an instance's directory.
pub(crate) mod name {
    pub(crate) const INSTANCE: &str = "instance.json";
    pub(crate) const STATUS: &str = "status.json";
    pub(crate) const LOCK: &str = "lock";
    pub(crate) const PID: &str = "pid";
    pub(crate) const LOG: &str = "log";
    pub(crate) const OLD_LOG: &str = "log.1";
    /// Seconds that a stop allows, when it wants another number than the instance's own.
    pub(crate) const GRACE: &str = "grace";
}

/// Runs as the hidden command `nsd supervise DIR`. To be called before any runtime is started: it has its own, of one
/// thread, for the program is tied to the life of the thread that starts it.
pub fn main(instance: &Path) -> ExitCode {
    let result = match std::env::var(STAGE) {
        Ok(supervisor) => become_program(instance, &supervisor),
        Err(_) => supervise(instance),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the instance's log.
            let line = format!("{} E supervisor: {error}\n", now());
            let _ = std::io::stderr().write_all(line.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Second stage: takes on limits, ties itself to the supervisor, and becomes the program.
fn become_program(dir: &Path, supervisor: &str) -> std::io::Result<()> {
    let program = read_program(dir)?;
    for (name, limit) in &program.ulimits {
        set_limit(name, limit)?;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have died before the line above.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref() != Some(supervisor) {
        return Err(std::io::Error::other("the supervisor is gone"));
    }
    let Some((first, rest)) = program.argv.split_first() else {
        return Err(std::io::Error::other("the instance has no command"));
    };
    let error =
        std::process::Command::new(first).args(rest).env_clear().envs(&program.env).current_dir(dir).exec();
    Err(std::io::Error::new(error.kind(), format!("cannot run `{first}`: {error}")))
}

fn supervise(dir: &Path) -> std::io::Result<()> {
    // Away from the terminal and the session that started us. It fails only where we lead a session already.
    let _ = rustix::process::setsid();
    let dir = dir.canonicalize()?;
    let lock = take_lock(&dir)?;
    let program = read_program(&dir)?;
    replace_file(&dir.join(name::PID), std::process::id().to_string().as_bytes())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async { Supervisor::new(dir, program)?.run().await });
    drop(lock);
    result
}

/// Held until we end. Others test it for a moment to see whether we live, so a few tries are made.
fn take_lock(dir: &Path) -> std::io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(name::LOCK))?;
    for _ in 0..20 {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(50)),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(std::io::Error::other("another supervisor has this instance"))
}

struct Supervisor {
    dir: PathBuf,
    program: Program,
    log: Arc<Mutex<Log>>,
    terminate: Signals,
    interrupt: Signals,
    restarts: u64,
}

/// Why the wait for a program was over.
enum Ended {
    ByItself(ExitStatus),
    /// We were asked to end, and so was it.
    Stopped(ExitStatus),
}

impl Supervisor {
    fn new(dir: PathBuf, program: Program) -> std::io::Result<Self> {
        let log = Arc::new(Mutex::new(Log::open(&dir)?));
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { dir, program, log, terminate, interrupt, restarts: 0 })
    }

    async fn run(mut self) -> std::io::Result<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let (ended, stopped) = match self.run_once().await? {
                Ended::ByItself(status) => (status, false),
                Ended::Stopped(status) => (status, true),
            };
            let code = exit_code(ended);
            let again = match self.program.restart {
                Restart::No => false,
                Restart::OnFailure => code != 0,
                Restart::Always | Restart::UnlessStopped => true,
            };
            if stopped || !again {
                return self.tell(State::Ended, None, Some(code));
            }
            pause = if started.elapsed() >= WAS_UP { FIRST_PAUSE } else { pause };
            self.log.lock().write(
                "E",
                &format!("supervisor: it ended with code {code}; starting it again in {pause:?}"),
            );
            self.tell(State::Pausing, None, Some(code))?;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = abandoned(&self.dir) => return Ok(()),
                _ = self.terminate.recv() => return self.tell(State::Ended, None, Some(code)),
                _ = self.interrupt.recv() => return self.tell(State::Ended, None, Some(code)),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.restarts += 1;
        }
    }

    async fn run_once(&mut self) -> std::io::Result<Ended> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(STAGE, std::process::id().to_string())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        self.tell(State::Running, group, None)?;
        let pumps = [
            child.stdout.take().map(|out| tokio::spawn(pump(out, "O", Arc::clone(&self.log)))),
            child.stderr.take().map(|err| tokio::spawn(pump(err, "E", Arc::clone(&self.log)))),
        ];
        let ended = tokio::select! {
            status = child.wait() => Ended::ByItself(status?),
            () = abandoned(&self.dir) => Ended::Stopped(self.stop(&mut child, group).await?),
            _ = self.terminate.recv() => Ended::Stopped(self.stop(&mut child, group).await?),
            _ = self.interrupt.recv() => Ended::Stopped(self.stop(&mut child, group).await?),
        };
        // What it started and left behind ends with it, and with that its output.
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        for pump in pumps.into_iter().flatten() {
            let _ = tokio::time::timeout(Duration::from_secs(1), pump).await;
        }
        Ok(ended)
    }

    /// SIGTERM, grace, SIGKILL.
    async fn stop(&self, child: &mut Child, pid: Option<Pid>) -> std::io::Result<ExitStatus> {
        let asked = std::fs::read_to_string(self.dir.join(name::GRACE)).ok();
        let asked = asked
            .and_then(|text| text.trim().parse().ok())
            .and_then(|grace| Duration::try_from_secs_f64(grace).ok());
        let grace = asked.unwrap_or(self.program.stop_grace);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
            return status;
        }
        self.log.lock().write("E", &format!("supervisor: it does not end within {grace:?}; killing it"));
        child.start_kill()?;
        child.wait().await
    }

    fn tell(&self, state: State, pid: Option<Pid>, code: Option<i64>) -> std::io::Result<()> {
        let pid = pid.map(Pid::as_raw_nonzero).map(i32::from);
        let ticks = pid.and_then(start_ticks);
        let status = Status { state, since: now(), restarts: self.restarts, pid, ticks, code };
        replace_file(&self.dir.join(name::STATUS), &serde_json::to_vec(&status)?)
    }
}

/// Ends when somebody has deleted our directory: there is no other way left to stop us.
async fn abandoned(dir: &Path) {
    while dir.join(name::INSTANCE).exists() {
        tokio::time::sleep(LOOK_AFTER_DIRECTORY).await;
    }
}

/// Copies lines of the program's output into the log until it ends.
async fn pump(output: impl AsyncRead + Unpin, stream: &'static str, log: Arc<Mutex<Log>>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => log.lock().write(stream, String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
        }
    }
}

/// The instance's log: `TIME O|E TEXT` a line. A disk that takes no more must not stop the program, so errors are let go.
struct Log {
    dir: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    fn open(dir: &Path) -> std::io::Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(dir.join(name::LOG))?;
        let size = file.metadata()?.len();
        Ok(Self { dir: dir.to_owned(), file, size })
    }

    fn write(&mut self, stream: &str, text: &str) {
        if self.size >= LOG_LIMIT {
            let _ = std::fs::rename(self.dir.join(name::LOG), self.dir.join(name::OLD_LOG));
            if let Ok(fresh) = Self::open(&self.dir) {
                *self = fresh;
            }
        }
        let line = format!("{} {stream} {text}\n", now());
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.size += line.len() as u64;
        }
    }
}

pub(crate) fn read_program(dir: &Path) -> std::io::Result<Program> {
    let path = dir.join(name::INSTANCE);
    let at = |error: &dyn std::fmt::Display| std::io::Error::other(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(&path).map_err(|error| at(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| at(&error))
}

/// All or nothing, 0600.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(content)?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// When a process started, in ticks since boot; `None` when there is none.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// Whether the very process that started then still runs. One that only waits for its parent to notice does not; but
/// the first thread of a program may be gone before the others.
pub(crate) fn still_runs(pid: i32, ticks: u64) -> bool {
    let Some(fields) = stat_fields(pid) else { return false };
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    let waits = fields.first().is_some_and(|state| state == "Z" || state == "X");
    field(19) == Some(ticks) && !(waits && field(17).is_none_or(|threads| threads <= 1))
}

/// `/proc/PID/stat` from its third field, the state, on. The name before it may hold anything.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

fn set_limit(name: &str, limit: &Ulimit) -> std::io::Result<()> {
    let resource = match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "memlock" => Resource::Memlock,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "stack" => Resource::Stack,
        other => {
            return Err(std::io::Error::other(format!("ulimit `{other}` is not known for plain processes")));
        }
    };
    // -1 is Docker's word for no limit.
    let value = |limit: i64| u64::try_from(limit).ok();
    rustix::process::setrlimit(resource, Rlimit { current: value(limit.soft), maximum: value(limit.hard) })
        .map_err(|errno| {
            std::io::Error::other(format!(
                "cannot set ulimit {name} to {}:{}: {errno}",
                limit.soft, limit.hard
            ))
        })
}

pub(crate) fn exit_code(status: ExitStatus) -> i64 {
    let signal = status.signal().map_or(-1, |signal| 128 + i64::from(signal));
    status.code().map_or(signal, i64::from)
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
