//! What a balancer does when servers come and freeze: told as what happened, not as a ratio.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nsd_load::frames::MAX_PACKET;
use nsd_wire::{Connect, Packet, Version, read};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::contenders::{Contender, LOAD_PROCESSOR, Place};
use crate::process::{Program, Running, installed};
use crate::say;

/// A client that is not answered by then is refused.
const ANSWER: Duration = Duration::from_secs(1);
/// After a reload or a start: for checks to pass and files to be seen.
const SETTLE: Duration = Duration::from_secs(3);
/// A frozen server is watched for so long.
const WATCH: Duration = Duration::from_secs(8);
/// Both balancers check each second, with half a second's patience, and believe the second failure.
const CHECK_EVERY: Duration = Duration::from_secs(1);
const BACKEND_PORTS: [u16; 3] = [43, 44, 45];

/// One behaviour and what was seen.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Behaviour {
    pub(crate) work: &'static str,
    pub(crate) wanted: &'static str,
    /// Unless only the peer was asked.
    pub(crate) ours: Option<Seen>,
    pub(crate) peer: Seen,
}

/// What one contender did.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Seen {
    pub(crate) text: String,
    pub(crate) good: bool,
}

/// Watches all behaviours of both; `ours` only when it is to be measured.
pub(crate) async fn watch(place: &Place, load: &Path, with_ours: bool) -> Vec<Behaviour> {
    let mut behaviours = Vec::new();
    for kind in [Kind::Joins, Kind::Reloads, Kind::Freezes] {
        let (work, wanted) = kind.describe();
        let stage = |contender| Stage { place, load, contender, balance: kind.balance() };
        let peer = stage(Contender::HaProxy).see(kind).await;
        let ours = if with_ours { Some(stage(Contender::Balancer).see(kind).await) } else { None };
        behaviours.push(Behaviour { work, wanted, ours, peer });
    }
    behaviours
}

/// What is done to the servers.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Joins,
    Reloads,
    Freezes,
}

impl Kind {
    /// Least connections would keep clients from a frozen server by chance: those that hang there count.
    fn balance(self) -> &'static str {
        match self {
            Self::Joins | Self::Reloads => "leastconn",
            Self::Freezes => "roundrobin",
        }
    }

    /// The work, and what is wanted of it.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Joins => ("third server joins 500 + 500 sessions, 300 new clients", "0 / 0 / 300"),
            Self::Reloads => {
                ("10 reloads, 2,000 idle sessions, connections being made", "0 failed, 0 dropped")
            }
            Self::Freezes => ("frozen server (SIGSTOP) gets no more clients", "within two check intervals"),
        }
    }
}

/// The behaviours as a Markdown table.
pub(crate) fn markdown(behaviours: &[Behaviour]) -> String {
    let mut text =
        "\n| behaviour | wanted | ours | HAProxy | |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for Behaviour { work, wanted, ours, peer } in behaviours {
        let (ours, verdict) = match ours {
            Some(seen) if seen.good => (seen.text.as_str(), "met"),
            Some(seen) => (seen.text.as_str(), "missed"),
            None => ("–", "–"),
        };
        let _ = writeln!(text, "| {work} | {wanted} | {ours} | {} | {verdict} |", peer.text);
    }
    text
}

/// One balancer before servers that accept every MQTT client.
struct Stage<'a> {
    place: &'a Place,
    load: &'a Path,
    contender: Contender,
    balance: &'static str,
}

impl Stage<'_> {
    async fn see(&self, kind: Kind) -> Seen {
        let seen = match kind {
            Kind::Joins => self.joins().await,
            Kind::Reloads => self.reloads().await,
            Kind::Freezes => self.freezes().await,
        };
        let seen = seen.unwrap_or_else(|error| Seen { text: format!("failed: {error:#}"), good: false });
        say(&format!("{:<62}{:<14}{}", kind.describe().0, self.contender.name(), seen.text));
        seen
    }

    async fn joins(&self) -> Result<Seen> {
        let backends = self.backends().await?;
        let balancer = self.balancer(2).await?;
        let mut sessions = self.clients(1000).await?;
        let before = self.sessions_by_server()?;
        self.configure(3)?;
        self.reload(&balancer)?;
        sleep(SETTLE).await;
        sessions.extend(self.clients(300).await?);
        let after = self.sessions_by_server()?;
        let gained: Vec<String> = before
            .iter()
            .zip(after)
            .map(|(before, after)| after.saturating_sub(*before).to_string())
            .collect();
        stop(balancer, backends).await;
        let text = gained.join(" / ");
        // Health checks come and go on the same ports: a few connections more or less are theirs.
        let third: usize = gained.last().and_then(|last| last.parse().ok()).unwrap_or(0);
        Ok(Seen { text, good: third >= 295 })
    }

    async fn reloads(&self) -> Result<Seen> {
        let backends = self.backends().await?;
        let balancer = self.balancer(2).await?;
        let sessions = self.clients(2000).await?;
        let args =
            ["connect", "--json", "--duration", "11s", "--at-once", "8", "--sources", "64", "--target"]
                .map(String::from)
                .into_iter()
                .chain([self.address().to_string()]);
        let churn = Program::new(self.load, args).on(Some(LOAD_PROCESSOR));
        let churn = churn.command().stdout(std::process::Stdio::piped()).spawn()?;
        for round in 0..10 {
            self.configure(2 + round % 2)?;
            self.reload(&balancer)?;
            sleep(Duration::from_secs(1)).await;
        }
        let output = churn.wait_with_output().await?;
        let report: nsd_load::report::Report =
            serde_json::from_slice(&output.stdout).context("the load tool's report")?;
        let dropped = sessions.iter().filter(|session| is_closed(session)).count();
        stop(balancer, backends).await;
        let (failed, made) = (report.failures.count, report.count);
        let text = format!("{failed} of {made} failed, {dropped} dropped");
        Ok(Seen { text, good: failed == 0 && dropped == 0 && made > 0.0 })
    }

    async fn freezes(&self) -> Result<Seen> {
        let backends = self.backends().await?;
        let balancer = self.balancer(2).await?;
        let _sessions = self.clients(10).await?;
        let frozen = backends.first().context("a server to freeze")?.pid;
        signal(frozen, Signal::STOP)?;
        let start = Instant::now();
        let (mut asked, mut last_failure) = (0, None);
        while start.elapsed() < WATCH {
            let begun = start.elapsed();
            asked += 1;
            if self.client().await.is_err() {
                last_failure = Some(begun);
            }
            sleep(Duration::from_millis(20)).await;
        }
        signal(frozen, Signal::CONT)?;
        stop(balancer, backends).await;
        Ok(match last_failure {
            None => Seen { text: format!("at once: {asked} clients, none refused"), good: true },
            Some(last) if last + ANSWER * 2 > WATCH => Seen { text: "never".into(), good: false },
            Some(last) => Seen {
                text: format!("after {:.1} s", last.as_secs_f64()),
                good: last <= CHECK_EVERY * 2 + ANSWER,
            },
        })
    }

    fn address(&self) -> SocketAddr {
        self.place.address(if self.contender == Contender::HaProxy { 25 } else { 35 })
    }

    async fn backends(&self) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        for port in BACKEND_PORTS {
            let address = self.place.address(port);
            let args =
                ["serve", "connack", "--listen", &address.to_string(), "--for", "10m"].map(String::from);
            let program = Program::new(self.load, args).on(Some(LOAD_PROCESSOR));
            let log = self.place.folder.join(format!("server-{port}.log"));
            running.push(Running::start(&program, &[address], &log).await?);
        }
        Ok(running)
    }

    fn file(&self) -> PathBuf {
        self.place.folder.join(format!("{}-behaviour.conf", self.contender.name()))
    }

    /// Writes the configuration with so many servers, by a rename as deployment tools do.
    fn configure(&self, servers: usize) -> Result<()> {
        let servers = BACKEND_PORTS.iter().take(servers).map(|port| self.place.address(*port));
        let text = match self.contender {
            Contender::HaProxy => self.haproxy(servers),
            _ => self.nsd_balancer(servers),
        };
        let new = self.file().with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, self.file()))?;
        Ok(())
    }

    fn haproxy(&self, servers: impl Iterator<Item = SocketAddr>) -> String {
        let socket = self.place.folder.join("haproxy-behaviour.sock");
        let mut text = format!(
            "global\n  nbthread 1\n  maxconn 9000\n  stats socket {} mode 600 level admin expose-fd listeners\n\
             defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 30m\n  timeout server 30m\n  \
             timeout check 500ms\nlisten mqtt\n  bind {}\n  balance {}\n",
            socket.display(),
            self.address(),
            self.balance
        );
        for (index, server) in servers.enumerate() {
            let _ = writeln!(text, "  server b{index} {server} check inter 1s rise 2 fall 2");
        }
        text
    }

    fn nsd_balancer(&self, servers: impl Iterator<Item = SocketAddr>) -> String {
        let socket = self.place.folder.join("balancer-behaviour.sock");
        let mut text = format!(
            "[admin]\nsocket = \"{}\"\n[log]\naccess = false\n[[listen]]\nname = \"mqtt\"\nbind = [\"{}\"]\n\
             balance = \"{}\"\nconnect_timeout = \"3s\"\n\
             check = {{ kind = \"mqtt\", interval = \"1s\", timeout = \"500ms\", rise = 2, fall = 2 }}\n",
            socket.display(),
            self.address(),
            self.balance
        );
        for (index, server) in servers.enumerate() {
            let _ = writeln!(text, "[[listen.server]]\nname = \"b{index}\"\naddress = \"{server}\"");
        }
        text
    }

    async fn balancer(&self, servers: usize) -> Result<Running> {
        self.configure(servers)?;
        let file = self.file().display().to_string();
        let program = match self.contender {
            // A master that hands its listening sockets to the next worker: the way to reload without a refusal.
            Contender::HaProxy => Program::new(installed("haproxy", "haproxy")?, ["-W", "-db", "-f", &file]),
            _ => Program::new(self.place.own("nsd-balancer")?, ["--config", &file]),
        };
        let log = self.place.folder.join(format!("{}-behaviour.log", self.contender.name()));
        let running = Running::start(&program.on(Some(0)), &[self.address()], &log).await?;
        sleep(SETTLE).await;
        Ok(running)
    }

    fn reload(&self, balancer: &Running) -> Result<()> {
        signal(balancer.pid, if self.contender == Contender::HaProxy { Signal::USR2 } else { Signal::HUP })
    }

    async fn clients(&self, count: usize) -> Result<Vec<TcpStream>> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(self.client().await?);
        }
        Ok(clients)
    }

    /// Connects and is accepted, soon.
    async fn client(&self) -> Result<TcpStream> {
        let accepted = async {
            let mut stream = TcpStream::connect(self.address()).await?;
            let (mut hello, mut answer) = (Vec::new(), [0; 64]);
            Connect::new(Version::V311, "behaviour").encode(Version::V311, &mut hello)?;
            stream.write_all(&hello).await?;
            let count = stream.read(&mut answer).await?;
            let packet = read(Version::V311, &answer[..count], MAX_PACKET)?;
            anyhow::ensure!(matches!(packet, Some((Packet::ConnAck(_), _))), "no CONNACK");
            Ok(stream)
        };
        timeout(ANSWER, accepted).await.context("no answer in a second")?
    }

    /// Established connections at each server, as the kernel counts them.
    fn sessions_by_server(&self) -> Result<Vec<usize>> {
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let ports = BACKEND_PORTS.map(|offset| self.place.address(offset).port());
        Ok(ports.iter().map(|port| established(&table, *port)).collect())
    }
}

/// Pure: lines of `/proc/net/tcp` whose local port is `port` and whose state is ESTABLISHED.
fn established(table: &str, port: u16) -> usize {
    let local = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|field| field.ends_with(&local)) && fields.nth(1) == Some("01")
    };
    table.lines().filter(is_one).count()
}

/// The other side has finished, or broken off.
fn is_closed(session: &TcpStream) -> bool {
    let mut byte = [0];
    !matches!(session.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

async fn stop(balancer: Running, backends: Vec<Running>) {
    balancer.stop().await;
    for backend in backends {
        backend.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_of_a_port_are_counted() {
        let table = "\
  sl  local_address rem_address   st tx_queue
   0: 0100007F:5AD3 00000000:0000 0A 00000000
   1: 0100007F:5AD3 0100007F:C350 01 00000000
   2: 0100007F:5AD3 0100007F:C351 01 00000000
   3: 0100007F:C351 0100007F:5AD3 01 00000000
   4: 0100007F:5AD3 0100007F:C352 06 00000000
";
        assert_eq!(established(table, 0x5AD3), 2);
        assert_eq!(established(table, 80), 0);
    }
}
