//! Servers of the benchmark as child processes: started on a processor, awaited, stopped whatever happens.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// A command line to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    /// Run only on this processor.
    pub(crate) processor: Option<u8>,
}

impl Program {
    pub(crate) fn new(path: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { path: path.into(), args: args.into_iter().map(Into::into).collect(), processor: None }
    }

    #[must_use]
    pub(crate) fn on(self, processor: Option<u8>) -> Self {
        Self { processor, ..self }
    }

    /// The command, which dies with this process: on its end by dropping, on its being killed by the kernel's hand.
    #[must_use]
    pub(crate) fn command(&self) -> Command {
        let mut words: Vec<String> = ["setpriv", "--pdeathsig", "KILL", "--"].map(String::from).into();
        if let Some(processor) = self.processor {
            words.extend(["taskset".to_owned(), "-c".to_owned(), processor.to_string()]);
        }
        words.push(self.path.display().to_string());
        words.extend_from_slice(&self.args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).kill_on_drop(true).stdin(Stdio::null());
        command
    }
}

/// A server that runs; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) pid: u32,
}

impl Running {
    /// Starts `program` and waits until it accepts on all of `addresses`; its output goes to `log`.
    pub(crate) async fn start(program: &Program, addresses: &[SocketAddr], log: &Path) -> Result<Self> {
        for address in addresses {
            if TcpStream::connect(address).await.is_ok() {
                bail!("something else listens on {address}: choose other ports with --port");
            }
        }
        let output = File::create(log).with_context(|| log.display().to_string())?;
        let child = program
            .command()
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.path.display()))?;
        let pid = child.id().context("a process that has ended at once")?;
        let mut running = Self { child, pid };
        running.await_ports(program, addresses, log).await?;
        Ok(running)
    }

    async fn await_ports(&mut self, program: &Program, addresses: &[SocketAddr], log: &Path) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        let name = program.path.display();
        for address in addresses {
            while TcpStream::connect(address).await.is_err() {
                if let Some(status) = self.child.try_wait()? {
                    bail!("{name} ended at its start ({status}): {}", last_line(log));
                }
                if Instant::now() > end {
                    bail!("{name} does not listen on {address}: {}", last_line(log));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// SIGTERM, time to leave, then the kill of dropping.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await;
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}

/// Finds a peer's program, or says which package brings it.
pub(crate) fn installed(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{program} is not installed: apt-get install {package}"))
}
