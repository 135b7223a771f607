//! One balancer before its servers, and the clients that come to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nsd_load::cli::Role;
use nsd_load::target::{Stream, Target};
use nsd_load::tls::{self, Trust};
use nsd_wire::{Connect, Version};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::configuration::{Options, Site, haproxy, nsd_balancer};
use crate::contenders::{Contender, LOAD_PROCESSOR, Place};
use crate::process::{Program, Running, installed};

/// A client that is not answered by then is refused.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// After a reload or a start: for checks to pass and files to be seen.
pub(super) const SETTLE: Duration = Duration::from_millis(2500);
const LOOK: Duration = Duration::from_millis(50);
/// How often the kernel's table is read at most.
const LOOKS: usize = 20;
const SERVER_PORTS: [u16; 3] = [43, 44, 45];

#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) place: &'a Place,
    pub(super) load: &'a Path,
    pub(super) contender: Contender,
    /// Its configurations are left here.
    pub(super) kept: &'a Path,
    pub(super) smoke: bool,
}

impl Stage<'_> {
    pub(super) fn is_haproxy(&self) -> bool {
        self.contender == Contender::HaProxy
    }

    /// Fewer in the quick run.
    pub(super) fn size(&self, usual: usize, quick: usize) -> usize {
        if self.smoke { quick } else { usual }
    }

    pub(super) fn plain(&self) -> SocketAddr {
        self.place.address(if self.is_haproxy() { 25 } else { 35 })
    }

    pub(super) fn tls(&self) -> SocketAddr {
        self.place.address(if self.is_haproxy() { 26 } else { 36 })
    }

    pub(super) fn server_addresses(&self) -> [SocketAddr; 3] {
        SERVER_PORTS.map(|port| self.place.address(port))
    }

    /// Servers that play these roles, the first at the first address.
    pub(super) async fn servers(&self, roles: &[Role]) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        for (number, role) in roles.iter().enumerate() {
            running.push(self.server(number, *role).await?);
        }
        Ok(running)
    }

    pub(super) async fn server(&self, number: usize, role: Role) -> Result<Running> {
        let address = self.server_addresses()[number];
        let role = role.to_possible_value().context("a role that cannot be asked for")?;
        let words = ["serve", role.get_name(), "--for", "10m", "--listen"].map(str::to_owned);
        let args = words.into_iter().chain([address.to_string()]);
        let program = Program::new(self.load, args).on(Some(LOAD_PROCESSOR));
        let log = self.place.folder.join(format!("server-{number}.log"));
        Running::start(&program, &[address], &log).await
    }

    pub(super) fn file(&self) -> PathBuf {
        self.place.folder.join(format!("{}-matrix.conf", self.contender.name()))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.place.folder.join(format!("{}-matrix.sock", self.contender.name()))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.place.folder.join(format!("{}-matrix.log", self.contender.name()))
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.place.folder.join("matrix.pem")
    }

    /// Writes the configuration, by a rename as deployment tools do; a copy is kept.
    pub(super) fn configure(&self, options: &Options) -> Result<()> {
        let (certificate, socket) = (self.certificate(), self.socket());
        let site = Site {
            plain: self.plain(),
            tls: self.tls(),
            certificate: &certificate,
            socket: &socket,
            servers: &self.server_addresses(),
        };
        let text = if self.is_haproxy() { haproxy(&site, options) } else { nsd_balancer(&site, options) };
        let new = self.file().with_extension("new");
        std::fs::write(&new, &text).and_then(|()| std::fs::rename(&new, self.file()))?;
        let kept = if self.is_haproxy() { "haproxy.cfg" } else { "nsd-balancer.toml" };
        std::fs::write(self.kept.join(kept), text)?;
        Ok(())
    }

    pub(super) async fn balancer(&self, options: &Options) -> Result<Running> {
        crate::contenders::make_certificate(&self.certificate())?;
        self.configure(options)?;
        let file = self.file().display().to_string();
        let program = if self.is_haproxy() {
            // A master that hands its listening sockets to the next worker: the way to reload without a refusal.
            Program::new(installed("haproxy", "haproxy")?, ["-W", "-db", "-f", &file])
        } else {
            Program::new(self.place.own("nsd-balancer")?, ["--config", &file])
        };
        let running = Running::start(&program.on(Some(0)), &[self.plain()], &self.log()).await?;
        sleep(SETTLE).await;
        Ok(running)
    }

    /// By signal; then time for it.
    pub(super) async fn reload(&self, balancer: &Running) -> Result<()> {
        signal(balancer.pid, if self.is_haproxy() { Signal::USR2 } else { Signal::HUP })?;
        sleep(SETTLE).await;
        Ok(())
    }

    /// Tells the running balancer: HAProxy's socket, or our own command. `None`: it does not know this.
    pub(super) async fn tell(&self, words: &str) -> Result<Option<String>> {
        if self.is_haproxy() {
            let mut socket = tokio::net::UnixStream::connect(self.socket()).await?;
            socket.write_all(format!("{words}\n").as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            return Ok(Some(answer));
        }
        let socket = self.socket().display().to_string();
        let words = ["admin", "--socket", &socket].into_iter().chain(words.split(' '));
        let told = Program::new(self.place.own("nsd-balancer")?, words).command().output().await?;
        Ok(told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned()))
    }

    pub(super) async fn clients(&self, count: usize) -> Result<Vec<TcpStream>> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(self.client().await?);
        }
        Ok(clients)
    }

    pub(super) async fn client(&self) -> Result<TcpStream> {
        self.enter(&Connect::new(Version::V311, "")).await
    }

    /// Connects and is let in, soon.
    pub(super) async fn enter(&self, connect: &Connect<'_>) -> Result<TcpStream> {
        self.coming(*connect).await
    }

    /// [`Self::enter`] for a task of its own.
    pub(super) fn coming<'c>(
        &self,
        connect: Connect<'c>,
    ) -> impl Future<Output = Result<TcpStream>> + Send + use<'c> {
        let address = self.plain();
        async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            ask(&mut stream, &connect, ANSWER).await?;
            Ok(stream)
        }
    }

    /// What is needed to come by TLS, time after time.
    pub(super) fn by_tls(&self) -> Result<Arc<Target>> {
        let trusting = tls::client("localhost", Trust::Anybody, true)?;
        Ok(Arc::new(Target::new(&self.tls().to_string(), 1, false, Some(trusting))?))
    }

    pub(super) async fn tls_client(&self) -> Result<Stream> {
        let by_tls = self.by_tls()?;
        enter_by(&by_tls, ANSWER).await
    }

    /// Established connections at each server, as the kernel counts them. A check may be among them.
    pub(super) fn at_servers(&self) -> Result<[usize; 3]> {
        let count = || -> Result<[usize; 3]> {
            let table = std::fs::read_to_string("/proc/net/tcp")?;
            Ok(self.server_addresses().map(|address| established(&table, address.port())))
        };
        // The kernel hands its table out in pieces, and misses some while others connect: it is to say the same twice.
        let mut counted = count()?;
        for _ in 0..LOOKS {
            let again = count()?;
            if again == counted {
                break;
            }
            counted = again;
        }
        Ok(counted)
    }
}

/// Connects, shakes hands and is let in.
pub(super) async fn enter_by(target: &Target, patience: Duration) -> Result<Stream> {
    let mut stream = timeout(patience, target.connect()).await.context("no handshake in time")??;
    ask(&mut stream, &Connect::new(Version::V311, ""), patience).await?;
    Ok(stream)
}

pub(super) fn encoded(connect: &Connect<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    connect.encode(connect.version, &mut bytes)?;
    Ok(bytes)
}

/// CONNECT, and the CONNACK that lets it in.
async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    connect: &Connect<'_>,
    patience: Duration,
) -> Result<()> {
    let bytes = encoded(connect)?;
    let asked = async {
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        ensure!(answer[0] == 0x20, "no CONNACK");
        ensure!(answer[3] == 0, "refused: {}", answer[3]);
        if connect.version.is_v5() {
            let mut rest = vec![0; usize::from(answer[1]) - 2];
            stream.read_exact(&mut rest).await?;
        }
        Ok(())
    };
    timeout(patience, asked).await.context("no CONNACK in time")?
}

/// Sends 64 bytes and has them back.
pub(super) async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let echoed = async {
        stream.write_all(&[0xc0; 64]).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 64]).await
    };
    timeout(ANSWER, echoed).await.context("no echo in a second")??;
    Ok(())
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

/// The other side has finished, or broken off, after whatever it still said.
pub(super) fn is_closed(session: &TcpStream) -> bool {
    let mut bytes = [0; 256];
    loop {
        match session.try_read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

pub(super) fn closed(sessions: &[TcpStream]) -> usize {
    sessions.iter().filter(|session| is_closed(session)).count()
}

/// When it came to be, within `at_most`.
pub(super) async fn until(at_most: Duration, done: impl Fn() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    loop {
        if done() {
            return Some(begun.elapsed());
        }
        if begun.elapsed() >= at_most {
            return None;
        }
        sleep(LOOK).await;
    }
}

pub(super) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

pub(super) async fn stop(balancer: Running, servers: Vec<Running>) {
    balancer.stop().await;
    for server in servers {
        server.stop().await;
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
